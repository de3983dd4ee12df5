//! Parameters of a slice: an attribute of its driver, read when a VM opens the slice. Clearing is a blank, of all at
//! once; a device without the attribute has none to clear.

use super::{Performed, StepError, binding, failed, mdev, require_unheld, write};
use crate::errno::Errno;
use crate::holders;
use crate::ids::SliceId;
use crate::port::{HostRead, HostWrite, Written, read_text};
use std::collections::BTreeSet;

fn path(slice: SliceId, attribute: &str) -> String {
    let dir = match slice {
        SliceId::Mdev(uuid) => mdev::dir(uuid),
        SliceId::Vf(address) | SliceId::Function(address) => binding::dir(address),
    };
    format!("{dir}/{attribute}")
}

pub(super) fn set(
    host: &mut dyn HostWrite,
    slice: SliceId,
    attribute: &str,
    value: &str,
) -> Result<Performed, StepError> {
    if matches!(check(host, slice, attribute, value)?, Performed::Changed) {
        return Ok(Performed::Already);
    }
    if let Some(address) = slice.pci() {
        let object = address.to_string();
        require_unheld(host, &object, holders::nodes_of_function(host, address))?;
    }
    let data = if value.is_empty() { " " } else { value };
    match write(host, &path(slice, attribute), data)? {
        Written::Blocked => Ok(Performed::Blocked),
        Written::Done => check(host, slice, attribute, value),
    }
}

fn each(parameters: &str) -> BTreeSet<&str> {
    let words = parameters.split(|c: char| c == ',' || c.is_whitespace());
    words.filter(|word| !word.is_empty()).collect()
}

/// What it holds is what counts. In which order and with what between them a driver shows them is UNVERIFIED.
pub(super) fn check(
    host: &dyn HostRead,
    slice: SliceId,
    attribute: &str,
    value: &str,
) -> Result<Performed, StepError> {
    let path = path(slice, attribute);
    match read_text(host, &path) {
        Ok(now) if each(&now) == each(value) => Ok(Performed::Changed),
        Ok(_) => Ok(Performed::NotYet),
        Err(Errno::ENOENT | Errno::ENODEV) if value.is_empty() => Ok(Performed::Changed),
        Err(errno) => Err(failed(format!("read {path}"))(errno)),
    }
}
