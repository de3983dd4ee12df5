//! Steps on whole devices that a former daemon began, and those on slices that it saw sleep past their time: its child
//! process may still sleep in the kernel with one.

use super::loads::asked;
use super::ops::Purpose;
use super::stuck::stuck;
use super::{Effect, Machine, Stored, Timer};
use crate::ids::ParentId;
use crate::plan::Step;
use std::collections::BTreeSet;

impl Machine {
    /// Waits for each of them in three ways: for its process to end, for what it wrote to show, and for its time.
    pub(super) fn await_former(&mut self) {
        for (parent, step) in &self.run.pending {
            let (parent, step) = (parent.clone(), step.clone());
            let timer = Timer::Unsure(parent.clone());
            self.effects.push(Effect::Arm { timer, after: step.deadline_ms() });
            self.effects.push(Effect::AwaitWriter { parent, step });
        }
        // A device that is quarantined for one has no other time than that.
        for (parent, steps) in &self.run.stuck {
            let of_parent =
                |step: &Step| Effect::AwaitWriter { parent: parent.clone(), step: step.clone() };
            self.effects.extend(steps.iter().map(of_parent));
        }
    }

    pub(super) fn on_writer_found(&mut self, parent: ParentId, step: &Step) {
        if self.run.pending.get(&parent) == Some(step) {
            self.former_writers.insert(parent);
        }
    }

    /// What a process that is gone has not written it will not write. Only what the kernel itself works on may
    /// still come.
    pub(super) fn on_writer_gone(&mut self, parent: &ParentId, step: &Step) {
        if self.run.stuck.get(parent).is_some_and(|steps| steps.contains(step)) {
            self.step_came_back(step, &BTreeSet::from([parent.clone()]));
            self.wipe_again();
            return self.push(Effect::Observe);
        }
        if self.run.pending.get(parent) != Some(step) {
            return;
        }
        self.former_writers.remove(parent);
        if step.patience_ms().is_some() || self.layout_under_way(parent) || self.tool_ended(parent)
        {
            return;
        }
        if let Some(step) = self.run.pending.remove(parent) {
            self.persist(Stored::Runtime);
            self.push(Effect::Disarm { timer: Timer::Unsure(parent.clone()) });
            self.step_came_back(&step, &BTreeSet::from([parent.clone()]));
            self.push(Effect::Observe);
        }
    }

    /// Whether what ended is a vendor's tool. Some take the driver off their device and give it back at the end: it is not over
    /// before it is seen whether there is one.
    fn tool_ended(&mut self, parent: &ParentId) -> bool {
        let tool = matches!(self.run.pending.get(parent), Some(Step::RunVfTool { .. }));
        if tool {
            self.ended_tools.insert(parent.clone());
            self.push(Effect::Observe);
        }
        tool
    }

    /// One that came to its end while its device was without its driver is run anew: no layout could be brought about there.
    fn resume_tools(&mut self) {
        for parent in std::mem::take(&mut self.ended_tools) {
            let Some(step @ Step::RunVfTool { pf, .. }) = self.run.pending.get(&parent).cloned()
            else {
                continue;
            };
            let left = self.between_drivers(&ParentId::Pci(pf));
            let parents = BTreeSet::from([parent.clone()]);
            self.push(Effect::Disarm { timer: Timer::Unsure(parent.clone()) });
            if !left {
                self.run.pending.remove(&parent);
                self.persist(Stored::Runtime);
            }
            self.step_came_back(&step, &parents);
            if left {
                let mut step = step;
                if let Step::RunVfTool { resumed, .. } = &mut step {
                    *resumed = true;
                }
                self.start_op(Purpose::Layout { parents, request: None }, vec![step]);
            }
        }
    }

    /// A step of a former daemon may still be at work in the kernel. It is over when what it wrote is seen.
    pub(super) fn end_unsure(&mut self) {
        self.resume_tools();
        let working: Vec<ParentId> = self
            .ops
            .values()
            .filter_map(|op| match &op.purpose {
                Purpose::Layout { parents, .. } => Some(parents),
                _ => None,
            })
            .flatten()
            .cloned()
            .collect();
        let without = |parent: &&ParentId| self.between_drivers(parent);
        let left: BTreeSet<ParentId> = self.run.pending.keys().filter(without).cloned().collect();
        let seen = &self.seen;
        let before = self.run.pending.len();
        let mut over = Vec::new();
        self.run.pending.retain(|parent, step| {
            let done = match step {
                Step::SetNumVfs { pf, count } => seen.has_vfs(*pf, *count),
                // The driver is the last that it gives back.
                Step::RunVfTool { pf, count, .. } => {
                    seen.has_vfs(*pf, *count) && !left.contains(&ParentId::Pci(*pf))
                }
                Step::UnloadDriver { name, .. } => !seen.driver_loaded(name),
                // One that has not begun is begun anew; of two at once one does nothing.
                Step::LoadDriver { name, vfs, .. } => {
                    let own = asked(parent, vfs);
                    !seen.driver_loaded(name) || own.is_none_or(|(pf, n)| seen.has_vfs(pf, n))
                }
                Step::SetMode { device, mode, value, .. } => {
                    let device = ParentId::Pci(*device);
                    !seen.has_parent(&device) || seen.mode(&device, *mode) == Some(value)
                }
                // Only its process tells when it has done all it does.
                Step::RunModeTool { .. } => false,
                _ => true,
            };
            let keep = working.contains(parent) || !done;
            if !keep {
                over.push((parent.clone(), step.clone()));
            }
            keep
        });
        if self.run.pending.len() != before {
            self.persist(Stored::Runtime);
        }
        for (parent, step) in over {
            self.push(Effect::Disarm { timer: Timer::Unsure(parent.clone()) });
            self.step_came_back(&step, &BTreeSet::from([parent]));
        }
    }

    pub(super) fn on_unsure_over(&mut self, parent: &ParentId) {
        let Some(step) = self.run.pending.get(parent).filter(|_| !self.layout_under_way(parent))
        else {
            return;
        };
        if self.former_writers.contains(parent) {
            let stuck = stuck(step);
            return self.quarantine(parent.clone(), stuck);
        }
        // What a quarantine waits for goes on being waited for.
        if self.durable.quarantines.contains_key(parent) {
            return;
        }
        let text = format!(
            "`{step}` of the daemon before this one never showed; {parent} is read as it is"
        );
        if self.tool_ended(parent) {
            return self.push(Effect::Log { warning: true, text });
        }
        self.run.pending.remove(parent);
        self.persist(Stored::Runtime);
        self.push(Effect::Log { warning: true, text });
        self.push(Effect::Observe);
    }
}
