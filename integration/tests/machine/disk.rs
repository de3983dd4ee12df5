//! The two documents as text, on a disk that can refuse.

use crate::past::Past;
use gpuslice_core::machine::{Effect, Stored};
use gpuslice_core::state;

/// What survives the daemon.
#[derive(Debug, Clone, Default)]
pub struct Disk {
    pub durable: Option<String>,
    pub runtime: Option<String>,
    /// Writes to come that fail.
    pub durable_fails: u32,
    pub runtime_fails: u32,
    /// A write failed since this was last set to false.
    pub failed: bool,
    pub history: Past,
}

impl Disk {
    /// Writes the document of a storing effect; `None` for other effects.
    pub fn store(&mut self, effect: &Effect) -> Option<(Stored, Result<(), String>)> {
        let (stored, text) = match effect {
            Effect::StoreDurable(document) => (Stored::Durable, state::print(&**document)),
            Effect::StoreRuntime(document) => (Stored::Runtime, state::print(&**document)),
            _ => return None,
        };
        let (fails, place) = match stored {
            Stored::Durable => (&mut self.durable_fails, &mut self.durable),
            Stored::Runtime => (&mut self.runtime_fails, &mut self.runtime),
        };
        if *fails > 0 {
            *fails -= 1;
            self.failed = true;
            return Some((stored, Err("no space left on device (ENOSPC)".to_owned())));
        }
        *place = Some(text.unwrap());
        Some((stored, Ok(())))
    }

    pub fn mend(&mut self) {
        (self.durable_fails, self.runtime_fails) = (0, 0);
    }

    pub fn durable(&self) -> state::Durable {
        self.durable.as_deref().map(|text| state::parse(text).unwrap()).unwrap_or_default()
    }

    pub fn runtime(&self) -> Option<state::Runtime> {
        self.runtime.as_deref().map(|text| state::parse(text).unwrap())
    }
}
