//! What the libvirt agent tells and is told: domains as their XML has them, and the edits and starts that are due.

use super::claims::Order;
use super::fabric::Sought;
use super::picked::Picked;
use super::{Effect, HookOperation, Machine, Stored, Timer};
use crate::domain::{ClaimRequest, Domain, HostDevice};
use crate::ids::{ClaimKey, ClaimName, Owner, ParentId, PciAddress, ProfileName, SliceId};
use crate::mechanism::Form;
use crate::numa::Within;
use crate::placement::{self, Wanted};
use crate::refusal::Refusal;
use crate::request::{Adopted, Answer, DeviceToWrite, Outcome};
use crate::state::{Claim, Phase};
use std::collections::{BTreeMap, BTreeSet};
use uuid::Uuid;

/// How long the claims of an undefined domain are kept, in milliseconds: a day.
const UNDEFINED_KEPT: u64 = 24 * 60 * 60 * 1000;

/// The devices of a claim as the XML has them.
fn carried(domain: &Domain, request: &ClaimRequest) -> Vec<DeviceToWrite> {
    let of_claim = |d: &&HostDevice| {
        d.our_claim().is_some_and(|(name, index)| name == request.name && index < request.count)
    };
    let written =
        |d: &HostDevice| Some(DeviceToWrite { alias: d.alias.clone()?, source: d.source });
    domain.devices.iter().filter(of_claim).filter_map(written).collect()
}

/// The homes of a claim that is over, where this one asks for the same and has only been given another name.
fn homes_under_another_name(request: &ClaimRequest, over: &mut Vec<Claim>) -> Vec<PciAddress> {
    let same = |claim: &Claim| {
        ClaimRequest { name: request.name.clone(), ..claim.request.clone() } == *request
    };
    match over.iter().position(|claim| !claim.orphaned && same(claim)) {
        Some(at) => over.swap_remove(at).home,
        None => Vec::new(),
    }
}

/// What came of giving claims other homes.
pub(super) enum Moved {
    Not,
    /// Where they can start.
    Free,
    /// Where this one cannot start before there is room.
    WithoutRoom(ClaimKey),
}

impl Machine {
    /// The persistent XML of a domain: its metadata is the request, whoever wrote it, and so is what was picked for it.
    pub(super) fn domain_seen(&mut self, domain: &Domain, shut_off: bool) -> Outcome {
        let owner = Owner::Domain(domain.uuid);
        let picked = if shut_off { self.picked(domain) } else { Picked::nothing(domain) };
        let Picked { domain: mut asks, mut adopted, mut refused } = picked;
        // First, for what is over can be in the way of what is asked for in its place.
        let over = if shut_off { self.end_claims_not_in(&asks, &owner) } else { Vec::new() };
        self.look_again.remove(&domain.uuid);
        // What asks for nothing is refused nothing, and its start is told by no hook.
        if domain.devices.is_empty() && domain.claims.is_empty() {
            self.forget_refused_start(domain.uuid);
        }
        let (mut devices, mut kept) = (Vec::new(), Vec::new());
        let refusals = self.claim_all(domain, &asks.claims, &adopted, over, &mut devices);
        self.refused_looks.retain(|key, _| key.owner != owner);
        for (name, refusal) in refusals {
            if let Some(request) = asks.claims.iter().find(|c| c.name == name && shut_off) {
                let key = ClaimKey { owner: owner.clone(), name: name.clone() };
                self.refused_looks.insert(key, (domain.name.clone(), request.clone()));
            }
            // What was picked stays as it is.
            adopted.retain(|a| a.request.name != name);
            // What cannot be served now keeps the devices it has: they may serve again, and until then they carry the
            // reason to whoever starts the domain.
            if let Some(request) = domain.claims.iter().find(|claim| claim.name == name) {
                kept.extend(carried(domain, request));
                self.defined_without_home(&ClaimKey { owner: owner.clone(), name }, &refusal);
            } else {
                // It was to be called like one that is over.
                asks.claims.retain(|asked| asked.name != name);
                self.end_claims_not_in(&asks, &owner);
            }
            refused.push(refusal);
        }
        // A person may have written into one what another claim is given, and libvirt takes no device twice.
        kept.retain(|own| devices.iter().all(|given: &DeviceToWrite| given.source != own.source));
        devices.append(&mut kept);
        if shut_off && asks.claims.is_empty() && asks.devices.is_empty() {
            self.forget_start_later(domain.uuid);
        }
        Ok(Answer::Domain { devices, refused, adopted })
    }

