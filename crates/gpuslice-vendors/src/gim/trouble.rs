//! What GIM says in the kernel's log when a GPU or a VF fails.
//!
//! Texts: amd/MxGPU-Virtualization, `libgv/core/amdgv_error_subcode.c`, which newer ones call `amdgv_log_subcode.c`. Before them stand GPU, function and place, as in
//! `gim error libgv: [0:c:0:0][PF][amdgv_reset_gpu:142] ` (`amdgv_error.c`; issue 9 there shows some); VFs count from 0.

use gpuslice_core::health::{Severity, Trouble, function_named};
use gpuslice_core::ids::{PciAddress, VfIndex};

/// Before the text; each of the driver's own headers begins so.
const DRIVER: &str = "gim";

/// Text, how bad it is, and whether a function was to be reset.
const LINES: &[(&str, Severity, bool)] = &[
    // AMDGV_ERROR_RESET_FLR_FAILED
    ("FLR failed on vf : ", Severity::Failed, true),
    // AMDGV_ERROR_RESET_GPU_FAILED, AMDGV_ERROR_RESET_GPU_HIVE_FAILED
    ("Whole GPU reset failed!", Severity::Failed, true),
    ("Unable to perform Whole GPU reset", Severity::Failed, true),
    // AMDGV_ERROR_ECC_UCE, and the same of each block: of the GPU or of one of its chiplets, new or in all.
    (" uncorrectable hardware error", Severity::Failed, false),
    (" uncorrectable ECC error", Severity::Failed, false),
    // AMDGV_ERROR_ECC_FATAL_ERROR, those in memory that the driver or the firmware needs, and no room for more bad pages.
    ("GPU detected ECC Fatal Error", Severity::Failed, false),
    ("ECC happens within ", Severity::Failed, false),
    ("Bad Page Record #", Severity::Failed, false),
    ("ECC record reach threshold", Severity::Failed, false),
    ("RAS EEPROM cannot hold anymore bad page records", Severity::Failed, false),
    // AMDGV_ERROR_GPU_RMA, AMDGV_ERROR_GPU_HIVE_RMA, AMDGV_ERROR_GPU_DEVICE_LOST
    ("GPU is in RMA state", Severity::Failed, false),
    ("FB sharing with GPU(s) that are in RMA state", Severity::Failed, false),
    ("Device disappeared from bus", Severity::Failed, false),
    // AMDGV_ERROR_GUARD_EVENT_OVERFLOW: a VF floods its GPU with events, and is throttled.
    (" overflow.", Severity::Degraded, false),
    // AMDGV_ERROR_SCHED_WORLD_SWITCH_FAIL, AMDGV_ERROR_SCHED_DEAD_VF, AMDGV_ERROR_GPU_RLCV_ABNORMAL_STATE and
    // AMDGV_ERROR_GPU_MMSCH_ABNORMAL_STATE: a guest can hang what it shares, and the GPU is reset for it.
    ("World Switch Failed!", Severity::Degraded, false),
    (" is not responding.", Severity::Degraded, false),
    ("irtualization scheduler has entered an abnormal state", Severity::Degraded, false),
    ("irtualization Scheduler has entered an abnormal state", Severity::Degraded, false),
    // AMDGV_ERROR_XGMI_FB_SHARING_SETTING_RESET, AMDGV_ERROR_XGMI_TOPOLOGY_UPDATE_FAILED, and AMDGV_LOG_PP_MODE2_RESET_FAIL
    // with AMDGV_LOG_PP_MODE0_RESET_FAIL: what links GPUs is not as it was set, or the driver tries a harder reset.
    ("XGMI Hive FB Sharing settings have been reset", Severity::Degraded, false),
    ("Device failed to update XGMI Topology", Severity::Degraded, false),
    ("PMFW failed mode ", Severity::Degraded, false),
    // AMDGV_ERROR_ECC_POISON_CONSUMPTION: one VF has read what is lost.
    ("RAS poison consumption", Severity::Degraded, false),
];

/// See [`gpuslice_core::mechanism::Mechanism::trouble`].
pub(super) fn of_line(text: &str) -> Option<Trouble> {
    if !text.contains(DRIVER) {
        return None;
    }
    let (words, severity, reset_failed) = LINES.iter().find(|(words, ..)| text.contains(words))?;
    let (before, after) = text.split_once(words)?;
    let last = before.split_whitespace().rev().find(|word| *word != "new").unwrap_or_default();
    let ours = match *words {
        // Many drivers overflow; this one's events have a number.
        " overflow." => last.starts_with("0x"),
        " is not responding." => last.starts_with("VF"),
        // It is told together with the correctable ones.
        _ => last != "0",
    };
    if !ours {
        return None;
    }
    let vf = Some(after).filter(|_| words.ends_with("vf : ")).and_then(|after| {
        let digits: String = after.chars().take_while(char::is_ascii_digit).collect();
        digits.parse().ok().map(VfIndex)
    });
    let function = gpu_of(text).or_else(|| function_named(text));
    Some(Trouble { function, vf, severity: *severity, reset_failed: *reset_failed })
}

