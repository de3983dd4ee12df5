//! The kernel's log (Documentation/ABI/testing/dev-kmsg): one record a read, until there is none left.

use super::SysHost;
use crate::errno;
use gpuslice_core::errno::Errno;
use gpuslice_core::port::LogLine;
use rustix::fs::OFlags;
use std::mem::MaybeUninit;

/// The largest record there is, with room to spare.
const RECORD: usize = 8192;

pub(super) fn read(host: &SysHost) -> Result<Vec<LogLine>, Errno> {
    let log = host.open("/dev/kmsg", OFlags::RDONLY | OFlags::NONBLOCK)?;
    let mut buffer = [MaybeUninit::uninit(); RECORD];
    let mut lines = Vec::new();
    loop {
        match rustix::io::read(&log, &mut buffer) {
            Ok(([], _)) | Err(rustix::io::Errno::AGAIN) => return Ok(lines),
            Ok((record, _)) => lines.extend(line(&String::from_utf8_lossy(record))),
            // EPIPE: it was overwritten before it was read, and the next one is the oldest there is.
            Err(rustix::io::Errno::INTR | rustix::io::Errno::PIPE) => {}
            Err(error) => return Err(errno(error)),
        }
    }
}

/// `<prefix>,<sequence>,<microseconds>,<flags>[,…];<text>`, then lines of properties that begin with a blank.
fn line(record: &str) -> Option<LogLine> {
    let (head, rest) = record.split_once(';')?;
    let sequence = head.split(',').nth(1)?.parse().ok()?;
    let text = rest.lines().next().unwrap_or_default().to_owned();
    Some(LogLine { sequence, text })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_as_the_kernel_writes_them() {
        let text = "AMD GIM probed GPU(0) 0000:0c:00.0";
        let seen = line(&format!("6,1234,5678,-;{text}\n SUBSYSTEM=pci\n DEVICE=+pci:x\n"));
        assert_eq!(seen, Some(LogLine { sequence: 1234, text: text.to_owned() }));
        assert_eq!(
            line("4,7,1,c,caller=T1;a;b\n").map(|l| (l.sequence, l.text)),
            Some((7, "a;b".into()))
        );
        for odd in ["", "text", "6;x", "6,x,1,-;x"] {
            assert_eq!(line(odd), None, "{odd}");
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
