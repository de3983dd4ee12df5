//! The core's ports on the running kernel. A host of 4096 VFs is read again after every event, so each attribute
//! costs three system calls (open, read, close), a link one, a directory four.
//!
//! Rules of sysfs (Documentation/filesystems/sysfs.rst) and kernfs (fs/kernfs/file.c) this relies on: an attribute
//! is at most one page and comes in one read; a binary attribute comes a page at a time; one write(2) is one store.

mod kmsg;
mod module;
mod near;
mod replace;
mod tool;

use crate::errno;
use gpuslice_core::errno::Errno;
use gpuslice_core::port::{
    ANSWER_LIMIT, Files, HostRead, HostWrite, LogLine, READ_LIMIT, Ran, Written,
};
pub use kmsg::{KernelLog, Record};
use near::Near;
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, RawDir, StatxFlags, statx};
use std::borrow::Cow;
use std::mem::MaybeUninit;
use std::path::Path;
use std::time::Duration;

/// Longest a vendor's tool runs that may be broken off; the step's own deadline is longer.
const TOOL_DEADLINE: Duration = Duration::from_secs(60);

/// Longest one that is only asked runs: whatever is told of the host waits for it.
const ASK_DEADLINE: Duration = Duration::from_secs(20);

/// The smallest page the kernel has; what is shorter under `/sys` was the whole attribute.
const PAGE: usize = 4096;

/// Threads that read a long list of files.
const READERS: usize = 4;

/// Fewest files that are worth a thread.
const SHARE: usize = 1000;

/// This machine, or a tree that looks like one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SysHost {
    /// Put before every path; empty for `/`.
    root: String,
}

impl SysHost {
    /// The host below a directory; `/` is the running system. A relative root is taken from the working directory.
    ///
    /// # Errors
    /// `EINVAL` when the root is empty or not UTF-8, else what getcwd(2) gave.
    pub fn new(root: impl AsRef<Path>) -> Result<Self, Errno> {
        let root = std::path::absolute(root)
            .map_err(|error| error.raw_os_error().map_or(Errno::EINVAL, Errno))?;
        let root = root.to_str().ok_or(Errno::EINVAL)?;
        Ok(Self { root: root.trim_end_matches('/').to_owned() })
    }

    /// The root, `/` for the running system.
    pub fn root(&self) -> &str {
        if self.root.is_empty() { "/" } else { &self.root }
    }

    fn place<'a>(&self, path: &'a str) -> Result<Cow<'a, str>, Errno> {
        if !path.starts_with('/') {
            return Err(Errno::EINVAL);
        }
        Ok(if self.root.is_empty() {
            Cow::Borrowed(path)
        } else {
            Cow::Owned(format!("{}{path}", self.root))
        })
    }

    fn tool(&self, command: &[String], deadline: Duration, part: tool::Part) -> Result<Ran, Errno> {
        let (program, arguments) = command.split_first().ok_or(Errno::EINVAL)?;
        if !program.starts_with('/') {
            return Err(Errno::EINVAL);
        }
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        tool::run(&self.place(program)?, &arguments, deadline, part)
    }

    fn open(&self, path: &str, flags: OFlags) -> Result<OwnedFd, Errno> {
        let flags = flags | OFlags::CLOEXEC | OFlags::NOCTTY;
        rustix::fs::openat(CWD, &*self.place(path)?, flags, Mode::empty()).map_err(errno)
    }
}

impl HostRead for SysHost {
    /// Names that are not UTF-8 come with replacement characters: no name the product looks for has any.
    fn list(&self, dir: &str) -> Result<Vec<String>, Errno> {
        names(self.open(dir, OFlags::RDONLY | OFlags::DIRECTORY)?)
    }

    fn read(&self, file: &str) -> Result<Vec<u8>, Errno> {
        content(&self.open(file, OFlags::RDONLY)?, file)
    }

    /// The kernel serves each processor by itself, and the time goes into looking up paths.
    fn read_each(&self, folders: &[Files]) -> Vec<Result<Vec<u8>, Errno>> {
        let one_by_one = |folders: &[Files]| {
            let mut near = Near::default();
            let files = folders.iter().flat_map(|f| f.names.iter().map(move |name| (f, name)));
            files.map(|(f, name)| near.read(self, &f.folder, name)).collect::<Vec<_>>()
        };
        let by_itself = |folders: &[Files]| {
            own_files();
            one_by_one(folders)
        };
        let files: usize = folders.iter().map(|f| f.names.len()).sum();
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        let readers = processors.min(READERS).min(files / SHARE);
        if readers < 2 {
            return one_by_one(folders);
        }
        let share = folders.len().div_ceil(readers);
        std::thread::scope(|scope| {
            let readers: Vec<_> = folders
                .chunks(share)
                .map(|share| {
                    let reader = std::thread::Builder::new().name("reader".to_owned());
                    (share, reader.spawn_scoped(scope, || by_itself(share)))
                })
                .collect();
            let mut all = Vec::with_capacity(files);
            for (share, reader) in readers {
                let read = reader.ok().and_then(|reader| reader.join().ok());
                all.extend(read.unwrap_or_else(|| one_by_one(share)));
            }
            all
        })
    }

