//! Everything that can be done to the machine, as data. Each public method that changes it goes through a
//! [`Command`], so that the log of a failing run is complete and can be done again step by step.

use super::Kernel;
use super::fault::Fault;
use super::uevent::Noise;
use super::{HostFile, Pace};
use gpuslice_core::errno::Errno;
use gpuslice_core::ids::{PciAddress, SliceId};
use serde::{Deserialize, Serialize};

/// Bytes of a write; text in the log where they are text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Data {
    /// UTF-8.
    Text(String),
    /// Anything else.
    Bytes(Vec<u8>),
}

impl Data {
    /// Of the bytes written.
    pub fn new(bytes: &[u8]) -> Self {
        match std::str::from_utf8(bytes) {
            Ok(text) => Self::Text(text.to_owned()),
            Err(_) => Self::Bytes(bytes.to_vec()),
        }
    }

    /// The bytes written.
    pub fn bytes(&self) -> &[u8] {
        match self {
            Self::Text(text) => text.as_bytes(),
            Self::Bytes(bytes) => bytes,
        }
    }
}

/// One thing done to the machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Command {
    /// A write to a file.
    Write {
        /// Absolute path.
        file: String,
        /// One write(2).
        data: Data,
    },
    /// modprobe.
    LoadModule(String),
    /// `modprobe -r`.
    UnloadModule(String),
    /// A file of settings is put in the place of another.
    Replace {
        /// In `/etc/modprobe.d`, or `/etc/gim_config`, or `/proc/cmdline`.
        file: String,
        /// All of it.
        data: Data,
    },
    /// Somebody deletes such a file.
    Delete(String),
    /// Drivers behave as this host file says from now on; its functions are the same ones.
    Drivers(Box<HostFile>),
    /// `modprobe -r` and `modprobe` of a driver.
    ReloadDriver(String),
    /// A vendor's tool is run.
    Run(Vec<String>),
    /// A process opens the VFIO node of a device.
    Open {
        /// Its process id.
        pid: u32,
        /// Its name.
        comm: String,
        /// What it opens.
        slice: SliceId,
    },
    /// A process opens a node that a driver made beside its devices.
    OpenNode {
        /// Its process id.
        pid: u32,
        /// Its name.
        comm: String,
        /// Absolute path.
        node: String,
    },
    /// It closes it.
    Close {
        /// Its process id.
        pid: u32,
        /// What it closes.
        slice: SliceId,
    },
    /// The process ends, for whatever reason.
    Kill(u32),
    /// A function of the host file is put into its slot.
    Plug(PciAddress),
    /// It is taken out.
    Unplug(PciAddress),
    /// Virtual time passes.
    Advance(u64),
    /// One small step of what is under way.
    Step,
    /// All steps that wait for neither time nor people.
    Settle,
    /// Whether writes run to their end or stop at each step.
    Pace(Pace),
    /// Arms a fault.
    Fault(Fault),
    /// Disarms all faults.
    ClearFaults,
    /// What happens to events on their way.
    Noise(Noise),
    /// A driver says something in the kernel's log.
    Say(String),
    /// Power off and on.
    Reboot,
}

impl Command {
    /// Whether a daemon's steps do such things.
    pub(crate) fn is_of_daemon(&self) -> bool {
        matches!(
            self,
            Self::Write { .. }
                | Self::LoadModule(_)
                | Self::UnloadModule(_)
                | Self::Replace { .. }
                | Self::Run(_)
        )
    }
}

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// Done.
    Done,
    /// There was nothing to do.
    Idle,
    /// The caller sleeps in the kernel.
    Blocked,
    /// Refused.
    Failed(Errno),
}

/// A log that cannot be done again.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// A line is not of a log.
    #[error("cannot read line {line} of the log")]
    Line {
        /// 1-based.
        line: usize,
        /// What is wrong.
        source: serde_json::Error,
    },
    /// The machine answered differently.
    #[error("line {line} of the log: {command:?} ended {now:?}, then {then:?}")]
    Differs {
        /// 1-based.
        line: usize,
        /// What was done.
        command: Box<Command>,
        /// What the log says.
        then: Outcome,
        /// What the machine says now.
        now: Outcome,
    },
}

/// Does a log again on a fresh machine, calling `after` with each command done, so that a test can look at the
/// machine between any two.
///
/// # Errors
/// When a line is not of a log, or a command ends differently from then.
pub fn replay<'a>(
    host: &HostFile,
    lines: impl IntoIterator<Item = &'a str>,
    mut after: impl FnMut(&mut Kernel, &Command),
) -> Result<Kernel, ReplayError> {
    let mut kernel = Kernel::from_host(host);
    for (index, text) in lines.into_iter().enumerate() {
        let line = index + 1;
        let entry: super::log::Entry =
            serde_json::from_str(text).map_err(|source| ReplayError::Line { line, source })?;
        let super::log::What::Did(command, then) = entry.what else {
            continue;
        };
        let now = kernel.apply(command.clone());
        if now != then {
            return Err(ReplayError::Differs { line, command: Box::new(command), then, now });
        }
        after(&mut kernel, &command);
    }
    Ok(kernel)
}
