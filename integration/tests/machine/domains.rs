//! What people and the agent write into a domain's XML.

use gpuslice_core::domain::{ClaimRequest, Domain, HostDevice};
use gpuslice_core::ids::ClaimName;
use gpuslice_core::request::{Adopted, DeviceToWrite};

pub fn claim(name: &ClaimName, profile: &str, count: u32) -> ClaimRequest {
    ClaimRequest { count, ..ClaimRequest::one(name, profile.parse().unwrap()) }
}

/// What the agent makes of devices that were picked: they are named, and pass what they are to pass. As libvirt
/// has it, `managed` stays as it was picked unless another function is passed.
pub fn write_adopted(domain: &mut Domain, adopted: Vec<Adopted>, devices: &[DeviceToWrite]) {
    for Adopted { request, alias, picked } in adopted {
        if domain.claims.iter().all(|claim| claim.name != request.name) {
            domain.claims.push(request);
        }
        let source = devices.iter().find(|d| d.alias == alias).unwrap().source;
        let plain = domain.devices.iter_mut().find(|d| d.alias.is_none() && d.source == picked);
        let device = plain.unwrap();
        device.managed &= source == picked;
        (device.source, device.alias) = (source, Some(alias));
    }
}

/// What the agent and `attach` do to the XML: our devices of these claims are these, the others stay.
pub fn write_devices(
    domain: &mut Domain,
    whose: impl Fn(&ClaimName) -> bool,
    devices: Vec<DeviceToWrite>,
) {
    let before = domain.devices.clone();
    domain.devices.retain(|d| d.our_claim().is_none_or(|(name, _)| !whose(&name)));
    domain.devices.extend(devices.into_iter().map(|device| {
        let (source, alias) = (device.source, Some(device.alias));
        // What is so already is left as it is.
        let same = before.iter().find(|d| d.source == source && d.alias == alias);
        HostDevice { source, alias, managed: same.is_some_and(|d| d.managed) }
    }));
}