    /// Targets that are not UTF-8 (open files of any user under `/proc`) come with replacement characters.
    fn link(&self, path: &str) -> Result<String, Errno> {
        let mut buffer = [MaybeUninit::uninit(); PAGE];
        let (target, rest) =
            rustix::fs::readlinkat_raw(CWD, &*self.place(path)?, &mut buffer).map_err(errno)?;
        if rest.is_empty() {
            return Err(Errno::ENAMETOOLONG);
        }
        Ok(String::from_utf8_lossy(target).into_owned())
    }

    fn device(&self, path: &str) -> Result<Option<(u32, u32)>, Errno> {
        let found = statx(CWD, &*self.place(path)?, AtFlags::STATX_DONT_SYNC, StatxFlags::TYPE);
        let found = found.map_err(errno)?;
        let is_character =
            FileType::from_raw_mode(found.stx_mode.into()) == FileType::CharacterDevice;
        Ok(is_character.then_some((found.stx_rdev_major, found.stx_rdev_minor)))
    }

    fn ask(&self, command: &[String]) -> Result<Ran, Errno> {
        self.tool(command, ASK_DEADLINE, tool::Part::Whole(ANSWER_LIMIT))
    }

    fn kernel_log(&self) -> Result<Vec<LogLine>, Errno> {
        kmsg::read(self)
    }
}

impl HostWrite for SysHost {
    fn write(&mut self, file: &str, data: &[u8]) -> Result<Written, Errno> {
        // Neither O_CREAT nor O_TRUNC: a store is the write alone, and an absent attribute stays absent.
        let fd = self.open(file, OFlags::WRONLY)?;
        // Not repeated on EINTR: a driver may have acted by then.
        let written = rustix::io::write(&fd, data).map_err(errno)?;
        if written == data.len() { Ok(Written::Done) } else { Err(Errno::EIO) }
    }

    fn run(&mut self, command: &[String]) -> Result<Ran, Errno> {
        // Complaints come last.
        self.tool(command, TOOL_DEADLINE, tool::Part::End)
    }

    fn run_unbroken(&mut self, command: &[String]) -> Result<Ran, Errno> {
        self.tool(command, tool::NEVER, tool::Part::End)
    }

    fn load_module(&mut self, name: &str) -> Result<(), Errno> {
        module::load(self, name, module::DEADLINE)
    }

    fn load_driver(&mut self, name: &str) -> Result<(), Errno> {
        module::load(self, name, tool::NEVER)
    }

    fn unload_module(&mut self, name: &str) -> Result<Written, Errno> {
        module::unload(self, name).map(|()| Written::Done)
    }

    fn replace(&mut self, file: &str, content: &[u8]) -> Result<(), Errno> {
        replace::replace(&self.place(file)?, content)
    }
}

/// Gives the calling thread a table of open files of its own. Threads that open and close thousands would wait for each
/// other at a shared one; where the kernel refuses, they do.
#[allow(unsafe_code)]
fn own_files() {
    // SAFETY: what the thread opens from here on it closes itself, and no descriptor leaves it. Those it had before stay
    // open, in both tables, as long as it lives, which is shorter than who waits for it.
    let _ = unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::FILES) };
}

/// What an open file holds from its beginning.
fn content(fd: &OwnedFd, file: &str) -> Result<Vec<u8>, Errno> {
    // A file of /proc may end a read early at any record, so there only an empty read is the end.
    let attribute = file.starts_with("/sys/");
    let mut buffer = [MaybeUninit::uninit(); 2 * PAGE];
    let mut content = Vec::new();
    loop {
        let got = match rustix::io::read(fd, &mut buffer) {
            Ok((got, _)) => got,
            Err(rustix::io::Errno::INTR) => continue,
            Err(error) => return Err(errno(error)),
        };
        content.extend_from_slice(got);
        if content.len() > READ_LIMIT {
            return Err(Errno::EFBIG);
        }
        if got.is_empty() || (attribute && got.len() < PAGE) {
            return Ok(content);
        }
    }
}

/// Names in an open directory, without `.` and `..`.
pub(crate) fn names(dir: impl AsFd) -> Result<Vec<String>, Errno> {
    let mut buffer = [MaybeUninit::uninit(); 8 * PAGE];
    let mut entries = RawDir::new(dir, &mut buffer);
    let mut names = Vec::new();
    while let Some(entry) = entries.next() {
        let entry = entry.map_err(errno)?;
        let name = entry.file_name().to_string_lossy();
        if name != "." && name != ".." {
            names.push(name.into_owned());
        }
    }
    Ok(names)
}

#[cfg(test)]
mod tests;
