//! The host the daemon works on: this machine's kernel, or a simulated one behind the same ports.

mod look;
mod real;
mod sim;
mod watch;

use crate::args::Args;
use crate::engine::{Handle, SimOrder};
use gpuslice_core::errno::Errno;
use gpuslice_core::ids::{BootId, ParentId, SliceId};
use gpuslice_core::machine::{Event, OpId};
use gpuslice_core::observation::Observation;
use gpuslice_core::plan::Step;
use gpuslice_core::port::{HostRead, read_text};
pub use look::{Look, Looked};
use real::Real;
use sim::Sim;
use std::time::{Duration, Instant, SystemTime};

/// One of the two.
pub enum Backend {
    /// This machine.
    Real(Box<Real>),
    /// A host file come alive.
    Sim(Box<Sim>),
}

impl Backend {
    /// Opens what the arguments ask for, and starts listening to it.
    pub fn open(args: &Args, handle: &Handle) -> anyhow::Result<Self> {
        match &args.sim {
            Some(host) => Ok(Self::Sim(Box::new(Sim::open(host)?))),
            None => Ok(Self::Real(Box::new(Real::open(handle)?))),
        }
    }

    /// Ends once nothing is heard of what changes, with why. A simulated host is always heard.
    pub fn deaf(&mut self) -> impl Future<Output = Errno> + use<> {
        let heard = match self {
            Self::Real(real) => real.deaf(),
            Self::Sim(_) => None,
        };
        async move {
            match heard {
                // The thread ends without a word when it is no longer wanted.
                Some(heard) => match heard.await {
                    Ok(errno) => errno,
                    Err(_) => std::future::pending().await,
                },
                None => std::future::pending().await,
            }
        }
    }

    /// For `gpuslice status`.
    pub fn name(&self) -> String {
        match self {
            Self::Real(real) => real.name(),
            Self::Sim(sim) => format!("simulated: {}", sim.name),
        }
    }

    /// This boot.
    pub fn boot_id(&self) -> BootId {
        match self {
            Self::Real(real) => real.boot,
            Self::Sim(sim) => sim.boot_id(),
        }
    }

    /// When this boot began by the clock of now; not known of a simulated one.
    pub fn booted(&self) -> Option<SystemTime> {
        let Self::Real(real) = self else { return None };
        SystemTime::now().checked_sub(uptime(real.reader())?)
    }

    /// Milliseconds since this boot began; of one that does not tell, as if it began just now.
    pub fn uptime_ms(&self) -> u64 {
        match self {
            Self::Real(real) => {
                let uptime = uptime(real.reader()).unwrap_or_default();
                u64::try_from(uptime.as_millis()).unwrap_or(u64::MAX)
            }
            Self::Sim(sim) => sim.uptime_ms(),
        }
    }

    /// Reads everything, slots only where they are wanted, NUMA nodes that are known only where they are wanted anew.
    pub fn observe(&mut self, slots: bool, nodes: bool) -> Observation {
        match self {
            Self::Real(real) => real.observe(slots, nodes),
            Self::Sim(sim) => sim.observe(slots, nodes),
        }
    }

    /// Looks for who holds these slices; a simulated host has been looked at when this returns.
    pub fn look(&self, slices: Vec<SliceId>) -> Look {
        match self {
            Self::Real(real) => real.look(slices),
            Self::Sim(sim) => Box::pin(std::future::ready(look::look(sim.reader(), &slices))),
        }
    }

    /// The next reading asks vendors' tools anew, and waits for them.
    pub fn ask_anew(&mut self) {
        match self {
            Self::Real(real) => real.ask_anew(),
            Self::Sim(sim) => sim.ask_anew(),
        }
    }

    /// Asks vendors' tools again what they failed to answer. What they say by then is an event and a reading later.
    pub fn ask_again(&mut self) {
        match self {
            Self::Real(real) => real.ask_again(),
            Self::Sim(sim) => sim.ask_again(),
        }
    }

    /// Starts a step; its end is an event.
    pub fn execute(&mut self, op: OpId, step: Step) {
        match self {
            Self::Real(real) => real.execute(op, step),
            Self::Sim(sim) => sim.execute(op, step),
        }
    }

    /// Watches a slice; the end of its last holder is an event.
    pub fn watch(&mut self, slice: SliceId) {
        match self {
            Self::Real(real) => real.watch(slice),
            Self::Sim(sim) => sim.watch(slice),
        }
    }

    /// Looks for a process of a former daemon that performs this step; whether it is found, and its end, are events.
    pub fn await_writer(&mut self, parent: ParentId, step: Step) {
        match self {
            Self::Real(real) => real.await_writer(parent, step),
            Self::Sim(sim) => sim.await_writer(parent, step),
        }
    }

    /// Events that came about in the backend itself.
    pub fn happened(&mut self) -> Vec<Event> {
        match self {
            // The real kernel's come through the engine's queue.
            Self::Real(_) => Vec::new(),
            Self::Sim(sim) => sim.happened(),
        }
    }

    /// Whether the host has changed since the last reading. A real one says so through the engine's queue.
    pub fn changed(&mut self) -> bool {
        match self {
            Self::Real(_) => false,
            Self::Sim(sim) => sim.changed(),
        }
    }

    /// When to come back for more of them.
    pub fn wakes_at(&self) -> Option<Instant> {
        match self {
            Self::Real(_) => None,
            Self::Sim(sim) => sim.wakes_at(),
        }
    }

    /// The outside world acts on a simulated host.
    pub fn obey(&mut self, order: SimOrder) -> Result<(), String> {
        match self {
            Self::Real(_) => Err("this is no simulated host".to_owned()),
            Self::Sim(sim) => sim.obey(order),
        }
    }
}

/// As the kernel tells it (`/proc/uptime`, proc_uptime(5)).
fn uptime(host: &dyn HostRead) -> Option<Duration> {
    let text = read_text(host, "/proc/uptime").ok()?;
    let seconds: f64 = text.split_whitespace().next()?.parse().ok()?;
    Duration::try_from_secs_f64(seconds).ok()
}
