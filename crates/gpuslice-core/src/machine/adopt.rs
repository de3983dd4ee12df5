//! What is in use although no record says so. Within a boot VMs outlive the record of what they were given, so a
//! lost one is made up for: first by the devices that claims name, then by the XML of each domain that libvirt
//! tells of. Until somebody knows better, what may be in use is not free.

use super::admit::Missing;
use super::release::GRACE;
use super::start::STARTING_GRACE;
use super::{Effect, Machine, Stored, Timer};
use crate::domain::{Domain, HostDeviceSource};
use crate::history::Ending;
use crate::ids::{ClaimKey, MdevUuid, Owner, ParentId, PciAddress, ProfileName, SliceId};
use crate::mechanism::MDEV;
use crate::observation::Observation;
use crate::plan::Step;
use crate::state::{Assignment, Lost, Phase};
use std::collections::BTreeSet;

impl Machine {
    /// After a loss, until a reading misses nothing. A VM that was about to start has as long as any other; a VM
    /// that runs keeps its slices then, because they are held. Whoever has asked for a start since does not run: what
    /// is found of theirs was made for a start that came to nothing, and is soon taken back.
    pub(super) fn guess_what_was_lost(&mut self, before: &Observation) {
        let Some(Lost { looked, hidden, unseen, .. }) = &self.run.lost else { return };
        let looked = *looked;
        let complete = self.seen.problems.is_empty() || self.looks.lasting();
        let assigned: BTreeSet<(&ClaimKey, u32)> =
            self.run.assignments.values().map(|a| (&a.claim, a.index)).collect();
        let named = self.named().filter(|n| !assigned.contains(&(n.key, n.index)));
        let named = named.filter_map(|n| self.as_found(n.key, n.index, n.profile, n.source, false));
        let (named, unlike): (Vec<_>, Vec<_>) = named.partition(|(_, a)| self.is_what_it_asks(a));
        let unlike: BTreeSet<MdevUuid> =
            unlike.iter().filter_map(|(slice, _)| slice.mdev()).collect();
        // A VF can have been out of sight for the length of a reading, also of a daemon before this one. An mdev that comes
        // later is not ours, whatever its name: only one that was there all the time and could not be read may be.
        let back = |slice: SliceId| !looked || self.observed && !before.has_slice(slice);
        let new = |slice: SliceId| match slice {
            SliceId::Mdev(uuid) => hidden.as_ref().is_none_or(|hidden| hidden.contains(&uuid)),
            SliceId::Vf(address) | SliceId::Function(address) => {
                unseen.contains(&address) || back(slice)
            }
        };
        let found: Vec<(SliceId, Assignment)> = named
            .into_iter()
            .filter(|(slice, _)| new(*slice) && !self.run.assignments.contains_key(slice))
            .filter(|(slice, a)| self.may_be_lost(&a.claim.owner) || self.is_left(*slice, a))
            .collect();
        // Those it is known of by now, that they are there or that they are not, are no longer among them.
        let still = |now: BTreeSet<MdevUuid>| match hidden {
            Some(before) => now.intersection(before).copied().collect(),
            None => now,
        };
        let now = self.seen.hidden_mdevs().map(|unread| &unread | &unlike);
        let still = now.map(still).or_else(|| hidden.clone());
        let unseen_now: BTreeSet<PciAddress> = self
            .named()
            .map(|n| n.source.slice())
            .filter(|slice| self.is_hidden(*slice))
            .filter_map(SliceId::pci)
            .collect();
        if found.is_empty() && (looked || !complete) && still == *hidden && unseen_now == *unseen {
            return;
        }
        if let Some(lost) = &mut self.run.lost {
            lost.looked |= complete;
            lost.hidden = still;
            lost.unseen = unseen_now;
            lost.guessed.extend(found.iter().map(|(slice, _)| *slice));
        }
        for (slice, assignment) in found {
            let text = format!("{slice} is taken to be that of {}", assignment.claim);
            self.push(Effect::Log { warning: true, text });
            let runs_perhaps = self.may_be_lost(&assignment.claim.owner);
            let after = if runs_perhaps { STARTING_GRACE } else { GRACE };
            self.push(Effect::Arm { timer: Timer::Grace(slice), after });
            // Of several that share a home the first is as good a guess as any.
            self.run.assignments.entry(slice).or_insert(assignment);
        }
        self.persist(Stored::Runtime);
    }

