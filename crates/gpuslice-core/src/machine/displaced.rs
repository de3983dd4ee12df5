//! Devices whose address something else has: a card that is added, or moved to another slot, moves the bus numbers of others.

use super::{Machine, Stored};
use crate::ids::ParentId;

impl Machine {
    /// Keeps which device has its layout now.
    pub(super) fn remember_device(&mut self, parent: &ParentId) {
        let Some(address) = parent.pci() else { return };
        let Some(function) = self.seen.functions.get(&address) else { return };
        let id = (function.vendor, function.device);
        if self.durable.devices.insert(address, id) != Some(id) {
            self.persist(Stored::Durable);
        }
    }

    /// What has the address of a device that had its layout, and is no GPU: a layout given to an address alone was not given to
    /// that, until somebody applies it there.
    pub(super) fn other_at(&self, parent: &ParentId) -> Option<String> {
        let address = parent.pci()?;
        let function = self.seen.functions.get(&address)?;
        let was = self.durable.devices.get(&address)?;
        let other = *was != (function.vendor, function.device) && !function.is_gpu();
        other.then(|| format!("{:04x}:{:04x}", function.vendor, function.device))
    }

    /// Whether a device that had its layout is not here, or something else has its place, for which no rule was meant.
    pub(super) fn is_away(&self, parent: &ParentId) -> bool {
        let taken = || !self.layouts.contains_key(parent) && self.other_at(parent).is_some();
        !self.seen.has_parent(parent) || taken()
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
