//! What devices would have room for if nothing stood ready on them, as far as that can be told: a device is not emptied for a
//! start that it could not serve even then, and what it could serve is free.

use super::{Needed, OfClaim};
use crate::ids::{MdevTypeId, MdevUuid, ParentId, ProfileName, SliceId};
use crate::mechanism::{Fabric, Form, Offer};
use crate::mode::Mode;
use crate::placement::View;
use crate::state::Phase;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

/// How many ways of dividing claims among fabrics are tried. More claims that each ask for one than any VM has could be
/// divided in more, and have what is free.
const MOST_TRIES: u32 = 1000;

/// What came of it.
#[derive(Default)]
pub(super) struct Emptied {
    /// Devices that would have room, and how much stands ready in the fabric that would be emptied with them.
    room: BTreeMap<ParentId, usize>,
    /// Devices on which something of another profile stays; not all drivers mix them.
    shared: BTreeSet<ParentId>,
    /// What stands ready of a profile that is needed.
    same: BTreeSet<MdevUuid>,
}

impl Emptied {
    /// Of a device that would have room: the less, the sooner it is emptied, so that a fabric that was begun with is gone on with.
    pub(super) fn room_on(&self, device: &ParentId) -> Option<usize> {
        self.room.get(device).copied()
    }

    pub(super) fn shared(&self, device: &ParentId) -> bool {
        self.shared.contains(device)
    }

    pub(super) fn is_of(&self, parked: MdevUuid) -> bool {
        self.same.contains(&parked)
    }
}

/// What a device offers as mediated devices, and what is on it.
#[derive(Default)]
struct Device<'v> {
    /// NUMA node.
    node: Option<u32>,
    types: BTreeMap<&'v MdevTypeId, &'v Offer>,
    /// Of them those that are given out.
    given: Vec<&'v Offer>,
    there: Vec<&'v MdevTypeId>,
}

impl<'v> Device<'v> {
    /// How many of an offer there could be beside what is there.
    fn takes(&self, offer: &Offer) -> u32 {
        let same = self.there.iter().filter(|of| Some(**of) == offer.form.type_id()).count();
        let same = u32::try_from(same).unwrap_or(u32::MAX);
        let by_count = offer.max.map_or(u32::MAX, |max| max.saturating_sub(same));
        let by_memory = offer.memory.zip(self.memory()).and_then(|(size, all)| {
            let of = |type_id: &&MdevTypeId| self.types.get(*type_id).and_then(|o| o.memory);
            let taken: u64 = self.there.iter().filter_map(of).sum();
            all.saturating_sub(taken).checked_div(size)
        });
        by_memory.map_or(by_count, |n| by_count.min(u32::try_from(n).unwrap_or(u32::MAX)))
    }

    /// The most that all instances of one type have together: of a vendor that tells it that is all of the device.
    fn memory(&self) -> Option<u64> {
        let all = self.types.values().map(|o| o.memory?.checked_mul(u64::from(o.max?)));
        all.collect::<Option<Vec<u64>>>()?.into_iter().max()
    }

    fn offer(&self, profile: &ProfileName) -> Option<&'v Offer> {
        self.given.iter().copied().find(|offer| offer.profile == *profile)
    }

    fn takes_of(&self, profile: &ProfileName) -> u32 {
        self.offer(profile).map_or(0, |offer| self.takes(offer))
    }

    /// Puts as many there as there is room for; answers how many.
    fn put(&mut self, profile: &ProfileName, most: u32) -> u32 {
        let count = self.takes_of(profile).min(most);
        let type_id = self.offer(profile).and_then(|offer| offer.form.type_id());
        self.there.extend((0..count).filter_map(|_| type_id));
        count
    }
}

type Devices<'v> = BTreeMap<ParentId, Device<'v>>;

