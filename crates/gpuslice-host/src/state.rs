//! Documents that survive a crash at any instruction: `/var/lib/gpuslice` and, for what ends with the boot,
//! `/run/gpuslice/state`. Texts only; what they mean, and their version, is the core's.
//!
//! A document is replaced by writing a new file beside it, fsync, rename, fsync of the directory, so that a reader
//! finds the old or the new one. The new file always has the same name, which the lock permits: what a crash
//! leaves of it the next save overwrites.

mod lock;
mod log;

pub use log::{Found, Log};

use crate::errno;
use crate::sys::names;
use gpuslice_core::errno::Errno;
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{AtFlags, Mode, OFlags, RenameFlags};
use std::fmt;
use std::path::{Path, PathBuf};

/// A document longer than this is none of ours: 4096 assignments take about a megabyte.
const LONGEST: usize = 64 << 20;

/// What follows the name of a document that was corrupt, before its number.
const CORRUPT: &str = ".corrupt-";

/// How many corrupt predecessors of a document are kept.
const KEPT: usize = 4;

/// What there is of a document. No two of these are the same answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Loaded {
    /// No such file.
    Absent,
    /// A file of no bytes, as a disk that lost its power may leave.
    Empty,
    /// Its text, as it is, perhaps cut short.
    Present(String),
    /// Bytes that are no text.
    NotText,
    /// It could not be read.
    Unreadable(Errno),
}

/// What was done to a file or directory of state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// mkdir(2) of the directory.
    Create,
    /// open(2).
    Open,
    /// fstat(2) or fchmod(2).
    Protect,
    /// flock(2).
    Lock,
    /// read(2).
    Read,
    /// write(2), ftruncate(2).
    Write,
    /// fsync(2).
    Sync,
    /// renameat2(2).
    Rename,
    /// getdents(2).
    List,
    /// unlinkat(2).
    Remove,
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Create => "create",
            Self::Open => "open",
            Self::Protect => "protect",
            Self::Lock => "lock",
            Self::Read => "read",
            Self::Write => "write",
            Self::Sync => "sync",
            Self::Rename => "rename",
            Self::List => "list",
            Self::Remove => "remove",
        })
    }
}

/// Why state is not available.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StateError {
    /// The kernel refused an operation.
    #[error("{operation} {path}: {errno}")]
    Kernel {
        /// What was tried.
        operation: Operation,
        /// On what.
        path: PathBuf,
        /// Its answer.
        errno: Errno,
    },
    /// Another process uses the directory.
    #[error("lock {path}: in use by {}", lock::who(*.holder))]
    InUse {
        /// The directory.
        path: PathBuf,
        /// The process, if the kernel tells.
        holder: Option<u32>,
    },
    /// Somebody else owns the directory and could change what is in it.
    #[error("use {path}: owned by uid {uid}")]
    NotOurs {
        /// The directory.
        path: PathBuf,
        /// Its owner.
        uid: u32,
    },
    /// Not the name of a document.
    #[error(
        "{name:?} is not a document's name: only lower-case letters, digits, - and . are allowed"
    )]
    Name {
        /// As given.
        name: String,
    },
}

/// A directory of documents, locked for as long as this lives.
#[derive(Debug)]
pub struct StateDir {
    path: PathBuf,
    dir: OwnedFd,
}

