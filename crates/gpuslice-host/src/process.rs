//! Readiness when a process ends (pidfd_open(2)): a QEMU that is killed closes its devices without a word to us.

use crate::errno;
use gpuslice_core::errno::Errno;
use rustix::fd::OwnedFd;
use rustix::process::{Pid, PidfdFlags, pidfd_open};

/// A descriptor that becomes readable when the process has ended; of any process, not only a child.
///
/// The number may be another process's by the time it is opened: open first, then ask again whether that number
/// still is who was meant.
///
/// # Errors
/// `ESRCH` when there is no such process (any more).
pub fn watch_pid(pid: u32) -> Result<OwnedFd, Errno> {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or(Errno::ESRCH)?;
    pidfd_open(pid, PidfdFlags::NONBLOCK).map_err(errno)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    use std::process::{Command, Stdio};

    #[test]
    fn readable_once_it_ended() {
        let mut child =
            Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        let watch = watch_pid(child.id()).unwrap();
        let at_once = Timespec::default();
        let ready =
            |timeout| poll(&mut [PollFd::new(&watch, PollFlags::IN)], timeout).unwrap() == 1;
        assert!(!ready(Some(&at_once)));
        drop(child.stdin.take());
        assert!(ready(None));
        child.wait().unwrap();
        assert!(ready(Some(&at_once)));
        assert_eq!(watch_pid(child.id()).unwrap_err(), Errno::ESRCH);
    }

    #[test]
    fn numbers_that_are_no_process() {
        for pid in [0, u32::MAX] {
            assert_eq!(watch_pid(pid).unwrap_err(), Errno::ESRCH);
        }
    }
}
