//! This machine: sysfs, uevents, child processes for writes that can hang, pidfds for the holders of slices.

use super::look::{self, Look};
use super::watch::Watcher;
use crate::engine::Handle;
use anyhow::Context;
use gpuslice_core::errno::Errno;
use gpuslice_core::execute::{self, Performed, StepError};
use gpuslice_core::health;
use gpuslice_core::ids::{BootId, ParentId, SliceId};
use gpuslice_core::machine::{Event, OpId};
use gpuslice_core::observation::Observation;
use gpuslice_core::observe::Observer;
use gpuslice_core::plan::Step;
use gpuslice_core::port::{HostRead, Ran};
use gpuslice_host::uevents::{Source, UeventNote, Uevents};
use gpuslice_host::{KernelLog, SysHost, boot, child};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::{RwLock, oneshot};

/// Pauses between looks at a post-condition; then the step has failed, unless the kernel works on for longer.
const LOOKS_MS: [u64; 9] = [1, 2, 5, 10, 25, 60, 150, 400, 1000];

/// Between two looks where the kernel takes seconds.
const LAST_PAUSE_MS: u64 = 1000;

/// See the module.
pub struct Real {
    host: SysHost,
    observer: Observer,
    handle: Handle,
    watcher: Watcher,
    tools: Arc<Tools>,
    /// As many of them as had ended at the last reading.
    tools_ended: u64,
    /// Stops listening when dropped.
    _uevents: Uevents,
    /// Until somebody waits for it.
    deaf: Option<oneshot::Receiver<Errno>>,
    /// This boot.
    pub boot: BootId,
}

/// Vendors' tools, and attributes that are as one. What is asked is in the way of what sets a device, or waits for it.
#[derive(Default)]
struct Tools {
    /// Steps that set a device.
    running: AtomicU64,
    ended: AtomicU64,
    /// A step that runs one has it for reading, who asks one beside the readings for writing.
    turn: RwLock<()>,
    /// What was told beside the readings since the last one.
    told: Mutex<Vec<Told>>,
}

/// A question and what came of it.
struct Told {
    command: Vec<String>,
    how: Result<Ran, Errno>,
}

impl Tools {
    /// Has none asked while a step runs one. That which is past its time while no other ends may never end, and there are
    /// other devices to ask about.
    async fn unasked<T>(&self, time: Duration, work: impl Future<Output = T>) -> T {
        let turn = self.turn.read().await;
        let mut work = std::pin::pin!(work);
        let in_time = loop {
            let ended = self.ended.load(Ordering::Acquire);
            match tokio::time::timeout(time, work.as_mut()).await {
                Ok(result) => break Some(result),
                Err(_) if self.ended.load(Ordering::Acquire) == ended => break None,
                Err(_) => {}
            }
        };
        if in_time.is_some() {
            self.ended.fetch_add(1, Ordering::AcqRel);
        }
        self.running.fetch_sub(1, Ordering::AcqRel);
        drop(turn);
        match in_time {
            Some(result) => result,
            None => {
                let result = work.await;
                self.ended.fetch_add(1, Ordering::AcqRel);
                result
            }
        }
    }
}

impl Real {
    /// Listens first; what changes before the first reading is then read twice, not never.
    pub fn open(handle: &Handle) -> anyhow::Result<Self> {
        let root = std::env::var("GPUSLICE_ROOT").unwrap_or_else(|_| "/".to_owned());
        let host = SysHost::new(&root).with_context(|| format!("use {root} as root"))?;
        let (lost, deaf) = oneshot::channel();
        let uevents = Uevents::listen(Source::detect(), listener(handle.clone(), lost))?;
        let boot = boot::boot_id(&host)?;
        tokio::spawn(listen_to_log(host.clone(), handle.clone()));
        let observer = Observer::new(gpuslice_vendors::all());
        let watcher = Watcher::start(host.clone(), handle.clone());
        let (tools, tools_ended) = (Arc::default(), 0);
        let handle = handle.clone();
        Ok(Self {
            host,
            observer,
            handle,
            watcher,
            tools,
            tools_ended,
            _uevents: uevents,
            deaf: Some(deaf),
            boot,
        })
    }

    /// Where it is told, once, that uevents come no more.
    pub fn deaf(&mut self) -> Option<oneshot::Receiver<Errno>> {
        self.deaf.take()
    }

    /// Its root.
    pub fn name(&self) -> String {
        format!("{}sys", self.host.root().trim_end_matches('/').to_owned() + "/")
    }

    /// Reads everything, slots only where they are wanted, NUMA nodes that are known only where they are wanted anew.
    pub fn observe(&mut self, slots: bool, nodes: bool) -> Observation {
        self.observer.read_slots(slots);
        self.observer.read_nodes(nodes);
        let told = self.tools.told.lock().map(|mut told| std::mem::take(&mut *told));
        for Told { command, how } in told.unwrap_or_default() {
            self.observer.asked_again(&command, how);
        }
        // Ended first: one that ends in between is seen at the reading that follows each step.
        let ended = self.tools.ended.load(Ordering::Acquire);
        if ended != self.tools_ended {
            self.tools_ended = ended;
            self.observer.forget_answers();
        }
        self.observer.may_ask(self.tools.running.load(Ordering::Acquire) == 0);
        self.observer.observe(&self.host)
    }

