//! What of a VM keeps it from a slice, or from using it. A VM that neither asks for one nor carries a device has none
//! of this.

use super::check::{Check, Finding};
use super::facts::Host;
use super::guest_facts::Guest;
use super::host::ANOTHER_SLOT;
use super::pci::Device;
use gpuslice_core::domain::{Domain, HostDevice, HostDeviceSource};
use gpuslice_core::ids::MdevUuid;
use gpuslice_core::shell::quoted;

/// What UEFI firmware keeps for 64-bit BARs by itself (edk2, OvmfPkg: PcdPciMmio64Size).
const UEFI_WINDOW: u64 = 32 << 30;

/// Beyond the VM's memory, in KiB: what libvirt adds for devices (qemuDomainGetMemLockLimitBytes).
const LOCKED_BESIDE: u64 = 1 << 20;

/// All findings.
pub fn check(guest: &Guest, host: &Host) -> Vec<Finding> {
    let name = &quoted(&guest.name);
    let domain = match &guest.domain {
        Ok(domain) => domain,
        Err(why) => {
            return vec![Finding::error(
                Check::GuestXml,
                why.clone(),
                format!("virsh edit {name}"),
            )];
        }
    };
    let mut found = Vec::new();
    if guest.behind_libvirt {
        let text = format!("{name} is given a device of VFIO's by <qemu:commandline>");
        let mend = format!(
            "virsh edit {name}: take the vfio-pci argument out of <qemu:commandline>; then gpuslice attach {name} PROFILE"
        );
        found.push(Finding::warning(Check::GuestCommandLine, text, mend));
    }
    if domain.claims.is_empty() && domain.devices.is_empty() {
        return found;
    }
    let is_gpu = |(_, function): (_, &Device)| {
        let of = host.devices.iter().find(|pf| function.pf.as_ref() == Some(&pf.address));
        of.unwrap_or(function).is_gpu()
    };
    // GVT-g's devices, and network cards, do without.
    let needs_express = !domain.claims.is_empty() || functions(domain, host).any(is_gpu);
    let conventional = guest.machine.starts_with("pc-i440fx") || guest.machine == "pc";
    if conventional && needs_express {
        let text = format!("{name} is of machine type {}, which has no PCI Express", guest.machine);
        let mend = "define it anew with machine type q35, as virt-install --machine q35 does";
        found.push(Finding::warning(Check::GuestMachine, text, mend));
    } else if guest.machine.contains("q35") && guest.free_ports == Some(0) {
        let text = format!("{name} has no free pcie-root-port");
        let mend = format!(
            "virsh edit {name}, add <controller type='pci' model='pcie-root-port'/> for each device to come"
        );
        found.push(Finding::warning(Check::GuestNoFreePort, text, mend));
    }
    found.extend(domain.devices.iter().filter_map(|device| gone(guest, domain, host, device)));
    found.extend(window(guest, domain, host));
    found.extend(hard_limit(guest, domain));
    found.extend(
        functions(domain, host)
            .filter_map(|(device, function)| judge(host, name, device, function)),
    );
    found.extend(groups(domain, host, name));
    found
}

/// Groups of which the VM carries a function and the host uses another: no function of such a group goes to a VM.
fn groups(domain: &Domain, host: &Host, name: &str) -> Vec<Finding> {
    let carried: Vec<&Device> = functions(domain, host).map(|(_, function)| function).collect();
    let carries = |device: &Device| carried.iter().any(|own| own.address == device.address);
    let finding = |device: &Device| {
        let first = carried.iter().find(|own| own.group.is_some() && own.group == device.group)?;
        let (driver, group) = (device.used_by_host()?, device.group.as_ref()?);
        if device.is_bridge() || carries(device) {
            return None;
        }
        let address = &device.address;
        let text = format!(
            "IOMMU group {group} holds {}, which {name} carries, and {address}, which the host uses through {driver}",
            first.address
        );
        let slot = |address: &str| address.rsplit_once('.').map(|(slot, _)| slot.to_owned());
        let mend = if slot(&first.address) == slot(address) {
            format!("virsh edit {name}: one more <hostdev>, for {address}, with managed='yes'")
        } else {
            ANOTHER_SLOT.to_owned()
        };
        Some(Finding::error(Check::GroupNotViable, text, mend))
    };
    host.devices.iter().filter_map(finding).collect()
}

