//! Children of other daemons.

use super::{ARGUMENT, NAME};
use crate::process::watch_pid;
use gpuslice_core::errno::Errno;
use gpuslice_core::port::HostRead;
use rustix::fd::OwnedFd;

/// Children that perform this step, by name as it displays itself, whoever started them; each descriptor becomes
/// readable when its process has ended.
///
/// # Errors
/// When `/proc` cannot be listed.
pub fn find(host: &dyn HostRead, step: &str) -> Result<Vec<OwnedFd>, Errno> {
    let wanted = [NAME, ARGUMENT, step].map(|word| format!("{word}\0")).concat();
    let performs = |pid: u32| {
        let arguments = host.read(&format!("/proc/{pid}/cmdline"));
        arguments.is_ok_and(|arguments| arguments == wanted.as_bytes())
    };
    let processes = host.list("/proc")?.into_iter().filter_map(|name| name.parse().ok());
    let found = processes.filter(|pid| performs(*pid)).filter_map(|pid: u32| {
        let watch = watch_pid(pid).ok()?;
        // The number was another process's by then if it is not who was meant now.
        performs(pid).then_some(watch)
    });
    Ok(found.collect())
}