    /// Gives each claim its devices, and tells why one has none. A claim that is another now may have made room for those
    /// before it, so they are asked for once more then.
    fn claim_all(
        &mut self,
        domain: &Domain,
        requests: &[ClaimRequest],
        adopted: &[Adopted],
        mut over: Vec<Claim>,
        devices: &mut Vec<DeviceToWrite>,
    ) -> Vec<(ClaimName, Refusal)> {
        let mut asked: Vec<&ClaimRequest> = requests.iter().collect();
        loop {
            let (mut refused, mut changes) = (Vec::new(), false);
            for request in asked {
                let order = Order {
                    owner: Owner::Domain(domain.uuid),
                    owner_name: domain.name.clone(),
                    request: request.clone(),
                    pool: None,
                    reserve: None,
                    dry_run: false,
                };
                let key = ClaimKey { owner: order.owner.clone(), name: request.name.clone() };
                let mut homes = Vec::from_iter(self.picked_home(&key, request, adopted));
                if homes.is_empty() && !self.durable.claims.contains_key(&key) {
                    homes = homes_under_another_name(request, &mut over);
                }
                match self.claim_at(order, &homes) {
                    Ok(Answer::Claimed { changed, devices: more, .. }) => {
                        changes |= changed;
                        devices.extend(more);
                    }
                    Ok(_) => {}
                    Err(refusal) => refused.push((request, refusal)),
                }
            }
            if refused.is_empty() || !changes {
                return refused.into_iter().map(|(r, why)| (r.name.clone(), why)).collect();
            }
            asked = refused.into_iter().map(|(request, _)| request).collect();
        }
    }

    /// A domain that is defined again while others have its homes: its claim is one again, and has none until one
    /// is free.
    fn defined_without_home(&mut self, key: &ClaimKey, refusal: &Refusal) {
        let Some(claim) = self.durable.claims.get_mut(key) else { return };
        if claim.undefined && !claim.orphaned {
            claim.undefined = false;
            self.dirty.insert(Stored::Durable);
        }
        if !claim.orphaned || self.claims_are_all_that_tells() {
            return;
        }
        let lost: Vec<PciAddress> = self.durable.claims.get(key).map_or_else(Vec::new, |claim| {
            let others = |home: &PciAddress| self.home_of_another(*home, key).is_some();
            claim.home.iter().copied().filter(others).collect()
        });
        if let Some(claim) = self.durable.claims.get_mut(key) {
            claim.home.retain(|home| !lost.contains(home));
            (claim.orphaned, claim.undefined) = (false, false);
            claim.last_refusal = Some(refusal.clone());
            self.persist(Stored::Durable);
            self.note("claim", key, "defined again, without a home");
        }
    }

    /// Has the agent look at those whose claims of VFs have no home: there may be one now.
    pub(super) fn look_at_homeless(&mut self) {
        let homeless = |(_, claim): &(&ClaimKey, &Claim)| !claim.orphaned && claim.home.is_empty();
        if !self.durable.claims.iter().any(|claim| homeless(&claim)) {
            return;
        }
        let offers = self.offers();
        let in_vfs = offers.iter().filter(|offer| !offer.form.vfs().is_empty());
        let in_vfs: BTreeSet<&ProfileName> = in_vfs.map(|offer| &offer.profile).collect();
        let waiting = self.durable.claims.iter().filter(homeless);
        let domains: Vec<Uuid> = waiting
            .filter(|(_, claim)| in_vfs.contains(&claim.profile))
            .filter_map(|(key, _)| match key.owner {
                Owner::Domain(uuid) => Some(uuid),
                _ => None,
            })
            .collect();
        for domain in domains {
            if self.look_again.insert(domain) {
                self.note("agent-work", domain, "it may have a home now");
            }
        }
    }

