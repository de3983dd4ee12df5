//! Claims that require the NUMA node of their domain: where that is, and what to do when no slice is there.

use super::claims::Order;
use super::fabric::Sought;
use super::reserve::Want;
use super::{Effect, Machine};
use crate::domain::ClaimRequest;
use crate::hint;
use crate::ids::{ClaimKey, ParentId, PciAddress, ProfileName};
use crate::mend;
use crate::numa::{Numbers, Within};
use crate::observation::ReadProblem;
use crate::observe::NODES;
use crate::placement::{self, Wanted};
use crate::refusal::{Code, Hint, Refusal};
use std::cmp::Reverse;
use std::collections::BTreeSet;

impl Machine {
    /// Where the slices of a request have to be.
    pub(super) fn within(&self, request: &ClaimRequest) -> Within {
        let pinned = request.require_numa.as_ref();
        pinned.map_or(Within::Anywhere, |pinned| pinned.within(self.seen.nodes.as_deref()))
    }

    /// Whether the nodes, were they read anew, could tell more of where one of these has to be.
    pub(super) fn outgrows_nodes(&self, requests: &[ClaimRequest]) -> bool {
        let mut pinned = requests.iter().filter_map(|request| request.require_numa.as_ref());
        pinned.any(|pinned| pinned.outgrows(self.seen.nodes.as_deref()))
    }

    /// No event that is heard tells of a CPU that comes.
    pub(super) fn look_at_nodes(&mut self) {
        self.nodes_anew = true;
        self.push(Effect::Observe);
    }

    /// The same of a claim that is known.
    pub(super) fn within_of(&self, key: &ClaimKey) -> Within {
        let claim = self.durable.claims.get(key);
        claim.map_or(Within::Anywhere, |claim| self.within(&claim.request))
    }

    /// Whether a device is where it has to be.
    pub(super) fn is_within(&self, parent: &ParentId, within: &Within) -> bool {
        within.has(self.seen.numa_node(parent))
    }

    /// Why a claim that is bound to nodes has none, with what stands against each device.
    pub(super) fn not_there(
        &self,
        key: &ClaimKey,
        profile: &ProfileName,
        count: u32,
        within: &Within,
        candidates: &[(ParentId, Refusal)],
    ) -> Refusal {
        const MOST: usize = 4;
        let name = self.owner_name(key);
        let message = self.nowhere(key, within).unwrap_or_else(|nodes| {
            format!(
                "{profile}: wanted {count} on NUMA node {nodes} of {name}, where it is not free"
            )
        });
        if *within == Within::Unread {
            return self.unread(key, profile, count, message);
        }
        let there = |(_, why): &&(ParentId, Refusal)| why.code != Code::OtherNumaNode;
        let far = self.elsewhere(key, profile, count, within);
        let full = |(_, why): &&(ParentId, Refusal)| why.code == Code::NoCapacity;
        // What is there and full can get room, if only by what is parked.
        let there = candidates.iter().find(full).or_else(|| candidates.iter().find(there));
        let code = there.map_or(Code::OtherNumaNode, |(_, why)| why.code);
        let mut refusal = Refusal::new(code, message);
        let mut whys: Vec<&str> = candidates.iter().map(|(_, why)| why.message.as_str()).collect();
        whys.dedup();
        let more = whys.len().saturating_sub(MOST);
        refusal.causes.extend(whys.into_iter().take(MOST).map(str::to_owned));
        if more != 0 {
            refusal = refusal.because(format!("and {more} more"));
        }
        match far {
            Some(hint) => refusal.hint(hint),
            None if code == Code::OtherNumaNode => {
                let count = self.at_most(key, profile, count);
                let room = self.room_for(key, profile, count);
                let far = mend::attach_far(&name, profile, &key.name, count);
                refusal.hint(hint!("{}, then {}", room, far))
            }
            None => refusal.hint(self.room_within(key, profile, count, within)),
        }
    }

