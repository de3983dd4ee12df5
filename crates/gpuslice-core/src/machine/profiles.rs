//! Which profiles and types there are, and how many of each are free.

use super::answers::count;
use super::{Machine, parking};
use crate::ids::{MdevTypeId, ParentId, PciAddress, ProfileName, SliceId};
use crate::mechanism::{Form, Offer};
use crate::observation::Vf;
use crate::placement::View;
use crate::request::{Answer, ProfileRow, TypeRow};
use std::collections::{BTreeMap, BTreeSet};

/// What is parked, by what made it and its type.
type Parked<'a> = BTreeMap<(&'a ParentId, &'a MdevTypeId), Vec<SliceId>>;

/// What decides how much of an offer is free, looked up once for all offers.
pub(super) struct Spare<'a> {
    view: View<'a>,
    parked: Parked<'a>,
}

impl Spare<'_> {
    /// What is parked of an offer.
    fn parked_as<'o>(&'o self, offer: &'o Offer) -> &'o [SliceId] {
        let parked = offer.form.type_id().and_then(|of| self.parked.get(&(&offer.parent, of)));
        parked.map_or(&[], Vec::as_slice)
    }
}

impl Machine {
    pub(super) fn list_profiles(&self) -> Answer {
        Answer::Profiles { rows: self.profile_rows() }
    }

    pub(super) fn profile_rows(&self) -> Vec<ProfileRow> {
        let mut used: BTreeMap<&ProfileName, u32> = BTreeMap::new();
        for assignment in self.run.assignments.values() {
            *used.entry(&assignment.profile).or_default() += 1;
        }
        let mut rows: BTreeMap<ProfileName, ProfileRow> = BTreeMap::new();
        let spare = self.spare();
        let mut mdevs = self.free_mdevs(&spare, &|_| true);
        let mut counted = BTreeSet::new();
        let living = self.durable.claims.values().filter(|claim| !claim.orphaned);
        let homes: BTreeSet<PciAddress> = living.flat_map(|claim| claim.home.clone()).collect();
        for offer in &spare.view.offers {
            // VFs that make one mediated device each share what their GPU can have.
            let vf = self.seen.pf_of(&offer.parent).filter(|_| offer.form.vfs().is_empty());
            let anew = vf.clone().is_none_or(|device| counted.insert((device, &offer.profile)));
            let free = self.free_of(offer, &spare);
            let row = rows.entry(offer.profile.clone()).or_insert_with(|| ProfileRow {
                profile: offer.profile.clone(),
                mechanism: offer.mechanism.to_owned(),
                type_id: offer.form.type_id().cloned(),
                description: offer.description.clone(),
                memory: offer.memory,
                share: offer.max.filter(|max| *max > 0).map(|max| format!("1/{max}")),
                isolation: offer.isolation.as_str().to_owned(),
                heads: offer.heads,
                edition: offer.edition.clone(),
                migratable: offer.migratable,
                max: Some(0),
                free: mdevs.remove(&offer.profile).unwrap_or_default(),
                used: used.get(&offer.profile).copied().unwrap_or_default(),
                parents: Vec::new(),
                gpus: Vec::new(),
                pick: Vec::new(),
            });
            row.pick.extend(self.to_pick(offer, &spare, &homes));
            row.free = row.free.saturating_add(free);
            if anew {
                row.max = row.max.zip(offer.max).map(|(a, b)| a.saturating_add(b));
                row.gpus.push(vf.unwrap_or_else(|| offer.parent.clone()));
            }
            row.parents.push(offer.parent.clone());
        }
        rows.into_values().collect()
    }

