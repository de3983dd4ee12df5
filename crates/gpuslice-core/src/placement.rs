//! The decision which slice a claim gets, with a reason for every candidate that is not it.

mod crowded;
mod lookup;
mod most;
mod offering;
mod one_vm;
mod properties;
mod reserved;
mod together;

use crate::hint;
use crate::mend;
use crowded::crowded;
pub use lookup::Lookup;
pub use properties::{Properties, by_properties, meets};
use together::Left;

use crate::config::Strategy;
use crate::holders::Holder;
use crate::ids::{ClaimKey, MdevTypeId, ParentId, PciAddress, ProfileName, SliceId};
use crate::mechanism::{Fabric, Form, Offer};
use crate::numa::Within;
use crate::observation::{Choice, Observation};
use crate::plan::Step;
use crate::refusal::{Code, Refusal};
use crate::state::{Assignment, Claim, ForeignHold};
use std::collections::{BTreeMap, BTreeSet};

/// All a placement looks at.
pub struct View<'a> {
    /// The host.
    pub seen: &'a Observation,
    /// What its parents offer.
    pub offers: Vec<Offer>,
    /// Of no use, though the kernel shows nothing of it.
    pub wedged: &'a BTreeSet<PciAddress>,
    /// Who has what.
    pub assignments: &'a BTreeMap<SliceId, Assignment>,
    /// What running domains hold without a claim.
    pub foreign: &'a BTreeMap<SliceId, ForeignHold>,
    /// Who holds slices nobody was given.
    pub held: &'a BTreeMap<SliceId, Holder>,
    /// Who wants what.
    pub claims: &'a BTreeMap<ClaimKey, Claim>,
    /// Not given out.
    pub cordons: &'a BTreeMap<ParentId, String>,
    /// Not touched.
    pub quarantines: &'a BTreeMap<ParentId, Refusal>,
    /// Worked on as a whole.
    pub reshaping: BTreeMap<ParentId, Step>,
    /// Slices that nobody is given, and why.
    pub held_back: BTreeMap<SliceId, Refusal>,
    /// Which of several.
    pub strategy: Strategy,
    /// What is asked of each of thousands of slices, found once.
    pub lookup: Lookup<'a>,
}

/// What is looked for.
#[derive(Debug, Clone, Copy)]
pub struct Wanted<'a> {
    /// Which profile.
    pub profile: &'a ProfileName,
    /// For whom, so that its own reservation does not stand in its way.
    pub key: Option<&'a ClaimKey>,
    /// Preferred NUMA node.
    pub numa: Option<u32>,
    /// Only here.
    pub fabric: Option<&'a Fabric>,
    /// And only on these NUMA nodes.
    pub within: &'a Within,
}

/// For whoever asks for no NUMA node.
pub static ANYWHERE: Within = Within::Anywhere;

impl<'a> Wanted<'a> {
    /// A profile for nobody yet, wherever it is.
    pub fn of(profile: &'a ProfileName) -> Self {
        Self { profile, key: None, numa: None, fabric: None, within: &ANYWHERE }
    }

    /// A profile for a claim, wherever it is.
    pub fn anywhere(profile: &'a ProfileName, key: &'a ClaimKey) -> Self {
        Self { key: Some(key), ..Self::of(profile) }
    }
}

/// Why there was nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refused {
    /// No device here has it at all.
    NoSuchProfile {
        /// The most similar name that exists.
        nearest: Option<ProfileName>,
    },
    /// Each candidate, and why not.
    Candidates(Vec<(ParentId, Refusal)>),
}

