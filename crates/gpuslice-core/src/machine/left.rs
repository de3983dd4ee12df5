//! Mediated devices that are left to their driver for a while once their VM has ended. Some versions of NVIDIA's remove
//! them by themselves, and complain about whoever was first. A driver that was seen to leave one where it was is not waited
//! for again.

use super::{Effect, Machine, Timer};
use crate::history::Ending;
use crate::ids::SliceId;
use crate::state::{Assignment, Phase};
use std::collections::{BTreeMap, BTreeSet};

/// Milliseconds. Whoever starts a VM meanwhile waits longer than that for what is on its way back.
const TIME: u64 = 10_000;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct LeftToDrivers {
    /// Each with its driver, until it is gone or the time is over.
    slices: BTreeMap<SliceId, &'static str>,
    /// Drivers that remove nothing.
    idle: BTreeSet<&'static str>,
}

impl Machine {
    /// The driver that may take a slice back by itself now that its VM has ended.
    pub(super) fn may_remove(
        &self,
        slice: SliceId,
        assignment: &Assignment,
        why: Ending,
    ) -> Option<&'static str> {
        let ended = matches!(why, Ending::Stopped | Ending::Migrated);
        let used = ended && assignment.phase == Phase::Attached;
        let there = used && self.seen.has_slice(slice) && !self.has_vanished(slice);
        let type_id = assignment.type_id.as_ref().filter(|_| there)?;
        let driver = self.mechanism_of(assignment)?.removed_by(type_id)?;
        (!self.left.idle.contains(driver)).then_some(driver)
    }

    /// Its owner has it no longer, also should the host go down before it is removed.
    pub(super) fn leave_to(&mut self, driver: &'static str, slice: SliceId) {
        let seconds = TIME / 1000;
        let why = format!("left to {driver}, which may remove it by itself, for {seconds} s");
        let Some(assignment) = self.run.assignments.get_mut(&slice) else { return };
        assignment.trouble = Some(why.clone());
        let ending = assignment.ending.unwrap_or(Ending::Unknown);
        self.left.slices.insert(slice, driver);
        self.note("slice", slice, why);
        self.tenure_ends(slice, ending);
        self.push(Effect::Arm { timer: Timer::RetryRelease(slice), after: TIME });
    }

    pub(super) fn is_left_to_driver(&self, slice: SliceId) -> bool {
        self.left.slices.contains_key(&slice)
    }

    pub(super) fn leave_no_more(&mut self, slice: SliceId) {
        self.left.slices.remove(&slice);
    }

    /// The time is over. What its driver has not done by now it does never.
    pub(super) fn driver_had_time(&mut self, slice: SliceId) {
        let assigned = self.run.assignments.get(&slice);
        let back = assigned.is_some_and(|a| a.phase == Phase::Releasing);
        if let Some(driver) = self.left.slices.remove(&slice)
            && self.seen.has_slice(slice)
            && back
        {
            self.left.idle.insert(driver);
        }
    }

    /// Ends the wait for what drivers have removed since the last reading.
    pub(super) fn drivers_removed(&mut self) {
        let left = self.left.slices.keys();
        let gone: Vec<SliceId> =
            left.filter(|slice| !self.seen.has_slice(**slice)).copied().collect();
        for slice in gone {
            self.left.slices.remove(&slice);
            self.retry_release(slice);
        }
    }
}
