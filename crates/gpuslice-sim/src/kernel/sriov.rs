//! SR-IOV (drivers/pci/iov.c): the checks of `sriov_numvfs_store` in their order, the VF loops with the events
//! between their steps, and what is left when a step fails.

use super::binding::VFIO_PCI;
use super::function::Role;
use super::job::{Lock, Poll, Task, done};
use super::number;
use super::uevent::Action;
use super::{Kernel, Name};
use gpuslice_core::errno::Errno;
use gpuslice_core::ids::PciAddress;
use gpuslice_core::port::Written;

impl Kernel {
    /// The checks before the device lock: the number, then its bound.
    pub(crate) fn write_numvfs(
        &mut self,
        file: &str,
        pf: PciAddress,
        data: &[u8],
    ) -> Result<Written, Errno> {
        let want = number::parse(data).and_then(|n| u16::try_from(n).ok());
        let want = want.ok_or(Errno::EINVAL)?;
        let total = self.sriov_shape(pf).ok_or(Errno::ENOENT)?.total_vfs;
        if want > total {
            return Err(Errno::ERANGE);
        }
        let tasks = vec![Task::Lock(Lock::Device(pf)), Task::NumVfs(pf, want)];
        self.start_write(file, data, tasks)
    }

    /// The checks below it: same value, driver, what the driver can, enabled already.
    pub(crate) fn store_numvfs(&mut self, pf: PciAddress, want: u16) -> Poll {
        let Some(function) = self.functions.get(&pf) else {
            return Poll::Failed(Errno::ENODEV, Vec::new());
        };
        let Role::Pf { numvfs, .. } = function.role else {
            return Poll::Failed(Errno::ENOENT, Vec::new());
        };
        if want == numvfs {
            return done();
        }
        let able = |name: &Name| match self.driver_shape(name) {
            Some(driver) => driver.sriov_configure,
            None => **name == *VFIO_PCI && self.host.kernel.vfio_sriov,
        };
        if !function.driver.as_ref().is_some_and(able) {
            return Poll::Failed(Errno::ENOENT, Vec::new());
        }
        if want > 0 && numvfs > 0 {
            return Poll::Failed(Errno::EBUSY, Vec::new());
        }
        let delay = self.sriov_delay(pf);
        Poll::Next(vec![Task::Sleep(self.now + delay), Task::Configure(pf, want)])
    }

    /// How long the driver takes.
    pub(crate) fn sriov_delay(&self, pf: PciAddress) -> u64 {
        let shaped = self.sriov_shape(pf).map_or(0, |shape| shape.configure_ms);
        self.delay_fault(pf).unwrap_or(shaped)
    }

    /// The driver's callback.
    pub(crate) fn configure_vfs(&mut self, pf: PciAddress, want: u16) -> Poll {
        if !self.hardware_there(pf) {
            return Poll::Failed(Errno::ENODEV, Vec::new());
        }
        if want == 0 {
            return Poll::Next(self.disable_tasks(pf));
        }
        if let Some(errno) = self.enable_fault(pf) {
            return Poll::Failed(errno, Vec::new());
        }
        let count = self.fewer_fault(pf).map_or(want, |most| want.min(most));
        if count == 0 {
            return done();
        }
        Poll::Next(vec![Task::Lock(Lock::Rescan), Task::AddVf(pf, 0, count)])
    }

    /// `sriov_disable`.
    pub(crate) fn disable_tasks(&self, pf: PciAddress) -> Vec<Task> {
        vec![Task::Lock(Lock::Rescan), Task::DropVfs(pf, 0), Task::StoreNumVfs(pf, 0)]
    }

    /// `pci_iov_add_virtfn`, first part: the VF is there, its links are not.
    pub(crate) fn add_vf(&mut self, pf: PciAddress, index: u16, count: u16) -> Poll {
        if index == count {
            return Poll::Next(vec![Task::EnabledVfs(pf, count)]);
        }
        let (Some(shape), Some(vf)) =
            (self.functions.get(&pf).map(|f| f.shape), self.vf_address(pf, index))
        else {
            return Poll::Failed(Errno::ENODEV, Vec::new());
        };
        if self.falls_off(pf, index) {
            self.lose_hardware(shape, pf);
        }
        if !self.hardware_there(pf) {
            return Poll::Failed(Errno::ENODEV, self.unwind(pf, index));
        }
        self.set_vfs(pf, index + 1);
        self.add_function(vf, shape, Role::Vf { pf, linked: false });
        Poll::Next(vec![
            Task::LinkVf(pf, index),
            Task::ChangeVf(pf, index),
            Task::Probe(vf),
            Task::AddVf(pf, index + 1, count),
        ])
    }

