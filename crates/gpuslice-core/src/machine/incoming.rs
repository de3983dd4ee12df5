//! A domain that comes from elsewhere: by migration from another host, or from an image that was saved some time ago.
//! Its XML names the VFs that it had there and then. libvirt takes other ones from its hook at this point and at no
//! later one, so each claim is given VFs of this host that it can have now, or all is refused before anything is
//! copied.

use super::admit::Missing;
use super::fabric::Sought;
use super::reserve::Want;
use super::start::STARTING_GRACE;
use super::{Effect, HookAnswer, HookCall, HookOperation, Machine, RequestId, Stored, Timer};
use crate::domain::{ClaimRequest, Domain, HostDeviceSource};
use crate::hint;
use crate::ids::{ClaimKey, Owner, PciAddress};
use crate::mend;
use crate::placement;
use crate::refusal::{Code, Refusal};
use crate::state::{Claim, Incoming};
use std::collections::BTreeMap;
use uuid::Uuid;

/// VFs named to libvirt for a domain that is not here yet, as the claims they are for.
pub(super) type Expected = Vec<(ClaimKey, Claim)>;

impl Machine {
    pub(super) fn on_incoming(&mut self, request: RequestId, call: HookCall) {
        let owner = Owner::Domain(call.domain.uuid);
        let gone = self.cannot_come_back(|claim| claim.owner == owner);
        if let Some(refusal) = gone.or_else(|| self.keeps_from_starting(&owner)) {
            return self.refuse_incoming(request, &call.domain, refusal);
        }
        let room = self.parking_anywhere() && self.room_will_show(&self.needed(&call.domain));
        if self.stale || self.must_wait(&owner) || room {
            return self.parked.push((request, call));
        }
        let how = match call.operation {
            HookOperation::Migrate => Incoming::Migrating,
            _ => Incoming::Restored,
        };
        let received = self.receive(&call, &owner);
        let old = |why: &Refusal| self.may_be_free_by_now(why);
        if received.as_ref().is_err_and(old) && self.put_off.insert(request) {
            self.push(Effect::Observe);
            return self.parked.push((request, call));
        }
        self.put_off.remove(&request);
        let answer = match received {
            // Its start would have the room; so it comes in when there is some.
            Err(refusal) if self.make_room(&call.domain, &refusal) => {
                return self.parked.push((request, call));
            }
            Err(refusal) if self.returns_soon(&call.domain, &refusal) => {
                return self.parked.push((request, call));
            }
            Ok(edits) if edits.is_empty() => HookAnswer::Proceed,
            Ok(edits) => HookAnswer::Remap(edits),
            Err(refusal) => {
                if refusal.code == Code::NotSettled {
                    let needs = self.needs_of(&call.domain);
                    self.make_up_for(call.domain.uuid, needs, Some(how));
                }
                return self.refuse_incoming(request, &call.domain, refusal);
            }
        };
        self.comes_in(call.domain.uuid, how);
        self.push(Effect::AnswerHook { request, answer });
    }

    /// Remembers until its start is over that a domain was let in. libvirt may fail before it asks for that, and tells nobody.
    fn comes_in(&mut self, domain: Uuid, how: Incoming) {
        self.run.coming_in.insert(domain, how);
        self.persist(Stored::Runtime);
        self.push(Effect::Arm { timer: Timer::ComingIn(domain), after: STARTING_GRACE });
    }

    /// It has, or it is too late.
    pub(super) fn came_in(&mut self, domain: Uuid) -> Option<Incoming> {
        let how = self.run.coming_in.remove(&domain)?;
        self.persist(Stored::Runtime);
        self.push(Effect::Disarm { timer: Timer::ComingIn(domain) });
        Some(how)
    }

    /// After a start of the daemon, which remembers who was let in but not since when.
    pub(super) fn wait_to_come_in(&mut self) {
        let coming: Vec<Uuid> = self.run.coming_in.keys().copied().collect();
        for domain in coming {
            self.push(Effect::Arm { timer: Timer::ComingIn(domain), after: STARTING_GRACE });
        }
    }

    pub(super) fn refuse_incoming(&mut self, request: RequestId, domain: &Domain, why: Refusal) {
        self.put_off.remove(&request);
        // What libvirt keeps saved is started again; nobody but a person brings in any other.
        let why = match why.code {
            Code::NotSettled => why.hint(mend::ask_when_settled()),
            _ => why,
        };
        let text = format!("{} is not taken in: {why}", domain.name);
        self.push(Effect::Log { warning: true, text });
        self.push(Effect::AnswerHook { request, answer: HookAnswer::Refuse(why) });
    }

    /// Which VFs the domain is to have here instead of those in its XML. Nothing is reserved: the start that follows
    /// asks for that. Until then others that come in are given other ones.
    fn receive(
        &mut self,
        call: &HookCall,
        owner: &Owner,
    ) -> Result<BTreeMap<PciAddress, PciAddress>, Refusal> {
        let HookCall { domain, operation, drivers } = call;
        self.judge_plain_devices(domain, owner)?;
        let asked = self.asked(domain, owner, Missing::LeftOut);
        let asked = asked.map_err(|why| with_way_out_of(*operation, &domain.name, why))?;
        // What others were told, and what this one is, stands beside the claims while it is chosen.
        let claims = self.durable.claims.clone();
        let assignments = self.run.assignments.clone();
        self.expected.remove(&domain.uuid);
        let others: Expected = self.expected.values().flatten().cloned().collect();
        self.durable.claims.extend(others);
        // They are put back with all others.
        drop(self.set_apart(domain, owner));
        let chosen = self.choose_for(domain, &asked).and_then(|(edits, expected)| {
            let remapped = with_edits(domain, &edits);
            let wants = self.wants(&remapped, owner, Missing::LeftOut)?;
            self.reserve_claims(domain, &wants)?;
            self.judge_drivers(domain, *operation, drivers)?;
            Ok((edits, expected))
        });
        self.durable.claims = claims;
        self.run.assignments = assignments;
        let (edits, expected) = chosen?;
        if !expected.is_empty() {
            self.expected.insert(domain.uuid, expected);
            let timer = Timer::Expected(domain.uuid);
            self.push(Effect::Arm { timer, after: STARTING_GRACE });
        }
        Ok(edits)
    }

