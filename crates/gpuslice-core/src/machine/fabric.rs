//! Several slices of one claim: all of them or none, and of one fabric where the claim says so. What is a fabric, a
//! mechanism tells; a device of which nothing is told is one by itself.

use super::Machine;
use super::incoming::request_of;
use super::reserve::{Near, Want};
use crate::config::Strategy;
use crate::domain::{ClaimRequest, Domain, HostDeviceSource};
use crate::hint;
use crate::ids::{ClaimKey, ParentId, PciAddress, ProfileName, SliceId};
use crate::mechanism::Fabric;
use crate::mend;
use crate::mode::Mode;
use crate::numa::Within;
use crate::placement::{self, Refused, View, Wanted};
use crate::plan::Step;
use crate::refusal::{Code, Refusal};
use std::cmp::Reverse;
use std::collections::BTreeSet;

/// A fabric that cannot have all slices of a claim: how many it could, and why no more.
pub(super) struct Lacking {
    fabric: Fabric,
    room: usize,
    why: String,
}

/// What homes are looked for.
pub(super) struct Sought<'a> {
    pub key: &'a ClaimKey,
    pub request: &'a ClaimRequest,
    pub profile: &'a ProfileName,
    pub pool: bool,
}

/// Homes found, and whether a device of theirs is crowded; or those up to where it ended, and why.
type Found = Result<(bool, Vec<PciAddress>), (Vec<PciAddress>, Refused)>;

impl Machine {
    /// The fabrics of the parents that offer a profile, in their order.
    fn fabrics(&self, view: &View<'_>, profile: &ProfileName) -> Vec<Fabric> {
        let mut fabrics: Vec<Fabric> = Vec::new();
        for offer in view.of_profile(profile) {
            let device = self.seen.device_of(&offer.parent);
            if !fabrics.iter().any(|fabric| fabric.parents.contains(&device)) {
                fabrics.push(self.fabric_of(device));
            }
        }
        fabrics
    }

    pub(super) fn fabric_of(&self, device: ParentId) -> Fabric {
        let mut mechanisms = self.mechanisms.iter().filter(|m| m.applies(&self.seen, &device));
        let told = mechanisms.find_map(|m| m.fabric(&self.seen, &device));
        told.unwrap_or_else(|| Fabric::alone(device))
    }

    /// Fabrics that have slices of several owners where no layout says how much is one: how much that is, the driver chose.
    pub(super) fn linked_unasked(&self) -> impl Iterator<Item = String> {
        let mut fabrics: Vec<Fabric> = Vec::new();
        for device in self.seen.functions.keys().map(|address| ParentId::Pci(*address)) {
            if !fabrics.iter().any(|fabric| fabric.parents.contains(&device)) {
                let layout = self.layouts.get(&device);
                let asked = layout.is_some_and(|l| l.modes.contains_key(&Mode::FabricSharing));
                let fabric = Some(self.fabric_of(device)).filter(|f| f.parents.len() > 1 && !asked);
                fabrics.extend(fabric);
            }
        }
        fabrics.into_iter().filter_map(|fabric| {
            let inside = |parent: &ParentId| fabric.parents.contains(&self.seen.device_of(parent));
            let assigned = self.run.assignments.values().filter(|a| inside(&a.parent));
            let assigned = assigned.map(|a| self.owner_name(&a.claim));
            let foreign = self.run.foreign.iter().filter(|(slice, _)| {
                slice.pci().is_some_and(|address| inside(&ParentId::Pci(address)))
            });
            let foreign = foreign.map(|(_, hold)| hold.name.clone());
            let owners: BTreeSet<String> = assigned.chain(foreign).collect();
            let first = fabric.parents.first().filter(|_| owners.len() > 1)?;
            let (owners, apart) =
                (Vec::from_iter(owners).join(", "), mend::set(Mode::FabricSharing, 1, first));
            let name = &fabric.name;
            Some(format!(
                "{owners} have GPUs that reach each other's memory ({name}); to keep them apart: {}",
                apart.as_str()
            ))
        })
    }

