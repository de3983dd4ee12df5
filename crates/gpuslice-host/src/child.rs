//! A step in a process of its own. A writer asleep in the kernel (`sriov_numvfs` while a VM holds a VF, mdev
//! `remove`, unbind) survives SIGKILL; were it a thread of the daemon, the daemon could not end, and its lock,
//! socket and bus name would stay taken. The child has none of them and can be left behind.
//!
//! The parent starts [`command`] as it likes (the daemon: `tokio::process`, which also reaps what was left behind),
//! waits for standard output to close, and reads it with [`answer`]. Nothing the parent does or omits blocks the
//! child, and nothing the child does blocks the parent: the order lies in a memfd, the answer is smaller than a pipe.
//!
//! A child dies with its daemon, so that nothing begins to write that a later daemon knows nothing of. What is inside
//! the kernel by then ends as it does, and what a tool or a driver's load has begun is not broken off: the later
//! daemon finds them by [`find()`].

mod find;
mod run;

pub use find::find;
pub use run::main;

use crate::SysHost;
use crate::{errno, io_errno};
use gpuslice_core::errno::Errno;
use gpuslice_core::execute::{Performed, StepError};
use gpuslice_core::plan::Step;
use rustix::fs::{MemfdFlags, memfd_create};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{Seek, Write};
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitStatus, Stdio};

/// What the child calls itself in a list of processes, before the argument and the step.
const NAME: &str = "gpuslice-write";

/// The hidden argument: with it as the first, the binary's `main` must call [`main`] before anything else.
pub const ARGUMENT: &str = "--write-child";

/// What the child is told.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Order {
    root: String,
    /// Process id of the daemon.
    daemon: u32,
    step: Step,
}

/// How the step ended.
pub type Outcome = Result<Performed, StepError>;

/// Why there is no outcome: whether the step was done is then to be seen on the device.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChildError {
    /// The order could not be laid out.
    #[error("prepare a child process: {errno}")]
    Prepare {
        /// Why.
        errno: Errno,
    },
    /// It ended without an answer.
    #[error("the child process ended without an answer: {status}")]
    Died {
        /// How.
        status: ExitStatus,
    },
}

/// The command that performs a step on a host in a child process of this same binary.
///
/// # Errors
/// [`ChildError::Prepare`] when there is no memory for the order.
pub fn command(host: &SysHost, step: &Step) -> Result<Command, ChildError> {
    let order =
        Order { root: host.root().to_owned(), daemon: std::process::id(), step: step.clone() };
    let stdin = lay_out(&order).map_err(|errno| ChildError::Prepare { errno })?;
    // By /proc: the same program even if an upgrade has replaced the file meanwhile.
    let mut command = Command::new("/proc/self/exe");
    command
        .arg0(NAME)
        .arg(ARGUMENT)
        // For whoever looks at what hangs, a later daemon among them.
        .arg(step.to_string())
        .env_clear()
        .current_dir("/")
        .stdin(stdin)
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    Ok(command)
}

fn lay_out(order: &Order) -> Result<File, Errno> {
    let text = serde_json::to_vec(order).map_err(|_| Errno::EINVAL)?;
    let mut file = File::from(memfd_create("order", MemfdFlags::CLOEXEC).map_err(errno)?);
    file.write_all(&text).and_then(|()| file.rewind()).map_err(|error| io_errno(&error))?;
    Ok(file)
}

/// Reads what the child said on its standard output.
///
/// # Errors
/// [`ChildError::Died`] when it is no answer.
pub fn answer(stdout: &[u8], status: ExitStatus) -> Result<Outcome, ChildError> {
    if !status.success() {
        return Err(ChildError::Died { status });
    }
    serde_json::from_slice(stdout).map_err(|_| ChildError::Died { status })
}
