//! Who sent a method call, as far as an authorisation needs it.

use futures_core::Stream;
use std::future::poll_fn;
use std::pin::pin;
use zbus::message::{Flags, Header};
use zbus::names::OwnedUniqueName;
use zbus::{Connection, MatchRule, MessageStream, fdo};

/// The sender of one method call.
#[derive(Debug, Clone)]
pub struct Caller {
    /// Its unique name on the bus, polkit's `system-bus-name`; `None` on a connection without a bus.
    pub bus_name: Option<OwnedUniqueName>,
    /// Whether polkit may ask the person in front of it.
    pub interactive: bool,
    connection: Connection,
}

impl Caller {
    pub(crate) fn of(header: &Header<'_>, connection: &Connection) -> Self {
        Self {
            bus_name: header.sender().map(|name| name.to_owned().into()),
            interactive: header.primary().flags().contains(Flags::AllowInteractiveAuth),
            connection: connection.clone(),
        }
    }

    /// Nobody but the daemon itself, which reads.
    pub(crate) fn own(connection: &Connection) -> Self {
        Self { bus_name: None, interactive: false, connection: connection.clone() }
    }

    /// The connection the call came by.
    pub fn connection(&self) -> &Connection {
        &self.connection
    }

    /// The user it runs as, asked from the bus (one round trip) or, without a bus, from the kernel. `None` when
    /// neither knows, as for a caller that has left.
    pub async fn uid(&self) -> Option<u32> {
        let Some(name) = &self.bus_name else {
            return self.connection.peer_creds().await.ok()?.unix_user_id();
        };
        let bus = fdo::DBusProxy::new(&self.connection).await.ok()?;
        let name = name.inner().to_owned().into();
        bus.get_connection_unix_user(name).await.ok()
    }

    /// Returns when it has left the bus, or the bus itself has ended.
    ///
    /// # Errors
    /// The bus does not tell.
    pub async fn left(&self) -> zbus::Result<()> {
        let Some(name) = &self.bus_name else {
            self.connection.closed().await;
            return Ok(());
        };
        let rule = MatchRule::builder()
            .sender("org.freedesktop.DBus")?
            .interface("org.freedesktop.DBus")?
            .member("NameOwnerChanged")?
            .arg(0, name.as_str())?
            .build();
        let leaves = MessageStream::for_match_rule(rule, &self.connection, Some(1)).await?;
        let bus = fdo::DBusProxy::new(&self.connection).await?;
        if bus.name_has_owner(name.inner().to_owned().into()).await? {
            // Such a name has one owner in its life.
            let mut leaves = pin!(leaves);
            poll_fn(|cx| leaves.as_mut().poll_next(cx)).await.transpose()?;
        }
        Ok(())
    }
}
