//! What is looked for: a stable code each, with what holds for every finding of it. Its page is made of the same texts.

use gpuslice_core::refusal::Page;
use serde::{Serialize, Serializer};

/// How much it matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Severity {
    /// Slices do not work because of it.
    Error,
    /// They work now, and may not later; or nothing says that they are wanted.
    Warning,
}

/// Something that was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What kind.
    pub code: Check,
    /// How much it matters.
    pub severity: Severity,
    /// What was found, with the object's name.
    pub found: String,
    /// Why it matters.
    pub why: &'static str,
    /// A command or an edit that mends it.
    pub mend: String,
    /// Whether `--fix` does it.
    pub fixable: bool,
}

impl Finding {
    /// Something that breaks slices.
    pub fn error(code: Check, found: impl Into<String>, mend: impl Into<String>) -> Self {
        let (found, mend) = (found.into(), mend.into());
        Self { code, severity: Severity::Error, found, why: code.page().rule, mend, fixable: false }
    }

    /// Something that may break them.
    pub fn warning(code: Check, found: impl Into<String>, mend: impl Into<String>) -> Self {
        Self { severity: Severity::Warning, ..Self::error(code, found, mend) }
    }

    /// The same of a GPU of which nobody may want slices.
    pub fn if_sliced(self) -> Self {
        let mend = format!("if it is to be sliced: {}", self.mend);
        Self { severity: Severity::Warning, mend, ..self }
    }

    /// The same, where the mending is ours to do.
    pub fn fixable(self) -> Self {
        Self { fixable: true, ..self }
    }
}

macro_rules! checks {
    ($($variant:ident = $code:literal, $meaning:literal, why $why:literal, looks $looks:literal, mend $mend:literal;)*) => {
        /// A kind of finding.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Check { $(#[doc = $meaning] $variant,)* }

        impl Check {
            /// Each of them.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// What a person reads about it.
            pub const fn page(self) -> Page {
                match self {
                    $(Self::$variant => Page { code: $code, meaning: $meaning, rule: $why, blocks: $looks, next: $mend },)*
                }
            }
        }
    };
}

