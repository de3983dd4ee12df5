//! The rules: who is asked, and what comes of it, also when nobody answers.
//!
//! A domain that asks for a slice does not start without the daemon's word. One that only carries a device of
//! someone else's starts unless the daemon says that the device is given away.

use gpuslice_core::hint;
use gpuslice_core::refusal::{Code, Refusal};
use gpuslice_domxml::{DomXmlError, read_domain, read_drivers, remap_pci, scan};
use gpuslice_hook_proto::{HookCall, HookDone, Operation, ReplyBody, Served};

/// What libvirt is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Go on.
    Pass,
    /// Go on with this XML.
    Edited(String),
    /// Do not.
    Refused(Refusal),
}

/// A call that the daemon is asked about, and what its answer is heeded by.
#[derive(Debug, Clone, Copy)]
pub struct Question<'x> {
    name: &'x str,
    operation: Operation,
    xml: &'x str,
    /// The XML asks for a slice, or carries one.
    ours: bool,
}

impl<'x> Question<'x> {
    /// Reads one call about the domain of this name, and what is to be asked. `root`: the caller is the system's
    /// libvirt.
    ///
    /// # Errors
    /// The verdict, where nobody has to be asked.
    pub fn read(
        name: &'x str,
        (operation, sub, extra): (Operation, String, String),
        xml: &'x [u8],
        root: bool,
    ) -> Result<(Self, HookCall), Verdict> {
        let found = scan(xml);
        if !found.concerns_us() {
            return Err(Verdict::Pass);
        }
        let text = std::str::from_utf8(xml);
        let question =
            Question { name, operation, xml: text.unwrap_or_default(), ours: found.ours };
        if !root {
            return Err(question.without_word(not_root()));
        }
        let read = match text {
            Ok(text) => read_domain(text).map_err(|error| unreadable(name, &error)),
            Err(error) => Err(Refusal::new(
                Code::BadRequest,
                format!("domain XML is not UTF-8 at byte {}", error.valid_up_to()),
            )),
        };
        let domain = read.map_err(|refusal| question.without_word(refusal))?;
        if !found.ours && domain.devices.is_empty() {
            return Err(Verdict::Pass);
        }
        // Elsewhere it says nothing yet, or where it runs now.
        let drivers = if operation.may_edit() { read_drivers(question.xml) } else { Vec::new() };
        Ok((question, HookCall { operation, sub, extra, domain, drivers }))
    }

    /// Whether a daemon that restarts is worth waiting for: its word is needed.
    pub fn needs_word(&self) -> bool {
        self.ours && (self.operation.may_fail() || self.operation == Operation::Release)
    }

    /// What comes of the daemon's answer.
    pub fn heed(&self, answer: ReplyBody) -> Verdict {
        match answer {
            ReplyBody::Ok(Served::Hook(HookDone { edits }))
                if self.operation.may_edit() && !edits.is_empty() =>
            {
                match remap_pci(self.xml, &edits) {
                    Ok(edited) if edited == self.xml => Verdict::Pass,
                    Ok(edited) => Verdict::Edited(edited),
                    Err(error) => self.refused(unreadable(self.name, &error)),
                }
            }
            ReplyBody::Ok(Served::Hook(_)) => Verdict::Pass,
            // A daemon that did not understand has not said that the device is given away.
            ReplyBody::Refused(refusal) if refusal.code == Code::BadRequest => {
                self.without_word(refusal)
            }
            ReplyBody::Refused(refusal) => self.refused(refusal),
            ReplyBody::Ok(Served::Command(_)) => {
                let message = "gpusliced answered something else than was asked";
                self.without_word(
                    Refusal::new(Code::Unreachable, message).hint(hint!(
                        "systemctl restart gpusliced, so that it is of the same release"
                    )),
                )
            }
        }
    }

    /// The daemon has not said whether the domain may start; `why`.
    pub fn without_word(&self, why: Refusal) -> Verdict {
        if self.ours { self.refused(why) } else { Verdict::Pass }
    }

    /// A failing hook of any operation that may not fail does harm and mends nothing.
    fn refused(&self, refusal: Refusal) -> Verdict {
        if self.operation.may_fail() { Verdict::Refused(refusal) } else { Verdict::Pass }
    }
}

fn not_root() -> Refusal {
    Refusal::new(
        Code::NotPermitted,
        "slices are given to domains of the system's libvirt only, this one runs without root",
    )
    .hint(hint!("define the domain in qemu:///system"))
}

/// The parser's own words are left out: they quote the document.
fn unreadable(name: &str, error: &DomXmlError) -> Refusal {
    let hint = hint!("virsh edit {}: correct what is named here", name);
    Refusal::new(Code::BadRequest, error.to_string()).hint(hint)
}
