//! The registry of NVIDIA's driver: keys that its module is given as options when it is loaded, for all GPUs and for each.
//! A file below `/proc/driver` shows the options as they were given; each GPU's keys are read anew whenever the driver
//! takes it (kernel-open/nvidia: os-registry.c, nv-procfs.c, nv-pci.c).

use crate::kernel::{Kernel, Name};
use gpuslice_core::errno::Errno;
use gpuslice_core::ids::PciAddress;

/// The key that says how vGPUs take turns.
const SCHEDULER: &str = "rmpvmrl";

/// Longest text that the kernel takes for a parameter (kernel/params.c).
const MOST_BYTES: usize = 1024;

/// The module while it is loaded.
#[derive(Debug, Clone)]
pub(crate) struct Registry {
    pub(crate) driver: Name,
    for_all: String,
    for_each: String,
}

impl Kernel {
    /// The module of a driver with a registry reads its options.
    pub(crate) fn registry_loading(&mut self, module: &Name) -> Result<(), Errno> {
        let shape = self.driver_shape(module);
        if shape.is_none_or(|d| d.vf_tool.is_none() && d.smi_tool.is_none()) {
            return Ok(());
        }
        let for_all = self.text_option(module, "NVreg_RegistryDwords")?;
        let for_each = self.text_option(module, "NVreg_RegistryDwordsPerDevice")?;
        self.registry = Some(Registry { driver: module.clone(), for_all, for_each });
        Ok(())
    }

    fn text_option(&mut self, module: &str, option: &str) -> Result<String, Errno> {
        let value = self.last_option(module, option).unwrap_or_default();
        if value.len() > MOST_BYTES {
            self.printk(format!("{option}: string parameter too long"));
            return Err(Errno::ENOSPC);
        }
        Ok(value)
    }

    pub(crate) fn registry_unloading(&mut self, module: &str) {
        self.registry.take_if(|registry| *registry.driver == *module);
    }

    /// modprobe hands the module what the files of /etc/modprobe.d and then the kernel's arguments say; of several options
    /// the last counts.
    fn last_option(&self, module: &str, option: &str) -> Option<String> {
        if let Some(value) = self.argument(module, option) {
            return Some(value);
        }
        let lead = format!("options {module} ");
        let mut last = None;
        for content in self.modprobe_d.values() {
            let text = String::from_utf8_lossy(content).replace("\\\n", "");
            for rest in text.lines().filter_map(|line| line.strip_prefix(lead.as_str())) {
                let mut from = rest;
                while let Some((before, after)) = from.split_once(&format!("{option}=")) {
                    let begins = before.is_empty() || before.ends_with([' ', '"']);
                    let value = match after.strip_prefix('"') {
                        Some(quoted) => quoted.split('"').next(),
                        None => after.split(' ').next(),
                    };
                    if begins {
                        last = value.map(str::to_owned);
                    }
                    from = after;
                }
            }
        }
        last
    }

    /// `/proc/driver/nvidia/params`, of whose many lines some stand for all.
    pub(crate) fn registry_params(&self) -> Option<String> {
        let Registry { for_all, for_each, .. } = self.registry.as_ref()?;
        Some(format!(
            "ResmanDebugLevel: 4294967295\nEnableMSI: 1\nRegistryDwords: \"{for_all}\"\n\
             RegistryDwordsPerDevice: \"{for_each}\"\nRmMsg: \"\"\nGpuBlacklist: \"\"\n\
             TemporaryFilePath: \"\"\nExcludedGpus: \"\"\n"
        ))
    }

    /// By which key the vGPUs of a GPU take turns; `None` while the driver does not have it.
    pub fn scheduler(&self, pf: PciAddress) -> Option<u32> {
        let registry = self.registry.as_ref()?;
        let bound = self.functions.get(&pf)?.driver.as_ref() == Some(&registry.driver);
        let (mut own, mut key) = (true, 0);
        for word in registry.for_all.split(';').chain(registry.for_each.split(';')) {
            let word = word.trim().to_lowercase();
            if let Some(place) = word.strip_prefix("pci=") {
                own = numbers(place)
                    == Some([
                        pf.domain(),
                        pf.bus().into(),
                        pf.device().into(),
                        pf.function().into(),
                    ]);
            }
            if let Some((SCHEDULER, value)) = word.split_once('=').filter(|_| own) {
                let hex = value.strip_prefix("0x");
                key =
                    hex.map_or_else(|| value.parse().ok(), |h| u32::from_str_radix(h, 16).ok())?;
            }
        }
        bound.then_some(key)
    }
}

/// Domain, bus, slot and function: the first and the last can be left out (`os-registry.c`, `pci_str_to_bdf`).
fn numbers(place: &str) -> Option<[u32; 4]> {
    let (place, function) = place.split_once('.').unwrap_or((place, "0"));
    let hex = |part: &str| u32::from_str_radix(part, 16).ok();
    let (bus, slot) = place.rsplit_once(':')?;
    let (domain, bus) = bus.split_once(':').unwrap_or(("0", bus));
    Some([hex(domain)?, hex(bus)?, hex(slot)?, hex(function)?])
}
