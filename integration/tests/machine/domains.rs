//! What people and the agent write into a domain's XML.

use gpuslice_core::domain::{ClaimRequest, Domain, HostDevice};
use gpuslice_core::ids::ClaimName;
use gpuslice_core::request::DeviceToWrite;

pub fn claim(name: &ClaimName, profile: &str, count: u32) -> ClaimRequest {
    ClaimRequest {
        name: name.clone(),
        profile: Some(profile.parse().unwrap()),
        count,
        same_fabric: false,
        prefer_numa: false,
        memory_min: None,
        isolation_min: None,
        parameters: None,
    }
}

/// What the agent and `attach` do to the XML: our devices of these claims are these, the others stay.
pub fn write_devices(
    domain: &mut Domain,
    whose: impl Fn(&ClaimName) -> bool,
    devices: Vec<DeviceToWrite>,
) {
    domain.devices.retain(|d| d.our_claim().is_none_or(|(name, _)| !whose(&name)));
    domain.devices.extend(devices.into_iter().map(|device| HostDevice {
        source: device.source,
        alias: Some(device.alias),
        managed: false,
    }));
}
