//! A record that is only added to, in numbered files beside the documents: `<stem>-000001.jsonl`, the newest being the
//! one that is written. A file is begun whole under its own name, so at no time there is none or half of one.

use super::{Operation, StateDir, StateError, read};
use crate::sys::names;
use rustix::fd::OwnedFd;
use rustix::fs::{AtFlags, Mode, OFlags};

/// The files of a record.
#[derive(Debug)]
pub struct Log {
    /// Without a lock of its own: whoever made this has it.
    place: StateDir,
    stem: &'static str,
    /// The file that is written, once it is open, and how long it is.
    open: Option<(OwnedFd, u64)>,
    number: u32,
}

/// What was found in the newest file.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// Its whole lines.
    pub lines: Vec<u8>,
    /// A last line that was being written when it broke off. It is cut away.
    pub torn: Vec<u8>,
}

impl StateDir {
    /// A record in this directory. The stem is a document's name.
    ///
    /// # Errors
    /// See [`StateError`].
    pub fn log(&self, stem: &'static str) -> Result<Log, StateError> {
        super::document(stem)?;
        let place = Self { path: self.path.clone(), dir: self.reopen()? };
        Ok(Log { place, stem, open: None, number: 1 })
    }
}

impl Log {
    fn name(&self, number: u32) -> String {
        format!("{}-{number:06}.jsonl", self.stem)
    }

    /// The files there are, oldest first.
    ///
    /// # Errors
    /// See [`StateError`].
    pub fn numbers(&self) -> Result<Vec<u32>, StateError> {
        let names = names(self.place.reopen()?)
            .map_err(|errno| self.place.kernel(Operation::List, "", errno))?;
        let prefix = format!("{}-", self.stem);
        let number =
            |name: &String| name.strip_prefix(&prefix)?.strip_suffix(".jsonl")?.parse::<u32>().ok();
        let ours = names.iter().filter_map(|name| Some((name, number(name)?)));
        let mut numbers: Vec<u32> =
            ours.filter(|(name, n)| **name == self.name(*n)).map(|(_, n)| n).collect();
        numbers.sort_unstable();
        Ok(numbers)
    }

    /// Reads a file.
    ///
    /// # Errors
    /// See [`StateError`].
    pub fn read(&self, number: u32) -> Result<Vec<u8>, StateError> {
        let name = self.name(number);
        read(&self.place.dir, &name).map_err(self.place.failed(Operation::Read, &name))
    }

    /// Opens the newest file, begins the first where there is none, and cuts away what a crash left of a last line.
    ///
    /// # Errors
    /// See [`StateError`].
    pub fn open(&mut self) -> Result<Found, StateError> {
        self.open = None;
        self.number = self.numbers()?.last().copied().unwrap_or(1);
        let name = self.name(self.number);
        let file = self.file(OFlags::CREATE)?;
        let mut lines =
            read(&self.place.dir, &name).map_err(self.place.failed(Operation::Read, &name))?;
        let torn = lines.split_off(gpuslice_core::history::whole(&lines));
        let length = lines.len() as u64;
        if !torn.is_empty() {
            rustix::fs::ftruncate(&file, length)
                .and_then(|()| rustix::fs::fdatasync(&file))
                .map_err(self.place.failed(Operation::Write, &name))?;
        }
        // Its name may be new, also where it has lines already.
        self.place.sync_names()?;
        self.open = Some((file, length));
        Ok(Found { lines, torn })
    }

    fn file(&self, more: OFlags) -> Result<OwnedFd, StateError> {
        let name = self.name(self.number);
        let flags = OFlags::WRONLY | OFlags::APPEND | OFlags::CLOEXEC | OFlags::NOFOLLOW | more;
        rustix::fs::openat(&self.place.dir, &name, flags, Mode::RUSR | Mode::WUSR)
            .map_err(self.place.failed(Operation::Open, &name))
    }

    /// Adds whole lines. When it returns they survive a power cut; when it fails none of them is there after the next
    /// [`Self::open`] that finds them torn, or all are.
    ///
    /// # Errors
    /// See [`StateError`]. What is open is closed then.
    pub fn add(&mut self, lines: &str) -> Result<(), StateError> {
        if self.open.is_none() {
            self.open()?;
        }
        let Some((file, length)) = self.open.take() else { return Ok(()) };
        let name = self.name(self.number);
        let mut rest = lines.as_bytes();
        while !rest.is_empty() {
            match rustix::io::write(&file, rest) {
                Ok(taken) => rest = rest.get(taken..).unwrap_or_default(),
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => {
                    // Whoever fails here is asked again with the same lines. Where this fails too, they are read twice.
                    let _ = rustix::fs::ftruncate(&file, length);
                    return Err(self.place.failed(Operation::Write, &name)(error));
                }
            }
        }
        if let Err(error) = rustix::fs::fdatasync(&file) {
            let _ = rustix::fs::ftruncate(&file, length);
            return Err(self.place.failed(Operation::Sync, &name)(error));
        }
        self.open = Some((file, length + lines.len() as u64));
        Ok(())
    }

    /// Bytes in the file that is written.
    pub fn length(&self) -> u64 {
        self.open.as_ref().map_or(0, |(_, length)| *length)
    }

