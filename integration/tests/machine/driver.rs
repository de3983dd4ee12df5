//! The thin loop of the daemon, without tasks or clock: performs effects in order and feeds back what happened.

use crate::disk::Disk;
use crate::hand::{Asked, Hand, Under, ask_again, brief, may_ask, still_held};
use crate::invariants::{self, Broken, Vm};
use crate::waking::{read_config, wake};
use crate::{guest, identity, past};
use gpuslice_core::execute::{self, Performed, StepError};
use gpuslice_core::guest::GuestCall;
use gpuslice_core::health;
use gpuslice_core::ids::{ParentId, PciAddress, SliceId};
use gpuslice_core::machine::{
    Effect, Event, HookAnswer, HookCall, HookOperation, Machine, OpId, RequestId, Timer,
};
use gpuslice_core::mechanism::Mechanism;
use gpuslice_core::observe::Observer;
use gpuslice_core::plan::Step;
use gpuslice_core::port::HostRead;
use gpuslice_core::request::{Answer, Command, Outcome};
use gpuslice_sim::{Completed, HostFile, Kernel};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use uuid::Uuid;

/// More turns than this without outside cause is a machine that runs in circles.
const TURNS: u32 = 600;

/// A daemon on a simulated kernel.
pub struct Driver {
    pub machine: Machine,
    pub kernel: Kernel,
    pub disk: Disk,
    observer: Observer,
    timers: BTreeMap<Timer, u64>,
    /// And the processes that had each open when it was last looked at.
    watches: BTreeMap<SliceId, BTreeSet<u32>>,
    pub queue: VecDeque<Event>,
    observe: bool,
    slots: bool,
    pub under: Vec<Under>,
    /// Steps of former daemons whose processes outlive them, and the files they sleep on.
    former: Vec<(Step, Option<String>)>,
    /// Whose writers are to be told of.
    writers: BTreeSet<(ParentId, Step)>,
    /// Steps whose post-condition the kernel works on, and until when.
    awaited: Vec<(OpId, Step, u64)>,
    /// Steps begin only when told, as those of child processes may.
    pub lazy: bool,
    /// Uevents are not noticed.
    pub deaf: bool,
    /// The configuration on disk.
    pub config: String,
    next_request: u64,
    hooks: BTreeMap<RequestId, HookCall>,
    pub guests: BTreeMap<RequestId, GuestCall>,
    commands: BTreeMap<RequestId, Command>,
    /// Answers nobody has taken yet.
    pub told: BTreeMap<RequestId, HookAnswer>,
    pub answers: BTreeMap<RequestId, Outcome>,
    /// Effects and device writes until the daemon is killed.
    pub dies_after: Option<u32>,
    /// And the host with it.
    pub dies_by_reboot: bool,
    pub deaths: u32,
    /// Which daemon this is.
    life: u32,
    /// Calls of hooks that cannot refuse, not answered when the daemon died: asked again.
    pub lost: Vec<HookCall>,
    /// Events the machine has handled.
    pub handled: u64,
    pub executed: u64,
    /// Devices of others: what no step may change.
    pub foreign_mdevs: BTreeSet<SliceId>,
    /// What was recorded in this boot was lost once.
    pub lost_record: bool,
    /// Processes that libvirt started.
    pub vms: BTreeMap<u32, Vm>,
    pub verbose: bool,
    /// When each domain was last told that it can open a slice.
    pub granted: BTreeMap<(Uuid, SliceId), u64>,
    /// VFs that a VM had open, and which, until they are reset or left.
    pub used: BTreeMap<PciAddress, Uuid>,
    /// How often the agent was told that there is something for it to do.
    pub agent_told: u32,
    /// Lines of the kernel's log that this daemon has heard.
    heard: usize,
    mechanisms: Vec<Box<dyn Mechanism>>,
    /// What steps ask of the kernel, where somebody wants to know.
    pub asked: Option<Asked>,
}

impl Driver {
    pub fn new(host: &HostFile, config: &str) -> Result<Self, Broken> {
        let mut kernel = Kernel::from_host(host);
        kernel.settle();
        Self::on(kernel, Disk::default(), config)
    }