    /// Home VFs of a claim: of those it had the ones that fit, and others for the rest. None for mdevs.
    pub(super) fn homes(
        &self,
        sought: &Sought<'_>,
        had: &[PciAddress],
    ) -> Result<Vec<PciAddress>, Refusal> {
        let view = self.view();
        if view.is_made(sought.profile) {
            return Ok(Vec::new());
        }
        // While its domain was undefined, another claim may have found nothing else.
        let within = self.within(sought.request);
        let fits = |a: &PciAddress| {
            let mut offers = view.of_profile(sought.profile);
            offers.any(|o| o.form.vfs().contains(a) && self.is_within(&o.parent, &within))
                && self.home_of_another(*a, sought.key).is_none()
        };
        let count = usize::try_from(sought.request.count).unwrap_or(usize::MAX);
        let mut kept: Vec<PciAddress> = Vec::new();
        for home in had.iter().copied().filter(fits) {
            if kept.len() < count && view.may_live(sought.key, sought.profile, home, &kept) {
                kept.push(home);
            }
        }
        let fabrics = if sought.request.same_fabric {
            self.fabrics(&view, sought.profile)
        } else {
            Vec::new()
        };
        if fabrics.is_empty() {
            let found = self.homes_in(&view, sought, None, kept);
            let Sought { key, request, profile, .. } = sought;
            let refuse =
                |(_, why)| self.refuse_placement(key, profile, request.count, &within, why);
            return found.map(|(_, homes)| homes).map_err(refuse);
        }
        let (mut best, mut lacking) = (None, Vec::new());
        for fabric in fabrics {
            let inside = |a: &PciAddress| {
                self.seen.pf_of(&ParentId::Pci(*a)).is_some_and(|d| fabric.parents.contains(&d))
            };
            let kept: Vec<PciAddress> = kept.iter().copied().filter(inside).collect();
            let moved = count.saturating_sub(kept.len());
            match self.homes_in(&view, sought, Some(&fabric), kept) {
                Ok((crowded, homes)) => {
                    let rank = (crowded, moved, self.load(&inside));
                    if best.as_ref().is_none_or(|(other, _)| rank < *other) {
                        best = Some((rank, homes));
                    }
                }
                Err((homes, why)) => {
                    let why = self.what_lacks(&homes, why);
                    lacking.push(Lacking { fabric, room: homes.len(), why });
                }
            }
        }
        best.map(|(_, homes)| homes).ok_or_else(|| self.no_fabric(sought, count, lacking))
    }

    /// Keeps of the homes of another profile those that could be one of this, as their device is set now.
    pub(super) fn retain_able(&self, homes: &mut Vec<PciAddress>, profile: &ProfileName) {
        let view = self.view();
        let able = || view.of_profile(profile).filter(|offer| offer.max != Some(0));
        homes.retain(|home| able().any(|offer| offer.form.vfs().contains(home)));
    }

    /// How little a fabric is to be chosen because of what lives there.
    fn load(&self, inside: &dyn Fn(&PciAddress) -> bool) -> i64 {
        let living_claims = self.durable.claims.values().filter(|claim| !claim.orphaned);
        let homes = living_claims.flat_map(|claim| &claim.home);
        let living = i64::try_from(homes.filter(|a| inside(a)).count()).unwrap_or(i64::MAX);
        match self.config.placement {
            Strategy::Pack => -living,
            Strategy::Spread => living,
        }
    }

    fn homes_in(
        &self,
        view: &View<'_>,
        sought: &Sought<'_>,
        fabric: Option<&Fabric>,
        mut homes: Vec<PciAddress>,
    ) -> Found {
        let count = usize::try_from(sought.request.count).unwrap_or(usize::MAX);
        let mut any_crowded = false;
        let within = self.within(sought.request);
        while homes.len() < count {
            // The first says where the others had better be.
            let near = homes.first().and_then(|home| self.seen.pf_of(&ParentId::Pci(*home)));
            let near = near.filter(|_| sought.request.near_each_other());
            let numa = near.and_then(|device| self.seen.numa_node(&device));
            let anywhere = Wanted::anywhere(sought.profile, sought.key);
            let wanted = Wanted { numa, fabric, within: &within, ..anywhere };
            let taken: BTreeSet<_> = homes.iter().copied().collect();
            match placement::home(view, &wanted, sought.pool, &taken) {
                Ok(home) => {
                    any_crowded |= home.crowded;
                    homes.push(home.address);
                }
                Err(why) => return Err((homes, why)),
            }
        }
        Ok((any_crowded, homes))
    }

