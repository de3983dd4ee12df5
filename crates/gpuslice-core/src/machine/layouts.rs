//! Parents and their layouts: realising what was applied, applying what is new, and knowing when all is settled.

use super::loads::loads_alone;
use super::ops::Purpose;
use super::{Machine, OpId, RequestId, Stored, mistakes};
use crate::config::Config;
use crate::execute::StepError;
use crate::hint;
use crate::ids::{ParentId, PciAddress, SliceId};
use crate::layout::{self, Layout, Overruled, Resolved, Rule};
use crate::mechanism::{Layouts, Mechanism};
use crate::mend;
use crate::mode::Mode;
use crate::observation::Observation;
use crate::placement;
use crate::plan::Step;
use crate::refusal::{Code, Hint, Refusal};
use crate::request::{OverruledRow, PlanRow, StepRow};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// VFs, and whether each can be told what it is.
fn typed(seen: &Observation) -> impl Iterator<Item = (&PciAddress, bool)> {
    seen.vfs.iter().map(|(address, vf)| (address, vf.choice.is_some()))
}

impl Machine {
    pub(super) fn on_observed(&mut self, seen: Observation) {
        self.stale = false;
        self.offers_due = true;
        self.nodes_anew = false;
        // What could not be read has not left.
        let gone: Vec<ParentId> =
            self.seen.parents().filter(|p| !seen.has_parent(p) && !seen.unreadable(p)).collect();
        let come: Vec<ParentId> =
            seen.parents().filter(|p| self.observed && !self.seen.has_parent(p)).collect();
        let slices_changed = seen.vfs.keys().ne(self.seen.vfs.keys())
            || seen.mdevs.keys().ne(self.seen.mdevs.keys());
        let forms_changed = typed(&seen).ne(typed(&self.seen))
            || seen.mdev_parents.keys().ne(self.seen.mdev_parents.keys());
        let before = std::mem::replace(&mut self.seen, seen);
        // What is in a GPU instance is listed after the VFs came.
        let forms_changed = self.remember_types(&before) || forms_changed;
        self.overlay_wedged();
        self.overlay_unloaded();
        if slices_changed {
            self.park_failed.clear();
        }
        self.remember_places();
        for parent in gone {
            self.parent_left(&parent);
        }
        for parent in come {
            self.note("parent", &parent, "appeared");
        }
        if slices_changed {
            self.note("slice", "*", "slices changed");
        }
        self.resolve_layouts();
        self.remember_untold(&before);
        self.look_again(&before);
        if forms_changed {
            self.forms_changed();
            self.remember_yielded();
        }
        self.end_loads();
        self.end_unsure();
        self.guess_what_was_lost(&before);
        if !self.observed {
            self.observed = true;
            self.resume_releases();
            self.wipe_again();
        }
        self.note_vanished();
        self.release_what_left(&before);
        self.drivers_removed();
        self.dirt_that_left();
        self.wipe_let_go(&before);
        self.account_for_wipes();
        self.place_lines();
    }

    /// A driver names the types a device could still be given, and no others; names are kept for when it is full.
    /// Whether there are any that were not known.
    fn remember_types(&mut self, before: &Observation) -> bool {
        let listed = std::mem::replace(&mut self.seen.catalogue, Arc::clone(&before.catalogue));
        let known = &mut self.durable.catalogue;
        let mut news = false;
        for (kind, types) in listed.iter() {
            let names = known.entry(*kind).or_default();
            for (type_id, name) in types {
                if names.get(type_id) != Some(name) {
                    names.insert(type_id.clone(), name.clone());
                    news = true;
                }
            }
        }
        if news || !self.observed {
            self.seen.catalogue = Arc::new(known.clone());
        }
        if news {
            self.persist(Stored::Durable);
        }
        news
    }

    /// What a device does not tell of its modes now is as it was when it told of them last.
    fn remember_untold(&mut self, before: &Observation) {
        let other = |(parent, layout): &(&ParentId, &Layout)| {
            self.seen.untold_mode(parent, &layout.modes).is_some()
                && (self.untold.contains(*parent) || before.other_modes(parent, &layout.modes))
        };
        self.untold = self.layouts.iter().filter(other).map(|(p, _)| p.clone()).collect();
    }

