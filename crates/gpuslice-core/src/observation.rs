//! What was read from a host in one go: whole and owned. A later reading replaces it. What only memory tells is laid over it
//! once, as it comes: types seen before, VFs that are wedged, drivers that were unloaded.

use crate::driver::Driver;
use crate::errno::Errno;
use crate::ids::{
    DeviceKind, MdevTypeId, MdevUuid, ParentId, PciAddress, Serial, SliceId, VfIndex,
};
use crate::mode::{Mode, ModeState, ModeValue, Modes};
use crate::numa::Nodes;
use std::collections::{BTreeMap, BTreeSet};

/// Every device that yields or is a slice, as read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Observation {
    /// Physical functions with SR-IOV, and PCI functions that are mdev parents.
    pub functions: BTreeMap<PciAddress, Function>,
    /// GPUs that are neither, nor virtual functions: they can be given to a VM as a whole.
    pub whole: BTreeMap<PciAddress, Function>,
    /// Other functions of such a GPU's card in its IOMMU group, its sound say: VFIO gives a group out as a whole.
    pub beside: BTreeMap<PciAddress, Vec<PciAddress>>,
    /// The one of them that the firmware showed itself on, where a mechanism asks.
    pub console: Option<PciAddress>,
    /// Display controllers and accelerators of which nothing could be read: lost ones, and VFs that no PF links yet.
    pub unread_functions: BTreeSet<PciAddress>,
    /// Virtual functions.
    pub vfs: BTreeMap<PciAddress, Vf>,
    /// Registered mdev parents.
    pub mdev_parents: BTreeMap<ParentId, MdevParent>,
    /// Mediated devices that exist.
    pub mdevs: BTreeMap<MdevUuid, Mdev>,
    /// Those that are listed and did not tell what they are, as one that comes or goes does not.
    pub unread_mdevs: BTreeSet<MdevUuid>,
    /// Drivers that read what their devices are to be when they are loaded, by name, as far as a mechanism asked.
    pub drivers: BTreeMap<&'static str, DriverState>,
    /// Modes of parents, as far as a mechanism knows to read them.
    pub modes: BTreeMap<ParentId, BTreeMap<Mode, ModeState>>,
    /// NUMA nodes: empty where the kernel tells of none, absent while they could not be read.
    pub nodes: Option<std::sync::Arc<Nodes>>,
    /// What could not be read. A device with a problem is shown and not used.
    pub problems: Vec<ReadProblem>,
    /// Types of VFs by the kind of device, as far as they were ever seen: a driver lists a type no longer once its
    /// device is full.
    pub catalogue: std::sync::Arc<Catalogue>,
    /// More of those types, as far as somebody tells.
    pub facts: FactsOfTypes,
    /// Devices of whose types nothing is told because who tells it does not answer.
    pub unanswered: BTreeSet<ParentId>,
}

/// A driver whose module's options decide what there is of its devices.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DriverState {
    /// Its module is in the kernel, also while it comes or goes.
    pub loaded: bool,
    /// It is not, and was in this boot, until somebody unloaded it. That is remembered, and not read.
    pub unloaded: bool,
    /// Its version, where something depends on it.
    pub version: Option<String>,
    /// The file of options that gpuslice wrote for it.
    pub options: Option<String>,
    /// Options that others gave it in files of their own, as far as a mechanism looks at them.
    pub others: std::sync::Arc<Options>,
    /// Parameters that were given, as they read, as far as a mechanism looks at them.
    pub parameters: BTreeMap<String, String>,
}

/// What the kernel was told at its boot.
pub const ARGUMENTS: &str = "/proc/cmdline";

/// Options of a module that files of `modprobe.d` give it, others' than gpuslice's, and the kernel's arguments.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Options {
    /// In the order in which modprobe gives them: of one name the last counts.
    pub given: Vec<GivenOption>,
    /// Files and folders that could not be read, and so may give others.
    pub unread: Vec<ReadProblem>,
}

/// An option of a module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GivenOption {
    /// Where it is written, [`ARGUMENTS`] among it.
    pub file: String,
    /// Its name.
    pub name: String,
    /// Its value, without quotes.
    pub value: String,
}

impl GivenOption {
    /// Whether it is one of the kernel's arguments, which come after all files.
    pub fn is_argument(&self) -> bool {
        self.file == ARGUMENTS
    }

