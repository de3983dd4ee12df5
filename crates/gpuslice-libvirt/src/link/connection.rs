//! One open connection to libvirt, in the words the agent needs. Every call blocks until libvirt answers, so all of
//! this runs on the worker thread ([`super::worker`]) and nowhere else.

use super::error::{LinkError, Said};
use super::event_loop;
use super::ffi::{self, Tell};
use crate::writing::{Definition, Whole};
use gpuslice_core::request::DueStart;
use gpuslice_core::state::OnlyIf;
use std::ffi::{CString, c_int};
use uuid::Uuid;
use virt::connect::Connect;
use virt::domain::Domain;
use virt::error::Error;
use virt::sys;

const CONFIG: u32 = sys::VIR_DOMAIN_AFFECT_CONFIG;

/// An open connection whose events are pushed to whoever opened it.
#[derive(Debug)]
pub struct Connection {
    connect: Connect,
    subscriptions: Vec<c_int>,
}

/// All domains.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// libvirt keeps their definition.
    pub persistent: Vec<Uuid>,
    /// They are gone when they stop.
    pub transient: Vec<Uuid>,
}

/// A domain that was asked for by name, id or UUID.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Its UUID.
    pub uuid: Uuid,
    /// Its name.
    pub name: String,
    /// A process runs it.
    pub running: bool,
    /// libvirt keeps its definition.
    pub persistent: bool,
}

/// A domain with its persistent definition.
#[derive(Debug)]
pub struct Defined {
    domain: Domain,
    /// Its name.
    pub name: String,
    /// The definition the next start takes, without secrets.
    pub xml: String,
    /// No process runs it.
    pub shut_off: bool,
}

impl Connection {
    /// Connects and listens. Listening comes before anything is listed, so that nothing falls in between.
    ///
    /// No keep-alive is asked for: libvirt is on this machine, its socket's end is seen at once, and a libvirt that
    /// hangs in one domain still answers keep-alives. They would only wake both sides every few seconds.
    ///
    /// # Errors
    /// libvirt is not there or does not let us in.
    pub fn open(uri: &str, number: u64, tell: &Tell) -> Result<Self, LinkError> {
        let opening = |error: Error| LinkError::Open { uri: uri.to_owned(), source: Said(error) };
        if event_loop::start().is_err() || uri.contains('\0') {
            return Err(LinkError::Down { uri: uri.to_owned() });
        }
        let connect = Connect::open(Some(uri)).map_err(opening)?;
        let mut connection = Self { connect, subscriptions: Vec::new() };
        connection.subscriptions = ffi::subscribe(&connection.connect, number, tell)
            .map_err(|error| LinkError::Listen { uri: uri.to_owned(), source: Said(error) })?;
        Ok(connection)
    }

    pub(super) fn connect(&self) -> &Connect {
        &self.connect
    }

    /// Whether the socket is still open; asks no one.
    pub fn alive(&self) -> bool {
        self.connect.is_alive().unwrap_or(false)
    }

    /// UUIDs of all domains whose definition libvirt keeps, and of the transient ones.
    ///
    /// # Errors
    /// libvirt did not list them.
    pub fn list(&self) -> Result<Listed, LinkError> {
        let list = |flags| {
            self.connect
                .list_all_domains(flags)?
                .iter()
                .map(Domain::get_uuid)
                .collect::<Result<_, Error>>()
        };
        let listed = || {
            Ok(Listed {
                persistent: list(sys::VIR_CONNECT_LIST_DOMAINS_PERSISTENT)?,
                transient: list(sys::VIR_CONNECT_LIST_DOMAINS_TRANSIENT)?,
            })
        };
        listed().map_err(|error| LinkError::List { source: Said(error) })
    }

    /// The domain a person means: by id, UUID or name, tried in virsh's order.
    ///
    /// # Errors
    /// There is none, or libvirt failed.
    pub fn find(&self, named: &str) -> Result<Found, LinkError> {
        let finding = |error| LinkError::Find { domain: named.to_owned(), source: Said(error) };
        if named.is_empty() || named.contains('\0') {
            return Err(LinkError::BadName { domain: named.to_owned() });
        }
        let by_id = named
            .parse::<u32>()
            .ok()
            .filter(|id| i32::try_from(*id).is_ok())
            .and_then(|id| Domain::lookup_by_id(&self.connect, id).ok());
        let by_uuid = || {
            let uuid = Uuid::try_parse(named).ok()?;
            Domain::lookup_by_uuid(&self.connect, uuid).ok()
        };
        let domain = match by_id.or_else(by_uuid) {
            Some(domain) => domain,
            None => Domain::lookup_by_name(&self.connect, named).map_err(finding)?,
        };
        Ok(Found {
            uuid: domain.get_uuid().map_err(finding)?,
            name: domain.get_name().map_err(finding)?,
            running: domain.is_active().map_err(finding)?,
            persistent: domain.is_persistent().map_err(finding)?,
        })
    }

    /// A domain's persistent definition; `None` when libvirt has or keeps none.
    ///
    /// # Errors
    /// libvirt failed.
    pub fn defined(&self, uuid: Uuid) -> Result<Option<Defined>, LinkError> {
        let read = || -> Result<Option<Defined>, Error> {
            let domain = Domain::lookup_by_uuid(&self.connect, uuid)?;
            if !domain.is_persistent()? {
                return Ok(None);
            }
            Ok(Some(Defined {
                name: domain.get_name()?,
                xml: domain.get_xml_desc(sys::VIR_DOMAIN_XML_INACTIVE)?,
                shut_off: !domain.is_active()?,
                domain,
            }))
        };
        let failed = |error| LinkError::Read { domain: uuid.to_string(), source: Said(error) };
        match read().map_err(failed) {
            Err(error) if error.no_domain() => Ok(None),
            other => other,
        }
    }

