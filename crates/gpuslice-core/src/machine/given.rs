//! What VMs have of claims that have changed since. A claim that asks for fewer slices, for another profile, or has other
//! homes, names no longer what its VM was given; until that is back it is kept beside the claims, for nothing else would
//! tell whose it is, should the record of the boot be lost.

use super::claims::{devices_of, source_of};
use super::{Machine, Stored};
use crate::domain::HostDeviceSource;
use crate::ids::{ClaimKey, ProfileName, SliceId};
use crate::state::{Assignment, Given};
use std::collections::BTreeMap;

/// A device that a record other than the boot's names as somebody's.
pub(super) struct Named<'a> {
    pub source: HostDeviceSource,
    pub key: &'a ClaimKey,
    /// Which of the claim's slices.
    pub index: u32,
    pub profile: &'a ProfileName,
}

impl Machine {
    /// Recorded together with the change of the claim.
    pub(super) fn keep_given(&mut self) {
        let claims_change = self.dirty.contains(&Stored::Durable);
        let may_end = self.dirty.contains(&Stored::Runtime) && !self.durable.given.is_empty();
        if !claims_change && !may_end {
            return;
        }
        let unnamed = self.run.assignments.iter().filter(|(slice, a)| !self.is_named(**slice, a));
        let mut given: BTreeMap<SliceId, Given> =
            unnamed.map(|(slice, a)| (*slice, Given::from(a))).collect();
        let unsure = self.claims_are_all_that_tells();
        for (slice, known) in &self.durable.given {
            if unsure || self.is_hidden(*slice) {
                given.entry(*slice).or_insert_with(|| known.clone());
            }
        }
        if given != self.durable.given {
            self.durable.given = given;
            self.persist(Stored::Durable);
        }
    }

    /// Whether its claim tells whose a slice is. One that has come to ask for another profile would take it for what it never
    /// gave.
    fn is_named(&self, slice: SliceId, assignment: &Assignment) -> bool {
        let claim = self.durable.claims.get(&assignment.claim);
        let source = claim.and_then(|claim| source_of(&assignment.claim, claim, assignment.index));
        let same = claim.is_some_and(|claim| claim.profile == assignment.profile);
        same && source.is_some_and(|source| source.slice() == slice)
    }

    /// Devices that a claim names, or did when its VM was given them.
    pub(super) fn named_by(&self, key: &ClaimKey) -> impl Iterator<Item = HostDeviceSource> {
        let given = self.durable.given.iter().filter(move |(_, given)| given.claim == *key);
        let given = given.map(|(slice, _)| HostDeviceSource::of(*slice));
        let claim = self.durable.claims.get(key);
        let devices = claim.map(|claim| devices_of(key, claim)).unwrap_or_default();
        given.chain(devices.into_iter().map(|device| device.source))
    }

    /// All that is named by what outlives the boot's record, the surest first. Where a VM was given another device than
    /// its claim names by now, it has that one.
    pub(super) fn named(&self) -> impl Iterator<Item = Named<'_>> {
        let given =
            self.durable.given.iter().map(|(slice, Given { claim: key, index, profile })| Named {
                source: HostDeviceSource::of(*slice),
                key,
                index: *index,
                profile,
            });
        let all = || self.durable.claims.iter();
        // Another claim may have the home of one whose domain is undefined.
        let claims = all().filter(|(_, c)| !c.orphaned).chain(all().filter(|(_, c)| c.orphaned));
        let claimed = claims.flat_map(|(key, claim)| {
            let profile = &claim.profile;
            let devices = (0..).zip(devices_of(key, claim));
            devices.map(move |(index, d)| Named { source: d.source, key, index, profile })
        });
        let has_another = |named: &Named<'_>| {
            self.durable.given.values().any(|g| g.claim == *named.key && g.index == named.index)
        };
        given.chain(claimed.filter(move |named| !has_another(named)))
    }
}

impl From<&Assignment> for Given {
    fn from(assignment: &Assignment) -> Self {
        let (claim, profile) = (assignment.claim.clone(), assignment.profile.clone());
        Self { claim, index: assignment.index, profile }
    }
}