/// Functions of the host that the VM carries.
fn functions<'a>(
    domain: &'a Domain,
    host: &'a Host,
) -> impl Iterator<Item = (&'a HostDevice, &'a Device)> {
    domain.devices.iter().filter_map(|device| match device.source {
        HostDeviceSource::Pci(address) => {
            let address = address.to_string();
            let function = host.devices.iter().find(|function| function.address == address)?;
            Some((device, function))
        }
        HostDeviceSource::Mdev(_) => None,
    })
}

/// A device that the VM carries, that is not there, and that nobody makes for it at its start.
fn gone(guest: &Guest, domain: &Domain, host: &Host, device: &HostDevice) -> Option<Finding> {
    let name = &quoted(&guest.name);
    // A hook of somebody's may make it, and then names it, or how such a device is made.
    let made_by_hook = |words: &[&str]| {
        let of_it = format!("/qemu.d/{}/", guest.name);
        let called = host.dispatched.iter().filter(|script| script.file.contains(&of_it));
        let mut hooks = host.other_hooks.iter().chain(called);
        hooks.any(|hook| words.iter().any(|word| hook.text.contains(word)))
    };
    let attach =
        format!("take its hostdev out with virsh edit {name}; then gpuslice attach {name} PROFILE");
    let (what, mend) = match device.source {
        HostDeviceSource::Pci(address) => {
            let address = address.to_string();
            let is_there = host.devices.iter().any(|function| function.address == address);
            let by_libvirt = format!("pci_{}", address.replace([':', '.'], "_"));
            let made = || {
                let short = address.strip_prefix("0000:").unwrap_or(&address);
                made_by_hook(&[short, &by_libvirt, "sriov_numvfs", "sriov-manage"])
            };
            if host.devices.is_empty() || is_there || made() {
                return None;
            }
            let mend = if device.our_claim().is_some() {
                format!("gpuslice apply; then gpuslice explain {name}")
            } else if host.devices.iter().any(|gpu| is_beside(gpu, &address)) {
                attach
            } else {
                format!(
                    "virsh edit {name}: take its hostdev out, or write the address that lspci -D shows"
                )
            };
            (format!("PCI function {address}"), mend)
        }
        HostDeviceSource::Mdev(uuid) => {
            let key = uuid.to_string().to_lowercase();
            let of_claim = domain.claims.iter().any(|claim| {
                (0..claim.count).any(|i| MdevUuid::for_claim(domain.uuid, &claim.name, i) == uuid)
            });
            let comes = of_claim || uuid.is_parked() || device.our_claim().is_some();
            if comes || host.mdevs.contains(&key) || made_by_hook(&[&key, "mdev"]) {
                return None;
            }
            let known = host.mdevctl_known.contains(&key);
            let mend = if known { format!("mdevctl start -u {key}") } else { attach };
            (format!("mediated device {key}"), mend)
        }
    };
    let text = format!("{name} carries {what}, which is not there");
    // What a claim has, no hook of somebody's makes; anything else it may, in a way that is not understood.
    let hook = host.other_hooks.first().filter(|_| device.our_claim().is_none());
    Some(match hook {
        Some(hook) => {
            let text = format!("{text}, unless the hook {} makes it", hook.file);
            Finding::warning(Check::GuestDeviceGone, text, mend)
        }
        None => Finding::error(Check::GuestDeviceGone, text, mend),
    })
}

