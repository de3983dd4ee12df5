//! What no single value of a host file can show: drivers that are not declared, functions in each other's way.

use super::{FunctionShape, HostError, HostFile};
use std::collections::BTreeSet;

impl HostFile {
    pub(super) fn check(&self) -> Result<(), HostError> {
        let mut drivers = BTreeSet::from(["vfio-pci"]);
        for driver in &self.drivers {
            file_name("driver: name", &driver.name)?;
            if !drivers.insert(&driver.name) {
                return invalid(format!("driver {}: name", driver.name), "declared twice");
            }
        }
        let mut taken = BTreeSet::new();
        for function in &self.functions {
            check_function(function, &drivers)?;
            let vfs = function.sriov.iter().flat_map(|s| {
                (0..s.total_vfs).map(|i| {
                    let rid = function.address.routing_id();
                    let rid = rid.wrapping_add(s.offset).wrapping_add(s.stride * i);
                    function.address.with_routing_id(rid)
                })
            });
            for address in std::iter::once(function.address).chain(vfs) {
                if !taken.insert(address) {
                    return invalid(
                        format!("function {}: address", function.address),
                        format!("{address} is another function's or a VF's"),
                    );
                }
            }
        }
        let mut kinds = Vec::new();
        for parent in &self.virtuals {
            if kinds.contains(&parent.kind) {
                return invalid("virtual: kind".to_owned(), "there twice");
            }
            kinds.push(parent.kind);
        }
        Ok(())
    }
}

fn check_function(function: &FunctionShape, drivers: &BTreeSet<&str>) -> Result<(), HostError> {
    let key = |name: &str| format!("function {}: {name}", function.address);
    let vf_driver = function.sriov.as_ref().and_then(|s| s.vf_driver.as_ref());
    for (name, driver) in [("driver", function.driver.as_ref()), ("vf_driver", vf_driver)] {
        if let Some(driver) = driver
            && !drivers.contains(driver.as_str())
        {
            return invalid(key(name), format!("no [[driver]] is named {driver}"));
        }
    }
    if function.class > 0xff_ffff {
        return invalid(key("class"), "exceeds 24 bits");
    }
    if let Some(serial) = &function.serial
        && (serial.len() != 16 || !serial.bytes().all(|b| b.is_ascii_hexdigit()))
    {
        return invalid(key("serial"), "is not 16 hexadecimal digits");
    }
    if let Some(sriov) = &function.sriov {
        let last = u32::from(function.address.routing_id())
            + u32::from(sriov.offset)
            + u32::from(sriov.stride) * u32::from(sriov.total_vfs.saturating_sub(1));
        if last > 0xffff {
            return invalid(key("sriov.total_vfs"), "the last VF leaves the PCI domain");
        }
    }
    if let Some(mdev) = &function.mdev {
        let mut ids = BTreeSet::new();
        for kind in &mdev.types {
            file_name(&key("mdev.type.id"), &kind.id)?;
            if !ids.insert(&kind.id) {
                return invalid(key("mdev.type.id"), format!("{} is there twice", kind.id));
            }
            if kind.memory_mib == 0 {
                return invalid(key("mdev.type.memory_mib"), "is 0");
            }
        }
    }
    Ok(())
}

fn file_name(key: &str, text: &str) -> Result<(), HostError> {
    if text.is_empty() || text.contains('/') || text.chars().any(char::is_control) {
        return invalid(key.to_owned(), format!("{text:?} is not a file name"));
    }
    Ok(())
}

fn invalid(key: String, why: impl Into<String>) -> Result<(), HostError> {
    let why = why.into();
    Err(HostError::Invalid { key, why })
}
