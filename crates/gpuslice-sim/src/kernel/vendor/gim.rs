//! AMD's GIM (amd/MxGPU-Virtualization, gim_shim): VFs are made when the module is loaded, by a thread for each GPU
//! that goes on after the load has returned; the unload waits, for as long as it takes, while a VF of any GPU is
//! enabled: open, or bound to a driver of the host.

pub(crate) mod asics;
mod config;
pub(crate) mod files;
mod partition;

use crate::host_file::GimShape;
use crate::kernel::function::Role;
use crate::kernel::job::{Lock, Poll, Task, done};
use crate::kernel::{Kernel, Name};
use config::Settings;
use gpuslice_core::errno::Errno;
use gpuslice_core::ids::PciAddress;
use gpuslice_core::port::Written;
use std::collections::BTreeMap;

/// The module while it is loaded.
#[derive(Debug, Clone)]
pub(crate) struct Gim {
    settings: Settings,
    /// GPUs probed so far.
    probed: usize,
    /// GPUs that are initialised.
    gpus: BTreeMap<PciAddress, Gpu>,
}

/// An initialised GPU.
#[derive(Debug, Clone)]
struct Gpu {
    vfs: u16,
    /// Memory partitions; 0 when the GPU has none.
    nps: u32,
    /// Compute partitions.
    parts: u32,
    /// The memory mode that is in force after the reset.
    wanted: Option<u32>,
}

/// Character devices of the module, for programs beside VMs.
const NODES: &[&str] = &["/dev/gim-smi0", "/dev/amdgv-cmd-handle"];

/// Most VFs of a GPU (`AMDGV_MAX_VF_NUM`).
const MOST: u16 = 31;

impl Kernel {
    pub(crate) fn gim_loading(&mut self, name: &str) -> Result<(), Errno> {
        if self.driver_shape(name).is_none_or(|d| d.gim.is_none()) {
            return Ok(());
        }
        let settings = self.gim_settings(name)?;
        self.gim = Some(Gim { settings, probed: 0, gpus: BTreeMap::new() });
        Ok(())
    }

    fn gim_shape(&self) -> Option<&GimShape> {
        self.host.drivers.iter().find_map(|driver| driver.gim.as_ref())
    }

