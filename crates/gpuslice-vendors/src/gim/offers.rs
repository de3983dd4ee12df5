//! What a GPU under GIM offers: its VFs, all alike.

use super::{models, pf};
use gpuslice_core::ids::ParentId;
use gpuslice_core::mechanism::{Form, Isolation, Offer};
use gpuslice_core::observation::Observation;

/// `amd-mi300x-vf8`, or `amd-7abc-vf8` for a GPU without a name here.
pub(super) fn offers(seen: &Observation, parent: &ParentId) -> Option<Offer> {
    let pf = pf(seen, parent)?;
    if pf.sriov.vfs.is_empty() {
        return None;
    }
    let count = u32::try_from(pf.sriov.vfs.len()).ok()?;
    let device = pf.function.device;
    let model = models::name(device).map_or_else(|| format!("{device:04x}"), str::to_owned);
    Some(Offer {
        mechanism: "gim",
        profile: format!("amd-{model}-vf{count}").parse().ok()?,
        parent: parent.clone(),
        form: Form::Vfs(pf.sriov.vfs.values().copied().collect()),
        description: Some(format!("one of {count} virtual functions")),
        memory: None,
        max: Some(count),
        isolation: Isolation::Hardware,
        heads: None,
        edition: None,
    })
}
