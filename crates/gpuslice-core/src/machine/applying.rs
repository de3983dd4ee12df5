//! Orders to apply under way. Each is answered when nothing more follows from what it began: one operation can lead to the
//! next, since VFs can be bound only once they are there and a reading has shown them.

use super::ops::Purpose;
use super::{Effect, Machine, RequestId, Stored};
use crate::config::Config;
use crate::hint;
use crate::ids::{ParentId, PciAddress, SliceId};
use crate::mechanism::Layouts;
use crate::observation::{Vf, is_vfio};
use crate::plan::Step;
use crate::refusal::{Code, Refusal};
use crate::request::{Answer, PlanRow, StepRow};
use std::collections::BTreeSet;

/// An order to apply.
#[derive(Debug)]
pub(super) struct Applying {
    plan: PlanRow,
    /// What was begun with and is not given up.
    parents: BTreeSet<ParentId>,
    /// The first.
    failure: Option<Refusal>,
}

impl Machine {
    /// Takes over a configuration and starts what it needs; answered when nothing more follows from that.
    pub(super) fn apply(&mut self, request: RequestId, config: Config) {
        let plan = self.plan(&config);
        if let Some(first) = plan.blockers.first() {
            let mut refusal = first.clone();
            refusal.causes.extend(plan.blockers.iter().skip(1).map(|r| r.message.clone()));
            return self.push(Effect::Answer { request, outcome: Err(refusal) });
        }
        self.forget_devices_here();
        self.adopt_rules(config.rules.clone());
        self.former_config = Some(std::mem::replace(&mut self.config, config));
        self.durable.applied_boot = Some(self.run.boot);
        // Applying is asking to try again, but a write that sleeps cannot be asked.
        let stuck = self.stuck_parents();
        let quarantined: Vec<ParentId> = self.durable.quarantines.keys().cloned().collect();
        for parent in quarantined.iter().filter(|p| !stuck.contains(p)) {
            self.lift_quarantine(parent);
        }
        self.persist(Stored::Durable);
        self.answered.insert(request, Vec::new());
        self.resolve_layouts();
        self.account_for_wipes();
        self.wipe_again();
        let applying = Applying { plan, parents: BTreeSet::new(), failure: None };
        self.applying.insert(request, applying);
        for parent in self.layouts.clone().into_keys() {
            let steps = self.steps_to(&parent, &self.layouts, true).unwrap_or_default();
            let parents = self.disturbed(&parent, &steps);
            let kept_back = |p: &ParentId| {
                self.reshaping(p) || self.parking(p) || self.quarantine_over(p).is_some()
            };
            if !steps.is_empty() && !parents.iter().any(kept_back) {
                if let Some(applying) = self.applying.get_mut(&request) {
                    let laid_out = parents.iter().filter(|p| self.layouts.contains_key(p));
                    applying.parents.extend(laid_out.cloned());
                }
                self.start_op(Purpose::Layout { parents, request: Some(request) }, steps);
            }
        }
        self.park_failed.clear();
        self.park(Some(request));
        // It is promised only once it is on record: see `Machine::answered`.
        if !self.works_for(request)
            && let Some(Applying { plan, failure, .. }) = self.applying.remove(&request)
        {
            let outcome = failure.map_or(Ok(Answer::Plan(plan)), Err);
            self.push(Effect::Answer { request, outcome });
        }
    }

    fn works_for(&self, request: RequestId) -> bool {
        self.ops.values().any(|op| op.purpose.asked_by() == Some(request))
    }

    /// Gives VFs that nobody has to the VFIO driver of their layout, where another such one has them. Only a person's order does:
    /// who bound them may be about to use them.
    pub(super) fn binds_anew(&self, parent: &ParentId, layouts: &Layouts) -> Vec<Step> {
        let driver = layouts.get(parent).and_then(|layout| layout.bind.as_ref());
        let Some(driver) = driver.filter(|driver| is_vfio(driver)) else { return Vec::new() };
        let other = |(address, vf): &(&PciAddress, &Vf)| {
            let has = vf.driver.as_ref().is_some_and(|has| has != driver && is_vfio(has));
            has && ParentId::Pci(vf.pf) == *parent && !self.is_somebodys(SliceId::Vf(**address))
        };
        let mut others = self.seen.vfs.iter().filter(other).peekable();
        let load = others.peek().map(|_| Step::LoadModule { name: driver.clone() });
        let bind =
            |(vf, _): (&PciAddress, &Vf)| Step::Bind { function: *vf, driver: driver.clone() };
        load.into_iter().chain(others.map(bind)).collect()
    }