    /// Who gives it, in words for people.
    pub fn given_by(&self) -> &str {
        if self.is_argument() { "an argument of the kernel" } else { &self.file }
    }
}

impl Options {
    /// What counts of one.
    pub fn of(&self, name: &str) -> Option<&GivenOption> {
        self.given.iter().rev().find(|option| option.name == name)
    }

    /// What counts of one rather than what a file of gpuslice's says: files go by their names.
    pub fn over(&self, own: &str, name: &str) -> Option<&GivenOption> {
        let after = |file: &str| file.rsplit('/').next() > own.rsplit('/').next();
        self.of(name).filter(|other| other.is_argument() || after(&other.file))
    }
}

/// A PCI function that can yield slices.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Function {
    /// `vendor`, 16 bits.
    pub vendor: u16,
    /// `device`, 16 bits.
    pub device: u16,
    /// `class`, 24 bits: 0x030000 VGA, 0x030200 3D, 0x120000 processing accelerator.
    pub class: u32,
    /// Name of the bound driver.
    pub driver: Option<String>,
    /// `numa_node`, absent when -1.
    pub numa_node: Option<u32>,
    /// Number of its IOMMU group.
    pub iommu_group: Option<u32>,
    /// Device Serial Number capability (PCIe 7.9.3); of one without, what its driver shows.
    pub serial: Option<Serial>,
    /// Name of the physical slot it is in, where a layout asks for one and the firmware tells.
    pub slot: Option<String>,
    /// SR-IOV, if the function has the capability.
    pub sriov: Option<Sriov>,
    /// Our word for the product, from its ids: `mi300x`.
    pub model: Option<&'static str>,
    /// The driver that makes its slices, of one without driver: no other tells it before that is loaded.
    pub maker: Option<&'static str>,
    /// Which product it is, read only where types of VFs depend on it.
    pub kind: Option<DeviceKind>,
    /// Its memory in bytes, where a mechanism knows to read it.
    pub memory: Option<u64>,
}

/// It makes VFs for others and uses nothing of its function (drivers/pci/pci-pf-stub.c).
pub(crate) const PF_STUB: &str = "pci-pf-stub";

impl Function {
    /// Display controller or processing accelerator by its class.
    pub fn is_gpu(&self) -> bool {
        is_gpu(self.class)
    }

    /// Whether the kernel's stub has it, whose only use is that it lets VFs be made.
    pub fn under_stub(&self) -> bool {
        self.driver.as_deref() == Some(PF_STUB)
    }
}

/// Whether a class is a display controller's or a processing accelerator's.
pub fn is_gpu(class: u32) -> bool {
    matches!(class >> 16, 0x03 | 0x12)
}

/// SR-IOV state of a PF.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sriov {
    /// `sriov_totalvfs`.
    pub total: u16,
    /// `sriov_drivers_autoprobe`.
    pub autoprobe: Option<bool>,
    /// The VFs by index: counted from the `virtfnN` links, since reading `sriov_numvfs` hangs while a disable
    /// waits for a VF in use.
    pub vfs: BTreeMap<VfIndex, PciAddress>,
}

/// A virtual function.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vf {
    /// Its PF.
    pub pf: PciAddress,
    /// 0-based.
    pub index: VfIndex,
    /// Name of the bound driver.
    pub driver: Option<String>,
    /// Number of its IOMMU group; without one it cannot be passed to a VM.
    pub iommu_group: Option<u32>,
    /// What it can be, when its driver leaves that open until somebody writes a type.
    pub choice: Option<Choice>,
}

impl Vf {
    /// Bound to a driver that hands it to VMs rather than using it in the host. Variant drivers are named
    /// `<vendor>-vfio-pci` by convention of the kernel's drivers/vfio/pci; a driver that lets one choose what a VF is
    /// passes it to VMs itself, under its own name.
    pub fn on_vfio(&self) -> bool {
        self.choice.is_some() || self.driver.as_deref().is_some_and(is_vfio)
    }

    /// No driver has it but the kernel's stub, which a tool may have told its ids: that one is of no use for a VF.
    pub fn is_bare(&self) -> bool {
        self.driver.as_deref().is_none_or(|driver| driver == PF_STUB)
    }

    /// The driver that uses it in the host.
    pub fn by_host(&self) -> Option<&str> {
        self.driver.as_deref().filter(|_| !self.on_vfio())
    }
}

