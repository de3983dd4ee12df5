//! What a GPU on vendor-specific VFIO offers: each type it was ever seen to list, as long as its VFs are there.

use super::names::{Size, edition_of_type, instance, isolation, profile_of_type, size};
use super::pf;
use gpuslice_core::ids::{MdevTypeId, ParentId, PciAddress};
use gpuslice_core::mechanism::{Form, Offer};
use gpuslice_core::mode::Mode;
use gpuslice_core::observation::Observation;
use std::collections::BTreeMap;
use std::sync::Arc;

pub(super) fn offers(seen: &Observation, parent: &ParentId) -> Vec<Offer> {
    let Some((function, sriov)) = pf(seen, parent) else { return Vec::new() };
    let (vfs, choices): (Vec<PciAddress>, Vec<_>) =
        sriov.vfs.values().filter_map(|vf| Some((*vf, seen.vfs.get(vf)?.choice.as_ref()?))).unzip();
    let Some(types) = function.kind.and_then(|kind| seen.catalogue.get(&kind)) else {
        return Vec::new();
    };
    if vfs.is_empty() {
        return Vec::new();
    }
    let mut used: BTreeMap<&MdevTypeId, u32> = BTreeMap::new();
    for current in choices.iter().filter_map(|c| c.current.as_ref()) {
        *used.entry(current).or_default() += 1;
    }
    let instances = seen.mode(parent, Mode::Instances).into_iter().flat_map(|list| list.parts());
    let instances: Vec<_> = instances.filter_map(instance).collect();
    let whole = types.values().filter_map(|name| time_slice(name)).map(|s| s.gb).max();
    let vfs: Arc<[PciAddress]> = vfs.into();
    types
        .iter()
        .filter_map(|(type_id, name)| {
            let of = size(name);
            let max = match of.and_then(|of| Some((of, of.mig?))) {
                Some((of, slices)) => in_instances(of, slices, &instances),
                None => max(of, whole, vfs.len()),
            };
            // Each free VF lists a type that fits once more, so many of them say nothing of how many fit.
            let listing =
                choices.iter().filter(|c| !c.broken && c.creatable.contains(type_id)).count();
            let listing = u32::try_from(listing).unwrap_or(u32::MAX);
            // Types of one size and different series are in each other's place.
            let alike = |other: &MdevTypeId| {
                let other = types.get(other).and_then(|name| size(name));
                other
                    .zip(of)
                    .is_some_and(|(a, b)| (a.gb, a.mig, a.beside) == (b.gb, b.mig, b.beside))
            };
            let used = used.iter().filter(|(id, _)| alike(id)).map(|(_, count)| count).sum();
            let rest = max.map(|max| max.saturating_sub(used));
            let left = rest.map_or(listing, |rest| rest.min(listing));
            Some(Offer {
                mechanism: "nvidia-vfio",
                profile: profile_of_type(name)?,
                parent: parent.clone(),
                form: Form::TypedVfs { type_id: type_id.clone(), vfs: Arc::clone(&vfs), left },
                description: Some(name.clone()),
                memory: size(name).map(Size::bytes),
                max,
                isolation: isolation(Some(name)),
                heads: size(name).and_then(Size::heads),
                edition: edition_of_type(name),
            })
        })
        .collect()
}

fn time_slice(name: &str) -> Option<Size> {
    size(name).filter(|size| size.mig.is_none())
}

/// Most of a type in the GPU instances there are: those of its kind, and of several sizes the smallest that has room
/// for it.
fn in_instances(of: Size, slices: u32, instances: &[(u32, u32, &str)]) -> Option<u32> {
    let kin = instances.iter().filter(|(s, gb, beside)| {
        *s == slices && *beside == of.beside && *gb >= of.gb && of.gb > 0
    });
    let gb = kin.clone().map(|(_, gb, _)| *gb).min()?;
    let count = u32::try_from(kin.filter(|(_, other, _)| *other == gb).count()).ok()?;
    Some(count * (gb / of.gb))
}

/// Most of one type on an otherwise empty GPU. sysfs does not tell; the largest type takes the whole GPU, and none
/// can be more than there are VFs.
fn max(of: Option<Size>, whole: Option<u32>, vfs: usize) -> Option<u32> {
    let vfs = u32::try_from(vfs).unwrap_or(u32::MAX);
    let fits = u64::from(whole?) * (1 << 30) / of?.bytes();
    Some(u32::try_from(fits).unwrap_or(u32::MAX).min(vfs))
}
