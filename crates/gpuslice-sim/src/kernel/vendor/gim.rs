//! AMD's GIM (amd/MxGPU-Virtualization, gim_shim): VFs are made when the module is loaded, by a thread for each GPU
//! that goes on after the load has returned; the unload waits, for as long as it takes, while a VF of any GPU is
//! enabled: open, or bound to a driver of the host.

use crate::kernel::function::Role;
use crate::kernel::job::{Lock, Poll, Task, done};
use crate::kernel::{Kernel, Name};
use gpuslice_core::errno::Errno;
use gpuslice_core::ids::PciAddress;
use gpuslice_core::port::Written;

/// The module while it is loaded.
#[derive(Debug, Clone)]
pub(crate) struct Gim {
    /// `vf_num`: the last number stands for all that follow.
    vf_num: Vec<u16>,
    /// GPUs probed so far.
    probed: usize,
}

/// Most VFs of a GPU (`AMDGV_MAX_VF_NUM`).
const MOST: u16 = 31;

impl Kernel {
    /// modprobe hands the module what the files of /etc/modprobe.d say; of several options the last counts.
    pub(crate) fn gim_loading(&mut self, name: &str) -> Result<(), Errno> {
        if self.driver_shape(name).is_none_or(|d| d.gim.is_none()) {
            return Ok(());
        }
        let mut vf_num = vec![1];
        for content in self.modprobe_d.values() {
            let text = String::from_utf8_lossy(content);
            let words = text.lines().filter_map(|line| line.strip_prefix("options "));
            for line in words {
                let mut words = line.split_whitespace();
                if words.next() != Some(name) {
                    continue;
                }
                if let Some(list) = words.find_map(|word| word.strip_prefix("vf_num=")) {
                    let numbers = list.split(',').map(|n| n.parse::<u16>().ok());
                    let numbers = numbers.map(|n| n.filter(|n| (1..=MOST).contains(n)));
                    vf_num = numbers.collect::<Option<_>>().ok_or(Errno::EINVAL)?;
                }
            }
        }
        self.gim = Some(Gim { vf_num, probed: 0 });
        Ok(())
    }

    /// Content of `/sys/module/gim/parameters/vf_num` (`param_array_get`).
    pub(crate) fn gim_vf_num(&self) -> Option<String> {
        let numbers = self.gim.as_ref()?.vf_num.iter().map(u16::to_string);
        Some(format!("{}\n", numbers.collect::<Vec<_>>().join(",")))
    }

    /// The probe of a GPU is over; its thread begins.
    pub(crate) fn gim_probed(&mut self, address: PciAddress) {
        let Some(function) = self.functions.get(&address) else { return };
        let shape = function.driver.as_deref().and_then(|d| self.driver_shape(d)?.gim.as_ref());
        let (Role::Pf { .. }, Some(init_ms)) = (&function.role, shape.map(|s| s.init_ms)) else {
            return;
        };
        let Some(gim) = &mut self.gim else { return };
        let own = gim.vf_num.get(gim.probed).or(gim.vf_num.last()).copied().unwrap_or(1);
        gim.probed += 1;
        let init_ms = self.delay_fault(address).unwrap_or(init_ms);
        let wake = Task::Sleep(self.now + init_ms);
        self.start(
            None,
            vec![wake, Task::Lock(Lock::Device(address)), Task::GimInit(address, own)],
        );
    }

    /// `pci_enable_sriov`, unless the GPU cannot have so many; that is told in the kernel's log alone.
    pub(crate) fn gim_init(&mut self, address: PciAddress, count: u16) -> Poll {
        let ours = self.functions.get(&address).is_some_and(|function| {
            let driver = function.shown_driver().and_then(|d| self.driver_shape(d));
            driver.is_some_and(|d| d.gim.is_some())
        });
        let total = self.sriov_shape(address).map_or(0, |shape| shape.total_vfs);
        if !ours || count > total {
            return done();
        }
        Poll::Next(vec![Task::Configure(address, count)])
    }

    /// `modprobe -r` of any driver.
    pub(crate) fn unload_driver(&mut self, name: &str) -> Result<Written, Errno> {
        let file = format!("modprobe -r {name}");
        self.counts.writes += 1;
        if let Some(errno) = self.write_fault(&file) {
            return Err(errno);
        }
        let name = self.modules.get(name).cloned().ok_or(Errno::ENOENT)?;
        self.start_write(&file, b"", vec![Task::Unload(name)])
    }

    /// Waits until no VF of the driver is enabled, then lets go of every device.
    pub(crate) fn unload(&mut self, name: Name) -> Poll {
        let bound: Vec<PciAddress> = self
            .functions
            .iter()
            .filter(|(_, f)| f.driver.as_ref() == Some(&name))
            .map(|(address, _)| *address)
            .collect();
        let enabled = self.functions.iter().any(|(vf, function)| {
            let Role::Vf { pf, .. } = function.role else { return false };
            let by_host = function.driver.as_deref().is_some_and(|d| !self.is_vfio(d));
            bound.contains(&pf) && (by_host || self.function_held(*vf))
        });
        if enabled {
            return Poll::Wait(Task::Unload(name));
        }
        let mut tasks = self.detach_tasks(&bound);
        tasks.push(Task::DriverGone(name));
        Poll::Next(tasks)
    }
}
