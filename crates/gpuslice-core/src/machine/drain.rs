//! Drains: a parent gets no new VMs from now on, and whoever ordered it can be told when the last of those that have a
//! slice has let go. What stays of it is the cordon.

use super::{Effect, Machine, RequestId, Stored, Timer};
use crate::hint;
use crate::ids::{ParentId, SliceId};
use crate::mend;
use crate::refusal::{Code, Refusal};
use crate::request::{Answer, DrainRow};
use std::collections::BTreeSet;

/// A drain that somebody waits for.
#[derive(Debug)]
pub(super) struct Drain {
    parents: BTreeSet<ParentId>,
    /// A cordon is new.
    changed: bool,
}

impl Machine {
    /// Cordons the parents, all that there are if none is named. Answered at once, or when they are free.
    pub(super) fn on_drain(
        &mut self,
        request: RequestId,
        named: &[ParentId],
        reason: &str,
        wait_ms: Option<u64>,
    ) {
        let parents = match self.to_drain(named) {
            Ok(parents) => parents,
            Err(refusal) => return self.push(Effect::Answer { request, outcome: Err(refusal) }),
        };
        let mut changed = false;
        for parent in &parents {
            if !self.durable.cordons.contains_key(parent) {
                changed = true;
                self.durable.cordons.insert(parent.clone(), reason.to_owned());
                self.note("parent", parent, "cordoned");
            }
        }
        if changed {
            self.persist(Stored::Durable);
        }
        let row = self.drained(&parents, changed);
        let Some(after) = wait_ms.filter(|_| !row.drained) else {
            return self.push(Effect::Answer { request, outcome: Ok(Answer::Drain(row)) });
        };
        // Of processes that nobody gave a slice nothing else tells.
        let held = self.held.keys().filter(|slice| self.is_of(**slice, &parents));
        let watches: Vec<Effect> = held.map(|slice| Effect::Watch { slice: *slice }).collect();
        self.effects.extend(watches);
        self.drains.insert(request, Drain { parents, changed });
        self.push(Effect::Arm { timer: Timer::Drain(request), after });
    }

    fn to_drain(&self, named: &[ParentId]) -> Result<BTreeSet<ParentId>, Refusal> {
        for parent in named {
            self.require_parent(parent)?;
        }
        if !named.is_empty() {
            return Ok(named.iter().cloned().collect());
        }
        let shown = self.seen.parents().filter(|parent| self.shown(parent));
        let all: BTreeSet<ParentId> = shown.map(|parent| self.seen.device_of(&parent)).collect();
        if all.is_empty() {
            let refusal = Refusal::new(Code::Unknown, "no device of this host yields slices");
            return Err(refusal.hint(self.name_a_gpu()));
        }
        Ok(all)
    }

    /// Whether a slice is of one of these devices.
    pub(super) fn is_of(&self, slice: SliceId, parents: &BTreeSet<ParentId>) -> bool {
        let made_by = self.seen.made_by(slice).cloned();
        let parent = made_by.or_else(|| slice.pci().map(ParentId::Pci));
        parent.is_some_and(|parent| parents.contains(&self.seen.device_of(&parent)))
    }

    /// Who has slices of them.
    pub(super) fn not_drained<'a>(
        &'a self,
        parents: &'a BTreeSet<ParentId>,
    ) -> impl Iterator<Item = Refusal> + 'a {
        let held = self.held.iter().filter(|(slice, _)| {
            self.is_of(**slice, parents) && !self.run.foreign.contains_key(slice)
        });
        self.in_the_way(parents).chain(held.map(|(slice, holder)| {
            let message = format!("{} (pid {}) uses {slice}", holder.comm, holder.pid);
            Refusal::new(Code::InUse, message).hint(mend::end_process(holder))
        }))
    }

    /// How far it has come.
    fn drained(&self, parents: &BTreeSet<ParentId>, changed: bool) -> DrainRow {
        let blockers: Vec<Refusal> = self.not_drained(parents).collect();
        let parents = parents.iter().cloned().collect();
        DrainRow { changed, drained: blockers.is_empty(), parents, blockers }
    }

    /// Answers whose wait is over.
    pub(super) fn tell_drained(&mut self) {
        for (request, drain) in std::mem::take(&mut self.drains) {
            let drained = self.not_drained(&drain.parents).next().is_none();
            let lifted = drain.parents.iter().find(|p| !self.durable.cordons.contains_key(p));
            let outcome = match lifted {
                Some(parent) => {
                    let message = format!("{parent} was given out again before it was drained");
                    let again = hint!("gpuslice drain {}", parent);
                    Err(Refusal::new(Code::InUse, message).hint(again))
                }
                None if drained => Ok(Answer::Drain(self.drained(&drain.parents, drain.changed))),
                None => {
                    self.drains.insert(request, drain);
                    continue;
                }
            };
            self.push(Effect::Disarm { timer: Timer::Drain(request) });
            self.push(Effect::Answer { request, outcome });
        }
    }

    pub(super) fn on_drain_timeout(&mut self, request: RequestId) {
        let Some(drain) = self.drains.remove(&request) else { return };
        let row = self.drained(&drain.parents, drain.changed);
        let message =
            "not drained in the time given; what was ordered stays: no new VM is given a slice";
        let mut refusal = Refusal::new(Code::Timeout, message);
        refusal.causes.extend(row.blockers.iter().map(|blocker| blocker.message.clone()));
        if let Some(end) = row.blockers.iter().find_map(Refusal::way_out) {
            refusal = refusal.hint(end);
        }
        self.push(Effect::Answer { request, outcome: Err(refusal) });
    }

    /// The cordons of some could not be recorded: nobody waits for what was not ordered.
    pub(super) fn drains_unrecorded(&mut self, refusal: &Refusal) {
        let cordons = &self.durable.cordons;
        let lost = |drain: &Drain| drain.parents.iter().any(|p| !cordons.contains_key(p));
        let requests: Vec<RequestId> =
            self.drains.iter().filter(|(_, drain)| lost(drain)).map(|(r, _)| *r).collect();
        for request in requests {
            self.drains.remove(&request);
            self.effects.push(Effect::Disarm { timer: Timer::Drain(request) });
            self.effects.push(Effect::Answer { request, outcome: Err(refusal.clone()) });
        }
    }
}
