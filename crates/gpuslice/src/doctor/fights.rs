//! Who else makes slices on this host, by itself and at times of its own.

use super::check::{Check, Finding};
use super::facts::Host;

/// All findings.
pub fn check(host: &Host) -> Vec<Finding> {
    let mdevs = host.mdevctl_auto.iter().map(|(parent, uuid)| {
        let text = format!("mdevctl makes {uuid} on {parent} at every boot");
        let mend = format!("mdevctl modify --uuid {uuid} --parent {parent} --manual");
        Finding::warning(Check::MdevctlAuto, text, mend)
    });
    let sysfs = host.sysfsutils.iter().map(|file| {
        let mend = format!("take the lines with sriov_numvfs out of {file}");
        Finding::warning(Check::Sysfsutils, format!("{file} writes sriov_numvfs at boot"), mend)
    });
    let writers = host.writers.iter().map(|file| {
        let unit = file.strip_prefix("/etc/systemd/system/");
        let mend = unit.map_or_else(
            || format!("take the line out of {file}"),
            |unit| format!("systemctl disable --now {unit}"),
        );
        Finding::warning(Check::SriovUnit, format!("{file} makes VFs beside gpuslice"), mend)
    });
    mdevs.chain(sysfs).chain(writers).collect()
}
