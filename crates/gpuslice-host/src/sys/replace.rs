//! A file of settings in the place of another: written beside it, synced, renamed, and the folder synced.

use crate::errno;
use gpuslice_core::errno::Errno;
use rustix::fs::{AtFlags, CWD, Mode, OFlags};

/// Settings are no secret; the daemon's own umask would make them one.
const MODE: Mode = Mode::from_raw_mode(0o644);

pub(super) fn replace(path: &str, content: &[u8]) -> Result<(), Errno> {
    let (dir, name) = path.rsplit_once('/').ok_or(Errno::EINVAL)?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let dir = rustix::fs::openat(CWD, dir, flags, Mode::empty()).map_err(errno)?;
    // No program takes a file of this name for settings; what a crash leaves of it, the next one overwrites.
    let new = format!(".{name}.new");
    let flags =
        OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let written = rustix::fs::openat(&dir, &new, flags, MODE).map_err(errno).and_then(|file| {
        rustix::fs::fchmod(&file, MODE).map_err(errno)?;
        let mut rest = content;
        while !rest.is_empty() {
            match rustix::io::write(&file, rest) {
                Ok(taken) => rest = rest.get(taken..).unwrap_or_default(),
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(errno(error)),
            }
        }
        rustix::fs::fsync(&file).map_err(errno)?;
        rustix::fs::renameat(&dir, &new, &dir, name).map_err(errno)
    });
    if written.is_err() {
        let _ = rustix::fs::unlinkat(&dir, &new, AtFlags::empty());
    }
    written?;
    rustix::fs::fsync(&dir).map_err(errno)
}
