//! Boot, modules, plug and unplug, and the catalogues of mediated devices.

use super::binding::VFIO_PCI;
use super::catalogue::{Catalogue, Type};
use super::function::{Function, Role};
use super::job::{Lock, Poll, Task, done};
use super::mdev::Place;
use super::uevent::Action;
use super::vendor::gim::asics::turn;
use super::{Counts, Kernel, Name, Pace, chance::Chance, command::Outcome};
use crate::host_file::{HostFile, MdevOn, MdevRule, VirtualKind};
use gpuslice_core::errno::Errno;
use gpuslice_core::ids::PciAddress;
use gpuslice_core::port::Written;
use std::sync::Arc;
use uuid::Uuid;

/// Modules every kernel here has, with what they need.
const MODULES: &[(&str, &[&str])] = &[
    ("vfio", &[]),
    ("vfio-iommu-type1", &["vfio"]),
    ("mdev", &["vfio"]),
    ("vfio-pci-core", &["vfio", "vfio-iommu-type1"]),
    (VFIO_PCI, &["vfio-pci-core"]),
];

/// Name and content of a file of `/etc/modprobe.d` that came with the distribution.
fn distributions_file() -> (String, Vec<u8>) {
    ("blacklist.conf".to_owned(), b"blacklist pcspkr\n".to_vec())
}

impl VirtualKind {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Mtty => "mtty",
            Self::Mdpy => "mdpy",
            Self::Mbochs => "mbochs",
        }
    }
}

impl Kernel {
    /// A machine that has just booted.
    pub fn from_host(host: &HostFile) -> Self {
        let mut kernel = Self {
            present: vec![true; host.functions.len()],
            host: Arc::new(host.clone()),
            now: 0,
            booted: 0,
            boot_id: Uuid::nil(),
            boots: 0,
            pace: Pace::Whole,
            functions: Default::default(),
            drivers: Default::default(),
            leaving: Default::default(),
            modules: Default::default(),
            groups: Default::default(),
            vfio_numbers: Default::default(),
            parents: Default::default(),
            mdevs: Default::default(),
            typed: Default::default(),
            spoiled: Default::default(),
            cards: Default::default(),
            registry: None,
            gim: None,
            arguments: "quiet\n".to_owned(),
            gim_config: None,
            partitions: Default::default(),
            dmesg: Vec::new(),
            modprobe_d: [distributions_file()].into(),
            ran: None,
            mdev_class: false,
            processes: Default::default(),
            jobs: Default::default(),
            next_job: 0,
            locks: Default::default(),
            completed: Vec::new(),
            events: Default::default(),
            faults: Vec::new(),
            log: Default::default(),
            counts: Counts::default(),
        };
        kernel.boot();
        kernel
    }

    /// Everything in memory is new; hardware and virtual time stay. Nobody listens to the events of a boot.
    pub(super) fn boot(&mut self) {
        self.boots += 1;
        self.booted = self.now;
        let mut chance = Chance::new(self.host.kernel.seed.wrapping_add(self.boots << 32));
        self.boot_id = uuid::Builder::from_random_bytes(
            (u128::from(chance.number()) << 64 | u128::from(chance.number())).to_be_bytes(),
        )
        .into_uuid();
        self.functions.clear();
        self.drivers.clear();
        self.leaving.clear();
        self.modules.clear();
        self.groups = Default::default();
        self.vfio_numbers = Default::default();
        self.parents.clear();
        self.mdevs.clear();
        self.typed.clear();
        self.spoiled.clear();
        self.cards_rebooted();
        self.registry = None;
        self.gim = None;
        self.dmesg.clear();
        self.mdev_class = false;
        self.processes.clear();
        self.jobs.clear();
        self.locks.clear();
        self.completed.clear();
        self.events.clear();
        self.events.deaf = true;
        self.cold_plug();
        self.run();
        self.events.deaf = false;
    }

