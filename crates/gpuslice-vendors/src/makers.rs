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
    /// It is built on the host, so that nobody has signed it.
    pub unsigned: bool,
    /// The slices are VFs, or lie on VFs; else the driver makes mediated devices of the GPU itself.
    pub sriov: bool,
}

const NVIDIA: Maker = Maker {
    driver: "nvidia",
    name: "NVIDIA's vGPU host driver",
    rival: Some("nouveau"),
    unsigned: true,
    sriov: true,
};
const NVIDIA_MDEVS: Maker = Maker { sriov: false, ..NVIDIA };
const GIM: Maker = Maker {
    driver: "gim",
    name: "AMD's GIM (gim-dkms)",
    rival: Some("amdgpu"),
    unsigned: true,
    sriov: true,
};
const INTEL: Maker =
    Maker { driver: "xe", name: "Intel's i915 or xe", rival: None, unsigned: false, sriov: true };

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
        (0x8086, 0x56c0..=0x56c2 | 0x0bd4..=0x0bd6 | 0x0bda | 0x0bdb | 0xe211 | 0xe212) => {
            Some(INTEL)
        }
        _ => None,
    }
}