    /// Reserves what all claims of a start ask for, or nothing: in their order, and where that leaves one without room, those
    /// first that can be in the fewest places.
    pub(super) fn reserve_claims(
        &mut self,
        domain: &Domain,
        wants: &[Want],
    ) -> Result<(Vec<SliceId>, Vec<Step>), Refusal> {
        let of_claims = wants.chunk_by(|a, b| a.key == b.key);
        let mut claims: Vec<(&[Want], &ClaimRequest)> = of_claims
            .filter_map(|of_claim| Some((of_claim, request_of(domain, of_claim)?)))
            .collect();
        self.reserve_in_order(&claims).or_else(|why| {
            if claims.len() < 2 {
                return Err(why);
            }
            let offers = self.offers();
            let size = |(wants, _): &(&[Want], _)| {
                let profile = wants.first().map(|want| &want.profile);
                let of_profile = offers.iter().filter(|offer| Some(&offer.profile) == profile);
                of_profile.filter_map(|offer| offer.memory).max()
            };
            let given = claims.iter().map(|(_, request)| &request.name).collect::<Vec<_>>();
            claims.sort_by_cached_key(|of| (!of.1.same_fabric, Reverse(size(of))));
            if claims.iter().map(|(_, request)| &request.name).eq(given) {
                return Err(why);
            }
            self.reserve_in_order(&claims).map_err(|_| why)
        })
    }

    fn reserve_in_order(
        &mut self,
        claims: &[(&[Want], &ClaimRequest)],
    ) -> Result<(Vec<SliceId>, Vec<Step>), Refusal> {
        let kept = self.run.assignments.clone();
        let (mut slices, mut steps) = (Vec::new(), Vec::new());
        for (wants, request) in claims {
            match self.reserve_all(wants, request) {
                Ok((more, their_steps)) => {
                    slices.extend(more);
                    steps.extend(their_steps);
                }
                Err(refusal) => {
                    self.run.assignments = kept;
                    return Err(refusal);
                }
            }
        }
        Ok((slices, steps))
    }

    /// Reserves all slices of one claim. After an error what was reserved before has to be put back.
    pub(super) fn reserve_all(
        &mut self,
        wants: &[Want],
        request: &ClaimRequest,
    ) -> Result<(Vec<SliceId>, Vec<Step>), Refusal> {
        let fabrics = match wants.first().filter(|_| request.same_fabric) {
            Some(first) => self.fabrics_left(first),
            None => Vec::new(),
        };
        let named = |want: &Want| matches!(want.source, HostDeviceSource::Pci(_));
        if fabrics.is_empty() || wants.first().is_some_and(named) {
            let reserved = self.reserve_each(wants, request, fabrics.first());
            return reserved.map_err(|(_, why)| why);
        }
        let kept = self.run.assignments.clone();
        let mut lacking = Vec::new();
        for fabric in fabrics {
            match self.reserve_each(wants, request, Some(&fabric)) {
                Ok(reserved) => return Ok(reserved),
                Err((room, why)) => {
                    self.run.assignments.clone_from(&kept);
                    lacking.push(Lacking { fabric, room, why: why.message });
                }
            }
        }
        Err(match wants.first() {
            Some(Want { key, profile, .. }) => {
                let sought = Sought { key, request, profile, pool: false };
                self.no_fabric(&sought, wants.len(), lacking)
            }
            None => Refusal::new(Code::BadRequest, "nothing is asked for"),
        })
    }

    /// The fabrics that have the VF which the XML names, or all that a claim has already.
    fn fabrics_left(&self, first: &Want) -> Vec<Fabric> {
        if let HostDeviceSource::Pci(address) = first.source {
            return self
                .seen
                .pf_of(&ParentId::Pci(address))
                .map(|d| self.fabric_of(d))
                .into_iter()
                .collect();
        }
        self.fabrics_with(&first.key, &first.profile)
    }

    /// The fabrics that offer a profile and have all that a claim has already.
    pub(super) fn fabrics_with(&self, key: &ClaimKey, profile: &ProfileName) -> Vec<Fabric> {
        let own = self.run.assignments.values().filter(|a| a.claim == *key);
        let there: BTreeSet<ParentId> = own.map(|a| self.seen.device_of(&a.parent)).collect();
        let mut fabrics = self.fabrics(&self.view(), profile);
        fabrics.retain(|fabric| there.is_subset(&fabric.parents));
        fabrics
    }

    fn reserve_each(
        &mut self,
        wants: &[Want],
        request: &ClaimRequest,
        fabric: Option<&Fabric>,
    ) -> Result<(Vec<SliceId>, Vec<Step>), (usize, Refusal)> {
        let (mut slices, mut steps) = (Vec::new(), Vec::new());
        let within = self.within(request);
        let mut near = Near { numa: None, fabric, within: &within };
        for want in wants {
            let (slice, more) = self.reserve(want, near).map_err(|why| (slices.len(), why))?;
            slices.push(slice);
            steps.extend(more);
            if near.numa.is_none() && request.near_each_other() {
                let parent = self.run.assignments.get(&slice).map(|a| &a.parent);
                near.numa = parent.and_then(|parent| self.seen.numa_node(parent));
            }
        }
        Ok((slices, steps))
    }

