//! PCI addresses as sysfs writes them (`/sys/bus/pci/devices/<domain>:<bus>:<device>.<function>`).

use super::{ParseIdError, serde_as_text};
use std::fmt;
use std::str::FromStr;

/// Address of a PCI function: `0000:41:00.4`. The domain may exceed 16 bits (VMD).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PciAddress {
    domain: u32,
    bus: u8,
    device: u8,
    function: u8,
}

impl PciAddress {
    /// Builds an address; `None` when device exceeds 31 or function exceeds 7.
    pub fn new(domain: u32, bus: u8, device: u8, function: u8) -> Option<Self> {
        (device < 32 && function < 8).then_some(Self { domain, bus, device, function })
    }

    /// PCI domain (segment).
    pub fn domain(self) -> u32 {
        self.domain
    }
    /// Bus number.
    pub fn bus(self) -> u8 {
        self.bus
    }
    /// Device (libvirt: slot) number, 0 to 31.
    pub fn device(self) -> u8 {
        self.device
    }
    /// Function number, 0 to 7.
    pub fn function(self) -> u8 {
        self.function
    }

    /// Routing id within the domain: bus, device and function in 16 bits.
    pub fn routing_id(self) -> u16 {
        u16::from(self.bus) << 8 | u16::from(self.device) << 3 | u16::from(self.function)
    }

    /// The function at a routing id of the same domain.
    pub fn with_routing_id(self, rid: u16) -> Self {
        let [bus, devfn] = rid.to_be_bytes();
        Self { domain: self.domain, bus, device: devfn >> 3, function: devfn & 7 }
    }
}

impl fmt::Display for PciAddress {
    /// In one piece wherever the domain has four digits: lists and paths hold thousands of addresses, and to a writer
    /// each piece costs more than its letters.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { domain, bus, device, function } = *self;
        let Ok(short) = u16::try_from(domain) else {
            return write!(f, "{domain:x}:{bus:02x}:{device:02x}.{function:x}");
        };
        let [high, low] = short.to_be_bytes();
        let ([a, b], [c, d], [e, g], [h, i]) = (hex(high), hex(low), hex(bus), hex(device));
        let [_, j] = hex(function);
        let text = [a, b, c, d, b':', e, g, b':', h, i, b'.', j];
        f.write_str(std::str::from_utf8(&text).unwrap_or_default())
    }
}

/// The two digits of a byte.
fn hex(byte: u8) -> [u8; 2] {
    let digit = |value: u8| if value < 10 { b'0' + value } else { b'a' + value - 10 };
    [digit(byte >> 4), digit(byte & 0xf)]
}

impl fmt::Debug for PciAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for PciAddress {
    type Err = ParseIdError;

    /// Accepts the sysfs form, with or without the domain (`41:00.4` is domain 0), and 8-digit domains.
    fn from_str(text: &str) -> Result<Self, ParseIdError> {
        let bad = |why| ParseIdError::new("PCI address", text, why);
        let hex = |part: &str, digits: usize, why| {
            if part.is_empty()
                || part.len() > digits
                || !part.bytes().all(|b| b.is_ascii_hexdigit())
            {
                return Err(bad(why));
            }
            u32::from_str_radix(part, 16).map_err(|_| bad(why))
        };
        let mut parts = text.rsplit(':');
        let devfn = parts.next().unwrap_or_default();
        let bus = parts.next().ok_or_else(|| bad("no bus; expected domain:bus:device.function"))?;
        let domain = parts.next().unwrap_or("0");
        if parts.next().is_some() {
            return Err(bad("too many colons"));
        }
        let (device, function) =
            devfn.split_once('.').ok_or_else(|| bad("no function; expected …:device.function"))?;
        let domain = hex(domain, 8, "domain is not hexadecimal")?;
        let narrow = |v: u32, why| u8::try_from(v).map_err(|_| bad(why));
        let bus = narrow(hex(bus, 2, "bus is not two hexadecimal digits")?, "bus exceeds ff")?;
        let device = narrow(hex(device, 2, "device is not two hexadecimal digits")?, "device")?;
        let function = narrow(hex(function, 1, "function is not one digit")?, "function")?;
        Self::new(domain, bus, device, function)
            .ok_or_else(|| bad("device exceeds 1f or function 7"))
    }
}

serde_as_text!(PciAddress);

/// Index of a virtual function of its PF, 0-based as in `virtfnN`.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize,
)]
#[serde(transparent)]
pub struct VfIndex(pub u16);

impl VfIndex {
    /// Reads the index out of a link name of the PF's directory (`virtfn12`); `None` for other names.
    pub fn from_link_name(name: &str) -> Option<Self> {
        let digits = name.strip_prefix("virtfn")?;
        (digits.bytes().all(|b| b.is_ascii_digit())).then(|| digits.parse().ok().map(Self))?
    }
}

impl fmt::Display for VfIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_what_sysfs_and_people_write() {
        for (text, want) in [
            ("0000:41:00.4", "0000:41:00.4"),
            ("41:00.4", "0000:41:00.4"),
            ("9a0b:c7:1e.5", "9a0b:c7:1e.5"),
            ("00000000:41:00.0", "0000:41:00.0"),
            ("10001:00:1f.7", "10001:00:1f.7"),
            ("0000:0C:02.0", "0000:0c:02.0"),
        ] {
            assert_eq!(text.parse::<PciAddress>().unwrap().to_string(), want);
        }
        for text in [
            "",
            "41",
            "41:00",
            "0000:41:00.8",
            "0000:41:20.0",
            "x:41:00.0",
            "0:0:0:0.0",
            "0000:+1:00.0",
        ] {
            text.parse::<PciAddress>().unwrap_err();
        }
    }

    #[test]
    fn routing_ids_cross_bus_borders() {
        let pf: PciAddress = "0001:00:00.0".parse().unwrap();
        assert_eq!(pf.with_routing_id(pf.routing_id() + 0x100).to_string(), "0001:01:00.0");
    }

    #[test]
    fn vf_links() {
        assert_eq!(VfIndex::from_link_name("virtfn12"), Some(VfIndex(12)));
        for name in ["virtfn", "virtfn1x", "physfn", "virtfn99999"] {
            assert_eq!(VfIndex::from_link_name(name), None);
        }
    }
}