    /// The failing path of `sriov_add_vfs`: what was made is removed, last first; `num_VFs` was never set.
    fn unwind(&self, pf: PciAddress, made: u16) -> Vec<Task> {
        let vfs = (0..made).rev().filter_map(|index| self.vf_address(pf, index));
        vfs.flat_map(|vf| [Task::Lock(Lock::Device(vf)), Task::Release(vf), Task::Remove(vf)])
            .collect()
    }

    pub(crate) fn link_vf(&mut self, pf: PciAddress, index: u16) -> Poll {
        self.set_linked(pf, index, true);
        done()
    }

    pub(crate) fn change_vf(&mut self, pf: PciAddress, index: u16) -> Poll {
        if let Some(vf) = self.vf_address(pf, index) {
            self.pci_event(Action::Change, vf);
        }
        done()
    }

    /// The PF's event comes before `num_VFs` is stored: whoever reads it at once reads the old number.
    pub(crate) fn enabled_vfs(&mut self, pf: PciAddress, count: u16) -> Poll {
        self.pci_event(Action::Change, pf);
        Poll::Next(vec![Task::StoreNumVfs(pf, count)])
    }

    pub(crate) fn finish_numvfs(&mut self, pf: PciAddress, count: u16) -> Poll {
        if let Some(Role::Pf { numvfs, vfs, .. }) = self.functions.get_mut(&pf).map(|f| &mut f.role)
        {
            (*numvfs, *vfs) = (count, count);
        }
        done()
    }

    /// `sriov_del_vfs`: ascending; a VF's links go before anybody waits for its user.
    pub(crate) fn drop_vfs(&mut self, pf: PciAddress, index: u16) -> Poll {
        let made = match self.functions.get(&pf).map(|f| &f.role) {
            Some(Role::Pf { vfs, .. }) => *vfs,
            _ => 0,
        };
        if index >= made {
            return done();
        }
        let rest = Task::DropVfs(pf, index + 1);
        match self.vf_address(pf, index).filter(|vf| self.functions.contains_key(vf)) {
            None => Poll::Next(vec![rest]),
            Some(vf) => {
                self.set_linked(pf, index, false);
                let lock = Task::Lock(Lock::Device(vf));
                Poll::Next(vec![lock, Task::Release(vf), Task::Remove(vf), rest])
            }
        }
    }

    fn set_vfs(&mut self, pf: PciAddress, count: u16) {
        if let Some(Role::Pf { vfs, .. }) = self.functions.get_mut(&pf).map(|f| &mut f.role) {
            *vfs = count;
        }
    }

    fn set_linked(&mut self, pf: PciAddress, index: u16, to: bool) {
        let vf = self.vf_address(pf, index);
        let role = vf.and_then(|vf| self.functions.get_mut(&vf)).map(|f| &mut f.role);
        if let Some(Role::Vf { linked, .. }) = role {
            *linked = to;
        }
    }

    /// VFs of a PF that `virtfnN` links show.
    pub(crate) fn linked_vfs(&self, pf: PciAddress) -> Vec<(u16, PciAddress)> {
        let made = match self.functions.get(&pf).map(|f| &f.role) {
            Some(Role::Pf { vfs, .. }) => *vfs,
            _ => 0,
        };
        (0..made).filter_map(|index| Some((index, self.linked_vf(pf, index)?))).collect()
    }

    /// The VF that `virtfnN` leads to.
    pub(crate) fn linked_vf(&self, of: PciAddress, index: u16) -> Option<PciAddress> {
        let vf = self.vf_address(of, index)?;
        match self.functions.get(&vf)?.role {
            Role::Vf { pf, linked: true } if pf == of => Some(vf),
            _ => None,
        }
    }

    pub(crate) fn hardware_there(&self, address: PciAddress) -> bool {
        let index = self.functions.get(&address).map(|f| f.shape);
        index.and_then(|i| self.present.get(i)).copied().unwrap_or(false)
    }
}
