//! Loads of a driver. One is for all its devices, and each of them gets its VFs, or not, by itself.

use super::ops::{Purpose, Turn};
use super::{Machine, Stored};
use crate::execute::StepError;
use crate::ids::{ParentId, PciAddress};
use crate::plan::Step;
use crate::refusal::Code;
use std::collections::{BTreeMap, BTreeSet};

impl Machine {
    /// Begins what brings a parent to its layout, unless something keeps one that goes with it back.
    pub(super) fn begin_layout(&mut self, parent: &ParentId, mut steps: Vec<Step>) {
        let mut parents = self.disturbed(parent, &steps);
        if loads_alone(&steps) {
            self.leave_out_faulty(&mut parents, &mut steps);
        }
        let kept_back = |p: &ParentId| {
            self.durable.quarantines.contains_key(p) || self.reshaping(p) || self.parking(p)
        };
        let asked = parents.iter().any(|p| self.layouts.contains_key(p));
        if asked && !parents.iter().any(kept_back) {
            let request = self.who_applied(&parents);
            self.start_op(Purpose::Layout { parents, request }, steps);
        }
    }

    /// A device with a fault keeps a load from none of the others, after a boot say, and nothing is asked of it. One in whose
    /// kernel a write sleeps does.
    fn leave_out_faulty(&self, parents: &mut BTreeSet<ParentId>, steps: &mut Vec<Step>) {
        let faulty = |parent: &ParentId| {
            let why = self.durable.quarantines.get(parent);
            why.is_some_and(|why| why.code != Code::DeviceStuck)
        };
        parents.retain(|parent| !faulty(parent));
        let mut served = BTreeSet::new();
        for step in steps.iter_mut() {
            if let Step::LoadDriver { vfs, .. } = step {
                vfs.retain(|pf, _| !faulty(&ParentId::Pci(*pf)));
                served.extend(vfs.keys().copied());
            }
        }
        *steps = for_others(std::mem::take(steps), |pf| faulty(&ParentId::Pci(*pf)), &served);
    }

    /// What a reading does not show. A driver that a person has unloaded is not loaded before a person says so: somebody may be
    /// about to exchange it. One that a step of ours unloads is on its way back.
    pub(super) fn overlay_unloaded(&mut self) {
        let going: BTreeSet<&str> = self.run.pending.values().filter_map(unloads).collect();
        for (name, state) in &mut self.seen.drivers {
            let comes = state.loaded && !going.contains(*name);
            if comes && self.run.loaded.insert((*name).to_owned()) {
                self.dirty.insert(Stored::Runtime);
            }
            state.unloaded = !state.loaded && self.run.loaded.contains(*name);
        }
    }

    /// A load that goes on for the sake of others is over for a device that has its VFs, when nothing follows.
    pub(super) fn end_loads(&mut self) {
        let mut over = Vec::new();
        for op in self.ops.values_mut().filter(|op| op.turn == Turn::Has && op.steps.len() == 1) {
            let (Purpose::Layout { parents, .. }, Some(Step::LoadDriver { vfs, .. })) =
                (&mut op.purpose, op.steps.front())
            else {
                continue;
            };
            let has = |parent: &ParentId| {
                let pf = asked(parent, vfs);
                pf.is_some_and(|(pf, count)| self.seen.has_vfs(pf, count))
            };
            let (done, left): (BTreeSet<_>, BTreeSet<_>) =
                std::mem::take(parents).into_iter().partition(has);
            // With the last of them it ends by itself.
            *parents = if left.is_empty() { done.clone() } else { left };
            over.extend(done.into_iter().filter(|parent| !parents.contains(parent)));
        }
        for parent in over {
            self.run.pending.remove(&parent);
            self.persist(Stored::Runtime);
            self.note("parent", &parent, "has its layout");
        }
    }
}

/// What a load makes of a device.
pub(super) fn asked(
    parent: &ParentId,
    vfs: &BTreeMap<PciAddress, u16>,
) -> Option<(PciAddress, u16)> {
    let pf = parent.pci()?;
    Some((pf, *vfs.get(&pf)?))
}

/// Whether a driver is loaded, and nothing that it had before goes.
pub(super) fn loads_alone(steps: &[Step]) -> bool {
    steps.iter().any(Step::of_driver) && !steps.iter().any(|step| unloads(step).is_some())
}

fn unloads(step: &Step) -> Option<&str> {
    match step {
        Step::UnloadDriver { name, .. } => Some(name),
        _ => None,
    }
}

/// What a load that served some of its devices and not others leaves to be done for those it served.
pub(super) fn left_to_do(error: &StepError, steps: impl IntoIterator<Item = Step>) -> Vec<Step> {
    let StepError::Short { short, .. } = error else { return Vec::new() };
    let mut steps = steps.into_iter();
    let Some(Step::LoadDriver { vfs, .. }) = steps.next() else { return Vec::new() };
    let served = vfs.into_keys().filter(|pf| !short.contains(pf)).collect();
    for_others(steps, |pf| short.contains(pf), &served)
}

/// Steps that ask nothing of devices with a fault: what one of those was to set for all that it disturbs, one of the others
/// does.
fn for_others(
    steps: impl IntoIterator<Item = Step>,
    faulty: impl Fn(&PciAddress) -> bool,
    served: &BTreeSet<PciAddress>,
) -> Vec<Step> {
    let mut left = Vec::new();
    for mut step in steps {
        if let Step::SetMode { device, disturbs, .. } = &mut step {
            disturbs.retain(|pf| !faulty(pf));
            let mut others = disturbs.intersection(served);
            if faulty(device)
                && let Some(other) = others.next()
            {
                *device = *other;
            }
        }
        let of_faulty = match &step {
            Step::SetAutoprobe { pf: device, .. } | Step::SetMode { device, .. } => faulty(device),
            _ => step.disturbs().filter_map(|parent| parent.pci()).any(|pf| faulty(&pf)),
        };
        if !of_faulty && !left.contains(&step) {
            left.push(step);
        }
    }
    left
}

/// Those of its parents that are to blame for a step that failed.
pub(super) fn at_fault(error: &StepError, parents: &BTreeSet<ParentId>) -> BTreeSet<ParentId> {
    let StepError::Short { short, .. } = error else { return parents.clone() };
    let short: BTreeSet<ParentId> = short.iter().map(|pf| ParentId::Pci(*pf)).collect();
    let of_them: BTreeSet<ParentId> = parents.intersection(&short).cloned().collect();
    if of_them.is_empty() { parents.clone() } else { of_them }
}
