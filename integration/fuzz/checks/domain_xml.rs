//! Whatever the bytes: no crash, and a document that is read can be edited, reads back as written, and is the same
//! again when what was put in is taken out.

use gpuslice_core::domain::{HostDeviceSource, alias_for};
use gpuslice_core::ids::{ClaimName, MdevUuid};
use gpuslice_core::request::DeviceToWrite;
use gpuslice_domxml::{put_claims, put_device, read_domain, remap_pci, remove_device, scan};
use std::collections::BTreeMap;

/// Panics when a promise is broken.
pub fn check(data: &[u8]) {
    let _ = scan(data);
    let Ok(xml) = std::str::from_utf8(data) else {
        return;
    };
    let Ok(domain) = read_domain(xml) else {
        // What is not read may still be edited; it must not crash.
        let _ = put_claims(xml, &[]);
        let _ = remap_pci(xml, &BTreeMap::new());
        return;
    };
    for device in &domain.devices {
        assert_eq!(device.our_claim().is_some(), device.alias.as_deref().is_some_and(is_ours));
    }

    let claims = put_claims(xml, &domain.claims).expect("a domain that is read takes claims");
    assert_eq!(read_domain(&claims).expect("it is still a domain"), domain);

    let name: ClaimName = "fuzz".parse().expect("a claim name");
    let device = DeviceToWrite {
        alias: alias_for(&name, 0),
        source: HostDeviceSource::Mdev(MdevUuid::for_claim(domain.uuid, &name, 0)),
    };
    let with = put_device(xml, &device).expect("a domain that is read takes a device");
    let read = read_domain(&with).expect("it is still a domain");
    let found = read.devices.iter().find(|d| d.alias.as_ref() == Some(&device.alias));
    assert_eq!(found.map(|d| d.source), Some(device.source));
    if domain.devices.iter().all(|d| d.alias.as_ref() != Some(&device.alias)) {
        let without = remove_device(&with, &device.alias).expect("it is still a domain");
        assert_eq!(read_domain(&without).expect("it is still a domain"), domain);
    }

    let functions = domain.devices.iter().filter_map(|device| match device.source {
        HostDeviceSource::Pci(address) => Some(address),
        HostDeviceSource::Mdev(_) => None,
    });
    let map: BTreeMap<_, _> =
        functions.map(|old| (old, old.with_routing_id(old.routing_id().wrapping_add(1)))).collect();
    let remapped = remap_pci(xml, &map).expect("a domain that is read can be remapped");
    let back = map.iter().map(|(old, new)| (*new, *old)).collect();
    let restored = remap_pci(&remapped, &back).expect("it is still a domain");
    assert_eq!(read_domain(&restored).expect("it is still a domain"), domain);
}

fn is_ours(alias: &str) -> bool {
    alias.starts_with(gpuslice_core::domain::ALIAS_PREFIX)
}
