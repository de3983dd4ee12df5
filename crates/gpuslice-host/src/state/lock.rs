//! The lock on a state directory: flock(2) on the directory itself, so that there is no lock file to outlive or
//! contradict it. The kernel tells who has it (`/proc/locks`, proc_locks(5)).

use super::{Operation, StateError, kernel};
use rustix::fd::AsFd;
use rustix::fs::{FlockOperation, flock, fstat};
use std::path::Path;

pub(super) fn take(dir: impl AsFd, path: &Path) -> Result<(), StateError> {
    match flock(&dir, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(()),
        Err(rustix::io::Errno::WOULDBLOCK) => {
            let stat = fstat(&dir).map_err(kernel(Operation::Lock, path))?;
            let locks = std::fs::read_to_string("/proc/locks").unwrap_or_default();
            Err(StateError::InUse { path: path.to_owned(), holder: holder(&locks, stat.st_ino) })
        }
        Err(error) => Err(kernel(Operation::Lock, path)(error)),
    }
}

/// Finds the process with an flock on an inode. The device is not compared, since on btrfs and overlayfs it is not
/// the one stat(2) tells; two holders of equal inode numbers mean that it is not known.
fn holder(locks: &str, inode: u64) -> Option<u32> {
    let mut holders = locks.lines().filter_map(|line| {
        let mut fields = line.split_whitespace().skip(1);
        if fields.next()? != "FLOCK" {
            return None;
        }
        let pid = fields.nth(2)?.parse().ok()?;
        let of: u64 = fields.next()?.rsplit(':').next()?.parse().ok()?;
        (of == inode).then_some(pid)
    });
    let only = holders.next()?;
    holders.next().is_none().then_some(only)
}

pub(super) fn who(holder: Option<u32>) -> String {
    match holder {
        Some(pid) => format!("process {pid}"),
        None => "another process".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_proc_locks() {
        let locks = "\
1: POSIX  ADVISORY  WRITE 100 00:19:77 0 EOF
2: FLOCK  ADVISORY  WRITE 200 fe:00:77 0 EOF
2: -> FLOCK  ADVISORY  WRITE 201 fe:00:77 0 EOF
3: FLOCK  ADVISORY  WRITE 300 fe:00:88 0 EOF
4: FLOCK  ADVISORY  WRITE 301 00:19:88 0 EOF
";
        assert_eq!(holder(locks, 77), Some(200));
        assert_eq!(holder(locks, 88), None);
        assert_eq!(holder(locks, 99), None);
        assert_eq!(holder("", 77), None);
        assert_eq!(who(Some(200)), "process 200");
    }
}
