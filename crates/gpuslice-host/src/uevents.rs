//! The wake-up. One thread sleeps on udev's monitor socket and hands on what could concern a GPU; a uevent means
//! "look again", never a fact by itself. Types of libudev do not leave the thread.
//!
//! Listen first, then enumerate: what changes in between is then told twice instead of never.

mod thread;

use gpuslice_core::errno::Errno;
use rustix::fd::OwnedFd;
use std::path::Path;
use std::thread::JoinHandle;

/// An event of the kernel, as udev hands it on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Uevent {
    /// `add`, `change`, `bind`, `unbind`, `remove`, …
    pub action: String,
    /// `pci`, `mdev`, `vfio`, `vfio-dev`, or the class of a virtual mdev parent.
    pub subsystem: String,
    /// Kernel name: a PCI address, an mdev's UUID, `mtty`.
    pub name: String,
    /// `DRIVER`, which the kernel sends with `bind`.
    pub driver: Option<String>,
    /// `MDEV_STATE` of a parent: `registered` or `unregistered`.
    pub mdev_state: Option<String>,
}

/// What the thread tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UeventNote {
    /// Something changed.
    Event(Uevent),
    /// Events were lost (`ENOBUFS`): anything may have changed.
    Rescan,
    /// The socket is dead; nothing more will come.
    Lost(Errno),
}

/// Where events are taken from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// udevd, after its rules ran: links and permissions are as they should be.
    Udev,
    /// The kernel, where no udevd runs.
    Kernel,
}

impl Source {
    /// udevd if it is there. libudev itself would listen to a silent socket without a word.
    pub fn detect() -> Self {
        if Path::new("/run/udev/control").exists() { Self::Udev } else { Self::Kernel }
    }
}

/// Why there is no wake-up.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UeventError {
    /// No thread could be started.
    #[error("start the uevent thread: {errno}")]
    Thread {
        /// Why.
        errno: Errno,
    },
    /// The socket could not be opened.
    #[error("listen to uevents: {errno}")]
    Listen {
        /// Why.
        errno: Errno,
    },
}

/// The thread; it ends when this is dropped.
#[derive(Debug)]
pub struct Uevents {
    stop: OwnedFd,
    thread: Option<JoinHandle<()>>,
}

impl Uevents {
    /// Starts to listen. Once this returns, no later event is missed without a [`UeventNote::Rescan`].
    ///
    /// `tell` is called on the thread; while it does not return, events queue up in the socket.
    ///
    /// # Errors
    /// See [`UeventError`].
    pub fn listen(
        source: Source,
        tell: impl FnMut(UeventNote) + Send + 'static,
    ) -> Result<Self, UeventError> {
        let ear = thread::Ear { source, buffer: thread::BUFFER, wanted: thread::concerns_gpus };
        let (stop, thread) = thread::start(ear, tell)?;
        Ok(Self { stop, thread: Some(thread) })
    }
}

impl Drop for Uevents {
    fn drop(&mut self) {
        // An eventfd that was never written to has room for a one.
        let _ = rustix::io::write(&self.stop, &1_u64.to_ne_bytes());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests;
