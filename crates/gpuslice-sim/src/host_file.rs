//! The host file: which hardware and which kernel the simulated machine has. TOML, strict, so that a typing
//! error in an example is an error and not a different machine. `examples/hosts/` holds the shipped ones.

mod build;
mod check;
#[cfg(test)]
mod tests;

use gpuslice_core::ids::PciAddress;
use serde::{Deserialize, Serialize};

/// Why a host file was refused.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// Not TOML, or a key or value that does not belong; the message carries line, column and key.
    #[error("cannot parse the host file: {0}")]
    Parse(Box<toml::de::Error>),
    /// Each value is well formed, but they do not make a machine.
    #[error("host file: {key}: {why}")]
    Invalid {
        /// The key, with the element it is in: `function 0000:0c:00.0: driver`.
        key: String,
        /// What is wrong with it.
        why: String,
    },
}

/// A simulated machine as written down.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HostFile {
    /// What people call it.
    pub name: String,
    /// Properties of the kernel.
    #[serde(default)]
    pub kernel: KernelShape,
    /// PCI drivers that this kernel has. `vfio-pci` always exists.
    #[serde(default, rename = "driver", skip_serializing_if = "Vec::is_empty")]
    pub drivers: Vec<DriverShape>,
    /// PCI functions, PFs among them.
    #[serde(default, rename = "function", skip_serializing_if = "Vec::is_empty")]
    pub functions: Vec<FunctionShape>,
    /// Parents of mediated devices that are not on a bus.
    #[serde(default, rename = "virtual", skip_serializing_if = "Vec::is_empty")]
    pub virtuals: Vec<VirtualShape>,
}

/// Properties of the simulated kernel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct KernelShape {
    /// There is an IOMMU; without one nothing has a group.
    pub iommu: bool,
    /// `CONFIG_VFIO_DEVICE_CDEV`: `/dev/vfio/devices/vfioN` exists beside `/dev/vfio/N`.
    pub vfio_cdev: bool,
    /// vfio-pci was loaded with `enable_sriov`: it makes VFs of a PF that it has.
    pub vfio_sriov: bool,
    /// The VF loops hold the global rescan/remove lock, so that a stuck disable stops other PFs' too.
    pub rescan_lock: bool,
    /// Modules loaded at boot beside those of drivers.
    pub modules: Vec<String>,
    /// Seeds the boot ids.
    pub seed: u64,
}

impl Default for KernelShape {
    fn default() -> Self {
        Self {
            iommu: true,
            vfio_cdev: false,
            vfio_sriov: false,
            rescan_lock: true,
            modules: Vec::new(),
            seed: 1,
        }
    }
}

/// A PCI driver.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DriverShape {
    /// Name under `/sys/bus/pci/drivers`, and of its module.
    pub name: String,
    /// What its module shows as its version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Its module is loaded at boot.
    #[serde(default = "yes")]
    pub loaded: bool,
    /// It has `.sriov_configure`.
    #[serde(default = "yes")]
    pub sriov_configure: bool,
    /// Leaves VFs enabled when it is unbound from their PF.
    #[serde(default)]
    pub keeps_vfs: bool,
    /// `suppress_bind_attrs` is not set, so `bind` and `unbind` exist.
    #[serde(default = "yes")]
    pub bind_files: bool,
    /// A VFIO driver: its ids are override-only, and binding gives a group node.
    #[serde(default)]
    pub vfio: bool,
    /// What its id table has besides the functions that name it: vendor and device.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ids: Vec<(u16, u16)>,
    /// Its probe refuses VFs although their id is in its table.
    #[serde(default)]
    pub refuses_vfs: bool,
    /// The tool that makes VFs where the driver itself does not: its absolute path.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vf_tool: Option<String>,
    /// The tool that shows and sets GPUs of this driver: its absolute path.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub smi_tool: Option<String>,
    /// Its VFs that take a type show two files of theirs alone, as with the first versions.
    #[serde(default)]
    pub old_files: bool,
    /// Their list of types begins with a header; without one it is of no bytes when there is no type.
    #[serde(default = "yes")]
    pub list_header: bool,
    /// How long its probe takes.
    #[serde(default)]
    pub probe_ms: u64,
    /// It makes VFs when its module is loaded, as the module's option `vf_num` says, each device in its own time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gim: Option<GimShape>,
}

/// What is particular to AMD's GIM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GimShape {
    /// From the probe of a device to its first VF.
    pub init_ms: u64,
    /// How long the reset takes that a change of the memory mode needs.
    #[serde(default)]
    pub reset_ms: u64,
}

/// Which IOMMU group a PF and its VFs are in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Grouping {
    /// Each function has its own.
    #[default]
    Function,
    /// The PF and its VFs share one (no ACS).
    Pf,
    /// It is in that of its card's first function (no ACS).
    Card,
    /// No group.
    None,
}

