//! Where messages go: the journal with its priorities when systemd started us, else standard error.

use std::io::IsTerminal;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

/// Starts logging. `GPUSLICE_LOG` takes tracing's filter words.
pub fn start() {
    let filter = EnvFilter::try_from_env("GPUSLICE_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let registry = tracing_subscriber::registry().with(filter);
    let journal = std::env::var_os("JOURNAL_STREAM").and_then(|_| tracing_journald::layer().ok());
    match journal {
        Some(journal) => registry.with(journal.with_field_prefix(None)).init(),
        None => {
            let colours = std::io::stderr().is_terminal()
                && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
            let text = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
            registry.with(text.with_target(false).with_ansi(colours)).init();
        }
    }
}
