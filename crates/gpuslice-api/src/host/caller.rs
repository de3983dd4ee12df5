//! Who sent a method call, as far as an authorisation needs it.

use zbus::message::{Flags, Header};
use zbus::names::OwnedUniqueName;
use zbus::{Connection, fdo};

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
}
