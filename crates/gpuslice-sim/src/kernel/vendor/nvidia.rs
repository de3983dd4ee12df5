//! NVIDIA's vendor-specific VFIO: each VF gets its type by a write to `nvidia/current_vgpu_type`, the PF's driver
//! makes VFs only for `sriov-manage`, and a VF taken off its driver is of no use before all VFs are made anew.

use crate::host_file::{MdevOn, MdevRule};
use crate::kernel::function::Role;
use crate::kernel::job::{Lock, Task};
use crate::kernel::mdev::Catalogue;
use crate::kernel::{Kernel, number};
use gpuslice_core::errno::Errno;
use gpuslice_core::ids::PciAddress;
use gpuslice_core::port::{Ran, Written};
use std::fmt::Write;
use std::sync::Arc;

/// A VF whose driver shows `nvidia/`.
#[derive(Debug, Clone)]
pub(crate) struct TypedVf {
    catalogue: Arc<Catalogue>,
    /// Index of its type.
    kind: Option<usize>,
    params: String,
}

/// Files of `<VF>/nvidia/`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum VgpuFile {
    Creatable,
    Current,
    Params,
    Placement,
}

impl VgpuFile {
    pub(crate) const ALL: &[Self] =
        &[Self::Creatable, Self::Current, Self::Params, Self::Placement];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Creatable => "creatable_vgpu_types",
            Self::Current => "current_vgpu_type",
            Self::Params => "vgpu_params",
            Self::Placement => "placement_id",
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
        self.typed.insert(address, TypedVf { catalogue, kind: None, params: String::new() });
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
    }

    /// Whether a VM can open the VF: one without a type cannot.
    pub(crate) fn vgpu_closed(&self, address: PciAddress) -> bool {
        self.typed.get(&address).is_some_and(|vf| vf.kind.is_none())
    }

    /// How many more of a type fit beside what the VFs of the card have.
    fn vgpu_room(&self, catalogue: &Catalogue, kind: usize) -> u64 {
        let Some(wanted) = catalogue.types.get(kind) else {
            return 0;
        };
        let (mut drawn, mut own) = (0, 0);
        for vf in self.typed.values().filter(|vf| vf.catalogue.pool == catalogue.pool) {
            let Some((index, there)) = vf.kind.and_then(|k| Some((k, catalogue.types.get(k)?)))
            else {
                continue;
            };
            let clash = match catalogue.rule {
                MdevRule::Mixed => false,
                MdevRule::SameType => index != kind,
                MdevRule::SameSize => there.cost != wanted.cost,
            };
            if clash {
                return 0;
            }
            drawn += there.cost;
            own += u64::from(index == kind);
        }
        let fits = catalogue.budget.saturating_sub(drawn) / wanted.cost;
        wanted.max.map_or(fits, |max| fits.min(u64::from(max).saturating_sub(own)))
    }

    pub(crate) fn has_vgpu_files(&self, address: PciAddress) -> bool {
        self.typed.contains_key(&address)
    }

    pub(crate) fn vgpu_content(
        &self,
        address: PciAddress,
        file: VgpuFile,
    ) -> Result<String, Errno> {
        let vf = self.typed.get(&address).ok_or(Errno::ENODEV)?;
        let types = &vf.catalogue.types;
        Ok(match file {
            VgpuFile::Creatable => {
                let mut text = "ID    : vGPU Name\n".to_owned();
                for (kind, of_type) in types.iter().enumerate() {
                    if vf.kind.is_none() && self.vgpu_room(&vf.catalogue, kind) > 0 {
                        // Writing to a text cannot fail.
                        let _ = writeln!(text, "{:<5} : {}", of_type.id, of_type.name);
                    }
                }
                text
            }
            VgpuFile::Current => {
                let id = vf.kind.and_then(|kind| types.get(kind)).map(|t| t.id.as_str());
                format!("{}\n", id.unwrap_or("0"))
            }
            VgpuFile::Params => format!("{}\n", vf.params),
            VgpuFile::Placement => {
                vf.kind.ok_or(Errno::ENXIO)?;
                "0\n".to_owned()
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
            VgpuFile::Creatable | VgpuFile::Placement => Err(Errno::EACCES),
            VgpuFile::Params => {
                let vf = self.typed.get_mut(&address).ok_or(Errno::ENODEV)?;
                number::line(data).trim().clone_into(&mut vf.params);
                Ok(Written::Done)
            }
            VgpuFile::Current => self.write_vgpu_type(address, data),
        }
    }

    /// The vendor's order of checks: a number, a VFIO device, nothing there yet (or something to take away), room.
    fn write_vgpu_type(&mut self, address: PciAddress, data: &[u8]) -> Result<Written, Errno> {
        let id: i64 = number::line(data).trim().parse().map_err(|_| Errno::EINVAL)?;
        let whole = self.functions.get(&address).is_some_and(|f| f.vfio.is_some());
        let held = self.function_held(address);
        let vf = self.typed.get(&address).ok_or(Errno::ENODEV)?;
        if !whole {
            return Err(Errno::EINVAL);
        }
        if (id == 0) == vf.kind.is_none() {
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
            let fits = found.filter(|kind| self.vgpu_room(&vf.catalogue, *kind) > 0);
            Some(fits.ok_or(Errno::EIO)?)
        };
        if let Some(vf) = self.typed.get_mut(&address) {
            vf.kind = to;
        }
        Ok(Written::Done)
    }

    /// `sriov-manage -e|-d <address>`: all VFs or none.
    pub(crate) fn sriov_manage(&mut self, arguments: &[String]) -> Result<Ran, Errno> {
        let said = |code, text: String| Ok(Ran { code, said: text });
        let [option, address] = arguments else {
            return said(
                1,
                "Usage: sriov-manage <-e|-d> <domain:bus:slot.function|ALL>".to_owned(),
            );
        };
        let pf: PciAddress = match address.parse() {
            Ok(pf) => pf,
            Err(_) => return said(1, format!("{address}: no such device")),
        };
        let Some((total, now)) = self.vf_counts(pf) else {
            return said(1, format!("{address}: no such device"));
        };
        if self.tool_fault(pf) {
            return said(1, format!("Cannot obtain unbindLock for {address}"));
        }
        let bound = self.functions.get(&pf).is_some_and(|f| f.driver.is_some());
        if !bound {
            return said(1, format!("{address} is not bound to its driver"));
        }
        let mut tasks = vec![Task::Lock(Lock::Device(pf))];
        let delay = self.sriov_delay(pf);
        match option.as_str() {
            "-e" if now == total => return said(0, String::new()),
            "-d" if now == 0 => return said(0, String::new()),
            "-e" => tasks.extend([Task::Sleep(self.now + delay), Task::Configure(pf, total)]),
            "-d" => tasks.extend(self.disable_tasks(pf)),
            _ => return said(1, format!("{option}: unknown option")),
        }
        self.run_to_end(tasks).or_else(|errno| said(1, format!("{address}: {errno}")))?;
        said(0, format!("Enabling VFs on {address}"))
    }

    fn vf_counts(&self, pf: PciAddress) -> Option<(u16, u16)> {
        let function = self.functions.get(&pf)?;
        let total = self.shape(function)?.sriov.as_ref()?.total_vfs;
        match function.role {
            Role::Pf { numvfs, .. } => Some((total, numvfs)),
            _ => None,
        }
    }
}
