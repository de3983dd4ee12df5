//! What of the host keeps its GPUs from being sliced, or its VMs from being given a slice.

use super::check::{Check, Finding, Severity};
use super::facts::Host;
use super::intel::{self, INTEL, INTEL_DKMS};
use super::kernel_facts::NO_MODESET;
use super::pci::Device;
use gpuslice_core::mend::{end_process, give_back, let_go};
use gpuslice_core::observation::is_vfio;
use gpuslice_vendors::makers::{Maker, maker};
use std::collections::BTreeMap;

/// How functions come into groups of their own.
pub const ANOTHER_SLOT: &str =
    "switch ACS and ARI on in the firmware, or put the GPU into another slot; reboot";

/// All findings, those first that make others.
pub fn check(host: &Host) -> Vec<Finding> {
    let mut found = Vec::new();
    found.extend(iommu(host));
    for gpu in host.devices.iter().filter(|device| device.is_gpu()) {
        if let Some(maker) = maker(gpu.vendor, gpu.device) {
            found.extend(sliceable(host, gpu, &maker));
        } else {
            found.extend(intel::unasked(host, gpu));
        }
        found.extend(vfs(host, gpu));
        found.extend(vgpu_types(host, gpu));
    }
    found.extend(host.devices.iter().filter_map(|device| makes_no_vfs(host, device)));
    found.extend(vgpu_manager(host));
    found.extend(groups(host));
    found
}

/// GPUs that VMs could be given as functions.
fn passable(host: &Host) -> impl Iterator<Item = &Device> {
    host.devices.iter().filter(|device| device.is_sliced())
}

fn iommu(host: &Host) -> Option<Finding> {
    if host.iommu {
        return ungrouped(host);
    }
    // Mediated devices of a GPU itself are kept apart by its driver.
    let gpu = passable(host).filter(|gpu| !gpu.mdevs).min_by_key(|gpu| host.serves_host(gpu))?;
    let off = host.arguments.iter().find(|argument| {
        // `igfx_off` and `sm_off` switch off less.
        let is_off = |to: &str| to.split(',').any(|word| word == "off");
        let switched = |name: &str| argument.strip_prefix(name).is_some_and(is_off);
        ["iommu=", "intel_iommu=", "amd_iommu="].into_iter().any(switched)
    });
    let mend = match off {
        Some(argument) => host.system.take_argument(argument),
        None if host.intel && !asks_for_iommu(host) => host.system.add_argument("intel_iommu=on"),
        None if host.is_guest => {
            "on the host of this VM: virsh edit it, <iommu model='intel'/> in <devices>".to_owned()
        }
        None if host.intel => "switch VT-d on in the firmware, and reboot".to_owned(),
        None => "switch the IOMMU (AMD-Vi) on in the firmware, and reboot".to_owned(),
    };
    let found = format!("there are no IOMMU groups, and GPU {} needs one", gpu.address);
    Some(host.weighed(gpu, Finding::error(Check::IommuOff, found, mend)))
}

fn asks_for_iommu(host: &Host) -> bool {
    host.arguments.iter().any(|argument| argument.starts_with("intel_iommu=on"))
}

/// A VF, or a GPU that is to have some, that the IOMMU leaves out while it has others: an integrated GPU, by an argument or as
/// Debian's kernel does without one.
fn ungrouped(host: &Host) -> Option<Finding> {
    let is_vf = |device: &Device| {
        let of = host.devices.iter().find(|pf| device.pf.as_ref() == Some(&pf.address));
        of.is_some_and(Device::is_gpu)
    };
    let wanted = |device: &Device| is_vf(device) || device.is_gpu() && host.wants_vfs(device);
    let is_out = |d: &&Device| d.group.is_none() && !d.mdevs && wanted(d);
    let device = host.devices.iter().find(is_out)?;
    let told = host.arguments.iter().find_map(|argument| {
        let list = argument.strip_prefix("intel_iommu=")?;
        let off = list.split(',').find(|word| matches!(*word, "igfx_off" | "intgpu_off"))?;
        Some((argument, off))
    });
    let mend = match told {
        Some((argument, off)) => host.system.take_from_argument(argument, off),
        None if host.intel && !asks_for_iommu(host) => host.system.add_argument("intel_iommu=on"),
        None => "update the firmware, whose tables may leave it out; journalctl -k -g 'DMAR|AMD-Vi' says more".to_owned(),
    };
    let text = format!("{} has no IOMMU group, while others have theirs", device.address);
    Some(host.weighed(device, Finding::error(Check::IommuOff, text, mend)))
}

