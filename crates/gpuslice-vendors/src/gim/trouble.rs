//! What GIM says in the kernel's log when a GPU or a VF fails.
//!
//! Texts: amd/MxGPU-Virtualization, `libgv/core/amdgv_error.c`. What stands before them is UNVERIFIED; a line that does
//! not name its GPU as a PCI function is taken for that of the only one. Whether VFs count from 0 is UNVERIFIED too.

use gpuslice_core::health::{Severity, Trouble, function_named};
use gpuslice_core::ids::VfIndex;

/// Text, how bad it is, and whether a function was to be reset.
const LINES: &[(&str, Severity, bool)] = &[
    // AMDGV_ERROR_GUARD_EVENT_OVERFLOW: a VF floods its GPU with events, and is throttled.
    (" overflow.", Severity::Degraded, false),
    // AMDGV_ERROR_RESET_FLR_FAILED
    ("FLR failed on vf : ", Severity::Failed, true),
    // AMDGV_ERROR_RESET_GPU_FAILED, AMDGV_ERROR_RESET_GPU_HIVE_FAILED
    ("Whole GPU reset failed!", Severity::Failed, true),
    ("Unable to perform Whole GPU reset", Severity::Failed, true),
    // AMDGV_ERROR_ECC_UCE, and those in memory that the driver or the firmware needs.
    (" uncorrectable ECC error since GPU load", Severity::Failed, false),
    ("ECC happens within ", Severity::Failed, false),
];

/// See [`gpuslice_core::mechanism::Mechanism::trouble`].
pub(super) fn of_line(text: &str) -> Option<Trouble> {
    let (words, severity, reset_failed) = LINES.iter().find(|(words, ..)| text.contains(words))?;
    // Many drivers overflow; this one's events have a number.
    if *severity == Severity::Degraded && !text.contains("Event 0x") {
        return None;
    }
    // It is told together with the correctable ones.
    if text.contains("uncorrectable ECC") && text.contains("occurred 0 ") {
        return None;
    }
    let after = text.split_once(words).map(|(_, after)| after);
    let vf = after.filter(|_| words.ends_with("vf : ")).and_then(|after| {
        let digits: String = after.chars().take_while(char::is_ascii_digit).collect();
        digits.parse().ok().map(VfIndex)
    });
    let function = function_named(text);
    Some(Trouble { function, vf, severity: *severity, reset_failed: *reset_failed })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_the_driver() {
        let gpu = Some("0000:0c:00.0".parse().unwrap());
        for (text, severity, reset_failed, vf) in [
            ("Event 0x1 overflow.", Severity::Degraded, false, None),
            ("FLR failed on vf : 3!", Severity::Failed, true, Some(VfIndex(3))),
            ("FLR failed on vf : x!", Severity::Failed, true, None),
            ("Whole GPU reset failed!", Severity::Failed, true, None),
            (
                "Adapter(UMC) occurred 2 uncorrectable ECC error since GPU load.",
                Severity::Failed,
                false,
                None,
            ),
            (
                "1 time out of 2 threshold - ECC happens within VF critical region, please follow",
                Severity::Failed,
                false,
                None,
            ),
        ] {
            let want = Trouble { function: gpu, vf, severity, reset_failed };
            assert_eq!(of_line(&format!("gim 0000:0c:00.0: {text}")), Some(want), "{text}");
            assert_eq!(of_line(text), Some(Trouble { function: None, ..want }), "{text}");
        }
    }

    #[test]
    fn what_is_nobodys_failure() {
        for text in [
            "Issuing FLR on vf: 3.",
            "Issuing Whole GPU reset.",
            "Adapter(UMC) occurred 2 correctable ECC error since GPU load.",
            "Adapter(UMC) occurred 0 uncorrectable ECC error since GPU load.",
            "ring buffer overflow.",
            "AMD GIM probed GPU(0) 0000:0c:00.0",
            "",
        ] {
            assert_eq!(of_line(text), None, "{text}");
        }
    }
}
