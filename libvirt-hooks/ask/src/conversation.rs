//! One request and its reply, before a deadline and across restarts of the daemon: when the connection breaks, the
//! same is asked again under the same id over a new one.

use crate::Settings;
use gpuslice_core::hint;
use gpuslice_core::refusal::{Code, Refusal};
use gpuslice_hook_proto::{Lines, REPLY_LIMIT, Reply, Request};
use rustix::io::Errno;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketAddrUnix, SocketFlags, SocketType, connect, recv,
    send, socket_with,
};
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};
use uuid::Uuid;

/// First pause between connections; it doubles up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_millis(500);

/// Why there is no reply.
#[derive(Debug)]
pub enum NoAnswer {
    /// Nobody listens.
    Absent(Errno),
    /// The time is over.
    Deadline,
    /// Something came that is no reply.
    Nonsense(String),
    /// The request has no line.
    Unsendable(String),
}

impl NoAnswer {
    /// What a VM that needs the answer is refused with: `needs` says why it does, `unsendable` that it cannot be asked for.
    pub fn refusal(&self, settings: &Settings, needs: &str, unsendable: &str) -> Refusal {
        let socket = settings.socket.display();
        match self {
            Self::Absent(errno) => {
                let message = format!("{needs} and gpusliced does not answer");
                Refusal::new(Code::Unreachable, message)
                    .because(format!("connect {socket}: {errno}"))
                    .hint(hint!("systemctl start gpusliced"))
            }
            Self::Deadline => {
                let seconds = settings.deadline.as_secs();
                let message = format!("gpusliced gave no answer within {seconds} s");
                Refusal::new(Code::Timeout, message).hint(hint!(
                    "start it again, with a larger deadline-seconds in /etc/gpuslice/hook.conf"
                ))
            }
            Self::Nonsense(why) => {
                Refusal::new(Code::Unreachable, format!("{socket} answered what is no reply"))
                    .because(why.clone())
                    .hint(hint!("systemctl restart gpusliced"))
            }
            Self::Unsendable(why) => {
                Refusal::new(Code::BadRequest, unsendable).because(why.clone())
            }
        }
    }
}

/// How one connection ended without a reply.
enum Broken {
    /// It never was.
    Refused(Errno),
    /// The other side went away.
    Lost,
    /// There is no use in another.
    Final(NoAnswer),
}

/// Asks what `request` says at each try: of a time that it tells some has passed by the next one. When `needed`, a daemon
/// that has gone away in the middle is waited for even while nobody listens.
///
/// # Errors
/// Why there is no reply.
pub fn ask(
    socket: &Path,
    request: impl Fn() -> Request,
    deadline: Instant,
    needed: bool,
) -> Result<Reply, NoAnswer> {
    let mut pause = FIRST_PAUSE;
    let mut was_there = false;
    loop {
        let request = request();
        let line = request.to_line().map_err(|error| NoAnswer::Unsendable(error.to_string()))?;
        match once(socket, line.as_bytes(), &request, deadline) {
            Ok(reply) => return Ok(reply),
            Err(Broken::Final(failure)) => return Err(failure),
            Err(Broken::Lost) => was_there = true,
            Err(Broken::Refused(_)) if was_there && needed => {}
            Err(Broken::Refused(errno)) => return Err(NoAnswer::Absent(errno)),
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(NoAnswer::Deadline);
        }
        // Nothing tells when somebody listens again.
        std::thread::sleep(pause.min(left));
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

fn once(socket: &Path, line: &[u8], request: &Request, deadline: Instant) -> Result<Reply, Broken> {
    let daemon = connected(socket, deadline)?;
    let mut rest = line;
    while !rest.is_empty() {
        limit(&daemon, Timeout::Send, deadline)?;
        match send(&daemon, rest, SendFlags::NOSIGNAL) {
            Ok(sent) => rest = rest.get(sent..).unwrap_or_default(),
            Err(errno) => interrupted(errno)?,
        }
    }
    let mut lines = Lines::new(REPLY_LIMIT);
    let mut buffer = [0; 4096];
    loop {
        match lines.next_line() {
            Ok(Some(line)) => return understood(&line, request),
            Ok(None) => {}
            Err(error) => return Err(nonsense(&error)),
        }
        limit(&daemon, Timeout::Recv, deadline)?;
        match recv(&daemon, &mut buffer, RecvFlags::empty()) {
            Ok((0, _)) => return Err(Broken::Lost),
            Ok((read, _)) => lines.push(buffer.get(..read).unwrap_or_default()),
            Err(errno) => interrupted(errno)?,
        }
    }
}

fn connected(socket: &Path, deadline: Instant) -> Result<OwnedFd, Broken> {
    let address = SocketAddrUnix::new(socket).map_err(Broken::Refused)?;
    let daemon = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)
        .map_err(Broken::Refused)?;
    // connect(2) blocks while the daemon's queue is full; this limit is its limit too.
    limit(&daemon, Timeout::Send, deadline)?;
    loop {
        match connect(&daemon, &address) {
            Ok(()) => return Ok(daemon),
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => return Err(Broken::Final(NoAnswer::Deadline)),
            Err(errno) => return Err(Broken::Refused(errno)),
        }
    }
}

/// Lets the next call on the socket take no longer than there is time.
fn limit(daemon: &OwnedFd, which: Timeout, deadline: Instant) -> Result<(), Broken> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() {
        return Err(Broken::Final(NoAnswer::Deadline));
    }
    // The kernel takes microseconds, and 0 of them for "no limit".
    let left = left.max(Duration::from_millis(1));
    set_socket_timeout(daemon.as_fd(), which, Some(left)).map_err(Broken::Refused)
}

fn interrupted(errno: Errno) -> Result<(), Broken> {
    match errno {
        // A limit that ran out is seen by the next look at the clock.
        Errno::INTR | Errno::AGAIN => Ok(()),
        _ => Err(Broken::Lost),
    }
}

fn understood(line: &[u8], request: &Request) -> Result<Reply, Broken> {
    let reply = Reply::from_line(line).map_err(|error| nonsense(&error))?;
    // A daemon that could not read the id answers under none.
    if reply.id == request.id || reply.id.is_nil() {
        Ok(reply)
    } else {
        Err(nonsense(&"reply to another request"))
    }
}

fn nonsense(why: &dyn std::fmt::Display) -> Broken {
    Broken::Final(NoAnswer::Nonsense(why.to_string()))
}

/// An id for a request. The runtime library brings no random numbers, and a crate for them would reach the pure crates as well.
///
/// # Errors
/// The kernel gives none.
pub fn fresh_id() -> Result<Uuid, NoAnswer> {
    let mut bytes = [0; 16];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())
        .map_err(|errno| NoAnswer::Unsendable(format!("getrandom: {errno}")))?;
    Ok(uuid::Builder::from_random_bytes(bytes).into_uuid())
}
