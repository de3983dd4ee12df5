//! VMs that open a slice long after they were told that they can. It was taken back meanwhile, because nobody held it, and
//! some can be opened all the same: a VF that its layout binds is always there. Until libvirt tells, nobody can know.

use crate::driver::Driver;
use crate::invariants::Vm;
use gpuslice_core::ids::{Owner, SliceId};
use std::collections::BTreeSet;
use uuid::Uuid;

/// Milliseconds that libvirt has between a start's leave and its success, or its failure.
const STARTING_GRACE: u64 = 600_000;

impl Driver {
    /// A domain is told that it can open these.
    pub fn grant(&mut self, domain: Uuid, slices: impl Iterator<Item = SliceId>) {
        let now = self.kernel.now_ms();
        self.granted.extend(slices.map(|slice| ((domain, slice), now)));
    }

    /// Whose a slice is by now that a domain opens too late.
    fn too_late(&self, domain: Uuid, slice: SliceId) -> Option<(SliceId, Option<Owner>)> {
        let now = self.kernel.now_ms();
        let late = self.granted.get(&(domain, slice)).is_some_and(|at| now >= at + STARTING_GRACE);
        let owner = self.machine.runtime().assignments.get(&slice).map(|a| a.claim.owner.clone());
        (late && owner != Some(Owner::Domain(domain))).then_some((slice, owner))
    }

    /// libvirt starts a process that is to open slices of claims.
    pub fn launched(&mut self, pid: u32, domain: Uuid, claimed: BTreeSet<SliceId>) {
        let late = claimed.iter().filter_map(|slice| self.too_late(domain, *slice)).collect();
        self.vms.insert(pid, Vm { domain, claimed, late });
    }

    /// A process that runs has opened more.
    pub fn plugged_in(&mut self, pid: u32, opened: &[SliceId]) {
        let Some(domain) = self.vms.get(&pid).map(|vm| vm.domain) else { return };
        let late: Vec<_> =
            opened.iter().filter_map(|slice| self.too_late(domain, *slice)).collect();
        if let Some(vm) = self.vms.get_mut(&pid) {
            vm.claimed.extend(opened);
            vm.late.extend(late);
        }
    }

    /// What was opened late counts again once it is assigned.
    pub fn known_after_all(&mut self) {
        let assignments = &self.machine.runtime().assignments;
        for vm in self.vms.values_mut() {
            let owner = Owner::Domain(vm.domain);
            let unknown = |s: &SliceId| assignments.get(s).is_none_or(|a| a.claim.owner != owner);
            vm.late.retain(|slice, _| unknown(slice));
        }
    }
}
