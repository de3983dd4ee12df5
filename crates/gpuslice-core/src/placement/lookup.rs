//! What a placement asks of each of thousands of slices: found with one look at all claims and all assignments, when it is first
//! asked for.

use super::View;
use super::together::{self, Ordered};
use crate::ids::{ClaimKey, MdevTypeId, ParentId, PciAddress, SliceId};
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
    of_type: OnceCell<BTreeMap<(ParentId, &'a MdevTypeId), u32>>,
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

fn counted<K: Ord>(keys: impl Iterator<Item = K>) -> BTreeMap<K, u32> {
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

    /// How many slices each claim has.
    pub(super) fn bound(&self, view: &View<'a>) -> &BTreeMap<&'a ClaimKey, u32> {
        self.bound.get_or_init(|| counted(view.assignments.values().map(|a| &a.claim)))
    }

    /// How many mediated devices each parent has yet to make.
    pub(super) fn ordered(&self, view: &View<'a>) -> &BTreeMap<&'a ParentId, u32> {
        self.ordered.get_or_init(|| counted(ordered(view).map(|a| &a.parent)))
    }

    /// What those leave of each device.
    pub(super) fn on_devices(&self, view: &View<'a>) -> &BTreeMap<ParentId, Ordered<'a>> {
        self.on_devices.get_or_init(|| together::on_devices(view))
    }

    /// How many mediated devices of a type each device has, or is about to.
    pub(super) fn of_type(&self, view: &View<'a>) -> &BTreeMap<(ParentId, &'a MdevTypeId), u32> {
        self.of_type.get_or_init(|| {
            let made = view.seen.mdevs.values().map(|m| (&m.parent, &m.type_id));
            let ordered = ordered(view).filter_map(|a| Some((&a.parent, a.type_id.as_ref()?)));
            let all = made.chain(ordered);
            counted(all.map(|(parent, type_id)| (view.seen.device_of(parent), type_id)))
        })
    }
}
