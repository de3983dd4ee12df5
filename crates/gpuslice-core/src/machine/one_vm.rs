//! What no start could give since it is too many of a device for one VM: said when it is asked for.

use super::Machine;
use super::settled::settled_later;
use crate::domain::ClaimRequest;
use crate::hint;
use crate::ids::{ClaimKey, ProfileName};
use crate::mend;
use crate::refusal::{Code, Hint, Refusal};

impl Machine {
    /// Whether one VM can have all that a claim asks for, if it can be everywhere.
    ///
    /// # Errors
    /// It cannot, and no device that could have more is yet to come.
    pub(super) fn fits_in_one_vm(
        &self,
        key: &ClaimKey,
        request: &ClaimRequest,
        profile: &ProfileName,
    ) -> Result<(), Refusal> {
        let most = self.view().most_in_one_vm(key, profile);
        if most.is_none_or(|most| request.count <= most) || self.waits_for(profile).is_some() {
            return Ok(());
        }
        Err(self.too_many_for_one_vm(key, profile, request.count))
    }

    /// Each device that has the profile says so.
    pub(super) fn too_many_for_one_vm(
        &self,
        key: &ClaimKey,
        profile: &ProfileName,
        count: u32,
    ) -> Refusal {
        let most = self.view().most_in_one_vm(key, profile).unwrap_or(0);
        let message = format!(
            "{profile}: wanted {count} for one VM, and what drives it starts {most} more at most"
        );
        if let Some(waiting) = self.waits_for(profile) {
            return settled_later(&waiting, message);
        }
        Refusal::new(Code::Unsupported, message).hint(self.fewer_in_one_vm(key, profile, count))
    }

    /// Has a claim be one that its VM can have.
    pub(super) fn fewer_in_one_vm(
        &self,
        key: &ClaimKey,
        profile: &ProfileName,
        count: u32,
    ) -> Hint {
        match self.view().most_in_one_vm(key, profile) {
            Some(most @ 1..) => {
                hint!("{} --count {}", self.attach_again(key, profile), most.min(count))
            }
            _ if self.durable.claims.contains_key(key) => self.end_for_good(key),
            _ => mend::lay_out_another(),
        }
    }
}
