//! The registry of NVIDIA's driver: keys that its module is given as options when it is loaded, for all GPUs and for each.
//! A file below `/proc/driver` shows the options as they were given; each GPU's keys are read anew whenever the driver
//! takes it (kernel-open/nvidia: os-registry.c, nv-procfs.c, nv-pci.c).

use crate::kernel::{Kernel, Name};
use gpuslice_core::ids::PciAddress;

/// The key that says how vGPUs take turns.
const SCHEDULER: &str = "rmpvmrl";

/// The module while it is loaded.
#[derive(Debug, Clone)]
pub(crate) struct Registry {
    pub(crate) driver: Name,
    for_all: String,
    for_each: String,
}

impl Kernel {
    /// The module of a driver with a registry reads its options.
    pub(crate) fn registry_loading(&mut self, module: &Name) {
        let shape = self.driver_shape(module);
        if shape.is_none_or(|d| d.vf_tool.is_none() && d.smi_tool.is_none()) {
            return;
        }
        let given = |option: &str| self.last_option(module, option).unwrap_or_default();
        self.registry = Some(Registry {
            driver: module.clone(),
            for_all: given("NVreg_RegistryDwords"),
            for_each: given("NVreg_RegistryDwordsPerDevice"),
        });
    }

    pub(crate) fn registry_unloading(&mut self, module: &str) {
        self.registry.take_if(|registry| *registry.driver == *module);
    }

    /// modprobe hands the module what the files of /etc/modprobe.d say; of several options the last counts.
    fn last_option(&self, module: &str, option: &str) -> Option<String> {
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
        let gpu = format!("pci={pf}");
        for word in registry.for_all.split(';').chain(registry.for_each.split(';')) {
            let word = word.trim().to_lowercase();
            if word.starts_with("pci=") {
                own = word == gpu;
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
