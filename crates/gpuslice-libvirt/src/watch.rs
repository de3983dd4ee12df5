//! What the agent does by itself: follows libvirt's events and the daemon's, and connects again to whichever went
//! away. At rest it waits on sockets only; a timer runs only while one of them is down, fails, or has no
//! time.

use crate::agent::{Agent, Trouble};
use crate::link::{Connection, Notice};
use crate::todo::{Step, Todo};
use gpuslice_api::client::{Changes, Event};
use gpuslice_core::refusal::{Code, Refusal};
use gpuslice_core::request::DueStart;
use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};
use tokio::time::{Instant, sleep_until};
use uuid::Uuid;

const SHORTEST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(30);

/// Kind of the daemon's signal that is for us.
const AGENT_WORK: &str = "agent-work";

/// The bus is gone, and with it everyone who could ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the connection to the bus ended")]
pub struct BusGone;

/// What the daemon told us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum News {
    Up,
    Down,
    Work,
}

/// Something that is tried again, later each time.
#[derive(Debug)]
struct Retry {
    at: Option<Instant>,
    wait: Duration,
}

impl Retry {
    fn now() -> Self {
        Self { at: Some(Instant::now()), wait: SHORTEST }
    }

    fn never() -> Self {
        Self { at: None, wait: SHORTEST }
    }

    fn done(&mut self) {
        *self = Self::never();
    }

    fn later(&mut self) {
        self.at = Some(Instant::now() + self.wait);
        self.wait = (self.wait * 2).min(LONGEST);
    }

    /// Ends when it is time; never, when nothing is to be tried.
    async fn due(&self) {
        match self.at {
            Some(at) => sleep_until(at).await,
            None => std::future::pending().await,
        }
    }
}

/// Steps that are put aside for a while, so that they hold up no others: those that libvirt had no time for, which it says
/// after half a minute, or was gone for, are tried once more; those that the daemon could not record until it can.
#[derive(Debug)]
struct SecondTry {
    retry: Retry,
    waiting: Vec<Step>,
    tried: Vec<Step>,
}

impl SecondTry {
    fn none() -> Self {
        Self { retry: Retry::never(), waiting: Vec::new(), tried: Vec::new() }
    }

    fn later(&mut self, step: Step) {
        if !self.tried_again(&step) {
            self.put_aside(step);
        }
    }

    fn until_it_is_done(&mut self, step: Step) {
        self.tried_again(&step);
        self.put_aside(step);
    }

    fn put_aside(&mut self, step: Step) {
        if !self.waiting.contains(&step) {
            self.waiting.push(step);
        }
        if self.retry.at.is_none() {
            self.retry.later();
        }
    }

    /// Whether this was its second try, which is over.
    fn tried_again(&mut self, step: &Step) -> bool {
        let tried = self.tried.len();
        self.tried.retain(|other| other != step);
        self.tried.len() != tried
    }

    fn went_well(&mut self, step: &Step) {
        self.tried_again(step);
        self.waiting.retain(|other| other != step);
        if self.waiting.is_empty() && self.tried.is_empty() {
            self.retry.done();
        }
    }

    /// Those that have waited.
    fn steps(&mut self) -> std::vec::IntoIter<Step> {
        self.retry.at = None;
        let steps = std::mem::take(&mut self.waiting);
        self.tried.extend(steps.iter().cloned());
        steps.into_iter()
    }
}

/// A domain that libvirt did not let us write.
#[derive(Debug)]
struct Refused {
    at: Instant,
    wait: Duration,
    /// Something was told of it meanwhile.
    told: bool,
}

/// Domains whose next look waits, longer each time: what was set and taken back was told like any other edit, so that one look
/// would follow the other.
#[derive(Debug, Default)]
struct Unwritten(BTreeMap<Uuid, Refused>);

impl Unwritten {
    fn later(&mut self, domain: Uuid) {
        let now = Instant::now();
        let first = Refused { at: now, wait: SHORTEST, told: false };
        let refused = self.0.entry(domain).or_insert(first);
        refused.at = now + refused.wait;
        refused.wait = (refused.wait * 2).min(LONGEST);
    }

