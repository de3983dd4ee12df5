//! `sriov_drivers_autoprobe` and `sriov_numvfs` (drivers/pci/iov.c).

use super::meaning::{Asked, Meaning};
use super::{Performed, StepError, binding, failed, require_unheld, write};
use crate::errno::Errno;
use crate::holders;
use crate::ids::{MdevUuid, PciAddress, VfIndex};
use crate::observation::is_vfio;
use crate::port::{HostRead, HostWrite, Written, link_name, read_text};
use std::collections::BTreeSet;

fn dir(pf: PciAddress) -> String {
    format!("/sys/bus/pci/devices/{pf}")
}

pub(super) fn set_autoprobe(
    host: &mut dyn HostWrite,
    pf: PciAddress,
    on: bool,
) -> Result<Performed, StepError> {
    let path = format!("{}/sriov_drivers_autoprobe", dir(pf));
    let now = read_text(host, &path).map_err(failed(format!("read {path}")))?;
    let wanted = if on { "1" } else { "0" };
    if now == wanted {
        return Ok(Performed::Already);
    }
    write(host, &path, wanted)?;
    Ok(Performed::Changed)
}

/// VFs by their links: `sriov_numvfs` itself must not be read, since its reader hangs while a disable does.
pub(super) fn links(host: &dyn HostRead, pf: PciAddress) -> Result<Vec<String>, StepError> {
    let dir = dir(pf);
    let names = host.list(&dir).map_err(failed(format!("list {dir}")))?;
    Ok(names.into_iter().filter(|n| VfIndex::from_link_name(n).is_some()).collect())
}

pub(super) fn count(links: &[String]) -> u16 {
    u16::try_from(links.len()).unwrap_or(u16::MAX)
}

pub(super) fn set_count(
    host: &mut dyn HostWrite,
    pf: PciAddress,
    wanted: u16,
) -> Result<Performed, StepError> {
    let links = links(host, pf)?;
    let current = count(&links);
    if current == wanted {
        return Ok(Performed::Already);
    }
    if wanted == 0 {
        leave_to_host(host, &vfs(host, pf, &links)?)?;
        require_free(host, pf, &links)?;
    } else if current != 0 {
        return Err(StepError::NotZero { pf, current });
    }
    let path = format!("{}/sriov_numvfs", dir(pf));
    match write(host, &path, &wanted.to_string()) {
        Ok(Written::Blocked) => Ok(Performed::Blocked),
        Ok(Written::Done) => check_count(host, pf, wanted),
        // It may have let go of the PF since that was looked at.
        Err(error) if error.means(Asked::Count, Meaning::Unable) => {
            Err(match binding::driver(host, pf) {
                Ok(None) => StepError::NoDriver { pf },
                _ => error,
            })
        }
        Err(error) => Err(error),
    }
}

/// The VFs to which links of a PF lead.
pub(super) fn vfs(
    host: &dyn HostRead,
    pf: PciAddress,
    links: &[String],
) -> Result<Vec<PciAddress>, StepError> {
    let mut vfs = Vec::new();
    for link in links {
        let path = format!("{}/{link}", dir(pf));
        let target = link_name(host, &path).map_err(failed(format!("read {path}")))?;
        vfs.extend(target.and_then(|name| name.parse::<PciAddress>().ok()));
    }
    Ok(vfs)
}

/// Refuses while anybody uses a VF of these devices: a process, or a driver of this host.
pub(super) fn require_idle(
    host: &dyn HostRead,
    object: &str,
    devices: &[PciAddress],
) -> Result<(), StepError> {
    let mut nodes = BTreeSet::new();
    for pf in devices {
        let links = match links(host, *pf) {
            // It left meanwhile.
            Err(StepError::Errno { errno: Errno::ENOENT | Errno::ENODEV, .. }) => continue,
            links => links?,
        };
        let vfs = vfs(host, *pf, &links)?;
        leave_to_host(host, &vfs)?;
        nodes.extend(opened_of(host, *pf, &vfs)?.nodes);
    }
    require_unheld(host, object, Ok(nodes))
}

/// Refuses while a driver of this host has a VF.
fn leave_to_host(host: &dyn HostRead, vfs: &[PciAddress]) -> Result<(), StepError> {
    for vf in vfs {
        if let Some(driver) = binding::driver(host, *vf)?.filter(|driver| !is_vfio(driver)) {
            let state = format!("is used by the host through its driver {driver}");
            return Err(StepError::Occupied { object: format!("VF {vf}"), state });
        }
    }
    Ok(())
}

/// Refuses to take VFs of which a process has one open, or on which somebody made an mdev since that was planned: ours are
/// removed before, and what only stands ready goes with them.
pub(super) fn require_free(
    host: &dyn HostRead,
    pf: PciAddress,
    links: &[String],
) -> Result<(), StepError> {
    let mdevs = require_unopened(host, pf, links)?;
    match mdevs.into_iter().find(|(_, uuid)| !uuid.is_parked()) {
        Some((vf, uuid)) => Err(StepError::Mediated { vf, uuid }),
        None => Ok(()),
    }
}

/// Refuses while a process has a VF open, or a mediated device on one; else says which of these there are.
pub(super) fn require_unopened(
    host: &dyn HostRead,
    pf: PciAddress,
    links: &[String],
) -> Result<Vec<(PciAddress, MdevUuid)>, StepError> {
    let opened = opened_of(host, pf, &vfs(host, pf, links)?)?;
    require_unheld(host, &format!("a VF of {pf}"), Ok(opened.nodes))?;
    Ok(opened.mdevs)
}

/// What can be open of VFs, and the mediated devices on them, which go with them.
#[derive(Default)]
struct Opened {
    nodes: BTreeSet<String>,
    mdevs: Vec<(PciAddress, MdevUuid)>,
}

fn opened_of(host: &dyn HostRead, pf: PciAddress, vfs: &[PciAddress]) -> Result<Opened, StepError> {
    let mut opened = Opened::default();
    let mut add = |vf: PciAddress| -> Result<(), Errno> {
        opened.nodes.extend(holders::nodes_of_function(host, vf)?);
        for uuid in host.list(&dir(vf))?.iter().filter_map(|name| name.parse().ok()) {
            opened.nodes.extend(holders::nodes_of_mdev(host, uuid)?);
            opened.mdevs.push((vf, uuid));
        }
        Ok(())
    };
    let added = vfs.iter().try_for_each(|vf| add(*vf));
    added.map_err(failed(format!("find the device nodes of VFs of {pf}")))?;
    Ok(opened)
}

/// The kernel stores the count after the last event and makes the links before it, so links are what counts.
pub(super) fn check_count(
    host: &dyn HostRead,
    pf: PciAddress,
    wanted: u16,
) -> Result<Performed, StepError> {
    let got = count(&links(host, pf)?);
    if got == wanted {
        return Ok(Performed::Changed);
    }
    // The write has returned: what the driver did not make by now it will not make.
    Err(StepError::Fewer { pf, asked: wanted, got })
}
