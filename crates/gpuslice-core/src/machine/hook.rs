//! What libvirt's hook asks: slices for a start, their return after a stop.

use super::ops::Purpose;
use super::start::STARTING_GRACE;
use super::{Effect, HookAnswer, HookCall, HookOperation, Machine, OpId, RequestId, Stored, Timer};
use crate::domain::{ClaimRequest, Domain, HostDevice, HostDeviceSource};
use crate::execute::StepError;
use crate::ids::{ClaimKey, MdevUuid, Owner, PciAddress, ProfileName, SliceId};
use crate::placement::{self, Wanted};
use crate::plan::Step;
use crate::refusal::{Code, Refusal};
use crate::state::{Assignment, Claim, ForeignHold, Phase};
use std::collections::BTreeSet;
use uuid::Uuid;

/// Slices of a start, those of them that were nobody's before, and what is to be done.
type Admitted = (Vec<SliceId>, BTreeSet<SliceId>, Vec<Step>);

/// One slice a starting domain must get.
struct Want {
    key: ClaimKey,
    index: u32,
    profile: ProfileName,
    source: HostDeviceSource,
    managed: bool,
}

impl Machine {
    pub(super) fn on_hook(&mut self, request: RequestId, call: HookCall) {
        match call.operation {
            HookOperation::Prepare => self.on_prepare(request, call),
            HookOperation::Started | HookOperation::Reconnect => {
                self.on_started(&call.domain);
                self.proceed(request);
            }
            HookOperation::Release => {
                self.on_release(call.domain.uuid);
                self.proceed(request);
            }
            // Re-mapping comes with the migrate and restore work; until then the XML stands, and the `prepare`
            // that follows judges it.
            HookOperation::Migrate | HookOperation::Restore => self.proceed(request),
        }
    }

    fn proceed(&mut self, request: RequestId) {
        self.push(Effect::AnswerHook { request, answer: HookAnswer::Proceed });
    }

    fn on_prepare(&mut self, request: RequestId, call: HookCall) {
        let owner = Owner::Domain(call.domain.uuid);
        self.forget_start_later(call.domain.uuid);
        if let Some(refusal) = self.cannot_come_back(&owner) {
            return self.refuse_start(request, &call.domain, refusal);
        }
        self.release_leftovers(&call.domain, &owner);
        if self.stale || self.must_wait(&owner) {
            return self.parked.push((request, call));
        }
        match self.admit(&call.domain) {
            Ok((slices, fresh, steps)) => {
                self.persist(Stored::Runtime);
                let refused = BTreeSet::new();
                let purpose = Purpose::Prepare { request: Some(request), slices, refused, fresh };
                self.start_op(purpose, steps);
            }
            Err(refusal) => self.refuse_start(request, &call.domain, refusal),
        }
    }

    fn refuse_start(&mut self, request: RequestId, domain: &Domain, refusal: Refusal) {
        self.remember_refusal(domain, &refusal);
        self.push(Effect::AnswerHook { request, answer: HookAnswer::Refuse(refusal) });
    }

    pub(super) fn forget_start_later(&mut self, domain: Uuid) {
        let before = self.run.start_later.len();
        self.run.start_later.retain(|uuid| *uuid != domain);
        if self.run.start_later.len() != before {
            self.persist(Stored::Runtime);
        }
    }

    /// A slice of the owner that is not taken back as long as its device is quarantined: waiting is in vain.
    fn cannot_come_back(&self, owner: &Owner) -> Option<Refusal> {
        let (slice, parent, why) = self.run.assignments.iter().find_map(|(slice, a)| {
            let waits = a.claim.owner == *owner && a.phase == Phase::Releasing;
            let why = self.quarantine_over(&a.parent).filter(|_| waits)?;
            Some((slice, &a.parent, why))
        })?;
        let message = format!("{slice} of its last run is not back yet: {parent} is quarantined");
        let refusal = Refusal::new(Code::Quarantined, message).because(why.message.clone());
        Some(refusal.hint(format!("gpuslice uncordon {parent}")))
    }

