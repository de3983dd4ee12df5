//! The decision on a start: what its domain's XML asks for and carries, judged as a whole, all slices or none.

use super::reserve::Want;
use super::start::STARTING_GRACE;
use super::{Effect, Machine, Stored, Timer};
use crate::domain::{ClaimRequest, Domain, HostDevice, HostDeviceSource};
use crate::hint;
use crate::ids::{
    ClaimKey, ClaimName, MdevUuid, Owner, ParentId, PciAddress, ProfileName, SliceId,
};
use crate::mechanism::{Form, Isolation};
use crate::mend;
use crate::placement::{self, Properties};
use crate::plan::Step;
use crate::refusal::{Code, Refusal};
use crate::state::{Claim, ForeignHold};
use std::collections::{BTreeMap, BTreeSet};
use uuid::Uuid;

/// Slices of a start, those of them that were nobody's before, and what is to be done.
pub(super) type Admitted = (Vec<SliceId>, BTreeSet<SliceId>, Vec<Step>);

/// What becomes of a slice that a claim asks for, and that the XML has no device for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Missing {
    /// Nothing can start without it.
    Refused,
    /// Its VM ran on without it, and goes on as it was.
    LeftOut,
}

impl Machine {
    /// Decides on all slices of a start at once, and reserves them all or none.
    pub(super) fn admit(&mut self, domain: &Domain) -> Result<Admitted, Refusal> {
        let owner = Owner::Domain(domain.uuid);
        let apart = self.set_apart(domain, &owner);
        let admitted = self.admit_as_asked(domain, &owner);
        let has = admitted.iter().flat_map(|(slices, ..)| slices).filter_map(|slice| slice.pci());
        self.put_back(apart, &has.collect(), domain.uuid);
        admitted
    }

    /// Takes claims of a domain off the table that this XML does not make, and of which it names a home: they are those that it
    /// makes under other names, before anybody has looked, or of what its definition has become since it was saved.
    pub(super) fn set_apart(
        &mut self,
        domain: &Domain,
        owner: &Owner,
    ) -> BTreeMap<ClaimKey, Claim> {
        let ours = domain.devices.iter().filter(|device| device.our_claim().is_some());
        let carried: BTreeSet<PciAddress> = ours.filter_map(|d| d.source.slice().pci()).collect();
        let own = self
            .durable
            .claims
            .iter()
            .filter(|(key, claim)| key.owner == *owner && !claim.orphaned);
        let apart = own.filter(|(key, claim)| {
            let made = domain.claims.iter().any(|request| request.name == key.name);
            !made && claim.home.iter().any(|home| carried.contains(home))
        });
        let apart: BTreeMap<ClaimKey, Claim> = apart.map(|(k, c)| (k.clone(), c.clone())).collect();
        for key in apart.keys() {
            self.durable.claims.remove(key);
        }
        apart
    }

    /// Puts them back. Who starts with a home of theirs `has` it alone: such a claim is over, or, where it is one of the
    /// definition beside a saved image, without that home for now.
    fn put_back(
        &mut self,
        apart: BTreeMap<ClaimKey, Claim>,
        has: &BTreeSet<PciAddress>,
        domain: Uuid,
    ) {
        let comes_in = self.run.coming_in.contains_key(&domain);
        for (key, mut claim) in apart {
            let shared = claim.home.iter().any(|home| has.contains(home));
            if shared && comes_in {
                claim.home.retain(|home| !has.contains(home));
                self.persist(Stored::Durable);
            }
            let transient = claim.transient;
            self.durable.claims.insert(key.clone(), claim);
            if shared && !comes_in {
                let others = self.durable.claims.iter_mut().filter(|(k, _)| k.owner == key.owner);
                for (_, other) in others.filter(|(_, c)| c.home.iter().any(|h| has.contains(h))) {
                    other.transient &= transient;
                }
                self.end_claim(&key);
                self.note("claim", &key, "no longer asked for");
            }
        }
    }