/// A PCI function.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FunctionShape {
    /// Where it sits.
    pub address: PciAddress,
    /// Vendor id.
    pub vendor: u16,
    /// Device id.
    pub device: u16,
    /// Subsystem vendor id.
    #[serde(default)]
    pub subsystem_vendor: u16,
    /// Subsystem device id.
    #[serde(default)]
    pub subsystem_device: u16,
    /// Class, 24 bits.
    #[serde(default = "display_class")]
    pub class: u32,
    /// Revision.
    #[serde(default)]
    pub revision: u8,
    /// NUMA node, -1 for none.
    #[serde(default = "no_node")]
    pub numa_node: i32,
    /// The driver whose id table has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub driver: Option<String>,
    /// Name of the physical slot that its device is in, where the firmware tells.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slot: Option<String>,
    /// Device Serial Number, 16 hexadecimal digits; without it the capability is absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serial: Option<String>,
    /// Its IOMMU group and its VFs'.
    #[serde(default)]
    pub iommu_group: Grouping,
    /// Content of `reset_method`; the file is absent when empty.
    #[serde(default = "flr_bus")]
    pub reset_method: String,
    /// How long after boot it appears; 0 is there from the start.
    #[serde(default)]
    pub appears_after_ms: u64,
    /// The firmware shows itself on it.
    #[serde(default)]
    pub boot_vga: bool,
    /// SR-IOV capability.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sriov: Option<SriovShape>,
    /// Types of mediated devices.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mdev: Option<MdevShape>,
}

/// SR-IOV capability of a PF.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SriovShape {
    /// `sriov_totalvfs`.
    pub total_vfs: u16,
    /// `sriov_offset`.
    #[serde(default = "sixteen")]
    pub offset: u16,
    /// `sriov_stride`.
    #[serde(default = "one")]
    pub stride: u16,
    /// Device id of the VFs.
    pub vf_device: u16,
    /// Subsystem device id of the VFs, where it is not the PF's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vf_subsystem_device: Option<u16>,
    /// The driver whose id table has the VFs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vf_driver: Option<String>,
    /// How long the driver's callback takes, in each direction.
    #[serde(default)]
    pub configure_ms: u64,
}

/// Where the types of a card appear.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MdevOn {
    /// On the PF itself.
    #[default]
    Pf,
    /// On each VF, one device each; the budget is the PF's.
    Vf,
    /// As types that VFs are given (`nvidia/current_vgpu_type`); the budget is the PF's.
    VfType,
}

/// What may share a budget.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MdevRule {
    /// All devices are of one type.
    SameType,
    /// All devices are of one size.
    SameSize,
    /// Any mix that fits.
    #[default]
    Mixed,
}

/// Mediated devices of a card: a budget in MiB that its types draw on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MdevShape {
    /// Where the types appear.
    #[serde(default)]
    pub on: MdevOn,
    /// Name of the driver on the mdev bus.
    pub driver: String,
    /// The budget.
    pub memory_mib: u64,
    /// What may be side by side.
    #[serde(default)]
    pub rule: MdevRule,
    /// Sizes that may be mixed once the card is set so; without any it cannot be.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sizes: Vec<SizeShape>,
    /// The card can be divided into GPU instances.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mig: Option<MigShape>,
    /// The driver removes a device this long after its VM has ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub removes_after_ms: Option<u64>,
    /// Its types.
    #[serde(rename = "type")]
    pub types: Vec<TypeShape>,
}

/// One type.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TypeShape {
    /// Directory name after `<driver>-`.
    pub id: String,
    /// Content of `name`.
    pub name: String,
    /// What a device takes of the budget.
    pub memory_mib: u64,
    /// At most so many on the card, if that is less than what fits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max: Option<u32>,
    /// Content of `description`; the file is absent without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// It is made in a GPU instance of this profile.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gi_profile: Option<u32>,
    /// One GPU instance holds at most so many, as the vendor's tool tells; as many as fit without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub per_gi: Option<u32>,
    /// One VM can have at most so many of the card, as the vendor's tool tells; of any number without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub per_vm: Option<u32>,
}

/// A size and where devices of it may begin when sizes are mixed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SizeShape {
    /// The size.
    pub memory_mib: u64,
    /// Placement ids, in GiB.
    pub ids: Vec<u32>,
}

/// How a card can be divided.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MigShape {
    /// It is set so from the start.
    #[serde(default)]
    pub on: bool,
    /// Compute slices.
    pub compute: u32,
    /// Memory slices.
    pub memory: u32,
    /// Kinds of GPU instances.
    pub profiles: Vec<InstanceShape>,
}

/// A kind of GPU instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InstanceShape {
    /// Number of the profile.
    pub id: u32,
    /// Its name.
    pub name: String,
    /// Compute slices it takes.
    pub compute: u32,
    /// Memory slices it takes.
    pub memory: u32,
    /// Memory it has.
    pub memory_mib: u64,
}

/// The kernel's sample parents (samples/vfio-mdev).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum VirtualKind {
    /// 24 serial ports; types of one and two.
    Mtty,
    /// Three displays that share a count kept by the mdev core.
    Mdpy,
    /// 256 MiB shared by three sizes.
    Mbochs,
}

/// A parent that is not on a bus.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VirtualShape {
    /// Which.
    pub kind: VirtualKind,
    /// Its module is loaded at boot.
    #[serde(default = "yes")]
    pub loaded: bool,
    /// Overrides its budget (ports, devices, MiB).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub budget: Option<u64>,
}

impl HostFile {
    /// Reads a host file.
    ///
    /// # Errors
    /// With line and key of the first thing that is wrong.
    pub fn parse(text: &str) -> Result<Self, HostError> {
        let host: Self = toml::from_str(text).map_err(|e| HostError::Parse(Box::new(e)))?;
        host.check()?;
        Ok(host)
    }
}

fn yes() -> bool {
    true
}
fn display_class() -> u32 {
    0x03_0000
}
fn no_node() -> i32 {
    -1
}
fn flr_bus() -> String {
    "flr bus".to_owned()
}
fn sixteen() -> u16 {
    16
}
fn one() -> u16 {
    1
}