    fn choose_for(
        &mut self,
        domain: &Domain,
        asked: &[Want],
    ) -> Result<(BTreeMap<PciAddress, PciAddress>, Expected), Refusal> {
        let (mut edits, mut expected) = (BTreeMap::new(), Vec::new());
        for of_claim in asked.chunk_by(|a, b| a.key == b.key) {
            let (Some(request), Some(first)) = (request_of(domain, of_claim), of_claim.first())
            else {
                continue;
            };
            let named: Vec<PciAddress> = of_claim.iter().filter_map(named).collect();
            if named.is_empty() {
                continue;
            }
            // Some may have left while it ran.
            let count = u32::try_from(of_claim.len()).unwrap_or(request.count);
            let request = ClaimRequest { count, ..request.clone() };
            let known = self.durable.claims.get(&first.key);
            let pool = known.is_some_and(|claim| claim.pool);
            let recorded = known.map_or(&[][..], |claim| &claim.home);
            let mut had: Vec<PciAddress> = Vec::new();
            for address in named.iter().chain(recorded) {
                if self.can_have(first, *address) && !had.contains(address) {
                    had.push(*address);
                }
            }
            let sought =
                Sought { key: &first.key, request: &request, profile: &first.profile, pool };
            let homes = self.homes(&sought, &had)?;
            if homes.is_empty() {
                return Err(self.not_as_vf(domain, first));
            }
            let mut new = homes.iter().copied().filter(|home| !named.contains(home));
            let moving = named.iter().copied().filter(|old| !homes.contains(old));
            edits.extend(moving.filter_map(|old| Some((old, new.next()?))));
            let claim = Claim {
                owner_name: domain.name.clone(),
                request,
                profile: first.profile.clone(),
                home: homes,
                pool,
                reserve: known.is_some_and(|claim| claim.reserve),
                transient: known.is_none_or(|claim| claim.transient),
                orphaned: false,
                undefined: false,
                last_refusal: None,
            };
            // The domain's next claim is given others.
            self.durable.claims.insert(first.key.clone(), claim.clone());
            expected.push((first.key.clone(), claim));
        }
        Ok((edits, expected))
    }

    fn can_have(&self, want: &Want, address: PciAddress) -> bool {
        self.home_of_another(address, &want.key).is_none()
            && placement::vf(&self.view(), &want.profile, &want.key, address, want.managed).is_ok()
    }

    /// What runs cannot change the kind of its device.
    fn not_as_vf(&self, domain: &Domain, want: &Want) -> Refusal {
        let (name, profile, claim) = (&domain.name, &want.profile, &want.key.name);
        let message =
            format!("{name} carries a VF for claim {claim}, but {profile} comes as an mdev here");
        Refusal::new(Code::NotInXml, message).hint(hint!(
            "virsh shutdown {} (where it is), then define it here, then {}",
            name,
            self.attach_again(&want.key, profile)
        ))
    }

    /// It has come, or will not.
    pub(super) fn expects_no_more(&mut self, domain: Uuid) {
        if self.expected.remove(&domain).is_some() {
            self.push(Effect::Disarm { timer: Timer::Expected(domain) });
        }
    }
}

/// What came with a state cannot lose a device, and its definition is not what is looked at.
fn with_way_out_of(operation: HookOperation, name: &str, why: Refusal) -> Refusal {
    match (why.code, operation, why.way_out()) {
        (Code::NotInXml, HookOperation::Restore, _) => why.hint(hint!(
            "virsh managedsave-edit {}: claim it in its metadata, then the same again \
             (virsh save-image-edit, if it was saved to a file)",
            name
        )),
        (Code::NotInXml, _, Some(detach)) => {
            why.hint(hint!("virsh shutdown {} (where it is), then {} (there)", name, detach))
        }
        _ => why,
    }
}

fn named(want: &Want) -> Option<PciAddress> {
    match want.source {
        HostDeviceSource::Pci(address) => Some(address),
        HostDeviceSource::Mdev(_) => None,
    }
}

/// What a domain asks for with these.
pub(super) fn request_of<'d>(domain: &'d Domain, of_claim: &[Want]) -> Option<&'d ClaimRequest> {
    let name = &of_claim.first()?.key.name;
    domain.claims.iter().find(|claim| claim.name == *name)
}

fn with_edits(domain: &Domain, edits: &BTreeMap<PciAddress, PciAddress>) -> Domain {
    let mut domain = domain.clone();
    for device in &mut domain.devices {
        if let HostDeviceSource::Pci(address) = &mut device.source
            && let Some(new) = edits.get(address)
        {
            *address = *new;
        }
    }
    domain
}