    fn admit_as_asked(&mut self, domain: &Domain, owner: &Owner) -> Result<Admitted, Refusal> {
        self.judge_plain_devices(domain, owner)?;
        let missing = match self.run.coming_in.contains_key(&domain.uuid) {
            true => Missing::LeftOut,
            false => Missing::Refused,
        };
        let wants = self.wants(domain, owner, missing)?;
        if missing == Missing::Refused {
            self.require_found_out(domain, &wants)?;
        }
        let kept = self.run.assignments.clone();
        let (slices, steps) = self.reserve_claims(domain, &wants)?;
        self.reserved(&slices);
        self.record_claims(domain, owner, &wants);
        self.record_foreign(domain, owner, false);
        // What was parked is there already.
        let parked = |slice: &SliceId| self.seen.has_slice(*slice) && is_parked_name(*slice);
        let new = |slice: &SliceId| !kept.contains_key(slice) && !parked(slice);
        let fresh = slices.iter().copied().filter(new).collect();
        Ok((slices, fresh, steps))
    }

    /// A claim that is another one by now goes on naming what it had, as long as nothing else tells whose that is.
    fn require_found_out(&self, domain: &Domain, wants: &[Want]) -> Result<(), Refusal> {
        for want in wants {
            let Some(known) = self.durable.claims.get(&want.key) else { continue };
            let of_claim = || wants.iter().filter(|other| other.key == want.key);
            let left = |home: &PciAddress| {
                !of_claim().any(|other| other.source.slice().pci() == Some(*home))
            };
            if want.profile != known.profile
                || want.count < known.request.count
                || known.home.iter().any(left)
            {
                self.may_be_exchanged(&want.key, &domain.name)?;
            }
        }
        Ok(())
    }

    /// Every slice the domain's claims ask for, with the device in the XML that is to be it, and is not another's.
    pub(super) fn wants(
        &self,
        domain: &Domain,
        owner: &Owner,
        missing: Missing,
    ) -> Result<Vec<Want>, Refusal> {
        let wants = self.asked(domain, owner, missing)?;
        for want in &wants {
            self.require_own_device(domain, want)?;
        }
        Ok(wants)
    }

    /// As [`Self::wants`], whosever the devices are.
    pub(super) fn asked(
        &self,
        domain: &Domain,
        owner: &Owner,
        missing: Missing,
    ) -> Result<Vec<Want>, Refusal> {
        let mut wants = Vec::new();
        for claim in &domain.claims {
            let key = ClaimKey { owner: owner.clone(), name: claim.name.clone() };
            let of_claim = |d: &&HostDevice| d.our_claim().is_some_and(|(n, _)| n == claim.name);
            let vf = domain.devices.iter().filter(of_claim).find_map(|d| d.source.slice().pci());
            let profile = self.profile_for(&key, &domain.name, claim, vf)?;
            for index in 0..claim.count {
                let named = Some((claim.name.clone(), index));
                let device = domain.devices.iter().find(|d| d.our_claim() == named);
                let Some(device) = device else {
                    match missing {
                        Missing::LeftOut => continue,
                        Missing::Refused => return Err(lacks(domain, claim, &profile)),
                    }
                };
                if wants.iter().any(|w: &Want| w.source == device.source) {
                    let message =
                        format!("{} carries {} twice", domain.name, device.source.slice());
                    return Err(Refusal::new(Code::NotInXml, message)
                        .hint(mend::detach(&domain.name, &claim.name)));
                }
                wants.push(Want {
                    key: key.clone(),
                    index,
                    count: claim.count,
                    profile: profile.clone(),
                    source: device.source,
                    parameters: claim.parameters.clone(),
                    managed: device.managed,
                    hotplug: false,
                });
            }
        }
        let unclaimed =
            domain.devices.iter().filter_map(HostDevice::our_claim).find(|(name, index)| {
                !domain.claims.iter().any(|c| c.name == *name && *index < c.count)
            });
        match unclaimed {
            None => Ok(wants),
            Some((claim, _)) => Err(unasked(domain, &claim)),
        }
    }

