//! Mediated devices that stand ready to be picked in virt-manager's dialog, which lists none but those that exist. Whoever
//! picks one gets a device of its own; the parked one stays for the next. What is parked takes nothing from anybody:
//! a start that needs its place has it.

mod room;

pub(super) use room::free as free_mdevs;

use super::claims::Order;
use super::hook::carries_mdev;
use super::ops::{Op, Purpose};
use super::{Effect, HookOperation, Machine, OpId, RequestId};
use crate::domain::{ClaimRequest, Domain, HostDeviceSource};
use crate::execute::{Meaning, StepError};
use crate::hint;
use crate::ids::{ClaimKey, MdevUuid, Owner, ParentId, ProfileName, SliceId};
use crate::layout::Layout;
use crate::mechanism::{Fabric, Layouts, MDEV, Offer};
use crate::numa::Within;
use crate::placement::{self, View, Wanted};
use crate::plan::Step;
use crate::refusal::{Code, Refusal};
use crate::state::Phase;
use std::cell::LazyCell;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Deref;

/// What a layout wants parked.
fn wanted<'a>(
    device: &'a ParentId,
    layout: &'a Layout,
) -> impl Iterator<Item = (MdevUuid, &'a ProfileName)> {
    let indexes =
        layout.park.iter().flat_map(|(profile, count)| (0..*count).map(move |i| (profile, i)));
    indexes.map(|(profile, index)| (MdevUuid::parked(device, profile, index), profile))
}

/// The mediated devices that somebody waits for.
#[derive(Debug, Default)]
pub(super) struct Needed(Vec<OfClaim>);

/// Those of one claim.
#[derive(Debug)]
struct OfClaim {
    profile: ProfileName,
    /// How many are to be made.
    count: u32,
    /// All of them in one of these; where there is none, anywhere.
    fabrics: Vec<Fabric>,
    /// And on these NUMA nodes.
    within: Within,
}

impl Needed {
    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether an offer is one of what is needed.
    fn has(&self, offer: &Offer) -> bool {
        offer.form.is_mdevs() && self.0.iter().any(|c| c.profile == offer.profile)
    }
}

impl Machine {
    /// Whether a device stands ready to be picked: it is there, and nobody was given it.
    pub(super) fn is_parked(&self, slice: SliceId) -> bool {
        matches!(slice, SliceId::Mdev(uuid) if uuid.is_parked() && self.seen.mdevs.contains_key(&uuid))
            && !self.run.assignments.contains_key(&slice)
            && !self.run.foreign.contains_key(&slice)
    }

