//! What libvirt's hook asks: slices for a start, their return after a stop.

use super::agent::Moved;
use super::awaited::Needed;
use super::ops::Purpose;
use super::plug::carries;
use super::ready;
use super::settled::settled_later;
use super::start::STARTING_GRACE;
use super::{Effect, HookAnswer, HookCall, HookOperation, Machine, RequestId, Stored, Timer};
use crate::domain::{Domain, HostDeviceSource};
use crate::errno::Errno;
use crate::execute::{Meaning, StepError};
use crate::hint;
use crate::history::Ending;
use crate::ids::{ClaimKey, Owner, PciAddress, SliceId};
use crate::mend;
use crate::observation::Vf;
use crate::plan::Step;
use crate::refusal::{Code, Refusal};
use crate::state::{Assignment, Incoming, Phase};
use std::collections::{BTreeMap, BTreeSet};
use uuid::Uuid;

impl Machine {
    pub(super) fn on_hook(&mut self, request: RequestId, mut call: HookCall) {
        self.note_asker(Owner::Domain(call.domain.uuid), &call.domain.name);
        call.domain = self.with_picks(call.domain);
        match call.operation {
            HookOperation::Prepare => self.on_prepare(request, call),
            HookOperation::Started | HookOperation::Reconnect => {
                if self.carries_unknown(&call.domain) {
                    if self.cannot_adopt(&call.domain) {
                        return self.parked.push((request, call));
                    }
                    self.adopt(&call.domain, true);
                }
                self.on_started(&call.domain);
                self.proceed(request);
            }
            HookOperation::Release | HookOperation::ShutDown | HookOperation::MigratedAway => {
                if self.may_be_lost(&Owner::Domain(call.domain.uuid))
                    && self.carries_unknown(&call.domain)
                {
                    if self.cannot_adopt(&call.domain) {
                        return self.parked.push((request, call));
                    }
                    self.adopt(&call.domain, false);
                }
                self.on_release(call.domain.uuid, call.operation);
                self.proceed(request);
            }
            HookOperation::Migrate | HookOperation::Restore => self.on_incoming(request, call),
        }
    }

    fn proceed(&mut self, request: RequestId) {
        self.push(Effect::AnswerHook { request, answer: HookAnswer::Proceed });
    }

    fn on_prepare(&mut self, request: RequestId, call: HookCall) {
        let owner = Owner::Domain(call.domain.uuid);
        self.runs_no_more(&owner);
        self.expects_no_more(call.domain.uuid);
        self.forget_start_later(call.domain.uuid);
        if let Some(refusal) = self.cannot_come_back(|claim| claim.owner == owner) {
            return self.refuse_start(request, &call.domain, refusal);
        }
        self.release_leftovers(&call.domain, &owner);
        if let Some(refusal) = self.keeps_from_starting(&owner) {
            return self.refuse_start(request, &call.domain, refusal);
        }
        let room = self.parking_anywhere() && self.room_will_show(&self.needed(&call.domain));
        if self.stale || self.must_wait(&owner) || room {
            return self.parked.push((request, call));
        }
        if self.outgrows_nodes(&call.domain.claims) && self.put_off.insert(request) {
            self.look_at_nodes();
            return self.parked.push((request, call));
        }
        let admitted = self.admit(&call.domain);
        let old = |why: &Refusal| self.may_be_free_by_now(why);
        if admitted.as_ref().is_err_and(old) && self.put_off.insert(request) {
            self.push(Effect::Observe);
            return self.parked.push((request, call));
        }
        self.put_off.remove(&request);
        match admitted {
            Ok((slices, fresh, steps)) => {
                self.forget_refused_start(call.domain.uuid);
                self.persist(Stored::Runtime);
                let refused = BTreeMap::new();
                let purpose = Purpose::Prepare { request: Some(request), slices, refused, fresh };
                self.start_op(purpose, steps);
            }
            Err(refusal) if self.make_room(&call.domain, &refusal) => {
                self.parked.push((request, call));
            }
            Err(refusal) if self.returns_soon(&call.domain, &refusal) => {
                self.parked.push((request, call));
            }
            Err(refusal) => self.refuse_start(request, &call.domain, refusal),
        }
    }

