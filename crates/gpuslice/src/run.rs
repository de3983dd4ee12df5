//! The commands: ask, and hand the answer to the output.

mod attach;
mod doctor;
mod events;
mod explain;
mod export;
mod lists;
mod orders;
mod pages;

use crate::args::{Command, Export};
use crate::failure::Failure;
use crate::output::Output;
use futures_lite::future::block_on;
use gpuslice_api::client::{List, Listing};
use gpuslice_api::libvirt::DomainInfo;
use gpuslice_api::{CallError, Client, Transport};
use gpuslice_core::refusal::{Code, Refusal};
use gpuslice_core::request::{self, Answer};

/// Runs a command to its end.
pub fn run(command: Command, output: &Output) -> Result<(), Failure> {
    // These ask nobody.
    if let Command::Explain { what } = &command
        && let Some(done) = explain::page(what.as_deref(), output)
    {
        return done;
    }
    match command {
        Command::Doctor { domain, fix } => return doctor::doctor(domain.as_deref(), fix, output),
        Command::Completions { shell } => return pages::completions(shell, output),
        Command::Man { dir } => return pages::man(dir.as_deref(), output),
        Command::Profiles { host: Some(host), config, .. } => {
            return lists::profiles_of(&host, config.as_deref(), output);
        }
        Command::Export(Export::Proxmox(order)) if order.host.is_some() => {
            return export::proxmox_of(&order, output);
        }
        _ => {}
    }
    let transport = Transport::from_env();
    // A list over the socket is had before a runtime would have started.
    match only_reads(&command).then(|| Client::to_read(&transport)).flatten() {
        Some(client) => block_on(read(command, &Daemon { client }, output)),
        None => with_runtime(command, &transport, output),
    }
}

/// Apart from [`run`], whose frame would else be of a size that costs a list ten pages of stack.
#[inline(never)]
fn with_runtime(command: Command, transport: &Transport, output: &Output) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|e| {
        Failure::from(Refusal::new(Code::Unsupported, "cannot start").because(e.to_string()))
    })?;
    runtime.block_on(async {
        if let Command::Wait { settled: _, timeout } = command {
            return orders::wait(transport, timeout, output).await;
        }
        let client = Client::connect(transport).await?;
        ask(command, &Daemon { client }, output).await
    })
}

/// Lists, whose rows may be thousands. Whose number is asked for libvirt alone knows, which is on the bus.
fn only_reads(command: &Command) -> bool {
    if let Command::History { what: Some(what), .. } | Command::Explain { what: Some(what) } =
        command
        && libvirt_id(what).is_some()
    {
        return false;
    }
    matches!(
        command,
        Command::Status
            | Command::Gpus
            | Command::Profiles { .. }
            | Command::Slices
            | Command::Claims
            | Command::History { .. }
            | Command::Explain { .. }
            | Command::Export(_)
    )
}

/// What only reads.
async fn read(command: Command, daemon: &Daemon, output: &Output) -> Result<(), Failure> {
    match command {
        Command::Status => lists::status(daemon, output).await,
        Command::Gpus => lists::parents(daemon, output).await,
        Command::Profiles { types: false, .. } => lists::profiles(daemon, output).await,
        Command::Profiles { types: true, .. } => lists::types(daemon, output).await,
        Command::Slices => lists::slices(daemon, output).await,
        Command::Claims => lists::claims(daemon, output).await,
        // Their state would be part of everyone's.
        other => Box::pin(read_more(other, daemon, output)).await,
    }
}

async fn read_more(command: Command, daemon: &Daemon, output: &Output) -> Result<(), Failure> {
    match command {
        Command::History { what, since } => lists::history(daemon, what, since, output).await,
        Command::Explain { what: Some(what) } => explain::object(daemon, &what, output).await,
        Command::Export(Export::Proxmox(order)) => export::proxmox(daemon, &order, output).await,
        // It is no question, or was served before a daemon is asked for.
        _ => Ok(()),
    }
}

async fn ask(command: Command, daemon: &Daemon, output: &Output) -> Result<(), Failure> {
    match command {
        Command::Attach(order) if order.print => attach::print(daemon, order, output).await,
        Command::Attach(order) => attach::attach(daemon, order, output).await,
        Command::Detach { domain, name, live, config } => {
            attach::detach(daemon, &domain, name, live, config, output).await
        }
        Command::Release { claim, name, force } => {
            orders::release(daemon, &claim, name, force, output).await
        }
        Command::Plan => orders::plan(daemon, output).await,
        Command::Apply => orders::apply(daemon, output).await,
        Command::Cordon { parent, reason } => {
            let order = request::Command::Cordon { parent, reason };
            orders::done(daemon.call(order).await?, output)
        }
        Command::Drain { parents, all: _, wait, reason } => {
            orders::drain(daemon, parents, reason, wait, output).await
        }
        Command::Replace { old, new } => {
            orders::done(daemon.call(request::Command::Replace { old, new }).await?, output)
        }
        Command::Uncordon { parent } => {
            orders::done(daemon.call(request::Command::Uncordon { parent }).await?, output)
        }
        Command::Events => events::events(daemon, output).await,
        // What only reads, and what was served before a daemon is asked for.
        other => read(other, daemon, output).await,
    }
}

/// The daemon, once found.
struct Daemon {
    client: Client,
}

impl Daemon {
    async fn call(&self, command: request::Command) -> Result<Answer, Failure> {
        Ok(self.client.call(command).await?)
    }

    async fn list(&self, what: Listing) -> Result<List, Failure> {
        Ok(self.client.list(what).await?)
    }

    /// The VM that runs under this number, as virsh shows it: only libvirt knows that. `None` for what is no such number.
    async fn domain_of_id(&self, what: &str) -> Option<DomainInfo> {
        libvirt_id(what)?;
        self.client.libvirt().ok()?.resolve(what).await.ok()
    }
}

/// The number of a VM that runs, as virsh shows it.
fn libvirt_id(what: &str) -> Option<u32> {
    what.parse().ok().filter(|id: &u32| id.to_string() == what)
}

/// An answer that does not belong to the question.
fn unexpected(answer: &Answer) -> Failure {
    let text = serde_json::to_string(answer).unwrap_or_default();
    let what = format!("unexpected {}", text.chars().take(80).collect::<String>());
    CallError::Protocol { what }.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::Arguments;
    use clap::Parser;

    #[test]
    fn numbers_of_libvirt_s_are_asked_for_over_the_bus() {
        for (typed, over_socket) in [
            ("history", true),
            ("history 5", false),
            ("history win11", true),
            ("history 0000:41:00.4", true),
            ("explain 5", false),
            ("explain win11/gpu0", true),
            ("slices", true),
            ("apply", false),
        ] {
            let words = std::iter::once("gpuslice").chain(typed.split(' '));
            let args = Arguments::try_parse_from(words).unwrap();
            assert_eq!(only_reads(&args.command), over_socket, "{typed}");
        }
    }
}
