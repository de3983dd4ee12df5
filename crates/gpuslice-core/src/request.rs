//! What can be asked of the daemon over D-Bus or its socket, and what it answers. Both transports carry these
//! same types; `--json` prints the rows as they are.

mod planned;
mod status;

pub use planned::{LayoutRow, OverruledRow, PlanRow, StepRow};
pub use status::{RefusedStart, StatusRow};

use crate::domain::{ClaimRequest, Domain, HostDeviceSource};
use crate::driver::DriverOf;
use crate::ids::{ClaimKey, MdevTypeId, Owner, ParentId, PciAddress, ProfileName, SliceId};
use crate::refusal::Refusal;
use crate::state::OnlyIf;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use uuid::Uuid;

/// A question or an order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "command")]
pub enum Command {
    /// Health and settledness.
    Status,
    /// Devices that yield slices.
    ListParents,
    /// What VMs can ask for.
    ListProfiles,
    /// Raw mdev types of each parent.
    ListTypes,
    /// Slices that exist.
    ListSlices,
    /// Claims and what they are bound to.
    ListClaims,
    /// Who had which slice from when to when.
    ListHistory {
        /// Only of this owner (name or id), claim, slice or device.
        #[serde(default)]
        about: Option<String>,
        /// Only what lasted until then or longer: RFC 3339 in UTC with milliseconds.
        #[serde(default)]
        since: Option<String>,
    },
    /// Makes or keeps a claim and says which devices its owner must carry. Idempotent.
    Claim {
        /// Who asks.
        owner: Owner,
        /// The owner's name, for people.
        owner_name: String,
        /// What is asked.
        request: ClaimRequest,
        /// VFs: let other claims name the same home VF. A claim that is there keeps what is left out.
        #[serde(default)]
        pool: Option<bool>,
        /// Hold the capacity even while the owner is stopped; not with `pool`.
        #[serde(default)]
        reserve: Option<bool>,
        /// Only say what would be done.
        #[serde(default)]
        dry_run: bool,
    },
    /// Ends a claim. Refused while its slice is in use, unless forced; never takes a held slice away.
    Unclaim {
        /// Which.
        key: ClaimKey,
        /// Also while its slice is in use: the VM keeps that until it stops, and it is taken back then.
        #[serde(default)]
        force: bool,
    },
    /// What `apply` would do, step by step, and which VMs stand in the way.
    Plan,
    /// Takes the configuration as it is on disk and makes the host so.
    Apply,
    /// Gives a parent no new VMs.
    Cordon {
        /// Which.
        parent: ParentId,
        /// Why, for people.
        #[serde(default)]
        reason: String,
    },
    /// Gives parents no new VMs, and says who still has slices of them. Idempotent.
    Drain {
        /// Which; all that there are, if none is named.
        parents: Vec<ParentId>,
        /// Why, for people, where no other reason is known.
        #[serde(default)]
        reason: String,
        /// Answer when nobody has any, at the latest after so many milliseconds.
        #[serde(default)]
        wait_ms: Option<u64>,
    },
    /// A GPU was exchanged for another one: what is kept of the old one becomes the new one's. Changes nothing when it
    /// is refused. Idempotent.
    Replace {
        /// Was there.
        old: ParentId,
        /// Is there.
        new: ParentId,
    },
    /// Lifts a cordon or a quarantine, takes what the kernel's log said for mended, and has slices that are not clean cleaned again.
    Uncordon {
        /// Which.
        parent: ParentId,
    },
    /// Answered when every layout is realised or cannot be, at the latest after the time given.
    WaitSettled {
        /// Milliseconds, a day at the most.
        timeout_ms: u64,
    },
    /// Makes or keeps a claim of a running domain and prepares its slices, so that libvirt can hot-plug them.
    /// All or none; answered when the devices are ready. Idempotent.
    Plug {
        /// The domain.
        domain: Uuid,
        /// Its name, for people.
        domain_name: String,
        /// What is asked.
        request: ClaimRequest,
        /// VFs: let other claims name the same home VF. A claim that is there keeps what is left out.
        #[serde(default)]
        pool: Option<bool>,
        /// Hold the capacity even while the owner is stopped.
        #[serde(default)]
        reserve: Option<bool>,
        /// The domain's definition makes the claim too; otherwise it ends with its slices.
        #[serde(default)]
        keep: bool,
    },
    /// libvirt did not plug in what was prepared for it: it is taken back.
    PlugFailed {
        /// Which.
        key: ClaimKey,
    },
    /// The agent saw a domain's persistent XML. The answer says which devices of ours it should carry.
    DomainSeen {
        /// As read.
        domain: Domain,
        /// No process runs it.
        shut_off: bool,
    },
    /// The agent saw what a running domain carries: what was hot-plugged is attached, also when it had been taken back
    /// meanwhile, and what is no longer there is released.
    DomainRuns {
        /// As read from its live XML.
        domain: Domain,
    },
    /// The agent saw a domain undefined for good (not renamed).
    DomainGone {
        /// Which.
        uuid: Uuid,
    },
    /// What the agent should do now.
    AgentWork,
}