    /// What was wrong with a device is not wrong with the next one in its place.
    fn parent_left(&mut self, parent: &ParentId) {
        self.note("parent", parent, "left the host");
        self.not_ready.remove(parent);
        if self.durable.quarantines.remove(parent).is_some() {
            self.persist(Stored::Durable);
        }
        if self.run.pending.remove(parent).is_some() {
            self.persist(Stored::Runtime);
        }
    }

    /// Assignments of slices that left: a VM may still run with the dead device, so only what was being taken back
    /// ends here. Releases of what is gone succeed at once.
    fn release_what_left(&mut self, before: &Observation) {
        let gone: Vec<SliceId> = self
            .run
            .assignments
            .iter()
            .filter(|(slice, a)| {
                a.phase == crate::state::Phase::Releasing
                    && before.has_slice(**slice)
                    && !self.seen.has_slice(**slice)
            })
            .map(|(slice, _)| *slice)
            .collect();
        for slice in gone {
            self.retry_release(slice);
        }
    }

    pub(super) fn exists(&self, slice: SliceId) -> bool {
        self.seen.has_slice(slice)
    }

    /// Starts whatever brings a parent to its layout without taking anything away.
    pub(super) fn realise_layouts(&mut self) {
        if !self.observed {
            return;
        }
        for (parent, layout) in self.layouts.clone() {
            if self.reshaping(&parent) {
                continue;
            }
            let quarantined = self.durable.quarantines.contains_key(&parent);
            let repair = !quarantined && self.repair_is_due(&parent);
            let repaired =
                repair.then(|| self.steps_to(&parent, &self.layouts, true).ok()).flatten();
            if repaired.is_some() {
                self.repairs.insert(parent.clone());
            }
            let steps = repaired.map_or_else(|| self.steps_to(&parent, &self.layouts, false), Ok);
            match steps {
                // One of them has the steps of all.
                Ok(steps) if quarantined && loads_alone(&steps) => {
                    self.begin_layout(&parent, steps);
                }
                Ok(steps) if quarantined && steps.is_empty() => {
                    self.met_after_all(&parent, &layout)
                }
                _ if quarantined => {}
                Ok(steps) if steps.is_empty() => self.expect(&parent, &layout),
                Ok(steps) => self.begin_layout(&parent, steps),
                Err(refusal) => {
                    let refusal = self.by_its_rule(&parent, refusal);
                    self.quarantine(parent, refusal);
                }
            }
        }
    }

    /// What kept a parent from its layout was no fault of it, and it has become so: under another driver, say.
    fn met_after_all(&mut self, parent: &ParentId, layout: &Layout) {
        let unmet = |why: &Refusal| {
            matches!(why.code, Code::BadConfig | Code::HostDriver | Code::Unsupported)
        };
        if self.durable.quarantines.get(parent).is_some_and(unmet) && self.realised(parent, layout)
        {
            self.lift_quarantine(parent);
            self.persist(Stored::Durable);
            self.note("parent", parent, "has its layout");
        }
    }

    /// Whether a parent has a layout that cannot be brought about.
    pub(super) fn layout_is_refused(&self, parent: &ParentId) -> bool {
        self.layouts.contains_key(parent) && self.steps_to(parent, &self.layouts, false).is_err()
    }

    /// A parent that was once as its layout says is waited for when it is away.
    fn expect(&mut self, parent: &ParentId, layout: &Layout) {
        if !self.realised(parent, layout) {
            return;
        }
        if self.durable.expected.get(parent) != Some(layout) {
            self.durable.expected.insert(parent.clone(), layout.clone());
            self.durable.offered.remove(parent);
            self.offers_due = true;
            self.persist(Stored::Durable);
        }
        self.remember_device(parent);
    }

