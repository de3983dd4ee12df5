//! What a plan comes to.

use crate::ids::ParentId;
use crate::refusal::Refusal;
use serde::{Deserialize, Serialize};

/// What a plan does.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlanRow {
    /// False when the host is already so, and what applies is what is written.
    pub changed: bool,
    /// In order.
    pub steps: Vec<StepRow>,
    /// GPUs that get another layout, also where no step comes of it.
    #[serde(default)]
    pub layouts: Vec<LayoutRow>,
    /// What else is taken over: settings, and rules that count for no device now.
    #[serde(default)]
    pub settings: Vec<String>,
    /// What keeps it from being done now.
    pub blockers: Vec<Refusal>,
    /// Matches of the configuration that no device meets.
    pub unmatched: Vec<String>,
    /// Matches of the configuration that devices meet for which other ones come first.
    #[serde(default)]
    pub overruled: Vec<OverruledRow>,
    /// What of `park` cannot be so now, and why; it keeps nothing else from being done.
    #[serde(default)]
    pub unparked: Vec<Refusal>,
    /// What is so only once a driver is loaded again, and what is until then.
    #[serde(default)]
    pub later: Vec<String>,
    /// What of layouts says nothing of the device that they are of; it keeps nothing else from being done.
    #[serde(default)]
    pub ignored: Vec<String>,
}

impl PlanRow {
    /// Whether it does anything.
    pub(crate) fn changes(&self) -> bool {
        !(self.steps.is_empty() && self.layouts.is_empty() && self.settings.is_empty())
    }
}

/// Another layout of a GPU.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayoutRow {
    /// Which.
    pub parent: ParentId,
    /// What it had.
    pub before: Option<String>,
    /// What it gets.
    pub after: Option<String>,
}

/// A match of the configuration that counts for no device, beside one that comes before it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OverruledRow {
    /// Where it is written, and what it asks: `FILE:LINE: match = …`.
    pub rule: String,
    /// Where the one is written that counts: `FILE:LINE`.
    pub by: String,
    /// For which devices.
    pub parents: Vec<ParentId>,
}

/// One step of a plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepRow {
    /// On which device.
    pub parent: ParentId,
    /// In words: `write sriov_numvfs=8`.
    pub step: String,
}
