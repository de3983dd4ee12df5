//! What the kernel's log says of devices: it is kept until a person says that the device is well, and by policy the
//! device gets no new VMs until then.

use super::{Effect, Machine, Stored};
use crate::config::OnError;
use crate::health::{self, Health, LogRead, Said, Severity};
use crate::ids::{ParentId, PciAddress};
use crate::observation::Vf;
use std::collections::BTreeMap;

/// One VF that does not come back from a reset may be its guest's doing; so many in one boot are not.
const VFS_OF_A_FAILED_DEVICE: usize = 3;

/// Most lines that wait for their device to appear.
const MOST_UNPLACED: usize = 64;

/// What the reason of such a cordon begins with, before the line.
pub(super) const CORDONED_FOR: &str = "the kernel's log: ";

impl Machine {
    /// Lines are told again when the log is opened anew: those that were read in this boot are known.
    pub(super) fn on_said(&mut self, lines: Vec<Said>) {
        for said in lines {
            let sequence = said.line.sequence;
            if self.log_read.is_some_and(|read| sequence <= read) {
                continue;
            }
            self.log_read = Some(sequence);
            if self.unplaced.len() == MOST_UNPLACED {
                self.unplaced.pop_front();
            }
            self.unplaced.push_back(said);
        }
        self.place_lines();
    }

    /// What a former daemon of this boot has read.
    pub(super) fn resume_log(&mut self) {
        let read = self.durable.log_read.clone();
        let Some(read) = read.filter(|read| read.boot == self.run.boot) else { return };
        self.log_read = Some(read.sequence);
        let lines = read.unplaced.iter();
        self.unplaced = lines.filter_map(|line| health::said(&self.mechanisms, line)).collect();
    }

    /// For the record.
    pub(super) fn log_read(&self) -> Option<LogRead> {
        let (boot, sequence) = (self.run.boot, self.log_read?);
        let unplaced = self.unplaced.iter().map(|said| said.line.clone()).collect();
        Some(LogRead { boot, sequence, unplaced })
    }

    /// Finds the devices of lines. A driver may speak of one before its coming was read.
    pub(super) fn place_lines(&mut self) {
        if !self.observed {
            return;
        }
        for said in std::mem::take(&mut self.unplaced) {
            match self.parent_of_line(&said) {
                Some(parent) => self.note_unwell(parent, &said),
                None if said.trouble.function.is_none() && self.of_mechanism(&said).count() > 1 => {
                    self.of_nobody(&said);
                }
                None => self.unplaced.push_back(said),
            }
        }
    }

    /// One of several devices is unwell, and the line does not say which.
    fn of_nobody(&mut self, said: &Said) {
        let of = said.mechanism;
        let text =
            format!("the kernel's log says of a GPU under {of}, not of which: {}", said.line.text);
        if self.warnings.contains(&text) {
            return;
        }
        self.push(Effect::Log { warning: true, text: text.clone() });
        if self.warnings.len() < MOST_UNPLACED {
            self.warnings.push(text);
        }
    }

    fn of_mechanism(&self, said: &Said) -> impl Iterator<Item = ParentId> {
        let same =
            |parent: &ParentId| self.mechanism(parent).is_some_and(|m| m.name() == said.mechanism);
        self.seen.parents().filter(same)
    }

    /// The PF that a line is about: that of the function it names, or the only one there is of its mechanism.
    fn parent_of_line(&self, said: &Said) -> Option<ParentId> {
        if let Some(function) = said.trouble.function {
            let named = ParentId::Pci(function);
            let parent = self.seen.pf_of(&named).unwrap_or(named);
            return self.seen.has_parent(&parent).then_some(parent);
        }
        let mut parents = self.of_mechanism(said);
        parents.next().filter(|_| parents.next().is_none())
    }

    /// The VF that did not come back from a reset, if it is one alone.
    fn lost_vf(&self, parent: &ParentId, said: &Said) -> Option<PciAddress> {
        let of_line = |(address, vf): &(&PciAddress, &Vf)| {
            let named = said.trouble.function == Some(**address);
            ParentId::Pci(vf.pf) == *parent && (named || said.trouble.vf == Some(vf.index))
        };
        let found = self.seen.vfs.iter().find(of_line).filter(|_| said.trouble.reset_failed);
        found.map(|(address, _)| *address)
    }

    fn note_unwell(&mut self, parent: ParentId, said: &Said) {
        let vf = self.lost_vf(&parent, said);
        let cordons = self.config.on_error == OnError::Cordon;
        if said.trouble.reset_failed {
            self.reset_failed(&parent, said, vf.is_some() && cordons);
            if self.dirty.contains(&Stored::Runtime) {
                // The next daemon reads on behind this line: what it told may have been mended by then.
                self.persist(Stored::Durable);
            }
        }
        let known = self.durable.health.get(&parent);
        let this_boot = known.filter(|health| health.boot == self.run.boot);
        let mut lost_vfs = this_boot.map(|health| health.lost_vfs.clone()).unwrap_or_default();
        let one_more = vf.is_some_and(|vf| lost_vfs.insert(vf));
        let severity = match vf {
            Some(_) if lost_vfs.len() < VFS_OF_A_FAILED_DEVICE => Severity::Degraded,
            _ => said.trouble.severity,
        };
        let known = known.map(|health| health.severity);
        // The first line that is as bad is the one to look at; a device that fails says it thousands of times.
        let as_bad = known >= Some(severity);
        if as_bad && !one_more {
            return;
        }
        let health = match this_boot.filter(|_| as_bad) {
            Some(health) => Health { lost_vfs, ..health.clone() },
            // Of a former boot, and worse.
            None if known > Some(severity) => return,
            None => {
                let cordons = severity == Severity::Failed && cordons;
                Health { severity, lost_vfs, ..Health::new(said, self.run.boot, cordons) }
            }
        };
        let (word, line) = (health.severity.as_str(), said.line.text.trim());
        self.note("parent", &parent, format!("{word}: {line}"));
        let text = format!("{parent} has {word}, as the kernel's log says: {line}");
        self.push(Effect::Log { warning: true, text });
        self.keep_health(BTreeMap::from([(parent, health)]));
        self.persist(Stored::Durable);
    }

    /// What was found stays known, also when the record of it failed, and cordons as it did when it was found.
    pub(super) fn keep_health(&mut self, health: BTreeMap<ParentId, Health>) {
        for (parent, health) in health {
            if health.cordons {
                let why = self.durable.cordons.entry(parent.clone());
                why.or_insert_with(|| format!("{CORDONED_FOR}{}", health.line));
            }
            self.durable.health.insert(parent, health);
        }
    }

    /// A person says that it is well; whether anything was not.
    pub(super) fn note_well(&mut self, parent: &ParentId) -> bool {
        self.durable.health.remove(parent).is_some()
    }

    /// For `gpuslice status`.
    pub(super) fn unwell(&self) -> impl Iterator<Item = String> + '_ {
        self.durable.health.iter().map(|(parent, health)| {
            let (word, line) = (health.severity.as_str(), health.shown(self.run.boot));
            format!("{parent} has {word}: {line}; once it is well: gpuslice uncordon {parent}")
        })
    }
}
