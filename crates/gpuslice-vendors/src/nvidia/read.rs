//! What NVIDIA's driver shows of VFs. Files below `<VF>/nvidia/` but the two read here are optional and come and go
//! with driver versions.

use super::{CURRENT_TYPE, makes_mdevs, pf};
use gpuslice_core::errno::Errno;
use gpuslice_core::ids::{DeviceKind, MdevTypeId, ParentId, PciAddress};
use gpuslice_core::observation::{Catalogue, Choice, Observation};
use gpuslice_core::observe::{attribute, corrupt, note, parse_hex};
use gpuslice_core::port::{HostRead, read_text};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

pub(super) const DEVICES: &str = "/sys/bus/pci/devices";

pub(super) fn read(host: &dyn HostRead, seen: &mut Observation) {
    let gpus: Vec<PciAddress> = seen
        .functions
        .keys()
        .copied()
        .filter(|address| {
            let parent = ParentId::Pci(*address);
            pf(seen, &parent).is_some() || makes_mdevs(seen, &parent)
        })
        .collect();
    let mut catalogue = Catalogue::clone(&seen.catalogue);
    for address in gpus {
        let Some(kind) = kind(host, seen, address) else { continue };
        let vfs: Vec<PciAddress> = seen
            .functions
            .get(&address)
            .and_then(|f| f.sriov.as_ref())
            .map(|sriov| sriov.vfs.values().copied().collect())
            .unwrap_or_default();
        for vf in &vfs {
            let Some((choice, names)) = read_vf(host, seen, *vf) else { continue };
            if !names.is_empty() {
                catalogue.entry(kind).or_default().extend(names);
            }
            if let Some(vf) = seen.vfs.get_mut(vf) {
                vf.choice = Some(choice);
            }
        }
        note_bare(seen, &vfs);
        if let Some(function) = seen.functions.get_mut(&address) {
            function.kind = Some(kind);
        }
    }
    seen.catalogue = Arc::new(catalogue);
}

/// VFs without driver: each was taken off its driver, and is of no use before all are made anew. Or the tool that makes them
/// is at work, so that is a problem that is looked at again. Of those in the older framework others tell, which make
/// mediated devices; where none has its driver nobody can say which framework it is, and the way out is the same.
fn note_bare(seen: &mut Observation, vfs: &[PciAddress]) {
    if vfs.iter().any(|vf| seen.mdev_parents.contains_key(&ParentId::Pci(*vf))) {
        return;
    }
    for address in vfs {
        let Some(vf) = seen.vfs.get_mut(address) else { continue };
        if vf.is_bare() && vf.choice.is_none() {
            let (current, creatable) = (None, BTreeSet::new());
            vf.choice = Some(Choice { current, creatable, broken: true, place: None });
            let has = vf.driver.clone().unwrap_or_else(|| "no driver".to_owned());
            corrupt(seen, &format!("{DEVICES}/{address}/driver"), &has);
        }
    }
}

/// Cards with the same device id differ in their subsystem, and in their types.
fn kind(host: &dyn HostRead, seen: &mut Observation, address: PciAddress) -> Option<DeviceKind> {
    let (vendor, device) = seen.functions.get(&address).map(|f| (f.vendor, f.device))?;
    let hex16 = |text: &str| parse_hex(text).and_then(|id| u16::try_from(id).ok());
    let of = |name| format!("{DEVICES}/{address}/{name}");
    let subsystem_vendor = attribute(host, seen, &of("subsystem_vendor"), hex16)?;
    let subsystem_device = attribute(host, seen, &of("subsystem_device"), hex16)?;
    Some(DeviceKind { vendor, device, subsystem_vendor, subsystem_device })
}

type Names = BTreeMap<MdevTypeId, String>;

fn read_vf(host: &dyn HostRead, seen: &mut Observation, vf: PciAddress) -> Option<(Choice, Names)> {
    let dir = format!("{DEVICES}/{vf}");
    let path = format!("{dir}/nvidia/creatable_vgpu_types");
    let listed = match read_text(host, &path) {
        Ok(text) => text,
        Err(errno) => {
            // Absent: the framework of mediated devices, or a driver that is still probing.
            note(seen, &path, errno);
            return None;
        }
    };
    let names = parse_types(&listed);
    if let Some(line) = listed.lines().find(|line| is_odd(line)) {
        corrupt(seen, &path, line);
    }
    let number = |text: &str| text.parse::<u32>().ok();
    let current = attribute(host, seen, &format!("{dir}/{CURRENT_TYPE}"), number)?;
    let current = (current != 0).then(|| type_id(current)).flatten();
    let broken = match host.list(&format!("{dir}/vfio-dev")) {
        Ok(devices) => devices.is_empty(),
        // Kernels without device nodes of their own for VFIO have the group's alone.
        Err(Errno::ENOENT) => !has_group_node(host, seen, vf),
        Err(_) => false,
    };
    let creatable = names.keys().cloned().collect();
    Some((Choice { current, creatable, broken, place: None }, names))
}

fn has_group_node(host: &dyn HostRead, seen: &Observation, vf: PciAddress) -> bool {
    let Some(group) = seen.vfs.get(&vf).and_then(|vf| vf.iommu_group) else { return true };
    match host.list("/dev/vfio") {
        Ok(nodes) => nodes.contains(&group.to_string()),
        Err(errno) => errno != Errno::ENOENT,
    }
}

pub(super) fn type_id(number: u32) -> Option<MdevTypeId> {
    format!("nvidia-{number}").parse().ok()
}

/// Reads `creatable_vgpu_types` in the three forms drivers have printed: with the line `ID    : vGPU Name` and without,
/// and with the name first.
fn parse_types(text: &str) -> Names {
    text.lines().filter_map(parse_line).collect()
}

/// Neither a type nor nothing, nor the line above the types.
fn is_odd(line: &str) -> bool {
    let nothing = line.trim().is_empty() || line.trim_start().starts_with("ID ");
    !nothing && parse_line(line).is_none()
}

fn parse_line(line: &str) -> Option<(MdevTypeId, String)> {
    let line = line.trim();
    let (number, name) = match line.split_once(" : ").or_else(|| line.split_once(':')) {
        Some((number, name)) => (number.trim(), name),
        None => {
            let (name, number) = line.rsplit_once(char::is_whitespace)?;
            (number, name)
        }
    };
    let number: u32 = number.parse().ok().filter(|n| *n != 0)?;
    let name = name.trim();
    if name.is_empty() || name.chars().any(char::is_control) {
        return None;
    }
    Some((type_id(number)?, name.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_back(text: &str) -> Vec<(String, String)> {
        parse_types(text).into_iter().map(|(id, name)| (id.to_string(), name)).collect()
    }

    #[test]
    fn lists_of_all_driver_versions_are_read() {
        let a40 = ("nvidia-557".to_owned(), "NVIDIA A40-1Q".to_owned());
        let h200 = ("nvidia-1428".to_owned(), "NVIDIA H200X-141C".to_owned());
        assert_eq!(
            read_back("ID    : vGPU Name\n557   : NVIDIA A40-1Q\n"),
            std::slice::from_ref(&a40)
        );
        assert_eq!(read_back("1428 : NVIDIA H200X-141C\n"), [h200]);
        assert_eq!(read_back("NVIDIA A40-1Q 557\n"), [a40]);
        assert_eq!(read_back("ID    : vGPU Name\n"), []);
        assert_eq!(read_back(""), []);
    }

    #[test]
    fn what_is_no_type_is_left_out() {
        assert_eq!(read_back("0 : None\nx : y\n557\n557 :\n: NVIDIA\n99999999999 : big\n"), []);
    }
}
