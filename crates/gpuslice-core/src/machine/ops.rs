//! Operations: lists of steps under way, one step at a time each.

use super::failed::as_a_tool;
use super::loads::{at_fault, left_to_do};
use super::{Effect, HookAnswer, Machine, OpId, RequestId, Stored, Timer};
use crate::execute::{Meaning, Performed, StepError};
use crate::history::Ending;
use crate::ids::{ParentId, SliceId};
use crate::mend;
use crate::plan::Step;
use crate::refusal::{Code, Refusal};
use crate::state::Phase;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// How often what fails for a passing reason is tried before its failure counts.
const PASSING_TRIES: u32 = 5;

/// Milliseconds between two of them.
const PASSING_PAUSE: u64 = 1000;

/// The same where a driver says that it has not come to an end with the device.
const SLOW_PAUSE: u64 = 15_000;

/// Whether a slice came back, and is not clean. While somebody has it open it is not back.
fn failed_to_clean(step: &Step, error: &StepError) -> bool {
    matches!(step, Step::Reset { .. }) && !matches!(error, StepError::Held { .. })
}

/// A list of steps under way.
#[derive(Debug, Clone)]
pub(super) struct Op {
    pub purpose: Purpose,
    /// The one being performed is first.
    pub steps: VecDeque<Step>,
    pub turn: Turn,
    /// Its deadline passed.
    pub overdue: bool,
    /// How often the present step was tried and may still succeed by itself.
    pub tries: u32,
    /// [`Machine::counts_written`] when its step was last given time.
    pub counts_written: u64,
}

/// Where the first of the steps left is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Turn {
    /// Not ordered: it begins now, or after a pause.
    Comes,
    /// What is at work elsewhere has to end first.
    Awaits,
    /// Being performed.
    Has,
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
        /// Parents that refused to make the slice being made, and how.
        refused: BTreeMap<ParentId, Refusal>,
        /// Those that were nobody's before and to which nothing was done yet: they need no taking back.
        fresh: BTreeSet<SliceId>,
    },
    /// A slice is taken back.
    Release {
        /// Which.
        slice: SliceId,
        /// Failures so far.
        tries: u32,
    },
    /// A slice that nobody has is cleaned.
    Wipe {
        /// Which.
        slice: SliceId,
        /// Of which device.
        parent: ParentId,
    },
    /// Devices to be picked from are made or taken away.
    Park {
        /// On which device, itself or its VFs.
        device: ParentId,
        /// Who applied it, if a person did.
        request: Option<RequestId>,
    },
    /// Parents get their layouts.
    Layout {
        /// Which: more than one only where a step for one disturbs the others.
        parents: BTreeSet<ParentId>,
        /// Who applied it, if a person did.
        request: Option<RequestId>,
    },
}

impl Purpose {
    /// Who waits for it.
    pub(super) fn asked_by(&self) -> Option<RequestId> {
        match self {
            Self::Prepare { request, .. }
            | Self::Park { request, .. }
            | Self::Layout { request, .. } => *request,
            Self::Release { .. } | Self::Wipe { .. } => None,
        }
    }

    /// The same; nobody does any more.
    pub(super) fn let_go(&mut self) -> Option<RequestId> {
        match self {
            Self::Prepare { request, .. }
            | Self::Park { request, .. }
            | Self::Layout { request, .. } => request.take(),
            Self::Release { .. } | Self::Wipe { .. } => None,
        }
    }
}

impl Op {
    /// The step may have changed its slice.
    fn begun(&mut self, step: &Step) {
        if let (Purpose::Prepare { fresh, .. }, Some(slice)) = (&mut self.purpose, step.slice())
            && step.changes()
        {
            fresh.remove(&slice);
        }
    }
}

impl Machine {
    pub(super) fn start_op(&mut self, purpose: Purpose, steps: Vec<Step>) -> OpId {
        let op = OpId(self.next_op);
        self.next_op += 1;
        let (steps, counts_written) = (steps.into(), self.counts_written);
        let (turn, overdue, tries) = (Turn::Comes, false, 0);
        self.ops.insert(op, Op { purpose, steps, turn, overdue, tries, counts_written });
        self.next_step(op);
        op
    }

