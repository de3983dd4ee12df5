//! A stream that waits in the kernel. A list is asked for and printed in less time than a runtime takes to start.

use super::socket;
use rustix::buffer::spare_capacity;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::OwnedFd;
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketAddrUnix, SocketFlags, SocketType, connect, recv,
    send, socket_with,
};
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

/// A connection whose every call ends before it returns.
#[derive(Debug)]
pub(super) struct Stream {
    socket: OwnedFd,
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
        Ok(Self { socket, limit: None })
    }

    /// From now on gives up after so long; never, without one.
    pub(super) fn patience(&mut self, patience: Option<Duration>) {
        self.limit = patience.map(|patience| (patience, Instant::now() + patience));
    }

    /// How long the next call may take.
    fn left(&self) -> io::Result<Option<Timespec>> {
        let Some((patience, deadline)) = self.limit else {
            return Ok(None);
        };
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::Error::other(format!("no answer within {} s", patience.as_secs())));
        }
        // What no clock can count to is without end.
        Ok(Timespec::try_from(left).ok())
    }

    /// Sleeps at once: a daemon that the kernel woke on this processor, since its asker is about to sleep, has it only then.
    fn wait_for(&self, what: PollFlags) -> io::Result<()> {
        match poll(&mut [PollFd::new(&self.socket, what)], self.left()?.as_ref()) {
            // Whoever waits tries again, and has the time that is left.
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }
}

impl socket::Stream for Stream {
    async fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        let mut rest = bytes;
        while !rest.is_empty() {
            match send(&self.socket, rest, SendFlags::NOSIGNAL) {
                Ok(sent) => rest = rest.get(sent..).unwrap_or_default(),
                Err(Errno::AGAIN | Errno::INTR) => self.wait_for(PollFlags::OUT)?,
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(())
    }

    async fn read_into(&mut self, bytes: &mut Vec<u8>) -> io::Result<usize> {
        loop {
            match recv(&self.socket, spare_capacity(bytes), RecvFlags::empty()) {
                Err(Errno::AGAIN | Errno::INTR) => self.wait_for(PollFlags::IN)?,
                received => return received.map(|(read, _)| read).map_err(io::Error::from),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::socket::Stream as _;
    use super::*;
    use std::os::unix::net::UnixListener;

    #[tokio::test]
    async fn a_peer_that_is_silent_or_takes_nobody_is_not_waited_for_without_end() {
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

    #[tokio::test]
    async fn a_peer_that_reads_nothing_is_not_written_to_without_end() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sock");
        let listener = UnixListener::bind(&path).unwrap();
        let mut stream = Stream::connect(&path).unwrap();
        let (peer, _) = listener.accept().unwrap();
        stream.patience(Some(Duration::from_millis(20)));
        // More than the kernel keeps for a socket (net.core.wmem_max is below a MiB).
        let much = vec![b'x'; 16 << 20];
        let late = stream.write_all(&much).await.unwrap_err();
        assert_eq!(late.to_string(), "no answer within 0 s");
        // One that reads on gets the rest.
        stream.patience(None);
        let reader = std::thread::spawn(move || std::io::copy(&mut &peer, &mut std::io::sink()));
        stream.write_all(&much).await.unwrap();
        drop(stream);
        assert!(reader.join().unwrap().unwrap() > much.len() as u64);
    }
}