    /// Begins the next file with these lines, and removes all but so many of the older ones: what cannot be removed now
    /// is tried again with the next file.
    ///
    /// # Errors
    /// See [`StateError`]. What is open is closed then: the next file may be there or not.
    pub fn begin_next(&mut self, head: &str, keep: usize) -> Result<(), StateError> {
        self.open = None;
        let next = self.number.saturating_add(1);
        self.place.save(&self.name(next), head)?;
        self.number = next;
        self.open = Some((self.file(OFlags::empty())?, head.len() as u64));
        let mut older = self.numbers().unwrap_or_default();
        older.retain(|number| *number < next);
        for old in older.iter().rev().skip(keep) {
            let _ = rustix::fs::unlinkat(&self.place.dir, self.name(*old), AtFlags::empty());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::small_disk::SmallDisk;
    use std::fs;

    fn log(dir: &std::path::Path) -> Log {
        // A test beside this one may be about to start a program with a copy of the lock.
        loop {
            match StateDir::open(dir.join("state")) {
                Ok(state) => return state.log("history").unwrap(),
                Err(StateError::InUse { .. }) => std::thread::yield_now(),
                Err(error) => panic!("{error}"),
            }
        }
    }

    #[test]
    fn what_is_added_is_read_and_goes_on_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let mut first = log(dir.path());
        assert_eq!(first.open().unwrap(), Found::default());
        first.add("a\nb\n").unwrap();
        drop(first);
        let mut again = log(dir.path());
        assert_eq!(again.open().unwrap().lines, b"a\nb\n");
        again.add("c\n").unwrap();
        assert_eq!((again.numbers().unwrap(), again.length()), (vec![1], 6));
        assert_eq!(again.read(1).unwrap(), b"a\nb\nc\n");
    }

    #[test]
    fn a_line_that_is_torn_is_cut_away_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = log(dir.path());
        log.add("whole\n").unwrap();
        let path = dir.path().join("state/history-000001.jsonl");
        for torn in ["x", "{\"at\":", "\0\0\0"] {
            fs::write(&path, format!("whole\n{torn}")).unwrap();
            let found = log.open().unwrap();
            assert_eq!((found.lines.as_slice(), found.torn), (&b"whole\n"[..], torn.into()));
            assert_eq!(fs::read(&path).unwrap(), b"whole\n");
        }
        // What is damaged before the end stays for a person to look at.
        fs::write(&path, "\0\0\nwhole\n").unwrap();
        assert_eq!(log.open().unwrap().lines, b"\0\0\nwhole\n");
    }

    #[test]
    fn old_files_go_and_names_of_others_stay() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = log(dir.path());
        for other in ["history-1.jsonl", "history-x.jsonl", "historyless-000009.jsonl"] {
            fs::write(dir.path().join("state").join(other), "theirs").unwrap();
        }
        log.add("1\n").unwrap();
        for number in 2..7 {
            log.begin_next(&format!("{number}\n"), 3).unwrap();
        }
        assert_eq!(log.numbers().unwrap(), [3, 4, 5, 6]);
        log.add("more\n").unwrap();
        assert_eq!(log.read(6).unwrap(), b"6\nmore\n");
        assert_eq!(fs::read_dir(dir.path().join("state")).unwrap().count(), 7);
    }

    #[test]
    fn what_is_added_is_in_the_newest_file_also_when_beginning_it_failed() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = log(dir.path());
        log.add("1\n").unwrap();
        // It can be searched and not synced, so that the next file is there and beginning it fails.
        let path = dir.path().join("state");
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let unsynced = rustix::fs::open(&path, flags, Mode::empty()).unwrap();
        let synced = std::mem::replace(&mut log.place.dir, unsynced);
        assert!(log.begin_next("2\n", 3).is_err());
        assert!(log.add("lost\n").is_err(), "a power cut could take the file with its name");
        log.place.dir = synced;
        log.add("more\n").unwrap();
        assert_eq!(log.numbers().unwrap(), [1, 2]);
        assert_eq!(log.read(1).unwrap(), b"1\n");
        assert_eq!(log.read(2).unwrap(), b"2\nmore\n");
    }

    #[test]
    fn an_old_file_that_cannot_be_removed_is_in_nobody_s_way() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = log(dir.path());
        log.add("1\n").unwrap();
        log.begin_next("2\n", 1).unwrap();
        let oldest = dir.path().join("state/history-000001.jsonl");
        fs::remove_file(&oldest).unwrap();
        fs::create_dir(&oldest).unwrap();
        log.begin_next("3\n", 1).unwrap();
        log.add("more\n").unwrap();
        assert_eq!(log.numbers().unwrap(), [1, 2, 3]);
        assert_eq!(log.read(3).unwrap(), b"3\nmore\n");
    }

    #[test]
    fn a_full_disk_leaves_whole_lines() {
        let Some(disk) = SmallDisk::mount() else { return };
        let mut log = log(disk.path());
        let line = "x".repeat(1000) + "\n";
        let mut added = 0;
        while log.add(&line).is_ok() {
            added += 1;
            assert!(added < SmallDisk::SIZE);
        }
        assert!(added > 0);
        assert_eq!(log.open().unwrap(), Found { lines: line.repeat(added).into(), torn: vec![] });
    }
}
