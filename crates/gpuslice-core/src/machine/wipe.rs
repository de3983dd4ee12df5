//! Slices between two VMs: what is not proven clean is shown, and held back where its layout asks for proof.

use super::ops::Purpose;
use super::{Effect, Machine, Stored, Timer};
use crate::execute::StepError;
use crate::health::Said;
use crate::hint;
use crate::holders::Holder;
use crate::ids::{ParentId, PciAddress, SliceId};
use crate::layout::{Layout, Wipe};
use crate::mechanism::Cleaned;
use crate::mend;
use crate::observation::{Observation, Vf};
use crate::plan::Step;
use crate::refusal::{Code, Refusal};
use crate::state::{Dirt, Phase};
use std::collections::{BTreeMap, BTreeSet};

impl Machine {
    /// A parent that cannot be read now is as it was.
    fn wipe_required(&self, parent: &ParentId) -> bool {
        match self.layouts.get(parent) {
            Some(layout) => layout.wipe == Wipe::Required,
            None => self.run.accounted.contains(parent),
        }
    }

    /// That a layout asks for proof where nobody could give it.
    pub(super) fn proves_nothing(&self, parent: &ParentId, layout: &Layout) -> Option<String> {
        let cleaned = match self.mechanism(parent)?.cleaned() {
            Cleaned::ByReset => return None,
            Cleaned::ByRemoval => "whose slices are made anew for each VM",
            Cleaned::ByDriver => "whose driver is to clear what it takes back",
        };
        let asked = layout.wipe == Wipe::Required;
        asked.then(|| format!("wipe = \"required\" of {parent}, {cleaned}: no reset is asked for"))
    }

    /// What proves a slice of a parent clean, where its layout asks for that and nobody else does it.
    pub(super) fn wipe_step(
        &self,
        slice: SliceId,
        parent: &ParentId,
        cleaned: Cleaned,
    ) -> Option<Step> {
        let held = self.run.dirty.get(&slice).is_some_and(|dirt| dirt.held);
        let function = slice.pci().filter(|_| held || self.wipe_required(parent))?;
        (cleaned == Cleaned::ByReset).then_some(Step::Reset { function })
    }

    fn wipe_now(&self, slice: SliceId, parent: &ParentId) -> Option<Step> {
        self.wipe_step(slice, parent, self.mechanism(parent)?.cleaned())
    }

    pub(super) fn note_dirty(&mut self, slice: SliceId, parent: ParentId, why: String) {
        let held = self.run.dirty.get(&slice).is_some_and(|dirt| dirt.held);
        self.found_dirty(slice, Dirt { parent, why, held });
    }

    fn found_dirty(&mut self, slice: SliceId, dirt: Dirt) {
        let text = format!("something of a VM may be left in {slice}: {}", dirt.why);
        if self.run.dirty.get(&slice) == Some(&dirt) {
            return;
        }
        self.push(Effect::Log { warning: true, text });
        self.note("slice", slice, "dirty");
        self.run.dirty.insert(slice, dirt);
        self.persist(Stored::Runtime);
    }

    pub(super) fn note_clean(&mut self, slice: SliceId) {
        self.kept.remove(&slice);
        self.held.remove(&slice);
        self.await_reset_no_more(slice);
        if self.run.dirty.remove(&slice).is_some() {
            if !self.run.assignments.contains_key(&slice) {
                self.push(Effect::Disarm { timer: Timer::RetryRelease(slice) });
            }
            self.note("slice", slice, "clean");
            self.persist(Stored::Runtime);
        }
    }

    /// A reset that failed in the kernel or in the host's driver; its VF may have to be held back.
    pub(super) fn reset_failed(&mut self, parent: &ParentId, said: &Said, held: bool) {
        let ParentId::Pci(pf) = parent else { return };
        let named = said.trouble.function.filter(|function| function != pf);
        let of_line = |(address, vf): &(&PciAddress, &Vf)| {
            let all = named.is_none() && said.trouble.vf.is_none();
            let this = named == Some(**address) || said.trouble.vf == Some(vf.index);
            vf.pf == *pf && (all || this)
        };
        let vfs: Vec<SliceId> = self
            .seen
            .vfs
            .iter()
            .filter(of_line)
            .map(|(address, _)| SliceId::Vf(*address))
            .collect();
        for slice in vfs {
            let held = held || self.run.dirty.get(&slice).is_some_and(|dirt| dirt.held);
            let why = format!("the kernel's log: {}", said.line.text.trim());
            self.found_dirty(slice, Dirt { parent: parent.clone(), why, held });
        }
    }