    /// The kernel announces no type that a VF is given or loses: what is taken as last read may be free.
    pub(super) fn may_be_free_by_now(&self, why: &Refusal) -> bool {
        let taken = |(address, vf): (&PciAddress, &Vf)| {
            let has_type = vf.choice.as_ref().is_some_and(|choice| choice.current.is_some());
            has_type && !self.run.assignments.contains_key(&SliceId::Vf(*address))
        };
        match why.code {
            Code::Foreign => true,
            Code::NoCapacity => self.seen.vfs.iter().any(taken),
            _ => false,
        }
    }

    pub(super) fn refuse_start(&mut self, request: RequestId, domain: &Domain, refusal: Refusal) {
        self.put_off.remove(&request);
        self.learn_name(domain);
        let needs = |machine: &Self| machine.needs_of(domain);
        let refusal = self.remember_refusal(domain.uuid, &domain.name, refusal, needs);
        if self.asks_otherwise(domain) && self.look_again.insert(domain.uuid) {
            self.note("agent-work", domain.uuid, "it asks for something else now");
        }
        self.push(Effect::AnswerHook { request, answer: HookAnswer::Refuse(refusal) });
    }

    /// Whether a domain's XML asks for something else than its claims, as when nobody has looked at it since it was edited, or
    /// what it asks for was refused then.
    fn asks_otherwise(&self, domain: &Domain) -> bool {
        domain.claims.iter().any(|request| {
            let key = ClaimKey { owner: Owner::Domain(domain.uuid), name: request.name.clone() };
            self.durable.claims.get(&key).is_some_and(|claim| claim.request != *request)
        })
    }

    /// Claims made by UUID are of no name that people know until a start says it.
    fn learn_name(&mut self, domain: &Domain) {
        let owner = Owner::Domain(domain.uuid);
        let claims = self.durable.claims.iter_mut().filter(|(key, _)| key.owner == owner);
        for (_, claim) in claims.filter(|(_, claim)| claim.owner_name != domain.name) {
            claim.owner_name.clone_from(&domain.name);
            self.dirty.insert(Stored::Durable);
        }
    }

    /// A slice of these claims that is not taken back as long as its device is quarantined: waiting is in vain.
    pub(super) fn cannot_come_back(&self, whose: impl Fn(&ClaimKey) -> bool) -> Option<Refusal> {
        let (slice, parent, why) = self.run.assignments.iter().find_map(|(slice, a)| {
            let waits = whose(&a.claim) && a.phase == Phase::Releasing;
            let why = self.fault_over(&a.parent).filter(|_| waits)?;
            Some((slice, &a.parent, why))
        })?;
        let message = format!("{slice} of its last run is not back yet: {parent} is quarantined");
        let refusal = Refusal::new(Code::Quarantined, message).because(why.message.clone());
        Some(refusal.hint(mend::uncordon(parent)))
    }

    /// What an earlier run left with the owner and this start does not ask for, or asks for as something else.
    fn release_leftovers(&mut self, domain: &Domain, owner: &Owner) {
        let asked = |slice: &SliceId, a: &Assignment| {
            domain.devices.iter().any(|d| {
                d.source.slice() == *slice && d.our_claim() == Some((a.claim.name.clone(), a.index))
            }) && domain.claims.iter().any(|c| {
                c.name == a.claim.name && c.profile.as_ref().is_none_or(|p| *p == a.profile)
            })
        };
        let left: Vec<SliceId> = self
            .run
            .assignments
            .iter()
            .filter(|(slice, a)| {
                a.claim.owner == *owner && a.phase != Phase::Releasing && !asked(slice, a)
            })
            .map(|(slice, _)| *slice)
            .collect();
        for slice in left {
            self.begin_release(slice, Ending::StartedAgain);
        }
    }

    /// A start of the same owner waits while its former slices are on their way back, rather than being refused.
    pub(super) fn must_wait(&self, owner: &Owner) -> bool {
        self.run.assignments.iter().any(|(slice, a)| {
            a.claim.owner == *owner && (a.phase == Phase::Releasing || self.working_on(*slice))
        })
    }

    /// Takes up calls whose wait may be over.
    pub(super) fn run_parked(&mut self) {
        let ready: Vec<_> = std::mem::take(&mut self.parked);
        for (request, call) in ready {
            // Parks itself again if it must.
            self.on_hook(request, call);
        }
    }

