//! Hot-plug. libvirt calls no hook for it, so the agent asks for the slices before it asks libvirt to plug them in,
//! and tells what became of it. What it fails to tell, a timer finds out: a slice nobody holds is taken back, one
//! that a process holds is attached. The hook's `release` at the stop of the VM ends it in any case.

use super::admit::is_parked_name;
use super::claims::{self, devices_of, done};
use super::ops::Purpose;
use super::reserve::Want;
use super::{Effect, Machine, RequestId, Stored, Timer};
use crate::domain::{Domain, HostDeviceSource};
use crate::history::Ending;
use crate::ids::{ClaimKey, Owner, SliceId};
use crate::plan::Step;
use crate::refusal::{Code, Refusal};
use crate::request::{Answer, DeviceToWrite};
use crate::state::{self, Assignment, Claim, ForeignHold, Phase};
use std::collections::{BTreeMap, BTreeSet};

/// A hot-plug as ordered.
#[derive(Debug, Clone)]
pub(super) struct Order {
    pub claim: claims::Order,
    /// The claim outlives its slices.
    pub keep: bool,
}

/// A hot-plug whose answer is awaited.
#[derive(Debug, Clone)]
pub(super) struct Plugging {
    key: ClaimKey,
    /// The claim is another one than before.
    changed: bool,
}

/// Whether a claim is still what a hot-plug asked for. Where it lives and what became of its domain does not matter.
fn still_asks(claim: &Claim, asked: &Claim) -> bool {
    let ended = claim.orphaned && !claim.undefined;
    let order = |c: &Claim| (c.request.clone(), c.profile.clone(), c.pool, c.reserve, c.transient);
    !ended && order(claim) == order(asked)
}

