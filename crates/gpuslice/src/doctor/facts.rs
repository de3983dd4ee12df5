//! What is known of a host before anything is judged.

use super::pci::Device;

/// A host.
#[derive(Debug, Default)]
pub struct Host {
    /// `/proc/cmdline`.
    pub arguments: Vec<String>,
    /// The processor is Intel's, whose IOMMU has to be asked for.
    pub intel: bool,
    /// `/sys/kernel/iommu_groups` has any.
    pub iommu: bool,
    /// Lockdown's mode, when it is on: `integrity`, `confidentiality`.
    pub lockdown: Option<String>,
    /// All PCI functions.
    pub devices: Vec<Device>,
    /// `/usr/lib/nvidia/sriov-manage` is there.
    pub sriov_manage: bool,
    /// Whether NVIDIA's vGPU manager runs, where it is installed and processes are seen at all.
    pub vgpu_manager: Option<bool>,
    /// Vendor and device ids that vfio-pci takes at boot, and where that is said.
    pub vfio_ids: Vec<(u16, u16, String)>,
    /// Packages of DKMS, and modules that are there for the running kernel.
    pub dkms: Dkms,
    /// libvirt is installed, and which.
    pub libvirt: Option<Libvirt>,
    /// The hook in libvirt's folder.
    pub hook: Hook,
    /// The daemon's socket is there.
    pub socket: bool,
    /// SELinux enforces and its boolean for hooks is off.
    pub selinux_refuses: bool,
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
    /// Hooks beside ours that call virsh.
    pub hooks_with_virsh: Vec<String>,
    /// Files of sysfsutils that write the number of VFs.
    pub sysfsutils: Vec<String>,
    /// Other files that make VFs.
    pub writers: Vec<String>,
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

/// libvirt's version, in its three numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Libvirt(pub u32, pub u32, pub u32);

/// The hook as libvirt finds it.
#[derive(Debug, Default)]
pub struct Hook {
    /// Whether the entry is there.
    pub present: bool,
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
}