    /// Why a claim can be nowhere, or else the nodes that it can be on.
    pub(super) fn nowhere(&self, key: &ClaimKey, within: &Within) -> Result<String, Numbers> {
        let (name, claim) = (self.owner_name(key), &key.name);
        match within {
            Within::Nodes(nodes) => Err(nodes.iter().copied().collect()),
            Within::Unread => Ok(format!(
                "the NUMA nodes of this host are not known, and claim {claim} requires that of {name}"
            )),
            Within::Unknown | Within::Anywhere => {
                Ok(format!("{name} is pinned to no NUMA node, and claim {claim} requires its own"))
            }
        }
    }

    /// Nothing is near a domain as far as is known. What cannot be read now is read again in a moment.
    fn unread(
        &self,
        key: &ClaimKey,
        profile: &ProfileName,
        count: u32,
        message: String,
    ) -> Refusal {
        let mut refusal = Refusal::new(Code::OtherNumaNode, message);
        let of_nodes = |problem: &&ReadProblem| problem.path.starts_with(NODES);
        let problems = self.seen.problems.iter().filter(of_nodes);
        refusal.causes.extend(problems.map(ToString::to_string));
        refusal.hint(mend::attach_far(&self.owner_name(key), profile, &key.name, count))
    }

    /// What helps a VM that runs: it is where it is.
    pub(super) fn not_where_it_runs(&self, order: &Order, refusal: Refusal) -> Refusal {
        let of_node = matches!(refusal.code, Code::OtherNumaNode | Code::NoCapacity);
        let (name, count) = (order.request.name.clone(), order.request.count);
        let key = ClaimKey { owner: order.owner.clone(), name };
        let profile = self.profile_for(&key, &order.owner_name, &order.request, None);
        let (true, Some(_), Ok(profile)) = (of_node, &order.request.require_numa, profile) else {
            return refusal;
        };
        let far = mend::attach_far_live(&order.owner_name, &profile, &key.name, count);
        if self.is_free_far(&key, &order.request, &profile) {
            return refusal.hint(far);
        }
        match refusal.code {
            Code::OtherNumaNode => {
                let count = self.at_most(&key, &profile, count);
                let far = mend::attach_far_live(&order.owner_name, &profile, &key.name, count);
                let room = self.room_for(&key, &profile, count);
                refusal.hint(hint!("{}, then {}", room, far))
            }
            _ => refusal,
        }
    }

    /// Whether a claim would have all it asks for if any node would do.
    pub(super) fn is_free_far(
        &self,
        key: &ClaimKey,
        request: &ClaimRequest,
        profile: &ProfileName,
    ) -> bool {
        let far = ClaimRequest { require_numa: None, ..request.clone() };
        let homes = self.homes(&Sought { key, request: &far, profile, pool: false }, &[]);
        homes.is_ok_and(|homes| !homes.is_empty() || self.mdevs_free(key, &far, profile))
    }

    /// Whether there is room for all mediated devices of a claim, in one fabric if it asks for that.
    pub(super) fn mdevs_free(
        &self,
        key: &ClaimKey,
        request: &ClaimRequest,
        profile: &ProfileName,
    ) -> bool {
        let within = self.within(request);
        let enough = |only: &dyn Fn(&ParentId) -> bool| {
            let near = |device: &ParentId| only(device) && self.is_within(device, &within);
            let free = self.free_and_used_on(profile, &near).map_or(0, |(free, _)| free);
            free >= request.count
        };
        if !request.same_fabric {
            return enough(&|_| true);
        }
        let fabrics = self.fabrics_with(key, profile);
        fabrics.iter().any(|fabric| enough(&|device| fabric.parents.contains(device)))
    }

    /// The next step where slices are free on other nodes.
    fn elsewhere(
        &self,
        key: &ClaimKey,
        profile: &ProfileName,
        count: u32,
        within: &Within,
    ) -> Option<Hint> {
        let name = self.owner_name(key);
        let found: Option<BTreeSet<u32>> =
            self.free_anywhere(key, profile, count)?.into_iter().collect();
        let Some(mut nodes) = found else {
            return Some(mend::attach_far(&name, profile, &key.name, count));
        };
        // Some of several may be where the domain is already.
        if let (Within::Nodes(own), true) = (within, count > 1) {
            nodes.extend(own);
        }
        Some(mend::move_memory(&name, &nodes.into_iter().collect()))
    }

