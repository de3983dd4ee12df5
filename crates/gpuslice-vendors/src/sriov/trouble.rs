//! What is said of a function that fails, or that does not come back from a reset. By the kernel itself of any function,
//! whoever made it (drivers/pci/pci.c, pci_dev_wait): `vfio-pci 0000:41:00.4: not ready 65535ms after FLR; giving up`. By
//! Intel's drivers of their PF, behind `xe 0000:03:00.0: ` or `i915 0000:03:00.0: `, with VFs that count from 1.

use gpuslice_core::health::{Severity, Trouble, function_named};
use gpuslice_core::ids::VfIndex;

/// How a driver begins, and what it says of a VF, `VF3`, whose reset it did not end: the write that asked for it may have
/// succeeded (xe_gt_sriov_pf_control.c; i915_sriov.c of Intel's own builds).
const RESETS: [(&str, &str); 2] =
    [("xe ", " FLR failed!"), ("i915 ", " FLR didn't complete within ")];

/// That the driver has given its device up (xe_device.c, xe_device_declare_wedged).
const WEDGED: (&str, &str) = ("Xe has declared device ", " as wedged.");

/// That firmware did not start, and the driver is there for nothing but to flash it (xe_survivability_mode.c).
const SURVIVES: &str = ": In Survivability Mode";

/// See [`gpuslice_core::mechanism::Mechanism::trouble`].
pub(super) fn of_line(text: &str) -> Option<Trouble> {
    lost(text).or_else(|| wedged(text)).or_else(|| survives(text)).or_else(|| not_reset(text))
}

fn lost(text: &str) -> Option<Trouble> {
    let said = text.contains(": not ready ") && text.ends_with("; giving up");
    let function = Some(function_named(text.split_once(": not ready ").filter(|_| said)?.0)?);
    Some(Trouble { function, vf: None, severity: Severity::Failed, reset_failed: true })
}

fn wedged(text: &str) -> Option<Trouble> {
    let (_, after) = text.split_once(WEDGED.0)?;
    let function = Some(function_named(after.split_once(WEDGED.1)?.0)?);
    Some(Trouble { function, vf: None, severity: Severity::Failed, reset_failed: false })
}

fn survives(text: &str) -> Option<Trouble> {
    let before = text.strip_suffix(SURVIVES).filter(|before| before.starts_with("xe "))?;
    let function = Some(function_named(before)?);
    Some(Trouble { function, vf: None, severity: Severity::Failed, reset_failed: false })
}

fn not_reset(text: &str) -> Option<Trouble> {
    let (_, words) = RESETS.into_iter().find(|(driver, _)| text.starts_with(driver))?;
    let (before, _) = text.split_once(words)?;
    let number: u16 = before.rsplit_once("VF")?.1.parse().ok()?;
    let (function, vf) = (Some(function_named(before)?), Some(VfIndex(number.checked_sub(1)?)));
    Some(Trouble { function, vf, severity: Severity::Failed, reset_failed: true })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_function_that_did_not_come_back() {
        let line = "vfio-pci 0000:41:00.4: not ready 65535ms after FLR; giving up";
        let trouble = of_line(line).unwrap();
        assert_eq!(trouble.function.unwrap().to_string(), "0000:41:00.4");
        assert!(trouble.reset_failed);
        for text in [
            "vfio-pci 0000:41:00.4: not ready 1023ms after FLR; waiting",
            "vfio-pci 0000:41:00.4: ready 2047ms after FLR",
            "usb 1-1: not ready 3ms after reset; giving up",
        ] {
            assert_eq!(of_line(text), None, "{text}");
        }
    }

    #[test]
    fn a_gpu_that_xe_gave_up() {
        let function = Some("0000:03:00.0".parse().unwrap());
        let (severity, reset_failed) = (Severity::Failed, false);
        let want = Trouble { function, vf: None, severity, reset_failed };
        let said = "CRITICAL: Xe has declared device 0000:03:00.0 as wedged.";
        for text in [
            format!("xe 0000:03:00.0: [drm] *ERROR* {said}"),
            format!("xe 0000:03:00.0: [drm] *ERROR* {said}\nIOCTLs and executions are blocked."),
        ] {
            assert_eq!(of_line(&text), Some(want), "{text}");
        }
        assert_eq!(of_line("Xe has declared device card0 as wedged."), None);
        assert_eq!(of_line("xe 0000:03:00.0: [drm] device wedged, needs recovery"), None);
    }

    #[test]
    fn a_gpu_whose_firmware_did_not_start() {
        let function = Some("0000:03:00.0".parse().unwrap());
        let want = Trouble { function, vf: None, severity: Severity::Failed, reset_failed: false };
        assert_eq!(of_line("xe 0000:03:00.0: In Survivability Mode"), Some(want));
        for text in [
            "xe 0000:03:00.0: Survivability Boot Status : Non Critical Failure (1)",
            "snd 0000:03:00.1: In Survivability Mode",
            "xe: In Survivability Mode",
        ] {
            assert_eq!(of_line(text), None, "{text}");
        }
    }

    #[test]
    fn vfs_of_intel_that_were_not_reset() {
        for (text, vf) in [
            ("xe 0000:03:00.0: [drm] Tile0: GT0: PF: VF1 FLR failed!", Some(0)),
            ("xe 0000:03:00.0: [drm] GT1: PF: VF24 FLR failed!", Some(23)),
            (
                "i915 0000:03:00.0: [drm] *ERROR* IOV0: VF3 FLR didn't complete within 500 ms",
                Some(2),
            ),
            ("xe 0000:03:00.0: [drm] GT0: PF: VF0 FLR failed!", None),
            ("xe 0000:03:00.0: [drm] GT0: PF: VF1 FLR didn't finish in 5000 ms (-ETIMEDOUT)", None),
            ("xe 0000:03:00.0: [drm] Driver-FLR failed! -110", None),
            ("xe: VF1 FLR failed!", None),
            ("gim 0000:03:00.0: VF1 FLR failed!", None),
        ] {
            let trouble = of_line(text);
            let found = trouble.and_then(|trouble| trouble.vf);
            assert_eq!(found, vf.map(VfIndex), "{text}");
            assert_eq!(trouble.is_some(), vf.is_some(), "{text}");
            if let Some(trouble) = trouble {
                assert_eq!(trouble.function.unwrap().to_string(), "0000:03:00.0");
                assert!(trouble.reset_failed && trouble.severity == Severity::Failed, "{text}");
            }
        }
    }
}
