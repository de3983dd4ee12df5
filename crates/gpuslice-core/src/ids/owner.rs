//! Who a slice is given to.

use super::{ClaimName, ParseIdError, serde_as_text};
use std::fmt;
use std::str::FromStr;
use uuid::Uuid;

/// Owner of a claim. Text forms: a bare UUID, `vmid:100`, `external:NAME`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Owner {
    /// A libvirt domain, by its UUID: names change, UUIDs do not.
    Domain(Uuid),
    /// A Proxmox VE guest.
    Vmid(u32),
    /// Anything else that asked over D-Bus.
    External(String),
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Domain(uuid) => uuid.as_hyphenated().fmt(f),
            Self::Vmid(id) => write!(f, "vmid:{id}"),
            Self::External(name) => write!(f, "external:{name}"),
        }
    }
}

impl FromStr for Owner {
    type Err = ParseIdError;

    fn from_str(text: &str) -> Result<Self, ParseIdError> {
        let bad = |why| ParseIdError::new("owner", text, why);
        if let Some(id) = text.strip_prefix("vmid:") {
            return id.parse().map(Self::Vmid).map_err(|_| bad("VMID is not a number"));
        }
        if let Some(name) = text.strip_prefix("external:") {
            let plain =
                !name.is_empty() && name.len() <= 128 && !name.chars().any(char::is_control);
            return if plain { Ok(Self::External(name.to_owned())) } else { Err(bad("bad name")) };
        }
        Uuid::try_parse(text)
            .map(Self::Domain)
            .map_err(|_| bad("neither a UUID, vmid: nor external:"))
    }
}

serde_as_text!(Owner);

/// Identity of a claim: its owner and its name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClaimKey {
    /// Who asks.
    pub owner: Owner,
    /// The owner's name for it.
    pub name: ClaimName,
}

impl fmt::Display for ClaimKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.owner, self.name)
    }
}

impl FromStr for ClaimKey {
    type Err = ParseIdError;

    fn from_str(text: &str) -> Result<Self, ParseIdError> {
        let (owner, name) = text
            .rsplit_once('/')
            .ok_or_else(|| ParseIdError::new("claim", text, "expected OWNER/NAME"))?;
        Ok(Self { owner: owner.parse()?, name: name.parse()? })
    }
}

serde_as_text!(ClaimKey);