impl<'a> View<'a> {
    /// The offers that are looked for.
    fn offered<'o>(&'o self, wanted: &'o Wanted<'_>) -> impl Iterator<Item = &'o Offer> {
        let inside = |offer: &&Offer| {
            wanted.fabric.is_none_or(|f| f.parents.contains(&self.seen.device_of(&offer.parent)))
        };
        self.of_profile(wanted.profile).filter(inside)
    }

    /// Why a device gives nothing out now.
    pub(crate) fn parent_reason(&self, parent: &ParentId) -> Option<Refusal> {
        // What is true of a PF is true of its VFs, which can be parents too.
        let above = self.seen.pf_of(parent);
        above.and_then(|pf| self.own_reason(&pf)).or_else(|| self.own_reason(parent))
    }

    fn own_reason(&self, parent: &ParentId) -> Option<Refusal> {
        if let Some(why) = self.quarantines.get(parent) {
            let refusal = Refusal::new(Code::Quarantined, format!("{parent} is quarantined"))
                .because(why.message.clone())
                .hint(mend::uncordon(parent));
            return Some(refusal);
        }
        if let Some(reason) = self.cordons.get(parent) {
            let said = if reason.is_empty() { String::new() } else { format!(": {reason}") };
            let refusal = Refusal::new(Code::Cordoned, format!("{parent} is cordoned{said}"));
            return Some(refusal.hint(mend::uncordon(parent)));
        }
        let step = self.reshaping.get(parent)?;
        let seconds = step.deadline_ms() / 1000;
        let message = format!("{parent} is being reshaped ({step}), at most {seconds} s more");
        Some(Refusal::new(Code::Reshaping, message).hint(hint!("gpuslice wait --settled")))
    }

    /// Why a device is not where it has to be.
    fn off_node(&self, parent: &ParentId, wanted: &Wanted<'_>) -> Option<Refusal> {
        let node = self.seen.numa_node(parent);
        if wanted.within.has(node) {
            return None;
        }
        let message = match node {
            Some(node) => format!("{parent} is on NUMA node {node}"),
            None => format!("{parent} is on no NUMA node"),
        };
        Some(Refusal::new(Code::OtherNumaNode, message))
    }

    /// Devices of a type that are ordered but not yet visible in the kernel's count.
    pub(crate) fn under_way(&self, parent: &ParentId) -> u32 {
        self.lookup.ordered(self).get(parent).copied().unwrap_or_default()
    }

    /// How many more of a type the device of a parent could have at the most: a VF that makes one tells of itself alone.
    pub(crate) fn below_most(&self, offer: &Offer, type_id: &MdevTypeId) -> u32 {
        let device = self.seen.pf_of(&offer.parent);
        let most = device.and_then(|device| self.lookup.most(self).get(&device)?.get(type_id));
        most.copied().unwrap_or(u32::MAX)
    }

    /// How many more of a profile a parent can make as mediated devices, and how many its device can have.
    pub(crate) fn room(&self, parent: &ParentId, profile: &ProfileName) -> Option<(u32, u32)> {
        let mut own = self.of_profile(profile).filter(|offer| offer.parent == *parent);
        own.find_map(|offer| match &offer.form {
            Form::Mdevs { type_id, available, .. } => {
                let left = available.saturating_sub(self.under_way(parent));
                Some((left, self.below_most(offer, type_id)))
            }
            _ => None,
        })
    }

    /// Whose home a VF is, beside the claim that is asked for.
    fn named_by_others<'v>(
        &'v self,
        home: PciAddress,
        wanted: &'v Wanted<'_>,
    ) -> impl Iterator<Item = (&'a ClaimKey, &'a Claim)> + 'v {
        let named = self.lookup.named(self).get(&home).into_iter().flatten();
        named.filter(|(key, _)| Some(*key) != wanted.key).copied()
    }
}