    fn is_somebodys(&self, slice: SliceId) -> bool {
        self.run.assignments.contains_key(&slice)
            || self.run.foreign.contains_key(&slice)
            || self.held.contains_key(&slice)
            || self.working_on(slice)
    }

    /// Whose order goes on with one of these parents.
    pub(super) fn who_applied(&self, parents: &BTreeSet<ParentId>) -> Option<RequestId> {
        let of = self.applying.iter().filter(|(_, order)| !order.parents.is_disjoint(parents));
        of.map(|(request, _)| *request).next_back()
    }

    /// An operation of an order failed: what its parents still lack is not waited for.
    pub(super) fn apply_failed(
        &mut self,
        request: Option<RequestId>,
        parents: &BTreeSet<ParentId>,
        why: Refusal,
    ) {
        if let Some(order) = request.and_then(|request| self.applying.get_mut(&request)) {
            order.parents.retain(|parent| !parents.contains(parent));
            order.failure.get_or_insert(why);
        }
    }

    /// Steps of an order come to nothing, which is no failure of the whole.
    pub(super) fn not_applied<'a>(
        &mut self,
        request: Option<RequestId>,
        device: &ParentId,
        steps: impl IntoIterator<Item = &'a Step>,
    ) {
        if let Some(order) = request.and_then(|request| self.applying.get_mut(&request)) {
            let row = |step: &Step| StepRow { parent: device.clone(), step: step.to_string() };
            let left: Vec<StepRow> = steps.into_iter().map(row).collect();
            order.plan.steps.retain(|step| !left.contains(step));
            order.plan.changed = order.plan.changes();
        }
    }

    /// The rules of an order could not be recorded.
    pub(super) fn rules_unrecorded(&mut self, why: &Refusal) {
        let lost = self.applying.iter_mut().filter(|(order, _)| self.answered.contains_key(order));
        for (_, order) in lost {
            order.parents.clear();
            order.failure.get_or_insert_with(|| why.clone());
        }
    }

    /// Answers the orders from which nothing more follows, as far as a reading after their last step shows.
    pub(super) fn tell_applied(&mut self) {
        if self.stale {
            return;
        }
        let over = self.applying.iter().filter(|(request, order)| !self.goes_on(**request, order));
        let over: Vec<RequestId> = over.map(|(request, _)| *request).collect();
        for request in over {
            let Some(Applying { mut plan, parents, failure }) = self.applying.remove(&request)
            else {
                continue;
            };
            let failure =
                failure.or_else(|| parents.iter().find_map(|parent| self.falls_short(parent)));
            plan.unparked = self.unparked(&self.layouts).into_iter().map(|(_, why)| why).collect();
            let outcome = failure.map_or(Ok(Answer::Plan(plan)), Err);
            self.push(Effect::Answer { request, outcome });
        }
    }

    fn goes_on(&self, request: RequestId, order: &Applying) -> bool {
        self.works_for(request) || order.parents.iter().any(|parent| self.more_follows(parent))
    }

    /// Whether a parent's layout is at work, or waits for what ends by itself. What is quarantined does not.
    fn more_follows(&self, parent: &ParentId) -> bool {
        let quarantined = |p: &ParentId| self.quarantine_over(p).is_some();
        if quarantined(parent) || self.layout_under_way(parent) {
            return !quarantined(parent);
        }
        let steps = self.steps_to(parent, &self.layouts, false).unwrap_or_default();
        let together = self.disturbed(parent, &steps);
        !steps.is_empty()
            && !together.iter().any(quarantined)
            && together.iter().any(|p| self.reshaping(p) || self.parking(p))
    }

    /// Why a parent from which nothing more follows is not as its layout says. Types of its VFs may come later.
    fn falls_short(&self, parent: &ParentId) -> Option<Refusal> {
        if let Some(why) = self.quarantine_over(parent) {
            return Some(why.clone());
        }
        let Some(layout) = self.layouts.get(parent) else {
            let message = format!("{parent} left the host before it was as its layout says");
            let left = Refusal::new(Code::NotSettled, message);
            let left = left.hint(hint!("gpuslice wait --settled"));
            // Of one that is there, another order has said something else since.
            return Some(left).filter(|_| !self.seen.has_parent(parent));
        };
        if self.is_laid_out(parent, layout) && !self.seen.other_modes(parent, &layout.modes) {
            return None;
        }
        let message = format!("{parent} is not as its layout says ({layout})");
        let short = Refusal::new(Code::NotSettled, message);
        if self.drifted(parent) {
            return Some(short.hint(hint!("gpuslice apply")));
        }
        let short = self.lacking(parent).into_iter().fold(short, Refusal::because);
        Some(short.hint(hint!("gpuslice wait --settled")))
    }
}
