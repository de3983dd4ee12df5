//! Hot-plug. libvirt calls no hook for it, so the agent asks for the slices before it asks libvirt to plug them in,
//! and tells what became of it. What it fails to tell, a timer finds out: a slice nobody holds is taken back, one
//! that a process holds is attached. The hook's `release` at the stop of the VM ends it in any case.

use super::claims::{self, devices_of, done};
use super::ops::Purpose;
use super::parking::Needed;
use super::reserve::Want;
use super::{Effect, Machine, RequestId, Stored, Timer};
use crate::domain::Domain;
use crate::history::Ending;
use crate::ids::{ClaimKey, Owner, SliceId};
use crate::plan::Step;
use crate::refusal::{Code, Refusal};
use crate::request::Answer;
use crate::state::{Assignment, Claim, Phase};
use std::collections::{BTreeMap, BTreeSet};

/// A hot-plug as ordered.
#[derive(Debug, Clone)]
pub(super) struct Order {
    pub claim: claims::Order,
    /// The claim outlives its slices.
    pub keep: bool,
}

/// A hot-plug under way.
#[derive(Debug, Clone)]
pub(super) struct Plugging {
    key: ClaimKey,
    /// The claim before.
    before: Option<Claim>,
    /// What is being prepared.
    slices: Vec<SliceId>,
}

impl Machine {
    pub(super) fn on_plug(&mut self, request: RequestId, order: Order) {
        let name = order.claim.request.name.clone();
        let key = ClaimKey { owner: order.claim.owner.clone(), name };
        if let Some(refusal) = self.cannot_come_back(|claim| *claim == key) {
            return self.push(Effect::Answer { request, outcome: Err(refusal) });
        }
        let has = self.run.assignments.values().filter(|a| a.claim == key).count();
        let has = u32::try_from(has).unwrap_or(u32::MAX);
        let count = order.claim.request.count.saturating_sub(has);
        let profile = self.profile_for(&order.claim.owner_name, &order.claim.request).ok();
        let needed: Needed = profile.into_iter().map(|profile| (profile, count)).collect();
        let room = self.room_will_show(&needed);
        let on_its_way = |(slice, a): (&SliceId, &Assignment)| {
            a.claim == key && (a.phase == Phase::Releasing || self.working_on(*slice))
        };
        if self.stale || room || self.run.assignments.iter().any(on_its_way) {
            return self.parked_plugs.push((request, order));
        }
        let undone = self.undone_plugs.get(&key).map(|(_, before)| before);
        let before = undone.or_else(|| self.durable.claims.get(&key)).cloned();
        let kept = self.run.assignments.clone();
        match self.admit_plug(&key, &order) {
            Ok((slices, steps)) => {
                let plug = Plugging { key, before, slices: slices.clone() };
                if slices.is_empty() {
                    return self.plug_ready(request, &plug);
                }
                self.persist(Stored::Runtime);
                self.plugs.insert(request, plug);
                let fresh = slices.iter().copied().filter(|s| !kept.contains_key(s)).collect();
                let refused = BTreeMap::new();
                let purpose = Purpose::Prepare { request: Some(request), slices, refused, fresh };
                self.start_op(purpose, steps);
            }
            Err(refusal) => {
                self.run.assignments = kept;
                if self.make_room_for(&needed, &BTreeSet::new(), &refusal) {
                    // The claim is made anew then.
                    self.restore_claim(&key, before);
                    return self.parked_plugs.push((request, order));
                }
                let plug = Plugging { key, before, slices: Vec::new() };
                self.plug_refused(request, plug, refusal);
            }
        }
    }

    /// Takes up hot-plugs whose wait may be over.
    pub(super) fn run_parked_plugs(&mut self) {
        for (request, order) in std::mem::take(&mut self.parked_plugs) {
            // Parks itself again if it must.
            self.on_plug(request, order);
        }
    }

