//! What people and the agent write into a domain, where a test has no use for its XML.

use gpuslice_core::domain::{ClaimRequest, Domain, HostDevice};
use gpuslice_core::ids::ClaimName;
use gpuslice_core::request::DeviceToWrite;

pub fn claim(name: &ClaimName, profile: &str, count: u32) -> ClaimRequest {
    ClaimRequest { count, ..ClaimRequest::one(name, profile.parse().unwrap()) }
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