    /// A copied domain carries the devices of the one it was copied from.
    fn require_own_device(&self, domain: &Domain, want: &Want) -> Result<(), Refusal> {
        let Want { key, index, source, profile, count, .. } = want;
        if is_parked_name(source.slice()) {
            return self.require_unpicked(domain, want);
        }
        // What is of another claim of its own is no copy.
        let strangers =
            |address| self.others_at_home(address, key).find(|(k, _)| k.owner != key.owner);
        let other = source.slice().pci().and_then(strangers).map(|(_, claim)| claim);
        let copied = match *source {
            HostDeviceSource::Mdev(uuid) => {
                uuid != MdevUuid::for_claim(domain.uuid, &key.name, *index)
            }
            HostDeviceSource::Pci(_) => other.is_some(),
        };
        if !copied {
            return Ok(());
        }
        let whose = other.map_or_else(|| "another domain".to_owned(), |c| c.owner_name.clone());
        let (name, claim) = (&domain.name, &key.name);
        // A claim that was there before has lost it, while its domain was undefined.
        let given_up = source.slice().pci().filter(|address| {
            let own = self.durable.claims.get(key);
            own.is_some_and(|own| own.home.is_empty() || own.home.contains(address))
        });
        let refusal = match given_up {
            Some(address) => Refusal::new(
                Code::Taken,
                format!("VF {address} of claim {claim} in {name} was given to {whose} meanwhile"),
            ),
            None => Refusal::new(
                Code::ClaimCopied,
                format!("the device of claim {claim} in {name} is that of {whose}"),
            ),
        };
        let made = matches!(source, HostDeviceSource::Mdev(_));
        // The agent has looked since, and this is not what it writes.
        let looked =
            self.refused_xml.contains(&domain.uuid) && !self.look_again.contains(&domain.uuid);
        let hint = match made || self.has_free_home(key, profile) {
            true if looked => mend::write_by_hand(domain.uuid, profile, claim, *count),
            true => mend::own_device(name),
            false => self.room_for(key, profile, *count),
        };
        Err(refusal.hint(hint))
    }

    /// The claim, other than this one, whose home a VF is.
    pub(super) fn home_of_another(&self, address: PciAddress, key: &ClaimKey) -> Option<&Claim> {
        self.others_at_home(address, key).map(|(_, claim)| claim).next()
    }