    /// Those that wait come to nothing, since nothing can be recorded. Their claims are as before.
    pub(super) fn plugs_unrecorded(&mut self, why: &Refusal) {
        for (request, order) in std::mem::take(&mut self.parked_plugs) {
            let name = order.claim.request.name.clone();
            let key = ClaimKey { owner: order.claim.owner, name };
            let before = self.durable.claims.get(&key).cloned();
            self.plug_refused(request, Plugging { key, before, slices: Vec::new() }, why.clone());
        }
    }

    /// Makes the claim and reserves what of it no VM has yet.
    fn admit_plug(
        &mut self,
        key: &ClaimKey,
        order: &Order,
    ) -> Result<(Vec<SliceId>, Vec<Step>), Refusal> {
        let known = self.durable.claims.get(key).is_none_or(|claim| claim.transient);
        self.claim(order.claim.clone())?;
        if let Some(claim) = self.durable.claims.get_mut(key) {
            claim.transient = known && !order.keep;
        }
        let Some(claim) = self.durable.claims.get(key).cloned() else {
            return Ok((Vec::new(), Vec::new()));
        };
        let mut wants = Vec::new();
        for (index, device) in (0..).zip(devices_of(key, &claim)) {
            // A VM that runs with it, or that is being started with it.
            let has = |a: &Assignment| {
                a.claim == *key && a.index == index && (!a.hotplug || a.phase == Phase::Attached)
            };
            if self.run.assignments.values().any(has) {
                continue;
            }
            let (key, profile) = (key.clone(), claim.profile.clone());
            let source = device.source;
            let count = claim.request.count;
            let parameters = claim.request.parameters.clone();
            let (managed, hotplug) = (false, true);
            wants.push(Want { key, index, count, profile, source, parameters, managed, hotplug });
        }
        let (slices, steps) = self.reserve_all(&wants, &claim.request)?;
        self.reserved(&slices);
        Ok((slices, steps))
    }

    pub(super) fn plug_ready(&mut self, request: RequestId, plug: &Plugging) {
        let Some(claim) = self.durable.claims.get(&plug.key) else {
            let refusal = Refusal::new(Code::Unknown, "the claim was ended meanwhile");
            return self.push(Effect::Answer { request, outcome: Err(refusal) });
        };
        let answer = Answer::Claimed {
            changed: !plug.slices.is_empty() || plug.before.as_ref() != Some(claim),
            claim: self.claim_row(&plug.key, claim),
            devices: devices_of(&plug.key, claim),
            warnings: self.overcommit(&plug.key, claim),
        };
        self.push(Effect::Answer { request, outcome: Ok(answer) });
    }

    /// The claim is as before; its slices are on their way back already.
    pub(super) fn plug_refused(&mut self, request: RequestId, plug: Plugging, refusal: Refusal) {
        self.restore_claim(&plug.key, plug.before);
        let text = format!("hot-plug for {} refused: {refusal}", plug.key);
        self.push(Effect::Log { warning: true, text });
        self.push(Effect::Answer { request, outcome: Err(refusal) });
    }

    /// A claim that was another one meanwhile is as before. As long as a slice is not back that it would not name then, it stays as
    /// it is, since it alone tells whose that is, should the record of the boot be lost.
    fn restore_claim(&mut self, key: &ClaimKey, before: Option<Claim>) {
        let now = self.durable.claims.get(key);
        if now == before.as_ref() {
            return;
        }
        match (before, now) {
            (Some(before), Some(now)) if self.has_more_than(key, &before) => {
                self.undone_plugs.insert(key.clone(), (now.clone(), before));
                return;
            }
            (Some(before), _) => drop(self.durable.claims.insert(key.clone(), before)),
            (None, _) => drop(self.end_claim(key)),
        }
        self.persist(Stored::Durable);
        self.note("claim", key, "as before: the hot-plug was refused");
    }

    /// Whether a slice is on its way back to it that a claim does not name, or not as what it is.
    fn has_more_than(&self, key: &ClaimKey, claim: &Claim) -> bool {
        let named = devices_of(key, claim);
        let on_its_way = |a: &Assignment| a.claim == *key && a.phase != Phase::Attached;
        let mut bound = self.run.assignments.iter().filter(|(_, a)| on_its_way(a));
        bound.any(|(slice, a)| {
            a.profile != claim.profile || named.iter().all(|d| d.source.slice() != *slice)
        })
    }

