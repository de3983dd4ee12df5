//! Files that lie near each other, read one after the other. Most of what an attribute costs is the way down to it.

use super::{SysHost, content};
use crate::errno;
use gpuslice_core::errno::Errno;
use gpuslice_core::port::HostRead as _;
use rustix::fd::OwnedFd;
use rustix::fs::{Mode, OFlags};

/// The folder above the one whose files were read last, held open: of `…/mdev_supported_types/nvidia-63` all types of
/// the device.
#[derive(Debug, Default)]
pub(super) struct Near {
    folder: Option<(String, OwnedFd)>,
    /// What is asked of it, kept for its memory.
    rest: String,
}

impl Near {
    /// Reads a file of a folder as [`gpuslice_core::port::HostRead::read`] does.
    pub(super) fn read(
        &mut self,
        host: &SysHost,
        folder: &str,
        name: &str,
    ) -> Result<Vec<u8>, Errno> {
        let Some((above, last)) = folder.rsplit_once('/').filter(|(above, _)| !above.is_empty())
        else {
            return host.read(&format!("{folder}/{name}"));
        };
        let near = match &self.folder {
            Some((held, fd)) if held == above => fd,
            _ => {
                let fd = host.open(above, OFlags::PATH | OFlags::DIRECTORY)?;
                &self.folder.insert((above.to_owned(), fd)).1
            }
        };
        self.rest.clear();
        self.rest.extend([last, "/", name]);
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOCTTY;
        let fd = rustix::fs::openat(near, &self.rest, flags, Mode::empty()).map_err(errno)?;
        content(&fd, folder)
    }
}
