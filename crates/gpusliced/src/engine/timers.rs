//! Timers of the machine by name; a handful at a time.

use gpuslice_core::machine::Timer;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Armed timers.
#[derive(Debug, Default)]
pub struct Timers {
    armed: BTreeMap<Timer, Instant>,
}

impl Timers {
    /// Arms a timer, or moves it.
    pub fn arm(&mut self, timer: Timer, after_ms: u64) {
        self.armed.insert(timer, Instant::now() + Duration::from_millis(after_ms));
    }

    /// Forgets one.
    pub fn disarm(&mut self, timer: &Timer) {
        self.armed.remove(timer);
    }

    /// When the next is due.
    pub fn next(&self) -> Option<Instant> {
        self.armed.values().min().copied()
    }

    /// Takes those that are.
    pub fn due(&mut self, now: Instant) -> Vec<Timer> {
        let due: Vec<Timer> =
            self.armed.iter().filter(|(_, at)| **at <= now).map(|(t, _)| t.clone()).collect();
        for timer in &due {
            self.armed.remove(timer);
        }
        due
    }
}
