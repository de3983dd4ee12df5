//! What a GPU on vendor-specific VFIO offers: each type it was ever seen to list, as long as its VFs are there.

use super::facts::per_vm;
use super::names::{Size, edition_of_type, isolation, profile_of_type, size};
use super::pf;
use super::sharing::Sharing;
use gpuslice_core::ids::{MdevTypeId, ParentId, PciAddress};
use gpuslice_core::mechanism::{Beside, Form, Offer};
use gpuslice_core::observation::{Observation, Places};
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
    let names = types.values().map(String::as_str);
    let sharing = Sharing::of(seen, parent, vfs.len(), names);
    let taken: Vec<(u32, u32)> = choices
        .iter()
        .filter_map(|c| Some((c.place?, sharing.places(c.current.as_ref()?)?.size)))
        .collect();
    let vfs: Arc<[PciAddress]> = vfs.into();
    types
        .iter()
        .filter_map(|(type_id, name)| {
            let of = size(name);
            let (max, beside) = sharing.of_type(type_id, name);
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
            let of_size = |(id, count): (&&MdevTypeId, &u32)| alike(id).then_some(*count);
            let rest = match &beside {
                Beside::Places(grid) => {
                    Some(u32::try_from(separate(grid, &taken)).unwrap_or(u32::MAX))
                }
                Beside::Apart(Some(own)) => {
                    let inside = used.iter().filter_map(|(id, count)| {
                        let name = types.get(*id)?;
                        let part = sharing.part(id, name).filter(|part| part.kind == own.kind)?;
                        Some((size(name)?.bytes(), part.each, *count))
                    });
                    Some(own.left(of?.bytes(), inside))
                }
                Beside::Apart(None) | Beside::OneSize => {
                    let used: u32 = used.iter().filter_map(of_size).sum();
                    max.map(|max| max.saturating_sub(used))
                }
            };
            let left = rest.map_or(listing, |rest| rest.min(listing));
            Some(Offer {
                mechanism: "nvidia-vfio",
                profile: profile_of_type(name)?,
                parent: parent.clone(),
                form: Form::TypedVfs {
                    type_id: type_id.clone(),
                    vfs: Arc::clone(&vfs),
                    left,
                    beside,
                },
                description: Some(name.clone()),
                memory: sharing.memory(type_id, name),
                max,
                per_vm: per_vm(seen, parent, type_id),
                isolation: isolation(Some(name)),
                heads: size(name).and_then(Size::heads),
                edition: edition_of_type(name),
                migratable: None,
            })
        })
        .collect()
}

/// How many more fit at once: places of one size may overlap each other.
fn separate(grid: &Places, taken: &[(u32, u32)]) -> usize {
    let mut end = 0;
    let next = |start: &u32| {
        let clear = *start >= end;
        if clear {
            end = start.saturating_add(grid.size);
        }
        clear
    };
    grid.free(taken).filter(next).count()
}
