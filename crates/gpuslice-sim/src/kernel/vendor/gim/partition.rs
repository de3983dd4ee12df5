//! Compute and memory modes: for all GPUs of an XGMI hive at once, and only while nobody uses a VF of any of them. Here
//! all GPUs of one id that have partitions are a hive (libgv's `amdgv_gpumon.c`).

use super::{Gpu, asics};
use crate::kernel::job::{Poll, Task, done};
use crate::kernel::{Kernel, number};
use gpuslice_core::errno::Errno;
use gpuslice_core::ids::PciAddress;
use gpuslice_core::port::Written;

impl Kernel {
    pub(super) fn gim_device(&self, address: PciAddress) -> Option<u16> {
        Some(self.ids(self.functions.get(&address)?)?.1)
    }

    /// What was saved counts where it is legal still.
    pub(super) fn gim_modes_init(&self, address: PciAddress, vfs: u16) -> Gpu {
        let device = self.gim_device(address).unwrap_or_default();
        let mut gpu = Gpu { vfs, nps: 0, parts: 0, wanted: None };
        let Some(settings) = self.gim.as_ref().map(|gim| &gim.settings) else { return gpu };
        let Some(least) = asics::memories(device, vfs, None).first().copied() else { return gpu };
        let saved = Some(settings.nps).filter(|nps| asics::fits(device, vfs, Some(*nps), None));
        gpu.nps = saved.unwrap_or(least);
        let saved = Some(settings.parts);
        let saved = saved.filter(|p| asics::fits(device, vfs, Some(gpu.nps), Some(*p)));
        gpu.parts = saved.unwrap_or_else(|| asics::default_parts(vfs, gpu.nps));
        gpu
    }

    fn gim_hive(&self, address: PciAddress) -> Vec<PciAddress> {
        let device = self.gim_device(address);
        let gpus = self.gim.iter().flat_map(|gim| gim.gpus.keys().copied());
        gpus.filter(|other| *other == address || self.gim_device(*other) == device).collect()
    }

    fn gim_refuse(&mut self, address: PciAddress, what: String, why: Option<String>) {
        if let Some(why) = why {
            self.printk(format!("gim {address}: {why}"));
        }
        self.printk(what);
    }

    /// The number of a profile. What the driver refuses it takes all the same, and says why in the kernel's log.
    pub(crate) fn write_gim_profile(
        &mut self,
        address: PciAddress,
        data: &[u8],
    ) -> Result<Written, Errno> {
        let profile: usize = leading_number(data).ok_or(Errno::EINVAL)?;
        let gpu = self.gim_gpu(address).ok_or(Errno::ENODEV)?.clone();
        let device = self.gim_device(address).unwrap_or_default();
        let what = format!("Failed to set accelerator_partition_profile profile_index={profile}");
        let wanted = asics::profiles(device, gpu.vfs).get(profile).copied();
        let hive = self.gim_hive(address);
        let why = if gpu.parts == 0 {
            Some("failed to get accelerator_partition_profile".to_owned())
        } else if wanted == Some(gpu.parts) {
            let now = "current accelerator_partition_profile is already set to";
            Some(format!("{now} profile_index={profile}"))
        } else if self.gim_in_use(&hive).is_some() {
            let not = "set accelerator partition mode not allowed when active VM/VFs running!";
            Some(not.to_owned())
        } else if self.refuses(address) {
            Some("firmware did not answer".to_owned())
        } else {
            None
        };
        let Some(parts) = wanted.filter(|parts| {
            why.is_none() && asics::fits(device, gpu.vfs, Some(gpu.nps), Some(*parts))
        }) else {
            self.gim_refuse(address, what, why);
            return Ok(Written::Done);
        };
        for other in self.gim.iter_mut().flat_map(|gim| gim.gpus.iter_mut()) {
            let legal = asics::fits(device, other.1.vfs, Some(other.1.nps), Some(parts));
            if hive.contains(other.0) && legal {
                other.1.parts = parts;
            }
        }
        self.gim_save_modes(gpu.nps, parts);
        Ok(Written::Done)
    }

    /// Asks for a memory mode; a reset of the whole hive brings it into force.
    pub(crate) fn write_gim_memory(
        &mut self,
        address: PciAddress,
        data: &[u8],
    ) -> Result<Written, Errno> {
        let word: String = number::line(data).trim().chars().take(4).collect();
        let digits = word.get(3..).filter(|_| word.to_ascii_uppercase().starts_with("NPS"));
        let nps = match digits {
            Some("1") => 1,
            Some("2") => 2,
            // NPS8 is taken for NPS4.
            Some("4" | "8") => 4,
            _ => return Err(Errno::EINVAL),
        };
        let gpu = self.gim_gpu(address).ok_or(Errno::ENODEV)?.clone();
        let device = self.gim_device(address).unwrap_or_default();
        let hive = self.gim_hive(address);
        let legal = asics::fits(device, gpu.vfs, Some(nps), None);
        let why = if gpu.nps == 0 {
            Some("failed to get current memory partition mode".to_owned())
        } else if let Some(wanted) = gpu.wanted {
            let now = "current memory partition mode is already set to";
            Some(format!("memory mode switch in progress. {now} NPS{wanted}"))
        } else if gpu.nps == nps {
            Some(format!("current memory partition mode is already set to NPS{nps}"))
        } else if self.gim_in_use(&hive).is_some() {
            Some("set memory partition mode not allowed when active VM/VFs running!".to_owned())
        } else if self.refuses(address) {
            Some("firmware did not answer".to_owned())
        } else {
            None
        };
        if why.is_some() || !legal {
            self.gim_refuse(address, format!("Failed to set mp mode {word}"), why);
            return Ok(Written::Done);
        }
        let reset_ms = self.gim_shape().map_or(0, |shape| shape.reset_ms);
        for other in hive {
            let at = self.now + self.delay_fault(other).unwrap_or(reset_ms);
            let Some(gpu) = self.gim_gpu_mut(other) else { continue };
            if asics::fits(device, gpu.vfs, Some(nps), None) {
                gpu.wanted = Some(nps);
                self.start(None, vec![Task::Sleep(at), Task::GimReset(other)]);
            }
        }
        self.run_at_pace();
        Ok(Written::Done)
    }

    /// The reset that a memory mode waits for is over; the compute mode is the default again.
    pub(crate) fn gim_reset(&mut self, address: PciAddress) -> Poll {
        let Some(gpu) = self.gim_gpu_mut(address) else { return done() };
        let Some(nps) = gpu.wanted.take() else { return done() };
        gpu.nps = nps;
        gpu.parts = asics::default_parts(gpu.vfs, nps);
        let parts = gpu.parts;
        self.printk(format!("gim {address}: whole GPU reset"));
        self.gim_save_modes(nps, parts);
        done()
    }

    fn gim_save_modes(&mut self, nps: u32, parts: u32) {
        let Some(gim) = &mut self.gim else { return };
        (gim.settings.nps, gim.settings.parts) = (nps, parts);
        let settings = gim.settings.clone();
        self.gim_save(&settings);
    }
}

/// As `sscanf("%u")` reads it.
fn leading_number(data: &[u8]) -> Option<usize> {
    let text = number::line(data).trim_start();
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    text.get(..end)?.parse().ok()
}
