//! Steps: the smallest changes of a host, each with the question it must ask first, its undo and its
//! post-condition. A plan is a list of them; the executor runs one at a time.

use crate::ids::{MdevTypeId, MdevUuid, ParentId, PciAddress, SliceId};
use serde::{Deserialize, Serialize};
use std::fmt;

/// One change.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "step")]
pub enum Step {
    /// Loads a kernel module. Never undone: others may use it by then.
    LoadModule {
        /// Its name.
        name: String,
    },
    /// Writes `sriov_drivers_autoprobe`, which is read when VFs are added.
    SetAutoprobe {
        /// The PF.
        pf: PciAddress,
        /// Whether host drivers may take new VFs.
        on: bool,
    },
    /// Writes `sriov_numvfs`. From 0, or to 0 when no VF is held.
    SetNumVfs {
        /// The PF.
        pf: PciAddress,
        /// How many.
        count: u16,
    },
    /// Has a vendor's tool make all VFs or take them away, where the driver refuses a write to `sriov_numvfs`.
    RunVfTool {
        /// The PF.
        pf: PciAddress,
        /// How many there are to be when it is done.
        count: u16,
        /// Absolute path and arguments.
        command: Vec<String>,
    },
    /// Gives a VF the type a VM asked for.
    GiveVfType {
        /// The VF.
        vf: PciAddress,
        /// The attribute, below the VF's directory.
        attribute: String,
        /// What is written, and read back.
        value: String,
    },
    /// Takes the type from a VF again.
    TakeVfType {
        /// The VF.
        vf: PciAddress,
        /// The attribute, below the VF's directory.
        attribute: String,
        /// What it was given: what has another type by now is not ours to clear.
        value: String,
    },
    /// Binds a driver by `driver_override`, after unbinding a present one.
    Bind {
        /// The function.
        function: PciAddress,
        /// The driver's name.
        driver: String,
    },
    /// Leaves a function without driver and without override.
    Unbind {
        /// The function.
        function: PciAddress,
    },
    /// Changes nothing, and fails while anybody holds the function: for one whose binding is libvirt's.
    RequireUnheld {
        /// The function.
        function: PciAddress,
    },
    /// Writes a UUID to a type's `create`.
    CreateMdev {
        /// On which device.
        parent: ParentId,
        /// Of which type.
        type_id: MdevTypeId,
        /// Which name.
        uuid: MdevUuid,
    },
    /// Writes 1 to an mdev's `remove`.
    RemoveMdev {
        /// Which.
        uuid: MdevUuid,
    },
}

impl Step {
    /// Whether the write can sleep in the kernel for as long as a device is in use, and so must run in a process
    /// of its own: while it sleeps not even SIGKILL ends it.
    pub fn can_block(&self) -> bool {
        match self {
            Self::SetNumVfs { .. }
            | Self::RunVfTool { .. }
            | Self::GiveVfType { .. }
            | Self::TakeVfType { .. }
            | Self::Bind { .. }
            | Self::Unbind { .. }
            | Self::RemoveMdev { .. } => true,
            Self::LoadModule { .. }
            | Self::SetAutoprobe { .. }
            | Self::RequireUnheld { .. }
            | Self::CreateMdev { .. } => false,
        }
    }

    /// Whether the step changes a device at all.
    pub fn changes(&self) -> bool {
        !matches!(self, Self::RequireUnheld { .. } | Self::LoadModule { .. })
    }

    /// The step that takes this one back; `None` when there is nothing to take back.
    pub fn undo(&self) -> Option<Self> {
        match self {
            Self::SetNumVfs { pf, count } if *count > 0 => {
                Some(Self::SetNumVfs { pf: *pf, count: 0 })
            }
            Self::Bind { function, .. } => Some(Self::Unbind { function: *function }),
            Self::CreateMdev { uuid, .. } => Some(Self::RemoveMdev { uuid: *uuid }),
            Self::GiveVfType { vf, attribute, value } => Some(Self::TakeVfType {
                vf: *vf,
                attribute: attribute.clone(),
                value: value.clone(),
            }),
            // Which way back there is, the mechanism knows: it plans anew from what is seen.
            Self::RunVfTool { .. }
            | Self::TakeVfType { .. }
            | Self::LoadModule { .. }
            | Self::SetAutoprobe { .. }
            | Self::SetNumVfs { .. }
            | Self::Unbind { .. }
            | Self::RequireUnheld { .. }
            | Self::RemoveMdev { .. } => None,
        }
    }

    /// Longest time the step may take before its parent is quarantined, in milliseconds. Enabling 64 VFs takes
    /// seconds on slow devices; disabling costs at least one second of settling.
    pub fn deadline_ms(&self) -> u64 {
        match self {
            Self::SetNumVfs { .. } => 60_000,
            // It takes the driver off and on, and tries again while somebody looks at the device.
            Self::RunVfTool { .. } => 120_000,
            Self::LoadModule { .. } => 30_000,
            _ => 15_000,
        }
    }

    /// The slice the step changes, if it changes one.
    pub fn slice(&self) -> Option<SliceId> {
        match self {
            Self::Bind { function, .. }
            | Self::Unbind { function }
            | Self::RequireUnheld { function } => Some(SliceId::Vf(*function)),
            Self::GiveVfType { vf, .. } | Self::TakeVfType { vf, .. } => Some(SliceId::Vf(*vf)),
            Self::CreateMdev { uuid, .. } | Self::RemoveMdev { uuid } => Some(SliceId::Mdev(*uuid)),
            Self::LoadModule { .. }
            | Self::SetAutoprobe { .. }
            | Self::SetNumVfs { .. }
            | Self::RunVfTool { .. } => None,
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::LoadModule { name } => write!(f, "load module {name}"),
            Self::SetAutoprobe { pf, on } => {
                write!(f, "write sriov_drivers_autoprobe={} on {pf}", u8::from(*on))
            }
            Self::SetNumVfs { pf, count } => write!(f, "write sriov_numvfs={count} on {pf}"),
            Self::RunVfTool { command, .. } => write!(f, "run {}", command.join(" ")),
            Self::GiveVfType { vf, attribute, value } => {
                write!(f, "write {attribute}={value} on {vf}")
            }
            Self::TakeVfType { vf, attribute, .. } => write!(f, "write {attribute}=0 on {vf}"),
            Self::Bind { function, driver } => write!(f, "bind {function} to {driver}"),
            Self::Unbind { function } => write!(f, "unbind {function}"),
            Self::RequireUnheld { function } => write!(f, "see {function} unused"),
            Self::CreateMdev { parent, type_id, uuid } => {
                write!(f, "create mdev {uuid} of type {type_id} on {parent}")
            }
            Self::RemoveMdev { uuid } => write!(f, "remove mdev {uuid}"),
        }
    }
}
