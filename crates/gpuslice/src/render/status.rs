//! The daemon's health, and what to say when there is nothing to list.

use super::counted;
use crate::style::{Paint, Tone};
use crate::table::printable;
use gpuslice_core::request::{ParentRow, StatusRow};
use std::fmt::Write as _;

/// `gpuslice status`.
pub fn status(row: &StatusRow, paint: Paint) -> String {
    let mut out = String::new();
    let settled = if row.settled {
        paint.paint(Tone::Good, "settled")
    } else {
        paint.paint(Tone::Warn, "not settled")
    };
    let n = |n: u32, one: &str| counted(usize::try_from(n).unwrap_or(usize::MAX), one);
    // Writing to a String cannot fail.
    let _ = writeln!(out, "gpusliced {} on {}: {settled}", row.version, printable(&row.host));
    let _ = writeln!(
        out,
        "{}, {}, {} ({} attached)",
        n(row.parents, "GPU"),
        n(row.slices, "slice"),
        n(row.claims, "claim"),
        row.attached
    );
    let mut lines = |label: &str, tone, texts: &[String], hint: &str| {
        for text in texts {
            let _ = writeln!(out, "{} {}", paint.paint(tone, label), printable(text));
        }
        if !texts.is_empty() && !hint.is_empty() {
            let _ = writeln!(out, "  {} {hint}", paint.paint(Tone::Good, "hint:"));
        }
    };
    lines("waiting for:", Tone::Warn, &row.waiting_for, "gpuslice gpus");
    lines(
        "configuration:",
        Tone::Bad,
        &row.config_errors,
        "edit the file; gpuslice plan says whether it is right (the applied layout stays until then)",
    );
    let unwritable = ["state cannot be recorded, so nothing is given out".to_owned()];
    let unwritable = if row.writable { &[][..] } else { &unwritable[..] };
    lines("error:", Tone::Bad, unwritable, "df /var/lib/gpuslice /run/gpuslice");
    lines("warning:", Tone::Warn, &row.warnings, "");
    out
}

/// Lists that can be empty.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Empty {
    /// `gpus`
    Parents,
    /// `profiles`, on a host with this many GPUs
    Profiles(usize),
    /// `profiles`, on a host with this many GPUs, some of which are sliced and offer none
    AsSet(usize),
    /// `profiles`, on a host with this many GPUs, none of which can be sliced
    Unsliceable(usize),
    /// `profiles --types`
    Types,
    /// `slices`
    Slices,
    /// `claims`
    Claims,
    /// `history`, of everything
    History,
    /// `history`, of a few
    HistoryOf,
}

impl Empty {
    /// Why there are no profiles, where these GPUs are.
    pub fn profiles(parents: &[ParentRow]) -> Self {
        let sliceable = parents.iter().any(|row| row.state != "unsliceable");
        let set_so = parents.iter().any(|row| row.vfs > Some(0) && row.reason.is_some());
        match parents.len() {
            0 => Self::Profiles(0),
            n if set_so => Self::AsSet(n),
            n if sliceable => Self::Profiles(n),
            n => Self::Unsliceable(n),
        }
    }

    /// Why nothing is there, and the next step.
    pub fn why(self) -> (String, &'static str) {
        let gpus = "lspci -nnk -d ::0300 and lspci -nnk -d ::0302 show each GPU and its driver";
        let (text, hint) = match self {
            Self::Parents | Self::Profiles(0) => (
                "no GPUs found: no GPU is on the PCI bus and no device offers mediated devices",
                gpus,
            ),
            Self::Profiles(n) => {
                let text = format!(
                    "no profiles: {} found, but no virtual function is enabled and no mdev type offered",
                    counted(n, "GPU")
                );
                return (
                    text,
                    "gpuslice gpus; give them a layout in /etc/gpuslice/gpuslice.toml, then gpuslice plan",
                );
            }
            Self::AsSet(n) => {
                let gpus = counted(n, "GPU");
                let text = format!("no profiles: {gpus} found, and none offers one as it is set");
                return (text, "gpuslice gpus says why, and what mends it");
            }
            Self::Unsliceable(n) => {
                let text =
                    format!("no profiles: {} found, and none can be sliced", counted(n, "GPU"));
                return (text, "gpuslice gpus says why, and what works instead");
            }
            Self::Types => (
                "no mdev types: no device of this host offers mediated devices",
                "gpuslice profiles lists what its virtual functions offer",
            ),
            Self::Slices => (
                "no slices: no virtual function is enabled and no mediated device exists",
                "gpuslice plan shows what the configuration would make; mediated devices appear when a VM starts",
            ),
            Self::History => {
                ("no history: no VM has had a slice yet", "gpuslice attach DOMAIN PROFILE")
            }
            Self::HistoryOf => (
                "no history: nobody is known to have had such a slice then",
                "gpuslice history without arguments shows all there is",
            ),
            Self::Claims => ("no claims: no VM asks for a slice", "gpuslice attach DOMAIN PROFILE"),
        };
        (text.to_owned(), hint)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row() -> StatusRow {
        StatusRow {
            version: "0.1.0".to_owned(),
            settled: true,
            waiting_for: Vec::new(),
            coming: Vec::new(),
            writable: true,
            config_errors: Vec::new(),
            parents: 1,
            slices: 16,
            claims: 3,
            attached: 2,
            warnings: Vec::new(),
            refused: Vec::new(),
            host: "/sys".to_owned(),
        }
    }

    #[test]
    fn health_is_two_lines() {
        assert_eq!(
            status(&row(), Paint::Off),
            "gpusliced 0.1.0 on /sys: settled\n1 GPU, 16 slices, 3 claims (2 attached)\n"
        );
    }

    #[test]
    fn every_trouble_is_told() {
        let trouble = StatusRow {
            settled: false,
            waiting_for: vec!["0000:41:00.0".to_owned()],
            writable: false,
            config_errors: vec!["gpuslice.toml:3: unknown key".to_owned()],
            warnings: vec!["overcommit".to_owned()],
            ..row()
        };
        assert_eq!(
            status(&trouble, Paint::Off),
            "\
gpusliced 0.1.0 on /sys: not settled
1 GPU, 16 slices, 3 claims (2 attached)
waiting for: 0000:41:00.0
  hint: gpuslice gpus
configuration: gpuslice.toml:3: unknown key
  hint: edit the file; gpuslice plan says whether it is right (the applied layout stays until then)
error: state cannot be recorded, so nothing is given out
  hint: df /var/lib/gpuslice /run/gpuslice
warning: overcommit
"
        );
    }

    #[test]
    fn nothing_to_list_says_why_and_what_next() {
        for (empty, text, hint) in [
            (Empty::Parents, "no GPUs found", "lspci"),
            (Empty::Profiles(0), "no GPUs found", "lspci"),
            (Empty::Profiles(2), "2 GPUs found", "gpuslice plan"),
            (Empty::AsSet(2), "2 GPUs found, and none offers one", "gpuslice gpus"),
            (Empty::Unsliceable(1), "1 GPU found, and none can be sliced", "gpuslice gpus"),
            (Empty::Types, "no mdev types", "gpuslice profiles"),
            (Empty::Slices, "no slices", "gpuslice plan"),
            (Empty::Claims, "no claims", "gpuslice attach"),
            (Empty::History, "no VM has had a slice yet", "gpuslice attach"),
            (Empty::HistoryOf, "such a slice then", "gpuslice history without arguments"),
        ] {
            let (why, next) = empty.why();
            assert!(why.contains(text) && next.contains(hint), "{empty:?}");
        }
    }
}
