//! What a person can do where slices are somebody else's: whose end makes room, and in which order. What only shows who
//! has something mends nothing, so each of these ends what stands in the way.

use super::Machine;
use crate::hint;
use crate::ids::{ClaimKey, ClaimName, Owner, ParentId, PciAddress, ProfileName, SliceId};
use crate::mend::{
    another_profile, attach, end_claim, end_process, lay_out_another, let_go, stop_mdev,
    write_layout,
};
use crate::numa::Within;
use crate::placement::{Properties, View, Wanted, by_properties};
use crate::refusal::Hint;
use crate::state::{Claim, ForeignHold};
use std::collections::{BTreeMap, BTreeSet};

/// The modules that make mediated devices once they are loaded, by what the kernel's names of their types begin with: its samples
/// (samples/vfio-mdev), and GVT-g, whose types are named after i915 (drivers/gpu/drm/i915/gvt). A profile's name comes from a
/// tenant's XML: no other word of it is one that root is to load.
const MAKERS: [(&str, &str); 4] =
    [("mtty", "mtty"), ("mdpy", "mdpy"), ("mbochs", "mbochs"), ("i915", "kvmgt")];

/// Who has VFs that others could have. Of thousands a few are told what ends them.
enum Left<'a> {
    Claim(&'a ClaimKey),
    Promised(&'a ClaimKey),
    Other(Hint),
}

/// What ends those who have slices.
struct Ends<'d> {
    /// Of each device; whether the slice is of the profile that is asked for.
    there: BTreeMap<&'d ParentId, Vec<(bool, Hint)>>,
    /// What of it ends what was not given by us.
    others: BTreeSet<Hint>,
}

/// What keeps a VF from becoming a home.
enum Use {
    None,
    EndedBy(Hint),
    Lasting,
}

impl Machine {
    /// Whose request this is, by the name it has now: what is refused is not on record.
    pub(super) fn note_asker(&mut self, owner: Owner, name: &str) {
        self.asks = Some((owner, name.to_owned()));
    }

    /// By which name orders call an owner.
    pub(super) fn owner_name(&self, key: &ClaimKey) -> String {
        let asks = self.asks.iter().filter(|(owner, _)| *owner == key.owner).map(|(_, name)| name);
        let own = self.durable.claims.get(key).map(|claim| &claim.owner_name);
        let others = self.durable.claims.iter().filter(|(other, _)| other.owner == key.owner);
        let others = others.map(|(_, claim)| &claim.owner_name);
        let mut names = asks.chain(own).chain(others).filter(|name| !name.is_empty());
        names.next().cloned().unwrap_or_else(|| key.owner.to_string())
    }

    /// Ends what runs with a claim.
    pub(super) fn end_run(&self, key: &ClaimKey) -> Hint {
        match &key.owner {
            Owner::Domain(_) => hint!("virsh shutdown {}", self.owner_name(key)),
            Owner::Vmid(vmid) => hint!("qm shutdown {}", vmid),
            Owner::External(_) => hint!("gpuslice release {} --force", key),
        }
    }

    /// Ends what runs without a claim.
    pub(super) fn end_hold(hold: &ForeignHold) -> Hint {
        match &hold.owner {
            Owner::Vmid(vmid) => hint!("qm shutdown {}", vmid),
            Owner::Domain(_) | Owner::External(_) => {
                hint!("virsh shutdown {}", hold.name)
            }
        }
    }

    /// Ends a claim, and first what runs with it.
    pub(super) fn end_for_good(&self, key: &ClaimKey) -> Hint {
        let end = end_claim(key, &self.owner_name(key));
        let runs = self.run.assignments.values().any(|a| a.claim == *key);
        if runs { hint!("{}, then {}", self.end_run(key), end) } else { end }
    }

    /// Gives a claim a device that it can have.
    pub(super) fn attach_again(&self, key: &ClaimKey, profile: &ProfileName) -> Hint {
        attach(&self.owner_name(key), profile, &key.name)
    }

