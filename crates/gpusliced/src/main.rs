//! The gpuslice daemon: gives VMs slices of GPUs and takes them back. One task owns the state machine of
//! `gpuslice-core`; everything else here carries messages to it and performs what it orders.

mod args;
mod backend;
mod config_files;
mod engine;
mod history;
mod memory;
mod notify;
mod server;
mod sim_control;
mod store;

use anyhow::Context;
use args::Args;
use backend::Backend;
use clap::Parser;
use engine::{Engine, Records};
use gpuslice_core::errno::Errno;
use history::History;
use std::process::ExitCode;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinHandle;

fn main() -> ExitCode {
    // Before anything is opened or parsed: such a process does one device write and nothing else.
    if std::env::args_os().nth(1).is_some_and(|a| a == gpuslice_host::child::ARGUMENT) {
        return gpuslice_host::child::main();
    }
    let args = Args::parse();
    gpuslice_api::logging::start();
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            tracing::error!("cannot start the event loop: {error}");
            return ExitCode::FAILURE;
        }
    };
    let result = runtime.block_on(run(args));
    // A step that hangs in the kernel must not keep the daemon from ending.
    runtime.shutdown_background();
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(args: Args) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("listen for SIGINT")?;
    // First: it locks the state, and a second daemon that fails here must not have taken the first one's sockets.
    let store = store::Store::open(&args)?;
    let socket = server::socket::listen(&args.socket)?;
    let (handle, inbox) = engine::channel();
    let mut backend = Backend::open(&args, &handle)?;
    let deaf = backend.deaf();
    let changes = handle.changes();
    let sim_control = match &args.sim_control {
        Some(path) => Some(sim_control::listen(path)?),
        None => None,
    };
    let history = History::start(store.history()?, handle.clone()).context("start a thread")?;
    let records = Records { store, history: history.clone() };
    let engine = Engine::start(backend, records, args.config.clone(), inbox, handle.announcer());
    let engine = tokio::spawn(engine.run());
    tokio::spawn(server::socket::serve(socket, handle.clone()));
    if let Some(listener) = sim_control {
        tokio::spawn(sim_control::serve(listener, handle.clone()));
    }
    let named = server::bus::keep(args.bus.clone(), handle.clone(), changes);
    // The name is worth a moment's wait before the start counts as done, but hooks do not need a bus.
    let _ = tokio::time::timeout(std::time::Duration::from_secs(5), named).await;
    notify::ready();
    let told = async {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    };
    let ended = until_over(told, engine, deaf).await;
    notify::stopping();
    history.finish();
    ended
}

/// Serves until it is told to end, or cannot go on: then systemd starts another, which reads everything anew.
async fn until_over(
    told: impl Future<Output = ()>,
    engine: JoinHandle<anyhow::Result<()>>,
    deaf: impl Future<Output = Errno>,
) -> anyhow::Result<()> {
    tokio::select! {
        () = told => Ok(()),
        ended = engine => {
            ended.context("the engine ended")??;
            anyhow::bail!("the engine ended");
        }
        errno = deaf => anyhow::bail!("uevents are lost from now on: {errno}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::{pending, ready};

    /// Otherwise no GPU that is plugged in would be seen before somebody restarts it.
    #[tokio::test]
    async fn it_ends_when_it_hears_of_nothing_any_more() {
        let engine = || tokio::spawn(pending());
        let deaf = until_over(pending(), engine(), ready(Errno::EBADF)).await.unwrap_err();
        assert!(deaf.to_string().starts_with("uevents are lost from now on: "), "{deaf}");
        assert!(until_over(ready(()), engine(), pending()).await.is_ok());
        assert!(until_over(pending(), tokio::spawn(ready(Ok(()))), pending()).await.is_err());
    }
}
