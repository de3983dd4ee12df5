//! What keeps people's slices from working, and which written-down host shows that doctor sees it. Where it does not, why
//! it cannot or must not. Whoever adds a host adds its trap here, and whoever meets a new trap begins with a line.

use Seen::{By, Not};

/// Whether doctor sees it.
pub enum Seen {
    /// On these hosts.
    By(&'static [&'static str]),
    /// It does not, for this reason.
    Not(&'static str),
}

/// Trap by trap.
pub const TRAPS: &[(&str, Seen)] = &[
    // Of the host.
    (
        "VMs do not run on the processor",
        By(&[
            "kvm-missing-firmware",
            "kvm-missing-module",
            "kvm-missing-nested",
            "kvm-missing-node",
            "kvm-missing-container",
            "kvm-closed",
        ]),
    ),
    (
        "the IOMMU is off",
        By(&[
            "iommu-off-firmware",
            "iommu-off-firmware-igfx",
            "iommu-off-argument",
            "iommu-off-intel",
            "iommu-off-fedora",
            "iommu-off-nixos",
            "iommu-off-proxmox",
            "iommu-off-proxmox-grub",
            "iommu-off-systemd-boot",
            "iommu-off-entries",
            "iommu-off-opensuse",
            "iommu-off-ostree",
            "iommu-off-nested",
        ]),
    ),
    ("the IOMMU leaves the integrated GPU out", By(&["iommu-off-igfx", "iommu-off-integrated"])),
    ("the IOMMU is off where a GPU renders, which needs none", By(&["iommu-off-serves"])),
    (
        "the firmware has no interrupt remapping",
        Not("only the kernel's log says so; of the arguments that switch it off, doctor does"),
    ),
    (
        "no interrupt remapping",
        By(&["interrupts-unsafe", "interrupts-unsafe-default", "interrupts-unsafe-loaded"]),
    ),
    ("a group is not viable", By(&["group-not-viable", "guest-group", "guest-group-slot"])),
    (
        "SR-IOV is off in the firmware, or max_vfs was not said",
        By(&[
            "sriov-off-firmware",
            "sriov-off-max-vfs",
            "sriov-off-zero",
            "sriov-off-initramfs",
            "sriov-off-laid-out",
            "sriov-off-xe",
            "sriov-off-xe-modprobe",
            "sriov-off-xe-configfs",
            "sriov-off-xe-default",
            "sriov-off-xe-kernel",
            "integrated-max-vfs",
        ]),
    ),
    (
        "max_vfs was said, and i915 makes no VFs for another reason",
        By(&["sriov-off-guc", "sriov-off-iaf", "sriov-off-told"]),
    ),
    ("no address space for VFs", By(&["vf-bars", "vf-bars-i915"])),
    (
        "an update of the kernel left the driver behind",
        By(&[
            "driver-not-built",
            "driver-not-built-fedora",
            "driver-not-built-flex",
            "integrated-not-built",
        ]),
    ),
    (
        "an update of the kernel took the running one's modules",
        By(&["modules-gone", "modules-gone-later"]),
    ),
    (
        "the GPU has no driver",
        By(&[
            "driver-missing",
            "driver-missing-integrated",
            "driver-missing-max",
            "driver-missing-xe",
            "driver-missing-xe-loaded",
            "driver-built",
        ]),
    ),
    (
        "a blacklist or nomodeset keeps the driver away",
        By(&[
            "driver-switched-off-argument",
            "driver-switched-off-blacklist",
            "driver-switched-off-boot",
        ]),
    ),
    ("sriov-manage left the GPU without a driver", By(&["driver-unbound"])),
    (
        "nouveau or amdgpu came first",
        By(&[
            "driver-in-the-way",
            "driver-in-the-way-t4",
            "driver-amdgpu",
            "driver-amdgpu-computes",
            "driver-amdgpu-laid-out",
        ]),
    ),
    (
        "the driver shows sriov_numvfs and makes no VFs: the kernel's own i915, vfio-pci",
        By(&[
            "integrated-kernels-own",
            "driver-i915",
            "driver-i915-initramfs",
            "driver-vfio",
            "driver-vfio-driverctl",
            "driver-vfio-held",
            "driver-vfio-held-cdev",
        ]),
    ),
    (
        "NVIDIA's ordinary driver in place of the host driver",
        By(&["vgpu-driver-missing", "vgpu-driver-computes"]),
    ),
    ("NVIDIA's vGPU manager does not run", By(&["vgpu-manager-off"])),
    (
        "no vGPU types: driver and kernel do not go together, or the VF was unbound",
        By(&["vgpu-no-types", "vgpu-no-types-taken-off"]),
    ),
    (
        "monitoring holds the GPU while VFs are to be made",
        By(&[
            "gpu-watched",
            "gpu-watched-container",
            "gpu-watched-process",
            "gpu-watched-smi",
            "gpu-watched-wedged",
        ]),
    ),
    (
        "GVT-g shows no types",
        By(&["gvt-off-kvmgt", "gvt-off-guc", "gvt-off-modprobe", "gvt-off-gpu"]),
    ),
    (
        "vfio-pci takes the GPU, and VFs of the same id",
        By(&["vfio-ids", "vfio-ids-fedora", "vfio-ids-modprobe", "vfio-ids-taken"]),
    ),
    ("the host's driver takes VFs", By(&["autoprobe-on", "guest-managed-autoprobe"])),
    (
        "Secure Boot keeps a module away",
        By(&["lockdown-module", "lockdown-nouveau", "lockdown-gim", "lockdown-i915"]),
    ),
    // Of libvirt.
    (
        "the hook is not there, or where libvirt does not look",
        By(&["hook-missing", "hook-missing-folder", "hook-dangling", "hook-missing-nixos"]),
    ),
    ("the hook has no x bit", By(&["hook-not-executable"])),
    (
        "SELinux refuses the hook, or its way to the daemon",
        Not("its policy cannot be asked for what it will refuse; the audit log says what it did"),
    ),
    ("SELinux's label of the hook is wrong", By(&["hook-label", "hook-label-link"])),
    ("AppArmor lets libvirt not execute it there", By(&["hook-not-allowed-apparmor"])),
    ("libvirt has not looked since", By(&["hook-not-seen", "hook-not-seen-beside"])),
    (
        "another hook's shell is not there",
        By(&["hook-broken", "hook-broken-env", "hook-broken-lines"]),
    ),
    (
        "another hook calls virsh, and libvirt waits for itself",
        By(&["hook-calls-virsh", "hook-dispatched"]),
    ),
    ("the daemon does not run", By(&["daemon-off", "daemon-off-stale", "daemon-off-proxmox"])),
    (
        "libvirt is too old",
        By(&["libvirt-old-hooks", "libvirt-old-vfio", "libvirt-old-bind", "libvirt-old-jammy"]),
    ),
    (
        "memory may not be locked",
        By(&[
            "memlock-low",
            "memlock-low-unprivileged",
            "guest-hard-limit",
            "guest-hard-limit-iommu",
        ]),
    ),
    // Who else makes slices.
    ("mdevctl starts a device by itself", By(&["mdevctl-auto"])),
    ("one broken definition hides all of mdevctl's", By(&["mdevctl-broken"])),
    ("driverctl binds it to another driver", By(&["driverctl"])),
    (
        "a unit, rule, job or hook writes the number of VFs",
        By(&[
            "sysfsutils",
            "sriov-unit",
            "sriov-unit-proxmox",
            "sriov-rule",
            "sriov-tmpfiles",
            "sriov-unit-script",
            "sriov-cron",
            "sriov-cron-script",
            "sriov-hook",
            "sriov-dispatched",
            "sriov-drm",
            "sriov-mixed",
            "sriov-mixed-unit",
        ]),
    ),
    (
        "a mapping of Proxmox VE names what is not there",
        By(&[
            "mapping-stale",
            "mapping-stale-moved",
            "mapping-stale-group",
            "mapping-stale-case",
            "mapping-stale-second",
            "mapping-stale-subsystem",
            "mapping-stale-without",
        ]),
    ),
    // Of the VM.
    (
        "the device is gone: a reboot, other addresses, a device made by hand",
        By(&[
            "guest-device-gone",
            "guest-device-moved",
            "guest-device-vf",
            "guest-device-nic",
            "guest-mdev-gone",
            "guest-mdev-known",
        ]),
    ),
    ("managed='yes' takes a VF off its driver", By(&["guest-managed", "guest-managed-picked"])),
    ("the whole GPU is passed, and its VFs vanish", By(&["guest-takes-pf", "guest-takes-pf-mdev"])),
    ("a device on QEMU's command line", By(&["guest-command-line"])),
    (
        "no PCI Express, no free port, no room for large BARs",
        By(&["guest-machine", "guest-no-free-port", "guest-uefi-window"]),
    ),
    ("the metadata cannot be understood", By(&["guest-xml"])),
    // What doctor does not see.
    (
        "VFs, types and modes are gone after a reboot",
        Not("the daemon makes them anew; what failed then is in `gpuslice gpus`"),
    ),
    ("there is no moment at which slices are ready", Not("gpuslice-ready.service is it")),
    (
        "a slice was not given back, or is held",
        Not("the daemon knows who has it: `gpuslice explain SLICE`"),
    ),
    (
        "the last size does not fit beside the others, or types shift",
        Not("`gpuslice explain no-capacity`, of the daemon's own reading"),
    ),
    (
        "a VF is wedged after its VM was killed",
        Not("it looks well; the daemon remembers how its VM ended"),
    ),
    (
        "another device has the address that a VM names",
        Not("the XML does not say which device was meant; a claim does"),
    ),
    (
        "two VMs name the same device",
        Not("many people use them in turn; the second start is refused, with the reason"),
    ),
    (
        "no Secure Boot key, licence or driver in the guest",
        Not("nothing of the guest's inside is seen"),
    ),
    (
        "the GPU does not reset",
        Not("a kernel's log tells, which the daemon reads; a VF that could not be reset is dirty"),
    ),
    (
        "a vGPU's VM does not migrate",
        Not("the other host's types are not seen here; its own hook refuses"),
    ),
    (
        "VMs of a user's own libvirt",
        Not("its files are in that user's home, and it may pass no device"),
    ),
    (
        "vfio nodes belong to another user",
        Not("libvirt gives QEMU each node when it starts, so their owner at rest says nothing"),
    ),
    (
        "ACS was overridden by an argument",
        Not("it works, and how far to trust it is the owner's decision"),
    ),
    ("GIM is not loaded at boot", Not("the daemon loads it, as the layout says")),
    (
        "reading reset_gpu resets a GPU",
        Not("doctor reads single files that it knows, never a folder's"),
    ),
];
