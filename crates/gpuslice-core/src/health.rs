//! What drivers say of their devices in the kernel's log: it is the only place where most of them say that a device, or
//! the reset of a slice, has failed. Which lines those are, a mechanism knows.

use crate::ids::{BootId, PciAddress, VfIndex};
use crate::mechanism::Mechanism;
use crate::port::LogLine;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// Longest line that is kept, in characters.
const LONGEST: usize = 300;

/// How bad it is. The order is from less to more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Severity {
    /// Something a guest can bring about: shown, and no reason to take the device away from the others.
    Degraded,
    /// The device cannot be relied upon.
    Failed,
}

impl Severity {
    /// The word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Degraded => "degraded",
            Self::Failed => "failed",
        }
    }
}

/// What a mechanism understands of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Trouble {
    /// The function it names: a PF or a VF.
    pub function: Option<PciAddress>,
    /// The VF it names by its index.
    pub vf: Option<VfIndex>,
    /// How bad it is.
    pub severity: Severity,
    /// A function was to be reset and was not: what a guest left in it may still be there. A guest may be able to bring
    /// that about for a VF of its own, so that one VF degrades its device, and only several fail it.
    pub reset_failed: bool,
}

/// A line that says something of a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Said {
    /// The line.
    pub line: LogLine,
    /// What it means.
    pub trouble: Trouble,
    /// Who understands it.
    pub mechanism: &'static str,
}

/// What a line says, if any mechanism understands it. Most lines are of others, and cost a few comparisons.
pub fn said(mechanisms: &[Box<dyn Mechanism>], line: &LogLine) -> Option<Said> {
    let mut understood = mechanisms.iter().map(|m| (m.name(), m.trouble(&line.text)));
    let (mechanism, trouble) = understood.find_map(|(name, said)| Some((name, said?)))?;
    Some(Said { line: line.clone(), trouble, mechanism })
}

/// The first PCI function of four parts that a line names.
pub fn function_named(text: &str) -> Option<PciAddress> {
    let part = |c: char| !(c.is_ascii_hexdigit() || c == ':' || c == '.');
    // With its domain: two digits and a colon are also a time of day.
    let whole = |word: &&str| word.find(':').is_some_and(|colon| colon >= 4);
    let words = text.split(part).map(|word| word.trim_matches([':', '.']));
    words.filter(whole).find_map(|word| word.parse().ok())
}

/// What is known against a device, until a person says that it is well.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Health {
    /// How bad it is.
    pub severity: Severity,
    /// The line of the kernel's log.
    pub line: String,
    /// Microseconds from the boot to it.
    pub at_us: u64,
    /// Of which boot.
    pub boot: BootId,
    /// It gets no new VMs because of that.
    pub cordons: bool,
    /// VFs that did not come back from a reset in that boot.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub lost_vfs: BTreeSet<PciAddress>,
}

impl Health {
    /// Of a line.
    pub fn new(said: &Said, boot: BootId, cordons: bool) -> Self {
        let line = said.line.text.trim().chars().take(LONGEST).collect();
        let (severity, at_us) = (said.trouble.severity, said.line.at_us);
        Self { severity, line, at_us, boot, cordons, lost_vfs: BTreeSet::new() }
    }

    /// The line as dmesg shows it.
    pub fn shown(&self, now: BootId) -> String {
        let (seconds, rest) = (self.at_us / 1_000_000, self.at_us % 1_000_000);
        let before = if self.boot == now { "" } else { " (before this boot)" };
        let lost = match self.lost_vfs.len() {
            0 | 1 => String::new(),
            vfs => format!(" ({vfs} VFs did not come back)"),
        };
        format!("[{seconds:5}.{rest:06}] {}{lost}{before}", self.line)
    }
}

/// How far the log was read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogRead {
    /// Of which boot.
    pub boot: BootId,
    /// The last line that meant something.
    pub sequence: u64,
    /// Lines up to it whose device was not there yet.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unplaced: Vec<LogLine>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    #[test]
    fn functions_in_lines() {
        for (text, want) in [
            ("vfio-pci 0000:41:00.4: not ready", Some("0000:41:00.4")),
            ("[0000:0c:02.1] FLR failed", Some("0000:0c:02.1")),
            ("gim 10000:0c:02.1 x", Some("10000:0c:02.1")),
            ("at 12:30:01.5 nothing, 1.2.3", None),
            ("", None),
        ] {
            let want: Option<PciAddress> = want.map(|w| w.parse().unwrap());
            assert_eq!(function_named(text), want, "{text}");
        }
    }

    #[test]
    fn a_line_is_shown_as_dmesg_shows_it_and_cut() {
        let boot = BootId(Uuid::from_u128(1));
        let health = Health {
            severity: Severity::Failed,
            line: "gim: x".to_owned(),
            at_us: 12_000_345,
            boot,
            cordons: true,
            lost_vfs: BTreeSet::new(),
        };
        assert_eq!(health.shown(boot), "[   12.000345] gim: x");
        assert_eq!(health.shown(BootId(Uuid::nil())), "[   12.000345] gim: x (before this boot)");
        let line = LogLine { sequence: 1, at_us: 2, text: "é".repeat(5000) };
        let trouble =
            Trouble { function: None, vf: None, severity: Severity::Failed, reset_failed: false };
        let said = Said { line, trouble, mechanism: "gim" };
        assert_eq!(Health::new(&said, boot, false).line.chars().count(), LONGEST);
    }
}
