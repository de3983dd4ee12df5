//! The partition files of amdgpu on bare metal (`amdgpu_gfx.c`, `amdgpu_gmc.c`). A memory mode is a request, which comes
//! into force with the next load of the driver, for all GPUs of a hive.

use super::gim::asics;
use crate::kernel::function::Role;
use crate::kernel::{Kernel, number};
use crate::tree::files::Mode;
use gpuslice_core::errno::Errno;
use gpuslice_core::ids::PciAddress;
use gpuslice_core::port::Written;

/// The driver's name.
const DRIVER: &str = "amdgpu";

/// What is kept of a GPU beyond a load of the driver.
#[derive(Debug, Clone, Default)]
pub(crate) struct Partitions {
    /// Compute partitions; 0 before the first load.
    parts: u32,
    nps: u32,
    wanted: Option<u32>,
}

/// Files that amdgpu adds to a PF.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PartitionFile {
    Compute,
    Computes,
    Memory,
    Memories,
}

impl PartitionFile {
    pub(crate) const ALL: &[Self] = &[Self::Compute, Self::Computes, Self::Memory, Self::Memories];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Compute => "current_compute_partition",
            Self::Computes => "available_compute_partition",
            Self::Memory => "current_memory_partition",
            Self::Memories => "available_memory_partition",
        }
    }

    pub(crate) fn mode(self) -> Mode {
        match self {
            Self::Compute | Self::Memory => Mode::Both,
            Self::Computes | Self::Memories => Mode::Read,
        }
    }
}

fn memories(device: u16) -> &'static [u32] {
    match device {
        0x74a1 | 0x74a2 | 0x74a5 | 0x74a8 | 0x74a9 => &[1, 4],
        0x75a0 | 0x75a3 => &[1, 2],
        _ => &[],
    }
}

/// Which memory modes go with a compute mode.
fn fits(parts: u32, nps: u32) -> bool {
    match parts {
        1 => nps == 1,
        2 => nps <= 2,
        _ => true,
    }
}

impl Kernel {
    fn amdgpu_device(&self, address: PciAddress) -> Option<u16> {
        let function = self.functions.get(&address)?;
        let pf = !matches!(function.role, Role::Vf { .. });
        let ours = pf && function.shown_driver().is_some_and(|driver| &**driver == DRIVER);
        self.ids(function).map(|(_, device)| device).filter(|_| ours)
    }

    /// Whether amdgpu's partition files of a PF are there.
    pub(crate) fn has_partition_files(&self, address: PciAddress) -> bool {
        self.amdgpu_device(address).is_some_and(|device| !memories(device).is_empty())
    }

    /// The driver's probe: a memory mode that was asked for is in force from now on.
    pub(crate) fn amdgpu_probed(&mut self, address: PciAddress) {
        if !self.has_partition_files(address) {
            return;
        }
        let gpu = self.partitions.entry(address).or_default();
        let nps = gpu.wanted.take();
        if gpu.parts == 0 || nps.is_some() {
            gpu.nps = nps.unwrap_or(1);
            gpu.parts = asics::default_parts_of(gpu.nps);
        }
    }

    pub(crate) fn partition_content(
        &self,
        address: PciAddress,
        file: PartitionFile,
    ) -> Result<String, Errno> {
        let device = self.amdgpu_device(address).ok_or(Errno::ENODEV)?;
        let gpu = self.partitions.get(&address).ok_or(Errno::ENODEV)?;
        if self.resets(address) {
            return Err(Errno::EPERM);
        }
        Ok(match file {
            PartitionFile::Compute => format!("{}\n", asics::name(gpu.parts)),
            PartitionFile::Computes => "SPX, DPX, QPX, CPX\n".to_owned(),
            PartitionFile::Memory => format!("NPS{}\n", gpu.nps),
            PartitionFile::Memories => {
                let names = memories(device).iter().map(|nps| format!("NPS{nps}"));
                format!("{}\n", names.collect::<Vec<_>>().join(", "))
            }
        })
    }

    pub(crate) fn write_partition(
        &mut self,
        address: PciAddress,
        file: PartitionFile,
        data: &[u8],
    ) -> Result<Written, Errno> {
        let device = self.amdgpu_device(address).ok_or(Errno::ENODEV)?;
        let word = number::line(data).trim().to_ascii_uppercase();
        match file {
            PartitionFile::Compute => {
                let parts = [1, 2, 4, 8].into_iter().find(|parts| asics::name(*parts) == word);
                let busy = self.computes(address);
                let gpu = self.partitions.get_mut(&address).ok_or(Errno::ENODEV)?;
                let parts = parts.filter(|parts| fits(*parts, gpu.nps)).ok_or(Errno::EINVAL)?;
                if parts != gpu.parts && busy {
                    return Err(Errno::EBUSY);
                }
                gpu.parts = parts;
            }
            PartitionFile::Memory => {
                let nps = word.strip_prefix("NPS").and_then(|n| n.parse::<u32>().ok());
                let nps = nps.filter(|nps| memories(device).contains(nps)).ok_or(Errno::EINVAL)?;
                let hive = self.partitions.keys().copied().collect::<Vec<_>>();
                for other in hive {
                    if self.amdgpu_device(other) == Some(device)
                        && let Some(gpu) = self.partitions.get_mut(&other)
                    {
                        gpu.wanted = Some(nps);
                    }
                }
            }
            _ => return Err(Errno::EACCES),
        }
        Ok(Written::Done)
    }
}
