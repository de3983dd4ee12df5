//! Names of parents and slices.

use super::{MdevUuid, ParseIdError, PciAddress, serde_as_text};
use std::fmt;
use std::str::FromStr;

/// A device that can yield slices, by its kernel name: a PCI address, or a virtual mdev parent such as `mtty`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ParentId {
    /// A PCI function.
    Pci(PciAddress),
    /// A device that is not on the PCI bus, by its name under `/sys/class/mdev_bus`.
    Named(String),
}

impl ParentId {
    /// The PCI address, if it has one.
    pub fn pci(&self) -> Option<PciAddress> {
        match self {
            Self::Pci(address) => Some(*address),
            Self::Named(_) => None,
        }
    }
}

impl fmt::Display for ParentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pci(address) => address.fmt(f),
            Self::Named(name) => name.fmt(f),
        }
    }
}

impl FromStr for ParentId {
    type Err = ParseIdError;

    fn from_str(text: &str) -> Result<Self, ParseIdError> {
        if let Ok(address) = text.parse() {
            return Ok(Self::Pci(address));
        }
        let file_name = !text.is_empty()
            && text.len() <= 255
            && !text.starts_with('.')
            && !text.contains('/')
            && !text.chars().any(char::is_control);
        if file_name {
            Ok(Self::Named(text.to_owned()))
        } else {
            Err(ParseIdError::new("parent", text, "neither a PCI address nor a device name"))
        }
    }
}

serde_as_text!(ParentId);

/// One unit a VM can be given. Text forms: `vf:0000:41:00.4`, `mdev:UUID`, `function:0000:41:00.0`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SliceId {
    /// An SR-IOV virtual function.
    Vf(PciAddress),
    /// A mediated device.
    Mdev(MdevUuid),
    /// A whole function.
    Function(PciAddress),
}

impl SliceId {
    /// The PCI address, if the slice is a PCI function.
    pub fn pci(self) -> Option<PciAddress> {
        match self {
            Self::Vf(address) | Self::Function(address) => Some(address),
            Self::Mdev(_) => None,
        }
    }

    /// The UUID, if the slice is a mediated device.
    pub fn mdev(self) -> Option<MdevUuid> {
        match self {
            Self::Mdev(uuid) => Some(uuid),
            Self::Vf(_) | Self::Function(_) => None,
        }
    }

    /// Whether somebody means it: as it is printed, or by its address or UUID alone, as other programs call it. Addresses may
    /// be shortened.
    pub fn is_called(self, name: &str) -> bool {
        let bare = match self {
            Self::Vf(address) | Self::Function(address) => name.parse() == Ok(address),
            Self::Mdev(uuid) => name.parse() == Ok(uuid),
        };
        bare || name.parse() == Ok(self)
    }
}

impl fmt::Display for SliceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Vf(address) => write!(f, "vf:{address}"),
            Self::Mdev(uuid) => write!(f, "mdev:{uuid}"),
            Self::Function(address) => write!(f, "function:{address}"),
        }
    }
}

impl FromStr for SliceId {
    type Err = ParseIdError;

    fn from_str(text: &str) -> Result<Self, ParseIdError> {
        match text.split_once(':') {
            Some(("vf", rest)) => rest.parse().map(Self::Vf),
            Some(("mdev", rest)) => rest.parse().map(Self::Mdev),
            Some(("function", rest)) => rest.parse().map(Self::Function),
            _ => Err(ParseIdError::new("slice", text, "expected vf:, mdev: or function:")),
        }
    }
}

serde_as_text!(SliceId);
