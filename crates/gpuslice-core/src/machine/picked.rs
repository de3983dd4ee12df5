//! What a person picked in virt-manager's dialogs: a hostdev without metadata or alias. It becomes a claim of its
//! domain's own, once the domain is shut off.

use super::Machine;
use super::claims::source_of;
use crate::domain::{ClaimRequest, Domain, HostDevice, HostDeviceSource, alias_for};
use crate::ids::{ClaimKey, ClaimName, Owner, ParentId, PciAddress, ProfileName, SliceId};
use crate::mechanism::Form;
use crate::mend;
use crate::refusal::{Code, Refusal};
use crate::request::Adopted;
use crate::state::Assignment;
use uuid::Uuid;

/// A domain as it would be if every device that was picked were of a claim.
pub(super) struct Picked {
    pub domain: Domain,
    pub adopted: Vec<Adopted>,
    pub refused: Vec<Refusal>,
}

impl Picked {
    /// A domain in which nothing was picked.
    pub(super) fn nothing(domain: &Domain) -> Self {
        Self { domain: domain.clone(), adopted: Vec::new(), refused: Vec::new() }
    }
}

impl Machine {
    /// What was picked for a domain. A claim that lacks a device takes the pick for its own; else there is a new one.
    pub(super) fn picked(&self, domain: &Domain) -> Picked {
        let mut picked = Picked::nothing(domain);
        for (at, device) in domain.devices.iter().enumerate() {
            let profile = match self.profile_of_pick(domain, device) {
                None => continue,
                Some(Ok(profile)) => profile,
                Some(Err(refusal)) => {
                    picked.refused.push(refusal);
                    continue;
                }
            };
            let asks = |claim: &ClaimRequest| claim.profile.as_ref() == Some(&profile);
            let lacking = lacking(&picked.domain, asks).next();
            let new = || Some((self.name_for(&picked.domain, device, &profile)?, 0));
            let Some((name, index)) = lacking.or_else(new) else { continue };
            let known = picked.domain.claims.iter().find(|claim| claim.name == name);
            let request = known.cloned().unwrap_or_else(|| ClaimRequest::one(&name, profile));
            if known.is_none() {
                picked.domain.claims.push(request.clone());
            }
            let alias = alias_for(&name, index);
            if let Some(device) = picked.domain.devices.get_mut(at) {
                device.alias = Some(alias.clone());
            }
            picked.adopted.push(Adopted { request, alias, picked: device.source });
        }
        picked
    }

    /// A domain that starts, or runs, with what somebody picked for it, as it is when the agent has written all that is
    /// due: first a claim's metadata, then the alias of its device. What is parked and no claim asks for is of a claim
    /// that ends with the run.
    pub(super) fn with_picks(&self, mut domain: Domain) -> Domain {
        for at in 0..domain.devices.len() {
            let plain = domain.devices.get(at).filter(|device| device.alias.is_none()).cloned();
            let Some(device) = plain else { continue };
            let named = match device.source {
                HostDeviceSource::Pci(_) => self.claim_with_home(&domain, device.source),
                HostDeviceSource::Mdev(uuid) if uuid.is_parked() => {
                    let profile = self.profile_of_parked(uuid);
                    profile.and_then(|profile| self.claim_of_parked(&mut domain, &device, profile))
                }
                HostDeviceSource::Mdev(_) => None,
            };
            if let (Some((name, index)), Some(device)) = (named, domain.devices.get_mut(at)) {
                device.alias = Some(alias_for(&name, index));
            }
        }
        domain
    }

    /// The claim of the domain that lacks this very device.
    fn claim_with_home(
        &self,
        domain: &Domain,
        device: HostDeviceSource,
    ) -> Option<(ClaimName, u32)> {
        lacking(domain, |_| true).find(|(name, index)| {
            let key = ClaimKey { owner: Owner::Domain(domain.uuid), name: name.clone() };
            let claim = self.durable.claims.get(&key);
            claim.and_then(|claim| source_of(&key, claim, *index)) == Some(device)
        })
    }

    /// The claim that a parked device is, or was, started for; a new one where none asks for it.
    fn claim_of_parked(
        &self,
        domain: &mut Domain,
        device: &HostDevice,
        profile: ProfileName,
    ) -> Option<(ClaimName, u32)> {
        let owner = Owner::Domain(domain.uuid);
        let assigned = self.run.assignments.get(&device.source.slice());
        let had = assigned.filter(|a| a.claim.owner == owner);
        let has_none = |name: &ClaimName| {
            let of_claim = |a: &Assignment| a.claim.owner == owner && a.claim.name == *name;
            !self.run.assignments.values().any(of_claim)
        };
        let named = had.map(|a| (a.claim.name.clone(), a.index)).or_else(|| {
            let asks = |claim: &ClaimRequest| claim.profile.as_ref() == Some(&profile);
            let asked = lacking(domain, asks).find(|(name, _)| has_none(name));
            asked.or_else(|| Some((self.name_for(domain, device, &profile)?, 0)))
        })?;
        if domain.claims.iter().all(|claim| claim.name != named.0) {
            domain.claims.push(ClaimRequest::one(&named.0, profile));
        }
        Some(named)
    }

