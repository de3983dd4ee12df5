//! The rules: who is asked, and what comes of it when nobody answers.
//!
//! A domain that asks for a slice does not start without the daemon's word. One that only carries a device of
//! someone else's starts unless the daemon says that the device is given away.

use gpuslice_core::hint;
use gpuslice_core::refusal::{Code, Refusal};
use gpuslice_domxml::{DomXmlError, Scan, read_domain, remap_pci, scan};
use gpuslice_hook_ask::{NoAnswer, Settings, ask, fresh_id, signals};
use gpuslice_hook_proto::{Body, HookCall, HookDone, Operation, Reply, ReplyBody, Request, Served};
use std::time::Instant;

/// What libvirt is told.
pub enum Verdict {
    /// Go on.
    Pass,
    /// Go on with this XML.
    Edited(String),
    /// Do not.
    Refused(Refusal),
}

/// Judges one call about the domain of this name.
pub fn judge(name: &str, operation: Operation, sub: String, extra: String, xml: &[u8]) -> Verdict {
    let found = scan(xml);
    if !found.concerns_us() {
        return Verdict::Pass;
    }
    let verdict = consult(name, operation, sub, extra, xml, found);
    match verdict {
        // A failing hook of any other operation does harm and mends nothing.
        Verdict::Refused(_) if !operation.may_fail() => Verdict::Pass,
        verdict => verdict,
    }
}

fn consult(
    name: &str,
    operation: Operation,
    sub: String,
    extra: String,
    xml: &[u8],
    found: Scan,
) -> Verdict {
    if !rustix::process::geteuid().is_root() {
        return if found.ours { Verdict::Refused(not_root()) } else { Verdict::Pass };
    }
    let text = String::from_utf8_lossy(xml);
    let read = match std::str::from_utf8(xml) {
        Ok(text) => read_domain(text).map_err(|error| unreadable(name, &error)),
        Err(error) => Err(Refusal::new(
            Code::BadRequest,
            format!("domain XML is not UTF-8 at byte {}", error.valid_up_to()),
        )),
    };
    let domain = match read {
        Ok(domain) => domain,
        Err(refusal) if found.ours => return Verdict::Refused(refusal),
        Err(_) => return Verdict::Pass,
    };
    if !found.ours && domain.devices.is_empty() {
        return Verdict::Pass;
    }
    if matches!(operation, Operation::Stopped | Operation::Release) {
        signals::ignore_termination();
    }
    let settings = Settings::load();
    let deadline = Instant::now() + settings.deadline;
    let call = HookCall { operation, sub, extra, domain };
    // A daemon that restarts is worth waiting for only if its word is needed.
    let needed = found.ours && (operation.may_fail() || operation == Operation::Release);
    let reply = fresh_id().and_then(|id| {
        let request = Request::new(id, Body::Hook(call));
        ask(&settings.socket, &request, deadline, needed)
    });
    match reply {
        Ok(reply) => heed(reply, name, operation, &text, found),
        Err(failure) if found.ours => Verdict::Refused(without_answer(&failure, &settings)),
        Err(_) => Verdict::Pass,
    }
}

fn heed(reply: Reply, name: &str, operation: Operation, xml: &str, found: Scan) -> Verdict {
    match reply.body {
        ReplyBody::Ok(Served::Hook(HookDone { edits }))
            if operation.may_edit() && !edits.is_empty() =>
        {
            match remap_pci(xml, &edits) {
                Ok(edited) if edited == xml => Verdict::Pass,
                Ok(edited) => Verdict::Edited(edited),
                Err(error) => Verdict::Refused(unreadable(name, &error)),
            }
        }
        ReplyBody::Ok(Served::Hook(_)) => Verdict::Pass,
        ReplyBody::Refused(refusal) => {
            // A daemon that did not understand has not said that the device is given away.
            let not_understood = matches!(refusal.code, Code::BadRequest | Code::Unsupported);
            if not_understood && !found.ours { Verdict::Pass } else { Verdict::Refused(refusal) }
        }
        ReplyBody::Ok(Served::Command(_)) if found.ours => Verdict::Refused(Refusal::new(
            Code::Unreachable,
            "gpusliced answered something else than was asked",
        )),
        ReplyBody::Ok(Served::Command(_)) => Verdict::Pass,
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

fn without_answer(failure: &NoAnswer, settings: &Settings) -> Refusal {
    let socket = settings.socket.display();
    match failure {
        NoAnswer::Absent(errno) => Refusal::new(
            Code::Unreachable,
            "the domain asks for a slice and gpusliced does not answer",
        )
        .because(format!("connect {socket}: {errno}"))
        .hint(hint!("systemctl start gpusliced")),
        NoAnswer::Deadline => Refusal::new(
            Code::Timeout,
            format!("gpusliced gave no answer within {} s", settings.deadline.as_secs()),
        )
        .hint(hint!("start it again, with a larger deadline-seconds in /etc/gpuslice/hook.conf")),
        NoAnswer::Nonsense(why) => {
            Refusal::new(Code::Unreachable, format!("{socket} answered what is no reply"))
                .because(why.clone())
                .hint(hint!("systemctl restart gpusliced"))
        }
        NoAnswer::Unsendable(why) => {
            Refusal::new(Code::BadRequest, "the domain cannot be sent").because(why.clone())
        }
    }
}
