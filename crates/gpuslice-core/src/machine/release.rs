//! Taking slices back. A release is recorded, answered, and then pursued until it is done: failures are kept and
//! tried again, never dropped.

use super::ops::Purpose;
use super::start::STARTING_GRACE;
use super::{Effect, HookOperation, Machine, Stored, Timer};
use crate::execute::StepError;
use crate::history::Ending;
use crate::holders::Holder;
use crate::ids::{ClaimKey, Owner, SliceId};
use crate::plan::Step;
use crate::state::{Assignment, Claim, Phase};
use uuid::Uuid;

/// Milliseconds libvirt has, after QEMU ended, to call the release hook itself.
pub(super) const GRACE: u64 = 15_000;

/// Longest pause between two tries, in milliseconds.
const SLOWEST_RETRY: u64 = 30_000;

/// Those who keep a slice from being cleared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Kept {
    /// Their end will be told. Otherwise nobody was seen any more.
    pub(super) watched: bool,
    /// One of them, where any could be told.
    pub(super) by: Option<Holder>,
}

impl Machine {
    /// What libvirt says when a VM has ended, or has left.
    pub(super) fn on_release(&mut self, domain: Uuid, how: HookOperation) {
        let migrated = how == HookOperation::MigratedAway;
        self.came_in(domain);
        let owner = Owner::Domain(domain);
        let held: Vec<SliceId> = self
            .run
            .foreign
            .iter()
            .filter(|(_, hold)| hold.owner == owner)
            .map(|(slice, _)| *slice)
            .collect();
        for slice in held {
            self.foreign_over(slice, if migrated { Ending::Migrated } else { Ending::Stopped });
        }
        let slices: Vec<SliceId> = self
            .run
            .assignments
            .iter()
            .filter(|(_, a)| a.claim.owner == owner)
            .map(|(slice, _)| *slice)
            .collect();
        for slice in slices {
            self.presumed_dead.remove(&slice);
            if how != HookOperation::Release {
                self.ends_in_order(slice);
            }
            let why = if migrated { Ending::Migrated } else { self.how_it_stopped(slice) };
            self.begin_release(slice, why);
        }
    }

    /// The end of a VM that libvirt tells of: it may never have run.
    fn how_it_stopped(&self, slice: SliceId) -> Ending {
        let ran = self.run.assignments.get(&slice).is_some_and(|a| a.phase == Phase::Attached);
        // What was running when the record was lost is only known as prepared.
        if ran || self.run.lost.is_some() { Ending::Stopped } else { Ending::StartFailed }
    }

