//! What the daemon tells everyone who listens, and its own coming and going, after which a listener reads anew.

use super::bus::{LET_IN, within};
use super::error::{CallError, DAEMON, from_bus};
use crate::names::{BUS_NAME, CHANGED_SIGNAL, HOST_INTERFACE, HOST_PATH};
use futures_core::Stream;
use gpuslice_core::request::ChangeNote;
use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll};
use zbus::Connection;
use zbus::proxy::{OwnerChangedStream, SignalStream};

/// Something a listener wants to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Rows of a kind are to be read again.
    Changed(ChangeNote),
    /// The daemon has come (back): everything is to be read again.
    DaemonUp,
    /// The daemon has left the bus.
    DaemonGone,
}

/// The daemon's changes, from when it was made.
pub struct Changes {
    signals: SignalStream<'static>,
    owners: OwnerChangedStream<'static>,
}

impl std::fmt::Debug for Changes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Changes").finish_non_exhaustive()
    }
}

impl Changes {
    pub(super) async fn listen(connection: &Connection) -> Result<Self, CallError> {
        let listening = async {
            let proxy: zbus::Proxy<'static> = zbus::proxy::Builder::new(connection)
                .destination(BUS_NAME)?
                .path(HOST_PATH)?
                .interface(HOST_INTERFACE)?
                .cache_properties(zbus::proxy::CacheProperties::No)
                .build()
                .await?;
            Ok(Self {
                signals: proxy.receive_signal(CHANGED_SIGNAL).await?,
                owners: proxy.receive_owner_changed().await?,
            })
        };
        within("bus", LET_IN, listening).await
    }

    /// The next event; `None` when the bus is gone. Nothing is lost when it is dropped before it is ready.
    pub async fn next(&mut self) -> Option<Result<Event, CallError>> {
        poll_fn(|cx| self.poll(cx)).await
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Event, CallError>>> {
        if let Poll::Ready(owner) = Pin::new(&mut self.owners).poll_next(cx) {
            return Poll::Ready(owner.map(|owner| {
                Ok(match owner {
                    Some(_) => Event::DaemonUp,
                    None => Event::DaemonGone,
                })
            }));
        }
        Pin::new(&mut self.signals).poll_next(cx).map(|signal| {
            let (kind, id, what) = match signal?.body().deserialize() {
                Ok(arguments) => arguments,
                Err(error) => return Some(Err(from_bus(DAEMON, "bus", &error))),
            };
            Some(Ok(Event::Changed(ChangeNote { kind, id, what })))
        })
    }
}
