//! Physical slots (drivers/pci/slot.c). A slot tells the address of the device that is plugged into it, which on a card
//! with a bridge of its own is that bridge: the GPU is somewhere below it.

use super::{attribute, note};
use crate::errno::Errno;
use crate::ids::PciAddress;
use crate::observation::Observation;
use crate::port::HostRead;

const SLOTS: &str = "/sys/bus/pci/slots";

/// Slots by what their `address` says: `0000:41:00`, a device without its function, or `0000:41`, a whole bus.
type Slots = Vec<(String, String)>;

pub(super) fn read(host: &dyn HostRead, seen: &mut Observation) {
    let names = match host.list(SLOTS) {
        Ok(names) => names,
        // A kernel without any.
        Err(Errno::ENOENT) => return,
        Err(errno) => return note(seen, SLOTS, errno),
    };
    let address = |name: String| {
        let path = format!("{SLOTS}/{name}/address");
        let parse = |text: &str| is_address(text).then(|| text.to_owned());
        Some((attribute(host, seen, &path, parse)?, name))
    };
    let slots: Slots = names.into_iter().filter_map(address).collect();
    if slots.is_empty() {
        return;
    }
    let gpus = seen.functions.keys().chain(seen.whole.keys());
    let gpus: Vec<PciAddress> = gpus.copied().collect();
    for gpu in gpus {
        let path = format!("/sys/bus/pci/devices/{gpu}");
        let slot = match host.link(&path) {
            Ok(place) => slot_of(&place, &slots),
            Err(errno) => {
                note(seen, &path, errno);
                None
            }
        };
        let function = seen.functions.get_mut(&gpu).or_else(|| seen.whole.get_mut(&gpu));
        if let Some(function) = function {
            function.slot = slot;
        }
    }
}

fn is_address(text: &str) -> bool {
    let hex = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_hexdigit());
    (2..=3).contains(&text.split(':').count()) && text.split(':').all(hex)
}

/// The slot of the nearest device on the way to one, itself first.
fn slot_of(place: &str, slots: &Slots) -> Option<String> {
    place.rsplit('/').find_map(|device| {
        let is = |at: &str| {
            let rest = device.strip_prefix(at);
            rest.is_some_and(|rest| rest.starts_with(['.', ':']))
        };
        slots.iter().find(|(at, _)| is(at)).map(|(_, name)| name.clone())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gpu_is_in_the_slot_of_what_it_is_below() {
        let slots = [("0000:41:00", "3"), ("0000:81:00", "4"), ("0000:c1", "5-1")];
        let slots: Slots = slots.map(|(at, name)| (at.to_owned(), name.to_owned())).into();
        let of = |place: &str| slot_of(place, &slots);
        assert_eq!(of("../../../devices/pci0000:40/0000:40:01.1/0000:41:00.0").unwrap(), "3");
        // Behind the card's own bridge.
        let below =
            "../../../devices/pci0000:80/0000:80:01.1/0000:81:00.0/0000:82:00.0/0000:83:00.0";
        assert_eq!(of(below).unwrap(), "4");
        assert_eq!(of("../../../devices/pci0000:c0/0000:c0:03.1/0000:c1:00.0").unwrap(), "5-1");
        assert_eq!(of("../../../devices/pci0000:40/0000:40:02.1/0000:42:00.0"), None);
        assert_eq!(of("../../../devices/pci0000:c0/0000:c0:04.1/0000:c10:00.0"), None);
    }

    #[test]
    fn addresses_are_those_of_the_kernel() {
        assert!(is_address("0000:41:00") && is_address("10000:41"));
        for bad in ["", "0000", "0000:41:00:0", "0000:41:00.0", "x:41:00", "0000::00"] {
            assert!(!is_address(bad), "{bad:?}");
        }
    }
}