    /// While a tool is at work none is asked, and what was told stays known.
    pub fn ask_anew(&mut self) {
        if self.tools.running.load(Ordering::Acquire) == 0 {
            self.observer.ask_anew();
        }
    }

    /// See [`super::Backend::ask_again`]. After a tool that is at work there is a reading which asks.
    pub fn ask_again(&self) {
        let failed = self.observer.failed_questions();
        if failed.is_empty() {
            return;
        }
        let (host, handle) = (self.host.clone(), self.handle.clone());
        let tools = Arc::clone(&self.tools);
        tokio::spawn(async move {
            let Ok(_turn) = tools.turn.try_write() else { return };
            for command in failed {
                let (host, question) = (host.clone(), command.clone());
                let asked = tokio::task::spawn_blocking(move || host.ask(&question)).await;
                let how = asked.unwrap_or(Err(Errno::EAGAIN));
                let answered = how.is_ok();
                if let Ok(mut told) = tools.told.lock() {
                    told.push(Told { command, how });
                }
                if answered {
                    handle.host_changed();
                }
            }
        });
    }

    /// For looks that are not observations.
    pub fn reader(&self) -> &dyn HostRead {
        &self.host
    }

    /// Looks for who holds these slices.
    pub fn look(&self, slices: Vec<SliceId>) -> Look {
        look::beside(self.host.clone(), slices)
    }

    /// Starts a step.
    pub fn execute(&self, op: OpId, step: Step) {
        let (host, handle) = (self.host.clone(), self.handle.clone());
        let tools = step.sets_device().then(|| Arc::clone(&self.tools));
        if let Some(tools) = &tools {
            tools.running.fetch_add(1, Ordering::AcqRel);
        }
        tokio::spawn(async move {
            let time = Duration::from_millis(step.deadline_ms());
            let work = perform(&host, step);
            let result = match tools {
                Some(tools) => tools.unasked(time, work).await,
                None => work.await,
            };
            handle.happened(Event::StepFinished { op, result }).await;
        });
    }

    /// See [`super::Backend::await_writer`].
    pub fn await_writer(&self, parent: ParentId, step: Step) {
        let (host, handle) = (self.host.clone(), self.handle.clone());
        tokio::spawn(async move { wait_for_writer(&host, parent, step, &handle).await });
    }

    /// Watches a slice.
    pub fn watch(&self, slice: SliceId) {
        self.watcher.watch(slice);
    }
}

/// What is made of each note: a look, or where no more come an end.
fn listener(handle: Handle, lost: oneshot::Sender<Errno>) -> impl FnMut(UeventNote) {
    let mut lost = Some(lost);
    move |note| match (note, lost.take()) {
        // Whoever does not wait for it ends already.
        (UeventNote::Lost(errno), Some(lost)) => drop(lost.send(errno)),
        (_, kept) => {
            lost = kept;
            handle.host_changed();
        }
    }
}

/// Tells what the kernel's log says of devices: from its begin, then as it grows. Lines of others wake this task alone,
/// and are thrown away where they were read.
async fn listen_to_log(host: SysHost, handle: Handle) {
    let mechanisms = gpuslice_vendors::all();
    let opened = KernelLog::open(&host).and_then(|log| Ok((log.to_poll()?, log)));
    let (poll, log) = match opened {
        Ok((poll, log)) => (readiness(poll), log),
        Err(errno) => {
            return tracing::warn!(
                "cannot read the kernel's log, so nothing is known of GPUs that fail: {errno}"
            );
        }
    };
    loop {
        let mut said = Vec::new();
        let read = log.read(|record| {
            // A program that may write to it may also speak for a driver.
            if record.of_kernel && mechanisms.iter().any(|m| m.trouble(record.text).is_some()) {
                said.extend(health::said(&mechanisms, &record.line()));
            }
        });
        if !said.is_empty() {
            handle.happened(Event::Said(said)).await;
        }
        if let Err(errno) = read {
            return tracing::warn!("the kernel's log cannot be read any more: {errno}");
        }
        // A file in its place does not grow.
        let Some(poll) = &poll else { return };
        match poll.readable().await {
            Ok(mut ready) => ready.clear_ready(),
            Err(error) => return tracing::warn!("the kernel's log cannot be followed: {error}"),
        }
    }
}

/// Tells when the last process that performs the step has ended, and before that whether there is one.
async fn wait_for_writer(host: &SysHost, parent: ParentId, step: Step, handle: &Handle) {
    let mut told = false;
    loop {
        let (reader, name) = (host.clone(), step.to_string());
        let looked = tokio::task::spawn_blocking(move || child::find(&reader, &name));
        let Ok(Ok(found)) = looked.await else { break };
        let Some(fd) = found.into_iter().next() else { break };
        if !std::mem::replace(&mut told, true) {
            let (parent, step) = (parent.clone(), step.clone());
            handle.happened(Event::WriterFound { parent, step }).await;
        }
        if let Some(fd) = readiness(fd) {
            // An error here means the descriptor itself is dead: look again.
            let _ = fd.readable().await;
        }
    }
    handle.happened(Event::WriterGone { parent, step }).await;
}

