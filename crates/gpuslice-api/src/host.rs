//! The daemon's side of `org.gpuslice1.Host`: turns method calls into commands and answers into `a{sv}`. It decides
//! nothing; who may do what is the [`Handler`]'s to ask.
//! The same rows are objects too, one for each parent and claim: [`Objects`].

mod description;
mod filter;
mod interface;
mod objects;

pub use objects::Objects;

use crate::callers::{Admits, Caller, Gate, Gated};
use crate::names::{BUS_NAME, HOST_PATH};
use crate::refused::Refused;
use crate::wire::{self, Dict};
use gpuslice_core::request::{Answer, ChangeNote, Command, Outcome};
use std::future::Future;
use zbus::Connection;
use zbus::message::Header;

/// What answers commands.
pub trait Handler: Admits {
    /// Serves one command. A method call may be waiting for it for long (`WaitSettled`); others are served meanwhile.
    fn call(&self, caller: Caller, command: Command) -> impl Future<Output = Outcome> + Send;
}

/// `org.gpuslice1.Host` in front of a handler.
#[derive(Debug)]
pub struct HostInterface<H> {
    handler: H,
    version: String,
}

impl<H: Handler> HostInterface<H> {
    /// The interface; `version` is the daemon's.
    pub fn new(handler: H, version: impl Into<String>) -> Self {
        Self { handler, version: version.into() }
    }

    async fn answer(
        &self,
        header: &Header<'_>,
        connection: &Connection,
        command: Command,
    ) -> Result<Answer, Refused> {
        let caller = Caller::of(header, connection);
        Ok(self.handler.call(caller, command).await?)
    }

    async fn dict(
        &self,
        header: &Header<'_>,
        connection: &Connection,
        command: Command,
    ) -> Result<Dict, Refused> {
        Ok(wire::to_dict(&self.answer(header, connection, command).await?)?)
    }

    async fn rows(
        &self,
        header: &Header<'_>,
        connection: &Connection,
        command: Command,
        filter: Dict,
    ) -> Result<Vec<Dict>, Refused> {
        let answer = self.answer(header, connection, command).await?;
        filter::rows(&answer, &filter)
    }
}

impl<H: Handler> Gated for HostInterface<H> {
    type Handler = H;
    type Interface = Self;

    fn handler(&self) -> &H {
        &self.handler
    }

    fn interface(&self) -> &Self {
        self
    }
}

/// Puts the interface on a connection and takes the bus name. Call again on a new connection after the bus was lost.
///
/// # Errors
/// The name is another's, or the bus is gone.
pub async fn serve<H: Handler>(
    connection: &Connection,
    interface: HostInterface<H>,
) -> zbus::Result<()> {
    // First the object, then the name: who sees the name finds the object.
    description::put(connection.object_server(), Gate(interface)).await?;
    connection.request_name(BUS_NAME).await
}

/// Tells everyone who listens that something changed.
///
/// # Errors
/// The bus is gone.
pub async fn announce(connection: &Connection, note: &ChangeNote) -> zbus::Result<()> {
    connection
        .emit_signal(
            None::<()>,
            HOST_PATH,
            crate::names::HOST_INTERFACE,
            crate::names::CHANGED_SIGNAL,
            &(&note.kind, &note.id, &note.what),
        )
        .await
}
