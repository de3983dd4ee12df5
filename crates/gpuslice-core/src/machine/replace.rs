//! `replace`: a GPU was exchanged for another one of its kind, in another place. What is kept of the old one by its
//! address becomes the new one's: the homes of claims, VF by VF, and the cordon. What was found of the old one's faults
//! goes with it.

use super::claims::done;
use super::{Machine, Stored};
use crate::hint;
use crate::ids::{ClaimKey, Owner, ParentId, PciAddress, SliceId};
use crate::mend;
use crate::observation::Vf;
use crate::refusal::{Code, Hint, Refusal};
use crate::request::Outcome;
use crate::state::{Claim, Place};
use std::collections::{BTreeMap, BTreeSet};

/// A home of a claim on the old GPU, by its number among the claim's homes, and where it is.
type Moving = (ClaimKey, usize, Place);

impl Machine {
    pub(super) fn replace(&mut self, old: &ParentId, new: &ParentId) -> Outcome {
        if old == new {
            return Ok(done(false, "already so: what is kept of a GPU is kept by its address"));
        }
        self.require_parent(new)?;
        if !self.seen.has_parent(new) {
            let refusal = Refusal::new(Code::Absent, format!("{new} is not on the host"));
            return Err(refusal.hint(self.name_a_gpu()));
        }
        let moving = self.homes_of(old);
        let cordoned = self.cordon_to_move(old).is_some();
        let waited_for = self.durable.expected.contains_key(old) && self.is_away(old);
        if moving.is_empty() && !cordoned && !waited_for {
            return Ok(done(false, &format!("already so: nothing is kept of {old}")));
        }
        for parent in [old, new] {
            self.require_idle(parent)?;
        }
        self.require_layout_of(old, new)?;
        let homes = self.homes_on(new, &moving)?;
        let edit = self.edit_of_rule(old, new);
        self.exchange(old, new, homes);
        let mut what = Vec::new();
        match moving.len() {
            0 => {}
            1 => what.push("1 home".to_owned()),
            n => what.push(format!("{n} homes")),
        }
        if cordoned {
            what.push("the cordon".to_owned());
        }
        if what.is_empty() {
            what.push("the place".to_owned());
        }
        let mut message = format!("{} of {old} moved to {new}", what.join(" and "));
        if let Some(edit) = edit {
            message += &format!("; next: {}", edit.as_str());
        }
        Ok(done(true, &message))
    }

    fn homes_of(&self, old: &ParentId) -> Vec<Moving> {
        let places = &self.durable.places;
        let claims = self.durable.claims.iter();
        let homes = claims.flat_map(|(key, claim)| {
            claim.home.iter().enumerate().map(move |(number, home)| (key, number, home))
        });
        let placed = homes.filter_map(|(key, number, home)| {
            let place = places.get(home).filter(|place| ParentId::Pci(place.pf) == *old)?;
            Some((key.clone(), number, *place))
        });
        placed.collect()
    }

    /// A cordon that a person gave a GPU that is gone; one that the kernel's log gave is of the old one's fault.
    fn cordon_to_move(&self, old: &ParentId) -> Option<&String> {
        let by_log = self.durable.health.get(old).is_some_and(|health| health.cordons);
        self.durable.cordons.get(old).filter(|_| !by_log && self.is_away(old))
    }

    /// Nobody has a slice of it, and nothing is being done to it.
    fn require_idle(&self, parent: &ParentId) -> Result<(), Refusal> {
        let parents = BTreeSet::from([parent.clone()]);
        if let Some(blocker) = self.not_drained(&parents).next() {
            return Err(blocker);
        }
        if self.reshaping(parent) {
            let refusal = Refusal::new(Code::Reshaping, format!("{parent} is being reshaped"));
            return Err(refusal.hint(hint!("gpuslice wait --settled")));
        }
        match self.quarantine_over(parent).filter(|_| self.seen.has_parent(parent)) {
            Some(why) => {
                let refusal = Refusal::new(Code::Quarantined, format!("{parent} is quarantined"));
                let refusal = refusal.because(why.message.clone());
                Err(refusal.hint(mend::uncordon(parent)))
            }
            None => Ok(()),
        }
    }

