//! The loop around the state machine: one task, one machine, messages in, effects out.

mod channel;
mod looks;
mod timers;
mod told;

pub use channel::{First, Handle, Inbox, Input, SimOrder, channel};
pub use told::Told;

use crate::backend::{Backend, Looked};
use crate::history::History;
use crate::store::Store;
use crate::{config_files, memory, notify};
use channel::Asked;
use gpuslice_core::hint;
use gpuslice_core::holders::Holder;
use gpuslice_core::ids::SliceId;
use gpuslice_core::machine::{Effect, Event, HookAnswer, Machine, RequestId, Start, Stored};
use gpuslice_core::request::{Answer, ChangeNote, Command};
use looks::Looks;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::path::PathBuf;
use std::time::{Duration, Instant};
use timers::Timers;
use tokio::sync::{broadcast, oneshot};
use told::Shown;

/// Shortest pause between a wake-up and the reading it causes, so that a burst of uevents causes one.
const SHORTEST_PAUSE: Duration = Duration::from_millis(10);

/// Longest: a burst that does not end must not starve the reading.
const LONGEST_PAUSE: Duration = Duration::from_millis(1000);

/// From a reading or a long list to giving its memory back: answers have left by then, and in a burst of them the next
/// one uses it again.
const MEMORY_PAUSE: Duration = Duration::from_secs(1);

/// Where what happens is recorded.
pub struct Records {
    /// What must be recorded before it is promised.
    pub store: Store,
    /// What was.
    pub history: History,
}

/// Owner of all state.
pub struct Engine {
    machine: Machine,
    backend: Backend,
    records: Records,
    config: PathBuf,
    inbox: Inbox,
    announce: broadcast::Sender<ChangeNote>,
    hooks: HashMap<RequestId, oneshot::Sender<HookAnswer>>,
    callers: HashMap<RequestId, oneshot::Sender<Told>>,
    timers: Timers,
    /// Hooks and what happened, which questions stand behind.
    first: VecDeque<Event>,
    questions: VecDeque<Event>,
    looks: Looks,
    /// A reading is due then.
    observe_at: Option<Instant>,
    /// How long the last one took.
    observing_takes: Duration,
    observe_now: bool,
    /// The configuration that was last read asks for slots, and they were read.
    slots_asked: bool,
    slots_read: bool,
    /// Answers were given that have not left yet.
    answered: bool,
    shown: Shown,
    /// A question for a list, while it is being answered.
    asked: Option<Command>,
    alive_every: Option<Duration>,
    alive_at: Option<Instant>,
    /// Memory that is free is given back then.
    give_back_at: Option<Instant>,
    status: String,
}

impl Engine {
    /// Reads the records and makes the machine.
    pub fn start(
        backend: Backend,
        mut records: Records,
        config: PathBuf,
        inbox: Inbox,
        announce: broadcast::Sender<ChangeNote>,
    ) -> Self {
        let (machine, effects) = wake(&backend, &mut records, &config);
        let alive_every = notify::alive_every();
        let mut engine = Self {
            machine,
            backend,
            records,
            config,
            inbox,
            announce,
            hooks: HashMap::new(),
            callers: HashMap::new(),
            timers: Timers::default(),
            first: VecDeque::new(),
            questions: VecDeque::new(),
            looks: Looks::default(),
            observe_at: None,
            observing_takes: Duration::ZERO,
            observe_now: false,
            slots_asked: false,
            slots_read: false,
            answered: false,
            shown: Shown::default(),
            asked: None,
            alive_every,
            alive_at: alive_every.map(|every| Instant::now() + every),
            give_back_at: None,
            status: String::new(),
        };
        engine.perform(effects);
        while engine.drain() {}
        engine
    }

    /// Runs until the last sender is gone.
    pub async fn run(mut self) -> anyhow::Result<()> {
        while self.round().await {}
        Ok(())
    }

