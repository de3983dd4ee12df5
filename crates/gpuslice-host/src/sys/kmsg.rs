//! The kernel's log (Documentation/ABI/testing/dev-kmsg): one record a read, until there is none left.

use super::SysHost;
use crate::errno;
use gpuslice_core::errno::Errno;
use gpuslice_core::port::LogLine;
use rustix::fd::OwnedFd;
use rustix::fs::OFlags;
use std::mem::MaybeUninit;

/// The largest record there is, with room to spare.
const RECORD: usize = 8192;

/// The log from the oldest record on, as it grows; poll(2) says when there is more.
#[derive(Debug)]
pub struct KernelLog(OwnedFd);

impl KernelLog {
    /// Opens it.
    ///
    /// # Errors
    /// `EPERM` where it may not be read, `ENOENT` where there is none.
    pub fn open(host: &SysHost) -> Result<Self, Errno> {
        host.open("/dev/kmsg", OFlags::RDONLY | OFlags::NONBLOCK).map(Self)
    }

    /// Calls `each` with what is there and was not read yet.
    ///
    /// # Errors
    /// What read(2) gave.
    pub fn read(&self, mut each: impl FnMut(Record<'_>)) -> Result<(), Errno> {
        let mut buffer = [MaybeUninit::uninit(); RECORD];
        loop {
            match rustix::io::read(&self.0, &mut buffer) {
                Ok(([], _)) | Err(rustix::io::Errno::AGAIN) => return Ok(()),
                Ok((record, _)) => {
                    if let Some(record) = Record::of(&String::from_utf8_lossy(record)) {
                        each(record);
                    }
                }
                // EPIPE: it was overwritten before it was read, and the next one is the oldest there is.
                Err(rustix::io::Errno::INTR | rustix::io::Errno::PIPE) => {}
                Err(error) => return Err(errno(error)),
            }
        }
    }

    /// Another descriptor of the same log, to poll.
    ///
    /// # Errors
    /// What dup(2) gave.
    pub fn to_poll(&self) -> Result<OwnedFd, Errno> {
        self.0.try_clone().map_err(|error| error.raw_os_error().map_or(Errno::EIO, Errno))
    }
}

/// A record of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record<'a> {
    /// The kernel said it, rather than a program that wrote to its log.
    pub of_kernel: bool,
    sequence: u64,
    at_us: u64,
    /// What was said.
    pub text: &'a str,
}

impl Record<'_> {
    /// `<priority>,<sequence>,<microseconds>,<flags>[,…];<text>`, then lines of properties that begin with a blank. Bits
    /// of the priority above the lowest three are the facility, 0 for the kernel.
    fn of(record: &str) -> Option<Record<'_>> {
        let (head, rest) = record.split_once(';')?;
        let mut head = head.split(',');
        let priority: u32 = head.next()?.parse().ok()?;
        let sequence = head.next()?.parse().ok()?;
        let at_us = head.next()?.parse().ok()?;
        let text = rest.lines().next().unwrap_or_default();
        Some(Record { of_kernel: priority >> 3 == 0, sequence, at_us, text })
    }

    /// Owned.
    pub fn line(&self) -> LogLine {
        LogLine { sequence: self.sequence, at_us: self.at_us, text: self.text.to_owned() }
    }
}

pub(super) fn read(host: &SysHost) -> Result<Vec<LogLine>, Errno> {
    let mut lines = Vec::new();
    KernelLog::open(host)?.read(|record| lines.push(record.line()))?;
    Ok(lines)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_as_the_kernel_writes_them() {
        let text = "AMD GIM probed GPU(0) 0000:0c:00.0";
        let whole = format!("6,1234,5678,-;{text}\n SUBSYSTEM=pci\n DEVICE=+pci:x\n");
        let record = Record { of_kernel: true, sequence: 1234, at_us: 5678, text };
        assert_eq!(Record::of(&whole), Some(record));
        let caller = Record::of("4,7,1,c,caller=T1;a;b\n").unwrap();
        assert_eq!(caller.line(), LogLine { sequence: 7, at_us: 1, text: "a;b".to_owned() });
        // What a program writes is the user's or a daemon's, whatever priority it claims.
        assert!(!Record::of("12,7,1,-;NVRM: Xid").unwrap().of_kernel);
        for odd in ["", "text", "6;x", "6,x,1,-;x", "6,1,x,-;x", "x,1,1,-;x"] {
            assert_eq!(Record::of(odd), None, "{odd}");
        }
    }

    #[test]
    fn a_host_without_a_log_says_so() {
        let root = tempfile::tempdir().unwrap();
        let host = SysHost::new(root.path()).unwrap();
        assert_eq!(read(&host), Err(Errno::ENOENT));
        // A file in its place ends.
        std::fs::create_dir(root.path().join("dev")).unwrap();
        std::fs::write(root.path().join("dev/kmsg"), "6,1,2,-;one\n").unwrap();
        assert_eq!(read(&host).unwrap().len(), 1);
    }
}