    /// Whether a slice that was found is of its claim's profile, as far as that can be told: what is not, it was never given.
    fn is_what_it_asks(&self, found: &Assignment) -> bool {
        let type_id = found.type_id.as_ref();
        let profile = type_id.and_then(|type_id| self.profile_of(&found.parent, type_id));
        profile.is_none_or(|profile| profile == found.profile)
    }

    /// Whether something of a slice is to be taken back, rather than that it looks as its layout has it anyway.
    fn is_left(&self, slice: SliceId, assignment: &Assignment) -> bool {
        let layout = self.layouts.get(&assignment.parent);
        let steps =
            self.mechanism_of(assignment).map(|m| m.release_steps(slice, assignment, layout));
        steps.is_some_and(|steps| steps.iter().any(Step::changes))
    }

    /// The assignment that a device would be, if it is there and looks like a prepared one.
    fn as_found(
        &self,
        key: &ClaimKey,
        index: u32,
        profile: &ProfileName,
        source: HostDeviceSource,
        managed: bool,
    ) -> Option<(SliceId, Assignment)> {
        let (parent, mechanism, type_id) = match source {
            HostDeviceSource::Mdev(uuid) => {
                let mdev = self.seen.mdevs.get(&uuid)?;
                (mdev.parent.clone(), MDEV, Some(mdev.type_id.clone()))
            }
            HostDeviceSource::Pci(address) => {
                let vf = self.seen.vfs.get(&address)?;
                let type_id = vf.choice.as_ref().and_then(|choice| choice.current.clone());
                if type_id.is_none() && (vf.choice.is_some() || !vf.on_vfio()) {
                    return None;
                }
                let parent = ParentId::Pci(vf.pf);
                let mechanism = self.maker_of_vfs(&parent);
                (parent, mechanism, type_id)
            }
        };
        let assignment = Assignment {
            claim: key.clone(),
            index,
            parent,
            profile: profile.clone(),
            mechanism: mechanism.to_owned(),
            type_id,
            parameters: self.durable.claims.get(key).and_then(|c| c.request.parameters.clone()),
            managed,
            hotplug: false,
            phase: Phase::Prepared,
            trouble: None,
            ending: None,
        };
        Some((source.slice(), assignment))
    }

    /// Whether a domain that libvirt tells of has devices that are not known to be its own.
    pub(super) fn carries_unknown(&self, domain: &Domain) -> bool {
        let owner = Owner::Domain(domain.uuid);
        let mut plain = domain.devices.iter().filter(|d| d.our_claim().is_none());
        let unknown = |slice| self.run.foreign.get(&slice).is_none_or(|hold| hold.owner != owner);
        self.carries_unassigned(domain) || plain.any(|device| unknown(device.source.slice()))
    }

    /// Whether it has devices of its claims that are not known to be its own.
    pub(super) fn carries_unassigned(&self, domain: &Domain) -> bool {
        let owner = Owner::Domain(domain.uuid);
        let mut of_claims = domain.devices.iter().filter(|d| d.our_claim().is_some());
        of_claims.any(|device| {
            let slice = device.source.slice();
            let mine = |a: &Assignment| a.claim.owner == owner && !self.guessed(slice);
            !self.run.assignments.get(&slice).is_some_and(mine)
        })
    }

    /// Whether the devices of a domain cannot be judged yet.
    pub(super) fn cannot_adopt(&self, domain: &Domain) -> bool {
        self.stale || domain.devices.iter().any(|d| self.working_on(d.source.slice()))
    }

    /// Takes the devices in the XML of a domain that runs, or has just ended, for its own, unless somebody else is
    /// known to have them. Of one that ended plain devices say nothing: its start may have been refused for them.
    pub(super) fn adopt(&mut self, domain: &Domain, runs: bool) {
        if runs {
            for device in domain.devices.iter().filter(|d| d.our_claim().is_none()) {
                self.guessed_wrong(device.source.slice());
            }
            self.record_foreign(domain, &Owner::Domain(domain.uuid), true);
        }
        self.adopt_claimed(domain, runs);
    }

