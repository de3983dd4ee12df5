//! Both ends of the agent's interface.

use super::{AttachOptions, Attached, DetachOptions, Detached, DomainInfo, LibvirtHandler};
use crate::callers::{Caller, Gate, Gated};
use crate::client::{BusLink, CallError};
use crate::names::{LIBVIRT_BUS_NAME, LIBVIRT_INTERFACE, LIBVIRT_PATH};
use crate::refused::Refused;
use crate::wire::{self, Dict};
use gpuslice_core::ids::{ClaimName, ParseIdError, ProfileName};
use gpuslice_core::refusal::{Code, Refusal};
use std::time::Duration;
use zbus::message::Header;
use zbus::{Connection, interface};

/// `org.gpuslice1.Libvirt` in front of a handler.
#[derive(Debug)]
pub struct LibvirtInterface<H> {
    handler: H,
}

impl<H: LibvirtHandler> LibvirtInterface<H> {
    /// The interface.
    pub fn new(handler: H) -> Self {
        Self { handler }
    }
}

impl<H: LibvirtHandler> Gated for LibvirtInterface<H> {
    type Handler = H;
    type Interface = Self;

    fn handler(&self) -> &H {
        &self.handler
    }

    fn interface(&self) -> &Self {
        self
    }
}

/// Puts the interface on a connection and takes the agent's bus name.
///
/// # Errors
/// The name is another's, or the bus is gone.
pub async fn serve<H: LibvirtHandler>(
    connection: &Connection,
    interface: LibvirtInterface<H>,
) -> zbus::Result<()> {
    connection.object_server().at(LIBVIRT_PATH, Gate(interface)).await?;
    connection.request_name(LIBVIRT_BUS_NAME).await
}

fn bad_name(error: &ParseIdError) -> Refused {
    Refusal::new(Code::BadRequest, error.to_string()).into()
}

#[interface(name = "org.gpuslice1.Libvirt")]
impl<H: LibvirtHandler> LibvirtInterface<H> {
    /// Gives a domain (name, id or UUID) a claim. Options: `name`, `live`, `config`, and what a claim that is there keeps
    /// where it is left out: `pool`, `reserve`, `count`, `same_fabric`, `prefer_numa`, `require_numa`, `parameters`.
    #[zbus(out_args("result"))]
    async fn attach(
        &self,
        domain: &str,
        profile: &str,
        options: Dict,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
    ) -> Result<Dict, Refused> {
        let profile: ProfileName = profile.parse().map_err(|e| bad_name(&e))?;
        let options = wire::from_dict(&options)?;
        let caller = Caller::of(&header, connection);
        let done = self.handler.attach(caller, domain, profile, options).await?;
        Ok(wire::to_dict(&done)?)
    }

    /// Takes a claim from a domain; an empty name means its only one. Options: `live`, `config`.
    #[zbus(out_args("result"))]
    async fn detach(
        &self,
        domain: &str,
        claim_name: &str,
        options: Dict,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
    ) -> Result<Dict, Refused> {
        let claim: Option<ClaimName> = (!claim_name.is_empty())
            .then(|| claim_name.parse())
            .transpose()
            .map_err(|e| bad_name(&e))?;
        let options = wire::from_dict(&options)?;
        let caller = Caller::of(&header, connection);
        let done = self.handler.detach(caller, domain, claim, options).await?;
        Ok(wire::to_dict(&done)?)
    }

    /// Which domain a name, id or UUID means.
    #[zbus(out_args("uuid", "name", "running"))]
    async fn resolve(
        &self,
        domain: &str,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
    ) -> Result<(String, String, bool), Refused> {
        let caller = Caller::of(&header, connection);
        let info = self.handler.resolve(caller, domain).await?;
        Ok((info.uuid.to_string(), info.name, info.running))
    }
}

/// How long a look may take, and a change of root's; the agent gives up after 20 s.
const LOOK: Duration = Duration::from_secs(30);

/// How long a change may take for everybody else: polkit may be asking a person.
const ASKED: Duration = Duration::from_secs(150);

fn change() -> Duration {
    if rustix::process::geteuid().is_root() { LOOK } else { ASKED }
}

/// Calls the agent.
#[derive(Debug, Clone)]
pub struct LibvirtClient {
    link: BusLink,
}

impl LibvirtClient {
    pub(crate) fn new(connection: Connection) -> Self {
        Self { link: BusLink::new(connection, LIBVIRT_BUS_NAME, LIBVIRT_PATH, LIBVIRT_INTERFACE) }
    }

    /// Gives a domain a claim.
    ///
    /// # Errors
    /// Refused, or no answer.
    pub async fn attach(
        &self,
        domain: &str,
        profile: &ProfileName,
        options: &AttachOptions,
    ) -> Result<Attached, CallError> {
        let options = wire::to_dict(options)?;
        let body = (domain, profile.as_str(), options);
        let done: Dict = self.link.call_within(change(), "Attach", &body).await?;
        Ok(wire::from_dict(&done)?)
    }

    /// Takes a claim from a domain; without a name its only one.
    ///
    /// # Errors
    /// Refused, or no answer.
    pub async fn detach(
        &self,
        domain: &str,
        claim: Option<&ClaimName>,
        options: &DetachOptions,
    ) -> Result<Detached, CallError> {
        let name = claim.map_or("", ClaimName::as_str);
        let options = wire::to_dict(options)?;
        let body = (domain, name, options);
        let done: Dict = self.link.call_within(change(), "Detach", &body).await?;
        Ok(wire::from_dict(&done)?)
    }

    /// Which domain is meant.
    ///
    /// # Errors
    /// Refused, or no answer.
    pub async fn resolve(&self, domain: &str) -> Result<DomainInfo, CallError> {
        let (uuid, name, running): (String, String, bool) =
            self.link.call_within(LOOK, "Resolve", &(domain,)).await?;
        let uuid = uuid.parse().map_err(|_| CallError::Protocol {
            what: format!("the agent named a domain by {uuid:?}, which is not a UUID"),
        })?;
        Ok(DomainInfo { uuid, name, running })
    }
}
