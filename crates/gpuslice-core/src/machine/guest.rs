//! What the hookscript of Proxmox VE tells. Proxmox takes the first device of a mapping that it can reserve, and takes
//! it itself; so a start is refused when that one is not to be had, and else recorded as a hold of somebody else's.

use super::awaited::Awaited;
use super::{Effect, HookAnswer, Machine, RequestId, Timer};
use crate::guest::{GuestCall, GuestDevice, GuestPhase};
use crate::hint;
use crate::history::Ending;
use crate::ids::{MdevUuid, Owner, ParentId, PciAddress, SliceId};
use crate::refusal::{Code, Hint, Refusal};
use crate::state::ForeignHold;
use std::collections::BTreeSet;

/// Why a guest cannot have what it asks for, and whether that is over in a moment.
struct Unfit {
    why: Refusal,
    passes: bool,
}

impl From<Refusal> for Unfit {
    fn from(why: Refusal) -> Self {
        Self { why, passes: false }
    }
}

/// A call that waits.
#[derive(Debug)]
pub(super) struct Parked {
    request: RequestId,
    call: GuestCall,
    /// What is reserved for others is recorded, and may be over by now.
    noted: bool,
}

impl Machine {
    pub(super) fn guest_asks(&mut self, request: RequestId, call: GuestCall) {
        let after = call.patience_ms;
        self.on_guest(Parked { request, call, noted: false });
        if after > 0 && self.is_parked_guest(request) {
            self.push(Effect::Arm { timer: Timer::Guest(request), after });
        }
    }

    fn is_parked_guest(&self, request: RequestId) -> bool {
        self.parked_guests.iter().any(|parked| parked.request == request)
    }

    /// Nobody hears the answer.
    pub(super) fn guest_gone(&mut self, gone: RequestId) {
        if self.is_parked_guest(gone) {
            self.parked_guests.retain(|parked| parked.request != gone);
            self.push(Effect::Disarm { timer: Timer::Guest(gone) });
        }
    }

    /// What it waits for is refused from now on.
    pub(super) fn on_guest_timeout(&mut self, request: RequestId) {
        for parked in self.parked_guests.iter_mut().filter(|parked| parked.request == request) {
            parked.call.patience_ms = 0;
        }
    }

    fn on_guest(&mut self, mut parked: Parked) {
        if self.stale {
            return self.parked_guests.push_back(parked);
        }
        if !std::mem::replace(&mut parked.noted, true) {
            self.note_reservations(&parked.call);
        }
        let (request, call) = (parked.request, &parked.call);
        let owner = Owner::Vmid(call.vmid);
        let answer = match call.phase {
            GuestPhase::PreStart => match self.judge_start(call) {
                Ok(slices) => {
                    self.guest_starts(call, slices);
                    HookAnswer::Proceed
                }
                // What passes is its own VF of the last run, mostly: a reboot starts it again at once.
                Err(Unfit { why, passes })
                    if call.patience_ms > 0 && (passes || is_to_come(why.code)) =>
                {
                    return self.parked_guests.push_back(parked);
                }
                Err(Unfit { why: refusal, .. }) => {
                    let text = format!("start of {} refused: {refusal}", call.title());
                    self.push(Effect::Log { warning: true, text });
                    HookAnswer::Refuse(refusal)
                }
            },
            GuestPhase::PostStart => {
                let mine = call.reserved.iter().filter(|(_, vmid)| **vmid == call.vmid);
                self.guest_has(call.vmid, mine.map(|(address, _)| *address));
                self.guest_runs(call);
                HookAnswer::Proceed
            }
            GuestPhase::PostStop => {
                self.guest_has(call.vmid, []);
                self.end_holds(&owner, &BTreeSet::new(), Ending::Stopped);
                HookAnswer::Proceed
            }
        };
        self.push(Effect::AnswerHook { request, answer });
    }

    /// Takes up calls that came before a reading.
    pub(super) fn run_parked_guests(&mut self) {
        for _ in 0..self.parked_guests.len() {
            let Some(parked) = self.parked_guests.pop_front() else { return };
            let (request, waited) = (parked.request, parked.call.patience_ms > 0);
            // Parks itself again if it must.
            self.on_guest(parked);
            if waited && !self.is_parked_guest(request) {
                self.push(Effect::Disarm { timer: Timer::Guest(request) });
            }
        }
    }

