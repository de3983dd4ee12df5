//! Readings that no event asks for: what could not be read may be readable a moment later, and a driver may not have said
//! yet what its VFs can be, or not have been given all of them.

use super::{Effect, Machine, Timer};
use crate::ids::{ParentId, PciAddress};
use crate::observation::Observation;
use std::collections::{BTreeMap, BTreeSet};

/// Looks in a row after which a problem is taken for lasting; each comes after twice the pause of the last.
const MOST: u32 = 6;

/// Milliseconds before the first.
const FIRST: u64 = 1_000;

/// Milliseconds that all of them take.
const ALL: u64 = (FIRST << MOST) - FIRST;

/// What VFs of a parent may yet get, and no event tells that they have all of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Lack {
    /// Types that they could be. Some drivers never list any.
    Types,
    /// Their driver.
    Driver,
}

/// How long somebody has waited for it. Of each parent by itself, since what happens to others says nothing of it.
#[derive(Debug)]
struct Waited {
    /// The VFs, where it is not all of them: with each that gets it there is news of the others.
    vfs: Vec<PciAddress>,
    /// Milliseconds between looks that found no news.
    ms: u64,
}

/// Looks at what was not to be seen.
#[derive(Debug, Default)]
pub(super) struct Looks {
    /// How many were ordered since it was something else.
    ordered: u32,
    /// One is to come, after so many milliseconds.
    armed: Option<u64>,
    lacks: BTreeMap<(ParentId, Lack), Waited>,
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

    /// Whether a parent's driver may yet say what its VFs can be.
    pub(super) fn awaits_types(&self, parent: &ParentId) -> bool {
        self.awaits(parent, Lack::Types)
    }

    /// Whether whoever makes a parent's VFs may yet give all of them their driver.
    pub(super) fn awaits_drivers(&self, parent: &ParentId) -> bool {
        self.awaits(parent, Lack::Driver)
    }

    fn awaits(&self, parent: &ParentId, lack: Lack) -> bool {
        self.lacks.get(&(parent.clone(), lack)).is_some_and(|waited| waited.ms < ALL)
    }
}

impl Machine {
    /// Has what is not to be seen looked at a few times.
    pub(super) fn look_again(&mut self, before: &Observation) {
        let came = self.note_lacks();
        // A text that is another at each look is the same problem.
        let paths = |seen: &Observation| -> BTreeSet<String> {
            seen.problems.iter().map(|problem| problem.path.clone()).collect()
        };
        let others = came || paths(&self.seen) != paths(before);
        // A tool that failed may know VFs that came.
        if others || self.seen.vfs.keys().ne(before.vfs.keys()) {
            self.looks.anew();
        }
        let awaited = self.looks.lacks.values().any(|waited| waited.ms < ALL);
        if self.seen.problems.is_empty() && !awaited {
            if self.looks.armed.take().is_some() {
                self.push(Effect::Disarm { timer: Timer::LookAgain });
            }
        } else if self.looks.ordered < MOST && (others || self.looks.armed.is_none()) {
            let after = FIRST << self.looks.ordered;
            self.looks.ordered += 1;
            self.looks.armed = Some(after);
            self.push(Effect::Arm { timer: Timer::LookAgain, after });
        }
    }

    /// Notes what VFs of layouts lack; whether it is anything else than before.
    fn note_lacks(&mut self) -> bool {
        let mut now = BTreeMap::new();
        for parent in self.layouts.keys() {
            if self.mechanism(parent).is_some_and(|m| !m.lists_types(&self.seen, parent)) {
                now.insert((parent.clone(), Lack::Types), Vec::new());
            }
            let bare = self.unusable_without_driver(parent);
            if !bare.is_empty() {
                now.insert((parent.clone(), Lack::Driver), bare);
            }
        }
        let mut before = std::mem::take(&mut self.looks.lacks);
        let mut came = false;
        for (what, vfs) in now {
            let same = before.remove(&what).filter(|waited| waited.vfs == vfs);
            came |= same.is_none();
            self.looks.lacks.insert(what, same.unwrap_or(Waited { vfs, ms: 0 }));
        }
        came
    }

    pub(super) fn on_look_again(&mut self) {
        let pause = self.looks.armed.take().unwrap_or_default();
        for waited in self.looks.lacks.values_mut() {
            waited.ms = waited.ms.saturating_add(pause);
        }
        self.push(Effect::AskAgain);
        self.push(Effect::Observe);
    }
}
