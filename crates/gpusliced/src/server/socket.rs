//! The socket of hooks, and of root without a bus: root only, one JSON line asks, one answers.

use crate::engine::{Handle, Told};
use anyhow::Context;
use gpuslice_core::hint;
use gpuslice_core::machine::{HookAnswer, RequestId};
use gpuslice_core::refusal::{Code, Refusal};
use gpuslice_hook_proto::{Body, Lines, REQUEST_LIMIT, Reply, ReplyBody, Request, Served};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
use std::os::fd::{FromRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, SemaphorePermit, oneshot};
use uuid::Uuid;

/// Connections served at a time. When more come, those that have asked nothing make room; where all have, the
/// others wait in the socket's own queue.
const CONNECTIONS: usize = 256;

/// Commands under way at a time, from the question until its answer was taken. Hooks find room beside them.
const COMMANDS: usize = 192;

/// Room for so many connections, and for commands among what they ask.
struct Room {
    places: Arc<Semaphore>,
    commands: Semaphore,
    crowded: Notify,
}

/// Takes the socket systemd opened for us, or opens it.
pub fn listen(path: &Path) -> anyhow::Result<UnixListener> {
    let listener = match handed_over()? {
        Some(listener) => listener,
        None => bind(path)?,
    };
    listener.set_nonblocking(true).context("make the hook socket non-blocking")?;
    UnixListener::from_std(listener).context("listen for hooks")
}

#[allow(unsafe_code)]
fn handed_over() -> anyhow::Result<Option<std::os::unix::net::UnixListener>> {
    let mut fds = sd_notify::listen_fds().context("take over sockets from systemd")?;
    // SAFETY: systemd's protocol hands the descriptor over to this process, and nobody else here asks for it.
    Ok(fds.next().map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }.into()))
}

fn bind(path: &Path) -> anyhow::Result<std::os::unix::net::UnixListener> {
    if let Some(dir) = path.parent() {
        std::fs::create_dir_all(dir).with_context(|| format!("make {}", dir.display()))?;
    }
    make_way(path)?;
    let old = rustix::process::umask(rustix::fs::Mode::RWXG | rustix::fs::Mode::RWXO);
    let listener = std::os::unix::net::UnixListener::bind(path);
    rustix::process::umask(old);
    let listener = listener.with_context(|| format!("listen on {}", path.display()))?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))
        .with_context(|| format!("protect {}", path.display()))?;
    Ok(listener)
}

/// Removes a socket that a daemon which is gone left behind. One that somebody listens on is his: a simulated host's daemon
/// has other state directories than the one of this host, or none, so that no lock tells of it.
pub fn make_way(path: &Path) -> anyhow::Result<()> {
    match listens(path) {
        Ok(()) | Err(Errno::AGAIN) => anyhow::bail!(
            "{} is in use by another gpusliced (hint: another --socket or --sim-control for this one; or systemctl \
             stop gpusliced.socket gpusliced)",
            path.display()
        ),
        Err(Errno::NOENT) => Ok(()),
        Err(Errno::CONNREFUSED) => {
            std::fs::remove_file(path).with_context(|| format!("replace {}", path.display()))
        }
        Err(error) => Err(error).with_context(|| format!("connect to {}", path.display())),
    }
}

/// Whether anybody does. Who has more callers than he takes is not waited for.
fn listens(path: &Path) -> rustix::io::Result<()> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    connect(&socket, &SocketAddrUnix::new(path)?)
}

/// Serves connections for ever.
pub async fn serve(listener: UnixListener, handle: Handle) {
    let room = Arc::new(Room {
        places: Arc::new(Semaphore::new(CONNECTIONS)),
        commands: Semaphore::new(COMMANDS),
        crowded: Notify::new(),
    });
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let Some(place) = place(&room).await else { return };
                let (handle, room) = (handle.clone(), Arc::clone(&room));
                tokio::spawn(async move {
                    connection(stream, handle, &room).await;
                    drop(place);
                });
            }
            Err(error) => {
                tracing::warn!("cannot accept a hook's connection: {error}");
                // Out of descriptors, most likely: give others time to close theirs.
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            }
        }
    }
}

/// A place for a newcomer. When all are taken, the connection that has been silent longest gives up its own.
async fn place(room: &Room) -> Option<OwnedSemaphorePermit> {
    if let Ok(place) = Arc::clone(&room.places).try_acquire_owned() {
        return Some(place);
    }
    room.crowded.notify_one();
    let place = Arc::clone(&room.places).acquire_owned().await.ok();
    // Where none was silent, the call is still in the air: it is not meant for whoever falls silent next.
    std::pin::pin!(room.crowded.notified()).enable();
    place
}

