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
        for link in &links {
            let path = format!("{}/{link}", dir(*pf));
            let target = link_name(host, &path).map_err(failed(format!("read {path}")))?;
            let Some(vf) = target.and_then(|name| name.parse().ok()) else { continue };
            if let Some(driver) = binding::driver(host, vf)?.filter(|driver| !is_vfio(driver)) {
                let state = format!("is used by the host through its driver {driver}");
                return Err(StepError::Occupied { object: format!("VF {vf}"), state });
            }
        }
        let of_pf = nodes_of_vfs(host, *pf, &links);
        nodes.extend(of_pf.map_err(failed(format!("find the device nodes of VFs of {pf}")))?);
    }
    require_unheld(host, object, Ok(nodes))
}

/// Refuses to take VFs of which a process has one open, or on which somebody made an mdev since that was planned: ours are
/// removed before.
pub(super) fn require_free(
    host: &dyn HostRead,
    pf: PciAddress,
    links: &[String],
) -> Result<(), StepError> {
    require_unheld(host, &format!("a VF of {pf}"), nodes_of_vfs(host, pf, links))?;
    for link in links {
        let path = format!("{}/{link}", dir(pf));
        let target = link_name(host, &path).map_err(failed(format!("read {path}")))?;
        let Some(vf) = target.and_then(|name| name.parse::<PciAddress>().ok()) else { continue };
        let path = dir(vf);
        let names = host.list(&path).map_err(failed(format!("list {path}")))?;
        let mut uuids = names.iter().filter_map(|name| name.parse::<MdevUuid>().ok());
        // What only stands ready goes with it.
        if let Some(uuid) = uuids.find(|uuid| !uuid.is_parked()) {
            return Err(StepError::Mediated { vf, uuid });
        }
    }
    Ok(())
}

pub(super) fn nodes_of_vfs(
    host: &dyn HostRead,
    pf: PciAddress,
    links: &[String],
) -> Result<BTreeSet<String>, crate::errno::Errno> {
    let mut nodes = BTreeSet::new();
    for link in links {
        let target = link_name(host, &format!("{}/{link}", dir(pf)))?;
        if let Some(vf) = target.and_then(|name| name.parse::<PciAddress>().ok()) {
            nodes.extend(holders::nodes_of_function(host, vf)?);
            // Mediated devices of a VF go with it.
            for name in host.list(&dir(vf))? {
                if let Ok(uuid) = name.parse() {
                    nodes.extend(holders::nodes_of_mdev(host, uuid)?);
                }
            }
        }
    }
    Ok(nodes)
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