/// Finds a parent for a new mediated device; `refused` are parents whose kernel driver has said no already, and how.
///
/// # Errors
/// [`Refused`] with every candidate's reason.
pub fn mdev(
    view: &View<'_>,
    wanted: &Wanted<'_>,
    refused: &BTreeMap<ParentId, Refusal>,
) -> Result<(ParentId, MdevTypeId), Refused> {
    let mut reasons = Vec::new();
    let mut free = Vec::new();
    for offer in view.offered(wanted) {
        let Form::Mdevs { type_id, available, .. } = &offer.form else {
            continue;
        };
        let Left { count: left, perhaps } = together::left(view, offer, type_id, *available);
        // On another node it is of no use, given out or not.
        let kept_back = || view.parent_reason(&offer.parent);
        let too_many = || one_vm::at_start(view, offer, wanted.key?, None);
        let reason = view.off_node(&offer.parent, wanted).or_else(kept_back).or_else(too_many);
        if let Some(reason) = reason {
            reasons.push((offer.parent.clone(), reason));
        } else if let Some(why) = refused.get(&offer.parent) {
            reasons.push((offer.parent.clone(), why.clone()));
        } else if left == 0 {
            let message = format!("{} has no more of {}", offer.parent, wanted.profile);
            reasons.push((offer.parent.clone(), Refusal::new(Code::NoCapacity, message)));
        } else {
            free.push((left, perhaps, offer.parent.clone(), type_id.clone()));
        }
    }
    let total: u32 = free.iter().map(|(left, ..)| *left).fold(0, u32::saturating_add);
    if total <= view.reserved_elsewhere(wanted) && !free.is_empty() {
        let message =
            format!("the last {total} of {} are reserved for other claims", wanted.profile);
        for (.., parent, _) in free.drain(..) {
            reasons.push((parent, Refusal::new(Code::NoCapacity, message.clone())));
        }
    }
    if let Some(held) = reserved::Held::beside(view, wanted) {
        // All VFs of a device are alike in this.
        let mut devices = BTreeMap::new();
        free.retain(|(.., parent, type_id)| {
            let device = devices.entry(view.seen.device_of(parent));
            let room = *device.or_insert_with(|| held.leaves_room(parent, type_id));
            if !room {
                let message = format!("the rest of {parent} is reserved for other claims");
                reasons.push((parent.clone(), Refusal::new(Code::NoCapacity, message)));
            }
            room
        });
    }
    let far =
        |parent: &ParentId| wanted.numa.is_some() && view.seen.numa_node(parent) != wanted.numa;
    let best = free.into_iter().min_by_key(|(left, perhaps, parent, _)| {
        let load = match view.strategy {
            Strategy::Pack => i64::from(*left),
            Strategy::Spread => -i64::from(*left),
        };
        (far(parent), *perhaps, load, parent.clone())
    });
    match best {
        Some((.., parent, type_id)) => Ok((parent, type_id)),
        None if reasons.is_empty() => Err(no_such_profile(view, wanted.profile)),
        None => Err(Refused::Candidates(reasons)),
    }
}

fn no_such_profile(view: &View<'_>, profile: &ProfileName) -> Refused {
    let nearest = view
        .offers
        .iter()
        .map(|o| (strsim::damerau_levenshtein(o.profile.as_str(), profile.as_str()), &o.profile))
        .min()
        .filter(|(distance, _)| *distance <= 1 + profile.as_str().len() / 3)
        .map(|(_, name)| name.clone());
    Refused::NoSuchProfile { nearest }
}

/// What a VF that may be given is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Its device.
    pub parent: ParentId,
    /// Who makes and clears it.
    pub mechanism: &'static str,
    /// The type it is given.
    pub type_id: Option<MdevTypeId>,
}

/// Judges the one VF a claim's XML names, and says what it is.
///
/// # Errors
/// Why it cannot be given.
pub fn vf(
    view: &View<'_>,
    profile: &ProfileName,
    key: &ClaimKey,
    address: PciAddress,
    managed: bool,
) -> Result<Place, Refusal> {
    let slice = SliceId::Vf(address);
    let refuse = |code, message: String| Err(Refusal::new(code, message));
    let Some(vf) = view.seen.vfs.get(&address) else {
        return refuse(Code::Absent, format!("VF {address} is not on this host"));
    };
    let parent = ParentId::Pci(vf.pf);
    if let Some(reason) = view.parent_reason(&parent) {
        return Err(reason);
    }
    let offered: Vec<&Offer> =
        view.offers.iter().filter(|o| o.form.vfs().contains(&address)).collect();
    let offer = match (offered.iter().find(|o| o.profile == *profile), offered.first()) {
        (Some(offer), _) => *offer,
        (None, Some(Offer { form: Form::Vfs(_), profile: other, .. })) => {
            return refuse(
                Code::NoProfile,
                format!("VF {address} is now a {other}, not a {profile}"),
            );
        }
        (None, Some(_)) => {
            return refuse(Code::NoProfile, format!("VF {address} cannot be a {profile}"));
        }
        (None, None) => {
            return refuse(
                Code::Foreign,
                format!("VF {address} belongs to a device gpuslice has no layout for"),
            );
        }
    };
    if let Some(other) = view.assignments.get(&slice).filter(|a| a.claim != *key) {
        let whose = view
            .claims
            .get(&other.claim)
            .map_or_else(|| other.claim.owner.to_string(), |c| c.owner_name.clone());
        return refuse(
            Code::Taken,
            format!("VF {address} is assigned to {whose} ({})", other.claim.name),
        );
    }
    if let Some(hold) = view.foreign.get(&slice).filter(|h| h.owner != key.owner) {
        return refuse(
            Code::Held,
            format!("VF {address} is in {}, which made no claim", hold.name),
        );
    }
    if let Some(why) = view.held_back.get(&slice) {
        return Err(why.clone());
    }
    if vf.iommu_group.is_none() {
        let refusal = Refusal::new(Code::Unsupported, format!("VF {address} has no IOMMU group"));
        return Err(refusal.hint(hint!(
            "boot with the IOMMU on for it: intel_iommu=on without igfx_off on Intel, the firmware on AMD (gpuslice doctor says which)"
        )));
    }
    if let Some((other, driver)) = vf.iommu_group.and_then(|group| view.seen.host_in_group(group)) {
        let message =
            format!("VF {address} shares its IOMMU group with {other}, which {driver} has");
        let refusal = Refusal::new(Code::Unsupported, message);
        return Err(refusal.hint(hint!(
            "switch ACS and ARI on in the firmware, or put the GPU into another slot; then reboot"
        )));
    }
    if let Some(too_many) = one_vm::at_start(view, offer, key, Some(slice)) {
        return Err(too_many);
    }
    if let (Form::TypedVfs { type_id, .. }, Some(choice)) = (&offer.form, &vf.choice) {
        let mine = view.assignments.contains_key(&slice);
        typed_vf(view, offer, type_id, address, choice, mine, managed)?;
        if !mine && let Some(end) = reserved::in_the_way(view, offer, address, key) {
            let message = format!("the rest of {} is reserved for other claims", offer.parent);
            return Err(Refusal::new(Code::NoCapacity, message).hint(end));
        }
    }
    let type_id = offer.form.type_id().cloned();
    let place = Place { parent, mechanism: offer.mechanism, type_id };
    match vf.by_host() {
        Some(driver) if !managed => {
            let refusal = Refusal::new(
                Code::HostDriver,
                format!("VF {address} is used by the host's driver {driver}"),
            );
            Err(refusal.hint(mend::let_go(address, driver)))
        }
        _ => Ok(place),
    }
}

