//! Mediated devices and their parents (Documentation/driver-api/vfio-mediated-device.rst).

use super::{Observer, attribute, note, parse_decimal, pci};
use crate::errno::Errno;
use crate::ids::{MdevTypeId, MdevUuid, ParentId};
use crate::observation::{FixedType, Mdev, MdevParent, MdevType, Observation};
use crate::port::{HostRead, read_text};
use std::sync::Arc;

const PARENTS: &str = "/sys/class/mdev_bus";
const DEVICES: &str = "/sys/bus/mdev/devices";

pub(super) fn read(host: &dyn HostRead, observer: &mut Observer, seen: &mut Observation) {
    // Both directories are absent until the mdev module is loaded.
    for parent in names(host, seen, PARENTS) {
        let Ok(id) = parent.parse::<ParentId>() else {
            continue;
        };
        read_parent(host, observer, seen, id, &parent);
    }
    for name in names(host, seen, DEVICES) {
        if let Ok(uuid) = name.parse() {
            read_device(host, seen, uuid);
        }
    }
}

fn names(host: &dyn HostRead, seen: &mut Observation, dir: &str) -> Vec<String> {
    host.list(dir).unwrap_or_else(|errno| {
        note(seen, dir, errno);
        Vec::new()
    })
}

fn read_parent(
    host: &dyn HostRead,
    observer: &mut Observer,
    seen: &mut Observation,
    id: ParentId,
    name: &str,
) {
    // A VF as parent belongs to its PF; a PCI parent without SR-IOV is known only from here.
    if let Some(address) = id.pci()
        && !seen.functions.contains_key(&address)
        && !seen.vfs.contains_key(&address)
        && let Some(function) = pci::read_common(host, observer, seen, address)
    {
        seen.functions.insert(address, function);
    }
    let dir = format!("{PARENTS}/{name}/mdev_supported_types");
    let mut parent = MdevParent::default();
    for type_name in names(host, seen, &dir) {
        let Ok(type_id) = type_name.parse::<MdevTypeId>() else {
            continue;
        };
        let path = format!("{dir}/{type_name}");
        let Some(available) =
            attribute(host, seen, &format!("{path}/available_instances"), parse_decimal)
        else {
            continue;
        };
        let key = (id.clone(), type_id.clone());
        let fixed = match observer.types.get(&key) {
            Some(fixed) => Arc::clone(fixed),
            None => {
                let problems = seen.problems.len();
                let Some(fixed) = read_fixed(host, seen, &path) else {
                    continue;
                };
                // What could not be read this time may be readable next time.
                if seen.problems.len() == problems {
                    observer.types.insert(key, Arc::clone(&fixed));
                }
                fixed
            }
        };
        parent.types.insert(type_id, MdevType { fixed, available });
    }
    seen.mdev_parents.insert(id, parent);
}

fn read_fixed(host: &dyn HostRead, seen: &mut Observation, dir: &str) -> Option<Arc<FixedType>> {
    let device_api = attribute(host, seen, &format!("{dir}/device_api"), |t| {
        (!t.is_empty()).then(|| t.to_owned())
    })?;
    let name = optional(host, seen, &format!("{dir}/name"));
    let description = optional(host, seen, &format!("{dir}/description"))
        .map(|text| text.lines().collect::<Vec<_>>().join(", "));
    Some(Arc::new(FixedType { device_api, name, description }))
}

/// An attribute a driver may leave out. An empty one says nothing either.
fn optional(host: &dyn HostRead, seen: &mut Observation, path: &str) -> Option<String> {
    match read_text(host, path) {
        Ok(text) => (!text.is_empty()).then_some(text),
        Err(Errno::ENOENT) => None,
        Err(errno) => {
            note(seen, path, errno);
            None
        }
    }
}

fn read_device(host: &dyn HostRead, seen: &mut Observation, uuid: MdevUuid) {
    let dir = format!("{DEVICES}/{uuid}");
    // The device is a child of its parent: …/<parent>/<uuid>.
    let parent = match host.link(&dir) {
        Ok(target) => target.rsplit('/').nth(1).and_then(|name| name.parse().ok()),
        Err(errno) => return note(seen, &dir, errno),
    };
    let type_path = format!("{dir}/mdev_type");
    let type_id = match host.link(&type_path) {
        Ok(target) => target.rsplit('/').next().and_then(|name| name.parse().ok()),
        Err(errno) => return note(seen, &type_path, errno),
    };
    if let (Some(parent), Some(type_id)) = (parent, type_id) {
        let iommu_group = pci::group(host, seen, &dir);
        seen.mdevs.insert(uuid, Mdev { parent, type_id, iommu_group });
    }
}
