//! Where the messages of the daemon and the agent go: the journal with its priorities when systemd started them, else
//! standard error.

use std::env;
use std::io::IsTerminal;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

/// Environment: which messages are logged, as `LEVEL` or `TARGET=LEVEL`, with commas between several; `info` without it.
pub const LOG_ENV: &str = "GPUSLICE_LOG";

/// Starts logging. What [`LOG_ENV`] says wrongly is told, and counts as if it said nothing.
pub fn start() {
    let asked = env::var_os(LOG_ENV).unwrap_or_default();
    let asked = asked.to_string_lossy();
    let usual = || Targets::new().with_default(LevelFilter::INFO);
    let (filter, wrong) = match asked.parse::<Targets>() {
        _ if asked.is_empty() => (usual(), None),
        Ok(filter) => (filter, None),
        Err(error) => (usual(), Some(error)),
    };
    let registry = tracing_subscriber::registry().with(filter);
    let journal = env::var_os("JOURNAL_STREAM").and_then(|_| tracing_journald::layer().ok());
    match journal {
        Some(journal) => registry.with(journal.with_field_prefix(None)).init(),
        None => {
            let colours = std::io::stderr().is_terminal()
                && env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
            let text = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
            registry.with(text.with_target(false).with_ansi(colours)).init();
        }
    }
    if let Some(error) = wrong {
        tracing::warn!(
            "{LOG_ENV}={asked} is no filter of messages: {error}; logging from info on; say debug, or \
             warn,gpusliced=debug"
        );
    }
}
