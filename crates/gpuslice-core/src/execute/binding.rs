//! Driver binding by `driver_override` (Documentation/ABI/testing/sysfs-bus-pci). `new_id` is never used: it takes
//! every device of the id, and PFs share ids with their VFs.

use super::meaning::{Asked, Meaning};
use super::{Performed, StepError, failed, require_unheld, write};
use crate::errno::Errno;
use crate::holders;
use crate::ids::PciAddress;
use crate::observation::is_vfio;
use crate::port::{HostRead, HostWrite, Written, link_name, read_text};

pub(super) fn dir(function: PciAddress) -> String {
    format!("/sys/bus/pci/devices/{function}")
}

pub(super) fn driver(
    host: &dyn HostRead,
    function: PciAddress,
) -> Result<Option<String>, StepError> {
    let dir = dir(function);
    // A link that is absent means "no driver" only while the function itself is there.
    host.link(&dir).map_err(failed(format!("find {function}")))?;
    link_name(host, &format!("{dir}/driver")).map_err(failed(format!("read {dir}/driver")))
}

/// What was found out of a function; `None` where it has left, and with it whatever was bound to it or left in it.
fn unless_gone<T>(found: Result<T, StepError>) -> Result<Option<T>, StepError> {
    match found {
        Err(error) if error.means(Asked::Function, Meaning::Gone) => Ok(None),
        found => found.map(Some),
    }
}

/// The driver that uses a function for the host: one that hands functions to VMs does not.
fn of_the_host(present: Option<&str>) -> Option<&str> {
    present.filter(|driver| !is_vfio(driver))
}

/// A function that a driver of the host has is left to it: only one that hands functions to VMs gives way.
pub(super) fn bind(
    host: &mut dyn HostWrite,
    function: PciAddress,
    wanted: &str,
) -> Result<Performed, StepError> {
    let present = driver(host, function)?;
    // A function that is being taken away has lost its driver's link and may still be open.
    require_unheld(host, &function.to_string(), holders::nodes_of_function(host, function))?;
    if present.as_deref() == Some(wanted) {
        return Ok(Performed::Already);
    }
    if let Some(driver) = of_the_host(present.as_deref()) {
        return Err(StepError::HostDriver { function, driver: driver.to_owned() });
    }
    write(host, &format!("{}/driver_override", dir(function)), wanted)?;
    if let Some(present) = present
        && release(host, function, &present)? == Written::Blocked
    {
        return Ok(Performed::Blocked);
    }
    write(host, "/sys/bus/pci/drivers_probe", &function.to_string())?;
    check(host, function, Some(wanted))
}

/// Leaves a driver of the host that has taken the function since: what was bound for a VM is gone then.
pub(super) fn unbind(
    host: &mut dyn HostWrite,
    function: PciAddress,
) -> Result<Performed, StepError> {
    let Some(present) = unless_gone(driver(host, function))? else {
        return Ok(Performed::Already);
    };
    let dir = dir(function);
    let path = format!("{dir}/driver_override");
    let set = read_text(host, &path).map_err(failed(format!("read {path}")))?;
    let taken = of_the_host(present.as_deref()).is_some();
    let set = !set.is_empty() && set != "(null)" && (!taken || is_vfio(&set));
    if (present.is_none() || taken) && !set {
        return Ok(Performed::Already);
    }
    require_unheld(host, &function.to_string(), holders::nodes_of_function(host, function))?;
    if set {
        write(host, &path, "\n")?;
    }
    if let Some(present) = present.filter(|_| !taken)
        && release(host, function, &present)? == Written::Blocked
    {
        return Ok(Performed::Blocked);
    }
    check(host, function, None)
}

/// The kernel's answer says whether the function came back (Documentation/ABI/testing/sysfs-bus-pci, `reset`). One that a
/// driver of the host uses is left to it: the kernel would reset it under that driver's hands.
pub(super) fn reset(
    host: &mut dyn HostWrite,
    function: PciAddress,
) -> Result<Performed, StepError> {
    let Some(present) = unless_gone(driver(host, function))? else {
        return Ok(Performed::Already);
    };
    if let Some(driver) = of_the_host(present.as_deref()) {
        return Err(StepError::HostDriver { function, driver: driver.to_owned() });
    }
    require_unheld(host, &function.to_string(), holders::nodes_of_function(host, function))?;
    // A change of power state, or a reset of the bus that a VF has no part in, leaves memory as it is. Before Linux
    // 5.15 the method is not told; a VF has FLR always (PCIe 9.2.2.2), and it comes first.
    let path = format!("{}/reset_method", dir(function));
    let methods = match read_text(host, &path) {
        Err(Errno::ENOENT) => None,
        methods => Some(methods.map_err(failed(format!("read {path}")))?),
    };
    let state = match methods.as_deref().map(|text| text.split_whitespace().next()) {
        Some(Some(method @ ("pm" | "bus" | "cxl_bus"))) => {
            Some(format!("is reset by its reset_method {method}, which clears nothing"))
        }
        Some(None) => Some(format!("cannot be reset before: echo default > {path}")),
        _ => None,
    };
    if let Some(state) = state {
        return Err(StepError::Unchanged { object: function.to_string(), state });
    }
    match write(host, &format!("{}/reset", dir(function)), "1") {
        Ok(Written::Blocked) => Ok(Performed::Blocked),
        Ok(Written::Done) => Ok(Performed::Changed),
        Err(StepError::Errno { errno: Errno::ENOENT, .. }) => Err(StepError::Unchanged {
            object: function.to_string(),
            state: "has no way to be reset alone".to_owned(),
        }),
        Err(error) => Err(error),
    }
}

pub(super) fn release(
    host: &mut dyn HostWrite,
    function: PciAddress,
    driver: &str,
) -> Result<Written, StepError> {
    match write(host, &format!("/sys/bus/pci/drivers/{driver}/unbind"), &function.to_string()) {
        // Somebody else unbound it in between.
        Err(error) if error.means(Asked::Unbind, Meaning::Gone) => Ok(Written::Done),
        other => other,
    }
}

/// Probing is synchronous in the kernel, so what is not bound now was refused by the driver.
pub(super) fn check(
    host: &dyn HostRead,
    function: PciAddress,
    wanted: Option<&str>,
) -> Result<Performed, StepError> {
    let present = match wanted {
        Some(_) => driver(host, function)?,
        None => unless_gone(driver(host, function))?.flatten(),
    };
    let left = wanted.is_none() && of_the_host(present.as_deref()).is_some();
    if present.as_deref() == wanted || left {
        return Ok(Performed::Changed);
    }
    let state = match present {
        Some(driver) => format!("is bound to {driver}"),
        None => "is bound to no driver".to_owned(),
    };
    Err(StepError::Unchanged { object: function.to_string(), state })
}
