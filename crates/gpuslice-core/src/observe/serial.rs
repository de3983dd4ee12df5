//! Which GPU each is that has no Device Serial Number, as its driver tells it. To look may wake the GPU, so a driver is asked
//! until it has said so and not again: what it said stays as long as the device does, whoever has it by then.

use super::{Observer, parsed};
use crate::errno::Errno;
use crate::ids::{PciAddress, Serial};
use crate::mechanism::ShownSerial;
use crate::observation::Observation;
use crate::port::{HostRead, read_text};

/// What is known of a device's number.
pub(super) struct Numbered {
    /// Vendor and device: another one may come to be there.
    pub id: (u16, u16),
    /// From its configuration space or a driver.
    pub serial: Option<Serial>,
    /// The driver that does not tell it.
    pub asked: Option<String>,
}

pub(super) fn read(host: &dyn HostRead, observer: &mut Observer, seen: &mut Observation) {
    let all = seen.functions.iter().chain(&seen.whole);
    let without = all.filter(|(_, function)| function.serial.is_none());
    let asked: Vec<(PciAddress, String)> = without
        .filter_map(|(address, function)| Some((*address, function.driver.clone()?)))
        .collect();
    for (address, driver) in asked {
        let Some(known) = observer.serials.get_mut(&address) else { continue };
        if known.asked.as_ref() == Some(&driver) {
            continue;
        }
        let file = observer.mechanisms.iter().find_map(|m| m.serial(address, &driver));
        let text = file.as_ref().map_or(Err(Errno::ENOENT), |file| read_text(host, &file.path));
        let (Some(file), false) = (file, matches!(text, Err(Errno::ENOENT | Errno::ENODEV))) else {
            known.asked = Some(driver);
            continue;
        };
        let Some(ShownSerial::Is(serial)) = parsed(seen, &file.path, text, file.read) else {
            continue;
        };
        known.serial = Some(serial);
        let function = match seen.functions.get_mut(&address) {
            Some(function) => Some(function),
            None => seen.whole.get_mut(&address),
        };
        if let Some(function) = function {
            function.serial = known.serial;
        }
    }
}