    /// Whether a step is put off.
    fn puts_off(&mut self, step: &Step) -> bool {
        let Step::Look(domain) = step else { return false };
        let Some(refused) = self.0.get_mut(domain) else { return false };
        refused.told = Instant::now() < refused.at;
        refused.told
    }

    /// Ends when the first that was put off is due.
    async fn due(&self) -> Uuid {
        let told = self.0.iter().filter(|(_, refused)| refused.told);
        match told.min_by_key(|(_, refused)| refused.at) {
            Some((domain, refused)) => {
                sleep_until(refused.at).await;
                *domain
            }
            None => std::future::pending().await,
        }
    }

    fn over(&mut self, step: &Step) {
        if let Step::Look(domain) | Step::Gone(domain) = step {
            self.0.remove(domain);
        }
    }
}

/// The watch.
pub struct Watch<R> {
    agent: Arc<Agent>,
    notices: UnboundedReceiver<Notice>,
    news: UnboundedReceiver<News>,
    todo: Todo,
    /// Number of the open connection to libvirt.
    libvirt: Option<u64>,
    reconnect: Retry,
    daemon_up: bool,
    ask_again: Retry,
    second: SecondTry,
    unwritten: Unwritten,
    report: R,
}

impl<R> std::fmt::Debug for Watch<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Watch").finish_non_exhaustive()
    }
}

impl<R: FnMut(&str)> Watch<R> {
    /// A watch that is not yet connected to libvirt. `daemon_up`: whether the daemon was on the bus after `changes`
    /// began to listen. `report` is told in words how things stand whenever that changes.
    pub fn new(
        agent: Arc<Agent>,
        notices: UnboundedReceiver<Notice>,
        changes: Changes,
        daemon_up: bool,
        report: R,
    ) -> Self {
        let (sender, news) = mpsc::unbounded_channel();
        tokio::spawn(forward(changes, sender));
        Self {
            agent,
            notices,
            news,
            todo: Todo::default(),
            libvirt: None,
            reconnect: Retry::now(),
            daemon_up,
            ask_again: Retry::never(),
            second: SecondTry::none(),
            unwritten: Unwritten::default(),
            report,
        }
    }

    /// Watches for as long as there is a bus.
    ///
    /// # Errors
    /// The bus is gone.
    pub async fn run(mut self) -> Result<(), BusGone> {
        self.say();
        loop {
            self.take_in()?;
            let able = self.libvirt.is_some() && self.daemon_up && self.ask_again.at.is_none();
            if able && let Some(step) = self.todo.take() {
                if !self.unwritten.puts_off(&step) {
                    self.perform(step).await;
                }
                continue;
            }
            // Every arm may be dropped when another is ready: receiving and waiting lose nothing.
            tokio::select! {
                notice = self.notices.recv() => match notice {
                    Some(notice) => self.heed(&notice),
                    None => return Ok(()),
                },
                news = self.news.recv() => self.hear(news.ok_or(BusGone)?),
                () = self.reconnect.due() => self.connect().await,
                () = self.ask_again.due() => self.ask_again.at = None,
                domain = self.unwritten.due() => {
                    if let Some(refused) = self.unwritten.0.get_mut(&domain) {
                        refused.told = false;
                    }
                    self.todo.look([domain]);
                }
                // Each is put first.
                () = self.second.retry.due() => {
                    self.second.steps().rev().for_each(|step| self.todo.again(&step));
                }
            }
        }
    }

    /// Everything that came meanwhile, so that a domain is looked at once for many events.
    fn take_in(&mut self) -> Result<(), BusGone> {
        while let Ok(notice) = self.notices.try_recv() {
            self.heed(&notice);
        }
        loop {
            match self.news.try_recv() {
                Ok(news) => self.hear(news),
                Err(mpsc::error::TryRecvError::Empty) => return Ok(()),
                Err(mpsc::error::TryRecvError::Disconnected) => return Err(BusGone),
            }
        }
    }

    fn heed(&mut self, notice: &Notice) {
        match notice {
            Notice::Closed { connection, reason } if self.libvirt == Some(*connection) => {
                tracing::warn!("{reason}; connecting again");
                self.libvirt = None;
                self.reconnect.later();
                self.say();
            }
            Notice::Closed { .. } => {}
            other => self.todo.notice(other),
        }
    }