    /// Whether it is as its layout says but for its modes.
    pub(super) fn is_laid_out(&self, parent: &ParentId, layout: &Layout) -> bool {
        self.mechanism(parent).is_some_and(|m| m.realised(&self.seen, parent, layout))
    }

    pub(super) fn realised(&self, parent: &ParentId, layout: &Layout) -> bool {
        self.is_laid_out(parent, layout)
            && self.seen.has_modes(parent, &layout.modes)
            && !self.looks.awaits_types(parent)
    }

    pub(super) fn steps_to(
        &self,
        parent: &ParentId,
        layouts: &Layouts,
        reshape: bool,
    ) -> Result<Vec<Step>, Refusal> {
        match self.mechanism(parent) {
            Some(mechanism) => {
                let known = mechanism.modes(&self.seen, parent);
                match can_be_set(parent, layouts, known) {
                    // The driver that has the mode may be on its way back: vendors' tools take it off for a while. And what
                    // one reading did not tell, the next one may.
                    Err(_) if self.between_drivers(parent) => return Ok(Vec::new()),
                    Err(_) if self.seen.unreadable(parent) => return Ok(Vec::new()),
                    // Whom it is given away to sets none of its modes: that is what is said then.
                    Err(_) if self.given_away(parent) => {}
                    judged => judged?,
                }
                let mut steps = mechanism.layout_steps(&self.seen, parent, layouts, reshape)?;
                if reshape && !steps.iter().any(Step::takes_slices) {
                    steps.extend(self.binds_anew(parent, layouts));
                }
                Ok(steps)
            }
            None => Ok(Vec::new()),
        }
    }

    /// What a parent that is not as its layout says lacks, as far as its mechanism can tell. Whoever took it off its driver may
    /// have meant to: only a person gives it back.
    pub(super) fn lacking(&self, parent: &ParentId) -> Option<String> {
        let lacks = self.mechanism(parent).and_then(|m| m.lacks(&self.seen, parent));
        lacks.or_else(|| self.without_driver(parent).then(|| mend::bare(parent)))
    }

    pub(super) fn without_driver(&self, parent: &ParentId) -> bool {
        let function = parent.pci().and_then(|address| self.seen.functions.get(&address));
        function.is_some_and(|function| function.driver.is_none())
    }

    /// A vendor's tool may be at it.
    pub(super) fn between_drivers(&self, parent: &ParentId) -> bool {
        let tool = |m: &dyn Mechanism| m.is_between_drivers(&self.seen, parent);
        self.without_driver(parent) || self.mechanism(parent).is_some_and(tool)
    }

    /// Why a parent that is as its layout says offers nothing.
    pub(super) fn offers_nothing(&self, parent: &ParentId) -> Option<Refusal> {
        self.mechanism(parent)?.offers_nothing(&self.seen, parent)
    }

    /// Nobody but a person brings it to its layout.
    pub(super) fn given_away(&self, parent: &ParentId) -> bool {
        self.mechanism(parent).is_some_and(|m| m.is_given_away(&self.seen, parent))
    }

    /// Parents that steps for this one disturb, itself among them.
    pub(super) fn disturbed(&self, parent: &ParentId, steps: &[Step]) -> BTreeSet<ParentId> {
        let others = steps.iter().flat_map(Step::disturbs);
        match self.mechanism(parent) {
            Some(mechanism) if steps.iter().any(Step::of_driver) => {
                mechanism.together(&self.seen, parent)
            }
            _ => std::iter::once(parent.clone()).chain(others).collect(),
        }
    }

    /// A layout wants its VFs to have a driver, and one that a driver of the host has taken meanwhile has one.
    pub(super) fn as_laid_out(&self, id: OpId, error: StepError) -> Result<(), StepError> {
        match (self.ops.get(&id).map(|op| &op.purpose), error) {
            (Some(Purpose::Layout { .. }), StepError::HostDriver { .. }) => Ok(()),
            (_, error) => Err(error),
        }
    }

