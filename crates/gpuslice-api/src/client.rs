//! Calls the daemon, by the bus or, where there is none, by its socket.

mod blocking;
mod bus;
mod changes;
mod error;
mod list;
mod socket;
mod transport;

pub(crate) use bus::BusLink;
pub use changes::{Changes, Event};
pub use error::{CallError, start};
pub use list::{List, Listing};
pub use transport::Transport;

use crate::libvirt::LibvirtClient;
use crate::names::{BUS_NAME, HOST_INTERFACE, HOST_PATH};
use gpuslice_core::request::{Answer, Command};
use socket::SocketLink;
use std::time::{Duration, Instant};
use tokio::net::UnixStream;
use tokio::sync::{Mutex, MutexGuard};
use zbus::Connection;

/// A way to the daemon.
#[derive(Debug)]
pub struct Client {
    link: Link,
    /// Nothing is waited for beyond this.
    until: Option<Instant>,
}

#[derive(Debug)]
enum Link {
    Bus(BusLink),
    Socket(Mutex<SocketLink<UnixStream>>),
    /// It waits in the kernel and needs no runtime.
    Blocking(Mutex<SocketLink<blocking::Stream>>),
}

impl Client {
    /// Finds the daemon. The bus is asked first; the socket comes next where [`Transport`] allows it.
    ///
    /// # Errors
    /// [`CallError::Unreachable`] with everything that was tried.
    pub async fn connect(transport: &Transport) -> Result<Self, CallError> {
        let (mut tried, mut is_masked) = (Vec::new(), false);
        if let Some(bus) = transport.bus() {
            match bus::connect(bus).await {
                Ok(connection) => return Ok(Self::over(connection)),
                Err(error) if transport.socket().is_none() => return Err(error),
                Err(CallError::Unreachable { masked, tried: reasons, .. }) => {
                    is_masked = masked;
                    tried.extend(reasons);
                }
                Err(error) => return Err(error),
            }
        }
        if let Some(path) = transport.socket() {
            match SocketLink::connect(path).await {
                Ok(link) => {
                    return Ok(Self::of(Link::Socket(Mutex::new(link))));
                }
                Err(CallError::Unreachable { tried: reasons, .. }) => tried.extend(reasons),
                Err(error) => return Err(error),
            }
        }
        Err(CallError::Unreachable { who: error::DAEMON, masked: is_masked, tried })
    }

    /// A way to a daemon that runs. Where there is none, none is started: neither by the bus, nor by the socket that systemd
    /// listens at. A socket that the environment names is somebody's own.
    pub async fn running(transport: &Transport) -> Option<Self> {
        match transport.bus() {
            Some(bus) => bus::running(bus).await.map(Self::over),
            None => Self::to_read(transport),
        }
    }

    /// A way for questions that only read, where the socket is allowed and somebody listens. Thousands of rows are
    /// several times faster there than as `a{sv}` over the bus. Its calls block until they are answered, so they
    /// never wait for an executor and need none.
    pub fn to_read(transport: &Transport) -> Option<Self> {
        let link = SocketLink::connect_blocking(transport.socket()?).ok()?;
        Some(Self::of(Link::Blocking(Mutex::new(link))))
    }

    /// Over a bus connection that is already there.
    pub fn over(connection: Connection) -> Self {
        Self::of(Link::Bus(BusLink::new(connection, BUS_NAME, HOST_PATH, HOST_INTERFACE)))
    }

    fn of(link: Link) -> Self {
        Self { link, until: None }
    }

    /// Gives up on every answer at that time, also where a daemon in good health may take longer.
    #[must_use]
    pub fn until(self, deadline: Instant) -> Self {
        Self { until: Some(deadline), ..self }
    }

    /// How long to wait for an answer from now on.
    fn patience(&self, command: &Command) -> Option<Duration> {
        let left = self.until.map(|until| until.saturating_duration_since(Instant::now()));
        [patience(command), left].into_iter().flatten().min()
    }

    /// Asks, and waits for the answer as long as the command may take.
    ///
    /// # Errors
    /// The daemon refuses, does not answer, or answers what this side does not know.
    pub async fn call(&self, command: Command) -> Result<Answer, CallError> {
        let patience = self.patience(&command);
        match &self.link {
            // Boxed, as it is large and would be part of every caller's state.
            Link::Bus(link) => in_time(patience, Box::pin(link.command(command))).await,
            Link::Socket(link) => {
                let call = async { link.lock().await.command(command).await };
                in_time(patience, Box::pin(call)).await
            }
            Link::Blocking(link) => {
                let mut link = alone(link).await;
                link.patience(patience);
                link.command(command).await
            }
        }
    }

    /// Asks for a list.
    ///
    /// # Errors
    /// As [`Self::call`].
    pub async fn list(&self, what: Listing) -> Result<List, CallError> {
        let patience = self.patience(&what.command());
        match &self.link {
            Link::Bus(link) => {
                let answer = in_time(patience, Box::pin(link.command(what.command()))).await?;
                List::of_answer(&what, &answer)
            }
            Link::Socket(link) => {
                let call = async { link.lock().await.list(&what).await };
                in_time(patience, Box::pin(call)).await
            }
            Link::Blocking(link) => {
                let mut link = alone(link).await;
                link.patience(patience);
                link.list(&what).await
            }
        }
    }

    /// What changes from now on.
    ///
    /// # Errors
    /// There is no bus: the socket only answers.
    pub async fn changes(&self) -> Result<Changes, CallError> {
        match &self.link {
            Link::Bus(link) => Changes::listen(link.connection()).await,
            Link::Socket(_) | Link::Blocking(_) => Err(error::needs_bus("changes are told")),
        }
    }

    /// The libvirt agent on the same bus.
    ///
    /// # Errors
    /// There is no bus.
    pub fn libvirt(&self) -> Result<LibvirtClient, CallError> {
        match &self.link {
            Link::Bus(link) => Ok(LibvirtClient::new(link.connection().clone())),
            Link::Socket(_) | Link::Blocking(_) => {
                Err(error::needs_bus("the libvirt agent is reached"))
            }
        }
    }
}

/// The way for oneself. Mostly nobody else has it, and then nothing of a runtime is touched: its pages would cost as much as
/// a tenth of the answer.
async fn alone<T>(link: &Mutex<T>) -> MutexGuard<'_, T> {
    match link.try_lock() {
        Ok(link) => link,
        Err(_) => link.lock().await,
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
            masked: false,
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
