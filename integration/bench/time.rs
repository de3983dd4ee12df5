//! Times of repeated runs, and what is said of them.

use std::time::{Duration, Instant};

/// Sorted durations.
pub(crate) struct Times(Vec<Duration>);

impl Times {
    pub(crate) fn of(mut all: Vec<Duration>) -> Self {
        all.sort();
        Self(all)
    }

    /// All of several measurements, as one.
    pub(crate) fn together(several: Vec<Self>) -> Self {
        Self::of(several.into_iter().flat_map(|times| times.0).collect())
    }

    fn share(&self, share: f64) -> Duration {
        let last = self.0.len() - 1;
        self.0[(last as f64 * share).round() as usize]
    }

    fn at(&self, share: f64) -> f64 {
        self.share(share).as_secs_f64() * 1e3
    }

    /// The median itself.
    pub(crate) fn middle(&self) -> Duration {
        self.share(0.5)
    }

    /// Milliseconds.
    pub(crate) fn median(&self) -> f64 {
        self.at(0.5)
    }

    /// Milliseconds.
    pub(crate) fn fastest(&self) -> f64 {
        self.at(0.0)
    }

    /// Milliseconds.
    pub(crate) fn slowest(&self) -> f64 {
        self.at(1.0)
    }

    /// Milliseconds.
    pub(crate) fn p99(&self) -> f64 {
        self.at(0.99)
    }
}

/// Runs candidates by turns, so that a disturbance of the machine meets all of them, and drops the first round.
pub(crate) fn by_turns<const N: usize>(
    rounds: usize,
    mut candidates: [&mut dyn FnMut(); N],
) -> [Times; N] {
    let mut all = [const { Vec::new() }; N];
    for round in 0..=rounds {
        for (candidate, times) in candidates.iter_mut().zip(&mut all) {
            let began = Instant::now();
            candidate();
            let took = began.elapsed();
            if round > 0 {
                times.push(took);
            }
        }
    }
    all.map(Times::of)
}