/// Devices without what is `idle`.
fn without<'v>(view: &'v View<'_>, idle: &BTreeSet<MdevUuid>) -> Devices<'v> {
    let mut devices = Devices::new();
    for offer in &view.offers {
        if let Form::Mdevs { type_id, .. } = &offer.form {
            let device = devices.entry(view.seen.device_of(&offer.parent)).or_default();
            device.node = view.seen.numa_node(&offer.parent);
            // Of VFs that offer the same, one that is given out.
            let given = view.parent_reason(&offer.parent).is_none();
            if given || !device.types.contains_key(type_id) {
                device.types.insert(type_id, offer);
            }
            if given && device.offer(&offer.profile).is_none() {
                device.given.push(offer);
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
            device.there.push(type_id);
        }
    }
    devices
}

/// Whether all claims have room together, each in one fabric if it asks for that.
fn fit(devices: &mut Devices<'_>, claims: &[&OfClaim], tries: &mut u32) -> bool {
    let Some((claim, others)) = claims.split_first() else { return true };
    let anywhere = claim.fabrics.is_empty().then_some(None);
    anywhere.into_iter().chain(claim.fabrics.iter().map(Some)).any(|fabric: Option<&Fabric>| {
        *tries += 1;
        if *tries > MOST_TRIES {
            return false;
        }
        let before: Vec<usize> = devices.values().map(|device| device.there.len()).collect();
        let mut left = claim.count;
        let inside = |name: &ParentId| fabric.is_none_or(|f| f.parents.contains(name));
        let near = |device: &Device<'_>| claim.within.has(device.node);
        for (_, device) in devices.iter_mut().filter(|(name, d)| inside(name) && near(d)) {
            left -= device.put(&claim.profile, left);
        }
        if left == 0 && fit(devices, others, tries) {
            return true;
        }
        for (device, count) in devices.values_mut().zip(before) {
            device.there.truncate(count);
        }
        false
    })
}

/// Looks at what would be if `idle` were taken away.
pub(super) fn emptied(view: &View<'_>, idle: &BTreeSet<MdevUuid>, needed: &Needed) -> Emptied {
    let mut devices = without(view, idle);
    let mut emptied = Emptied::default();
    let device_of = |uuid: &MdevUuid| Some(view.seen.device_of(&view.seen.mdevs.get(uuid)?.parent));
    let idle_on: Vec<ParentId> = idle.iter().filter_map(device_of).collect();
    for claim in needed.0.iter().filter(|claim| claim.count > 0) {
        let near = |name: &ParentId| devices.get(name).filter(|d| claim.within.has(d.node));
        let takes = |name: &ParentId| near(name).map_or(0, |d| d.takes_of(&claim.profile));
        let roomy = devices.keys().filter(|name| takes(name) > 0);
        if claim.fabrics.is_empty() {
            emptied.room.extend(roomy.map(|name| (name.clone(), 0)));
            continue;
        }
        let roomy: BTreeSet<&ParentId> = roomy.collect();
        for fabric in &claim.fabrics {
            let all = fabric.parents.iter().map(takes).fold(0_u32, u32::saturating_add);
            if all >= claim.count {
                let ready = idle_on.iter().filter(|on| fabric.parents.contains(on)).count();
                let inside = fabric.parents.iter().filter(|name| roomy.contains(name));
                for name in inside {
                    emptied.room.entry(name.clone()).or_insert(ready);
                }
            }
        }
    }
    for (name, device) in &devices {
        let other = |of: &&MdevTypeId| device.types.get(of).is_none_or(|o| !needed.has(o));
        if device.there.iter().any(other) {
            emptied.shared.insert(name.clone());
        }
    }
    let of_needed = |uuid: &&MdevUuid| {
        let offer = view.seen.mdevs.get(uuid).and_then(|mdev| {
            devices.get(&view.seen.device_of(&mdev.parent))?.types.get(&mdev.type_id).copied()
        });
        offer.is_some_and(|offer| needed.has(offer))
    };
    emptied.same = idle.iter().filter(of_needed).copied().collect();
    // Who can have fewer places comes first, and the large before the small.
    let mut claims: Vec<&OfClaim> = needed.0.iter().collect();
    let size = |claim: &OfClaim| {
        devices.values().filter_map(|device| device.offer(&claim.profile)?.memory).max()
    };
    claims.sort_by_cached_key(|claim| (claim.fabrics.is_empty(), Reverse(size(claim))));
    if fit(&mut devices, &claims, &mut 0) { emptied } else { Emptied::default() }
}

/// What of a device decides how much is free, beside what stays on it.
#[derive(Default)]
struct Now<'v> {
    goes: Vec<&'v MdevTypeId>,
    /// How many more of each type there can be as it is.
    left: BTreeMap<&'v MdevTypeId, u32>,
    /// Where its VFs make one each: those on which none stays.
    bare: Option<BTreeSet<&'v ParentId>>,
    /// It is set to have different sizes side by side.
    mixed: bool,
}

