//! How the rest of the daemon speaks to the engine.

use super::told::Told;
use gpuslice_core::guest::GuestCall;
use gpuslice_core::ids::{PciAddress, SliceId};
use gpuslice_core::machine::{Event, HookAnswer, HookCall, RequestId};
use gpuslice_core::refusal::{Code, Refusal};
use gpuslice_core::request::{ChangeNote, Command, Outcome};
use gpuslice_sim::Fault;
use serde::Deserialize;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::{Notify, broadcast, mpsc, oneshot};

/// Questions that may queue up before askers wait, and as many hooks and things that happened.
const QUEUE: usize = 1024;

/// Change notes a slow listener may lag behind; then it is told to read everything again.
const NOTES: usize = 1024;

/// A message to the engine.
#[derive(Debug)]
pub enum Input {
    /// One that others may come before.
    Asked(Asked),
    /// One that waits for nothing that was only asked: a VM is being started or stopped, or a step's time runs.
    First(First),
    /// Look again.
    HostChanged,
    /// An answer left that took much memory.
    AnsweredAtLength,
}

/// Hooks and what happened, in the order in which they came.
#[derive(Debug)]
pub enum First {
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
    /// Something that was ordered happened.
    Event(Event),
}

/// What anybody may ask, as often as he likes.
#[derive(Debug)]
pub enum Asked {
    /// A command.
    Command {
        /// Its number.
        request: RequestId,
        /// What.
        command: Command,
        /// Where to.
        answer: oneshot::Sender<Told>,
    },
    /// Whoever asked has left before the answer.
    Gone {
        /// The number of what was asked.
        request: RequestId,
    },
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
    /// A process opens a node that a driver made beside its devices.
    OpenNode {
        /// Absolute path.
        node: String,
        /// Its process id.
        pid: u32,
        /// Its name.
        comm: String,
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
    /// The boot is so old that it brings nothing more.
    Grown,
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
#[derive(Debug)]
pub struct Inbox {
    first: mpsc::Receiver<First>,
    asked: mpsc::Receiver<Asked>,
    changed: Arc<Notify>,
    answered: Arc<Notify>,
}

/// Everybody else's end.
#[derive(Debug, Clone)]
pub struct Handle {
    first: mpsc::Sender<First>,
    asked: mpsc::Sender<Asked>,
    changed: Arc<Notify>,
    answered: Arc<Notify>,
    changes: broadcast::Sender<ChangeNote>,
    numbers: Arc<AtomicU64>,
}

/// Makes both ends.
pub fn channel() -> (Handle, Inbox) {
    let (first, hooks) = mpsc::channel(QUEUE);
    let (asked, questions) = mpsc::channel(QUEUE);
    let (changes, _) = broadcast::channel(NOTES);
    let (changed, answered) = (Arc::<Notify>::default(), Arc::<Notify>::default());
    let inbox = Inbox {
        first: hooks,
        asked: questions,
        changed: Arc::clone(&changed),
        answered: Arc::clone(&answered),
    };
    (Handle { first, asked, changed, answered, changes, numbers: Arc::default() }, inbox)
}

impl Inbox {
    /// The next message; `None` when nobody is left who could send one.
    pub async fn recv(&mut self) -> Option<Input> {
        tokio::select! {
            biased;
            () = self.changed.notified() => Some(Input::HostChanged),
            () = self.answered.notified() => Some(Input::AnsweredAtLength),
            input = self.first.recv() => input.map(Input::First),
            input = self.asked.recv() => input.map(Input::Asked),
        }
    }

    /// One that is there already, of those that come before questions.
    pub fn first(&mut self) -> Option<First> {
        self.first.try_recv().ok()
    }

    /// A question that is there already.
    pub fn asked(&mut self) -> Option<Asked> {
        self.asked.try_recv().ok()
    }
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
        self.send(First::Hook { request, call, answer }).await;
        (request, receiver)
    }

    /// As [`Self::hook`], for a guest of Proxmox VE.
    pub async fn guest(&self, call: GuestCall) -> (RequestId, oneshot::Receiver<HookAnswer>) {
        let request = self.number();
        let (answer, receiver) = oneshot::channel();
        self.send(First::Guest { request, call, answer }).await;
        (request, receiver)
    }

    /// The hook will not hear its answer.
    pub async fn hook_gone(&self, request: RequestId) {
        self.send(First::HookGone { request }).await;
    }

    /// Asks, and waits for the answer.
    pub async fn command(&self, command: Command) -> Outcome {
        self.ask(command).await.outcome()
    }

    /// As [`Self::command`], for whoever may be gone before the answer.
    pub async fn command_until(&self, command: Command, gone: impl Future<Output = ()>) -> Outcome {
        self.ask_until(command, gone).await.outcome()
    }

    /// As [`Self::command`], for who passes the answer on as JSON.
    pub async fn ask(&self, command: Command) -> Told {
        let (_, answer) = self.asked(command).await;
        answer.await.unwrap_or_else(|_| super::ending().into())
    }

    /// As [`Self::ask`], for whoever may be gone before the answer.
    pub async fn ask_until(&self, command: Command, gone: impl Future<Output = ()>) -> Told {
        let (request, answer) = self.asked(command).await;
        tokio::select! {
            told = answer => told.unwrap_or_else(|_| super::ending().into()),
            () = gone => {
                self.put(Asked::Gone { request }).await;
                Err(Refusal::new(Code::Unreachable, "whoever asked is gone")).into()
            }
        }
    }

    async fn asked(&self, command: Command) -> (RequestId, oneshot::Receiver<Told>) {
        let request = self.number();
        let (answer, receiver) = oneshot::channel();
        self.put(Asked::Command { request, command, answer }).await;
        (request, receiver)
    }

    /// Does something to the simulated host.
    pub async fn sim(&self, order: SimOrder) -> Result<(), String> {
        let (answer, receiver) = oneshot::channel();
        self.put(Asked::Sim { order, answer }).await;
        receiver.await.unwrap_or_else(|_| Err("gpusliced is stopping".to_owned()))
    }

    /// Tells what happened.
    pub async fn happened(&self, event: Event) {
        self.send(First::Event(event)).await;
    }

    /// As [`Self::happened`], from a thread of its own.
    pub fn happened_elsewhere(&self, event: Event) {
        // As in [`Self::send`].
        let _ = self.first.blocking_send(First::Event(event));
    }

    /// The host changed. From any thread, as often as it does: one look shows it all.
    pub fn host_changed(&self) {
        self.changed.notify_one();
    }

    /// An answer that took much memory has left. It is given back after a while, for all that leave until then.
    pub fn answered_at_length(&self) {
        self.answered.notify_one();
    }

    async fn send(&self, input: First) {
        // Fails only when the engine ended, and then the daemon ends.
        let _ = self.first.send(input).await;
    }

    async fn put(&self, question: Asked) {
        // As in [`Self::send`].
        let _ = self.asked.send(question).await;
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
