//! The socket side of the client: one JSON line asks, one answers.

use super::blocking;
use super::error::{CallError, DAEMON};
use super::list::{List, Listing};
use crate::refused::chain;
use gpuslice_core::errno::Errno;
use gpuslice_core::refusal::{Code, Refusal};
use gpuslice_core::request::{Answer, Command};
use gpuslice_hook_proto::{
    Body, DecodeError, Lines, REPLY_LIMIT, Reply, ReplyBody, Request, Served,
};
use rustix::io::retry_on_intr;
use rustix::rand::{GetRandomFlags, getrandom};
use std::future::Future;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use uuid::Uuid;

/// Bytes asked for at once: a list of hundreds of rows.
const READ_AT_ONCE: usize = 64 * 1024;

/// What the lines go through.
pub(super) trait Stream {
    fn write_all(&mut self, bytes: &[u8]) -> impl Future<Output = io::Result<()>> + Send;

    /// Appends what comes next, up to the room there is; 0 at the end.
    fn read_into(&mut self, bytes: &mut Vec<u8>) -> impl Future<Output = io::Result<usize>> + Send;
}

impl Stream for UnixStream {
    async fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        AsyncWriteExt::write_all(self, bytes).await
    }

    async fn read_into(&mut self, bytes: &mut Vec<u8>) -> io::Result<usize> {
        self.read_buf(bytes).await
    }
}

/// A connection to the daemon's socket.
#[derive(Debug)]
pub(super) struct SocketLink<S> {
    path: PathBuf,
    stream: S,
    lines: Lines,
}

impl SocketLink<UnixStream> {
    pub(super) async fn connect(path: &Path) -> Result<Self, CallError> {
        let stream =
            UnixStream::connect(path).await.map_err(|error| cannot_connect(path, &error))?;
        Ok(Self { path: path.to_owned(), stream, lines: Lines::new(REPLY_LIMIT) })
    }
}

impl SocketLink<blocking::Stream> {
    /// One whose calls never wait but in the kernel, so that no runtime is needed.
    pub(super) fn connect_blocking(path: &Path) -> Result<Self, CallError> {
        let stream =
            blocking::Stream::connect(path).map_err(|error| cannot_connect(path, &error))?;
        Ok(Self { path: path.to_owned(), stream, lines: Lines::new(REPLY_LIMIT) })
    }

    /// From now on gives up after so long.
    pub(super) fn patience(&mut self, patience: Option<Duration>) {
        self.stream.patience(patience);
    }
}

impl<S: Stream> SocketLink<S> {
    pub(super) async fn command(&mut self, command: Command) -> Result<Answer, CallError> {
        let id = self.send(command).await?;
        loop {
            let line = self.line().await?;
            if let Some(answer) = taken(id, Reply::from_line(&line))? {
                return Ok(*answer);
            }
        }
    }

    pub(super) async fn list(&mut self, what: &Listing) -> Result<List, CallError> {
        let id = self.send(what.command()).await?;
        loop {
            let line = self.line().await?;
            if let Some(rows) = taken(id, Reply::list_from_line(&line))? {
                let at = List::place(what, &rows, &line)?;
                return List::within(line, at);
            }
        }
    }

    async fn send(&mut self, command: Command) -> Result<Uuid, CallError> {
        let id = request_id()?;
        let line = Request::new(id, Body::Command(command)).to_line().map_err(|e| protocol(&e))?;
        let written = self.stream.write_all(line.as_bytes()).await;
        written.map_err(|e| self.broke_off(&e.to_string()))?;
        Ok(id)
    }

    async fn line(&mut self) -> Result<Vec<u8>, CallError> {
        loop {
            if let Some(line) = self.lines.next_line().map_err(|e| protocol(&e))? {
                return Ok(line);
            }
            let read = self.stream.read_into(self.lines.room(READ_AT_ONCE)).await;
            let read = read.map_err(|e| self.broke_off(&e.to_string()))?;
            if read == 0 {
                return Err(self.broke_off("closed before it answered"));
            }
        }
    }

    fn broke_off(&self, how: &str) -> CallError {
        CallError::Unreachable {
            who: DAEMON,
            masked: false,
            tried: vec![format!("{}: {how}", self.path.display())],
        }
    }
}

/// The answer in a reply; `None` for the reply to a call that was given up on, which may still arrive before ours.
fn taken<A>(id: Uuid, reply: Result<Reply<A>, DecodeError>) -> Result<Option<Box<A>>, CallError> {
    let reply = match reply {
        Err(DecodeError::Body { id: other, .. }) if other != id && !other.is_nil() => {
            return Ok(None);
        }
        reply => reply.map_err(|e| protocol(&e))?,
    };
    if reply.id != id && !reply.id.is_nil() {
        return Ok(None);
    }
    match reply.body {
        ReplyBody::Ok(Served::Command(answer)) => Ok(Some(answer)),
        ReplyBody::Ok(Served::Hook(_)) => {
            Err(CallError::Protocol { what: "a hook's reply to a command".to_owned() })
        }
        ReplyBody::Refused(refusal) => Err(refusal.into()),
    }
}

/// A name no other request has.
fn request_id() -> Result<Uuid, CallError> {
    let mut bytes = uuid::Bytes::default();
    // So few bytes come whole (getrandom(2)).
    retry_on_intr(|| getrandom(&mut bytes, GetRandomFlags::empty())).map_err(|errno| {
        let errno = Errno(errno.raw_os_error());
        CallError::Unreachable {
            who: DAEMON,
            masked: false,
            tried: vec![format!("ask for random bytes: {errno}")],
        }
    })?;
    Ok(uuid::Builder::from_random_bytes(bytes).into_uuid())
}

fn protocol(error: &dyn std::error::Error) -> CallError {
    CallError::Protocol { what: chain(error) }
}

fn cannot_connect(path: &Path, error: &io::Error) -> CallError {
    let path = path.display();
    match error.kind() {
        io::ErrorKind::PermissionDenied => CallError::NotPermitted(
            Refusal::new(Code::NotPermitted, format!("{path} is for root"))
                .because(format!("connect {path}: permission denied (EACCES)")),
        ),
        _ => CallError::Unreachable {
            who: DAEMON,
            masked: false,
            tried: vec![format!("connect {path}: {}", os_text(error))],
        },
    }
}

/// The error's words as strerror(3) has them, lower case, with its name.
fn os_text(error: &io::Error) -> String {
    match (error.kind(), error.raw_os_error()) {
        (io::ErrorKind::ConnectionRefused, _) => "connection refused (ECONNREFUSED)".to_owned(),
        (_, Some(number)) => Errno(number).to_string(),
        (_, None) => error.to_string(),
    }
}
