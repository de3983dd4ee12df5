//! One slice of a start: which it is to be, and what makes it ready.

use super::ops::{Op, Purpose};
use super::ready;
use super::settled::settled_later;
use super::{Effect, Machine, OpId, Stored, Timer};
use crate::domain::HostDeviceSource;
use crate::execute::{Meaning, StepError};
use crate::hint;
use crate::history::Ending;
use crate::ids::{ClaimKey, MdevUuid, Parameters, ParentId, PciAddress, ProfileName, SliceId};
use crate::mechanism::{Fabric, MDEV};
use crate::mend;
use crate::numa::Within;
use crate::observation::Mdev;
use crate::placement::{self, Place, Refused, Wanted};
use crate::plan::Step;
use crate::refusal::{Code, Hint, Refusal};
use crate::state::{Assignment, Phase};
use std::collections::{BTreeMap, BTreeSet};

/// One slice a domain must get.
pub(super) struct Want {
    pub key: ClaimKey,
    pub index: u32,
    /// Of how many.
    pub count: u32,
    pub profile: ProfileName,
    pub source: HostDeviceSource,
    pub parameters: Option<Parameters>,
    pub managed: bool,
    /// It runs already.
    pub hotplug: bool,
}

/// Where the slices of a claim are to be.
#[derive(Clone, Copy)]
pub(super) struct Near<'a> {
    /// The NUMA node of the first, where the others had better be.
    pub numa: Option<u32>,
    /// Nowhere else.
    pub fabric: Option<&'a Fabric>,
    /// Nor on other NUMA nodes.
    pub within: &'a Within,
}

impl Machine {
    /// Reserves one slice.
    pub(super) fn reserve(
        &mut self,
        want: &Want,
        near: Near<'_>,
    ) -> Result<(SliceId, Vec<Step>), Refusal> {
        let (slice, mut assignment) = match want.source {
            HostDeviceSource::Mdev(uuid) => {
                let slice = SliceId::Mdev(uuid);
                let present = self
                    .run
                    .assignments
                    .get(&slice)
                    .filter(|a| self.seen.made_by(slice) == Some(&a.parent));
                let assignment = match present {
                    // A start that was never followed by a release: the device is still this claim's.
                    Some(present) => {
                        Assignment { phase: Phase::Reserved, ending: None, ..present.clone() }
                    }
                    None => self.place_mdev(want, uuid, near)?,
                };
                (slice, assignment)
            }
            HostDeviceSource::Pci(address) => {
                let assignment = self.place_vf(want, address).map_err(|why| {
                    match self.is_far_whatever_ends(address, near.within, why.code) {
                        true => self.of_another_node(want, address, near.within),
                        false => why,
                    }
                })?;
                let inside = |f: &Fabric| f.parents.contains(&assignment.parent);
                if !near.fabric.is_none_or(inside) {
                    return Err(self.of_another_fabric(want, address));
                }
                if !self.is_within(&assignment.parent, near.within) {
                    return Err(self.of_another_node(want, address, near.within));
                }
                (SliceId::Vf(address), assignment)
            }
        };
        assignment.hotplug = want.hotplug;
        assignment.parameters.clone_from(&want.parameters);
        if let Some(why) = self.place_refused(want, slice, &assignment) {
            return Err(why);
        }
        let mut steps = self
            .mechanism_of(&assignment)
            .map(|m| m.prepare_steps(slice, &assignment, self.layouts.get(&assignment.parent)))
            .unwrap_or_default();
        let sets = |step: &Step| matches!(step, Step::SetParameters { .. });
        if want.parameters.is_some() && !steps.iter().any(sets) {
            return Err(self.takes_no_parameters(&want.key, &want.profile));
        }
        if let (true, Some(function)) = (self.run.lost.is_some(), slice.pci()) {
            // Perhaps it is another's of whom no record tells. The step is there for a binding that is libvirt's.
            steps.insert(0, Step::RequireUnheld { function });
        }
        let before = self.run.assignments.insert(slice, assignment);
        let ran = before.is_some_and(|before| before.phase == Phase::Attached);
        self.tenure_ends(slice, if ran { Ending::StartedAgain } else { Ending::StartFailed });
        Ok((slice, steps))
    }

