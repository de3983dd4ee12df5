//! Who else makes slices on this host, by itself and at times of its own.

use super::check::{Check, Finding};
use super::facts::{Host, Writer};
use super::pci::Device;
use super::writers::{Lines, PVE_UNIT, lines};
use gpuslice_core::guest::mapping::Entry;
use gpuslice_core::mend::end_process;
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
        Finding::warning(Check::MdevctlBroken, text, format!("mv {} /root/", quoted(file)))
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
    let sysfs = host.sysfsutils.iter().filter_map(|Writer { file, text }| {
        let mend = lines(host, text)?.mend(file);
        let text = format!("{file} writes sriov_numvfs at boot");
        Some(Finding::warning(Check::Sysfsutils, text, mend))
    });
    let writers = host.writers.iter().filter_map(|writer| writes(host, writer));
    let hooks = host.other_hooks.iter().chain(&host.dispatched).filter_map(|hook| {
        let mend = lines(host, &hook.text)?.mend(&hook.file);
        let text = format!("the hook {} makes or takes VFs away beside gpuslice", hook.file);
        Some(Finding::warning(Check::SriovUnit, text, mend))
    });
    let all = mdevs.chain(broken).chain(bound).chain(sysfs).chain(writers).chain(hooks);
    all.chain(mappings(host)).chain(watched(host)).collect()
}

/// A unit, rule or job that makes VFs of a GPU.
fn writes(host: &Host, Writer { file, text }: &Writer) -> Option<Finding> {
    let calls_nvidias = file.contains(PVE_UNIT);
    let text = if calls_nvidias { "sriov-manage" } else { text };
    let made: Lines = lines(host, text)?;
    let unit = file.strip_prefix("/etc/systemd/system/").and_then(|path| path.rsplit('/').next());
    // Stopped now, it might take the VFs of VMs that run away; and what else it makes is to stay.
    let mend = match unit.filter(|_| !made.mixed) {
        Some(unit) => {
            format!("systemctl disable {}; from the next boot on that holds", quoted(unit))
        }
        None => made.mend(file),
    };
    let found = format!("{file} makes VFs beside gpuslice");
    Some(Finding::warning(Check::SriovUnit, found, mend))
}

/// Mappings of Proxmox VE that name what is not there on this node: each guest with one fails at its start.
fn mappings(host: &Host) -> Vec<Finding> {
    let Some((node, mappings)) = &host.mappings else { return Vec::new() };
    let finding = |id: &String, entry: &Entry| {
        let mut path = entry.path().into_iter().enumerate();
        let wrong = path.find_map(|(at, address)| stale(host, entry, &address, at == 0))?;
        // VFs that are to be there come first, or their mapping would lose them.
        let first = if wrong.ends_with(IS_NOT) { "gpuslice apply; " } else { "" };
        let text = format!("the mapping {id} of Proxmox VE says that {wrong}");
        let mend = format!(
            "{first}gpuslice export proxmox | sh, if {id} is one of its mappings; else correct it in Datacenter, Resource Mappings"
        );
        Some(Finding::error(Check::MappingStale, text, mend))
    };
    let stale = mappings.iter().filter_map(|mapping| {
        let mut here = mapping.entries.iter().filter(|entry| entry.is_on(node));
        here.find_map(|entry| finding(&mapping.id, entry))
    });
    stale.collect()
}

/// How it is said that a mapping's device is missing.
const IS_NOT: &str = "which it is not";

/// How a device differs from what a mapping says of it, as Proxmox VE compares it (pve-guest-common, `assert_valid`): word by
/// word, and of a mapping that lacks a word it starts no guest either. The group is its first function's; a device that is
/// named without a function is meant as a whole, and known by function 0.
fn stale(host: &Host, entry: &Entry, address: &str, first: bool) -> Option<String> {
    // Nothing can be said where no device is seen at all.
    host.devices.first()?;
    let whole = if address.contains('.') { address.to_owned() } else { format!("{address}.0") };
    let Some(device) = host.devices.iter().find(|device| device.address == whole) else {
        return Some(format!("{address} is there, {IS_NOT}"));
    };
    let id = |(vendor, device): (u16, u16)| format!("{vendor:04x}:{device:04x}");
    let is = [
        ("id", "", Some(id((device.vendor, device.device)))),
        ("subsystem-id", "of subsystem ", device.subsystem.map(id)),
        ("iommugroup", "in IOMMU group ", device.group.clone().filter(|_| first)),
    ];
    is.into_iter().find_map(|(key, what, is)| {
        let is = is?;
        match entry.keys.get(key) {
            Some(said) if *said == is => None,
            Some(said) => Some(format!("{address} is {what}{said}, and it is {what}{is}")),
            None => Some(format!("{address} is no matter which {key}, and it has to say {is}")),
        }
    })
}

/// NVIDIA's tool makes VFs of a GPU only while nobody has that one open.
fn watched(host: &Host) -> Option<Finding> {
    let kept_back = |gpu: &Device| {
        let of = |vf: &&Device| vf.pf.as_ref() == Some(&gpu.address);
        let mut vfs = host.devices.iter().filter(of);
        vfs.any(|vf| vf.driver.is_none() || host.kept_back.contains(&vf.address))
    };
    let lacks = |gpu: &Device| match gpu.vfs {
        0 => "it has no VFs yet",
        _ => "VFs of it that are kept back are not made anew",
    };
    let waits = |gpu: &&Device| {
        gpu.is_gpu()
            && gpu.driver.as_deref() == Some("nvidia")
            && gpu.total_vfs.unwrap_or(0) > 0
            && (gpu.vfs == 0 || kept_back(gpu))
            && !gpu.mdevs
            && host.wants_vfs(gpu)
    };
    let mut waiting = host.devices.iter().filter(waits).filter(|_| host.sriov_manage);
    let Some(name) = host.watchers.first() else {
        let opened = |gpu: &Device| {
            let holder = host.openers.get(&gpu.address)?.first()?;
            let (comm, pid) = (&holder.comm, holder.pid);
            let lacks = lacks(gpu);
            let text = format!("{comm} (process {pid}) has GPU {} open, and {lacks}", gpu.address);
            let mend = format!("{}; gpuslice apply", end_process(holder).as_str());
            Some(Finding::warning(Check::GpuWatched, text, mend))
        };
        return waiting.find_map(opened);
    };
    let gpu = waiting.next()?;
    let text = format!("{name} has GPU {} open, and {}", gpu.address, lacks(gpu));
    let mend = if name == "nv-hostengine" {
        "systemctl stop nvidia-dcgm; gpuslice apply; systemctl start nvidia-dcgm".to_owned()
    } else {
        format!("stop {name}, be it a unit or a container; gpuslice apply; start it again")
    };
    Some(Finding::warning(Check::GpuWatched, text, mend))
}