    /// One that starts on a host where others have been.
    pub fn on(kernel: Kernel, disk: Disk, config: &str) -> Result<Self, Broken> {
        let (machine, effects) = wake(&kernel, &disk, config);
        let mut driver = Self {
            machine,
            kernel,
            disk,
            observer: Observer::new(gpuslice_vendors::all()),
            timers: BTreeMap::new(),
            watches: BTreeMap::new(),
            queue: VecDeque::new(),
            observe: false,
            slots: false,
            under: Vec::new(),
            former: Vec::new(),
            writers: BTreeSet::new(),
            awaited: Vec::new(),
            lazy: false,
            deaf: false,
            config: config.to_owned(),
            next_request: 1,
            hooks: BTreeMap::new(),
            guests: BTreeMap::new(),
            commands: BTreeMap::new(),
            told: BTreeMap::new(),
            answers: BTreeMap::new(),
            dies_after: None,
            dies_by_reboot: false,
            deaths: 0,
            life: 0,
            lost: Vec::new(),
            handled: 0,
            executed: 0,
            foreign_mdevs: BTreeSet::new(),
            lost_record: false,
            vms: BTreeMap::new(),
            verbose: false,
            granted: BTreeMap::new(),
            used: BTreeMap::new(),
            agent_told: 0,
            heard: 0,
            mechanisms: gpuslice_vendors::all(),
            asked: None,
        };
        driver.perform(effects)?;
        driver.drain()?;
        Ok(driver)
    }

    pub fn request(&mut self) -> RequestId {
        self.next_request += 1;
        RequestId(self.next_request)
    }

    pub fn hook(&mut self, call: HookCall) -> RequestId {
        let request = self.request();
        self.hooks.insert(request, call.clone());
        self.queue.push_back(Event::Hook { request, call });
        request
    }

    /// A hook that asks before a daemon that has just started has looked at the host.
    pub fn hook_before_look(&mut self, call: HookCall) -> Result<RequestId, Broken> {
        let request = self.hook(call);
        if let Some(event) = self.queue.pop_back() {
            self.handle(event)?;
        }
        Ok(request)
    }

    /// The hook is gone, whether it was told or not.
    pub fn hook_gone(&mut self, request: RequestId) {
        self.queue.push_back(Event::HookGone { request });
        self.told.remove(&request);
    }

    /// Whoever asked is gone, whether the answer has come or not.
    pub fn caller_gone(&mut self, request: RequestId) {
        self.queue.push_back(Event::CallerGone { request });
    }

    pub fn command(&mut self, command: Command) -> RequestId {
        let request = self.request();
        let wants_config = matches!(command, Command::Plan | Command::Apply);
        let config = wants_config.then(|| read_config(&self.config));
        if command == Command::Apply && may_ask(&self.under) {
            self.observer.ask_anew();
        }
        self.slots = matches!(&config, Some(Ok(config)) if config.by_slot());
        self.observe |= self.slots || command == Command::Apply;
        self.commands.insert(request, command.clone());
        self.queue.push_back(Event::Command { request, command, config });
        request
    }

    /// Lets time pass, stopping wherever something falls due.
    pub fn advance(&mut self, ms: u64) -> Result<(), Broken> {
        let end = self.kernel.now_ms() + ms;
        self.drain()?;
        while self.kernel.now_ms() < end {
            let now = self.kernel.now_ms();
            let patience = self.awaited.iter().map(|(_, _, until)| *until);
            let due = self.timers.values().copied().chain(self.kernel.next_timer());
            let next = due.chain(patience).min().unwrap_or(end).clamp(now, end);
            self.kernel.advance(next - now);
            self.drain()?;
            if next == now && self.kernel.now_ms() == now {
                self.kernel.advance(1);
            }
        }
        Ok(())
    }

    /// Handles events until none is left; an ordered reading comes before the next event, and after all steps that
    /// have ended by then.
    pub fn drain(&mut self) -> Result<(), Broken> {
        for _ in 0..TURNS {
            self.collect()?;
            let ended = matches!(self.queue.front(), Some(Event::StepFinished { .. }));
            if self.observe && !ended {
                self.observe = false;
                self.observer.read_slots(self.slots || self.machine.matches_by_slot());
                self.observer.read_nodes(self.machine.wants_nodes());
                self.observer.may_ask(may_ask(&self.under));
                let seen = self.observer.observe(&self.kernel);
                self.handle(Event::Observed(Box::new(seen)))?;
            } else if let Some(event) = self.next_event() {
                self.handle(event)?;
            } else {
                return Ok(());
            }
        }
        Err(Broken::new("ends", "the machine goes in circles"))
    }

