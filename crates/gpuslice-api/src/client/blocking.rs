//! A stream that waits in the kernel. A list is asked for and printed in less time than a runtime takes to start.

use super::socket;
use rustix::buffer::spare_capacity;
use rustix::io::{Errno, retry_on_intr};
use rustix::net::{RecvFlags, recv};
use std::io::{self, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// A connection whose every call ends before it returns.
#[derive(Debug)]
pub(super) struct Stream {
    stream: UnixStream,
    /// How long the peer may be silent; for ever without one.
    pub(super) patience: Option<Duration>,
}

impl Stream {
    pub(super) fn connect(path: &Path) -> io::Result<Self> {
        Ok(Self { stream: UnixStream::connect(path)?, patience: None })
    }
}

impl socket::Stream for Stream {
    async fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.set_write_timeout(self.patience)?;
        self.stream.write_all(bytes).map_err(|error| self.silent(error))
    }

    async fn read_into(&mut self, bytes: &mut Vec<u8>) -> io::Result<usize> {
        self.stream.set_read_timeout(self.patience)?;
        let received =
            retry_on_intr(|| recv(&self.stream, spare_capacity(bytes), RecvFlags::empty()));
        received.map(|(read, _)| read).map_err(|errno| self.silent(errno.into()))
    }
}

impl Stream {
    fn silent(&self, error: io::Error) -> io::Error {
        match self.patience {
            Some(patience) if error.raw_os_error() == Some(Errno::AGAIN.raw_os_error()) => {
                io::Error::other(format!("no answer within {} s", patience.as_secs()))
            }
            _ => error,
        }
    }
}