    /// Where no name is near to the one that was asked for.
    pub(super) fn other_profile(&self, key: &ClaimKey, profile: &ProfileName) -> Hint {
        let nothing = self.offers().is_empty();
        let bare = self.bare().next().filter(|_| nothing);
        let other = match bare {
            Some((pf, _)) => write_layout(pf),
            None => another_profile(&self.owner_name(key), &key.name),
        };
        match maker_of(profile) {
            Some(module) if nothing => hint!("modprobe {}, then the same again", module),
            Some(module) => hint!("modprobe {}, then the same again; or {}", module, other),
            None => other,
        }
    }

    /// What has the properties that a claim asks for, or else that it asks for less.
    pub(super) fn ask_for(&self, name: &str, claim: &ClaimName, least: Properties) -> Hint {
        match by_properties(&self.view(), least) {
            Ok(other) => attach(name, &other, claim),
            Err(_) => hint!(
                "virsh edit {}: ask for less in claim {} (gpuslice profiles shows what there is)",
                name,
                claim
            ),
        }
    }

    /// How many slices of a profile a claim can have on some GPUs, and how many others have. A start that finds too few has
    /// reserved those that there are, and gives them back once it is refused.
    pub(super) fn free_and_used_beside(
        &self,
        key: &ClaimKey,
        profile: &ProfileName,
        only: &dyn Fn(&ParentId) -> bool,
    ) -> Option<(u32, u32)> {
        let each = self.beside_on_each(key, profile, only).into_iter();
        each.map(|(_, beside)| beside).reduce(|(free, used), (more, others)| {
            (free.saturating_add(more), used.saturating_add(others))
        })
    }

    /// The same of GPUs apart that serve one VM so many times at most, and of all others together; those that cannot serve it
    /// once more are not among them, whatever becomes free there.
    fn beside_on_each(
        &self,
        key: &ClaimKey,
        profile: &ProfileName,
        only: &dyn Fn(&ParentId) -> bool,
    ) -> Vec<(u32, (u32, u32))> {
        let each = self.view().most_of_each(key, profile);
        let others = |device: &ParentId| only(device) && !each.contains_key(device);
        let others = self.beside_on(key, profile, &others).map(|beside| (u32::MAX, beside));
        let serves = each.iter().filter(|(device, most)| only(device) && **most > 0);
        let apart = serves.filter_map(|(device, most)| {
            let (free, used) = self.beside_on(key, profile, &|other| other == device)?;
            Some((*most, (free.min(*most), used)))
        });
        others.into_iter().chain(apart).collect()
    }

    fn beside_on(
        &self,
        key: &ClaimKey,
        profile: &ProfileName,
        only: &dyn Fn(&ParentId) -> bool,
    ) -> Option<(u32, u32)> {
        let (free, used) = self.free_and_used_on(profile, only)?;
        let own = self.reserved_for(key, profile, only);
        Some((free.saturating_add(own), used.saturating_sub(own)))
    }

    /// The mediated devices that are reserved for a claim there.
    pub(super) fn reserved_for(
        &self,
        key: &ClaimKey,
        profile: &ProfileName,
        only: &dyn Fn(&ParentId) -> bool,
    ) -> u32 {
        let own = self.run.assignments.iter().filter(|(slice, a)| {
            slice.mdev().is_some()
                && a.is_reserved_for(key)
                && a.profile == *profile
                && only(&self.seen.device_of(&a.parent))
        });
        u32::try_from(own.count()).unwrap_or(u32::MAX)
    }

    /// Makes room for so many more slices of a claim: orders about those who have them, or else another GPU.
    pub(super) fn room_for(&self, key: &ClaimKey, profile: &ProfileName, count: u32) -> Hint {
        self.room_within(key, profile, count, &Within::Anywhere)
    }

    /// The same on some NUMA nodes only.
    pub(super) fn room_within(
        &self,
        key: &ClaimKey,
        profile: &ProfileName,
        count: u32,
        within: &Within,
    ) -> Hint {
        let wanted = Wanted { within, ..Wanted::anywhere(profile, key) };
        let room = match self.fewer_than(key, profile, count, within) {
            Some(most) => self.ask_for_most(key, profile, most, within),
            None => self
                .room_by_ends(key, profile, count, within)
                .or_else(|| self.uncordon_for(&wanted, count)),
        };
        room.unwrap_or_else(|| self.more_or_fewer(key, profile, count, within))
    }