    /// What a guest has from now on: those that wait were told what was reserved when they asked, and Proxmox chooses by what is
    /// reserved when they are let go.
    fn guest_has(&mut self, vmid: u32, has: impl IntoIterator<Item = PciAddress>) {
        let has: Vec<PciAddress> = has.into_iter().collect();
        for Parked { call, .. } in self.parked_guests.iter_mut().filter(|p| p.call.vmid != vmid) {
            call.reserved.retain(|_, other| *other != vmid);
            call.reserved.extend(has.iter().map(|address| (*address, vmid)));
        }
    }

    /// Holds what a guest may be started with. What another start holds stays with that one, which Proxmox goes on with first.
    fn guest_starts(&mut self, call: &GuestCall, slices: BTreeSet<SliceId>) {
        let owner = Owner::Vmid(call.vmid);
        let own = slices.iter().filter(|slice| self.start_of_another(**slice, call.vmid).is_none());
        let own: Vec<PciAddress> = own.filter_map(|slice| slice.pci()).collect();
        self.guest_has(call.vmid, own);
        self.end_holds(&owner, &slices, Ending::StartedAgain);
        for slice in slices {
            let another = self.start_of_another(slice, call.vmid).cloned();
            let (owner, name) = (owner.clone(), call.title());
            let hold = another.unwrap_or(ForeignHold { owner, name, starting: true });
            self.hold(slice, hold);
        }
    }

    /// The hold of another guest that is being started, or was when a start failed, which nobody tells.
    fn start_of_another(&self, slice: SliceId, vmid: u32) -> Option<&ForeignHold> {
        let of_another = |hold: &&ForeignHold| matches!(hold.owner, Owner::Vmid(of) if of != vmid);
        self.run.foreign.get(&slice).filter(|hold| hold.starting).filter(of_another)
    }

    /// Guests without this hookscript are known by their reservations alone.
    fn note_reservations(&mut self, call: &GuestCall) {
        for (address, vmid) in call.reserved.iter().filter(|(_, vmid)| **vmid != call.vmid) {
            let slice = SliceId::Vf(*address);
            // Which of its guests has it Proxmox knows.
            let other = |hold: &ForeignHold| matches!(hold.owner, Owner::Vmid(of) if of != *vmid);
            let free = !self.run.assignments.contains_key(&slice)
                && self.run.foreign.get(&slice).is_none_or(other);
            if free && self.seen.vfs.contains_key(address) {
                let (owner, name) = (Owner::Vmid(*vmid), format!("VM {vmid}"));
                self.hold(slice, ForeignHold { owner, name, starting: false });
                self.push(Effect::Watch { slice });
            }
        }
    }

    fn end_holds(&mut self, owner: &Owner, but: &BTreeSet<SliceId>, why: Ending) {
        let over: Vec<SliceId> = self
            .run
            .foreign
            .iter()
            .filter(|(slice, hold)| hold.owner == *owner && !but.contains(slice))
            .map(|(slice, _)| *slice)
            .collect();
        for slice in over {
            self.foreign_over(slice, why);
        }
    }

    /// What Proxmox has reserved for it is what it chose, whatever was foreseen.
    fn guest_runs(&mut self, call: &GuestCall) {
        let owner = Owner::Vmid(call.vmid);
        let mine = call.reserved.iter().filter(|(_, vmid)| **vmid == call.vmid);
        let mut has: BTreeSet<SliceId> = mine
            .filter(|(address, _)| self.seen.vfs.contains_key(address))
            .map(|(address, _)| SliceId::Vf(*address))
            .collect();
        has.extend(call.devices.iter().filter_map(|device| device.mdev.map(SliceId::Mdev)));
        self.end_holds(&owner, &has, Ending::Mistaken);
        for slice in has {
            if !self.run.assignments.contains_key(&slice) {
                let (owner, name) = (owner.clone(), call.title());
                self.hold(slice, ForeignHold { owner, name, starting: false });
            }
            self.push(Effect::Disarm { timer: Timer::Grace(slice) });
            self.push(Effect::Watch { slice });
        }
    }

