//! A file system of 64 KiB for tests: the only way to see ENOSPC, EROFS and writes taken in part. Needs root.

use std::path::Path;
use std::process::Command;

pub(crate) struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    pub(crate) const SIZE: usize = 64 * 1024;

    /// `None`, with a line that says so, where mounting is not permitted.
    pub(crate) fn mount() -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let options = format!("size={}", Self::SIZE);
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &options, "gpuslice-test"])
            .arg(dir.path())
            .status();
        if mounted.is_ok_and(|status| status.success()) {
            return Some(Self(dir));
        }
        println!("SKIPPED: records on a full disk: mounting a tmpfs takes root");
        None
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }

    /// Busy while a test beside this one is about to start a program, with a copy of a writer's descriptor.
    pub(crate) fn make_read_only(&self) {
        let remounted = (0..100).any(|_| {
            let remount =
                Command::new("mount").args(["-o", "remount,ro"]).arg(self.path()).status();
            remount.unwrap().success()
        });
        assert!(remounted);
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let unmounted = Command::new("umount").arg("-l").arg(self.path()).status();
        assert!(unmounted.unwrap().success());
    }
}