    pub(super) fn parked(&self) -> impl Iterator<Item = MdevUuid> + '_ {
        let named = self.seen.mdevs.keys().copied().filter(|uuid| uuid.is_parked());
        named.filter(|uuid| self.is_parked(SliceId::Mdev(*uuid)))
    }

    /// Those that nobody works on, and that may be taken away. Whether a process holds one, the step asks.
    fn idle(&self) -> impl Iterator<Item = (MdevUuid, ParentId)> + '_ {
        let idle = self.parked().filter(|uuid| {
            let slice = SliceId::Mdev(*uuid);
            !self.working_on(slice) && !self.park_failed.contains_key(uuid)
        });
        let device =
            |uuid| Some((uuid, self.seen.device_of(self.seen.made_by(SliceId::Mdev(uuid))?)));
        idle.filter_map(device)
            .filter(|(_, device)| self.quarantine_over(device).is_none() && !self.reshaping(device))
    }

    /// Whether a device has something parked on it right now, or taken away.
    pub(super) fn parking(&self, device: &ParentId) -> bool {
        let of_device =
            |op: &Op| matches!(&op.purpose, Purpose::Park { device: d, .. } if d == device);
        self.ops.values().any(of_device)
    }

    /// Devices on which something is being parked or taken away. What the kernel does not come back from is waited for by nobody.
    pub(super) fn parking_on(&self) -> impl Iterator<Item = &ParentId> {
        self.ops.values().filter(|op| !op.overdue).filter_map(|op| match &op.purpose {
            Purpose::Park { device, .. } => Some(device),
            _ => None,
        })
    }

    /// How much room there is will be known in a moment.
    pub(super) fn parking_anywhere(&self) -> bool {
        self.parking_on().next().is_some()
    }

    /// Whether how much room there is for these profiles will be known in a moment. What is parked or taken away there beyond
    /// the step under way is left for later, since somebody waits.
    pub(super) fn room_will_show(&mut self, wanted: &Needed) -> bool {
        if wanted.is_empty() || !self.parking_anywhere() {
            return false;
        }
        let view = self.view();
        let devices = view.devices_of(view.offers.iter().filter(|offer| wanted.has(offer)));
        let mut will_show = false;
        for op in self.ops.values_mut().filter(|op| !op.overdue) {
            if matches!(&op.purpose, Purpose::Park { device, .. } if devices.contains(device)) {
                op.steps.truncate(1);
                will_show = true;
            }
        }
        will_show
    }

    /// The profile of a parked device, by the layout that wants it or by what is there.
    pub(super) fn profile_of_parked(&self, uuid: MdevUuid) -> Option<ProfileName> {
        let mut wants = self.layouts.iter().flat_map(|(device, layout)| wanted(device, layout));
        let known = wants.find(|(wanted, _)| *wanted == uuid);
        if let Some((_, profile)) = known {
            return Some(profile.clone());
        }
        let mdev = self.seen.mdevs.get(&uuid)?;
        self.profile_of(&mdev.parent, &mdev.type_id)
    }

    /// The mediated devices of a domain that are to be made.
    pub(super) fn needed(&self, domain: &Domain) -> Needed {
        let mut needed = Needed::default();
        for claim in &domain.claims {
            let of_claim = domain.devices.iter().filter(|device| {
                matches!(device.source, HostDeviceSource::Mdev(_))
                    && device.our_claim().is_some_and(|(name, _)| name == claim.name)
            });
            let slices: Vec<SliceId> = of_claim.map(|device| device.source.slice()).collect();
            let owner = Owner::Domain(domain.uuid);
            let key = ClaimKey { owner, name: claim.name.clone() };
            let profile = self.profile_for(&key, &domain.name, claim, None).ok();
            let Some(profile) = profile.filter(|_| !slices.is_empty()) else { continue };
            let missing = slices.iter().filter(|slice| {
                !self.run.assignments.contains_key(*slice) && !self.is_parked(**slice)
            });
            let count = u32::try_from(missing.count()).unwrap_or(u32::MAX);
            needed.0.push(self.needed_for(&key, claim, profile, count));
        }
        needed
    }

    /// What a hot-plug is to have made.
    pub(super) fn needed_to_plug(&self, key: &ClaimKey, order: &Order, count: u32) -> Needed {
        let profile = self.profile_for(key, &order.owner_name, &order.request, None).ok();
        let of = |profile| self.needed_for(key, &order.request, profile, count);
        Needed(profile.map(of).into_iter().collect())
    }

    fn needed_for(
        &self,
        key: &ClaimKey,
        request: &ClaimRequest,
        profile: ProfileName,
        count: u32,
    ) -> OfClaim {
        let linked = request.same_fabric && count > 0;
        let fabrics = if linked { self.fabrics_with(key, &profile) } else { Vec::new() };
        OfClaim { profile, count, fabrics, within: self.within(request) }
    }

    /// Takes one parked device away for a start that was refused for want of room. The start is judged again then.
    pub(super) fn make_room(&mut self, domain: &Domain, why: &Refusal) -> bool {
        let carried: BTreeSet<SliceId> = domain.devices.iter().map(|d| d.source.slice()).collect();
        self.make_room_for(&self.needed(domain), &carried, why)
    }

    pub(super) fn make_room_for(
        &mut self,
        needed: &Needed,
        carried: &BTreeSet<SliceId>,
        why: &Refusal,
    ) -> bool {
        if why.code != Code::NoCapacity || needed.is_empty() {
            return false;
        }
        let mut idle: BTreeMap<ParentId, Vec<MdevUuid>> = BTreeMap::new();
        for (uuid, device) in self.idle().filter(|(u, _)| !carried.contains(&SliceId::Mdev(*u))) {
            idle.entry(device).or_default().push(uuid);
        }
        if idle.is_empty() {
            return false;
        }
        let view = self.view();
        let all_idle: BTreeSet<MdevUuid> = idle.values().flatten().copied().collect();
        let emptied = room::emptied(&view, &all_idle, needed);
        // One of the same profile makes just the room that is needed. A device that was begun with is gone on with.
        let order = |(of_fabric, (device, parked)): &(usize, (ParentId, Vec<MdevUuid>))| {
            let same = parked.iter().any(|uuid| emptied.is_of(*uuid));
            (*of_fabric, !same, emptied.shared(device), parked.len(), device.clone())
        };
        let helps = idle.into_iter().filter_map(|of| Some((emptied.room_on(&of.0)?, of)));
        let found = helps.min_by_key(order).and_then(|(_, (device, parked))| {
            let uuid = parked.into_iter().min_by_key(|uuid| (!emptied.is_of(*uuid), *uuid))?;
            Some((device, uuid))
        });
        let Some((device, uuid)) = found else { return false };
        self.start_op(Purpose::Park { device, request: None }, vec![Step::RemoveMdev { uuid }]);
        true
    }

    /// Whether an operation is one that starts may wait for.
    pub(super) fn parks(&self, id: OpId) -> bool {
        self.ops.get(&id).is_some_and(|op| matches!(op.purpose, Purpose::Park { .. }))
    }

    /// The room that starts and hot-plugs wait for is not made: nothing would tell them when it could be.
    pub(super) fn room_unrecorded(&mut self, why: &Refusal) {
        for (request, call) in std::mem::take(&mut self.parked) {
            use HookOperation::{Migrate, Prepare, Restore};
            match call.operation {
                _ if !carries_mdev(&call.domain) => self.parked.push((request, call)),
                Prepare => self.refuse_start(request, &call.domain, why.clone()),
                Migrate | Restore => self.refuse_incoming(request, &call.domain, why.clone()),
                _ => self.parked.push((request, call)),
            }
        }
        self.plugs_unrecorded(why);
    }

    /// Parks what layouts want, and takes away what they do not want any more.
    pub(super) fn realise_parking(&mut self) {
        // Whoever waits for a start comes first.
        let waits = !self.parked.is_empty() || !self.parked_plugs.is_empty();
        if !self.observed || self.stale || waits {
            return;
        }
        self.park(None);
    }

    /// Starts what brings each device to what its layout wants parked; answers how many.
    pub(super) fn park(&mut self, request: Option<RequestId>) -> usize {
        let due = self.parking_steps(&self.layouts);
        let due: Vec<_> = due.into_iter().filter(|(device, _)| !self.parking(device)).collect();
        let started = due.len();
        for (device, steps) in due {
            self.start_op(Purpose::Park { device, request }, steps);
        }
        started
    }

    /// What is to be done on each device, with what there is room for now.
    pub(super) fn parking_steps(&self, layouts: &Layouts) -> BTreeMap<ParentId, Vec<Step>> {
        let mut due: BTreeMap<ParentId, Vec<Step>> = BTreeMap::new();
        let parks = layouts.values().any(|layout| !layout.park.is_empty());
        if !parks && !self.seen.mdevs.keys().any(|uuid| uuid.is_parked()) {
            return due;
        }
        let mut unwanted: BTreeMap<MdevUuid, ParentId> = self.idle().collect();
        for (device, layout) in layouts {
            for (uuid, _) in wanted(device, layout) {
                unwanted.remove(&uuid);
            }
        }
        for (uuid, device) in unwanted {
            due.entry(device).or_default().push(Step::RemoveMdev { uuid });
        }
        let view = LazyCell::new(|| self.view());
        for (device, layout) in layouts.iter().filter(|(_, layout)| !layout.park.is_empty()) {
            let kept_back = self.quarantine_over(device).is_some()
                || self.durable.cordons.contains_key(device)
                || self.reshaping(device)
                || self.being_given(device);
            // The room of what is taken away shows when it is gone.
            if !kept_back && !due.contains_key(device) {
                let steps = self.missing(device, layout, &view);
                if !steps.is_empty() {
                    due.insert(device.clone(), steps);
                }
            }
        }
        due
    }

    /// Whether a slice of a device is on its way to a VM. The reading still shows the room that was made for it, and of all
    /// profiles.
    fn being_given(&self, device: &ParentId) -> bool {
        self.run
            .assignments
            .values()
            .any(|a| a.phase == Phase::Reserved && self.seen.device_of(&a.parent) == *device)
    }

    /// Steps that park what a device lacks, as far as there is room.
    fn missing<'a>(
        &self,
        device: &ParentId,
        layout: &Layout,
        view: &impl Deref<Target = View<'a>>,
    ) -> Vec<Step> {
        let fabric = Fabric::alone(device.clone());
        // How many of one profile each parent is about to make: what room that leaves for others it says after that.
        let mut planned: BTreeMap<ParentId, (&ProfileName, u32)> = BTreeMap::new();
        let (mut steps, mut no_more) = (Vec::new(), BTreeSet::new());
        for (uuid, profile) in wanted(device, layout) {
            let slice = SliceId::Mdev(uuid);
            let there = self.seen.has_slice(slice)
                || self.run.assignments.contains_key(&slice)
                || self.working_on(slice)
                || self.park_failed.contains_key(&uuid);
            if there || no_more.contains(profile) {
                continue;
            }
            let all: u32 = planned.values().filter(|(p, _)| *p == profile).map(|(_, n)| n).sum();
            let mut full = BTreeMap::new();
            for (parent, (other, count)) in &planned {
                let room = view.room(parent, profile);
                if *other != profile
                    || room.is_none_or(|(left, most)| *count >= left || all >= most)
                {
                    let message = format!("{parent} is about to make one");
                    full.insert(parent.clone(), Refusal::new(Code::NoCapacity, message));
                }
            }
            let wanted = Wanted { fabric: Some(&fabric), ..Wanted::of(profile) };
            let Ok((parent, type_id)) = placement::mdev(view, &wanted, &full) else {
                no_more.insert(profile);
                continue;
            };
            if view.room(&parent, profile).is_some_and(|(_, most)| all < most) {
                planned.entry(parent.clone()).or_insert((profile, 0)).1 += 1;
                let of = self.mechanisms.iter().find(|m| m.name() == MDEV);
                let not_ready = of.map(|m| m.not_ready(&type_id)).unwrap_or_default();
                steps.push(Step::CreateMdev { parent, type_id, uuid, not_ready });
            }
        }
        steps
    }

    /// An operation of ours came to its end.
    pub(super) fn parking_done(&mut self, device: &ParentId) {
        self.note("parent", device, "what is parked on it changed");
    }

    /// A device that cannot be parked keeps nothing else from being done; the plan and the device's row tell of it.
    pub(super) fn parking_failed(&mut self, device: &ParentId, step: &Step, error: &StepError) {
        let code = match (error, error.meaning(step)) {
            (StepError::Held { .. }, _) => Code::Held,
            (_, Meaning::Full) => Code::NoCapacity,
            _ => Code::DeviceFailed,
        };
        let refusal = Refusal::new(code, format!("cannot {step}"))
            .because(error.to_string())
            .hint(hint!("dmesg | grep {}; then gpuslice apply", device));
        let text = format!("{device}: {refusal}: {error}");
        self.push(Effect::Log { warning: true, text });
        if let (StepError::Held { .. }, Some(slice)) = (error, step.slice()) {
            self.push(Effect::Watch { slice });
        }
        if let Some(SliceId::Mdev(uuid)) = step.slice() {
            self.park_failed.insert(uuid, refusal);
        }
        self.parking_done(device);
    }

    /// What of these layouts cannot be parked now, and why.
    pub(super) fn unparked(&self, layouts: &Layouts) -> Vec<(ParentId, Refusal)> {
        let mut unparked = Vec::new();
        // What is to go and cannot.
        for (uuid, why) in &self.park_failed {
            let wants =
                |(device, layout)| wanted(device, layout).any(|(wanted, _)| wanted == *uuid);
            if let Some(mdev) = self.seen.mdevs.get(uuid).filter(|_| !layouts.iter().any(wants)) {
                unparked.push((self.seen.device_of(&mdev.parent), why.clone()));
            }
        }
        let view = LazyCell::new(|| self.view());
        for (device, layout) in layouts.iter().filter(|(_, layout)| !layout.park.is_empty()) {
            let below = view.offers.iter().filter(|offer| {
                offer.form.is_mdevs() && self.seen.device_of(&offer.parent) == *device
            });
            let offers: Vec<&Offer> = below.collect();
            // Before its VFs are made nothing is known.
            if offers.is_empty() && !self.realised(device, layout) {
                continue;
            }
            for (profile, count) in &layout.park {
                if let Some(why) = self.not_parked(device, profile, *count, &offers, &view) {
                    unparked.push((device.clone(), why));
                }
            }
        }
        unparked
    }

    /// VFs could make what is to be parked, and there are none: without `vfs` a layout leaves it at that.
    fn lacks_vfs(&self, device: &ParentId) -> Option<Refusal> {
        let function = self.seen.functions.get(&device.pci()?)?;
        function.sriov.as_ref().filter(|sriov| sriov.vfs.is_empty())?;
        let message = format!("{device} has no VFs that could make mediated devices to be parked");
        let hint = hint!(
            "add vfs = \"all\" to the layout of {}, then gpuslice apply; or {}",
            device,
            crate::mend::take_out("park", device)
        );
        Some(Refusal::new(Code::NoProfile, message).hint(hint))
    }

    fn not_parked(
        &self,
        device: &ParentId,
        profile: &ProfileName,
        count: u32,
        offers: &[&Offer],
        view: &View<'_>,
    ) -> Option<Refusal> {
        if !offers.iter().any(|offer| offer.profile == *profile) {
            let known: BTreeSet<&str> = offers.iter().map(|o| o.profile.as_str()).collect();
            if let Some(why) = self.lacks_vfs(device).filter(|_| known.is_empty()) {
                return Some(why);
            }
            let message = if known.is_empty() {
                format!(
                    "{device} makes no mediated devices, so nothing is parked; VFs need no parking"
                )
            } else {
                format!("{device} offers no {profile} to be parked")
            };
            let nearest = known
                .into_iter()
                .min_by_key(|known| strsim::damerau_levenshtein(known, profile.as_str()));
            let hint = match nearest {
                Some(nearest) => hint!(
                    "write {} (or another of gpuslice profiles) into park of its layout, then gpuslice apply",
                    nearest
                ),
                None => crate::mend::take_out("park", device),
            };
            return Some(Refusal::new(Code::NoProfile, message).hint(hint));
        }
        let uuids = || (0..count).map(|index| MdevUuid::parked(device, profile, index));
        let there = uuids().filter(|uuid| self.seen.mdevs.contains_key(uuid)).count();
        let failed = uuids().find_map(|uuid| self.park_failed.get(&uuid));
        if let Some(failed) = failed {
            return Some(failed.clone());
        }
        if there >= usize::try_from(count).unwrap_or(usize::MAX)
            || self.parking(device)
            || has_room(view, device, profile)
        {
            return None;
        }
        let message =
            format!("{there} of {count} {profile} are parked on {device}: there is no room");
        let hint =
            hint!("write park = {{ {} = {} }} for {}, then gpuslice apply", profile, there, device);
        Some(Refusal::new(Code::NoCapacity, message).hint(hint))
    }
}

/// Whether one more of a profile can be parked on a device.
fn has_room(view: &View<'_>, device: &ParentId, profile: &ProfileName) -> bool {
    let fabric = Fabric::alone(device.clone());
    let wanted = Wanted { fabric: Some(&fabric), ..Wanted::of(profile) };
    placement::mdev(view, &wanted, &BTreeMap::new()).is_ok()
}
