//! What is known of GPUs by their PCI id (pciutils' pci.ids; GIM's own tables). Names only: a GPU that is not here is
//! sliced all the same, under its id.

/// Our word for the product, from the PF's device id.
pub(super) fn name(device: u16) -> Option<&'static str> {
    Some(match device {
        0x740f => "mi210",
        0x7460 => "v710",
        0x74a1 => "mi300x",
        0x74a2 | 0x74a8 => "mi308x",
        0x74a5 => "mi325x",
        0x74a9 => "mi300x-hf",
        0x75a0 => "mi350x",
        0x75a3 => "mi355x",
        0x75a8 => "mi350p",
        _ => return None,
    })
}
