//! Arguments and results of the agent's methods; on the bus they are `a{sv}`.

use gpuslice_core::ids::{ClaimKey, ClaimName, Parameters};
use gpuslice_core::request::DeviceToWrite;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// How to attach. What is left out of a claim that is there stays as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AttachOptions {
    /// The claim's name; the first free `gpuN` when not given, and the existing claim when the domain has just one
    /// for this profile.
    pub name: Option<ClaimName>,
    /// Change the running VM (hotplug). With neither this nor `config`: the definition only.
    pub live: bool,
    /// Change the definition, as the next start takes it.
    pub config: bool,
    /// Whether other claims may name the same home VF; of a new claim they may not.
    pub pool: Option<bool>,
    /// Whether the capacity is held even while the VM is off; for a new claim it is not.
    pub reserve: Option<bool>,
    /// How many slices, all or none; of a new claim one.
    pub count: Option<u32>,
    /// Whether all have to be of one fabric; those of a new claim need not.
    pub same_fabric: Option<bool>,
    /// Whether all are to be of one NUMA node where possible; those of a new claim are not.
    pub prefer_numa: Option<bool>,
    /// Whether each has to be on a NUMA node that the domain is on; those of a new claim need not.
    pub require_numa: Option<bool>,
    /// For the driver of the slices; a new claim has none.
    pub parameters: Option<Parameters>,
}

/// What `Attach` did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attached {
    /// Whether anything was not already so.
    pub changed: bool,
    /// For people: `attached gpu0 (nvidia-a40-8q) to win11; it takes effect at the next start`.
    pub message: String,
    /// The claim.
    pub claim: ClaimKey,
    /// The domain's name.
    pub domain: String,
    /// What the XML carries now.
    pub devices: Vec<DeviceToWrite>,
    /// For people, e.g. overcommit.
    pub warnings: Vec<String>,
}

/// How to detach.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DetachOptions {
    /// Change the running VM (hot-unplug). With neither this nor `config`: the definition only.
    pub live: bool,
    /// Change the definition.
    pub config: bool,
}

/// What `Detach` did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Detached {
    /// Whether anything was not already so.
    pub changed: bool,
    /// For people.
    pub message: String,
    /// The domain's name.
    pub domain: String,
    /// For people.
    pub warnings: Vec<String>,
}

/// What `Resolve` found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DomainInfo {
    /// Its UUID.
    pub uuid: Uuid,
    /// Its name.
    pub name: String,
    /// Whether a process runs it.
    pub running: bool,
}
