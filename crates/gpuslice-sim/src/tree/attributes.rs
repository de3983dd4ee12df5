//! What files read.

use super::File;
use super::entries::ENABLE_SRIOV;
use super::files::{FunctionFile, MdevFile, ProcessFile, TypeFile};
use crate::kernel::Kernel;
use crate::kernel::function::Role;
use crate::kernel::job::Lock;
use gpuslice_core::errno::Errno;
use gpuslice_core::ids::PciAddress;
use std::sync::atomic::Ordering;

/// Each NUMA node has so many.
const CPUS_OF_NODE: u32 = 8;

impl Kernel {
    pub(super) fn content(&self, file: &File) -> Result<Vec<u8>, Errno> {
        let text = match file {
            File::Function(address, FunctionFile::Config) => {
                let function = self.functions.get(address).ok_or(Errno::ENODEV)?;
                return Ok(self.config_space(function));
            }
            File::Function(address, file) => self.function_content(*address, *file)?,
            File::Type(parent, kind, file) => {
                let parent = self.parents.get(parent).ok_or(Errno::ENODEV)?;
                let found = parent.catalogue.types.get(*kind).ok_or(Errno::ENODEV)?;
                match file {
                    TypeFile::DeviceApi => "vfio-pci\n".to_owned(),
                    TypeFile::Name => format!("{}\n", found.name),
                    TypeFile::Description => {
                        format!("{}\n", found.description.as_deref().unwrap_or_default())
                    }
                    TypeFile::AvailableInstances => format!("{}\n", self.available(parent, *kind)),
                    TypeFile::Create => return Err(Errno::EACCES),
                }
            }
            File::Vgpu(address, file) => self.vgpu_content(*address, *file)?,
            File::MdevVgpu(uuid, file) => self.mdev_vgpu_content(*uuid, *file)?,
            File::Mdev(uuid, MdevFile::Uevent) => {
                let mdev = self.mdevs.get(uuid).filter(|mdev| mdev.vfio.is_some());
                let parent = mdev.and_then(|mdev| self.parents.get(&mdev.parent));
                parent.map(|p| format!("DRIVER={}\n", p.catalogue.driver)).unwrap_or_default()
            }
            File::VirtualUevent(_) => String::new(),
            File::GroupType(_) => "DMA\n".to_owned(),
            File::ModuleState(name) if self.jobs.values().any(|job| job.unloads(name)) => {
                "going\n".to_owned()
            }
            File::ModuleState(_) => "live\n".to_owned(),
            File::ModuleVersion(name) => format!("{}\n", self.version(name).ok_or(Errno::ENOENT)?),
            File::Gim(address, file) => self.gim_content(*address, *file)?,
            File::Partition(address, file) => self.partition_content(*address, *file)?,
            File::Parameter(ENABLE_SRIOV) => {
                format!("{}\n", if self.host.kernel.vfio_sriov { 'Y' } else { 'N' })
            }
            File::Parameter(name) => self.gim_parameter(name).ok_or(Errno::ENODEV)?,
            File::Registry => self.registry_params().ok_or(Errno::ENOENT)?,
            File::UnbindLock(gpu) => format!("{}\n", u8::from(self.has_unbind_lock(*gpu))),
            File::GimConfig => return self.gim_config.clone().ok_or(Errno::ENOENT),
            File::Arguments => self.arguments.clone(),
            File::Settings(name) => {
                return self.modprobe_d.get(name).cloned().ok_or(Errno::ENOENT);
            }
            File::BootId => format!("{}\n", self.boot_id),
            File::SlotAddress(name) => {
                let at = self.slot(name).ok_or(Errno::ENODEV)?;
                format!("{:04x}:{:02x}:{:02x}\n", at.domain(), at.bus(), at.device())
            }
            File::CpuList(node) => {
                let first = node * CPUS_OF_NODE;
                format!("{first}-{}\n", first + CPUS_OF_NODE - 1)
            }
            File::Process(pid, file) => {
                let process = self.processes.get(pid).ok_or(Errno::ENOENT)?;
                match file {
                    // TASK_COMM_LEN
                    ProcessFile::Comm => {
                        format!("{}\n", process.comm.chars().take(15).collect::<String>())
                    }
                    ProcessFile::Cmdline => format!("{}\0", process.comm),
                }
            }
            // O_RDWR | O_CLOEXEC
            File::DescriptorInfo => "pos:\t0\nflags:\t02000002\nmnt_id:\t1\nino:\t1\n".to_owned(),
            File::Node => return Err(Errno::EINVAL),
            File::Driver(..) | File::DriversProbe | File::Mdev(_, MdevFile::Remove) => {
                return Err(Errno::EACCES);
            }
        };
        Ok(text.into_bytes())
    }