/// Whether a driver of this name hands functions to VMs.
pub fn is_vfio(driver: &str) -> bool {
    driver == "vfio-pci" || driver.ends_with("-vfio-pci") || driver.ends_with("_vfio_pci")
}

/// What a VF is and could be. Listed types change with every write to a VF of the same device.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Choice {
    /// Its type; `None` as long as it has none.
    pub current: Option<MdevTypeId>,
    /// The types it could be given now.
    pub creatable: BTreeSet<MdevTypeId>,
    /// The VF has no device a VM could open; only making all VFs anew gives it one.
    pub broken: bool,
    /// Where on its device it is, where that matters to others.
    pub place: Option<u32>,
}

/// Where on a device slices of one size can be, in units of the device.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Places {
    /// Units one takes.
    pub size: u32,
    /// Units at which one can begin, in order.
    pub starts: Vec<u32>,
}

impl Places {
    /// The places that nothing overlaps of what begins at a unit and takes so many.
    pub fn free<'a>(&'a self, taken: &'a [(u32, u32)]) -> impl Iterator<Item = u32> + 'a {
        let clear = move |start: &u32| {
            let end = start.saturating_add(self.size);
            taken.iter().all(|(at, size)| end <= *at || at.saturating_add(*size) <= *start)
        };
        self.starts.iter().copied().filter(clear)
    }
}

/// What a tool tells of a type beside its name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TypeFacts {
    /// Bytes of framebuffer.
    pub memory: Option<u64>,
    /// Where it can be when sizes are mixed.
    pub places: Option<std::sync::Arc<Places>>,
    /// Most of them that there can be of one device, with nothing else on it.
    pub most: Option<u32>,
    /// Most of them that one VM can have of one device.
    pub per_vm: Option<u32>,
    /// Most of them that one part of a device holds, where parts are for types of their own.
    pub per_part: Option<u32>,
    /// Which parts of a device it is in, by their name in the device's mode; empty where no device has one.
    pub part: Option<String>,
}

/// Facts of types, by device and raw id.
pub type FactsOfTypes = BTreeMap<DeviceKind, BTreeMap<MdevTypeId, TypeFacts>>;

/// Names of types, by device and raw id.
pub type Catalogue = BTreeMap<DeviceKind, BTreeMap<MdevTypeId, String>>;

/// A device that makes mediated devices.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MdevParent {
    /// Its types by raw id.
    pub types: BTreeMap<MdevTypeId, MdevType>,
}

/// An entry of `mdev_supported_types`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MdevType {
    /// What does not change while the parent is registered.
    pub fixed: std::sync::Arc<FixedType>,
    /// `available_instances`.
    pub available: u32,
}

/// The attributes of an mdev type that do not change, and what they say. Every offer takes it from here, so a
/// description is parsed once, and types that say the same have it in common.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct FixedType {
    /// `device_api`.
    pub device_api: String,
    /// `name`; old kernels lack it.
    pub name: Option<String>,
    /// `description`, lines joined with `, `; many drivers give none.
    pub description: Option<String>,
    /// Memory in bytes, from a description such as `framebuffer=2048M`.
    pub memory: Option<u64>,
    /// Most instances on one GPU, from a description such as `max_instance=12`.
    pub max_instances: Option<u32>,
    /// Virtual displays, from a description such as `num_heads=4`.
    pub heads: Option<u32>,
}

impl FixedType {
    /// What a type's attributes say.
    pub fn new(device_api: String, name: Option<String>, description: Option<String>) -> Self {
        let mut fixed = Self { device_api, name, ..Self::default() };
        for part in description.iter().flat_map(|text| text.split(',')) {
            let Some((key, value)) = part.split_once('=') else { continue };
            let value = value.trim();
            match key.trim() {
                "framebuffer" => fixed.memory = mebibytes(value),
                "max_instance" => fixed.max_instances = value.parse().ok(),
                "num_heads" => fixed.heads = value.parse().ok(),
                _ => {}
            }
        }
        Self { description, ..fixed }
    }
}

/// Bytes of `2048M`.
fn mebibytes(value: &str) -> Option<u64> {
    value.strip_suffix('M')?.parse::<u64>().ok()?.checked_mul(1 << 20)
}

