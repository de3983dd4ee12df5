//! Readings that no event asks for: what could not be read may be readable a moment later.

use super::{Effect, Machine, Timer};
use crate::observation::Observation;

/// Looks in a row after which a problem is taken for lasting; each comes after twice the pause of the last.
const MOST: u32 = 6;

/// Looks at what could not be read.
#[derive(Debug, Default)]
pub(super) struct Looks {
    /// How many were ordered since the problems were others.
    ordered: u32,
    /// One is to come.
    armed: bool,
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
}

impl Machine {
    /// Has what cannot be read looked at a few times.
    pub(super) fn look_again(&mut self, before: &Observation) {
        let others = self.seen.problems != before.problems;
        // A tool that failed may know those that came.
        if others || self.seen.vfs.keys().ne(before.vfs.keys()) {
            self.looks.anew();
        }
        if self.seen.problems.is_empty() {
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

    pub(super) fn on_look_again(&mut self) {
        self.looks.armed = false;
        self.push(Effect::AskAgain);
        self.push(Effect::Observe);
    }
}
