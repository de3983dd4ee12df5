//! Vendors' tools that are in each other's way. NVIDIA's `sriov-manage` takes a GPU off its driver and needs it idle;
//! `nvidia-smi`, whichever GPU it sets, may look at all of them. So those of one kind run side by side, and those of the
//! other wait until they have ended. What is only asked waits for both (see [`crate::plan::Step::runs_tool`]).
//!
//! The tool that makes VFs tells the kernel's stub the ids of its device for a while, and takes that back at the end: of two
//! devices with the same ids one run takes it from the other, and the stub takes what is the other's. So it runs for one
//! device of a model at a time.

use super::ops::{Purpose, Turn};
use super::{Machine, OpId};
use crate::ids::{ParentId, PciAddress};
use crate::plan::Step;
use std::collections::BTreeMap;

impl Machine {
    /// Also what waits for its turn: its steps are fixed, and were made for devices that nobody used.
    pub(super) fn being_laid_out(&self) -> BTreeMap<ParentId, Step> {
        let mut steps = self.run.pending.clone();
        for op in self.ops.values() {
            let (Purpose::Layout { parents, .. }, Some(step)) = (&op.purpose, op.steps.front())
            else {
                continue;
            };
            for parent in parents {
                steps.entry(parent.clone()).or_insert_with(|| step.clone());
            }
        }
        steps
    }

    /// Whether tools that it is not to run beside are at work. One that is past its time is waited for by nobody.
    pub(super) fn has_to_wait(&self, step: &Step) -> bool {
        let former = self.run.pending.iter().filter(|(parent, _)| {
            !self.layout_under_way(parent) && !self.durable.quarantines.contains_key(*parent)
        });
        let former = former.map(|(_, step)| step);
        self.at_work().chain(former).any(|other| self.keeps_waiting(other, step))
    }

    /// Whether a step is at work during which none of them is asked how its devices are set: what was told is what is known.
    pub(super) fn nothing_is_asked(&self) -> bool {
        self.at_work().any(Step::sets_device)
    }

    /// Steps of ours whose turn it is, and that are not past their time.
    fn at_work(&self) -> impl Iterator<Item = &Step> {
        let ours = self.ops.values().filter(|op| op.turn == Turn::Has && !op.overdue);
        ours.filter_map(|op| op.steps.front())
    }

    fn keeps_waiting(&self, one: &Step, other: &Step) -> bool {
        match (one, other) {
            (Step::RunVfTool { pf: one, .. }, Step::RunVfTool { pf: other, .. }) => {
                let ids =
                    |pf: &PciAddress| self.seen.functions.get(pf).map(|f| (f.vendor, f.device));
                ids(one) == ids(other)
            }
            (Step::RunVfTool { .. }, _) | (_, Step::RunVfTool { .. }) => {
                one.runs_tool() && other.runs_tool()
            }
            _ => false,
        }
    }

    /// Goes on with those that waited, in their order.
    pub(super) fn give_turns(&mut self) {
        let waiting = self.ops.iter().filter(|(_, op)| op.turn == Turn::Awaits);
        let waiting: Vec<OpId> = waiting.map(|(id, _)| *id).collect();
        for id in waiting {
            self.next_step(id);
        }
    }
}
