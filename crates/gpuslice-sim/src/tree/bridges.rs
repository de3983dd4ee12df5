//! Where functions are on the host: below which bridge, and in which slot.

use crate::host_file::FunctionShape;
use crate::kernel::Kernel;
use crate::kernel::function::{Function, Role};
use gpuslice_core::ids::PciAddress;

impl Kernel {
    pub(super) fn bridge_names(&self) -> Vec<String> {
        let mut bridges: Vec<String> =
            self.host.functions.iter().map(|f| bridge_name(f.address)).collect();
        bridges.sort();
        bridges.dedup();
        bridges.extend(["system", "virtual"].map(str::to_owned));
        bridges
    }

    /// Slots with the functions in them; one has a slot whether its device is there or not.
    pub(super) fn slots(&self) -> impl Iterator<Item = (&str, PciAddress)> {
        let first = |f: &&FunctionShape| f.address.function() == 0;
        let functions = self.host.functions.iter().filter(first);
        functions.filter_map(|f| Some((f.slot.as_deref()?, f.address)))
    }

    /// Which device a slot has.
    pub(super) fn slot(&self, name: &str) -> Option<PciAddress> {
        self.slots().find(|(slot, _)| *slot == name).map(|(_, address)| address)
    }

    pub(super) fn bridge_functions(&self, domain: u32, bus: u8) -> Vec<String> {
        let below = self.functions.iter().filter(|(address, function)| {
            let top = pf_of(**address, function);
            (top.domain(), top.bus()) == (domain, bus)
        });
        below.map(|(address, _)| address.to_string()).collect()
    }
}

pub(super) fn pf_of(address: PciAddress, function: &Function) -> PciAddress {
    match function.role {
        Role::Vf { pf, .. } => pf,
        _ => address,
    }
}

pub(super) fn bridge_name(address: PciAddress) -> String {
    format!("pci{:04x}:{:02x}", address.domain(), address.bus())
}