    /// The new one is laid out by the configuration, not by us.
    fn require_layout_of(&self, old: &ParentId, new: &ParentId) -> Result<(), Refusal> {
        let Some(was) = self.durable.expected.get(old) else { return Ok(()) };
        let Some(layout) = self.layouts.get(new) else {
            let message = format!("{new} has no layout, and {old} had {was}");
            let edit = self.edit_of_rule(old, new);
            let hint = edit.unwrap_or_else(|| mend::write_layout(new));
            return Err(Refusal::new(Code::NotSettled, message).hint(hint));
        };
        if self.realised(new, layout) {
            return Ok(());
        }
        let message = format!("{new} is not yet as its layout says ({layout})");
        let hint = match self.drifted(new) {
            true => hint!("gpuslice apply"),
            false => hint!("gpuslice wait --settled"),
        };
        Err(Refusal::new(Code::NotSettled, message).hint(hint))
    }

    /// The edit by which the layout that was written for the old GPU, by where it is or which it is, is the new one's.
    fn edit_of_rule(&self, old: &ParentId, new: &ParentId) -> Option<Hint> {
        let was = self.durable.expected.get(old);
        let rules = &self.durable.rules;
        let by_address = rules.iter().find(|rule| rule.matches.address == old.pci());
        if let Some(rule) = by_address {
            return Some(hint!(
                "edit {}: address = \"{}\" in place of \"{}\", then gpuslice apply",
                rule.origin,
                new,
                old
            ));
        }
        // Which GPU had a serial that nobody has now, its layout tells.
        let rule = rules.iter().find(|rule| {
            rule.matches.serial.is_some()
                && Some(&rule.layout) == was
                && !self
                    .seen
                    .functions
                    .iter()
                    .any(|(address, function)| rule.matches.meets(*address, function))
        })?;
        let function = new.pci().and_then(|address| self.seen.functions.get(&address))?;
        let (was, now) = (rule.matches.serial?, function.serial?);
        Some(hint!(
            "edit {}: serial = \"{}\" in place of \"{}\", then gpuslice apply",
            rule.origin,
            now,
            was
        ))
    }

    /// The claims with their homes on the new GPU, each by its number there as it was on the old one.
    fn homes_on(
        &self,
        new: &ParentId,
        moving: &[Moving],
    ) -> Result<BTreeMap<ClaimKey, Claim>, Refusal> {
        let function = new.pci().and_then(|address| self.seen.functions.get(&address));
        let vfs = function.and_then(|f| f.sriov.as_ref()).map(|sriov| &sriov.vfs);
        let offers: Vec<_> = self.offers_of(new).collect();
        let mut moved: BTreeMap<ClaimKey, Claim> = BTreeMap::new();
        for (key, number, place) in moving {
            let Some(claim) = self.durable.claims.get(key) else { continue };
            let (name, profile) = (&claim.owner_name, &claim.profile);
            let Some(address) = vfs.and_then(|vfs| vfs.get(&place.index)) else {
                let message =
                    format!("{new} has no VF {}, which is the home of {name}", place.index.0);
                let refusal = Refusal::new(Code::NoCapacity, message);
                return Err(refusal.hint(hint!(
                    "lay {} out as {} was, then gpuslice apply",
                    new,
                    place.pf
                )));
            };
            let fits =
                offers.iter().any(|o| o.profile == *profile && o.form.vfs().contains(address));
            if !fits {
                let message = format!("{new} offers no {profile}, which {name} asks for");
                let hint = hint!("lay {} out as {} was, then gpuslice apply", new, place.pf);
                return Err(Refusal::new(Code::NoProfile, message).hint(hint));
            }
            self.require_free(*address, key, claim)?;
            let claim = moved.entry(key.clone()).or_insert_with(|| claim.clone());
            if let Some(home) = claim.home.get_mut(*number) {
                *home = *address;
            }
        }
        for claim in moved.values_mut().filter(|claim| claim.orphaned) {
            let mut once = BTreeSet::new();
            claim.home.retain(|home| once.insert(*home));
        }
        for claim in moved.values().filter(|claim| claim.request.same_fabric) {
            self.require_one_fabric(claim)?;
        }
        Ok(moved)
    }

