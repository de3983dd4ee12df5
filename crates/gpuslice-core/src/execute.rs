//! Performs one step on a host: asks who holds what it would take away, writes, and looks whether it is so now.
//! Drivers report success on refusal, and udev's view comes later than the write's return.

mod binding;
mod config_file;
mod driver;
mod kernel_log;
mod mdev;
mod meaning;
mod mode;
mod parameters;
mod sriov;
mod tool;
mod vf_type;

pub use config_file::{MARK as CONFIG_MARK, is_own as is_own_config};
pub use meaning::Meaning;

use crate::errno::Errno;
use crate::holders::{self, Holder};
use crate::ids::PciAddress;
use crate::plan::Step;
use crate::port::{HostRead, HostWrite, Written};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// How a step ended that did not fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Performed {
    /// It is so, and was not before.
    Changed,
    /// It was so already.
    Already,
    /// Written, but not so yet: look again with [`check`].
    NotYet,
    /// The writer sleeps in the kernel.
    Blocked,
}

/// Why a step failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "kebab-case", tag = "failure")]
pub enum StepError {
    /// The kernel refused an operation.
    #[error("{operation}: {errno}")]
    Errno {
        /// Operation and object: `write /sys/…/create`.
        operation: String,
        /// Its answer.
        errno: Errno,
    },
    /// The kernel refused an operation, and says itself that nothing is left.
    #[error("{operation}: {errno}, and none is left")]
    NoneLeft {
        /// Operation and object.
        operation: String,
        /// Its answer.
        errno: Errno,
    },
    /// The kernel refused an operation, and the driver says more in the log.
    #[error("{operation}: {errno}; the kernel's log: {said}")]
    Said {
        /// Operation and object.
        operation: String,
        /// Its answer.
        errno: Errno,
        /// What was said.
        said: String,
    },
    /// The driver is at work on the device still, which it says in the kernel's log alone.
    #[error("{operation}: {answer}; its driver is not ready, as the kernel's log says: {said}")]
    NotReady {
        /// Operation and object, or a tool's command line.
        operation: String,
        /// How it ended.
        answer: String,
        /// What was said.
        said: String,
    },
    /// Its device is not initialised, so that nobody can tell how it is set.
    #[error("{object} cannot tell now: {said}")]
    Untold {
        /// Of what.
        object: String,
        /// What is read in the place of a value.
        said: String,
    },
    /// The kernel refused an operation because somebody has a node of the driver open.
    #[error("{operation}: {errno}; {} has {node} open", describe(.holders, &[]))]
    Open {
        /// Operation and object.
        operation: String,
        /// Its answer.
        errno: Errno,
        /// A node that is open.
        node: String,
        /// In which processes.
        holders: Vec<Holder>,
    },
    /// Somebody has the device open.
    #[error("{object} is held by {}", describe(.holders, .unknown))]
    Held {
        /// What is held.
        object: String,
        /// By whom.
        holders: Vec<Holder>,
        /// Processes that could not be looked into.
        unknown: Vec<u32>,
    },
    /// Somebody has the device open, which its lock alone tells.
    #[error("somebody has {pf} open ({lock} cannot be had)")]
    Locked {
        /// The PF.
        pf: PciAddress,
        /// The lock's file.
        lock: String,
    },
    /// It would go with what is taken away.
    #[error("mdev {uuid} is on VF {vf}")]
    Mediated {
        /// The VF.
        vf: PciAddress,
        /// The mdev.
        uuid: crate::ids::MdevUuid,
    },
    /// So would this.
    #[error("VF {vf} has type {value}")]
    Typed {
        /// The VF.
        vf: PciAddress,
        /// Below it, what has the type.
        attribute: String,
        /// The type.
        value: String,
    },
    /// A driver alone makes VFs, and there is none now.
    #[error("{pf} has no driver")]
    NoDriver {
        /// The PF.
        pf: PciAddress,
    },
    /// The driver made fewer VFs than asked and called it success.
    #[error("the driver of {pf} made {got} of {asked} VFs")]
    Fewer {
        /// The PF.
        pf: PciAddress,
        /// Wanted.
        asked: u16,
        /// Seen.
        got: u16,
    },
    /// The write was taken, and yet it is not so.
    #[error("{object} {state}")]
    Unchanged {
        /// Of what.
        object: String,
        /// What is seen instead.
        state: String,
    },
    /// The driver refused, and said so in the kernel's log alone.
    #[error("{object} was refused by its driver; the kernel's log: {said}")]
    Refused {
        /// Of what.
        object: String,
        /// What it said.
        said: String,
    },
    /// A driver was loaded, and some of its devices did not get the VFs asked for.
    #[error("driver {driver} is loaded, but did not make the VFs asked for of {}{}", each(.short), in_the_log(.said))]
    Short {
        /// Its name.
        driver: String,
        /// Those devices.
        short: BTreeSet<PciAddress>,
        /// What it said of it in the kernel's log.
        said: Option<String>,
    },
    /// A driver of the host took it since it was looked at: it is no longer anybody's to give away.
    #[error("{function} is used by the host's driver {driver}")]
    HostDriver {
        /// What it took.
        function: PciAddress,
        /// Its name.
        driver: String,
    },
    /// It is taken already, by something that was not made by us.
    #[error("{object} {state}")]
    Occupied {
        /// Of what.
        object: String,
        /// What is seen.
        state: String,
    },
    /// A vendor's tool ended in failure.
    #[error("{command} ended with {code}{}", said_last(.said))]
    Tool {
        /// Path and arguments.
        command: String,
        /// Exit status, or 128 and the signal that ended it.
        code: i32,
        /// Last line it printed.
        said: String,
    },
    /// A vendor's tool has not done its work, and says that somebody has the device open.
    #[error("{command} ended with {code}{}", said_last(.said))]
    Opened {
        /// Path and arguments.
        command: String,
        /// Exit status, which may be 0 all the same.
        code: i32,
        /// The line that says so.
        said: String,
    },
    /// Only a change through zero VFs is possible, and that is not this step's to do.
    #[error("{pf} has {current} VFs, not 0")]
    NotZero {
        /// The PF.
        pf: PciAddress,
        /// Seen.
        current: u16,
    },
}

