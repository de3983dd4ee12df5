//! The two ports through which the pure crates see a host. `gpuslice-host` answers them with the real kernel,
//! `gpuslice-sim` with a simulated one; nothing above them can tell.
//!
//! Paths are absolute as the running kernel shows them (`/sys/bus/pci/devices/…`, `/proc/…`); an implementation
//! may move them under another root.

use crate::errno::Errno;
use serde::{Deserialize, Serialize};

/// Files of one folder that are read together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Files {
    /// Absolute, without a slash at its end.
    pub folder: String,
    /// Their names.
    pub names: &'static [&'static str],
}

impl Files {
    /// Path of each.
    pub fn paths(&self) -> impl Iterator<Item = String> {
        self.names.iter().map(|name| format!("{}/{name}", self.folder))
    }
}

/// Reads only. Observation takes this port, so that it cannot change anything by type.
pub trait HostRead {
    /// Names in a directory, in no particular order, without `.` and `..`.
    ///
    /// # Errors
    /// `ENOENT` when it is absent, which is not the same answer as an empty list.
    fn list(&self, dir: &str) -> Result<Vec<String>, Errno>;

    /// Content of a file, at most [`READ_LIMIT`] bytes; `EFBIG` beyond.
    ///
    /// # Errors
    /// What open(2) or read(2) gave. sysfs gives `EACCES` for the wrong direction even to root.
    fn read(&self, file: &str) -> Result<Vec<u8>, Errno>;

    /// Reads files of many folders, each as [`Self::read`] does, in this order. They are independent of each other, so
    /// an implementation may read several at a time.
    fn read_each(&self, folders: &[Files]) -> Vec<Result<Vec<u8>, Errno>> {
        let files = folders.iter().flat_map(Files::paths);
        files.map(|file| self.read(&file)).collect()
    }

    /// Target of a symbolic link as stored, not resolved.
    ///
    /// # Errors
    /// `EINVAL` when the path is not a link, `ENOENT` when it is absent.
    fn link(&self, path: &str) -> Result<String, Errno>;

    /// Major and minor number of the character device that a path leads to; `None` when it leads to anything else. Who
    /// serves the file system it is on is not asked: that may be anybody, and he need not answer.
    ///
    /// # Errors
    /// `ENOENT` when it is absent, `ENOSYS` where numbers cannot be told.
    fn device(&self, _path: &str) -> Result<Option<(u32, u32)>, Errno> {
        Err(Errno::ENOSYS)
    }

    /// Asks a vendor's tool that changes nothing: an absolute path and arguments, never a shell. All that it prints, at
    /// most [`ANSWER_LIMIT`] bytes: a part of it would be taken for what there is.
    ///
    /// # Errors
    /// `ENOENT` when it is not there, `ETIMEDOUT` when it did not end, `EFBIG` when it said more; its own failure is in
    /// the answer.
    fn ask(&self, _command: &[String]) -> Result<Ran, Errno> {
        Err(Errno::ENOENT)
    }

    /// What the kernel's log holds, oldest first: the only place where some drivers say why they refused.
    ///
    /// # Errors
    /// `EPERM` where it may not be read, `ENOENT` where there is none.
    fn kernel_log(&self) -> Result<Vec<LogLine>, Errno>;
}

/// A record of the kernel's log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogLine {
    /// Counts from the boot; some of them may be gone.
    pub sequence: u64,
    /// Microseconds since the boot.
    pub at_us: u64,
    /// Its text.
    pub text: String,
}

/// Longest file [`HostRead::read`] returns: larger than any sysfs attribute (one page) and any mdev definition.
pub const READ_LIMIT: usize = 64 * 1024;

/// Longest answer of a tool, in bytes: `nvidia-smi -q` says up to 16 KiB of each GPU, `nvidia-smi vgpu -s -v` more.
pub const ANSWER_LIMIT: usize = 4 * 1024 * 1024;

/// How a write ended that did not fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Written {
    /// The kernel took it.
    Done,
    /// The writer sleeps in the kernel (only the simulator answers so; a real write just does not return).
    Blocked,
}

/// How a tool ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ran {
    /// Exit status, or 128 and the signal that ended it.
    pub code: i32,
    /// What it printed, both streams.
    pub said: String,
}

/// Writes. Only the executor of plans takes this port.
pub trait HostWrite: HostRead {
    /// Writes an existing file with one write(2).
    ///
    /// # Errors
    /// What open(2) or write(2) gave.
    fn write(&mut self, file: &str, data: &[u8]) -> Result<Written, Errno>;

    /// Runs a vendor's tool to its end: an absolute path and arguments, never a shell.
    ///
    /// # Errors
    /// `ENOENT` when it is not there, `ETIMEDOUT` when it did not end; its own failure is in the answer.
    fn run(&mut self, command: &[String]) -> Result<Ran, Errno>;

    /// The same for one that leaves its device without a driver when it is broken off. In the kernel it may stand in line
    /// behind others, so it has all the time it takes: whoever calls runs in a process of its own.
    ///
    /// # Errors
    /// Those of [`Self::run`].
    fn run_unbroken(&mut self, command: &[String]) -> Result<Ran, Errno> {
        self.run(command)
    }

    /// Loads a kernel module with its dependencies (modprobe); loading it twice is success.
    ///
    /// # Errors
    /// `ENOENT` when there is no such module, else what the kernel said.
    fn load_module(&mut self, name: &str) -> Result<(), Errno>;

    /// The same of a driver that initialises its devices before its load returns: however long that takes.
    ///
    /// # Errors
    /// The same.
    fn load_driver(&mut self, name: &str) -> Result<(), Errno> {
        self.load_module(name)
    }

    /// Unloads a kernel module (`modprobe -r`). May sleep in the kernel for as long as a device is in use.
    ///
    /// # Errors
    /// `ENOENT` when it is not loaded, else what the kernel said.
    fn unload_module(&mut self, name: &str) -> Result<Written, Errno>;

    /// Puts a file in the place of another or of none, so that a reader finds the old content or the new one, also
    /// after a crash.
    ///
    /// # Errors
    /// What open(2), write(2), fsync(2) or rename(2) gave.
    fn replace(&mut self, file: &str, content: &[u8]) -> Result<(), Errno>;
}

/// Reads a small attribute as text without its trailing white space.
///
/// # Errors
/// The errno of the read; `EINVAL` when it is not UTF-8.
pub fn read_text(host: &dyn HostRead, file: &str) -> Result<String, Errno> {
    text_of(&host.read(file)?)
}

/// A small attribute's content as text without its trailing white space.
///
/// # Errors
/// `EINVAL` when it is not UTF-8.
pub fn text_of(content: &[u8]) -> Result<String, Errno> {
    let text = std::str::from_utf8(content).map_err(|_| Errno::EINVAL)?;
    Ok(text.trim_end_matches(['\n', ' ', '\t', '\0']).to_owned())
}

/// Last component of a link's target: the driver's name of `…/driver`, the group's number of `…/iommu_group`.
/// `None` when the link is absent.
///
/// # Errors
/// Any errno but `ENOENT`.
pub fn link_name(host: &dyn HostRead, path: &str) -> Result<Option<String>, Errno> {
    match host.link(path) {
        Ok(target) => Ok(target.rsplit('/').next().map(str::to_owned)),
        Err(Errno::ENOENT) => Ok(None),
        Err(errno) => Err(errno),
    }
}