    /// A slice of a claim is back. What became of the claim since is not undone: it may have ended, or be asked for anew.
    pub(super) fn undo_plug(&mut self, key: &ClaimKey) {
        if let Some((refused, before)) = self.undone_plugs.remove(key)
            && self.durable.claims.get(key) == Some(&refused)
        {
            self.restore_claim(key, Some(before));
        }
    }

    /// What no VM was given is taken back; whatever libvirt had plugged in all the same is held until it is out.
    pub(super) fn plug_failed(&mut self, key: &ClaimKey) -> Answer {
        let prepared = |a: &Assignment| {
            a.claim == *key && a.hotplug && matches!(a.phase, Phase::Reserved | Phase::Prepared)
        };
        let slices: Vec<SliceId> =
            self.run.assignments.iter().filter(|(_, a)| prepared(a)).map(|(s, _)| *s).collect();
        for slice in &slices {
            self.begin_release(*slice, Ending::StartFailed);
        }
        let message =
            if slices.is_empty() { "already so" } else { "what was prepared is released" };
        done(!slices.is_empty(), message)
    }

    /// What a running domain carries is what counts, whoever plugged or unplugged it, and however late: what was taken
    /// back meanwhile, because nobody held it, is its own again unless somebody else was given it.
    pub(super) fn on_domain_runs(&mut self, request: RequestId, domain: Domain) {
        let domain = self.with_parked(domain);
        let unknown = self.carries_unassigned(&domain);
        if unknown && self.cannot_adopt(&domain) {
            return self.parked_runs.push((request, domain));
        }
        let adopted = if unknown { self.adopt_claimed(&domain) } else { Vec::new() };
        let outcome = Ok(self.domain_runs(&domain, adopted));
        self.push(Effect::Answer { request, outcome });
    }

    /// Takes up what was told of running domains while it could not be judged.
    pub(super) fn run_parked_runs(&mut self) {
        for (request, domain) in std::mem::take(&mut self.parked_runs) {
            // Parks itself again if it must.
            self.on_domain_runs(request, domain);
        }
    }

    fn domain_runs(&mut self, domain: &Domain, adopted: Vec<SliceId>) -> Answer {
        let owner = Owner::Domain(domain.uuid);
        let (mut came, mut went) = (adopted, Vec::new());
        for (slice, a) in self.run.assignments.iter().filter(|(_, a)| a.claim.owner == owner) {
            match (a.phase, carries(domain, *slice)) {
                (Phase::Prepared, true) if a.hotplug && !came.contains(slice) => came.push(*slice),
                (Phase::Attached, false) => went.push(*slice),
                // Prepared and not there: libvirt may be about to plug it in, or to start the VM.
                _ => {}
            }
        }
        let changed = !came.is_empty() || !went.is_empty();
        for slice in came {
            self.attached(slice, &domain.name);
        }
        for slice in went {
            self.presumed_dead.remove(&slice);
            self.begin_release(slice, Ending::Detached);
        }
        done(changed, if changed { "taken over" } else { "already so" })
    }

    /// A VM runs with a slice that was prepared for it.
    pub(super) fn attached(&mut self, slice: SliceId, vm: &str) {
        let Some(assignment) = self.run.assignments.get_mut(&slice) else {
            return;
        };
        assignment.phase = Phase::Attached;
        assignment.hotplug = false;
        self.persist(Stored::Runtime);
        self.push(Effect::Disarm { timer: Timer::Grace(slice) });
        self.push(Effect::Watch { slice });
        self.begins_young(slice);
        self.note("slice", slice, format!("attached to {vm}"));
    }
}

/// Whether a hostdev of the domain passes the slice, ours or not.
pub(super) fn carries(domain: &Domain, slice: SliceId) -> bool {
    domain.devices.iter().any(|device| device.source.slice() == slice)
}
