//! Xids: what NVIDIA's driver says in the kernel's log when something is wrong with a GPU or what runs on it,
//! `NVRM: Xid (PCI:0000:41:00): 79, pid=…, GPU has fallen off the bus.`
//!
//! Numbers: NVIDIA, Xid Errors. Seen in logs of others; that vGPU hosts write them alike is UNVERIFIED.

use gpuslice_core::health::{Severity, Trouble};
use gpuslice_core::ids::PciAddress;

const BEGINS: &str = "NVRM: Xid (PCI:";

/// What a guest's programs bring upon themselves: faults of engine and memory access, work stopped or cleaned up, and
/// an ECC error that stayed within one program.
const OF_GUESTS: &[u32] = &[13, 31, 43, 45, 68, 69, 94];

/// The GPU or its firmware is out of order: memory that cannot be corrected or remapped, halted controllers, NVLink,
/// off the bus, errors that were not contained.
const FAILED: &[u32] = &[46, 48, 61, 62, 64, 74, 79, 95, 119, 120, 140];

/// See [`gpuslice_core::mechanism::Mechanism::trouble`].
pub(super) fn of_line(text: &str) -> Option<Trouble> {
    let (_, rest) = text.split_once(BEGINS)?;
    let (device, rest) = rest.split_once("): ")?;
    // Without the function, which is the PF's.
    let function: PciAddress = format!("{device}.0").parse().ok()?;
    let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
    let severity = match digits.parse::<u32>().ok()? {
        xid if OF_GUESTS.contains(&xid) => return None,
        xid if FAILED.contains(&xid) => Severity::Failed,
        _ => Severity::Degraded,
    };
    Some(Trouble { function: Some(function), vf: None, severity, reset_failed: false })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn xids_by_their_number() {
        let of = |text: &str| of_line(text).map(|t| (t.function.unwrap().to_string(), t.severity));
        let gpu = || "0000:41:00.0".to_owned();
        for (text, want) in [
            (
                "NVRM: Xid (PCI:0000:41:00): 79, pid=1234, GPU has fallen off the bus.",
                Some((gpu(), Severity::Failed)),
            ),
            (
                "NVRM: Xid (PCI:0000:41:00): 48, An uncorrectable double bit error",
                Some((gpu(), Severity::Failed)),
            ),
            (
                "NVRM: Xid (PCI:0000:41:00): 63, Row remapping event",
                Some((gpu(), Severity::Degraded)),
            ),
            ("NVRM: Xid (PCI:0000:41:00): 7", Some((gpu(), Severity::Degraded))),
            ("NVRM: Xid (PCI:0000:41:00): 31, pid=7, MMU Fault", None),
            ("NVRM: Xid (PCI:0000:41:00): , pid=7", None),
            ("NVRM: Xid (PCI:41): 79", None),
            ("NVRM: Xid (PCI:0000:41:00) 79", None),
            ("NVRM: GPU 0000:41:00.0: RmInitAdapter failed!", None),
        ] {
            assert_eq!(of(text), want, "{text}");
        }
    }
}
