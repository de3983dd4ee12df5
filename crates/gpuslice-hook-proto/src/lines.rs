//! Cuts what arrives on a stream into lines, without letting a peer that never ends its line fill the memory.

use std::io::BufRead as _;

/// A peer sent more than a line may hold without ending it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line longer than {limit} bytes")]
pub struct LineTooLong {
    /// Bytes allowed.
    pub limit: usize,
}

/// Bytes received and not yet handed out.
#[derive(Debug)]
pub struct Lines {
    received: Vec<u8>,
    /// How many of them are known to hold no line feed, so that a long line is not searched again and again.
    searched: usize,
    limit: usize,
}

impl Lines {
    /// Lines of at most `limit` bytes.
    pub fn new(limit: usize) -> Self {
        Self { received: Vec::new(), searched: 0, limit }
    }

    /// Adds what was read from the stream.
    pub fn push(&mut self, bytes: &[u8]) {
        self.received.extend_from_slice(bytes);
    }

    /// Where a reader may append what comes next, with room for `bytes`: a long line is then not copied here.
    pub fn room(&mut self, bytes: usize) -> &mut Vec<u8> {
        self.received.reserve(bytes);
        &mut self.received
    }

    /// The next whole line, without its line feed; `None` until one has arrived.
    ///
    /// # Errors
    /// The line is too long. The stream cannot be used further.
    pub fn next_line(&mut self) -> Result<Option<Vec<u8>>, LineTooLong> {
        let too_long = Err(LineTooLong { limit: self.limit });
        let fresh = self.received.get(self.searched..).unwrap_or_default();
        let Some(at) = line_feed(fresh) else {
            self.searched = self.received.len();
            return if self.searched > self.limit { too_long } else { Ok(None) };
        };
        let end = self.searched + at;
        if end > self.limit {
            return too_long;
        }
        let rest = self.received.split_off(end + 1);
        let mut line = std::mem::replace(&mut self.received, rest);
        line.truncate(end);
        self.searched = 0;
        Ok(Some(line))
    }

    /// Whether bytes of an unfinished line are left: at the end of a stream, a peer that broke off.
    pub fn is_broken_off(&self) -> bool {
        !self.received.is_empty()
    }
}

/// Where the first line feed is. The C library searches, which knows the processor already: a crate that does it as fast
/// would first ask what it can, and in a virtual machine each such question leaves the machine.
fn line_feed(bytes: &[u8]) -> Option<usize> {
    let mut rest = bytes;
    let skipped = rest.skip_until(b'\n').ok()?;
    let at = skipped.checked_sub(1)?;
    (bytes.get(at) == Some(&b'\n')).then_some(at)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(lines: &mut Lines) -> Vec<String> {
        std::iter::from_fn(|| lines.next_line().unwrap())
            .map(|line| String::from_utf8(line).unwrap())
            .collect()
    }

    #[test]
    fn every_cut_of_a_stream_gives_the_same_lines() {
        let stream = b"one\n\nthree\nfo";
        for cut in 0..=stream.len() {
            let mut lines = Lines::new(5);
            lines.push(&stream[..cut]);
            let mut got = all(&mut lines);
            lines.push(&stream[cut..]);
            got.extend(all(&mut lines));
            assert_eq!(got, ["one", "", "three"], "cut at {cut}");
            assert!(lines.is_broken_off());
            lines.push(b"ur\n");
            assert_eq!(all(&mut lines), ["four"]);
            assert!(!lines.is_broken_off());
        }
    }

    #[test]
    fn a_line_over_the_limit_is_refused_ended_or_not() {
        for (stream, fits) in
            [(&b"12345\n"[..], true), (b"12345", true), (b"123456\n", false), (b"123456", false)]
        {
            let mut lines = Lines::new(5);
            lines.push(stream);
            assert_eq!(lines.next_line().is_ok(), fits, "{stream:?}");
        }
    }
}