    pub(super) fn takes_no_parameters(&self, key: &ClaimKey, profile: &ProfileName) -> Refusal {
        let message = format!("{profile} takes no parameters");
        let hint =
            hint!("virsh edit {}: no parameters in claim {}", self.owner_name(key), key.name);
        Refusal::new(Code::Unsupported, message).hint(hint)
    }

    /// All slices of a start are reserved: what was to become of their last run is no longer the question. Of a start
    /// that is refused it still is.
    pub(super) fn reserved(&mut self, slices: &[SliceId]) {
        for slice in slices {
            self.push(Effect::Disarm { timer: Timer::Grace(*slice) });
            self.presumed_dead.remove(slice);
        }
    }

    fn place_mdev(
        &self,
        want: &Want,
        uuid: MdevUuid,
        near: Near<'_>,
    ) -> Result<Assignment, Refusal> {
        if let Some(there) = self.seen.mdevs.get(&uuid) {
            if self.is_parked(SliceId::Mdev(uuid)) {
                return self.place_parked(want, there);
            }
            return Err(Refusal::new(
                Code::Foreign,
                format!(
                    "mdev {uuid} exists already on {} and was not made by gpuslice",
                    there.parent
                ),
            )
            .hint(mend::stop_mdev(uuid)));
        }
        let Near { numa, fabric, within } = near;
        let wanted = Wanted { numa, fabric, within, ..Wanted::anywhere(&want.profile, &want.key) };
        let (parent, type_id) =
            placement::mdev(&self.view(), &wanted, &BTreeMap::new()).map_err(|refused| {
                match refused {
                    Refused::NoSuchProfile { nearest: Some(nearest) }
                        if nearest == want.profile =>
                    {
                        self.not_as_mdev(want)
                    }
                    refused => {
                        let Want { key, profile, count, .. } = want;
                        self.refuse_placement(key, profile, *count, within, refused)
                    }
                }
            })?;
        Ok(assignment_of(want, Place { parent, mechanism: MDEV, type_id: Some(type_id) }))
    }

    /// A device that was picked is taken as it stands.
    fn place_parked(&self, want: &Want, there: &Mdev) -> Result<Assignment, Refusal> {
        let view = self.view();
        if let Some(why) = view.parent_reason(&there.parent) {
            return Err(why);
        }
        if let Some(why) = view.too_many_with(&want.key, &there.parent, &there.type_id) {
            return Err(why.hint(self.fewer_in_one_vm(&want.key, &want.profile, want.count)));
        }
        Ok(assignment_of(
            want,
            Place {
                parent: there.parent.clone(),
                mechanism: MDEV,
                type_id: Some(there.type_id.clone()),
            },
        ))
    }

    /// What the XML carries is of different fabrics, and the claim asks for one.
    fn of_another_fabric(&self, want: &Want, address: PciAddress) -> Refusal {
        let (name, profile, claim) = (self.owner_name(&want.key), &want.profile, &want.key.name);
        let message =
            format!("VF {address} of claim {claim} in {name} is not of the fabric of the others");
        Refusal::new(Code::NotInXml, message)
            .hint(mend::attach_linked(&name, profile, claim, want.count))
    }

    /// The profile is there, but as VFs: the device in the XML is of another kind.
    fn not_as_mdev(&self, want: &Want) -> Refusal {
        let (name, profile, claim) = (self.owner_name(&want.key), &want.profile, &want.key.name);
        let message =
            format!("{name} carries an mdev for claim {claim}, but {profile} comes as a VF");
        Refusal::new(Code::NotInXml, message).hint(self.attach_again(&want.key, profile))
    }

    fn place_vf(&self, want: &Want, address: PciAddress) -> Result<Assignment, Refusal> {
        let place = placement::vf(&self.view(), &want.profile, &want.key, address, want.managed)
            .map_err(|why| {
                let why = self.or_not_settled_at(&want.profile, Some(address), why);
                if why.hint.is_some() {
                    return why;
                }
                self.offered_no_more(want, address, &why)
                    .unwrap_or_else(|| self.mend_vf(want, address, why))
            })?;
        Ok(assignment_of(want, place))
    }