    pub(super) fn layout_done(
        &mut self,
        parents: &BTreeSet<ParentId>,
        request: Option<RequestId>,
        result: Result<(), (BTreeSet<ParentId>, Refusal)>,
    ) {
        for parent in parents {
            self.run.pending.remove(parent);
        }
        self.persist(Stored::Runtime);
        match result {
            Ok(()) => {
                for parent in parents {
                    self.note("parent", parent, "has its layout");
                }
            }
            Err((parents, refusal)) => {
                // A device that left in mid-step is not at fault; it is tried again when it returns, as one is whose driver
                // left. Nor is one that somebody holds; but without a person who is told, it would be tried again and again.
                let repair = parents.iter().any(|parent| self.repairs.contains(parent));
                let others = matches!(refusal.code, Code::Held | Code::Foreign);
                let told = others && (request.is_some() || repair);
                let passes = told || refusal.code == Code::NotSettled;
                for parent in parents.iter().filter(|_| !passes) {
                    if self.seen.has_parent(parent) {
                        self.quarantine(parent.clone(), refusal.clone());
                    }
                }
                if passes {
                    self.repair_later(&parents, &refusal);
                }
                self.apply_failed(request, &parents, refusal);
            }
        }
    }

    /// What `apply` of this configuration would do.
    pub(super) fn plan(&self, config: &Config) -> PlanRow {
        let Resolved { devices, unmet, overruled } = layout::resolve(&config.rules, &self.seen);
        let layouts: Layouts =
            devices.iter().map(|(p, rule)| (p.clone(), rule.layout.clone())).collect();
        let mut plan = PlanRow {
            layouts: self.laid_out_anew(&layouts),
            settings: self.set_anew(config),
            overruled: overruled.iter().flat_map(told_overruled).collect(),
            ..PlanRow::default()
        };
        let mut mistakes = Vec::new();
        for (parent, rule) in devices {
            if let Some(why) = self.does_not_tell(&parent, &rule.layout) {
                plan.blockers.push(why);
                continue;
            }
            match self.steps_to(&parent, &layouts, true) {
                Ok(steps) => self.plan_of(&mut plan, (&parent, rule), &steps, &layouts),
                Err(why) if why.code == Code::BadConfig => mistakes.push((rule, parent, why)),
                Err(refusal) => plan.blockers.push(refusal),
            }
        }
        // They are to be mended first, whatever else is in the way.
        plan.blockers.splice(0..0, mistakes::told(mistakes));
        for (device, steps) in self.parking_steps(&layouts) {
            let row = |s: &Step| StepRow { parent: device.clone(), step: s.to_string() };
            plan.steps.extend(steps.iter().map(row));
        }
        plan.unparked = self.unparked(&layouts).into_iter().map(|(_, why)| why).collect();
        // What a rule says of a GPU that cannot be sliced never comes true.
        let (whole, unmet): (Vec<_>, Vec<_>) = unmet.into_iter().partition(|rule| {
            self.seen.whole.iter().any(|(address, f)| rule.matches.meets(*address, f))
        });
        for (address, function) in &self.seen.whole {
            if whole.iter().any(|rule| rule.matches.meets(*address, function)) {
                plan.blockers.extend(self.unsliceable(&ParentId::Pci(*address)));
            }
        }
        plan.unmatched = unmet.into_iter().map(|rule| self.unmet(rule)).collect();
        plan.changed = plan.changes();
        plan
    }

    /// Adds what `apply` would do with one parent, and what is in its way.
    fn plan_of(
        &self,
        plan: &mut PlanRow,
        (parent, rule): (&ParentId, &Rule),
        steps: &[Step],
        layouts: &Layouts,
    ) {
        let together = self.disturbed(parent, steps);
        if steps.iter().any(Step::takes_slices) {
            plan.blockers.extend(self.in_the_way(&together));
        }
        // What it is set to and what it needs is seen when it has its driver again.
        let unseen =
            self.between_drivers(parent) && self.layouts.get(parent) != layouts.get(parent);
        let is_busy = |parent: &&ParentId| self.reshaping(parent) || self.parking(parent);
        if (!steps.is_empty() || unseen)
            && let Some(busy) = together.iter().find(is_busy)
        {
            plan.blockers.push(self.is_reshaped_already(busy));
        }
        let row = |step: &Step| StepRow { parent: parent.clone(), step: step.to_string() };
        plan.steps.extend(steps.iter().map(row));
        plan.steps.extend(binds_later(steps, layouts));
        plan.later.extend(self.would_come_later(parent, &rule.layout));
        let ignores = |m: &dyn Mechanism| m.ignores(&self.seen, parent, &rule.layout);
        plan.ignored.extend(self.mechanism(parent).and_then(ignores));
        plan.ignored.extend(self.proves_nothing(parent, &rule.layout));
    }