    fn cold_plug(&mut self) {
        let host = Arc::clone(&self.host);
        for module in &host.kernel.modules {
            // What a module list names in vain, systemd logs and forgets.
            let _ = self.modprobe(module);
        }
        for (index, shape) in host.functions.iter().enumerate() {
            let there = self.present.get(index) == Some(&true);
            if there && shape.appears_after_ms == 0 {
                self.start(None, vec![Task::Appear(index)]);
            } else if there {
                let at = Task::Sleep(self.now + shape.appears_after_ms);
                self.start(None, vec![at, Task::Appear(index)]);
            }
        }
        // Functions first, as enumeration is; drivers come from modules.
        self.run();
        for driver in host.drivers.iter().filter(|d| d.loaded) {
            let _ = self.modprobe(&driver.name);
        }
        for parent in host.virtuals.iter().filter(|p| p.loaded) {
            let _ = self.modprobe(parent.kind.name());
        }
    }

    /// Loads a module and what it needs. `-` and `_` are one.
    pub(super) fn modprobe(&mut self, name: &str) -> Result<(), Errno> {
        let same = |other: &str| other.replace('_', "-") == name.replace('_', "-");
        if let Some((name, needs)) = MODULES.iter().find(|(known, _)| same(known)) {
            for needed in *needs {
                self.modprobe(needed)?;
            }
            if self.modules.insert((*name).into()) && *name == VFIO_PCI {
                self.drivers.insert(VFIO_PCI.into());
            }
            return Ok(());
        }
        let host = Arc::clone(&self.host);
        let driver = host.drivers.iter().map(|d| d.name.as_str());
        let sample = host.virtuals.iter().map(|p| p.kind.name());
        let known: Name = driver.chain(sample).find(|n| same(n)).ok_or(Errno::ENOENT)?.into();
        if !self.modules.contains(&known) {
            self.gim_loading(&known)?;
            self.registry_loading(&known)?;
            self.modules.insert(known.clone());
            self.start(None, vec![Task::DriverBorn(known)]);
            self.run();
        }
        Ok(())
    }

    /// The device of a sample module.
    fn sample_event(&mut self, action: Action, name: &str) {
        self.plain_event(action, format!("/devices/virtual/{name}/{name}"), name);
    }

    /// A module's init: a parent of its own, or a driver that looks at every function nobody has.
    pub(super) fn driver_born(&mut self, name: &Name) -> Poll {
        self.modules.insert(name.clone());
        if self.host.virtuals.iter().any(|p| p.kind.name() == &**name) {
            self.sample_event(Action::Add, name);
            return Poll::Next(vec![Task::ParentBorn(name.clone())]);
        }
        if self.gim.is_none() {
            // A reload; of a fresh load modprobe has said already whether its options are good.
            let _ = self.gim_loading(name);
        }
        if self.registry.is_none() && self.registry_loading(name).is_err() {
            self.modules.remove(name);
            return done();
        }
        self.drivers.insert(name.clone());
        // GIM adds its ids one after the other, the others have them all at once.
        let by_id = self.driver_shape(name).is_some_and(|d| d.gim.is_some());
        let key = |f: &Function| self.ids(f).map_or(0, |(_, id)| if by_id { turn(id) } else { 0 });
        let free = self.functions.iter().filter(|(_, f)| f.driver.is_none());
        let mut free: Vec<_> = free.map(|(address, f)| (key(f), *address)).collect();
        free.sort_unstable();
        Poll::Next(free.into_iter().map(|(_, address)| Task::Probe(address)).collect())
    }

    pub(super) fn driver_gone(&mut self, name: &Name) -> Poll {
        self.leaving.remove(name);
        if !self.drivers.remove(name) {
            self.sample_event(Action::Remove, name);
        }
        self.modules.remove(name);
        self.registry_unloading(name);
        if self.driver_shape(name).is_some_and(|d| d.gim.is_some()) {
            self.gim = None;
        }
        done()
    }

