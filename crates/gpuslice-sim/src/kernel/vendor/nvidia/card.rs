//! What a card and its driver are set to: MIG and its GPU instances, mixed sizes. The card itself remembers only
//! whether MIG is on; the rest goes with the driver, and so with each run of `sriov-manage`.

use crate::host_file::{InstanceShape, MdevShape};
use crate::kernel::Kernel;
use crate::kernel::catalogue::{Instance, Setting};
use crate::kernel::function::Role;
use crate::kernel::number;
use gpuslice_core::errno::Errno;
use gpuslice_core::ids::PciAddress;
use gpuslice_core::port::Written;
use std::collections::BTreeSet;

/// Most GPU instances of a card.
const MOST_INSTANCES: u32 = 8;

/// See the module.
#[derive(Debug, Clone, Default)]
pub(crate) struct Card {
    pub(crate) set: Setting,
    /// What MIG is to be with the next driver, where that is another.
    pending: Option<bool>,
    /// Of the scheduler; 0 is its default.
    pub(crate) scheduler: String,
    /// VFs whose VM was killed while their vGPU was initialised. Nothing on the host tells.
    pub(crate) wedged: BTreeSet<PciAddress>,
    /// Somebody has the lock that keeps others from opening it.
    unbind_lock: bool,
}

impl Card {
    /// Whether MIG is on when a driver takes the card next.
    fn next_mig(&self) -> bool {
        self.pending.unwrap_or(self.set.mig)
    }
}

