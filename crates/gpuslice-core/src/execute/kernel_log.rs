//! What a driver says of a step in the kernel's log, where it says nothing anywhere else.

use super::StepError;
use crate::errno::Errno;
use crate::plan::Step;
use crate::port::{HostRead, HostWrite, LogLine, Written};

/// Longest that is told of it, in characters.
const LONGEST: usize = 300;

/// Answers to a write that can mean several things.
pub(super) struct Unclear<'a> {
    pub errnos: &'a [Errno],
    /// What the driver says when it means that it is not ready.
    pub not_ready: &'a [String],
}

/// Writes where a driver has one errno for several reasons and tells in the log which it was. To read that takes long, and
/// what is not refused is not to wait for it; so a refused write is tried once more, between two looks at the log.
pub(super) fn write(
    host: &mut dyn HostWrite,
    path: &str,
    data: &str,
    unclear: &Unclear<'_>,
) -> Result<Written, StepError> {
    let refused = match super::write(host, path, data) {
        Err(StepError::Errno { operation, errno }) if unclear.errnos.contains(&errno) => {
            StepError::Errno { operation, errno }
        }
        other => return other,
    };
    let Ok(before) = host.kernel_log() else { return Err(refused) };
    let before = before.last().map(|line| line.sequence);
    match super::write(host, path, data) {
        Err(StepError::Errno { operation, errno }) if unclear.errnos.contains(&errno) => {
            let lines = since(host, before);
            Err(match (first(&lines, unclear.not_ready), all_of(&lines)) {
                (Some(said), _) => {
                    StepError::NotReady { operation, answer: errno.to_string(), said }
                }
                (None, Some(said)) => StepError::Said { operation, errno, said },
                (None, None) => StepError::Errno { operation, errno },
            })
        }
        other => other,
    }
}

/// What was said after a record. A log that may not be read holds nothing.
fn since(host: &dyn HostRead, after: Option<u64>) -> Vec<LogLine> {
    let mut lines = host.kernel_log().unwrap_or_default();
    lines.retain(|line| after.is_none_or(|after| line.sequence > after));
    lines
}

/// All of it in one text.
fn all_of(lines: &[LogLine]) -> Option<String> {
    let text = lines.iter().map(|line| line.text.trim()).collect::<Vec<_>>().join("; ");
    (!text.is_empty()).then(|| told(&text))
}

/// The first that has one of these words.
fn first(lines: &[LogLine], words: &[String]) -> Option<String> {
    lines.iter().find(|line| one_of(line, words)).map(|line| told(line.text.trim()))
}

/// The newest record there is.
pub(super) fn newest(host: &dyn HostRead) -> Option<u64> {
    host.kernel_log().ok()?.last().map(|line| line.sequence)
}

fn one_of(line: &LogLine, words: &[String]) -> bool {
    words.iter().any(|word| line.text.contains(word.as_str()))
}

/// As much of it as is told.
fn told(text: &str) -> String {
    text.chars().take(LONGEST).collect()
}

/// What was said after a record, when these words are among it: a refusal.
pub(super) fn refusal(host: &dyn HostRead, after: Option<u64>, words: &[String]) -> Option<String> {
    let lines = since(host, after);
    first(&lines, words).and_then(|_| all_of(&lines))
}

/// The first line after a record that has one of these words.
pub(super) fn refusing_line(
    host: &dyn HostRead,
    after: Option<u64>,
    words: &[String],
) -> Option<String> {
    first(&since(host, after), words)
}

/// The lines after a record that have one of these words.
pub(super) fn refusing_lines(
    host: &dyn HostRead,
    after: Option<u64>,
    words: &[String],
) -> Vec<String> {
    let lines = since(host, after);
    lines.iter().filter(|line| one_of(line, words)).map(|line| told(line.text.trim())).collect()
}

/// The last refusal of the driver that a step is about.
pub(super) fn last(host: &dyn HostRead, step: &Step) -> Option<String> {
    let words = match step {
        Step::LoadDriver { refusals, .. } | Step::SetMode { refusals, .. } => refusals,
        _ => return None,
    };
    let lines = host.kernel_log().ok()?;
    let line = lines.iter().rev().find(|line| one_of(line, words))?;
    Some(told(line.text.trim()))
}
