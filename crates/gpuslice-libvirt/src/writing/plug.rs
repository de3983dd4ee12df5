//! A hot-plug's writes. The live XML and, where it is asked, the persistent one change in one call of libvirt, which keeps
//! neither if the first fails.

use super::element;
use crate::link::LinkError;
use gpuslice_core::domain::{ClaimRequest, Domain as Seen};
use gpuslice_core::ids::ClaimName;
use gpuslice_core::request::DeviceToWrite;
use gpuslice_domxml::hostdev_xml;

/// Where a change goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Into {
    /// The running VM.
    pub live: bool,
    /// The definition.
    pub config: bool,
}

impl Into {
    /// The running VM alone.
    pub const LIVE: Self = Self { live: true, config: false };
    /// The definition alone.
    pub const CONFIG: Self = Self { live: false, config: true };
}

/// The calls that change a domain that runs: libvirt's, or what a test has in its place.
pub trait Plugs {
    /// virDomainSetMetadata of our element; `None` removes it.
    ///
    /// # Errors
    /// libvirt refused.
    fn set_metadata(&self, element: Option<&str>, into: Into) -> Result<(), LinkError>;
    /// virDomainAttachDeviceFlags.
    ///
    /// # Errors
    /// libvirt refused.
    fn plug(&self, alias: &str, hostdev: &str, into: Into) -> Result<(), LinkError>;
    /// virDomainDetachDeviceAlias.
    ///
    /// # Errors
    /// libvirt refused.
    fn unplug(&self, alias: &str, from: Into) -> Result<(), LinkError>;
}

/// The opposite of a call that was made.
enum Undo<'a> {
    Claims(&'a [ClaimRequest], Into),
    Unplug(&'a str, Into),
}

/// Puts a claim and its devices into a VM that runs with `live` and, if `definition` is what libvirt keeps of it, there
/// too. Whether anything was not already so. On an error everything is as before, as far as libvirt and the guest let
/// us.
///
/// # Errors
/// libvirt refused.
pub fn plug(
    libvirt: &impl Plugs,
    live: &Seen,
    definition: Option<&Seen>,
    request: &ClaimRequest,
    devices: &[DeviceToWrite],
) -> Result<bool, LinkError> {
    let mut undo = Vec::new();
    let done = plug_all(libvirt, live, definition, request, devices, &mut undo);
    if done.is_ok() {
        return done.map(|()| !undo.is_empty());
    }
    for step in undo.into_iter().rev() {
        let undone = match step {
            Undo::Claims(claims, into) => set(libvirt, claims, into),
            // Each by itself: the guest may keep the one that runs.
            Undo::Unplug(alias, into) => [Into::LIVE, Into::CONFIG]
                .into_iter()
                .filter(|one| (one.live && into.live) || (one.config && into.config))
                .map(|one| libvirt.unplug(alias, one))
                .fold(Ok(()), Result::and),
        };
        if let Err(left) = undone {
            tracing::error!(domain = %live.name, "cannot take back a half-made hot-plug: {left}");
        }
    }
    done.map(|()| false)
}

/// Claims come first: a device of ours without its claim would keep the VM from being saved and restored.
fn plug_all<'a>(
    libvirt: &impl Plugs,
    live: &'a Seen,
    definition: Option<&'a Seen>,
    request: &ClaimRequest,
    devices: &'a [DeviceToWrite],
    undo: &mut Vec<Undo<'a>>,
) -> Result<(), LinkError> {
    let places = [(Some(live), Into::LIVE), (definition, Into::CONFIG)];
    for (before, into) in places.iter().filter_map(|(seen, into)| Some(((*seen)?, *into))) {
        let claims = with(&before.claims, request);
        if claims != before.claims {
            set(libvirt, &claims, into)?;
            undo.push(Undo::Claims(&before.claims, into));
        }
    }
    for device in devices {
        let lacks = |seen: &Seen| {
            let carried = |alias: Option<&str>, source| {
                alias == Some(device.alias.as_str()) || source == device.source
            };
            !seen.devices.iter().any(|d| carried(d.alias.as_deref(), d.source))
        };
        // One that the definition has with another source is brought in line when the domain is shut off.
        let into = Into { live: lacks(live), config: definition.is_some_and(lacks) };
        if into.live || into.config {
            libvirt.plug(&device.alias, &hostdev_xml(device), into)?;
            undo.push(Undo::Unplug(&device.alias, into));
        }
    }
    Ok(())
}

/// Takes the claim out of the XML of a VM that runs with `live`; whether it was in there.
///
/// # Errors
/// libvirt refused.
pub fn forget(libvirt: &impl Plugs, live: &Seen, name: &ClaimName) -> Result<bool, LinkError> {
    let mut left = live.claims.clone();
    left.retain(|claim| claim.name != *name);
    if left.len() == live.claims.len() {
        return Ok(false);
    }
    set(libvirt, &left, Into::LIVE)?;
    Ok(true)
}

fn set(libvirt: &impl Plugs, claims: &[ClaimRequest], into: Into) -> Result<(), LinkError> {
    libvirt.set_metadata(element(claims).as_deref(), into)
}

