//! A simulated host: a kernel in memory whose outside world obeys the control socket.

use crate::engine::SimOrder;
use anyhow::Context;
use gpuslice_core::execute::{self, Performed, StepError};
use gpuslice_core::health;
use gpuslice_core::ids::{BootId, ParentId, SliceId};
use gpuslice_core::machine::{Event, OpId, Timer};
use gpuslice_core::mechanism::Mechanism;
use gpuslice_core::observation::Observation;
use gpuslice_core::observe::Observer;
use gpuslice_core::plan::Step;
use gpuslice_core::port::{HostRead, HostWrite, read_text};
use gpuslice_sim::{HostFile, Kernel};
use std::collections::BTreeSet;
use std::time::{Duration, Instant};
use uuid::Uuid;

const BUILT_IN: [(&str, &str); 3] = [
    ("sriov-8", include_str!("../../../../examples/hosts/sriov-8.toml")),
    ("mdev", include_str!("../../../../examples/hosts/mdev.toml")),
    ("mixed", include_str!("../../../../examples/hosts/mixed.toml")),
];

/// Looks at a post-condition before the step has failed; simulated time does not pass between them.
const LOOKS: u32 = 8;

/// See the module.
pub struct Sim {
    /// File or built-in name.
    pub name: String,
    kernel: Kernel,
    observer: Observer,
    events: Vec<Event>,
    /// Steps whose writer sleeps.
    asleep: Vec<(OpId, Step)>,
    /// Steps whose post-condition the kernel works on, and until when.
    awaited: Vec<(OpId, Step, Instant)>,
    watched: BTreeSet<SliceId>,
    /// Lines of the kernel's log that were listened to.
    heard: usize,
    mechanisms: Vec<Box<dyn Mechanism>>,
    started: Instant,
}

impl Sim {
    /// Builds the host of a file or of a built-in name.
    pub fn open(name: &str) -> anyhow::Result<Self> {
        let built_in =
            BUILT_IN.iter().find(|(n, _)| *n == name).map(|(_, text)| (*text).to_owned());
        let text = match built_in {
            Some(text) => text,
            None => {
                std::fs::read_to_string(name).with_context(|| format!("read host file {name}"))?
            }
        };
        let host = HostFile::parse(&text).with_context(|| format!("host file {name}"))?;
        let mut kernel = Kernel::from_host(&host);
        kernel.settle();
        Ok(Self {
            name: name.to_owned(),
            kernel,
            observer: Observer::new(gpuslice_vendors::all()),
            events: Vec::new(),
            asleep: Vec::new(),
            awaited: Vec::new(),
            watched: BTreeSet::new(),
            heard: 0,
            mechanisms: gpuslice_vendors::all(),
            started: Instant::now(),
        })
    }

    /// Of the simulated kernel.
    pub fn boot_id(&self) -> BootId {
        let text = read_text(&self.kernel, "/proc/sys/kernel/random/boot_id").unwrap_or_default();
        text.parse().unwrap_or(BootId(Uuid::nil()))
    }

    /// Of the simulated kernel.
    pub fn uptime_ms(&self) -> u64 {
        self.kernel.uptime_ms()
    }

    /// Reads everything, slots only where they are wanted, NUMA nodes that are known only where they are wanted anew.
    pub fn observe(&mut self, slots: bool, nodes: bool) -> Observation {
        self.observer.read_slots(slots);
        self.observer.read_nodes(nodes);
        self.observer.observe(&self.kernel)
    }

    /// Its tools end within the step that runs them.
    pub fn ask_anew(&mut self) {
        self.observer.ask_anew();
    }

    /// Its tools answer at once.
    pub fn ask_again(&mut self) {
        for command in self.observer.failed_questions() {
            self.observer.asked_again(&command, self.kernel.ask(&command));
        }
    }

    /// What the kernel was asked so far.
    #[cfg(test)]
    pub fn reads(&self) -> u64 {
        self.kernel.reads()
    }

    /// For looks that are not observations.
    pub fn reader(&self) -> &dyn HostRead {
        &self.kernel
    }

    /// Performs a step, unless its writer falls asleep.
    pub fn execute(&mut self, op: OpId, step: Step) {
        match (self.perform(&step), step.patience_ms()) {
            (Some(Ok(Performed::NotYet)), Some(patience)) => {
                let until = Instant::now() + Duration::from_millis(patience);
                self.awaited.push((op, step, until));
            }
            (Some(result), _) => self.events.push(Event::StepFinished { op, result }),
            (None, _) => self.asleep.push((op, step)),
        }
    }

    fn perform(&mut self, step: &Step) -> Option<Result<Performed, StepError>> {
        let mut result = execute::perform(&mut self.kernel, step);
        if step.runs_tool() {
            self.observer.forget_answers();
        }
        for _ in 0..LOOKS {
            match result {
                Ok(Performed::Blocked) => return None,
                Ok(Performed::NotYet) => {
                    self.kernel.settle();
                    result = execute::check(&self.kernel, step);
                }
                other => return Some(other),
            }
        }
        Some(match step.patience_ms() {
            Some(_) => Ok(Performed::NotYet),
            None => Err(execute::never_so(&self.kernel, step)),
        })
    }

    /// Looks again at what the kernel works on.
    fn look_at_awaited(&mut self) {
        for (op, step, until) in std::mem::take(&mut self.awaited) {
            let result = match execute::check(&self.kernel, &step) {
                Ok(Performed::NotYet) if Instant::now() < until => {
                    self.awaited.push((op, step, until));
                    continue;
                }
                Ok(Performed::NotYet) => Err(execute::never_so(&self.kernel, &step)),
                other => other,
            };
            self.events.push(Event::StepFinished { op, result });
        }
    }

