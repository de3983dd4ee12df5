//! What `gpuslice status` says of the whole.

use crate::refusal::Refusal;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// `gpuslice status`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatusRow {
    /// Version of the daemon.
    pub version: String,
    /// Whether every applied layout is realised or quarantined.
    pub settled: bool,
    /// What is waited for when not settled.
    pub waiting_for: Vec<String>,
    /// What of that comes by itself, as far as anybody can tell: before it has, half of something may be there.
    #[serde(default)]
    pub coming: Vec<String>,
    /// Whether state can be recorded; if not, nothing is given out.
    pub writable: bool,
    /// Errors of the configuration on disk, if the applied layout stays because of them.
    pub config_errors: Vec<String>,
    /// GPUs seen.
    pub parents: u32,
    /// Slices that exist; a VF that makes mediated devices is none.
    pub slices: u32,
    /// Claims known.
    pub claims: u32,
    /// Claims whose slice is with a VM.
    pub attached: u32,
    /// Things a person should know.
    pub warnings: Vec<String>,
    /// The last refused start of each domain without a claim; a claim tells its own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub refused: Vec<RefusedStart>,
    /// `/sys` or the name of the simulated host.
    pub host: String,
}

/// A domain that has no claim, and why it was refused when it was last to start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefusedStart {
    /// Which.
    pub domain: Uuid,
    /// Its name then.
    pub name: String,
    /// What its start was told.
    pub refusal: Refusal,
}