    /// Orders the first step left, or ends the operation.
    pub(super) fn next_step(&mut self, id: OpId) {
        let Some(op) = self.ops.get(&id) else { return };
        let Some(step) = op.steps.front().cloned() else {
            return self.finish(id);
        };
        if let Some(why) = self.must_not_touch(op, &step) {
            return self.give_up(id, why);
        }
        if self.has_to_wait(&step) {
            return self.set_turn(id, Turn::Awaits);
        }
        if let Purpose::Layout { parents, .. } = &op.purpose {
            let pending = parents.iter().map(|parent| (parent.clone(), step.clone()));
            self.run.pending.extend(pending);
            if let Step::UnloadDriver { name, .. } = &step {
                self.run.loaded.remove(name);
            }
            self.persist(Stored::Runtime);
        }
        self.set_turn(id, Turn::Has);
        if let Some(op) = self.ops.get_mut(&id) {
            op.counts_written = self.counts_written;
        }
        self.push(Effect::Arm { timer: Timer::StepDeadline(id), after: step.deadline_ms() });
        self.push(Effect::Execute { op: id, step });
    }

    fn set_turn(&mut self, id: OpId, turn: Turn) {
        if let Some(op) = self.ops.get_mut(&id) {
            op.turn = turn;
        }
    }

    /// A quarantine that came up between two steps of an operation, or while it waited for its turn.
    fn must_not_touch(&self, op: &Op, step: &Step) -> Option<Refusal> {
        if !step.changes() {
            return None;
        }
        let parents = match &op.purpose {
            Purpose::Prepare { .. } => self.parent_of(step.slice()?).into_iter().collect(),
            purpose => self.parents_of(purpose),
        };
        let why = |parent| match &op.purpose {
            Purpose::Release { .. } => self.fault_over(parent),
            _ => self.quarantine_over(parent),
        };
        let (parent, why) = parents.iter().find_map(|parent| Some((parent, why(parent)?)))?;
        let refusal = Refusal::new(Code::Quarantined, format!("{parent} is quarantined"));
        Some(refusal.because(why.message.clone()).hint(mend::uncordon(parent)))
    }

    pub(super) fn on_step_finished(&mut self, id: OpId, result: Result<Performed, StepError>) {
        let Some(op) = self.ops.get_mut(&id) else {
            return;
        };
        let Some(step) = op.steps.front().cloned() else {
            return;
        };
        op.turn = Turn::Comes;
        if std::mem::take(&mut op.overdue) {
            let purpose = op.purpose.clone();
            self.step_came_back(&step, &self.parents_of(&purpose));
        }
        if step.counts_vfs() {
            self.counts_written += 1;
        }
        if step.runs_tool() {
            self.looks.anew();
        }
        self.push(Effect::Disarm { timer: Timer::StepDeadline(id) });
        // What the step did to the host, also one that failed, is seen before anything is decided on it.
        self.push(Effect::Observe);
        if result.is_ok() {
            self.made_anew(&step);
            self.proves_ready(&step);
        }
        let result = result.and_then(|performed| self.made_by_us(id, &step, performed));
        let result = result.or_else(|error| self.as_laid_out(id, error));
        match result {
            Ok(()) => {
                if let Some(op) = self.ops.get_mut(&id) {
                    op.steps.pop_front();
                    op.tries = 0;
                    op.begun(&step);
                }
                match step {
                    Step::Reset { function } => self.note_clean(SliceId::Vf(function)),
                    Step::CreateMdev { uuid, .. } => self.forget_vanished(SliceId::Mdev(uuid)),
                    _ => {}
                }
                self.next_step(id);
            }
            Err(error) if self.try_again(id, &step, &error) => {
                let slow = matches!(
                    (&step, &error),
                    (Step::RunVfTool { .. }, StepError::NotReady { .. })
                        | (_, StepError::Untold { .. })
                );
                let after = if slow { SLOW_PAUSE } else { PASSING_PAUSE };
                self.push(Effect::Arm { timer: Timer::RetryStep(id), after });
            }
            Err(error) => self.step_failed(id, &step, &error),
        }
    }

    /// A vendor's tool fails for as long as anybody looks at the device, a monitor in passing among them; and a driver
    /// may be at work on it by itself.
    fn try_again(&mut self, id: OpId, step: &Step, error: &StepError) -> bool {
        let passes = as_a_tool(step, error) || error.meaning(step) == Meaning::Later;
        // A release is tried again by itself, and sooner; what nobody asked for, later.
        let locked = matches!(error, StepError::Locked { .. });
        let tried = |op: &&mut Op| match op.purpose {
            Purpose::Release { .. } => false,
            Purpose::Layout { request: None, .. } => passes && !locked,
            _ => passes,
        };
        let Some(op) = self.ops.get_mut(&id).filter(tried) else { return false };
        op.tries += 1;
        op.tries < PASSING_TRIES
    }

