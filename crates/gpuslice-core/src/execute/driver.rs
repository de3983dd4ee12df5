//! Drivers that make VFs when their module is loaded, each of their devices in its own time, and that take them away
//! when it is unloaded.

use super::meaning::{Asked, Meaning, meaning};
use super::{Performed, StepError, failed, kernel_log, sriov};
use crate::errno::Errno;
use crate::holders;
use crate::ids::PciAddress;
use crate::per_device;
use crate::port::{HostRead, HostWrite, Written, read_text};
use std::collections::{BTreeMap, BTreeSet};

/// A module's parameter as it must be for the VFs to come.
pub(super) struct Parameter<'a> {
    pub name: &'a str,
    pub value: &'a str,
    /// Others that must be so.
    pub others: &'a BTreeMap<String, String>,
}

pub(super) fn loaded(host: &dyn HostRead, name: &str) -> Result<bool, StepError> {
    let path = format!("/sys/module/{}", name.replace('-', "_"));
    match host.list(&path) {
        Ok(_) => Ok(true),
        Err(Errno::ENOENT) => Ok(false),
        Err(errno) => Err(failed(format!("list {path}"))(errno)),
    }
}

pub(super) fn unload(
    host: &mut dyn HostWrite,
    name: &str,
    nodes: &BTreeSet<String>,
) -> Result<Performed, StepError> {
    if !loaded(host, name)? {
        return Ok(Performed::Already);
    }
    require_idle(host, name)?;
    let unloaded = host.unload_module(name);
    match unloaded.map_err(|errno| not_unloaded(host, name, nodes, errno))? {
        Written::Blocked => Ok(Performed::Blocked),
        Written::Done => check_unloaded(host, name),
    }
}

/// The kernel says that it is in use, and not by whom.
fn not_unloaded(
    host: &dyn HostRead,
    name: &str,
    nodes: &BTreeSet<String>,
    errno: Errno,
) -> StepError {
    let operation = format!("unload module {name}");
    if meaning(Asked::Unload, errno) == Meaning::Later {
        for node in nodes {
            let found = holders::find(host, &BTreeSet::from([node.clone()]));
            let holders = found.map(|found| found.found).unwrap_or_default();
            if !holders.is_empty() {
                let node = node.clone();
                return StepError::Open { operation, errno, node, holders };
            }
        }
    }
    StepError::Errno { operation, errno }
}

/// The driver waits for whoever uses a VF of any of its devices: a process, or a driver of this host.
pub(super) fn require_idle(host: &dyn HostRead, name: &str) -> Result<(), StepError> {
    let dir = format!("/sys/bus/pci/drivers/{name}");
    let bound = match host.list(&dir) {
        Ok(names) => names,
        Err(Errno::ENOENT) => return Ok(()),
        Err(errno) => return Err(failed(format!("list {dir}"))(errno)),
    };
    let devices: Vec<PciAddress> = bound.iter().filter_map(|name| name.parse().ok()).collect();
    sriov::require_idle(host, &format!("a VF of driver {name}"), &devices)
}

pub(super) fn check_unloaded(host: &dyn HostRead, name: &str) -> Result<Performed, StepError> {
    Ok(if loaded(host, name)? { Performed::NotYet } else { Performed::Changed })
}

pub(super) fn load(
    host: &mut dyn HostWrite,
    name: &str,
    parameter: &Parameter<'_>,
    vfs: &BTreeMap<PciAddress, u16>,
    refusals: &[String],
) -> Result<Performed, StepError> {
    if loaded(host, name)? {
        let is_so = check_loaded(host, name, parameter, vfs)?;
        return Ok(if is_so == Performed::Changed { Performed::Already } else { is_so });
    }
    let before = kernel_log::newest(host);
    host.load_driver(name).map_err(failed(format!("load module {name}")))?;
    match check_loaded(host, name, parameter, vfs)? {
        // A driver that waits for its devices has said by now of each that failed; of another some are still to come.
        Performed::NotYet => {
            let said = kernel_log::refusing_lines(host, before, refusals);
            let short = short(host, vfs)?;
            if short.is_empty() || said.len() < short.len() + without_vfs(host, name, vfs) {
                return Ok(Performed::NotYet);
            }
            let said = said.into_iter().next();
            Err(StepError::Short { driver: name.to_owned(), short, said })
        }
        other => Ok(other),
    }
}

/// How many devices the driver has that have no VFs, of those that nothing is asked of.
fn without_vfs(host: &dyn HostRead, name: &str, asked: &BTreeMap<PciAddress, u16>) -> usize {
    let bound = host.list(&format!("/sys/bus/pci/drivers/{name}")).unwrap_or_default();
    let devices = bound.iter().filter_map(|name| name.parse().ok());
    let none =
        |pf: &PciAddress| sriov::links(host, *pf).is_ok_and(|links| sriov::count(&links) == 0);
    devices.filter(|pf| !asked.contains_key(pf) && none(pf)).count()
}

/// Devices that have not as many VFs as asked. One that left meanwhile is none of them.
pub(super) fn short(
    host: &dyn HostRead,
    vfs: &BTreeMap<PciAddress, u16>,
) -> Result<BTreeSet<PciAddress>, StepError> {
    let mut short = BTreeSet::new();
    for (pf, wanted) in vfs {
        match sriov::links(host, *pf) {
            Ok(links) if sriov::count(&links) == *wanted => {}
            Ok(_) => drop(short.insert(*pf)),
            Err(error) if error.means(Asked::Function, Meaning::Gone) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(short)
}

/// The module is there at once, its VFs later. That they will never come is known only when the module has another
/// parameter.
pub(super) fn check_loaded(
    host: &dyn HostRead,
    name: &str,
    parameter: &Parameter<'_>,
    vfs: &BTreeMap<PciAddress, u16>,
) -> Result<Performed, StepError> {
    if !short(host, vfs)?.is_empty() {
        parameter_is(host, name, (parameter.name, parameter.value), vfs.len())?;
        return Ok(Performed::NotYet);
    }
    for (other, value) in parameter.others {
        parameter_is(host, name, (other, value), 1)?;
    }
    Ok(Performed::Changed)
}

/// Refuses when a parameter reads otherwise for one of the first devices. Whether it can be read, and how it is
/// printed, depends on the driver; what it does not tell is not held against it.
fn parameter_is(
    host: &dyn HostRead,
    module: &str,
    (name, value): (&str, &str),
    devices: usize,
) -> Result<(), StepError> {
    let path = format!("/sys/module/{}/parameters/{name}", module.replace('-', "_"));
    if let Ok(now) = read_text(host, &path)
        && per_device::alike(&now, value, devices) == Some(false)
    {
        let state = format!(
            "reads {now}, not {value}: another file of modprobe.d or an argument of the kernel sets it too"
        );
        return Err(StepError::Unchanged { object: path, state });
    }
    Ok(())
}
