//! Names of things, parsed once at the edge. A value of one of these types is well formed; a bare `String`
//! never stands for an address, a UUID or a name inside the crates.

mod kind;
mod mdev;
mod names;
mod owner;
mod parameters;
mod pci;
mod serial;
mod slice;

pub use kind::DeviceKind;
pub use mdev::{MdevTypeId, MdevUuid};
pub use names::{BootId, ClaimName, ProfileName};
pub use owner::{ClaimKey, Owner};
pub use parameters::Parameters;
pub use pci::{PciAddress, VfIndex};
pub use serial::Serial;
pub use slice::{ParentId, SliceId};

/// A text that is not a well-formed name of its kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a valid {kind}: {why}")]
pub struct ParseIdError {
    /// What the text should have been, in the field's words.
    pub kind: &'static str,
    /// The text, cut to 80 characters.
    pub text: String,
    /// The rule it breaks.
    pub why: &'static str,
}

impl ParseIdError {
    pub(crate) fn new(kind: &'static str, text: &str, why: &'static str) -> Self {
        Self { kind, text: text.chars().take(80).collect(), why }
    }
}

/// Serialises a name as its text form, and parses it again on the way back.
macro_rules! serde_as_text {
    ($type:ty) => {
        impl serde::Serialize for $type {
            fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                s.collect_str(self)
            }
        }
        impl<'de> serde::Deserialize<'de> for $type {
            fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                let text = String::deserialize(d)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}
pub(crate) use serde_as_text;
