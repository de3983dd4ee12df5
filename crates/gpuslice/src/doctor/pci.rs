//! PCI functions, as far as they matter here. Mirrors Documentation/ABI/testing/sysfs-bus-pci of the kernel.

use super::tree::Tree;
use gpuslice_core::ids::MdevUuid;
use gpuslice_core::observation::{is_gpu, is_vfio};

const DEVICES: &str = "/sys/bus/pci/devices";

/// Lines of `resource` that are the BARs of VFs (include/linux/pci.h, PCI_IOV_RESOURCES).
const IOV_LINES: std::ops::RangeInclusive<usize> = 7..=12;

/// A function.
#[derive(Debug)]
pub struct Device {
    /// `0000:41:00.0`.
    pub address: String,
    /// `vendor`.
    pub vendor: u16,
    /// `device`.
    pub device: u16,
    /// `class`, 24 bits.
    pub class: u32,
    /// Bound driver.
    pub driver: Option<String>,
    /// IOMMU group.
    pub group: Option<String>,
    /// `sriov_totalvfs`, where it has SR-IOV.
    pub total_vfs: Option<u32>,
    /// How many VFs it has.
    pub vfs: usize,
    /// `sriov_drivers_autoprobe` is 1.
    pub autoprobe: bool,
    /// Address of the PF, for a VF.
    pub pf: Option<String>,
    /// No BAR for VFs has an address.
    pub no_vf_bars: bool,
    /// It is a parent of mediated devices.
    pub mdevs: bool,
    /// It has made some.
    pub has_mdevs: bool,
    /// Bytes of all its own BARs.
    pub bars: u64,
    /// It takes a type of its driver (NVIDIA's vendor-specific VFIO).
    pub typed: bool,
    /// `subsystem_vendor` and `subsystem_device`.
    pub subsystem: Option<(u16, u16)>,
}

impl Device {
    /// A GPU that is no VF.
    pub fn is_gpu(&self) -> bool {
        is_gpu(self.class) && self.pf.is_none()
    }

    /// A GPU of a maker whose drivers make slices; a server's console is not meant.
    pub fn is_sliced(&self) -> bool {
        self.is_gpu() && matches!(self.vendor, 0x10de | 0x1002 | 0x8086)
    }

    /// A card of a network.
    pub fn is_network(&self) -> bool {
        self.class >> 16 == 0x02
    }

    /// A bridge is not passed, and no group fails for it.
    pub fn is_bridge(&self) -> bool {
        self.class >> 8 == 0x0604
    }

    /// A driver of the host has it that is not there to pass it to VMs.
    pub fn used_by_host(&self) -> Option<&str> {
        // The kernel gives a group out beside these two (driver_managed_dma).
        let leaves = |driver: &str| is_vfio(driver) || matches!(driver, "pci-stub" | "pcieport");
        self.driver.as_deref().filter(|driver| !leaves(driver) && !self.typed && !self.mdevs)
    }
}

/// Every function of the host.
pub fn all(tree: &Tree) -> Vec<Device> {
    tree.names(DEVICES).into_iter().filter_map(|address| device(tree, address)).collect()
}

fn device(tree: &Tree, address: String) -> Option<Device> {
    let path = |name: &str| format!("{DEVICES}/{address}/{name}");
    let number = |name: &str| {
        let text = tree.text(&path(name))?;
        u32::from_str_radix(text.trim_start_matches("0x"), 16).ok()
    };
    let id = |name: &str| u16::try_from(number(name)?).ok();
    let lines = resource(&tree.text(&path("resource")).unwrap_or_default());
    let iov: Vec<u64> =
        lines.get(IOV_LINES).unwrap_or_default().iter().map(|(start, _)| *start).collect();
    let total_vfs = tree.text(&path("sriov_totalvfs")).and_then(|text| text.parse().ok());
    let mdevs = tree.exists(&path("mdev_supported_types"));
    let below = match total_vfs.is_some() || mdevs {
        true => tree.names(&format!("{DEVICES}/{address}")),
        false => Vec::new(),
    };
    Some(Device {
        vendor: id("vendor")?,
        device: id("device")?,
        class: number("class")?,
        driver: tree.link_name(&path("driver")),
        group: tree.link_name(&path("iommu_group")),
        // Not sriov_numvfs: where taking VFs away waits for ever, so does who reads it.
        vfs: total_vfs
            .map_or(0, |_| below.iter().filter(|name| name.starts_with("virtfn")).count()),
        total_vfs,
        autoprobe: tree.text(&path("sriov_drivers_autoprobe")).as_deref() == Some("1"),
        pf: tree.link_name(&path("physfn")),
        no_vf_bars: !iov.is_empty() && iov.iter().all(|start| *start == 0),
        mdevs,
        // By their UUIDs.
        has_mdevs: mdevs && below.iter().any(|name| name.parse::<MdevUuid>().is_ok()),
        bars: lines.iter().take(6).map(|(start, end)| size(*start, *end)).sum(),
        typed: tree.exists(&path("nvidia/current_vgpu_type")),
        subsystem: id("subsystem_vendor").zip(id("subsystem_device")),
        address,
    })
}

/// Start and end of each region.
fn resource(text: &str) -> Vec<(u64, u64)> {
    let hex = |word: &str| u64::from_str_radix(word.trim_start_matches("0x"), 16).ok();
    let line = |line: &str| {
        let mut words = line.split_whitespace().filter_map(hex);
        Some((words.next()?, words.next()?))
    };
    text.lines().filter_map(line).collect()
}

fn size(start: u64, end: u64) -> u64 {
    if start == 0 { 0 } else { end.saturating_sub(start).saturating_add(1) }
}