    fn hear(&mut self, news: News) {
        match news {
            News::Work => self.todo.work(),
            News::Up => {
                self.daemon_up = true;
                self.ask_again.done();
                self.todo.everything();
                self.say();
            }
            News::Down => {
                self.daemon_up = false;
                self.ask_again.done();
                self.say();
            }
        }
    }

    async fn connect(&mut self) {
        match self.agent.worker.connect().await {
            Ok(number) => {
                tracing::info!("connected to libvirt at {}", self.agent.worker.uri());
                self.libvirt = Some(number);
                self.reconnect.done();
                self.todo.everything();
            }
            Err(refusal) => {
                // Said once; the waits that follow are the same news.
                if self.reconnect.wait == SHORTEST {
                    tracing::warn!("{}", refusal.one_line());
                }
                self.reconnect.later();
            }
        }
        self.say();
    }

    fn say(&mut self) {
        let libvirt = match self.libvirt {
            Some(_) => "connected to",
            None => "waiting for",
        };
        let daemon = if self.daemon_up { "up" } else { "down" };
        let uri = self.agent.worker.uri();
        (self.report)(&format!("{libvirt} {uri}; gpusliced {daemon}"));
    }

    async fn perform(&mut self, step: Step) {
        let mut done = pin!(do_step(Arc::clone(&self.agent), step.clone()));
        // However long it takes, what is told meanwhile is folded at once rather than kept: a domain is one entry,
        // whatever happens to it.
        let outcome = loop {
            tokio::select! {
                biased;
                outcome = &mut done => break outcome,
                Some(notice) = self.notices.recv() => self.heed(&notice),
                Some(news) = self.news.recv() => self.hear(news),
            }
        };
        match outcome {
            Ok(Next { gone, look, start }) => {
                self.todo.gone(gone);
                self.todo.look(look);
                if let Some(start) = start {
                    self.todo.start(&start, Instant::now() + self.agent.start_later);
                }
                self.ask_again.done();
                self.second.went_well(&step);
                self.unwritten.over(&step);
            }
            Err(Trouble::Daemon(refusal)) if refusal.code == Code::Unreachable => {
                tracing::warn!("{}", refusal.one_line());
                self.todo.again(&step);
                // When it left the bus it is not asked, which would start it, but awaited.
                self.ask_again.later();
            }
            Err(Trouble::Daemon(refusal)) if refusal.code == Code::StateUnwritable => {
                tracing::warn!("{}", refusal.one_line());
                // What needs no record goes on.
                self.second.until_it_is_done(step.later());
            }
            Err(Trouble::Daemon(refusal) | Trouble::Libvirt(refusal)) => {
                tracing::warn!("{}", refusal.one_line());
                // Else libvirt's next event, or its next connection, brings the domain up again.
                if matches!(refusal.code, Code::Unreachable | Code::Timeout) {
                    self.second.later(step.later());
                } else if let Step::Look(domain) = step {
                    self.unwritten.later(domain);
                }
            }
        }
    }
}

/// What a step brought up.
#[derive(Debug, Default)]
struct Next {
    gone: Vec<Uuid>,
    look: Vec<Uuid>,
    /// All that are to be started by now, where that was asked.
    start: Option<Vec<DueStart>>,
}

async fn do_step(agent: Arc<Agent>, step: Step) -> Result<Next, Trouble> {
    let mut next = Next::default();
    match step {
        Step::Gone(uuid) => {
            tracing::info!("domain {uuid} is undefined");
            agent.daemon.domain_gone(uuid).await.map_err(Trouble::Daemon)?;
        }
        Step::LookAtAll => (next.look, next.gone) = agent.list().await?,
        Step::Look(uuid) => agent.look(uuid).await?,
        Step::AskForWork => {
            let (look, start) = agent.daemon.work().await.map_err(Trouble::Daemon)?;
            (next.look, next.start) = (look, Some(start));
        }
        Step::Start { due, until } => {
            let uuid = due.domain;
            let start = move |connection: &Connection| {
                // libvirt was gone, or had no time.
                if Instant::now() >= until {
                    tracing::info!("domain {uuid} was to be started too long ago");
                    return Ok(false);
                }
                connection.start(due)
            };
            let start = agent.worker.call(format!("starting domain {uuid}"), start);
            if start.await.map_err(Trouble::Libvirt)? {
                tracing::info!("started domain {uuid}, which had been refused");
            }
        }
    }
    Ok(next)
}

