//! Readings that no event asks for: what could not be read may be readable a moment later, and a driver may not have said
//! yet what its VFs can be.

use super::{Effect, Machine, Timer};
use crate::ids::ParentId;
use crate::observation::Observation;
use std::collections::BTreeMap;

/// Looks in a row after which a problem is taken for lasting; each comes after twice the pause of the last.
const MOST: u32 = 6;

/// Looks at what was not to be seen.
#[derive(Debug, Default)]
pub(super) struct Looks {
    /// How many were ordered since it was something else.
    ordered: u32,
    /// One is to come.
    armed: bool,
    /// Parents whose driver lists nothing that their VFs could be, and how often that was looked at.
    unlisted: BTreeMap<ParentId, u32>,
}

impl Looks {
    /// The problems are to stay, as far as that can be told.
    pub(super) fn lasting(&self) -> bool {
        self.ordered >= MOST
    }

    /// Something was done after which what failed may work.
    pub(super) fn anew(&mut self) {
        self.ordered = 0;
    }

    /// Whether a parent's driver may yet say what its VFs can be. Some never do.
    pub(super) fn awaits_types(&self, parent: &ParentId) -> bool {
        self.unlisted.get(parent).is_some_and(|looks| *looks < MOST)
    }
}

impl Machine {
    /// Has what is not to be seen looked at a few times.
    pub(super) fn look_again(&mut self, before: &Observation) {
        let came = self.note_unlisted();
        let others = self.seen.problems != before.problems || came;
        // A tool that failed may know VFs that came.
        if others || self.seen.vfs.keys().ne(before.vfs.keys()) {
            self.looks.anew();
        }
        let awaited = self.looks.unlisted.values().any(|looks| *looks < MOST);
        if self.seen.problems.is_empty() && !awaited {
            if std::mem::take(&mut self.looks.armed) {
                self.push(Effect::Disarm { timer: Timer::LookAgain });
            }
        } else if self.looks.ordered < MOST && (others || !self.looks.armed) {
            let after = 1000 << self.looks.ordered;
            self.looks.ordered += 1;
            self.looks.armed = true;
            self.push(Effect::Arm { timer: Timer::LookAgain, after });
        }
    }

    /// Notes which parents have VFs of which nothing is said; whether there are others than before among them.
    fn note_unlisted(&mut self) -> bool {
        let silent = |parent: &&ParentId| {
            self.mechanism(parent).is_some_and(|m| !m.lists_types(&self.seen, parent))
        };
        let now: Vec<ParentId> = self.layouts.keys().filter(silent).cloned().collect();
        let unlisted = &mut self.looks.unlisted;
        unlisted.retain(|parent, _| now.contains(parent));
        let before = unlisted.len();
        for parent in now {
            unlisted.entry(parent).or_default();
        }
        unlisted.len() != before
    }

    pub(super) fn on_look_again(&mut self) {
        self.looks.armed = false;
        for looks in self.looks.unlisted.values_mut() {
            *looks += 1;
        }
        self.push(Effect::AskAgain);
        self.push(Effect::Observe);
    }
}