    fn collect(&mut self) -> Result<(), Broken> {
        for completed in self.kernel.poll_blocked() {
            let of = |under: &Under| match &under.step {
                // One file for all devices of a type.
                Step::CreateMdev { uuid, .. } => completed.data == uuid.to_string().as_bytes(),
                _ => true,
            };
            let found =
                self.under.iter().position(|u| u.file.as_ref() == Some(&completed.file) && of(u));
            let Some(under) = found.map(|at| self.under.remove(at)) else {
                self.former_came_back(&completed)?;
                continue;
            };
            match completed.result {
                Ok(())
                    if matches!(under.step, Step::SetNumVfs { .. } | Step::CreateMdev { .. }) =>
                {
                    let result = execute::check(&self.kernel, &under.step);
                    self.finished(under.op, &under.step, result);
                }
                // What a step has done by now is not done twice.
                Ok(()) => {
                    let life = self.life;
                    self.begin(under.op, under.step)?;
                    if self.life != life {
                        return Ok(());
                    }
                }
                Err(errno) => {
                    let operation = format!("write to {}", completed.file);
                    let result = Err(StepError::Errno { operation, errno });
                    self.finished(under.op, &under.step, result);
                }
            }
        }
        let now = self.kernel.now_ms();
        for (op, step, until) in std::mem::take(&mut self.awaited) {
            match execute::check(&self.kernel, &step) {
                Ok(Performed::NotYet) if now < until => self.awaited.push((op, step, until)),
                Ok(Performed::NotYet) => {
                    let error = execute::never_so(&self.kernel, &step);
                    self.finished(op, &step, Err(error));
                }
                result => self.finished(op, &step, result),
            }
        }
        let due: Vec<Timer> =
            self.timers.iter().filter(|(_, at)| **at <= now).map(|(t, _)| t.clone()).collect();
        for timer in due {
            self.timers.remove(&timer);
            self.queue.push_back(Event::Timer(timer));
        }
        let (kernel, queue) = (&self.kernel, &mut self.queue);
        self.watches.retain(|slice, pids| {
            still_held(kernel, *slice, pids) || {
                queue.push_back(Event::HolderGone { slice: *slice });
                false
            }
        });
        self.used.retain(|vf, _| kernel.link(&format!("/sys/bus/pci/devices/{vf}")).is_ok());
        let lines = self.kernel.log_from(self.heard);
        self.heard += lines.len();
        let said: Vec<_> =
            lines.iter().filter_map(|line| health::said(&self.mechanisms, line)).collect();
        if !said.is_empty() {
            self.queue.push_back(Event::Said(said));
        }
        let (former, queue) = (&self.former, &mut self.queue);
        self.writers.retain(|(parent, step)| {
            let there = former.iter().any(|(other, _)| other == step);
            let (parent, step) = (parent.clone(), step.clone());
            queue.extend((!there).then_some(Event::WriterGone { parent, step }));
            there
        });
        if !self.deaf {
            let told = !self.kernel.take_events().is_empty();
            self.observe |= self.kernel.take_overflow() || told;
        }
        Ok(())
    }

    /// Something wakes the daemon up.
    pub fn wake_up(&mut self) -> Result<(), Broken> {
        self.observe = true;
        self.drain()
    }

    /// Begins what child processes were to begin, those of former daemons first.
    pub fn begin_lazy(&mut self) -> Result<(), Broken> {
        for at in (0..self.former.len()).rev() {
            if self.former[at].1.is_none() {
                let (step, _) = self.former.remove(at);
                self.begin_former(step)?;
            }
        }
        let (now, later): (Vec<Under>, Vec<Under>) =
            std::mem::take(&mut self.under).into_iter().partition(|u| u.file.is_none());
        self.under = later;
        let life = self.life;
        for under in now {
            self.begin(under.op, under.step)?;
            if self.life != life {
                break;
            }
        }
        self.drain()
    }

    /// A process whose daemon is gone does what it was told; nobody hears how it ends.
    fn begin_former(&mut self, step: Step) -> Result<(), Broken> {
        let before = invariants::Before::look(self, &step);
        let sleepers = self.kernel.blocked();
        let result = execute::perform(&mut self.kernel, &step);
        before.unharmed(self, &step)?;
        if result == Ok(Performed::Blocked) {
            let new = self.kernel.blocked().into_iter().find(|file| !sleepers.contains(file));
            self.former.extend(new.map(|file| (step, Some(file))));
        }
        Ok(())
    }

