//! Reading, below a root that can be moved: `GPUSLICE_ROOT`, `/` without it. What may not be read is remembered,
//! since it is neither there nor absent.

use gpuslice_core::errno::Errno;
use gpuslice_core::port::{HostRead, LogLine};
use rustix::fs::{Mode, OFlags};
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fs::{File, Metadata};
use std::io::{ErrorKind, Read};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Component, Path, PathBuf};
use std::process::{Command, Stdio};

/// Names the root.
pub const ROOT_ENV: &str = "GPUSLICE_ROOT";

/// Set to 1, programs below a root that was moved are run, as tests want it. They are not this host's, and nobody knows what
/// they do.
const PROGRAMS_ENV: &str = "GPUSLICE_ROOT_PROGRAMS";

/// Links that lead on to links are followed so often.
const LINKS: usize = 16;

/// Folders of the root whose files are the kernel's, or sockets and pipes of what runs.
const KERNELS: [&str; 4] = ["proc", "sys", "dev", "run"];

/// A host's files.
#[derive(Debug)]
pub struct Tree {
    root: PathBuf,
    runs_programs: bool,
    denied: RefCell<BTreeSet<String>>,
}

impl Tree {
    /// This host, or the one below the root that the environment names.
    pub fn from_env() -> Self {
        let root = std::env::var_os(ROOT_ENV).filter(|root| !root.is_empty());
        let root = root.map_or_else(|| PathBuf::from("/"), PathBuf::from);
        let runs_programs = root == Path::new("/")
            || std::env::var_os(PROGRAMS_ENV).is_some_and(|told| told == "1");
        Self { root, runs_programs, denied: RefCell::default() }
    }

    /// Where an absolute path of the host lies.
    pub fn place(&self, path: &str) -> PathBuf {
        self.root.join(path.trim_start_matches('/'))
    }

    /// What could not be read for lack of permission.
    pub fn denied(&self) -> Vec<String> {
        self.denied.borrow().iter().cloned().collect()
    }

    fn noted<T>(&self, path: &str, result: std::io::Result<T>) -> Option<T> {
        if let Err(error) = &result
            && error.kind() == ErrorKind::PermissionDenied
        {
            self.denied.borrow_mut().insert(path.to_owned());
        }
        result.ok()
    }

    /// Text of a file, without blanks at its ends.
    pub fn text(&self, path: &str) -> Option<String> {
        let bytes = self.noted(path, std::fs::read(self.place(path)))?;
        Some(String::from_utf8_lossy(&bytes).trim().to_owned())
    }

    /// Text of an ordinary file below this root that has no more bytes than these. Nothing of the kernel's is opened: there,
    /// to read can be to act (`reset_gpu`) or to wait, and the length told is not the true one.
    pub fn short_text(&self, path: &str, most: u64) -> Option<String> {
        // Links in the middle of a path lead there too.
        let root = std::fs::canonicalize(&self.root).ok()?;
        let place = std::fs::canonicalize(self.place(path)).ok()?;
        let below = place.strip_prefix(root).ok()?;
        let first = below.components().next()?;
        let of_kernel = KERNELS.iter().any(|name| first.as_os_str() == *name);
        if of_kernel || !std::fs::symlink_metadata(&place).ok()?.is_file() {
            return None;
        }
        let file = self.noted(path, ordinary(&place))?;
        let mut bytes = Vec::new();
        file.take(most.saturating_add(1)).read_to_end(&mut bytes).ok()?;
        let whole = u64::try_from(bytes.len()).is_ok_and(|length| length <= most);
        whole.then(|| String::from_utf8_lossy(&bytes).trim().to_owned())
    }

    /// The host's name without its domain.
    pub fn host_name(&self) -> Option<String> {
        let name = self.text("/proc/sys/kernel/hostname")?;
        name.split('.').next().filter(|name| !name.is_empty()).map(str::to_owned)
    }

    /// Names in a directory, sorted.
    pub fn names(&self, path: &str) -> Vec<String> {
        let entries = self.noted(path, std::fs::read_dir(self.place(path)));
        let entries = entries.into_iter().flatten().filter_map(Result::ok);
        let mut names: Vec<String> =
            entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
        names.sort();
        names
    }

