//! Whatever the bytes: no crash, a message that is read is written and read the same, one that is not is answered
//! with a line that can be read, and where a stream is cut does not matter.

use gpuslice_hook_proto::{Lines, Reply, Request};

/// Panics when a promise is broken.
pub fn check(data: &[u8]) {
    match Request::from_line(data) {
        Ok(request) => {
            let line = request.to_line().expect("what was read can be written");
            assert_eq!(Request::from_line(line.as_bytes()).expect("its own line"), request);
            assert_eq!(line.matches('\n').count(), 1);
        }
        Err(error) => {
            let reply = error.reply();
            let line = reply.to_line().expect("a refusal can be written");
            assert_eq!(Reply::from_line(line.as_bytes()).expect("its own line"), reply);
        }
    }
    if let Ok(reply) = Reply::from_line(data) {
        let line = reply.to_line().expect("what was read can be written");
        assert_eq!(Reply::from_line(line.as_bytes()).expect("its own line"), reply);
    }
    cut(data);
}

fn cut(data: &[u8]) {
    let whole: Vec<&[u8]> = data.split(|byte| *byte == b'\n').collect();
    // What stands behind the last line feed is no line yet.
    let (rest, whole) = whole.split_last().expect("a split has a part");
    let at = data.first().map_or(0, |byte| usize::from(*byte) % (data.len() + 1));
    let (first, second) = data.split_at(at);
    let mut lines = Lines::new(data.len());
    let mut got = Vec::new();
    for part in [first, second] {
        lines.push(part);
        while let Some(line) = lines.next_line().expect("no line is longer than all") {
            got.push(line);
        }
    }
    assert_eq!(got, whole);
    assert_eq!(lines.is_broken_off(), !rest.is_empty());
}
