//! What writes to files do. A write of no bytes never reaches the kernel's handlers (fs/sysfs/file.c).

use super::File;
use super::files::{DriverFile, FunctionFile, MdevFile, Mode, TypeFile};
use crate::kernel::Kernel;
use crate::kernel::function::Role;
use crate::kernel::number;
use gpuslice_core::errno::Errno;
use gpuslice_core::ids::PciAddress;
use gpuslice_core::port::Written;

/// Methods `reset_method` knows (drivers/pci/pci.c).
const RESETS: &[&str] = &["device_specific", "acpi", "flr", "af_flr", "pm", "bus", "cxl_bus"];

/// The file that GIM keeps; its owner may write it too.
const GIM_CONFIG: &str = "/etc/gim_config";

/// The kernel's arguments.
const ARGUMENTS: &str = "/proc/cmdline";

/// The name of a file of `/etc/modprobe.d`, whether it is there or not.
fn settings(path: &str) -> Option<&str> {
    path.strip_prefix("/etc/modprobe.d/").filter(|name| !name.contains('/'))
}

impl Kernel {
    pub(crate) fn write_file(&mut self, path: &str, data: &[u8]) -> Result<Written, Errno> {
        if let Some(name) = settings(path) {
            self.modprobe_d.insert(name.to_owned(), data.to_vec());
            return Ok(Written::Done);
        }
        let file = self.file(path, Mode::Read)?;
        if data.is_empty() {
            return Ok(Written::Done);
        }
        match file {
            File::Function(address, file) => self.store_function(path, address, file, data),
            File::Driver(name, DriverFile::Bind) => self.write_bind(path, &name, data),
            File::Driver(name, DriverFile::Unbind) => self.write_unbind(path, &name, data),
            File::DriversProbe => self.write_drivers_probe(path, data),
            File::Type(parent, kind, TypeFile::Create) => {
                self.write_create(path, &parent, kind, data)
            }
            File::Vgpu(address, file) => self.write_vgpu(address, file, data),
            File::Gim(address, file) => self.write_gim(address, file, data),
            File::Partition(address, file) => self.write_partition(address, file, data),
            File::UnbindLock(gpu) => self.write_unbind_lock(gpu, data),
            File::MdevVgpu(uuid, _) => self.write_mdev_vgpu(uuid, data),
            File::Mdev(uuid, MdevFile::Remove) => self.write_remove(path, uuid, data),
            // Synthetic uevents are of no use to the product.
            File::Driver(_, DriverFile::Uevent)
            | File::Mdev(_, MdevFile::Uevent)
            | File::VirtualUevent(_)
            | File::Node => Err(Errno::EINVAL),
            File::Type(..)
            | File::Parameter(_)
            | File::Registry
            | File::Settings(_)
            | File::GimConfig
            | File::Arguments
            | File::GroupType(_)
            | File::ModuleState(_)
            | File::ModuleVersion(_)
            | File::Process(..)
            | File::CpuList(_)
            | File::SlotAddress(_)
            | File::DescriptorInfo
            | File::BootId => Err(Errno::EACCES),
        }
    }

    /// A file of settings by rename.
    pub(crate) fn replace_file(&mut self, path: &str, data: &[u8]) -> Result<(), Errno> {
        self.counts.writes += 1;
        self.write_fault(path).map_or(Ok(()), Err)?;
        if path == GIM_CONFIG {
            self.gim_config = Some(data.to_vec());
            return Ok(());
        }
        // As a boot loader's next boot would.
        if path == ARGUMENTS {
            self.arguments = String::from_utf8_lossy(data).into_owned();
            return Ok(());
        }
        let name = settings(path).ok_or(Errno::ENOENT)?;
        self.modprobe_d.insert(name.to_owned(), data.to_vec());
        Ok(())
    }

    pub(crate) fn delete_file(&mut self, path: &str) -> Result<(), Errno> {
        let gone = match settings(path) {
            Some(name) => self.modprobe_d.remove(name),
            None if path == GIM_CONFIG => self.gim_config.take(),
            None => None,
        };
        gone.map(|_| ()).ok_or(Errno::ENOENT)
    }

    fn store_function(
        &mut self,
        path: &str,
        address: PciAddress,
        file: FunctionFile,
        data: &[u8],
    ) -> Result<Written, Errno> {
        match file {
            FunctionFile::NumVfs => return self.write_numvfs(path, address, data),
            FunctionFile::DriverOverride => return self.write_override(address, data),
            _ => {}
        }
        let offered = self.functions.get(&address).and_then(|f| self.shape(f));
        let offered = offered.map(|shape| shape.reset_method.clone()).unwrap_or_default();
        let function = self.functions.get_mut(&address).ok_or(Errno::ENODEV)?;
        match file {
            FunctionFile::DriversAutoprobe => {
                let value = number::parse_bool(data).ok_or(Errno::EINVAL)?;
                if let Role::Pf { autoprobe, .. } = &mut function.role {
                    *autoprobe = value;
                }
            }
            FunctionFile::NumaNode => {
                let node: i32 = number::line(data).parse().map_err(|_| Errno::EINVAL)?;
                function.numa_node = node;
            }
            FunctionFile::ResetMethod => {
                let text = number::line(data).trim();
                let known =
                    |word: &str| RESETS.contains(&word) && offered.split(' ').any(|o| o == word);
                function.reset_method = match text {
                    "default" => offered.as_str().into(),
                    _ if text.split_whitespace().all(known) => text.into(),
                    _ => return Err(Errno::EINVAL),
                };
            }
            FunctionFile::Reset => {
                let one = number::parse(data) == Some(1);
                one.then_some(()).ok_or(Errno::EINVAL)?;
                // All ways are taken away.
                if function.reset_method.is_empty() {
                    return Err(Errno::ENOTTY);
                }
            }
            _ => return Err(Errno::EINVAL),
        }
        Ok(Written::Done)
    }
}
