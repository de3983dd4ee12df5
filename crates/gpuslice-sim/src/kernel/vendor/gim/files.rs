//! The files of a PF under GIM, in its text formats (`gim_shim/sysfs/gim_monitor.c`, `gim_guard.c`). Reading
//! `reset_gpu` resets the GPU.

use super::asics;
use crate::kernel::Kernel;
use crate::tree::files::Mode;
use gpuslice_core::errno::Errno;
use gpuslice_core::ids::PciAddress;
use gpuslice_core::port::Written;
use std::fmt::Write;
use std::sync::atomic::Ordering;

/// Files that GIM adds to a PF.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum GimFile {
    ResetGpu,
    SelfSwitch,
    Profile,
    ProfileConfig,
    Memory,
    MemoryConfig,
    Spatial,
    SpatialCaps,
    GuardStatus,
    GuardThreshold,
}

impl GimFile {
    pub(crate) const ALL: &[Self] = &[
        Self::ResetGpu,
        Self::SelfSwitch,
        Self::Profile,
        Self::ProfileConfig,
        Self::Memory,
        Self::MemoryConfig,
        Self::Spatial,
        Self::SpatialCaps,
        Self::GuardStatus,
        Self::GuardThreshold,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::ResetGpu => "reset_gpu",
            Self::SelfSwitch => "self_switch",
            Self::Profile => "accelerator_partition_profile",
            Self::ProfileConfig => "accelerator_partition_profile_config",
            Self::Memory => "memory_partition_mode",
            Self::MemoryConfig => "memory_partition_config",
            Self::Spatial => "spatial_partition_mode",
            Self::SpatialCaps => "spatial_partition_caps",
            Self::GuardStatus => "guard_status",
            Self::GuardThreshold => "guard_threshold",
        }
    }

    pub(crate) fn mode(self) -> Mode {
        match self {
            Self::SelfSwitch | Self::Profile | Self::Memory | Self::GuardThreshold => Mode::Both,
            _ => Mode::Read,
        }
    }
}

impl GimFile {
    /// Only for root.
    pub(crate) fn is_private(self) -> bool {
        !matches!(self, Self::GuardStatus | Self::GuardThreshold)
    }
}

impl Kernel {
    pub(crate) fn gim_content(&self, address: PciAddress, file: GimFile) -> Result<String, Errno> {
        let gpu = self.gim_gpu(address).ok_or(Errno::ENODEV)?;
        let device = self.gim_device(address).ok_or(Errno::ENODEV)?;
        let resets = self.resets(address);
        Ok(match file {
            GimFile::ResetGpu => {
                self.counts.resets.fetch_add(1, Ordering::Relaxed);
                format!("dev({address}) reset completed\n")
            }
            GimFile::SelfSwitch => "0\n".to_owned(),
            GimFile::Profile => {
                let profiles = asics::profiles(device, gpu.vfs);
                match profiles.iter().position(|parts| *parts == gpu.parts && !resets) {
                    None => "failed to get current accelerator partition profile\n".to_owned(),
                    Some(at) => format!(
                        "{:<20}{:<20}{:<20}{:<20}{:<20}\n{at:<20}{:<20}{:<20}{:<20}{}",
                        "profile_index",
                        "profile_type",
                        "num_of_partitions",
                        "num_of_resources",
                        "resource_index_in_resource_profiles",
                        asics::name(gpu.parts),
                        gpu.parts,
                        2,
                        resources(at, gpu.parts)
                    ),
                }
            }
            GimFile::ProfileConfig if resets => "failed to get cp profile\n".to_owned(),
            GimFile::ProfileConfig => profile_config(device, gpu.vfs),
            GimFile::Memory if gpu.nps == 0 || resets => {
                "failed to get current mp mode\n".to_owned()
            }
            GimFile::Memory => {
                let (nps, size) = (u64::from(gpu.nps), asics::framebuffer(device) << 20);
                let mut text = format!("memory_partition_mode: NPS{nps}\nnuma_count: {nps}\n");
                for i in 0..nps {
                    let (start, end) = (size / nps * i, size / nps * (i + 1) - 1);
                    let _ = writeln!(text, "NUMA{i} type=0 start=0x{start:016x} end=0x{end:016x}");
                }
                text
            }
            GimFile::MemoryConfig if resets => "failed to get mp caps\n".to_owned(),
            GimFile::MemoryConfig => match asics::memories(device, gpu.vfs, None).as_slice() {
                [] => "failed to get mp caps\n".to_owned(),
                all => format!("{}\n", all.iter().map(|n| format!("NPS{n} ")).collect::<String>()),
            },
            GimFile::Spatial if gpu.parts == 0 || resets => {
                "failed to get current sp mode\n".to_owned()
            }
            GimFile::Spatial => format!("{}\n", asics::name(gpu.parts)),
            GimFile::SpatialCaps if !asics::partitioned(device) => {
                "failed to get sp caps\n".to_owned()
            }
            GimFile::SpatialCaps => {
                let dies = asics::dies(device);
                format!("num_xcc={dies} num_sdma={} num_vcn=4 num_jpeg=32\n", 2 * dies)
            }
            GimFile::GuardStatus => self.guards(address, gpu.vfs, "[0:0:0]") + NOTES,
            GimFile::GuardThreshold => self.guards(address, gpu.vfs, "[0]"),
        })
    }