    pub(super) fn start_reload(&mut self, name: &str) -> Outcome {
        let Some(name) = self.modules.get(name).cloned() else {
            return Outcome::Failed(Errno::ENOENT);
        };
        let bound = self.functions.iter().filter(|(_, f)| f.driver.as_ref() == Some(&name));
        let bound: Vec<PciAddress> = bound.map(|(address, _)| *address).collect();
        let mut tasks = self.exit_tasks(&name, &bound);
        tasks.push(Task::DriverBorn(name));
        self.start_and_tell(tasks)
    }

    /// A module's exit: its own parent goes, its driver lets go of every device.
    pub(super) fn exit_tasks(&mut self, name: &Name, bound: &[PciAddress]) -> Vec<Task> {
        self.leaving.insert(name.clone());
        let mut tasks = Vec::new();
        if self.parents.get(name).is_some_and(|parent| parent.place == Place::Virtual) {
            tasks.push(Task::ParentGone(name.clone()));
        }
        tasks.extend(self.detach_tasks(bound));
        tasks.push(Task::DriverGone(name.clone()));
        tasks
    }

    /// `driver_detach`: no lock of one device is held while it waits for the next.
    fn detach_tasks(&self, bound: &[PciAddress]) -> Vec<Task> {
        let each = |address: &PciAddress| {
            [
                Task::Lock(Lock::Device(*address)),
                Task::Release(*address),
                Task::Unlock(Lock::Rescan),
                Task::Unlock(Lock::Device(*address)),
            ]
        };
        bound.iter().flat_map(each).collect()
    }

    /// A function comes back into its slot.
    pub(super) fn start_plug(&mut self, address: PciAddress) -> Outcome {
        let Some(index) = self.host.functions.iter().position(|f| f.address == address) else {
            return Outcome::Failed(Errno::ENOENT);
        };
        if self.present.get(index) == Some(&true) || self.appearing(index).is_some() {
            return Outcome::Idle;
        }
        self.start_and_tell(vec![Task::Appear(index)])
    }

    /// A function leaves its slot: from now on it answers nothing; the kernel forgets it when it can.
    pub(super) fn start_unplug(&mut self, address: PciAddress) -> Outcome {
        let Some(index) = self.host.functions.iter().position(|f| f.address == address) else {
            return Outcome::Failed(Errno::ENOENT);
        };
        // One that would have appeared later, or once its former life has ended, does not.
        let awaited = self.appearing(index);
        if let Some(job) = awaited {
            self.jobs.remove(&job);
        }
        if self.present.get(index) != Some(&true) {
            return if awaited.is_some() { Outcome::Done } else { Outcome::Idle };
        }
        let id = self.lose_hardware(index, address);
        self.tell(id)
    }

    /// The job that will make a function of the host file appear.
    fn appearing(&self, index: usize) -> Option<u64> {
        self.jobs.iter().find(|(_, job)| job.will_appear(index)).map(|(id, _)| *id)
    }

    /// Begins the removal that surprise makes necessary.
    pub(super) fn lose_hardware(&mut self, index: usize, address: PciAddress) -> u64 {
        if let Some(present) = self.present.get_mut(index) {
            *present = false;
        }
        let mut tasks = vec![Task::Lock(Lock::Device(address)), Task::Lock(Lock::Rescan)];
        if self.functions.contains_key(&address) {
            let [release, remove] = [Task::Release(address), Task::Remove(address)];
            tasks.extend([release, Task::DropVfs(address, 0), remove]);
        }
        self.start(None, tasks)
    }

    /// Parents and VFs offer from now on what the new host file says.
    pub(super) fn set_drivers(&mut self, host: &HostFile) {
        self.host = Arc::new(host.clone());
        let names: Vec<Name> = self.parents.keys().cloned().collect();
        for name in names {
            if let Some((_, catalogue)) = self.catalogue(&name)
                && let Some(parent) = self.parents.get_mut(&name)
            {
                parent.catalogue = Arc::new(catalogue);
            }
        }
    }

    fn start_and_tell(&mut self, tasks: Vec<Task>) -> Outcome {
        let id = self.start(None, tasks);
        self.tell(id)
    }