    /// Watches a slice.
    pub fn watch(&mut self, slice: SliceId) {
        self.watched.insert(slice);
    }

    /// A simulated kernel ends with its daemon, and so do all writers.
    pub fn await_writer(&mut self, parent: ParentId, step: Step) {
        self.events.push(Event::WriterGone { parent, step });
    }

    /// Lets the kernel catch up with the clock, and collects what came of it.
    pub fn happened(&mut self) -> Vec<Event> {
        let clock = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        let behind = clock.saturating_sub(self.kernel.now_ms());
        if behind > 0 && (self.kernel.next_timer().is_some() || !self.asleep.is_empty()) {
            self.kernel.advance(behind);
        }
        if !self.kernel.poll_blocked().is_empty() {
            self.wake_sleepers();
        }
        self.look_at_awaited();
        let gone: Vec<SliceId> =
            self.watched.iter().copied().filter(|s| self.kernel.holders(*s).is_empty()).collect();
        for slice in gone {
            self.watched.remove(&slice);
            self.events.push(Event::HolderGone { slice });
        }
        self.listen();
        std::mem::take(&mut self.events)
    }

    fn listen(&mut self) {
        let lines = self.kernel.log_from(self.heard);
        self.heard += lines.len();
        let said: Vec<_> =
            lines.iter().filter_map(|line| health::said(&self.mechanisms, line)).collect();
        if !said.is_empty() {
            self.events.push(Event::Said(said));
        }
    }

    /// Whether the kernel has sent uevents since it was last asked.
    pub fn changed(&mut self) -> bool {
        !self.kernel.take_events().is_empty() | self.kernel.take_overflow()
    }

    /// A step that slept is performed again: what it has done by now is not done twice.
    fn wake_sleepers(&mut self) {
        let still = self.kernel.blocked();
        for (op, step) in std::mem::take(&mut self.asleep) {
            let sleeps = still.iter().any(|file| concerns(file, &step));
            if sleeps {
                self.asleep.push((op, step));
            } else {
                self.execute(op, step);
            }
        }
    }

    /// When the kernel does something by itself.
    pub fn wakes_at(&self) -> Option<Instant> {
        let timer = self.kernel.next_timer().map(|at| self.started + Duration::from_millis(at));
        timer.into_iter().chain(self.awaited.iter().map(|(_, _, until)| *until)).min()
    }

    /// The outside world acts.
    pub fn obey(&mut self, order: SimOrder) -> Result<(), String> {
        let said =
            |result: Result<(), gpuslice_core::errno::Errno>| result.map_err(|e| e.to_string());
        match order {
            SimOrder::Plug { parent } => said(outcome(self.kernel.plug(parent))),
            SimOrder::Unplug { parent } => said(outcome(self.kernel.unplug(parent))),
            SimOrder::Open { slice, pid, comm } => said(self.kernel.open(pid, &comm, slice)),
            SimOrder::OpenNode { node, pid, comm } => {
                said(self.kernel.open_node(pid, &comm, &node))
            }
            SimOrder::Kill { pid } => {
                self.kernel.kill(pid);
                Ok(())
            }
            SimOrder::Say { line } => {
                self.kernel.say(&line);
                Ok(())
            }
            SimOrder::Write { file, data } => {
                let result = self.kernel.write(&file, data.as_bytes());
                self.kernel.settle();
                said(result.map(|_| ()))
            }
            SimOrder::Modprobe { name, remove } => {
                let result = if remove {
                    self.kernel.unload_module(&name).map(drop)
                } else {
                    self.kernel.load_module(&name)
                };
                self.kernel.settle();
                said(result)
            }
            SimOrder::Fault { fault } => {
                self.kernel.inject(fault);
                Ok(())
            }
            SimOrder::ClearFaults => {
                self.kernel.clear_faults();
                Ok(())
            }
            SimOrder::Overdue => {
                let late = self.asleep.iter().map(|(op, _)| Timer::StepDeadline(*op));
                self.events.extend(late.map(Event::Timer));
                Ok(())
            }
            SimOrder::Grown => {
                self.events.push(Event::Timer(Timer::Boot));
                Ok(())
            }
            SimOrder::Reboot => {
                self.heard = 0;
                self.kernel.reboot();
                self.kernel.settle();
                self.events.clear();
                self.asleep.clear();
                self.awaited.clear();
                self.watched.clear();
                self.observer = Observer::new(gpuslice_vendors::all());
                Ok(())
            }
        }
    }
}

fn outcome(outcome: gpuslice_sim::Outcome) -> Result<(), gpuslice_core::errno::Errno> {
    match outcome {
        gpuslice_sim::Outcome::Failed(errno) => Err(errno),
        _ => Ok(()),
    }
}

/// Whether a sleeping write is this step's: both name the same device.
fn concerns(file: &str, step: &Step) -> bool {
    match step {
        Step::SetNumVfs { pf, .. } | Step::RunVfTool { pf, .. } => file.contains(&pf.to_string()),
        Step::SetMode { device, attribute, .. } => file.contains(&format!("{device}/{attribute}")),
        Step::UnloadDriver { name, .. } => *file == format!("modprobe -r {name}"),
        Step::RemoveMdev { uuid } => file.contains(&uuid.to_string()),
        Step::GiveVfType { vf, .. } | Step::TakeVfType { vf, .. } => file.contains(&vf.to_string()),
        Step::SetParameters { slice, attribute, .. } => {
            file.contains(attribute) && slice.pci().is_some_and(|a| file.contains(&a.to_string()))
        }
        Step::Bind { function, .. } | Step::Unbind { function } | Step::Reset { function } => {
            file.contains(&function.to_string())
        }
        _ => false,
    }
}