    /// What an earlier run left with the owner and this start does not ask for, or asks for as something else.
    fn release_leftovers(&mut self, domain: &Domain, owner: &Owner) {
        let asked = |slice: &SliceId, a: &Assignment| {
            domain.devices.iter().any(|d| {
                slice_of(d.source) == *slice
                    && d.our_claim() == Some((a.claim.name.clone(), a.index))
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
            self.begin_release(slice);
        }
    }

    /// A start of the same owner waits while its former slices are on their way back, rather than being refused.
    fn must_wait(&self, owner: &Owner) -> bool {
        self.run.assignments.iter().any(|(slice, a)| {
            a.claim.owner == *owner && (a.phase == Phase::Releasing || self.working_on(*slice))
        })
    }

    /// Takes up starts whose wait may be over.
    pub(super) fn run_parked(&mut self) {
        let ready: Vec<_> = std::mem::take(&mut self.parked);
        for (request, call) in ready {
            // Parks itself again if it must.
            self.on_prepare(request, call);
        }
    }

    /// Decides on all slices of a start at once, and reserves them all or none.
    fn admit(&mut self, domain: &Domain) -> Result<Admitted, Refusal> {
        let owner = Owner::Domain(domain.uuid);
        self.judge_plain_devices(domain, &owner)?;
        let wants = self.wants(domain, &owner)?;
        let kept = self.run.assignments.clone();
        let (mut slices, mut steps) = (Vec::new(), Vec::new());
        for want in &wants {
            match self.reserve(want, &domain.name) {
                Ok((slice, more)) => {
                    slices.push(slice);
                    steps.extend(more);
                }
                Err(refusal) => {
                    self.run.assignments = kept;
                    return Err(refusal);
                }
            }
        }
        self.record_claims(domain, &owner, &wants);
        self.record_foreign(domain, &owner);
        let fresh = slices.iter().copied().filter(|slice| !kept.contains_key(slice)).collect();
        Ok((slices, fresh, steps))
    }

    /// Every slice the domain's claims ask for, with the device in the XML that is to be it.
    fn wants(&self, domain: &Domain, owner: &Owner) -> Result<Vec<Want>, Refusal> {
        let mut wants = Vec::new();
        for claim in &domain.claims {
            let profile = self.profile_for(claim)?;
            for index in 0..claim.count {
                let named = Some((claim.name.clone(), index));
                let device =
                    domain.devices.iter().find(|d| d.our_claim() == named).ok_or_else(|| {
                        Refusal::new(
                            Code::NotInXml,
                            format!(
                                "{} asks for {profile} as {}, but carries no device for it",
                                domain.name, claim.name
                            ),
                        )
                        .hint(format!(
                            "gpuslice attach {} {profile} --name {}",
                            domain.name, claim.name
                        ))
                    })?;
                let key = ClaimKey { owner: owner.clone(), name: claim.name.clone() };
                self.require_own_device(domain, &key, index, device)?;
                if wants.iter().any(|w: &Want| w.source == device.source) {
                    let message =
                        format!("{} carries {} twice", domain.name, slice_of(device.source));
                    return Err(Refusal::new(Code::NotInXml, message)
                        .hint(format!("gpuslice detach {} {}", domain.name, claim.name)));
                }
                wants.push(Want {
                    key,
                    index,
                    profile: profile.clone(),
                    source: device.source,
                    managed: device.managed,
                });
            }
        }
        let unclaimed =
            domain.devices.iter().filter_map(HostDevice::our_claim).find(|(name, index)| {
                !domain.claims.iter().any(|c| c.name == *name && *index < c.count)
            });
        match unclaimed {
            None => Ok(wants),
            Some((name, _)) => Err(Refusal::new(
                Code::NotInXml,
                format!(
                    "{} carries a device for claim {name}, but its metadata has no such claim",
                    domain.name
                ),
            )
            .hint(format!("gpuslice detach {} {name}", domain.name))),
        }
    }

    /// A copied domain carries the devices of the one it was copied from.
    fn require_own_device(
        &self,
        domain: &Domain,
        key: &ClaimKey,
        index: u32,
        device: &HostDevice,
    ) -> Result<(), Refusal> {
        let copied = match device.source {
            HostDeviceSource::Mdev(uuid) => {
                uuid != MdevUuid::for_claim(domain.uuid, &key.name, index)
            }
            HostDeviceSource::Pci(address) => self.home_of_another(address, key).is_some(),
        };
        if !copied {
            return Ok(());
        }
        let other = match device.source {
            HostDeviceSource::Pci(address) => self.home_of_another(address, key),
            HostDeviceSource::Mdev(_) => None,
        };
        let whose = other.map_or_else(|| "another domain".to_owned(), |c| c.owner_name.clone());
        Err(Refusal::new(
            Code::ClaimCopied,
            format!("the device of claim {} in {} is that of {whose}", key.name, domain.name),
        )
        .hint(format!(
            "start {} again: it is given its own device; or gpuslice attach {} PROFILE",
            domain.name, domain.name
        )))
    }

    /// Reserves one slice.
    fn reserve(&mut self, want: &Want, owner_name: &str) -> Result<(SliceId, Vec<Step>), Refusal> {
        let (slice, assignment) = match want.source {
            HostDeviceSource::Mdev(uuid) => {
                let slice = SliceId::Mdev(uuid);
                let present = self
                    .run
                    .assignments
                    .get(&slice)
                    .filter(|a| self.seen.made_by(slice) == Some(&a.parent));
                let assignment = match present {
                    // A start that was never followed by a release: the device is still this claim's.
                    Some(present) => Assignment { phase: Phase::Reserved, ..present.clone() },
                    None => self.place_mdev(want, uuid)?,
                };
                (slice, assignment)
            }
            HostDeviceSource::Pci(address) => {
                (SliceId::Vf(address), self.place_vf(want, address, owner_name)?)
            }
        };
        let steps = self
            .mechanism_of(slice)
            .map(|m| m.prepare_steps(slice, &assignment))
            .unwrap_or_default();
        // What was to become of its last run is no longer the question.
        self.push(Effect::Disarm { timer: Timer::Grace(slice) });
        self.presumed_dead.remove(&slice);
        self.run.assignments.insert(slice, assignment);
        Ok((slice, steps))
    }

    fn place_mdev(&self, want: &Want, uuid: MdevUuid) -> Result<Assignment, Refusal> {
        if let Some(there) = self.seen.mdevs.get(&uuid) {
            return Err(Refusal::new(
                Code::Foreign,
                format!(
                    "mdev {uuid} exists already on {} and was not made by gpuslice",
                    there.parent
                ),
            )
            .hint(format!("mdevctl stop -u {uuid}")));
        }
        let wanted = Wanted { profile: &want.profile, key: Some(&want.key), numa: None };
        let (parent, type_id) = placement::mdev(&self.view(), &wanted, &BTreeSet::new())
            .map_err(|refused| self.refuse_placement(&want.profile, refused))?;
        Ok(Assignment {
            claim: want.key.clone(),
            index: want.index,
            parent,
            profile: want.profile.clone(),
            type_id: Some(type_id),
            managed: want.managed,
            phase: Phase::Reserved,
            trouble: None,
        })
    }

    fn place_vf(
        &self,
        want: &Want,
        address: PciAddress,
        owner_name: &str,
    ) -> Result<Assignment, Refusal> {
        let parent = placement::vf(&self.view(), &want.profile, &want.key, address, want.managed)
            .map_err(|why| {
                let why = self.or_not_settled(why);
                match why.code {
                    Code::Taken | Code::Held | Code::Absent if why.hint.is_none() => {
                        why.hint(format!("start {owner_name} again: a pooled claim moves to a free VF; or gpuslice slices"))
                    }
                    _ => why,
                }
            })?;
        Ok(Assignment {
            claim: want.key.clone(),
            index: want.index,
            parent,
            profile: want.profile.clone(),
            type_id: None,
            managed: want.managed,
            phase: Phase::Reserved,
            trouble: None,
        })
    }

    /// The kernel had less room than it said: another parent may have more.
    pub(super) fn place_elsewhere(&mut self, op: OpId, step: &Step, error: &StepError) -> bool {
        let Step::CreateMdev { parent, uuid, .. } = step else {
            return false;
        };
        if !matches!(error, StepError::Errno { .. }) || error.nothing_begun(step) {
            return false;
        }
        let slice = SliceId::Mdev(*uuid);
        let Some(super::Op { purpose: Purpose::Prepare { refused, .. }, .. }) =
            self.ops.get_mut(&op)
        else {
            return false;
        };
        let Some(mut assignment) = self.run.assignments.remove(&slice) else {
            return false;
        };
        refused.insert(parent.clone());
        let refused = refused.clone();
        let wanted =
            Wanted { profile: &assignment.profile, key: Some(&assignment.claim), numa: None };
        let placed = placement::mdev(&self.view(), &wanted, &refused);
        let moved = placed.is_ok();
        if let Ok((other, type_id)) = placed {
            assignment.parent = other.clone();
            assignment.type_id = Some(type_id.clone());
            if let Some(op) = self.ops.get_mut(&op) {
                op.steps.pop_front();
                op.steps.push_front(Step::CreateMdev { parent: other, type_id, uuid: *uuid });
            }
        }
        self.run.assignments.insert(slice, assignment);
        self.persist(Stored::Runtime);
        moved
    }

    pub(super) fn prepared(&mut self, request: Option<RequestId>, slices: &[SliceId]) {
        let Some(request) = request else {
            // Nobody waits any more.
            for slice in slices {
                self.begin_release(*slice);
            }
            return;
        };
        let unwanted =
            |s: &SliceId| self.run.assignments.get(s).is_none_or(|a| a.phase != Phase::Reserved);
        if slices.iter().any(unwanted) {
            let message = "the claim was ended while its slice was being prepared";
            let refusal = Refusal::new(Code::Unknown, message).hint("gpuslice claims");
            return self.refuse_prepare(Some(request), slices, refusal);
        }
        for slice in slices {
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
        self.told.insert(request, slices.to_vec());
        self.proceed(request);
    }

    pub(super) fn refuse_prepare(
        &mut self,
        request: Option<RequestId>,
        slices: &[SliceId],
        refusal: Refusal,
    ) {
        for slice in slices {
            self.begin_release(*slice);
        }
        if let Some(request) = request {
            let text = format!("start refused: {refusal}");
            self.push(Effect::Log { warning: true, text });
            self.push(Effect::AnswerHook { request, answer: HookAnswer::Refuse(refusal) });
        }
    }

    pub(super) fn explain_failed_prepare(&self, step: &Step, error: &StepError) -> Refusal {
        let code = match error {
            StepError::Held { .. } => Code::Held,
            _ if error.nothing_begun(step) => Code::Foreign,
            _ => Code::DeviceFailed,
        };
        let refusal = Refusal::new(code, format!("cannot {step}")).because(error.to_string());
        if let (Code::Foreign, Step::CreateMdev { uuid, .. }) = (code, step) {
            return refusal.hint(format!("mdevctl stop -u {uuid}"));
        }
        match error {
            StepError::Held { holders, .. } => match holders.first() {
                Some(holder) => refusal.hint(format!("ps -fp {}", holder.pid)),
                None => refusal.hint("run gpusliced with CAP_SYS_PTRACE".to_owned()),
            },
            _ => refusal.hint("journalctl -k -n 20".to_owned()),
        }
    }

    pub(super) fn on_started(&mut self, domain: &Domain) {
        let owner = Owner::Domain(domain.uuid);
        let mut started = Vec::new();
        for (slice, assignment) in &mut self.run.assignments {
            if assignment.claim.owner == owner && assignment.phase == Phase::Prepared {
                assignment.phase = Phase::Attached;
                started.push(*slice);
            }
        }
        self.told.retain(|_, slices| !slices.iter().any(|s| started.contains(s)));
        for slice in self.run.foreign.iter().filter(|(_, h)| h.owner == owner).map(|(s, _)| *s) {
            self.effects.push(Effect::Disarm { timer: Timer::Grace(slice) });
            self.effects.push(Effect::Watch { slice });
        }
        for slice in started {
            self.persist(Stored::Runtime);
            self.push(Effect::Disarm { timer: Timer::Grace(slice) });
            self.push(Effect::Watch { slice });
            self.note("slice", slice, format!("attached to {}", domain.name));
        }
    }

    /// Claims are recorded as the XML says them; only what is bound is the table's to say.
    fn record_claims(&mut self, domain: &Domain, owner: &Owner, wants: &[Want]) {
        for request in &domain.claims {
            let key = ClaimKey { owner: owner.clone(), name: request.name.clone() };
            let mine = || wants.iter().filter(|w| w.key == key);
            let Some(profile) = mine().next().map(|w| w.profile.clone()) else {
                continue;
            };
            let home: Vec<PciAddress> = mine()
                .filter_map(|w| match w.source {
                    HostDeviceSource::Pci(address) => Some(address),
                    HostDeviceSource::Mdev(_) => None,
                })
                .collect();
            let known = self.durable.claims.get(&key);
            let claim = Claim {
                owner_name: domain.name.clone(),
                request: request.clone(),
                profile,
                home,
                pool: known.is_some_and(|c| c.pool),
                reserve: known.is_some_and(|c| c.reserve),
                transient: known.is_none_or(|c| c.transient),
                orphaned: false,
                last_refusal: None,
            };
            if known != Some(&claim) {
                self.durable.claims.insert(key, claim);
                self.persist(Stored::Durable);
            }
        }
    }

    /// A plain hostdev is the user's own affair, unless the slice is somebody else's.
    fn judge_plain_devices(&self, domain: &Domain, owner: &Owner) -> Result<(), Refusal> {
        for device in domain.devices.iter().filter(|d| d.our_claim().is_none()) {
            let slice = slice_of(device.source);
            if let Some(other) =
                self.run.assignments.get(&slice).filter(|a| a.claim.owner != *owner)
            {
                let whose = self.owner_name(&other.claim);
                return Err(Refusal::new(
                    Code::Taken,
                    format!("{slice} is assigned to {whose} ({})", other.claim.name),
                )
                .hint(format!("gpuslice attach {} {}", domain.name, other.profile)));
            }
        }
        Ok(())
    }

    fn record_foreign(&mut self, domain: &Domain, owner: &Owner) {
        for device in domain.devices.iter().filter(|d| d.our_claim().is_none()) {
            let slice = slice_of(device.source);
            let hold = ForeignHold { owner: owner.clone(), name: domain.name.clone() };
            if self.run.foreign.get(&slice) != Some(&hold) {
                self.run.foreign.insert(slice, hold);
                self.persist(Stored::Runtime);
            }
            self.push(Effect::Arm { timer: Timer::Grace(slice), after: STARTING_GRACE });
        }
    }

    /// Remembers why a start was refused, and what may mend it without a person.
    fn remember_refusal(&mut self, domain: &Domain, refusal: &Refusal) {
        let text = format!("start of {} refused: {refusal}", domain.name);
        self.push(Effect::Log { warning: true, text });
        if refusal.code == Code::NotSettled && !self.run.start_later.contains(&domain.uuid) {
            self.run.start_later.push(domain.uuid);
            self.persist(Stored::Runtime);
        }
        let owner = Owner::Domain(domain.uuid);
        for claim in
            self.durable.claims.iter_mut().filter(|(k, _)| k.owner == owner).map(|(_, c)| c)
        {
            if claim.last_refusal.as_ref() != Some(refusal) {
                claim.last_refusal = Some(refusal.clone());
                self.dirty.insert(Stored::Durable);
            }
        }
        if matches!(
            refusal.code,
            Code::ClaimCopied | Code::NotInXml | Code::Taken | Code::Held | Code::Absent
        ) {
            self.move_homes(&owner);
            self.look_again.insert(domain.uuid);
            self.note("agent-work", domain.uuid, "look at the domain again");
        }
    }

    /// The profile a claim comes down to.
    pub(super) fn profile_for(&self, claim: &ClaimRequest) -> Result<ProfileName, Refusal> {
        match (&claim.profile, claim.memory_min) {
            (Some(profile), _) => Ok(profile.clone()),
            (None, Some(memory)) => placement::by_memory(&self.view(), memory),
            (None, None) => Err(Refusal::new(
                Code::BadRequest,
                format!("claim {} names neither a profile nor a least memory", claim.name),
            )
            .hint("gpuslice profiles")),
        }
    }
}

fn slice_of(source: HostDeviceSource) -> SliceId {
    match source {
        HostDeviceSource::Mdev(uuid) => SliceId::Mdev(uuid),
        HostDeviceSource::Pci(address) => SliceId::Vf(address),
    }
}
