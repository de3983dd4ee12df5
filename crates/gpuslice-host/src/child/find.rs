//! Children of other daemons.

use super::{ARGUMENT, NAME};
use crate::process::watch_pid;
use gpuslice_core::errno::Errno;
use gpuslice_core::port::HostRead;
use rustix::fd::OwnedFd;
use rustix::process::{geteuid, getuid};

/// Children that perform this step, by name as it displays itself, whichever daemon started them; each descriptor becomes
/// readable when its process has ended.
///
/// # Errors
/// When `/proc` cannot be listed.
pub fn find(host: &dyn HostRead, step: &str) -> Result<Vec<OwnedFd>, Errno> {
    let wanted = [NAME, ARGUMENT, step].map(|word| format!("{word}\0")).concat();
    let performs = |pid: u32| {
        let arguments = host.read(&format!("/proc/{pid}/cmdline"));
        arguments.is_ok_and(|arguments| arguments == wanted.as_bytes()) && is_ours(host, pid)
    };
    let processes = host.list("/proc")?.into_iter().filter_map(|name| name.parse().ok());
    let found = processes.filter(|pid| performs(*pid)).filter_map(|pid: u32| {
        let watch = watch_pid(pid).ok()?;
        // The number was another process's by then if it is not who was meant now.
        performs(pid).then_some(watch)
    });
    Ok(found.collect())
}

/// Anybody can call a process of his so. Its real user counts beside the effective one: what is set-user-ID also takes its
/// arguments from whoever starts it.
fn is_ours(host: &dyn HostRead, pid: u32) -> bool {
    let status = match host.read(&format!("/proc/{pid}/status")) {
        Ok(status) => status,
        Err(errno) => return !matches!(errno, Errno::ENOENT | Errno::ESRCH),
    };
    let ours = [getuid(), geteuid()].map(|user| user.as_raw().to_string());
    // By bytes: its name, which it gives itself, need not be UTF-8.
    let users = status.split(|byte| *byte == b'\n').find_map(|line| line.strip_prefix(b"Uid:"));
    users.is_none_or(|users| {
        let users = users.trim_ascii_start().split(|byte| *byte == b'\t');
        users.take(ours.len()).eq(ours.iter().map(String::as_bytes))
    })
}