    /// Orders about those who have slices, where that makes room.
    pub(super) fn room_by_ends(
        &self,
        key: &ClaimKey,
        profile: &ProfileName,
        count: u32,
        within: &Within,
    ) -> Option<Hint> {
        if self.view().is_made(profile) {
            self.room_at_start(key, profile, count, &|device| self.is_within(device, within))
        } else {
            self.room_for_home(key, profile, count, within)
        }
    }

    /// Where nobody's end makes room there are not so many: another GPU of the kind has them, or the claim asks for fewer.
    fn more_or_fewer(
        &self,
        key: &ClaimKey,
        profile: &ProfileName,
        count: u32,
        within: &Within,
    ) -> Hint {
        let another = self.another(profile, within);
        let there = self.beside_on_each(key, profile, &|device| self.is_within(device, within));
        let most =
            there.into_iter().map(|(most, (free, used))| free.saturating_add(used).min(most));
        let all = most.fold(0, u32::saturating_add);
        if !another && (1..count).contains(&all) {
            return hint!("{} --count {}", self.attach_again(key, profile), all);
        }
        if !another && self.durable.claims.contains_key(key) {
            return self.end_for_good(key);
        }
        lay_out_another()
    }

    /// Frees slices of a profile, on some devices: those who have one of the same size first, else all
    /// of the device with the fewest.
    pub(super) fn room_at_start(
        &self,
        key: &ClaimKey,
        profile: &ProfileName,
        count: u32,
        only: &dyn Fn(&ParentId) -> bool,
    ) -> Option<Hint> {
        let view = self.view();
        // How many more of each would serve the VM.
        let lacks = |(device, most): (ParentId, u32)| {
            let free = self.beside_on(key, profile, &|other| *other == device);
            let lacks = most.saturating_sub(free.map_or(0, |(free, _)| free));
            (device, usize::try_from(lacks).unwrap_or(usize::MAX))
        };
        let lacks: BTreeMap<_, _> =
            view.most_of_each(key, profile).into_iter().map(lacks).collect();
        let lacks = |device: &ParentId| lacks.get(device).copied().unwrap_or(usize::MAX);
        let mut devices = view.devices_of(view.given_of_profile(profile));
        devices.retain(|device| only(device) && lacks(device) > 0);
        // Nobody's end makes room where nothing is given out.
        if devices.is_empty() {
            return None;
        }
        let Ends { mut there, others } = self.ends_on(&devices, key, profile);
        let beside = self.free_and_used_beside(key, profile, only);
        let free = beside.map_or(0, |(free, _)| free);
        let missing = usize::try_from(count.saturating_sub(free).max(1)).unwrap_or(usize::MAX);
        // What we gave before what others made.
        for orders in there.values_mut() {
            orders.sort_by_key(|(_, order)| others.contains(order));
        }
        let same = there.iter().flat_map(|(device, orders)| {
            let same = orders.iter().filter(|(same, _)| *same);
            same.map(|(_, order)| order).take(lacks(device))
        });
        let mut same: Vec<&Hint> = same.collect();
        same.sort_by_key(|order| others.contains(*order));
        let same: Vec<Hint> = same.into_iter().take(missing).cloned().collect();
        let fewest = there.values().min_by_key(|orders| orders.len());
        let all = fewest.map(|orders| orders.iter().map(|(_, order)| order.clone()).collect());
        let orders = if same.is_empty() { all.unwrap_or_default() } else { same };
        Hint::in_turn(orders).or_else(|| {
            let reserved = self.reserved_beside(key, profile).into_iter();
            Hint::in_turn(reserved.take(missing).map(|(other, _)| self.end_for_good(other)))
        })
    }