    /// Waits until there is something to do, and does it with all that came meanwhile. `false` when nobody is left who
    /// could send anything.
    async fn round(&mut self) -> bool {
        let wakes = [
            self.timers.next(),
            self.observe_at,
            self.alive_at,
            self.give_back_at,
            self.backend.wakes_at(),
        ];
        let wake = wakes.into_iter().flatten().min();
        tokio::select! {
            input = self.inbox.recv() => match input {
                Some(Input::First(first)) => self.take(first),
                Some(Input::Asked(asked)) => self.take_question(asked),
                Some(Input::HostChanged) => self.observe_soon(),
                Some(Input::AnsweredAtLength) => self.give_back_soon(),
                None => return false,
            },
            looked = self.looks.ended() => self.looked(looked),
            () = sleep_until(wake) => {}
        }
        while let Some(asked) = self.inbox.asked() {
            self.take_question(asked);
        }
        self.take_first();
        while self.drain() {
            tokio::task::yield_now().await;
            self.take_first();
        }
        self.tell_status();
        true
    }

    /// Steps that ended during the last reading are all seen by the next one, and before their time is over.
    fn take_first(&mut self) {
        while let Some(first) = self.inbox.first() {
            self.take(first);
        }
        self.take_due();
    }

    fn take(&mut self, first: First) {
        match first {
            First::Hook { request, call, answer } => {
                self.hooks.insert(request, answer);
                self.first.push_back(Event::Hook { request, call });
            }
            First::Guest { request, call, answer } => {
                self.hooks.insert(request, answer);
                self.first.push_back(Event::Guest { request, call });
            }
            First::HookGone { request } => {
                self.hooks.remove(&request);
                self.first.push_back(Event::HookGone { request });
            }
            First::Event(event) => self.first.push_back(event),
        }
    }

    fn take_question(&mut self, asked: Asked) {
        match asked {
            Asked::Command { request, command, answer } => {
                self.callers.insert(request, answer);
                if matches!(command, Command::Apply) {
                    // A person may have mended what no uevent tells of, and what vendors' tools say.
                    self.backend.ask_anew();
                    self.observe_now = true;
                }
                let config = matches!(command, Command::Plan | Command::Apply)
                    .then(|| config_files::read(&self.config));
                if let Some(Ok(config)) = &config {
                    let asked = config.by_slot();
                    // What it asks for may not have been looked for yet.
                    self.observe_now |= asked && !self.slots_read;
                    self.slots_asked = asked;
                }
                self.questions.push_back(Event::Command { request, command, config });
            }
            Asked::Gone { request } => {
                self.callers.remove(&request);
                self.questions.push_back(Event::CallerGone { request });
            }
            Asked::Sim { order, answer } => {
                // Somebody who does not wait for the answer is no reason to do less.
                let _ = answer.send(self.obey(order));
                self.observe_soon();
            }
        }
    }

    /// Whether a question waits for a look: one whose answer shows or chooses slices, where anybody can hold some.
    fn waits_for_look(&self, question: &Event) -> bool {
        match question {
            Event::Command { command, .. } if command.shows_slices() => {
                !self.machine.unassigned().is_empty()
            }
            // Behind what is asked by whoever is gone.
            Event::CallerGone { request } => self.looks.keeps(*request),
            _ => false,
        }
    }

    /// What was given to a VM meanwhile is that VM's. That nothing could be told of a slice is no word that it was let go of.
    fn looked(&mut self, Looked { mut held, untold }: Looked) {
        let before = self.machine.held().iter().filter(|(slice, _)| untold.contains(slice));
        held.extend(before.map(|(slice, holder)| (*slice, holder.clone())));
        let slices = self.machine.unassigned();
        held.retain(|slice, _| slices.contains(slice));
        self.hold(held);
    }

    fn hold(&mut self, held: BTreeMap<SliceId, Holder>) {
        if held != *self.machine.held() {
            self.handle(Event::Held(held));
        }
    }

    /// The outside world of a simulated host.
    fn obey(&mut self, order: SimOrder) -> Result<(), String> {
        let reboots = matches!(order, SimOrder::Reboot);
        let result = self.backend.obey(order);
        if reboots && result.is_ok() {
            self.reboot();
        }
        result
    }

