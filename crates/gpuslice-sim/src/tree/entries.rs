//! What each directory holds: by name, and as a list. Both answer from the same state, and a test walks the whole
//! tree to hold them together.

use super::bridges::{bridge_name, pf_of};
use super::files::{DriverFile, FunctionFile, MdevFile, ProcessFile, TypeFile};
use super::{Dir, FIXED, File, Fixed, Node};
use crate::kernel::binding::VFIO_PCI;
use crate::kernel::function::{Function, Role};
use crate::kernel::vendor::amdgpu::PartitionFile;
use crate::kernel::vendor::gim::files::GimFile;
use crate::kernel::vendor::nvidia::MdevVgpuFile;
use crate::kernel::vfio::{Member, Process};
use crate::kernel::{Kernel, Name};
use gpuslice_core::ids::PciAddress;
use uuid::Uuid;

impl Kernel {
    /// Names in a directory.
    pub(super) fn names(&self, dir: &Dir) -> Vec<String> {
        match dir {
            Dir::Fixed(fixed) => self.fixed_names(*fixed),
            Dir::PciDevices => self.functions.keys().map(ToString::to_string).collect(),
            Dir::PciDrivers => self.drivers.iter().map(|d| d.to_string()).collect(),
            Dir::PciDriver(name) => self.driver_names(name),
            Dir::Slots => self.slots().map(|(name, _)| name.to_owned()).collect(),
            Dir::Slot(_) => vec![SLOT_ADDRESS.to_owned()],
            Dir::MdevDevices => {
                let on_bus = self.mdevs.iter().filter(|(_, mdev)| !mdev.removing);
                on_bus.map(|(uuid, _)| uuid.to_string()).collect()
            }
            Dir::MdevDrivers => {
                let mut names: Vec<String> =
                    self.parents.values().map(|p| p.catalogue.driver.clone()).collect();
                names.sort();
                names.dedup();
                names
            }
            Dir::MdevBus => {
                let parents = self.parents.iter().filter(|(_, parent)| !parent.leaving);
                parents.map(|(name, _)| name.to_string()).collect()
            }
            Dir::Groups => self.groups.members.keys().map(ToString::to_string).collect(),
            Dir::Group(_) => vec!["devices".to_owned(), "type".to_owned()],
            Dir::GroupDevices(group) => {
                self.groups.members.get(group).into_iter().flatten().map(member_name).collect()
            }
            Dir::Modules => self.modules.iter().map(|m| m.replace('-', "_")).collect(),
            Dir::Module(name) => {
                let parameters = (!self.parameters(name).is_empty()).then_some("parameters");
                let version = self.version(name).map(|_| "version");
                let own = ["initstate"].into_iter().chain(parameters).chain(version);
                own.map(str::to_owned).collect()
            }
            Dir::Parameters(name) => {
                self.parameters(name).iter().map(|known| (*known).to_owned()).collect()
            }
            Dir::ModprobeD => self.modprobe_d.keys().cloned().collect(),
            Dir::MdevDriver(_) => Vec::new(),
            Dir::Vgpu(vf) => self.vgpu_files(*vf).iter().map(|f| f.name().to_owned()).collect(),
            Dir::MdevVgpu(_) => MdevVgpuFile::ALL.iter().map(|f| f.name().to_owned()).collect(),
            Dir::Devices => self.bridge_names(),
            Dir::Nodes => (0..self.nodes()).map(|n| format!("node{n}")).collect(),
            Dir::NumaNode(_) => vec![CPU_LIST.to_owned()],
            Dir::Bridge(domain, bus) => self.bridge_functions(*domain, *bus),
            Dir::Function(address) => self.function_names(*address),
            Dir::VfioDev(member) => {
                let number = self.vfio_number(*member);
                number.map(|n| format!("vfio{n}")).into_iter().collect()
            }
            Dir::VfioNumber(_) => Vec::new(),
            Dir::Virtual => self.virtual_parents().map(|n| n.to_string()).collect(),
            Dir::VirtualClass(name) => vec![name.to_string()],
            Dir::VirtualParent(name) => {
                let own = ["mdev_supported_types", "uevent"].map(str::to_owned);
                own.into_iter().chain(self.children(name)).collect()
            }
            Dir::Types(parent) => match self.parents.get(parent) {
                Some(found) => {
                    let catalogue = &found.catalogue;
                    let ids = catalogue.types.iter().map(|t| t.id.as_str());
                    ids.map(|id| format!("{}-{id}", catalogue.prefix)).collect()
                }
                None => Vec::new(),
            },
            Dir::Type(parent, kind) => {
                let described = self.described(parent, *kind);
                let files = TypeFile::ALL.iter();
                let files = files.filter(|f| described || **f != TypeFile::Description);
                files.map(|f| f.name()).chain(["devices"]).map(str::to_owned).collect()
            }
            Dir::TypeDevices(parent, kind) => self
                .parents
                .get(parent)
                .into_iter()
                .flat_map(|found| &found.children)
                .filter(|uuid| self.mdevs.get(uuid).is_some_and(|m| m.kind == *kind && m.linked))
                .map(Uuid::to_string)
                .collect(),
            Dir::Mdev(uuid) => self.mdev_names(*uuid),
            Dir::VfioNodes => {
                let nodes = self.groups.members.keys().filter(|group| self.has_node(**group));
                let mut names: Vec<String> = nodes.map(ToString::to_string).collect();
                names.push("vfio".to_owned());
                names.extend(self.host.kernel.vfio_cdev.then(|| "devices".to_owned()));
                names
            }
            Dir::VfioCdevs => self.cdev_numbers().map(|n| format!("vfio{n}")).collect(),
            Dir::Proc => {
                let pids = self.processes.keys().map(ToString::to_string);
                let driver = self.registry.as_ref().map(|_| "driver");
                pids.chain(["cmdline", "sys"].into_iter().chain(driver).map(str::to_owned))
                    .collect()
            }
            Dir::ProcDriver => self.registry.iter().map(|r| r.driver.to_string()).collect(),
            Dir::Registry(_) => vec![REGISTRY.to_owned(), GPUS.to_owned()],
            Dir::Gpus => self.locked_gpus().map(|gpu| gpu.to_string()).collect(),
            Dir::Gpu(_) => vec![UNBIND_LOCK.to_owned()],
            Dir::Process(_) => ["cmdline", "comm", "fd", "fdinfo"].map(str::to_owned).to_vec(),
            Dir::Descriptors(pid) | Dir::DescriptorInfos(pid) => {
                let open = self.processes.get(pid).into_iter().flat_map(Process::descriptors);
                let mut numbers: Vec<u32> = open.map(|(number, _)| number).collect();
                numbers.push(3);
                numbers.iter().map(ToString::to_string).collect()
            }
        }
    }