impl Machine {
    pub(super) fn on_plug(&mut self, request: RequestId, order: Order) {
        self.note_asker(order.claim.owner.clone(), &order.claim.owner_name);
        let name = order.claim.request.name.clone();
        let key = ClaimKey { owner: order.claim.owner.clone(), name };
        if let Some(refusal) = self.cannot_come_back(|claim| *claim == key) {
            return self.push(Effect::Answer { request, outcome: Err(refusal) });
        }
        let has = self.run.assignments.values().filter(|a| a.claim == key).count();
        let has = u32::try_from(has).unwrap_or(u32::MAX);
        let count = order.claim.request.count.saturating_sub(has);
        let needed = self.needed_to_plug(&key, &order.claim, count);
        let room = self.room_will_show(&needed);
        let fewer = order.claim.request.count;
        let on_its_way = |(slice, a): (&SliceId, &Assignment)| {
            // What an earlier hot-plug was given, and this one would no longer name, is decided first: only its claim tells whose
            // it is.
            let undecided = a.hotplug && a.phase == Phase::Prepared && a.index >= fewer;
            a.claim == key && (a.phase == Phase::Releasing || undecided || self.working_on(*slice))
        };
        if self.stale || room || self.run.assignments.iter().any(on_its_way) {
            return self.parked_plugs.push((request, order));
        }
        let asked = std::slice::from_ref(&order.claim.request);
        if self.outgrows_nodes(asked) && self.put_off.insert(request) {
            self.look_at_nodes();
            return self.parked_plugs.push((request, order));
        }
        let claim = self.durable.claims.get(&key).cloned();
        let undecided = self.durable.plugs.get(&key).cloned();
        let before = undecided.as_ref().map_or_else(|| claim.clone(), |plug| plug.before.clone());
        let kept = self.run.assignments.clone();
        match self.admit_plug(&key, &order) {
            Ok((slices, steps)) => {
                let asked = self.durable.claims.get(&key).cloned();
                let changed = !slices.is_empty() || asked != before;
                let plug = Plugging { key: key.clone(), changed };
                if slices.is_empty() {
                    return self.plug_ready(request, &plug);
                }
                if let Some(asked) = asked.filter(|asked| before.as_ref() != Some(asked)) {
                    self.durable.plugs.insert(key, state::Plug { asked, before });
                    self.persist(Stored::Durable);
                }
                self.persist(Stored::Runtime);
                self.plugs.insert(request, plug);
                let fresh = slices.iter().copied().filter(|s| !kept.contains_key(s)).collect();
                self.put_off.remove(&request);
                let refused = BTreeMap::new();
                let purpose = Purpose::Prepare { request: Some(request), slices, refused, fresh };
                self.start_op(purpose, steps);
            }
            Err(refusal) => {
                self.run.assignments = kept;
                // Nothing of it is recorded.
                match claim {
                    Some(claim) => drop(self.durable.claims.insert(key.clone(), claim)),
                    None => drop(self.durable.claims.remove(&key)),
                }
                self.durable.plugs.extend(undecided.map(|plug| (key, plug)));
                if self.make_room_for(&needed, &BTreeSet::new(), &refusal) {
                    return self.parked_plugs.push((request, order));
                }
                self.put_off.remove(&request);
                let refusal = self.not_where_it_runs(&order.claim, refusal);
                self.plug_refused(request, &refusal);
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

    /// Those that wait come to nothing, since nothing can be recorded.
    pub(super) fn plugs_unrecorded(&mut self, why: &Refusal) {
        for (request, _) in std::mem::take(&mut self.parked_plugs) {
            self.plug_refused(request, why);
        }
    }

    /// Makes the claim and reserves what of it no VM has yet.
    fn admit_plug(
        &mut self,
        key: &ClaimKey,
        order: &Order,
    ) -> Result<(Vec<SliceId>, Vec<Step>), Refusal> {
        self.require_not_picked(key)?;
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

    /// What a VM runs with because it was picked in a dialog is of a claim that ends with the run, and no device of the claim
    /// that is asked for.
    fn require_not_picked(&self, key: &ClaimKey) -> Result<(), Refusal> {
        let mut own = self.run.assignments.iter().filter(|(_, a)| a.claim == *key);
        let picked = own.find(|(slice, _)| is_parked_name(**slice));
        let Some((slice, _)) = picked else { return Ok(()) };
        let name = self.owner_name(key);
        let message = format!("{name} runs with {slice}, picked in a dialog, as {}", key.name);
        Err(Refusal::new(Code::InUse, message).hint(self.end_run(key)))
    }

    pub(super) fn plug_ready(&mut self, request: RequestId, plug: &Plugging) {
        let Some(claim) = self.durable.claims.get(&plug.key) else {
            let refusal = Refusal::new(Code::Unknown, "the claim was ended meanwhile");
            return self.push(Effect::Answer { request, outcome: Err(refusal) });
        };
        // Whatever else it has come to ask for meanwhile, and wherever its homes are by now.
        let ready = |index: u32| {
            let there = |a: &Assignment| matches!(a.phase, Phase::Prepared | Phase::Attached);
            let of_index = |a: &Assignment| a.claim == plug.key && a.index == index && there(a);
            let found = self.run.assignments.iter().find(|(_, a)| of_index(a));
            found.map(|(slice, _)| HostDeviceSource::of(*slice))
        };
        let devices = (0..).zip(devices_of(&plug.key, claim));
        let answer = Answer::Claimed {
            changed: plug.changed,
            claim: self.claim_row(&plug.key, claim),
            devices: devices
                .filter_map(|(index, device)| {
                    Some(DeviceToWrite { source: ready(index)?, ..device })
                })
                .collect(),
            warnings: self.overcommit(&plug.key, claim),
        };
        self.push(Effect::Answer { request, outcome: Ok(answer) });
    }

    /// Its slices are on their way back already, and with the last of them the claim is as before.
    pub(super) fn plug_refused(&mut self, request: RequestId, refusal: &Refusal) {
        let text = format!("hot-plug refused: {refusal}");
        self.push(Effect::Log { warning: true, text });
        self.push(Effect::Answer { request, outcome: Err(refusal.clone()) });
    }

    /// Claims that hot-plugs have changed stay so once the VM has all of it, and else are as before. Until each slice is the VM's or
    /// back they stay as they are, since they alone tell whose that is, should the record of the boot be lost. It makes no
    /// difference whether libvirt has refused, the agent has died or this daemon is the next one.
    pub(super) fn settle_plugs(&mut self) {
        if self.durable.plugs.is_empty() || self.claims_are_all_that_tells() {
            return;
        }
        let undecided = |a: &Assignment| {
            a.phase != Phase::Attached && self.durable.plugs.contains_key(&a.claim)
        };
        let undecided = self.run.assignments.values().filter(|a| undecided(a));
        let undecided: BTreeSet<&ClaimKey> = undecided.map(|a| &a.claim).collect();
        let known = self.durable.plugs.keys().filter(|key| !undecided.contains(key));
        let known = known.filter(|key| !self.it_alone_tells(key));
        let known: Vec<ClaimKey> = known.cloned().collect();
        for key in known {
            let Some(plug) = self.durable.plugs.remove(&key) else { continue };
            self.persist(Stored::Durable);
            // What became of the claim since is not undone: it may have ended, or be asked for anew.
            let claim = self.durable.claims.get(&key).filter(|c| still_asks(c, &plug.asked));
            let Some(claim) = claim.cloned() else { continue };
            // By their numbers: a VM that runs keeps the slices it has when its claim's homes move.
            let has = |index: u32| {
                self.run.assignments.values().any(|a| a.claim == key && a.index == index)
            };
            if !(0..).zip(devices_of(&key, &claim)).all(|(index, _)| has(index)) {
                self.undo_plug(&key, &claim, plug.before);
            }
        }
    }

    fn undo_plug(&mut self, key: &ClaimKey, now: &Claim, before: Option<Claim>) {
        let Some(mut before) = before else {
            self.end_claim(key);
            return self.note("claim", key, "ended: the hot-plug that made it was refused");
        };
        (before.orphaned, before.undefined) = (now.orphaned, now.undefined);
        // It named none in between.
        if before.home.iter().any(|home| self.home_of_another(*home, key).is_some()) {
            before.home.clear();
            if let Owner::Domain(domain) = key.owner {
                self.look_again.insert(domain);
                self.note("agent-work", domain, "it may have a home now");
            }
        }
        self.durable.claims.insert(key.clone(), before);
        self.note("claim", key, "as before: the hot-plug was refused");
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
        let domain = self.with_picks(domain);
        let unknown = self.carries_unassigned(&domain);
        if unknown && self.cannot_adopt(&domain) {
            return self.parked_runs.push((request, domain));
        }
        let adopted = if unknown { self.adopt_claimed(&domain, true) } else { Vec::new() };
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
        let plain = self.plain_came(domain, &owner);
        self.let_go_of(domain, &owner);
        let changed = plain || !came.is_empty() || !went.is_empty();
        for slice in came {
            self.attached(slice, &domain.name);
        }
        for slice in went {
            self.presumed_dead.remove(&slice);
            self.ends_in_order(slice);
            self.begin_release(slice, Ending::Detached);
        }
        Answer::Runs { changed, drivers: self.drivers_of(domain) }
    }

    /// What was plugged in without a claim, which no hook tells; whether there is any that was not known.
    fn plain_came(&mut self, domain: &Domain, owner: &Owner) -> bool {
        let mut came = false;
        for device in domain.devices.iter().filter(|d| d.our_claim().is_none()) {
            let slice = device.source.slice();
            self.unplugged.remove(&slice);
            if self.run.foreign.get(&slice).is_some_and(|hold| hold.owner == *owner) {
                continue;
            }
            self.guessed_wrong(slice);
            // Whoever was given it has it, and it is not cleared while it is open.
            if self.run.assignments.contains_key(&slice) {
                continue;
            }
            let (owner, name) = (owner.clone(), domain.name.clone());
            let hold = ForeignHold { owner, name, starting: false };
            self.run.foreign.insert(slice, hold);
            self.persist(Stored::Runtime);
            self.push(Effect::Disarm { timer: Timer::Grace(slice) });
            self.push(Effect::Watch { slice });
            came = true;
        }
        came
    }

    /// What a domain had without a claim and its XML has no longer is not its own any more once nobody has it open.
    pub(super) fn let_go_of(&mut self, domain: &Domain, owner: &Owner) {
        let left = |(slice, hold): &(&SliceId, &ForeignHold)| {
            hold.owner == *owner && !carries(domain, **slice)
        };
        let left: Vec<SliceId> =
            self.run.foreign.iter().filter(left).map(|(slice, _)| *slice).collect();
        for slice in left {
            self.unplugged.insert(slice);
            self.push(Effect::Watch { slice });
        }
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
