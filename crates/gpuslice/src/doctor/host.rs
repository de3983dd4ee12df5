//! What of the host keeps its GPUs from being sliced, or its VMs from being given a slice.

use super::check::{Check, Finding};
use super::facts::{Dkms, Host, Libvirt, Service};
use super::gather::HOOK;
use super::pci::Device;
use gpuslice_vendors::makers::{Maker, maker};
use std::collections::BTreeMap;

/// libvirt reads `qemu.d` since then.
const FIRST_WITH_FOLDER: Libvirt = Libvirt(6, 5, 0);

/// It takes an unmanaged function on any driver with a VFIO device since then.
const FIRST_WITH_VENDOR_VFIO: Libvirt = Libvirt(9, 7, 0);

/// All findings, those first that make others.
pub fn check(host: &Host) -> Vec<Finding> {
    let mut found = Vec::new();
    found.extend(iommu(host));
    for gpu in host.devices.iter().filter(|device| device.is_gpu()) {
        if let Some(maker) = maker(gpu.vendor, gpu.device) {
            found.extend(sliceable(host, gpu, &maker));
        }
        found.extend(vfs(host, gpu));
    }
    found.extend(vgpu_manager(host));
    found.extend(groups(host));
    found.extend(lockdown(host));
    if let Some(version) = host.libvirt {
        found.extend(libvirt(host, version));
        found.extend(hook(host));
        found.extend(host.hooks_with_virsh.iter().map(|file| {
            let text = format!("the hook {file} calls virsh, which waits for the hook");
            let mend = format!("take the calls of virsh out of {file}");
            Finding::warning(Check::HookCallsVirsh, text, mend)
        }));
    }
    found.extend(host.services.iter().filter_map(memlock));
    found
}

/// GPUs that VMs could be given as functions.
fn passable(host: &Host) -> impl Iterator<Item = &Device> {
    host.devices.iter().filter(|device| device.is_sliced())
}

fn iommu(host: &Host) -> Option<Finding> {
    if host.iommu {
        return None;
    }
    let gpu = passable(host).next()?;
    let off = host.arguments.iter().find(|argument| {
        let switched =
            |name: &str| argument.strip_prefix(name).is_some_and(|to| to.contains("off"));
        ["iommu=", "intel_iommu=", "amd_iommu="].into_iter().any(switched)
    });
    let asked = host.arguments.iter().any(|a| a.starts_with("intel_iommu=on"));
    let mend = match off {
        Some(argument) => {
            format!(
                "take {argument} out of GRUB_CMDLINE_LINUX in /etc/default/grub; update-grub; reboot"
            )
        }
        None if host.intel && !asked => {
            "add intel_iommu=on to GRUB_CMDLINE_LINUX in /etc/default/grub; update-grub; reboot"
                .to_owned()
        }
        None if host.intel => "switch VT-d on in the firmware, and reboot".to_owned(),
        None => "switch the IOMMU (AMD-Vi) on in the firmware, and reboot".to_owned(),
    };
    let found = format!("there are no IOMMU groups, and GPU {} needs one", gpu.address);
    Some(Finding::error(Check::IommuOff, found, mend))
}

