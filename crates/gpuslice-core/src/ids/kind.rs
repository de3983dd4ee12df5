//! Which product a device is: `vendor:device:subsystem_vendor:subsystem_device` as in `lspci -nn`.

use super::{ParseIdError, serde_as_text};
use std::fmt;
use std::str::FromStr;

/// A product. Cards that share vendor and device id (NVIDIA A2 and A16) differ in their subsystem.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DeviceKind {
    /// `vendor`.
    pub vendor: u16,
    /// `device`.
    pub device: u16,
    /// `subsystem_vendor`.
    pub subsystem_vendor: u16,
    /// `subsystem_device`.
    pub subsystem_device: u16,
}

impl fmt::Display for DeviceKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { vendor, device, subsystem_vendor, subsystem_device } = self;
        write!(f, "{vendor:04x}:{device:04x}:{subsystem_vendor:04x}:{subsystem_device:04x}")
    }
}

impl FromStr for DeviceKind {
    type Err = ParseIdError;

    fn from_str(text: &str) -> Result<Self, ParseIdError> {
        let bad = || ParseIdError::new("device kind", text, "not four hexadecimal ids");
        let id = |part: &str| {
            let hex = part.len() == 4 && part.bytes().all(|b| b.is_ascii_hexdigit());
            u16::from_str_radix(part, 16).ok().filter(|_| hex)
        };
        let mut ids = text.split(':').map(id);
        let mut next = || ids.next().flatten().ok_or_else(bad);
        let kind = Self {
            vendor: next()?,
            device: next()?,
            subsystem_vendor: next()?,
            subsystem_device: next()?,
        };
        if ids.next().is_some() { Err(bad()) } else { Ok(kind) }
    }
}

serde_as_text!(DeviceKind);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_read_back_as_written_and_nothing_else_is() {
        let text = "10de:25b6:10de:157e";
        assert_eq!(text.parse::<DeviceKind>().unwrap().to_string(), text);
        for bad in ["", "10de:25b6:10de", "10de:25b6:10de:157e:0", "10de:25b6:+0de:157e", "::::"] {
            assert!(bad.parse::<DeviceKind>().is_err(), "{bad}");
        }
    }
}
