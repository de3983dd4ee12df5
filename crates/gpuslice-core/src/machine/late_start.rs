//! Starts that were refused and are made up for: what those wait for that were not settled, what is to start only if it is so
//! still, and when the agent is given them.

use super::admit::Missing;
use super::awaited::Needed;
use super::{Effect, Machine, Stored, Timer};
use crate::domain::Domain;
use crate::ids::{Owner, ParentId};
use crate::request::{DueStart, START_LATER};
use crate::state::{Incoming, LateStart, OnlyIf};
use std::collections::BTreeSet;
use uuid::Uuid;

impl Machine {
    /// What a domain that asks for a start needs.
    pub(super) fn needs_of(&self, domain: &Domain) -> BTreeSet<Needed> {
        let owner = Owner::Domain(domain.uuid);
        let wants = self.asked(domain, &owner, Missing::LeftOut).unwrap_or_default();
        wants.into_iter().map(|want| (want.profile, want.source.slice().pci())).collect()
    }

    /// The same of one whose claims are recorded.
    pub(super) fn needs_of_claims(&self, domain: Uuid) -> BTreeSet<Needed> {
        let claims = self.durable.claims.iter();
        let own = claims.filter(|(key, _)| key.owner == Owner::Domain(domain));
        let each = own.flat_map(|(_, claim)| {
            let homes: Vec<_> = match claim.home.is_empty() {
                true => vec![None],
                false => claim.home.iter().copied().map(Some).collect(),
            };
            homes.into_iter().map(|home| (claim.profile.clone(), home))
        });
        each.collect()
    }

    /// Has a start that was refused as not settled made up for. Whoever was to come in by a migration runs elsewhere: starting it
    /// here as well would ruin its disks. What was to be restored is started where that restores it.
    pub(super) fn make_up_for(
        &mut self,
        domain: Uuid,
        needs: BTreeSet<Needed>,
        came_in: Option<Incoming>,
    ) {
        match came_in {
            Some(Incoming::Migrating) => {}
            Some(Incoming::Restored) => self.start_later(domain, needs, Some(OnlyIf::Saved)),
            None => self.start_later(domain, needs, None),
        }
    }

    fn start_later(&mut self, domain: Uuid, needs: BTreeSet<Needed>, only: Option<OnlyIf>) {
        let come = needs.into_iter().map(|(profile, home)| {
            let mut may: BTreeSet<ParentId> =
                self.may_come(&profile, home).into_iter().map(|awaited| awaited.device).collect();
            if home.is_none() {
                may.extend(self.yet_to_come(&profile).cloned());
            }
            may
        });
        let awaits: Vec<BTreeSet<ParentId>> = come.filter(|may| !may.is_empty()).collect();
        let late = LateStart { domain, awaits, only };
        match self.run.start_later.iter_mut().find(|other| other.domain == domain) {
            Some(other) => *other = late,
            None => self.run.start_later.push(late),
        }
        self.persist(Stored::Runtime);
        self.push(Effect::Arm { timer: Timer::StartLater(domain), after: START_LATER });
    }

    /// The agent mends by itself what a start was refused for, and the next one works. Nobody is there to ask for that of a
    /// domain that started with the host. Once: what is refused again all the same is a person's.
    pub(super) fn start_when_mended(&mut self, domain: Uuid) {
        if self.mended_once.insert(domain) {
            self.start_later(domain, BTreeSet::new(), Some(OnlyIf::Marked));
        }
    }

    /// It runs, or there is none to run: the next start counts anew.
    pub(super) fn start_is_over(&mut self, domain: Uuid) {
        self.told_to_start.remove(&domain);
        self.mended_once.remove(&domain);
        self.came_in(domain);
    }

    /// After a start of the daemon, which remembers what was refused but not since when.
    pub(super) fn wait_to_start_later(&mut self) {
        let late: Vec<Uuid> = self.run.start_later.iter().map(|late| late.domain).collect();
        for domain in late {
            self.push(Effect::Arm { timer: Timer::StartLater(domain), after: START_LATER });
        }
    }

    pub(super) fn forget_start_later(&mut self, domain: Uuid) {
        let before = self.run.start_later.len();
        self.run.start_later.retain(|late| late.domain != domain);
        if self.run.start_later.len() != before {
            self.push(Effect::Disarm { timer: Timer::StartLater(domain) });
            self.persist(Stored::Runtime);
        }
    }

    pub(super) fn too_late_to_start(&mut self, domain: Uuid) {
        let text =
            format!("the start of domain {domain} was refused too long ago to be made up for");
        self.push(Effect::Log { warning: false, text });
        self.forget_start_later(domain);
        self.told_to_start.remove(&domain);
    }

    /// Those for whose every slice something has come that could be it, or nothing that could is to come any more: in the order
    /// in which they were refused.
    fn can_start_now(&self) -> Vec<DueStart> {
        if !self.observed || self.run.start_later.is_empty() {
            return Vec::new();
        }
        let awaited = self.still_awaited();
        let comes = |late: &&LateStart| late.awaits.iter().all(|may| !may.is_subset(&awaited));
        let due = |late: &LateStart| DueStart { domain: late.domain, only: late.only };
        self.run.start_later.iter().filter(comes).map(due).collect()
    }

    /// What the agent is to start. What waits for nothing but the agent is given to it once.
    pub(super) fn due_starts(&mut self) -> Vec<DueStart> {
        let due = self.can_start_now();
        for start in due.iter().filter(|start| start.only == Some(OnlyIf::Marked)) {
            self.forget_start_later(start.domain);
        }
        due
    }

    /// Tells the agent, once of each: one that is refused again all the same is not tried for ever.
    pub(super) fn tell_late_starts(&mut self) {
        if self.run.start_later.is_empty() {
            return;
        }
        let can: BTreeSet<Uuid> = self.can_start_now().iter().map(|start| start.domain).collect();
        let late = &self.run.start_later;
        self.told_to_start.retain(|domain| {
            can.contains(domain) || !late.iter().any(|late| late.domain == *domain)
        });
        let told = self.told_to_start.len();
        self.told_to_start.extend(can);
        if self.told_to_start.len() != told {
            self.note("agent-work", "start", "domains that were refused can start");
        }
    }
}