    /// Has the agent look at those that can have by now what they were refused at a look.
    pub(super) fn look_at_refused(&mut self) {
        let news = self.offers_due || !self.dirty.is_empty();
        if self.refused_looks.is_empty() || !news {
            return;
        }
        let refused = self.refused_looks.iter();
        let able = refused.filter(|(key, (name, request))| self.can_claim(key, name, request));
        let able: Vec<ClaimKey> = able.map(|(key, _)| key.clone()).collect();
        for key in able {
            self.refused_looks.remove(&key);
            if let Owner::Domain(domain) = key.owner
                && self.look_again.insert(domain)
            {
                self.note("agent-work", domain, "it can have what it asks for now");
            }
        }
    }

    fn can_claim(&self, key: &ClaimKey, name: &str, request: &ClaimRequest) -> bool {
        let known = self.durable.claims.get(key);
        let (had, pool) = known.map_or((&[][..], false), |claim| (&claim.home, claim.pool));
        let Ok(profile) = self.profile_for(key, name, request, None) else { return false };
        self.has_few(key, name).is_ok()
            && known.is_none_or(|known| self.may_become(key, known, &profile, name).is_ok())
            && self.fits_in_one_vm(key, request, &profile).is_ok()
            && self.homes(&Sought { key, request, profile: &profile, pool }, had).is_ok()
    }

    /// A claim that its domain no longer makes is over, unless a VM has, or is about to have, a slice of it. What is on its
    /// way back does not keep it.
    fn end_claims_not_in(&mut self, domain: &Domain, owner: &Owner) -> Vec<Claim> {
        let bound = |key: &ClaimKey, claim: &Claim| match claim.orphaned {
            true => self.run.assignments.values().any(|a| a.claim == *key),
            false => self.used_of(key).next().is_some(),
        };
        let of_owner = self.durable.claims.iter().filter(|(key, _)| key.owner == *owner);
        let over = of_owner
            .filter(|(key, _)| !domain.claims.iter().any(|c| c.name == key.name))
            .filter(|(key, claim)| !bound(key, claim));
        let over: Vec<(ClaimKey, Claim)> = over.map(|(k, c)| (k.clone(), c.clone())).collect();
        for (key, _) in &over {
            self.end_claim(key);
            self.note("claim", key, "no longer asked for");
        }
        over.into_iter().map(|(_, claim)| claim).collect()
    }

    /// The domain is undefined: its claims hold nothing any more, and end when nobody has defined it again for a day. That waits
    /// for what a VM has of them, or is being started with: a domain that was made again with its UUID can be on its way to its
    /// slices before anybody has told of the end of the one before.
    pub(super) fn domain_gone(&mut self, uuid: Uuid) -> Answer {
        let owner = Owner::Domain(uuid);
        self.look_again.remove(&uuid);
        self.forget_refused_start(uuid);
        self.refused_looks.retain(|key, _| key.owner != owner);
        self.forget_start_later(uuid);
        self.start_is_over(uuid);
        let mut news = false;
        for (_, claim) in self.durable.claims.iter_mut().filter(|(key, _)| key.owner == owner) {
            news |= !claim.orphaned && !claim.undefined;
            claim.undefined |= !claim.orphaned;
        }
        if !news {
            return super::claims::done(false, "it has no claims that hold anything");
        }
        self.persist(Stored::Durable);
        self.orphan_undefined();
        super::claims::done(true, "its claims are kept for a day, should it be defined again")
    }

