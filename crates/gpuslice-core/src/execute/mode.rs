//! Modes of devices: an attribute that takes a name, or the number of a choice listed in another. Setting one resets
//! the device, and drivers report success on refusal.

use super::meaning::{Asked, Meaning};
use super::{Performed, StepError, failed, kernel_log, sriov, write};
use crate::ids::PciAddress;
use crate::mode::ModeValue;
use crate::port::{HostRead, HostWrite, Written, read_text};
use std::collections::BTreeSet;

/// How an attribute begins that cannot tell: its device is not initialised, as while it is being reset.
const UNTOLD: &str = "failed to";

/// Before the value, in the kernel's log: a driver that finds a mode set, or on its way, says so as if it refused.
const ALREADY: &str = "already set to ";

/// Where a mode is read and written.
#[derive(Clone, Copy)]
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
        if listed.starts_with(UNTOLD) {
            return Err(self.untold(choices, listed));
        }
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

    fn untold(&self, attribute: &str, said: String) -> StepError {
        StepError::Untold { object: self.path(attribute), said }
    }

    /// Other devices that are set with this one.
    fn others(self, disturbs: &BTreeSet<PciAddress>) -> impl Iterator<Item = Self> {
        let others = disturbs.iter().filter(move |other| **other != self.device);
        others.map(move |device| At { device: *device, ..self })
    }

    /// What one of those tells, where there is something to come of it: one that left, that has no such mode, or of which its
    /// driver made no VFs tells nothing for ever.
    fn told(&self, host: &dyn HostRead, value: &ModeValue) -> Option<Told> {
        if sriov::links(host, self.device).map_or(true, |links| links.is_empty()) {
            return None;
        }
        match self.read(host, self.attribute) {
            Ok(text) => Some(told(&text, value)),
            Err(error) if error.means(Asked::Function, Meaning::Gone) => None,
            Err(_) => Some(Told::Nothing),
        }
    }
}

/// What an attribute tells of a value.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Told {
    So,
    Other,
    Nothing,
}

fn told(text: &str, value: &ModeValue) -> Told {
    let has = |line: &str| line.split_whitespace().take(2).any(|word| value.is(word));
    match text.lines().any(has) {
        true => Told::So,
        false if text.starts_with(UNTOLD) => Told::Nothing,
        false => Told::Other,
    }
}

/// Whether a line of the kernel's log says that what was written is so already, or is about to be.
fn is_already(said: &str, value: &ModeValue, data: &str) -> bool {
    let word = |text: &str| {
        let end = text.find(|c: char| c.is_whitespace() || ".,;".contains(c));
        let word = end.and_then(|end| text.get(..end)).unwrap_or(text);
        value.is(word) || word.split_once('=').is_some_and(|(_, number)| number == data)
    };
    said.split(ALREADY).skip(1).any(word)
}

pub(super) fn set(
    host: &mut dyn HostWrite,
    at: &At<'_>,
    value: &ModeValue,
    disturbs: &BTreeSet<PciAddress>,
    refusals: &[String],
) -> Result<Performed, StepError> {
    let own = at.read(host, at.attribute)?;
    match told(&own, value) {
        Told::Nothing => return Err(at.untold(at.attribute, own)),
        Told::So => return Ok(Performed::Already),
        Told::Other => {}
    }
    let devices: Vec<PciAddress> = disturbs.iter().copied().collect();
    sriov::require_idle(host, &format!("a VF that goes with {value}"), &devices)?;
    let data = at.data(host, value)?;
    let before = kernel_log::newest(host);
    match write(host, &at.path(at.attribute), &data)? {
        Written::Blocked => Ok(Performed::Blocked),
        Written::Done => match (check(host, at, value, disturbs)?, refusals) {
            (Performed::NotYet, [_, ..]) => match kernel_log::refusal(host, before, refusals) {
                Some(said) if !is_already(&said, value, &data) => {
                    Err(StepError::Refused { object: at.path(at.attribute), said })
                }
                _ => Ok(Performed::NotYet),
            },
            (other, _) => Ok(other),
        },
    }
}

/// Devices that are set together are reset each in its own time. Those that choose from a list have a step each for what
/// they are to be.
pub(super) fn check(
    host: &dyn HostRead,
    at: &At<'_>,
    value: &ModeValue,
    disturbs: &BTreeSet<PciAddress>,
) -> Result<Performed, StepError> {
    let comes = |other: At<'_>| match other.told(host, value) {
        None | Some(Told::So) => false,
        Some(Told::Nothing) => true,
        Some(Told::Other) => at.choices.is_none(),
    };
    let so = told(&at.read(host, at.attribute)?, value) == Told::So;
    let so = so && !at.others(disturbs).any(comes);
    Ok(if so { Performed::Changed } else { Performed::NotYet })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_so_already_is_no_refusal() {
        let (nps4, cpx) = ("NPS4".parse().unwrap(), "CPX".parse().unwrap());
        let memory = "memory mode switch in progress. current memory partition mode is already set to NPS4; \
                      Failed to set mp mode NPS4";
        assert!(is_already(memory, &nps4, "NPS4"));
        assert!(!is_already(&memory.replace("to NPS4;", "to NPS1;"), &nps4, "NPS4"));
        assert!(!is_already("Failed to set mp mode NPS4", &nps4, "NPS4"));
        let compute = "current accelerator_partition_profile is already set to profile_index=3";
        assert!(is_already(compute, &cpx, "3"));
        assert!(!is_already(&format!("{compute}1"), &cpx, "3"));
    }
}
