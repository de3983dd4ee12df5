//! What the machine is told and what it orders.

use super::ConfigRead;
use crate::domain::Domain;
use crate::driver::DriverOf;
use crate::execute::{Performed, StepError};
use crate::guest::GuestCall;
use crate::health::Said;
use crate::history::{Entry, Wanted};
use crate::holders::Holder;
use crate::ids::{ParentId, PciAddress, SliceId};
use crate::observation::Observation;
use crate::plan::Step;
use crate::refusal::Refusal;
use crate::request::{Answer, ChangeNote, Command, DrainRow, Outcome};
use crate::state::{Durable, Runtime};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;
use uuid::Uuid;

/// Names a question until it is answered. Given out by the driver of the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub u64);

/// Names an operation: a list of steps on one device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OpId(pub u64);

/// What happened.
#[derive(Debug, Clone)]
pub enum Event {
    /// The host was read anew.
    Observed(Box<Observation>),
    /// Who holds the slices of [`super::Machine::unassigned`], asked before they are shown or chosen from.
    Held(BTreeMap<SliceId, Holder>),
    /// A hook asks.
    Hook {
        /// To be answered.
        request: RequestId,
        /// What.
        call: HookCall,
    },
    /// The hookscript of Proxmox VE asks.
    Guest {
        /// To be answered.
        request: RequestId,
        /// What.
        call: GuestCall,
    },
    /// The hook that asked is gone without its answer.
    HookGone {
        /// Which.
        request: RequestId,
    },
    /// A person or program asks.
    Command {
        /// To be answered.
        request: RequestId,
        /// What.
        command: Command,
        /// The configuration on disk, for the commands that use it.
        config: Option<ConfigRead>,
    },
    /// Who asked that is gone without the answer.
    CallerGone {
        /// Which.
        request: RequestId,
    },
    /// A step ended.
    StepFinished {
        /// Whose.
        op: OpId,
        /// `Changed` or `Already`, or why not.
        result: Result<Performed, StepError>,
    },
    /// The last process that held a watched slice ended, or none was found when the watch began.
    HolderGone {
        /// Which.
        slice: SliceId,
    },
    /// A process of a former daemon is at work on the step asked about.
    WriterFound {
        /// On whose.
        parent: ParentId,
        /// Which.
        step: Step,
    },
    /// None is, or none any more.
    WriterGone {
        /// On whose.
        parent: ParentId,
        /// Which.
        step: Step,
    },
    /// The kernel's log says something of devices; lines that were read before may be among these.
    Said(Vec<Said>),
    /// Whether the history can be written; if not, why.
    History(Option<String>),
    /// Time.
    Timer(Timer),
}

/// What is to be done, in this order.
#[derive(Debug, Clone)]
pub enum Effect {
    /// Record; when it fails, go on with [`super::Machine::unrecorded`].
    StoreDurable(Arc<Durable>),
    /// Record; when it fails, go on with [`super::Machine::unrecorded`].
    StoreRuntime(Arc<Runtime>),
    /// Add to the history, with the time. A failure keeps nothing from going on.
    History(Vec<Entry>),
    /// Read the history and answer a command.
    ReadHistory {
        /// Which.
        request: RequestId,
        /// What of it.
        wanted: Wanted,
    },
    /// Perform a step, look until it is so, and say how it ended.
    Execute {
        /// For the answer.
        op: OpId,
        /// What.
        step: Step,
    },
    /// Read the host anew.
    Observe,
    /// Have the next reading ask vendors' tools what they told before.
    AskAnew,
    /// Ask vendors' tools again what they failed to answer, and have no reading wait for it.
    AskAgain,
    /// Tell when no process holds the slice any more.
    Watch {
        /// Which.
        slice: SliceId,
    },
    /// Tell whether a process of a former daemon performs this step, and when it has ended.
    AwaitWriter {
        /// For the answer.
        parent: ParentId,
        /// Which.
        step: Step,
    },
    /// Answer a hook.
    AnswerHook {
        /// Which.
        request: RequestId,
        /// What.
        answer: HookAnswer,
    },
    /// Answer a command.
    Answer {
        /// Which.
        request: RequestId,
        /// What.
        outcome: Outcome,
    },
    /// Send [`Event::Timer`] after so many milliseconds. A timer armed again is moved.
    Arm {
        /// Which.
        timer: Timer,
        /// Milliseconds.
        after: u64,
    },
    /// Forget a timer.
    Disarm {
        /// Which.
        timer: Timer,
    },
    /// Tell whoever listens.
    Changed(ChangeNote),
    /// Tell the journal.
    Log {
        /// Something a person must know, rather than may.
        warning: bool,
        /// One sentence.
        text: String,
    },
}

