//! In front of each interface: nothing of a call is read before it has a place among those that are under way. Its
//! arguments are many times as long once they are read, and zbus begins every call that comes.

use super::{Admits, Caller};
use crate::refused::Refused;
use std::collections::HashMap;
use std::fmt::Write;
use zbus::export::async_trait::async_trait;
use zbus::message::{Header, Message};
use zbus::names::{InterfaceName, MemberName};
use zbus::object_server::{DispatchResult2 as Dispatched, Interface, ObjectServer, SignalEmitter};
use zbus::zvariant::{OwnedValue, Value};
use zbus::{Connection, fdo};

/// An interface whose calls a handler lets in. None of its methods changes it: one that did would not be found.
pub(crate) trait Gated: Send + Sync + 'static {
    type Handler: Admits;
    type Interface: Interface;

    fn handler(&self) -> &Self::Handler;

    fn interface(&self) -> &Self::Interface;
}

/// The gate.
#[derive(Debug)]
pub(crate) struct Gate<I>(pub I);

#[async_trait]
impl<I: Gated> Interface for Gate<I> {
    fn name() -> InterfaceName<'static> {
        I::Interface::name()
    }

    async fn get(
        &self,
        property: &str,
        server: &ObjectServer,
        connection: &Connection,
        header: Option<&Header<'_>>,
        emitter: &SignalEmitter<'_>,
    ) -> Option<fdo::Result<OwnedValue>> {
        self.0.interface().get(property, server, connection, header, emitter).await
    }

    async fn get_all(
        &self,
        server: &ObjectServer,
        connection: &Connection,
        header: Option<&Header<'_>>,
        emitter: &SignalEmitter<'_>,
    ) -> fdo::Result<HashMap<String, OwnedValue>> {
        self.0.interface().get_all(server, connection, header, emitter).await
    }

    fn set<'call>(
        &'call self,
        property: &'call str,
        value: &'call Value<'_>,
        server: &'call ObjectServer,
        connection: &'call Connection,
        header: Option<&'call Header<'_>>,
        emitter: &'call SignalEmitter<'_>,
    ) -> Dispatched<'call> {
        self.0.interface().set(property, value, server, connection, header, emitter)
    }

    async fn set_mut(
        &mut self,
        _property: &str,
        _value: &Value<'_>,
        _server: &ObjectServer,
        _connection: &Connection,
        _header: Option<&Header<'_>>,
        _emitter: &SignalEmitter<'_>,
    ) -> Option<fdo::Result<()>> {
        None
    }

    fn call<'call>(
        &'call self,
        server: &'call ObjectServer,
        connection: &'call Connection,
        message: &'call Message,
        method: MemberName<'call>,
    ) -> Dispatched<'call> {
        // Read and answered when it is awaited.
        let answer = match self.0.interface().call(server, connection, message, method.clone()) {
            Dispatched::Async(answer) => answer,
            other => return other,
        };
        Dispatched::Async(Box::pin(async move {
            let caller = Caller::of(&message.header(), connection);
            let length = message.body().len();
            let handler = self.0.handler();
            match handler.admit(&caller, method.as_str(), length).await {
                // Until its answer has left.
                Ok(_place) => {
                    let sent = answer.await;
                    handler.answered(method.as_str());
                    sent
                }
                Err(refusal) => refuse(connection, message, refusal.into()).await,
            }
        }))
    }

    fn call_mut<'call>(
        &'call mut self,
        _server: &'call ObjectServer,
        _connection: &'call Connection,
        _message: &'call Message,
        _method: MemberName<'call>,
    ) -> Dispatched<'call> {
        Dispatched::NotFound
    }

    fn introspect_to_writer(&self, writer: &mut dyn Write, level: usize) {
        self.0.interface().introspect_to_writer(writer, level);
    }
}

async fn refuse(connection: &Connection, message: &Message, refused: Refused) -> fdo::Result<()> {
    match Dispatched::new_async(connection, message, async { Err::<(), Refused>(refused) }) {
        Dispatched::Async(refusal) => refusal.await,
        Dispatched::NotFound | Dispatched::RequiresMut => Ok(()),
    }
}
