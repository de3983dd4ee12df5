//! The bus side of the client: which method each command is.

use super::error::{AGENT, CallError, DAEMON, from_bus};
use super::transport::Bus;
use crate::names::{BUS_NAME, LIBVIRT_BUS_NAME};
use crate::wire::{self, Dict};
use gpuslice_core::request::{Answer, Command};
use serde::Serialize;
use serde_json::{Value as Json, json};
use std::future::Future;
use std::time::Duration;
use zbus::proxy::MethodFlags;
use zbus::zvariant::DynamicType;
use zbus::{Connection, fdo};

/// A bus in good health lets a client in at once.
pub(super) const LET_IN: Duration = Duration::from_secs(10);

/// The daemon is ready within seconds after the bus has it started; on a host that boots it may wait for others.
const STARTED: Duration = Duration::from_secs(40);

/// One interface of one peer on a bus.
#[derive(Debug, Clone)]
pub(crate) struct BusLink {
    connection: Connection,
    name: &'static str,
    path: &'static str,
    interface: &'static str,
}

fn way_and_builder(bus: &Bus) -> (&str, zbus::Result<zbus::connection::Builder<'_>>) {
    use zbus::connection::Builder;
    match bus {
        Bus::System => ("system bus", Builder::system()),
        Bus::Address(address) => (address.as_str(), Builder::address(address.as_str())),
    }
}

/// Connects, if the daemon is there.
pub(super) async fn running(bus: &Bus) -> Option<Connection> {
    let connection = way_and_builder(bus).1.ok()?.build().await.ok()?;
    let proxy = fdo::DBusProxy::new(&connection).await.ok()?;
    let name = zbus::names::WellKnownName::from_static_str(BUS_NAME).ok()?;
    proxy.name_has_owner(name.into()).await.ok()?.then_some(connection)
}

/// Connects and makes sure that the daemon is there, started by the bus if need be.
pub(super) async fn connect(bus: &Bus) -> Result<Connection, CallError> {
    let (way, builder) = way_and_builder(bus);
    let failed = |error: zbus::Error| from_bus(DAEMON, way, &error);
    let connection = within(way, LET_IN, builder.map_err(failed)?.build()).await?;
    let present = async {
        let name = zbus::names::WellKnownName::from_static_str(BUS_NAME)?;
        let proxy = fdo::DBusProxy::new(&connection).await?;
        // First asked, then started: a bus that cannot start it does not look whether it runs.
        if !proxy.name_has_owner(name.clone().into()).await? {
            proxy.start_service_by_name(name, 0).await?;
        }
        Ok(())
    };
    within(way, STARTED, present).await.map(|()| connection)
}

/// What a bus says about the daemon, if it says something in time.
pub(super) async fn within<T>(
    way: &str,
    patience: Duration,
    work: impl Future<Output = zbus::Result<T>>,
) -> Result<T, CallError> {
    match tokio::time::timeout(patience, work).await {
        Ok(done) => done.map_err(|error| from_bus(DAEMON, way, &error)),
        Err(_) => Err(silent(DAEMON, way, patience)),
    }
}

/// Nobody answered in time.
fn silent(who: &'static str, way: &str, patience: Duration) -> CallError {
    CallError::Unreachable {
        who,
        masked: false,
        tried: vec![format!("{way}: no answer within {} s", patience.as_secs())],
    }
}

impl BusLink {
    pub(crate) fn new(
        connection: Connection,
        name: &'static str,
        path: &'static str,
        interface: &'static str,
    ) -> Self {
        Self { connection, name, path, interface }
    }

    pub(crate) fn connection(&self) -> &Connection {
        &self.connection
    }

