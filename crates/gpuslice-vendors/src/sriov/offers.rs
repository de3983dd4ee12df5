//! What a PF offers: its VFs, all alike.

use super::function;
use super::plan::sriov_manage_has;
use gpuslice_core::ids::{ParentId, PciAddress, ProfileName};
use gpuslice_core::layout::Layout;
use gpuslice_core::mechanism::{Form, Isolation, Offer};
use gpuslice_core::observation::{Function, Observation};

/// The VFs that exist, under a name that says how many share the device. A device that is no GPU (a network card
/// has VFs too) offers them only when a layout names it.
pub(super) fn offers(
    seen: &Observation,
    parent: &ParentId,
    layout: Option<&Layout>,
) -> Option<Offer> {
    let function = function(seen, parent).filter(|f| !sriov_manage_has(f))?;
    let sriov = function.sriov.as_ref()?;
    if sriov.vfs.is_empty() || !(function.is_gpu() || layout.is_some()) {
        return None;
    }
    // VFs that are mdev parents themselves, or get a type first, are not given whole.
    let typed = |vf| seen.vfs.get(vf).is_some_and(|vf| vf.choice.is_some());
    let parent_too = |vf: &PciAddress| seen.mdev_parents.contains_key(&ParentId::Pci(*vf));
    if sriov.vfs.values().any(|vf| parent_too(vf) || typed(vf)) {
        return None;
    }
    let count = u32::try_from(sriov.vfs.len()).ok()?;
    Some(Offer {
        mechanism: "sriov",
        profile: profile(function, count)?,
        parent: parent.clone(),
        form: Form::Vfs(sriov.vfs.values().copied().collect()),
        description: Some(format!("one of {count} virtual functions")),
        memory: None,
        max: Some(count),
        per_vm: None,
        isolation: Isolation::Hardware,
        heads: None,
        edition: None,
        migratable: super::migratable(layout),
    })
}

/// `<vendor>-<device id>-vf<count>`: the same for the same device with the same layout on any host.
fn profile(function: &Function, count: u32) -> Option<ProfileName> {
    let vendor = match function.vendor {
        0x1002 => "amd".to_owned(),
        0x10de => "nvidia".to_owned(),
        0x8086 => "intel".to_owned(),
        other => format!("{other:04x}"),
    };
    format!("{vendor}-{:04x}-vf{count}", function.device).parse().ok()
}
