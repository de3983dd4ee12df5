//! How the rest of the daemon speaks to the engine.

use super::told::Told;
use gpuslice_core::guest::GuestCall;
use gpuslice_core::ids::{PciAddress, SliceId};
use gpuslice_core::machine::{Event, HookAnswer, HookCall, RequestId};
use gpuslice_core::request::{ChangeNote, Command, Outcome};
use gpuslice_sim::Fault;
use serde::Deserialize;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::{broadcast, mpsc, oneshot};

/// Questions that may queue up before askers wait.
const QUEUE: usize = 1024;

/// Change notes a slow listener may lag behind; then it is told to read everything again.
const NOTES: usize = 1024;

/// A message to the engine.
#[derive(Debug)]
pub enum Input {
    /// A hook asks.
    Hook {
        /// Its number.
        request: RequestId,
        /// What.
        call: HookCall,
        /// Where to.
        answer: oneshot::Sender<HookAnswer>,
    },
    /// The hookscript of Proxmox VE asks.
    Guest {
        /// Its number.
        request: RequestId,
        /// What.
        call: GuestCall,
        /// Where to.
        answer: oneshot::Sender<HookAnswer>,
    },
    /// A hook went away.
    HookGone {
        /// Its number.
        request: RequestId,
    },
    /// A command.
    Command {
        /// Its number.
        request: RequestId,
        /// What.
        command: Command,
        /// Where to.
        answer: oneshot::Sender<Told>,
    },
    /// Something that was ordered happened.
    Event(Event),
    /// Look again.
    HostChanged,
    /// The outside world of a simulated host.
    Sim {
        /// What happens.
        order: SimOrder,
        /// Whether it did.
        answer: oneshot::Sender<Result<(), String>>,
    },
}

/// What happens around a simulated host, one JSON object a line.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "do", deny_unknown_fields)]
pub enum SimOrder {
    /// A function is put into its slot.
    Plug {
        /// Which.
        parent: PciAddress,
    },
    /// It is taken out.
    Unplug {
        /// Which.
        parent: PciAddress,
    },
    /// A driver says something in the kernel's log.
    Say {
        /// One line.
        line: String,
    },
    /// A person or another program writes to a file of the kernel.
    Write {
        /// Absolute path.
        file: String,
        /// What.
        data: String,
    },
    /// A person runs `modprobe`.
    Modprobe {
        /// Which module.
        name: String,
        /// With `-r`.
        remove: bool,
    },
    /// Something will go wrong.
    Fault {
        /// What.
        fault: Fault,
    },
    /// Nothing will.
    ClearFaults,
    /// The time that writes under way were given is over.
    Overdue,
    /// Power off and on.
    Reboot,
    /// A process opens a slice's device, as QEMU does.
    Open {
        /// Which.
        slice: SliceId,
        /// Its process id.
        pid: u32,
        /// Its name.
        comm: String,
    },
    /// A process ends.
    Kill {
        /// Its process id.
        pid: u32,
    },
}

/// The engine's end.
pub type Inbox = mpsc::Receiver<Input>;

/// Everybody else's end.
#[derive(Debug, Clone)]
pub struct Handle {
    inbox: mpsc::Sender<Input>,
    changes: broadcast::Sender<ChangeNote>,
    numbers: Arc<AtomicU64>,
}

/// Makes both ends.
pub fn channel() -> (Handle, Inbox) {
    let (inbox, receiver) = mpsc::channel(QUEUE);
    let (changes, _) = broadcast::channel(NOTES);
    (Handle { inbox, changes, numbers: Arc::default() }, receiver)
}

impl Handle {
    fn number(&self) -> RequestId {
        RequestId(self.numbers.fetch_add(1, Ordering::Relaxed))
    }

    /// Passes on a hook's question. The answer comes through the receiver; whoever stops waiting says so with
    /// [`Self::hook_gone`].
    pub async fn hook(&self, call: HookCall) -> (RequestId, oneshot::Receiver<HookAnswer>) {
        let request = self.number();
        let (answer, receiver) = oneshot::channel();
        self.send(Input::Hook { request, call, answer }).await;
        (request, receiver)
    }

    /// As [`Self::hook`], for a guest of Proxmox VE.
    pub async fn guest(&self, call: GuestCall) -> (RequestId, oneshot::Receiver<HookAnswer>) {
        let request = self.number();
        let (answer, receiver) = oneshot::channel();
        self.send(Input::Guest { request, call, answer }).await;
        (request, receiver)
    }

    /// The hook will not hear its answer.
    pub async fn hook_gone(&self, request: RequestId) {
        self.send(Input::HookGone { request }).await;
    }

    /// Asks, and waits for the answer.
    pub async fn command(&self, command: Command) -> Outcome {
        self.ask(command).await.outcome()
    }

    /// As [`Self::command`], for who passes the answer on as JSON.
    pub async fn ask(&self, command: Command) -> Told {
        let request = self.number();
        let (answer, receiver) = oneshot::channel();
        self.send(Input::Command { request, command, answer }).await;
        receiver.await.unwrap_or_else(|_| super::ending().into())
    }

    /// Does something to the simulated host.
    pub async fn sim(&self, order: SimOrder) -> Result<(), String> {
        let (answer, receiver) = oneshot::channel();
        self.send(Input::Sim { order, answer }).await;
        receiver.await.unwrap_or_else(|_| Err("gpusliced is stopping".to_owned()))
    }

    /// Tells what happened.
    pub async fn happened(&self, event: Event) {
        self.send(Input::Event(event)).await;
    }

    /// As [`Self::happened`], from a thread of its own.
    pub fn happened_elsewhere(&self, event: Event) {
        // As in [`Self::send`].
        let _ = self.inbox.blocking_send(Input::Event(event));
    }

    /// The host changed. From any thread; when the queue is full a look is due anyway.
    pub fn host_changed(&self) {
        let _ = self.inbox.try_send(Input::HostChanged);
    }

    async fn send(&self, input: Input) {
        // Fails only when the engine ended, and then the daemon ends.
        let _ = self.inbox.send(input).await;
    }

    /// Notes of changes from now on.
    pub fn changes(&self) -> broadcast::Receiver<ChangeNote> {
        self.changes.subscribe()
    }

    /// The engine's way to send them.
    pub fn announcer(&self) -> broadcast::Sender<ChangeNote> {
        self.changes.clone()
    }
}
