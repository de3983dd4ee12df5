//! Which files directories have, and with which permissions. sysfs checks these at open even for root
//! (fs/kernfs/file.c, `KERNFS_ROOT_EXTRA_OPEN_PERM_CHECK`).

use super::File;
use crate::kernel::vendor::nvidia::{MdevVgpuFile, VgpuFile};

/// Which directions a file opens in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    Read,
    Write,
    Both,
}

/// An enum of files with their names and modes.
macro_rules! files {
    ($type:ident { $($file:ident = $name:literal $mode:ident,)* }) => {
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(crate) enum $type { $($file,)* }

        impl $type {
            pub(crate) const ALL: &[Self] = &[$(Self::$file,)*];

            pub(crate) fn name(self) -> &'static str {
                match self { $(Self::$file => $name,)* }
            }

            pub(crate) fn mode(self) -> Mode {
                match self { $(Self::$file => Mode::$mode,)* }
            }
        }
    };
}

files!(FunctionFile {
    Vendor = "vendor" Read,
    Device = "device" Read,
    SubsystemVendor = "subsystem_vendor" Read,
    SubsystemDevice = "subsystem_device" Read,
    Class = "class" Read,
    Revision = "revision" Read,
    BootVga = "boot_vga" Read,
    NumaNode = "numa_node" Both,
    Modalias = "modalias" Read,
    Uevent = "uevent" Both,
    Config = "config" Both,
    DriverOverride = "driver_override" Both,
    Reset = "reset" Write,
    ResetMethod = "reset_method" Both,
    TotalVfs = "sriov_totalvfs" Read,
    NumVfs = "sriov_numvfs" Both,
    Offset = "sriov_offset" Read,
    Stride = "sriov_stride" Read,
    VfDevice = "sriov_vf_device" Read,
    DriversAutoprobe = "sriov_drivers_autoprobe" Both,
    VfTotalMsix = "sriov_vf_total_msix" Read,
});

impl FunctionFile {
    /// Only PFs have it.
    pub(crate) fn of_sriov(self) -> bool {
        self.name().starts_with("sriov_")
    }

    /// Only functions that can be reset have it.
    pub(crate) fn of_reset(self) -> bool {
        matches!(self, Self::Reset | Self::ResetMethod)
    }
}

files!(DriverFile {
    Bind = "bind" Write,
    Unbind = "unbind" Write,
    Uevent = "uevent" Write,
});

files!(TypeFile {
    Create = "create" Write,
    DeviceApi = "device_api" Read,
    Name = "name" Read,
    AvailableInstances = "available_instances" Read,
    Description = "description" Read,
});

files!(MdevFile {
    Remove = "remove" Write,
    Uevent = "uevent" Both,
});

files!(ProcessFile {
    Comm = "comm" Read,
    Cmdline = "cmdline" Read,
});

impl File {
    pub(crate) fn mode(&self) -> Mode {
        match self {
            Self::Function(_, file) => file.mode(),
            Self::Driver(_, file) => file.mode(),
            Self::Type(_, _, file) => file.mode(),
            Self::Mdev(_, file) => file.mode(),
            Self::Vgpu(_, file) => file.mode(),
            Self::MdevVgpu(_, MdevVgpuFile::Params) => Mode::Both,
            Self::MdevVgpu(_, MdevVgpuFile::VmName) => Mode::Read,
            Self::Gim(_, file) => file.mode(),
            Self::Partition(_, file) => file.mode(),
            Self::Process(_, file) => file.mode(),
            Self::DriversProbe => Mode::Write,
            Self::VirtualUevent(_) | Self::Node | Self::Settings(_) | Self::UnbindLock(_) => {
                Mode::Both
            }
            Self::GroupType(_)
            | Self::ModuleState(_)
            | Self::ModuleVersion(_)
            | Self::Parameter(_)
            | Self::Registry
            | Self::GimConfig
            | Self::Arguments
            | Self::CpuList(_)
            | Self::DescriptorInfo
            | Self::SlotAddress(_)
            | Self::BootId => Mode::Read,
        }
    }
}

impl Mode {
    /// Permission bits of such a file, where its driver wants no others.
    fn permissions(self) -> u32 {
        match self {
            Self::Read => 0o444,
            Self::Write => 0o200,
            Self::Both => 0o644,
        }
    }
}

impl File {
    /// Permission bits.
    pub(crate) fn permissions(&self) -> u32 {
        let bits = self.mode().permissions();
        match self {
            Self::Gim(_, file) if file.is_private() => bits & 0o700,
            _ => bits,
        }
    }
}

impl VgpuFile {
    pub(crate) fn mode(self) -> Mode {
        match self {
            Self::Creatable | Self::Placement | Self::Instance => Mode::Read,
            Self::Current | Self::Params => Mode::Both,
        }
    }
}