    /// What sleeps in the kernel is awaited by nobody.
    fn is_reshaped_already(&self, busy: &ParentId) -> Refusal {
        let stuck = self.quarantine_over(busy).filter(|_| self.stuck_parents().contains(busy));
        stuck.cloned().unwrap_or_else(|| {
            let message = format!("{busy} is being reshaped already");
            Refusal::new(Code::Reshaping, message).hint(hint!("gpuslice wait --settled"))
        })
    }

    /// What a new layout makes of a parent is not known while it does not tell how it is set, nor what mends one that was set
    /// to something else.
    fn does_not_tell(&self, parent: &ParentId, layout: &Layout) -> Option<Refusal> {
        let mode = self.seen.untold_mode(parent, &layout.modes)?;
        let is_new = self.layouts.get(parent) != Some(layout);
        (is_new || self.untold.contains(parent)).then(|| {
            let message = format!("{parent} does not tell its mode {mode} now");
            Refusal::new(Code::Reshaping, message).hint(mend::when_it_is_read())
        })
    }

    /// Who would lose a slice if these parents lost all of them. Each is put into words when it is asked for.
    pub(super) fn in_the_way<'a>(
        &'a self,
        parents: &'a BTreeSet<ParentId>,
    ) -> impl Iterator<Item = Refusal> + 'a {
        // A VF can be a parent itself.
        let below = |p: &ParentId| parents.get(p).or_else(|| parents.get(&self.seen.pf_of(p)?));
        let of_parent = move |slice: &SliceId| match slice {
            SliceId::Vf(a) | SliceId::Function(a) => below(&ParentId::Pci(*a)),
            SliceId::Mdev(uuid) => self.seen.mdevs.get(uuid).and_then(|m| below(&m.parent)),
        };
        let assigned = self.run.assignments.iter().filter_map(move |(slice, a)| {
            let parent = below(&a.parent).or_else(|| of_parent(slice))?;
            Some((slice, parent, self.owner_name(&a.claim), self.end_run(&a.claim)))
        });
        let foreign = self.run.foreign.iter().filter_map(move |(slice, hold)| {
            Some((slice, of_parent(slice)?, hold.name.clone(), Self::end_hold(hold)))
        });
        let used = assigned.chain(foreign).map(|(slice, parent, name, end)| {
            let message = format!("{name} uses {slice} of {parent}");
            Refusal::new(Code::InUse, message).hint(end)
        });
        // They would go with their VFs, without anybody being asked.
        let of_others = self
            .seen
            .mdevs
            .iter()
            .filter(move |(uuid, mdev)| {
                let slice = SliceId::Mdev(**uuid);
                below(&mdev.parent).is_some()
                    && !self.is_parked(slice)
                    && !self.run.assignments.contains_key(&slice)
                    && !self.run.foreign.contains_key(&slice)
            })
            .map(|(uuid, mdev)| {
                let message = format!("mdev {uuid} on {} was not made by gpuslice", mdev.parent);
                Refusal::new(Code::Foreign, message).hint(mend::stop_mdev(*uuid))
            });
        used.chain(of_others).chain(self.typed_by_others(parents))
    }

    /// VFs of these parents that have a type which nobody here was given: it would go with its VF too.
    fn typed_by_others<'a>(
        &'a self,
        parents: &'a BTreeSet<ParentId>,
    ) -> impl Iterator<Item = Refusal> + 'a {
        self.seen.vfs.iter().filter_map(move |(address, vf)| {
            let (slice, parent) = (SliceId::Vf(*address), ParentId::Pci(vf.pf));
            let ours =
                self.run.assignments.contains_key(&slice) || self.run.foreign.contains_key(&slice);
            let type_id = vf.choice.as_ref()?.current.as_ref()?;
            if ours || !parents.contains(&parent) {
                return None;
            }
            let message = placement::typed_by_another(*address, type_id);
            let attribute = self.mechanism(&parent).and_then(Mechanism::type_attribute)?;
            let hint = mend::take_type(*address, attribute);
            Some(Refusal::new(Code::Foreign, message).hint(hint))
        })
    }

    /// Takes over rules. Absent devices go on being waited for as long as a rule still says of somebody what was
    /// said of them: which rule meets them is known only once they are there.
    pub(super) fn adopt_rules(&mut self, rules: Vec<Rule>) {
        self.durable.rules = rules;
        let rules = &self.durable.rules;
        self.durable.expected.retain(|_, layout| rules.iter().any(|r| r.layout == *layout));
        let expected = &self.durable.expected;
        self.durable.devices.retain(|address, _| expected.contains_key(&ParentId::Pci(*address)));
    }

    /// It has VFs, and another number of them, or it is set to something else: only a person may change that.
    pub(super) fn drifted(&self, parent: &ParentId) -> bool {
        let sriov = parent.pci().and_then(|a| self.seen.functions.get(&a)?.sriov.as_ref());
        match (sriov, self.layouts.get(parent)) {
            (Some(sriov), Some(layout)) => {
                let now = sriov.vfs.len();
                // Of what its layout leaves out, its driver may have made some all the same.
                let other = now != usize::from(layout.vfs.of(sriov.total))
                    && !self.is_laid_out(parent, layout);
                (now != 0 && other) || (!other && self.seen.other_modes(parent, &layout.modes))
            }
            (None, Some(layout)) => self.seen.other_modes(parent, &layout.modes),
            _ => false,
        }
    }
}

