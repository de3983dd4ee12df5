//! The machine as a tree of files: `/sys`, `/proc` and `/dev` as far as the product looks at them. Directories,
//! links and files are computed from the state at each look; nothing is stored here. Links have relative targets
//! as in sysfs, so that whoever resolves them by himself arrives where the kernel would lead him.

mod attributes;
mod bridges;
pub(crate) mod dump;
mod entries;
pub(crate) mod files;
mod resolve;
mod store;

use crate::kernel::Name;
use crate::kernel::vendor::amdgpu::PartitionFile;
use crate::kernel::vendor::gim::files::GimFile;
use crate::kernel::vendor::nvidia::{MdevVgpuFile, VgpuFile};
use crate::kernel::vfio::Member;
use files::{DriverFile, FunctionFile, MdevFile, ProcessFile, TypeFile};
use gpuslice_core::ids::PciAddress;
use uuid::Uuid;

/// A directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Dir {
    /// One that holds only what [`FIXED`] says.
    Fixed(Fixed),
    PciDevices,
    PciDrivers,
    PciDriver(Name),
    /// `/sys/bus/pci/slots`.
    Slots,
    Slot(String),
    MdevDevices,
    MdevDrivers,
    MdevDriver(Name),
    MdevBus,
    Groups,
    Group(u32),
    GroupDevices(u32),
    Modules,
    Module(Name),
    /// `/sys/module/gim/parameters`.
    Parameters(Name),
    ModprobeD,
    Devices,
    /// `/sys/devices/system/node`.
    Nodes,
    NumaNode(u32),
    /// `/sys/devices/pciDDDD:BB`.
    Bridge(u32, u8),
    Function(PciAddress),
    /// `<device>/vfio-dev`.
    VfioDev(Member),
    /// `<VF>/nvidia`.
    Vgpu(PciAddress),
    VfioNumber(Member),
    Virtual,
    /// `/sys/devices/virtual/mtty`.
    VirtualClass(Name),
    VirtualParent(Name),
    Types(Name),
    Type(Name, usize),
    TypeDevices(Name, usize),
    Mdev(Uuid),
    /// `<mdev>/nvidia`.
    MdevVgpu(Uuid),
    VfioNodes,
    VfioCdevs,
    Proc,
    /// `/proc/driver`, while somebody is in it.
    ProcDriver,
    /// `/proc/driver/nvidia`.
    Registry(Name),
    /// `/proc/driver/nvidia/gpus`.
    Gpus,
    Gpu(PciAddress),
    Process(u32),
    Descriptors(u32),
    DescriptorInfos(u32),
}

/// Directories that hold nothing but others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fixed {
    Root,
    Etc,
    Sys,
    Bus,
    Pci,
    Mdev,
    Class,
    SysKernel,
    Dev,
    ProcSys,
    ProcSysKernel,
    Random,
    /// `/sys/devices/system`.
    System,
}

/// A file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum File {
    Function(PciAddress, FunctionFile),
    Driver(Name, DriverFile),
    DriversProbe,
    Type(Name, usize, TypeFile),
    Mdev(Uuid, MdevFile),
    Vgpu(PciAddress, VgpuFile),
    MdevVgpu(Uuid, MdevVgpuFile),
    VirtualUevent(Name),
    GroupType(u32),
    ModuleState(Name),
    ModuleVersion(Name),
    Gim(PciAddress, GimFile),
    Partition(PciAddress, PartitionFile),
    /// In `/sys/module/gim/parameters`.
    Parameter(&'static str),
    /// `/etc/gim_config`.
    GimConfig,
    /// `/proc/cmdline`.
    Arguments,
    /// A file of `/etc/modprobe.d`.
    Settings(String),
    /// `/proc/driver/nvidia/params`.
    Registry,
    /// `/proc/driver/nvidia/gpus/ADDRESS/unbindLock`.
    UnbindLock(PciAddress),
    Process(u32, ProcessFile),
    /// `/proc/<pid>/fdinfo/<fd>`, of any.
    DescriptorInfo,
    BootId,
    /// `/sys/bus/pci/slots/NAME/address`.
    SlotAddress(String),
    /// `/sys/devices/system/node/nodeN/cpulist`.
    CpuList(u32),
    /// A character device.
    Node,
}

/// What a path leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Node {
    Dir(Dir),
    File(File),
    /// A link to a directory, relative.
    Link(Dir),
    /// A descriptor's link, absolute.
    Descriptor(String),
}

/// What fixed directories hold.
pub(crate) const FIXED: &[(Fixed, &str, Dir)] = {
    use Fixed::*;
    &[
        (Root, "etc", Dir::Fixed(Etc)),
        (Etc, "modprobe.d", Dir::ModprobeD),
        (Root, "sys", Dir::Fixed(Sys)),
        (Root, "dev", Dir::Fixed(Dev)),
        (Root, "proc", Dir::Proc),
        (Sys, "bus", Dir::Fixed(Bus)),
        (Sys, "class", Dir::Fixed(Class)),
        (Sys, "devices", Dir::Devices),
        (Sys, "kernel", Dir::Fixed(SysKernel)),
        (Sys, "module", Dir::Modules),
        (Bus, "pci", Dir::Fixed(Pci)),
        (Bus, "mdev", Dir::Fixed(Mdev)),
        (Pci, "devices", Dir::PciDevices),
        (Pci, "drivers", Dir::PciDrivers),
        (Pci, "slots", Dir::Slots),
        (Mdev, "devices", Dir::MdevDevices),
        (Mdev, "drivers", Dir::MdevDrivers),
        (Class, "mdev_bus", Dir::MdevBus),
        (System, "node", Dir::Nodes),
        (SysKernel, "iommu_groups", Dir::Groups),
        (Dev, "vfio", Dir::VfioNodes),
        (ProcSys, "kernel", Dir::Fixed(ProcSysKernel)),
        (ProcSysKernel, "random", Dir::Fixed(Random)),
    ]
};
