//! Which driver of a host makes slices, and whether another goes on with what is in one: a VM that moves or is saved takes the
//! state of its devices along, in its driver's own form.

use crate::ids::ClaimName;
use serde::{Deserialize, Serialize};
use std::fmt;

/// Longest name or version: those of modules have at most 55 bytes (MODULE_NAME_LEN).
const LONGEST: usize = 64;

/// A driver as a host has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Driver {
    /// Its name on its bus.
    pub name: String,
    /// What `/sys/module/NAME/version` says, of a driver of which a mechanism knows what that means.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
}

/// What makes the slices of a claim where its domain runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DriverOf {
    /// Which claim of the domain.
    pub claim: ClaimName,
    /// What makes them.
    pub driver: Driver,
}

impl Driver {
    /// One that was told by somebody; `None` for what no driver is called.
    pub fn told(name: &str, version: Option<&str>) -> Option<Self> {
        let word = |text: &str| {
            let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._+~-".contains(&byte);
            !text.is_empty() && text.len() <= LONGEST && text.bytes().all(plain)
        };
        let version = version.filter(|version| word(version)).map(str::to_owned);
        word(name).then(|| Self { name: name.to_owned(), version })
    }

    /// Whether it goes on with what was made under the other one. An older branch was made before whatever the newer one has
    /// to say; what cannot be told of versions is left to the drivers.
    pub fn goes_on_from(&self, other: &Self) -> bool {
        let branch = |driver: &Self| driver.branch();
        let older = branch(self).zip(branch(other)).is_some_and(|(here, there)| here < there);
        self.name == other.name && !older
    }

    /// The first number of its version: NVIDIA's branches are called by it (R550, R580).
    fn branch(&self) -> Option<u32> {
        let version = self.version.as_deref()?;
        version.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
    }
}

impl fmt::Display for Driver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.version {
            Some(version) => write!(f, "{} {version}", self.name),
            None => f.write_str(&self.name),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn driver(text: &str) -> Driver {
        let (name, version) = match text.split_once(' ') {
            Some((name, version)) => (name, Some(version)),
            None => (text, None),
        };
        Driver::told(name, version).unwrap()
    }

    #[test]
    fn another_driver_or_an_older_branch_does_not_go_on() {
        for (here, there, goes_on) in [
            ("nvidia 580.65.05", "nvidia 580.65.05", true),
            ("nvidia 580.65.05", "nvidia 580.95.02", true),
            ("nvidia 580.65.05", "nvidia 550.163.02", true),
            ("nvidia 550.163.02", "nvidia 580.65.05", false),
            // Numbers, and no text.
            ("nvidia 1000.1", "nvidia 580.65.05", true),
            ("nvidia", "nvidia 580.65.05", true),
            ("nvidia 550.163.02", "nvidia", true),
            ("nvidia dev", "nvidia 580.65.05", true),
            ("gim", "gim", true),
            ("amdgpu", "gim", false),
            ("xe", "i915", false),
        ] {
            assert_eq!(driver(here).goes_on_from(&driver(there)), goes_on, "{there} to {here}");
        }
    }

    #[test]
    fn what_no_driver_is_called_is_not_told() {
        let long = "a".repeat(65);
        for name in ["", "a b", "a'b", "a\n", "ä", "<a>", long.as_str()] {
            assert_eq!(Driver::told(name, None), None, "{name:?}");
            assert_eq!(Driver::told("nvidia", Some(name)), Driver::told("nvidia", None));
        }
        assert_eq!(driver("vfio-pci 0.2").to_string(), "vfio-pci 0.2");
        assert_eq!(driver("xe").to_string(), "xe");
    }
}
