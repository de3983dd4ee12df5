//! Who else makes slices on this host, by itself and at times of its own.

use super::check::{Check, Finding};
use super::facts::Host;
use super::gather::MAKING_VFS;
use super::pci::Device;
use gpuslice_core::guest::mapping::Entry;
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
    let hooks = host.other_hooks.iter().filter_map(|hook| {
        let word = MAKING_VFS.iter().find(|word| hook.text.contains(*word))?;
        let text = format!("the hook {} makes or takes VFs away beside gpuslice", hook.file);
        let mend = format!("take the lines with {word} out of {}", hook.file);
        Some(Finding::warning(Check::SriovUnit, text, mend))
    });
    let all = mdevs.chain(broken).chain(bound).chain(sysfs).chain(writers).chain(hooks);
    all.chain(mappings(host)).chain(watched(host)).collect()
}

/// Mappings of Proxmox VE that name what is not there on this node: each guest with one fails at its start.
fn mappings(host: &Host) -> Vec<Finding> {
    let Some((node, mappings)) = &host.mappings else { return Vec::new() };
    let finding = |id: &String, entry: &Entry| {
        let mut path = entry.path().into_iter().enumerate();
        let wrong = path.find_map(|(at, address)| stale(host, entry, &address, at == 0))?;
        let text = format!("the mapping {id} of Proxmox VE says that {wrong}");
        let mend = format!(
            "gpuslice export proxmox, if {id} is one of its mappings; else correct it in Datacenter, Resource Mappings"
        );
        Some(Finding::error(Check::MappingStale, text, mend))
    };
    let stale = mappings.iter().filter_map(|mapping| {
        let mut here = mapping.entries.iter().filter(|entry| entry.is_on(node));
        here.find_map(|entry| finding(&mapping.id, entry))
    });
    stale.collect()
}

/// How a device differs from what a mapping says of it. Its id and group are those of its first function; a device that is
/// named without a function is meant as a whole, and known by function 0.
fn stale(host: &Host, entry: &Entry, address: &str, first: bool) -> Option<String> {
    // Nothing can be said where no device is seen at all.
    host.devices.first()?;
    let whole = if address.contains('.') { address.to_owned() } else { format!("{address}.0") };
    let Some(device) = host.devices.iter().find(|device| device.address == whole) else {
        return Some(format!("{address} is there, which it is not"));
    };
    if !first {
        return None;
    }
    let is = format!("{:04x}:{:04x}", device.vendor, device.device);
    let says = |key: &str| entry.keys.get(key);
    if let Some(id) = says("id").filter(|id| !id.eq_ignore_ascii_case(&is)) {
        return Some(format!("{address} is {id}, and it is {is}"));
    }
    let (said, is) = says("iommugroup").zip(device.group.as_ref())?;
    (said != is).then(|| format!("{address} is in IOMMU group {said}, and it is in {is}"))
}

/// NVIDIA's tool makes VFs only while nobody has the GPU open.
fn watched(host: &Host) -> Option<Finding> {
    let waits = |gpu: &&Device| {
        gpu.is_gpu()
            && gpu.driver.as_deref() == Some("nvidia")
            && gpu.total_vfs.unwrap_or(0) > 0
            && gpu.vfs == 0
            && !gpu.mdevs
    };
    let gpu = host.devices.iter().find(waits).filter(|_| host.sriov_manage)?;
    let name = host.watchers.first()?;
    let unit = if name == "nv-hostengine" { "nvidia-dcgm" } else { name };
    let text = format!("{name} has GPU {} open, and it has no VFs yet", gpu.address);
    let mend = format!("systemctl stop {unit}; gpuslice apply; systemctl start {unit}");
    Some(Finding::warning(Check::GpuWatched, text, mend))
}
