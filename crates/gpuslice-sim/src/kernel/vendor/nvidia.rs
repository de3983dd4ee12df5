//! NVIDIA's vendor-specific VFIO: each VF gets its type by a write to `nvidia/current_vgpu_type`, the PF's driver
//! makes VFs only for `sriov-manage`, and a VF taken off its driver is of no use before all VFs are made anew.

pub(crate) mod card;
mod manage;
pub(crate) mod registry;
mod smi;

use crate::host_file::{DriverShape, MdevOn};
use crate::kernel::catalogue::{Catalogue, Made, Spot};
use crate::kernel::function::Role;
use crate::kernel::job::Task;
use crate::kernel::vfio::Member;
use crate::kernel::{Kernel, number};
use gpuslice_core::errno::Errno;
use gpuslice_core::ids::PciAddress;
use gpuslice_core::port::Written;
use std::fmt::Write;
use std::sync::Arc;
use uuid::Uuid;

/// The parameter that wishes for a placement.
const PLACEMENT: &str = "vgpu-placement-id=";

/// Killed this soon after its start, a VM leaves its VF wedged.
const INIT_MS: u64 = 5000;

/// A VF whose driver shows `nvidia/`.
#[derive(Debug, Clone)]
pub(crate) struct TypedVf {
    catalogue: Arc<Catalogue>,
    made: Option<Made>,
    params: String,
}

/// Files of `<VF>/nvidia/`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum VgpuFile {
    Creatable,
    Current,
    Params,
    Placement,
    Instance,
}

/// Files of `<mdev>/nvidia/`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum MdevVgpuFile {
    Params,
    VmName,
}

impl MdevVgpuFile {
    pub(crate) const ALL: &[Self] = &[Self::Params, Self::VmName];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Params => "vgpu_params",
            Self::VmName => "vm_name",
        }
    }
}

impl VgpuFile {
    const ALL: &[Self] =
        &[Self::Creatable, Self::Current, Self::Params, Self::Placement, Self::Instance];

    /// What the first versions had.
    const FIRST: &[Self] = &[Self::Creatable, Self::Current];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Creatable => "creatable_vgpu_types",
            Self::Current => "current_vgpu_type",
            Self::Params => "vgpu_params",
            Self::Placement => "placement_id",
            Self::Instance => "gpu_instance_id",
        }
    }
}

impl Kernel {
    /// The driver's probe of a VF is over; true when it passes the VF to VMs itself.
    pub(crate) fn vgpu_probed(&mut self, address: PciAddress) -> bool {
        let Some(catalogue) = self.vgpu_catalogue(address) else {
            return false;
        };
        // The driver needs it: its module depends on vfio's.
        self.modules.insert("vfio".into());
        let catalogue = Arc::new(catalogue);
        self.typed.insert(address, TypedVf { catalogue, made: None, params: String::new() });
        !self.spoiled.contains(&address)
    }

    fn vgpu_catalogue(&self, address: PciAddress) -> Option<Catalogue> {
        let function = self.functions.get(&address)?;
        let shape = self.shape(function)?;
        let here = function.is_vf() && shape.mdev.as_ref()?.on == MdevOn::VfType;
        let driver = shape.sriov.as_ref()?.vf_driver.as_deref();
        let bound = here && function.driver.as_deref() == driver;
        let name = address.to_string().as_str().into();
        bound.then(|| self.catalogue(&name)).flatten().map(|(_, catalogue)| catalogue)
    }

    /// The driver lets go of a VF, which takes its VFIO device for good.
    pub(crate) fn vgpu_released(&mut self, address: PciAddress) {
        if self.typed.remove(&address).is_some() {
            self.spoiled.insert(address);
        }
        self.card_released(address);
    }

    /// Whether a VM can open the VF: one without a type cannot.
    pub(crate) fn vgpu_closed(&self, address: PciAddress) -> bool {
        self.typed.get(&address).is_some_and(|vf| vf.made.is_none())
    }

    /// VFs that have a type.
    pub(crate) fn made_vgpus(&self, pool: &str) -> impl Iterator<Item = Made> {
        let typed = self.typed.values().filter(move |vf| vf.catalogue.pool == pool);
        typed.filter_map(|vf| vf.made)
    }

    /// What a vGPU is, with its parameters.
    fn vgpu(&self, member: Member) -> Option<(&Arc<Catalogue>, Made, &str)> {
        match member {
            Member::Pci(address) => {
                let vf = self.typed.get(&address)?;
                Some((&vf.catalogue, vf.made?, &vf.params))
            }
            Member::Mdev(uuid) => {
                let mdev = self.mdevs.get(&uuid)?;
                let parent = self.parents.get(&mdev.parent)?;
                let made = Made { kind: mdev.kind, spot: mdev.spot? };
                Some((&parent.catalogue, made, &mdev.params))
            }
        }
    }

