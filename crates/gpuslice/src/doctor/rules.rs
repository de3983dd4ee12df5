//! What gpuslice's own configuration asks of this host's functions, by the core's reading of it.

use super::pci::Device;
use super::tree::Tree;
use gpuslice_core::config;
use gpuslice_core::layout::{Layout, resolve};
use gpuslice_core::observation::{Function, Observation, Sriov, is_vfio};
use gpuslice_vendors::makers::maker;
use std::collections::{BTreeMap, BTreeSet};

/// Addresses of the functions of which a layout wants something.
#[derive(Default)]
pub struct LaidOut {
    /// Virtual functions.
    pub vfs: BTreeSet<String>,
    /// Mediated devices that stand ready.
    pub parked: BTreeSet<String>,
    /// VFs that are passed by another driver than vfio-pci, and which.
    pub passed_by: BTreeMap<String, String>,
}

/// What layouts want of which function. Serial numbers and slots are not read here, so a rule that names one is
/// passed over; and of a configuration that is broken the daemon tells.
pub fn laid_out(tree: &Tree, devices: &[Device]) -> LaidOut {
    let parts = tree.files("/etc/gpuslice/conf.d", ".toml");
    let files = ["/etc/gpuslice/gpuslice.toml".to_owned()].into_iter().chain(parts);
    let read = |file: String| tree.text(&file).map(|text| (file, text));
    let texts: Vec<_> = files.filter_map(read).collect();
    let Ok(config) = config::parse(&texts) else { return LaidOut::default() };
    let mechanisms = gpuslice_vendors::all();
    let model = |of: &Device| mechanisms.iter().find_map(|m| m.model(of.vendor, of.device));
    let pfs = devices.iter().filter(|device| device.pf.is_none());
    let functions = pfs.filter_map(|pf| Some((pf.address.parse().ok()?, function(pf, model(pf)))));
    let seen = Observation { functions: functions.collect(), ..Observation::default() };
    let devices = resolve(&config.rules, &seen).devices;
    let of = |wants: fn(&Layout) -> bool| {
        let wanted = devices.iter().filter(|(_, rule)| wants(&rule.layout));
        wanted.map(|(parent, _)| parent.to_string()).collect()
    };
    let passes = |layout: &Layout| {
        let driver = layout.bind.clone().filter(|driver| is_vfio(driver) && driver != "vfio-pci");
        driver.filter(|_| layout.vfs.of(u16::MAX) > 0)
    };
    let passed_by = devices
        .iter()
        .filter_map(|(parent, rule)| Some((parent.to_string(), passes(&rule.layout)?)));
    LaidOut {
        vfs: of(|layout| layout.vfs.of(u16::MAX) > 0),
        parked: of(|layout| !layout.park.is_empty()),
        passed_by: passed_by.collect(),
    }
}

fn function(device: &Device, model: Option<&'static str>) -> Function {
    // One that has SR-IOV switched off is laid out all the same.
    let has_it = maker(device.vendor, device.device).is_some_and(|maker| maker.sriov);
    let total = device.total_vfs.or(has_it.then_some(0)).and_then(|n| u16::try_from(n).ok());
    Function {
        vendor: device.vendor,
        device: device.device,
        class: device.class,
        driver: device.driver.clone(),
        numa_node: None,
        iommu_group: None,
        serial: None,
        slot: None,
        sriov: total.map(|total| Sriov { total, autoprobe: None, vfs: BTreeMap::new() }),
        model,
        maker: maker(device.vendor, device.device).map(|maker| maker.driver),
        kind: None,
        memory: None,
    }
}
