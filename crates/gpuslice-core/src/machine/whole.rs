//! A device that is passed through whole loses its slices when it is taken off its driver, whoever has them.

use super::Machine;
use crate::ids::{Owner, ParentId, PciAddress, SliceId};
use crate::mend;
use crate::refusal::{Code, Refusal};
use crate::state::Assignment;

impl Machine {
    /// Refuses a device, or a VF, that others have slices of.
    ///
    /// # Errors
    /// Who has one.
    pub(super) fn require_uncut(
        &self,
        what: &str,
        address: PciAddress,
        owner: &Owner,
    ) -> Result<(), Refusal> {
        let whole = ParentId::Pci(address);
        let of = |parent: &ParentId| *parent == whole || self.seen.device_of(parent) == whole;
        let seen = |slice: SliceId| self.seen.made_by(slice).is_some_and(of);
        let what = format!("{what} {address} itself");
        let mut given = self.run.assignments.iter();
        let cut = |a: &Assignment| a.claim.owner != *owner && of(&a.parent);
        if let Some((slice, a)) = given.find(|(_, a)| cut(a)) {
            let (whose, claim) = (self.owner_name(&a.claim), &a.claim.name);
            let message = format!("{what}, whose {slice} is assigned to {whose} ({claim})");
            return Err(Refusal::new(Code::Taken, message).hint(self.end_use(*slice, a)));
        }
        let mut foreign = self.run.foreign.iter();
        if let Some((slice, hold)) = foreign.find(|(s, hold)| hold.owner != *owner && seen(**s)) {
            let message = format!("{what}, whose {slice} is in {}", hold.name);
            return Err(Refusal::new(Code::Held, message).hint(Self::end_hold(hold)));
        }
        let own = |slice: &SliceId| {
            self.run.assignments.contains_key(slice) || self.run.foreign.contains_key(slice)
        };
        let mut held = self.held.iter();
        if let Some((slice, holder)) = held.find(|(slice, _)| !own(slice) && seen(**slice)) {
            let (comm, pid) = (&holder.comm, holder.pid);
            let message = format!("{what}, whose {slice} is open in {comm} (pid {pid})");
            return Err(Refusal::new(Code::Held, message).hint(mend::end_process(holder)));
        }
        Ok(())
    }
}