    pub(super) fn prepared(&mut self, request: Option<RequestId>, slices: &[SliceId]) {
        let Some(request) = request else {
            // Nobody waits any more.
            for slice in slices {
                self.begin_release(*slice, Ending::StartFailed);
            }
            return;
        };
        let unwanted =
            |s: &SliceId| self.run.assignments.get(s).is_none_or(|a| a.phase != Phase::Reserved);
        if slices.iter().any(unwanted) {
            let message = "the claim was ended while its slice was being prepared";
            let refusal = Refusal::new(Code::Unknown, message).hint(hint!("start it again"));
            return self.refuse_prepare(Some(request), slices, &BTreeSet::new(), refusal);
        }
        for slice in slices {
            // Nobody held it.
            self.no_guess(*slice);
            self.push(Effect::Arm { timer: Timer::Grace(*slice), after: STARTING_GRACE });
            if let Some(assignment) = self.run.assignments.get_mut(slice) {
                assignment.phase = Phase::Prepared;
                let claim = assignment.claim.clone();
                if self.durable.claims.get(&claim).is_some_and(|c| c.last_refusal.is_some()) {
                    if let Some(record) = self.durable.claims.get_mut(&claim) {
                        record.last_refusal = None;
                    }
                    self.persist(Stored::Durable);
                }
                self.note("slice", slice, format!("prepared for {claim}"));
            }
        }
        self.persist(Stored::Runtime);
        self.answered.insert(request, slices.to_vec());
        if let Some(plug) = self.plugs.remove(&request) {
            return self.plug_ready(request, &plug);
        }
        self.told.insert(request, slices.to_vec());
        self.proceed(request);
    }

    /// A start that was admitted and cannot go on. What nothing was done to needs no taking back.
    pub(super) fn refuse_prepare(
        &mut self,
        request: Option<RequestId>,
        slices: &[SliceId],
        untouched: &BTreeSet<SliceId>,
        refusal: Refusal,
    ) {
        let claim = slices.iter().find_map(|s| Some(self.run.assignments.get(s)?.claim.clone()));
        for slice in slices {
            if untouched.contains(slice) {
                self.released(*slice);
            } else {
                self.begin_release(*slice, Ending::StartFailed);
            }
        }
        let Some(request) = request else {
            return;
        };
        if self.plugs.remove(&request).is_some() {
            return self.plug_refused(request, &refusal);
        }
        let refusal = match claim {
            Some(key @ ClaimKey { owner: Owner::Domain(uuid), .. }) => {
                let needs = |machine: &Self| machine.needs_of_claims(uuid);
                self.remember_refusal(uuid, &self.owner_name(&key), refusal, needs)
            }
            _ => refusal,
        };
        self.push(Effect::AnswerHook { request, answer: HookAnswer::Refuse(refusal) });
    }

    pub(super) fn explain_failed_prepare(&self, step: &Step, error: &StepError) -> Refusal {
        let code = match (error, error.meaning(step)) {
            (StepError::Held { .. }, _) => Code::Held,
            (StepError::HostDriver { .. }, _) => Code::HostDriver,
            (_, Meaning::Others) => Code::Foreign,
            (_, Meaning::Full) => Code::NoCapacity,
            (_, Meaning::Gone | Meaning::Later | Meaning::Unable | Meaning::Fault) => {
                Code::DeviceFailed
            }
        };
        if error.meaning(step) == Meaning::Later
            && let Some(device) = self.awaits_ready(step)
        {
            return settled_later(&ready::awaited(&device), error.to_string());
        }
        // The attribute came with a later version of the driver.
        if let (Step::SetParameters { slice, .. }, Some(Errno::ENOENT)) = (step, error.errno())
            && let Some(of) = self.run.assignments.get(slice)
        {
            let refusal = self.takes_no_parameters(&of.claim, &of.profile);
            return refusal.because(error.to_string());
        }
        if let Some(refusal) = self.module_is_refused(step, error, &hint!("start it again")) {
            return refusal;
        }
        let refusal = Refusal::new(code, format!("cannot {step}")).because(error.to_string());
        if let (Code::Foreign, Step::CreateMdev { uuid, .. }) = (code, step) {
            return refusal.hint(mend::stop_mdev(*uuid));
        }
        if let (Code::Foreign, Step::GiveVfType { vf, attribute, .. }) = (code, step) {
            return refusal.hint(mend::take_type(*vf, attribute));
        }
        match error {
            StepError::Held { holders, .. } => match holders.first() {
                Some(holder) => refusal.hint(mend::end_process(holder)),
                None => refusal.hint(hint!(
                    "systemctl edit gpusliced: CAP_SYS_PTRACE in CapabilityBoundingSet, \
                     then systemctl restart gpusliced"
                )),
            },
            StepError::Mediated { uuid, .. } => refusal.hint(mend::stop_mdev(*uuid)),
            StepError::Typed { vf, attribute, .. } => refusal.hint(mend::take_type(*vf, attribute)),
            StepError::HostDriver { function, driver } => {
                refusal.hint(mend::let_go(*function, driver))
            }
            _ => refusal.hint(mend::as_the_kernel_says()),
        }
    }