/// A GPU that is known to be sliced by a driver.
fn sliceable(host: &Host, gpu: &Device, maker: &Maker) -> Vec<Finding> {
    let address = &gpu.address;
    // Somebody passes it as a whole.
    if gpu.driver.is_some() && gpu.used_by_host().is_none() {
        return Vec::new();
    }
    let mut found = Vec::new();
    if maker.sriov && gpu.total_vfs.unwrap_or(0) == 0 {
        found.extend(sriov_off(host, gpu));
    }
    match &gpu.driver {
        None => found.push(without_driver(host, gpu, maker)),
        Some(driver) if Some(driver.as_str()) == maker.rival => {
            let text = format!("GPU {address} is on {driver}; {} makes its slices", maker.name);
            let mend = format!(
                "echo blacklist {driver} > /etc/modprobe.d/{driver}-off.conf; {}",
                host.system.at_next_boot()
            );
            found.push(Finding::error(Check::DriverInTheWay, text, mend));
            found.extend(unsigned(host, gpu, maker, "is to be loaded"));
        }
        Some(driver) if driver == "nvidia" && !host.sriov_manage => {
            let text = format!(
                "GPU {address} is on nvidia, but /usr/lib/nvidia/sriov-manage is not there"
            );
            let mend = "remove the driver and install NVIDIA's vGPU host driver (vgpu-kvm); reboot";
            found.push(Finding::error(Check::VgpuDriverMissing, text, mend));
        }
        Some(_) => {}
    }
    let mut found: Vec<_> = found.into_iter().map(|f| host.weighed(gpu, f)).collect();
    found.extend(taken_at_boot(host, gpu));
    found
}

/// A GPU that has SR-IOV, and shows none of it or says that there are no VFs.
pub fn sriov_off(host: &Host, gpu: &Device) -> Option<Finding> {
    let what = gpu.total_vfs.map_or("has no sriov_totalvfs", |_| "says sriov_totalvfs 0");
    let mend = match (gpu.total_vfs, gpu.driver.as_deref()) {
        (Some(_), Some(driver @ ("i915" | "xe"))) => intel::says_more(host, gpu, driver)?,
        _ => "switch SR-IOV on in the firmware, and boot the machine cold".to_owned(),
    };
    let text = format!("GPU {} has SR-IOV and {what}", gpu.address);
    Some(Finding::error(Check::SriovOff, text, mend))
}

/// vfio-pci was told to take a GPU by its ids.
fn taken_at_boot(host: &Host, gpu: &Device) -> Option<Finding> {
    let told = host.vfio_ids.iter().find(|(v, d, _)| (*v, *d) == (gpu.vendor, gpu.device));
    let (vendor, device, place) = told?;
    let id = format!("{vendor:04x}:{device:04x}");
    let text = format!("vfio-pci takes GPU {} at boot, by ids={id}", gpu.address);
    let mend = if place.starts_with('/') {
        format!("take {id} out of vfio-pci's ids in {place}; {}", host.system.at_next_boot())
    } else {
        host.system.take_from_argument(place, &id)
    };
    Some(Finding::warning(Check::VfioIds, text, mend))
}

/// A driver that makes no VFs has what VFs are wanted of: `sriov_numvfs` is there, and writing it fails.
fn makes_no_vfs(host: &Host, pf: &Device) -> Option<Finding> {
    let driver = pf.driver.as_deref()?;
    let address = &pf.address;
    if pf.total_vfs.unwrap_or(0) == 0 || pf.vfs > 0 || pf.mdevs {
        return None;
    }
    if driver == "i915" {
        return intel::makes_no_vfs(host, pf);
    }
    if !is_vfio(driver) || host.vfio_makes_vfs || !host.laid_out.contains(address) {
        return None;
    }
    if let Some(found) = taken_at_boot(host, pf) {
        return Some(Finding { severity: Severity::Error, ..found });
    }
    let text = format!("{address} is on {driver}, which makes no VFs, and has a layout with some");
    let told = host.driverctl.iter().any(|(of, to)| of == address && to == driver);
    let back = if told {
        format!("driverctl unset-override {address}")
    } else {
        give_back(address, driver)
    };
    // It would be taken from a VM that runs.
    let holders = host.passed_to.get(address);
    if let Some(holder) = holders.and_then(|holders| holders.found.first()) {
        let text = format!("{text}; {} (process {}) has it open", holder.comm, holder.pid);
        let mend = format!("{}; {back}", end_process(holder).as_str());
        return Some(Finding::error(Check::DriverInTheWay, text, mend));
    }
    let mend = match holders {
        Some(holders) if !holders.held() => back,
        _ => format!("when no process has it open, as root sees: {back}"),
    };
    Some(Finding::error(Check::DriverInTheWay, text, mend))
}