    /// A device of these that is on its way, with what brings it. Proxmox starts no guest of a mapping of which one is missing.
    fn device_to_come(&self, device: &GuestDevice) -> Option<(PciAddress, Awaited)> {
        let all = device.alternatives.iter().flatten();
        let mut missing = all.filter(|address| !self.is_there(**address)).peekable();
        missing.peek()?;
        let coming: Vec<Awaited> = self.in_the_making().collect();
        missing.find_map(|address| {
            let of = self.device_of_vf(*address);
            // What was exported is of a GPU of ours, of which one is not told.
            let of = of.or_else(|| (!device.exported).then_some(ParentId::Pci(*address)));
            let brings = |awaited: &&Awaited| of.as_ref().is_none_or(|of| awaited.device == *of);
            Some((*address, coming.iter().find(brings)?.clone()))
        })
    }

    /// The slices that Proxmox may take for a guest. What others are being started with it has reserved for them by then, or not,
    /// where such a start has failed.
    fn judge_start(&self, call: &GuestCall) -> Result<BTreeSet<SliceId>, Unfit> {
        let first = self.judge_guest(call)?;
        if !first.iter().any(|slice| self.start_of_another(*slice, call.vmid).is_some()) {
            return Ok(first);
        }
        let mut later = call.clone();
        for address in call.devices.iter().flat_map(|device| device.alternatives.iter().flatten()) {
            if let Some(ForeignHold { owner: Owner::Vmid(other), .. }) =
                self.start_of_another(SliceId::Vf(*address), call.vmid)
            {
                later.reserved.insert(*address, *other);
            }
        }
        match self.judge_guest(&later) {
            Ok(next) => Ok(first.into_iter().chain(next).collect()),
            // Proxmox says so, where it has none for it then.
            Err(Unfit { why, .. }) if why.code == Code::NoCapacity => Ok(first),
            Err(unfit) => Err(unfit),
        }
    }

    /// The slices that Proxmox is about to take for a guest, by what is reserved.
    fn judge_guest(&self, call: &GuestCall) -> Result<BTreeSet<SliceId>, Unfit> {
        let mut takes = BTreeSet::new();
        for device in &call.devices {
            if let Some((address, awaited)) = self.device_to_come(device) {
                let message = format!(
                    "hostpci{} of {}: {address} is not there yet: waiting for {}",
                    device.index,
                    call.title(),
                    awaited.what
                );
                let hint = hint!("gpuslice wait --settled, then start it again");
                return Err(Refusal::new(Code::NotSettled, message).hint(hint).into());
            }
            self.judge_missing(call, device)?;
            self.judge_groups(call, device)?;
            match device.mdev {
                Some(uuid) => {
                    self.judge_parents(call, device, uuid)?;
                    takes.insert(SliceId::Mdev(uuid));
                }
                None => takes.extend(self.judge_alternatives(call, device, &takes)?),
            }
        }
        Ok(takes)
    }

    fn is_there(&self, address: PciAddress) -> bool {
        self.is_function(address) || self.seen.whole.contains_key(&address)
    }

    /// A device of an exported mapping that is there no more, beside others that are.
    fn judge_missing(&self, call: &GuestCall, device: &GuestDevice) -> Result<(), Refusal> {
        if self.is_withheld(device) {
            return Ok(());
        }
        let mut all = device.alternatives.iter().flatten().filter(|_| device.exported);
        let gone = all.clone().find(|address| !self.is_there(**address));
        let others = all.any(|address| self.is_there(*address));
        let Some(address) = gone.filter(|_| others) else { return Ok(()) };
        let (index, title) = (device.index, call.title());
        let message =
            format!("hostpci{index} of {title}: its mapping has {address}, which is not there");
        let hint = hint!("gpuslice export proxmox | sh, then start it again");
        Err(Refusal::new(Code::Absent, message).hint(hint))
    }

    /// Proxmox compares each device of a mapping with the kernel's word, after this, and starts no guest where one differs. Groups
    /// are numbered in the order in which devices come: with each boot anew.
    fn judge_groups(&self, call: &GuestCall, device: &GuestDevice) -> Result<(), Refusal> {
        if self.is_withheld(device) {
            return Ok(());
        }
        let differs = |(address, said): (&PciAddress, &Option<u32>)| {
            let is = self.group_of(*address)?;
            (*said != Some(is)).then_some((*address, *said, is))
        };
        let Some((address, said, is)) = device.groups.iter().find_map(differs) else {
            return Ok(());
        };
        let said = said.map_or_else(|| "no IOMMU group".to_owned(), |n| format!("IOMMU group {n}"));
        let (index, title) = (device.index, call.title());
        let message = format!("hostpci{index} of {title}: its mapping says {said} of {address}");
        let hint = match device.exported {
            true => hint!("gpuslice export proxmox | sh, then start it again"),
            false => hint!(
                "correct {} in Datacenter, Resource Mappings (it is in IOMMU group {}), then start it again",
                address,
                is
            ),
        };
        let why = Refusal::new(Code::BadRequest, message);
        Err(why.because(format!("{address} is in IOMMU group {is}")).hint(hint))
    }