impl<'v> Now<'v> {
    /// How many more of an offer starts could have, what goes giving way to them. As it is `most` may be added.
    fn free(&self, device: &Device<'v>, type_id: &'v MdevTypeId, offer: &Offer, most: u32) -> u32 {
        let left = self.left.get(type_id).copied().unwrap_or_default().min(most);
        // One of the same type makes room for one, whatever else a driver counts.
        let same = self.goes.iter().filter(|of| **of == type_id).count();
        let free = left.saturating_add(u32::try_from(same).unwrap_or(u32::MAX));
        let alike = device.there.iter().all(|of| *of == type_id);
        let told = alike && offer.max.is_some() || self.mixes(device) && device.memory().is_some();
        if self.goes.is_empty() || !told {
            return free;
        }
        let one_each = self.bare.as_ref().map(|bare| u32::try_from(bare.len()).unwrap_or(u32::MAX));
        free.max(device.takes(offer).min(one_each.unwrap_or(u32::MAX)))
    }

    /// Whether different sizes can be side by side: it is set to that, they are, or the driver would make one.
    fn mixes(&self, device: &Device<'v>) -> bool {
        let there: BTreeSet<&MdevTypeId> = device.there.iter().chain(&self.goes).copied().collect();
        let beside = |(of, left): (&&MdevTypeId, &u32)| *left > 0 && !there.contains(*of);
        self.mixed || there.len() > 1 || !there.is_empty() && self.left.iter().any(beside)
    }
}

/// How many more of each profile starts could have as mediated devices of some GPUs, if `idle` gives way to them.
pub(in crate::machine) fn free<'v>(
    view: &'v View<'_>,
    idle: &BTreeSet<MdevUuid>,
    only: &dyn Fn(&ParentId) -> bool,
) -> BTreeMap<&'v ProfileName, u32> {
    let mut all: BTreeMap<ParentId, Now<'_>> = BTreeMap::new();
    for offer in &view.offers {
        let Form::Mdevs { type_id, available, .. } = &offer.form else { continue };
        if view.parent_reason(&offer.parent).is_some() {
            continue;
        }
        let name = view.seen.device_of(&offer.parent);
        let is_vf = name != offer.parent;
        let mixed = view.seen.mode(&name, Mode::Sizes).is_some_and(|sizes| sizes.is("mixed"));
        let now = all.entry(name).or_default();
        now.mixed = mixed;
        let left = now.left.entry(type_id).or_default();
        *left = left.saturating_add(available.saturating_sub(view.under_way(&offer.parent)));
        if is_vf {
            now.bare.get_or_insert_default().insert(&offer.parent);
        }
    }
    let mdevs = view.seen.mdevs.iter();
    let mdevs = mdevs.map(|(uuid, mdev)| (idle.contains(uuid), &mdev.parent, &mdev.type_id));
    let ordered = view
        .assignments
        .iter()
        .filter(|(slice, a)| a.phase == Phase::Reserved && !view.seen.has_slice(**slice));
    let ordered = ordered.filter_map(|(_, a)| Some((false, &a.parent, a.type_id.as_ref()?)));
    for (goes, parent, type_id) in mdevs.chain(ordered) {
        let Some(now) = all.get_mut(&view.seen.device_of(parent)) else { continue };
        if goes {
            now.goes.push(type_id);
        } else if let Some(bare) = &mut now.bare {
            bare.remove(parent);
        }
    }
    let mut free: BTreeMap<&ProfileName, u32> = BTreeMap::new();
    let devices = without(view, idle);
    for (name, now) in all.iter().filter(|(name, _)| only(name)) {
        let Some(device) = devices.get(name) else { continue };
        for (type_id, offer) in &device.types {
            let more = now.free(device, type_id, offer, view.below_most(offer, type_id));
            let sum = free.entry(&offer.profile).or_default();
            *sum = sum.saturating_add(more);
        }
    }
    free
}
