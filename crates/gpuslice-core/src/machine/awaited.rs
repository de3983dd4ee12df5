//! What is still to come of the host, and whom it could serve: of a GPU that was there what it offered is remembered, one that
//! was never seen may be anything as long as the boot is young.

use super::{Effect, Machine, Stored, Timer};
use crate::ids::{ParentId, PciAddress, ProfileName};
use crate::layout;
use crate::request::START_LATER;
use std::collections::BTreeSet;

/// A slice that is asked for: of which profile, and which VF it is to be.
pub(super) type Needed = (ProfileName, Option<PciAddress>);

/// A device that is not there, or not yet as it is to be.
#[derive(Clone)]
pub(super) struct Awaited {
    pub device: ParentId,
    lacks: Lacks,
    /// In words.
    pub what: String,
}

/// What of it is to come.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Lacks {
    /// Itself.
    Device,
    /// Its driver, without which nobody works on it.
    Driver,
    /// Something that is on its way.
    Layout,
    /// Its driver's word that slices can be made on it, as they are offered.
    Ready,
}

impl Machine {
    /// All that is.
    pub(super) fn awaited(&self) -> Vec<Awaited> {
        let mut awaited = Vec::new();
        for (parent, layout) in &self.layouts {
            let given_up = self.durable.quarantines.contains_key(parent) || self.given_away(parent);
            let busy = self.reshaping(parent);
            if !given_up && (busy || !self.realised(parent, layout) && !self.drifted(parent)) {
                let (lacks, of) = match busy {
                    false if self.between_drivers(parent) => (Lacks::Driver, "a driver"),
                    false if self.looks.awaits_types(parent) => {
                        (Lacks::Layout, "types for its VFs")
                    }
                    _ => (Lacks::Layout, "its layout"),
                };
                let what = format!("{parent} to get {of} ({layout})");
                awaited.push(Awaited { device: parent.clone(), lacks, what });
            }
        }
        let here = self.all_not_ready().filter(|device| self.seen.has_parent(device));
        awaited.extend(here.map(|device| {
            let what = super::ready::awaited(device);
            Awaited { device: device.clone(), lacks: Lacks::Ready, what }
        }));
        let absent = |device: ParentId| {
            let what = match self.other_at(&device) {
                Some(other) => format!("{device} to appear, where {other} is now"),
                None => format!("{device} to appear"),
            };
            Awaited { device, lacks: Lacks::Device, what }
        };
        let expected = self.durable.expected.keys().filter(|p| self.is_away(p)).cloned();
        awaited.extend(expected.map(absent));
        let unmet = layout::resolve(&self.durable.rules, &self.seen).unmet;
        let exact = unmet.iter().filter_map(|r| r.matches.address).map(ParentId::Pci);
        let whole = |p: &ParentId| p.pci().is_some_and(|a| self.seen.whole.contains_key(&a));
        let unknown = exact.filter(|p| !self.durable.expected.contains_key(p) && !whole(p));
        awaited.extend(unknown.map(absent));
        awaited
    }

    /// What of it could be what somebody asks for: a home is where its VF is, or was when it was last seen; of everything else it
    /// is known that it has the profile, or nothing is known and there is time.
    pub(super) fn may_come(&self, profile: &ProfileName, vf: Option<PciAddress>) -> Vec<Awaited> {
        let mut awaited = self.awaited();
        if awaited.is_empty() {
            return awaited;
        }
        if let Some(device) = vf.and_then(|vf| self.device_of_vf(vf)) {
            awaited.retain(|other| other.device == device);
            return awaited;
        }
        let here = self.view().devices_offering(profile);
        awaited.retain(|other| {
            here.contains(&other.device)
                || match self.offered_by(&other.device) {
                    Some(offered) => offered.contains(profile),
                    None => self.may_be_anything(other),
                }
        });
        awaited
    }

    /// Whether nothing but hope tells that these could be of use.
    pub(super) fn none_is_known(&self, awaited: &[Awaited]) -> bool {
        awaited.iter().all(|other| {
            matches!(other.lacks, Lacks::Device | Lacks::Driver)
                && self.offered_by(&other.device).is_none()
        })
    }