impl Command {
    /// Whether it asks for rows and changes nothing.
    pub fn is_list(&self) -> bool {
        matches!(
            self,
            Self::ListParents
                | Self::ListProfiles
                | Self::ListTypes
                | Self::ListSlices
                | Self::ListClaims
                | Self::ListHistory { .. }
        )
    }

    /// Whether its answer shows who holds slices, or chooses one: a process that opens a device sends no event, so whoever
    /// answers looks for holders first.
    pub fn shows_slices(&self) -> bool {
        matches!(
            self,
            Self::ListSlices
                | Self::ListProfiles
                | Self::Claim { .. }
                | Self::Plug { .. }
                | Self::Drain { .. }
                | Self::Replace { .. }
        )
    }

    /// Whether it may be answered when something has come, rather than at once.
    pub fn may_wait(&self) -> bool {
        matches!(self, Self::WaitSettled { .. } | Self::Drain { wait_ms: Some(_), .. })
    }
}

/// What is answered. A refusal is the other arm of the result that carries it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "answer")]
pub enum Answer {
    /// To [`Command::Status`].
    Status(StatusRow),
    /// To [`Command::ListParents`].
    Parents {
        /// In address order.
        rows: Vec<ParentRow>,
    },
    /// To [`Command::ListProfiles`].
    Profiles {
        /// In name order.
        rows: Vec<ProfileRow>,
    },
    /// To [`Command::ListTypes`].
    Types {
        /// By parent, then type.
        rows: Vec<TypeRow>,
    },
    /// To [`Command::ListSlices`].
    Slices {
        /// By parent, then address.
        rows: Vec<SliceRow>,
    },
    /// To [`Command::ListClaims`].
    Claims {
        /// By owner, then name.
        rows: Vec<ClaimRow>,
    },
    /// To [`Command::ListHistory`].
    History {
        /// In the order in which they began.
        rows: Vec<HistoryRow>,
    },
    /// To [`Command::Claim`] and [`Command::Plug`].
    Claimed {
        /// Whether anything was not already so.
        changed: bool,
        /// The claim now.
        claim: ClaimRow,
        /// What the owner's XML must carry.
        devices: Vec<DeviceToWrite>,
        /// For people, e.g. overcommit.
        warnings: Vec<String>,
    },
    /// To [`Command::DomainSeen`].
    Domain {
        /// What the XML should carry; devices of ours not in this list are to go.
        devices: Vec<DeviceToWrite>,
        /// Claims that could not be served, with the reason.
        refused: Vec<Refusal>,
        /// Hostdevs that a person picked, which are of claims now.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        adopted: Vec<Adopted>,
    },
    /// To [`Command::DomainRuns`].
    Runs {
        /// Whether anything was not already so.
        changed: bool,
        /// What makes the slices of its claims, to be noted in its live XML.
        #[serde(default)]
        drivers: Vec<DriverOf>,
    },
    /// To [`Command::Plan`] and [`Command::Apply`].
    Plan(PlanRow),
    /// To [`Command::Drain`].
    Drain(DrainRow),
    /// To [`Command::AgentWork`].
    AgentWork {
        /// Shut-off domains to look at again (a device of theirs should change).
        look_again: Vec<Uuid>,
        /// Refused domains that can start now.
        start: Vec<DueStart>,
    },
    /// To every order without a result of its own.
    Done {
        /// Whether anything was not already so.
        changed: bool,
        /// What was done, or `already so`.
        message: String,
    },
}

/// Milliseconds for which a start that was refused is made up for. A boot has brought what it brings by then, and
/// nobody waits for longer: later somebody may have decided otherwise, or runs the VM on another host.
pub const START_LATER: u64 = 600_000;

/// A refused start that can be made up for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct DueStart {
    /// Whose.
    pub domain: Uuid,
    /// What has to be so still.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub only: Option<OnlyIf>,
}

impl Answer {
    /// Whether it holds rows, which may be thousands.
    pub fn is_list(&self) -> bool {
        matches!(
            self,
            Self::Parents { .. }
                | Self::Profiles { .. }
                | Self::Types { .. }
                | Self::Slices { .. }
                | Self::Claims { .. }
                | Self::History { .. }
        )
    }
}

