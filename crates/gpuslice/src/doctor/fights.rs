//! Who else makes slices on this host, by itself and at times of its own.

use super::check::{Check, Finding};
use super::facts::Host;
use gpuslice_core::shell::quoted;

/// All findings.
pub fn check(host: &Host) -> Vec<Finding> {
    let mdevs = host.mdevctl_auto.iter().map(|(parent, uuid)| {
        let text = format!("mdevctl makes {uuid} on {parent} at every boot");
        let mend = format!("mdevctl modify --uuid {uuid} --parent {parent} --manual");
        Finding::warning(Check::MdevctlAuto, text, mend)
    });
    let broken = host.mdevctl_broken.iter().map(|file| {
        let text = format!("{file} is no definition, and `mdevctl list` fails for it");
        Finding::warning(Check::MdevctlBroken, text, format!("rm {}", quoted(file)))
    });
    let bound = host.driverctl.iter().filter_map(|(address, driver)| {
        let device = host.devices.iter().find(|device| device.address == *address)?;
        let gpu = device.pf.as_ref().unwrap_or(address);
        let is_gpu = host.devices.iter().any(|d| d.address == *gpu && d.is_sliced());
        if !is_gpu || device.driver.as_ref() == Some(driver) {
            return None;
        }
        let text = format!("driverctl gives {address} to {driver} at every boot");
        let mend = format!("driverctl unset-override {address}");
        Some(Finding::warning(Check::Driverctl, text, mend))
    });
    let sysfs = host.sysfsutils.iter().map(|file| {
        let mend = format!("take the lines with sriov_numvfs out of {file}");
        Finding::warning(Check::Sysfsutils, format!("{file} writes sriov_numvfs at boot"), mend)
    });
    let writers = host.writers.iter().map(|file| {
        let unit = file.starts_with("/etc/systemd/system/").then(|| file.rsplit('/').next());
        let unit = unit.flatten();
        let mend = unit.map_or_else(
            || format!("take the line out of {file}"),
            |unit| format!("systemctl disable --now {unit}"),
        );
        Finding::warning(Check::SriovUnit, format!("{file} makes VFs beside gpuslice"), mend)
    });
    mdevs.chain(broken).chain(bound).chain(sysfs).chain(writers).collect()
}