    /// Starts a shut-off domain. `false` when it runs already, is gone, or is not what it was to be.
    ///
    /// # Errors
    /// libvirt or a hook refused.
    pub fn start(&self, due: DueStart) -> Result<bool, LinkError> {
        let start = || -> Result<bool, Error> {
            let domain = Domain::lookup_by_uuid(&self.connect, due.domain)?;
            let so = match due.only {
                None => true,
                Some(OnlyIf::Marked) => domain.get_autostart()?,
                Some(OnlyIf::Saved) => domain.has_managed_save(0)?,
            };
            if !so || domain.is_active()? {
                return Ok(false);
            }
            domain.create()?;
            Ok(true)
        };
        let failed =
            |error| LinkError::Start { domain: due.domain.to_string(), source: Said(error) };
        match start().map_err(failed) {
            Err(error) if error.no_domain() => Ok(false),
            other => other,
        }
    }

    /// Replaces a whole definition.
    ///
    /// # Errors
    /// libvirt refused it.
    pub fn define(&self, name: &str, xml: &str) -> Result<(), LinkError> {
        Domain::define_xml(&self.connect, xml)
            .map(drop)
            .map_err(|error| LinkError::Define { domain: name.to_owned(), source: Said(error) })
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        ffi::unsubscribe(&self.connect, &self.subscriptions);
        // A connection whose other end is gone may fail to say goodbye; its memory is freed all the same.
        if let Err(error) = self.connect.close() {
            tracing::debug!("closing the connection to libvirt: {}", error.message());
        }
    }
}

impl Connection {
    /// A domain's persistent definition, to be edited; `None` when libvirt has or keeps none.
    ///
    /// # Errors
    /// libvirt failed.
    pub fn written(&self, uuid: Uuid) -> Result<Option<Written<'_>>, LinkError> {
        let defined = self.defined(uuid)?;
        Ok(defined.map(|defined| Written { connection: self, defined }))
    }

    /// A persistent definition that there has to be.
    ///
    /// # Errors
    /// libvirt failed, or keeps none.
    pub fn kept(&self, uuid: Uuid) -> Result<Written<'_>, LinkError> {
        self.written(uuid)?.ok_or_else(|| LinkError::NotKept { domain: uuid.to_string() })
    }
}

/// A persistent definition on its connection.
#[derive(Debug)]
pub struct Written<'c> {
    connection: &'c Connection,
    defined: Defined,
}

impl Written<'_> {
    /// No process runs it.
    pub fn shut_off(&self) -> bool {
        self.defined.shut_off
    }

    fn stays(&self, alias: &str, error: Error) -> LinkError {
        LinkError::Detach {
            domain: self.defined.name.clone(),
            alias: alias.to_owned(),
            source: Said(error),
        }
    }
}

impl Definition for Written<'_> {
    fn name(&self) -> &str {
        &self.defined.name
    }

    fn xml(&self) -> &str {
        &self.defined.xml
    }

    fn set_metadata(&self, element: Option<&str>) -> Result<(), LinkError> {
        let kind = sys::VIR_DOMAIN_METADATA_ELEMENT.cast_signed();
        let namespace = gpuslice_core::domain::NAMESPACE;
        let Defined { domain, name, .. } = &self.defined;
        domain
            .set_metadata(kind, element, Some("gpuslice"), Some(namespace), CONFIG)
            .map(drop)
            .map_err(|e| LinkError::SetMetadata { domain: name.clone(), source: Said(e) })
    }

    fn put_in(&self, alias: &str, hostdev: &str) -> Result<(), LinkError> {
        let put = self.defined.domain.attach_device_flags(hostdev, CONFIG);
        put.map(drop).map_err(|error| LinkError::Attach {
            domain: self.defined.name.clone(),
            alias: alias.to_owned(),
            source: Said(error),
        })
    }

    fn take_out(&self, alias: &str) -> Result<(), LinkError> {
        let text = CString::new(alias).unwrap_or_default();
        let taken = ffi::detach_alias(&self.defined.domain, &text, CONFIG);
        taken.map_err(|error| self.stays(alias, error))
    }

    fn take_out_plain(&self, alias: &str, hostdev: &str) -> Result<(), LinkError> {
        let taken = self.defined.domain.detach_device_flags(hostdev, CONFIG);
        taken.map(drop).map_err(|error| self.stays(alias, error))
    }

    /// The definition with its secrets, as it must be to define it again, is never logged.
    fn redefine(&self, edit: Whole<'_>) -> Result<(), LinkError> {
        let Defined { domain, name, .. } = &self.defined;
        let flags = sys::VIR_DOMAIN_XML_INACTIVE | sys::VIR_DOMAIN_XML_SECURE;
        let whole = domain
            .get_xml_desc(flags)
            .map_err(|error| LinkError::Read { domain: name.clone(), source: Said(error) })?;
        let whole = edit(&whole).map_err(|error| LinkError::xml(name, error))?;
        self.connection.define(name, &whole)
    }
}
