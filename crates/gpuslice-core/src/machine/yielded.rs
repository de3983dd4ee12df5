//! Devices that need no layout to yield mediated devices. Nothing says that one belongs to this host but that it yielded
//! what claims ask for before: at a boot its driver may register its types long after libvirt starts domains.

use super::{Machine, Stored};
use crate::ids::{Owner, ParentId, ProfileName};
use std::collections::{BTreeMap, BTreeSet};
use uuid::Uuid;

impl Machine {
    /// What yields the profiles that claims ask for, as last seen.
    pub(super) fn remember_yielded(&mut self) {
        let claims = self.durable.claims.values().filter(|c| !c.orphaned && c.home.is_empty());
        let asked: BTreeSet<&ProfileName> = claims.map(|claim| &claim.profile).collect();
        let mut yielded: BTreeMap<ProfileName, BTreeSet<ParentId>> = BTreeMap::new();
        if !asked.is_empty() {
            let without_layout =
                |parent: &ParentId| !self.layouts.contains_key(&self.seen.device_of(parent));
            let parents = self.seen.mdev_parents.keys().filter(|parent| without_layout(parent));
            for offer in parents.flat_map(|parent| self.offers_of(parent)) {
                if asked.contains(&offer.profile) && offer.form.is_mdevs() {
                    yielded.entry(offer.profile).or_default().insert(offer.parent);
                }
            }
            let away = |profile: &ProfileName| asked.contains(profile);
            for (profile, parents) in self.durable.yielded.iter().filter(|(p, _)| away(p)) {
                yielded.entry(profile.clone()).or_insert_with(|| parents.clone());
            }
        }
        if yielded != self.durable.yielded {
            self.durable.yielded = yielded;
            self.persist(Stored::Durable);
        }
    }

    /// Those that yielded a profile and have not come yet.
    pub(super) fn yet_to_come(&self, profile: &ProfileName) -> impl Iterator<Item = &ParentId> {
        let parents = self.durable.yielded.get(profile).into_iter().flatten();
        parents.filter(|parent| !self.seen.mdev_parents.contains_key(parent))
    }

    /// What a domain's start waits for. Somebody may have taken such a device out for good, so nobody else does.
    fn lacks(&self, domain: Uuid) -> impl Iterator<Item = &ParentId> {
        let claims = self.durable.claims.iter();
        let claims = claims.filter(move |(key, _)| key.owner == Owner::Domain(domain));
        let homeless = claims.filter(|(_, claim)| !claim.orphaned && claim.home.is_empty());
        homeless.flat_map(|(_, claim)| self.yet_to_come(&claim.profile))
    }

    /// The same of all starts that are put off.
    pub(super) fn lacked_by_starts(&self) -> impl Iterator<Item = &ParentId> {
        self.run.start_later.iter().flat_map(|late| self.lacks(late.domain))
    }
}
