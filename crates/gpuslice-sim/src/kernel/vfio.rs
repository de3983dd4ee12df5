//! IOMMU groups, VFIO devices and the processes that have them open (drivers/iommu/iommu.c,
//! drivers/vfio/group.c). A process stands for QEMU: a name and open group nodes.

use super::Kernel;
use super::uevent::{Action, Uevent};
use gpuslice_core::errno::Errno;
use gpuslice_core::ids::{MdevUuid, PciAddress, SliceId};
use std::collections::{BTreeMap, BTreeSet};
use uuid::Uuid;

/// Numbers handed out lowest first (`ida_alloc`).
#[derive(Debug, Clone, Default)]
pub(crate) struct Numbers {
    free: BTreeSet<u32>,
    next: u32,
}

impl Numbers {
    pub(crate) fn take(&mut self) -> u32 {
        self.free.pop_first().unwrap_or_else(|| {
            self.next += 1;
            self.next - 1
        })
    }

    pub(crate) fn give_back(&mut self, number: u32) {
        self.free.insert(number);
    }
}

/// A device in a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Member {
    Pci(PciAddress),
    Mdev(Uuid),
}

impl From<PciAddress> for Member {
    fn from(address: PciAddress) -> Self {
        Self::Pci(address)
    }
}

impl Member {
    pub(crate) fn of(slice: SliceId) -> Self {
        match slice {
            SliceId::Vf(address) | SliceId::Function(address) => Self::Pci(address),
            SliceId::Mdev(MdevUuid(uuid)) => Self::Mdev(uuid),
        }
    }
}

/// All IOMMU groups; one without members is gone.
#[derive(Debug, Clone, Default)]
pub(crate) struct Groups {
    pub(crate) members: BTreeMap<u32, BTreeSet<Member>>,
    numbers: Numbers,
}

impl Groups {
    /// Puts a device into a group, or into a new one.
    pub(crate) fn join(&mut self, group: Option<u32>, member: Member) -> u32 {
        let number = group.unwrap_or_else(|| self.numbers.take());
        self.members.entry(number).or_default().insert(member);
        number
    }

    pub(crate) fn leave(&mut self, group: u32, member: Member) {
        let Some(members) = self.members.get_mut(&group) else {
            return;
        };
        members.remove(&member);
        if members.is_empty() {
            self.members.remove(&group);
            self.numbers.give_back(group);
        }
    }
}

/// A process that uses VFIO, or a driver's own nodes.
#[derive(Debug, Clone)]
pub(crate) struct Process {
    pub(crate) comm: String,
    /// Open devices with the descriptor of the node each was opened through.
    pub(crate) open: BTreeMap<Member, Open>,
    /// A driver's own nodes, by descriptor.
    nodes: BTreeMap<u32, String>,
}

/// An open device.
#[derive(Debug, Clone)]
pub(crate) struct Open {
    pub(crate) descriptor: u32,
    pub(crate) node: String,
    group: u32,
    /// Virtual time.
    since: u64,
}

impl Process {
    pub(crate) fn holds(&self, slice: SliceId) -> bool {
        self.open.contains_key(&Member::of(slice))
    }

    /// What it has open, by descriptor.
    pub(crate) fn descriptors(&self) -> impl Iterator<Item = (u32, &str)> {
        let devices = self.open.values().map(|open| (open.descriptor, open.node.as_str()));
        devices.chain(self.nodes.iter().map(|(number, node)| (*number, node.as_str())))
    }

    /// 0 to 2 are taken, 3 is the container.
    fn next_descriptor(&self) -> u32 {
        let taken: BTreeSet<u32> = self.descriptors().map(|(number, _)| number).collect();
        (4..).find(|n| !taken.contains(n)).unwrap_or(4)
    }
}

impl Kernel {
    fn held(&self, member: Member) -> bool {
        self.processes.values().any(|process| process.open.contains_key(&member))
    }

    pub(crate) fn function_held(&self, address: PciAddress) -> bool {
        self.held(Member::Pci(address))
    }

    pub(crate) fn mdev_held(&self, uuid: Uuid) -> bool {
        self.held(Member::Mdev(uuid))
    }

    pub(crate) fn group_held(&self, group: u32) -> bool {
        let mut open = self.processes.values().flat_map(|process| process.open.values());
        open.any(|open| open.group == group)
    }

    /// Whether a group node exists: some device of it has a VFIO driver.
    pub(crate) fn has_node(&self, group: u32) -> bool {
        let Some(members) = self.groups.members.get(&group) else {
            return false;
        };
        members.iter().any(|member| match member {
            Member::Pci(address) => self.functions.get(address).is_some_and(|f| f.vfio.is_some()),
            Member::Mdev(uuid) => self.mdevs.get(uuid).is_some_and(|mdev| mdev.vfio.is_some()),
        })
    }

