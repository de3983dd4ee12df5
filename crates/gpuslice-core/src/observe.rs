//! Reads a host into an [`Observation`]. Reads only attributes on its list, never a whole directory: some
//! attributes act when read.

mod answers;
mod mdev;
mod nodes;
mod options;
mod pci;
mod serial;
mod slots;

pub use answers::Answers;
pub(crate) use nodes::NODES;

use crate::errno::Errno;
use crate::execute::CONFIG_MARK;
use crate::ids::{MdevTypeId, ParentId, PciAddress};
use crate::mechanism::Mechanism;
use crate::numa::Nodes;
use crate::observation::{FixedType, Function, Observation, ProblemKind, ReadProblem};
use crate::port::{HostRead, Ran, read_text};
use serial::Numbered;
use std::collections::BTreeMap;
use std::str::FromStr;
use std::sync::Arc;

/// Reads hosts, and remembers between readings what cannot change while a device is registered.
#[derive(Default)]
pub struct Observer {
    mechanisms: Vec<Box<dyn Mechanism>>,
    types: BTreeMap<(ParentId, MdevTypeId), Arc<FixedType>>,
    serials: BTreeMap<PciAddress, Numbered>,
    nodes: Option<Arc<Nodes>>,
    nodes_anew: bool,
    slots: bool,
    answers: Answers,
}

impl Observer {
    /// One that also reads what these mechanisms know to read.
    pub fn new(mechanisms: Vec<Box<dyn Mechanism>>) -> Self {
        Self { mechanisms, ..Self::default() }
    }

    /// A step has run a vendor's tool, or a person has ordered something: what was told before may not be so any more.
    pub fn forget_answers(&mut self) {
        self.answers.forget();
    }

    /// Whoever asks for it waits also for tools that did not answer in their time.
    pub fn ask_anew(&mut self) {
        self.answers.forget_all();
    }

    /// Questions to vendors' tools that came to nothing, as commands. No reading asks them again while all else is the
    /// same: that is done beside the readings, which wait for nobody.
    pub fn failed_questions(&self) -> Vec<Vec<String>> {
        self.answers.failed()
    }

    /// One of them was asked again.
    pub fn asked_again(&mut self, command: &[String], how: Result<Ran, Errno>) {
        self.answers.asked_again(command, how);
    }

    /// Whether tools may be asked. One that looks at a device is in the way of one that sets it.
    pub fn may_ask(&mut self, may: bool) {
        self.answers.may_ask(may);
    }

    /// Whether the slots that GPUs are in are read too: that costs reads, and only layouts that match by one need it.
    pub fn read_slots(&mut self, wanted: bool) {
        self.slots = wanted;
    }

    /// Whether the next reading reads the NUMA nodes too, though they are known.
    pub fn read_nodes(&mut self, anew: bool) {
        self.nodes_anew = anew;
    }

    /// Reads everything once.
    pub fn observe(&mut self, host: &dyn HostRead) -> Observation {
        let mut seen = Observation::default();
        nodes::read(host, self, &mut seen);
        pci::read(host, self, &mut seen);
        serial::read(host, self, &mut seen);
        mdev::read(host, self, &mut seen);
        if self.slots {
            slots::read(host, &mut seen);
        }
        for mechanism in &self.mechanisms {
            mechanism.observe(host, &mut self.answers, &mut seen);
        }
        for function in seen.functions.values_mut().chain(seen.whole.values_mut()) {
            let (vendor, device) = (function.vendor, function.device);
            function.model = self.mechanisms.iter().find_map(|m| m.model(vendor, device));
        }
        let bare = seen.functions.iter().filter(|(_, function)| function.driver.is_none());
        let maker = |(address, function): (&PciAddress, &Function)| {
            let mut mechanisms = self.mechanisms.iter();
            Some((*address, mechanisms.find_map(|m| m.maker(&seen, *address, function))?))
        };
        let makers: Vec<(PciAddress, &'static str)> = bare.filter_map(maker).collect();
        for (address, maker) in makers {
            if let Some(function) = seen.functions.get_mut(&address) {
                function.maker = Some(maker);
            }
        }
        self.types.retain(|(parent, _), _| seen.mdev_parents.contains_key(parent));
        let there = |address: &PciAddress| {
            seen.functions.contains_key(address) || seen.whole.contains_key(address)
        };
        self.serials.retain(|address, _| there(address));
        seen
    }
}

/// Longest attribute of sysfs, in bytes (fs/sysfs/file.c).
const PAGE: usize = 4096;

/// Notes a problem unless the thing is simply gone, which a reader of a live system must expect.
pub fn note(seen: &mut Observation, path: &str, errno: Errno) {
    if !matches!(errno, Errno::ENOENT | Errno::ENODEV) {
        seen.problems.push(ReadProblem { path: path.to_owned(), why: ProblemKind::Errno(errno) });
    }
}

/// Notes a text that is not what it should be.
pub fn corrupt(seen: &mut Observation, path: &str, text: &str) {
    let text = text.chars().take(80).collect();
    seen.problems.push(ReadProblem { path: path.to_owned(), why: ProblemKind::Corrupt(text) });
}

/// What gpuslice wrote into a file of settings; `None` after noting why, where that is more than that there is none.
pub fn own_config(host: &dyn HostRead, seen: &mut Observation, path: &str) -> Option<String> {
    match read_text(host, path) {
        Ok(text) if text.lines().next() == Some(CONFIG_MARK) => Some(text),
        Ok(text) => {
            corrupt(seen, path, &text);
            None
        }
        Err(errno) => {
            note(seen, path, errno);
            None
        }
    }
}

/// What a folder's name says. A person may write an address in other ways than the kernel does, and two folders that mean
/// one thing cannot both be it.
fn named<T: FromStr + ToString>(name: &str) -> Option<T> {
    name.parse().ok().filter(|id: &T| id.to_string() == name)
}

/// Reads and parses an attribute; `None` after noting why not.
pub fn attribute<T>(
    host: &dyn HostRead,
    seen: &mut Observation,
    path: &str,
    parse: impl FnOnce(&str) -> Option<T>,
) -> Option<T> {
    parsed(seen, path, read_text(host, path), parse)
}

/// Parses what an attribute's reading gave; `None` after noting why not.
fn parsed<T>(
    seen: &mut Observation,
    path: &str,
    text: Result<String, Errno>,
    parse: impl FnOnce(&str) -> Option<T>,
) -> Option<T> {
    let text = match text {
        Ok(text) => text,
        Err(errno) => {
            note(seen, path, errno);
            return None;
        }
    };
    let value = parse(&text).filter(|_| text.len() <= PAGE);
    if value.is_none() {
        corrupt(seen, path, &text);
    }
    value
}

/// `0x1002`, or `74b5` as `sriov_vf_device` writes it.
pub fn parse_hex(text: &str) -> Option<u32> {
    u32::from_str_radix(text.strip_prefix("0x").unwrap_or(text), 16).ok()
}

fn parse_decimal(text: &str) -> Option<u32> {
    text.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_as_sysfs_writes_them() {
        assert_eq!(parse_hex("0x1002"), Some(0x1002));
        assert_eq!(parse_hex("74b5"), Some(0x74b5));
        for text in ["", "0x", "-1", "12 34", "0x1ffffffff"] {
            assert_eq!(parse_hex(text), None, "{text}");
        }
    }
}
