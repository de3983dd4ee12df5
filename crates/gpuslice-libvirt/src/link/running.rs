//! A running domain: what hot-plug reads and asks of libvirt. The live XML and, where it is asked, the persistent
//! one change in one call of libvirt, which keeps neither if the first fails.

use super::connection::Connection;
use super::error::{LinkError, Said};
use super::ffi;
use gpuslice_core::domain::{ClaimRequest, Domain as Seen};
use gpuslice_core::numa::Pinned;
use gpuslice_core::request::DeviceToWrite;
use gpuslice_domxml::{claims_for_set_metadata, hostdev_xml, read_domain, read_pinned};
use std::ffi::CString;
use uuid::Uuid;
use virt::domain::Domain;
use virt::error::Error;
use virt::sys;

const LIVE: u32 = sys::VIR_DOMAIN_AFFECT_LIVE;
const CONFIG: u32 = sys::VIR_DOMAIN_AFFECT_CONFIG;

/// Where a change goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Into {
    /// The running VM.
    pub live: bool,
    /// The definition.
    pub config: bool,
}

impl Into {
    const LIVE: Self = Self { live: true, config: false };
    const CONFIG: Self = Self { live: false, config: true };

    fn flags(self) -> u32 {
        (if self.live { LIVE } else { 0 }) | (if self.config { CONFIG } else { 0 })
    }
}

/// A domain that a process runs.
#[derive(Debug)]
pub struct Running {
    domain: Domain,
    /// Its name.
    pub name: String,
    /// What it carries now.
    pub seen: Seen,
    /// Where on the host it runs.
    pub pinned: Pinned,
}

/// The calls that change one claim or device.
trait Plugs {
    fn claims(&self, claims: &[ClaimRequest], into: Into) -> Result<(), LinkError>;
    fn plug(&self, device: &DeviceToWrite, into: Into) -> Result<(), LinkError>;
    fn unplug(&self, alias: &str, from: Into) -> Result<(), LinkError>;
}

impl Plugs for Running {
    fn claims(&self, claims: &[ClaimRequest], into: Into) -> Result<(), LinkError> {
        let element = (!claims.is_empty()).then(|| claims_for_set_metadata(claims));
        let kind = sys::VIR_DOMAIN_METADATA_ELEMENT.cast_signed();
        let namespace = gpuslice_core::domain::NAMESPACE;
        self.domain
            .set_metadata(kind, element.as_deref(), Some("gpuslice"), Some(namespace), into.flags())
            .map(drop)
            .map_err(|e| LinkError::SetMetadata { domain: self.name.clone(), source: Said(e) })
    }

    fn plug(&self, device: &DeviceToWrite, into: Into) -> Result<(), LinkError> {
        let plugged = self.domain.attach_device_flags(&hostdev_xml(device), into.flags());
        plugged.map(drop).map_err(|error| LinkError::Plug {
            domain: self.name.clone(),
            alias: device.alias.clone(),
            source: Said(error),
        })
    }

    fn unplug(&self, alias: &str, from: Into) -> Result<(), LinkError> {
        let text = CString::new(alias).unwrap_or_default();
        ffi::detach_alias(&self.domain, &text, from.flags()).map_err(|error| LinkError::Unplug {
            domain: self.name.clone(),
            alias: alias.to_owned(),
            source: Said(error),
        })
    }
}

impl Connection {
    /// What a domain carries that runs now; `None` when it does not run, or is not there.
    ///
    /// # Errors
    /// libvirt failed, or what of ours is in the XML has no meaning.
    pub fn running(&self, uuid: Uuid) -> Result<Option<Running>, LinkError> {
        let read = || -> Result<Option<(Domain, String, String)>, Error> {
            let domain = Domain::lookup_by_uuid(self.connect(), uuid)?;
            let Some(id) = domain.get_id() else {
                return Ok(None);
            };
            let xml = domain.get_xml_desc(0)?;
            // Of a domain that stopped meanwhile this was the definition. Each run has an id of its own.
            let after = Domain::lookup_by_uuid(self.connect(), uuid)?;
            if after.get_id() != Some(id) {
                return Ok(None);
            }
            Ok(Some((after, domain.get_name()?, xml)))
        };
        let failed = |error| LinkError::Read { domain: uuid.to_string(), source: Said(error) };
        match read().map_err(failed) {
            Ok(None) => Ok(None),
            Ok(Some((domain, name, xml))) => {
                let seen = read_domain(&xml).map_err(|error| LinkError::xml(&name, error))?;
                let pinned = read_pinned(&xml).map_err(|error| LinkError::xml(&name, error))?;
                Ok(Some(Running { domain, name, seen, pinned }))
            }
            Err(error) if error.no_domain() => Ok(None),
            Err(error) => Err(error),
        }
    }
}

impl Running {
    /// Puts a claim and its devices into the running VM and, if `definition` is what libvirt keeps of it, there too.
    /// Whether anything was not already so. On an error everything is as before, as far as libvirt and the guest
    /// let us.
    ///
    /// # Errors
    /// libvirt refused.
    pub fn plug(
        &self,
        definition: Option<&Seen>,
        request: &ClaimRequest,
        devices: &[DeviceToWrite],
    ) -> Result<bool, LinkError> {
        plug(self, &self.seen, definition, request, devices)
    }

    /// Asks the guest to let go of a device. It answers later, or never.
    ///
    /// # Errors
    /// libvirt refused.
    pub fn unplug(&self, alias: &str) -> Result<(), LinkError> {
        Plugs::unplug(self, alias, Into::LIVE)
    }

    /// Makes the running VM ask for these claims.
    ///
    /// # Errors
    /// libvirt refused.
    pub fn set_claims(&self, claims: &[ClaimRequest]) -> Result<(), LinkError> {
        if self.seen.claims == claims {
            return Ok(());
        }
        Plugs::claims(self, claims, Into::LIVE)
    }
}

/// The opposite of a call that was made.
enum Undo<'a> {
    Claims(&'a [ClaimRequest], Into),
    Unplug(&'a str, Into),
}

fn plug(
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
            Undo::Claims(claims, into) => libvirt.claims(claims, into),
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
            libvirt.claims(&claims, into)?;
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
            libvirt.plug(device, into)?;
            undo.push(Undo::Unplug(&device.alias, into));
        }
    }
    Ok(())
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
        fn claims(&self, claims: &[ClaimRequest], into: Into) -> Result<(), LinkError> {
            let names: Vec<_> = claims.iter().map(|claim| claim.name.as_str()).collect();
            self.call(format!("{} claims [{}]", place(into), names.join(" ")))
        }
        fn plug(&self, device: &DeviceToWrite, into: Into) -> Result<(), LinkError> {
            self.call(format!("{} plug {}", place(into), device.alias))
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
