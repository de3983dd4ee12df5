//! What makes the slices of a VM that runs, told to be noted in its XML, and whether a VM that comes in with such a note can go on
//! with the drivers of this host.

use super::plug::carries;
use super::{HookOperation, Machine};
use crate::domain::Domain;
use crate::driver::{Driver, DriverOf};
use crate::hint;
use crate::ids::{ClaimKey, Owner, ParentId};
use crate::refusal::{Code, Hint, Refusal};
use crate::state::Phase;
use std::collections::BTreeMap;

impl Machine {
    /// What makes the slices that a running domain carries, by claim. One host has one driver for a profile, so one slice of a
    /// claim tells of all.
    pub(super) fn drivers_of(&self, domain: &Domain) -> Vec<DriverOf> {
        let owner = Owner::Domain(domain.uuid);
        let has = self.run.assignments.iter().filter(|(slice, a)| {
            a.claim.owner == owner && a.phase == Phase::Attached && carries(domain, **slice)
        });
        let drivers: BTreeMap<&ClaimKey, Driver> =
            has.filter_map(|(_, a)| Some((&a.claim, self.seen.driver_of(&a.parent)?))).collect();
        let of = |(key, driver): (&ClaimKey, Driver)| DriverOf { claim: key.name.clone(), driver };
        drivers.into_iter().map(of).collect()
    }

    /// Whether what was just reserved for a domain goes on from what it had where it ran. What nobody noted may.
    ///
    /// # Errors
    /// It does not.
    pub(super) fn judge_drivers(
        &self,
        domain: &Domain,
        operation: HookOperation,
        drivers: &[DriverOf],
    ) -> Result<(), Refusal> {
        let owner = Owner::Domain(domain.uuid);
        for DriverOf { claim, driver: there } in drivers {
            let key = ClaimKey { owner: owner.clone(), name: claim.clone() };
            let reserved = self.run.assignments.values();
            let reserved = reserved.filter(|a| a.claim == key && a.phase == Phase::Reserved);
            let mut here =
                reserved.filter_map(|a| Some((&a.parent, self.seen.driver_of(&a.parent)?)));
            let other = here.find(|(_, here)| !here.goes_on_from(there));
            if let Some((parent, here)) = other {
                let why = other_driver(domain, &key, there, (parent, &here));
                return Err(why.hint(goes_on_where(operation, &domain.name, there, &here)));
            }
        }
        Ok(())
    }
}

fn other_driver(
    domain: &Domain,
    key: &ClaimKey,
    there: &Driver,
    (parent, here): (&ParentId, &Driver),
) -> Refusal {
    let (name, claim) = (&domain.name, &key.name);
    let message =
        format!("{name} ran with {there} for claim {claim}, and {parent} has {here} here");
    let why = match here.name == there.name {
        true => "an older branch of a driver does not take what a newer one has saved",
        false => "one driver does not take what another has saved",
    };
    Refusal::new(Code::OtherDriver, message).because(why)
}

/// Where it can go on, or that it starts anew.
fn goes_on_where(operation: HookOperation, name: &str, there: &Driver, here: &Driver) -> Hint {
    let fits = match &there.version {
        Some(version) if here.name == there.name => {
            hint!("install {} {} or later on this host", there.name, version)
        }
        _ => hint!("give its GPU to {} on this host", there.name),
    };
    match operation {
        HookOperation::Restore => hint!(
            "{}, then the same again; or virsh managedsave-remove {} (its memory is lost), then virsh start {}",
            fits,
            name,
            name
        ),
        _ => hint!(
            "{}, then the same again; or virsh shutdown {} (where it is), then define it here, then virsh start {}",
            fits,
            name,
            name
        ),
    }
}