impl StateDir {
    /// Opens the directory and locks it, for no other process at a time. Makes it where it is absent (but not its
    /// parents) and closes it to everyone else.
    ///
    /// # Errors
    /// See [`StateError`].
    pub fn open(path: impl Into<PathBuf>) -> Result<Self, StateError> {
        let path = path.into();
        let failed = |operation| kernel(operation, &path);
        match rustix::fs::mkdir(&path, Mode::RWXU) {
            Ok(()) | Err(rustix::io::Errno::EXIST) => {}
            Err(error) => return Err(failed(Operation::Create)(error)),
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir = rustix::fs::open(&path, flags, Mode::empty()).map_err(failed(Operation::Open))?;
        let stat = rustix::fs::fstat(&dir).map_err(failed(Operation::Protect))?;
        if stat.st_uid != rustix::process::geteuid().as_raw() {
            let uid = stat.st_uid;
            return Err(StateError::NotOurs { path, uid });
        }
        if Mode::from_raw_mode(stat.st_mode).intersects(Mode::RWXG | Mode::RWXO) {
            rustix::fs::fchmod(&dir, Mode::RWXU).map_err(failed(Operation::Protect))?;
        }
        lock::take(&dir, &path)?;
        Ok(Self { path, dir })
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Reads a document.
    pub fn load(&self, name: &str) -> Loaded {
        if document(name).is_err() {
            return Loaded::Unreadable(Errno::EINVAL);
        }
        match read(&self.dir, name) {
            Ok(bytes) if bytes.is_empty() => Loaded::Empty,
            Ok(bytes) => String::from_utf8(bytes).map_or(Loaded::NotText, Loaded::Present),
            Err(rustix::io::Errno::NOENT) => Loaded::Absent,
            Err(error) => Loaded::Unreadable(errno(error)),
        }
    }

    /// Replaces a document. When it returns, the new text survives a power cut; when it fails, the old one does,
    /// except that after a failed sync of the directory either may be found.
    ///
    /// # Errors
    /// See [`StateError`].
    pub fn save(&self, name: &str, text: &str) -> Result<(), StateError> {
        document(name)?;
        let new = format!(".{name}.new");
        // It would never be loaded again.
        if text.len() > LONGEST {
            return Err(self.kernel(Operation::Write, name, Errno::EFBIG));
        }
        let written = self.write_synced(&new, text.as_bytes()).and_then(|()| {
            rustix::fs::renameat(&self.dir, &new, &self.dir, name)
                .map_err(self.failed(Operation::Rename, &new))
        });
        if written.is_err() {
            // Room for the next try; where even this fails, the next save overwrites it.
            let _ = rustix::fs::unlinkat(&self.dir, &new, AtFlags::empty());
        }
        written?;
        self.sync_names()
    }

    /// Puts a corrupt document out of the way as `<name>.corrupt-<n>` and says where it is now. The last few of
    /// them are kept.
    ///
    /// # Errors
    /// See [`StateError`].
    pub fn set_aside(&self, name: &str) -> Result<PathBuf, StateError> {
        let numbers = self.numbers_aside(name)?;
        let next = numbers.last().map_or(1, |last| last.saturating_add(1));
        let aside = corrupt(name, next);
        rustix::fs::renameat_with(&self.dir, name, &self.dir, &aside, RenameFlags::NOREPLACE)
            .map_err(self.failed(Operation::Rename, name))?;
        self.sync_names()?;
        for old in numbers.iter().rev().skip(KEPT - 1) {
            let old = corrupt(name, *old);
            rustix::fs::unlinkat(&self.dir, &old, AtFlags::empty())
                .map_err(self.failed(Operation::Remove, &old))?;
        }
        Ok(self.path.join(aside))
    }

    /// The last corrupt predecessor of a document that is still there.
    ///
    /// # Errors
    /// See [`StateError`].
    pub fn last_aside(&self, name: &str) -> Result<Option<PathBuf>, StateError> {
        let numbers = self.numbers_aside(name)?;
        Ok(numbers.last().map(|number| self.path.join(corrupt(name, *number))))
    }

    /// Numbers of a document's corrupt predecessors, in the order in which they were put aside.
    fn numbers_aside(&self, name: &str) -> Result<Vec<u32>, StateError> {
        document(name)?;
        let names = names(self.reopen()?);
        let names = names.map_err(|errno| self.kernel(Operation::List, "", errno))?;
        let number = |other: &String| {
            let number = other.strip_prefix(name)?.strip_prefix(CORRUPT)?;
            number.parse::<u32>().ok()
        };
        let mut numbers: Vec<u32> = names.iter().filter_map(number).collect();
        numbers.sort_unstable();
        Ok(numbers)
    }

    fn write_synced(&self, name: &str, mut rest: &[u8]) -> Result<(), StateError> {
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let file = rustix::fs::openat(&self.dir, name, flags, Mode::RUSR | Mode::WUSR)
            .map_err(self.failed(Operation::Open, name))?;
        while !rest.is_empty() {
            match rustix::io::write(&file, rest) {
                Ok(taken) => rest = rest.get(taken..).unwrap_or_default(),
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(self.failed(Operation::Write, name)(error)),
            }
        }
        rustix::fs::fsync(&file).map_err(self.failed(Operation::Sync, name))
    }

    fn sync_names(&self) -> Result<(), StateError> {
        rustix::fs::fsync(&self.dir).map_err(self.failed(Operation::Sync, ""))
    }

    /// The directory from its beginning: a descriptor's position in it is shared with whoever read it before.
    fn reopen(&self) -> Result<OwnedFd, StateError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        rustix::fs::openat(&self.dir, ".", flags, Mode::empty())
            .map_err(self.failed(Operation::Open, ""))
    }

    fn kernel(&self, operation: Operation, name: &str, errno: Errno) -> StateError {
        let path = if name.is_empty() { self.path.clone() } else { self.path.join(name) };
        StateError::Kernel { operation, path, errno }
    }

    fn failed(
        &self,
        operation: Operation,
        name: &str,
    ) -> impl FnOnce(rustix::io::Errno) -> StateError {
        move |error| self.kernel(operation, name, errno(error))
    }
}

fn kernel(operation: Operation, path: &Path) -> impl FnOnce(rustix::io::Errno) -> StateError {
    move |error| StateError::Kernel { operation, path: path.to_owned(), errno: errno(error) }
}

fn corrupt(name: &str, number: u32) -> String {
    format!("{name}{CORRUPT}{number}")
}

/// Names that need no thought in a path, beside our own suffixes, or on a terminal.
fn document(name: &str) -> Result<(), StateError> {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'.';
    if name.is_empty() || name.starts_with('.') || !name.bytes().all(plain) {
        let name = name.to_owned();
        return Err(StateError::Name { name });
    }
    Ok(())
}

fn read(dir: impl AsFd, name: &str) -> rustix::io::Result<Vec<u8>> {
    // Not blocking: what stands in the document's place may be anything.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let file = rustix::fs::openat(dir, name, flags, Mode::empty())?;
    let mut bytes = Vec::new();
    loop {
        bytes.reserve(16 << 10);
        match rustix::io::read(&file, rustix::buffer::spare_capacity(&mut bytes)) {
            Ok(0) => return Ok(bytes),
            Ok(_) if bytes.len() > LONGEST => return Err(rustix::io::Errno::FBIG),
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests;