    /// Where a slice that a device did not make may be made instead: with the others of its claim.
    pub(super) fn fabric_of_others(&self, slice: SliceId, key: &ClaimKey) -> Option<Fabric> {
        self.durable.claims.get(key).filter(|claim| claim.request.same_fabric)?;
        let mut own = self.run.assignments.iter().filter(|(s, a)| **s != slice && a.claim == *key);
        let (_, other) = own.next()?;
        Some(self.fabric_of(self.seen.device_of(&other.parent)))
    }

    /// What stands against the devices of a fabric that none of the homes found is on.
    fn what_lacks(&self, homes: &[PciAddress], refused: Refused) -> String {
        const MOST: usize = 3;
        let Refused::Candidates(candidates) = refused else { return String::new() };
        let used: Vec<ParentId> =
            homes.iter().filter_map(|a| self.seen.pf_of(&ParentId::Pci(*a))).collect();
        let mut shown = candidates;
        shown.retain(|(parent, _)| !used.contains(parent));
        if shown.is_empty() {
            return "it has no more".to_owned();
        }
        let more = shown.len().saturating_sub(MOST);
        let reasons: Vec<String> =
            shown.into_iter().take(MOST).map(|(_, why)| why.message).collect();
        let reasons = reasons.join(", ");
        if more == 0 { reasons } else { format!("{reasons} and {more} more") }
    }

    /// Why no fabric has all slices, and what each lacks.
    fn no_fabric(&self, sought: &Sought<'_>, count: usize, mut lacking: Vec<Lacking>) -> Refusal {
        const MOST: usize = 4;
        let Sought { key, profile, pool, .. } = *sought;
        lacking.sort_by_key(|l| std::cmp::Reverse(l.room));
        let most = lacking.first().map_or(0, |l| l.room);
        let message =
            format!("{profile}: wanted {count} of one fabric, the most one has is {most}");
        let within = self.within(sought.request);
        let near = |fabric: &Fabric| fabric.parents.iter().any(|d| self.is_within(d, &within));
        if within == Within::Unread {
            let refusal = self.not_there(key, profile, sought.request.count, &within, &[]);
            return self.or_not_settled(profile, refusal);
        }
        let is_far = !lacking.iter().any(|lacks| near(&lacks.fabric));
        let mut refusal = if is_far {
            let message = self.nowhere(key, &within).unwrap_or_else(|nodes| {
                let name = self.owner_name(key);
                format!(
                    "{profile}: wanted {count} of one fabric on NUMA node {nodes} of {name}, and none is there"
                )
            });
            Refusal::new(Code::OtherNumaNode, message)
        } else {
            Refusal::new(Code::NoCapacity, message)
        };
        let more = lacking.len().saturating_sub(MOST);
        let fabrics: Vec<Fabric> = lacking.iter().map(|lacks| lacks.fabric.clone()).collect();
        for Lacking { fabric, room, why } in lacking.into_iter().take(MOST) {
            let lacks = count.saturating_sub(room);
            refusal = refusal.because(format!("{} lacks {lacks} of {count}: {why}", fabric.name));
        }
        if more != 0 {
            refusal = refusal.because(format!("and {more} more fabrics"));
        }
        let count = sought.request.count;
        let far = mend::attach_far(&self.owner_name(key), profile, &key.name, count);
        let required = within != Within::Anywhere;
        // Where they need not be linked there may be enough.
        let apart = ClaimRequest { same_fabric: false, ..sought.request.clone() };
        let apart_is_free = || {
            let homes = self.homes(&Sought { key, request: &apart, profile, pool }, &[]);
            homes.is_ok_and(|homes| !homes.is_empty() || self.mdevs_free(key, &apart, profile))
        };
        let hint = if required && self.is_free_far(key, sought.request, profile) {
            far
        } else if is_far {
            let count = self.at_most(key, profile, count);
            let far = mend::attach_far(&self.owner_name(key), profile, &key.name, count);
            hint!("{}, then {}", self.room_for(key, profile, count), far)
        } else if apart_is_free() {
            hint!("{} --count {} --fabric any", self.attach_again(key, profile), count)
        } else if let Some(uncordon) = self.uncordon_one_of(&fabrics, key, profile, count, &within)
        {
            refusal.code = Code::Cordoned;
            uncordon
        } else if let Some(fewer) = self.ask_for_fewer(key, profile, count, &within) {
            hint!("{} --fabric any", fewer)
        } else {
            self.room_within(key, profile, count, &within)
        };
        self.or_not_settled(profile, refusal.hint(hint))
    }
}
