//! What is offered of a profile, and by which devices.

use super::View;
use crate::ids::{ParentId, ProfileName};
use crate::mechanism::Offer;
use std::collections::BTreeSet;

impl View<'_> {
    /// What is offered of a profile, whether anything of it is given out now or not.
    pub(crate) fn of_profile<'v>(
        &'v self,
        profile: &'v ProfileName,
    ) -> impl Iterator<Item = &'v Offer> {
        self.offers.iter().filter(|offer| offer.profile == *profile)
    }

    /// The devices that offer a profile, whether they give anything out now or not: what VFs offer is their GPU's.
    pub(crate) fn devices_offering(&self, profile: &ProfileName) -> BTreeSet<ParentId> {
        self.devices_of(self.of_profile(profile))
    }

    /// What a claim could be given of a profile as devices are now: none of those that are cordoned, quarantined or being
    /// laid out.
    pub(crate) fn given_of_profile<'v>(
        &'v self,
        profile: &'v ProfileName,
    ) -> impl Iterator<Item = &'v Offer> {
        self.of_profile(profile).filter(|offer| self.parent_reason(&offer.parent).is_none())
    }

    /// The devices of these offers.
    pub(crate) fn devices_of<'o>(
        &self,
        offers: impl Iterator<Item = &'o Offer>,
    ) -> BTreeSet<ParentId> {
        offers.map(|offer| self.seen.device_of(&offer.parent)).collect()
    }

    /// Whether slices of a profile are made as mediated devices, when a VM starts: such a claim has no home.
    pub(crate) fn is_made(&self, profile: &ProfileName) -> bool {
        self.of_profile(profile).any(|offer| offer.form.is_mdevs())
    }
}
