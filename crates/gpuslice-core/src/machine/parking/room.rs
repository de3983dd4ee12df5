//! What devices would have room for if nothing stood ready on them, as far as that can be told: a device is not emptied for a
//! start that it could not serve even then.

use super::{Needed, of_mdevs};
use crate::ids::{MdevTypeId, MdevUuid, ParentId, ProfileName, SliceId};
use crate::mechanism::{Form, Offer};
use crate::placement::View;
use crate::state::Phase;
use std::collections::{BTreeMap, BTreeSet};

/// What came of it.
#[derive(Default)]
pub(super) struct Emptied {
    /// Devices that would have room.
    room: BTreeSet<ParentId>,
    /// Devices on which something of another profile stays; not all drivers mix them.
    shared: BTreeSet<ParentId>,
    /// What stands ready of a profile that is needed.
    same: BTreeSet<MdevUuid>,
}

impl Emptied {
    pub(super) fn has_room(&self, device: &ParentId) -> bool {
        self.room.contains(device)
    }

    pub(super) fn shared(&self, device: &ParentId) -> bool {
        self.shared.contains(device)
    }

    pub(super) fn is_of(&self, parked: MdevUuid) -> bool {
        self.same.contains(&parked)
    }
}

/// What a device offers as mediated devices, and what stays on it.
#[derive(Default)]
struct Device<'v> {
    types: BTreeMap<&'v MdevTypeId, &'v Offer>,
    stays: Vec<&'v MdevTypeId>,
}

impl Device<'_> {
    /// How many of an offer there could be beside what stays.
    fn takes(&self, offer: &Offer) -> u32 {
        let same = self.stays.iter().filter(|of| Some(**of) == offer.form.type_id()).count();
        let same = u32::try_from(same).unwrap_or(u32::MAX);
        let by_count = offer.max.map_or(u32::MAX, |max| max.saturating_sub(same));
        let by_memory = offer.memory.zip(self.memory()).and_then(|(size, all)| {
            let of = |type_id: &&MdevTypeId| self.types.get(*type_id).and_then(|o| o.memory);
            let taken: u64 = self.stays.iter().filter_map(of).sum();
            all.saturating_sub(taken).checked_div(size)
        });
        by_memory.map_or(by_count, |n| by_count.min(u32::try_from(n).unwrap_or(u32::MAX)))
    }

    /// The most that all instances of one type have together: of a vendor that tells it that is all of the device.
    fn memory(&self) -> Option<u64> {
        let all = self.types.values().map(|o| o.memory?.checked_mul(u64::from(o.max?)));
        all.collect::<Option<Vec<u64>>>()?.into_iter().max()
    }
}

/// Looks at what would be if `idle` were taken away.
pub(super) fn emptied(view: &View<'_>, idle: &BTreeSet<MdevUuid>, needed: &Needed) -> Emptied {
    let mut devices: BTreeMap<ParentId, Device<'_>> = BTreeMap::new();
    for offer in &view.offers {
        if let Form::Mdevs { type_id, .. } = &offer.form {
            let device = devices.entry(view.seen.device_of(&offer.parent)).or_default();
            // Of VFs that offer the same, one that is given out.
            if view.parent_reason(&offer.parent).is_none() || !device.types.contains_key(type_id) {
                device.types.insert(type_id, offer);
            }
        }
    }
    let there = view.seen.mdevs.iter().filter(|(uuid, _)| !idle.contains(uuid));
    let there = there.map(|(_, mdev)| (&mdev.parent, &mdev.type_id));
    let ordered = view.assignments.iter().filter_map(|(slice, a)| {
        let ordered = a.phase == Phase::Reserved && !view.seen.has_slice(*slice);
        let type_id =
            a.type_id.as_ref().filter(|_| ordered && matches!(slice, SliceId::Mdev(_)))?;
        Some((&a.parent, type_id))
    });
    for (parent, type_id) in there.chain(ordered) {
        if let Some(device) = devices.get_mut(&view.seen.device_of(parent)) {
            device.stays.push(type_id);
        }
    }
    let mut emptied = Emptied::default();
    let mut all: BTreeMap<&ProfileName, u32> = BTreeMap::new();
    for (name, device) in &devices {
        let of_needed =
            |o: &&&Offer| of_mdevs(o, needed) && view.parent_reason(&o.parent).is_none();
        for offer in device.types.values().filter(of_needed) {
            let takes = device.takes(offer);
            let all = all.entry(&offer.profile).or_default();
            *all = all.saturating_add(takes);
            if takes > 0 && needed.get(&offer.profile).is_some_and(|count| *count > 0) {
                emptied.room.insert(name.clone());
            }
        }
        let other = |of: &&MdevTypeId| device.types.get(of).is_none_or(|o| !of_mdevs(o, needed));
        if device.stays.iter().any(other) {
            emptied.shared.insert(name.clone());
        }
    }
    if needed.iter().any(|(profile, count)| all.get(profile).copied().unwrap_or_default() < *count)
    {
        return Emptied::default();
    }
    let same = idle.iter().filter(|uuid| {
        let mdev = view.seen.mdevs.get(uuid);
        mdev.is_some_and(|mdev| {
            let device = devices.get(&view.seen.device_of(&mdev.parent));
            device.and_then(|d| d.types.get(&mdev.type_id)).is_some_and(|o| of_mdevs(o, needed))
        })
    });
    emptied.same = same.copied().collect();
    emptied
}
