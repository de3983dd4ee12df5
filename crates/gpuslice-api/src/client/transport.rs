//! Which way to the daemon is tried.

use crate::names::{BUS_ADDRESS_ENV, SOCKET, SOCKET_ENV};
use std::path::{Path, PathBuf};

/// The ways to the daemon, in the order bus, socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transport {
    bus: Option<Bus>,
    socket: Option<PathBuf>,
}

/// A message bus.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Bus {
    /// The system's; `DBUS_SYSTEM_BUS_ADDRESS` moves it.
    System,
    /// One at an address.
    Address(String),
}

impl Transport {
    /// As the environment says. What it names is used and nothing else, so that a private daemon is never
    /// confused with the host's; when it names nothing, the system bus and, for root, the daemon's socket.
    pub fn from_env() -> Self {
        let text = |name| std::env::var(name).ok().filter(|v: &String| !v.is_empty());
        Self::choose(
            text(BUS_ADDRESS_ENV),
            text(SOCKET_ENV).map(PathBuf::from),
            rustix::process::geteuid().is_root(),
        )
    }

    fn choose(bus: Option<String>, socket: Option<PathBuf>, root: bool) -> Self {
        if bus.is_none() && socket.is_none() {
            return Self { bus: Some(Bus::System), socket: root.then(|| PathBuf::from(SOCKET)) };
        }
        Self { bus: bus.map(Bus::Address), socket }
    }

    /// Only the socket at a path.
    pub fn only_socket(path: impl Into<PathBuf>) -> Self {
        Self { bus: None, socket: Some(path.into()) }
    }

    /// Only the bus at an address.
    pub fn only_bus(address: impl Into<String>) -> Self {
        Self { bus: Some(Bus::Address(address.into())), socket: None }
    }

    pub(crate) fn bus(&self) -> Option<&Bus> {
        self.bus.as_ref()
    }

    pub(crate) fn socket(&self) -> Option<&Path> {
        self.socket.as_deref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_named_is_used_and_nothing_else() {
        let bus = || Some("unix:path=/tmp/b".to_owned());
        let socket = || Some(PathBuf::from("/tmp/s"));
        let address = || Some(Bus::Address("unix:path=/tmp/b".to_owned()));
        for (given, root, want) in [
            ((None, None), false, (Some(Bus::System), None)),
            ((None, None), true, (Some(Bus::System), Some(PathBuf::from(SOCKET)))),
            ((bus(), None), true, (address(), None)),
            ((None, socket()), false, (None, socket())),
            ((bus(), socket()), false, (address(), socket())),
        ] {
            let got = Transport::choose(given.0.clone(), given.1.clone(), root);
            assert_eq!((got.bus, got.socket), want, "{given:?} root: {root}");
        }
    }
}
