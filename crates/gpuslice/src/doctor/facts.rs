//! What is known of a host before anything is judged.

use super::check::Finding;
use super::pci::Device;
use super::system::System;
use gpuslice_core::guest::mapping::Mapping;
use gpuslice_core::holders::{Holder, Holders};
use gpuslice_vendors::makers::maker;
use std::collections::{BTreeMap, BTreeSet};

/// A host.
#[derive(Debug, Default)]
pub struct Host {
    /// What kind of system it is.
    pub system: System,
    /// `/proc/cmdline`.
    pub arguments: Vec<String>,
    /// The processor is Intel's, whose IOMMU has to be asked for.
    pub intel: bool,
    /// It is a VM itself (`hypervisor` among the processor's flags).
    pub is_guest: bool,
    /// Whether VMs can run on the processor.
    pub kvm: Kvm,
    /// The running kernel, when its modules are there no longer.
    pub modules_gone: Option<String>,
    /// Names below `/sys/bus/pci/drivers`.
    pub drivers: BTreeSet<String>,
    /// GVT-g's module is loaded.
    pub kvmgt: bool,
    /// VFIO passes devices whose interrupts are not kept apart, since it was told to.
    pub unsafe_interrupts: bool,
    /// NVIDIA's module that serves vGPUs to VFIO is loaded.
    pub vgpu_vfio: bool,
    /// Modules that are not to be loaded, and where that is said.
    pub switched_off: Vec<(String, String)>,
    /// `/sys/kernel/iommu_groups` has any.
    pub iommu: bool,
    /// Lockdown's mode, when it is on: `integrity`, `confidentiality`.
    pub lockdown: Option<String>,
    /// All PCI functions.
    pub devices: Vec<Device>,
    /// Functions of which gpuslice's configuration wants VFs.
    pub laid_out: BTreeSet<String>,
    /// Those of which it wants mediated devices that stand ready.
    pub parked: BTreeSet<String>,
    /// Those whose VFs it has passed by another driver than vfio-pci, and which.
    pub passed_by: BTreeMap<String, String>,
    /// i915 is one that makes VFs: it has a parameter for their number.
    pub i915_makes_vfs: bool,
    /// vfio-pci makes VFs, since it was loaded with enable_sriov.
    pub vfio_makes_vfs: bool,
    /// The key by which DKMS signs modules, to be enrolled by mokutil.
    pub signing_key: &'static str,
    /// `/usr/lib/nvidia/sriov-manage` is there.
    pub sriov_manage: bool,
    /// Whether NVIDIA's vGPU manager runs, where it is installed and processes are seen at all.
    pub vgpu_manager: Option<bool>,
    /// Vendor and device ids that vfio-pci takes at boot, and where that is said: a file, or the kernel's argument.
    pub vfio_ids: Vec<(u16, u16, String)>,
    /// Packages of DKMS, and modules that are there for the running kernel.
    pub dkms: Dkms,
    /// A daemon of libvirt's that runs VMs is installed.
    pub runs_libvirt: bool,
    /// Which libvirt, where its library tells.
    pub libvirt: Option<Libvirt>,
    /// The hook in libvirt's folder.
    pub hook: Hook,
    /// Nobody listens where hooks ask, for certain.
    pub unheard: bool,
    /// Proxmox VE has gpuslice's hookscript among its snippets.
    pub proxmox_hook: bool,
    /// What modprobe's files give to i915 and to xe, word by word, and where that is said.
    pub options: BTreeMap<&'static str, Vec<(String, String)>>,
    /// How many VFs these two may make, as they say where they are loaded.
    pub max_vfs: BTreeMap<&'static str, String>,
    /// GPUs of which xe is to make none, by configfs.
    pub configfs_none: BTreeSet<String>,
    /// Files on libvirt's way to the hook with another label than SELinux's policy has for them, while it enforces.
    pub mislabelled: Vec<String>,
    /// AppArmor enforces a profile for libvirt.
    pub apparmor: bool,
    /// libvirt's daemons that run.
    pub services: Vec<Service>,
    /// Parent and UUID of what mdevctl starts by itself.
    pub mdevctl_auto: Vec<(String, String)>,
    /// Definitions of mdevctl that are no JSON.
    pub mdevctl_broken: Vec<String>,
    /// Address and driver of what driverctl binds at boot.
    pub driverctl: Vec<(String, String)>,
    /// Definitions of mdevctl, each by its UUID.
    pub mdevctl_known: BTreeSet<String>,
    /// Mediated devices that are there, each by its UUID.
    pub mdevs: BTreeSet<String>,
    /// Hooks beside ours.
    pub other_hooks: Vec<OtherHook>,
    /// Scripts below qemu.d/DOMAIN, which a hook may call that looks for them there.
    pub dispatched: Vec<OtherHook>,
    /// Programs that hold NVIDIA's GPUs open all the time.
    pub watchers: BTreeSet<String>,
    /// Others that have one open now, as far as processes can be looked into, by the GPU's address.
    pub openers: BTreeMap<String, Vec<Holder>>,
    /// VFs that the daemon keeps back until all of their GPU are made anew.
    pub kept_back: BTreeSet<String>,
    /// Who has a function open that VFIO has and a layout cuts into VFs, by address, where that could be looked for.
    pub passed_to: BTreeMap<String, Holders>,
    /// This node's name, and the mappings of its cluster, where it is one of Proxmox VE.
    pub mappings: Option<(String, Vec<Mapping>)>,
    /// Files of sysfsutils that write the number of VFs.
    pub sysfsutils: Vec<Writer>,
    /// Other files that make VFs.
    pub writers: Vec<Writer>,
    /// Names of network interfaces.
    pub interfaces: BTreeSet<String>,
}

