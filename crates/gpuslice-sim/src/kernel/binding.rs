//! Drivers and functions finding each other (drivers/base/bus.c, dd.c, drivers/pci/pci-driver.c). vfio-pci has no
//! ids: it takes what `driver_override` names.

use super::function::Role;
use super::job::{Lock, Poll, Task, done};
use super::number;
use super::uevent::Action;
use super::{Kernel, Name};
use crate::host_file::DriverShape;
use gpuslice_core::errno::Errno;
use gpuslice_core::ids::PciAddress;
use gpuslice_core::port::Written;

/// The driver every host has.
pub(crate) const VFIO_PCI: &str = "vfio-pci";

/// A driver's probe of a function under way.
#[derive(Debug, Clone)]
pub(crate) struct Attach {
    pub(crate) address: PciAddress,
    pub(crate) driver: Name,
    /// `device_attach` swallows what a probe says, `bind` hands it to the writer.
    pub(crate) quiet: bool,
}

impl Kernel {
    /// A driver of the host file; `None` for vfio-pci.
    pub(crate) fn driver_shape(&self, name: &str) -> Option<&DriverShape> {
        self.host.drivers.iter().find(|d| d.name == name)
    }

    pub(crate) fn is_vfio(&self, driver: &str) -> bool {
        driver == VFIO_PCI || self.driver_shape(driver).is_some_and(|d| d.vfio)
    }

    pub(crate) fn has_bind_files(&self, driver: &str) -> bool {
        !self.leaving.contains(driver) && self.driver_shape(driver).is_none_or(|d| d.bind_files)
    }

    /// Whether the id table of a driver has a function: the host file names the driver for it, or for another
    /// function of the same ids, or the ids for the driver.
    fn in_id_table(&self, driver: &str, ids: (u16, u16)) -> bool {
        if self.driver_shape(driver).is_some_and(|d| d.ids.contains(&ids)) {
            return true;
        }
        self.host.functions.iter().any(|shape| {
            let own =
                shape.driver.as_deref() == Some(driver) && ids == (shape.vendor, shape.device);
            let vf = shape.sriov.as_ref().is_some_and(|sriov| {
                sriov.vf_driver.as_deref() == Some(driver) && ids == (shape.vendor, sriov.vf_device)
            });
            own || vf
        })
    }

    /// `pci_match_device`.
    fn matches(&self, driver: &str, address: PciAddress) -> bool {
        let Some(function) = self.functions.get(&address) else {
            return false;
        };
        if self.leaving.contains(driver) {
            return false;
        }
        match &function.driver_override {
            Some(name) => **name == *driver,
            None => {
                !self.is_vfio(driver)
                    && self.ids(function).is_some_and(|ids| self.in_id_table(driver, ids))
            }
        }
    }

    /// `pci_device_can_probe`: a VF only with autoprobe or an override.
    fn can_probe(&self, address: PciAddress) -> bool {
        let Some(function) = self.functions.get(&address) else {
            return false;
        };
        let Role::Vf { pf, .. } = function.role else {
            return true;
        };
        let pf = self.functions.get(&pf).map(|f| &f.role);
        function.driver_override.is_some() || matches!(pf, Some(Role::Pf { autoprobe: true, .. }))
    }

    /// `device_attach`: the first driver that matches. No driver, or one that refuses, is no error.
    pub(crate) fn probe(&mut self, address: PciAddress) -> Poll {
        if self.functions.get(&address).is_none_or(|f| f.driver.is_some()) {
            return done();
        }
        let found = self.drivers.iter().find(|d| self.matches(d, address)).cloned();
        match found {
            None => done(),
            Some(driver) => {
                let attach = Attach { address, driver, quiet: true };
                let lock = Lock::Device(address);
                Poll::Next(vec![Task::Lock(lock), Task::Attach(attach), Task::Unlock(lock)])
            }
        }
    }

    /// `really_probe`, first part: the link is made before the driver's probe runs, under the device lock.
    pub(crate) fn attach(&mut self, attach: Attach) -> Poll {
        let Attach { address, driver, quiet } = attach;
        if let Err(errno) = self.may_attach(address, &driver) {
            return if quiet { done() } else { Poll::Failed(errno, Vec::new()) };
        }
        let slow = self.driver_shape(&driver).map_or(0, |d| d.probe_ms);
        let slow = self.probe_fault(address).unwrap_or(slow);
        if let Some(function) = self.functions.get_mut(&address) {
            function.driver = Some(driver);
        }
        Poll::Next(vec![Task::Sleep(self.now + slow), Task::Attached(address)])
    }

    /// The probe has succeeded; only the bind event says so.
    pub(crate) fn attached(&mut self, address: PciAddress) -> Poll {
        let Some(function) = self.functions.get(&address) else {
            return done();
        };
        let vfio = function.driver.as_ref().is_some_and(|driver| self.is_vfio(driver));
        if self.vgpu_probed(address) || vfio {
            let number = self.vfio_numbers.take();
            if let Some(function) = self.functions.get_mut(&address) {
                function.vfio = Some(number);
            }
            self.vfio_events(Action::Add, address);
        }
        if let Some(parent) = self.parent_of_function(address) {
            self.register_parent(&parent);
        }
        self.pci_event(Action::Bind, address);
        self.gim_probed(address);
        self.amdgpu_probed(address);
        done()
    }