    /// A write of theirs has returned: most die then, a tool goes on.
    fn former_came_back(&mut self, completed: &Completed) -> Result<(), Broken> {
        let found = self.former.iter().position(|(_, file)| file.as_ref() == Some(&completed.file));
        let Some((step, _)) = found.map(|at| self.former.remove(at)) else { return Ok(()) };
        match completed.result {
            Ok(()) if step.outlives_daemon() => self.begin_former(step),
            _ => Ok(()),
        }
    }

    fn handle(&mut self, event: Event) -> Result<(), Broken> {
        self.handled += 1;
        if self.verbose {
            println!("    <- {}", brief(&event));
        }
        self.disk.failed = false;
        let effects = self.machine.handle(event);
        self.perform(effects)?;
        if !self.disk.failed {
            past::says_who_has_what(self)?;
        }
        invariants::after_event(self)
    }

    fn perform(&mut self, effects: Vec<Effect>) -> Result<(), Broken> {
        let mut effects: VecDeque<Effect> = effects.into();
        let life = self.life;
        while let Some(effect) = effects.pop_front() {
            if self.dying() {
                return self.restart();
            }
            if self.verbose {
                println!("    -> {}", brief(&effect));
            }
            match self.disk.store(&effect) {
                Some((_, Ok(()))) => self.machine.recorded(&effect),
                Some((which, Err(why))) => {
                    let rest = effects.drain(..).collect();
                    effects = self.machine.unrecorded(which, &why, rest).into();
                }
                None => self.act(effect)?,
            }
            if self.life != life {
                // It died on the way, and the rest with it.
                return Ok(());
            }
        }
        Ok(())
    }

    /// Counts down to the daemon's death.
    fn dying(&mut self) -> bool {
        match &mut self.dies_after {
            Some(0) => true,
            Some(left) => {
                *left -= 1;
                false
            }
            None => false,
        }
    }

    fn act(&mut self, effect: Effect) -> Result<(), Broken> {
        match effect {
            Effect::Execute { op, step } => {
                invariants::quarantined_parents_untouched(self, &step)?;
                if self.lazy && step.can_block() {
                    self.under.push(Under { op, step, file: None });
                } else {
                    self.begin(op, step)?;
                }
            }
            Effect::Observe => self.observe = true,
            Effect::AskAnew if !may_ask(&self.under) => {}
            Effect::AskAnew => self.observer.ask_anew(),
            Effect::AskAgain => ask_again(&mut self.observer, &self.kernel),
            Effect::Watch { slice } => {
                let holders = self.kernel.holders(slice).into_iter().collect();
                self.watches.insert(slice, holders);
            }
            Effect::AwaitWriter { parent, step } => {
                if self.former.iter().any(|(other, _)| *other == step) {
                    let (parent, step) = (parent.clone(), step.clone());
                    self.queue.push_back(Event::WriterFound { parent, step });
                }
                self.writers.insert((parent, step));
            }
            Effect::AnswerHook { request, answer } if self.guests.contains_key(&request) => {
                if let Some(call) = self.guests.remove(&request) {
                    guest::is_recorded(self, &call)?;
                }
                self.told.insert(request, answer);
            }
            Effect::AnswerHook { request, answer } => {
                let Some(call) = self.hooks.remove(&request) else {
                    return Err(Broken::new("one_answer", format!("{request:?} answered twice")));
                };
                invariants::no_reply_before_its_record(self, &call, &answer)?;
                if call.operation == HookOperation::Prepare && answer == HookAnswer::Proceed {
                    let devices = call.domain.devices.iter().map(invariants::slice_of);
                    self.grant(call.domain.uuid, devices);
                }
                if identity::may_be_refused(call.operation) {
                    self.told.insert(request, answer);
                }
            }
            Effect::Answer { request, outcome } => {
                let Some(command) = self.commands.remove(&request) else {
                    return Err(Broken::new("one_answer", format!("{request:?} answered twice")));
                };
                invariants::no_claim_before_its_record(self, &command, &outcome)?;
                if let (Command::Plug { domain, .. }, Ok(Answer::Claimed { devices, .. })) =
                    (&command, &outcome)
                {
                    self.grant(*domain, devices.iter().map(|device| device.source.slice()));
                }
                self.answers.insert(request, outcome);
            }
            Effect::Arm { timer, after } => {
                self.timers.insert(timer, self.kernel.now_ms() + after);
            }
            Effect::Disarm { timer } => drop(self.timers.remove(&timer)),
            Effect::Changed(note) => self.agent_told += u32::from(note.kind == "agent-work"),
            Effect::Log { .. } | Effect::StoreDurable(_) | Effect::StoreRuntime(_) => {}
            Effect::History(entries) => {
                let now = self.kernel.now_ms();
                self.disk.history.add(now, &entries)?;
            }
            Effect::ReadHistory { request, wanted } => {
                let rows = self.disk.history.rows(wanted);
                self.commands.remove(&request);
                self.answers.insert(request, Ok(Answer::History { rows }));
            }
        }
        Ok(())
    }