/// Timers, each at most once.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Timer {
    /// A step has not come back.
    StepDeadline(OpId),
    /// Try to release again.
    RetryRelease(SliceId),
    /// libvirt has had time to say what became of the VM.
    Grace(SliceId),
    /// Somebody has waited long enough.
    Settle(RequestId),
    /// A guest of Proxmox VE has waited long enough for a device.
    Guest(RequestId),
    /// Parents have had time to be drained.
    Drain(RequestId),
    /// A step of a former daemon has had time to end.
    Unsure(ParentId),
    /// A reset has had as long as a start waits for it.
    Reset(SliceId),
    /// A VM has used it for so long that its end does it no harm.
    Young(SliceId),
    /// Whoever had a device open whose VFs are to be made anew may have closed it.
    Repair(ParentId),
    /// What could not be read may be readable now.
    LookAgain,
    /// A device that was not ready has had time to be.
    Ready(ParentId),
    /// A step that failed for a passing reason is tried again.
    RetryStep(OpId),
    /// A domain was undefined long enough ago.
    Undefined(Uuid),
    /// A domain that was to come in has had time to.
    Expected(Uuid),
    /// One that was let in is not heard of any more.
    ComingIn(Uuid),
    /// A start that was refused is not made up for any more.
    StartLater(Uuid),
    /// This boot has brought what it brings.
    Boot,
}

/// The two documents, in the order in which they are recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stored {
    /// [`Runtime`].
    Runtime,
    /// [`Durable`].
    Durable,
}

/// A hook's question, with what it read of the domain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HookCall {
    /// At which point.
    pub operation: HookOperation,
    /// The domain in libvirt's hands.
    pub domain: Domain,
    /// Of one that comes in: what made its slices where it ran, as far as that was noted.
    pub drivers: Vec<DriverOf>,
}

impl HookCall {
    /// One that says nothing of drivers.
    pub fn new(operation: HookOperation, domain: Domain) -> Self {
        Self { operation, domain, drivers: Vec::new() }
    }
}

/// Points at which libvirt calls the hook and we act.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum HookOperation {
    /// Before anything of the domain exists; may refuse.
    Prepare,
    /// The VM runs.
    Started,
    /// The VM is gone and libvirt has let go of its devices.
    Release,
    /// The same, and it ended in order: its guest shut it down, or it was saved.
    ShutDown,
    /// The same, and the VM runs on another host now.
    MigratedAway,
    /// libvirt found a running VM again.
    Reconnect,
    /// Incoming migration, before the domain exists; may refuse.
    Migrate,
    /// Restore from a file; may refuse.
    Restore,
}

/// Answer to a hook.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HookAnswer {
    /// Go on.
    Proceed,
    /// Go on with these PCI sources exchanged.
    Remap(BTreeMap<PciAddress, PciAddress>),
    /// Do not.
    Refuse(Refusal),
}

impl Answer {
    /// Whether the answer promises something that must be on record.
    pub fn promises(&self) -> bool {
        matches!(
            self,
            Self::Claimed { .. }
                | Self::Done { changed: true, .. }
                | Self::Runs { changed: true, .. }
                | Self::Domain { .. }
                | Self::Drain(DrainRow { changed: true, .. })
        )
    }
}
