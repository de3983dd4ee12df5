//! What a GPU on vendor-specific VFIO offers: each type it was ever seen to list, as long as its VFs are there.

use super::facts::per_vm;
use super::modes::{MIXED, OFF};
use super::names::{Size, edition_of_type, instance, isolation, profile_of_type, size};
use super::pf;
use gpuslice_core::ids::{MdevTypeId, ParentId, PciAddress};
use gpuslice_core::mechanism::{Beside, Form, Offer};
use gpuslice_core::mode::Mode;
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
    let divided = seen.mode(parent, Mode::Instances);
    let instances = divided.into_iter().flat_map(|list| list.parts());
    let instances: Vec<_> = instances.filter_map(instance).collect();
    let facts = function.kind.and_then(|kind| seen.facts.get(&kind));
    let places = |type_id: &MdevTypeId| facts?.get(type_id)?.places.as_ref();
    let memory = |type_id: &MdevTypeId| facts?.get(type_id)?.memory;
    let mixed = seen.mode(parent, Mode::Sizes).is_some_and(|sizes| sizes.is(MIXED));
    let taken: Vec<(u32, u32)> = choices
        .iter()
        .filter_map(|c| Some((c.place?, places(c.current.as_ref()?)?.size)))
        .collect();
    let whole = types.values().filter_map(|name| time_slice(name)).map(|s| s.gb).max();
    let vfs: Arc<[PciAddress]> = vfs.into();
    types
        .iter()
        .filter_map(|(type_id, name)| {
            let of = size(name);
            let max = match of.and_then(|of| Some((of, of.mig?))) {
                // Where there is no instance of its kind it cannot be; where none are told, nobody knows.
                Some((of, slices)) => in_instances(of, slices, &instances).or(divided.map(|_| 0)),
                None if divided.is_some_and(|now| !now.is(OFF)) => Some(0),
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
            let other_sizes = |(id, count): (&&MdevTypeId, &u32)| {
                let other = types.get(*id).and_then(|name| size(name))?;
                let kin = of.is_some_and(|of| {
                    of.mig.is_some() && (of.mig, of.beside) == (other.mig, other.beside)
                });
                (kin && of.is_some_and(|of| of.gb != other.gb)).then_some((other.gb, *count))
            };
            let mut others: BTreeMap<u32, u32> = BTreeMap::new();
            for (gb, count) in used.iter().filter_map(other_sizes) {
                *others.entry(gb).or_default() += count;
            }
            let held = of.map_or(0, |of| held_by_others(of, &others, &instances));
            let used: u32 = used.iter().filter(|(id, _)| alike(id)).map(|(_, count)| count).sum();
            let rest = max.map(|max| max.saturating_sub(used).saturating_sub(held));
            let grid = places(type_id).filter(|_| mixed && of.is_some_and(|of| of.mig.is_none()));
            let (max, rest) = match grid {
                Some(grid) => {
                    let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
                    let most = count(grid.starts.len().min(vfs.len()));
                    (Some(most), Some(count(separate(grid, &taken))))
                }
                None => (max, rest),
            };
            let beside = match (grid, of.and_then(|of| of.mig)) {
                (Some(grid), _) => Beside::Places(Arc::clone(grid)),
                (None, Some(_)) => Beside::Apart,
                (None, None) => Beside::OneSize,
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
                memory: memory(type_id).or(of.map(Size::bytes)),
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

fn time_slice(name: &str) -> Option<Size> {
    size(name).filter(|size| size.mig.is_none())
}

/// Most of a type in the GPU instances there are: those of its kind, and of several sizes the smallest that has room
/// for it.
fn in_instances(of: Size, slices: u32, instances: &[(u32, u32, &str)]) -> Option<u32> {
    let (count, gb) = instances_of(of, slices, instances)?;
    Some(count * (gb / of.gb))
}

/// How many instances a type can be in, and how large they are, in gigabytes.
fn instances_of(of: Size, slices: u32, instances: &[(u32, u32, &str)]) -> Option<(u32, u32)> {
    let kin = instances.iter().filter(|(s, gb, beside)| {
        *s == slices && *beside == of.beside && *gb >= of.gb && of.gb > 0
    });
    let gb = kin.clone().map(|(_, gb, _)| *gb).min()?;
    let count = u32::try_from(kin.filter(|(_, other, _)| *other == gb).count()).ok()?;
    Some((count, gb))
}

/// For how many of a type there is no room because its instances hold others: each is of one size at a time. `others` are
/// those of its kind of instance, by size.
fn held_by_others(of: Size, others: &BTreeMap<u32, u32>, instances: &[(u32, u32, &str)]) -> u32 {
    let Some((_, room)) = of.mig.and_then(|slices| instances_of(of, slices, instances)) else {
        return 0;
    };
    let held = others.iter().filter_map(|(gb, count)| {
        let (_, of_other) = instances_of(Size { gb: *gb, ..of }, of.mig?, instances)?;
        // Those of another size are in instances of their own.
        (of_other == room).then(|| count.div_ceil(of_other / gb))
    });
    held.sum::<u32>().saturating_mul(room / of.gb)
}

/// Most of one type on an otherwise empty GPU. sysfs does not tell; the largest type takes the whole GPU, and none
/// can be more than there are VFs.
fn max(of: Option<Size>, whole: Option<u32>, vfs: usize) -> Option<u32> {
    let vfs = u32::try_from(vfs).unwrap_or(u32::MAX);
    let fits = u64::from(whole?) * (1 << 30) / of?.bytes();
    Some(u32::try_from(fits).unwrap_or(u32::MAX).min(vfs))
}
