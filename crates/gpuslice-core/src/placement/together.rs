//! What slices that are ordered leave of their device. All of a start are placed before the first is made, and the
//! kernel counts those that are.

use super::crowded::fit_beside;
use super::lookup::ordered;
use super::{View, typed_on};
use crate::ids::{MdevTypeId, ParentId, PciAddress, SliceId};
use crate::mechanism::{Beside, Form, Offer};
use crate::mode::Mode;
use crate::observation::Places;
use crate::state::{Assignment, Phase};
use std::collections::BTreeMap;

/// How many more mediated devices of an offer there can be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Left {
    pub(super) count: u32,
    /// Others are ordered there of which only the driver knows whether they can be beside it.
    pub(super) perhaps: bool,
}

/// A device on which mediated devices are ordered.
pub(super) struct Ordered<'a> {
    /// What of each type takes, in bytes, as far as that is told.
    sizes: BTreeMap<MdevTypeId, u64>,
    types: Vec<&'a MdevTypeId>,
    /// Bytes that are left, where all sizes are told.
    free: Option<u64>,
}

/// All devices on which some are ordered.
pub(super) fn on_devices<'a>(view: &View<'a>) -> BTreeMap<ParentId, Ordered<'a>> {
    let mut devices: BTreeMap<ParentId, Ordered<'a>> = BTreeMap::new();
    for a in ordered(view) {
        let empty = || Ordered { sizes: BTreeMap::new(), types: Vec::new(), free: None };
        let device = devices.entry(view.seen.device_of(&a.parent)).or_insert_with(empty);
        device.types.extend(a.type_id.as_ref());
    }
    if devices.is_empty() {
        return devices;
    }
    // The most that all of one type have together: of a vendor that tells it that is all of the device.
    let mut whole: BTreeMap<ParentId, Option<u64>> = BTreeMap::new();
    for offer in &view.offers {
        let (Form::Mdevs { type_id, .. }, name) = (&offer.form, view.seen.device_of(&offer.parent))
        else {
            continue;
        };
        let Some(device) = devices.get_mut(&name) else { continue };
        device.sizes.extend(offer.memory.map(|size| (type_id.clone(), size)));
        let of_type = || offer.memory?.checked_mul(u64::from(offer.max?));
        let all = whole.entry(name).or_insert(Some(0));
        *all = all.and_then(|all| Some(all.max(of_type()?)));
    }
    let made = view.seen.mdevs.values().map(|m| (view.seen.device_of(&m.parent), &m.type_id));
    for (name, type_id) in made {
        if let (Some(device), Some(all)) = (devices.get(&name), whole.get_mut(&name)) {
            *all = all.zip(device.sizes.get(type_id)).map(|(all, size)| all.saturating_sub(*size));
        }
    }
    for (name, device) in &mut devices {
        let sizes = device.types.iter().map(|type_id| device.sizes.get(*type_id).copied());
        let taken = sizes.sum::<Option<u64>>();
        let left = whole.get(name).copied().flatten();
        device.free = left.zip(taken).map(|(left, taken)| left.saturating_sub(taken));
    }
    devices
}

/// How many more of an offer of mediated devices there can be, where so many are available.
pub(super) fn left(view: &View<'_>, offer: &Offer, type_id: &MdevTypeId, available: u32) -> Left {
    let none = Left { count: 0, perhaps: false };
    let count = match available.saturating_sub(view.under_way(&offer.parent)) {
        0 => return none,
        left => left.min(view.below_most(offer, type_id)),
    };
    let device = view.seen.device_of(&offer.parent);
    let Some(ordered) = view.lookup.on_devices(view).get(&device) else {
        return Left { count, perhaps: false };
    };
    let apart = matches!(offer.form, Form::Mdevs { beside: Some(Beside::Apart(Some(_))), .. });
    if apart || ordered.types.iter().all(|other| *other == type_id) {
        return Left { count, perhaps: false };
    }
    let sizes = view.seen.mode(&device, Mode::Sizes);
    let mixed = sizes.map(|sizes| sizes.is("mixed"));
    let own = ordered.sizes.get(type_id);
    let differ =
        |other: &&MdevTypeId| own.zip(ordered.sizes.get(*other)).is_some_and(|(a, b)| a != b);
    if mixed == Some(false) && ordered.types.iter().any(differ) {
        return none;
    }
    let by_memory = own.zip(ordered.free).and_then(|(size, free)| free.checked_div(*size));
    let by_memory = by_memory.map_or(u32::MAX, |n| u32::try_from(n).unwrap_or(u32::MAX));
    Left { count: count.min(by_memory), perhaps: mixed != Some(true) }
}

/// Whether a VF can be given its type beside what other VFs of its device are about to be given, or `held` for.
pub(super) fn takes_type(
    view: &View<'_>,
    offer: &Offer,
    address: PciAddress,
    held: &[MdevTypeId],
) -> bool {
    let Form::TypedVfs { vfs, left, beside, .. } = &offer.form else { return true };
    let unseen = |(slice, a): (&SliceId, &'_ Assignment)| {
        let vf = slice.pci().filter(|vf| *vf != address && a.phase == Phase::Reserved)?;
        let choice = view.seen.vfs.get(&vf)?.choice.as_ref()?;
        (a.parent == offer.parent && choice.current.is_none()).then(|| a.type_id.clone())?
    };
    let ordered = view.assignments.iter().filter_map(unseen).chain(held.iter().cloned());
    let ordered: Vec<MdevTypeId> = ordered.collect();
    if ordered.is_empty() {
        return true;
    }
    let of_type = |type_id: &MdevTypeId| typed_on(view, &offer.parent, type_id);
    let alike = |type_id: &&MdevTypeId| of_type(type_id).is_some_and(|o| o.memory == offer.memory);
    let same = ordered.iter().filter(alike).count();
    let room = usize::try_from(*left).is_ok_and(|left| same < left);
    match beside {
        Beside::OneSize => room && same == ordered.len(),
        Beside::Apart(_) => room,
        Beside::Places(own) => {
            let places = |type_id: &MdevTypeId| match &of_type(type_id)?.form {
                Form::TypedVfs { beside: Beside::Places(places), .. } => Some(places.as_ref()),
                _ => None,
            };
            let there = vfs.iter().filter_map(|vf| {
                let choice = view.seen.vfs.get(vf)?.choice.as_ref()?;
                Some((choice.place?, places(choice.current.as_ref()?)?.size))
            });
            let mut all: Vec<&Places> = ordered.iter().filter_map(places).collect();
            all.push(own);
            fit_beside(there.collect(), all)
        }
    }
}
