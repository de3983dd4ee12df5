//! Capacity that is held for VMs that are off: nobody else is given what would leave their claims without room. Those who
//! reserve themselves have as good a right as any other.

use super::{Lookup, View, Wanted, together};
use crate::ids::{
    ClaimKey, MdevTypeId, MdevUuid, Owner, ParentId, PciAddress, ProfileName, SliceId,
};
use crate::mechanism::{Form, MDEV, Offer};
use crate::mend;
use crate::refusal::Hint;
use crate::state::{Assignment, Claim, Phase};
use std::collections::{BTreeMap, BTreeSet};
use uuid::Uuid;

/// Claims that reserve slices and lack some, beside that of `key`; none where that reserves, too.
fn idle<'v, 'a>(
    view: &'v View<'a>,
    key: Option<&'v ClaimKey>,
) -> impl Iterator<Item = (&'a ClaimKey, &'a Claim, u32)> + 'v {
    let reserves = key.and_then(|key| view.claims.get(key)).is_some_and(|claim| claim.reserve);
    let others = view.claims.iter().filter(move |(other, claim)| {
        !reserves && claim.reserve && !claim.orphaned && Some(*other) != key
    });
    others.filter_map(|(other, claim)| {
        let bound = view.lookup.bound(view).get(other).copied().unwrap_or_default();
        let lacks = claim.request.count.saturating_sub(bound);
        (lacks > 0).then_some((other, claim, lacks))
    })
}

impl View<'_> {
    /// Slices of a profile that are held for claims that do not run.
    pub(crate) fn reserved_elsewhere(&self, wanted: &Wanted<'_>) -> u32 {
        let of_profile = idle(self, wanted.key).filter(|(_, c, _)| c.profile == *wanted.profile);
        of_profile.map(|(.., lacks)| lacks).sum()
    }

    /// The same host, were this assigned.
    fn supposing<'b>(
        &'b self,
        offers: Vec<Offer>,
        assignments: &'b BTreeMap<SliceId, Assignment>,
    ) -> View<'b> {
        View {
            seen: self.seen,
            offers,
            wedged: self.wedged,
            assignments,
            foreign: self.foreign,
            held: self.held,
            claims: self.claims,
            cordons: self.cordons,
            quarantines: self.quarantines,
            reshaping: self.reshaping.clone(),
            held_back: BTreeMap::new(),
            strategy: self.strategy,
            lookup: Lookup::default(),
        }
    }
}

/// What is held of mediated devices of other profiles than the one that is asked for.
pub(super) struct Held<'v, 'a> {
    view: &'v View<'a>,
    wanted: &'v ProfileName,
    lacking: Vec<(&'a ProfileName, u32)>,
    /// Devices that offer any of it.
    devices: BTreeSet<ParentId>,
    /// How many of them would find room as it is.
    now: usize,
}

impl<'v, 'a> Held<'v, 'a> {
    /// `None` where nothing is.
    pub(super) fn beside(view: &'v View<'a>, wanted: &Wanted<'v>) -> Option<Self> {
        let others = idle(view, wanted.key).filter(|(_, c, _)| c.profile != *wanted.profile);
        let made = others.filter(|(_, claim, _)| claim.home.is_empty());
        let lacking: Vec<_> = made.map(|(_, claim, lacks)| (&claim.profile, lacks)).collect();
        let of_them = lacking.iter().flat_map(|(profile, _)| view.of_profile(profile));
        let devices = view.devices_of(of_them.filter(|offer| offer.form.is_mdevs()));
        let mut held = Self { view, wanted: wanted.profile, lacking, devices, now: 0 };
        if held.devices.is_empty() {
            return None;
        }
        held.now = held.with_room(view.assignments.clone());
        Some(held)
    }

    /// Whether as many find room when a parent makes one more of a type.
    pub(super) fn leaves_room(&self, parent: &ParentId, type_id: &MdevTypeId) -> bool {
        if !self.devices.contains(&self.view.seen.device_of(parent)) {
            return true;
        }
        let mut assignments = self.view.assignments.clone();
        order(&mut assignments, self.wanted, parent, type_id);
        self.with_room(assignments) >= self.now
    }