    fn others_at_home<'m>(
        &'m self,
        address: PciAddress,
        key: &ClaimKey,
    ) -> impl Iterator<Item = (&'m ClaimKey, &'m Claim)> {
        let pools = self.durable.claims.get(key).is_some_and(|mine| mine.pool);
        self.durable.claims.iter().filter(move |(other, claim)| {
            *other != key
                && !claim.orphaned
                && claim.home.contains(&address)
                && !(claim.pool && pools)
        })
    }

    /// One that was picked and not yet exchanged can be with one VM only.
    fn require_unpicked(&self, domain: &Domain, want: &Want) -> Result<(), Refusal> {
        let slice = want.source.slice();
        let assigned = self.run.assignments.get(&slice).filter(|a| a.claim != want.key);
        let Some(other) = assigned else { return Ok(()) };
        let whose = self.owner_name(&other.claim);
        let message = format!("{slice}, picked for {}, is in use by {whose}", domain.name);
        Err(Refusal::new(Code::Taken, message).hint(mend::own_device(&domain.name)))
    }

    /// A plain hostdev is the user's own affair, unless the slice is somebody else's.
    pub(super) fn judge_plain_devices(
        &self,
        domain: &Domain,
        owner: &Owner,
    ) -> Result<(), Refusal> {
        for device in domain.devices.iter().filter(|d| d.our_claim().is_none()) {
            let slice = device.source.slice();
            if let Some((key, profile)) = self.picked_of_another(device, domain.uuid) {
                let whose = self.owner_name(key);
                let message = format!(
                    "{slice}, picked for {}, is that of {whose} ({})",
                    domain.name, key.name
                );
                let is_offered = self.view().of_profile(profile).next().is_some();
                let hint = if is_offered { mend::own_device } else { mend::ask_instead };
                return Err(Refusal::new(Code::Taken, message).hint(hint(&domain.name)));
            }
            if let Some(other) =
                self.run.assignments.get(&slice).filter(|a| a.claim.owner != *owner)
            {
                let whose = self.owner_name(&other.claim);
                return Err(Refusal::new(
                    Code::Taken,
                    format!("{slice} is assigned to {whose} ({})", other.claim.name),
                )
                .hint(self.end_use(slice, other)));
            }
            if let HostDeviceSource::Pci(address) = device.source {
                let what = format!("a hostdev of {} would be", domain.name);
                self.require_uncut(&what, address, owner)?;
            }
            if let Some(why) = self.held_back().remove(&slice) {
                return Err(why);
            }
            if let Some(why) = self.taken_off_its_driver(domain, device) {
                return Err(why);
            }
            if let Some(why) = self.lacks_a_type(domain, device) {
                return Err(why);
            }
            if is_parked_name(slice) && !self.seen.has_slice(slice) {
                let message = format!("{slice}, picked for {}, is parked no more", domain.name);
                let hint = mend::ask_instead(&domain.name);
                return Err(Refusal::new(Code::Absent, message).hint(hint));
            }
        }
        Ok(())
    }

    /// A VF of ours that takes a type is of no use to anybody once libvirt has taken it off its driver.
    fn taken_off_its_driver(&self, domain: &Domain, device: &HostDevice) -> Option<Refusal> {
        let HostDeviceSource::Pci(address) = device.source else { return None };
        let vf = self.seen.vfs.get(&address).filter(|_| device.managed)?;
        self.layouts.get(&ParentId::Pci(vf.pf)).filter(|_| vf.choice.is_some())?;
        let name = &domain.name;
        let message = format!("managed='yes' would take VF {address} from its driver");
        Some(Refusal::new(Code::Managed, message).hint(mend::ask_instead(name)))
    }

    /// One that somebody picked is given no type by anybody, and QEMU could not open it. Whoever types VFs by himself has done
    /// so by now, and a program that does it later gives its devices an alias.
    fn lacks_a_type(&self, domain: &Domain, device: &HostDevice) -> Option<Refusal> {
        let HostDeviceSource::Pci(address) = device.source else { return None };
        let vf = self.seen.vfs.get(&address).filter(|_| device.alias.is_none())?;
        let choice = vf.choice.as_ref().filter(|choice| choice.current.is_none())?;
        self.layouts.get(&ParentId::Pci(vf.pf)).filter(|_| !choice.broken)?;
        Some(self.of_no_profile(domain, address))
    }

    /// Claims are recorded as the XML says them; only what is bound is the table's to say.
    pub(super) fn record_claims(&mut self, domain: &Domain, owner: &Owner, wants: &[Want]) {
        for request in &domain.claims {
            let key = ClaimKey { owner: owner.clone(), name: request.name.clone() };
            let mine = || wants.iter().filter(|w| w.key == key);
            let Some(profile) = mine().next().map(|w| w.profile.clone()) else {
                continue;
            };
            let known = self.durable.claims.get(&key);
            let named: Vec<PciAddress> = mine().filter_map(|w| w.source.slice().pci()).collect();
            // What it came in without is what it was.
            let kept = |index: u32| {
                let home = known?.home.get(usize::try_from(index).ok()?).copied();
                home.filter(|home| !named.is_empty() && !named.contains(home))
            };
            let of = |index| match mine().find(|w| w.index == index) {
                Some(want) => want.source.slice().pci(),
                None => kept(index),
            };
            let home = (0..request.count).filter_map(of).collect();
            let claim = Claim {
                owner_name: domain.name.clone(),
                request: request.clone(),
                profile,
                home,
                pool: known.is_some_and(|c| c.pool),
                reserve: known.is_some_and(|c| c.reserve),
                transient: known.is_none_or(|c| c.transient),
                orphaned: false,
                undefined: false,
                last_refusal: None,
            };
            if known != Some(&claim) {
                self.durable.claims.insert(key, claim);
                self.persist(Stored::Durable);
            }
        }
    }

    /// What a domain has, or asks for, without a claim. Of two that carry the same device the one that runs has it: libvirt refuses
    /// the other's start.
    pub(super) fn record_foreign(&mut self, domain: &Domain, owner: &Owner, runs: bool) {
        for device in domain.devices.iter().filter(|d| d.our_claim().is_none()) {
            let slice = device.source.slice();
            if !runs && self.run.foreign.get(&slice).is_some_and(|hold| hold.owner != *owner) {
                continue;
            }
            let (owner, name) = (owner.clone(), domain.name.clone());
            self.hold(slice, ForeignHold { owner, name, starting: !runs });
        }
    }

    /// That somebody has a slice without a claim, for as long as a start may take: one that fails after this may tell nobody.
    pub(super) fn hold(&mut self, slice: SliceId, hold: ForeignHold) {
        self.unplugged.remove(&slice);
        if self.run.foreign.get(&slice) != Some(&hold) {
            self.run.foreign.insert(slice, hold);
            self.persist(Stored::Runtime);
        }
        self.push(Effect::Arm { timer: Timer::Grace(slice), after: STARTING_GRACE });
    }

    /// The profile a claim comes down to. What it asks for stands in the domain's XML and nowhere else. `named`: a VF that stands
    /// there too.
    pub(super) fn profile_for(
        &self,
        key: &ClaimKey,
        domain: &str,
        claim: &ClaimRequest,
        named: Option<PciAddress>,
    ) -> Result<ProfileName, Refusal> {
        let name = &claim.name;
        let least = Properties {
            memory: claim.memory_min,
            isolation: claim.isolation_min.as_deref().and_then(Isolation::of),
        };
        match &claim.profile {
            Some(profile) => {
                // Each start comes by here, and most ask for no more than a name.
                if !least.is_empty() {
                    placement::meets(&self.view(), profile, least)
                        .map_err(|why| why.hint(self.ask_for(domain, name, least)))?;
                }
                Ok(profile.clone())
            }
            None if least.is_empty() => Err(Refusal::new(
                Code::BadRequest,
                format!("claim {name} names neither a profile nor a property"),
            )
            .hint(mend::another_profile(domain, name))),
            None => match self.profile_had(key, least, named) {
                Some(profile) => Ok(profile),
                None => placement::by_properties(&self.view(), least)
                    .map_err(|why| why.hint(self.ask_for(domain, name, least))),
            },
        }
    }

    /// What a claim by properties has come down to before, as long as it has them: that another GPU has come is no reason to give
    /// its VM something else. XML may be older than the claim, so the VF that it names counts first.
    fn profile_had(
        &self,
        key: &ClaimKey,
        least: Properties,
        named: Option<PciAddress>,
    ) -> Option<ProfileName> {
        let view = self.view();
        let is_named = |form: &Form| match form {
            Form::Vfs(vfs) => named.is_some_and(|vf| vfs.contains(&vf)),
            _ => false,
        };
        let of_named = view.offers.iter().find(|offer| is_named(&offer.form));
        let recorded = self.durable.claims.get(key).filter(|c| !c.orphaned || c.undefined);
        let here = |profile: &ProfileName| view.of_profile(profile).next().is_some();
        let recorded = recorded.map(|claim| &claim.profile);
        let recorded = recorded.filter(|profile| here(profile) || self.comes_soon(profile));
        let had = of_named.map(|offer| &offer.profile).into_iter().chain(recorded);
        had.into_iter().find(|profile| placement::meets(&view, profile, least).is_ok()).cloned()
    }
}

