//! A stream that waits in the kernel. A list is asked for and printed in less time than a runtime takes to start.

use super::socket;
use rustix::buffer::spare_capacity;
use rustix::io::{Errno, retry_on_intr};
use rustix::net::{
    AddressFamily, RecvFlags, SocketAddrUnix, SocketFlags, SocketType, connect, recv, socket_with,
};
use std::io::{self, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

/// How long an answer is looked for before this sleeps until it comes: waking a processor that has nothing else to do takes
/// longer than most answers. Whoever else wants the processor has it meanwhile.
const SOON: Duration = Duration::from_micros(500);

/// A connection whose every call ends before it returns.
#[derive(Debug)]
pub(super) struct Stream {
    stream: UnixStream,
    /// How long an answer may take, and until when that is.
    limit: Option<(Duration, Instant)>,
}

impl Stream {
    /// Does not wait: where too many wait already, that is EAGAIN.
    pub(super) fn connect(path: &Path) -> io::Result<Self> {
        let address = SocketAddrUnix::new(path)?;
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
        connect(&socket, &address)?;
        let stream = UnixStream::from(socket);
        stream.set_nonblocking(false)?;
        Ok(Self { stream, limit: None })
    }

    /// From now on gives up after so long; never, without one.
    pub(super) fn patience(&mut self, patience: Option<Duration>) {
        self.limit = patience.map(|patience| (patience, Instant::now() + patience));
    }

    /// How long the next call may take.
    fn left(&self) -> io::Result<Option<Duration>> {
        let Some((_, deadline)) = self.limit else {
            return Ok(None);
        };
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() { Err(self.late()) } else { Ok(Some(left)) }
    }

    fn late(&self) -> io::Error {
        let seconds = self.limit.map_or(0, |(patience, _)| patience.as_secs());
        io::Error::other(format!("no answer within {seconds} s"))
    }

    fn told(&self, error: io::Error) -> io::Error {
        if error.raw_os_error() == Some(Errno::AGAIN.raw_os_error()) { self.late() } else { error }
    }
}

impl socket::Stream for Stream {
    async fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.set_write_timeout(self.left()?)?;
        self.stream.write_all(bytes).map_err(|error| self.told(error))
    }

    async fn read_into(&mut self, bytes: &mut Vec<u8>) -> io::Result<usize> {
        let soon = Instant::now() + SOON;
        while Instant::now() < soon {
            match recv(&self.stream, spare_capacity(bytes), RecvFlags::DONTWAIT) {
                Err(Errno::AGAIN | Errno::INTR) => std::thread::yield_now(),
                received => return received.map(|(read, _)| read).map_err(io::Error::from),
            }
        }
        self.stream.set_read_timeout(self.left()?)?;
        let received =
            retry_on_intr(|| recv(&self.stream, spare_capacity(bytes), RecvFlags::empty()));
        received.map(|(read, _)| read).map_err(|errno| self.told(errno.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::socket::Stream as _;
    use super::*;
    use std::os::unix::net::UnixListener;

    #[tokio::test]
    async fn a_peer_that_is_silent_or_full_is_not_waited_for_without_end() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sock");
        let listener = UnixListener::bind(&path).unwrap();
        rustix::net::listen(&listener, 0).unwrap();
        let mut stream = Stream::connect(&path).unwrap();
        stream.patience(Some(Duration::from_millis(20)));
        stream.write_all(b"question").await.unwrap();
        let silent = stream.read_into(&mut Vec::with_capacity(8)).await.unwrap_err();
        assert_eq!(silent.to_string(), "no answer within 0 s");
        // One may wait beside nobody's accept; the next is told so.
        let waiting: Vec<_> = (0..4).map(|_| Stream::connect(&path)).collect();
        let full = waiting.iter().find_map(|stream| stream.as_ref().err()).unwrap();
        assert_eq!(full.raw_os_error(), Some(Errno::AGAIN.raw_os_error()));
    }
}
