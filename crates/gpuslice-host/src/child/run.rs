//! The child's side.

use super::{Order, Outcome};
use crate::SysHost;
use crate::sys;
use gpuslice_core::errno::Errno;
use gpuslice_core::execute::perform;
use rustix::fd::AsRawFd;
use rustix::fs::{Mode, OFlags};
use rustix::process::{Signal, getppid, set_parent_process_death_signal};
use std::io::{Read, Write};
use std::process::ExitCode;

/// What a process started with [`super::ARGUMENT`] does: reads an order from standard input, performs it, writes
/// the outcome to standard output. Must be the first thing the process does: it closes every descriptor but the
/// standard ones, whoever opened them.
pub fn main() -> ExitCode {
    match obey() {
        Some(()) => ExitCode::SUCCESS,
        None => ExitCode::FAILURE,
    }
}

fn obey() -> Option<()> {
    close_descriptors().ok()?;
    // Out of the terminal's and the daemon's process group. Fails only where it is so already.
    let _ = rustix::process::setsid();
    let mut text = Vec::new();
    std::io::stdin().read_to_end(&mut text).ok()?;
    let order: Order = serde_json::from_slice(&text).ok()?;
    die_with(order.daemon)?;
    if order.step.outlives_daemon() {
        set_parent_process_death_signal(None).ok()?;
    }
    let mut host = SysHost::new(order.root).ok()?;
    let outcome: Outcome = perform(&mut host, &order.step);
    let answer = serde_json::to_vec(&outcome).ok()?;
    let mut stdout = std::io::stdout();
    stdout.write_all(&answer).and_then(|()| stdout.flush()).ok()
}

/// Nothing is begun for a daemon that is gone, and nothing goes on after it.
fn die_with(daemon: u32) -> Option<()> {
    set_parent_process_death_signal(Some(Signal::KILL)).ok()?;
    let parent = getppid()?.as_raw_nonzero().get();
    (u32::try_from(parent) == Ok(daemon)).then_some(())
}

/// Everything of the parent's is close-on-exec; this is for what a library of a later day forgets.
#[allow(unsafe_code)]
fn close_descriptors() -> Result<(), Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let list = rustix::fs::open("/proc/self/fd", flags, Mode::empty()).map_err(crate::errno)?;
    let own = list.as_raw_fd();
    for name in sys::names(&list)? {
        let Ok(fd) = name.parse::<i32>() else {
            continue;
        };
        if fd > 2 && fd != own {
            // SAFETY: the process has just started: whoever opened this did so before, and nothing here owns it.
            unsafe { rustix::io::close(fd) };
        }
    }
    Ok(())
}
