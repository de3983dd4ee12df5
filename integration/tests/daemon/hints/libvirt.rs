//! libvirt's own test driver, whose domains the real agent looks after; a person defines and edits them beside it. The
//! driver starts nothing and calls no hook, so a test calls that where libvirt would.

use gpuslice_api::Client;
use gpuslice_api::libvirt::{LibvirtInterface, serve};
use gpuslice_libvirt::agent::Agent;
use gpuslice_libvirt::daemon::Daemon;
use gpuslice_libvirt::link::{Worker, start_events};
use gpuslice_libvirt::service::{PATIENCE, Service};
use gpuslice_libvirt::watch::Watch;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread::JoinHandle;
use tokio::sync::oneshot;
use virt::connect::Connect;
use virt::domain::Domain;
use virt::sys;

/// One host per process, so the tests take turns.
const URI: &str = "test:///default";
static TURN: Mutex<()> = Mutex::new(());

/// An agent at work, until it is dropped.
struct AtWork {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for AtWork {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

pub struct Libvirt {
    connect: Connect,
    agent: Option<AtWork>,
    _turn: MutexGuard<'static, ()>,
}

impl Libvirt {
    pub fn new() -> Self {
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        start_events().unwrap();
        Self { connect: Connect::open(Some(URI)).unwrap(), agent: None, _turn: turn }
    }

    /// The agent comes, or comes again.
    pub fn agent_comes(&mut self, bus: String) {
        let (ready, is_ready) = mpsc::channel();
        let (stop, stopped) = oneshot::channel();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.unwrap().block_on(async {
                let (notices, noticed) = tokio::sync::mpsc::unbounded_channel();
                let worker = Worker::start(URI, notices).unwrap();
                let connection =
                    zbus::connection::Builder::address(bus.as_str()).unwrap().build().await;
                let connection = connection.unwrap();
                let client = Client::over(connection.clone());
                let changes = client.changes().await.unwrap();
                let agent = Arc::new(Agent::new(worker.clone(), Daemon::new(client)));
                let service = Service::new(Arc::clone(&agent), PATIENCE);
                serve(&connection, LibvirtInterface::new(service)).await.unwrap();
                let watch = Watch::new(agent, noticed, changes, true, |_: &str| {});
                ready.send(()).unwrap();
                tokio::select! {
                    _ = watch.run() => {}
                    _ = stopped => {}
                }
                worker.disconnect().await;
                // Its name on the bus goes with it.
                connection.close().await.unwrap();
            });
        });
        is_ready.recv().unwrap();
        self.agent = Some(AtWork { stop: Some(stop), thread: Some(thread) });
    }

    pub fn agent_goes(&mut self) {
        self.agent = None;
    }

    fn domain(&self, name: &str) -> Domain {
        Domain::lookup_by_name(&self.connect, name).unwrap()
    }

    /// `virsh define`.
    pub fn define(&self, xml: &str) {
        Domain::define_xml(&self.connect, xml).unwrap();
    }

    /// `virsh create`: it runs and is not kept.
    pub fn creates(&self, xml: &str) {
        Domain::create_xml(&self.connect, xml, 0).unwrap();
    }

    pub fn undefine(&self, name: &str) {
        self.domain(name).undefine().unwrap();
    }

    /// `virsh dumpxml --inactive`.
    pub fn xml(&self, name: &str) -> String {
        self.domain(name).get_xml_desc(sys::VIR_DOMAIN_XML_INACTIVE).unwrap()
    }

    pub fn runs(&self, name: &str) -> bool {
        self.domain(name).is_active().unwrap()
    }

    /// What `virsh start` comes to once the hook has let it.
    pub fn started(&self, name: &str) {
        // The agent may have been faster: it starts what was refused too early.
        if !self.runs(name) {
            self.domain(name).create().unwrap();
        }
    }

    pub fn stopped(&self, name: &str) {
        self.domain(name).destroy().unwrap();
    }
}

impl Drop for Libvirt {
    fn drop(&mut self) {
        self.agent = None;
        // The next test finds the host without this one's domains.
        for domain in self.connect.list_all_domains(0).unwrap_or_default() {
            if domain.get_name().is_ok_and(|name| name == "test") {
                continue;
            }
            if domain.is_active().unwrap_or_default() {
                let _ = domain.destroy();
            }
            let _ = domain.undefine();
        }
        let _ = self.connect.close();
    }
}
