//! Steps: the smallest changes of a host, each with the question it must ask first, its undo and its
//! post-condition. A plan is a list of them; the executor runs one at a time.

use crate::ids::{MdevTypeId, MdevUuid, ParentId, PciAddress, SliceId};
use crate::mode::{Mode, ModeValue};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
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
        /// Words in the kernel's log by which the driver says that it has not made the device ready yet.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        not_ready: Vec<String>,
        /// Words by which it says that somebody has the device open.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        in_the_way: Vec<String>,
        /// A file that says `1` once that was written, if nobody has the device open, and then nobody can open it. The tool asks
        /// for it too, and only when it has taken the VFs off their driver.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        lock: Option<String>,
        /// Below a VF: the attribute that has its type, which would go with it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        attribute: Option<String>,
        /// A run of ours began it for a daemon before this one and has ended: what that left of the PF is mended first.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        resumed: bool,
    },
    /// Writes a whole file of settings that gpuslice owns. Not undone: the next plan writes what layouts say then.
    WriteConfig {
        /// In `/etc/modprobe.d`.
        path: String,
        /// All of it.
        content: String,
    },
    /// Unloads a driver, and with it every VF of its devices. Never begun while one of them is in use: some
    /// drivers then wait inside the kernel, for ever.
    UnloadDriver {
        /// Its name and its module's.
        name: String,
        /// Nodes of the driver's own: while somebody has one open the kernel does not unload it.
        #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
        nodes: BTreeSet<String>,
    },
    /// Loads a driver that makes VFs by itself, of which it says nothing when it is loaded.
    LoadDriver {
        /// Its name and its module's.
        name: String,
        /// The module's parameter that says how many.
        parameter: String,
        /// What it must be.
        value: String,
        /// Other parameters of it that must be so, by name.
        #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
        others: BTreeMap<String, String>,
        /// Words in the kernel's log by which the driver refuses.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        refusals: Vec<String>,
        /// What there is to be on each device when it is done.
        vfs: BTreeMap<PciAddress, u16>,
    },
    /// Sets a mode of a device. Never begun while a slice it takes or resets is in use.
    SetMode {
        /// The device.
        device: PciAddress,
        /// Which mode.
        mode: Mode,
        /// To what.
        value: ModeValue,
        /// The attribute, below the device's directory. It is so when the first or second word of a line reads so.
        attribute: String,
        /// The attribute that lists what can be chosen, a number and a name at the beginning of a line, where the
        /// number is written: numbers are not the same from one load of a driver to the next.
        choices: Option<String>,
        /// The PFs whose VFs it takes or resets.
        disturbs: BTreeSet<PciAddress>,
        /// Words in the kernel's log by which the driver refuses what it takes without an error.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        refusals: Vec<String>,
    },
    /// Has a vendor's tool set a mode of a device, where only that can.
    RunModeTool {
        /// The device.
        device: PciAddress,
        /// Which mode.
        mode: Mode,
        /// Absolute path and arguments.
        command: Vec<String>,
        /// Words by which it says that somebody has the device open.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        in_the_way: Vec<String>,
        /// Where it is seen whether it is so.
        shown: Shown,
        /// The PFs whose VFs it takes or resets; none when it only adds.
        disturbs: BTreeSet<PciAddress>,
    },
    /// Gives a VF the type a VM asked for.
    GiveVfType {
        /// The VF.
        vf: PciAddress,
        /// The attribute, below the VF's directory.
        attribute: String,
        /// What is written, and read back.
        value: String,
        /// Words in the kernel's log by which the driver says that it has not made the device ready yet.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        not_ready: Vec<String>,
    },
    /// Sets the parameters of a slice that is made, for the VM that opens it next.
    SetParameters {
        /// The slice.
        slice: SliceId,
        /// The attribute, below the slice's directory.
        attribute: String,
        /// What is written, and read back; nothing clears all.
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
    /// Binds a driver by `driver_override`, after unbinding one that hands the function to VMs.
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
    /// Resets a function that nobody uses, so that nothing of its last user is left in it.
    Reset {
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
        /// Words in the kernel's log by which the driver says that it has not made the device ready yet.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        not_ready: Vec<String>,
    },
    /// Writes 1 to an mdev's `remove`.
    RemoveMdev {
        /// Which.
        uuid: MdevUuid,
    },
}

