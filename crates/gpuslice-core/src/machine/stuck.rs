//! Writes that sleep in the kernel past their time: their device is quarantined for as long as they do, and nobody waits.

use super::ops::Purpose;
use super::{Effect, Machine, OpId, RequestId, Stored, Timer};
use crate::hint;
use crate::ids::{ParentId, SliceId};
use crate::plan::Step;
use crate::refusal::{Code, Refusal};
use std::collections::BTreeSet;

/// A step that is past its time.
pub(super) fn stuck(step: &Step) -> Refusal {
    Refusal::new(Code::DeviceStuck, format!("`{step}` has not come back from the kernel"))
        .because(format!("it was given {} seconds", step.deadline_ms() / 1000))
        .hint(hint!(
            "stop the VM or process that uses the device; it is cleared when the write returns"
        ))
}

impl Machine {
    /// The write sleeps in the kernel, perhaps for ever. Nothing waits for it, and nothing else touches the device.
    pub(super) fn on_step_deadline(&mut self, id: OpId) {
        let Some(op) = self.ops.get_mut(&id) else {
            return;
        };
        let Some(step) = op.steps.front().cloned() else {
            return;
        };
        // As long as writes of others come back it may only stand in line.
        if step.counts_vfs() && op.counts_written != self.counts_written {
            op.counts_written = self.counts_written;
            let timer = Timer::StepDeadline(id);
            return self.push(Effect::Arm { timer, after: step.deadline_ms() });
        }
        op.overdue = true;
        let purpose = op.purpose.clone();
        let request = op.purpose.let_go();
        let stuck = self.with_its_users(stuck(&step), &step, &purpose);
        self.push(Effect::Log { warning: true, text: stuck.to_string() });
        if !matches!(purpose, Purpose::Layout { .. }) {
            for parent in self.parents_of(&purpose) {
                self.run.stuck.entry(parent).or_default().insert(step.clone());
            }
            self.persist(Stored::Runtime);
        }
        match purpose {
            Purpose::Prepare { slices, .. } => {
                self.quarantine_of(&slices, &stuck);
                if let Some(request) = request {
                    self.tell_refused(request, stuck);
                }
            }
            Purpose::Release { slice, .. } => self.quarantine_of(&[slice], &stuck),
            Purpose::Wipe { parent, .. } => self.quarantine(parent, stuck),
            Purpose::Park { device, .. } => {
                self.give_up_stuck(&BTreeSet::from([device]), request, stuck);
            }
            Purpose::Layout { parents, .. } => self.give_up_stuck(&parents, request, stuck),
        }
    }

    fn give_up_stuck(
        &mut self,
        parents: &BTreeSet<ParentId>,
        request: Option<RequestId>,
        why: Refusal,
    ) {
        for parent in parents {
            self.quarantine(parent.clone(), why.clone());
        }
        self.apply_failed(request, parents, why);
    }

    /// Whose end lets a write go on, where it is known.
    fn with_its_users(&self, stuck: Refusal, step: &Step, purpose: &Purpose) -> Refusal {
        let of_slice = step.slice().and_then(|slice| self.run.assignments.get(&slice));
        let end = of_slice
            .map(|a| self.end_run(&a.claim))
            .or_else(|| self.in_the_way(&self.parents_of(purpose)).find_map(|why| why.way_out()));
        match end {
            Some(end) => stuck.hint(hint!("{} (it goes on when the write returns)", end)),
            None => stuck,
        }
    }

    fn quarantine_of(&mut self, slices: &[SliceId], why: &Refusal) {
        let parents: BTreeSet<_> = slices.iter().filter_map(|s| self.parent_of(*s)).collect();
        for parent in parents {
            self.quarantine(parent, why.clone());
        }
    }

    /// Parents with a write that sleeps past its time.
    pub(super) fn stuck_parents(&self) -> BTreeSet<ParentId> {
        let overdue = self.ops.values().filter(|op| op.overdue);
        overdue.flat_map(|op| self.parents_of(&op.purpose)).collect()
    }

    /// A stuck write returned: what was quarantined for it alone is free again.
    pub(super) fn step_came_back(&mut self, step: &Step, parents: &BTreeSet<ParentId>) {
        let text = format!("`{step}` came back from the kernel");
        self.push(Effect::Log { warning: false, text });
        let mut parents = parents.clone();
        for (parent, steps) in &mut self.run.stuck {
            if steps.remove(step) {
                parents.insert(parent.clone());
                self.dirty.insert(Stored::Runtime);
            }
        }
        self.run.stuck.retain(|_, steps| !steps.is_empty());
        let mut stuck = self.stuck_parents();
        stuck.extend(self.run.stuck.keys().cloned());
        let caused = |parent: &&ParentId| {
            let why = self.durable.quarantines.get(*parent);
            why.is_some_and(|why| why.code == Code::DeviceStuck) && !stuck.contains(*parent)
        };
        let lifted: Vec<ParentId> = parents.iter().filter(caused).cloned().collect();
        for parent in lifted {
            self.durable.quarantines.remove(&parent);
            self.persist(Stored::Durable);
            // A step of a former daemon was not given up as long as the quarantine lasted.
            if let Some(step) =
                self.run.pending.get(&parent).filter(|_| !self.layout_under_way(&parent))
            {
                let after = step.deadline_ms();
                self.push(Effect::Arm { timer: Timer::Unsure(parent), after });
            }
        }
    }
}