/// A hostdev that belongs into a domain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceToWrite {
    /// Its alias.
    pub alias: String,
    /// What it passes. managed is always `no`: binding is ours.
    pub source: HostDeviceSource,
}

/// A hostdev that was picked in a dialog, and has no metadata yet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Adopted {
    /// The claim that it is of, to be put into the metadata where it lacks.
    pub request: ClaimRequest,
    /// The alias it is to have.
    pub alias: String,
    /// What it passes now; what it is to pass is with the other devices.
    pub picked: HostDeviceSource,
}

/// A row of `gpuslice gpus`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ParentRow {
    /// Address or name.
    pub parent: ParentId,
    /// Of a VF that makes mediated devices: the GPU that it is of.
    #[serde(default)]
    pub pf: Option<ParentId>,
    /// `vendor:device` in hex, empty for virtual parents.
    pub pci_id: String,
    /// Our word for the product, where it is known: `mi300x`.
    #[serde(default)]
    pub model: Option<String>,
    /// Bound driver.
    pub driver: Option<String>,
    /// How it yields slices: `sriov`, `mdev`.
    pub mechanisms: Vec<String>,
    /// NUMA node.
    pub numa_node: Option<u32>,
    /// Device serial number, or the id that its driver shows, if there is one.
    pub serial: Option<String>,
    /// Physical slot, where a layout matches by one: without, none is looked for.
    #[serde(default)]
    pub slot: Option<String>,
    /// VFs enabled.
    pub vfs: Option<u32>,
    /// VFs possible.
    pub total_vfs: Option<u32>,
    /// What it is set to, by the words of a layout.
    #[serde(default)]
    pub modes: BTreeMap<String, String>,
    /// What of that the next load of its driver makes another, and what.
    #[serde(default)]
    pub coming: BTreeMap<String, String>,
    /// The applied layout, in words.
    pub layout: Option<String>,
    /// `ok`, `waiting`, `reshaping`, `cordoned`, `quarantined`, `drift`, `absent`, `no-layout`, `unsliceable`.
    pub state: String,
    /// Why it is in that state.
    pub reason: Option<String>,
    /// Slices assigned, those of its VFs among them.
    pub assigned: u32,
    /// What the kernel's log says of it: `ok`, `degraded`, `failed`.
    #[serde(default = "ok")]
    pub health: String,
    /// The line that says so, with the time since its boot.
    #[serde(default)]
    pub health_reason: Option<String>,
    /// Slices in which something of a VM may be left.
    #[serde(default)]
    pub dirty: u32,
}

fn ok() -> String {
    "ok".to_owned()
}

/// A row of `gpuslice profiles`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProfileRow {
    /// Name to ask for.
    pub profile: ProfileName,
    /// How it is made.
    pub mechanism: String,
    /// Raw type, for mdev.
    #[serde(rename = "type")]
    pub type_id: Option<MdevTypeId>,
    /// What the device calls it.
    pub description: Option<String>,
    /// Memory in bytes, if the device says.
    pub memory: Option<u64>,
    /// Part of a device that one of them is, as `1/6`; absent when the device does not say.
    pub share: Option<String>,
    /// What keeps them apart: `hardware` or `shared`.
    pub isolation: String,
    /// Virtual displays.
    pub heads: Option<u32>,
    /// Licence edition the vendor sells it under.
    pub edition: Option<String>,
    /// Whether a VM that runs can be moved or saved with one, if that is known without opening it.
    #[serde(default)]
    pub migratable: Option<bool>,
    /// Most that can exist on this host, if known.
    pub max: Option<u32>,
    /// How many more can be given now.
    pub free: u32,
    /// How many are given.
    pub used: u32,
    /// Which devices offer it.
    pub parents: Vec<ParentId>,
    /// Which GPUs they are of: themselves, or those that they are VFs of.
    #[serde(default)]
    pub gpus: Vec<ParentId>,
    /// What stands ready to be picked in virt-manager's dialogs: every parked mediated device, and of each device's VFs the
    /// first that is free.
    #[serde(default)]
    pub pick: Vec<SliceId>,
}

/// A row of `gpuslice profiles --types`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TypeRow {
    /// Which device.
    pub parent: ParentId,
    /// Raw type.
    #[serde(rename = "type")]
    pub type_id: MdevTypeId,
    /// `name` attribute.
    pub name: Option<String>,
    /// `description` attribute.
    pub description: Option<String>,
    /// `device_api` attribute.
    pub device_api: String,
    /// `available_instances` attribute.
    pub available_instances: u32,
}