    /// The last step of a release, or of a try of its own, did not prove it.
    pub(super) fn wipe_failed(&mut self, slice: SliceId, error: &StepError) {
        let parent = match slice.pci().and_then(|address| self.seen.vfs.get(&address)) {
            Some(vf) => ParentId::Pci(vf.pf),
            None => return self.note_clean(slice),
        };
        self.note_dirty(slice, parent, error.to_string());
        if let StepError::Held { holders, .. } = error
            && let Some(holder) = holders.first()
        {
            self.held.insert(slice, holder.clone());
        }
        self.watch_who_holds(slice, error);
    }

    /// A person says that the device is well. What no reset cleans is believed to be so too.
    pub(super) fn slices_are_well(&mut self, parent: &ParentId) {
        if self.mechanism(parent).is_some_and(|m| m.cleaned() == Cleaned::ByReset) {
            return;
        }
        let held = |(slice, dirt): (&SliceId, &Dirt)| {
            (dirt.held && dirt.parent == *parent).then_some(*slice)
        };
        let held: Vec<SliceId> = self.run.dirty.iter().filter_map(held).collect();
        for slice in held {
            self.note_clean(slice);
        }
    }

    /// Tries again to clean what is held back.
    pub(super) fn wipe_again(&mut self) {
        self.wipe_those(|_, _| true);
    }

    /// The same of one slice.
    pub(super) fn wipe_this_again(&mut self, slice: SliceId) {
        self.wipe_those(|_, dirty| dirty == slice);
    }

    /// What a driver of the host had, and has let go of since the last look.
    pub(super) fn wipe_let_go(&mut self, before: &Observation) {
        self.wipe_those(|seen, slice| {
            let by = |seen: &Observation| Some(seen.vfs.get(&slice.pci()?)?.by_host().is_some());
            by(before) == Some(true) && by(seen) == Some(false)
        });
    }

    fn wipe_those(&mut self, which: impl Fn(&Observation, SliceId) -> bool) {
        let dirty = self.run.dirty.iter().filter(|(slice, _)| which(&self.seen, **slice));
        let dirty: Vec<(SliceId, ParentId)> =
            dirty.map(|(slice, dirt)| (*slice, dirt.parent.clone())).collect();
        let parents: BTreeSet<&ParentId> = dirty.iter().map(|(_, parent)| parent).collect();
        // One whose layout cannot be met is quarantined before this event is over.
        let refused = parents.into_iter().filter(|parent| self.layout_is_refused(parent));
        let refused: BTreeSet<ParentId> = refused.cloned().collect();
        for (slice, parent) in dirty {
            let taken =
                self.run.assignments.contains_key(&slice) || self.run.foreign.contains_key(&slice);
            let waits = self.reshaping(&parent) || refused.contains(&parent);
            if taken || waits || self.working_on(slice) {
                continue;
            }
            if let Some(step) = self.wipe_now(slice, &parent)
                && self.quarantine_over(&parent).is_none()
            {
                // A reset would say no more, and it is tried when that driver lets go.
                if let Some((function, driver)) = self.host_has(slice) {
                    let error = StepError::HostDriver { function, driver };
                    self.note_dirty(slice, parent, error.to_string());
                    continue;
                }
                self.await_reset(slice);
                self.start_op(Purpose::Wipe { slice, parent }, vec![step]);
            }
        }
    }

    fn host_has(&self, slice: SliceId) -> Option<(PciAddress, String)> {
        let address = slice.pci()?;
        Some((address, self.seen.vfs.get(&address)?.by_host()?.to_owned()))
    }

    /// VFs that were there before somebody asked for clean ones, or before what is known of them, may have been anybody's.
    pub(super) fn account_for_wipes(&mut self) {
        let required: BTreeSet<ParentId> =
            self.layouts.keys().filter(|p| self.wipe_required(p)).cloned().collect();
        let before = self.run.accounted.clone();
        self.run
            .accounted
            .retain(|parent| required.contains(parent) || !self.seen.has_parent(parent));
        for parent in required {
            // As long as it has no driver it is not known what cleans its VFs.
            let by_reset = match self.mechanism(&parent).map(|m| m.cleaned()) {
                Some(cleaned) => cleaned == Cleaned::ByReset,
                None => continue,
            };
            if !self.run.accounted.insert(parent.clone()) || !by_reset {
                continue;
            }
            let of_parent = |vf: &Vf| ParentId::Pci(vf.pf) == parent;
            let vfs = self.seen.vfs.iter().filter(|(_, vf)| of_parent(vf));
            let slices: Vec<SliceId> = vfs.map(|(address, _)| SliceId::Vf(*address)).collect();
            for slice in slices {
                // One that is on its way back may be so without a reset, begun before one was asked for.
                let phase = self.run.assignments.get(&slice).map(|a| a.phase);
                if phase.is_none_or(|phase| phase == Phase::Releasing) {
                    let why = "it was there before and may have been anybody's".to_owned();
                    self.note_dirty(slice, parent.clone(), why);
                }
            }
        }
        if self.run.accounted != before {
            self.persist(Stored::Runtime);
            self.wipe_again();
        }
    }