/// A file by which somebody makes VFs of something.
#[derive(Debug, Default)]
pub struct Writer {
    /// Where it lies.
    pub file: String,
    /// What it says, without comments.
    pub text: String,
}

/// Whether VMs can run on the processor.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Kvm {
    /// /dev/kvm is there for who runs QEMU, or cannot be looked at.
    #[default]
    Ready,
    /// It is there for root alone.
    Closed,
    /// It is not there.
    Absent {
        /// The processor says that it can, and its module is not loaded.
        virtualizes: bool,
    },
    /// The processor can and its module is loaded, but this system has no node for it.
    NoNode {
        /// It is a container, which is given its nodes from outside.
        container: bool,
    },
}

/// A hook that is not ours.
#[derive(Debug, Default)]
pub struct OtherHook {
    /// Where it lies.
    pub file: String,
    /// What it says, without comments.
    pub text: String,
    /// What its first line wants it run by, when that is not there.
    pub lacks: Option<String>,
    /// When it was made or changed, in seconds since 1970.
    pub made_at: Option<i64>,
}

/// Drivers that are built on the host.
#[derive(Debug, Default)]
pub struct Dkms {
    /// `uname -r`.
    pub kernel: String,
    /// Names below `/var/lib/dkms`.
    pub sources: Vec<String>,
    /// File names of modules that were built for this kernel.
    pub built: Vec<String>,
}

impl Dkms {
    /// Whether it has a package's sources.
    pub fn has(&self, package: &str) -> bool {
        self.sources.iter().any(|name| name == package)
    }
}

impl Host {
    /// Whether somebody wants VFs of a function: it is made for that, or a layout says so.
    pub fn wants_vfs(&self, device: &Device) -> bool {
        let made_for_it = maker(device.vendor, device.device).is_some_and(|maker| maker.sriov);
        device.pf.is_none() && (made_for_it || self.laid_out.contains(&device.address))
    }

    /// What keeps a GPU from being sliced, if it is to be: without a layout the host may compute on it, or a VM have it as a whole.
    pub fn weighed(&self, gpu: &Device, finding: Finding) -> Finding {
        if self.serves_host(gpu) { finding.if_sliced() } else { finding }
    }

    /// Whether a GPU is of use to the host as it is, and nothing says that it is to be sliced.
    pub fn serves_host(&self, gpu: &Device) -> bool {
        let laid_out = self.laid_out.contains(&gpu.address) || self.parked.contains(&gpu.address);
        let is_sliced = gpu.pf.is_some() || gpu.vfs > 0 || gpu.mdevs;
        let serves = match gpu.driver.as_deref() {
            // They are installed for slices alone.
            Some("nvidia") => !self.sriov_manage,
            Some("gim") | None => false,
            Some(_) => true,
        };
        serves && !laid_out && !is_sliced
    }

    /// Whether DKMS has built a module of this name for the running kernel.
    pub fn has_built(&self, module: &str) -> bool {
        self.dkms.built.iter().any(|file| file.split('.').next() == Some(module))
    }

    /// Whether a PCI driver of this name is loaded.
    pub fn has_driver(&self, name: &str) -> bool {
        self.drivers.contains(name)
    }
}

/// libvirt's version, in its three numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Libvirt(pub u32, pub u32, pub u32);

/// The hook as libvirt finds it.
#[derive(Debug, Default)]
pub struct Hook {
    /// Its folder may not be looked at, so that nothing is known of it.
    pub unknown: bool,
    /// Whether the entry is there.
    pub present: bool,
    /// Whether its folder is missing.
    pub no_folder: bool,
    /// Whether the program is there that the entry is to lead to.
    pub installed: bool,
    /// Where it leads, if anywhere.
    pub target: Option<String>,
    /// Whether that may be executed.
    pub executable: bool,
    /// When the entry was made, in seconds since 1970.
    pub made_at: Option<i64>,
}

/// A daemon of libvirt.
#[derive(Debug)]
pub struct Service {
    /// Its unit.
    pub unit: &'static str,
    /// When it last started or was reloaded, in seconds since 1970.
    pub looked_at: Option<i64>,
    /// Hard limit of locked memory in bytes, where it is limited and the daemon may not raise it.
    pub memlock: Option<u64>,
    /// Its users are not the kernel's own, as in an unprivileged container: nothing in there raises a limit.
    pub mapped: bool,
}