    /// What ends the others who have slices of some devices, with those that are of a profile.
    fn ends_on<'d>(
        &self,
        devices: &'d BTreeSet<ParentId>,
        key: &ClaimKey,
        profile: &ProfileName,
    ) -> Ends<'d> {
        let mut there: BTreeMap<&ParentId, Vec<(bool, Hint)>> = BTreeMap::new();
        let mut has = |parent: &ParentId, same: bool, order: Hint| {
            if let Some(device) = devices.get(&self.seen.device_of(parent)) {
                there.entry(device).or_default().push((same, order));
            }
        };
        let of_others = self.run.assignments.iter().filter(|(_, a)| a.claim.owner != key.owner);
        for (slice, a) in of_others {
            let reserves = self.durable.claims.get(&a.claim).is_some_and(|claim| claim.reserve);
            let end = if reserves { self.end_for_good(&a.claim) } else { self.end_use(*slice, a) };
            has(&a.parent, a.profile == *profile, end);
        }
        let mut others = BTreeSet::new();
        for (uuid, mdev) in &self.seen.mdevs {
            let slice = SliceId::Mdev(*uuid);
            // What stands ready makes room by itself.
            if self.run.assignments.contains_key(&slice) || uuid.is_parked() {
                continue;
            }
            let of = self.profile_of(&mdev.parent, &mdev.type_id);
            let held = self.run.foreign.get(&slice).map(Self::end_hold);
            let end = held.unwrap_or_else(|| stop_mdev(*uuid));
            others.insert(end.clone());
            has(&mdev.parent, of.as_ref() == Some(profile), end);
        }
        Ends { there, others }
    }

    /// Claims of others that hold capacity of the devices that offer a profile, those of that profile first.
    pub(super) fn reserved_beside(
        &self,
        key: &ClaimKey,
        profile: &ProfileName,
    ) -> Vec<(&ClaimKey, &Claim)> {
        let view = self.view();
        let can = view.devices_offering(profile);
        let reserve = |(other, claim): &(&ClaimKey, &Claim)| {
            *other != key && claim.reserve && !claim.orphaned
        };
        let reserved = self.durable.claims.iter().filter(reserve);
        let beside =
            reserved.filter(|(_, claim)| !view.devices_offering(&claim.profile).is_disjoint(&can));
        let mut beside: Vec<(&ClaimKey, &Claim)> = beside.collect();
        beside.sort_by_key(|(_, claim)| claim.profile != *profile);
        beside
    }

    /// Frees VFs that are to be homes: those of claims that do not run first, then what came without a claim, then
    /// those of claims that run.
    fn room_for_home(
        &self,
        key: &ClaimKey,
        profile: &ProfileName,
        count: u32,
        within: &Within,
    ) -> Option<Hint> {
        let view = self.view();
        let given = view.given_of_profile(profile);
        let offers = given.filter(|offer| self.is_within(&offer.parent, within));
        let vfs: BTreeMap<PciAddress, ParentId> = offers
            .flat_map(|offer| {
                let device = self.seen.device_of(&offer.parent);
                offer.form.vfs().iter().map(move |vf| (*vf, device.clone()))
            })
            .collect();
        let [idle, promised, running] = self.homes_of_others(key, &vfs);
        let homes = [&idle, &promised, &running].into_iter().flatten().flat_map(|(here, _)| here);
        let homes: BTreeSet<&PciAddress> = homes.collect();
        let (mut free, mut others) = (Vec::new(), Vec::new());
        for vf in vfs.keys().filter(|vf| !homes.contains(vf)) {
            match self.use_of(&view, *vf) {
                Use::None => free.push(*vf),
                Use::EndedBy(order) => others.push((vec![*vf], Left::Other(order))),
                Use::Lasting => {}
            }
        }
        // Of one GPU only so many may serve the VM.
        let mut most = view.most_of_each(key, profile);
        let mut serves = |vf: &PciAddress| match vfs.get(vf).and_then(|gpu| most.get_mut(gpu)) {
            Some(0) => false,
            Some(more) => {
                *more -= 1;
                true
            }
            None => true,
        };
        let count = usize::try_from(count).unwrap_or(usize::MAX);
        let free = free.iter().filter(|vf| serves(vf)).count();
        let mut missing = count.saturating_sub(free).max(1);
        let mut enough = Vec::new();
        for (frees, left) in [idle, others, promised, running].into_iter().flatten() {
            if missing == 0 {
                break;
            }
            let more = frees.iter().filter(|vf| serves(vf)).count();
            if more > 0 {
                enough.push(left);
                missing = missing.saturating_sub(more);
            }
        }
        Hint::in_turn(enough.into_iter().map(|left| match left {
            Left::Claim(other) => self.end_for_good(other),
            Left::Promised(other) => hint!("gpuslice release {}", other),
            Left::Other(order) => order,
        }))
    }

    /// Homes of other claims among these VFs: of claims that do not run, of those promised to a domain that is to come in, and of
    /// those that run.
    fn homes_of_others(
        &self,
        key: &ClaimKey,
        vfs: &BTreeMap<PciAddress, ParentId>,
    ) -> [Vec<(Vec<PciAddress>, Left<'_>)>; 3] {
        let bound = self.bound_claims();
        let (mut idle, mut promised, mut running) = (Vec::new(), Vec::new(), Vec::new());
        for (other, claim) in self.durable.claims.iter().filter(|(o, c)| *o != key && !c.orphaned) {
            let here: Vec<PciAddress> =
                claim.home.iter().filter(|home| vfs.contains_key(home)).copied().collect();
            if here.is_empty() {
            } else if self.is_promised(other) {
                promised.push((here, Left::Promised(other)));
            } else if bound.contains(other) {
                running.push((here, Left::Claim(other)));
            } else {
                idle.push((here, Left::Claim(other)));
            }
        }
        [idle, promised, running]
    }

    /// What keeps a VF that is no claim's home from becoming one.
    fn use_of(&self, view: &View<'_>, vf: PciAddress) -> Use {
        let slice = SliceId::Vf(vf);
        let driver = view.seen.vfs.get(&vf).filter(|seen| !seen.on_vfio());
        let driver = driver.and_then(|seen| seen.driver.as_deref());
        if let Some(hold) = self.run.foreign.get(&slice) {
            Use::EndedBy(Self::end_hold(hold))
        } else if let Some(holder) = self.held.get(&slice) {
            Use::EndedBy(end_process(holder))
        } else if let Some(why) = view.held_back.get(&slice) {
            why.way_out().map_or(Use::Lasting, Use::EndedBy)
        } else if let Some(driver) = driver {
            Use::EndedBy(let_go(vf, driver))
        } else {
            Use::None
        }
    }

    /// Whether a claim is only that of a domain which is to come in.
    pub(super) fn is_promised(&self, key: &ClaimKey) -> bool {
        self.expected.values().flatten().any(|(expected, _)| expected == key)
    }
}

