//! Wires the agent up: arguments, logging, the bus, libvirt.

use anyhow::Context;
use clap::Parser;
use gpuslice_api::Client;
use gpuslice_api::libvirt::{LibvirtInterface, serve};
use gpuslice_api::names::{BUS_ADDRESS_ENV, BUS_NAME};
use gpuslice_libvirt::agent::Agent;
use gpuslice_libvirt::daemon::Daemon;
use gpuslice_libvirt::link::Worker;
use gpuslice_libvirt::service::{PATIENCE, Service};
use gpuslice_libvirt::watch::Watch;
use sd_notify::NotifyState;
use std::sync::Arc;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use zbus::names::WellKnownName;

/// Keeps libvirt's domain definitions and gpuslice's claims in step.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// Which libvirt.
    #[arg(long, value_name = "URI", default_value = "qemu:///system")]
    connect: String,
    /// Address of the bus; the system bus when neither this nor GPUSLICE_BUS_ADDRESS names one.
    #[arg(long, value_name = "ADDRESS")]
    bus: Option<String>,
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    gpuslice_api::logging::start();
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?
        .block_on(run(arguments))
}

async fn run(arguments: Arguments) -> anyhow::Result<()> {
    let bus = connect_bus(arguments.bus).await?;
    let (notices, noticed) = mpsc::unbounded_channel();
    let worker = Worker::start(&arguments.connect, notices)
        .context("cannot start the thread that calls libvirt")?;
    let client = Client::over(bus.clone());
    // Listen first, then ask: a daemon that comes in between is seen.
    let changes = client.changes().await?;
    let daemon_up = zbus::fdo::DBusProxy::new(&bus)
        .await?
        .name_has_owner(WellKnownName::from_static_str(BUS_NAME)?.into())
        .await
        .context("cannot ask the bus for gpusliced")?;
    let agent = Arc::new(Agent::new(worker.clone(), Daemon::new(client)));
    let service = Service::new(Arc::clone(&agent), PATIENCE);
    serve(&bus, LibvirtInterface::new(service))
        .await
        .context("cannot take the name org.gpuslice1.Libvirt on the bus")?;
    notify(&[NotifyState::Ready]);
    let watch = Watch::new(agent, noticed, changes, daemon_up, |status| {
        notify(&[NotifyState::Status(status)]);
    });
    let mut terminate = signal(SignalKind::terminate()).context("cannot watch for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot watch for SIGINT")?;
    tokio::select! {
        ended = watch.run() => return ended.context("stopped"),
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    notify(&[NotifyState::Stopping]);
    // A libvirt that hangs must not hold up the stop: the process's end closes the connection as well.
    if tokio::time::timeout(std::time::Duration::from_secs(1), worker.disconnect()).await.is_err() {
        tracing::warn!("libvirt did not take leave in time");
    }
    Ok(())
}

async fn connect_bus(address: Option<String>) -> anyhow::Result<zbus::Connection> {
    let from_env = || std::env::var(BUS_ADDRESS_ENV).ok().filter(|a| !a.is_empty());
    let builder = match address.or_else(from_env) {
        Some(address) => zbus::connection::Builder::address(address.as_str())
            .with_context(|| format!("{address:?} is not the address of a bus"))?,
        None => zbus::connection::Builder::system()?,
    };
    builder.build().await.context("cannot connect to the bus")
}

/// Outside systemd there is no one to tell.
fn notify(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!("cannot notify systemd: {error}");
    }
}