    /// Every other device of the group has a VFIO driver or none.
    fn viable(&self, group: u32) -> bool {
        let members = self.groups.members.get(&group);
        members.into_iter().flatten().all(|member| match member {
            Member::Mdev(_) => true,
            Member::Pci(address) => {
                let function = self.functions.get(address);
                let driver = function.and_then(|f| f.driver.as_deref());
                driver.is_none_or(|driver| self.is_vfio(driver))
                    || function.is_some_and(|f| f.vfio.is_some())
            }
        })
    }

    /// The `N` of its `vfio-dev/vfioN`.
    pub(crate) fn vfio_number(&self, member: Member) -> Option<u32> {
        match member {
            Member::Pci(address) => self.functions.get(&address)?.vfio,
            Member::Mdev(uuid) => self.mdevs.get(&uuid)?.vfio,
        }
    }

    pub(crate) fn member_path(&self, member: Member) -> String {
        match member {
            Member::Pci(address) => self.devpath(address),
            Member::Mdev(uuid) => self.mdev_path(uuid),
        }
    }

    /// Group and VFIO number of a device that can be opened now.
    fn openable(&self, member: Member) -> Result<(u32, u32), Errno> {
        let (group, vfio, leaving) = match member {
            Member::Pci(address) => {
                let function = self.functions.get(&address).ok_or(Errno::ENOENT)?;
                (function.group, function.vfio, function.releasing || self.vgpu_closed(address))
            }
            Member::Mdev(uuid) => {
                let mdev = self.mdevs.get(&uuid).ok_or(Errno::ENOENT)?;
                (mdev.group, mdev.vfio, mdev.removing)
            }
        };
        match (group, vfio) {
            (Some(group), Some(vfio)) if !leaving => Ok((group, vfio)),
            _ => Err(Errno::ENODEV),
        }
    }

    pub(crate) fn open_device(
        &mut self,
        pid: u32,
        comm: &str,
        slice: SliceId,
    ) -> Result<(), Errno> {
        let member = Member::of(slice);
        let (group, number) = self.openable(member)?;
        if !self.viable(group) {
            return Err(Errno::EPERM);
        }
        let others = self.processes.iter().filter(|(other, _)| **other != pid);
        if others.flat_map(|(_, process)| process.open.values()).any(|o| o.group == group) {
            return Err(Errno::EBUSY);
        }
        self.vgpu_opens(pid, member)?;
        let since = self.now;
        let node = if self.host.kernel.vfio_cdev {
            format!("/dev/vfio/devices/vfio{number}")
        } else {
            format!("/dev/vfio/{group}")
        };
        let process = self.process(pid, comm);
        let descriptor = process.next_descriptor();
        process.open.entry(member).or_insert(Open { descriptor, node, group, since });
        Ok(())
    }

    fn process(&mut self, pid: u32, comm: &str) -> &mut Process {
        let (comm, open, nodes) = (comm.to_owned(), BTreeMap::new(), BTreeMap::new());
        self.processes.entry(pid).or_insert(Process { comm, open, nodes })
    }

    /// A process opens a node that a driver made beside its devices.
    pub(crate) fn open_own_node(&mut self, pid: u32, comm: &str, node: &str) -> Result<(), Errno> {
        if !self.gim_nodes().contains(&node) {
            return Err(Errno::ENOENT);
        }
        let process = self.process(pid, comm);
        process.nodes.insert(process.next_descriptor(), node.to_owned());
        Ok(())
    }

    /// Whether somebody has one of these open.
    pub(crate) fn node_held(&self, nodes: &[&str]) -> bool {
        let mut open = self.processes.values().flat_map(|process| process.nodes.values());
        open.any(|node| nodes.contains(&node.as_str()))
    }

    pub(crate) fn close_device(&mut self, pid: u32, slice: SliceId) {
        let open = self.processes.get_mut(&pid).map(|process| &mut process.open);
        if open.is_some_and(|open| open.remove(&Member::of(slice)).is_some()) {
            // It let go by itself, which is no sudden end however early.
            self.vgpu_ended(Member::of(slice), 0);
        }
    }

    /// The process ends at once.
    pub(crate) fn end_process(&mut self, pid: u32) {
        let open = self.processes.remove(&pid).map(|process| process.open).unwrap_or_default();
        for (member, open) in open {
            self.vgpu_ended(member, open.since);
        }
    }

    /// Events of the VFIO device and its group node.
    pub(crate) fn vfio_events(&mut self, action: Action, address: PciAddress) {
        let Some(function) = self.functions.get(&address) else {
            return;
        };
        let (Some(number), Some(group)) = (function.vfio, function.group) else {
            return;
        };
        let device = format!("{}/vfio-dev/vfio{number}", self.devpath(address));
        self.plain_event(action, device, "vfio-dev");
        self.plain_event(action, format!("/devices/virtual/vfio/{group}"), "vfio");
    }

    pub(crate) fn plain_event(&mut self, action: Action, devpath: String, subsystem: &str) {
        let subsystem = subsystem.to_owned();
        self.emit(Uevent { action, devpath, subsystem, driver: None, properties: Vec::new() });
    }
}