    /// Nodes that the module has made.
    pub(crate) fn gim_nodes(&self) -> &'static [&'static str] {
        if self.gim.is_some() { NODES } else { &[] }
    }

    fn gim_gpu(&self, address: PciAddress) -> Option<&Gpu> {
        self.gim.as_ref()?.gpus.get(&address)
    }

    fn gim_gpu_mut(&mut self, address: PciAddress) -> Option<&mut Gpu> {
        self.gim.as_mut()?.gpus.get_mut(&address)
    }

    /// Whether GIM's files of a PF are there.
    pub(crate) fn has_gim_files(&self, address: PciAddress) -> bool {
        self.gim_gpu(address).is_some()
    }

    /// The driver lets go of a GPU.
    pub(crate) fn gim_released(&mut self, address: PciAddress) {
        if let Some(gim) = &mut self.gim {
            gim.gpus.remove(&address);
        }
    }

    /// Whether the option `enabled_devices` leaves a GPU out.
    fn gim_left_out(&self, address: PciAddress) -> bool {
        self.gim.as_ref().is_some_and(|gim| !gim.settings.enables(address))
    }

    /// What is not theirs, the newest refuse; the first, which have bind files, stay bound to it and do nothing.
    pub(crate) fn gim_skips(&self, address: PciAddress, driver: &str) -> bool {
        let newest = self.driver_shape(driver).is_some_and(|d| d.gim.is_some() && !d.bind_files);
        newest && self.gim_left_out(address)
    }

    /// The probe of a GPU is over; its thread begins.
    pub(crate) fn gim_probed(&mut self, address: PciAddress) {
        let Some(function) = self.functions.get(&address) else { return };
        let shape = function.driver.as_deref().and_then(|d| self.driver_shape(d)?.gim.as_ref());
        let (Role::Pf { .. }, Some(init_ms)) = (&function.role, shape.map(|s| s.init_ms)) else {
            return;
        };
        if self.gim_left_out(address) {
            return;
        }
        let Some(gim) = &mut self.gim else { return };
        let index = gim.probed;
        gim.probed += 1;
        let init_ms = self.delay_fault(address).unwrap_or(init_ms);
        let wake = Task::Sleep(self.now + init_ms);
        self.start(
            None,
            vec![wake, Task::Lock(Lock::Device(address)), Task::GimInit(address, index)],
        );
    }

    /// `pci_enable_sriov`, unless the GPU cannot have so many; that is told in the kernel's log alone.
    pub(crate) fn gim_init(&mut self, address: PciAddress, index: usize) -> Poll {
        let ours = self.functions.get(&address).is_some_and(|function| {
            let driver = function.shown_driver().and_then(|d| self.driver_shape(d));
            driver.is_some_and(|d| d.gim.is_some())
        });
        let Some(count) = self.gim.as_ref().map(|gim| gim.settings.vfs(index)).filter(|_| ours)
        else {
            return done();
        };
        let total = self.sriov_shape(address).map_or(0, |shape| shape.total_vfs);
        if count > total {
            self.printk(format!("VF number {count} to be enabled exceeds the vf limit {total}"));
            self.printk(format!("AMD GIM probed GPU({index}) {address}"));
            self.gim_config = Some(Vec::new());
            return done();
        }
        if self.enable_fault(address).is_some() {
            self.printk(format!("Failed to init dev(0x{:x}).", address.routing_id()));
            self.printk(format!("AMD GIM probed GPU({index}) {address}"));
            return done();
        }
        Poll::Next(vec![Task::Configure(address, count), Task::GimLive(address, index)])
    }

    /// The thread's last words: files, modes.
    pub(crate) fn gim_live(&mut self, address: PciAddress, index: usize) -> Poll {
        let vfs = match self.functions.get(&address).map(|f| &f.role) {
            Some(Role::Pf { numvfs, .. }) => *numvfs,
            _ => return done(),
        };
        let gpu = self.gim_modes_init(address, vfs);
        if let Some(gim) = &mut self.gim {
            gim.gpus.insert(address, gpu);
        }
        self.printk(format!("AMD GIM probed GPU({index}) {address}"));
        done()
    }

    /// `modprobe -r` of any driver.
    pub(crate) fn unload_driver(&mut self, name: &str) -> Result<Written, Errno> {
        let file = format!("modprobe -r {name}");
        self.counts.writes += 1;
        if let Some(errno) = self.write_fault(&file) {
            return Err(errno);
        }
        if self.sleep_fault(&file) {
            return self.start_write(&file, b"", vec![Task::Stuck(file.clone())]);
        }
        let name = self.modules.get(name).cloned().ok_or(Errno::ENOENT)?;
        // Each that is open counts as a use of the module, which modprobe looks at first.
        let gim = self.driver_shape(&name).is_some_and(|d| d.gim.is_some());
        if gim && self.node_held(NODES) {
            return Err(Errno::EBUSY);
        }
        self.start_write(&file, b"", vec![Task::Unload(name)])
    }

    /// A VF of any of these that is enabled: open, or bound to a driver of the host.
    fn gim_in_use(&self, gpus: &[PciAddress]) -> Option<PciAddress> {
        let mut enabled = self.functions.iter().filter(|(vf, function)| {
            let Role::Vf { pf, .. } = function.role else { return false };
            let by_host = function.driver.as_deref().is_some_and(|d| !self.is_vfio(d));
            gpus.contains(&pf) && (by_host || self.function_held(**vf))
        });
        enabled.next().map(|(vf, _)| *vf)
    }

    /// Waits until no VF of the driver is enabled, then lets go of every device.
    pub(crate) fn unload(&mut self, name: Name) -> Poll {
        let bound: Vec<PciAddress> = self
            .functions
            .iter()
            .filter(|(_, f)| f.driver.as_ref() == Some(&name))
            .map(|(address, _)| *address)
            .collect();
        let resetting =
            |address: &PciAddress| self.gim_gpu(*address).is_some_and(|gpu| gpu.wanted.is_some());
        let waits = bound.iter().any(resetting);
        // Other drivers take their VFs along.
        let gim = self.driver_shape(&name).is_some_and(|d| d.gim.is_some());
        let used = self.gim_in_use(&bound).filter(|_| gim);
        if let Some(vf) = used {
            let (domain, bus, device, function) =
                (vf.domain(), vf.bus(), vf.device(), vf.function());
            self.say_once(format!("GIM is used by [{domain:x}:{bus:x}:{device:x}:{function:x}]"));
        }
        if waits || used.is_some() {
            return Poll::Wait(Task::Unload(name));
        }
        Poll::Next(self.exit_tasks(&name, &bound))
    }
}
