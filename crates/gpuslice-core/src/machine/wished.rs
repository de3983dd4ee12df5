//! Where on its device a claim says that its slice is to be. A driver hears of it when the VM opens the slice, and fails the
//! start without a reason; what can be told before is told.

use super::Machine;
use super::reserve::Want;
use crate::hint;
use crate::ids::{MdevTypeId, Parameters, ParentId, SliceId};
use crate::mechanism::{Beside, Form, Offer};
use crate::observation::Places;
use crate::refusal::{Code, Refusal};
use crate::state::{Assignment, Phase};
use std::collections::{BTreeMap, BTreeSet};

fn places(offer: &Offer) -> Option<&Places> {
    match &offer.form {
        Form::TypedVfs { beside: Beside::Places(places), .. }
        | Form::Mdevs { beside: Some(Beside::Places(places)), .. } => Some(places),
        _ => None,
    }
}

/// Places of the types of a device.
type Grids<'o> = BTreeMap<&'o MdevTypeId, &'o Places>;

/// A place of a device that is taken.
struct Taken {
    by: SliceId,
    start: u32,
    size: u32,
}

impl Machine {
    /// What a claim's parameters say of the place, where its slices have places: key and value.
    fn wish<'p>(
        &self,
        assignment: &Assignment,
        parameters: &'p Parameters,
    ) -> Option<(&'static str, &'p str)> {
        let key = self.mechanism_of(assignment)?.place_parameter()?;
        Some((key, parameters.get(key)?))
    }

    /// Why the slice of a start cannot be where it is to be.
    pub(super) fn place_refused(
        &self,
        want: &Want,
        slice: SliceId,
        assignment: &Assignment,
    ) -> Option<Refusal> {
        let (key, wish) = self.wish(assignment, want.parameters.as_ref()?)?;
        let device = self.seen.device_of(&assignment.parent);
        let offers = self.offers();
        let of_device = offers.iter().filter(|o| self.seen.device_of(&o.parent) == device);
        let grids: Grids<'_> =
            of_device.filter_map(|o| Some((o.form.type_id()?, places(o)?))).collect();
        let own = *grids.get(assignment.type_id.as_ref()?)?;
        let taken = self.taken_beside(slice, &device, &grids);
        let all: Vec<(u32, u32)> = taken.iter().map(|t| (t.start, t.size)).collect();
        let profile = &want.profile;
        let refusal = match wish.parse().ok().filter(|start| own.starts.contains(start)) {
            None => {
                let starts: Vec<String> = own.starts.iter().map(u32::to_string).collect();
                let starts = starts.join(", ");
                let message =
                    format!("{profile} can be at {starts} of {device}, and not at {key}={wish}");
                Refusal::new(Code::Unsupported, message)
            }
            Some(start) => {
                let clear = |t: &&Taken| own.free(&[(t.start, t.size)]).any(|free| free == start);
                let other = taken.iter().find(|t| !clear(t))?;
                let message = format!(
                    "{} is at {} of {device} and takes {}, where {key}={wish} is to be",
                    other.by, other.start, other.size
                );
                Refusal::new(Code::NoCapacity, message)
            }
        };
        let (vm, name) = (self.owner_name(&want.key), &want.key.name);
        // Where none is free a start is refused for that next.
        let other = own.free(&all).next().or(own.starts.first().copied()).unwrap_or_default();
        Some(refusal.hint(hint!("virsh edit {}: {}={} in claim {}", vm, key, other, name)))
    }

    /// The places of the other slices of its device. One whose VM has yet to open it is where its driver put it, and about to
    /// be where it is wished; what is open is where it was wished, which the last reading may not show.
    fn taken_beside(&self, slice: SliceId, device: &ParentId, grids: &Grids<'_>) -> Vec<Taken> {
        let given = self.run.assignments.iter();
        let beside = |(other, a): &(&SliceId, &Assignment)| {
            **other != slice && self.seen.device_of(&a.parent) == *device
        };
        let wished = given.filter(beside).filter_map(|(other, a)| {
            let (_, wish) = self.wish(a, a.parameters.as_ref()?)?;
            let start = wish.parse().ok()?;
            let size = grids.get(a.type_id.as_ref()?)?.size;
            Some((Taken { by: *other, start, size }, a.phase == Phase::Attached))
        });
        let (mut taken, mut open) = (Vec::new(), BTreeSet::new());
        for (wished, is_open) in wished {
            open.extend(is_open.then_some(wished.by));
            taken.push(wished);
        }
        let vfs = self.seen.vfs.iter().filter(|(_, vf)| ParentId::Pci(vf.pf) == *device);
        taken.extend(vfs.filter_map(|(address, vf)| {
            let by = SliceId::Vf(*address);
            let choice = vf.choice.as_ref().filter(|_| by != slice && !open.contains(&by))?;
            let size = grids.get(choice.current.as_ref()?)?.size;
            Some(Taken { by, start: choice.place?, size })
        }));
        taken
    }
}
