//! /etc/gpuslice/hook.conf: lines of `key = value`. Not TOML, whose reader would be most of this program.
//!
//! `GPUSLICE_HOOK_CONF` names another file and `GPUSLICE_SOCKET` another socket, for trying the hook by hand and in
//! tests. They cannot come from libvirt: it gives its hooks PATH, HOME, USER, LOGNAME, TMPDIR, LD_* and LC_ALL
//! alone (its src/util/vircommand.c), and whoever can set the others is already who the hook runs as.

use crate::complain;
use gpuslice_hook_proto::SOCKET;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

const FILE: &str = "/etc/gpuslice/hook.conf";
const DEADLINE: Duration = Duration::from_secs(20);
/// Longer than any administrator waits for a start.
const DEADLINE_LIMIT: u64 = 600;

/// What an administrator may change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// How long a call may take in all.
    pub deadline: Duration,
    /// Where the daemon listens.
    pub socket: PathBuf,
}

impl Settings {
    /// Reads the file. What is wrong in it is said on stderr, and its default stands.
    pub fn load() -> Self {
        let mut settings = Self { deadline: DEADLINE, socket: PathBuf::from(SOCKET) };
        let file = std::env::var_os("GPUSLICE_HOOK_CONF")
            .map_or_else(|| PathBuf::from(FILE), PathBuf::from);
        match std::fs::read_to_string(&file) {
            Ok(text) => settings.take(&text, &file),
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => warn(&format!("read {}: {error}", file.display())),
        }
        if let Some(socket) = std::env::var_os("GPUSLICE_SOCKET") {
            settings.socket = PathBuf::from(socket);
        }
        settings
    }

    fn take(&mut self, text: &str, file: &Path) {
        for (number, line) in (1..).zip(text.lines()) {
            if let Err(why) = self.take_line(line.trim()) {
                warn(&format!("{}:{number}: {why}", file.display()));
            }
        }
    }

    fn take_line(&mut self, line: &str) -> Result<(), String> {
        if line.is_empty() || line.starts_with('#') {
            return Ok(());
        }
        let (key, value) = line.split_once('=').ok_or("expected key = value")?;
        let (key, value) = (key.trim(), value.trim());
        match key {
            "deadline-seconds" => {
                let number = value.split('#').next().unwrap_or_default().trim();
                let seconds = number
                    .parse()
                    .ok()
                    .filter(|seconds| (1..=DEADLINE_LIMIT).contains(seconds))
                    .ok_or_else(|| {
                        format!("deadline-seconds is not a number from 1 to {DEADLINE_LIMIT}")
                    })?;
                self.deadline = Duration::from_secs(seconds);
                Ok(())
            }
            "socket" => {
                self.socket = quoted(value)
                    .filter(|path| path.starts_with('/'))
                    .ok_or("socket is not an absolute path in double quotes")?
                    .into();
                Ok(())
            }
            _ => Err(format!("unknown key {key:?}, known are deadline-seconds, socket")),
        }
    }
}

/// The text between double quotes; a remark may follow.
fn quoted(value: &str) -> Option<&str> {
    let (text, rest) = value.strip_prefix('"')?.split_once('"')?;
    let rest = rest.trim_start();
    (rest.is_empty() || rest.starts_with('#')).then_some(text)
}

fn warn(what: &str) {
    complain(&format!("gpuslice: warning: {what}; the default stands"));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(line: &str) -> Result<(u64, String), String> {
        let mut settings = Settings { deadline: DEADLINE, socket: PathBuf::from(SOCKET) };
        settings.take_line(line)?;
        let socket = settings.socket.to_str().unwrap().to_owned();
        Ok((settings.deadline.as_secs(), socket))
    }

    #[test]
    fn lines_are_taken_or_told_why_not() {
        let is = |seconds, socket: &str| Ok((seconds, socket.to_owned()));
        let number = || Err("deadline-seconds is not a number from 1 to 600".to_owned());
        let path = || Err("socket is not an absolute path in double quotes".to_owned());
        for (line, want) in [
            ("", is(20, SOCKET)),
            ("# deadline-seconds = 3", is(20, SOCKET)),
            ("deadline-seconds = 3", is(3, SOCKET)),
            ("deadline-seconds=600 # long", is(600, SOCKET)),
            ("socket = \"/a b#c\"", is(20, "/a b#c")),
            ("socket=\"/a\"# here", is(20, "/a")),
            ("deadline-seconds = 0", number()),
            ("deadline-seconds = 601", number()),
            ("deadline-seconds = -1", number()),
            ("deadline-seconds = 1.5", number()),
            ("deadline-seconds =", number()),
            ("deadline-seconds = \"5\"", number()),
            ("socket = /a", path()),
            ("socket = \"a\"", path()),
            ("socket = \"/a", path()),
            ("socket = \"/a\" x", path()),
            ("deadline-seconds", Err("expected key = value".to_owned())),
            ("[hook]", Err("expected key = value".to_owned())),
            (
                "deadline = 3",
                Err("unknown key \"deadline\", known are deadline-seconds, socket".to_owned()),
            ),
        ] {
            assert_eq!(taken(line), want, "{line}");
        }
    }
}