/// A row of `gpuslice slices`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SliceRow {
    /// Stable name.
    pub slice: SliceId,
    /// PCI address, for functions.
    pub address: Option<PciAddress>,
    /// The device that yields it.
    pub parent: ParentId,
    /// 0-based index, for VFs.
    pub vf_index: Option<u32>,
    /// What it is an instance of.
    pub profile: Option<ProfileName>,
    /// How it was made.
    pub mechanism: String,
    /// Bound driver.
    pub driver: Option<String>,
    /// IOMMU group number.
    pub iommu_group: Option<u32>,
    /// `free`, `reserved`, `prepared`, `attached`, `releasing`, `foreign`, `host` (bound to a host driver),
    /// `cordoned`, `quarantined`, `dirty` (held back until it is clean), `parked` (to be picked in a dialog), `parent` (a VF
    /// that makes mediated devices: those are the slices).
    pub state: String,
    /// The claim it is assigned to.
    pub claim: Option<ClaimKey>,
    /// The claim's owner's name, or what else is known of a holder.
    pub holder: Option<String>,
    /// The process of the host that has it open without a claim.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub holder_pid: Option<u32>,
    /// The guest of Proxmox VE that has it without a claim.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vmid: Option<u32>,
    /// The file below a VF's folder that takes the type from it which another program gave it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub type_attribute: Option<String>,
    /// Why something of a VM may be left in it; absent when nothing says so.
    #[serde(default)]
    pub dirty: Option<String>,
}

/// A row of `gpuslice claims`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClaimRow {
    /// Who asks and its name for it.
    pub claim: ClaimKey,
    /// The owner's name, for people.
    pub owner_name: String,
    /// What is asked.
    pub profile: ProfileName,
    /// How many.
    pub count: u32,
    /// `idle`, `reserved`, `prepared`, `attached`, `releasing`, `orphaned`, `lost`.
    pub state: String,
    /// Why it is in that state, where that is not plain.
    pub reason: Option<String>,
    /// Bound slices.
    pub slices: Vec<SliceId>,
    /// Home VFs.
    pub home: Vec<PciAddress>,
    /// Other claims may name the same home VF.
    #[serde(default)]
    pub pool: bool,
    /// Capacity is held while the owner is stopped.
    #[serde(default)]
    pub reserve: bool,
    /// The request as domain XML says it, where it asks for more than so many of a profile.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<Box<ClaimRequest>>,
    /// The last refusal of a start, with its age unknown to programs; for people.
    pub last_refusal: Option<Refusal>,
}

/// A row of `gpuslice history`: who had a slice from when to when.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HistoryRow {
    /// When it was given: RFC 3339 in UTC. Absent when the line that said so is lost.
    pub from: Option<String>,
    /// When it was back; absent while it is given.
    pub to: Option<String>,
    /// Why it ended: `stopped`, `migrated`, `start-failed`, `detached`, `released`, `vanished`, `started-again`, `gpu-gone`,
    /// `rebooted`, `mistaken`, `taken-over`, `unknown`; absent while it is given.
    pub reason: Option<String>,
    /// Whose.
    pub owner: Owner,
    /// The owner's name then.
    pub owner_name: String,
    /// By which claim; absent where there was none.
    pub claim: Option<ClaimKey>,
    /// Which of the claim's slices.
    pub index: u32,
    /// Of which slice.
    pub slice: SliceId,
    /// The device that yielded it.
    pub parent: ParentId,
    /// Of a VF that made it: the GPU that it is of.
    #[serde(default)]
    pub pf: Option<ParentId>,
    /// Our word for the device's product, where it is known.
    pub model: Option<String>,
    /// The device's serial number, or the id that its driver showed, if there was one.
    pub serial: Option<String>,
    /// What it was asked for as; absent where nobody asked us.
    pub profile: Option<ProfileName>,
}

/// What a drain came to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DrainRow {
    /// False when all were cordoned already.
    pub changed: bool,
    /// Nobody has a slice of them.
    pub drained: bool,
    /// Of which devices.
    pub parents: Vec<ParentId>,
    /// Who has one.
    pub blockers: Vec<Refusal>,
}

/// Sent to everyone who listens whenever something changed: kinds of rows to read again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChangeNote {
    /// One of [`Self::KINDS`].
    pub kind: String,
    /// Its name; `*` of all.
    pub id: String,
    /// What happened, for people: `attached to win11`.
    pub what: String,
}

impl ChangeNote {
    /// What listeners tell apart.
    pub const KINDS: [&str; 5] = ["parent", "slice", "claim", "settled", "agent-work"];
}

/// Result of a [`Command`].
pub type Outcome = Result<Answer, Refusal>;
