//! A bus, a scripted daemon, a person at libvirt and the agent between them.

use crate::bus::Bus;
use crate::daemon::{Asked, Daemon};
use crate::domains::{Person, URI};
use gpuslice_api::Client;
use gpuslice_api::libvirt::{LibvirtClient, LibvirtInterface, serve};
use gpuslice_core::request::{ChangeNote, Command, DeviceToWrite};
use gpuslice_libvirt::agent::Agent;
use gpuslice_libvirt::daemon::Daemon as DaemonClient;
use gpuslice_libvirt::link::{Notice, Worker};
use gpuslice_libvirt::service::Service;
use gpuslice_libvirt::watch::Watch;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::mpsc::{self, UnboundedSender};
use uuid::Uuid;

static TURN: Mutex<()> = Mutex::new(());

pub struct Scene {
    pub bus: Bus,
    pub daemon: Daemon,
    pub asked: Asked,
    pub person: Person,
    pub agent: Arc<Agent>,
    pub client: LibvirtClient,
    /// What libvirt tells the agent goes by here.
    pub notices: UnboundedSender<Notice>,
    daemon_connection: zbus::Connection,
}

/// How a scene begins.
pub struct Setting {
    pub uri: String,
    pub daemon_up: bool,
    pub patience: Duration,
    /// How long a start is made up for.
    pub start_later: Duration,
}

impl Default for Setting {
    fn default() -> Self {
        let (patience, start_later) = (Duration::from_secs(20), Duration::from_secs(600));
        Self { uri: URI.to_owned(), daemon_up: true, patience, start_later }
    }
}

/// Plays a test: `before` prepares libvirt and the daemon, then the agent starts.
pub fn play<B, F, T>(setting: Setting, before: B, test: F)
where
    B: FnOnce(&Person, &Daemon),
    F: FnOnce(Scene) -> T,
    T: Future<Output = ()>,
{
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let scene = Scene::begin(setting, before).await;
        test(scene).await;
    });
}

/// Plays a test in the ordinary setting.
pub fn ordinary<F, T>(before: impl FnOnce(&Person, &Daemon), test: F)
where
    F: FnOnce(Scene) -> T,
    T: Future<Output = ()>,
{
    play(Setting::default(), before, test);
}

impl Scene {
    async fn begin(setting: Setting, before: impl FnOnce(&Person, &Daemon)) -> Self {
        let bus = Bus::start();
        let person = Person::connect();
        let (daemon, asked) = Daemon::new();
        before(&person, &daemon);
        let daemon_connection = bus.connect().await;
        if setting.daemon_up {
            daemon.serve(&daemon_connection).await;
        }
        let connection = bus.connect().await;
        let (notices, noticed) = mpsc::unbounded_channel();
        let worker = Worker::start(&setting.uri, notices.clone()).unwrap();
        let client = Client::over(connection.clone());
        let changes = client.changes().await.unwrap();
        let mut agent = Agent::new(worker, DaemonClient::new(client));
        agent.start_later = setting.start_later;
        let agent = Arc::new(agent);
        let service = Service::new(Arc::clone(&agent), setting.patience);
        serve(&connection, LibvirtInterface::new(service)).await.unwrap();
        let watch =
            Watch::new(Arc::clone(&agent), noticed, changes, setting.daemon_up, |_: &str| {});
        tokio::spawn(watch.run());
        if setting.uri == URI {
            let connected = async {
                while agent.worker.call("asking".to_owned(), |_| Ok(())).await.is_err() {
                    tokio::task::yield_now().await;
                }
            };
            tokio::time::timeout(Duration::from_secs(20), connected).await.unwrap();
        }
        let client = Client::over(bus.connect().await).libvirt().unwrap();
        Self { bus, daemon, asked, person, agent, client, notices, daemon_connection }
    }

    pub async fn daemon_comes(&self) {
        self.daemon.serve(&self.daemon_connection).await;
    }

    pub async fn announce(&self, kind: &str) {
        let note = ChangeNote { kind: kind.to_owned(), id: String::new(), what: String::new() };
        gpuslice_api::host::announce(&self.daemon_connection, &note).await.unwrap();
    }

    /// Waits for a command, passing over the others.
    pub async fn asks(&mut self, what: &str, wanted: impl Fn(&Command) -> bool) -> Command {
        let wait = async {
            loop {
                let command = self.asked.recv().await.unwrap();
                if wanted(&command) {
                    return command;
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(20), wait)
            .await
            .unwrap_or_else(|_| panic!("never asked: {what}"))
    }

    /// Waits until the agent has shown a domain, as a test wants it.
    pub async fn shows(
        &mut self,
        uuid: Uuid,
        so: impl Fn(&gpuslice_core::domain::Domain, bool) -> bool,
    ) {
        self.asks("DomainSeen", |command| {
            matches!(command, Command::DomainSeen { domain, shut_off }
                if domain.uuid == uuid && so(domain, *shut_off))
        })
        .await;
    }

    /// Commands asked so far.
    pub fn drain(&mut self) -> Vec<Command> {
        std::iter::from_fn(|| self.asked.try_recv().ok()).collect()
    }

    /// Waits until the agent has done all it had to: it is made to ask for work, which comes last.
    pub async fn settles(&mut self) -> Vec<Command> {
        self.drain();
        self.announce("agent-work").await;
        let mut before = Vec::new();
        loop {
            let command = self.asks("anything", |_| true).await;
            if command == Command::AgentWork {
                return before;
            }
            before.push(command);
        }
    }
}

pub fn wanted(alias: &str, function: u8) -> DeviceToWrite {
    let address = format!("0000:41:00.{function}");
    DeviceToWrite {
        alias: alias.to_owned(),
        source: gpuslice_core::domain::HostDeviceSource::Pci(address.parse().unwrap()),
    }
}