    /// Claims whose domain is undefined are orphaned once nobody has, or is about to have, a slice of them.
    pub(super) fn orphan_undefined(&mut self) {
        let waits = |claim: &Claim| claim.undefined && !claim.orphaned;
        if !self.durable.claims.values().any(waits) || self.claims_are_all_that_tells() {
            return;
        }
        // A VM that is only taken to have ended may hold what it was given still.
        let given =
            self.run.assignments.iter().filter(|(slice, a)| {
                a.phase != Phase::Releasing || self.presumed_dead.contains(slice)
            });
        let given: BTreeSet<&ClaimKey> = given.map(|(_, a)| &a.claim).collect();
        let asks = |owner: &Owner| {
            let starts = self.parked.iter().filter(|(_, c)| c.operation == HookOperation::Prepare);
            let mut starts = starts.map(|(_, call)| Owner::Domain(call.domain.uuid));
            let mut plugs = self.parked_plugs.iter().map(|(_, order)| &order.claim.owner);
            starts.any(|other| other == *owner) || plugs.any(|other| other == owner)
        };
        let claims = self.durable.claims.iter().filter(|(_, claim)| waits(claim));
        let over = claims.map(|(key, _)| key).filter(|key| !given.contains(key));
        let over: Vec<ClaimKey> = over.filter(|key| !asks(&key.owner)).cloned().collect();
        for key in &over {
            if let Some(claim) = self.durable.claims.get_mut(key) {
                claim.orphaned = true;
            }
            self.persist(Stored::Durable);
            if let Owner::Domain(uuid) = key.owner {
                self.push(Effect::Arm { timer: Timer::Undefined(uuid), after: UNDEFINED_KEPT });
            }
            self.note("claim", key, "orphaned");
        }
        if !over.is_empty() {
            self.look_at_homeless();
        }
    }

    /// After a start of the daemon, which remembers what is undefined but not since when.
    pub(super) fn wait_for_undefined(&mut self) {
        self.revive_given();
        let undefined = self.durable.claims.iter().filter(|(_, c)| c.undefined && c.orphaned);
        let domains: BTreeSet<Uuid> = undefined
            .filter_map(|(key, _)| match key.owner {
                Owner::Domain(uuid) => Some(uuid),
                _ => None,
            })
            .collect();
        for uuid in domains {
            self.push(Effect::Arm { timer: Timer::Undefined(uuid), after: UNDEFINED_KEPT });
        }
    }

    /// A daemon may end when it has recorded what it gives to an orphaned claim, and not yet that the claim lives again.
    fn revive_given(&mut self) {
        let given = self.run.assignments.values().filter(|a| a.phase != Phase::Releasing);
        let given: BTreeSet<ClaimKey> = given.map(|a| a.claim.clone()).collect();
        for key in given {
            let orphaned = |claim: &&Claim| claim.orphaned && claim.undefined;
            let Some(claim) = self.durable.claims.get(&key).filter(orphaned) else { continue };
            let own = |home: &&PciAddress| self.home_of_another(**home, &key).is_none();
            let home = claim.home.iter().filter(own).copied().collect();
            if let Some(claim) = self.durable.claims.get_mut(&key) {
                (claim.orphaned, claim.home) = (false, home);
                self.persist(Stored::Durable);
            }
        }
    }

    /// Nobody has defined it again: its claims end, with the last of their slices.
    pub(super) fn undefined_for_good(&mut self, uuid: Uuid) {
        for (key, claim) in &mut self.durable.claims {
            if key.owner == Owner::Domain(uuid) && claim.undefined && claim.orphaned {
                claim.undefined = false;
                self.dirty.insert(Stored::Durable);
            }
        }
    }

    pub(super) fn agent_work(&mut self) -> Answer {
        let look_again = self.look_again.iter().copied().collect();
        Answer::AgentWork { look_again, start: self.due_starts() }
    }

    /// A change of the host's driver can give a profile another form: mediated devices before, VFs now. The request
    /// means the same; the device in the XML of whoever does not run is written anew.
    pub(super) fn forms_changed(&mut self) {
        if self.durable.claims.is_empty() {
            return;
        }
        let offers = self.offers();
        let mut forms: BTreeMap<&ProfileName, Vec<&Form>> = BTreeMap::new();
        for offer in &offers {
            forms.entry(&offer.profile).or_default().push(&offer.form);
        }
        let bound = self.bound_claims();
        let former = |(key, claim): (&ClaimKey, &Claim)| {
            let Owner::Domain(domain) = key.owner else { return None };
            let forms = forms.get(&claim.profile).filter(|_| !bound.contains(key))?;
            let made = forms.iter().any(|form| form.is_mdevs());
            (made != claim.home.is_empty()).then_some(domain)
        };
        let domains: Vec<Uuid> = self.durable.claims.iter().filter_map(former).collect();
        for domain in domains {
            if self.look_again.insert(domain) {
                self.note("agent-work", domain, "its device is of another kind now");
            }
        }
    }