/// A mode that the parent does not have is a mistake in the layout.
fn can_be_set(parent: &ParentId, layouts: &Layouts, known: &[Mode]) -> Result<(), Refusal> {
    let modes = layouts.get(parent).into_iter().flat_map(|layout| layout.modes.keys());
    let Some(unknown) = modes.into_iter().find(|mode| !known.contains(mode)) else {
        return Ok(());
    };
    let message = format!("{parent} has no mode {unknown} under its driver");
    let hint = if known.is_empty() {
        mend::take_out(unknown, parent)
    } else {
        let known = Hint::words(known.iter().map(|mode| mode.as_str()), ", ");
        hint!(
            "take {} out of the layout of {} (it has {}), then gpuslice apply",
            unknown,
            parent,
            known
        )
    };
    Err(Refusal::new(Code::BadConfig, message).hint(hint))
}

/// A rule by where it is written, and what it asks of a device.
pub(super) fn named(rule: &Rule) -> String {
    format!("{}: match = {}", rule.origin, rule.matches)
}

fn told_overruled(overruled: &Overruled<'_>) -> impl Iterator<Item = OverruledRow> {
    overruled.by.iter().map(|(first, parents)| OverruledRow {
        rule: named(overruled.rule),
        by: first.origin.clone(),
        parents: parents.clone(),
    })
}

/// What follows once VFs are there: their addresses are known only then.
fn binds_later(steps: &[Step], layouts: &Layouts) -> Vec<StepRow> {
    let mut made = BTreeMap::new();
    for step in steps {
        match step {
            Step::SetNumVfs { pf, count: count @ 1.. } => drop(made.insert(*pf, *count)),
            Step::LoadDriver { vfs, .. } => made.extend(vfs),
            _ => {}
        }
    }
    let row = |(pf, count)| {
        let parent = ParentId::Pci(pf);
        let driver = layouts.get(&parent)?.bind.as_ref()?;
        let step = format!("bind each of its {count} VFs to {driver}");
        Some(StepRow { parent, step })
    };
    made.into_iter().filter_map(row).collect()
}