    /// A VM that made no claim had it, and may have been told to have ended.
    pub(super) fn used_by_others(&mut self, slice: SliceId, name: &str, ended: bool) {
        let Some(vf) = slice.pci().and_then(|address| self.seen.vfs.get(&address)) else { return };
        let parent = ParentId::Pci(vf.pf);
        if self.wipe_now(slice, &parent).is_some() {
            self.note_dirty(slice, parent, format!("{name} had it, without a claim"));
            self.wipe_again();
            if ended {
                self.reset_follows_vm(slice);
            }
        }
    }

    /// Of whoever was given nothing no hook tells, neither now nor when it ends.
    pub(super) fn on_held(&mut self, held: BTreeMap<SliceId, Holder>) {
        for (slice, holder) in &held {
            self.note_open(*slice, holder);
        }
        let before = std::mem::replace(&mut self.held, held);
        for slice in before.into_keys() {
            if !self.held.contains_key(&slice) {
                self.wipe_this_again(slice);
            }
        }
    }

    /// What it leaves in the slice is there from now on, should this daemon not live to see its end.
    pub(super) fn note_open(&mut self, slice: SliceId, holder: &Holder) {
        let Some(address) = slice.pci() else { return };
        let Some(vf) = self.seen.vfs.get(&address) else { return };
        let told =
            self.run.assignments.contains_key(&slice) || self.run.foreign.contains_key(&slice);
        let known = told || self.run.dirty.contains_key(&slice);
        if !known && self.wipe_now(slice, &ParentId::Pci(vf.pf)).is_some() {
            let (holders, unknown) = (vec![holder.clone()], Vec::new());
            let error = StepError::Held { object: address.to_string(), holders, unknown };
            self.wipe_failed(slice, &error);
        }
    }

    /// What was in VFs that left, left with them: made anew, they are as after a reset (PCIe 9.2.2.1).
    pub(super) fn dirt_that_left(&mut self) {
        let seen = &self.seen;
        let gone = |slice: &SliceId, dirt: &Dirt| {
            !seen.has_slice(*slice) && !seen.unreadable(&dirt.parent)
        };
        let left: Vec<SliceId> =
            self.run.dirty.iter().filter(|(s, d)| gone(s, d)).map(|(slice, _)| *slice).collect();
        for slice in left {
            self.note_clean(slice);
        }
    }

    /// Slices that nobody is given now, and why.
    pub(super) fn held_back(&self) -> BTreeMap<SliceId, Refusal> {
        let held = |(slice, dirt): (&SliceId, &Dirt)| {
            let parent = &dirt.parent;
            let required = self.wipe_required(parent);
            if !required && !dirt.held && !self.working_on(*slice) {
                return None;
            }
            if let Some(holder) = self.kept.get(slice).and_then(|kept| kept.by.as_ref()) {
                let message = format!("{slice} is open in {} (pid {})", holder.comm, holder.pid);
                let refusal = Refusal::new(Code::Held, message).because(dirt.why.clone());
                return Some((*slice, refusal.hint(mend::end_process(holder))));
            }
            let message = format!("something of a VM may be left in {slice}");
            let vf = slice.pci().and_then(|address| Some((address, self.seen.vfs.get(&address)?)));
            let by_host = vf.and_then(|(address, vf)| Some((address, vf.by_host()?)));
            let hint = match (by_host, required && !dirt.held) {
                // It is cleaned then.
                (Some((address, driver)), _) => mend::let_go(address, driver),
                (None, true) => hint!(
                    "gpuslice uncordon {} (it is cleaned again); \
                     or take wipe out of its layout, then gpuslice apply",
                    parent
                ),
                (None, false) => hint!("gpuslice uncordon {} (it is cleaned again)", parent),
            };
            let refusal = Refusal::new(Code::Dirty, message).because(dirt.why.clone()).hint(hint);
            Some((*slice, refusal))
        };
        self.run.dirty.iter().filter_map(held).collect()
    }
}