/// DKMS built the driver, and Secure Boot has the kernel take signed modules alone.
fn unsigned(host: &Host, gpu: &Device, maker: &Maker, what: &str) -> Option<Finding> {
    let mode = host.lockdown.as_ref()?;
    let (driver, key) = (maker.driver, host.signing_key);
    if maker.package.is_none() || !host.has_built(driver) {
        return None;
    }
    let text = format!(
        "lockdown is {mode}, and {driver}, which was built here, {what} for GPU {}",
        gpu.address
    );
    let mend = format!(
        "mokutil --import {key}, and enrol it at the next boot, unless mokutil --test-key {key} says that it is"
    );
    Some(Finding::warning(Check::Lockdown, text, mend))
}

/// Why it has none: the first that holds.
pub fn without_driver(host: &Host, gpu: &Device, maker: &Maker) -> Finding {
    let (address, driver) = (&gpu.address, maker.driver);
    let built = host.has_built(driver);
    if let Some(package) = maker.package.filter(|package| !built && host.dkms.has(package)) {
        let lead = format!("GPU {address} has no driver");
        return is_not_built(host, &lead, package, &format!("modprobe {driver}"));
    }
    let on_screens = gpu.vendor == INTEL;
    let screens = host.arguments.iter().find(|a| *a == NO_MODESET && on_screens);
    if let Some(argument) = screens {
        let text = format!("GPU {address} has no driver: the kernel was started with {argument}");
        let mend = host.system.take_argument(argument);
        return Finding::error(Check::DriverSwitchedOff, text, mend);
    }
    if let Some((name, place)) = host.switched_off.iter().find(|(name, _)| name == driver) {
        let text = format!("GPU {address} has no driver: {place} keeps {name} away");
        let mend = if place.starts_with('/') {
            format!("take {name} out of {place}; {}", host.system.at_next_boot())
        } else {
            host.system.take_argument(place)
        };
        return Finding::error(Check::DriverSwitchedOff, text, mend);
    }
    if driver == "nvidia" && host.has_driver(driver) {
        let text = format!("GPU {address} has no driver, though {driver} is loaded");
        let mend = format!("echo {address} > /sys/bus/pci/drivers/{driver}/bind");
        return Finding::error(Check::DriverUnbound, text, mend);
    }
    // The daemon loads GIM, as a layout says how; whoever has none yet is only told.
    if driver == "gim" && built {
        if let Some(found) = unsigned(host, gpu, maker, "is not loaded") {
            return found;
        }
        let laid_out = host.laid_out.contains(address);
        let first =
            if laid_out { "" } else { "write a layout for it in /etc/gpuslice/gpuslice.toml; " };
        let text = format!("GPU {address} has no driver: gim is built and not loaded");
        return Finding::warning(Check::DriverMissing, text, format!("{first}gpuslice apply"));
    }
    if let Some(found) = unsigned(host, gpu, maker, "is not loaded") {
        return Finding { severity: Severity::Error, ..found };
    }
    let text = format!("GPU {address} has no driver; {} makes its slices", maker.name);
    let mend = match built {
        _ if gpu.vendor == INTEL => intel::comes(host, maker),
        true => format!("modprobe {driver}"),
        false => format!("install {}, then modprobe {driver}", maker.name),
    };
    Finding::error(Check::DriverMissing, text, mend)
}

/// Sources that DKMS has and has not built; how the module is loaded then comes last.
pub fn is_not_built(host: &Host, lead: &str, package: &str, last: &str) -> Finding {
    let kernel = &host.dkms.kernel;
    let text = format!("{lead}; {package} is not built for {kernel}");
    let headers = host.system.headers(kernel);
    Finding::error(Check::DriverNotBuilt, text, format!("{headers}; dkms autoinstall; {last}"))
}

/// VFs that could be vGPUs and offer no types.
fn vgpu_types(host: &Host, gpu: &Device) -> Option<Finding> {
    let nvidia = gpu.driver.as_deref() == Some("nvidia") && host.sriov_manage && !gpu.mdevs;
    if !nvidia || host.vgpu_manager == Some(false) {
        return None;
    }
    let mut vfs = host.devices.iter().filter(|vf| vf.pf.as_ref() == Some(&gpu.address)).peekable();
    let is_none = |vf: &Device| !vf.typed && !vf.mdevs;
    if vfs.peek().is_none() || !vfs.all(is_none) {
        return None;
    }
    let address = &gpu.address;
    let text = format!("the VFs of GPU {address} offer no vGPU types");
    let mend = if host.vgpu_vfio {
        format!(
            "with no VM on them: /usr/lib/nvidia/sriov-manage -d {address}; /usr/lib/nvidia/sriov-manage -e {address}"
        )
    } else {
        "modprobe nvidia-vgpu-vfio; if that fails, install the vGPU release that goes with this kernel".to_owned()
    };
    Some(Finding::error(Check::VgpuNoTypes, text, mend))
}

