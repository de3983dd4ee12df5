//! A guest of Proxmox VE, as its hookscript tells of it (pve-guest-common, `PVE::GuestHelpers::exec_hookscript`; the
//! devices as in qemu-server's `PVE::QemuServer::PCI`). Proxmox chooses the device, binds it and writes its type by
//! itself, after `pre-start`: what is told here is judged and recorded, never made.

pub mod mapping;

use crate::ids::{MdevTypeId, MdevUuid, PciAddress};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// One call of the hookscript.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GuestCall {
    /// At which point.
    pub phase: GuestPhase,
    /// Which guest.
    pub vmid: u32,
    /// Its name, for people; empty where it has none.
    #[serde(default)]
    pub name: String,
    /// What its configuration passes through.
    #[serde(default)]
    pub devices: Vec<GuestDevice>,
    /// `/run/qemu-server/pci-id-reservations` as far as it holds now: which guest has each function.
    #[serde(default)]
    pub reserved: BTreeMap<PciAddress, u32>,
    /// Milliseconds for which a start may wait for a device that is on its way.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub patience_ms: u64,
}

/// Points at which Proxmox VE calls the hookscript and we act.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum GuestPhase {
    /// Before a device is chosen; may refuse.
    PreStart,
    /// QEMU runs.
    PostStart,
    /// QEMU is gone and its devices are cleaned up.
    PostStop,
}

/// One `hostpciN`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GuestDevice {
    /// N.
    pub index: u32,
    /// What it can be, in the order in which Proxmox tries: functions that are passed together.
    pub alternatives: Vec<Vec<PciAddress>>,
    /// It becomes a mediated device of one of these, by this UUID.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mdev: Option<MdevUuid>,
    /// Of this type.
    #[serde(default, rename = "type", skip_serializing_if = "Option::is_none")]
    pub type_id: Option<MdevTypeId>,
    /// The alternatives are those of a mapping that `gpuslice export proxmox` makes.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub exported: bool,
    /// The IOMMU group that the mapping says of the first function of each; none is one too.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub groups: BTreeMap<PciAddress, Option<u32>>,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde passes it so")]
fn is_zero(patience_ms: &u64) -> bool {
    *patience_ms == 0
}

impl GuestCall {
    /// What people know it by.
    pub fn title(&self) -> String {
        match self.name.as_str() {
            "" => format!("VM {}", self.vmid),
            name => format!("VM {} ({name})", self.vmid),
        }
    }
}
