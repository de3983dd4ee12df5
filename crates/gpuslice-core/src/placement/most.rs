//! How many more mediated devices of each type a device could have whose VFs make one each: a VF tells of itself alone, and what
//! they share only how the device is set tells.

use super::View;
use super::crowded::fit_beside;
use super::lookup::{counted, ordered};
use crate::ids::{MdevTypeId, ParentId};
use crate::mechanism::{Beside, Form, Offer, Part};
use crate::observation::Places;
use std::collections::BTreeMap;

/// Of each device and type of which that can be told.
pub(super) type Most = BTreeMap<ParentId, BTreeMap<MdevTypeId, u32>>;

/// What is on a device or about to be, each with its offer.
struct There<'o> {
    slices: Vec<(&'o Offer, u32)>,
    /// All of it is there: what is left its driver says.
    made: bool,
}

pub(super) fn of_devices(view: &View<'_>) -> Most {
    let made = view.seen.mdevs.values().map(|m| (&m.parent, &m.type_id));
    let to_be = ordered(view).filter_map(|a| Some((&a.parent, a.type_id.as_ref()?)));
    let on_device = |(parent, type_id)| (view.seen.device_of(parent), type_id);
    let to_be = counted(to_be.map(on_device));
    let mut all = counted(made.map(on_device));
    for (of, count) in &to_be {
        *all.entry(of.clone()).or_default() += count;
    }
    // All VFs of a device offer the same.
    let mut devices: BTreeMap<ParentId, BTreeMap<&MdevTypeId, &Offer>> = BTreeMap::new();
    for offer in &view.offers {
        let (Form::Mdevs { type_id, .. }, Some(_)) = (&offer.form, offer.max) else { continue };
        if let Some(device) = view.seen.pf_of(&offer.parent) {
            devices.entry(device).or_default().entry(type_id).or_insert(offer);
        }
    }
    let most = devices.into_iter().map(|(device, offers)| {
        let count = |type_id: &MdevTypeId| all.get(&(device.clone(), type_id)).copied();
        let slices = offers.iter().filter_map(|(of, offer)| Some((*offer, count(of)?))).collect();
        let there = There { slices, made: !to_be.keys().any(|(other, _)| *other == device) };
        let left = offers
            .iter()
            .filter_map(|(type_id, offer)| Some(((*type_id).clone(), left(offer, &there)?)));
        let left = left.collect();
        (device, left)
    });
    most.collect()
}

/// What an offer's form says of its place beside others.
fn beside(offer: &Offer) -> Option<&Beside> {
    match &offer.form {
        Form::Mdevs { beside, .. } => beside.as_ref(),
        _ => None,
    }
}

fn part(offer: &Offer) -> Option<&Part> {
    match beside(offer)? {
        Beside::Apart(part) => part.as_ref(),
        _ => None,
    }
}

fn left(offer: &Offer, there: &There<'_>) -> Option<u32> {
    let max = offer.max?;
    let count = |alike: &dyn Fn(&Offer) -> bool| {
        let alike = there.slices.iter().filter(|(other, _)| alike(other));
        alike.map(|(_, count)| *count).sum::<u32>()
    };
    let same_type = |other: &Offer| other.form.type_id() == offer.form.type_id();
    Some(match beside(offer) {
        Some(Beside::OneSize) if offer.memory.is_some() => {
            max.saturating_sub(count(&|other| other.memory == offer.memory))
        }
        Some(Beside::Apart(Some(own))) => {
            let inside = there.slices.iter().filter_map(|(other, count)| {
                let part = part(other).filter(|part| part.kind == own.kind)?;
                Some((other.memory.unwrap_or_default(), part.each, *count))
            });
            own.left(offer.memory.unwrap_or_default(), inside)
        }
        Some(Beside::Places(own)) => in_places(own, max, there),
        _ => max.saturating_sub(count(&same_type)),
    })
}

/// Where each of those there is in the grid, the driver does not tell: it is taken to be where all fit best.
fn in_places(own: &Places, max: u32, there: &There<'_>) -> u32 {
    let taken = there.slices.iter().filter_map(|(other, count)| match beside(other)? {
        Beside::Places(places) => Some((places.as_ref(), usize::try_from(*count).ok()?)),
        _ => None,
    });
    let taken: Vec<&Places> =
        taken.flat_map(|(places, count)| std::iter::repeat_n(places, count)).collect();
    let fit = |more: &u32| {
        let more = usize::try_from(*more).unwrap_or(usize::MAX);
        fit_beside(
            Vec::new(),
            taken.iter().copied().chain(std::iter::repeat_n(own, more)).collect(),
        )
    };
    let most = (1..=max).take_while(fit).last().unwrap_or_default();
    if there.made { most.max(1) } else { most }
}
