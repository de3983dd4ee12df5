//! Modes of devices: an attribute that takes a name, or the number of a choice listed in another. Setting one resets
//! the device, and drivers report success on refusal.

use super::{Performed, StepError, failed, kernel_log, sriov, write};
use crate::ids::PciAddress;
use crate::mode::ModeValue;
use crate::port::{HostRead, HostWrite, Written, read_text};
use std::collections::BTreeSet;

/// Where a mode is read and written.
pub(super) struct At<'a> {
    pub device: PciAddress,
    pub attribute: &'a str,
    pub choices: Option<&'a str>,
}

impl At<'_> {
    fn path(&self, attribute: &str) -> String {
        format!("/sys/bus/pci/devices/{}/{attribute}", self.device)
    }

    fn read(&self, host: &dyn HostRead, attribute: &str) -> Result<String, StepError> {
        let path = self.path(attribute);
        read_text(host, &path).map_err(failed(format!("read {path}")))
    }

    /// What is written for a value.
    fn data(&self, host: &dyn HostRead, value: &ModeValue) -> Result<String, StepError> {
        let Some(choices) = self.choices else { return Ok(value.to_string()) };
        let listed = self.read(host, choices)?;
        let choice = listed.lines().find_map(|line| {
            let mut words = line.split_whitespace();
            let number = words.next().filter(|n| n.bytes().all(|b| b.is_ascii_digit()))?;
            words.next().is_some_and(|name| value.is(name)).then(|| number.to_owned())
        });
        choice.ok_or_else(|| StepError::Unchanged {
            object: self.path(choices),
            state: format!("does not list {value}"),
        })
    }
}

/// Whether an attribute reads so.
fn reads(text: &str, value: &ModeValue) -> bool {
    text.lines().any(|line| line.split_whitespace().take(2).any(|word| value.is(word)))
}

pub(super) fn set(
    host: &mut dyn HostWrite,
    at: &At<'_>,
    value: &ModeValue,
    disturbs: &BTreeSet<PciAddress>,
    refusals: &[String],
) -> Result<Performed, StepError> {
    if reads(&at.read(host, at.attribute)?, value) {
        return Ok(Performed::Already);
    }
    let devices: Vec<PciAddress> = disturbs.iter().copied().collect();
    sriov::require_idle(host, &format!("a VF that goes with {value}"), &devices)?;
    let data = at.data(host, value)?;
    let before = kernel_log::newest(host);
    match write(host, &at.path(at.attribute), &data)? {
        Written::Blocked => Ok(Performed::Blocked),
        Written::Done => match (check(host, at, value)?, refusals) {
            (Performed::NotYet, [_, ..]) => match kernel_log::refusal(host, before, refusals) {
                Some(said) => Err(StepError::Refused { object: at.path(at.attribute), said }),
                None => Ok(Performed::NotYet),
            },
            (other, _) => Ok(other),
        },
    }
}

pub(super) fn check(
    host: &dyn HostRead,
    at: &At<'_>,
    value: &ModeValue,
) -> Result<Performed, StepError> {
    let so = reads(&at.read(host, at.attribute)?, value);
    Ok(if so { Performed::Changed } else { Performed::NotYet })
}