    /// Paths of the files in a folder whose names end so.
    pub fn files<'a>(
        &self,
        folder: &'a str,
        ending: &'a str,
    ) -> impl Iterator<Item = String> + use<'a> {
        let names = self.names(folder).into_iter();
        names.filter(move |name| name.ends_with(ending)).map(move |name| format!("{folder}/{name}"))
    }

    /// Last part of a link's target, as sysfs names a driver or a group.
    pub fn link_name(&self, path: &str) -> Option<String> {
        let target = std::fs::read_link(self.place(path)).ok()?;
        Some(target.file_name()?.to_str()?.to_owned())
    }

    /// Whether something is there, be it a link that leads nowhere.
    pub fn exists(&self, path: &str) -> bool {
        self.noted(path, std::fs::symlink_metadata(self.place(path))).is_some()
    }

    /// Whether it is certain that nothing is there, also where links lead. What may not be looked at is not absent.
    pub fn absent(&self, path: &str) -> bool {
        use ErrorKind::{NotADirectory, NotFound};
        let found = self.end_of(path);
        let absent = found.as_ref().is_err_and(|e| matches!(e.kind(), NotFound | NotADirectory));
        self.noted(path, found);
        absent
    }

    /// Whether it is certain that a folder has nothing in it, or is not there.
    pub fn empty(&self, path: &str) -> bool {
        match self.noted(path, std::fs::read_dir(self.place(path))) {
            Some(mut entries) => entries.next().is_none(),
            None => self.absent(path),
        }
    }

    /// Who may do what with a file.
    pub fn mode(&self, path: &str) -> Option<u32> {
        Some(self.noted(path, self.end_of(path))?.permissions().mode())
    }

    /// What links lead to, below this root.
    fn end_of(&self, path: &str) -> std::io::Result<Metadata> {
        let mut path = path.to_owned();
        for _ in 0..LINKS {
            let place = self.place(&path);
            let metadata = std::fs::symlink_metadata(&place)?;
            if !metadata.is_symlink() {
                return Ok(metadata);
            }
            path = joined(&path, &std::fs::read_link(place)?);
        }
        Err(ErrorKind::NotFound.into())
    }

    /// The path that links lead to, as the host itself would follow them.
    pub fn resolved(&self, path: &str) -> Option<String> {
        let mut path = path.to_owned();
        for _ in 0..LINKS {
            match std::fs::read_link(self.place(&path)) {
                Ok(target) => path = joined(&path, &target),
                Err(error) if error.kind() == ErrorKind::InvalidInput => return Some(path),
                Err(error) => return self.noted(&path, Err(error)),
            }
        }
        None
    }

    /// Whether a file may be executed.
    pub fn executable(&self, path: &str) -> bool {
        let metadata = std::fs::metadata(self.place(path));
        metadata.is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0)
    }

    /// When an entry was made or changed, in seconds since 1970. Not its mtime: packages bring that from where they were built.
    pub fn changed_at(&self, path: &str) -> Option<i64> {
        Some(std::fs::symlink_metadata(self.place(path)).ok()?.ctime())
    }

    /// Whether programs of the host are run.
    pub fn runs_programs(&self) -> bool {
        self.runs_programs
    }

    /// What a program of the host says, if it may be run and succeeds.
    pub fn ask(&self, program: &str, arguments: &[&str]) -> Option<String> {
        if !self.runs_programs {
            return None;
        }
        let mut command = Command::new(self.place(program));
        let out =
            command.args(arguments).stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
        out.status.success().then(|| String::from_utf8_lossy(&out.stdout).into_owned())
    }
}

/// Attributes of devices.
impl HostRead for Tree {
    fn list(&self, dir: &str) -> Result<Vec<String>, Errno> {
        let entries = std::fs::read_dir(self.place(dir)).map_err(|error| errno(&error))?;
        let names = entries.filter_map(Result::ok).map(|entry| entry.file_name().into_string());
        Ok(names.filter_map(Result::ok).collect())
    }

    fn read(&self, file: &str) -> Result<Vec<u8>, Errno> {
        std::fs::read(self.place(file)).map_err(|error| errno(&error))
    }

    fn link(&self, path: &str) -> Result<String, Errno> {
        let target = std::fs::read_link(self.place(path)).map_err(|error| errno(&error))?;
        Ok(target.to_string_lossy().into_owned())
    }

    fn kernel_log(&self) -> Result<Vec<LogLine>, Errno> {
        Err(Errno::ENOENT)
    }
}

/// Opens a file by a path without links. Whoever owns a folder on the way may have put something else there since it was looked
/// at: what was opened says where it lies, and nothing of it has been read by then.
fn ordinary(place: &Path) -> std::io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let file = File::from(rustix::fs::open(place, flags | OFlags::NOCTTY, Mode::empty())?);
    let opened = std::fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd()))?;
    let same = file.metadata()?.is_file() && opened == place;
    if same { Ok(file) } else { Err(ErrorKind::InvalidInput.into()) }
}

fn errno(error: &std::io::Error) -> Errno {
    error.raw_os_error().map_or(Errno::EIO, Errno)
}

/// A link's target from where the link is, without `..`.
fn joined(link: &str, target: &Path) -> String {
    let base = Path::new(link).parent().unwrap_or(Path::new("/")).join(target);
    let mut parts: Vec<&str> = Vec::new();
    for part in base.components() {
        match part {
            Component::Normal(name) => parts.extend(name.to_str()),
            Component::ParentDir => {
                parts.pop();
            }
            _ => {}
        }
    }
    format!("/{}", parts.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{CWD, FileType, mknodat};
    use std::os::unix::fs::symlink;

    #[test]
    fn what_was_put_in_a_files_place_is_not_opened() {
        let root = tempfile::tempdir().unwrap();
        let at = |name: &str| std::fs::canonicalize(root.path()).unwrap().join(name);
        std::fs::create_dir(at("folder")).unwrap();
        std::fs::write(at("folder/file"), "text").unwrap();
        symlink(at("folder/file"), at("link")).unwrap();
        symlink(at("folder"), at("other")).unwrap();
        mknodat(CWD, at("pipe"), FileType::Fifo, Mode::RUSR, 0).unwrap();
        assert!(ordinary(&at("folder/file")).is_ok());
        for name in ["link", "other/file", "pipe", "folder"] {
            assert!(ordinary(&at(name)).is_err(), "{name}");
        }
    }
}