/// A GPU that is known to have SR-IOV.
fn sliceable(host: &Host, gpu: &Device, maker: &Maker) -> Vec<Finding> {
    let address = &gpu.address;
    // Somebody passes it as a whole.
    if gpu.driver.is_some() && gpu.used_by_host().is_none() {
        return Vec::new();
    }
    let mut found = Vec::new();
    if gpu.total_vfs.unwrap_or(0) == 0 {
        let what = gpu.total_vfs.map_or("has no sriov_totalvfs", |_| "says sriov_totalvfs 0");
        let mend = if maker.driver == "xe" && gpu.total_vfs.is_some() {
            "add i915.max_vfs=7 (or xe.max_vfs=7) to GRUB_CMDLINE_LINUX in /etc/default/grub; update-grub; reboot"
        } else {
            "switch SR-IOV on in the firmware, and boot the machine cold"
        };
        let text = format!("GPU {address} has SR-IOV and {what}");
        found.push(Finding::error(Check::SriovOff, text, mend));
    }
    match &gpu.driver {
        None if not_built(host, maker.driver).is_some() => {
            let Dkms { kernel, .. } = &host.dkms;
            let name = not_built(host, maker.driver).unwrap_or_default();
            let text = format!("GPU {address} has no driver; {name} is not built for {kernel}");
            let mend = format!(
                "apt install linux-headers-{kernel}; dkms autoinstall; modprobe {}",
                maker.driver
            );
            found.push(Finding::error(Check::DriverNotBuilt, text, mend));
        }
        None => {
            let text = format!("GPU {address} has no driver; {} makes its slices", maker.name);
            let mend = format!("install {}, then modprobe {}", maker.name, maker.driver);
            found.push(Finding::error(Check::DriverMissing, text, mend));
        }
        Some(driver) if Some(driver.as_str()) == maker.rival => {
            let text = format!("GPU {address} is on {driver}; {} makes its slices", maker.name);
            let mend = format!(
                "echo blacklist {driver} > /etc/modprobe.d/{driver}-off.conf; update-initramfs -u; reboot"
            );
            found.push(Finding::error(Check::DriverInTheWay, text, mend));
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
    let told = host.vfio_ids.iter().find(|(v, d, _)| (*v, *d) == (gpu.vendor, gpu.device));
    if let Some((vendor, device, place)) = told {
        let text =
            format!("vfio-pci takes GPU {address} at boot, by ids={vendor:04x}:{device:04x}");
        let mend = format!(
            "take {vendor:04x}:{device:04x} out of vfio-pci's ids in {place}; update-initramfs -u; reboot"
        );
        found.push(Finding::warning(Check::VfioIds, text, mend));
    }
    found
}

/// The package of DKMS that brings a driver and was not built for this kernel.
fn not_built<'a>(host: &'a Host, driver: &str) -> Option<&'a str> {
    let Dkms { sources, built, .. } = &host.dkms;
    // i915-sriov-dkms brings both of Intel's.
    let brings = |name: &&String| {
        name.as_str() == driver || driver == "xe" && name.as_str() == "i915-sriov-dkms"
    };
    let module = |file: &String| {
        let name = file.split('.').next().unwrap_or_default();
        name == driver || driver == "xe" && name == "i915"
    };
    let name = sources.iter().find(brings)?;
    (!built.iter().any(module)).then_some(name)
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

/// What a GPU shows of its VFs.
fn vfs(host: &Host, gpu: &Device) -> Vec<Finding> {
    let address = &gpu.address;
    let mut found = Vec::new();
    // VFs that are there have what they need, and a GPU with mediated devices of its own needs none.
    let wanted = gpu.total_vfs.unwrap_or(0) > 0 && gpu.vfs == 0 && !gpu.mdevs;
    if wanted && gpu.no_vf_bars {
        let text = format!("GPU {address} has no address space for its VFs");
        let mend = "switch \"Above 4G decoding\" on in the firmware, or add pci=realloc to the kernel's arguments; reboot";
        found.push(Finding::error(Check::VfBars, text, mend));
    }
    let mut taken = host.devices.iter().filter(|vf| vf.pf.as_ref() == Some(address));
    let taken = taken.find_map(|vf| Some((&vf.address, vf.used_by_host()?)));
    if let Some((vf, driver)) = taken.filter(|_| gpu.autoprobe) {
        let text = format!(
            "VF {vf} of GPU {address} was taken by {driver}, as sriov_drivers_autoprobe is 1"
        );
        let mend = format!(
            "echo 0 > /sys/bus/pci/devices/{address}/sriov_drivers_autoprobe; echo {vf} > /sys/bus/pci/drivers/{driver}/unbind"
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
        let mend =
            "switch ACS and ARI on in the firmware, or put the GPU into another slot; reboot";
        Some(Finding::error(Check::GroupNotViable, text, mend))
    };
    members.into_iter().filter_map(finding).collect()
}

fn lockdown(host: &Host) -> Option<Finding> {
    let mode = host.lockdown.as_ref()?;
    let bitten = passable(host).find_map(|gpu| {
        let known = maker(gpu.vendor, gpu.device);
        let rival = known.is_some_and(|m| gpu.driver.as_deref() == m.rival);
        if known.is_some_and(|m| m.unsigned) && (gpu.driver.is_none() || rival) {
            let name = known.map_or("", |m| m.driver);
            let mend =
                format!("mokutil --import the key that signs {name}, enrol it at the next boot");
            return Some((
                format!("the driver {name} of GPU {} is built here, unsigned", gpu.address),
                mend,
            ));
        }
        let dark = gpu.driver.as_deref() == Some("xe") && gpu.total_vfs.is_some() && !gpu.controls;
        dark.then(|| {
            let text =
                format!("xe shows the controls of GPU {}'s VFs in debugfs alone", gpu.address);
            (
                text,
                "take kernel 6.19 or newer, or switch Secure Boot off in the firmware".to_owned(),
            )
        })
    });
    let (text, mend) = bitten?;
    Some(Finding::warning(Check::Lockdown, format!("lockdown is {mode}, and {text}"), mend))
}

fn libvirt(host: &Host, version: Libvirt) -> Option<Finding> {
    let Libvirt(major, minor, micro) = version;
    let typed = host.devices.iter().find(|device| device.typed);
    let text = if version < FIRST_WITH_FOLDER {
        "it reads no hooks from qemu.d before 6.5".to_owned()
    } else {
        let vf = typed.filter(|_| version < FIRST_WITH_VENDOR_VFIO)?;
        format!("VF {} stays on its own driver, which it takes from 9.7 on", vf.address)
    };
    let text = format!("libvirt is {major}.{minor}.{micro}: {text}");
    let mend =
        "apt install -t bookworm-backports libvirt-daemon-system, or a newer release of the system";
    Some(Finding::error(Check::LibvirtOld, text, mend))
}

/// Installed, then executable, then allowed, then seen: the first that fails hides the rest.
fn hook(host: &Host) -> Vec<Finding> {
    let hook = &host.hook;
    let Some(target) = &hook.target else {
        let text = if hook.present {
            format!("{HOOK} leads nowhere")
        } else {
            format!("{HOOK} is not there")
        };
        let mend = format!("ln -sfn /usr/sbin/gpuslice-qemu-hook {HOOK}; {}", reload(host));
        return vec![Finding::error(Check::HookMissing, text, mend).fixable()];
    };
    if !hook.executable {
        let text = format!("{target} may not be executed");
        return vec![Finding::error(Check::HookNotExecutable, text, format!("chmod 755 {target}"))];
    }
    let mut found = Vec::new();
    if host.selinux_refuses {
        let text = "SELinux enforces, and virt_hooks_unconfined is off";
        found.push(Finding::error(
            Check::HookNotAllowed,
            text,
            "setsebool -P virt_hooks_unconfined on",
        ));
    }
    let allowed = ["/etc/libvirt/hooks/", "/usr/bin/", "/usr/sbin/"];
    if host.apparmor && !allowed.iter().any(|folder| target.starts_with(folder)) {
        let text =
            format!("AppArmor enforces a profile for libvirt, which may not execute {target}");
        let mend = format!("ln -sfn /usr/sbin/gpuslice-qemu-hook {HOOK}");
        found.push(Finding::error(Check::HookNotAllowed, text, mend));
    }
    if let Some(service) = host.services.iter().find(|service| not_seen(service, hook.made_at)) {
        let text =
            format!("{} was last started or reloaded before the hook was there", service.unit);
        let mend = format!("systemctl reload {}", service.unit);
        found.push(Finding::error(Check::HookNotSeen, text, mend).fixable());
    }
    if !host.socket {
        let text = "the hook is there, and /run/gpuslice/hook.sock is not";
        let mend = "systemctl enable --now gpusliced.socket gpusliced.service";
        found.push(Finding::error(Check::DaemonOff, text, mend));
    }
    found
}

/// Whether a daemon cannot know of the hook.
pub fn not_seen(service: &Service, made_at: Option<i64>) -> bool {
    service.looked_at.zip(made_at).is_some_and(|(looked, made)| looked < made)
}

fn reload(host: &Host) -> String {
    let unit = host.services.first().map_or("libvirtd", |service| service.unit);
    format!("systemctl reload {unit}")
}

fn memlock(service: &Service) -> Option<Finding> {
    let limit = service.memlock?;
    let unit = service.unit;
    let text = format!("{unit} may lock {} MiB for a VM and not raise that", limit >> 20);
    let mend =
        format!("systemctl edit {unit}: [Service] LimitMEMLOCK=infinity; systemctl restart {unit}");
    Some(Finding::error(Check::MemlockLow, text, mend))
}
