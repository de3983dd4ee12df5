//! A running domain: what hot-plug reads and asks of libvirt.

use super::connection::Connection;
use super::error::{LinkError, Said};
use super::ffi;
use crate::writing::{Into, Plugs};
use gpuslice_core::domain::{Domain as Seen, NAMESPACE, RUN_NAMESPACE};
use gpuslice_core::driver::DriverOf;
use gpuslice_core::numa::Pinned;
use gpuslice_domxml::{drivers_for_set_metadata, read_domain, read_drivers, read_pinned};
use std::ffi::CString;
use uuid::Uuid;
use virt::domain::Domain;
use virt::error::Error;
use virt::sys;

const LIVE: u32 = sys::VIR_DOMAIN_AFFECT_LIVE;
const CONFIG: u32 = sys::VIR_DOMAIN_AFFECT_CONFIG;

fn flags(into: Into) -> u32 {
    (if into.live { LIVE } else { 0 }) | (if into.config { CONFIG } else { 0 })
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
    /// What is noted of what makes its slices.
    pub drivers: Vec<DriverOf>,
    /// It is on its way here from another host, and libvirt changes nothing of it before it has come.
    pub comes: bool,
}

impl Running {
    /// Notes in its live XML what makes its slices.
    pub(crate) fn note(&self, drivers: &[DriverOf]) -> Result<(), LinkError> {
        let element = drivers_for_set_metadata(drivers);
        self.set(element.as_deref(), ("gpuslice-run", RUN_NAMESPACE), Into::LIVE)
    }

    fn set(
        &self,
        element: Option<&str>,
        (prefix, namespace): (&str, &str),
        into: Into,
    ) -> Result<(), LinkError> {
        let kind = sys::VIR_DOMAIN_METADATA_ELEMENT.cast_signed();
        self.domain
            .set_metadata(kind, element, Some(prefix), Some(namespace), flags(into))
            .map(drop)
            .map_err(|e| LinkError::SetMetadata { domain: self.name.clone(), source: Said(e) })
    }
}

impl Plugs for Running {
    fn set_metadata(&self, element: Option<&str>, into: Into) -> Result<(), LinkError> {
        self.set(element, ("gpuslice", NAMESPACE), into)
    }

    fn plug(&self, alias: &str, hostdev: &str, into: Into) -> Result<(), LinkError> {
        let plugged = self.domain.attach_device_flags(hostdev, flags(into));
        plugged.map(drop).map_err(|error| LinkError::Plug {
            domain: self.name.clone(),
            alias: alias.to_owned(),
            source: Said(error),
        })
    }

    fn unplug(&self, alias: &str, from: Into) -> Result<(), LinkError> {
        let text = CString::new(alias).unwrap_or_default();
        ffi::detach_alias(&self.domain, &text, flags(from)).map_err(|error| LinkError::Unplug {
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
                let (drivers, comes) = (read_drivers(&xml), comes(&domain));
                Ok(Some(Running { domain, name, seen, pinned, drivers, comes }))
            }
            Err(error) if error.no_domain() => Ok(None),
            Err(error) => Err(error),
        }
    }
}

fn comes(domain: &Domain) -> bool {
    let incoming = (sys::VIR_DOMAIN_PAUSED, sys::VIR_DOMAIN_PAUSED_MIGRATION.cast_signed());
    domain.get_state().is_ok_and(|state| state == incoming)
}
