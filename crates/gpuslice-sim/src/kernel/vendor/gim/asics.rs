//! The GPUs that the driver knows by id, and which modes go with which number of VFs (libgv's tables).

/// A combination that is legal.
#[derive(Debug, Clone, Copy)]
struct Legal {
    vfs: u16,
    nps: u32,
    parts: u32,
}

const fn legal(vfs: u16, nps: u32, parts: u32) -> Legal {
    Legal { vfs, nps, parts }
}

const MI300X: &[Legal] = &[
    legal(1, 1, 1),
    legal(1, 1, 8),
    legal(1, 4, 8),
    legal(2, 1, 2),
    legal(2, 1, 8),
    legal(4, 1, 4),
    legal(4, 1, 8),
    legal(4, 4, 4),
    legal(4, 4, 8),
    legal(8, 1, 8),
    legal(8, 4, 8),
];
const MI308X: &[Legal] = &[legal(1, 1, 1), legal(1, 1, 4), legal(2, 1, 2), legal(4, 1, 4)];
const MI350X: &[Legal] = &[
    legal(1, 1, 1),
    legal(1, 2, 2),
    legal(1, 2, 4),
    legal(1, 2, 8),
    legal(2, 2, 2),
    legal(4, 2, 4),
    legal(8, 2, 8),
];
const SINGLE: &[Legal] = &[legal(1, 1, 1)];

/// Numbers of partitions, and of memory partitions.
const POWERS: [u32; 4] = [1, 2, 4, 8];

fn modes(device: u16) -> &'static [Legal] {
    match device {
        0x74a1 | 0x74a9 => MI300X,
        0x74a2 | 0x74a8 => MI308X,
        0x75a0 | 0x75a3 => MI350X,
        0x74a5 | 0x740f => SINGLE,
        _ => &[],
    }
}

/// The driver's table of ids (libgv's `amdgv_device.c`): all GPUs of one are probed before those of the next.
const PROBED: &[u16] = &[0x74a1, 0x74a5, 0x74a2, 0x74a8, 0x74a9, 0x75a0, 0x75a3, 0x740f, 0x7460];

/// When a GPU's turn comes.
pub(crate) fn turn(device: u16) -> usize {
    PROBED.iter().position(|id| *id == device).unwrap_or(PROBED.len())
}

/// Whether there are partitions at all.
pub(super) fn partitioned(device: u16) -> bool {
    !modes(device).is_empty()
}

/// Framebuffer in MiB.
pub(super) fn framebuffer(device: u16) -> u64 {
    match device {
        0x74a1 | 0x74a2 | 0x74a8 | 0x74a9 => 196_608,
        0x74a5 => 262_144,
        0x75a0 | 0x75a3 => 294_912,
        0x740f => 65_536,
        0x7460 => 28_672,
        _ => 16_384,
    }
}

/// Compute dies.
pub(super) fn dies(device: u16) -> u32 {
    match device {
        0x74a2 | 0x74a8 => 4,
        0x740f => 1,
        _ => 8,
    }
}

/// Whether a combination is legal; `None` stands for any.
pub(super) fn fits(device: u16, vfs: u16, nps: Option<u32>, parts: Option<u32>) -> bool {
    modes(device).iter().any(|m| {
        m.vfs == vfs
            && nps.is_none_or(|nps| nps == m.nps)
            && parts.is_none_or(|parts| parts == m.parts)
    })
}

/// Compute modes that are legal with some memory mode, in the order of their profiles.
pub(super) fn profiles(device: u16, vfs: u16) -> Vec<u32> {
    POWERS.into_iter().filter(|parts| fits(device, vfs, None, Some(*parts))).collect()
}

/// Memory modes that are legal with a compute mode, or with any.
pub(super) fn memories(device: u16, vfs: u16, parts: Option<u32>) -> Vec<u32> {
    POWERS.into_iter().filter(|nps| fits(device, vfs, Some(*nps), parts)).collect()
}

/// The compute mode after a change of the memory mode: with several VFs a partition each.
pub(super) fn default_parts(vfs: u16, nps: u32) -> u32 {
    match (vfs, nps) {
        (2.., _) => u32::from(vfs),
        (_, 1) => 1,
        (_, 2) => 2,
        _ => 8,
    }
}

/// The compute mode that goes with a memory mode on a whole GPU.
pub(crate) fn default_parts_of(nps: u32) -> u32 {
    default_parts(1, nps)
}

/// Name of a compute mode.
pub(crate) fn name(parts: u32) -> &'static str {
    match parts {
        1 => "SPX",
        2 => "DPX",
        4 => "QPX",
        8 => "CPX",
        _ => "UNKNOWN",
    }
}
