//! Desired shape of parents: what a person wrote ([`Rule`]) and what was applied to a particular device
//! ([`Layout`]).

use crate::ids::{ParentId, PciAddress, ProfileName, Serial};
use crate::mode::Modes;
use crate::observation::{Function, Observation};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;

/// Shape of one parent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Layout {
    /// How many VFs.
    pub vfs: VfCount,
    /// Driver that VFs are bound to from the start rather than when a VM starts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bind: Option<String>,
    /// What it is set to; a mode that is not named stays as it is.
    #[serde(default, skip_serializing_if = "Modes::is_empty")]
    pub modes: Modes,
    /// Whether a slice has to be proven clean before the next VM gets it.
    #[serde(default, skip_serializing_if = "Wipe::is_default")]
    pub wipe: Wipe,
    /// How many mediated devices of each profile stand ready to be picked in a dialog.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub park: BTreeMap<ProfileName, u32>,
}

/// What is asked of a slice between two VMs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Wipe {
    /// What kernel and driver do by themselves.
    #[default]
    Usual,
    /// That nothing of a VM is left in it, as far as it can be proven.
    Required,
}

impl Wipe {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

impl fmt::Display for Layout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "vfs={}", self.vfs)?;
        if let Some(driver) = &self.bind {
            write!(f, " bind={driver}")?;
        }
        if self.wipe == Wipe::Required {
            f.write_str(" wipe=required")?;
        }
        self.modes.iter().try_for_each(|(mode, value)| write!(f, " {mode}={value}"))?;
        self.park.iter().try_for_each(|(profile, count)| write!(f, " park:{profile}={count}"))
    }
}

/// A number of VFs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum VfCount {
    /// As many as the PF can.
    All,
    /// So many.
    Exactly(u16),
}

impl VfCount {
    /// The number for a PF with that many possible VFs.
    pub fn of(self, total: u16) -> u16 {
        match self {
            Self::All => total,
            Self::Exactly(count) => count,
        }
    }
}

impl fmt::Display for VfCount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("all"),
            Self::Exactly(count) => count.fmt(f),
        }
    }
}

/// A `[[gpu]]` table of the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// Which devices.
    pub matches: Match,
    /// What they shall be.
    pub layout: Layout,
    /// Where it is written: `gpuslice.toml:3`.
    pub origin: String,
}

/// What a rule asks of a device; all that is given must hold, and at least one is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Match {
    /// PCI address.
    pub address: Option<PciAddress>,
    /// Vendor and device id.
    pub vendor_device: Option<(u16, u16)>,
    /// Our word for the product, as `gpuslice gpus` shows it.
    pub model: Option<String>,
    /// Bound driver, or the one that makes slices of what has none.
    pub driver: Option<String>,
    /// Serial number, or the id that its driver shows.
    pub serial: Option<Serial>,
    /// Name of the physical slot it is in.
    pub slot: Option<String>,
}

impl Match {
    /// Whether nothing is asked.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Whether it says where a device is and nothing of what it is.
    pub(crate) fn is_of_place(&self) -> bool {
        let Self { address: _, slot: _, vendor_device, model, driver, serial } = self;
        vendor_device.is_none() && model.is_none() && driver.is_none() && serial.is_none()
    }

    /// A slot has more in it than the GPU: the network ports of the same card, or all that is behind a riser's switch.
    pub(crate) fn meets(&self, address: PciAddress, function: &Function) -> bool {
        let slot_alone = self.address.is_none() && self.is_of_place();
        (!slot_alone || function.is_gpu())
            && self.address.is_none_or(|a| a == address)
            && self.vendor_device.is_none_or(|id| id == (function.vendor, function.device))
            && self.model.as_deref().is_none_or(|m| Some(m) == function.model)
            && self.driver.as_deref().is_none_or(|d| Some(d) == drives(function))
            && self.serial.is_none_or(|s| Some(s) == function.serial)
            && self.slot.as_ref().is_none_or(|s| Some(s) == function.slot.as_ref())
    }
}

/// The driver of a device, or the one that is to have it: some are loaded for what a layout says, and for nothing else.
fn drives(function: &Function) -> Option<&str> {
    function.driver.as_deref().or(function.maker)
}

impl fmt::Display for Match {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts = Vec::new();
        parts.extend(self.address.map(|a| format!("address = \"{a}\"")));
        parts.extend(
            self.vendor_device.map(|(v, d)| format!("vendor-device = \"{v:04x}:{d:04x}\"")),
        );
        parts.extend(self.model.as_ref().map(|m| format!("model = \"{m}\"")));
        parts.extend(self.driver.as_ref().map(|d| format!("driver = \"{d}\"")));
        parts.extend(self.serial.map(|s| format!("serial = \"{s}\"")));
        parts.extend(self.slot.as_ref().map(|s| format!("slot = \"{s}\"")));
        write!(f, "{{ {} }}", parts.join(", "))
    }
}

/// Whether a rule asks for a slot: nobody looks for those otherwise.
pub fn by_slot(rules: &[Rule]) -> bool {
    rules.iter().any(|rule| rule.matches.slot.is_some())
}

/// What rules say of the devices seen.
#[derive(Debug, Default)]
pub struct Resolved<'r> {
    /// Devices with the rule that counts: the first that matches.
    pub devices: Vec<(ParentId, &'r Rule)>,
    /// Rules that match no device.
    pub unmet: Vec<&'r Rule>,
    /// Rules that match devices, and count for none.
    pub overruled: Vec<Overruled<'r>>,
}

/// A rule that comes after another one for all that it matches.
#[derive(Debug)]
pub struct Overruled<'r> {
    /// It.
    pub rule: &'r Rule,
    /// Devices it matches, by the rule that counts for them.
    pub by: Vec<(&'r Rule, Vec<ParentId>)>,
}

/// What the rules say of the devices seen. Of a GPU without SR-IOV whose driver makes mediated devices a rule says only
/// which are parked, and modes.
pub fn resolve<'r>(rules: &'r [Rule], seen: &Observation) -> Resolved<'r> {
    let mut devices = Vec::new();
    let mut counts = vec![false; rules.len()];
    let mut after: Vec<Vec<(&Rule, Vec<ParentId>)>> = vec![Vec::new(); rules.len()];
    for (address, function) in &seen.functions {
        let sriov = function.sriov.is_some();
        let says = |r: &Rule| sriov || !r.layout.park.is_empty() || !r.layout.modes.is_empty();
        let meets = |r: &Rule| says(r) && r.matches.meets(*address, function);
        let mut met = rules.iter().zip(counts.iter_mut().zip(&mut after));
        let mut met = met.by_ref().filter(|(rule, _)| meets(rule));
        let Some((first, (counts, _))) = met.next() else { continue };
        *counts = true;
        let parent = ParentId::Pci(*address);
        for (_, (_, by)) in met {
            match by.iter_mut().find(|(rule, _)| std::ptr::eq(*rule, first)) {
                Some((_, parents)) => parents.push(parent.clone()),
                None => by.push((first, vec![parent.clone()])),
            }
        }
        devices.push((parent, first));
    }
    let idle = rules.iter().zip(after).zip(counts).filter(|(_, counts)| !counts);
    let (unmet, overruled): (Vec<_>, Vec<_>) =
        idle.map(|(idle, _)| idle).partition(|(_, by)| by.is_empty());
    Resolved {
        devices,
        unmet: unmet.into_iter().map(|(rule, _)| rule).collect(),
        overruled: overruled.into_iter().map(|(rule, by)| Overruled { rule, by }).collect(),
    }
}