impl Kernel {
    /// GPUs of which the driver with a registry tells in `/proc`.
    pub(crate) fn locked_gpus(&self) -> impl Iterator<Item = PciAddress> + '_ {
        let of = self.registry.as_ref().map(|registry| &*registry.driver);
        let ours = move |function: &crate::kernel::function::Function| {
            of.is_some() && function.driver.as_deref() == of && !function.is_vf()
        };
        self.functions.iter().filter(move |(_, f)| ours(f)).map(|(address, _)| *address)
    }

    pub(crate) fn gpus_driver(&self) -> crate::kernel::Name {
        self.registry.as_ref().map(|registry| registry.driver.clone()).unwrap_or_default()
    }

    pub(crate) fn has_unbind_lock(&self, pf: PciAddress) -> bool {
        self.cards.get(&pf).is_some_and(|card| card.unbind_lock)
    }

    /// It is given while nobody has the GPU open and no VM runs with a VF; only reading it again tells.
    pub(crate) fn write_unbind_lock(
        &mut self,
        pf: PciAddress,
        data: &[u8],
    ) -> Result<Written, Errno> {
        let wanted = number::parse(data).ok_or(Errno::EINVAL)?;
        let had = match wanted {
            0 => false,
            1 => self.has_unbind_lock(pf) || !(self.computes(pf) || self.vm_runs(pf)),
            _ => return Ok(Written::Done),
        };
        self.cards.entry(pf).or_default().unbind_lock = had;
        Ok(Written::Done)
    }

    /// A driver whose GPUs are set with a tool.
    pub(crate) fn has_smi(&self, driver: &str) -> bool {
        self.driver_shape(driver).is_some_and(|d| d.smi_tool.is_some())
    }

    /// GPUs that the tool knows, in its order.
    pub(crate) fn smi_gpus(&self) -> Vec<PciAddress> {
        let here = |(address, function): (&PciAddress, &crate::kernel::function::Function)| {
            let known = function.driver.as_deref().is_some_and(|driver| self.has_smi(driver));
            (known && !function.is_vf()).then_some(*address)
        };
        self.functions.iter().filter_map(here).collect()
    }

    pub(crate) fn card_shape(&self, pf: PciAddress) -> Option<&MdevShape> {
        self.shape(self.functions.get(&pf)?)?.mdev.as_ref()
    }

    /// Of a power cycle only the mode is left; a machine that was never on has what the host file says.
    pub(crate) fn cards_rebooted(&mut self) {
        let host = std::sync::Arc::clone(&self.host);
        let shapes = host.functions.iter().filter_map(|f| Some((f.address, f.mdev.as_ref()?)));
        for (address, shape) in shapes {
            let on = shape.mig.as_ref().is_some_and(|mig| mig.on);
            let mig = self.cards.get(&address).map_or(on, Card::next_mig);
            let set = Setting { mig, ..Setting::default() };
            self.cards.insert(address, Card { set, ..Card::default() });
        }
    }

    /// The driver leaves the PF.
    pub(crate) fn card_released(&mut self, pf: PciAddress) {
        if let Some(card) = self.cards.get_mut(&pf) {
            let set = Setting { mig: card.next_mig(), ..Setting::default() };
            *card = Card { set, ..Card::default() };
        }
    }

    fn vgpus_there(&self, pf: PciAddress) -> bool {
        !self.made_of(&pf.to_string()).is_empty()
    }

    fn card_mut(&mut self, pf: PciAddress) -> Result<&mut Card, Errno> {
        self.cards.get_mut(&pf).ok_or(Errno::EOPNOTSUPP)
    }

    pub(crate) fn card_set(&self, pf: PciAddress) -> Setting {
        self.cards.get(&pf).map(|card| card.set.clone()).unwrap_or_default()
    }

    pub(crate) fn set_mixed(&mut self, pf: PciAddress, on: bool) -> Result<(), Errno> {
        let able = self.card_shape(pf).is_some_and(|shape| !shape.sizes.is_empty());
        if !able || self.card_set(pf).mig {
            return Err(Errno::EOPNOTSUPP);
        }
        if self.vgpus_there(pf) {
            return Err(Errno::EBUSY);
        }
        self.card_mut(pf)?.set.mixed = on;
        Ok(())
    }

    pub(crate) fn next_mig(&self, pf: PciAddress) -> bool {
        self.cards.get(&pf).is_some_and(Card::next_mig)
    }

    /// Refused while VFs are enabled, when it is to be turned off. Where the GPU cannot be reset, since somebody has it open
    /// say, it is to be so with the next driver, and this is why.
    pub(crate) fn set_mig(&mut self, pf: PciAddress, on: bool) -> Result<Option<String>, Errno> {
        if self.card_shape(pf).is_none_or(|shape| shape.mig.is_none()) {
            return Err(Errno::EOPNOTSUPP);
        }
        let set = self.card_set(pf);
        if set.mig == on {
            self.card_mut(pf)?.pending = None;
            return Ok(None);
        }
        let vfs = self.functions.get(&pf).map(|f| &f.role);
        let vfs = matches!(vfs, Some(Role::Pf { numvfs: 1.., .. }));
        if self.vgpus_there(pf) || !set.instances.is_empty() || (!on && vfs) {
            return Err(Errno::EBUSY);
        }
        let opened = self.computes(pf).then(|| "In use by another client".to_owned());
        let why = opened.or_else(|| self.not_reset(pf));
        let card = self.card_mut(pf)?;
        match &why {
            Some(_) => card.pending = Some(on),
            None => (card.set.mig, card.set.mixed, card.pending) = (on, false, None),
        }
        Ok(why)
    }

    /// A GPU instance of a profile, by its number or its name; gives its own number, and the profile.
    pub(crate) fn make_instance(
        &mut self,
        pf: PciAddress,
        profile: &str,
    ) -> Result<(u32, InstanceShape), Errno> {
        let set = self.card_set(pf);
        let mig = self.card_shape(pf).and_then(|shape| shape.mig.clone());
        let Some(mig) = mig.filter(|_| set.mig) else {
            return Err(Errno::EOPNOTSUPP);
        };
        let named = |p: &&InstanceShape| p.name == profile || p.id.to_string() == profile;
        let wanted = mig.profiles.iter().find(named).ok_or(Errno::EINVAL)?;
        let shape = |i: &Instance| mig.profiles.iter().find(|p| p.id == i.profile);
        let compute: u32 = set.instances.values().filter_map(shape).map(|p| p.compute).sum();
        let taken = |at: u32| {
            set.instances.values().any(|there| {
                let memory = shape(there).map_or(0, |p| p.memory);
                at < there.start + memory && there.start < at + wanted.memory
            })
        };
        // The compute slices begin where the memory does, and there are fewer of them.
        let fits = |at: &u32| {
            at + wanted.memory <= mig.memory && at + wanted.compute <= mig.compute && !taken(*at)
        };
        let mut starts = (0..mig.memory).filter(|at| at % wanted.memory.max(1) == 0);
        // Which it takes is the driver's affair.
        let start = starts.rfind(fits).filter(|_| compute + wanted.compute <= mig.compute);
        let id = (0..MOST_INSTANCES).find(|id| !set.instances.contains_key(id));
        let (Some(start), Some(id)) = (start, id) else {
            return Err(Errno::ENOSPC);
        };
        let instance = Instance { profile: wanted.id, start, memory_mib: wanted.memory_mib };
        self.card_mut(pf)?.set.instances.insert(id, instance);
        Ok((id, wanted.clone()))
    }

    pub(crate) fn drop_instance(&mut self, pf: PciAddress, id: u32) -> Result<(), Errno> {
        if !self.card_set(pf).instances.contains_key(&id) {
            return Err(Errno::ENOENT);
        }
        let made = self.made_of(&pf.to_string());
        if made.iter().any(|m| m.spot.instance == Some(id)) {
            return Err(Errno::EBUSY);
        }
        self.card_mut(pf)?.set.instances.remove(&id);
        Ok(())
    }

    /// VFs whose VM was killed at its start: given out they look well, and the guest's driver fails.
    pub fn wedged(&self) -> Vec<PciAddress> {
        self.cards.values().flat_map(|card| card.wedged.iter().copied()).collect()
    }
}
