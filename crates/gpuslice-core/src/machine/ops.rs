//! Operations: lists of steps under way, one step at a time each.

use super::{Effect, HookAnswer, Machine, OpId, RequestId, Stored, Timer};
use crate::execute::{Performed, StepError};
use crate::ids::{ParentId, SliceId};
use crate::plan::Step;
use crate::refusal::{Code, Refusal};
use crate::state::Phase;
use std::collections::{BTreeSet, VecDeque};

/// A list of steps under way.
#[derive(Debug, Clone)]
pub(super) struct Op {
    pub purpose: Purpose,
    /// The one being performed is first.
    pub steps: VecDeque<Step>,
    /// Its deadline passed.
    pub overdue: bool,
}

/// What for.
#[derive(Debug, Clone)]
pub(super) enum Purpose {
    /// A start waits for these slices.
    Prepare {
        /// The hook; `None` once it was refused or went away.
        request: Option<RequestId>,
        /// What is being made.
        slices: Vec<SliceId>,
        /// Parents that refused to make the slice being made.
        refused: BTreeSet<ParentId>,
    },
    /// A slice is taken back.
    Release {
        /// Which.
        slice: SliceId,
        /// Failures so far.
        tries: u32,
    },
    /// A parent gets its layout.
    Layout {
        /// Which.
        parent: ParentId,
        /// Who applied it, if a person did.
        request: Option<RequestId>,
    },
}

impl Machine {
    pub(super) fn start_op(&mut self, purpose: Purpose, steps: Vec<Step>) -> OpId {
        let op = OpId(self.next_op);
        self.next_op += 1;
        self.ops.insert(op, Op { purpose, steps: steps.into(), overdue: false });
        self.next_step(op);
        op
    }

    /// Orders the first step left, or ends the operation.
    fn next_step(&mut self, id: OpId) {
        let Some(op) = self.ops.get(&id) else { return };
        let Some(step) = op.steps.front().cloned() else {
            return self.finish(id);
        };
        if let Purpose::Layout { parent, .. } = &op.purpose {
            self.run.pending.insert(parent.clone(), step.clone());
            self.persist(Stored::Runtime);
        }
        self.push(Effect::Arm { timer: Timer::StepDeadline(id), after: step.deadline_ms() });
        self.push(Effect::Execute { op: id, step });
    }

    pub(super) fn on_step_finished(&mut self, id: OpId, result: Result<Performed, StepError>) {
        let Some(op) = self.ops.get_mut(&id) else {
            return;
        };
        let Some(step) = op.steps.front().cloned() else {
            return;
        };
        let was_overdue = std::mem::take(&mut op.overdue);
        self.push(Effect::Disarm { timer: Timer::StepDeadline(id) });
        if was_overdue {
            self.step_came_back(&step);
        }
        match result {
            Ok(_) => {
                if let Some(op) = self.ops.get_mut(&id) {
                    op.steps.pop_front();
                }
                // What the step did to the host is seen before anything is decided on it.
                self.push(Effect::Observe);
                self.next_step(id);
            }
            Err(error) => self.step_failed(id, &step, &error),
        }
    }

    fn finish(&mut self, id: OpId) {
        let Some(op) = self.ops.remove(&id) else {
            return;
        };
        match op.purpose {
            Purpose::Prepare { request, slices, .. } => self.prepared(request, &slices),
            Purpose::Release { slice, .. } => self.released(slice),
            Purpose::Layout { parent, request } => self.layout_done(&parent, request, Ok(())),
        }
    }

    fn step_failed(&mut self, id: OpId, step: &Step, error: &StepError) {
        let Some(op) = self.ops.get(&id) else { return };
        match op.purpose.clone() {
            Purpose::Prepare { request, slices, .. } => {
                if request.is_some() && self.place_elsewhere(id, step, error) {
                    return self.next_step(id);
                }
                self.ops.remove(&id);
                let refusal = self.explain_failed_prepare(step, error);
                self.refuse_prepare(request, &slices, refusal);
            }
            Purpose::Release { slice, tries } => {
                self.ops.remove(&id);
                self.release_failed(slice, tries, error);
            }
            Purpose::Layout { parent, request } => {
                self.ops.remove(&id);
                let refusal = Refusal::new(Code::DeviceFailed, format!("cannot {step}"))
                    .because(error.to_string())
                    .hint(format!("dmesg | grep {parent}; then gpuslice uncordon {parent}"));
                self.layout_done(&parent, request, Err(refusal));
            }
        }
    }

