//! Whatever a host shows: no crash, every slice has its parent, and a second look sees the same.
//!
//! The bytes are lines: `f PATH CONTENT` is a file, `l PATH TARGET` a link, `e PATH ERRNO` what fails; folders are
//! made by what is in them. Paths are below /sys. A later line of the same path replaces an earlier one.

use gpuslice_core::errno::Errno;
use gpuslice_core::observe::Observer;
use gpuslice_core::port::{HostRead, LogLine};
use std::collections::{BTreeMap, BTreeSet};

enum Entry {
    File(Vec<u8>),
    Link(String),
    Fails(Errno),
}

#[derive(Default)]
struct Tree {
    entries: BTreeMap<String, Entry>,
    folders: BTreeMap<String, BTreeSet<String>>,
}

impl Tree {
    fn planted(data: &[u8]) -> Self {
        let mut tree = Self::default();
        for line in data.split(|byte| *byte == b'\n') {
            let mut words = line.splitn(3, |byte| *byte == b' ');
            let (Some(kind), Some(path)) = (words.next(), words.next()) else {
                continue;
            };
            let value = words.next().unwrap_or_default();
            let (Ok(path), text) = (std::str::from_utf8(path), String::from_utf8_lossy(value))
            else {
                continue;
            };
            let entry = match kind {
                b"f" => Entry::File([value, b"\n"].concat()),
                b"l" => Entry::Link(text.into_owned()),
                b"e" => Entry::Fails(Errno(text.parse().unwrap_or(5))),
                _ => continue,
            };
            tree.plant(&format!("/sys/{path}"), entry);
        }
        tree
    }

    fn plant(&mut self, path: &str, entry: Entry) {
        let mut below = path;
        while let Some((folder, name)) = below.rsplit_once('/') {
            self.folders.entry(folder.to_owned()).or_default().insert(name.to_owned());
            below = folder;
        }
        self.entries.insert(path.to_owned(), entry);
    }

    fn failing(&self, path: &str) -> Result<(), Errno> {
        match self.entries.get(path) {
            Some(Entry::Fails(errno)) => Err(*errno),
            _ => Ok(()),
        }
    }
}

impl HostRead for Tree {
    fn list(&self, dir: &str) -> Result<Vec<String>, Errno> {
        self.failing(dir)?;
        let names = self.folders.get(dir).ok_or(Errno::ENOENT)?;
        Ok(names.iter().cloned().collect())
    }

    fn read(&self, file: &str) -> Result<Vec<u8>, Errno> {
        self.failing(file)?;
        match self.entries.get(file) {
            Some(Entry::File(content)) => Ok(content.clone()),
            _ if self.folders.contains_key(file) => Err(Errno::EISDIR),
            _ => Err(Errno::ENOENT),
        }
    }

    fn link(&self, path: &str) -> Result<String, Errno> {
        self.failing(path)?;
        match self.entries.get(path) {
            Some(Entry::Link(target)) => Ok(target.clone()),
            None if !self.folders.contains_key(path) => Err(Errno::ENOENT),
            _ => Err(Errno::EINVAL),
        }
    }

    fn kernel_log(&self) -> Result<Vec<LogLine>, Errno> {
        Ok(Vec::new())
    }
}

/// Panics when a promise is broken.
pub fn check(data: &[u8]) {
    let host = Tree::planted(data);
    let mut observer = Observer::default();
    let first = observer.observe(&host);
    for (address, vf) in &first.vfs {
        let pf = first.functions.get(&vf.pf).unwrap_or_else(|| panic!("{address} has no PF"));
        assert!(pf.sriov.is_some(), "the PF of {address} has no SR-IOV");
    }
    // What is remembered between looks must not change what is seen, its troubles included.
    assert_eq!(observer.observe(&host), first);
}