    fn group_of(&self, address: PciAddress) -> Option<u32> {
        let seen = &self.seen;
        if let Some(vf) = seen.vfs.get(&address) {
            return vf.iommu_group;
        }
        let function = seen.functions.get(&address).or_else(|| seen.whole.get(&address));
        function.and_then(|function| function.iommu_group)
    }

    /// An mdev is made on the first parent that has room for it: that one must be given out.
    fn judge_parents(
        &self,
        call: &GuestCall,
        device: &GuestDevice,
        uuid: MdevUuid,
    ) -> Result<(), Refusal> {
        let view = self.view();
        let all = device.alternatives.iter().flatten();
        let parents: Vec<(PciAddress, Option<Refusal>)> =
            all.map(|a| (*a, view.parent_reason(&ParentId::Pci(*a)))).collect();
        let makes = |address: PciAddress| self.would_make(device, uuid, address);
        let given = || parents.iter().find(|(_, why)| why.is_none());
        // Where none has room Proxmox says so.
        let chosen = parents.iter().find(|(address, _)| makes(*address)).or_else(given);
        let Some((_, Some(why))) = chosen.or(parents.first()) else { return Ok(()) };
        let message = format!("hostpci{} of {}: {}", device.index, call.title(), why.message);
        let served = parents.iter().any(|(address, why)| why.is_none() && makes(*address));
        let withheld = parents.iter().filter(|(_, why)| why.is_some()).map(|(address, _)| *address);
        let why = Refusal { message, ..why.clone() };
        Err(if served { without(device, withheld, why) } else { why })
    }

    /// Whether Proxmox would have its mdev of this parent. One that is left of an earlier run it takes again.
    fn would_make(&self, device: &GuestDevice, uuid: MdevUuid, address: PciAddress) -> bool {
        let parent = ParentId::Pci(address);
        if let Some(left) = self.seen.mdevs.get(&uuid) {
            return left.parent == parent;
        }
        let types = self.seen.mdev_parents.get(&parent).map(|parent| &parent.types);
        match &device.type_id {
            Some(of) => types.and_then(|types| types.get(of)).is_some_and(|of| of.available > 0),
            None => types.is_some(),
        }
    }

    fn judge_alternatives(
        &self,
        call: &GuestCall,
        device: &GuestDevice,
        taken: &BTreeSet<SliceId>,
    ) -> Result<Vec<SliceId>, Unfit> {
        if !device.alternatives.iter().flatten().any(|address| self.is_function(*address)) {
            return Ok(Vec::new());
        }
        let free = |address: &PciAddress| {
            call.reserved.get(address).is_none_or(|vmid| *vmid == call.vmid)
                && !taken.contains(&SliceId::Vf(*address))
        };
        // The choice that Proxmox will make.
        let chosen = device.alternatives.iter().find(|together| together.iter().all(free));
        let Some(chosen) = chosen else {
            let (index, title) = (device.index, call.title());
            let message = format!(
                "hostpci{index} of {title}: other guests have all {} devices it can be",
                device.alternatives.len()
            );
            let mut reserved = device.alternatives.iter().flatten();
            let other = reserved
                .find_map(|address| call.reserved.get(address).filter(|vmid| **vmid != call.vmid));
            let hint = match other {
                Some(vmid) => hint!("qm shutdown {}", vmid),
                None => hint!("qm set {} --delete hostpci{}", call.vmid, index),
            };
            return Err(Refusal::new(Code::NoCapacity, message).hint(hint).into());
        };
        self.judge_chosen(call, device, chosen).map_err(|unfit| {
            let withheld = self.withheld(device);
            let stays = |address: &PciAddress| free(address) && !withheld.contains(address);
            let next = device.alternatives.iter().find(|together| together.iter().all(stays));
            match next.map(|next| self.judge_chosen(call, device, next)) {
                Some(Ok(_)) => Unfit { why: without(device, withheld, unfit.why), ..unfit },
                _ => unfit,
            }
        })
    }