    /// A VF is not there, and no other could be what its claim asks for: its GPU has the layout no more that made it so.
    fn offered_no_more(&self, want: &Want, vf: PciAddress, why: &Refusal) -> Option<Refusal> {
        let Want { key, profile, count, .. } = want;
        if why.code != Code::Absent || self.view().of_profile(profile).next().is_some() {
            return None;
        }
        let wanted = Wanted::anywhere(profile, key);
        let none = placement::home(&self.view(), &wanted, false, &BTreeSet::new()).err()?;
        let refusal = self.refuse_placement(key, profile, *count, &Within::Anywhere, none);
        if refusal.code != Code::NoProfile {
            return None;
        }
        let refusal = refusal.because(why.message.clone());
        let place = self.durable.places.get(&vf);
        let makes_none = |pf: &PciAddress| {
            let sriov = self.seen.functions.get(pf).and_then(|function| function.sriov.as_ref());
            sriov.is_some_and(|sriov| sriov.vfs.is_empty())
        };
        Some(match place.map(|place| place.pf).filter(makes_none) {
            Some(pf) => refusal.hint(mend::write_layout(pf)),
            None => refusal,
        })
    }

    /// The next step for a VF that a claim cannot have.
    fn mend_vf(&self, want: &Want, address: PciAddress, why: Refusal) -> Refusal {
        let slice = SliceId::Vf(address);
        let Want { key, profile, .. } = want;
        let pf = self.seen.vfs.get(&address).map(|vf| vf.pf);
        let hint = match why.code {
            Code::Taken => self.run.assignments.get(&slice).map(|a| self.end_use(slice, a)),
            Code::Held => self.run.foreign.get(&slice).map(Self::end_hold),
            Code::NoCapacity => {
                let device = pf.map(ParentId::Pci);
                let only = |other: &ParentId| device.as_ref().is_none_or(|device| device == other);
                self.room_at_start(key, profile, 1, &only)
            }
            Code::NoProfile => Some(mend::another_profile(&self.owner_name(key), &key.name)),
            Code::Unsupported => Some(self.fewer_in_one_vm(key, profile, want.count)),
            Code::Managed => Some(hint!(
                "virsh edit {}: managed='no' in the hostdev of {}",
                self.owner_name(key),
                address
            )),
            Code::Foreign => {
                let layout = || Some(mend::write_layout(pf?));
                self.take_type(want, address).or_else(layout)
            }
            // Another VF has to come into the XML.
            Code::Absent => {
                let attach = self.attach_again(key, profile);
                let free = self.has_free_home(key, profile);
                let room = (!free).then(|| self.room_for(key, profile, want.count));
                Some(room.map_or_else(|| attach.clone(), |room| hint!("{}, then {}", room, attach)))
            }
            _ => None,
        };
        let hint = hint.unwrap_or_else(|| self.room_for(key, profile, want.count));
        why.hint(hint)
    }

    /// Takes the type from a VF that somebody else gave it.
    fn take_type(&self, want: &Want, address: PciAddress) -> Option<Hint> {
        let view = self.view();
        let offer =
            view.of_profile(&want.profile).find(|offer| offer.form.vfs().contains(&address))?;
        let attribute = self.mechanism(&offer.parent)?.type_attribute()?;
        Some(mend::take_type(address, attribute))
    }

    /// Whether a VF is left that a claim could have as its home, and start with.
    pub(super) fn has_free_home(&self, key: &ClaimKey, profile: &ProfileName) -> bool {
        let within = self.within_of(key);
        let wanted = Wanted { within: &within, ..Wanted::anywhere(profile, key) };
        let view = self.view();
        let home = placement::home(&view, &wanted, false, &BTreeSet::new());
        home.is_ok_and(|home| placement::vf(&view, profile, key, home.address, false).is_ok())
    }