/// What a tool that is asked says once something is so.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Shown {
    /// Absolute path and arguments.
    pub by: Vec<String>,
    /// Words that follow each other in a line, and in how many lines.
    pub lines: BTreeMap<String, u16>,
}

impl Step {
    /// Whether the write can sleep in the kernel for as long as a device is in use, and so must run in a process
    /// of its own: while it sleeps not even SIGKILL ends it.
    pub fn can_block(&self) -> bool {
        match self {
            Self::SetNumVfs { .. }
            | Self::RunVfTool { .. }
            | Self::UnloadDriver { .. }
            | Self::LoadDriver { .. }
            | Self::SetMode { .. }
            | Self::RunModeTool { .. }
            | Self::GiveVfType { .. }
            | Self::SetParameters { .. }
            | Self::TakeVfType { .. }
            | Self::Bind { .. }
            | Self::Unbind { .. }
            | Self::Reset { .. }
            | Self::RemoveMdev { .. } => true,
            Self::LoadModule { .. }
            | Self::SetAutoprobe { .. }
            | Self::WriteConfig { .. }
            | Self::RequireUnheld { .. }
            | Self::CreateMdev { .. } => false,
        }
    }

    /// Whether the step changes a device at all.
    pub fn changes(&self) -> bool {
        !matches!(self, Self::RequireUnheld { .. } | Self::LoadModule { .. })
    }

    /// Whether the step takes every slice of its parents away, or resets what a VM would have of them.
    pub fn takes_slices(&self) -> bool {
        matches!(
            self,
            Self::SetNumVfs { count: 0, .. }
                | Self::RunVfTool { count: 0, .. }
                | Self::UnloadDriver { .. }
                | Self::SetMode { .. }
        ) || self.disturbs().next().is_some()
    }

    /// Whether the step runs a vendor's tool, so that what such tools told before may not be so any more.
    pub fn runs_tool(&self) -> bool {
        matches!(self, Self::RunVfTool { .. } | Self::RunModeTool { .. })
    }

    /// Whether others that ask the device meanwhile wait for it, or are in its way.
    pub fn sets_device(&self) -> bool {
        self.runs_tool() || matches!(self, Self::SetMode { .. })
    }

    /// Whether it makes or takes VFs. Kernels (seen: 6.12.107) do that for one device at a time, and the others stand in line.
    pub fn counts_vfs(&self) -> bool {
        matches!(self, Self::SetNumVfs { .. } | Self::RunVfTool { .. })
    }