/// A mediated device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mdev {
    /// What made it.
    pub parent: ParentId,
    /// Its type.
    pub type_id: MdevTypeId,
    /// Number of its IOMMU group.
    pub iommu_group: Option<u32>,
}

/// Something that exists but could not be read or understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadProblem {
    /// The file or directory.
    pub path: String,
    /// What went wrong.
    pub why: ProblemKind,
}

/// Kinds of unreadable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProblemKind {
    /// The kernel refused.
    Errno(Errno),
    /// The text is not what the attribute holds.
    Corrupt(String),
}

impl std::fmt::Display for ReadProblem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.why {
            ProblemKind::Errno(errno) => write!(f, "cannot read {}: {errno}", self.path),
            ProblemKind::Corrupt(text) => write!(f, "{} holds {text:?}", self.path),
        }
    }
}

impl Observation {
    /// Every parent: PFs and mdev parents, VFs among them.
    pub fn parents(&self) -> impl Iterator<Item = ParentId> + '_ {
        let pci = self.functions.keys().map(|a| ParentId::Pci(*a));
        let others = self
            .mdev_parents
            .keys()
            .filter(|p| !p.pci().is_some_and(|a| self.functions.contains_key(&a)));
        pci.chain(others.cloned())
    }

    /// Whether the parent is there.
    pub fn has_parent(&self, parent: &ParentId) -> bool {
        self.mdev_parents.contains_key(parent)
            || parent.pci().is_some_and(|address| self.functions.contains_key(&address))
    }

    /// Whether a driver that a mechanism asked for is in the kernel.
    pub fn driver_loaded(&self, name: &str) -> bool {
        self.drivers.get(name).is_some_and(|driver| driver.loaded)
    }

    /// The driver that makes a parent's slices, that of its GPU, with its version where a mechanism reads it.
    pub fn driver_of(&self, parent: &ParentId) -> Option<Driver> {
        let device = self.device_of(parent).pci()?;
        let name = self.functions.get(&device)?.driver.as_deref()?;
        let version = self.drivers.get(name).and_then(|state| state.version.as_deref());
        Driver::told(name, version)
    }

    /// Whether a PF has so many VFs, or is not there to have any.
    pub fn has_vfs(&self, pf: PciAddress, count: u16) -> bool {
        let sriov = self.functions.get(&pf).and_then(|f| f.sriov.as_ref());
        sriov.is_none_or(|sriov| sriov.vfs.len() == usize::from(count))
    }

    /// What a mode of a parent is.
    pub fn mode(&self, parent: &ParentId, mode: Mode) -> Option<&ModeValue> {
        self.modes.get(parent)?.get(&mode)?.current.as_ref()
    }

    /// Whether a parent is set to all of these.
    pub fn has_modes(&self, parent: &ParentId, modes: &Modes) -> bool {
        modes.iter().all(|(mode, value)| self.mode_set(parent, *mode) == Some(value))
    }

    /// Whether a parent is seen to be set to something else than one of these.
    pub fn other_modes(&self, parent: &ParentId, modes: &Modes) -> bool {
        let other = |(mode, value)| self.mode_set(parent, mode).is_some_and(|set| set != value);
        modes.iter().any(|(mode, value)| other((*mode, value)))
    }

    /// Whether a mode of a parent is to be set to be this. What could not be read may be so already, and to set it again
    /// would take slices all the same.
    pub fn is_to_be_set(&self, parent: &ParentId, mode: Mode, value: &ModeValue) -> bool {
        match self.mode(parent, mode) {
            Some(now) => now != value,
            None => !self.unreadable(parent),
        }
    }

    /// One of these modes that a parent may have, and one reading did not tell.
    pub fn untold_mode(&self, parent: &ParentId, modes: &Modes) -> Option<Mode> {
        let told = |mode: &Mode| self.modes.get(parent).is_some_and(|told| told.contains_key(mode));
        modes.keys().copied().find(|mode| !told(mode) && self.unreadable(parent))
    }

    fn mode_set(&self, parent: &ParentId, mode: Mode) -> Option<&ModeValue> {
        self.modes.get(parent)?.get(&mode)?.set()
    }

    /// What the next load of a driver makes of a parent's modes, when that is another than now: the mode, what it is,
    /// and what comes with which driver.
    pub fn coming(
        &self,
        parent: &ParentId,
    ) -> impl Iterator<Item = (Mode, Option<&ModeValue>, &ModeValue, &'static str)> {
        let modes = self.modes.get(parent).into_iter().flatten();
        modes.filter_map(|(mode, state)| {
            let (value, driver) = state.coming()?;
            Some((*mode, state.current.as_ref(), value, driver))
        })
    }

    /// Whether the slice is there.
    pub fn has_slice(&self, slice: SliceId) -> bool {
        match slice {
            SliceId::Vf(address) => self.vfs.contains_key(&address),
            SliceId::Mdev(uuid) => self.mdevs.contains_key(&uuid),
            SliceId::Function(address) => self.functions.contains_key(&address),
        }
    }

    /// What made a mediated device that is there.
    pub fn made_by(&self, slice: SliceId) -> Option<&ParentId> {
        match slice {
            SliceId::Mdev(uuid) => Some(&self.mdevs.get(&uuid)?.parent),
            SliceId::Vf(_) | SliceId::Function(_) => None,
        }
    }

    /// The PF of a parent that is a VF.
    pub fn pf_of(&self, parent: &ParentId) -> Option<ParentId> {
        self.vfs.get(&parent.pci()?).map(|vf| ParentId::Pci(vf.pf))
    }

    /// Whether a parent that is not among those seen may be there all the same: something about it, or the list it
    /// would be in, could not be read.
    pub fn unreadable(&self, parent: &ParentId) -> bool {
        let name = parent.to_string();
        self.problems.iter().any(|problem| {
            let path = problem.path.as_str();
            path.split('/').any(|part| part == name)
                || matches!(path, "/sys/bus/pci/devices" | "/sys/class/mdev_bus")
        })
    }

    /// Mediated devices that are there and could not be read; `None` when their list could not be.
    pub fn hidden_mdevs(&self) -> Option<BTreeSet<MdevUuid>> {
        let below = |problem: &'_ ReadProblem| {
            let rest = problem.path.strip_prefix("/sys/bus/mdev/devices")?;
            Some(rest.split('/').nth(1).and_then(|name| name.parse().ok()))
        };
        let hidden: Option<BTreeSet<MdevUuid>> = self.problems.iter().filter_map(below).collect();
        hidden.map(|hidden| {
            hidden.into_iter().filter(|uuid| !self.mdevs.contains_key(uuid)).collect()
        })
    }

    /// The device a parent is: of a VF its PF.
    pub fn device_of(&self, parent: &ParentId) -> ParentId {
        self.pf_of(parent).unwrap_or_else(|| parent.clone())
    }

    /// Whether more than a device's own driver lists of it is not known now: who tells it does not answer, which device it
    /// is could not be read, or the driver that made its types is about to leave with them.
    pub fn is_untold(&self, device: &ParentId) -> bool {
        let read = |gpu| self.functions.contains_key(&gpu) || self.whole.contains_key(&gpu);
        let leaves = |gpu| self.functions.get(&gpu).is_some_and(|gpu| gpu.driver.is_none());
        self.unanswered.contains(device)
            || device.pci().is_some_and(|gpu| !read(gpu))
            || device.pci().is_some_and(leaves) && self.mdev_parents.contains_key(device)
    }

    /// A GPU of an IOMMU group that a driver of the host has, and which: VFIO gives a group out as a whole or not at all
    /// (drivers/vfio/group.c), so nothing of it goes to a VM. VFs of one group do not stand in each other's way like that,
    /// as long as none has a driver of the host.
    pub fn host_in_group(&self, group: u32) -> Option<(PciAddress, &str)> {
        let mut gpus = self.functions.iter().chain(&self.whole);
        gpus.find_map(|(address, gpu)| {
            let driver = gpu.driver.as_deref().filter(|driver| !is_vfio(driver))?;
            (gpu.iommu_group == Some(group) && driver != PF_STUB).then_some((*address, driver))
        })
    }

    /// Whether a VF's group can go to a VM.
    pub fn is_passable(&self, vf: &Vf) -> bool {
        vf.iommu_group.is_some_and(|group| self.host_in_group(group).is_none())
    }

    /// NUMA node of a parent, a VF's by its PF.
    pub fn numa_node(&self, parent: &ParentId) -> Option<u32> {
        self.functions.get(&self.device_of(parent).pci()?)?.numa_node
    }
}