    fn begin(&mut self, op: OpId, step: Step) -> Result<(), Broken> {
        self.executed += 1;
        let before = invariants::Before::look(self, &step);
        let mut sleepers = self.kernel.blocked();
        let (left, asked) = (self.dies_after, self.asked.as_ref());
        let mut hand = Hand { kernel: &mut self.kernel, asked, left, died: false };
        let mut result = execute::perform(&mut hand, &step);
        let died = hand.died;
        self.dies_after = hand.left;
        if step.runs_tool() {
            self.observer.forget_answers();
        }
        if died {
            return self.restart();
        }
        before.unharmed(self, &step)?;
        for _ in 0..8 {
            match result {
                Ok(Performed::NotYet) => {
                    self.kernel.settle();
                    result = execute::check(&self.kernel, &step);
                }
                Ok(Performed::Blocked) => {
                    let file = self.kernel.blocked().into_iter().find(|file| {
                        let known = sleepers.iter().position(|other| other == file);
                        known.map(|at| sleepers.swap_remove(at)).is_none()
                    });
                    if self.verbose {
                        println!("       {step}: sleeps on {file:?}");
                    }
                    self.under.push(Under { op, step, file });
                    return Ok(());
                }
                _ => break,
            }
        }
        if let (Ok(Performed::NotYet), Some(patience)) = (&result, step.patience_ms()) {
            self.awaited.push((op, step, self.kernel.now_ms() + patience));
            return Ok(());
        }
        if result == Ok(Performed::NotYet) {
            result = Err(execute::never_so(&self.kernel, &step));
        }
        self.finished(op, &step, result);
        Ok(())
    }

    fn finished(&mut self, op: OpId, step: &Step, result: Result<Performed, StepError>) {
        if self.verbose {
            println!("       {step}: {result:?}");
        }
        if let (Step::Reset { function }, Ok(_)) = (step, &result) {
            self.used.remove(function);
        }
        self.queue.push_back(Event::StepFinished { op, result });
    }

    /// The daemon was killed and starts anew: what is in memory is lost, what sleeps in the kernel goes on.
    pub fn restart(&mut self) -> Result<(), Broken> {
        if self.verbose {
            println!("    == the daemon is killed and starts anew");
        }
        self.deaths += 1;
        self.life += 1;
        // A process dies when its own write has returned; only those of child processes outlive it.
        if self.under.iter().any(|under| !under.step.can_block()) {
            self.kernel.settle();
        }
        if self.dies_after.take().is_some() && self.dies_by_reboot {
            self.kernel.reboot();
            self.forget_processes();
            self.vms.clear();
        }
        self.timers.clear();
        self.watches.clear();
        self.queue.clear();
        // A log that is opened anew is read from its begin.
        self.heard = 0;
        self.observe = false;
        self.writers.clear();
        for Under { step, file, .. } in std::mem::take(&mut self.under) {
            if step.outlives_daemon() || file.is_some() && step.can_block() {
                self.former.push((step, file));
            }
        }
        let asleep = self.kernel.blocked();
        self.former.retain(|(_, file)| file.as_ref().is_none_or(|file| asleep.contains(file)));
        self.awaited.clear();
        let lost = std::mem::take(&mut self.hooks).into_values();
        self.lost.extend(lost.filter(|call| !identity::may_be_refused(call.operation)));
        self.commands.clear();
        self.told.clear();
        self.observer = Observer::new(gpuslice_vendors::all());
        // A full disk does not keep a daemon from starting, but from promising.
        let (machine, effects) = wake(&self.kernel, &self.disk, &self.config);
        self.machine = machine;
        self.perform(effects)
    }

    /// No process outlives a boot.
    pub fn forget_processes(&mut self) {
        self.former.clear();
        self.under.clear();
    }

    /// Whether the daemon has yet to answer.
    pub fn unanswered(&self, request: RequestId) -> bool {
        self.hooks.contains_key(&request)
    }
}
