//! VFs that cannot be used before all VFs of their device are made anew. Of some the kernel shows it: they have no device
//! for VMs. Of others nothing shows: their VM was ended while it took the slice up, and the next guest's driver fails.
//! Those are taken for so from how soon the last process let go. Both are kept back, and made anew when nobody uses
//! the device.

use super::{Effect, Machine, Stored, Timer};
use crate::ids::{ParentId, PciAddress, SliceId};
use crate::observation::Vf;
use crate::placement;
use crate::plan::Step;
use crate::refusal::Refusal;
use std::collections::BTreeSet;

/// Milliseconds before VFs that could not be made anew are tried again. Each pause is twice as long as the last one.
const REPAIR_PAUSE: u64 = 60_000;

impl Machine {
    /// A VM has begun to use a slice.
    pub(super) fn begins_young(&mut self, slice: SliceId) {
        let mechanism = self.run.assignments.get(&slice).and_then(|a| self.mechanism_of(a));
        if let Some(after) = mechanism.and_then(|m| m.fragile_ms()) {
            self.young.insert(slice);
            self.push(Effect::Arm { timer: Timer::Young(slice), after });
        }
    }

    pub(super) fn on_grown(&mut self, slice: SliceId) {
        self.young.remove(&slice);
    }

    /// QEMU was not killed over a slice: it went when it was told to, or goes on without it.
    pub(super) fn ends_in_order(&mut self, slice: SliceId) {
        if self.young.remove(&slice) {
            self.push(Effect::Disarm { timer: Timer::Young(slice) });
        }
    }

    /// The VM of a slice has ended, and may have been killed.
    pub(super) fn ends_young(&mut self, slice: SliceId) {
        if !self.young.remove(&slice) {
            return;
        }
        self.push(Effect::Disarm { timer: Timer::Young(slice) });
        let Some(address) = slice.pci() else { return };
        self.run.wedged.insert(address);
        self.mark_wedged();
        self.persist(Stored::Runtime);
        let text = format!("{slice} is kept back: its VM ended while it began to use it");
        self.push(Effect::Log { warning: true, text });
        self.note("slice", slice, "wedged");
    }

    /// What a reading does not show. A VF that is gone is another one when it is back.
    pub(super) fn overlay_wedged(&mut self) {
        let seen = &self.seen;
        let before = self.run.wedged.len();
        self.run.wedged.retain(|address| {
            seen.vfs.contains_key(address) || seen.unreadable(&ParentId::Pci(*address))
        });
        if self.run.wedged.len() != before {
            self.dirty.insert(Stored::Runtime);
        }
        self.mark_wedged();
    }

    fn mark_wedged(&mut self) {
        for address in &self.run.wedged {
            let vf = self.seen.vfs.get_mut(address);
            if let Some(choice) = vf.and_then(|vf| vf.choice.as_mut()) {
                choice.broken = true;
            }
        }
    }

    /// All VFs of a device went with a step.
    pub(super) fn made_anew(&mut self, step: &Step) {
        let (Step::RunVfTool { pf, count: 0, .. } | Step::SetNumVfs { pf, count: 0 }) = step else {
            return;
        };
        let of_pf = |address: &PciAddress| self.seen.vfs.get(address).is_some_and(|v| v.pf == *pf);
        let over: Vec<PciAddress> = self.run.wedged.iter().copied().filter(of_pf).collect();
        for address in over {
            self.run.wedged.remove(&address);
            self.persist(Stored::Runtime);
        }
    }

    /// VFs of a parent that are kept back.
    pub(super) fn unusable(&self, parent: &ParentId) -> Vec<PciAddress> {
        let function = parent.pci().and_then(|address| self.seen.functions.get(&address));
        let vfs = function.and_then(|f| f.sriov.as_ref()).map(|sriov| &sriov.vfs);
        let broken = |address: &&PciAddress| {
            let choice = self.seen.vfs.get(address).and_then(|vf| vf.choice.as_ref());
            choice.is_some_and(|choice| choice.broken)
        };
        vfs.into_iter().flat_map(|vfs| vfs.values()).filter(broken).copied().collect()
    }

    /// Those that have no driver.
    pub(super) fn unusable_without_driver(&self, parent: &ParentId) -> Vec<PciAddress> {
        let mut vfs = self.unusable(parent);
        vfs.retain(|vf| self.seen.vfs.get(vf).is_some_and(Vf::is_bare));
        vfs
    }

    /// Whether a parent's VFs are to be made anew now. It is tried once each time its use has ended.
    pub(super) fn repair_is_due(&mut self, parent: &ParentId) -> bool {
        let unusable = self.unusable(parent);
        if unusable.is_empty() {
            self.repairs.remove(parent);
            if self.repair_pauses.remove(parent).is_some() {
                self.push(Effect::Disarm { timer: Timer::Repair(parent.clone()) });
            }
            return false;
        }
        // Whoever makes the VFs gives them their driver one after the other.
        if self.looks.awaits_drivers(parent) {
            return false;
        }
        let held = |slice: &SliceId| {
            let pf = slice.pci().and_then(|a| self.seen.pf_of(&ParentId::Pci(a)));
            pf.as_ref() == Some(parent)
        };
        // While a tool is at work nobody could ask how it is set.
        let due = !self.repairs.contains(parent)
            && self.in_the_way(&BTreeSet::from([parent.clone()])).next().is_none()
            && !self.held.keys().any(held)
            && !self.nothing_is_asked();
        if !due {
            self.asked_anew.remove(parent);
            return false;
        }
        // What a person has set goes with the VFs, and no event told of it: it is to be known, or nobody sets it again.
        if self.asked_anew.insert(parent.clone()) {
            self.push(Effect::AskAnew);
            self.push(Effect::Observe);
        }
        !self.stale
    }

    /// Somebody has it open who is no VM: no event tells of his end. Until then it serves as it did.
    pub(super) fn repair_later(&mut self, parents: &BTreeSet<ParentId>, why: &Refusal) {
        for parent in parents {
            if !self.repairs.contains(parent) {
                continue;
            }
            let pause = self.repair_pauses.entry(parent.clone()).or_insert(REPAIR_PAUSE / 2);
            *pause = pause.saturating_mul(2);
            let after = *pause;
            self.push(Effect::Arm { timer: Timer::Repair(parent.clone()), after });
            let text = format!("VFs of {parent} are not made anew yet: {why}");
            self.push(Effect::Log { warning: true, text });
        }
    }

    /// What is kept back of a parent until its VFs are made anew.
    pub(super) fn kept_back(&self, parent: &ParentId) -> Option<String> {
        let vfs = self.unusable(parent);
        let first = placement::unusable(&self.run.wedged, *vfs.first()?);
        let more = vfs.len().saturating_sub(1);
        let others = if more == 0 { String::new() } else { format!(", and {more} more") };
        let when = match self.repair_pauses.contains_key(parent) {
            true => "has it open: gpuslice doctor says who has",
            false => "uses them",
        };
        Some(format!("{first}{others}; its VFs are made anew when nobody {when}"))
    }
}
