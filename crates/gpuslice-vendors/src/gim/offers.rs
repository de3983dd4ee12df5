//! What a GPU under GIM offers: its VFs, all alike.

use super::{DRIVER, Pf, all, models, pf, read, state};
use gpuslice_core::ids::ParentId;
use gpuslice_core::layout::Layout;
use gpuslice_core::mechanism::{Form, Isolation, Offer};
use gpuslice_core::mode::Mode;
use gpuslice_core::observation::Observation;
use gpuslice_core::per_device;

/// What the driver keeps for the PF when nobody says otherwise, in MiB.
const PF_FRAMEBUFFER: u64 = 256;

/// Each VF's part is a multiple of it, in MiB.
const GRAIN: u64 = 16;

/// `amd-mi300x-vf8-cpx-nps4`: what the VF is depends on the modes, NPS1 being the memory as a whole. `amd-7abc-vf8` for a
/// GPU without a name here that has none.
pub(super) fn offers(
    seen: &Observation,
    parent: &ParentId,
    layout: Option<&Layout>,
) -> Option<Offer> {
    let pf = pf(seen, parent)?;
    // What its VFs are can be told by their modes alone.
    if pf.sriov.vfs.is_empty() || read::modes_untold(seen, pf.address) {
        return None;
    }
    let count = u32::try_from(pf.sriov.vfs.len()).ok()?;
    let device = pf.function.device;
    let mut profile = match models::name(device) {
        Some(model) => format!("amd-{model}-vf{count}"),
        None => format!("amd-{device:04x}-vf{count}"),
    };
    let mut description = format!("one of {count} virtual functions");
    let compute = seen.mode(parent, Mode::Compute);
    let memory = seen.mode(parent, Mode::Memory).filter(|memory| !memory.is("NPS1"));
    for mode in [compute, memory].into_iter().flatten() {
        profile += &format!("-{}", mode.as_str().to_ascii_lowercase());
        description += &format!(", {mode}");
    }
    Some(Offer {
        mechanism: "gim",
        profile: profile.parse().ok()?,
        parent: parent.clone(),
        form: Form::Vfs(pf.sriov.vfs.values().copied().collect()),
        description: Some(description),
        memory: framebuffer(seen, &pf, u64::from(count)),
        max: Some(count),
        per_vm: None,
        isolation: Isolation::Hardware,
        heads: None,
        edition: None,
        migratable: crate::sriov::migratable(layout),
    })
}

/// Bytes of each VF: equal parts of what the PF leaves (libgv's `amdgv_vfmgr.c`).
fn framebuffer(seen: &Observation, pf: &Pf<'_>, vfs: u64) -> Option<u64> {
    let mib = pf.function.memory? >> 20;
    let at =
        all(seen).filter(|pf| pf.has_driver(DRIVER)).position(|other| other.address == pf.address);
    let kept = state(seen).and_then(|state| state.parameters.get("pf_fb_size"));
    let kept = kept.and_then(|list| per_device::nth(list, at?)?.parse().ok());
    let each = mib.checked_sub(kept.unwrap_or(PF_FRAMEBUFFER))? / vfs;
    Some((each / GRAIN * GRAIN) << 20).filter(|bytes| *bytes > 0)
}