    /// Devices for which somebody may go on waiting.
    pub(super) fn still_awaited(&self) -> BTreeSet<ParentId> {
        let known = |other: &Awaited| {
            let lives = |device| other.device == ParentId::Pci(device);
            other.lacks == Lacks::Ready
                || self.may_be_anything(other)
                || self.offered_by(&other.device).is_some()
                || self.durable.places.values().any(|place| lives(place.pf))
        };
        let awaited = self.awaited().into_iter().filter(known).map(|other| other.device);
        let yielded = self.durable.yielded.values().flatten();
        let away = yielded.filter(|parent| !self.seen.mdev_parents.contains_key(parent));
        awaited.chain(away.cloned()).collect()
    }

    /// What of it changes which slices there are, and soon.
    pub(super) fn in_the_making(&self) -> impl Iterator<Item = Awaited> {
        // One that tells nothing, however often it is looked at, is not made by waiting.
        let silent = |device: &ParentId| {
            let looked_at = self.looks.lasting() && !self.layout_under_way(device);
            looked_at && self.lacking(device).is_some()
        };
        let made = move |other: &Awaited| self.may_be_anything(other) && !silent(&other.device);
        self.awaited().into_iter().filter(made)
    }

    fn may_be_anything(&self, awaited: &Awaited) -> bool {
        match awaited.lacks {
            Lacks::Device | Lacks::Driver => self.boot_is_young,
            Lacks::Layout => true,
            Lacks::Ready => false,
        }
    }

    /// Whether something is on its way that could have a profile.
    pub(super) fn comes_soon(&self, profile: &ProfileName) -> bool {
        !self.observed
            || self.may_come(profile, None).iter().any(|other| self.may_be_anything(other))
    }

    pub(super) fn device_of_vf(&self, vf: PciAddress) -> Option<ParentId> {
        let recorded = || Some(ParentId::Pci(self.durable.places.get(&vf)?.pf));
        self.seen.pf_of(&ParentId::Pci(vf)).or_else(recorded)
    }

    /// What a device offered when it was last as its layout says. Of one that is here and has another layout now, that says nothing.
    fn offered_by(&self, device: &ParentId) -> Option<&BTreeSet<ProfileName>> {
        let was = self.durable.expected.get(device)?;
        let same = self.layouts.get(device).is_none_or(|layout| layout == was);
        self.durable.offered.get(device).filter(|_| same)
    }

    /// Adds what devices offer that are as their layouts say, once after each reading. What a driver does not name for a while is
    /// not forgotten.
    pub(super) fn remember_offered(&mut self) {
        if self.durable.expected.is_empty() || !std::mem::take(&mut self.offers_due) {
            return;
        }
        let so = |device: &ParentId| {
            let layout = self.layouts.get(device);
            layout.is_some_and(|now| {
                self.durable.expected.get(device) == Some(now) && self.realised(device, now)
            })
        };
        let offers = self.offers();
        let all = offers.iter().map(|offer| (self.seen.device_of(&offer.parent), &offer.profile));
        let news = all.filter(|(device, profile)| {
            let offered = self.durable.offered.get(device);
            offered.is_none_or(|offered| !offered.contains(profile)) && so(device)
        });
        let news: Vec<(ParentId, ProfileName)> =
            news.map(|(device, profile)| (device, profile.clone())).collect();
        for (device, profile) in news {
            self.durable.offered.entry(device).or_default().insert(profile);
            self.dirty.insert(Stored::Durable);
        }
    }

    /// Of what is no longer expected nothing is remembered.
    pub(super) fn forget_offered(&mut self) {
        let expected = &self.durable.expected;
        self.durable.offered.retain(|device, _| expected.contains_key(device));
    }

    /// A boot that is as old as this has brought what it brings in as long as a start is made up for: whatever has not come by
    /// then, and of which nothing tells that it would be of use, keeps nobody waiting.
    pub(super) fn await_boot(&mut self, uptime_ms: u64) {
        let after = START_LATER.saturating_sub(uptime_ms);
        self.boot_is_young = after != 0;
        if self.boot_is_young {
            self.push(Effect::Arm { timer: Timer::Boot, after });
        }
    }
}