/// What serves each vGPU of NVIDIA's.
fn vgpu_manager(host: &Host) -> Option<Finding> {
    let on = |device: &&Device| device.is_gpu() && device.driver.as_deref() == Some("nvidia");
    let gpu = host.devices.iter().find(on).filter(|_| host.sriov_manage)?;
    if host.vgpu_manager != Some(false) {
        return None;
    }
    let text =
        format!("GPU {} is on the vGPU host driver, and nvidia-vgpu-mgr does not run", gpu.address);
    let mend = "systemctl enable --now nvidia-vgpud nvidia-vgpu-mgr";
    Some(Finding::error(Check::VgpuManagerOff, text, mend))
}

/// Whether VFs could be made, but for their BARs: without those, an i915 that makes VFs says that there are none.
fn possible(gpu: &Device) -> bool {
    match gpu.total_vfs {
        Some(0) => gpu.driver.as_deref() == Some("i915"),
        total => total.is_some(),
    }
}

/// What a GPU shows of its VFs.
fn vfs(host: &Host, gpu: &Device) -> Vec<Finding> {
    let address = &gpu.address;
    let mut found = Vec::new();
    // VFs that are there have what they need, and a GPU with mediated devices of its own needs none.
    let lacks = possible(gpu) && gpu.vfs == 0 && !gpu.mdevs;
    // Many an integrated GPU has no room for VFs of which nobody wants any.
    let dkms = gpu.vendor == INTEL && host.dkms.has(INTEL_DKMS);
    if lacks && gpu.no_vf_bars && (host.wants_vfs(gpu) || dkms) {
        let text = format!("GPU {address} has no address space for its VFs");
        let mend = format!(
            "switch \"Above 4G decoding\" on in the firmware, or {}",
            host.system.add_argument("pci=realloc")
        );
        let bars = Finding::error(Check::VfBars, text, mend);
        found.push(if dkms { bars } else { host.weighed(gpu, bars) });
    }
    // NVIDIA's VFs are its own driver's, also those that offer nothing: taken off it they offer less.
    let vendors = |vf: &Device| gpu.driver.as_deref() == Some("nvidia") && vf.driver == gpu.driver;
    let of_it = host.devices.iter().filter(|vf| vf.pf.as_ref() == Some(address) && !vendors(vf));
    let taken: Vec<_> = of_it.filter_map(|vf| Some((&vf.address, vf.used_by_host()?))).collect();
    if let Some(((vf, driver), others)) = taken.split_first().filter(|_| gpu.autoprobe) {
        let more = match others.len() {
            0 => String::new(),
            more => format!(", and {more} more,"),
        };
        let text = format!(
            "VF {vf}{more} of GPU {address} was taken by {driver}, as sriov_drivers_autoprobe is 1"
        );
        let unbound = taken.iter().map(|(vf, driver)| format!("; {}", let_go(vf, driver).as_str()));
        let mend = format!(
            "echo 0 > /sys/bus/pci/devices/{address}/sriov_drivers_autoprobe{}; for good, write a layout for {address} in /etc/gpuslice/gpuslice.toml",
            unbound.collect::<String>()
        );
        found.push(Finding::error(Check::AutoprobeOn, text, mend));
    }
    found
}

/// Groups in which a GPU's VF is not alone.
fn groups(host: &Host) -> Vec<Finding> {
    let mut members: BTreeMap<&str, Vec<&Device>> = BTreeMap::new();
    for device in &host.devices {
        if let Some(group) = &device.group {
            members.entry(group).or_default().push(device);
        }
    }
    let gpus_vf = |device: &&&Device| {
        let of = host.devices.iter().find(|pf| device.pf.as_ref() == Some(&pf.address));
        of.is_some_and(Device::is_gpu)
    };
    let finding = |(group, members): (&str, Vec<&Device>)| {
        let vf = members.iter().find(gpus_vf)?;
        let others = members.iter().filter(|d| d.address != vf.address && !d.is_bridge());
        let (other, driver) = others.filter_map(|d| Some((d, d.used_by_host()?))).next()?;
        let text = format!(
            "IOMMU group {group} holds VF {} and {}, which the host uses through {driver}",
            vf.address, other.address
        );
        Some(Finding::error(Check::GroupNotViable, text, ANOTHER_SLOT))
    };
    members.into_iter().filter_map(finding).collect()
}
