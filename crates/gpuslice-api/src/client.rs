//! Calls the daemon, by the bus or, where there is none, by its socket.

mod bus;
mod changes;
mod error;
mod list;
mod socket;
mod transport;

pub(crate) use bus::BusLink;
pub use changes::{Changes, Event};
pub use error::CallError;
pub use list::{List, Listing};
pub use transport::Transport;

use crate::libvirt::LibvirtClient;
use crate::names::{BUS_NAME, HOST_INTERFACE, HOST_PATH};
use gpuslice_core::request::{Answer, Command};
use socket::SocketLink;
use std::time::Duration;
use tokio::sync::Mutex;
use zbus::Connection;

/// A way to the daemon.
#[derive(Debug)]
pub struct Client {
    link: Link,
}

#[derive(Debug)]
enum Link {
    Bus(BusLink),
    Socket(Mutex<SocketLink>),
}

impl Client {
    /// Finds the daemon. The bus is asked first; the socket comes next where [`Transport`] allows it.
    ///
    /// # Errors
    /// [`CallError::Unreachable`] with everything that was tried.
    pub async fn connect(transport: &Transport) -> Result<Self, CallError> {
        let mut tried = Vec::new();
        if let Some(bus) = transport.bus() {
            match bus::connect(bus).await {
                Ok(connection) => return Ok(Self::over(connection)),
                Err(error) if transport.socket().is_none() => return Err(error),
                Err(CallError::Unreachable { tried: reasons, .. }) => tried.extend(reasons),
                Err(error) => return Err(error),
            }
        }
        if let Some(path) = transport.socket() {
            match SocketLink::connect(path).await {
                Ok(link) => {
                    return Ok(Self { link: Link::Socket(Mutex::new(link)) });
                }
                Err(CallError::Unreachable { tried: reasons, .. }) => tried.extend(reasons),
                Err(error) => return Err(error),
            }
        }
        Err(CallError::Unreachable { who: error::DAEMON, tried })
    }

    /// Finds the daemon for a question that only reads. Where the socket is allowed it is asked first: thousands of
    /// rows are several times faster there than as `a{sv}` over the bus.
    ///
    /// # Errors
    /// As [`Self::connect`].
    pub async fn connect_to_read(transport: &Transport) -> Result<Self, CallError> {
        if let Some(path) = transport.socket()
            && let Ok(link) = SocketLink::connect(path).await
        {
            return Ok(Self { link: Link::Socket(Mutex::new(link)) });
        }
        Self::connect(transport).await
    }

    /// Over a bus connection that is already there.
    pub fn over(connection: Connection) -> Self {
        Self { link: Link::Bus(BusLink::new(connection, BUS_NAME, HOST_PATH, HOST_INTERFACE)) }
    }

    /// Asks, and waits for the answer as long as the command may take.
    ///
    /// # Errors
    /// The daemon refuses, does not answer, or answers what this side does not know.
    pub async fn call(&self, command: Command) -> Result<Answer, CallError> {
        in_time(patience(&command), async {
            match &self.link {
                Link::Bus(link) => link.command(command).await,
                Link::Socket(link) => link.lock().await.command(command).await,
            }
        })
        .await
    }

    /// Asks for a list.
    ///
    /// # Errors
    /// As [`Self::call`].
    pub async fn list(&self, what: Listing) -> Result<List, CallError> {
        in_time(patience(&what.command()), async {
            match &self.link {
                Link::Bus(link) => List::of_answer(&what, &link.command(what.command()).await?),
                Link::Socket(link) => link.lock().await.list(&what).await,
            }
        })
        .await
    }

    /// What changes from now on.
    ///
    /// # Errors
    /// There is no bus: the socket only answers.
    pub async fn changes(&self) -> Result<Changes, CallError> {
        match &self.link {
            Link::Bus(link) => Changes::listen(link.connection()).await,
            Link::Socket(_) => Err(error::needs_bus("changes are told")),
        }
    }

    /// The libvirt agent on the same bus.
    ///
    /// # Errors
    /// There is no bus.
    pub fn libvirt(&self) -> Result<LibvirtClient, CallError> {
        match &self.link {
            Link::Bus(link) => Ok(LibvirtClient::new(link.connection().clone())),
            Link::Socket(_) => Err(error::needs_bus("the libvirt agent is reached")),
        }
    }
}

/// Waits for an answer as long as the question may take.
async fn in_time<T>(
    patience: Option<Duration>,
    call: impl Future<Output = Result<T, CallError>>,
) -> Result<T, CallError> {
    let Some(patience) = patience else {
        return call.await;
    };
    tokio::time::timeout(patience, call).await.unwrap_or_else(|_| {
        Err(CallError::Unreachable {
            who: error::DAEMON,
            tried: vec![format!("no answer within {} s", patience.as_secs())],
        })
    })
}

/// How long a daemon in good health may take; `None` where the daemon itself keeps the deadlines of the device
/// writes.
fn patience(command: &Command) -> Option<Duration> {
    let seconds = |s| Some(Duration::from_secs(s));
    match command {
        Command::Apply => None,
        Command::WaitSettled { timeout_ms } => {
            Some(Duration::from_millis(*timeout_ms).saturating_add(Duration::from_secs(10)))
        }
        // polkit may ask first.
        Command::Drain { wait_ms, .. } => {
            let wait = Duration::from_millis(wait_ms.unwrap_or_default());
            Some(wait.saturating_add(Duration::from_secs(120)))
        }
        // polkit may be asking a person.
        Command::Claim { .. }
        | Command::Unclaim { .. }
        | Command::Plug { .. }
        | Command::PlugFailed { .. }
        | Command::Cordon { .. }
        | Command::Replace { .. }
        | Command::Uncordon { .. } => seconds(120),
        Command::DomainSeen { .. }
        | Command::DomainRuns { .. }
        | Command::DomainGone { .. }
        | Command::AgentWork => seconds(60),
        Command::Status
        | Command::ListParents
        | Command::ListProfiles
        | Command::ListTypes
        | Command::ListSlices
        | Command::ListClaims
        | Command::ListHistory { .. }
        | Command::Plan => seconds(25),
    }
}
