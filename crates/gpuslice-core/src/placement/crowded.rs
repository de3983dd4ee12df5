//! Which devices are no good home for one more slice of a type, because of the claims that live there.

use super::{View, Wanted};
use crate::ids::ProfileName;
use crate::mechanism::{Beside, Form, Offer};
use crate::observation::Places;

/// Whether a device whose VFs take types is full, or would be if all the claims that live there ran, with `mine` of
/// the one that is asked for.
pub(super) fn crowded(view: &View<'_>, wanted: &Wanted<'_>, offer: &Offer, mine: usize) -> bool {
    let Form::TypedVfs { vfs, left, beside, .. } = &offer.form else {
        return false;
    };
    let mut homes: Vec<&ProfileName> = vec![wanted.profile; mine];
    for vf in vfs.iter() {
        homes.extend(view.named_by_others(*vf, wanted).map(|(_, claim)| &claim.profile));
    }
    let offered = |profile: &ProfileName| {
        view.offers.iter().find(|o| o.parent == offer.parent && o.profile == *profile)
    };
    let size = |profile: &ProfileName| offered(profile).and_then(|o| o.memory);
    let most = offer.max.and_then(|max| usize::try_from(max).ok()).unwrap_or(usize::MAX);
    usize::try_from(*left).is_ok_and(|left| left <= mine)
        || match beside {
            Beside::OneSize => {
                homes.len() >= most || homes.iter().any(|other| size(other) != offer.memory)
            }
            Beside::Apart(_) => {
                homes.iter().filter(|other| size(other) == offer.memory).count() >= most
            }
            Beside::Places(own) => {
                let places = |profile: &&ProfileName| match &offered(profile)?.form {
                    Form::TypedVfs { beside: Beside::Places(places), .. } => Some(places.as_ref()),
                    _ => None,
                };
                let mut all: Vec<&Places> = homes.iter().filter_map(places).collect();
                all.push(own);
                !fit(all)
            }
        }
}

/// Whether each finds a place, the largest first.
fn fit(all: Vec<&Places>) -> bool {
    fit_beside(Vec::new(), all)
}

/// The same beside what is there: where each begins, and how much it takes.
pub(super) fn fit_beside(mut taken: Vec<(u32, u32)>, mut all: Vec<&Places>) -> bool {
    all.sort_by_key(|places| std::cmp::Reverse(places.size));
    all.into_iter().all(|places| {
        let found = places.free(&taken).next();
        taken.extend(found.map(|start| (start, places.size)));
        found.is_some()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_fit_where_the_grid_lets_them() {
        let places = |size: u32, starts: &[u32]| Places { size, starts: starts.to_vec() };
        // NVIDIA's table of 24 GiB.
        let (half, third, quarter) =
            (places(12, &[0, 12]), places(8, &[0, 16]), places(6, &[0, 6, 12, 18]));
        assert!(fit(vec![&quarter, &half, &quarter]));
        assert!(fit(vec![&third, &third]));
        assert!(!fit(vec![&third, &third, &third]));
        assert!(!fit(vec![&half, &third, &quarter]));
        assert!(!fit(vec![&half, &half, &quarter]));
        assert!(fit(Vec::new()));
        assert_eq!(quarter.free(&[(0, 8)]).collect::<Vec<_>>(), [12, 18]);
        assert_eq!(quarter.free(&[(u32::MAX, 8)]).count(), 4);
    }
}
