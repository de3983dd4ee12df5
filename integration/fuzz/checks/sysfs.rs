//! Whatever a host, its drivers and their tools show: no crash, every slice and offer has its parent, and a second
//! look sees the same.
//!
//! The bytes are lines: `f PATH CONTENT` is a file, `l PATH TARGET` a link, `e PATH ERRNO` what fails; folders are
//! made by what is in them. Paths are below /sys, but for those that begin with a slash. `t COMMAND,ARGUMENT TEXT` is what a
//! tool says, and `k TEXT` a line of the kernel's log. `\n` in a content or text is the end of a line. A later line of the
//! same path or command replaces an earlier one.

use gpuslice_core::errno::Errno;
use gpuslice_core::health;
use gpuslice_core::ids::ParentId;
use gpuslice_core::layout::{Layout, VfCount};
use gpuslice_core::mechanism::Layouts;
use gpuslice_core::observation::Observation;
use gpuslice_core::observe::Observer;
use gpuslice_core::port::{HostRead, LogLine, Ran};
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
    tools: BTreeMap<String, String>,
    log: Vec<LogLine>,
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
                b"f" => Entry::File([lines(value).as_slice(), b"\n"].concat()),
                b"t" => {
                    let said = String::from_utf8_lossy(&lines(value)).into_owned();
                    tree.tools.insert(path.to_owned(), said);
                    continue;
                }
                b"k" => {
                    let sequence = tree.log.len() as u64;
                    let text = format!("{path} {text}");
                    tree.log.push(LogLine { sequence, at_us: sequence, text });
                    continue;
                }
                b"l" => Entry::Link(text.into_owned()),
                b"e" => Entry::Fails(Errno(text.parse().unwrap_or(5))),
                _ => continue,
            };
            let below = if path.starts_with('/') { "" } else { "/sys/" };
            tree.plant(&format!("{below}{path}"), entry);
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

    fn ask(&self, command: &[String]) -> Result<Ran, Errno> {
        let said = self.tools.get(&command.join(",")).ok_or(Errno::ENOENT)?;
        Ok(Ran { code: 0, said: said.clone() })
    }

    fn kernel_log(&self) -> Result<Vec<LogLine>, Errno> {
        Ok(self.log.clone())
    }
}

fn lines(value: &[u8]) -> Vec<u8> {
    let mut rest = value;
    let mut lines = Vec::with_capacity(value.len());
    while let Some((byte, behind)) = rest.split_first() {
        rest = match behind.split_first() {
            Some((b'n', behind)) if *byte == b'\\' => {
                lines.push(b'\n');
                behind
            }
            _ => {
                lines.push(*byte);
                behind
            }
        };
    }
    lines
}

/// What mechanisms make of what was seen.
fn judged(seen: &Observation, log: &[LogLine]) {
    let mechanisms = gpuslice_vendors::all();
    let parents: BTreeSet<ParentId> = seen
        .functions
        .keys()
        .map(|a| ParentId::Pci(*a))
        .chain(seen.mdev_parents.keys().cloned())
        .collect();
    let layout = Layout {
        vfs: VfCount::All,
        bind: None,
        modes: BTreeMap::new(),
        wipe: Default::default(),
        park: BTreeMap::new(),
    };
    let layouts: Layouts = parents.iter().map(|p| (p.clone(), layout.clone())).collect();
    for parent in &parents {
        for mechanism in mechanisms.iter().filter(|m| m.applies(seen, parent)) {
            for offer in mechanism.offers(seen, parent, Some(&layout)) {
                let of = offer.parent.clone();
                assert!(seen.pf_of(&of).is_some() || parents.contains(&of), "{of} is nowhere");
            }
            mechanism.modes(seen, parent);
            mechanism.fabric(seen, parent);
            mechanism.together(seen, parent);
            mechanism.realised(seen, parent, &layout);
            for reshape in [false, true] {
                let _ = mechanism.layout_steps(seen, parent, &layouts, reshape);
            }
        }
    }
    for line in log {
        health::said(&mechanisms, line);
    }
}

/// What is seen of the host that the bytes are.
pub fn seen(data: &[u8]) -> Observation {
    Observer::new(gpuslice_vendors::all()).observe(&Tree::planted(data))
}

/// Panics when a promise is broken.
pub fn check(data: &[u8]) {
    let host = Tree::planted(data);
    let mut observer = Observer::new(gpuslice_vendors::all());
    let first = seen(data);
    assert_eq!(observer.observe(&host), first);
    for (address, vf) in &first.vfs {
        let pf = first.functions.get(&vf.pf).unwrap_or_else(|| panic!("{address} has no PF"));
        assert!(pf.sriov.is_some(), "the PF of {address} has no SR-IOV");
    }
    judged(&first, &host.log);
    // What is remembered between looks must not change what is seen, its troubles included.
    assert_eq!(observer.observe(&host), first);
}
