//! Making and removing mediated devices (drivers/vfio/mdev).

use super::meaning::{Asked, Meaning};
use super::{Performed, StepError, failed, kernel_log, require_unheld, write};
use crate::errno::Errno;
use crate::holders;
use crate::ids::{MdevTypeId, MdevUuid, ParentId};
use crate::port::{HostRead, HostWrite, Written, read_text};

/// Drivers answer a fault and a lack of room alike (NVIDIA's EIO, EPERM or EINVAL, mdpy before Linux 6.1 ENOMEM), and tell
/// which it was only in the kernel log.
const UNCLEAR: &[Errno] = &[Errno::EIO, Errno::EPERM, Errno::EINVAL, Errno::ENOMEM];

pub(super) fn dir(uuid: MdevUuid) -> String {
    format!("/sys/bus/mdev/devices/{uuid}")
}

fn exists(host: &dyn HostRead, uuid: MdevUuid) -> Result<bool, StepError> {
    match host.link(&dir(uuid)) {
        Ok(_) => Ok(true),
        Err(Errno::ENOENT) => Ok(false),
        Err(errno) => Err(failed(format!("find mdev {uuid}"))(errno)),
    }
}

pub(super) fn create(
    host: &mut dyn HostWrite,
    parent: &ParentId,
    type_id: &MdevTypeId,
    uuid: MdevUuid,
    not_ready: &[String],
) -> Result<Performed, StepError> {
    if let Ok(target) = host.link(&dir(uuid)) {
        let there = target.rsplit('/').nth(1).unwrap_or_default().to_owned();
        let of_type = crate::port::link_name(host, &format!("{}/mdev_type", dir(uuid)))
            .map_err(failed(format!("read the type of mdev {uuid}")))?;
        if there == parent.to_string() && of_type.as_deref() == Some(type_id.as_str()) {
            return Ok(Performed::Already);
        }
        let state = format!("exists already on {there}, of type {}", of_type.unwrap_or_default());
        return Err(StepError::Occupied { object: format!("mdev {uuid}"), state });
    }
    let of_type = format!("/sys/class/mdev_bus/{parent}/mdev_supported_types/{type_id}");
    let create = format!("{of_type}/create");
    let unclear = kernel_log::Unclear { errnos: UNCLEAR, not_ready };
    match kernel_log::write(host, &create, &uuid.to_string(), &unclear) {
        Ok(Written::Blocked) => Ok(Performed::Blocked),
        Ok(Written::Done) => check_created(host, uuid),
        Err(error @ (StepError::Errno { errno, .. } | StepError::Said { errno, .. }))
            if UNCLEAR.contains(&errno) =>
        {
            let left = read_text(host, &format!("{of_type}/available_instances"));
            Err(match (left.as_deref(), error) {
                (
                    Ok("0"),
                    StepError::Errno { operation, errno }
                    | StepError::Said { operation, errno, .. },
                ) => StepError::NoneLeft { operation, errno },
                (_, error) => error,
            })
        }
        Err(error) => Err(error),
    }
}

pub(super) fn remove(host: &mut dyn HostWrite, uuid: MdevUuid) -> Result<Performed, StepError> {
    if !exists(host, uuid)? {
        return Ok(Performed::Already);
    }
    require_unheld(host, &format!("mdev {uuid}"), holders::nodes_of_mdev(host, uuid))?;
    match write(host, &format!("{}/remove", dir(uuid)), "1") {
        Ok(Written::Blocked) => Ok(Performed::Blocked),
        Ok(Written::Done) => check_removed(host, uuid),
        // Its driver or its parent is removing it: so it says, and so it must be seen.
        Err(error) if error.means(Asked::RemoveMdev, Meaning::Gone) => check_removed(host, uuid),
        Err(error) => Err(error),
    }
}

/// The kernel took the write, so whatever cannot be read now, it may be there.
pub(super) fn check_created(host: &dyn HostRead, uuid: MdevUuid) -> Result<Performed, StepError> {
    match exists(host, uuid) {
        Ok(true) => Ok(Performed::Changed),
        Ok(false) => Ok(Performed::NotYet),
        Err(error) => Err(StepError::Unchanged {
            object: format!("mdev {uuid}"),
            state: format!("was made, and does not show: {error}"),
        }),
    }
}

pub(super) fn check_removed(host: &dyn HostRead, uuid: MdevUuid) -> Result<Performed, StepError> {
    Ok(if exists(host, uuid)? { Performed::NotYet } else { Performed::Changed })
}