/// Why a VF is kept back until all of its device are made anew.
pub fn unusable(wedged: &BTreeSet<PciAddress>, address: PciAddress) -> String {
    if wedged.contains(&address) {
        format!("VF {address} may be wedged: its last VM ended while it began to use it")
    } else {
        format!("VF {address} has no VFIO device: it was taken off its driver once")
    }
}

/// Why a VF with a type is not ours.
pub fn typed_by_another(address: PciAddress, type_id: &MdevTypeId) -> String {
    format!("VF {address} has type {type_id}, which gpuslice did not give it")
}

/// Whether a VF whose type is chosen can be given this one now.
fn typed_vf(
    view: &View<'_>,
    offer: &Offer,
    type_id: &MdevTypeId,
    address: PciAddress,
    choice: &Choice,
    mine: bool,
    managed: bool,
) -> Result<(), Refusal> {
    if managed {
        let message = format!("managed='yes' would take VF {address} from its driver");
        return Err(Refusal::new(Code::Managed, message));
    }
    if choice.broken {
        let refusal = Refusal::new(Code::Quarantined, unusable(view.wedged, address));
        return Err(refusal.hint(hint!(
            "shut down what uses {}, then gpuslice apply (its VFs are made anew, by themselves too)",
            offer.parent
        )));
    }
    match &choice.current {
        Some(current) if mine && current == type_id => return Ok(()),
        Some(current) if !mine => {
            return Err(Refusal::new(Code::Foreign, typed_by_another(address, current)));
        }
        _ => {}
    }
    let takes =
        choice.creatable.contains(type_id) && together::takes_type(view, offer, address, &[]);
    if choice.current.is_none() && !takes {
        let there: BTreeSet<&str> = view
            .assignments
            .values()
            .filter(|a| a.parent == offer.parent)
            .map(|a| a.profile.as_str())
            .collect();
        let message = if there.is_empty() {
            format!("{} can make no {} now", offer.parent, offer.profile)
        } else {
            let there = there.into_iter().collect::<Vec<_>>().join(", ");
            format!("{} can make no {} beside its {there}", offer.parent, offer.profile)
        };
        return Err(Refusal::new(Code::NoCapacity, message));
    }
    Ok(())
}

/// What the VFs of a device offer as a type.
fn typed_on<'v>(view: &'v View<'_>, parent: &ParentId, type_id: &MdevTypeId) -> Option<&'v Offer> {
    let of_type = |offer: &&Offer| offer.parent == *parent && offer.form.type_id() == Some(type_id);
    view.offers.iter().find(of_type)
}