    fn function_content(&self, address: PciAddress, file: FunctionFile) -> Result<String, Errno> {
        let function = self.functions.get(&address).ok_or(Errno::ENODEV)?;
        let shape = self.shape(function).ok_or(Errno::ENODEV)?;
        let (vendor, device) = self.ids(function).ok_or(Errno::ENODEV)?;
        let sriov = || shape.sriov.as_ref().ok_or(Errno::ENOENT);
        let (numvfs, autoprobe) = match function.role {
            Role::Pf { numvfs, autoprobe, .. } => (numvfs, autoprobe),
            _ => (0, false),
        };
        Ok(match file {
            FunctionFile::Vendor => format!("0x{vendor:04x}\n"),
            FunctionFile::Device => format!("0x{device:04x}\n"),
            FunctionFile::SubsystemVendor => format!("0x{:04x}\n", shape.subsystem_vendor),
            FunctionFile::SubsystemDevice => {
                let vf = shape.sriov.as_ref().filter(|_| function.is_vf());
                let own = vf.and_then(|sriov| sriov.vf_subsystem_device);
                format!("0x{:04x}\n", own.unwrap_or(shape.subsystem_device))
            }
            FunctionFile::Class => format!("0x{:06x}\n", shape.class),
            FunctionFile::Revision => format!("0x{:02x}\n", shape.revision),
            FunctionFile::BootVga => format!("{}\n", u8::from(shape.boot_vga && !function.is_vf())),
            FunctionFile::NumaNode => format!("{}\n", function.numa_node),
            FunctionFile::Modalias => format!("{}\n", self.modalias(function)),
            FunctionFile::Uevent => {
                let driver = function.shown_driver().map(|d| format!("DRIVER={d}\n"));
                let rest = self.pci_properties(address, function);
                let rest = rest.iter().map(|(key, value)| format!("{key}={value}\n"));
                driver.into_iter().chain(rest).collect()
            }
            FunctionFile::DriverOverride => {
                format!("{}\n", function.driver_override.as_deref().unwrap_or("(null)"))
            }
            FunctionFile::ResetMethod => format!("{}\n", function.reset_method),
            FunctionFile::TotalVfs => format!("{}\n", sriov()?.total_vfs),
            FunctionFile::NumVfs => {
                // The reader would sleep in device_lock and not even die. EINTR stands for that here.
                if self.locks.contains_key(&Lock::Device(address)) {
                    self.counts.blocked_reads.fetch_add(1, Ordering::Relaxed);
                    return Err(Errno::EINTR);
                }
                format!("{numvfs}\n")
            }
            FunctionFile::Offset => format!("{}\n", sriov()?.offset),
            FunctionFile::Stride => format!("{}\n", sriov()?.stride),
            FunctionFile::VfDevice => format!("{:x}\n", sriov()?.vf_device),
            FunctionFile::DriversAutoprobe => format!("{}\n", u8::from(autoprobe)),
            FunctionFile::VfTotalMsix => "0\n".to_owned(),
            FunctionFile::Config | FunctionFile::Reset => return Err(Errno::EINVAL),
        })
    }
}