/// Domain, bus, device and function as `[%x:%x:%x:%x]`.
fn gpu_of(text: &str) -> Option<PciAddress> {
    let inside = text.split('[').skip(1).filter_map(|part| part.split_once(']'));
    inside.map(|(inside, _)| inside).find_map(|inside| {
        let hex = |part: &str| u32::from_str_radix(part, 16).ok();
        let parts: Vec<u32> = inside.split(':').map(hex).collect::<Option<_>>()?;
        let &[domain, bus, device, function] = parts.as_slice() else { return None };
        let byte = |part: u32| u8::try_from(part).ok();
        PciAddress::new(domain, byte(bus)?, byte(device)?, byte(function)?)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use Severity::{Degraded, Failed};

    const HEADER: &str = "gim error libgv: [0:c:0:0][PF][amdgv_put_event:142] ";

    #[test]
    fn lines_of_the_driver() {
        let degraded = [
            "Event 0x1 overflow.",
            "World Switch Failed!",
            "VF3 is not responding.",
            "Graphics Virtualization Scheduler has entered an abnormal state",
            "Multimedia virtualization scheduler has entered an abnormal state",
            "RAS poison consumption triggered by VF1, RAS block:2.",
            "XGMI Hive FB Sharing settings have been reset due to errors.",
            "Device failed to update XGMI Topology.",
            "PMFW failed mode 2 reset.",
            "PMFW failed mode 0 reset.",
        ];
        let not_reset = [
            ("FLR failed on vf : 3!", Some(VfIndex(3))),
            ("FLR failed on vf : x!", None),
            ("Whole GPU reset failed!", None),
            ("Unable to perform Whole GPU reset because one or more", None),
        ];
        let failed = [
            "Adapter(UMC) occurred 2 uncorrectable ECC error since GPU load.",
            "1 uncorrectable hardware error detected in GFX block.",
            "socket: 0, die: 2, 1 new uncorrectable hardware errors detected in UMC Block. \
             3 total UMC Block uncorrectable ECC errors since GPU load.",
            "1 time out of 2 threshold - uncorrectable hardware error detected in UMC block.",
            "1 time out of 2 threshold - ECC happens within VF critical region, please follow",
            "Bad Page Record #1 (of 256 storage threshold) is within PF critical region, please follow",
            "Bad Page Record #0 (of 256 storage threshold) is within TMR or CSA or IPD Critical regions,",
            "Bad Page Record #7 (of 0 storage threshold) is within VF critical region, please follow",
            "ECC record reach threshold 8 pages, please follow",
            "RAS EEPROM cannot hold anymore bad page records, please RMA",
            "GPU detected ECC Fatal Error.",
            "GPU is in RMA state.",
            "Driver disabled runtime services because it is FB sharing with GPU(s) that are in RMA state.",
            "Device disappeared from bus.",
        ];
        let of_gpu = |severity, text| (text, severity, false, None);
        let all = degraded.map(|text| of_gpu(Degraded, text)).into_iter();
        let all = all.chain(not_reset.map(|(text, vf)| (text, Failed, true, vf)));
        for (text, severity, reset_failed, vf) in all.chain(failed.map(|text| of_gpu(Failed, text)))
        {
            let gpu = Some("0000:0c:00.0".parse().unwrap());
            let want = Trouble { function: gpu, vf, severity, reset_failed };
            assert_eq!(of_line(&format!("{HEADER}{text}")), Some(want), "{text}");
            assert_eq!(of_line(&format!("gim 0000:0c:00.0: {text}")), Some(want), "{text}");
            let nobodys = Trouble { function: None, ..want };
            assert_eq!(of_line(&format!("gim: {text}")), Some(nobodys), "{text}");
            assert_eq!(of_line(text), None, "{text}");
        }
    }

    #[test]
    fn gpus_are_named_in_short_hexadecimals() {
        for (text, gpu) in [
            ("gim error libgv: [0:a8:0:0][PF][f:1] x", Some("0000:a8:00.0")),
            ("gim error libgv:   [1:3d:1f:7][VF03][f:1] x", Some("0001:3d:1f.7")),
            ("gim error libgv: [0:100:0:0][PF] x", None),
            ("gim error libgv: [0:c:0][PF][f:142] x", None),
            ("gim error libgv: [0:c:20:0] x", None),
            ("gim error libgv: [0:c:0:0", None),
        ] {
            assert_eq!(gpu_of(text), gpu.map(|gpu| gpu.parse().unwrap()), "{text}");
        }
    }

    #[test]
    fn what_is_nobodys_failure() {
        for text in [
            "Issuing FLR on vf: 3.",
            "Issuing Whole GPU reset.",
            "Adapter(UMC) occurred 2 correctable ECC error since GPU load.",
            "Adapter(UMC) occurred 0 uncorrectable ECC error since GPU load.",
            "socket: 0, die: 1, 2 new correctable hardware errors detected in UMC Block. \
             2 total UMC Block correctable ECC errors since GPU load.",
            "socket: 0, die: 1, 2 new deferred hardware errors detected in UMC Block.",
            "socket: 0, die: 1, 0 new uncorrectable hardware errors detected in UMC Block. \
             1 total UMC Block uncorrectable ECC errors since GPU load.",
            "driver RAS bad page storage has 3 bad page records of 256 threshold.",
            "Device successfully updated XGMI Topology.",
            "ring buffer overflow.",
            "the firmware is not responding.",
            "AMD GIM probed GPU(0) 0000:0c:00.0",
            "",
        ] {
            assert_eq!(of_line(&format!("{HEADER}{text}")), None, "{text}");
        }
    }
}