fn with(claims: &[ClaimRequest], request: &ClaimRequest) -> Vec<ClaimRequest> {
    let mut claims = claims.to_vec();
    match claims.iter_mut().find(|claim| claim.name == request.name) {
        Some(claim) => *claim = request.clone(),
        None => claims.push(request.clone()),
    }
    claims
}

#[cfg(test)]
mod tests {
    use super::*;
    use gpuslice_core::domain::{HostDevice, HostDeviceSource};
    use std::cell::RefCell;
    use uuid::Uuid;

    /// Says yes until the n-th call.
    struct Scripted {
        calls: RefCell<Vec<String>>,
        fail_at: usize,
    }

    impl Scripted {
        fn call(&self, call: String) -> Result<(), LinkError> {
            self.calls.borrow_mut().push(call);
            if self.calls.borrow().len() == self.fail_at {
                return Err(LinkError::NotKept { domain: "vm".to_owned() });
            }
            Ok(())
        }
    }

    fn place(into: Into) -> &'static str {
        match (into.live, into.config) {
            (true, true) => "both",
            (true, false) => "live",
            (false, _) => "config",
        }
    }

    impl Plugs for Scripted {
        fn set_metadata(&self, element: Option<&str>, into: Into) -> Result<(), LinkError> {
            let after_name = |part: &'_ str| part.split('\'').next().unwrap_or_default().to_owned();
            let parts = element.unwrap_or_default().split("name='").skip(1);
            let names: Vec<_> = parts.map(after_name).collect();
            self.call(format!("{} claims [{}]", place(into), names.join(" ")))
        }
        fn plug(&self, alias: &str, _: &str, into: Into) -> Result<(), LinkError> {
            self.call(format!("{} plug {alias}", place(into)))
        }
        fn unplug(&self, alias: &str, from: Into) -> Result<(), LinkError> {
            self.call(format!("{} unplug {alias}", place(from)))
        }
    }

    fn request(name: &str) -> ClaimRequest {
        ClaimRequest::one(&name.parse().unwrap(), "p".parse().unwrap())
    }

    fn device(alias: &str, function: u8) -> DeviceToWrite {
        let address = format!("0000:41:00.{function}").parse().unwrap();
        DeviceToWrite { alias: alias.to_owned(), source: HostDeviceSource::Pci(address) }
    }

    fn seen(claims: &[&str], devices: &[DeviceToWrite]) -> Seen {
        let carried = |d: &DeviceToWrite| HostDevice {
            source: d.source,
            alias: Some(d.alias.clone()),
            managed: false,
        };
        Seen {
            uuid: Uuid::from_u128(1),
            name: "vm".to_owned(),
            claims: claims.iter().map(|name| request(name)).collect(),
            devices: devices.iter().map(carried).collect(),
        }
    }

    fn calls(
        fail_at: usize,
        live: &Seen,
        definition: Option<&Seen>,
        devices: &[DeviceToWrite],
    ) -> (Result<bool, LinkError>, Vec<String>) {
        let libvirt = Scripted { calls: RefCell::default(), fail_at };
        let done = plug(&libvirt, live, definition, &request("b"), devices);
        (done, libvirt.calls.into_inner())
    }

    #[test]
    fn only_what_is_missing_is_plugged_in_where_it_is_missing() {
        let two = [device("ua-gpuslice-b", 1), device("ua-gpuslice-b--1", 2)];
        let (done, made) = calls(0, &seen(&["a"], &[]), None, &two);
        assert_eq!(done, Ok(true));
        let expected =
            ["live claims [a b]", "live plug ua-gpuslice-b", "live plug ua-gpuslice-b--1"];
        assert_eq!(made, expected);

        let (done, made) = calls(0, &seen(&[], &[]), Some(&seen(&["b"], &two[..1])), &two);
        assert_eq!(done, Ok(true));
        let expected = ["live claims [b]", "live plug ua-gpuslice-b", "both plug ua-gpuslice-b--1"];
        assert_eq!(made, expected);

        let all = seen(&["b"], &two);
        assert_eq!(calls(0, &all, Some(&all), &two), (Ok(false), Vec::new()));
        // The definition's own is brought in line elsewhere.
        let moved = seen(&["b"], &[device("ua-gpuslice-b", 7)]);
        assert_eq!(calls(0, &all, Some(&moved), &two[..1]), (Ok(false), Vec::new()));
    }

    #[test]
    fn what_fails_at_any_call_is_taken_back() {
        let two = [device("ua-gpuslice-b", 1), device("ua-gpuslice-b--1", 2)];
        let (live, definition) = (seen(&["a"], &[]), seen(&[], &[]));
        let whole = calls(0, &live, Some(&definition), &two).1;
        assert_eq!(whole.len(), 4);
        let back = [
            vec!["live claims [a]"],
            vec!["config claims []", "live claims [a]"],
            vec![
                "live unplug ua-gpuslice-b",
                "config unplug ua-gpuslice-b",
                "config claims []",
                "live claims [a]",
            ],
        ];
        for fail_at in 1..=4 {
            let (done, made) = calls(fail_at, &live, Some(&definition), &two);
            done.unwrap_err();
            let expected = fail_at.checked_sub(2).map(|at| back[at].clone()).unwrap_or_default();
            assert_eq!(made[fail_at..], expected, "failed at call {fail_at}");
        }
    }
}