    fn reboot(&mut self) {
        self.hooks.clear();
        self.callers.clear();
        self.timers = Timers::default();
        self.first.clear();
        self.questions.clear();
        self.looks = Looks::default();
        self.records.store.forget_runtime(self.backend.boot_id());
        let (machine, effects) = wake(&self.backend, &mut self.records, &self.config);
        self.machine = machine;
        self.perform(effects);
    }

    fn observe_soon(&mut self) {
        let pause = (self.observing_takes * 4).clamp(SHORTEST_PAUSE, LONGEST_PAUSE);
        self.observe_at.get_or_insert_with(|| Instant::now() + pause);
    }

    fn take_due(&mut self) {
        let now = Instant::now();
        for timer in self.timers.due(now) {
            self.first.push_back(Event::Timer(timer));
        }
        if self.observe_at.is_some_and(|at| at <= now) {
            self.observe_now = true;
        }
        if self.alive_at.is_some_and(|at| at <= now) {
            notify::alive();
            self.alive_at = self.alive_every.map(|every| now + every);
        }
        if self.give_back_at.is_some_and(|at| at <= now) {
            self.give_back_at = None;
            self.shown.forget_long();
            memory::give_back();
        }
    }

    /// Handles events until none is left. An ordered reading comes before the next event, but not between the ends of
    /// steps, which are facts whatever is read: one reading shows what came of all of them. Breaks off, with `true`,
    /// before a reading that an answer need not wait for, and after each question: whoever comes before the next one
    /// has to be heard for that.
    fn drain(&mut self) -> bool {
        loop {
            self.first.extend(self.backend.happened());
            self.observe_now |= self.backend.changed();
            let ended = matches!(self.first.front(), Some(Event::StepFinished { .. }));
            if self.observe_now && !ended {
                if std::mem::take(&mut self.answered) {
                    return true;
                }
                self.observe();
            } else if let Some(event) = self.first.pop_front() {
                self.handle(event);
            } else if let Some(question) = self.next_question() {
                self.answer(question);
                self.answered = false;
                return true;
            } else {
                self.answered = false;
                return false;
            }
        }
    }

    /// The next question that can be answered now. Those that cannot wait for a look.
    fn next_question(&mut self) -> Option<Event> {
        if let Some(question) = self.looks.served() {
            return Some(question);
        }
        while let Some(question) = self.questions.pop_front() {
            if self.waits_for_look(&question) {
                self.looks.wait(question);
                continue;
            }
            if matches!(&question, Event::Command { command, .. } if command.shows_slices()) {
                // Nobody can hold any: what was seen before is over.
                self.hold(BTreeMap::new());
            }
            return Some(question);
        }
        if self.looks.is_due() {
            self.looks.begin(self.backend.look(self.machine.unassigned()));
        }
        None
    }

    fn answer(&mut self, question: Event) {
        match question {
            Event::Command { request, command, .. } if command.is_list() => {
                self.show(request, command);
            }
            question => self.handle(question),
        }
    }

    fn observe(&mut self) {
        self.observe_now = false;
        self.observe_at = None;
        let before = Instant::now();
        self.slots_read = self.slots_asked || self.machine.matches_by_slot();
        let seen = self.backend.observe(self.slots_read, self.machine.wants_nodes());
        self.observing_takes = before.elapsed();
        self.handle(Event::Observed(Box::new(seen)));
        self.give_back_soon();
    }

    fn give_back_soon(&mut self) {
        self.give_back_at.get_or_insert_with(|| Instant::now() + MEMORY_PAUSE);
    }

    fn handle(&mut self, event: Event) {
        self.shown.forget();
        let effects = self.machine.handle(event);
        self.perform(effects);
    }

    /// Answers a question for a list: as before, when nothing happened since.
    fn show(&mut self, request: RequestId, command: Command) {
        if let Some(told) = self.shown.again(&command) {
            return self.tell(request, told);
        }
        self.asked = Some(command.clone());
        let effects = self.machine.handle(Event::Command { request, command, config: None });
        let is_all = effects.len() == 1;
        self.perform(effects);
        self.asked = None;
        if !is_all {
            // What could not be recorded before was tried again, most likely.
            self.shown.forget();
        }
    }

