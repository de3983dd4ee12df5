//! Names of GPUs whose own driver makes VFs on a write to `sriov_numvfs`, by PCI id (pciutils' pci.ids). Names only:
//! any other is sliced all the same.

/// Our word for the product of Intel.
pub(super) fn intel(device: u16) -> Option<&'static str> {
    Some(match device {
        0x0b69 => "max1450",
        0x0b6e | 0x0bd9..=0x0bdb => "max1100",
        0x0bd4..=0x0bd6 => "max1550",
        0x0bd7 | 0x0bd8 => "max1350",
        0x56c0 | 0x56c2 => "flex170",
        0x56c1 => "flex140",
        0xe20b => "b580",
        0xe20c => "b570",
        0xe211 => "b60",
        0xe212 => "b50",
        0xe222 => "b65",
        0xe223 => "b70",
        _ => return None,
    })
}