    /// Whether a process has as many vGPUs of a card as it can have with one more of a type.
    fn vgpus_enough(&self, pid: u32, member: Member, catalogue: &Catalogue, made: Made) -> bool {
        let most = |of: &Catalogue, made: Made| of.types.get(made.kind).and_then(|t| t.per_vm);
        let open = self.processes.get(&pid).into_iter().flat_map(|process| process.open.keys());
        let others = open.filter(|other| **other != member).filter_map(|m| self.vgpu(*m));
        let others: Vec<_> = others.filter(|(of, ..)| of.pool == catalogue.pool).collect();
        let told = others.iter().filter_map(|(of, made, _)| most(of, *made));
        let most = told.chain(most(catalogue, made)).min();
        most.is_some_and(|most| usize::try_from(most).is_ok_and(|most| others.len() >= most))
    }

    /// A VM opens its vGPU: parameters are read now, and a wrong placement fails the start, as does one vGPU too many.
    pub(crate) fn vgpu_opens(&mut self, pid: u32, member: Member) -> Result<(), Errno> {
        let Some((catalogue, made, params)) = self.vgpu(member) else { return Ok(()) };
        if self.vgpus_enough(pid, member, catalogue, made) {
            return Err(Errno::EIO);
        }
        let Some(wish) = params.split(',').find_map(|p| p.strip_prefix(PLACEMENT)) else {
            return Ok(());
        };
        let mut others = self.made_of(&catalogue.pool);
        if let Some(own) = others.iter().position(|m| m.spot == made.spot) {
            others.remove(own);
        }
        let set = catalogue.card.map(|card| self.card_set(card)).unwrap_or_default();
        let cost = catalogue.types.get(made.kind).map_or(0, |of| of.cost);
        let on_grid =
            |id: &u32| set.mixed && catalogue.grid.get(&cost).is_some_and(|g| g.contains(id));
        let start = wish.parse().ok().filter(on_grid).ok_or(Errno::EIO)?;
        let spot = Spot { start, ..made.spot };
        if !catalogue.free(&others, spot, cost) {
            return Err(Errno::EIO);
        }
        match member {
            Member::Pci(address) => {
                if let Some(vf) = self.typed.get_mut(&address) {
                    vf.made = Some(Made { spot, ..made });
                }
            }
            Member::Mdev(uuid) => {
                if let Some(mdev) = self.mdevs.get_mut(&uuid) {
                    mdev.spot = Some(spot);
                }
            }
        }
        Ok(())
    }

    /// A VM's process has ended, with this open since then.
    pub(crate) fn vgpu_ended(&mut self, member: Member, since: u64) {
        match member {
            Member::Pci(address) if self.typed.contains_key(&address) => {
                let role = self.functions.get(&address).map(|f| f.role.clone());
                if let Some(Role::Vf { pf, .. }) = role
                    && self.now < since.saturating_add(INIT_MS)
                    && let Some(card) = self.cards.get_mut(&pf)
                {
                    card.wedged.insert(address);
                }
            }
            Member::Pci(_) => {}
            Member::Mdev(uuid) => {
                let parent = self.mdevs.get(&uuid).and_then(|m| self.parents.get(&m.parent));
                let card = parent.and_then(|parent| parent.catalogue.card);
                let after = card.and_then(|card| self.card_shape(card)?.removes_after_ms);
                if let Some(after) = after {
                    let at = Task::Sleep(self.now.saturating_add(after));
                    self.start(None, vec![at, Task::MdevRemove(uuid)]);
                }
            }
        }
    }

    /// Files of a mediated device's `nvidia/`.
    pub(crate) fn mdev_vgpu_content(
        &self,
        uuid: Uuid,
        file: MdevVgpuFile,
    ) -> Result<String, Errno> {
        let mdev = self.mdevs.get(&uuid).ok_or(Errno::ENODEV)?;
        Ok(match file {
            MdevVgpuFile::Params => format!("{}\n", mdev.params),
            MdevVgpuFile::VmName if self.mdev_held(uuid) => "unknown\n".to_owned(),
            MdevVgpuFile::VmName => String::new(),
        })
    }

    pub(crate) fn write_mdev_vgpu(&mut self, uuid: Uuid, data: &[u8]) -> Result<Written, Errno> {
        let mdev = self.mdevs.get_mut(&uuid).ok_or(Errno::ENODEV)?;
        number::line(data).trim().clone_into(&mut mdev.params);
        Ok(Written::Done)
    }

    /// Whether a mediated device shows `nvidia/`.
    pub(crate) fn has_mdev_vgpu_files(&self, uuid: Uuid) -> bool {
        let mdev = self.mdevs.get(&uuid).filter(|mdev| mdev.vfio.is_some() && !mdev.removing);
        let parent = mdev.and_then(|mdev| self.parents.get(&mdev.parent));
        parent.is_some_and(|parent| self.has_smi(&parent.catalogue.prefix))
    }

    pub(crate) fn has_vgpu_files(&self, address: PciAddress) -> bool {
        self.typed.contains_key(&address)
    }

    /// How the driver that passes a VF to VMs shows it.
    fn vgpu_driver(&self, address: PciAddress) -> Option<&DriverShape> {
        self.driver_shape(self.functions.get(&address)?.driver.as_deref()?)
    }