    /// How many of what is lacking can be made beside what is assigned: the largest first, each where the fewest are left.
    fn with_room(&self, mut assignments: BTreeMap<SliceId, Assignment>) -> usize {
        let mut offers = self.view.offers.clone();
        let size = |profile: &ProfileName| {
            self.view.of_profile(profile).next().and_then(|offer| offer.memory)
        };
        let each = self.lacking.iter();
        let mut all: Vec<&ProfileName> =
            each.flat_map(|(profile, lacks)| (0..*lacks).map(|_| *profile)).collect();
        all.sort_by_key(|profile| std::cmp::Reverse(size(profile)));
        let mut found = 0;
        for profile in all {
            let view = self.view.supposing(offers, &assignments);
            let place = least_left(&view, profile);
            offers = view.offers;
            if let Some((parent, type_id)) = place {
                order(&mut assignments, profile, &parent, &type_id);
                found += 1;
            }
        }
        found
    }
}

fn least_left(view: &View<'_>, profile: &ProfileName) -> Option<(ParentId, MdevTypeId)> {
    let left = view.of_profile(profile).filter_map(|offer| {
        let Form::Mdevs { type_id, available, .. } = &offer.form else { return None };
        let left = together::left(view, offer, type_id, *available);
        (left.count > 0).then_some((left.perhaps, left.count, &offer.parent, type_id))
    });
    left.min().map(|(.., parent, type_id)| (parent.clone(), type_id.clone()))
}

/// Supposes that a parent was told to make one more.
fn order(
    assignments: &mut BTreeMap<SliceId, Assignment>,
    profile: &ProfileName,
    parent: &ParentId,
    type_id: &MdevTypeId,
) {
    let nobody = Owner::Domain(Uuid::nil());
    let Ok(name) = "supposed".parse() else { return };
    let claim = ClaimKey { owner: nobody, name };
    let index = u32::try_from(assignments.len()).unwrap_or(u32::MAX);
    let slice = SliceId::Mdev(MdevUuid::for_claim(Uuid::nil(), &claim.name, index));
    let assignment = Assignment {
        claim,
        index,
        parent: parent.clone(),
        profile: profile.clone(),
        mechanism: MDEV.to_owned(),
        type_id: Some(type_id.clone()),
        parameters: None,
        managed: false,
        hotplug: false,
        phase: Phase::Reserved,
        trouble: None,
        ending: None,
    };
    assignments.insert(slice, assignment);
}

/// What ends the claims without which a VF could be given its type, where VFs of its device are held for others: none where
/// there is room beside those.
pub(super) fn in_the_way(
    view: &View<'_>,
    offer: &Offer,
    address: PciAddress,
    key: &ClaimKey,
) -> Option<Hint> {
    let vfs = offer.form.vfs();
    let type_of = |profile: &ProfileName| {
        let mut offers = view.of_profile(profile);
        offers.find(|other| other.parent == offer.parent)?.form.type_id().cloned()
    };
    let waits = |home: &&PciAddress| {
        vfs.contains(home) && !view.assignments.contains_key(&SliceId::Vf(**home))
    };
    let mut held: Vec<(Hint, MdevTypeId)> = Vec::new();
    for (other, claim, _) in idle(view, Some(key)) {
        let Some(type_id) = type_of(&claim.profile) else { continue };
        let end = mend::end_claim(other, &claim.owner_name);
        let homes = claim.home.iter().filter(waits);
        held.extend(homes.map(|_| (end.clone(), type_id.clone())));
    }
    let mut ends = Vec::new();
    loop {
        let types: Vec<MdevTypeId> = held.iter().map(|(_, type_id)| type_id.clone()).collect();
        if types.is_empty() || together::takes_type(view, offer, address, &types) {
            return Hint::in_turn(ends);
        }
        let (end, _) = held.remove(0);
        held.retain(|(other, _)| *other != end);
        ends.push(end);
    }
}
