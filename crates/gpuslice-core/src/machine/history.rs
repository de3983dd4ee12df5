//! The history: what is recorded of who has which slice is compared with what the history says, and the difference
//! is what it has yet to say. So it cannot say twice what it says once, whatever was on the way when a daemon died.

use super::{Effect, Machine, Stored};
use crate::history::{Ending, Entry, Line, Point, Tenure};
use crate::ids::{BootId, ClaimName, Owner, ParentId, ProfileName, SliceId};
use crate::state::{Assignment, Phase};
use std::collections::{BTreeMap, BTreeSet};

/// What the history says up to now.
#[derive(Debug, Default)]
pub(super) struct Told {
    /// Tenures that have begun and not ended.
    open: BTreeMap<SliceId, Tenure>,
    /// Why those that have just ended did.
    endings: BTreeMap<SliceId, Ending>,
    /// What was so before the last batch, should its record fail.
    undo: Vec<(SliceId, Option<Tenure>, Option<Ending>)>,
    /// A batch was dropped.
    behind: bool,
    /// Why the history cannot be written.
    trouble: Option<String>,
}

/// Who has a slice.
struct Holder<'m> {
    owner: &'m Owner,
    claim: Option<&'m ClaimName>,
    index: u32,
}

impl Machine {
    /// What was going on when a former daemon stopped. What it was of another boot ended with that.
    pub(super) fn resume_history(&mut self, open: BTreeMap<SliceId, Line>, boot: BootId) {
        for (slice, line) in open {
            if line.entry.boot != boot {
                self.past.endings.insert(slice, Ending::Rebooted);
            }
            self.past.open.insert(slice, line.entry.tenure);
        }
        self.past.behind = true;
    }

    pub(super) fn on_history(&mut self, trouble: Option<String>) {
        self.past.trouble = trouble;
    }

    /// For `gpuslice status`.
    pub(super) fn history_trouble(&self) -> Option<String> {
        let why = self.past.trouble.as_ref()?;
        Some(format!("the history cannot be written: {why}"))
    }

    /// Why the slice is its owner's no longer. The first reason counts.
    pub(super) fn tenure_ends(&mut self, slice: SliceId, why: Ending) {
        self.past.endings.entry(slice).or_insert(why);
    }

    /// What the history has yet to be told, once the assignments are recorded that it tells of.
    pub(super) fn news_for_history(&mut self) -> Option<Effect> {
        self.past.undo.clear();
        if !self.dirty.contains(&Stored::Runtime) && !std::mem::take(&mut self.past.behind) {
            return None;
        }
        let mut entries = Vec::new();
        for (slice, why) in self.tenures_over() {
            let before = self.past.open.remove(&slice);
            let why = self.past.endings.remove(&slice).or(why);
            self.past.undo.push((slice, before.clone(), why));
            let reason = Some(why.unwrap_or(Ending::Unknown));
            entries.extend(before.map(|tenure| self.entry(Point::End, reason, tenure)));
        }
        // Who never had it has no end.
        self.past.endings.clear();
        for tenure in self.tenures_begun() {
            let slice = tenure.slice;
            self.past.undo.push((slice, None, None));
            self.past.open.insert(slice, tenure.clone());
            entries.push(self.entry(Point::Begin, None, tenure));
        }
        (!entries.is_empty()).then_some(Effect::History(entries))
    }

    fn entry(&self, event: Point, reason: Option<Ending>, tenure: Tenure) -> Entry {
        Entry { event, reason, boot: self.run.boot, tenure }
    }

    /// What was to be told could not be recorded first.
    pub(super) fn untell_history(&mut self) {
        for (slice, before, why) in std::mem::take(&mut self.past.undo).into_iter().rev() {
            match before {
                Some(tenure) => drop(self.past.open.insert(slice, tenure)),
                None => drop(self.past.open.remove(&slice)),
            }
            if let Some(why) = why {
                self.past.endings.insert(slice, why);
            }
            self.past.behind = true;
        }
    }

    fn tenures_over(&self) -> Vec<(SliceId, Option<Ending>)> {
        // Until it is known who has what, nothing is known to be over.
        let unsure = self.claims_are_all_that_tells();
        let over = self.past.open.iter().filter_map(|(slice, tenure)| match self.holder(*slice) {
            Some(h) if tenure.is_of(h.owner, h.claim, h.index) => None,
            Some(_) => Some((*slice, Some(Ending::TakenOver))),
            None if unsure => None,
            None => Some((*slice, None)),
        });
        over.collect()
    }

    fn tenures_begun(&self) -> Vec<Tenure> {
        let given = self.run.assignments.keys().chain(self.run.foreign.keys());
        // A slice can be in both.
        let new: BTreeSet<SliceId> =
            given.copied().filter(|slice| !self.past.open.contains_key(slice)).collect();
        new.into_iter().filter_map(|slice| self.tenure(slice)).collect()
    }

    fn holder(&self, slice: SliceId) -> Option<Holder<'_>> {
        if let Some(a) = self.run.assignments.get(&slice).filter(|a| self.gives(slice, a)) {
            return Some(Holder {
                owner: &a.claim.owner,
                claim: Some(&a.claim.name),
                index: a.index,
            });
        }
        let hold = self.run.foreign.get(&slice)?;
        Some(Holder { owner: &hold.owner, claim: None, index: 0 })
    }

    /// Whether an assignment gives its slice to its owner: from when the VM was told so until it is back, or its driver's.
    fn gives(&self, slice: SliceId, a: &Assignment) -> bool {
        match a.phase {
            Phase::Reserved => false,
            Phase::Releasing if self.is_left_to_driver(slice) => false,
            Phase::Prepared | Phase::Attached if !self.guessed(slice) => true,
            // One that was only ever reserved was never given; of a guess it is not known.
            Phase::Prepared | Phase::Attached | Phase::Releasing => {
                let open = self.past.open.get(&slice);
                open.is_some_and(|t| t.is_of(&a.claim.owner, Some(&a.claim.name), a.index))
            }
        }
    }

    fn tenure(&self, slice: SliceId) -> Option<Tenure> {
        let holder = self.holder(slice)?;
        let (owner, claim, index) = (holder.owner.clone(), holder.claim.cloned(), holder.index);
        let (parent, profile, owner_name) = match self.run.assignments.get(&slice) {
            Some(a) if claim.is_some() => {
                (a.parent.clone(), Some(a.profile.clone()), self.owner_name(&a.claim))
            }
            _ => self.of_others(slice)?,
        };
        let pf = self.seen.pf_of(&parent);
        let device = pf.as_ref().unwrap_or(&parent).pci();
        let function = device.and_then(|address| self.seen.functions.get(&address));
        let model = function.and_then(|f| f.model).map(str::to_owned);
        let serial = function.and_then(|f| f.serial).map(|serial| serial.to_string());
        Some(Tenure { slice, parent, pf, model, serial, profile, owner, owner_name, claim, index })
    }

    /// What a running domain has without a claim, if it is a slice: it may be any device.
    fn of_others(&self, slice: SliceId) -> Option<(ParentId, Option<ProfileName>, String)> {
        let name = self.run.foreign.get(&slice)?.name.clone();
        let (parent, profile) = match slice {
            SliceId::Mdev(uuid) => {
                let mdev = self.seen.mdevs.get(&uuid)?;
                (mdev.parent.clone(), self.profile_of(&mdev.parent, &mdev.type_id))
            }
            SliceId::Vf(address) | SliceId::Function(address) => {
                (ParentId::Pci(self.seen.vfs.get(&address)?.pf), None)
            }
        };
        self.shown(&parent).then_some((parent, profile, name))
    }
}