    /// A tool that was to make several things may have made some of them: it is run for the others, which the next reading
    /// shows.
    pub(super) fn retry_step(&mut self, id: OpId) {
        let Some(Op { purpose: Purpose::Layout { .. }, steps, .. }) = self.ops.get(&id) else {
            return self.next_step(id);
        };
        let Some(Step::RunModeTool { device, shown: wished, .. }) = steps.front() else {
            return self.next_step(id);
        };
        if self.stale {
            return self.push(Effect::Arm { timer: Timer::RetryStep(id), after: PASSING_PAUSE });
        }
        let anew = self.steps_to(&ParentId::Pci(*device), &self.layouts, true).unwrap_or_default();
        let same = |step: &Step| matches!(step, Step::RunModeTool { shown, .. } if shown == wished);
        if let Some(step) = anew.into_iter().find(same)
            && let Some(front) = self.ops.get_mut(&id).and_then(|op| op.steps.front_mut())
        {
            *front = step;
        }
        self.next_step(id);
    }

    /// A device that was nobody's and exists before it is made is somebody else's.
    fn made_by_us(&self, id: OpId, step: &Step, performed: Performed) -> Result<(), StepError> {
        match (self.ops.get(&id).map(|op| &op.purpose), step) {
            (Some(Purpose::Prepare { fresh, .. }), Step::CreateMdev { uuid, .. })
                if performed == Performed::Already
                    && (fresh.contains(&SliceId::Mdev(*uuid))
                        || self.run.vanished.contains(uuid)) =>
            {
                let state = "exists already and was not made by gpuslice".to_owned();
                Err(StepError::Occupied { object: format!("mdev {uuid}"), state })
            }
            (Some(Purpose::Prepare { fresh, .. }), Step::GiveVfType { vf, value, .. })
                if performed == Performed::Already && fresh.contains(&SliceId::Vf(*vf)) =>
            {
                let state = format!("has type {value} already");
                Err(StepError::Occupied { object: format!("VF {vf}"), state })
            }
            _ => Ok(()),
        }
    }

    fn finish(&mut self, id: OpId) {
        let Some(op) = self.ops.remove(&id) else {
            return;
        };
        match op.purpose {
            Purpose::Prepare { request, slices, .. } => self.prepared(request, &slices),
            Purpose::Release { slice, .. } => {
                self.released(slice);
                if self.run.dirty.contains_key(&slice) {
                    self.wipe_again();
                }
            }
            Purpose::Wipe { .. } => {}
            Purpose::Park { device, .. } => self.parking_done(&device),
            Purpose::Layout { parents, request } => self.layout_done(&parents, request, Ok(())),
        }
    }

    fn step_failed(&mut self, id: OpId, step: &Step, error: &StepError) {
        let Some(op) = self.ops.get(&id) else { return };
        match op.purpose.clone() {
            Purpose::Prepare { request, slices, fresh, .. } => {
                self.note_not_ready(step, error);
                match self.place_elsewhere(id, step, error) {
                    Ok(()) => self.next_step(id),
                    Err(refusal) => {
                        self.ops.remove(&id);
                        self.prepare_failed(request, &slices, fresh, (step, error), refusal);
                    }
                }
            }
            // It is free of its VM; what is left in it is no reason to go on.
            Purpose::Release { slice, .. } if failed_to_clean(step, error) => {
                self.ops.remove(&id);
                self.wipe_failed(slice, error);
                self.released(slice);
            }
            Purpose::Wipe { slice, .. } => {
                self.ops.remove(&id);
                self.wipe_failed(slice, error);
                if !self.vm_lets_go(slice, error) {
                    self.await_reset_no_more(slice);
                }
            }
            Purpose::Park { device, request } => {
                let left = self.ops.remove(&id).map(|op| op.steps).unwrap_or_default();
                self.note_not_ready(step, error);
                self.not_applied(request, &device, &left);
                self.parking_failed(&device, step, error);
            }
            Purpose::Release { slice, tries } => {
                self.ops.remove(&id);
                self.release_failed(slice, tries, error);
            }
            Purpose::Layout { parents, request } => {
                let left = self.ops.remove(&id).map(|op| op.steps).unwrap_or_default();
                let at_fault = at_fault(error, &parents);
                let refusal = self.why_layout_failed(step, error, &parents, &at_fault);
                let (left, others) = (left_to_do(error, left), &parents - &at_fault);
                if left.is_empty() || others.is_empty() {
                    return self.layout_done(&parents, request, Err((at_fault, refusal)));
                }
                self.layout_done(&at_fault, request, Err((at_fault.clone(), refusal)));
                self.start_op(Purpose::Layout { parents: others, request }, left);
            }
        }
    }