    /// Slices that a claim's VM has or is to have. Those on their way back are none, unless it only seemed to have ended.
    pub(super) fn used_of<'a>(
        &'a self,
        key: &'a ClaimKey,
    ) -> impl Iterator<Item = (&'a SliceId, &'a Assignment)> {
        self.run.assignments.iter().filter(move |(slice, a)| {
            let ended = a.phase == Phase::Releasing && !self.presumed_dead.contains(slice);
            a.claim == *key && !ended
        })
    }

    pub(super) fn foreign_over(&mut self, slice: SliceId, why: Ending) {
        if let Some(hold) = self.run.foreign.remove(&slice) {
            self.unplugged.remove(&slice);
            self.persist(Stored::Runtime);
            self.tenure_ends(slice, why);
            self.push(Effect::Disarm { timer: Timer::Grace(slice) });
            let told = matches!(why, Ending::Stopped | Ending::Migrated | Ending::StartedAgain);
            self.used_by_others(slice, &hold.name, told);
        }
    }

    /// Records that a slice is on its way back, and why, and starts.
    pub(super) fn begin_release(&mut self, slice: SliceId, why: Ending) {
        let found = self.run.assignments.get(&slice);
        let driver = found.and_then(|assignment| self.may_remove(slice, assignment, why));
        let Some(assignment) = self.run.assignments.get_mut(&slice) else {
            return;
        };
        let there = self.seen.has_parent(&assignment.parent) || !self.observed;
        assignment.ending.get_or_insert(if there { why } else { Ending::GpuGone });
        if assignment.phase != Phase::Releasing {
            assignment.phase = Phase::Releasing;
            self.note("slice", slice, "releasing");
            self.ends_young(slice);
        }
        self.persist(Stored::Runtime);
        self.push(Effect::Disarm { timer: Timer::Grace(slice) });
        self.told.retain(|_, slices| !slices.contains(&slice));
        if why == Ending::Released {
            self.leave_no_more(slice);
        }
        match driver {
            _ if self.working_on(slice) || self.is_left_to_driver(slice) => {}
            Some(driver) => self.leave_to(driver, slice),
            None => self.try_release(slice, 0),
        }
    }

    fn try_release(&mut self, slice: SliceId, tries: u32) {
        let Some(assignment) = self.run.assignments.get(&slice) else {
            return;
        };
        let layout = self.layouts.get(&assignment.parent);
        // Ours left with its device, and somebody has made another by its name: that one is not ours to remove.
        let ours = self.seen.made_by(slice).is_none_or(|parent| *parent == assignment.parent)
            && !self.has_vanished(slice);
        let mut steps = self
            .mechanism_of(assignment)
            .filter(|_| ours)
            .map(|m| m.release_steps(slice, assignment, layout))
            .unwrap_or_default();
        let cleaned = self.mechanism_of(assignment).map(|m| m.cleaned());
        steps.extend(cleaned.and_then(|how| self.wipe_step(slice, &assignment.parent, how)));
        if let Some(why) = self.fault_over(&assignment.parent)
            && steps.iter().any(Step::changes)
        {
            let trouble = format!("{} is quarantined: {}", assignment.parent, why.message);
            return self.postpone(slice, trouble);
        }
        self.start_op(Purpose::Release { slice, tries }, steps);
    }

    /// A device with a fault is not touched: what is to be taken back from it stays recorded until the quarantine
    /// is lifted.
    pub(super) fn postpone(&mut self, slice: SliceId, trouble: String) {
        self.postponed.insert(slice);
        if let Some(assignment) = self.run.assignments.get_mut(&slice)
            && assignment.trouble.as_ref() != Some(&trouble)
        {
            assignment.trouble = Some(trouble);
            self.persist(Stored::Runtime);
        }
    }

    /// Takes up what waited for quarantines that are lifted now.
    pub(super) fn resume_postponed(&mut self) {
        for slice in std::mem::take(&mut self.postponed) {
            // Postpones itself again if it must.
            self.retry_release(slice);
        }
    }

    pub(super) fn retry_release(&mut self, slice: SliceId) {
        let releasing =
            self.run.assignments.get(&slice).is_some_and(|a| a.phase == Phase::Releasing);
        if releasing && !self.working_on(slice) && !self.is_left_to_driver(slice) {
            let tries = self.release_tries.get(&slice).copied().unwrap_or(0);
            self.try_release(slice, tries);
        }
    }

    pub(super) fn released(&mut self, slice: SliceId) {
        self.release_tries.remove(&slice);
        if !self.run.dirty.contains_key(&slice) {
            self.kept.remove(&slice);
        }
        self.presumed_dead.remove(&slice);
        self.leave_no_more(slice);
        self.no_guess(slice);
        self.push(Effect::Disarm { timer: Timer::RetryRelease(slice) });
        let Some(assignment) = self.run.assignments.remove(&slice) else {
            return;
        };
        self.persist(Stored::Runtime);
        self.forget_vanished(slice);
        self.tenure_ends(slice, assignment.ending.unwrap_or(Ending::Unknown));
        self.repairs.remove(&self.seen.device_of(&assignment.parent));
        self.park_failed.clear();
        self.note("slice", slice, format!("released by {}", assignment.claim));
    }

    /// Ends a claim; whether that is all. As long as a slice of it is not back it stays, without an owner, and tells
    /// whose that is, should the record of the boot be lost.
    pub(super) fn end_claim(&mut self, key: &ClaimKey) -> bool {
        let bound = self.run.assignments.values().any(|a| a.claim == *key);
        let over = !bound && !self.it_alone_tells(key);
        match self.durable.claims.get_mut(key).filter(|_| !over) {
            Some(claim) => (claim.orphaned, claim.undefined) = (true, false),
            None => drop(self.durable.claims.remove(key)),
        }
        self.persist(Stored::Durable);
        let of_owner =
            |(other, claim): (&ClaimKey, &Claim)| other.owner == key.owner && !claim.orphaned;
        if let Owner::Domain(domain) = key.owner
            && !self.durable.claims.iter().any(of_owner)
        {
            self.forget_start_later(domain);
        }
        self.look_at_homeless();
        over
    }

    /// Claims that were made by a start alone, or that nobody makes any more, end with the last of their slices.
    pub(super) fn end_claims_without_owner(&mut self) {
        if self.claims_are_all_that_tells() {
            return;
        }
        let claims = self.durable.claims.iter();
        let mut ends = claims.filter(|(_, c)| c.transient || c.orphaned && !c.undefined).peekable();
        if ends.peek().is_none() {
            return;
        }
        let bound = self.bound_claims();
        let over = ends.map(|(key, _)| key).filter(|key| !bound.contains(key));
        let over = over.filter(|key| !self.it_alone_tells(key));
        let over: Vec<ClaimKey> = over.cloned().collect();
        for key in &over {
            self.durable.claims.remove(key);
            self.persist(Stored::Durable);
            self.note("claim", key, "ended with its owner");
        }
        if !over.is_empty() {
            self.look_at_homeless();
        }
    }

    pub(super) fn release_failed(&mut self, slice: SliceId, tries: u32, error: &StepError) {
        let Some(assignment) = self.run.assignments.get_mut(&slice) else {
            return;
        };
        // Somebody took a VM's end for certain too early: it runs.
        if let (StepError::Held { .. }, true) = (error, self.presumed_dead.remove(&slice)) {
            assignment.phase = Phase::Attached;
            assignment.hotplug = false;
            assignment.ending = None;
            self.persist(Stored::Runtime);
            return self.push(Effect::Watch { slice });
        }
        let trouble = error.to_string();
        if assignment.trouble.as_ref() != Some(&trouble) {
            let text = format!("cannot release {slice} yet: {trouble}");
            // A QEMU that is about to end is the ordinary case.
            self.effects.push(Effect::Log { warning: tries > 2, text });
            assignment.trouble = Some(trouble);
            self.dirty.insert(Stored::Runtime);
        }
        self.release_tries.insert(slice, tries + 1);
        let after = (50_u64 << tries.min(10)).min(SLOWEST_RETRY);
        self.watch_who_holds(slice, error);
        self.push(Effect::Arm { timer: Timer::RetryRelease(slice), after });
    }

    /// Waits for the end of those who kept a slice from being cleared, if it was that. A watch does not see all of them: their
    /// node is gone, or they cannot be looked into, or they have it open again. It says at once that nobody is there, so the
    /// next one comes after a pause.
    pub(super) fn watch_who_holds(&mut self, slice: SliceId, error: &StepError) {
        let StepError::Held { holders, .. } = error else {
            self.kept.remove(&slice);
            return;
        };
        let by = holders.first().cloned();
        match self.kept.insert(slice, Kept { watched: true, by }) {
            None => self.push(Effect::Watch { slice }),
            Some(Kept { watched: true, .. }) => {}
            Some(Kept { watched: false, .. }) => {
                if let Some(kept) = self.kept.get_mut(&slice) {
                    kept.watched = false;
                }
                let timer = Timer::RetryRelease(slice);
                self.push(Effect::Arm { timer, after: SLOWEST_RETRY });
            }
        }
    }

    /// The pause before another try to clear a slice is over.
    pub(super) fn clear_again(&mut self, slice: SliceId) {
        if self.kept.get(&slice).is_some_and(|kept| !kept.watched) {
            self.kept.remove(&slice);
        }
        self.driver_had_time(slice);
        self.retry_release(slice);
        self.wipe_this_again(slice);
    }

    pub(super) fn on_holder_gone(&mut self, slice: SliceId) {
        if let Some(kept) = self.kept.get_mut(&slice) {
            *kept = Kept { watched: false, by: None };
        }
        self.held.remove(&slice);
        match self.run.assignments.get(&slice).map(|a| a.phase) {
            Some(Phase::Releasing) => self.retry_release(slice),
            Some(Phase::Attached) => {
                self.push(Effect::Arm { timer: Timer::Grace(slice), after: GRACE })
            }
            Some(_) => {}
            None if self.unplugged.contains(&slice) => {
                self.foreign_over(slice, Ending::Detached);
            }
            None if self.run.foreign.contains_key(&slice) => {
                let starts = self.run.foreign.get(&slice).is_some_and(|hold| hold.starting);
                // A daemon that came in between finds nobody before QEMU has opened it.
                let after = if starts { STARTING_GRACE } else { GRACE };
                self.push(Effect::Arm { timer: Timer::Grace(slice), after });
            }
            None if self.run.dirty.contains_key(&slice) => {
                self.wipe_again();
                if !self.working_on(slice) {
                    self.await_reset_no_more(slice);
                }
            }
            None => {
                if let SliceId::Mdev(uuid) = slice {
                    // Parked, and now it can go.
                    self.park_failed.remove(&uuid);
                }
            }
        }
    }

    /// libvirt had time to tell, and did not: it may be gone itself.
    pub(super) fn on_grace_over(&mut self, slice: SliceId) {
        // Should a process hold it all the same, it is seen before anybody else is given it.
        self.foreign_over(slice, Ending::Vanished);
        let waiting = self
            .run
            .assignments
            .get(&slice)
            .is_some_and(|a| matches!(a.phase, Phase::Prepared | Phase::Attached));
        if waiting && !self.working_on(slice) {
            let text = format!(
                "no process holds {slice} and libvirt did not release it; it is taken back"
            );
            self.push(Effect::Log { warning: true, text });
            self.presumed_dead.insert(slice);
            let why = match self.how_it_stopped(slice) {
                Ending::Stopped => Ending::Vanished,
                never_ran => never_ran,
            };
            self.begin_release(slice, why);
        }
    }
}