    /// The write sleeps in the kernel, perhaps for ever. Nothing waits for it, and nothing else touches the device.
    pub(super) fn on_step_deadline(&mut self, id: OpId) {
        let Some(op) = self.ops.get_mut(&id) else {
            return;
        };
        op.overdue = true;
        let Some(step) = op.steps.front().cloned() else {
            return;
        };
        let purpose = op.purpose.clone();
        let stuck = Refusal::new(
            Code::DeviceStuck,
            format!("`{step}` has not come back from the kernel"),
        )
        .because(format!("it was given {} seconds", step.deadline_ms() / 1000))
        .hint("stop the VM or process that uses the device; it is cleared when the write returns");
        self.push(Effect::Log { warning: true, text: stuck.to_string() });
        match purpose {
            Purpose::Prepare { request, slices, .. } => {
                if let Some(Op { purpose: Purpose::Prepare { request, .. }, .. }) =
                    self.ops.get_mut(&id)
                {
                    *request = None;
                }
                self.quarantine_of(&slices, &stuck);
                if let Some(request) = request {
                    self.push(Effect::AnswerHook { request, answer: HookAnswer::Refuse(stuck) });
                }
            }
            Purpose::Release { slice, .. } => self.quarantine_of(&[slice], &stuck),
            Purpose::Layout { parent, request } => {
                self.quarantine(parent, stuck.clone());
                if let Some(request) = request {
                    self.push(Effect::Answer { request, outcome: Err(stuck) });
                    if let Some(Op { purpose: Purpose::Layout { request, .. }, .. }) =
                        self.ops.get_mut(&id)
                    {
                        *request = None;
                    }
                }
            }
        }
    }

    fn quarantine_of(&mut self, slices: &[SliceId], why: &Refusal) {
        let parents: BTreeSet<_> = slices
            .iter()
            .filter_map(|s| Some(self.run.assignments.get(s)?.parent.clone()))
            .collect();
        for parent in parents {
            self.quarantine(parent, why.clone());
        }
    }

    pub(super) fn quarantine(&mut self, parent: ParentId, why: Refusal) {
        self.note("parent", &parent, format!("quarantined: {why}"));
        self.push(Effect::Log { warning: true, text: format!("{parent} is quarantined: {why}") });
        self.durable.quarantines.insert(parent, why);
        self.persist(Stored::Durable);
    }

    /// A stuck write returned: what was quarantined for it alone is free again.
    fn step_came_back(&mut self, step: &Step) {
        let text = format!("`{step}` came back from the kernel");
        self.push(Effect::Log { warning: false, text });
        let told = format!("`{step}` ");
        let before = self.durable.quarantines.len();
        self.durable
            .quarantines
            .retain(|_, why| why.code != Code::DeviceStuck || !why.message.starts_with(&told));
        if self.durable.quarantines.len() != before {
            self.persist(Stored::Durable);
        }
    }

    /// Whether an operation takes slices back rather than giving them.
    pub(super) fn op_releases(&self, id: OpId) -> bool {
        matches!(self.ops.get(&id), Some(Op { purpose: Purpose::Release { .. }, .. }))
    }

    /// Whether an operation works on the parent as a whole.
    pub(super) fn reshaping(&self, parent: &ParentId) -> bool {
        self.run.pending.contains_key(parent)
            || self
                .ops
                .values()
                .any(|op| matches!(&op.purpose, Purpose::Layout { parent: p, .. } if p == parent))
    }

    /// Whether a slice is being worked on.
    pub(super) fn working_on(&self, slice: SliceId) -> bool {
        self.ops.values().any(|op| match &op.purpose {
            Purpose::Prepare { slices, .. } => slices.contains(&slice),
            Purpose::Release { slice: s, .. } => *s == slice,
            Purpose::Layout { .. } => false,
        })
    }

    /// Drops an operation whose first or next step was never ordered, for want of a record.
    pub(super) fn abandon(&mut self, id: OpId, why: &Refusal) {
        let Some(op) = self.ops.remove(&id) else {
            return;
        };
        self.push(Effect::Disarm { timer: Timer::StepDeadline(id) });
        match op.purpose {
            Purpose::Prepare { request, slices, .. } => {
                self.refuse_prepare(request, &slices, why.clone());
            }
            Purpose::Layout { parent, request } => {
                self.run.pending.remove(&parent);
                if let Some(request) = request {
                    self.push(Effect::Answer { request, outcome: Err(why.clone()) });
                }
            }
            Purpose::Release { .. } => {}
        }
    }

    /// A hook went away before it was told: libvirt is not going to use what is being made for it.
    pub(super) fn on_hook_gone(&mut self, gone: RequestId) {
        self.parked.retain(|(request, _)| *request != gone);
        for op in self.ops.values_mut() {
            if let Purpose::Prepare { request, .. } = &mut op.purpose
                && *request == Some(gone)
            {
                // Its steps end as they do; then the slices are released, since nobody waits.
                *request = None;
            }
        }
    }

    /// An answer that was to go out cannot: takes back what it promised.
    pub(super) fn take_back(&mut self, request: RequestId) {
        let slices = self.answered.remove(&request).unwrap_or_default();
        for slice in slices {
            if let Some(assignment) = self.run.assignments.get_mut(&slice)
                && assignment.phase == Phase::Prepared
            {
                assignment.phase = Phase::Releasing;
                self.begin_release(slice);
            }
        }
    }
}
