//! GPUs that are known to be sliced by a driver, as VFs or as mediated devices: for what the kernel does not show, because no
//! driver has the GPU or the one that has it has not begun. What it shows, a mechanism judges by.

/// Who slices it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Maker {
    /// The driver.
    pub driver: &'static str,
    /// What it is called and where it comes from.
    pub name: &'static str,
    /// The driver of the host that takes the GPU instead.
    pub rival: Option<&'static str>,
    /// Its package of DKMS, where it is built on the host, so that nobody has signed it.
    pub package: Option<&'static str>,
    /// The slices are VFs, or lie on VFs; else the driver makes mediated devices of the GPU itself.
    pub sriov: bool,
}

const NVIDIA: Maker = Maker {
    driver: "nvidia",
    name: "NVIDIA's vGPU host driver",
    rival: Some("nouveau"),
    package: Some("nvidia"),
    sriov: true,
};
const NVIDIA_MDEVS: Maker = Maker { sriov: false, ..NVIDIA };
const GIM: Maker = Maker {
    driver: "gim",
    name: "AMD's GIM (gim-dkms)",
    rival: Some("amdgpu"),
    package: Some("gim"),
    sriov: true,
};
/// Of Flex and Max: the kernel's i915 makes no VFs, and has no Max at all.
const INTEL_BACKPORT: Maker = Maker {
    driver: "i915",
    name: "Intel's own build of i915 (intel-i915-dkms)",
    rival: None,
    package: Some("intel-i915-dkms"),
    sriov: true,
};
/// Of Battlemage and what came after.
const INTEL_XE: Maker =
    Maker { driver: "xe", name: "the kernel's xe", rival: None, package: None, sriov: true };
/// Of integrated GPUs before that.
const INTEL_INTEGRATED: Maker = Maker {
    driver: "i915",
    name: "i915-sriov-dkms",
    rival: None,
    package: Some("i915-sriov-dkms"),
    sriov: true,
};

/// Whether it is a Data Center GPU Max of Intel's. The kernel's list has three ids more, which are also those of an old Atom's
/// graphics (0be0, 0be1, 0be5).
pub fn is_max(device: u16) -> bool {
    matches!(device, 0x0b69 | 0x0b6e | 0x0bd4..=0x0bdb)
}

/// Who would slice a GPU of Intel's, be it one that nobody slices unasked (include/drm/intel/pciids.h).
pub fn intel(device: u16) -> Maker {
    match device {
        0x56c0..=0x56c2 => INTEL_BACKPORT,
        _ if is_max(device) => INTEL_BACKPORT,
        0xb080..=0xb0ff | 0xe200..=0xe2ff | 0xfd80 | 0xfd81 => INTEL_XE,
        _ => INTEL_INTEGRATED,
    }
}

/// Who slices a GPU of this id (pciutils' pci.ids; the vendors' lists of GPUs that they slice).
pub fn maker(vendor: u16, device: u16) -> Option<Maker> {
    match (vendor, device) {
        (
            0x10de,
            0x20b0 | 0x20b2 | 0x20b5 | 0x20b7 | 0x20f1 | 0x2235 | 0x2236 | 0x2321 | 0x2330 | 0x2331
            | 0x2335 | 0x25b6 | 0x26b5 | 0x26b9 | 0x27b8 | 0x2bb5,
        ) => Some(NVIDIA),
        (0x10de, 0x1b38 | 0x1db1 | 0x1db4..=0x1db6 | 0x1e30 | 0x1e36 | 0x1e78 | 0x1eb8) => {
            Some(NVIDIA_MDEVS)
        }
        (
            0x1002,
            0x740f | 0x7460 | 0x74a1 | 0x74a2 | 0x74a5 | 0x74a8 | 0x74a9 | 0x75a0 | 0x75a3 | 0x75a8,
        ) => Some(GIM),
        (0x8086, 0x56c0..=0x56c2 | 0xe211 | 0xe212 | 0xe216 | 0xe222 | 0xe223) => {
            Some(intel(device))
        }
        (0x8086, _) if is_max(device) => Some(intel(device)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_gpu_of_intel_is_sliced_by_the_driver_that_can() {
        for (device, driver) in [
            (0x56c0, Some("i915")),
            (0x0b69, Some("i915")),
            (0x0b6e, Some("i915")),
            (0x0bd9, Some("i915")),
            (0xe211, Some("xe")),
            (0xe216, Some("xe")),
            (0xe222, Some("xe")),
            (0xe223, Some("xe")),
            // An Atom's, an integrated one, an Arc that nobody slices unasked.
            (0x0be1, None),
            (0x46a6, None),
            (0xe20b, None),
        ] {
            assert_eq!(maker(0x8086, device).map(|maker| maker.driver), driver, "{device:04x}");
        }
        for (device, driver) in [(0x46a6, "i915"), (0xb080, "xe"), (0xe20b, "xe")] {
            assert_eq!(intel(device).driver, driver, "{device:04x}");
        }
    }
}