    fn tell(&mut self, request: RequestId, told: Told) {
        if let Some(sender) = self.callers.remove(&request) {
            // The caller may have gone meanwhile.
            let _ = sender.send(told);
            self.answered = true;
        }
    }

    fn perform(&mut self, effects: Vec<Effect>) {
        let mut effects: VecDeque<Effect> = effects.into();
        while let Some(effect) = effects.pop_front() {
            let stored = match &effect {
                Effect::StoreDurable(document) => {
                    Some((Stored::Durable, self.records.store.save_durable(document)))
                }
                Effect::StoreRuntime(document) => {
                    Some((Stored::Runtime, self.records.store.save_runtime(document)))
                }
                _ => None,
            };
            match stored {
                Some((_, Ok(()))) => self.machine.recorded(&effect),
                Some((which, Err(why))) => {
                    tracing::error!("cannot record: {why}");
                    let rest = effects.drain(..).collect();
                    effects = self.machine.unrecorded(which, &why, rest).into();
                }
                None => self.act(effect),
            }
        }
    }

    fn act(&mut self, effect: Effect) {
        match effect {
            Effect::StoreDurable(_) | Effect::StoreRuntime(_) => {}
            Effect::Execute { op, step } => {
                tracing::debug!("{step}");
                self.backend.execute(op, step);
            }
            Effect::Observe => self.observe_now = true,
            Effect::AskAnew => self.backend.ask_anew(),
            Effect::AskAgain => self.backend.ask_again(),
            Effect::Watch { slice } => self.backend.watch(slice),
            Effect::AwaitWriter { parent, step } => self.backend.await_writer(parent, step),
            Effect::AnswerHook { request, answer } => {
                if let Some(sender) = self.hooks.remove(&request) {
                    // The hook may have gone meanwhile; its going is an event of its own.
                    let _ = sender.send(answer);
                    self.answered = true;
                }
            }
            Effect::Answer { request, outcome } => {
                if matches!(&outcome, Ok(answer) if answer.is_list()) {
                    self.give_back_soon();
                }
                let told = Told::from(outcome);
                if let (Some(command), Ok(_)) = (self.asked.take(), told.as_outcome()) {
                    self.shown.keep(command, told.clone());
                }
                self.tell(request, told);
            }
            Effect::History(entries) => self.records.history.add(entries, self.backend.booted()),
            Effect::ReadHistory { request, wanted } => {
                if let Some(answer) = self.callers.remove(&request) {
                    self.records.history.read(wanted, answer);
                }
            }
            Effect::Arm { timer, after } => self.timers.arm(timer, after),
            Effect::Disarm { timer } => self.timers.disarm(&timer),
            Effect::Changed(note) => {
                // Nobody listening is fine.
                let _ = self.announce.send(note);
            }
            Effect::Log { warning: true, text } => tracing::warn!("{text}"),
            Effect::Log { warning: false, text } => tracing::info!("{text}"),
        }
    }

    fn tell_status(&mut self) {
        let text = self.machine.summary();
        if text != self.status {
            notify::status(&text);
            self.status = text;
        }
    }
}

fn wake(
    backend: &Backend,
    records: &mut Records,
    config: &std::path::Path,
) -> (Machine, Vec<Effect>) {
    let found = records.store.load();
    for warning in &found.warnings {
        tracing::error!("{warning}");
    }
    Machine::start(Start {
        mechanisms: gpuslice_vendors::all(),
        host: backend.name(),
        boot: backend.boot_id(),
        uptime_ms: backend.uptime_ms(),
        config: config_files::read(config),
        durable: found.durable,
        run: found.runtime,
        history: records.history.still_open(),
        warnings: found.warnings,
    })
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}

/// What a caller is told when the daemon ends before it answers.
pub fn ending() -> Result<Answer, gpuslice_core::refusal::Refusal> {
    let code = gpuslice_core::refusal::Code::Unreachable;
    Err(gpuslice_core::refusal::Refusal::new(code, "gpusliced is stopping")
        .hint(hint!("try again")))
}

#[cfg(test)]
mod tests;