    fn may_attach(&self, address: PciAddress, driver: &str) -> Result<(), Errno> {
        let function = self.functions.get(&address).ok_or(Errno::ENODEV)?;
        if function.driver.is_some() {
            return Err(Errno::EBUSY);
        }
        let refuses = self.driver_shape(driver).is_some_and(|d| d.refuses_vfs);
        if !self.can_probe(address) || !self.hardware_there(address) {
            return Err(Errno::ENODEV);
        }
        if self.is_vfio(driver) {
            // vfio_pci_core_register_device: "Cannot bind to PF with SRIOV enabled"; no group, no device.
            if matches!(function.role, Role::Pf { numvfs: 1.., .. }) {
                return Err(Errno::EBUSY);
            }
            let spoiled = self.spoiled.contains(&address);
            return function.group.filter(|_| !spoiled).map(|_| ()).ok_or(Errno::EINVAL);
        }
        if (refuses && function.is_vf())
            || self.refuses_orphan(address, driver)
            || self.gim_skips(address, driver)
        {
            return Err(Errno::ENODEV);
        }
        // iommu_device_use_default_domain: a user of the group owns its DMA.
        if function.group.is_some_and(|group| self.group_held(group)) {
            return Err(Errno::EBUSY);
        }
        Ok(())
    }

    fn address_in(data: &[u8]) -> Result<PciAddress, Errno> {
        let text = number::line(data);
        let address: PciAddress = text.parse().map_err(|_| Errno::ENODEV)?;
        // The bus compares names, not addresses.
        if address.to_string() == text { Ok(address) } else { Err(Errno::ENODEV) }
    }

    /// `bind_store`.
    pub(crate) fn write_bind(
        &mut self,
        file: &str,
        driver: &Name,
        data: &[u8],
    ) -> Result<Written, Errno> {
        let address = Self::address_in(data)?;
        if !self.matches(driver, address) {
            return Err(Errno::ENODEV);
        }
        let attach = Attach { address, driver: driver.clone(), quiet: false };
        let tasks = vec![Task::Lock(Lock::Device(address)), Task::Attach(attach)];
        self.start_write(file, data, tasks)
    }

    /// `unbind_store`.
    pub(crate) fn write_unbind(
        &mut self,
        file: &str,
        driver: &str,
        data: &[u8],
    ) -> Result<Written, Errno> {
        let address = Self::address_in(data)?;
        let bound = self.functions.get(&address).and_then(|f| f.driver.as_deref());
        if bound != Some(driver) {
            return Err(Errno::ENODEV);
        }
        let tasks = vec![Task::Lock(Lock::Device(address)), Task::Release(address)];
        self.start_write(file, data, tasks)
    }

    /// `drivers_probe_store`.
    pub(crate) fn write_drivers_probe(
        &mut self,
        file: &str,
        data: &[u8],
    ) -> Result<Written, Errno> {
        let address = Self::address_in(data)?;
        if !self.functions.contains_key(&address) {
            return Err(Errno::ENODEV);
        }
        let tasks = vec![Task::Lock(Lock::Device(address)), Task::Probe(address)];
        self.start_write(file, data, tasks)
    }

    /// `driver_set_override`: never unbinds what is bound.
    pub(crate) fn write_override(
        &mut self,
        address: PciAddress,
        data: &[u8],
    ) -> Result<Written, Errno> {
        if data.len() >= 4095 {
            return Err(Errno::EINVAL);
        }
        let function = self.functions.get_mut(&address).ok_or(Errno::ENODEV)?;
        let name = number::line(data);
        function.driver_override = (!name.is_empty()).then(|| name.into());
        Ok(Written::Done)
    }

    /// `__device_release_driver`: the link goes first, then what hangs on the driver, then whoever uses it.
    pub(crate) fn release(&mut self, address: PciAddress) -> Poll {
        self.gim_released(address);
        let Some(function) = self.functions.get_mut(&address) else {
            return done();
        };
        let Some(driver) = function.driver.clone() else {
            return done();
        };
        function.releasing = true;
        let role = function.role.clone();
        let mut tasks = Vec::new();
        if let Some(name) = self.parent_of_function(address) {
            tasks.push(Task::ParentGone(name));
        }
        // vfio_pci_core_unregister_device takes them away too, pci-pf-stub does not.
        let keeps = self.driver_shape(&driver).map_or(*driver != *VFIO_PCI, |d| d.keeps_vfs);
        if matches!(role, Role::Pf { numvfs: 1.., .. }) && !keeps {
            tasks.extend(self.disable_tasks(address));
        }
        tasks.extend([Task::AwaitFunction(address), Task::Released(address)]);
        Poll::Next(tasks)
    }

    pub(crate) fn released(&mut self, address: PciAddress) -> Poll {
        self.vfio_events(Action::Remove, address);
        self.vgpu_released(address);
        if let Some(function) = self.functions.get_mut(&address) {
            function.driver = None;
            function.releasing = false;
            if let Some(number) = function.vfio.take() {
                self.vfio_numbers.give_back(number);
            }
        }
        self.pci_event(Action::Unbind, address);
        done()
    }
}
