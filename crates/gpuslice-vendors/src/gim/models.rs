//! What is known of GPUs by their PCI id (pciutils' pci.ids; GIM's own tables): names, and which modes go together. A GPU
//! that is not here is sliced all the same, under its id and by what it reports.

/// Ids in the order in which the driver adds them to its own (libgv's `amdgv_sriov_device_table`): it probes all GPUs
/// of one before those of the next. What comes after the MI300X-HF differs between releases.
const PROBED: &[u16] = &[0x74a1, 0x74a5, 0x74a2, 0x74a8, 0x74a9, 0x75a0, 0x75a3, 0x740f, 0x7460];

/// When GPUs of this id are probed; those that are not known here come last.
pub(super) fn turn(device: u16) -> usize {
    PROBED.iter().position(|id| *id == device).unwrap_or(PROBED.len())
}

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

/// A memory and a compute mode that go together with a number of VFs (libgv; `mi300_nbio.c`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Legal {
    pub vfs: u16,
    pub memory: &'static str,
    pub compute: &'static str,
}

const fn legal(vfs: u16, memory: &'static str, compute: &'static str) -> Legal {
    Legal { vfs, memory, compute }
}

const MI300X: &[Legal] = &[
    legal(1, "NPS1", "SPX"),
    legal(1, "NPS1", "CPX"),
    legal(1, "NPS4", "CPX"),
    legal(2, "NPS1", "DPX"),
    legal(2, "NPS1", "CPX"),
    legal(4, "NPS1", "QPX"),
    legal(4, "NPS1", "CPX"),
    legal(4, "NPS4", "QPX"),
    legal(4, "NPS4", "CPX"),
    legal(8, "NPS1", "CPX"),
    legal(8, "NPS4", "CPX"),
];
const MI308X: &[Legal] = &[
    legal(1, "NPS1", "SPX"),
    legal(1, "NPS1", "QPX"),
    legal(2, "NPS1", "DPX"),
    legal(4, "NPS1", "QPX"),
];
const MI350X: &[Legal] = &[
    legal(1, "NPS1", "SPX"),
    legal(1, "NPS2", "DPX"),
    legal(1, "NPS2", "QPX"),
    legal(1, "NPS2", "CPX"),
    legal(2, "NPS2", "DPX"),
    legal(4, "NPS2", "QPX"),
    legal(8, "NPS2", "CPX"),
];
const WHOLE: &[Legal] = &[legal(1, "NPS1", "SPX")];

/// Everything that is legal; empty where that is not known.
pub(super) fn modes(device: u16) -> &'static [Legal] {
    match device {
        0x74a1 | 0x74a9 => MI300X,
        0x74a2 | 0x74a8 => MI308X,
        0x75a0 | 0x75a3 => MI350X,
        0x74a5 | 0x740f => WHOLE,
        _ => &[],
    }
}

/// What is legal with a number of VFs.
pub(super) fn legal_with(device: u16, vfs: u16) -> impl Iterator<Item = &'static Legal> {
    modes(device).iter().filter(move |legal| legal.vfs == vfs)
}

/// Whether a GPU is known to be set to a mode, so with this number of VFs.
pub(super) fn divided(device: u16, vfs: usize) -> bool {
    modes(device).iter().any(|legal| usize::from(legal.vfs) == vfs)
}

/// How many GPUs of a kind a board links by XGMI (libgv's `mi200_xgmi.c`, `mi300_xgmi.c`); none where that is not known.
pub(super) fn linked(device: u16) -> Option<usize> {
    match device {
        0x740f => Some(4),
        0x74a1 | 0x74a2 | 0x74a5 | 0x74a8 | 0x74a9 | 0x75a0 | 0x75a3 => Some(8),
        _ => None,
    }
}

/// Whether it is known to have no partitions.
pub(super) fn whole(device: u16) -> bool {
    device == 0x7460
}
