//! What has to change in a domain's shut-off XML so that it carries exactly the devices the daemon answered.
//! Pure: it compares first, so a domain that is already so gives no edit, nothing is written and no event comes
//! back to us.

use gpuslice_core::domain::{Domain, HostDevice, HostDeviceSource, parse_alias};
use gpuslice_core::ids::ClaimName;
use gpuslice_core::request::{Adopted, DeviceToWrite};

/// One change to one hostdev of ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Edit {
    /// A hostdev of ours that belongs to nothing any more.
    Remove {
        /// Its alias.
        alias: String,
    },
    /// A hostdev of ours that belongs to a claim of another name now; everything else of it stays.
    Rename {
        /// Its alias until then.
        alias: String,
        /// What it is to be. It passes that already.
        device: DeviceToWrite,
    },
    /// A hostdev of ours that passes something else now; everything else of it stays.
    Retarget(DeviceToWrite),
    /// A hostdev that is missing.
    Add(DeviceToWrite),
    /// A hostdev that a person picked and that is ours from now on; what the guest sees of it stays.
    Adopt {
        /// What it passes until then.
        picked: HostDeviceSource,
        /// What it is to be.
        device: DeviceToWrite,
    },
}

impl Edit {
    /// The alias of the hostdev it changes.
    pub fn alias(&self) -> &str {
        match self {
            Self::Remove { alias } => alias,
            Self::Retarget(device)
            | Self::Add(device)
            | Self::Rename { device, .. }
            | Self::Adopt { device, .. } => &device.alias,
        }
    }
}

/// The changes from `current` to `wanted`, as [`each`] has them. What would be taken out and put in again as a device of another
/// claim is renamed, so that its guest sees no change.
pub fn edits(current: &Domain, wanted: &[DeviceToWrite], adopted: &[Adopted]) -> Vec<Edit> {
    let mut edits = each(current, wanted, adopted);
    for at in 0..edits.len() {
        let Some(Edit::Remove { alias }) = edits.get(at) else { continue };
        let named = |device: &&HostDevice| device.alias.as_deref() == Some(alias);
        let Some(source) = current.devices.iter().find(named).map(|d| d.source) else { continue };
        let same = |edit: &Edit| matches!(edit, Edit::Add(device) if device.source == source);
        let Some(added) = edits.iter().position(same) else { continue };
        let alias = alias.clone();
        if let Edit::Add(device) = edits.remove(added)
            && let Some(removal) = edits.get_mut(at)
        {
            *removal = Edit::Rename { alias, device };
        }
    }
    edits
}

/// The changes from `current` to `wanted`: removals first, then retargets and adoptions, then additions, so that a
/// device is free before another hostdev names it. Hostdevs of somebody else's stay, but for those that were `adopted`.
/// One that passes what is wanted is not doubled, because libvirt refuses the same device twice: if it has no alias it is
/// the claim's from then on, whatever that had before or was to be given of what was picked.
fn each(current: &Domain, wanted: &[DeviceToWrite], adopted: &[Adopted]) -> Vec<Edit> {
    let ours = |device: &&HostDevice| device.our_claim().is_some();
    let stale = current.devices.iter().filter(ours).filter_map(|device| {
        let alias = device.alias.as_deref()?;
        let gone = !wanted.iter().any(|want| want.alias == alias);
        gone.then(|| Edit::Remove { alias: alias.to_owned() })
    });
    let mut removals: Vec<Edit> = stale.collect();
    let mut retargets = Vec::new();
    let mut additions = Vec::new();
    for want in wanted {
        let carried = current
            .devices
            .iter()
            .find(|device| device.alias.as_deref() == Some(want.alias.as_str()));
        let picked = adopted
            .iter()
            .find(|adopted| adopted.alias == want.alias && is_there(current, adopted))
            .map(|adopted| adopted.picked);
        let device = want.clone();
        match (carried, picked, by_hand(current, want.source, adopted)) {
            (Some(carried), _, _) if carried.source == want.source => {}
            (carried, _, Some(HostDevice { alias: None, source, .. })) => {
                removals.extend(carried.map(|_| Edit::Remove { alias: want.alias.clone() }));
                retargets.push(Edit::Adopt { picked: *source, device });
            }
            (_, _, Some(_)) => {}
            (Some(_), _, None) => retargets.push(Edit::Retarget(device)),
            (None, Some(picked), None) => retargets.push(Edit::Adopt { picked, device }),
            (None, None, None) => additions.push(Edit::Add(device)),
        }
    }
    removals.into_iter().chain(retargets).chain(additions).collect()
}