fn said_last(said: &str) -> String {
    if said.is_empty() { String::new() } else { format!(": {said}") }
}

fn each(addresses: &BTreeSet<PciAddress>) -> String {
    addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

fn in_the_log(said: &Option<String>) -> String {
    said.as_ref().map(|said| format!("; the kernel's log: {said}")).unwrap_or_default()
}

fn describe(holders: &[Holder], unknown: &[u32]) -> String {
    let mut parts: Vec<String> =
        holders.iter().map(|h| format!("{} (pid {})", h.comm, h.pid)).collect();
    parts.extend(
        unknown.iter().map(|pid| format!("perhaps pid {pid}, which cannot be looked into")),
    );
    parts.join(", ")
}

impl StepError {
    /// The errno, if the kernel gave one.
    pub fn errno(&self) -> Option<Errno> {
        match self {
            Self::Errno { errno, .. }
            | Self::NoneLeft { errno, .. }
            | Self::Said { errno, .. }
            | Self::Open { errno, .. } => Some(*errno),
            _ => None,
        }
    }
}

/// Performs a step. Idempotent: what is so already is left alone.
///
/// # Errors
/// See [`StepError`]; nothing is written when a holder is found.
pub fn perform(host: &mut dyn HostWrite, step: &Step) -> Result<Performed, StepError> {
    match step {
        Step::LoadModule { name } => {
            if driver::loaded(host, name)? {
                return Ok(Performed::Already);
            }
            host.load_module(name).map_err(failed(format!("load module {name}")))?;
            Ok(Performed::Changed)
        }
        Step::SetAutoprobe { pf, on } => sriov::set_autoprobe(host, *pf, *on),
        Step::SetNumVfs { pf, count } => sriov::set_count(host, *pf, *count),
        Step::RunVfTool { pf, count, command, not_ready, in_the_way, lock, attribute, resumed } => {
            let (count, resumed, lock) = (*count, *resumed, lock.as_deref());
            let asked = tool::Asked { count, command, not_ready, in_the_way, lock, resumed };
            tool::run(host, *pf, &asked, attribute.as_deref())
        }
        Step::RunModeTool { device, command, in_the_way, shown, disturbs, .. } => {
            tool::set_mode(host, *device, command, in_the_way, shown, disturbs)
        }
        Step::WriteConfig { path, content } => config_file::write(host, path, content),
        Step::UnloadDriver { name, nodes } => driver::unload(host, name, nodes),
        Step::LoadDriver { name, parameter, value, others, refusals, vfs } => {
            let parameter = driver::Parameter { name: parameter, value, others };
            driver::load(host, name, &parameter, vfs, refusals)
        }
        Step::SetMode { device, value, attribute, choices, disturbs, refusals, .. } => {
            let at = mode::At { device: *device, attribute, choices: choices.as_deref() };
            mode::set(host, &at, value, disturbs, refusals)
        }
        Step::GiveVfType { vf, attribute, value, not_ready } => {
            vf_type::give(host, *vf, attribute, value, not_ready)
        }
        Step::SetParameters { slice, attribute, value } => {
            parameters::set(host, *slice, attribute, value)
        }
        Step::TakeVfType { vf, attribute, value } => vf_type::take(host, *vf, attribute, value),
        Step::Bind { function, driver } => binding::bind(host, *function, driver),
        Step::Unbind { function } => binding::unbind(host, *function),
        Step::RequireUnheld { function } => {
            let nodes = holders::nodes_of_function(host, *function);
            require_unheld(host, &function.to_string(), nodes)?;
            Ok(Performed::Already)
        }
        Step::Reset { function } => binding::reset(host, *function),
        Step::CreateMdev { parent, type_id, uuid, not_ready } => {
            mdev::create(host, parent, type_id, *uuid, not_ready)
        }
        Step::RemoveMdev { uuid } => mdev::remove(host, *uuid),
    }
}

/// Whether the step's post-condition holds: `Changed` when it does, `NotYet` when it may come, an error when it
/// will not.
///
/// # Errors
/// See [`StepError`].
pub fn check(host: &dyn HostRead, step: &Step) -> Result<Performed, StepError> {
    match step {
        Step::LoadModule { .. } | Step::SetAutoprobe { .. } | Step::RequireUnheld { .. } => {
            Ok(Performed::Changed)
        }
        // Nothing shows it afterwards: without the answer to the write it is not known.
        Step::Reset { .. } => Ok(Performed::NotYet),
        Step::SetNumVfs { pf, count } | Step::RunVfTool { pf, count, .. } => {
            sriov::check_count(host, *pf, *count)
        }
        Step::WriteConfig { path, content } => config_file::check(host, path, content),
        Step::UnloadDriver { name, .. } => driver::check_unloaded(host, name),
        Step::LoadDriver { name, parameter, value, others, vfs, .. } => {
            let parameter = driver::Parameter { name: parameter, value, others };
            driver::check_loaded(host, name, &parameter, vfs)
        }
        Step::SetMode { device, value, attribute, choices, disturbs, .. } => {
            let at = mode::At { device: *device, attribute, choices: choices.as_deref() };
            mode::check(host, &at, value, disturbs)
        }
        Step::RunModeTool { shown, .. } => tool::check_mode(host, shown),
        Step::GiveVfType { vf, attribute, value, .. } => {
            vf_type::check(host, *vf, attribute, value)
        }
        Step::SetParameters { slice, attribute, value } => {
            parameters::check(host, *slice, attribute, value)
        }
        Step::TakeVfType { vf, attribute, .. } => {
            vf_type::check(host, *vf, attribute, vf_type::NONE)
        }
        Step::Bind { function, driver } => binding::check(host, *function, Some(driver)),
        Step::Unbind { function } => binding::check(host, *function, None),
        Step::CreateMdev { uuid, .. } => mdev::check_created(host, *uuid),
        Step::RemoveMdev { uuid } => mdev::check_removed(host, *uuid),
    }
}

/// The error of a step whose post-condition never came, with what the driver said of it last.
pub fn never_so(host: &dyn HostRead, step: &Step) -> StepError {
    let said = kernel_log::last(host, step);
    let state = match step {
        Step::LoadDriver { name, vfs, .. } => match driver::short(host, vfs) {
            Ok(short) if short.is_empty() => "was loaded, but is not so",
            Ok(short) => return StepError::Short { driver: name.clone(), short, said },
            Err(error) => return error,
        },
        Step::SetMode { .. } => "was taken, but is not so",
        _ => "was written, but is not so",
    };
    let state = format!("{state}{}", in_the_log(&said));
    StepError::Unchanged { object: step.to_string(), state }
}

fn failed(operation: String) -> impl FnOnce(Errno) -> StepError {
    move |errno| StepError::Errno { operation, errno }
}

/// Writes an attribute; the answer says only whether the writer sleeps.
fn write(host: &mut dyn HostWrite, path: &str, data: &str) -> Result<Written, StepError> {
    host.write(path, data.as_bytes())
        .map_err(failed(format!("write {} to {path}", data.trim_end())))
}

/// Refuses when anybody has one of the nodes open.
fn require_unheld(
    host: &dyn HostRead,
    object: &str,
    nodes: Result<BTreeSet<String>, Errno>,
) -> Result<(), StepError> {
    let nodes = nodes.map_err(failed(format!("find the device nodes of {object}")))?;
    let seen =
        holders::find(host, &nodes).map_err(failed(format!("look for holders of {object}")))?;
    if seen.held() {
        let object = object.to_owned();
        return Err(StepError::Held { object, holders: seen.found, unknown: seen.unknown });
    }
    Ok(())
}
