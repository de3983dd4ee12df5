//! Files that lie near each other, read one after the other. Most of what an attribute costs is the way down to it.

use super::{SysHost, content};
use crate::errno;
use gpuslice_core::errno::Errno;
use gpuslice_core::port::HostRead as _;
use rustix::fd::OwnedFd;
use rustix::fs::{Mode, OFlags};

/// The folder two levels above the file that was read last, held open: of `…/mdev_supported_types/nvidia-63/name` all
/// types of the device.
#[derive(Debug, Default)]
pub(super) struct Near {
    folder: Option<(String, OwnedFd)>,
}

impl Near {
    /// Reads a file as [`gpuslice_core::port::HostRead::read`] does.
    pub(super) fn read(&mut self, host: &SysHost, file: &str) -> Result<Vec<u8>, Errno> {
        let Some((folder, rest)) = split(file) else {
            return host.read(file);
        };
        let near = match &self.folder {
            Some((held, fd)) if held == folder => fd,
            _ => {
                let fd = host.open(folder, OFlags::PATH | OFlags::DIRECTORY)?;
                &self.folder.insert((folder.to_owned(), fd)).1
            }
        };
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOCTTY;
        let fd = rustix::fs::openat(near, rest, flags, Mode::empty()).map_err(errno)?;
        content(&fd, file)
    }
}

/// A path two components from its end.
fn split(file: &str) -> Option<(&str, &str)> {
    let last = file.rfind('/')?;
    let before = file.get(..last)?.rfind('/')?;
    Some((file.get(..before)?, file.get(before + 1..)?)).filter(|(folder, _)| !folder.is_empty())
}