/// A VF for a claim to live on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Home {
    /// Which.
    pub address: PciAddress,
    /// Its device cannot run all the claims that live there at once.
    pub crowded: bool,
}

/// A VF that no claim names yet, beside those `taken`; rather than none one of a claim without an owner; with `pool` the
/// one the fewest pooled claims name.
///
/// # Errors
/// [`Refused`] with every candidate's reason.
pub fn home(
    view: &View<'_>,
    wanted: &Wanted<'_>,
    pool: bool,
    taken: &BTreeSet<PciAddress>,
) -> Result<Home, Refused> {
    let mut reasons = Vec::new();
    let mut free = Vec::new();
    for offer in view.offered(wanted) {
        let vfs = offer.form.vfs();
        if vfs.is_empty() {
            continue;
        }
        let mine = taken.iter().filter(|address| vfs.contains(address)).count();
        let crowded = crowded(view, wanted, offer, mine);
        // On another node it is of no use, given out or not.
        let kept_back = || view.parent_reason(&offer.parent);
        let too_many = || one_vm::at_home(view, offer, wanted, mine);
        let reason = view.off_node(&offer.parent, wanted).or_else(kept_back).or_else(too_many);
        if let Some(reason) = reason {
            reasons.push((offer.parent.clone(), reason));
            continue;
        }
        if let Some(most) = offer.max.filter(|max| usize::try_from(*max).is_ok_and(|m| mine >= m)) {
            let message = match most {
                0 => format!("{} can make no {} as it is set", offer.parent, wanted.profile),
                _ => format!("{} has at most {most} of {}", offer.parent, wanted.profile),
            };
            reasons.push((offer.parent.clone(), Refusal::new(Code::NoCapacity, message)));
            continue;
        }
        let before = free.len();
        for address in vfs.iter().filter(|a| !taken.contains(a)) {
            let named: Vec<(&ClaimKey, &Claim)> = view.named_by_others(*address, wanted).collect();
            let slice = SliceId::Vf(*address);
            let mine = |a: &Assignment| Some(&a.claim) == wanted.key;
            let in_use = view.assignments.get(&slice).is_some_and(|a| !mine(a))
                || view.foreign.contains_key(&slice)
                || view.held.contains_key(&slice);
            let vf = view.seen.vfs.get(address);
            let grouped = vf.is_some_and(|vf| view.seen.is_passable(vf));
            let usable = vf.is_some_and(|vf| {
                let whole = vf.choice.as_ref().is_none_or(|c| !c.broken);
                whole && (vf.driver.is_none() || vf.on_vfio())
            }) && !view.held_back.contains_key(&slice);
            // Whose domain is undefined has lost its home to whoever finds no other.
            // And no VM can have a device twice.
            let runs_beside =
                |other: &ClaimKey| wanted.key.is_some_and(|key| other.owner == key.owner);
            let shares = |(other, c): &(&ClaimKey, &Claim)| pool && c.pool && !runs_beside(other);
            let sharable = named.iter().all(|named| named.1.orphaned || shares(named));
            if sharable && usable && (pool || !in_use) {
                let far =
                    wanted.numa.is_some() && view.seen.numa_node(&offer.parent) != wanted.numa;
                let parent = offer.parent.clone();
                free.push((!grouped, in_use, crowded, named.len(), far, parent, *address));
            }
        }
        if free.len() == before {
            let message = format!("every VF of {} is in use or the home of a claim", offer.parent);
            reasons.push((offer.parent.clone(), Refusal::new(Code::NoCapacity, message)));
        }
    }
    // Parents with few homes left are filled first when packing.
    let mut left: BTreeMap<&ParentId, i64> = BTreeMap::new();
    for (.., parent, _) in &free {
        *left.entry(parent).or_default() += 1;
    }
    let best = free.iter().min_by_key(|(alone, in_use, crowded, named, far, parent, address)| {
        let left = left.get(parent).copied().unwrap_or_default();
        let load = if view.strategy == Strategy::Pack { left } else { -left };
        (*alone, *in_use, *crowded, *named, *far, load, *address)
    });
    match best {
        Some((_, _, crowded, .., address)) => Ok(Home { address: *address, crowded: *crowded }),
        None if reasons.is_empty() => Err(no_such_profile(view, wanted.profile)),
        None => Err(Refused::Candidates(reasons)),
    }
}
