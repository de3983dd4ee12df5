//! Arguments and results of the agent's methods; on the bus they are `a{sv}`.

use gpuslice_core::ids::{ClaimKey, ClaimName, Parameters};
use gpuslice_core::request::DeviceToWrite;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// How to attach.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AttachOptions {
    /// The claim's name; the first free `gpuN` when not given, and the existing claim when the domain has just one
    /// for this profile.
    pub name: Option<ClaimName>,
    /// Change the running VM (hotplug). With neither this nor `config`: the definition only.
    pub live: bool,
    /// Change the definition, as the next start takes it.
    pub config: bool,
    /// Let other claims name the same home VF.
    pub pool: bool,
    /// Hold the capacity even while the VM is off.
    pub reserve: bool,
    /// How many slices, all or none.
    pub count: u32,
    /// All of one fabric; a claim that says so already keeps it.
    pub same_fabric: bool,
    /// All of one NUMA node where possible; a claim that says so already keeps it.
    pub prefer_numa: bool,
    /// For the driver of the slices; a claim that has some keeps them when none are given.
    pub parameters: Option<Parameters>,
}

impl Default for AttachOptions {
    fn default() -> Self {
        Self {
            name: None,
            live: false,
            config: false,
            pool: false,
            reserve: false,
            count: 1,
            same_fabric: false,
            prefer_numa: false,
            parameters: None,
        }
    }
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