checks! {
    IommuOff = "iommu-off", "the IOMMU is off, or leaves the GPU out",
        why "A device is given to a VM through the IOMMU, which keeps it away from all other memory. Without one no VF and no whole GPU can be passed.",
        looks "/sys/kernel/iommu_groups is empty, or a VF or a GPU that is to have some has no iommu_group. The kernel's arguments say whether it was switched off there (igfx_off and intgpu_off: for Intel's GPUs alone); else it is off in the firmware (VT-d, AMD-Vi), or on Intel not switched on. A GPU that makes mediated devices itself needs none.",
        mend "Switch it on in the firmware, take iommu=off or igfx_off out of the kernel's arguments, on Intel add intel_iommu=on, run the boot loader's step (`update-grub` and others), and reboot.";
    KvmMissing = "kvm-missing", "VMs cannot run on this host's processor",
        why "QEMU runs a VM on the processor through /dev/kvm. Without it, or where QEMU's user may not open it, a VM does not start, or is emulated and far too slow for a GPU.",
        looks "/dev/kvm and who may open it; where it is not there, the processor's flags (vmx, svm, hypervisor) and whether kvm_intel or kvm_amd is loaded. Only where there is a GPU that could be sliced.",
        mend "Switch VT-x or SVM on in the firmware, or `modprobe` kvm_intel or kvm_amd; in a VM, have its host pass the processor through; in a container, pass /dev/kvm in; or make the node anew (`mknod -m 660 /dev/kvm c 10 232`) and give it back to the group kvm.";
    InterruptsUnsafe = "interrupts-unsafe", "interrupts of devices are not kept apart",
        why "VFIO passes no device while a VM could send interrupts to the host with it: QEMU says that the container's IOMMU cannot be set, \"Operation not permitted\".",
        looks "intremap=off or nointremap among the kernel's arguments, and vfio_iommu_type1 not told to do without: in its own parameter, and before it is loaded in modprobe.d and the kernel's arguments.",
        mend "Take the argument out, run the boot loader's step (`update-grub` and others), and reboot.";
    ModulesGone = "modules-gone", "the running kernel's modules were removed",
        why "After an update of the kernel no module of the old one can be loaded: not vfio-pci for a VF, nor the GPU's driver. And libvirt finds no VFIO driver for managed='yes', which fails.",
        looks "/lib/modules, which has other kernels and not the one that runs.",
        mend "Reboot.";
    GvtOff = "gvt-off", "GVT-g was asked for and the GPU makes no mediated devices",
        why "i915.enable_gvt=1 alone makes none: the module kvmgt has to be loaded, GuC submission has to be off, and only Broadwell to Comet Lake have GVT-g.",
        looks "i915.enable_gvt=1 among the kernel's arguments or enable_gvt=1 for i915 in modprobe.d, an Intel GPU on i915 without mdev_supported_types and without VFs, kvmgt, and i915.enable_guc.",
        mend "`modprobe kvmgt`, and take enable_guc out of the kernel's arguments or modprobe.d; on another GPU take enable_gvt=1 out. Then the boot loader's step (`update-grub` and others).";
    SriovOff = "sriov-off", "the GPU has SR-IOV and does not show it",
        why "Without the SR-IOV capability the kernel offers no sriov_numvfs, so the GPU yields no VF.",
        looks "A GPU whose model has SR-IOV lacks sriov_totalvfs, or says 0 in it. It is off in the firmware, or its driver was told to make none: by the kernel's arguments, modprobe.d, or for xe by configfs. A GPU of Intel's that is not known to be sliced, such as an integrated one or an Arc for consumers, is looked at where a layout or i915-sriov-dkms wants its VFs. A warning where the host may need the GPU itself, as no layout has it.",
        mend "Switch on SR-IOV (and ARI) in the firmware and boot the machine cold. i915 also wants i915.max_vfs as a kernel argument (63 for Flex and Max, with i915.enable_iaf=0 for Max; 7 for an integrated GPU, with i915.enable_guc=3); xe wants no max_vfs=0, in older kernels xe.max_vfs=63, or a newer kernel.";
    VfBars = "vf-bars", "the firmware left no room for the memory of VFs",
        why "Each VF needs address space for its BARs. Where the firmware gave none, enabling VFs fails with \"not enough MMIO resources for SR-IOV\".",
        looks "All SR-IOV lines of the GPU's `resource` file are zero, it has no VF, it makes no mediated devices itself, and somebody wants VFs of it. i915 says sriov_totalvfs 0 then. A warning where the host may need the GPU itself, as no layout has it.",
        mend "Switch on \"Above 4G decoding\" and large MMIO in the firmware, or add pci=realloc to the kernel's arguments and run the boot loader's step (`update-grub` and others); then reboot.";
    DriverMissing = "driver-missing", "no driver is bound to a GPU that could be sliced",
        why "Slices are made by the GPU's driver: NVIDIA's vGPU host driver, AMD's GIM, Intel's i915 or xe.",
        looks "The GPU has no driver, and is known to be sliced or has a layout with VFs.",
        mend "Install and load the driver that the finding names, then `gpuslice gpus`. GIM is loaded by the daemon, as a layout says.";
    DriverSwitchedOff = "driver-switched-off", "the GPU's own driver was told to stay away",
        why "Who has passed a whole GPU keeps its driver away from it, by a blacklist. Slices are made by that driver. And nomodeset, left by an installer, keeps i915 and xe from every GPU.",
        looks "A GPU without its driver, and nomodeset, modprobe.blacklist or module_blacklist among the kernel's arguments, or blacklist and install lines in modprobe.d.",
        mend "Take the argument out and run the boot loader's step (`update-grub` and others), or the line, and make the initramfs anew; then reboot.";
    DriverUnbound = "driver-unbound", "the driver is loaded and has let go of the GPU",
        why "sriov-manage takes the GPU off its driver and gives it back; interrupted between, or at a boot that goes on beside it, it leaves the GPU without one.",
        looks "An NVIDIA GPU without a driver, while the driver nvidia is loaded.",
        mend "`echo ADDRESS > /sys/bus/pci/drivers/nvidia/bind`, then `gpuslice apply`.";
    DriverNotBuilt = "driver-not-built", "the GPU's driver is not built for the running kernel",
        why "Drivers that come by DKMS are built for each kernel. After an update of the kernel whose headers were not there, the new one has none, and the GPU makes no slices.",
        looks "A GPU without its driver, or on the kernel's own i915, whose driver's sources lie in /var/lib/dkms, and no module of it below /lib/modules of the running kernel.",
        mend "Install the headers of the running kernel, then `dkms autoinstall` and `modprobe` the driver.";
    VfioIds = "vfio-ids", "vfio-pci is told to take the GPU at boot",
        why "VFIO takes every function with the ids that it is told, before the GPU's own driver; and many VFs have the ids of their GPU. The GPU then makes no slices.",
        looks "vfio-pci.ids in the kernel's arguments, and options vfio-pci ids= in /etc/modprobe.d, with the ids of a GPU whose driver makes slices.",
        mend "Take the ids out of the file and make the initramfs anew, or out of the kernel's arguments and run the boot loader's step (`update-grub` and others); then reboot. VFs are bound by their layout: bind = \"vfio-pci\".";
    VgpuManagerOff = "vgpu-manager-off", "NVIDIA's vGPU manager does not run",
        why "The driver asks nvidia-vgpu-mgr to serve each vGPU. Without it types may be set, and every VM with one fails at its start.",
        looks "GPUs on NVIDIA's vGPU host driver, the unit nvidia-vgpu-mgr.service, and no process of it.",
        mend "`systemctl enable --now nvidia-vgpud nvidia-vgpu-mgr`; their log says why they ended.";
    VgpuNoTypes = "vgpu-no-types", "VFs of an NVIDIA GPU offer no vGPU types",
        why "A VF becomes a vGPU by a type, through mdev_supported_types or, since kernel 6.8, nvidia/current_vgpu_type. A VF with neither is of no use: its driver came without the module that serves VFIO, or the VF was taken off it.",
        looks "A GPU on NVIDIA's vGPU host driver, all of whose VFs lack both, while nvidia-vgpu-mgr runs.",
        mend "`modprobe nvidia-vgpu-vfio`; if that fails, install the vGPU release that goes with the kernel. If it is loaded, have the VFs made anew by `sriov-manage -d` and `-e`.";
    GpuWatched = "gpu-watched", "a program has the GPU open whose VFs are to be made",
        why "sriov-manage makes VFs only while nobody has the GPU open (\"Cannot obtain unbindLock\"), and a change of MIG waits for that. DCGM has every GPU open for as long as it runs.",
        looks "nv-hostengine or dcgm-exporter among the processes, or one that has /dev/nvidia0 or another open (as root, who sees all), and an NVIDIA GPU with SR-IOV and no VFs, or with some that are kept back.",
        mend "Stop it, `gpuslice apply`, and start it again.";
    DriverInTheWay = "driver-in-the-way", "another driver has the GPU",
        why "Only one driver has a device, and this one makes no slices.",
        looks "nouveau on an NVIDIA GPU, amdgpu on a GPU that GIM slices; i915 without its parameter max_vfs, which is the kernel's own, on a GPU with SR-IOV, and vfio-pci without enable_sriov, where VFs are wanted: of a Flex or Max, and where /etc/gpuslice says so. A warning where the host may compute on the GPU, as no layout has it.",
        mend "Blacklist it in /etc/modprobe.d, make the initramfs anew, and reboot. In the place of the kernel's i915 install i915-sriov-dkms (integrated GPUs) or Intel's own build. From vfio-pci: take the ids or the override out that the finding names, or, when no VM has it, unbind it, empty driver_override, and write the address to drivers_probe.";
    VgpuDriverMissing = "vgpu-driver-missing", "the driver is NVIDIA's ordinary one, not the one for vGPUs",
        why "Only NVIDIA's vGPU host driver makes vGPUs; it comes with sriov-manage, which the ordinary driver lacks.",
        looks "A GPU on the driver nvidia, and no /usr/lib/nvidia/sriov-manage. A warning where the host may compute on the GPU, as no layout has it.",
        mend "Remove the ordinary driver and install the vGPU host driver (the package named vgpu-kvm), then reboot.";
    AutoprobeOn = "autoprobe-on", "a driver of the host takes each new VF",
        why "With sriov_drivers_autoprobe the host's driver binds every new VF, and a VF in use by the host is given to no VM.",
        looks "sriov_drivers_autoprobe is 1 and VFs of the GPU are bound to a driver that is none of VFIO's.",
        mend "`echo 0 > …/sriov_drivers_autoprobe` and unbind each VF; for good, give the GPU a layout: gpuslice makes VFs without a driver.";
    GroupNotViable = "group-not-viable", "what a VM gets shares its IOMMU group with a device the host uses",
        why "VFIO gives a group out as a whole: as long as one member has a driver of the host, none can be used (\"group N is not viable\").",
        looks "Groups below /sys/kernel/iommu_groups that hold a VF of a GPU, or what the domain carries that is looked at, and another device, not a bridge, with a driver of the host.",
        mend "Switch on ACS (and ARI) in the firmware, or put the GPU into another slot; then each VF has its own group. What is of the same card, as the sound of a GPU that is passed as a whole, is given to the VM too.";
    HookMissing = "hook-missing", "libvirt does not call gpuslice",
        why "libvirt calls what lies in /etc/libvirt/hooks/qemu.d. Without it no VM gets its slice, and none is refused that should be.",
        looks "/etc/libvirt/hooks/qemu.d/10-gpuslice is absent or leads nowhere.",
        mend "`mkdir -p /etc/libvirt/hooks/qemu.d`, `ln -sfn /usr/sbin/gpuslice-qemu-hook /etc/libvirt/hooks/qemu.d/10-gpuslice`, then `systemctl reload libvirtd` (or virtqemud); `gpuslice doctor --fix` does both.";
    HookNotExecutable = "hook-not-executable", "the hook cannot be executed",
        why "libvirt passes over hooks that are no executable files, without a word.",
        looks "The file that /etc/libvirt/hooks/qemu.d/10-gpuslice leads to has no x bit.",
        mend "`chmod 755` the file that the finding names.";
    HookLabel = "hook-label", "a file on the way to the hook has the wrong label",
        why "SELinux lets libvirt run hooks by their label. A folder that was made by a script, or a program that was moved from a home, keeps the label it had.",
        looks "What `restorecon -n -v` would change of /etc/libvirt/hooks, qemu.d, the link and what it leads to, while SELinux enforces.",
        mend "`restorecon -v` what the finding names; `gpuslice doctor --fix` does it for the hook's link and program.";
    HookBroken = "hook-broken", "another hook cannot run",
        why "libvirt calls every hook for every VM, and a hook that fails refuses the start. One whose first line names what is not there fails always.",
        looks "The first lines of /etc/libvirt/hooks/qemu, of the files in qemu.d, and of scripts in qemu.d/DOMAIN that such a hook may call; behind env, the PATH of libvirt's own process, where it may be read.",
        mend "Write the path of a shell that is there into the first line; NixOS has /run/current-system/sw/bin/bash. Lines that end as on Windows: `sed -i 's/\\r$//'` the file.";
    HookNotSeen = "hook-not-seen", "libvirt has not looked for hooks since the hook is there",
        why "libvirt looks whether there is any hook at its start and when it is told to reload; the first that is put there later does not run.",
        looks "The hook is newer than the last start or reload of libvirtd and virtqemud, and no other hook is older: where there was one, libvirt reads qemu.d at each call. A warning where another was changed since.",
        mend "`systemctl reload libvirtd` (or virtqemud): no VM notices. `gpuslice doctor --fix` does it.";
    HookNotAllowed = "hook-not-allowed", "the system's policy keeps libvirt from running the hook",
        why "libvirt's AppArmor profile runs only hooks that lie in /etc/libvirt/hooks, /usr/bin and /usr/sbin, and refuses others without a word of ours. What SELinux refuses is not looked for: its boolean virt_hooks_unconfined is, in Fedora's policy as far as it was read, for hooks of networks, and has no part in ours.",
        looks "AppArmor enforcing a profile of libvirt's, and a hook that leads elsewhere.",
        mend "Let the link lead to /usr/sbin/gpuslice-qemu-hook. Under SELinux `ausearch -m avc -ts recent` shows what was refused.";
    HookCallsVirsh = "hook-calls-virsh", "another hook calls libvirt, which waits for it",
        why "libvirt calls hooks with the domain locked. A hook that calls virsh waits for that lock, and libvirt for the hook: the VM never starts, and at boot no VM does.",
        looks "Lines with virsh in /etc/libvirt/hooks/qemu, in the files of /etc/libvirt/hooks/qemu.d, and in scripts in qemu.d/DOMAIN.",
        mend "Take the calls out of the script. For nodedev-detach and -reattach write managed='yes' into the hostdev, or have gpuslice give the device.";
    DaemonOff = "daemon-off", "the hook is there and the daemon is not",
        why "VMs that ask for a slice are refused as long as the daemon does not answer.",
        looks "The hook, or on Proxmox VE the hookscript, is installed, and /run/gpuslice/hook.sock is absent or not among the sockets that listen (/proc/1/net/unix).",
        mend "`systemctl enable --now gpusliced.socket gpusliced.service`";
    LibvirtOld = "libvirt-old", "libvirt is too old for what this host is to do",
        why "libvirt reads hooks from qemu.d since 6.5. A VF that stays on its own driver (NVIDIA's vendor-specific VFIO), or that a layout has passed by another than vfio-pci (bind = \"xe-vfio-pci\"), it takes since 9.7; before, it says that the device must be detached from the host. gpuslice itself is made for 9.0 and newer.",
        looks "The version in the name of libvirt.so, and which GPUs there are.",
        mend "Install a newer libvirt; Debian 12 has one in bookworm-backports.";
    MemlockLow = "memlock-low", "libvirt may not lock a VM's memory",
        why "All memory of a VM with a passed device is locked. libvirt raises the limit for each VM, unless it may not itself: in containers, or under a unit with LimitMEMLOCK.",
        looks "The hard limit in /proc/PID/limits of libvirt, and whether it has CAP_SYS_RESOURCE in the first user namespace (/proc/PID/uid_map), not only in an unprivileged container's.",
        mend "`systemctl edit libvirtd` (or virtqemud): [Service] LimitMEMLOCK=infinity; restart it. In a container: give it the limit from outside.";
    Lockdown = "lockdown", "Secure Boot may keep a driver away",
        why "Under lockdown the kernel loads only modules that are signed with a key it knows. Drivers that DKMS builds on the host (NVIDIA's, AMD's GIM, Intel's i915) are signed with the host's own, which somebody has to enrol (\"Key was rejected by service\").",
        looks "/sys/kernel/security/lockdown, beside a GPU without its driver, whose module DKMS has built for the running kernel.",
        mend "`mokutil --import` the key that the finding names, and enrol it when the machine boots; or switch Secure Boot off in the firmware.";
    MdevctlAuto = "mdevctl-auto", "mdevctl makes a mediated device at every boot",
        why "It takes a place on the GPU before any VM starts, belongs to nobody gpuslice knows, and is never taken away.",
        looks "Definitions below /etc/mdevctl.d with start: auto.",
        mend "`mdevctl modify --uuid UUID --parent PARENT --manual`; and `mdevctl stop -u UUID` when no VM uses it. A VM that carries it by hand is given a slice first: `gpuslice attach DOMAIN PROFILE`.";
    MdevctlBroken = "mdevctl-broken", "a definition of mdevctl cannot be read",
        why "One broken file makes `mdevctl list` fail for the whole host. libvirt then knows no mediated devices, and none of that parent is started at boot.",
        looks "Files below /etc/mdevctl.d that are no JSON, as an interrupted write leaves them.",
        mend "`mv` the file that the finding names out of the folder; it may be an early mdevctl's, in lines of KEY=VALUE. Define the device again if somebody needs it.";
    Driverctl = "driverctl", "driverctl gives a device to another driver at boot",
        why "Its override is set again at every boot, before or after gpuslice has bound the VF as its layout says.",
        looks "Files in /etc/driverctl.d with the address of a GPU or of a VF that has another driver now.",
        mend "`driverctl unset-override ADDRESS`, and say bind = \"DRIVER\" in the GPU's layout.";
    Sysfsutils = "sysfsutils", "sysfsutils writes sriov_numvfs at boot",
        why "Two writers of the same attribute fight: the number of VFs changes under gpuslice's layout, and all VFs of the GPU with it.",
        looks "Lines with sriov_numvfs in /etc/sysfs.conf and /etc/sysfs.d, that name a GPU of this host or do not say whose VFs are meant. A network card's are left alone.",
        mend "Take the line out, and say the number in /etc/gpuslice/gpuslice.toml.";
    SriovUnit = "sriov-unit", "a unit, rule or script makes VFs beside gpuslice",
        why "Two writers of the same attribute fight; and sriov-manage run at the wrong moment takes VFs away that VMs are about to get.",
        looks "Units that are enabled in /etc/systemd/system, rules in /etc/udev/rules.d, /etc/tmpfiles.d, /etc/rc.local, crontabs and libvirt's hooks that name sriov-manage, or sriov_numvfs of a GPU of this host or of what they do not say; and scripts that a unit or a job names by their path. A network card's VFs are left alone.",
        mend "Disable it (`systemctl disable UNIT`, without --now: what it does when it is stopped may take VFs from VMs that run), or take the line out, and say the number in /etc/gpuslice/gpuslice.toml.";
    MappingStale = "mapping-stale", "a resource mapping of Proxmox VE names what is not there",
        why "Proxmox compares each device of a mapping with the node, and starts no guest with that mapping as long as one is missing or another: after VFs were lost, or addresses were given out anew.",
        looks "The entries of this node in /etc/pve/mapping/pci.cfg: address, id, subsystem-id and IOMMU group, word by word.",
        mend "`gpuslice apply` where VFs are missing, then `gpuslice export proxmox | sh` for its own mappings; others are corrected in Datacenter, Resource Mappings.";
    GuestXml = "guest-xml", "what the domain asks of gpuslice has no meaning",
        why "A start with it is refused: it cannot be known what was meant.",
        looks "The domain's metadata and devices, as the hook reads them.",
        mend "`virsh edit DOMAIN`, and correct what the finding names.";
    GuestMachine = "guest-machine", "the VM has no PCI Express",
        why "On the machine type pc a GPU sits on a conventional PCI bus: without its extended configuration space, which GPU drivers use, and with little room for large BARs.",
        looks "The machine type in <os>.",
        mend "Install the guest on machine type q35; an existing one has to be defined anew with it.";
    GuestNoFreePort = "guest-no-free-port", "no free PCIe port for a live attach",
        why "Each device that is hot-plugged needs a pcie-root-port of its own, and ports cannot be added to a running VM. q35 has one free by default.",
        looks "pcie-root-port controllers in the XML and the devices that sit on them.",
        mend "While it is off, `virsh edit DOMAIN` and add <controller type='pci' model='pcie-root-port'/> for each device that is to come.";
    GuestUefiWindow = "guest-uefi-window", "the firmware's window for BARs is too small",
        why "UEFI firmware keeps 32 GiB for 64-bit BARs unless it knows how much the processor can address. A GPU whose BARs do not fit has no memory in the guest, and its driver fails.",
        looks "The BARs of the passed functions on this host, the firmware, and the CPU mode.",
        mend "`virsh edit DOMAIN`: <cpu mode='host-passthrough'><maxphysaddr mode='passthrough'/></cpu>, or the argument -fw_cfg name=opt/ovmf/X-PciMmio64Mb,string=262144 in <qemu:commandline>.";
    GuestHardLimit = "guest-hard-limit", "the VM may lock less memory than it has",
        why "A passed device needs all memory of the VM locked, and some for QEMU. <hard_limit> becomes that limit: the start fails, or QEMU is killed later.",
        looks "<memtune><hard_limit> against <memory> and 1 GiB; where the VM has an IOMMU of its own, <memory> counts once for each device.",
        mend "`virsh edit DOMAIN`: take <hard_limit> out, and libvirt sets what is needed.";
    GuestManaged = "guest-managed", "managed='yes' takes a VF off the driver that serves it",
        why "A VF with a chosen type (NVIDIA's vendor-specific VFIO) is passed by its own driver. Taken off it, it has no device for VMs until all VFs of its GPU are made anew. After a VM, libvirt also has the host's driver take any other VF, where autoprobe lets it.",
        looks "Hostdevs with managed='yes' whose function has a type of its driver, or is a VF of a GPU with sriov_drivers_autoprobe 1 and a driver that takes its own VFs.",
        mend "`virsh edit DOMAIN`: managed='no' in this hostdev; one of a typed VF that is no claim's is taken out, and the claim asked for: `gpuslice attach DOMAIN PROFILE`.";
    GuestTakesPf = "guest-takes-pf", "the VM takes the whole GPU whose slices others use",
        why "Taken off its driver, a GPU loses all its VFs at once, also those that VMs use; and its mediated devices, for which the kernel waits as long as VMs have them open.",
        looks "Hostdevs whose function has VFs, or mediated devices of its own, on this host.",
        mend "`virsh detach-device` it, and give the VM a slice: `gpuslice attach DOMAIN PROFILE`.";
    GuestDeviceGone = "guest-device-gone", "the VM carries a device that is not there",
        why "libvirt starts no VM with it, and may say no more than that the cause is unknown. VFs are gone after a reboot or an update of their driver until somebody makes them, and addresses change with the slots.",
        looks "The addresses of PCI hostdevs on this host, and the UUIDs of mediated ones that no claim and no hook makes. Other hooks, and scripts in qemu.d/DOMAIN that they call, may make it in ways that are not understood: then it is a warning.",
        mend "For a claim's VF `gpuslice apply`; a mediated device that mdevctl knows, `mdevctl start -u UUID`; for another slice of a GPU `gpuslice attach DOMAIN PROFILE` in its place; any other device, `virsh edit DOMAIN`.";
    GuestCommandLine = "guest-command-line", "a device is passed behind libvirt's back",
        why "Of a vfio-pci device in <qemu:commandline> libvirt knows nothing: it raises no limit for locked memory, lets QEMU open no /dev/vfio in its namespace, cgroup and AppArmor profile, and gives the same device to another VM.",
        looks "Arguments in <qemu:commandline> that make a vfio-pci device.",
        mend "`virsh edit DOMAIN`: take the argument out, then `gpuslice attach DOMAIN PROFILE`, or a <hostdev>.";
}

impl Serialize for Check {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.page().code)
    }
}