fn lacks(domain: &Domain, claim: &ClaimRequest, profile: &ProfileName) -> Refusal {
    let (name, claim) = (&domain.name, &claim.name);
    let message = format!("{name} asks for {profile} as {claim}, but carries no device for it");
    let (attach, detach) = (mend::attach(name, profile, claim), mend::detach(name, claim));
    let hint = hint!("{}; or {} (if it is to have none)", attach, detach);
    Refusal::new(Code::NotInXml, message).hint(hint)
}

/// It carries a device that none of its claims asks for.
fn unasked(domain: &Domain, claim: &ClaimName) -> Refusal {
    let name = &domain.name;
    match domain.claims.iter().find(|c| c.name == *claim) {
        Some(ClaimRequest { count, .. }) => Refusal::new(
            Code::NotInXml,
            format!("{name} carries more devices for claim {claim} than the {count} it asks for"),
        )
        .hint(hint!("virsh start {} (the agent takes out what is too many)", name)),
        None => Refusal::new(
            Code::NotInXml,
            format!(
                "{name} carries a device for claim {claim}, but its metadata has no such claim"
            ),
        )
        .hint(mend::detach(name, claim)),
    }
}

/// Whether a slice is one that stands, or stood, ready to be picked.
pub(super) fn is_parked_name(slice: SliceId) -> bool {
    matches!(slice, SliceId::Mdev(uuid) if uuid.is_parked())
}