    /// The files of a VF.
    pub(crate) fn vgpu_files(&self, address: PciAddress) -> &'static [VgpuFile] {
        let old = self.vgpu_driver(address).is_some_and(|driver| driver.old_files);
        if old { VgpuFile::FIRST } else { VgpuFile::ALL }
    }

    pub(crate) fn vgpu_content(
        &self,
        address: PciAddress,
        file: VgpuFile,
    ) -> Result<String, Errno> {
        let vf = self.typed.get(&address).ok_or(Errno::ENODEV)?;
        let types = &vf.catalogue.types;
        let whole = !self.spoiled.contains(&address);
        Ok(match file {
            VgpuFile::Creatable => {
                let header = self.vgpu_driver(address).is_none_or(|driver| driver.list_header);
                let mut text = if header { "ID    : vGPU Name\n" } else { "" }.to_owned();
                if vf.made.is_some() || !whole {
                    return Ok(text);
                }
                let made = self.made_of(&vf.catalogue.pool);
                let set = vf.catalogue.card.map(|card| self.card_set(card)).unwrap_or_default();
                for (kind, of_type) in types.iter().enumerate() {
                    if vf.catalogue.room(&made, kind, &set).left > 0 {
                        // Writing to a text cannot fail.
                        let _ = writeln!(text, "{:<5} : {}", of_type.id, of_type.name);
                    }
                }
                text
            }
            VgpuFile::Current => {
                let id = vf.made.and_then(|made| types.get(made.kind)).map(|t| t.id.as_str());
                format!("{}\n", id.unwrap_or("0"))
            }
            VgpuFile::Params => format!("{}\n", vf.params),
            VgpuFile::Placement => format!("{}\n", vf.made.ok_or(Errno::ENXIO)?.spot.start),
            VgpuFile::Instance => {
                let instance = vf.made.and_then(|made| made.spot.instance);
                format!("{}\n", instance.ok_or(Errno::ENXIO)?)
            }
        })
    }

    pub(crate) fn write_vgpu(
        &mut self,
        address: PciAddress,
        file: VgpuFile,
        data: &[u8],
    ) -> Result<Written, Errno> {
        match file {
            VgpuFile::Creatable | VgpuFile::Placement | VgpuFile::Instance => Err(Errno::EACCES),
            VgpuFile::Params => {
                if self.spoiled.contains(&address) {
                    return Err(Errno::EINVAL);
                }
                let vf = self.typed.get_mut(&address).ok_or(Errno::ENODEV)?;
                number::line(data).trim().clone_into(&mut vf.params);
                Ok(Written::Done)
            }
            VgpuFile::Current => self.write_vgpu_type(address, data),
        }
    }

    /// Whether a card makes no mediated device before its manager has taken it up.
    pub(crate) fn vgpu_refused(&mut self, card: Option<PciAddress>) -> bool {
        let refused = card.is_some_and(|card| self.not_ready(card));
        if refused {
            self.printk("kvgpumgrCreateRequestVgpu: GPU is not initialized yet".to_owned());
        }
        refused
    }

    /// The vendor's order of checks: a number, a VFIO device, nothing there yet (or something to take away), room.
    fn write_vgpu_type(&mut self, address: PciAddress, data: &[u8]) -> Result<Written, Errno> {
        let id: u64 = number::line(data).trim().parse().map_err(|_| Errno::EINVAL)?;
        let whole = self.functions.get(&address).is_some_and(|f| f.vfio.is_some());
        let held = self.function_held(address);
        let vf = self.typed.get(&address).ok_or(Errno::ENODEV)?;
        if !whole {
            return Err(Errno::EINVAL);
        }
        if (id == 0) == vf.made.is_none() {
            return Err(Errno::EPERM);
        }
        let to = if id == 0 {
            // What the driver says of one in use is not known; it is never asked.
            if held {
                return Err(Errno::EBUSY);
            }
            None
        } else {
            let found = vf.catalogue.types.iter().position(|t| t.id == id.to_string());
            let card = vf.catalogue.card;
            let made = found.and_then(|kind| {
                let room = self.room(&vf.catalogue, kind);
                (room.left > 0).then_some(Made { kind, spot: room.first })
            });
            let why = if card.is_some_and(|card| self.not_ready(card)) {
                Some("kvgpumgrCreateRequestVgpu: GPU is not initialized yet".to_owned())
            } else if made.is_none() {
                let set = card.map(|card| self.card_set(card)).unwrap_or_default();
                let code = if set.mig && set.instances.is_empty() { 0x38 } else { 0x1f };
                Some(format!("Failed to add vgpu create request: 0x{code:x}"))
            } else {
                None
            };
            if let Some(why) = why {
                self.printk(format!("nvidia {address}: {why}"));
                return Err(Errno::EIO);
            }
            made
        };
        if let Some(vf) = self.typed.get_mut(&address) {
            vf.made = to;
        }
        Ok(Written::Done)
    }
}