    fn fixed_names(&self, fixed: Fixed) -> Vec<String> {
        let held = FIXED.iter().filter(|(parent, ..)| *parent == fixed);
        let held = held.filter(|(_, _, dir)| self.exists(dir)).map(|(_, name, _)| *name);
        let own: &[&str] = match fixed {
            Fixed::Pci => &["drivers_probe"],
            Fixed::Etc if self.gim_config.is_some() => &["gim_config"],
            Fixed::Random => &["boot_id"],
            _ => &[],
        };
        held.chain(own.iter().copied()).map(str::to_owned).collect()
    }

    pub(super) fn version(&self, module: &Name) -> Option<&str> {
        self.driver_shape(module)?.version.as_deref()
    }

    fn parameters(&self, module: &Name) -> &'static [&'static str] {
        match self.driver_shape(module) {
            Some(driver) if driver.gim.is_some() => Self::gim_parameters(),
            None if **module == *VFIO_PCI => &[ENABLE_SRIOV],
            _ => &[],
        }
    }

    /// Whether a fixed directory is there at all: modules bring some.
    fn exists(&self, dir: &Dir) -> bool {
        match dir {
            Dir::Fixed(Fixed::Mdev) => self.modules.contains("mdev"),
            Dir::MdevBus => self.mdev_class,
            Dir::VfioNodes => self.modules.contains("vfio"),
            _ => true,
        }
    }

    fn driver_names(&self, driver: &Name) -> Vec<String> {
        let files = DriverFile::ALL.iter();
        let files = files.filter(|f| **f == DriverFile::Uevent || self.has_bind_files(driver));
        let bound = self.functions.iter().filter(|(_, f)| f.shown_driver() == Some(driver));
        let bound = bound.map(|(address, _)| address.to_string());
        files.map(|f| f.name().to_owned()).chain(bound).collect()
    }

    /// As many as the host's devices are on.
    fn nodes(&self) -> u32 {
        let of_devices = self.host.functions.iter().map(|f| f.numa_node);
        of_devices.filter_map(|node| u32::try_from(node).ok()).max().unwrap_or(0) + 1
    }

    fn function_names(&self, address: PciAddress) -> Vec<String> {
        let Some(function) = self.functions.get(&address) else {
            return Vec::new();
        };
        let files = FunctionFile::ALL.iter().filter(|f| self.has_file(function, **f));
        let mut names: Vec<String> = files.map(|f| f.name().to_owned()).collect();
        names.push("subsystem".to_owned());
        for (name, there) in [
            ("driver", function.shown_driver().is_some()),
            ("iommu_group", function.group.is_some()),
            ("physfn", matches!(function.role, Role::Vf { linked: true, .. })),
            ("vfio-dev", function.vfio.is_some() && !function.releasing),
            ("nvidia", self.has_vgpu_files(address)),
        ] {
            names.extend(there.then(|| name.to_owned()));
        }
        if self.has_gim_files(address) {
            names.extend(GimFile::ALL.iter().map(|file| file.name().to_owned()));
        }
        if self.has_partition_files(address) {
            names.extend(PartitionFile::ALL.iter().map(|file| file.name().to_owned()));
        }
        names.extend(self.linked_vfs(address).iter().map(|(index, _)| format!("virtfn{index}")));
        let parent = address.to_string();
        if self.parents.contains_key(parent.as_str()) {
            names.push("mdev_supported_types".to_owned());
            names.extend(self.children(&parent));
        }
        names
    }

    fn has_file(&self, function: &Function, file: FunctionFile) -> bool {
        let pf = matches!(function.role, Role::Pf { .. });
        let shape = self.shape(function);
        let resets = shape.is_some_and(|shape| !shape.reset_method.is_empty());
        // pci_dev_attrs_are_visible.
        let vga = file != FunctionFile::BootVga || shape.is_some_and(|s| s.class >> 8 == 0x0300);
        (pf || !file.of_sriov()) && (resets || !file.of_reset()) && vga
    }

    fn children(&self, parent: &str) -> Vec<String> {
        let children = self.parents.get(parent).into_iter().flat_map(|p| &p.children);
        children.map(Uuid::to_string).collect()
    }

    fn virtual_parents(&self) -> impl Iterator<Item = &Name> {
        use crate::kernel::mdev::Place;
        self.parents.iter().filter(|(_, p)| p.place == Place::Virtual).map(|(name, _)| name)
    }

    fn described(&self, parent: &Name, kind: usize) -> bool {
        let found = self.parents.get(parent).and_then(|p| p.catalogue.types.get(kind));
        found.is_some_and(|kind| kind.description.is_some())
    }

    fn mdev_names(&self, uuid: Uuid) -> Vec<String> {
        let Some(mdev) = self.mdevs.get(&uuid) else {
            return Vec::new();
        };
        let bound = mdev.vfio.is_some();
        let files = MdevFile::ALL.iter();
        let files = files.filter(|f| **f != MdevFile::Remove || !mdev.removing);
        let links = [
            ("subsystem", !mdev.removing),
            ("mdev_type", mdev.linked),
            ("iommu_group", bound),
            ("driver", bound && !mdev.removing),
            ("vfio-dev", bound && !mdev.removing),
            ("nvidia", self.has_mdev_vgpu_files(uuid)),
        ];
        let links = links.iter().filter(|(_, there)| *there);
        let names = files.map(|f| f.name()).chain(links.map(|(name, _)| *name));
        names.map(str::to_owned).collect()
    }

    fn cdev_numbers(&self) -> impl Iterator<Item = u32> {
        let functions = self.functions.values().filter(|f| !f.releasing).filter_map(|f| f.vfio);
        let mdevs = self.mdevs.values().filter(|m| !m.removing).filter_map(|m| m.vfio);
        functions.chain(mdevs)
    }

    /// What a directory holds under a name.
    pub(super) fn entry(&self, dir: &Dir, name: &str) -> Option<Node> {
        match dir {
            Dir::Fixed(fixed) => self.fixed_entry(*fixed, name),
            Dir::PciDevices => self.known(name).map(|a| Node::Link(Dir::Function(a))),
            Dir::PciDrivers => {
                self.drivers.get(name).cloned().map(|d| Node::Dir(Dir::PciDriver(d)))
            }
            Dir::PciDriver(driver) => self.driver_entry(driver, name),
            Dir::Slots => self.slot(name).map(|_| Node::Dir(Dir::Slot(name.to_owned()))),
            Dir::Slot(slot) => {
                (name == SLOT_ADDRESS).then(|| Node::File(File::SlotAddress(slot.clone())))
            }
            Dir::MdevDevices => {
                let uuid = self.mdev_named(name)?;
                (!self.mdevs.get(&uuid)?.removing).then_some(Node::Link(Dir::Mdev(uuid)))
            }
            Dir::MdevDrivers => {
                let there = self.parents.values().any(|p| p.catalogue.driver == name);
                there.then(|| Node::Dir(Dir::MdevDriver(name.into())))
            }
            Dir::MdevBus => {
                let (name, parent) = self.parents.get_key_value(name)?;
                (!parent.leaving).then(|| Node::Link(self.parent_dir(name)))
            }
            Dir::Groups => {
                let group = plain_number(name)?;
                let there = self.groups.members.contains_key(&group);
                there.then_some(Node::Dir(Dir::Group(group)))
            }
            Dir::Group(group) => match name {
                "devices" => Some(Node::Dir(Dir::GroupDevices(*group))),
                "type" => Some(Node::File(File::GroupType(*group))),
                _ => None,
            },
            Dir::GroupDevices(group) => {
                let members = self.groups.members.get(group)?;
                let found = members.iter().find(|member| member_name(member) == name)?;
                Some(Node::Link(match found {
                    Member::Pci(address) => Dir::Function(*address),
                    Member::Mdev(uuid) => Dir::Mdev(*uuid),
                }))
            }
            Dir::Modules => {
                let found = self.modules.iter().find(|m| m.replace('-', "_") == name)?;
                Some(Node::Dir(Dir::Module(found.clone())))
            }
            Dir::Module(module) => match name {
                "initstate" => Some(Node::File(File::ModuleState(module.clone()))),
                "version" if self.version(module).is_some() => {
                    Some(Node::File(File::ModuleVersion(module.clone())))
                }
                "parameters" => {
                    let any = !self.parameters(module).is_empty();
                    any.then(|| Node::Dir(Dir::Parameters(module.clone())))
                }
                _ => None,
            },
            Dir::Parameters(module) => {
                let found = self.parameters(module).iter().find(|known| **known == name)?;
                Some(Node::File(File::Parameter(found)))
            }
            Dir::ModprobeD => {
                let known = self.modprobe_d.contains_key(name);
                known.then(|| Node::File(File::Settings(name.to_owned())))
            }
            Dir::MdevDriver(_) | Dir::VfioNumber(_) => None,
            Dir::Devices if name == "system" => Some(Node::Dir(Dir::Fixed(Fixed::System))),
            Dir::Nodes => {
                let number = plain_number(name.strip_prefix("node")?)?;
                (number < self.nodes()).then_some(Node::Dir(Dir::NumaNode(number)))
            }
            Dir::NumaNode(number) => {
                (name == CPU_LIST).then_some(Node::File(File::CpuList(*number)))
            }
            Dir::Devices if name == "virtual" => Some(Node::Dir(Dir::Virtual)),
            Dir::Devices => {
                let mut addresses = self.host.functions.iter().map(|f| f.address);
                let found = addresses.find(|address| bridge_name(*address) == name)?;
                Some(Node::Dir(Dir::Bridge(found.domain(), found.bus())))
            }
            Dir::Bridge(domain, bus) => {
                let address = self.known(name)?;
                let top = pf_of(address, self.functions.get(&address)?);
                let here = (top.domain(), top.bus()) == (*domain, *bus);
                here.then_some(Node::Dir(Dir::Function(address)))
            }
            Dir::Function(address) => self.function_entry(*address, name),
            Dir::Vgpu(address) => {
                let file = self.vgpu_files(*address).iter().find(|f| f.name() == name)?;
                Some(Node::File(File::Vgpu(*address, *file)))
            }
            Dir::MdevVgpu(uuid) => {
                let file = MdevVgpuFile::ALL.iter().find(|f| f.name() == name)?;
                Some(Node::File(File::MdevVgpu(*uuid, *file)))
            }
            Dir::VfioDev(member) => {
                let number = self.vfio_number(*member)?;
                (name == format!("vfio{number}")).then_some(Node::Dir(Dir::VfioNumber(*member)))
            }
            Dir::Virtual => {
                let found = self.virtual_parents().find(|known| ***known == *name)?;
                Some(Node::Dir(Dir::VirtualClass(found.clone())))
            }
            Dir::VirtualClass(class) => {
                (**class == *name).then(|| Node::Dir(Dir::VirtualParent(class.clone())))
            }
            Dir::VirtualParent(parent) => match name {
                "mdev_supported_types" => Some(Node::Dir(Dir::Types(parent.clone()))),
                "uevent" => Some(Node::File(File::VirtualUevent(parent.clone()))),
                _ => self.child_entry(parent, name),
            },
            Dir::Types(parent) => {
                let catalogue = &self.parents.get(parent)?.catalogue;
                let id = name.strip_prefix(catalogue.prefix.as_str())?.strip_prefix('-')?;
                let kind = catalogue.types.iter().position(|t| t.id == id)?;
                Some(Node::Dir(Dir::Type(parent.clone(), kind)))
            }
            Dir::Type(parent, kind) => self.type_entry(parent, *kind, name),
            Dir::TypeDevices(parent, kind) => {
                let uuid = self.mdev_named(name)?;
                let mdev = self.mdevs.get(&uuid)?;
                let here = mdev.parent == *parent && mdev.kind == *kind && mdev.linked;
                here.then_some(Node::Link(Dir::Mdev(uuid)))
            }
            Dir::Mdev(uuid) => self.mdev_entry(*uuid, name),
            Dir::VfioNodes if name == "vfio" => Some(Node::File(File::Node)),
            Dir::VfioNodes if name == "devices" => {
                self.host.kernel.vfio_cdev.then_some(Node::Dir(Dir::VfioCdevs))
            }
            Dir::VfioNodes => self.has_node(plain_number(name)?).then_some(Node::File(File::Node)),
            Dir::VfioCdevs => {
                let number = plain_number(name.strip_prefix("vfio")?)?;
                self.cdev_numbers().any(|n| n == number).then_some(Node::File(File::Node))
            }
            Dir::Proc if name == "sys" => Some(Node::Dir(Dir::Fixed(Fixed::ProcSys))),
            Dir::Proc if name == "cmdline" => Some(Node::File(File::Arguments)),
            Dir::Proc if name == "driver" => {
                self.registry.is_some().then_some(Node::Dir(Dir::ProcDriver))
            }
            Dir::ProcDriver => {
                let registry = self.registry.as_ref().filter(|r| *r.driver == *name)?;
                Some(Node::Dir(Dir::Registry(registry.driver.clone())))
            }
            Dir::Registry(_) if name == GPUS => Some(Node::Dir(Dir::Gpus)),
            Dir::Registry(_) => (name == REGISTRY).then_some(Node::File(File::Registry)),
            Dir::Gpus => {
                let mut gpus = self.locked_gpus();
                gpus.find(|gpu| gpu.to_string() == name).map(|gpu| Node::Dir(Dir::Gpu(gpu)))
            }
            Dir::Gpu(gpu) => (name == UNBIND_LOCK).then_some(Node::File(File::UnbindLock(*gpu))),
            Dir::Proc => {
                let pid = plain_number(name)?;
                self.processes.contains_key(&pid).then_some(Node::Dir(Dir::Process(pid)))
            }
            Dir::Process(pid) if name == "fd" => Some(Node::Dir(Dir::Descriptors(*pid))),
            Dir::Process(pid) if name == "fdinfo" => Some(Node::Dir(Dir::DescriptorInfos(*pid))),
            Dir::Process(pid) => {
                let file = ProcessFile::ALL.iter().find(|f| f.name() == name)?;
                Some(Node::File(File::Process(*pid, *file)))
            }
            Dir::Descriptors(_) if name == "3" => {
                let cdev = self.host.kernel.vfio_cdev;
                Some(Node::Descriptor(
                    if cdev { "/dev/iommu" } else { "/dev/vfio/vfio" }.to_owned(),
                ))
            }
            Dir::Descriptors(pid) => {
                let mut open = self.processes.get(pid)?.descriptors();
                let (_, node) = open.find(|(number, _)| number.to_string() == name)?;
                Some(Node::Descriptor(node.to_owned()))
            }
            Dir::DescriptorInfos(pid) => {
                let open = self.entry(&Dir::Descriptors(*pid), name);
                open.map(|_| Node::File(File::DescriptorInfo))
            }
        }
    }

    fn fixed_entry(&self, fixed: Fixed, name: &str) -> Option<Node> {
        match (fixed, name) {
            (Fixed::Etc, "gim_config") => {
                return self.gim_config.is_some().then_some(Node::File(File::GimConfig));
            }
            (Fixed::Pci, "drivers_probe") => return Some(Node::File(File::DriversProbe)),
            (Fixed::Random, "boot_id") => return Some(Node::File(File::BootId)),
            _ => {}
        }
        let found = FIXED.iter().find(|(parent, entry, _)| *parent == fixed && *entry == name);
        let (_, _, dir) = found?;
        self.exists(dir).then(|| Node::Dir(dir.clone()))
    }

    fn driver_entry(&self, driver: &Name, name: &str) -> Option<Node> {
        if let Some(file) = DriverFile::ALL.iter().find(|f| f.name() == name) {
            let there = *file == DriverFile::Uevent || self.has_bind_files(driver);
            return there.then(|| Node::File(File::Driver(driver.clone(), *file)));
        }
        let address = self.known(name)?;
        let bound = self.functions.get(&address)?.shown_driver() == Some(driver);
        bound.then_some(Node::Link(Dir::Function(address)))
    }

    fn function_entry(&self, address: PciAddress, name: &str) -> Option<Node> {
        let function = self.functions.get(&address)?;
        if let Some(file) = FunctionFile::ALL.iter().find(|f| f.name() == name) {
            let there = self.has_file(function, *file);
            return there.then_some(Node::File(File::Function(address, *file)));
        }
        if let Some(index) = name.strip_prefix("virtfn").and_then(plain_number) {
            let vf = self.linked_vf(address, u16::try_from(index).ok()?)?;
            return Some(Node::Link(Dir::Function(vf)));
        }
        if let Some(file) = GimFile::ALL.iter().find(|f| f.name() == name) {
            return self.has_gim_files(address).then_some(Node::File(File::Gim(address, *file)));
        }
        if let Some(file) = PartitionFile::ALL.iter().find(|f| f.name() == name) {
            let there = self.has_partition_files(address);
            return there.then_some(Node::File(File::Partition(address, *file)));
        }
        match name {
            "subsystem" => Some(Node::Link(Dir::Fixed(Fixed::Pci))),
            "driver" => function.shown_driver().cloned().map(|d| Node::Link(Dir::PciDriver(d))),
            "iommu_group" => function.group.map(|group| Node::Link(Dir::Group(group))),
            "physfn" => match function.role {
                Role::Vf { pf, linked: true, .. } => Some(Node::Link(Dir::Function(pf))),
                _ => None,
            },
            "vfio-dev" if function.vfio.is_some() && !function.releasing => {
                Some(Node::Dir(Dir::VfioDev(Member::Pci(address))))
            }
            "nvidia" => self.has_vgpu_files(address).then_some(Node::Dir(Dir::Vgpu(address))),
            _ => {
                let (parent, _) = self.parents.get_key_value(address.to_string().as_str())?;
                match name {
                    "mdev_supported_types" => Some(Node::Dir(Dir::Types(parent.clone()))),
                    _ => self.child_entry(parent, name),
                }
            }
        }
    }

    fn child_entry(&self, parent: &Name, name: &str) -> Option<Node> {
        let uuid = self.mdev_named(name)?;
        (self.mdevs.get(&uuid)?.parent == *parent).then_some(Node::Dir(Dir::Mdev(uuid)))
    }

    fn type_entry(&self, parent: &Name, kind: usize, name: &str) -> Option<Node> {
        if name == "devices" {
            return Some(Node::Dir(Dir::TypeDevices(parent.clone(), kind)));
        }
        let file = TypeFile::ALL.iter().find(|f| f.name() == name)?;
        let there = *file != TypeFile::Description || self.described(parent, kind);
        there.then(|| Node::File(File::Type(parent.clone(), kind, *file)))
    }

    fn mdev_entry(&self, uuid: Uuid, name: &str) -> Option<Node> {
        let mdev = self.mdevs.get(&uuid)?;
        let parent = self.parents.get(&mdev.parent)?;
        if let Some(file) = MdevFile::ALL.iter().find(|f| f.name() == name) {
            let there = *file != MdevFile::Remove || !mdev.removing;
            return there.then_some(Node::File(File::Mdev(uuid, *file)));
        }
        match name {
            "subsystem" if !mdev.removing => Some(Node::Link(Dir::Fixed(Fixed::Mdev))),
            "mdev_type" if mdev.linked => {
                Some(Node::Link(Dir::Type(mdev.parent.clone(), mdev.kind)))
            }
            "iommu_group" => mdev.group.map(|group| Node::Link(Dir::Group(group))),
            "nvidia" => self.has_mdev_vgpu_files(uuid).then_some(Node::Dir(Dir::MdevVgpu(uuid))),
            "vfio-dev" if mdev.vfio.is_some() && !mdev.removing => {
                Some(Node::Dir(Dir::VfioDev(Member::Mdev(uuid))))
            }
            "driver" if mdev.vfio.is_some() && !mdev.removing => {
                Some(Node::Link(Dir::MdevDriver(parent.catalogue.driver.as_str().into())))
            }
            _ => None,
        }
    }

    /// Directory names are exact: no other spelling of an address finds it.
    fn known(&self, name: &str) -> Option<PciAddress> {
        let address: PciAddress = name.parse().ok()?;
        (self.functions.contains_key(&address) && address.to_string() == name).then_some(address)
    }

    fn mdev_named(&self, name: &str) -> Option<Uuid> {
        let uuid = Uuid::try_parse(name).ok()?;
        (self.mdevs.contains_key(&uuid) && uuid.to_string() == name).then_some(uuid)
    }

    pub(super) fn parent_dir(&self, name: &Name) -> Dir {
        use crate::kernel::mdev::Place;
        match self.parents.get(name).map(|parent| parent.place) {
            Some(Place::Pci(address)) => Dir::Function(address),
            _ => Dir::VirtualParent(name.clone()),
        }
    }
}

/// vfio-pci's, whether it makes VFs.
pub(super) const ENABLE_SRIOV: &str = "enable_sriov";

/// Where the device in a slot is.
const SLOT_ADDRESS: &str = "address";

/// What a driver with a registry shows in `/proc`.
const REGISTRY: &str = "params";

/// Beside it, a folder for each of its GPUs, with one file.
pub(super) const GPUS: &str = "gpus";
const UNBIND_LOCK: &str = "unbindLock";

/// Which CPUs a NUMA node has.
const CPU_LIST: &str = "cpulist";

fn member_name(member: &Member) -> String {
    match member {
        Member::Pci(address) => address.to_string(),
        Member::Mdev(uuid) => uuid.to_string(),
    }
}

/// A number as the kernel prints it.
fn plain_number(text: &str) -> Option<u32> {
    let number: u32 = text.parse().ok()?;
    (number.to_string() == text).then_some(number)
}