    pub(super) fn on_started(&mut self, domain: &Domain) {
        self.start_is_over(domain.uuid);
        self.refused_xml.remove(&domain.uuid);
        self.forget_refused_start(domain.uuid);
        let owner = Owner::Domain(domain.uuid);
        self.record_foreign(domain, &owner, true);
        let started: Vec<SliceId> = self
            .run
            .assignments
            .iter()
            .filter(|(_, a)| a.claim.owner == owner && a.phase == Phase::Prepared)
            // What is yet to be hot-plugged is not in it because it runs.
            .filter(|(slice, a)| !a.hotplug || carries(domain, **slice))
            .map(|(slice, _)| *slice)
            .collect();
        self.told.retain(|_, slices| !slices.iter().any(|s| started.contains(s)));
        for slice in self.run.foreign.iter().filter(|(_, h)| h.owner == owner).map(|(s, _)| *s) {
            self.effects.push(Effect::Disarm { timer: Timer::Grace(slice) });
            self.effects.push(Effect::Watch { slice });
        }
        self.let_go_of(domain, &owner);
        for slice in started {
            self.attached(slice, &domain.name);
        }
    }

    /// Remembers why a start was refused, and what may mend it without a person. Returns what to tell.
    fn remember_refusal(
        &mut self,
        domain: Uuid,
        name: &str,
        mut refusal: Refusal,
        needs: impl FnOnce(&Self) -> BTreeSet<Needed>,
    ) -> Refusal {
        let came_in = self.came_in(domain);
        if refusal.code == Code::NotSettled {
            self.make_up_for(domain, needs(self), came_in);
            if came_in == Some(Incoming::Migrating) {
                refusal = refusal.hint(mend::ask_when_settled());
            }
        }
        let text = format!("start of {name} refused: {refusal}");
        self.push(Effect::Log { warning: true, text });
        let owner = Owner::Domain(domain);
        let in_xml = matches!(
            refusal.code,
            Code::ClaimCopied
                | Code::NotInXml
                | Code::OtherNumaNode
                | Code::Taken
                | Code::Held
                | Code::HostDriver
                | Code::Absent
        );
        // Where a slice has no home, or its device is kept back, there is something to write only after a move.
        let elsewhere = matches!(refusal.code, Code::NoCapacity | Code::Quarantined);
        let moved = if in_xml || elsewhere { self.move_homes(&owner) } else { Moved::Not };
        match &moved {
            Moved::Free => {
                let again = hint!("virsh start {} (the agent gives it another VF)", name);
                refusal = refusal.hint(again);
            }
            Moved::WithoutRoom(key) => {
                if let Some(claim) = self.durable.claims.get(key) {
                    let room = self.room_for(key, &claim.profile, claim.request.count);
                    refusal = refusal.hint(room);
                }
            }
            Moved::Not => {}
        }
        if in_xml || !matches!(moved, Moved::Not) {
            self.look_again.insert(domain);
            self.refused_xml.insert(domain);
            self.note("agent-work", domain, "look at the domain again");
            let rewritten =
                matches!(refusal.code, Code::ClaimCopied | Code::NotInXml | Code::Taken);
            let mended = matches!(moved, Moved::Free) || rewritten && matches!(moved, Moved::Not);
            if mended && came_in.is_none() {
                self.start_when_mended(domain);
            }
        }
        for claim in
            self.durable.claims.iter_mut().filter(|(k, _)| k.owner == owner).map(|(_, c)| c)
        {
            if claim.last_refusal.as_ref() != Some(&refusal) {
                claim.last_refusal = Some(refusal.clone());
                self.dirty.insert(Stored::Durable);
            }
        }
        self.remember_refused_start(domain, name, &refusal);
        refusal
    }
}

/// Whether how much room there is for mediated devices matters to a domain.
pub(super) fn carries_mdev(domain: &Domain) -> bool {
    domain.devices.iter().any(|device| matches!(device.source, HostDeviceSource::Mdev(_)))
}
