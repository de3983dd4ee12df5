//! The thread's side: libudev's monitor (sd-device monitor.c) and its errors.

use super::{Source, Uevent, UeventError, UeventNote};
use crate::{errno, io_errno};
use gpuslice_core::errno::Errno;
use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use rustix::fd::{AsFd, OwnedFd};
use rustix::net::sockopt::{set_socket_recv_buffer_size, set_socket_recv_buffer_size_force};
use std::sync::mpsc;
use std::thread::{Builder, JoinHandle};

/// What udevd gives itself: room for some hundred thousand events. Memory is taken only while they wait.
pub(super) const BUFFER: usize = 128 << 20;

/// Failures in a row after which the socket is taken for dead. A malformed message fails once.
const TRIES: u32 = 16;

/// What to listen to.
pub(super) struct Ear {
    pub source: Source,
    pub buffer: usize,
    /// Whether an event of this subsystem is told; one with `MDEV_STATE` always is.
    pub wanted: fn(&str) -> bool,
}

/// Subsystems in which slices and their nodes live. There is no such filter on the socket, since a virtual mdev
/// parent (mtty) announces itself in a class of its own.
pub(super) fn concerns_gpus(subsystem: &str) -> bool {
    matches!(subsystem, "pci" | "mdev" | "vfio" | "vfio-dev")
}

pub(super) fn start(
    ear: Ear,
    mut tell: impl FnMut(UeventNote) + Send + 'static,
) -> Result<(OwnedFd, JoinHandle<()>), UeventError> {
    let failed = |errno| UeventError::Thread { errno };
    let stop = eventfd(0, EventfdFlags::CLOEXEC).map_err(|e| failed(errno(e)))?;
    let stopped = stop.try_clone().map_err(|e| failed(io_errno(&e)))?;
    let (opened, listening) = mpsc::sync_channel(1);
    // The monitor cannot change threads, so it is opened on its own and only the result comes back.
    let thread = Builder::new()
        .name("uevents".to_owned())
        .stack_size(256 << 10)
        .spawn(move || match open(&ear) {
            Ok(socket) => {
                // The receiver waits for exactly this.
                let _ = opened.send(Ok(()));
                drop(opened);
                pump(&ear, &socket, &stopped, &mut tell);
            }
            Err(error) => {
                let errno = io_errno(&error);
                let _ = opened.send(Err(UeventError::Listen { errno }));
            }
        })
        .map_err(|e| failed(io_errno(&e)))?;
    match listening.recv() {
        Ok(Ok(())) => Ok((stop, thread)),
        Ok(Err(error)) => Err(error),
        Err(mpsc::RecvError) => Err(failed(Errno::ECANCELED)),
    }
}

fn open(ear: &Ear) -> std::io::Result<udev::MonitorSocket> {
    let builder = match ear.source {
        Source::Udev => udev::MonitorBuilder::new()?,
        Source::Kernel => udev::MonitorBuilder::new_kernel()?,
    };
    // Beyond the limit of unprivileged users if permitted; smaller only means that it overflows sooner.
    if set_socket_recv_buffer_size_force(&builder, ear.buffer).is_err() {
        let _ = set_socket_recv_buffer_size(&builder, ear.buffer);
    }
    builder.listen()
}

fn pump(
    ear: &Ear,
    socket: &udev::MonitorSocket,
    stop: &OwnedFd,
    tell: &mut impl FnMut(UeventNote),
) {
    let mut failures = 0;
    loop {
        let mut ready = [
            PollFd::new(socket, PollFlags::IN),
            PollFd::from_borrowed_fd(stop.as_fd(), PollFlags::IN),
        ];
        match poll(&mut ready, None) {
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => continue,
            Err(error) => return tell(UeventNote::Lost(errno(error))),
        }
        let [_, stop] = ready;
        if !stop.revents().is_empty() {
            return;
        }
        match drain(ear, socket, tell) {
            Errno::EAGAIN => failures = 0,
            // The error is taken off the socket by its report; what came before it is still in the queue.
            error => {
                failures += 1;
                if failures == TRIES {
                    return tell(UeventNote::Lost(error));
                }
                tell(UeventNote::Rescan);
            }
        }
    }
}

/// Tells what is in the socket; returns why there is no more, `EAGAIN` when it is empty.
fn drain(ear: &Ear, socket: &udev::MonitorSocket, tell: &mut impl FnMut(UeventNote)) -> Errno {
    loop {
        match socket.iter().next() {
            Some(event) => {
                if let Some(event) = convert(ear, &event) {
                    tell(UeventNote::Event(event));
                }
            }
            // The crate drops libudev's errno, but nothing it does since then sets another.
            None => match io_errno(&std::io::Error::last_os_error()) {
                Errno::EINTR => {}
                error => return error,
            },
        }
    }
}

fn convert(ear: &Ear, event: &udev::Event) -> Option<Uevent> {
    let text = |value: Option<&std::ffi::OsStr>| value.map(|v| v.to_string_lossy().into_owned());
    let subsystem = text(event.subsystem())?;
    let wanted = (ear.wanted)(&subsystem);
    let action = text(event.action())?;
    // Parents announce themselves by `change` alone; asking every block device's events costs more.
    if !wanted && action != "change" {
        return None;
    }
    let mdev_state = text(event.property_value("MDEV_STATE"));
    if !wanted && mdev_state.is_none() {
        return None;
    }
    Some(Uevent {
        action,
        subsystem,
        name: text(Some(event.sysname()))?,
        driver: text(event.property_value("DRIVER")),
        mdev_state,
    })
}
