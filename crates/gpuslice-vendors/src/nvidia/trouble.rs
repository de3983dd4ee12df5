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

/// What has to be done to the GPU has changed: `GPU recovery action changed from 0x0 (None) to 0x1 (GPU Reset Required)`.
const RECOVERY: u32 = 154;

/// Until it is done the driver takes on nothing new. Where only traffic between GPUs is to end, it does.
const TILL_THEN_FAILED: &[&str] = &["Reset", "Reboot", "FLR"];

fn recovery(text: &str) -> Option<Severity> {
    let (_, to) = text.rsplit_once(" to 0x")?;
    match to.split_once('(')?.1 {
        action if action.starts_with("None") => None,
        action if TILL_THEN_FAILED.iter().any(|word| action.contains(word)) => {
            Some(Severity::Failed)
        }
        _ => Some(Severity::Degraded),
    }
}

/// See [`gpuslice_core::mechanism::Mechanism::trouble`].
pub(super) fn of_line(text: &str) -> Option<Trouble> {
    let (_, rest) = text.split_once(BEGINS)?;
    let (device, rest) = rest.split_once("): ")?;
    // With MIG the instance comes behind it, as ` GPU-I:05`.
    let device = device.split_once(' ').map_or(device, |(device, _)| device);
    // Without the function, which is the PF's.
    let function: PciAddress = format!("{device}.0").parse().ok()?;
    let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
    let severity = match digits.parse::<u32>().ok()? {
        xid if OF_GUESTS.contains(&xid) => return None,
        RECOVERY => recovery(rest)?,
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
            (
                "NVRM: Xid (PCI:0000:41:00 GPU-I:05): 95, pid=7, name=x, Uncontained: SM (0x1).",
                Some((gpu(), Severity::Failed)),
            ),
            (
                "NVRM: Xid (PCI:0000:41:00 GPU-I:05 GPU-CI:00): 48, An uncorrectable double bit error",
                Some((gpu(), Severity::Failed)),
            ),
            (
                "NVRM: Xid (PCI:0000:41:00): 154, GPU recovery action changed from 0x0 (None) to 0x1 (GPU Reset Required)",
                Some((gpu(), Severity::Failed)),
            ),
            (
                "NVRM: Xid (PCI:0000:41:00): 154, GPU recovery action changed from 0x0 (None) to 0x2 (Node Reboot Required)",
                Some((gpu(), Severity::Failed)),
            ),
            (
                "NVRM: Xid (PCI:0000:41:00): 154, GPU recovery action changed from 0x0 (None) to 0x4 (Drain and Reset)",
                Some((gpu(), Severity::Failed)),
            ),
            (
                "NVRM: Xid (PCI:0000:41:00): 154, GPU recovery action changed from 0x0 (None) to 0x3 (Drain P2P)",
                Some((gpu(), Severity::Degraded)),
            ),
            (
                "NVRM: Xid (PCI:0000:41:00): 154, GPU recovery action changed from 0x1 (GPU Reset Required) to 0x0 (None)",
                None,
            ),
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