    /// Homes on the new one stay where they are, those of a claim that has others on the old one too.
    fn require_free(
        &self,
        address: PciAddress,
        key: &ClaimKey,
        claim: &Claim,
    ) -> Result<(), Refusal> {
        let may_share =
            |other: &Claim| claim.orphaned || other.orphaned || claim.pool && other.pool;
        let mut homes = self.durable.claims.iter().filter(|(_, c)| c.home.contains(&address));
        let taken =
            homes.find(|(other, c)| if *other == key { !claim.orphaned } else { !may_share(c) });
        if let Some((key, other)) = taken {
            let message = format!("VF {address} is the home of {}", other.owner_name);
            return Err(Refusal::new(Code::Taken, message).hint(self.end_for_good(key)));
        }
        if let Some(driver) = self.seen.vfs.get(&address).and_then(Vf::by_host) {
            let message = format!("VF {address} is bound to {driver} of this host");
            return Err(Refusal::new(Code::HostDriver, message).hint(mend::let_go(address, driver)));
        }
        self.held_back().remove(&SliceId::Vf(address)).map_or(Ok(()), Err)
    }

    fn require_one_fabric(&self, claim: &Claim) -> Result<(), Refusal> {
        let pf = |home: &PciAddress| Some(ParentId::Pci(self.seen.vfs.get(home)?.pf));
        let parents: BTreeSet<ParentId> = claim.home.iter().filter_map(pf).collect();
        let one = parents.first().map(|first| self.fabric_of(first.clone()));
        if one.is_none_or(|fabric| parents.is_subset(&fabric.parents)) {
            return Ok(());
        }
        let name = &claim.owner_name;
        let message = format!("{name} asks for slices of one fabric, and would have those of two");
        let (profile, count) = (&claim.profile, claim.request.count);
        let which = &claim.request.name;
        let again = mend::attach_linked(name, profile, which, count);
        Err(Refusal::new(Code::NoCapacity, message).hint(again))
    }

    fn exchange(&mut self, old: &ParentId, new: &ParentId, homes: BTreeMap<ClaimKey, Claim>) {
        for (key, claim) in homes {
            if let Owner::Domain(domain) = key.owner {
                self.look_again.insert(domain);
                self.note("agent-work", domain, "its GPU was exchanged");
            }
            self.note("claim", &key, format!("its homes moved to {new}"));
            self.durable.claims.insert(key, claim);
        }
        if self.is_away(old) {
            if let Some(reason) = self.cordon_to_move(old).cloned() {
                self.durable.cordons.entry(new.clone()).or_insert(reason);
            }
            self.durable.cordons.remove(old);
            self.durable.expected.remove(old);
            self.durable.health.remove(old);
        }
        self.note("parent", new, format!("takes the place of {old}"));
        self.persist(Stored::Durable);
    }

    /// Where the VFs are that claims name, as last seen: a VF that left with its GPU does not tell whose it was.
    pub(super) fn remember_places(&mut self) {
        let homes = self.durable.claims.values().flat_map(|claim| claim.home.iter().copied());
        let given = self.durable.given.keys().filter_map(|slice| slice.pci());
        let homes = homes.chain(given);
        let place = |home: PciAddress| {
            let seen = self.seen.vfs.get(&home).map(|vf| Place { pf: vf.pf, index: vf.index });
            Some((home, seen.or_else(|| self.durable.places.get(&home).copied())?))
        };
        let places: BTreeMap<PciAddress, Place> = homes.filter_map(place).collect();
        if places != self.durable.places {
            self.durable.places = places;
            self.persist(Stored::Durable);
        }
    }
}
