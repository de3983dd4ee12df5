//! The record of a run. Full parts are shared between clones, so that a machine with a long past is still cheap
//! to clone.

use super::command::{Command, Outcome};
use super::uevent::Uevent;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

const CHUNK: usize = 256;

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum What {
    /// Something was done to the machine.
    Did(Command, Outcome),
    /// The kernel told.
    Uevent(Uevent),
    /// A writer that slept woke up.
    Woke(String, Outcome),
}

/// When it happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Entry {
    pub(crate) ms: u64,
    #[serde(flatten)]
    pub(crate) what: What,
}

#[derive(Debug, Clone, Default)]
pub(crate) struct Log {
    full: Vec<Arc<Vec<Entry>>>,
    last: Vec<Entry>,
}

impl Log {
    pub(crate) fn push(&mut self, ms: u64, what: What) {
        self.last.push(Entry { ms, what });
        if self.last.len() == CHUNK {
            self.full.push(Arc::new(std::mem::take(&mut self.last)));
        }
    }

    pub(crate) fn lines(&self) -> Vec<String> {
        let full = self.full.iter().flat_map(|chunk| chunk.iter());
        full.chain(&self.last)
            .map(|entry| serde_json::to_string(entry).unwrap_or_else(|e| e.to_string()))
            .collect()
    }
}