    /// Nothing is given of what a start was to have. A slice that the step found in use by somebody else it left as it was.
    fn prepare_failed(
        &mut self,
        request: Option<RequestId>,
        slices: &[SliceId],
        mut fresh: BTreeSet<SliceId>,
        (step, error): (&Step, &StepError),
        refusal: Refusal,
    ) {
        let failed = step.slice().filter(|slice| fresh.contains(slice));
        let untouched = error.meaning(step) == Meaning::Others;
        let holder = match error {
            StepError::Held { holders, .. } if untouched => holders.first(),
            _ => None,
        };
        if let (Some(slice), Some(holder)) = (failed, holder) {
            self.held.insert(slice, holder.clone());
        }
        if let (Some(slice), false) = (failed, untouched) {
            fresh.remove(&slice);
        }
        self.refuse_prepare(request, slices, &fresh, refusal);
        if let (Some(slice), Some(holder)) = (failed, holder) {
            self.note_open(slice, holder);
        }
    }

    pub(super) fn quarantine(&mut self, parent: ParentId, why: Refusal) {
        self.note("parent", &parent, format!("quarantined: {why}"));
        self.push(Effect::Log { warning: true, text: format!("{parent} is quarantined: {why}") });
        // Of faults the first is the one to mend; a write that sleeps may end by itself and lift what it caused. That a layout
        // cannot be met is none, and is said again.
        let kept = self.durable.quarantines.get(&parent).map(|kept| kept.code);
        let stuck = kept == Some(Code::DeviceStuck) && why.code != Code::BadConfig;
        if kept.is_none_or(|kept| stuck || kept == Code::BadConfig) {
            self.durable.quarantines.insert(parent, why);
            self.persist(Stored::Durable);
        }
    }

    /// A person says that a device may be touched again, also by whoever waited for a step of a former daemon.
    pub(super) fn lift_quarantine(&mut self, parent: &ParentId) -> bool {
        let lifted = self.durable.quarantines.remove(parent).is_some();
        self.repairs.remove(parent);
        if self.run.stuck.remove(parent).is_some() {
            self.persist(Stored::Runtime);
        }
        if lifted && !self.layout_under_way(parent) && self.run.pending.remove(parent).is_some() {
            self.persist(Stored::Runtime);
            self.push(Effect::Disarm { timer: Timer::Unsure(parent.clone()) });
        }
        lifted
    }

    /// Why a parent, or the PF it is a VF of, is not touched.
    pub(super) fn quarantine_over(&self, parent: &ParentId) -> Option<&Refusal> {
        let above = self.seen.pf_of(parent);
        let quarantines = &self.durable.quarantines;
        quarantines.get(parent).or_else(|| quarantines.get(&above?))
    }

    /// The fault for which a parent is not even touched to take slices back. That its layout cannot be met is none of its own,
    /// and mending that may need the slices back.
    pub(super) fn fault_over(&self, parent: &ParentId) -> Option<&Refusal> {
        self.quarantine_over(parent).filter(|why| why.code != Code::BadConfig)
    }

    pub(super) fn parents_of(&self, purpose: &Purpose) -> BTreeSet<ParentId> {
        match purpose {
            Purpose::Layout { parents, .. } => parents.clone(),
            Purpose::Release { slice, .. } => self.parent_of(*slice).into_iter().collect(),
            Purpose::Wipe { parent, .. } | Purpose::Park { device: parent, .. } => {
                BTreeSet::from([parent.clone()])
            }
            Purpose::Prepare { slices, .. } => {
                slices.iter().filter_map(|s| self.parent_of(*s)).collect()
            }
        }
    }

    pub(super) fn parent_of(&self, slice: SliceId) -> Option<ParentId> {
        Some(self.run.assignments.get(&slice)?.parent.clone())
    }

    /// Whether an operation goes on although nothing can be recorded: it takes a slice back rather than giving it,
    /// and its device may be touched whatever was not recorded.
    pub(super) fn may_go_on(&self, id: OpId) -> bool {
        let Some(Op { purpose: purpose @ Purpose::Release { .. }, steps, .. }) = self.ops.get(&id)
        else {
            return false;
        };
        let touches = steps.front().is_some_and(Step::changes);
        !touches || self.parents_of(purpose).iter().all(|p| self.fault_over(p).is_none())
    }

