//! What a placement asks of each of thousands of slices: found with one look at all claims and all assignments, when it is first
//! asked for.

use super::View;
use super::most::{self, Most};
use super::together::{self, Ordered};
use crate::ids::{ClaimKey, ParentId, PciAddress, SliceId};
use crate::state::{Assignment, Claim, Phase};
use std::cell::OnceCell;
use std::collections::BTreeMap;

/// The claims that name each VF.
type Named<'a> = BTreeMap<PciAddress, Vec<(&'a ClaimKey, &'a Claim)>>;

/// Empty until it is asked.
#[derive(Default)]
pub struct Lookup<'a> {
    named: OnceCell<Named<'a>>,
    bound: OnceCell<BTreeMap<&'a ClaimKey, u32>>,
    ordered: OnceCell<BTreeMap<&'a ParentId, u32>>,
    on_devices: OnceCell<BTreeMap<ParentId, Ordered<'a>>>,
    most: OnceCell<Most>,
}

/// Mediated devices that are ordered and not there yet.
pub(super) fn ordered<'v, 'a>(view: &'v View<'a>) -> impl Iterator<Item = &'a Assignment> + 'v {
    let assignments = view.assignments.iter();
    let unseen = assignments.filter(|(slice, a)| match slice {
        SliceId::Mdev(uuid) => a.phase == Phase::Reserved && !view.seen.mdevs.contains_key(uuid),
        SliceId::Vf(_) | SliceId::Function(_) => false,
    });
    unseen.map(|(_, a)| a)
}

pub(super) fn counted<K: Ord>(keys: impl Iterator<Item = K>) -> BTreeMap<K, u32> {
    let mut counts = BTreeMap::new();
    for key in keys {
        *counts.entry(key).or_default() += 1;
    }
    counts
}

impl<'a> Lookup<'a> {
    /// The claims whose home each VF is.
    pub(super) fn named(&self, view: &View<'a>) -> &Named<'a> {
        self.named.get_or_init(|| {
            let mut named = Named::new();
            for (key, claim) in view.claims {
                for home in &claim.home {
                    named.entry(*home).or_default().push((key, claim));
                }
            }
            named
        })
    }

    /// How many slices each claim has. One that is removed already, and whose removal has not been told of, is in nobody's way.
    pub(super) fn bound(&self, view: &View<'a>) -> &BTreeMap<&'a ClaimKey, u32> {
        let gone = |slice: &SliceId, a: &Assignment| {
            a.phase == Phase::Releasing && slice.mdev().is_some() && !view.seen.has_slice(*slice)
        };
        self.bound.get_or_init(|| {
            let there = view.assignments.iter().filter(|(slice, a)| !gone(slice, a));
            counted(there.map(|(_, a)| &a.claim))
        })
    }

    /// How many mediated devices each parent has yet to make.
    pub(super) fn ordered(&self, view: &View<'a>) -> &BTreeMap<&'a ParentId, u32> {
        self.ordered.get_or_init(|| counted(ordered(view).map(|a| &a.parent)))
    }

    /// What those leave of each device.
    pub(super) fn on_devices(&self, view: &View<'a>) -> &BTreeMap<ParentId, Ordered<'a>> {
        self.on_devices.get_or_init(|| together::on_devices(view))
    }

    /// How many more mediated devices of each type each device could have that its VFs make.
    pub(super) fn most(&self, view: &View<'a>) -> &Most {
        self.most.get_or_init(|| most::of_devices(view))
    }
}