async fn connection(mut stream: UnixStream, handle: Handle, room: &Room) {
    // The file's mode keeps others out; this does so when somebody changed it.
    if stream
        .peer_cred()
        .map_or(true, |peer| peer.uid() != 0 && peer.uid() != rustix::process::geteuid().as_raw())
    {
        return;
    }
    let mut lines = Lines::new(REQUEST_LIMIT);
    let mut buffer = [0_u8; 8192];
    loop {
        match lines.next_line() {
            Ok(Some(line)) => {
                let answer = answer(&line, &stream, &handle, room).await;
                let Some(Answer { text, hook, place: _place }) = answer else { return };
                if stream.write_all(text.as_bytes()).await.is_err() {
                    // It left while it was being answered.
                    if let Some(request) = hook {
                        handle.hook_gone(request).await;
                    }
                    return;
                }
            }
            Ok(None) => tokio::select! {
                // What has arrived counts before who is to leave.
                biased;
                read = stream.read(&mut buffer) => match read {
                    Ok(0) | Err(_) => return,
                    Ok(count) => lines.push(buffer.get(..count).unwrap_or_default()),
                },
                () = room.crowded.notified() => return,
            },
            Err(error) => {
                let refusal = Refusal::new(Code::BadRequest, error.to_string());
                if let Ok(text) = Reply::refused(Uuid::nil(), refusal).to_line() {
                    // It is closed either way.
                    let _ = stream.write_all(text.as_bytes()).await;
                }
                return;
            }
        }
    }
}

/// A line that answers.
struct Answer<'r> {
    text: String,
    /// The hook whose VM goes by it.
    hook: Option<RequestId>,
    /// The command's, until the line was taken.
    place: Option<SemaphorePermit<'r>>,
}

impl Answer<'_> {
    /// `None` when it is too long to be sent.
    fn of(reply: &Reply, hook: Option<RequestId>) -> Option<Self> {
        Some(Self { text: reply.to_line().ok()?, hook, place: None })
    }
}

/// Answers one line; `None` when the asker left before the answer, or the answer is too long to be sent.
async fn answer<'r>(
    line: &[u8],
    stream: &UnixStream,
    handle: &Handle,
    room: &'r Room,
) -> Option<Answer<'r>> {
    let request = match Request::from_line(line) {
        Ok(request) => request,
        Err(error) => return Answer::of(&error.reply(), None),
    };
    match request.body {
        Body::Hook(call) => {
            let Some(call) = call.told() else {
                return Answer::of(&Reply::hook_done(request.id), None);
            };
            let asked = handle.hook(call).await;
            hook(request.id, asked, stream, handle).await
        }
        Body::Guest(call) => {
            let asked = handle.guest(call).await;
            hook(request.id, asked, stream, handle).await
        }
        Body::Command(command) => {
            let Ok(place) = room.commands.try_acquire() else {
                return Answer::of(&Reply::refused(request.id, full()), None);
            };
            let told = if command.may_wait() {
                handle.ask_until(command, closed(stream)).await
            } else {
                handle.ask(command).await
            };
            let text = command_line(request.id, &told)?;
            Some(Answer { text, hook: None, place: Some(place) })
        }
    }
}

fn full() -> Refusal {
    let message =
        format!("{COMMANDS} commands are under way on the hook socket, and no other is begun");
    Refusal::new(Code::Unreachable, message).hint(hint!("try again"))
}

fn command_line(id: Uuid, told: &Told) -> Option<String> {
    if let Err(refusal) = told.as_outcome() {
        return Reply::refused(id, refusal.clone()).to_line().ok();
    }
    let served = Served::Command(Box::new(told.json()?));
    Reply::new(id, ReplyBody::Ok(served)).to_line().ok()
}

async fn hook(
    id: Uuid,
    (request, answer): (RequestId, oneshot::Receiver<HookAnswer>),
    stream: &UnixStream,
    handle: &Handle,
) -> Option<Answer<'static>> {
    let answer = tokio::select! {
        answer = answer => answer.ok(),
        () = closed(stream) => {
            handle.hook_gone(request).await;
            return None;
        }
    };
    // Without one the host was rebooted under us (simulated), or we are ending: the hook asks again.
    Answer::of(&Reply::to_hook(id, answer?), Some(request))
}

/// Returns when the peer has closed its end.
async fn closed(stream: &UnixStream) {
    let mut probe = [0_u8; 1];
    loop {
        if stream.readable().await.is_err() {
            return;
        }
        let peeked = rustix::net::recv(
            stream,
            &mut probe,
            rustix::net::RecvFlags::PEEK | rustix::net::RecvFlags::DONTWAIT,
        );
        match peeked {
            Ok((0, _)) => return,
            // It has sent more: its next question, which has to wait for this one's answer.
            Ok(_) => std::future::pending::<()>().await,
            Err(rustix::io::Errno::AGAIN) => {
                // Not readable after all: tell tokio so.
                let _ = stream.try_io(tokio::io::Interest::READABLE, || {
                    Err::<(), _>(std::io::ErrorKind::WouldBlock.into())
                });
            }
            Err(_) => return,
        }
    }
}
