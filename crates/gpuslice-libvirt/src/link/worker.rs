//! The one thread that calls libvirt. Its calls block for as long as libvirt pleases (while domains autostart, for
//! minutes), so everyone else sends it a job and waits as long as *they* please. The queue is bounded: when libvirt
//! hangs, a flood of questions is refused instead of kept.

use super::connection::Connection;
use super::error::LinkError;
use super::ffi::{Notice, Tell, Unplugged};
use gpuslice_core::hint;
use gpuslice_core::refusal::{Code, Refusal};
use std::sync::{Arc, Mutex, PoisonError};
use std::{io, thread};
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::mpsc::{self, UnboundedSender};
use tokio::sync::{broadcast, oneshot};

/// Most jobs waiting.
const QUEUE: usize = 32;

/// Answers of guests that may come before one who waits for them takes them.
const ANSWERS: usize = 64;

type Job = Box<dyn FnOnce(&mut Link) + Send>;

/// What the thread owns.
#[derive(Debug)]
struct Link {
    uri: String,
    tell: Tell,
    opened: u64,
    connection: Option<Connection>,
}

impl Link {
    /// Says so if a failure was the connection's, should libvirt's own notice fail to come.
    fn failure(&mut self, error: LinkError) -> LinkError {
        if self.connection.as_ref().is_none_or(Connection::alive) {
            return error;
        }
        self.connection = None;
        // The receiver is gone only while the process ends.
        let _ = self
            .tell
            .notices
            .send(Notice::Closed { connection: self.opened, reason: "the connection is dead" });
        LinkError::Lost { uri: self.uri.clone(), source: Box::new(error) }
    }

    fn connection(&self) -> Result<&Connection, LinkError> {
        self.connection.as_ref().ok_or_else(|| LinkError::Down { uri: self.uri.clone() })
    }
}

/// Sends jobs to the thread.
#[derive(Debug, Clone)]
pub struct Worker {
    jobs: mpsc::Sender<Job>,
    doing: Arc<Mutex<Option<String>>>,
    uri: Arc<str>,
    unplugged: broadcast::Sender<Unplugged>,
}

impl Worker {
    /// Starts the thread, not yet connected. It ends when the last `Worker` is dropped and libvirt has answered.
    ///
    /// # Errors
    /// The kernel gave no thread.
    pub fn start(uri: &str, notices: UnboundedSender<Notice>) -> io::Result<Self> {
        let (jobs, mut queue) = mpsc::channel::<Job>(QUEUE);
        let (unplugged, _) = broadcast::channel(ANSWERS);
        let tell = Tell { notices, unplugged: unplugged.clone() };
        let mut link = Link { uri: uri.to_owned(), tell, opened: 0, connection: None };
        thread::Builder::new().name("libvirt-calls".to_owned()).spawn(move || {
            while let Some(job) = queue.blocking_recv() {
                job(&mut link);
            }
        })?;
        Ok(Self { jobs, doing: Arc::default(), uri: uri.into(), unplugged })
    }

    /// Where it connects to.
    pub fn uri(&self) -> &str {
        &self.uri
    }

    /// What guests answer to hot-unplugs from now on. It comes past the queue of jobs.
    pub fn unplugged(&self) -> broadcast::Receiver<Unplugged> {
        self.unplugged.subscribe()
    }

    /// What the thread waits for libvirt to do right now, for a person who waits with it.
    pub fn doing(&self) -> Option<String> {
        self.doing.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Closes what is open and connects anew. The answer is the connection's number.
    ///
    /// # Errors
    /// libvirt is not there or does not let us in.
    pub async fn connect(&self) -> Result<u64, Refusal> {
        let what = format!("connecting to {}", self.uri);
        let (job, answer) = self.job(what, |link| {
            link.connection = None;
            link.opened += 1;
            let connection = Connection::open(&link.uri, link.opened, &link.tell)?;
            link.connection = Some(connection);
            Ok(link.opened)
        });
        self.wait_for_room(job).await?;
        answered(answer.await)
    }

    /// Closes the connection, if one is open.
    pub async fn disconnect(&self) {
        let (job, answer) = self.job("closing the connection".to_owned(), |link| {
            link.connection = None;
            Ok(())
        });
        if self.wait_for_room(job).await.is_ok() {
            // Only a panic of the thread leaves it unanswered, and then there is no connection to close.
            let _ = answer.await;
        }
    }

    /// Runs a call once all before it are done. A job whose asker has given up is not begun.
    ///
    /// # Errors
    /// Not connected, or the call's own.
    pub async fn call<T, F>(&self, what: String, call: F) -> Result<T, Refusal>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> Result<T, LinkError> + Send + 'static,
    {
        let (job, answer) = self.job(what, |link| call(link.connection()?));
        self.wait_for_room(job).await?;
        answered(answer.await)
    }

    /// Like [`Self::call`], for callers of whom there may be any number: a full queue is refused.
    ///
    /// # Errors
    /// As [`Self::call`], and when too many wait already.
    pub async fn call_if_room<T, F>(&self, what: String, call: F) -> Result<T, Refusal>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> Result<T, LinkError> + Send + 'static,
    {
        let (job, answer) = self.job(what, |link| call(link.connection()?));
        match self.jobs.try_send(job) {
            Ok(()) => answered(answer.await),
            Err(TrySendError::Closed(_)) => Err(ended()),
            Err(TrySendError::Full(_)) => Err(self.late("too many calls wait for libvirt")),
        }
    }

    /// The refusal for someone who has waited long enough.
    pub fn late(&self, message: impl Into<String>) -> Refusal {
        let refusal = Refusal::new(Code::Timeout, message)
            .hint(hint!("journalctl -u libvirtd -u virtqemud, mend what it says, then try again"));
        match self.doing() {
            Some(what) => refusal.because(format!("libvirt has not finished {what}")),
            None => refusal,
        }
    }

    fn job<T, F>(&self, what: String, call: F) -> (Job, oneshot::Receiver<Result<T, LinkError>>)
    where
        T: Send + 'static,
        F: FnOnce(&mut Link) -> Result<T, LinkError> + Send + 'static,
    {
        let (reply, answer) = oneshot::channel();
        let doing = Arc::clone(&self.doing);
        let set = move |what| *doing.lock().unwrap_or_else(PoisonError::into_inner) = what;
        let job = move |link: &mut Link| {
            if reply.is_closed() {
                return;
            }
            set(Some(what));
            let result = call(link).map_err(|error| link.failure(error));
            set(None);
            // The asker may have given up meanwhile; what was done is done, and seen at the next look.
            let _ = reply.send(result);
        };
        (Box::new(job), answer)
    }

    async fn wait_for_room(&self, job: Job) -> Result<(), Refusal> {
        self.jobs.send(job).await.map_err(|_| ended())
    }
}

fn answered<T>(
    answer: Result<Result<T, LinkError>, oneshot::error::RecvError>,
) -> Result<T, Refusal> {
    answer.map_err(|_| ended())?.map_err(Refusal::from)
}

fn ended() -> Refusal {
    Refusal::new(Code::Unreachable, "the thread that calls libvirt has ended")
        .hint(hint!("systemctl restart gpuslice-libvirt-agent, then the same again"))
}