/// The module that makes mediated devices of a profile, where it is known.
fn maker_of(profile: &ProfileName) -> Option<&'static str> {
    let (begin, _) = profile.as_str().split_once('-')?;
    MAKERS.iter().find(|(of_type, _)| *of_type == begin).map(|(_, module)| *module)
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    #[test]
    fn a_name_is_one_word_of_the_order() {
        let of = |owner: Owner, name: &str| {
            let hold = ForeignHold { owner, name: name.to_owned(), starting: false };
            Machine::end_hold(&hold).as_str().to_owned()
        };
        let domain = Owner::Domain(Uuid::nil());
        assert_eq!(of(domain.clone(), "win11"), "virsh shutdown win11");
        assert_eq!(of(domain.clone(), "my vm; reboot"), "virsh shutdown 'my vm; reboot'");
        assert_eq!(of(domain, "it's"), r"virsh shutdown 'it'\''s'");
        assert_eq!(of(Owner::Vmid(100), "my vm"), "qm shutdown 100");
    }

    #[test]
    fn no_module_is_loaded_because_a_name_says_so() {
        for (profile, module) in [
            ("mtty-2", Some("mtty")),
            ("mdpy-vga", Some("mdpy")),
            ("mbochs-small", Some("mbochs")),
            ("i915-GVTg_V5_4", Some("kvmgt")),
            ("nouveau-1", None),
            ("kvmgt-1", None),
            ("mtty", None),
            ("mtty2-1", None),
            ("nvidia-a40-8q", None),
        ] {
            assert_eq!(maker_of(&profile.parse().unwrap()), module, "{profile}");
        }
    }
}
