//! The Linux edge: the one crate that makes system calls for the daemon. It is thin and decides nothing; what it
//! reads is judged in `gpuslice-core`, what it writes was planned there.
//!
//! - [`sys`]: the core's ports on the running kernel, under a movable root
//! - [`child`]: a step in a process of its own, since a writer asleep in the kernel cannot be ended
//! - [`uevents`]: the wake-up; what changed is read again, never taken from the event
//! - [`state`]: documents that survive a crash
//! - [`boot`], [`process`]: which boot this is, and readiness when a process ends

pub mod boot;
pub mod child;
pub mod process;
pub mod state;
pub mod sys;
pub mod uevents;

#[cfg(test)]
mod small_disk;

pub use sys::{KernelLog, SysHost};

use gpuslice_core::errno::Errno;

/// The core's errno of a failed system call.
fn errno(error: rustix::io::Errno) -> Errno {
    Errno(error.raw_os_error())
}

/// The same of a call made through std; what has no number there (a short write, say) is an IO error.
fn io_errno(error: &std::io::Error) -> Errno {
    error.raw_os_error().map_or(Errno::EIO, Errno)
}