    /// Devices other than its own whose slices the step takes or resets.
    pub fn disturbs(&self) -> impl Iterator<Item = ParentId> + '_ {
        let devices = match self {
            Self::SetMode { disturbs, .. } | Self::RunModeTool { disturbs, .. } => Some(disturbs),
            _ => None,
        };
        devices.into_iter().flatten().map(|address| ParentId::Pci(*address))
    }

    /// Whether the step is about a driver, and so about every device it has.
    pub fn of_driver(&self) -> bool {
        matches!(self, Self::UnloadDriver { .. } | Self::LoadDriver { .. })
    }

    /// Whether the process that performs it goes on when its daemon dies. Half done, some leave a device without its
    /// driver; and a tool that has been started runs on, so somebody has to be there whom a next daemon can wait for.
    pub fn outlives_daemon(&self) -> bool {
        self.of_driver() || self.runs_tool()
    }

    /// The step that takes this one back; `None` when there is nothing to take back.
    pub fn undo(&self) -> Option<Self> {
        match self {
            Self::SetNumVfs { pf, count } if *count > 0 => {
                Some(Self::SetNumVfs { pf: *pf, count: 0 })
            }
            Self::Bind { function, .. } => Some(Self::Unbind { function: *function }),
            Self::CreateMdev { uuid, .. } => Some(Self::RemoveMdev { uuid: *uuid }),
            Self::GiveVfType { vf, attribute, value, .. } => Some(Self::TakeVfType {
                vf: *vf,
                attribute: attribute.clone(),
                value: value.clone(),
            }),
            // Which way back there is, the mechanism knows: it plans anew from what is seen.
            Self::RunVfTool { .. }
            | Self::WriteConfig { .. }
            | Self::UnloadDriver { .. }
            | Self::LoadDriver { .. }
            | Self::SetMode { .. }
            | Self::RunModeTool { .. }
            | Self::SetParameters { .. }
            | Self::TakeVfType { .. }
            | Self::LoadModule { .. }
            | Self::SetAutoprobe { .. }
            | Self::SetNumVfs { .. }
            | Self::Unbind { .. }
            | Self::RequireUnheld { .. }
            | Self::Reset { .. }
            | Self::RemoveMdev { .. } => None,
        }
    }

    /// Longest time the step may take before its parent is quarantined, in milliseconds. Enabling 64 VFs takes
    /// seconds on slow devices; disabling costs at least one second of settling.
    pub fn deadline_ms(&self) -> u64 {
        match self {
            Self::SetNumVfs { .. } => 60_000,
            // It takes the driver off and on, and tries again while somebody looks at the device.
            Self::RunVfTool { .. } | Self::RunModeTool { .. } => 120_000,
            Self::LoadModule { .. } => 30_000,
            // Its devices go one by one, a second and more for each.
            Self::UnloadDriver { .. } => 120_000,
            // It initialises each device in its own time (firmware, training of links), and some return only then.
            Self::LoadDriver { .. } => 300_000,
            // The device is reset, and with it those it is linked to.
            Self::SetMode { .. } => 180_000,
            // The kernel waits a minute for a function to come back (drivers/pci/pci.c, PCIE_RESET_READY_POLL_MS).
            Self::Reset { .. } => 90_000,
            _ => 15_000,
        }
    }

    /// How long what was written may take to become so, in milliseconds, where the kernel works on after it has
    /// taken the write.
    pub fn patience_ms(&self) -> Option<u64> {
        matches!(self, Self::LoadDriver { .. } | Self::SetMode { .. })
            .then(|| self.deadline_ms() - 30_000)
    }

    /// The slice the step changes, if it changes one.
    pub fn slice(&self) -> Option<SliceId> {
        match self {
            Self::Bind { function, .. }
            | Self::Unbind { function }
            | Self::RequireUnheld { function }
            | Self::Reset { function } => Some(SliceId::Vf(*function)),
            Self::GiveVfType { vf, .. } | Self::TakeVfType { vf, .. } => Some(SliceId::Vf(*vf)),
            Self::CreateMdev { uuid, .. } | Self::RemoveMdev { uuid } => Some(SliceId::Mdev(*uuid)),
            Self::SetParameters { slice, .. } => Some(*slice),
            Self::LoadModule { .. }
            | Self::SetAutoprobe { .. }
            | Self::WriteConfig { .. }
            | Self::UnloadDriver { .. }
            | Self::LoadDriver { .. }
            | Self::SetMode { .. }
            | Self::RunModeTool { .. }
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
            Self::RunVfTool { command, .. } | Self::RunModeTool { command, .. } => {
                write!(f, "run {}", command.join(" "))
            }
            Self::WriteConfig { path, content } => {
                let set = content.lines().filter(|line| !line.starts_with('#'));
                write!(f, "write {:?} to {path}", set.collect::<Vec<_>>().join("; "))
            }
            Self::UnloadDriver { name, .. } => write!(f, "unload driver {name}"),
            Self::LoadDriver { name, parameter, value, others, .. } => {
                write!(f, "load driver {name} with {parameter}={value}")?;
                others.iter().try_for_each(|(name, value)| write!(f, " {name}={value}"))
            }
            Self::SetMode { device, attribute, value, .. } => {
                write!(f, "write {attribute}={value} on {device}")
            }
            Self::GiveVfType { vf, attribute, value, .. } => {
                write!(f, "write {attribute}={value} on {vf}")
            }
            Self::SetParameters { slice, attribute, value } => {
                write!(f, "write {attribute}={value:?} on {slice}")
            }
            Self::TakeVfType { vf, attribute, .. } => write!(f, "write {attribute}=0 on {vf}"),
            Self::Bind { function, driver } => write!(f, "bind {function} to {driver}"),
            Self::Unbind { function } => write!(f, "unbind {function}"),
            Self::Reset { function } => write!(f, "reset {function}"),
            Self::RequireUnheld { function } => write!(f, "see {function} unused"),
            Self::CreateMdev { parent, type_id, uuid, .. } => {
                write!(f, "create mdev {uuid} of type {type_id} on {parent}")
            }
            Self::RemoveMdev { uuid } => write!(f, "remove mdev {uuid}"),
        }
    }
}
