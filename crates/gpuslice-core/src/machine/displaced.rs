//! Devices whose address something else has: a card that is added, or moved to another slot, moves the bus numbers of others.

use super::Machine;
use crate::ids::{ParentId, PciAddress};
use crate::observation::Function;

impl Machine {
    /// Which device is at an address now, by vendor and device id.
    pub(super) fn device_at(&self, parent: &ParentId) -> Option<(PciAddress, (u16, u16))> {
        let address = parent.pci()?;
        let function = self.seen.functions.get(&address)?;
        Some((address, (function.vendor, function.device)))
    }

    /// What has the address of a device that had its layout, and is no GPU: a layout given to an address alone was not given to
    /// that, until somebody applies it there.
    pub(super) fn other_at(&self, parent: &ParentId) -> Option<String> {
        let (address, id) = self.device_at(parent)?;
        let gpu = self.seen.functions.get(&address).is_some_and(Function::is_gpu);
        let other = self.durable.devices.get(&address).is_some_and(|was| *was != id);
        (other && !gpu).then(|| format!("{:04x}:{:04x}", id.0, id.1))
    }

    /// Whether a device that had its layout is not here, or something else has its place.
    pub(super) fn is_away(&self, parent: &ParentId) -> bool {
        !self.seen.has_parent(parent) || self.other_at(parent).is_some()
    }

    /// The line about one that is away.
    pub(super) fn why_away(&self, parent: &ParentId) -> String {
        match self.other_at(parent) {
            Some(other) => format!(
                "it had this layout; {other} has its address now, and is given the layout by gpuslice apply"
            ),
            None => "it had this layout, and is not on the host now".to_owned(),
        }
    }

    /// A layout that somebody applies is for what is there now.
    pub(super) fn forget_devices_here(&mut self) {
        let seen = &self.seen.functions;
        self.durable.devices.retain(|address, _| !seen.contains_key(address));
    }
}