/// Takes the daemon's signals off the bus at once: one that is not taken off holds up every reply behind it.
async fn forward(mut changes: Changes, news: UnboundedSender<News>) {
    while let Some(event) = changes.next().await {
        let told = match event {
            Ok(Event::DaemonUp) => News::Up,
            Ok(Event::DaemonGone) => News::Down,
            Ok(Event::Changed(note)) if note.kind == AGENT_WORK => News::Work,
            Ok(Event::Changed(_)) => continue,
            Err(error) => {
                let refusal = Refusal::new(Code::Unsupported, error.to_string());
                tracing::warn!("{}", refusal.one_line());
                continue;
            }
        };
        if news.send(told).is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_hour_without_libvirt_is_two_tries_a_minute_and_the_next_trouble_begins_anew() {
        let mut retry = Retry::now();
        let (mut gone, mut tries) = (Duration::ZERO, 0);
        while gone < Duration::from_secs(3600) {
            gone += retry.wait;
            retry.later();
            tries += 1;
        }
        // 1, 2, 4, 8, 16 seconds, and then every 30.
        assert_eq!((tries, retry.wait), (5 + 119, LONGEST));
        retry.done();
        assert_eq!((retry.at, retry.wait), (None, SHORTEST));
    }

    #[tokio::test(start_paused = true)]
    async fn what_libvirt_had_no_time_for_is_tried_once_more_and_a_new_event_begins_anew() {
        let [a, b] = [1, 2].map(|n| Step::Look(Uuid::from_u128(n)));
        let mut second = SecondTry::none();
        let began = Instant::now();
        second.later(a.clone());
        second.later(a.clone());
        second.later(b.clone());
        second.went_well(&b);
        second.retry.due().await;
        assert_eq!(Instant::now() - began, SHORTEST);
        assert!(second.steps().eq([a.clone()]));
        // The second try fails, and is the last.
        second.later(a.clone());
        assert_eq!((second.retry.at, second.steps().count()), (None, 0));
        second.later(a.clone());
        assert!(second.steps().eq([a]));
    }

    /// Each try makes an event of its own.
    #[tokio::test(start_paused = true)]
    async fn a_domain_that_libvirt_refuses_to_have_written_is_looked_at_after_a_pause() {
        let [a, b] = [1, 2].map(Uuid::from_u128);
        let mut unwritten = Unwritten::default();
        assert!(!unwritten.puts_off(&Step::Look(a)));
        for pause in [1, 2, 4, 8, 16, 30, 30] {
            unwritten.later(a);
            assert!(unwritten.puts_off(&Step::Look(a)) && !unwritten.puts_off(&Step::Look(b)));
            let before = Instant::now();
            assert_eq!(unwritten.due().await, a);
            assert_eq!(Instant::now() - before, Duration::from_secs(pause));
            assert!(!unwritten.puts_off(&Step::Look(a)));
        }
        unwritten.over(&Step::Look(a));
        unwritten.later(a);
        assert_eq!(unwritten.0[&a].at - Instant::now(), SHORTEST);
        // Of which nothing is told, nothing is done by itself.
        let minute = Duration::from_secs(60);
        assert!(tokio::time::timeout(minute, unwritten.due()).await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn what_could_not_be_recorded_is_tried_until_it_is_and_in_order() {
        let steps = [1, 2, 3].map(|n| Step::Gone(Uuid::from_u128(n)));
        let mut second = SecondTry::none();
        let began = Instant::now();
        for pause in [1, 2, 4, 8, 16, 30, 30] {
            steps.iter().for_each(|step| second.until_it_is_done(step.clone()));
            let before = Instant::now();
            second.retry.due().await;
            assert_eq!(Instant::now() - before, Duration::from_secs(pause));
            assert!(second.steps().eq(steps.clone()));
        }
        steps.iter().for_each(|step| second.went_well(step));
        assert_eq!((second.retry.at, second.retry.wait), (None, SHORTEST));
        assert_eq!(Instant::now() - began, Duration::from_secs(91));
    }
}