    fn tell(&mut self, id: u64) -> Outcome {
        self.run_at_pace();
        match self.outcome(id) {
            Ok(Written::Done) => Outcome::Done,
            Ok(Written::Blocked) => Outcome::Blocked,
            Err(errno) => Outcome::Failed(errno),
        }
    }

    /// The parent a function is while its driver is on it.
    pub(super) fn parent_of_function(&self, address: PciAddress) -> Option<Name> {
        let function = self.functions.get(&address)?;
        let shape = self.shape(function)?;
        let expected = match (&function.role, shape.mdev.as_ref()?.on) {
            (Role::Vf { .. }, MdevOn::Vf) => shape.sriov.as_ref()?.vf_driver.as_ref(),
            (Role::Pf { .. } | Role::Plain, MdevOn::Pf) => shape.driver.as_ref(),
            _ => None,
        };
        (function.driver.as_deref() == Some(expected?)).then(|| address.to_string().into())
    }

    /// The types a parent registers.
    pub(super) fn catalogue(&self, name: &Name) -> Option<(Place, Catalogue)> {
        if let Some(parent) = self.host.virtuals.iter().find(|p| p.kind.name() == &**name) {
            return Some((Place::Virtual, sample_catalogue(parent.kind, parent.budget)));
        }
        let address: PciAddress = name.parse().ok()?;
        let function = self.functions.get(&address)?;
        let shape = self.shape(function)?;
        let mdev = shape.mdev.as_ref()?;
        let types = mdev.types.iter().map(|t| Type {
            id: t.id.clone(),
            name: t.name.clone(),
            cost: t.memory_mib,
            max: t.max,
            description: t.description.clone(),
            gi_profile: t.gi_profile,
            per_gi: t.per_gi,
            per_vm: t.per_vm,
        });
        let nvidia = function.driver.as_deref().is_some_and(|d| self.has_smi(d));
        let catalogue = Catalogue {
            prefix: function.driver.as_ref()?.to_string(),
            driver: mdev.driver.clone(),
            pool: shape.address.to_string(),
            budget: mdev.memory_mib,
            rule: mdev.rule,
            per_parent: (mdev.on != MdevOn::Pf).then_some(1),
            full: if nvidia { Errno::EIO } else { Errno::ENOSPC },
            core_counts: false,
            types: types.collect(),
            card: Some(shape.address),
            grid: mdev.sizes.iter().map(|size| (size.memory_mib, size.ids.clone())).collect(),
        };
        Some((Place::Pci(address), catalogue))
    }
}

/// samples/vfio-mdev: mtty and mbochs count by themselves; mdpy leaves it to the core (EUSERS since 6.1; its own
/// probe said ENOMEM before).
fn sample_catalogue(kind: VirtualKind, budget: Option<u64>) -> Catalogue {
    let (total, types): (u64, &[(&str, &str, u64)]) = match kind {
        VirtualKind::Mtty => (24, &[("1", "Single port serial", 1), ("2", "Dual port serial", 2)]),
        VirtualKind::Mdpy => (4, &[("vga", "vga", 1), ("xga", "xga", 1), ("hd", "hd", 1)]),
        VirtualKind::Mbochs => {
            (256, &[("small", "small", 4), ("medium", "medium", 16), ("large", "large", 64)])
        }
    };
    let core_counts = kind == VirtualKind::Mdpy;
    let prefix = kind.name().to_owned();
    let types = types.iter().map(|(id, name, cost)| Type {
        id: (*id).to_owned(),
        name: if kind == VirtualKind::Mtty {
            (*name).to_owned()
        } else {
            format!("{prefix}-{name}")
        },
        cost: *cost,
        max: None,
        description: None,
        gi_profile: None,
        per_gi: None,
        per_vm: None,
    });
    Catalogue {
        types: types.collect(),
        driver: prefix.clone(),
        pool: prefix.clone(),
        prefix,
        budget: budget.unwrap_or(total),
        rule: MdevRule::Mixed,
        per_parent: None,
        full: if core_counts { Errno::EUSERS } else { Errno::ENOSPC },
        core_counts,
        card: None,
        grid: Default::default(),
    }
}