/// The hostdev of somebody else's that passes this, and will when all that was adopted is ours.
fn by_hand<'a>(
    domain: &'a Domain,
    source: HostDeviceSource,
    adopted: &[Adopted],
) -> Option<&'a HostDevice> {
    let ours_then = |device: &HostDevice| {
        device.alias.is_none() && adopted.iter().any(|adopted| adopted.picked == device.source)
    };
    let passes = |device: &&HostDevice| device.our_claim().is_none() && device.source == source;
    domain.devices.iter().find(passes).filter(|device| !ours_then(device))
}

/// Whether the domain still carries what was picked as it was picked.
pub fn is_there(domain: &Domain, adopted: &Adopted) -> bool {
    domain.devices.iter().any(|d| d.alias.is_none() && d.source == adopted.picked)
}

/// Like [`edits`], for one claim whose devices are known while those of the others are not: these stay, but for one that
/// passes what this claim gets. Its own claim has something else by then, and the next look writes that.
pub fn edits_of_claim(current: &Domain, claim: &ClaimName, wanted: &[DeviceToWrite]) -> Vec<Edit> {
    let of_claim = |alias: &str| parse_alias(alias).is_some_and(|(name, _)| name == *claim);
    let gone = current.devices.iter().filter_map(|device| {
        let alias = device.alias.as_deref().filter(|_| device.our_claim().is_some())?;
        let given_away = !of_claim(alias) && wanted.iter().any(|want| want.source == device.source);
        given_away.then(|| Edit::Remove { alias: alias.to_owned() })
    });
    let own = each(current, wanted, &[]).into_iter().filter(|edit| of_claim(edit.alias()));
    gone.chain(own).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use gpuslice_core::domain::ClaimRequest;
    use uuid::Uuid;

    fn pci(text: &str) -> HostDeviceSource {
        HostDeviceSource::Pci(text.parse().unwrap())
    }

    fn device(alias: Option<&str>, source: HostDeviceSource) -> HostDevice {
        HostDevice { source, alias: alias.map(str::to_owned), managed: false }
    }

    fn want(alias: &str, source: HostDeviceSource) -> DeviceToWrite {
        DeviceToWrite { alias: alias.to_owned(), source }
    }

    const ONE: &str = "0000:41:00.1";
    const TWO: &str = "0000:41:00.2";

    #[test]
    fn only_what_differs_is_edited() {
        let mdev = HostDeviceSource::Mdev("11111111-2222-5333-8444-555555555555".parse().unwrap());
        let gone = |alias: &str| Edit::Remove { alias: alias.to_owned() };
        let cases = [
            ("nothing at all", vec![], vec![], vec![]),
            (
                "already so",
                vec![device(Some("ua-gpuslice-a"), pci(ONE))],
                vec![want("ua-gpuslice-a", pci(ONE))],
                vec![],
            ),
            (
                "missing",
                vec![],
                vec![want("ua-gpuslice-a", mdev)],
                vec![Edit::Add(want("ua-gpuslice-a", mdev))],
            ),
            (
                "another slice, also of another kind",
                vec![
                    device(Some("ua-gpuslice-a"), pci(ONE)),
                    device(Some("ua-gpuslice-b"), pci(TWO)),
                ],
                vec![want("ua-gpuslice-a", pci("0000:41:00.3")), want("ua-gpuslice-b", mdev)],
                vec![
                    Edit::Retarget(want("ua-gpuslice-a", pci("0000:41:00.3"))),
                    Edit::Retarget(want("ua-gpuslice-b", mdev)),
                ],
            ),
            (
                "a VF where it was made before",
                vec![device(Some("ua-gpuslice-a"), mdev)],
                vec![want("ua-gpuslice-a", pci(ONE))],
                vec![Edit::Retarget(want("ua-gpuslice-a", pci(ONE)))],
            ),
            (
                "stale ones of ours go, others stay",
                vec![
                    device(Some("ua-gpuslice-a"), pci(ONE)),
                    device(Some("ua-gpuslice-a--1"), pci(TWO)),
                    device(Some("ua-mine"), pci("0000:42:00.0")),
                    device(None, pci("0000:43:00.0")),
                    // Our prefix, but no claim name: not made by us.
                    device(Some("ua-gpuslice-"), pci("0000:44:00.0")),
                ],
                vec![want("ua-gpuslice-a", pci(ONE))],
                vec![gone("ua-gpuslice-a--1")],
            ),
            (
                "of a claim that has another name now",
                vec![
                    device(Some("ua-gpuslice-a"), pci(ONE)),
                    device(Some("ua-gpuslice-a--1"), pci(TWO)),
                    device(Some("ua-gpuslice-c"), mdev),
                ],
                vec![want("ua-gpuslice-b", pci(ONE)), want("ua-gpuslice-b--1", pci(TWO))],
                vec![
                    Edit::Rename {
                        alias: "ua-gpuslice-a".to_owned(),
                        device: want("ua-gpuslice-b", pci(ONE)),
                    },
                    Edit::Rename {
                        alias: "ua-gpuslice-a--1".to_owned(),
                        device: want("ua-gpuslice-b--1", pci(TWO)),
                    },
                    gone("ua-gpuslice-c"),
                ],
            ),
            (
                "picked by hand",
                vec![device(None, pci(ONE))],
                vec![want("ua-gpuslice-a", pci(ONE))],
                vec![Edit::Adopt { picked: pci(ONE), device: want("ua-gpuslice-a", pci(ONE)) }],
            ),
            (
                "picked by hand beside one that passes something else",
                vec![device(Some("ua-gpuslice-a"), mdev), device(None, pci(ONE))],
                vec![want("ua-gpuslice-a", pci(ONE))],
                vec![
                    gone("ua-gpuslice-a"),
                    Edit::Adopt { picked: pci(ONE), device: want("ua-gpuslice-a", pci(ONE)) },
                ],
            ),
            (
                "a program's, beside one that passes something else",
                vec![device(Some("ua-gpuslice-a"), mdev), device(Some("ua-mine"), pci(ONE))],
                vec![want("ua-gpuslice-a", pci(ONE))],
                vec![],
            ),
        ];
        for (name, devices, wanted, expected) in cases {
            let domain = Domain {
                uuid: Uuid::from_u128(1),
                name: "vm".to_owned(),
                claims: Vec::new(),
                devices,
            };
            assert_eq!(edits(&domain, &wanted, &[]), expected, "{name}");
        }
    }

    #[test]
    fn the_devices_of_other_claims_stay() {
        let domain = Domain {
            uuid: Uuid::from_u128(1),
            name: "vm".to_owned(),
            claims: Vec::new(),
            devices: vec![
                device(Some("ua-gpuslice-a"), pci(ONE)),
                device(Some("ua-gpuslice-a--1"), pci(TWO)),
                device(Some("ua-gpuslice-ab"), pci("0000:42:00.0")),
            ],
        };
        let claim = "a".parse().unwrap();
        let wanted = [want("ua-gpuslice-a", pci(ONE))];
        let stale = Edit::Remove { alias: "ua-gpuslice-a--1".to_owned() };
        assert_eq!(edits_of_claim(&domain, &claim, &wanted), [stale]);
        assert_eq!(edits_of_claim(&domain, &claim, &[]).len(), 2);
        // But what a claim had before, and this one has been given since, is with one of them only.
        let given = want("ua-gpuslice-a--1", pci("0000:42:00.0"));
        let other = Edit::Remove { alias: "ua-gpuslice-ab".to_owned() };
        let wanted = [wanted[0].clone(), given.clone()];
        assert_eq!(edits_of_claim(&domain, &claim, &wanted), [other, Edit::Retarget(given)]);
    }

    #[test]
    fn a_users_choice_of_managed_is_left_alone() {
        let mut managed = device(Some("ua-gpuslice-a"), pci(ONE));
        managed.managed = true;
        let domain = Domain {
            uuid: Uuid::from_u128(1),
            name: "vm".to_owned(),
            claims: Vec::new(),
            devices: vec![managed],
        };
        assert_eq!(edits(&domain, &[want("ua-gpuslice-a", pci(ONE))], &[]), []);
    }

    #[test]
    fn what_was_picked_is_adopted_as_long_as_it_is_there() {
        let mut domain = Domain {
            uuid: Uuid::from_u128(1),
            name: "vm".to_owned(),
            claims: Vec::new(),
            devices: vec![device(None, pci(ONE)), device(Some("ua-mine"), pci("0000:42:00.0"))],
        };
        let name = "a".parse().unwrap();
        let adopted = [Adopted {
            request: ClaimRequest::one(&name, "p".parse().unwrap()),
            alias: "ua-gpuslice-a".to_owned(),
            picked: pci(ONE),
        }];
        // Also with another device: somebody else has that one.
        for function in [ONE, TWO] {
            let wanted = [want("ua-gpuslice-a", pci(function))];
            let adopt = Edit::Adopt { picked: pci(ONE), device: wanted[0].clone() };
            assert_eq!(edits(&domain, &wanted, &adopted), [adopt]);
        }
        // Of two that were picked, one is what is left for the other: it is that.
        let mut two = domain.clone();
        two.devices.push(device(None, pci(TWO)));
        let wanted = [want("ua-gpuslice-a", pci(TWO))];
        let adopt = Edit::Adopt { picked: pci(TWO), device: wanted[0].clone() };
        assert_eq!(edits(&two, &wanted, &adopted), [adopt]);
        let wanted = [want("ua-gpuslice-a", pci(ONE))];
        domain.devices[0].alias = Some("ua-gpuslice-a".to_owned());
        assert_eq!(edits(&domain, &wanted, &adopted), []);
        domain.devices.clear();
        assert_eq!(edits(&domain, &wanted, &adopted), [Edit::Add(wanted[0].clone())]);
    }
}