    fn guards(&self, address: PciAddress, vfs: u16, each: &str) -> String {
        let mut text = "VF[bdf]\t\t\tflr\tex\text\tint\n".to_owned();
        for vf in (0..vfs).filter_map(|index| self.vf_address(address, index)) {
            // Six kinds below four headings.
            let _ = writeln!(text, "VF[{vf}]:{}", format!("\t{each}").repeat(6));
        }
        text
    }

    pub(crate) fn write_gim(
        &mut self,
        address: PciAddress,
        file: GimFile,
        data: &[u8],
    ) -> Result<Written, Errno> {
        match file {
            GimFile::Profile => self.write_gim_profile(address, data),
            GimFile::Memory => self.write_gim_memory(address, data),
            GimFile::SelfSwitch | GimFile::GuardThreshold => Ok(Written::Done),
            _ => Err(Errno::EACCES),
        }
    }

    /// How often `reset_gpu` was read: a whole GPU was reset by each.
    pub fn gpu_resets_by_reading(&self) -> u64 {
        self.counts.resets.load(Ordering::Relaxed)
    }
}

/// Below the table.
const NOTES: &str = "Notes:\n1)flr: resets of a function;\n";

/// Two resources a profile: compute dies and video decoders.
fn resources(profile: usize, parts: u32) -> String {
    let one = format!("[{} {} ]", 2 * profile, 2 * profile + 1);
    format!("[{}]\n", (0..parts).map(|_| one.as_str()).collect::<String>())
}

fn profile_config(device: u16, vfs: u16) -> String {
    let profiles = asics::profiles(device, vfs);
    if profiles.is_empty() {
        return "failed to get cp profile\n".to_owned();
    }
    let mut text = format!(
        "resource_profiles:\n{:<20}{:<20}{:<20}{:<20}\n",
        "resource_index", "resource_type", "resource_in_partition", "num_partitions_share_resource"
    );
    for (i, parts) in profiles.iter().enumerate() {
        let (at, dies) = (2 * i, asics::dies(device) / parts);
        let _ = writeln!(text, "{at:<20}{:<20}{dies:<20}{:<20}", "XCC", 1);
        let (at, decoders, share) = (2 * i + 1, (4 / parts).max(1), (parts / 4).max(1));
        let _ = writeln!(text, "{at:<20}{:<20}{decoders:<20}{share:<20}", "DECODER");
    }
    let _ = writeln!(
        text,
        "profiles:\n{:<20}{:<20}{:<20}{:<20}{:<20}{:<20}",
        "profile_index",
        "profile_type",
        "num_of_partitions",
        "memory_caps",
        "num_of_resources",
        "resource_index"
    );
    for (i, parts) in profiles.iter().enumerate() {
        let caps = memory_caps(device, vfs, &profiles, i);
        let name = asics::name(*parts);
        let _ = write!(text, "{i:<20}{name:<20}{parts:<20}{caps:<20}{:<20}", 2);
        text += &resources(i, *parts);
    }
    text
}

/// One text for all profiles, begun anew only for those that have NPS1: so it grows from one to the next, and from one
/// reading to the next. This is a second reading.
fn memory_caps(device: u16, vfs: u16, profiles: &[u32], upto: usize) -> String {
    let mut caps = String::new();
    for at in (0..profiles.len()).chain(0..=upto) {
        let Some(parts) = profiles.get(at) else { continue };
        let memories = asics::memories(device, vfs, Some(*parts));
        if memories.first() == Some(&1) {
            caps.clear();
        }
        caps.extend(memories.iter().map(|nps| format!("NPS{nps} ")));
    }
    caps
}
