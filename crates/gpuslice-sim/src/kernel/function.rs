//! PCI functions: what each has of its own, and its coming and going (drivers/pci/bus.c, remove.c,
//! drivers/base/core.c).

use super::job::{Poll, Task, done};
use super::uevent::{Action, Uevent};
use super::{Kernel, Name};
use crate::host_file::{FunctionShape, Grouping, SriovShape};
use gpuslice_core::ids::PciAddress;

/// A function that the kernel knows.
#[derive(Debug, Clone)]
pub(crate) struct Function {
    /// Index in the host file, of its PF when it is a VF.
    pub(crate) shape: usize,
    pub(crate) role: Role,
    pub(crate) driver: Option<Name>,
    /// The driver lets go: its link is gone, its device not yet (`__device_release_driver`).
    pub(crate) releasing: bool,
    pub(crate) driver_override: Option<Name>,
    pub(crate) group: Option<u32>,
    /// Index of its VFIO device.
    pub(crate) vfio: Option<u32>,
    pub(crate) reset_method: Name,
    pub(crate) numa_node: i32,
}

/// What a function is to SR-IOV.
#[derive(Debug, Clone)]
pub(crate) enum Role {
    /// Neither.
    Plain,
    /// A PF.
    Pf {
        /// `num_VFs`.
        numvfs: u16,
        /// VFs there are, by index; more than the links while one is added or removed.
        vfs: u16,
        /// `sriov_drivers_autoprobe`.
        autoprobe: bool,
    },
    /// A VF.
    Vf {
        /// Of which PF.
        pf: PciAddress,
        /// `physfn` and `virtfnN` exist.
        linked: bool,
    },
}

impl Function {
    pub(crate) fn is_vf(&self) -> bool {
        matches!(self.role, Role::Vf { .. })
    }

    /// The driver as its link shows it.
    pub(crate) fn shown_driver(&self) -> Option<&Name> {
        self.driver.as_ref().filter(|_| !self.releasing)
    }
}

impl Kernel {
    pub(crate) fn shape(&self, function: &Function) -> Option<&FunctionShape> {
        self.host.functions.get(function.shape)
    }

    pub(crate) fn sriov_shape(&self, pf: PciAddress) -> Option<&SriovShape> {
        self.shape(self.functions.get(&pf)?)?.sriov.as_ref()
    }

    /// The address of a VF: routing id plus offset plus stride times index, over the bus's border if need be.
    pub(crate) fn vf_address(&self, pf: PciAddress, index: u16) -> Option<PciAddress> {
        let shape = self.sriov_shape(pf)?;
        let rid = pf.routing_id().checked_add(shape.offset)?;
        Some(pf.with_routing_id(rid.checked_add(shape.stride.checked_mul(index)?)?))
    }

    /// Vendor and device id as the core knows them; a VF's own config space reads ffff.
    pub(crate) fn ids(&self, function: &Function) -> Option<(u16, u16)> {
        let shape = self.shape(function)?;
        let vf = function.is_vf().then_some(shape.sriov.as_ref()).flatten();
        Some((shape.vendor, vf.map_or(shape.device, |sriov| sriov.vf_device)))
    }

    /// The sysfs directory, without `/sys`. VFs on another bus still hang below their PF's parent.
    pub(crate) fn devpath(&self, address: PciAddress) -> String {
        let function = self.functions.get(&address);
        let pf = match function.map(|f| &f.role) {
            Some(Role::Vf { pf, .. }) => *pf,
            _ => address,
        };
        format!("/devices/pci{:04x}:{:02x}/{address}", pf.domain(), pf.bus())
    }

    pub(crate) fn pci_event(&mut self, action: Action, address: PciAddress) {
        let Some(function) = self.functions.get(&address) else {
            return;
        };
        let event = Uevent {
            action,
            devpath: self.devpath(address),
            subsystem: "pci".to_owned(),
            driver: function.driver.as_ref().map(|d| d.to_string()),
            properties: self.pci_properties(address, function),
        };
        self.emit(event);
    }

    pub(crate) fn pci_properties(
        &self,
        address: PciAddress,
        function: &Function,
    ) -> Vec<(String, String)> {
        let (Some(shape), Some((vendor, device))) = (self.shape(function), self.ids(function))
        else {
            return Vec::new();
        };
        let (sub_vendor, sub_device, class) =
            (shape.subsystem_vendor, shape.subsystem_device, shape.class);
        [
            ("PCI_CLASS", format!("{class:04X}")),
            ("PCI_ID", format!("{vendor:04X}:{device:04X}")),
            ("PCI_SUBSYS_ID", format!("{sub_vendor:04X}:{sub_device:04X}")),
            ("PCI_SLOT_NAME", address.to_string()),
            ("MODALIAS", self.modalias(function)),
        ]
        .map(|(key, value)| (key.to_owned(), value))
        .to_vec()
    }

    pub(crate) fn modalias(&self, function: &Function) -> String {
        let (Some(shape), Some((vendor, device))) = (self.shape(function), self.ids(function))
        else {
            return String::new();
        };
        let [_, base, sub, interface] = shape.class.to_be_bytes();
        format!(
            "pci:v{vendor:08X}d{device:08X}sv{:08X}sd{:08X}bc{base:02X}sc{sub:02X}i{interface:02X}",
            shape.subsystem_vendor, shape.subsystem_device
        )
    }

    /// Makes a function known, with its IOMMU group, and tells of it.
    pub(crate) fn add_function(&mut self, address: PciAddress, index: usize, role: Role) {
        let Some(shape) = self.host.functions.get(index) else {
            return;
        };
        let shared = match role {
            Role::Vf { pf, .. } if shape.iommu_group == Grouping::Pf => {
                self.functions.get(&pf).and_then(|f| f.group)
            }
            _ if shape.iommu_group == Grouping::Card => {
                let first = address.with_routing_id(address.routing_id() & !7);
                self.functions.get(&first).and_then(|f| f.group)
            }
            _ => None,
        };
        let grouped = self.host.kernel.iommu && shape.iommu_group != Grouping::None;
        let (numa_node, reset_method) = (shape.numa_node, shape.reset_method.as_str().into());
        let group = grouped.then(|| self.groups.join(shared, address.into()));
        self.functions.insert(
            address,
            Function {
                shape: index,
                role,
                driver: None,
                releasing: false,
                driver_override: None,
                group,
                vfio: None,
                reset_method,
                numa_node,
            },
        );
        self.pci_event(Action::Add, address);
    }

    /// `device_del`: the function is forgotten.
    pub(crate) fn remove_function(&mut self, address: PciAddress) -> Poll {
        self.pci_event(Action::Remove, address);
        self.spoiled.remove(&address);
        if let Some(function) = self.functions.remove(&address)
            && let Some(group) = function.group
        {
            self.groups.leave(group, address.into());
        }
        self.locks.remove(&super::job::Lock::Device(address));
        done()
    }

    /// The hardware of a function of the host file is found; waits until a former life of it has ended.
    pub(crate) fn appear(&mut self, index: usize) -> Poll {
        let Some(shape) = self.host.functions.get(index) else {
            return done();
        };
        let address = shape.address;
        if self.functions.contains_key(&address) {
            return Poll::Wait(Task::Appear(index));
        }
        let role = match shape.sriov {
            Some(_) => Role::Pf { numvfs: 0, vfs: 0, autoprobe: true },
            None => Role::Plain,
        };
        if let Some(present) = self.present.get_mut(index) {
            *present = true;
        }
        self.add_function(address, index, role);
        Poll::Next(vec![Task::Probe(address)])
    }
}
