//! What a libvirt domain asks for and carries, as read from its XML: the claims of our metadata element and its
//! host devices. The XML crate makes these, the hook sends them, the machine judges them.

use crate::ids::{ClaimName, MdevUuid, Parameters, PciAddress, ProfileName, SliceId};
use crate::numa::Pinned;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use uuid::Uuid;

/// Alias libvirt keeps on a hostdev of ours, followed by the claim's name; slices after the first of a claim
/// add `--<index>` (libvirt allows letters, digits, `-` and `_` in a user alias).
pub const ALIAS_PREFIX: &str = "ua-gpuslice-";

/// Most slices of one claim: more than the buses of any guest hold.
pub const MOST_SLICES: u32 = 64;

/// Most claims of one domain, for the same reason.
pub const MOST_CLAIMS: usize = 64;

/// Namespace of our metadata element.
pub const NAMESPACE: &str = "urn:gpuslice:domain:1";

/// Namespace of what is noted of a domain while it runs, and of no definition.
pub const RUN_NAMESPACE: &str = "urn:gpuslice:run:1";

/// A domain as far as we care.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Domain {
    /// The UUID in the XML.
    pub uuid: Uuid,
    /// The name, for people.
    pub name: String,
    /// Claims in our namespace.
    #[serde(default)]
    pub claims: Vec<ClaimRequest>,
    /// Every hostdev that passes a PCI function or a mediated device, ours or not.
    #[serde(default)]
    pub devices: Vec<HostDevice>,
}

/// One `<gpuslice:claim>`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClaimRequest {
    /// Unique within the domain.
    pub name: ClaimName,
    /// The profile asked for; `None` when only properties are asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub profile: Option<ProfileName>,
    /// How many slices of it, all or none. At least 1.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub count: u32,
    /// All of one fabric: their devices reach each other's memory.
    #[serde(default, skip_serializing_if = "is_false")]
    pub same_fabric: bool,
    /// All of one NUMA node where possible.
    #[serde(default, skip_serializing_if = "is_false")]
    pub prefer_numa: bool,
    /// Each on a NUMA node that its domain is on, and where that is, as the XML said when it was asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub require_numa: Option<Pinned>,
    /// Least memory in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_min: Option<u64>,
    /// Least isolation: `hardware` or `shared`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub isolation_min: Option<String>,
    /// For the driver of its slices.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parameters: Option<Parameters>,
}

impl ClaimRequest {
    /// Asks for one slice of a profile, and nothing else.
    pub fn one(name: &ClaimName, profile: ProfileName) -> Self {
        Self {
            name: name.clone(),
            profile: Some(profile),
            count: 1,
            same_fabric: false,
            prefer_numa: false,
            require_numa: None,
            memory_min: None,
            isolation_min: None,
            parameters: None,
        }
    }

    /// Whether the others had better be on the NUMA node of the first.
    pub fn near_each_other(&self) -> bool {
        self.prefer_numa || self.require_numa.is_some()
    }

    /// Whether it asks for anything beside a number of slices of a profile.
    pub fn asks_for_more(&self) -> bool {
        let plain = self.profile.as_ref().map(|profile| Self::one(&self.name, profile.clone()));
        plain.is_none_or(|plain| *self != Self { count: self.count, ..plain })
    }
}

/// The claim of a domain that is meant where none is named: the only one for this profile, else the first free `gpuN`.
pub fn claim_meant<'a>(
    claims: impl Iterator<Item = (&'a ClaimName, Option<&'a ProfileName>)>,
    profile: &ProfileName,
) -> ClaimName {
    let (mut names, mut same) = (BTreeSet::new(), Vec::new());
    for (name, of) in claims {
        names.insert(name);
        same.extend(Some(name).filter(|_| of == Some(profile)));
    }
    if let [only] = same.as_slice() {
        return (*only).clone();
    }
    let mut number = 0;
    loop {
        let name = ClaimName::numbered(number);
        if !names.contains(&name) {
            return name;
        }
        number = number.saturating_add(1);
    }
}

fn one() -> u32 {
    1
}
#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn is_one(count: &u32) -> bool {
    *count == 1
}
#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn is_false(flag: &bool) -> bool {
    !flag
}

/// One `<hostdev>`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HostDevice {
    /// What it passes.
    pub source: HostDeviceSource,
    /// The alias, if somebody gave one; ours begin with [`ALIAS_PREFIX`]. What libvirt calls a device of a running domain
    /// by itself (`hostdev0`) is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alias: Option<String>,
    /// `managed='yes'`: libvirt binds and unbinds by itself.
    #[serde(default, skip_serializing_if = "is_false")]
    pub managed: bool,
}

/// Source of a hostdev.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum HostDeviceSource {
    /// `type='mdev'`.
    Mdev(MdevUuid),
    /// `type='pci'`.
    Pci(PciAddress),
}

impl HostDeviceSource {
    /// The slice the device is.
    pub fn slice(self) -> SliceId {
        match self {
            Self::Mdev(uuid) => SliceId::Mdev(uuid),
            Self::Pci(address) => SliceId::Vf(address),
        }
    }

    /// The device that a slice is.
    pub fn of(slice: SliceId) -> Self {
        match slice {
            SliceId::Mdev(uuid) => Self::Mdev(uuid),
            SliceId::Vf(address) | SliceId::Function(address) => Self::Pci(address),
        }
    }
}

impl HostDevice {
    /// Claim and index our alias names; `None` for a device that is not ours.
    pub fn our_claim(&self) -> Option<(ClaimName, u32)> {
        parse_alias(self.alias.as_deref()?)
    }
}

/// The alias of the `index`-th slice of a claim. Index 0 is the bare name.
pub fn alias_for(claim: &ClaimName, index: u32) -> String {
    if index == 0 {
        format!("{ALIAS_PREFIX}{claim}")
    } else {
        format!("{ALIAS_PREFIX}{claim}--{index}")
    }
}

/// Reads an alias of ours back. The index follows two hyphens, which no claim name contains.
pub fn parse_alias(alias: &str) -> Option<(ClaimName, u32)> {
    let rest = alias.strip_prefix(ALIAS_PREFIX)?;
    let (name, index) = match rest.split_once("--") {
        Some((name, index)) => (name, index.parse().ok().filter(|i| *i > 0)?),
        None => (rest, 0),
    };
    Some((name.parse().ok()?, index))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn aliases_round_trip_and_reject_others() {
        let name: ClaimName = "gpu-0_b".parse().unwrap();
        for index in [0, 1, 15] {
            assert_eq!(parse_alias(&alias_for(&name, index)), Some((name.clone(), index)));
        }
        for alias in
            ["ua-other-gpu0", "ua-gpuslice-", "ua-gpuslice-gpu0--0", "ua-gpuslice-gpu0--x", "gpu0"]
        {
            assert_eq!(parse_alias(alias), None, "{alias}");
        }
    }
}