    /// Functions that Proxmox passes together.
    fn judge_chosen(
        &self,
        call: &GuestCall,
        device: &GuestDevice,
        chosen: &[PciAddress],
    ) -> Result<Vec<SliceId>, Unfit> {
        let mut slices = Vec::new();
        for address in chosen.iter().filter(|address| self.is_function(**address)) {
            let what = format!("hostpci{} of {} would be", device.index, call.title());
            self.require_uncut(&what, *address, &Owner::Vmid(call.vmid))?;
            if self.seen.vfs.contains_key(address) {
                let slice = SliceId::Vf(*address);
                let unfit = |why| Unfit { why, passes: self.comes_back(slice) };
                self.judge_function(&what, *address).map_err(unfit)?;
                slices.push(slice);
            }
        }
        Ok(slices)
    }

    fn is_function(&self, address: PciAddress) -> bool {
        self.seen.vfs.contains_key(&address) || self.seen.functions.contains_key(&address)
    }

    /// What of it the export leaves out of its mappings.
    fn withheld(&self, device: &GuestDevice) -> BTreeSet<PciAddress> {
        let (view, held_back) = (self.view(), self.held_back());
        let withheld = |address: &PciAddress| {
            let why = view.parent_reason(&ParentId::Pci(*address));
            let choice = self.seen.vfs.get(address).and_then(|vf| vf.choice.as_ref());
            why.is_some_and(|why| matches!(why.code, Code::Cordoned | Code::Quarantined))
                || choice.is_some_and(|choice| choice.broken)
                || held_back.get(&SliceId::Vf(*address)).is_some_and(|why| why.code == Code::Dirty)
        };
        device.alternatives.iter().flatten().copied().filter(withheld).collect()
    }

    /// None that is there is given to anybody: another export would leave the mapping as it is, and what is said of them mends.
    fn is_withheld(&self, device: &GuestDevice) -> bool {
        let withheld = self.withheld(device);
        let mut there = device.alternatives.iter().flatten().filter(|a| self.is_there(**a));
        device.exported && !withheld.is_empty() && there.all(|address| withheld.contains(address))
    }

    fn judge_function(&self, what: &str, address: PciAddress) -> Result<(), Refusal> {
        let slice = SliceId::Vf(address);
        let what = format!("{what} VF {address}");
        if let Some(other) = self.run.assignments.get(&slice) {
            let whose = self.owner_name(&other.claim);
            let message = format!("{what}, which is assigned to {whose} ({})", other.claim.name);
            return Err(Refusal::new(Code::Taken, message).hint(self.end_use(slice, other)));
        }
        if let Some(hold) = self.run.foreign.get(&slice)
            // Between its own guests Proxmox decides, and a start of theirs that failed is told to nobody.
            && !matches!(hold.owner, Owner::Vmid(_))
        {
            let message = format!("{what}, which is in {}", hold.name);
            return Err(Refusal::new(Code::Held, message).hint(Self::end_hold(hold)));
        }
        if let Some(why) = self.held_back().remove(&slice) {
            return Err(Refusal { message: format!("{what}: {}", why.message), ..why });
        }
        match self.view().parent_reason(&ParentId::Pci(address)) {
            Some(why) => Err(Refusal { message: format!("{what}: {}", why.message), ..why }),
            None => Ok(()),
        }
    }
}

/// A layout under way brings it, or a GPU that is awaited.
fn is_to_come(why: Code) -> bool {
    matches!(why, Code::NotSettled | Code::Reshaping)
}

/// The mapping has other devices, and Proxmox takes the first: it is to lose what nobody is given.
fn without(
    device: &GuestDevice,
    withheld: impl IntoIterator<Item = PciAddress>,
    why: Refusal,
) -> Refusal {
    if !matches!(why.code, Code::Cordoned | Code::Quarantined | Code::Dirty) {
        return why;
    }
    let lose = match device.exported {
        true => hint!(
            "gpuslice export proxmox | sh (it leaves out what nobody is given), then start it again"
        ),
        false => hint!(
            "take {} out of its mapping in Datacenter, Resource Mappings, then start it again",
            Hint::words(withheld, " ")
        ),
    };
    match why.way_out() {
        Some(other) => why.hint(hint!("{}; or {}", lose, other)),
        None => why.hint(lose),
    }
}
