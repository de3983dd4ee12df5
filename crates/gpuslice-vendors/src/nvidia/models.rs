//! Names of GPUs by their PCI id (pciutils' pci.ids).

/// Our word for the product. Where one id stands for several products (A2 and A16) there is none.
pub(super) fn name(device: u16) -> Option<&'static str> {
    Some(match device {
        0x1b38 => "p40",
        0x1db1 | 0x1db4..=0x1db6 => "v100",
        0x1eb8 => "t4",
        0x20b0 | 0x20b2 | 0x20b5 | 0x20f1 => "a100",
        0x20b7 => "a30",
        0x2235 => "a40",
        0x2236 => "a10",
        0x2321 | 0x2330 | 0x2331 => "h100",
        0x2335 => "h200",
        0x26b5 => "l40",
        0x26b9 => "l40s",
        0x27b8 => "l4",
        0x2b85 => "rtx5090",
        0x2bb5 => "rtxpro6000",
        _ => return None,
    })
}
