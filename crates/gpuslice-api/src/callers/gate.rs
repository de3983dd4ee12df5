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

/// An interface whose calls a handler lets in.
pub(crate) trait Gated: Interface {
    type Handler: Admits;

    fn handler(&self) -> &Self::Handler;
}

/// The gate.
#[derive(Debug)]
pub(crate) struct Gate<I>(pub I);

#[async_trait]
impl<I: Gated> Interface for Gate<I> {
    fn name() -> InterfaceName<'static> {
        I::name()
    }

    async fn get(
        &self,
        property: &str,
        server: &ObjectServer,
        connection: &Connection,
        header: Option<&Header<'_>>,
        emitter: &SignalEmitter<'_>,
    ) -> Option<fdo::Result<OwnedValue>> {
        self.0.get(property, server, connection, header, emitter).await
    }

    async fn get_all(
        &self,
        server: &ObjectServer,
        connection: &Connection,
        header: Option<&Header<'_>>,
        emitter: &SignalEmitter<'_>,
    ) -> fdo::Result<HashMap<String, OwnedValue>> {
        self.0.get_all(server, connection, header, emitter).await
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
        self.0.set(property, value, server, connection, header, emitter)
    }

    async fn set_mut(
        &mut self,
        property: &str,
        value: &Value<'_>,
        server: &ObjectServer,
        connection: &Connection,
        header: Option<&Header<'_>>,
        emitter: &SignalEmitter<'_>,
    ) -> Option<fdo::Result<()>> {
        self.0.set_mut(property, value, server, connection, header, emitter).await
    }

    fn call<'call>(
        &'call self,
        server: &'call ObjectServer,
        connection: &'call Connection,
        message: &'call Message,
        method: MemberName<'call>,
    ) -> Dispatched<'call> {
        // Read and answered when it is awaited.
        let answer = match self.0.call(server, connection, message, method.clone()) {
            Dispatched::Async(answer) => answer,
            other => return other,
        };
        Dispatched::Async(Box::pin(async move {
            let caller = Caller::of(&message.header(), connection);
            let length = message.body().len();
            match self.0.handler().admit(&caller, method.as_str(), length).await {
                // Until its answer has left.
                Ok(_place) => answer.await,
                Err(refusal) => refuse(connection, message, refusal.into()).await,
            }
        }))
    }

    fn call_mut<'call>(
        &'call mut self,
        server: &'call ObjectServer,
        connection: &'call Connection,
        message: &'call Message,
        method: MemberName<'call>,
    ) -> Dispatched<'call> {
        self.0.call_mut(server, connection, message, method)
    }

    fn introspect_to_writer(&self, writer: &mut dyn Write, level: usize) {
        self.0.introspect_to_writer(writer, level);
    }
}

async fn refuse(connection: &Connection, message: &Message, refused: Refused) -> fdo::Result<()> {
    match Dispatched::new_async(connection, message, async { Err::<(), Refused>(refused) }) {
        Dispatched::Async(refusal) => refusal.await,
        Dispatched::NotFound | Dispatched::RequiresMut => Ok(()),
    }
}
