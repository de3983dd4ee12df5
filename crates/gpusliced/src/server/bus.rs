//! The bus name: taken when there is a bus, taken again when the bus comes back, and never a reason not to serve
//! hooks.

use crate::engine::Handle;
use gpuslice_api::callers::{Admits, Caller, Calls, Place, Places, is_agent, require};
use gpuslice_api::host::{self, HostInterface, Objects};
use gpuslice_api::names::{BUS_NAME, required_action};
use gpuslice_core::refusal::Refusal;
use gpuslice_core::request::{ChangeNote, Command, Outcome};
use std::future::Future;
use std::time::Duration;
use tokio::sync::broadcast::error::{RecvError, TryRecvError};
use tokio::sync::{broadcast, oneshot};
use zbus::{Connection, connection};

const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

#[derive(Debug, Clone)]
struct Asks {
    handle: Handle,
    places: Places,
}

/// Room for these questions is taken when they are asked, which is seldom.
struct Asker<'c>(&'c Caller);

impl Calls for Asker<'_> {
    fn user(&self) -> impl Future<Output = Option<u32>> + Send {
        Box::pin(self.0.uid())
    }

    fn is_agent(&self) -> impl Future<Output = bool> + Send {
        Box::pin(is_agent(self.0))
    }
}

impl Admits for Asks {
    async fn admit(
        &self,
        caller: &Caller,
        method: &str,
        length: usize,
    ) -> Result<Option<Place>, Refusal> {
        self.places.take(caller.bus_name.clone(), method, length, &Asker(caller)).await.map(Some)
    }

    fn answered(&self, method: &str) {
        if Places::answers_at_length(method) {
            self.handle.answered_at_length();
        }
    }
}

impl host::Handler for Asks {
    async fn call(&self, caller: Caller, command: Command) -> Outcome {
        if let Some(action) = required_action(&command) {
            require(&caller, action).await?;
        }
        if command.may_wait() {
            return self.handle.command_until(command, Box::pin(left(&caller))).await;
        }
        self.handle.command(command).await
    }
}

/// Returns when the caller has left the bus, if that can be told.
async fn left(caller: &Caller) {
    if caller.left().await.is_err() {
        std::future::pending().await
    }
}

/// Starts the task that keeps the name. The future is done when the name is ours for the first time.
pub fn keep(
    address: Option<String>,
    handle: Handle,
    changes: broadcast::Receiver<ChangeNote>,
) -> impl Future<Output = ()> {
    let (named, once) = oneshot::channel();
    tokio::spawn(run(address, handle, changes, named));
    async move {
        // The sender only goes away with the task.
        let _ = once.await;
    }
}

async fn run(
    address: Option<String>,
    handle: Handle,
    mut changes: broadcast::Receiver<ChangeNote>,
    named: oneshot::Sender<()>,
) {
    let mut named = Some(named);
    let mut pause = FIRST_PAUSE;
    let mut told = false;
    loop {
        match connect(address.as_deref(), &handle).await {
            Ok((connection, mut objects)) => {
                tracing::info!("answering on the bus as {BUS_NAME}");
                (pause, told) = (FIRST_PAUSE, false);
                if let Some(named) = named.take() {
                    // Whoever waited may have stopped.
                    let _ = named.send(());
                }
                announce(&connection, &mut objects, &mut changes).await;
                tracing::warn!("the bus is gone; the hook socket is not");
            }
            Err(error) if !told => {
                tracing::warn!("no bus yet, trying again: {error}");
                told = true;
            }
            Err(_) => {}
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

async fn connect(
    address: Option<&str>,
    handle: &Handle,
) -> zbus::Result<(Connection, Objects<Asks>)> {
    let builder = match address {
        Some(address) => connection::Builder::address(address)?,
        None => connection::Builder::system()?,
    };
    let connection = builder.build().await?;
    let asks = Asks { handle: handle.clone(), places: Places::default() };
    // Before the name, so that who sees the name finds the objects.
    let mut objects = Objects::serve(&connection, asks.clone()).await?;
    objects.refresh(&connection).await?;
    host::serve(&connection, HostInterface::new(asks, env!("CARGO_PKG_VERSION"))).await?;
    Ok((connection, objects))
}

/// Sends change notes, and makes objects as the lists are after them, until the connection ends. It takes nothing off the
/// connection meanwhile: what is read there waits for nobody here.
async fn announce(
    connection: &Connection,
    objects: &mut Objects<Asks>,
    changes: &mut broadcast::Receiver<ChangeNote>,
) {
    let announced = async {
        while let Some(notes) = next(changes).await {
            if tell(connection, objects, &notes).await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        () = connection.closed() => {}
        () = announced => {}
    }
}

/// The next note and those that have come with it; none when there will be no more.
async fn next(changes: &mut broadcast::Receiver<ChangeNote>) -> Option<Vec<ChangeNote>> {
    let mut notes = match changes.recv().await {
        Ok(note) => vec![note],
        Err(RecvError::Lagged(_)) => everything().collect(),
        Err(RecvError::Closed) => return None,
    };
    loop {
        match changes.try_recv() {
            Ok(note) => notes.push(note),
            Err(TryRecvError::Lagged(_)) => notes.extend(everything()),
            Err(TryRecvError::Empty | TryRecvError::Closed) => return Some(notes),
        }
    }
}

/// Sends notes; one look at the lists serves them all.
async fn tell(
    connection: &Connection,
    objects: &mut Objects<Asks>,
    notes: &[ChangeNote],
) -> zbus::Result<()> {
    for note in notes {
        host::announce(connection, note).await?;
    }
    objects.refresh(connection).await
}

/// Stand for notes that were lost: each listener heeds some kinds alone, as the agent the one that tells it to ask.
fn everything() -> impl Iterator<Item = ChangeNote> {
    ChangeNote::KINDS.into_iter().map(|kind| {
        let (id, what) = ("*".to_owned(), "much changed at once".to_owned());
        ChangeNote { kind: kind.to_owned(), id, what }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn note(kind: &str, id: &str) -> ChangeNote {
        ChangeNote { kind: kind.to_owned(), id: id.to_owned(), what: "it changed".to_owned() }
    }

    #[tokio::test]
    async fn for_notes_that_were_lost_each_kind_is_told() {
        let (announcer, mut changes) = broadcast::channel(4);
        let [first, second] = ["start", "again"].map(|id| note("agent-work", id));
        for note in [&first, &second] {
            announcer.send(note.clone()).unwrap();
        }
        assert_eq!(next(&mut changes).await, Some(vec![first.clone(), second]));
        announcer.send(first).unwrap();
        let slices: Vec<ChangeNote> = (0..10).map(|n| note("slice", &n.to_string())).collect();
        for slice in &slices {
            announcer.send(slice.clone()).unwrap();
        }
        let told = next(&mut changes).await.unwrap();
        let all = told.iter().filter(|note| note.id == "*").map(|note| note.kind.as_str());
        assert!(all.eq(ChangeNote::KINDS), "{told:?}");
        assert_eq!(told.last(), slices.last());
        drop(announcer);
        assert_eq!(next(&mut changes).await, None);
    }
}
