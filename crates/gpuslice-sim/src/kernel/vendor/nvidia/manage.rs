//! `sriov-manage`: all VFs or none. It makes them while a stub has the PF, so the driver leaves it in between, and
//! all that the driver knew is gone.

use crate::host_file::MdevOn;
use crate::kernel::Kernel;
use crate::kernel::Name;
use crate::kernel::binding::Attach;
use crate::kernel::function::Role;
use crate::kernel::job::{Lock, Task};
use gpuslice_core::errno::Errno;
use gpuslice_core::ids::{MdevUuid, PciAddress, SliceId};
use gpuslice_core::port::Ran;

/// The driver that has the PF meanwhile (drivers/pci/pci-pf-stub.c).
const STUB: &str = "pci-pf-stub";

impl Kernel {
    /// `sriov-manage -e|-d <address>`.
    pub(crate) fn sriov_manage(&mut self, arguments: &[String]) -> Result<Ran, Errno> {
        let said = |code, text: String| Ok(Ran { code, said: text });
        let [option, address] = arguments else {
            return said(1, "Usage: sriov-manage -e|-d ADDRESS|ALL".to_owned());
        };
        let pf: Option<PciAddress> = address.parse().ok();
        let Some((pf, total, now)) = pf.and_then(|pf| self.vf_counts(pf)) else {
            return said(1, format!("VFs are not supported on {address}"));
        };
        let driver = self.functions.get(&pf).and_then(|f| f.driver.clone());
        let there = if option == "-e" { now == total && driver.is_some() } else { now == 0 };
        if there {
            return said(0, String::new());
        }
        let no_lock = || said(1, format!("Cannot obtain unbindLock for {pf}"));
        if self.vm_runs(pf) {
            return no_lock();
        }
        let opened = self.tool_fault(pf) || self.computes(pf);
        let Some(driver) = driver.filter(|_| !opened) else {
            // It asks for the lock only when it has taken the VFs off their driver.
            if option == "-d" {
                self.release_vfs(pf)?;
            }
            return no_lock();
        };
        if self.tool_beside(pf) {
            self.lose_vfs(pf)?;
            return said(0, format!("{option} on {pf}"));
        }
        match option.as_str() {
            "-e" => match self.enable_vfs(pf, total, &driver) {
                Ok(()) => said(0, format!("Enabling VFs on {pf}")),
                Err(errno) => said(1, format!("Enabling VFs on {pf}\n{errno}")),
            },
            "-d" => {
                let mut tasks = off(pf);
                tasks.push(on(pf, &driver));
                self.run_to_end(tasks).or_else(|errno| said(1, format!("{pf}: {errno}")))?;
                said(0, format!("Disabling VFs on {pf}"))
            }
            _ => said(1, "Usage: sriov-manage -e|-d ADDRESS|ALL".to_owned()),
        }
    }

    /// VFs that are there are let go of, and the first is where its ids are known.
    fn lose_vfs(&mut self, pf: PciAddress) -> Result<(), Errno> {
        self.release_vfs(pf)?;
        self.drivers.insert(STUB.into());
        let Some((_, first)) = self.linked_vfs(pf).first().copied() else { return Ok(()) };
        self.run_to_end(vec![on(first, &STUB.into())])?;
        Ok(())
    }

    fn release_vfs(&mut self, pf: PciAddress) -> Result<(), Errno> {
        let vfs = self.linked_vfs(pf);
        self.run_to_end(vfs.into_iter().flat_map(|(_, vf)| off(vf)).collect())?;
        Ok(())
    }

    /// What fails in between leaves the PF without driver.
    fn enable_vfs(&mut self, pf: PciAddress, total: u16, driver: &Name) -> Result<(), Errno> {
        let delay = self.sriov_delay(pf);
        self.drivers.insert(STUB.into());
        self.run_to_end(off(pf))?;
        self.override_with(pf, Some(STUB.into()));
        let mut tasks = vec![on(pf, &STUB.into())];
        tasks.extend([Task::Lock(Lock::Device(pf)), Task::Sleep(self.now + delay)]);
        tasks.push(Task::Configure(pf, total));
        let made = self.run_to_end(tasks);
        if self.tool_ends(pf, true) {
            return Err(Errno::EINTR);
        }
        self.run_to_end(off(pf))?;
        self.override_with(pf, None);
        made?;
        if self.tool_ends(pf, false) {
            return Err(Errno::EINTR);
        }
        self.run_to_end(vec![on(pf, driver)])?;
        let vfs: Vec<PciAddress> =
            (0..total).filter_map(|index| self.vf_address(pf, index)).collect();
        self.run_to_end(vfs.into_iter().map(|vf| on(vf, driver)).collect())?;
        Ok(())
    }

    fn override_with(&mut self, pf: PciAddress, driver: Option<Name>) {
        if let Some(function) = self.functions.get_mut(&pf) {
            function.driver_override = driver;
        }
    }

    /// Cards whose vGPUs are on VFs.
    fn vf_counts(&self, pf: PciAddress) -> Option<(PciAddress, u16, u16)> {
        let function = self.functions.get(&pf)?;
        let shape = self.shape(function)?;
        let total = shape.sriov.as_ref()?.total_vfs;
        match function.role {
            Role::Pf { numvfs, .. } if shape.mdev.as_ref()?.on != MdevOn::Pf => {
                Some((pf, total, numvfs))
            }
            _ => None,
        }
    }

    pub(crate) fn vm_runs(&self, pf: PciAddress) -> bool {
        let vfs = self.linked_vfs(pf);
        vfs.iter().any(|(_, vf)| {
            let parent = self.parents.get(vf.to_string().as_str());
            let mut mdevs = parent.into_iter().flat_map(|parent| &parent.children);
            let open = |uuid| !self.holders(SliceId::Mdev(MdevUuid(uuid))).is_empty();
            self.function_held(*vf) || mdevs.any(|uuid| open(*uuid))
        })
    }

    /// A VF whose PF is not the driver's is not looked at.
    pub(crate) fn refuses_orphan(&self, address: PciAddress, driver: &str) -> bool {
        let role = self.functions.get(&address).map(|f| &f.role);
        let Some(Role::Vf { pf, .. }) = role else { return false };
        let ours = self.driver_shape(driver).is_some_and(|d| d.vf_tool.is_some());
        let of_pf = self.functions.get(pf).and_then(|f| f.driver.as_deref());
        ours && of_pf != Some(driver)
    }
}

fn off(pf: PciAddress) -> Vec<Task> {
    vec![Task::Lock(Lock::Device(pf)), Task::Release(pf), Task::Unlock(Lock::Device(pf))]
}

fn on(function: PciAddress, driver: &Name) -> Task {
    Task::Attach(Attach { address: function, driver: driver.clone(), quiet: true })
}
