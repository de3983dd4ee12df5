//! What gpuslice's own configuration asks of this host's functions, by the core's reading of it.

use super::pci::Device;
use super::tree::Tree;
use gpuslice_core::config;
use gpuslice_core::layout::resolve;
use gpuslice_core::observation::{Function, Observation, Sriov};
use std::collections::{BTreeMap, BTreeSet};

/// Addresses of the PFs of which a layout wants VFs. Serial numbers and slots are not read here, so a rule that names one is
/// passed over; and of a configuration that is broken the daemon tells.
pub fn laid_out(tree: &Tree, devices: &[Device]) -> BTreeSet<String> {
    let parts = tree.files("/etc/gpuslice/conf.d", ".toml");
    let files = ["/etc/gpuslice/gpuslice.toml".to_owned()].into_iter().chain(parts);
    let read = |file: String| tree.text(&file).map(|text| (file, text));
    let texts: Vec<_> = files.filter_map(read).collect();
    let Ok(config) = config::parse(&texts) else { return BTreeSet::new() };
    let mechanisms = gpuslice_vendors::all();
    let model = |of: &Device| mechanisms.iter().find_map(|m| m.model(of.vendor, of.device));
    let functions = devices.iter().filter_map(|device| {
        let total = u16::try_from(device.total_vfs?).ok()?;
        Some((device.address.parse().ok()?, function(device, total, model(device))))
    });
    let seen = Observation { functions: functions.collect(), ..Observation::default() };
    let (resolved, _) = resolve(&config.rules, &seen);
    let wanted = resolved.into_iter().filter(|(_, rule)| rule.layout.vfs.of(u16::MAX) > 0);
    wanted.map(|(parent, _)| parent.to_string()).collect()
}

fn function(device: &Device, total: u16, model: Option<&'static str>) -> Function {
    Function {
        vendor: device.vendor,
        device: device.device,
        class: device.class,
        driver: device.driver.clone(),
        numa_node: None,
        iommu_group: None,
        serial: None,
        slot: None,
        sriov: Some(Sriov { total, autoprobe: None, vfs: BTreeMap::new() }),
        model,
        kind: None,
        memory: None,
    }
}