    /// The nodes of so many slices as a claim could have if any would do.
    fn free_anywhere(
        &self,
        key: &ClaimKey,
        profile: &ProfileName,
        count: u32,
    ) -> Option<BTreeSet<Option<u32>>> {
        if let Some(nodes) = self.mdevs_anywhere(key, profile, count) {
            return Some(nodes);
        }
        let (view, wanted) = (self.view(), Wanted::anywhere(profile, key));
        let mut homes: BTreeSet<PciAddress> = BTreeSet::new();
        for _ in 0..count {
            homes.insert(placement::home(&view, &wanted, false, &homes).ok()?.address);
        }
        Some(homes.into_iter().map(|home| self.seen.numa_node(&ParentId::Pci(home))).collect())
    }

    /// The same of mediated devices: one node that has room for all, else those with the most.
    fn mdevs_anywhere(
        &self,
        key: &ClaimKey,
        profile: &ProfileName,
        count: u32,
    ) -> Option<BTreeSet<Option<u32>>> {
        let view = self.view();
        let made = view.of_profile(profile).filter(|offer| offer.form.is_mdevs());
        let nodes: BTreeSet<_> = made.map(|offer| self.seen.numa_node(&offer.parent)).collect();
        let free = |node| {
            let there = self.free_and_used_on(profile, &|on| self.seen.numa_node(on) == node);
            (there.map_or(0, |(free, _)| free), node)
        };
        let mut free: Vec<(u32, Option<u32>)> = nodes.into_iter().map(free).collect();
        free.sort_by_key(|(free, _)| Reverse(*free));
        let all = free.iter().map(|(free, _)| *free).fold(0, u32::saturating_add);
        let reserved = view.reserved_elsewhere(&Wanted::anywhere(profile, key));
        if all.saturating_sub(reserved) < count {
            return None;
        }
        let mut missing = count;
        let enough = free.into_iter().take_while(|(free, _)| {
            let more = missing > 0;
            missing = missing.saturating_sub(*free);
            more
        });
        let nodes = enough.map(|(_, node)| node).collect();
        (missing == 0).then_some(nodes)
    }

    /// Whether a VF that is not on a claim's nodes would be given to it once whatever is in the way has ended. That it is far
    /// does not end, so it is said first.
    pub(super) fn is_far_whatever_ends(&self, vf: PciAddress, within: &Within, why: Code) -> bool {
        let ends = matches!(
            why,
            Code::Cordoned
                | Code::Quarantined
                | Code::Reshaping
                | Code::NoCapacity
                | Code::Taken
                | Code::Held
                | Code::Dirty
                | Code::HostDriver
        );
        let parent = self.seen.vfs.get(&vf).map(|vf| ParentId::Pci(vf.pf));
        ends && parent.is_some_and(|parent| !self.is_within(&parent, within))
    }

    /// What the XML carries is on another node than the domain.
    pub(super) fn of_another_node(&self, want: &Want, vf: PciAddress, within: &Within) -> Refusal {
        let Want { key, profile, count, .. } = want;
        let (name, claim) = (self.owner_name(key), &key.name);
        let wanted = Wanted { within, ..Wanted::anywhere(profile, key) };
        let free = placement::home(&self.view(), &wanted, false, &BTreeSet::new()).is_ok();
        if let (true, Within::Nodes(nodes)) = (free, within) {
            let nodes: Numbers = nodes.iter().copied().collect();
            let message = format!("VF {vf} of claim {claim} is not on NUMA node {nodes} of {name}");
            let hint = self.attach_again(key, profile);
            return Refusal::new(Code::OtherNumaNode, message).hint(hint);
        }
        self.not_there(key, profile, *count, within, &[])
    }
}
