//! Mediated devices made on demand (Documentation/driver-api/vfio-mediated-device.rst). A start makes one on
//! whichever parent placement picks, under the UUID the domain's XML already carries; a stop removes it.

use crate::nvidia::{
    Sharing, edition_of_type, isolation, parameters, per_vm, profile_of_type, scheduler, sharing,
};
use gpuslice_core::ids::{MdevTypeId, ParentId, ProfileName, SliceId};
use gpuslice_core::layout::{Layout, VfCount};
use gpuslice_core::mechanism::{Beside, Cleaned, Form, Layouts, MDEV, Mechanism, Offer};
use gpuslice_core::mode::Mode;
use gpuslice_core::observation::{FixedType, MdevParent, MdevType, Observation};
use gpuslice_core::plan::Step;
use gpuslice_core::refusal::Refusal;
use gpuslice_core::state::Assignment;

/// The kernel's own id in lower case, but for NVIDIA: its ids are numbers, and the same types come in another
/// framework under the same names.
fn profile(type_id: &MdevTypeId, name: Option<&str>) -> Option<ProfileName> {
    let of_nvidia = type_id.as_str().strip_prefix("nvidia-");
    match (of_nvidia.and_then(|number| number.parse::<u32>().ok()), name) {
        (Some(_), Some(name)) => profile_of_type(name),
        _ => type_id.as_str().to_ascii_lowercase().parse().ok(),
    }
}

/// Whether QEMU can take it as a PCI device.
fn offered(fixed: &FixedType) -> bool {
    fixed.device_api == "vfio-pci"
}

fn names(device: &MdevParent) -> impl Iterator<Item = &str> {
    device.types.values().filter_map(|of_type| of_type.fixed.name.as_deref())
}

fn offer(
    seen: &Observation,
    parent: &ParentId,
    type_id: &MdevTypeId,
    of_type: &MdevType,
    sharing: Option<&Sharing<'_>>,
) -> Option<Offer> {
    let fixed = &of_type.fixed;
    if !offered(fixed) {
        return None;
    }
    let shared = sharing.zip(fixed.name.as_deref()).map(|(of, name)| of.of_type(type_id, name));
    let (max, beside) = match shared {
        // Each says of itself how many of it there can be when all are alike.
        Some((max, Beside::OneSize)) if max != Some(0) => {
            (fixed.max_instances, Some(Beside::OneSize))
        }
        Some((max, beside)) => (max.or(fixed.max_instances), Some(beside)),
        None => (fixed.max_instances, None),
    };
    let available = of_type.available;
    let told = || sharing?.memory(type_id, fixed.name.as_deref()?);
    let memory = fixed.memory.or_else(told);
    Some(Offer {
        mechanism: MDEV,
        profile: profile(type_id, fixed.name.as_deref())?,
        parent: parent.clone(),
        form: Form::Mdevs { type_id: type_id.clone(), available, beside },
        description: fixed.name.clone(),
        memory,
        max,
        per_vm: per_vm(seen, parent, type_id),
        isolation: isolation(fixed.name.as_deref()),
        heads: fixed.heads,
        edition: fixed.name.as_deref().and_then(edition_of_type),
        migratable: None,
    })
}

/// That a layout asks for VFs of a parent of mediated devices.
pub(crate) fn ignores_vfs(parent: &ParentId, layout: &Layout) -> Option<String> {
    let asked = layout.vfs != VfCount::Exactly(0);
    asked.then(|| {
        let vfs = layout.vfs;
        format!("vfs = {vfs} of {parent}, which has none: mediated devices are made of it")
    })
}

/// See the module.
#[derive(Debug)]
pub struct Mdev;

impl Mechanism for Mdev {
    fn name(&self) -> &'static str {
        MDEV
    }

    fn applies(&self, seen: &Observation, parent: &ParentId) -> bool {
        seen.mdev_parents.contains_key(parent)
    }

    /// A profile for each type QEMU can take as a PCI device.
    fn offers(&self, seen: &Observation, parent: &ParentId, _: Option<&Layout>) -> Vec<Offer> {
        let Some(device) = seen.mdev_parents.get(parent) else { return Vec::new() };
        let sharing = sharing(seen, parent, names(device));
        let offer = |(id, of_type)| offer(seen, parent, id, of_type, sharing.as_ref());
        device.types.iter().filter_map(offer).collect()
    }

    fn offer_of(
        &self,
        seen: &Observation,
        parent: &ParentId,
        _: Option<&Layout>,
        type_id: &MdevTypeId,
    ) -> Option<Offer> {
        let device = seen.mdev_parents.get(parent)?;
        let sharing = sharing(seen, parent, names(device));
        offer(seen, parent, type_id, device.types.get(type_id)?, sharing.as_ref())
    }

    fn profile_of(
        &self,
        seen: &Observation,
        parent: &ParentId,
        _: Option<&Layout>,
        type_id: &MdevTypeId,
    ) -> Option<ProfileName> {
        let fixed = &seen.mdev_parents.get(parent)?.types.get(type_id)?.fixed;
        offered(fixed).then(|| profile(type_id, fixed.name.as_deref()))?
    }

    /// The device is made anew for each VM; what it had was its driver's to clear when it was removed.
    fn cleaned(&self) -> Cleaned {
        Cleaned::ByRemoval
    }

    fn modes(&self, seen: &Observation, parent: &ParentId) -> &'static [Mode] {
        scheduler::modes(seen, parent)
    }

    /// Its devices are made when somebody asks for them; only an NVIDIA GPU can be told how they take turns.
    fn layout_steps(
        &self,
        seen: &Observation,
        parent: &ParentId,
        layouts: &Layouts,
        reshape: bool,
    ) -> Result<Vec<Step>, Refusal> {
        scheduler::layout_steps(seen, parent, layouts, reshape)
    }

    fn realised(&self, _: &Observation, _: &ParentId, _: &Layout) -> bool {
        true
    }

    fn ignores(&self, _: &Observation, parent: &ParentId, layout: &Layout) -> Option<String> {
        ignores_vfs(parent, layout)
    }

    fn not_ready(&self, type_id: &MdevTypeId) -> Vec<String> {
        if type_id.as_str().starts_with("nvidia-") {
            crate::nvidia::not_ready()
        } else {
            Vec::new()
        }
    }

    /// NVIDIA's alone know a place.
    fn place_parameter(&self) -> Option<&'static str> {
        Some(crate::nvidia::PLACE)
    }

    /// Proxmox VE waits for NVIDIA's as long (`cleanup_pci_devices` of its qemu-server).
    fn removed_by(&self, type_id: &MdevTypeId) -> Option<&'static str> {
        type_id.as_str().starts_with("nvidia-").then_some("nvidia")
    }

    fn prepare_steps(
        &self,
        slice: SliceId,
        assignment: &Assignment,
        _: Option<&Layout>,
    ) -> Vec<Step> {
        match (slice, &assignment.type_id) {
            (SliceId::Mdev(uuid), Some(type_id)) => {
                let (parent, type_id) = (assignment.parent.clone(), type_id.clone());
                let not_ready = self.not_ready(&type_id);
                let create = Step::CreateMdev { parent, type_id, uuid, not_ready };
                std::iter::once(create).chain(parameters(slice, assignment)).collect()
            }
            _ => Vec::new(),
        }
    }

    fn release_steps(&self, slice: SliceId, _: &Assignment, _: Option<&Layout>) -> Vec<Step> {
        match slice {
            SliceId::Mdev(uuid) => vec![Step::RemoveMdev { uuid }],
            _ => Vec::new(),
        }
    }
}