async fn perform(host: &SysHost, step: Step) -> Result<Performed, StepError> {
    let began = Instant::now();
    let done = if step.can_block() {
        in_child(host, &step).await
    } else {
        let (mut host, step) = (host.clone(), step.clone());
        let done = tokio::task::spawn_blocking(move || execute::perform(&mut host, &step)).await;
        done.unwrap_or(Ok(Performed::NotYet))
    };
    match done {
        Ok(Performed::NotYet | Performed::Blocked) => until_so(host, &step, began.elapsed()).await,
        other => other,
    }
}

/// A child that ends without an answer may or may not have written: what is seen decides.
async fn in_child(host: &SysHost, step: &Step) -> Result<Performed, StepError> {
    let answered = async {
        let command = child::command(host, step).map_err(|error| error.to_string())?;
        let output = tokio::process::Command::from(command)
            .output()
            .await
            .map_err(|error| format!("start a child process: {error}"))?;
        child::answer(&output.stdout, output.status).map_err(|error| error.to_string())
    };
    match answered.await {
        Ok(outcome) => outcome,
        Err(why) => {
            tracing::warn!("{step}: {why}");
            Ok(Performed::NotYet)
        }
    }
}

/// The write itself has taken some of its time.
async fn until_so(host: &SysHost, step: &Step, took: Duration) -> Result<Performed, StepError> {
    let took = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
    let mut patience = step.patience_ms().unwrap_or(0).saturating_sub(took);
    let mut pauses = LOOKS_MS.into_iter();
    while let Some(pause) = pauses.next().or_else(|| (patience > 0).then_some(LAST_PAUSE_MS)) {
        match look(host, step).await? {
            Performed::NotYet => tokio::time::sleep(Duration::from_millis(pause)).await,
            so => return Ok(so),
        }
        patience = patience.saturating_sub(pause);
    }
    Err(execute::never_so(host, step))
}

/// A tool is asked, or an attribute read, that may sleep as long as the device is being set.
async fn look(host: &SysHost, step: &Step) -> Result<Performed, StepError> {
    let (host, step) = (host.clone(), step.clone());
    let looked = tokio::task::spawn_blocking(move || execute::check(&host, &step)).await;
    looked.unwrap_or(Ok(Performed::NotYet))
}

/// To wait until it can be read.
#[allow(unsafe_code)]
pub(super) fn readiness(fd: OwnedFd) -> Option<AsyncFd<OwnedFd>> {
    // SAFETY: the descriptor is owned by the value it is moved into, which keeps it open and never exchanges it.
    unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) }.ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::{Input, channel};

    #[tokio::test]
    async fn what_is_heard_means_a_look_and_that_nothing_is_heard_an_end() {
        let (handle, mut inbox) = channel();
        let (lost, deaf) = oneshot::channel();
        let mut tell = listener(handle, lost);
        for _ in 0..2 {
            tell(UeventNote::Rescan);
            assert!(matches!(inbox.recv().await, Some(Input::HostChanged)));
        }
        tell(UeventNote::Lost(Errno::EBADF));
        assert_eq!(deaf.await, Ok(Errno::EBADF));
    }

    #[tokio::test]
    async fn a_tool_past_its_time_keeps_none_from_being_asked() {
        let tools = Tools::default();
        tools.running.store(1, Ordering::Release);
        let (end, ended) = oneshot::channel::<()>();
        let at_work = tools.unasked(Duration::ZERO, ended);
        let asked = async {
            while tools.running.load(Ordering::Acquire) != 0 {
                tokio::task::yield_now().await;
            }
            drop(tools.turn.write().await);
            assert_eq!(tools.ended.load(Ordering::Acquire), 0);
            end.send(()).unwrap();
        };
        let (result, ()) = tokio::join!(at_work, asked);
        assert_eq!((result, tools.ended.load(Ordering::Acquire)), (Ok(()), 1));
    }

    #[tokio::test]
    async fn none_is_asked_while_a_tool_is_at_work() {
        let tools = Tools::default();
        tools.running.store(1, Ordering::Release);
        let (end, ended) = oneshot::channel::<()>();
        let at_work = tools.unasked(Duration::from_secs(3600), ended);
        let asked = async {
            while tools.turn.try_write().is_ok() {
                tokio::task::yield_now().await;
            }
            assert_eq!(tools.running.load(Ordering::Acquire), 1);
            end.send(()).unwrap();
        };
        let (result, ()) = tokio::join!(at_work, asked);
        assert_eq!((result, tools.running.load(Ordering::Acquire)), (Ok(()), 0));
        assert!(tools.turn.try_write().is_ok());
    }
}