    /// A device did not make what it seemed to have room for: another may.
    ///
    /// # Errors
    /// What to tell whoever waits, when there is none.
    pub(super) fn place_elsewhere(
        &mut self,
        op: OpId,
        step: &Step,
        error: &StepError,
    ) -> Result<(), Refusal> {
        let plain = self.explain_failed_prepare(step, error);
        let meaning = error.meaning(step);
        let Step::CreateMdev { parent, uuid, not_ready, .. } = step else { return Err(plain) };
        // One that may have been made is to be found where it was tried, and removed.
        if meaning == Meaning::Others || matches!(error, StepError::Unchanged { .. }) {
            return Err(plain);
        }
        let slice = SliceId::Mdev(*uuid);
        // Nor do its VFs, one by one.
        let awaited = self.awaits_ready(step).filter(|_| meaning == Meaning::Later);
        let with = |device: &ParentId| {
            let parents = self.seen.mdev_parents.keys();
            parents.filter(|p| self.seen.device_of(p) == *device).cloned().collect::<Vec<_>>()
        };
        let with = awaited.as_ref().map(with).unwrap_or_default();
        let Some(Op { purpose: Purpose::Prepare { request: Some(_), refused, .. }, .. }) =
            self.ops.get_mut(&op)
        else {
            return Err(plain);
        };
        let Some(mut assignment) = self.run.assignments.remove(&slice) else { return Err(plain) };
        let (code, how) = match meaning {
            Meaning::Full => (Code::NoCapacity, "has no room for one more"),
            _ if awaited.is_some() => (Code::NotSettled, "is not ready yet"),
            _ => (Code::DeviceFailed, "did not make one"),
        };
        let device = awaited.as_ref().unwrap_or(parent);
        let why = Refusal::new(code, format!("{device} {how}: {error}"));
        refused.extend(with.into_iter().map(|other| (other, why.clone())));
        refused.insert(parent.clone(), why);
        let refused = refused.clone();
        let profile = assignment.profile.clone();
        let fabric = self.fabric_of_others(slice, &assignment.claim);
        let within = self.within_of(&assignment.claim);
        let anywhere = Wanted::anywhere(&profile, &assignment.claim);
        let wanted = Wanted { fabric: fabric.as_ref(), within: &within, ..anywhere };
        let placed = placement::mdev(&self.view(), &wanted, &refused);
        if let Ok((other, type_id)) = &placed {
            assignment.parent = other.clone();
            assignment.type_id = Some(type_id.clone());
            if let Some(op) = self.ops.get_mut(&op) {
                let (parent, type_id) = (other.clone(), type_id.clone());
                op.steps.pop_front();
                let (uuid, not_ready) = (*uuid, not_ready.clone());
                op.steps.push_front(Step::CreateMdev { parent, type_id, uuid, not_ready });
            }
        }
        self.run.assignments.insert(slice, assignment);
        self.persist(Stored::Runtime);
        placed.map(|_| ()).map_err(|why| {
            let claim = self.run.assignments.get(&slice).map(|a| a.claim.clone());
            let room = claim.map(|key| self.room_for(&key, &profile, 1));
            refused_everywhere(&profile, why, &refused, plain, room)
        })
    }
}

/// What is reserved for it there.
fn assignment_of(want: &Want, place: Place) -> Assignment {
    Assignment {
        claim: want.key.clone(),
        index: want.index,
        parent: place.parent,
        profile: want.profile.clone(),
        mechanism: place.mechanism.to_owned(),
        type_id: place.type_id,
        parameters: want.parameters.clone(),
        managed: want.managed,
        hotplug: want.hotplug,
        phase: Phase::Reserved,
        trouble: None,
        ending: None,
    }
}

/// What stands against each device that could have made one; more than a few are only counted.
fn refused_everywhere(
    profile: &ProfileName,
    refused: Refused,
    tried: &BTreeMap<ParentId, Refusal>,
    plain: Refusal,
    room: Option<Hint>,
) -> Refusal {
    const MOST: usize = 4;
    let Refused::Candidates(mut candidates) = refused else { return plain };
    candidates.sort_by_key(|(parent, _)| !tried.contains_key(parent));
    let mut reasons: Vec<String> = candidates.iter().map(|(_, why)| why.message.clone()).collect();
    // The VFs of a card that is cordoned as a whole all say the same.
    reasons.dedup();
    let more = reasons.len().saturating_sub(MOST);
    reasons.truncate(MOST);
    let awaited = candidates.iter().find(|(_, why)| why.code == Code::NotSettled);
    let mut refusal = if let Some((device, _)) = awaited {
        Refusal { causes: Vec::new(), ..settled_later(&ready::awaited(device), String::new()) }
    } else if candidates.iter().any(|(_, why)| why.code == Code::DeviceFailed) {
        Refusal { causes: Vec::new(), ..plain }
    } else {
        let message = format!("no device here has room for one more {profile}");
        let full = Refusal::new(Code::NoCapacity, message);
        match room {
            Some(room) => full.hint(room),
            None => full,
        }
    };
    refusal.causes.extend(reasons);
    if more == 0 { refusal } else { refusal.because(format!("and {more} more")) }
}