    fn who(&self) -> &'static str {
        if self.name == LIBVIRT_BUS_NAME { AGENT } else { DAEMON }
    }

    /// Calls a method; polkit may ask the person in front.
    pub(crate) async fn call<B, R>(&self, method: &'static str, body: &B) -> Result<R, CallError>
    where
        B: Serialize + DynamicType,
        R: for<'d> zbus::zvariant::DynamicDeserialize<'d>,
    {
        let flags = MethodFlags::AllowInteractiveAuth.into();
        let called = async {
            // Properties are not read through it: no cache, which would cost a match rule and a round trip.
            let proxy: zbus::Proxy<'_> = zbus::proxy::Builder::new(&self.connection)
                .destination(self.name)?
                .path(self.path)?
                .interface(self.interface)?
                .cache_properties(zbus::proxy::CacheProperties::No)
                .build()
                .await?;
            proxy.call_with_flags(method, flags, body).await
        };
        let reply =
            called.await.map_err(|error: zbus::Error| from_bus(self.who(), "bus", &error))?;
        reply.ok_or_else(|| CallError::Protocol { what: format!("no reply to {method}") })
    }

    /// Like [`Self::call`], for a peer that may hang.
    pub(crate) async fn call_within<B, R>(
        &self,
        patience: Duration,
        method: &'static str,
        body: &B,
    ) -> Result<R, CallError>
    where
        B: Serialize + DynamicType,
        R: for<'d> zbus::zvariant::DynamicDeserialize<'d>,
    {
        tokio::time::timeout(patience, self.call(method, body))
            .await
            .unwrap_or_else(|_| Err(silent(self.who(), "bus", patience)))
    }

    pub(super) async fn command(&self, command: Command) -> Result<Answer, CallError> {
        let none = Dict::new();
        match command {
            Command::Status => self.dict("Status", &()).await,
            Command::ListParents => self.rows("ListParents", "parents", none).await,
            Command::ListProfiles => self.rows("ListProfiles", "profiles", none).await,
            Command::ListTypes => self.rows("ListTypes", "types", none).await,
            Command::ListSlices => self.rows("ListSlices", "slices", none).await,
            Command::ListClaims => self.rows("ListClaims", "claims", none).await,
            Command::ListHistory { about, since } => {
                let options = json!({ "about": about, "since": since });
                let body = (wire::to_dict(&options)?, none);
                let reply: Vec<Dict> = self.call("ListHistory", &body).await?;
                rows_of("history", &reply)
            }
            Command::Claim { owner, owner_name, request, pool, reserve, dry_run } => {
                let request = wire::to_dict(&request)?;
                let options = json!({ "pool": pool, "reserve": reserve, "dry_run": dry_run });
                let options = wire::to_dict(&options)?;
                let body = (owner.to_string(), owner_name, request, options);
                self.dict("Claim", &body).await
            }
            Command::Unclaim { key, force } => {
                let options = wire::to_dict(&json!({ "force": force }))?;
                self.dict("Unclaim", &(key.to_string(), options)).await
            }
            Command::Plug { domain, domain_name, request, pool, reserve, keep } => {
                let request = wire::to_dict(&request)?;
                let options = json!({ "pool": pool, "reserve": reserve, "keep": keep });
                let options = wire::to_dict(&options)?;
                self.dict("Plug", &(domain.to_string(), domain_name, request, options)).await
            }
            Command::PlugFailed { key } => self.dict("PlugFailed", &(key.to_string(),)).await,
            Command::Plan => self.dict("Plan", &()).await,
            Command::Apply => self.dict("Apply", &()).await,
            Command::Cordon { parent, reason } => {
                self.dict("Cordon", &(parent.to_string(), reason)).await
            }
            Command::Drain { parents, reason, wait_ms } => {
                let parents: Vec<String> = parents.iter().map(ToString::to_string).collect();
                let options = json!({ "reason": reason, "wait_ms": wait_ms });
                self.dict("Drain", &(parents, wire::to_dict(&options)?)).await
            }
            Command::Replace { old, new } => {
                self.dict("Replace", &(old.to_string(), new.to_string())).await
            }
            Command::Uncordon { parent } => self.dict("Uncordon", &(parent.to_string(),)).await,
            Command::WaitSettled { timeout_ms } => self.dict("WaitSettled", &(timeout_ms,)).await,
            Command::DomainSeen { domain, shut_off } => {
                let domain = wire::to_dict(&domain)?;
                self.dict("DomainSeen", &(domain, shut_off)).await
            }
            Command::DomainRuns { domain } => {
                self.dict("DomainRuns", &(wire::to_dict(&domain)?,)).await
            }
            Command::DomainGone { uuid } => self.dict("DomainGone", &(uuid.to_string(),)).await,
            Command::AgentWork => self.dict("AgentWork", &()).await,
        }
    }

    async fn dict<B>(&self, method: &'static str, body: &B) -> Result<Answer, CallError>
    where
        B: Serialize + DynamicType,
    {
        let reply: Dict = self.call(method, body).await?;
        Ok(wire::from_dict(&reply)?)
    }

    async fn rows(
        &self,
        method: &'static str,
        answer: &'static str,
        filter: Dict,
    ) -> Result<Answer, CallError> {
        let reply: Vec<Dict> = self.call(method, &(filter,)).await?;
        rows_of(answer, &reply)
    }
}

fn rows_of(answer: &'static str, reply: &[Dict]) -> Result<Answer, CallError> {
    let rows = reply.iter().map(wire::dict_to_json).collect::<Result<Vec<Json>, _>>()?;
    Ok(wire::from_json(json!({ "answer": answer, "rows": rows }))?)
}