    /// Takes the devices of a domain's claims for its own. Answers those that were not known.
    pub(super) fn adopt_claimed(&mut self, domain: &Domain, runs: bool) -> Vec<SliceId> {
        let owner = Owner::Domain(domain.uuid);
        let wants = match self.wants(domain, &owner, Missing::LeftOut) {
            Ok(wants) => wants,
            Err(refusal) => {
                let text = format!("what {} has is not known: {refusal}", domain.name);
                self.push(Effect::Log { warning: true, text });
                return Vec::new();
            }
        };
        let mut adopted = Vec::new();
        for want in &wants {
            let slice = want.source.slice();
            let known = self.run.assignments.contains_key(&slice) && !self.guessed(slice);
            let found =
                self.as_found(&want.key, want.index, &want.profile, want.source, want.managed);
            let Some((_, assignment)) = found.filter(|_| !known) else { continue };
            // Its start may have been refused for the one who has it.
            let of_another = self.run.foreign.get(&slice).is_some_and(|hold| hold.owner != owner);
            if !runs && (of_another || self.came_since(slice)) {
                continue;
            }
            self.guessed_wrong(slice);
            self.note("slice", slice, format!("found in {}", domain.name));
            self.run.assignments.insert(slice, assignment);
            self.persist(Stored::Runtime);
            adopted.push(slice);
        }
        if !adopted.is_empty()
            && wants.iter().any(|want| !self.durable.claims.contains_key(&want.key))
        {
            self.record_claims(domain, &owner, &wants);
        }
        adopted
    }

    /// Whether somebody made it after the record was lost: what had been there was taken to be the claim's when that was
    /// looked at, or could not be told since. A claim that was not recorded had nothing.
    fn came_since(&self, slice: SliceId) -> bool {
        let SliceId::Mdev(uuid) = slice else { return false };
        let hidden = self.run.lost.as_ref().and_then(|lost| lost.hidden.as_ref());
        hidden.is_some_and(|hidden| !hidden.contains(&uuid)) && !self.guessed(slice)
    }

    /// Whether the owner may have been running when the record was lost.
    pub(super) fn may_be_lost(&self, owner: &Owner) -> bool {
        self.run.lost.as_ref().is_some_and(|lost| !lost.asked.contains(owner))
    }

    /// The record was lost, and what the claims name has not all been looked at: as long as that is so they are all
    /// that tells whose it is.
    pub(super) fn claims_are_all_that_tells(&self) -> bool {
        self.run.lost.as_ref().is_some_and(|lost| !lost.looked)
    }

    /// The same of one claim: the record was lost, and a device that it names may be there, out of sight.
    pub(super) fn it_alone_tells(&self, key: &ClaimKey) -> bool {
        self.claims_are_all_that_tells()
            || self.run.lost.is_some()
                && self.named_by(key).any(|source| self.is_hidden(source.slice()))
    }

    /// Whether, after a loss, a slice may be there that cannot be read.
    pub(super) fn is_hidden(&self, slice: SliceId) -> bool {
        let Some(lost) = &self.run.lost else { return false };
        match slice {
            SliceId::Mdev(uuid) => lost.hidden.as_ref().is_none_or(|all| all.contains(&uuid)),
            SliceId::Vf(address) | SliceId::Function(address) => {
                let pf = self.durable.places.get(&address).map(|place| place.pf);
                let unread = |function| self.seen.unreadable(&ParentId::Pci(function));
                !self.seen.has_slice(slice) && (unread(address) || pf.is_some_and(unread))
            }
        }
    }

    /// A domain asks for a start, so it does not run.
    pub(super) fn runs_no_more(&mut self, owner: &Owner) {
        if let Some(lost) = &mut self.run.lost
            && lost.asked.insert(owner.clone())
        {
            self.persist(Stored::Runtime);
        }
    }

    pub(super) fn guessed(&self, slice: SliceId) -> bool {
        self.run.lost.as_ref().is_some_and(|lost| lost.guessed.contains(&slice))
    }

    /// What was inferred is known now, or over.
    pub(super) fn no_guess(&mut self, slice: SliceId) -> bool {
        self.run.lost.as_mut().is_some_and(|lost| lost.guessed.remove(&slice))
    }

    pub(super) fn guessed_wrong(&mut self, slice: SliceId) {
        if self.no_guess(slice) {
            self.run.assignments.remove(&slice);
            self.tenure_ends(slice, Ending::Mistaken);
            self.push(Effect::Disarm { timer: Timer::Grace(slice) });
            self.persist(Stored::Runtime);
        }
    }
}
