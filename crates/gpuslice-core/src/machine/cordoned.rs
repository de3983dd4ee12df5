//! GPUs that nobody gets anything of because somebody said so: how that is said and taken back, and where they could serve a
//! claim, that this is what is said.

use super::claims::done;
use super::{Machine, Stored};
use crate::ids::{ClaimKey, ParentId, PciAddress, ProfileName};
use crate::mechanism::Fabric;
use crate::mend;
use crate::numa::Within;
use crate::placement::{self, View, Wanted};
use crate::refusal::{Code, Hint, Refusal};
use crate::request::Outcome;
use crate::state::Durable;
use std::collections::{BTreeMap, BTreeSet};

impl Machine {
    pub(super) fn cordon(&mut self, parent: ParentId, reason: String) -> Outcome {
        self.require_parent(&parent)?;
        if self.durable.cordons.get(&parent) == Some(&reason) {
            return Ok(done(false, "already so"));
        }
        let message = format!("{parent} is given to no new VM");
        self.note("parent", &parent, "cordoned");
        self.durable.cordons.insert(parent, reason);
        self.persist(Stored::Durable);
        Ok(done(true, &message))
    }

    pub(super) fn uncordon(&mut self, parent: &ParentId) -> Outcome {
        let Durable { cordons, quarantines, health, .. } = &self.durable;
        if let Some(why) = quarantines.get(parent)
            && self.stuck_parents().contains(parent)
        {
            return Err(why.clone());
        }
        let kept_back = cordons.contains_key(parent)
            || quarantines.contains_key(parent)
            || health.contains_key(parent);
        let dirty = self.run.dirty.values().any(|dirt| dirt.parent == *parent);
        if !kept_back && !dirty {
            self.require_parent(parent)?;
        }
        let cordoned = self.durable.cordons.remove(parent).is_some();
        let quarantined = self.lift_quarantine(parent);
        self.park_failed.clear();
        self.note_well(parent);
        self.slices_are_well(parent);
        self.wipe_again();
        if !kept_back {
            let again = "its slices that are not clean are cleaned again";
            return Ok(done(false, if dirty { again } else { "already so" }));
        }
        self.persist(Stored::Durable);
        self.note("parent", parent, "given out again");
        let what = match (quarantined, cordoned) {
            (true, _) => "the quarantine",
            (false, true) => "the cordon",
            (false, false) => "what the kernel's log said",
        };
        Ok(done(true, &format!("{what} of {parent} is lifted")))
    }

    /// Why a claim has nothing where nobody's end makes room for it, and GPUs would have it that are cordoned.
    pub(super) fn all_cordoned(
        &self,
        key: &ClaimKey,
        profile: &ProfileName,
        count: u32,
        candidates: &[(ParentId, Refusal)],
    ) -> Option<Refusal> {
        const MOST: usize = 4;
        let is = |code| candidates.iter().any(|(_, why)| why.code == code);
        let within = Within::Anywhere;
        if !is(Code::Cordoned)
            || is(Code::Reshaping)
            || self.room_by_ends(key, profile, count, &within).is_some()
        {
            return None;
        }
        let uncordon = self.uncordon_for(&Wanted::anywhere(profile, key), count)?;
        let mut whys: Vec<&str> = candidates.iter().map(|(_, why)| why.message.as_str()).collect();
        whys.dedup();
        let more = whys.len().saturating_sub(MOST);
        let message =
            format!("{profile}: wanted {count}, and GPUs that could serve it are cordoned");
        let mut refusal = Refusal::new(Code::Cordoned, message).hint(uncordon);
        refusal.causes.extend(whys.into_iter().take(MOST).map(str::to_owned));
        Some(if more == 0 { refusal } else { refusal.because(format!("and {more} more")) })
    }

    /// The same where all is to be of one fabric.
    pub(super) fn uncordon_one_of(
        &self,
        fabrics: &[Fabric],
        key: &ClaimKey,
        profile: &ProfileName,
        count: u32,
        within: &Within,
    ) -> Option<Hint> {
        if self.room_by_ends(key, profile, count, within).is_some() {
            return None;
        }
        fabrics.iter().find_map(|fabric| {
            let fabric = Some(fabric);
            let wanted = Wanted { fabric, within, ..Wanted::anywhere(profile, key) };
            self.uncordon_for(&wanted, count)
        })
    }

    /// Has as many GPUs given out again as serve a claim then.
    pub(super) fn uncordon_for(&self, wanted: &Wanted<'_>, count: u32) -> Option<Hint> {
        let offering = self.view().devices_offering(wanted.profile);
        let mut cordons = self.durable.cordons.clone();
        let mut served = self.could_have(wanted, count, &cordons);
        let mut lifted = Vec::new();
        for (parent, reason) in &self.durable.cordons {
            if served >= count {
                break;
            }
            if !offering.contains(&self.seen.device_of(parent)) {
                continue;
            }
            cordons.remove(parent);
            let more = self.could_have(wanted, count, &cordons);
            if more > served {
                served = more;
                lifted.push(mend::uncordon(parent));
            } else {
                cordons.insert(parent.clone(), reason.clone());
            }
        }
        Hint::in_turn(lifted).filter(|_| served >= count)
    }

    /// How many slices a claim could have, up to so many, were only these cordoned.
    pub(super) fn could_have(
        &self,
        wanted: &Wanted<'_>,
        count: u32,
        cordons: &BTreeMap<ParentId, String>,
    ) -> u32 {
        let view = View { cordons, ..self.view() };
        if view.is_made(wanted.profile) {
            return self.mdevs_of(view, wanted).min(count);
        }
        let known = wanted.key.and_then(|key| self.durable.claims.get(key));
        let pool = known.is_some_and(|claim| claim.pool);
        let mut homes: BTreeSet<PciAddress> = BTreeSet::new();
        let mut have = 0;
        while have < count
            && let Ok(home) = placement::home(&view, wanted, pool, &homes)
        {
            homes.insert(home.address);
            have += 1;
        }
        have
    }

    /// How many mediated devices a start could have.
    fn mdevs_of<'a>(&'a self, view: View<'a>, wanted: &Wanted<'_>) -> u32 {
        let Wanted { profile, key, fabric, within, .. } = *wanted;
        let most = key.map(|key| view.most_of_each(key, profile)).unwrap_or_default();
        let reserved = view.reserved_elsewhere(wanted);
        let devices = view.devices_offering(profile);
        let spare = self.spare_in(view);
        let inside = |device: &&ParentId| {
            fabric.is_none_or(|fabric| fabric.parents.contains(device))
                && self.is_within(device, within)
        };
        let on = |device: &ParentId| {
            let free = self.free_mdevs(&spare, &|other| other == device).remove(profile);
            // A start that is refused gives back what it has reserved.
            let own = key.map_or(0, |key| self.reserved_for(key, profile, &|on| on == device));
            let free = free.unwrap_or_default().saturating_add(own);
            most.get(device).map_or(free, |most| free.min(*most))
        };
        let all = devices.iter().filter(inside).map(on).fold(0, u32::saturating_add);
        all.saturating_sub(reserved)
    }
}
