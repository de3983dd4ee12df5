//! Why a command failed, as it is told and as the exit code says it.

use crate::style::{Paint, Tone};
use crate::table::printable;
use gpuslice_api::CallError;
use gpuslice_api::client::start;
use gpuslice_api::names::{AS_ROOT, BUS_ADDRESS_ENV, SOCKET_ENV};
use gpuslice_core::hint;
use gpuslice_core::refusal::{Code, Hint, Refusal};
use std::fmt::Write as _;

/// A command that did not do what was asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// Why.
    pub refusal: Refusal,
    /// Whether stdout has the whole answer already, so that a program needs no second one.
    pub answered: bool,
    /// What was done before stays.
    pub changed: bool,
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        Self { refusal, answered: false, changed: false }
    }
}

impl From<CallError> for Failure {
    fn from(error: CallError) -> Self {
        let text = error.to_string();
        let refusal = match error {
            CallError::Refused(refusal) => refusal,
            CallError::NotPermitted(refusal) => {
                let root = as_root(std::env::args());
                match refusal.hint {
                    Some(_) => refusal.reworded(|hint| hint.replace(AS_ROOT, root.as_str())),
                    None => refusal.hint(root),
                }
            }
            CallError::Unreachable { who, masked, tried } => {
                let named = [BUS_ADDRESS_ENV, SOCKET_ENV]
                    .into_iter()
                    .filter(|name| std::env::var_os(name).is_some_and(|v| !v.is_empty()));
                let mut refusal = Refusal::new(Code::Unreachable, text);
                refusal.causes = tried;
                refusal.hint(way_to(who, masked, &named.collect::<Vec<_>>()))
            }
            CallError::Protocol { .. } => Refusal::new(Code::Unsupported, text)
                .because(
                    "the command line and the daemon are of different versions, or one is broken",
                )
                .hint(hint!("systemctl restart gpusliced")),
        };
        refusal.into()
    }
}

/// The same command with the right to do it.
pub fn as_root(arguments: impl Iterator<Item = String>) -> Hint {
    hint!("sudo gpuslice {}", Hint::words(arguments.skip(1), " "))
}

/// How to get an answer. `named` are the variables that point to another daemon than the host's.
fn way_to(who: &str, masked: bool, named: &[&str]) -> Hint {
    if named.is_empty() {
        start(who, masked)
    } else {
        hint!("start {} there; or unset {}", who, Hint::words(named, " "))
    }
}

impl Failure {
    /// 1 refused or failed, 3 unreachable, 4 not permitted; 2 is clap's.
    pub fn exit_code(&self) -> u8 {
        match self.refusal.code {
            Code::Unreachable => 3,
            Code::NotPermitted => 4,
            _ => 1,
        }
    }

    /// `error:`, `caused by:` and `hint:` lines.
    pub fn text(&self, paint: Paint) -> String {
        let mut out = String::new();
        let mut line = |lead: &str, tone, label: &str, text: &str| {
            // Writing to a String cannot fail.
            let _ = writeln!(out, "{lead}{} {}", paint.paint(tone, label), printable(text));
        };
        line("", Tone::Bad, "error:", &self.refusal.to_string());
        for cause in &self.refusal.causes {
            line("  ", Tone::Warn, "caused by:", cause);
        }
        if let Some(hint) = &self.refusal.hint {
            line("  ", Tone::Good, "hint:", hint);
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_class_has_its_code() {
        for (error, want) in [
            (CallError::Refused(Refusal::new(Code::NoCapacity, "full")), 1),
            (CallError::Refused(Refusal::new(Code::Unreachable, "the agent lost the daemon")), 3),
            (CallError::NotPermitted(Refusal::new(Code::NotPermitted, "no")), 4),
            (CallError::Unreachable { who: "gpusliced", masked: true, tried: vec![] }, 3),
            (CallError::Protocol { what: "x".to_owned() }, 1),
        ] {
            let text = error.to_string();
            assert_eq!(Failure::from(error).exit_code(), want, "{text}");
        }
    }

    #[test]
    fn text_names_cause_and_next_step() {
        let failure = Failure::from(
            Refusal::new(Code::NoCapacity, "no free slice of a40-8q\x1b[2J")
                .because("0000:41:00.0: 6 of 6 taken")
                .because("second")
                .hint(hint!("virsh shutdown win11")),
        );
        assert_eq!(
            failure.text(Paint::Off),
            "error: no-capacity: no free slice of a40-8q?[2J\n  caused by: 0000:41:00.0: 6 of 6 taken\n  \
             caused by: second\n  hint: virsh shutdown win11\n"
        );
        let bare = Failure::from(Refusal::new(Code::Held, "held"));
        assert_eq!(bare.text(Paint::Off), "error: held: held\n");
    }

    #[test]
    fn who_cannot_be_asked_is_named_with_what_was_tried() {
        let tried = vec!["system bus: gone".to_owned(), "connect /run/x: gone".to_owned()];
        let (who, masked) = ("gpusliced", false);
        let error = CallError::Unreachable { who, masked, tried: tried.clone() };
        let failure = Failure::from(error);
        assert_eq!(failure.refusal.message, "gpusliced does not answer");
        assert_eq!(failure.refusal.causes, tried);
        assert_eq!(
            way_to("gpuslice-libvirt-agent", false, &[]).as_str(),
            "systemctl start gpuslice-libvirt-agent"
        );
        assert_eq!(
            way_to("gpusliced", true, &["A", "B"]).as_str(),
            "start gpusliced there; or unset A B"
        );
    }

    #[test]
    fn the_hint_for_root_can_be_pasted() {
        let words = ["./gpuslice", "cordon", "0000:41:00.0", "--reason", "it's loud", ""];
        assert_eq!(
            as_root(words.map(str::to_owned).into_iter()).as_str(),
            r"sudo gpuslice cordon 0000:41:00.0 --reason 'it'\''s loud' ''"
        );
        let hinted = Refusal::new(Code::NotPermitted, "no").hint(hint!("ask someone"));
        assert_eq!(Failure::from(CallError::NotPermitted(hinted.clone())).refusal, hinted);
    }
}
