//! Slices on their way back, as those see them who want one: what is free in a moment is waited for, and what is not says
//! who or what keeps it.

use super::{Effect, Machine, Timer};
use crate::domain::Domain;
use crate::execute::StepError;
use crate::holders::is_vm;
use crate::ids::{Owner, ParentId, SliceId};
use crate::mend;
use crate::refusal::{Code, Hint, Refusal};
use crate::state::{Assignment, Phase};
use std::collections::BTreeSet;
use std::collections::btree_map::Entry;

/// Failed tries after which nobody waits for a slice any more: some twelve seconds. Drivers take up to ten to let go of one, and
/// libvirt's hook waits for twenty.
const TRIES: u32 = 7;

/// The same in milliseconds, for a reset that does not end.
const PATIENCE: u64 = (50 << (TRIES + 1)) - 50;

impl Machine {
    /// Whether a start that was refused can have what is being taken back right now.
    pub(super) fn returns_soon(&self, domain: &Domain, why: &Refusal) -> bool {
        // Until the process of its last VM has let go of it, it is held.
        if matches!(why.code, Code::Dirty | Code::Held) {
            let dirty = self.held_back();
            let carried = domain.devices.iter().map(|device| device.source.slice());
            let mut unclean = carried.filter(|slice| dirty.contains_key(slice)).peekable();
            return unclean.peek().is_some() && unclean.all(|slice| self.is_being_reset(slice));
        }
        let back = self.run.assignments.iter().filter(|(slice, a)| self.is_back_soon(**slice, a));
        let mut back = back.peekable();
        if back.peek().is_none() {
            return false;
        }
        match why.code {
            Code::Taken => {
                let carried = |slice| domain.devices.iter().any(|d| d.source.slice() == slice);
                back.any(|(slice, _)| carried(*slice))
            }
            Code::NoCapacity => {
                let view = self.view();
                let asked = domain.claims.iter().filter_map(|claim| claim.profile.as_ref());
                let serve: BTreeSet<ParentId> =
                    asked.flat_map(|profile| view.devices_offering(profile)).collect();
                back.any(|(_, a)| serve.contains(&self.seen.device_of(&a.parent)))
            }
            _ => false,
        }
    }

    /// Whether the very slice is on its way back, or being cleaned after its last VM.
    pub(super) fn comes_back(&self, slice: SliceId) -> bool {
        let assigned = self.run.assignments.get(&slice);
        assigned.is_some_and(|a| self.is_back_soon(slice, a)) || self.is_being_reset(slice)
    }

    fn is_being_reset(&self, slice: SliceId) -> bool {
        self.resets.contains_key(&slice)
    }

    /// A start waits for its reset, so long and no longer.
    pub(super) fn await_reset(&mut self, slice: SliceId) {
        if let Entry::Vacant(unknown) = self.resets.entry(slice) {
            unknown.insert(false);
            self.push(Effect::Arm { timer: Timer::Reset(slice), after: PATIENCE });
        }
    }

    /// Its reset is over, or whoever waits for it is told that it is not clean.
    pub(super) fn await_reset_no_more(&mut self, slice: SliceId) {
        if self.resets.remove(&slice).is_some() {
            self.push(Effect::Disarm { timer: Timer::Reset(slice) });
        }
    }

    /// A VM that had it was told to have ended.
    pub(super) fn reset_follows_vm(&mut self, slice: SliceId) {
        if let Some(after_vm) = self.resets.get_mut(&slice) {
            *after_vm = true;
        }
    }

    /// Whether its reset failed because that VM's process has it open still, of whose end the watch will tell.
    pub(super) fn vm_lets_go(&self, slice: SliceId, error: &StepError) -> bool {
        let StepError::Held { holders, .. } = error else { return false };
        let vms = !holders.is_empty() && holders.iter().all(|holder| is_vm(&holder.comm));
        let told = self.kept.get(&slice).is_some_and(|kept| kept.watched);
        vms && told && self.resets.get(&slice) == Some(&true)
    }

    fn is_back_soon(&self, slice: SliceId, assignment: &Assignment) -> bool {
        let tries = self.release_tries.get(&slice).copied().unwrap_or_default();
        let returning = assignment.phase == Phase::Releasing;
        returning && tries <= TRIES && self.fault_over(&assignment.parent).is_none()
    }

    /// Why an owner's slice of its last run is not back and will not be in a moment.
    pub(super) fn keeps_from_starting(&self, owner: &Owner) -> Option<Refusal> {
        let own = self.run.assignments.iter().filter(|(_, a)| a.claim.owner == *owner);
        let mut late =
            own.filter(|(slice, a)| a.phase == Phase::Releasing && !self.is_back_soon(**slice, a));
        let (slice, assignment) = late.next()?;
        if let Some(holder) = self.kept.get(slice).and_then(|kept| kept.by.as_ref()) {
            let message = format!(
                "{slice} of its last run is still open in {} (pid {})",
                holder.comm, holder.pid
            );
            return Some(Refusal::new(Code::Held, message).hint(mend::end_process(holder)));
        }
        let trouble = assignment.trouble.as_ref()?;
        let message = format!("{slice} of its last run cannot be taken back");
        let refusal = Refusal::new(Code::DeviceFailed, message).because(trouble.clone());
        Some(refusal.hint(mend::as_the_kernel_says()))
    }

    /// Ends what has a slice, or keeps it from coming back.
    pub(super) fn end_use(&self, slice: SliceId, assignment: &Assignment) -> Hint {
        if assignment.phase != Phase::Releasing {
            return self.end_run(&assignment.claim);
        }
        match self.kept.get(&slice).and_then(|kept| kept.by.as_ref()) {
            Some(holder) => mend::end_process(holder),
            None => mend::as_the_kernel_says(),
        }
    }
}
