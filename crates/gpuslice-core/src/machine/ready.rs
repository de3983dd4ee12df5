//! Devices whose driver has them and is at work on them still, of which only a refused step tells: they are waited for, as
//! what is to appear is, and a start that was refused for that is made up for. No event tells when they are ready.

use super::{Effect, Machine, Timer};
use crate::execute::{Meaning, StepError};
use crate::ids::ParentId;
use crate::plan::Step;

/// How often in a row one is waited for; each wait is twice the last. After that it is refused like one with a fault.
const MOST: u32 = 6;

/// Milliseconds of the first.
const FIRST: u64 = 5_000;

/// A device that was not ready.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct NotReady {
    /// Waits since it was.
    waits: u32,
    /// One is on.
    waited_for: bool,
}

/// What is waited for, in words.
pub(super) fn awaited(device: &ParentId) -> String {
    format!("{device} to be made ready by its driver")
}

impl Machine {
    /// The device on which a step makes a slice.
    fn made_on(&self, step: &Step) -> Option<ParentId> {
        let parent = match step {
            Step::CreateMdev { parent, .. } => parent.clone(),
            Step::GiveVfType { vf, .. } => ParentId::Pci(*vf),
            _ => return None,
        };
        Some(self.seen.device_of(&parent))
    }

    /// A step failed, perhaps because its device is not ready.
    pub(super) fn note_not_ready(&mut self, step: &Step, error: &StepError) {
        if error.meaning(step) != Meaning::Later {
            return;
        }
        let Some(device) = self.made_on(step) else { return };
        let of = self.not_ready.entry(device.clone()).or_default();
        if of.waited_for || of.waits == MOST {
            return;
        }
        let after = FIRST << of.waits;
        *of = NotReady { waits: of.waits + 1, waited_for: true };
        self.push(Effect::Arm { timer: Timer::Ready(device), after });
    }

    /// It has had time; whether it is ready, the next step tells.
    pub(super) fn on_ready_over(&mut self, device: &ParentId) {
        if let Some(of) = self.not_ready.get_mut(device) {
            of.waited_for = false;
        }
        self.park_failed.clear();
    }

    /// A slice was made there.
    pub(super) fn proves_ready(&mut self, step: &Step) {
        if let Some(device) = self.made_on(step)
            && self.not_ready.remove(&device).is_some()
        {
            self.push(Effect::Disarm { timer: Timer::Ready(device) });
        }
    }

    /// The device of a step that is waited for.
    pub(super) fn awaits_ready(&self, step: &Step) -> Option<ParentId> {
        self.made_on(step).filter(|device| self.waited_for(device))
    }

    fn waited_for(&self, device: &ParentId) -> bool {
        self.not_ready.get(device).is_some_and(|of| of.waited_for)
    }

    /// All that are.
    pub(super) fn all_not_ready(&self) -> impl Iterator<Item = &ParentId> {
        self.not_ready.keys().filter(|device| self.waited_for(device))
    }
}