    /// What a device that somebody picked is an instance of; `None` for one that is not ours to adopt. An alias is
    /// written by programs, and their devices are their own.
    fn profile_of_pick(
        &self,
        domain: &Domain,
        device: &HostDevice,
    ) -> Option<Result<ProfileName, Refusal>> {
        if device.alias.is_some() {
            return None;
        }
        let address = match device.source {
            HostDeviceSource::Pci(address) => address,
            HostDeviceSource::Mdev(uuid) if uuid.is_parked() => {
                return self.profile_of_parked(uuid).map(Ok);
            }
            HostDeviceSource::Mdev(_) => {
                return self.picked_of_another(device, domain.uuid).map(|(_, of)| Ok(of.clone()));
            }
        };
        let parent = ParentId::Pci(self.seen.vfs.get(&address)?.pf);
        self.layouts.get(&parent)?;
        let offers: Vec<_> =
            self.offers_of(&parent).filter(|o| o.form.vfs().contains(&address)).collect();
        match offers.iter().find(|offer| matches!(offer.form, Form::Vfs(_))) {
            Some(offer) => Some(Ok(offer.profile.clone())),
            None if offers.is_empty() => None,
            None => Some(Err(self.of_no_profile(domain, address))),
        }
    }

    /// A VF that takes a type, of a domain that asks for none.
    pub(super) fn of_no_profile(&self, domain: &Domain, vf: PciAddress) -> Refusal {
        let name = &domain.name;
        let message = format!("VF {vf} in {name} is of no profile before {name} asks for one");
        Refusal::new(Code::NoProfile, message).hint(mend::ask_instead(name))
    }

    /// The claim of another domain whose mediated device was picked, and its profile. The dialog lists all that are there, each by
    /// its UUID alone; when that other domain stops, its device is gone and its claim still names it.
    pub(super) fn picked_of_another(
        &self,
        device: &HostDevice,
        domain: Uuid,
    ) -> Option<(&ClaimKey, &ProfileName)> {
        let HostDeviceSource::Mdev(uuid) = device.source else { return None };
        if device.alias.is_some() || uuid.is_parked() {
            return None;
        }
        let assigned = self.run.assignments.get(&SliceId::Mdev(uuid));
        let named = || {
            self.durable.claims.iter().find(|(key, claim)| {
                let mut indexes = 0..claim.request.count;
                indexes.any(|index| source_of(key, claim, index) == Some(device.source))
            })
        };
        let (key, profile) = assigned
            .map(|a| (&a.claim, &a.profile))
            .or_else(|| named().map(|(key, claim)| (key, &claim.profile)))?;
        matches!(key.owner, Owner::Domain(owner) if owner != domain).then_some((key, profile))
    }

    /// The name of the claim that had this device before its metadata was lost, else the first that is free.
    pub(super) fn name_for(
        &self,
        domain: &Domain,
        device: &HostDevice,
        profile: &ProfileName,
    ) -> Option<ClaimName> {
        let owner = Owner::Domain(domain.uuid);
        let taken = |name: &ClaimName| {
            let of_device = |d: &HostDevice| d.our_claim().is_some_and(|(other, _)| other == *name);
            // One that is over, and whose slice is still on its way back.
            let of_other = |a: &Assignment| {
                a.claim.owner == owner && a.claim.name == *name && a.profile != *profile
            };
            domain.claims.iter().any(|c| c.name == *name)
                || domain.devices.iter().any(of_device)
                || self.run.assignments.values().any(of_other)
        };
        let had = self.durable.claims.iter().find(|(key, claim)| {
            let home = claim.home.first().copied();
            key.owner == owner
                && claim.request.count == 1
                && home.map(HostDeviceSource::Pci) == Some(device.source)
                && home.is_some_and(|home| self.is_free_for(home, key))
                && !taken(&key.name)
        });
        if let Some((key, _)) = had {
            return Some(key.name.clone());
        }
        let mut names = (0..u32::MAX).map_while(|n| format!("gpu{n}").parse().ok());
        names.find(|name| !taken(name))
    }

    /// The home a claim is to have because it was picked; none when somebody else has it, or it serves several.
    pub(super) fn picked_home(
        &self,
        key: &ClaimKey,
        request: &ClaimRequest,
        adopted: &[Adopted],
    ) -> Option<PciAddress> {
        let of_claim = adopted.iter().find(|a| a.request.name == request.name)?;
        match of_claim.picked {
            HostDeviceSource::Pci(address) if request.count == 1 => {
                self.is_free_for(address, key).then_some(address)
            }
            _ => None,
        }
    }

    fn is_free_for(&self, address: PciAddress, key: &ClaimKey) -> bool {
        let slice = SliceId::Vf(address);
        let assigned = self.run.assignments.get(&slice);
        let foreign = self.run.foreign.get(&slice);
        assigned.is_none_or(|a| a.claim.owner == key.owner)
            && foreign.is_none_or(|hold| hold.owner == key.owner)
            && !(assigned.is_none() && foreign.is_none() && self.held.contains_key(&slice))
            && !self.held_back().contains_key(&slice)
            && self.home_of_another(address, key).is_none()
    }
}

/// The devices that claims lack.
fn lacking(
    domain: &Domain,
    of: impl Fn(&ClaimRequest) -> bool,
) -> impl Iterator<Item = (ClaimName, u32)> {
    let claims = domain.claims.iter().filter(move |claim| of(claim));
    let devices = claims.flat_map(|c| (0..c.count).map(|index| (c.name.clone(), index)));
    let there = |named: &(ClaimName, u32)| {
        domain.devices.iter().any(|d| d.our_claim().as_ref() == Some(named))
    };
    devices.filter(move |named| !there(named))
}