    /// Whether an operation works on the parent as a whole.
    pub(super) fn reshaping(&self, parent: &ParentId) -> bool {
        self.run.pending.contains_key(parent) || self.layout_under_way(parent)
    }

    pub(super) fn layout_under_way(&self, parent: &ParentId) -> bool {
        self.ops.values().any(
            |op| matches!(&op.purpose, Purpose::Layout { parents, .. } if parents.contains(parent)),
        )
    }

    /// Whether a slice is being worked on.
    pub(super) fn working_on(&self, slice: SliceId) -> bool {
        self.ops.values().any(|op| match &op.purpose {
            Purpose::Prepare { slices, .. } => slices.contains(&slice),
            Purpose::Release { slice: s, .. } | Purpose::Wipe { slice: s, .. } => *s == slice,
            Purpose::Park { .. } => op.steps.iter().any(|step| step.slice() == Some(slice)),
            Purpose::Layout { .. } => false,
        })
    }

    /// Drops an operation whose first or next step was never ordered, for want of a record.
    pub(super) fn abandon(&mut self, id: OpId, why: &Refusal) {
        self.give_up(id, why.clone());
    }

    /// Ends an operation between two steps.
    fn give_up(&mut self, id: OpId, why: Refusal) {
        let Some(mut op) = self.ops.remove(&id) else {
            return;
        };
        if let Some(step) = op.steps.front().cloned().filter(|_| op.tries > 0) {
            op.begun(&step);
        }
        self.push(Effect::Disarm { timer: Timer::StepDeadline(id) });
        self.push(Effect::Disarm { timer: Timer::RetryStep(id) });
        match op.purpose {
            Purpose::Prepare { request, slices, fresh, .. } => {
                self.refuse_prepare(request, &slices, &fresh, why);
            }
            Purpose::Layout { parents, request } => {
                let before = self.run.pending.len();
                self.run.pending.retain(|parent, _| !parents.contains(parent));
                if self.run.pending.len() != before {
                    self.persist(Stored::Runtime);
                }
                self.apply_failed(request, &parents, why);
            }
            Purpose::Release { slice, .. } => {
                let trouble = [vec![why.message], why.causes].concat().join(": ");
                self.postpone(slice, trouble);
            }
            // It stays as dirty as it was.
            Purpose::Wipe { slice, .. } => self.await_reset_no_more(slice),
            // It is tried again when its device may be touched.
            Purpose::Park { request, .. } => self.apply_failed(request, &BTreeSet::new(), why),
        }
    }

    /// A hook went away before it was told: libvirt is not going to use what is being made for it.
    pub(super) fn on_hook_gone(&mut self, gone: RequestId) {
        self.parked.retain(|(request, _)| *request != gone);
        self.put_off.remove(&gone);
        self.guest_gone(gone);
        // It was answered, but the answer found nobody: libvirt takes it for a failed start.
        for slice in self.told.remove(&gone).unwrap_or_default() {
            if self.run.assignments.get(&slice).is_some_and(|a| a.phase == Phase::Prepared) {
                self.begin_release(slice, Ending::StartFailed);
            }
        }
        for op in self.ops.values_mut() {
            if let Purpose::Prepare { request, .. } = &mut op.purpose
                && *request == Some(gone)
            {
                // Its steps end as they do; then the slices are released, since nobody waits.
                *request = None;
            }
        }
    }

    /// Tells whoever waits for a preparation that it comes to nothing.
    pub(super) fn tell_refused(&mut self, request: RequestId, refusal: Refusal) {
        if self.plugs.remove(&request).is_some() {
            return self.plug_refused(request, &refusal);
        }
        let text = format!("start refused: {refusal}");
        self.push(Effect::Log { warning: true, text });
        self.push(Effect::AnswerHook { request, answer: HookAnswer::Refuse(refusal) });
    }

    /// An answer that was to go out cannot: takes back what it promised.
    pub(super) fn take_back(&mut self, request: RequestId) {
        let slices = self.answered.remove(&request).unwrap_or_default();
        for slice in slices {
            if let Some(assignment) = self.run.assignments.get_mut(&slice)
                && assignment.phase == Phase::Prepared
            {
                assignment.phase = Phase::Releasing;
                self.begin_release(slice, Ending::StartFailed);
            }
        }
    }
}
