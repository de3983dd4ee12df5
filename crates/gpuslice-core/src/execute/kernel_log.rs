//! What a driver says of a step in the kernel's log, where it says nothing anywhere else.

use crate::plan::Step;
use crate::port::{HostRead, LogLine};

/// Longest that is told of it, in characters.
const LONGEST: usize = 300;

/// The newest record there is.
pub(super) fn newest(host: &dyn HostRead) -> Option<u64> {
    host.kernel_log().ok()?.last().map(|line| line.sequence)
}

fn one_of(line: &LogLine, words: &[String]) -> bool {
    words.iter().any(|word| line.text.contains(word.as_str()))
}

fn newer(line: &LogLine, after: Option<u64>) -> bool {
    after.is_none_or(|after| line.sequence > after)
}

/// As much of it as is told.
fn told(text: &str) -> String {
    text.chars().take(LONGEST).collect()
}

/// What was said after a record, when these words are among it: a refusal. A log that may not be read holds none.
pub(super) fn refusal(host: &dyn HostRead, after: Option<u64>, words: &[String]) -> Option<String> {
    let mut lines = host.kernel_log().ok()?;
    lines.retain(|line| newer(line, after));
    let refused = lines.iter().any(|line| one_of(line, words));
    let text = lines.iter().map(|line| line.text.trim()).collect::<Vec<_>>().join("; ");
    refused.then(|| told(&text))
}

/// The first line after a record that has one of these words.
pub(super) fn refusing_line(
    host: &dyn HostRead,
    after: Option<u64>,
    words: &[String],
) -> Option<String> {
    let lines = host.kernel_log().ok()?;
    let line = lines.iter().find(|line| newer(line, after) && one_of(line, words))?;
    Some(told(line.text.trim()))
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
