//! Vendors' tools that are in each other's way. NVIDIA's `sriov-manage` takes a GPU off its driver and needs it idle;
//! `nvidia-smi`, whichever GPU it sets, may look at all of them. So those of one kind run side by side, and those of the
//! other wait until they have ended. What is only asked waits for both (see [`crate::plan::Step::runs_tool`]).

use super::ops::Turn;
use super::{Machine, OpId};
use crate::plan::Step;

impl Machine {
    /// Whether tools of the other kind are at work. One that is past its time is waited for by nobody.
    pub(super) fn has_to_wait(&self, step: &Step) -> bool {
        let ours = self.ops.values().filter(|op| op.turn == Turn::Has && !op.overdue);
        let ours = ours.filter_map(|op| op.steps.front());
        let former = self.run.pending.iter().filter(|(parent, _)| {
            !self.layout_under_way(parent) && !self.durable.quarantines.contains_key(*parent)
        });
        let former = former.map(|(_, step)| step);
        ours.chain(former).any(|other| in_the_way(other, step))
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

fn in_the_way(one: &Step, other: &Step) -> bool {
    let kind = |step: &Step| matches!(step, Step::RunVfTool { .. });
    one.runs_tool() && other.runs_tool() && kind(one) != kind(other)
}