    /// Gives each home VF that an owner's claims cannot have another one, if that is of use.
    pub(super) fn move_homes(&mut self, owner: &Owner) -> Moved {
        let mut moved = Moved::Not;
        let keys: Vec<ClaimKey> =
            self.durable.claims.keys().filter(|k| k.owner == *owner).cloned().collect();
        for key in keys {
            let Some(claim) = self.durable.claims.get(&key).cloned() else {
                continue;
            };
            let homes = self.moved_homes(&key, &claim);
            if homes == claim.home {
                continue;
            }
            let can_start = homes.iter().all(|home| self.can_have_now(&key, &claim, *home));
            match &moved {
                _ if !can_start => moved = Moved::WithoutRoom(key.clone()),
                Moved::Not => moved = Moved::Free,
                _ => {}
            }
            if let Some(record) = self.durable.claims.get_mut(&key) {
                record.home = homes;
            }
            self.persist(Stored::Durable);
            self.note("claim", &key, "given another home VF");
        }
        moved
    }

    fn can_have_now(&self, key: &ClaimKey, claim: &Claim, home: PciAddress) -> bool {
        placement::vf(&self.view(), &claim.profile, key, home, false).is_ok()
    }

    /// The home VFs a claim would have: those of its own that it can have now, and others for the rest. Another one is better
    /// when the claim can have it now, or the old one never again.
    fn moved_homes(&self, key: &ClaimKey, claim: &Claim) -> Vec<PciAddress> {
        if self.it_alone_tells(key) {
            return claim.home.clone();
        }
        let free = |address| self.can_have_now(key, claim, address);
        let full = |address| {
            self.seen.vfs.get(&address).is_some_and(|vf| vf.choice.is_some()) && !free(address)
        };
        let within = self.within(&claim.request);
        let known = !matches!(within, Within::Unknown | Within::Unread);
        let off_node = |vf| known && !self.is_within(&ParentId::Pci(vf), &within);
        let lost = |address| self.home_is_lost(address, key) || off_node(address);
        let for_good = |address| {
            !self.seen.vfs.contains_key(&address) || self.home_of_another(address, key).is_some()
        };
        if claim.request.same_fabric {
            // One that moves may take the others with it.
            let any_for_good = claim.home.iter().any(|home| for_good(*home));
            let good = |home: &PciAddress| !lost(*home) && !full(*home);
            let good: Vec<PciAddress> = claim.home.iter().copied().filter(good).collect();
            let (request, profile, pool) = (&claim.request, &claim.profile, claim.pool);
            let homes = self.homes(&Sought { key, request, profile, pool }, &good);
            return match homes {
                Ok(homes) if homes.iter().all(|home| free(*home)) => homes,
                Ok(homes) if any_for_good && !homes.iter().any(|home| lost(*home)) => homes,
                _ => claim.home.clone(),
            };
        }
        let mut homes = claim.home.clone();
        for index in 0..homes.len() {
            let Some(address) = homes.get(index).copied() else {
                continue;
            };
            if !lost(address) && !full(address) {
                continue;
            }
            // Of those that count for what one VM can have, this one is given up.
            let taken = homes.iter().copied().filter(|home| *home != address).collect();
            let wanted = Wanted { within: &within, ..Wanted::anywhere(&claim.profile, key) };
            let found = placement::home(&self.view(), &wanted, claim.pool, &taken);
            if let (Ok(other), Some(home)) = (found, homes.get_mut(index))
                && (free(other.address) || for_good(address) && !lost(other.address))
            {
                *home = other.address;
            }
        }
        homes
    }

    /// Whether a claim cannot have its home VF now, for a reason that another VF would not share.
    fn home_is_lost(&self, home: PciAddress, key: &ClaimKey) -> bool {
        let slice = SliceId::Vf(home);
        let Some(vf) = self.seen.vfs.get(&home) else {
            return true;
        };
        let assigned = self.run.assignments.get(&slice);
        assigned.is_some_and(|a| a.claim != *key)
            || assigned.is_none() && self.held.contains_key(&slice)
            || self.run.foreign.get(&slice).is_some_and(|h| h.owner != key.owner)
            || self.home_of_another(home, key).is_some()
            || vf.by_host().is_some()
            || vf.choice.as_ref().is_some_and(|choice| choice.broken)
    }
}
