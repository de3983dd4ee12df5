//! How many slices of a device one VM can have: where a driver starts only so many for one process, more are refused before
//! QEMU fails with them.

use super::{View, Wanted};
use crate::ids::{ClaimKey, MdevTypeId, ParentId, PciAddress, ProfileName, SliceId};
use crate::mechanism::{Form, Offer};
use crate::mend;
use crate::refusal::{Code, Refusal};
use crate::state::{Assignment, Phase};
use std::collections::BTreeMap;

/// Why a VM can have none of what is offered beside these, which it has of the same device.
fn too_many(view: &View<'_>, offer: &Offer, beside: &[&ProfileName]) -> Option<Refusal> {
    (most_beside(view, offer, beside)? == 0).then(|| {
        let device = view.seen.device_of(&offer.parent);
        let message = format!("the driver of {device} starts no more of its slices in one VM");
        Refusal::new(Code::Unsupported, message)
    })
}

/// How many more it can have, where a driver says so.
fn most_beside(view: &View<'_>, offer: &Offer, beside: &[&ProfileName]) -> Option<u32> {
    let device = view.seen.device_of(&offer.parent);
    let most = |profile: &&ProfileName| {
        let own = |offer: &&Offer| view.seen.device_of(&offer.parent) == device;
        view.of_profile(profile).find(own).and_then(|offer| offer.per_vm)
    };
    let most = beside.iter().filter_map(most).chain(offer.per_vm).min()?;
    Some(most.saturating_sub(u32::try_from(beside.len()).unwrap_or(u32::MAX)))
}

/// Why the VM of a claim can have none of an offer beside what it is being started with.
pub(super) fn at_start(
    view: &View<'_>,
    offer: &Offer,
    key: &ClaimKey,
    slice: Option<SliceId>,
) -> Option<Refusal> {
    let device = view.seen.device_of(&offer.parent);
    let untold = view.seen.is_untold(&device);
    if offer.per_vm.is_none() && !untold {
        return None;
    }
    let beside = of_start(view, key, &device, &|other, _| Some(other) != slice);
    // One alone starts in any case.
    if untold && !beside.is_empty() {
        let message = format!("how many slices of {device} one VM can have is not told yet");
        return Some(Refusal::new(Code::NotSettled, message).hint(mend::when_it_is_read()));
    }
    too_many(view, offer, &beside)
}

/// What the VM of a claim has of a device, or is being started with, as far as it counts.
fn of_start<'v>(
    view: &View<'v>,
    key: &ClaimKey,
    device: &ParentId,
    counts: &dyn Fn(SliceId, &Assignment) -> bool,
) -> Vec<&'v ProfileName> {
    let has = view.assignments.iter().filter(|(slice, a)| {
        a.claim.owner == key.owner
            && counts(**slice, a)
            && a.phase != Phase::Releasing
            && view.seen.device_of(&a.parent) == *device
    });
    has.map(|(_, a)| &a.profile).collect()
}

/// Why a claim can have no home of an offer beside its own homes there and those of its VM's other claims.
pub(super) fn at_home(
    view: &View<'_>,
    offer: &Offer,
    wanted: &Wanted<'_>,
    mine: usize,
) -> Option<Refusal> {
    offer.per_vm?;
    let device = view.seen.device_of(&offer.parent);
    let mut living = of_others(view, wanted.key?, &device);
    living.extend(std::iter::repeat_n(wanted.profile, mine));
    too_many(view, offer, &living)
}

/// What other claims of a VM are certain to have of a device.
fn of_others<'v>(view: &View<'v>, key: &ClaimKey, device: &ParentId) -> Vec<&'v ProfileName> {
    let others = view
        .claims
        .iter()
        .filter(|(other, claim)| other.owner == key.owner && *other != key && !claim.orphaned);
    let there =
        |address: &&PciAddress| view.seen.pf_of(&ParentId::Pci(**address)).as_ref() == Some(device);
    let alone = |profile: &ProfileName| view.devices_offering(profile).iter().eq([device]);
    let count = |profile: &ProfileName, homes: &[PciAddress], asked: u32| match homes {
        [] if alone(profile) => usize::try_from(asked).unwrap_or(usize::MAX),
        homes => homes.iter().filter(there).count(),
    };
    let each = others.flat_map(|(_, claim)| {
        let times = count(&claim.profile, &claim.home, claim.request.count);
        std::iter::repeat_n(&claim.profile, times)
    });
    each.collect()
}

impl View<'_> {
    /// The most slices of a profile that a claim's VM could have at once on all devices here, where their drivers say so.
    pub fn most_in_one_vm(&self, key: &ClaimKey, profile: &ProfileName) -> Option<u32> {
        let mut devices: Vec<ParentId> = Vec::new();
        let mut all: Option<u32> = None;
        for offer in self.of_profile(profile) {
            let device = self.seen.device_of(&offer.parent);
            if !devices.contains(&device) {
                offer.per_vm?;
                let more = most_beside(self, offer, &of_others(self, key, &device))?;
                all = Some(all.unwrap_or(0).saturating_add(more));
                devices.push(device);
            }
        }
        all
    }

    /// The most slices of a profile that a claim could have of each device beside what else its VM has there, where the
    /// drivers say so.
    pub fn most_of_each(&self, key: &ClaimKey, profile: &ProfileName) -> BTreeMap<ParentId, u32> {
        let mut most = BTreeMap::new();
        for offer in self.of_profile(profile).filter(|offer| offer.per_vm.is_some()) {
            let device = self.seen.device_of(&offer.parent);
            if most.contains_key(&device) {
                continue;
            }
            let beside = match offer.form {
                // Those of a start that is refused are given back.
                Form::Mdevs { .. } => of_start(self, key, &device, &|_, a| !a.is_reserved_for(key)),
                _ => of_others(self, key, &device),
            };
            most.extend(most_beside(self, offer, &beside).map(|more| (device, more)));
        }
        most
    }

    /// Whether a claim could live on a VF beside these homes of its own.
    pub fn may_live(
        &self,
        key: &ClaimKey,
        profile: &ProfileName,
        home: PciAddress,
        beside: &[PciAddress],
    ) -> bool {
        let wanted = Wanted::anywhere(profile, key);
        let mut offers = self.of_profile(profile);
        offers.find(|offer| offer.form.vfs().contains(&home)).is_none_or(|offer| {
            let mine = beside.iter().filter(|other| offer.form.vfs().contains(other)).count();
            at_home(self, offer, &wanted, mine).is_none()
        })
    }

    /// Why the VM of a claim cannot have a mediated device that is there.
    pub(crate) fn too_many_with(
        &self,
        key: &ClaimKey,
        parent: &ParentId,
        type_id: &MdevTypeId,
    ) -> Option<Refusal> {
        let made = |offer: &&Offer| match &offer.form {
            Form::Mdevs { type_id: of, .. } => offer.parent == *parent && of == type_id,
            _ => false,
        };
        at_start(self, self.offers.iter().find(made)?, key, None)
    }
}
