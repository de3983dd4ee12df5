//! Types of VFs: an attribute that holds a number, `0` for none. One write gives the type, another takes it away;
//! going from one type to another directly is refused by drivers.

use super::meaning::{Asked, Meaning};
use super::{Performed, StepError, failed, kernel_log, require_unheld, write};
use crate::errno::Errno;
use crate::holders;
use crate::ids::PciAddress;
use crate::port::{HostRead, HostWrite, Written, read_text};

/// What an attribute holds when there is no type.
pub(super) const NONE: &str = "0";

fn path(vf: PciAddress, attribute: &str) -> String {
    format!("/sys/bus/pci/devices/{vf}/{attribute}")
}

fn current(host: &dyn HostRead, vf: PciAddress, attribute: &str) -> Result<String, StepError> {
    let path = path(vf, attribute);
    let text = read_text(host, &path).map_err(failed(format!("read {path}")))?;
    // What is no number says nothing of whose the type is.
    match text.parse::<u32>() {
        Ok(_) => Ok(text),
        Err(_) => Err(failed(format!("read {path}"))(Errno::EINVAL)),
    }
}

/// Refuses to take VFs of which somebody gave one a type since that was planned: ours are taken before.
pub(super) fn require_none(
    host: &dyn HostRead,
    vfs: &[PciAddress],
    attribute: &str,
) -> Result<(), StepError> {
    for vf in vfs {
        match current(host, *vf, attribute) {
            Ok(value) if value == NONE => {}
            Ok(value) => {
                return Err(StepError::Typed { vf: *vf, attribute: attribute.to_owned(), value });
            }
            // It has left, or its driver, or that gives types in another way.
            Err(error) if error.means(Asked::VfType, Meaning::Gone) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

pub(super) fn give(
    host: &mut dyn HostWrite,
    vf: PciAddress,
    attribute: &str,
    value: &str,
    not_ready: &[String],
) -> Result<Performed, StepError> {
    let now = current(host, vf, attribute)?;
    if now == value {
        return Ok(Performed::Already);
    }
    if now != NONE {
        let state = format!("has type {now} already");
        return Err(StepError::Occupied { object: format!("VF {vf}"), state });
    }
    require_unheld(host, &vf.to_string(), holders::nodes_of_function(host, vf))?;
    let unclear = kernel_log::Unclear { errnos: &[Errno::EIO], not_ready };
    match kernel_log::write(host, &path(vf, attribute), value, &unclear)? {
        Written::Blocked => Ok(Performed::Blocked),
        Written::Done => check(host, vf, attribute, value),
    }
}

pub(super) fn take(
    host: &mut dyn HostWrite,
    vf: PciAddress,
    attribute: &str,
    value: &str,
) -> Result<Performed, StepError> {
    match current(host, vf, attribute) {
        Ok(now) if now == value => {}
        // It was taken already, or the VF was made anew; another type is somebody else's.
        Ok(_) => return Ok(Performed::Already),
        Err(error) if error.means(Asked::VfType, Meaning::Gone) => return Ok(Performed::Already),
        Err(error) => return Err(error),
    }
    require_unheld(host, &vf.to_string(), holders::nodes_of_function(host, vf))?;
    match write(host, &path(vf, attribute), NONE) {
        Ok(Written::Blocked) => Ok(Performed::Blocked),
        Ok(Written::Done) => check(host, vf, attribute, NONE),
        // It left between the look and the write.
        Err(error) if error.means(Asked::VfType, Meaning::Gone) => check(host, vf, attribute, NONE),
        Err(error) => Err(error),
    }
}

/// Drivers report success on refusal, so what the attribute holds is what counts.
pub(super) fn check(
    host: &dyn HostRead,
    vf: PciAddress,
    attribute: &str,
    wanted: &str,
) -> Result<Performed, StepError> {
    match current(host, vf, attribute) {
        Ok(now) if now == wanted => Ok(Performed::Changed),
        Ok(_) => Ok(Performed::NotYet),
        Err(error) if wanted == NONE && error.means(Asked::VfType, Meaning::Gone) => {
            Ok(Performed::Changed)
        }
        Err(error) => Err(error),
    }
}