    fn spare(&self) -> Spare<'_> {
        self.spare_in(self.view())
    }

    /// The same as somebody else sees it.
    pub(super) fn spare_in<'a>(&'a self, view: View<'a>) -> Spare<'a> {
        let mut parked: Parked<'_> = BTreeMap::new();
        for uuid in self.parked() {
            let slice = SliceId::Mdev(uuid);
            // One that a process has, say a VM that it was plugged into by hand, makes no room.
            let there = self.seen.mdevs.get(&uuid).filter(|_| !self.held.contains_key(&slice));
            let Some(mdev) = there else { continue };
            parked.entry((&mdev.parent, &mdev.type_id)).or_default().push(slice);
        }
        Spare { view, parked }
    }

    /// How many more of each profile starts could have as mediated devices of some GPUs: what is parked makes room for them.
    pub(super) fn free_mdevs<'s>(
        &self,
        spare: &'s Spare<'_>,
        only: &dyn Fn(&ParentId) -> bool,
    ) -> BTreeMap<&'s ProfileName, u32> {
        let uuids = spare.parked.values().flatten().filter_map(|slice| slice.mdev());
        let idle = uuids.filter(|uuid| !self.park_failed.contains_key(uuid)).collect();
        parking::free_mdevs(&spare.view, &idle, only)
    }

    /// How many slices of a profile are nobody's, and how many are somebody's; `None` when no device offers it.
    pub(super) fn free_and_used(&self, profile: &ProfileName) -> Option<(u32, u32)> {
        self.free_and_used_on(profile, &|_| true)
    }

    /// The same of some GPUs.
    pub(super) fn free_and_used_on(
        &self,
        profile: &ProfileName,
        only: &dyn Fn(&ParentId) -> bool,
    ) -> Option<(u32, u32)> {
        let spare = self.spare();
        let there = |parent: &ParentId| only(&self.seen.device_of(parent));
        let offers = || spare.view.of_profile(profile).filter(|offer| there(&offer.parent));
        let vfs = offers().map(|offer| self.free_of(offer, &spare)).reduce(u32::saturating_add)?;
        let made = offers().any(|offer| offer.form.is_mdevs());
        let mdevs = made.then(|| self.free_mdevs(&spare, only).remove(profile)).flatten();
        let free = vfs.saturating_add(mdevs.unwrap_or_default());
        let assigned = self.run.assignments.values();
        let used = count(assigned.filter(|a| a.profile == *profile && there(&a.parent)));
        Some((free, used))
    }

    /// The most that can exist of a profile at a time on this host, if that is known.
    pub(super) fn most(&self, profile: &ProfileName) -> Option<u32> {
        self.most_on(profile, &|_| true)
    }

    /// The same of some GPUs.
    pub(super) fn most_on(
        &self,
        profile: &ProfileName,
        only: &dyn Fn(&ParentId) -> bool,
    ) -> Option<u32> {
        let mut counted = BTreeSet::new();
        let view = self.view();
        let there = |offer: &&Offer| only(&self.seen.device_of(&offer.parent));
        let offers = view.of_profile(profile).filter(there);
        let each = offers.map(|offer| match &offer.form {
            Form::Vfs(vfs) => Some(count(vfs)),
            Form::TypedVfs { vfs, .. } => {
                let vfs = count(vfs.iter());
                Some(offer.max.map_or(vfs, |max| max.min(vfs)))
            }
            Form::Mdevs { .. } if counted.insert(self.seen.device_of(&offer.parent)) => offer.max,
            Form::Mdevs { .. } => Some(0),
        });
        each.reduce(|all, more| Some(all?.saturating_add(more?)))?
    }

    /// How many more VFs of an offer can be given. Mediated devices of all offers share what there is.
    fn free_of(&self, offer: &Offer, spare: &Spare<'_>) -> u32 {
        match &offer.form {
            _ if !self.is_given_out(&offer.parent) => 0,
            Form::Mdevs { .. } => 0,
            Form::TypedVfs { left, vfs, .. } => {
                let vfs = vfs.iter().filter_map(|vf| self.seen.vfs.get(vf));
                (*left).min(count(vfs.filter(|vf| self.seen.is_passable(vf))))
            }
            Form::Vfs(vfs) => count(vfs.iter().filter(|vf| self.is_free(**vf, spare))),
        }
    }

    /// Whether a parent is neither quarantined nor cordoned, nor the device that it is a VF of.
    fn is_given_out(&self, parent: &ParentId) -> bool {
        let own = |parent: &ParentId| {
            !self.durable.quarantines.contains_key(parent)
                && !self.durable.cordons.contains_key(parent)
        };
        own(parent) && self.seen.pf_of(parent).is_none_or(|device| own(&device))
    }

    fn is_free(&self, address: PciAddress, spare: &Spare<'_>) -> bool {
        let slice = SliceId::Vf(address);
        let given = self.run.assignments.contains_key(&slice)
            || self.run.foreign.contains_key(&slice)
            || self.held.contains_key(&slice)
            || spare.view.held_back.contains_key(&slice);
        let vf = self.seen.vfs.get(&address);
        let usable = |vf: &Vf| vf.driver.is_none() || vf.on_vfio();
        !given && vf.is_some_and(|vf| self.seen.is_passable(vf) && usable(vf))
    }

    /// What a person can pick of an offer: all that is parked, and one VF, since the others look alike.
    fn to_pick(
        &self,
        offer: &Offer,
        spare: &Spare<'_>,
        homes: &BTreeSet<PciAddress>,
    ) -> Vec<SliceId> {
        let Form::Vfs(vfs) = &offer.form else { return spare.parked_as(offer).to_vec() };
        let mut of_nobody =
            vfs.iter().filter(|vf| !homes.contains(vf) && self.is_free(**vf, spare));
        let first = of_nobody.next().filter(|_| self.is_given_out(&offer.parent));
        first.map(|vf| SliceId::Vf(*vf)).into_iter().collect()
    }

    pub(super) fn list_types(&self) -> Answer {
        let rows = self.seen.mdev_parents.iter().flat_map(|(parent, device)| {
            device.types.iter().map(|(type_id, of_type)| TypeRow {
                parent: parent.clone(),
                type_id: type_id.clone(),
                name: of_type.fixed.name.clone(),
                description: of_type.fixed.description.clone(),
                device_api: of_type.fixed.device_api.clone(),
                available_instances: of_type.available,
            })
        });
        Answer::Types { rows: rows.collect() }
    }
}