/// Whether an address is where a GPU's VFs are: on its bus, and on the root bus, which has much else, in its slot.
fn is_beside(gpu: &Device, address: &str) -> bool {
    let bus = |address: &str| address.rsplit_once(':').map(|(bus, _)| bus.to_owned());
    let slot = |address: &str| address.rsplit_once('.').map(|(slot, _)| slot.to_owned());
    let on_root = gpu.address.contains(":00:");
    let place = if on_root { slot(&gpu.address) } else { bus(&gpu.address) };
    gpu.is_sliced() && place == if on_root { slot(address) } else { bus(address) }
}

fn window(guest: &Guest, domain: &Domain, host: &Host) -> Option<Finding> {
    let bars: u64 = functions(domain, host).map(|(_, function)| function.bars).sum();
    if !guest.uefi || guest.wide || bars <= UEFI_WINDOW {
        return None;
    }
    let name = &quoted(&guest.name);
    let text = format!("{name} boots with UEFI and carries BARs of {} GiB", bars >> 30);
    let mend = format!(
        "virsh edit {name}: <cpu mode='host-passthrough'><maxphysaddr mode='passthrough'/></cpu>"
    );
    Some(Finding::error(Check::GuestUefiWindow, text, mend))
}

fn hard_limit(guest: &Guest, domain: &Domain) -> Option<Finding> {
    let (limit, memory) = guest.hard_limit.zip(guest.memory)?;
    // Behind an IOMMU of the VM's own each device has the memory mapped, and counted, for itself.
    let times = if guest.viommu { domain.devices.len().max(1) } else { 1 };
    let times = u64::try_from(times).unwrap_or(u64::MAX);
    if limit >= memory.saturating_mul(times).saturating_add(LOCKED_BESIDE) {
        return None;
    }
    let name = &quoted(&guest.name);
    let text = format!("{name} has {} MiB and may lock {} MiB", memory >> 10, limit >> 10);
    let mend = format!("virsh memtune {name} --hard-limit -1 --config");
    Some(Finding::error(Check::GuestHardLimit, text, mend))
}

/// A function whose driver must not be taken from it.
fn judge(host: &Host, name: &str, device: &HostDevice, function: &Device) -> Option<Finding> {
    let address = &function.address;
    if function.typed && device.managed {
        let text = format!("{name} would take VF {address} from its driver by managed='yes'");
        let mend = match device.our_claim() {
            Some(_) => format!("virsh edit {name}: managed='no' in the hostdev of {address}"),
            // It would have no type.
            None => instead(name),
        };
        return Some(Finding::error(Check::GuestManaged, text, mend));
    }
    let of = host.devices.iter().find(|pf| function.pf.as_ref() == Some(&pf.address));
    let takes_back = |pf: &&Device| {
        let driver = pf.driver.as_deref();
        pf.is_gpu() && pf.autoprobe && matches!(driver, Some("i915" | "xe" | "amdgpu"))
    };
    if let Some(pf) = of.filter(takes_back).filter(|_| device.managed) {
        let driver = pf.driver.as_deref().unwrap_or_default();
        let text =
            format!("after {name}, {driver} of the host takes VF {address} by managed='yes'");
        let mend = format!("echo 0 > /sys/bus/pci/devices/{}/sriov_drivers_autoprobe", pf.address);
        return Some(Finding::warning(Check::GuestManaged, text, mend));
    }
    let what = match function {
        gpu if !gpu.is_gpu() => return None,
        gpu if gpu.vfs > 0 => "VFs",
        gpu if gpu.has_mdevs => "mediated devices",
        _ => return None,
    };
    let text = format!("{name} takes GPU {address} as a whole, which has {what}");
    Some(Finding::error(Check::GuestTakesPf, text, instead(name)))
}

/// What a VM is given in place of a device that was picked for it.
fn instead(name: &str) -> String {
    format!("take its hostdev out with virsh edit {name}; then gpuslice attach {name} PROFILE")
}
