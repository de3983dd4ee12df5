//! Claims that require the NUMA node of their domain: where that is, and what to do when no slice is there.

use super::Machine;
use super::reserve::Want;
use crate::domain::ClaimRequest;
use crate::hint;
use crate::ids::{ClaimKey, ParentId, PciAddress, ProfileName};
use crate::mend;
use crate::numa::{Numbers, Within};
use crate::placement::{self, Wanted};
use crate::refusal::{Code, Hint, Refusal};
use std::collections::{BTreeMap, BTreeSet};

impl Machine {
    /// Where the slices of a request have to be.
    pub(super) fn within(&self, request: &ClaimRequest) -> Within {
        let pinned = request.require_numa.as_ref();
        pinned.map_or(Within::Anywhere, |pinned| pinned.within(&self.seen.nodes))
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
        let message = match within {
            Within::Nodes(nodes) => {
                let nodes: Numbers = nodes.iter().copied().collect();
                format!(
                    "{profile}: wanted {count} on NUMA node {nodes} of {name}, where it is not free"
                )
            }
            _ => {
                format!("{name} is pinned to no NUMA node, and claim {} requires its own", key.name)
            }
        };
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
                let room = self.room_for(key, profile, count);
                let far = mend::attach_far(&name, profile, &key.name, count);
                refusal.hint(hint!("{}, then {}", room, far))
            }
            None => refusal.hint(self.room_within(key, profile, count, within)),
        }
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

    /// The nodes of slices that a claim could have if any would do.
    fn free_anywhere(
        &self,
        key: &ClaimKey,
        profile: &ProfileName,
        count: u32,
    ) -> Option<BTreeSet<Option<u32>>> {
        let (view, wanted) = (self.view(), Wanted::anywhere(profile, key));
        if let Ok((parent, _)) = placement::mdev(&view, &wanted, &BTreeMap::new()) {
            return Some(BTreeSet::from([self.seen.numa_node(&parent)]));
        }
        let mut homes: BTreeSet<PciAddress> = BTreeSet::new();
        for _ in 0..count {
            homes.insert(placement::home(&view, &wanted, false, &homes).ok()?.address);
        }
        Some(homes.into_iter().map(|home| self.seen.numa_node(&ParentId::Pci(home))).collect())
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
