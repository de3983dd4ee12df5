//! The client and any other program against the served interface, on a bus of their own.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking; its shared functions are not marked as tests"
)]

mod private_bus;

use gpuslice_api::client::Event;
use gpuslice_api::host::{HostInterface, announce, serve};
use gpuslice_api::libvirt::{
    self, AttachOptions, Attached, DetachOptions, Detached, DomainInfo, LibvirtHandler,
    LibvirtInterface,
};
use gpuslice_api::names::{BUS_NAME, HOST_INTERFACE, HOST_PATH};
use gpuslice_api::wire::{Dict, to_dict};
use gpuslice_api::{Admits, CallError, Caller, Client, Handler, Transport};
use gpuslice_core::hint;
use gpuslice_core::ids::{ClaimName, ProfileName};
use gpuslice_core::refusal::{Code, Refusal};
use gpuslice_core::request::{Answer, ChangeNote, Command, Outcome};
use private_bus::PrivateBus;
use serde::Serialize;
use serde_json::{Value as Json, json};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use zbus::Connection;
use zbus::zvariant::{DynamicType, OwnedValue};

/// Answers each command with the next outcome and remembers what was asked.
struct Script {
    outcomes: Mutex<VecDeque<Outcome>>,
    asked: Arc<Mutex<Vec<Command>>>,
}

impl Admits for Script {}

impl Handler for Script {
    async fn call(&self, caller: Caller, command: Command) -> Outcome {
        assert!(caller.bus_name.is_some());
        assert_eq!(caller.uid().await, Some(rustix::process::geteuid().as_raw()));
        self.asked.lock().unwrap().push(command);
        self.outcomes.lock().unwrap().pop_front().unwrap()
    }
}

/// A daemon on a bus of its own.
struct Served {
    bus: PrivateBus,
    daemon: Connection,
    asked: Arc<Mutex<Vec<Command>>>,
}

impl Served {
    async fn new(outcomes: impl IntoIterator<Item = Outcome>) -> Self {
        let bus = PrivateBus::start();
        let daemon = bus.connect().await;
        let asked = Arc::new(Mutex::new(Vec::new()));
        let script =
            Script { outcomes: Mutex::new(outcomes.into_iter().collect()), asked: asked.clone() };
        serve(&daemon, HostInterface::new(script, "0.1.0")).await.unwrap();
        Self { bus, daemon, asked }
    }

    async fn client(&self) -> Client {
        let transport = Transport::only_bus(self.bus.address());
        Client::connect(&transport).await.unwrap()
    }

    /// Calls a method as any other program would.
    async fn bare<B: Serialize + DynamicType>(
        &self,
        interface: &str,
        method: &str,
        body: &B,
    ) -> zbus::Result<zbus::Message> {
        let connection = self.bus.connect().await;
        connection.call_method(Some(BUS_NAME), HOST_PATH, Some(interface), method, body).await
    }
}

fn command(json: Json) -> Command {
    serde_json::from_value(json).unwrap()
}

fn commands() -> Vec<(Command, Json)> {
    let uuid = "8e2f2d4e-1b5f-4a4e-9f57-0d9c6f1c6a11";
    let done = json!({"answer": "done", "changed": true, "message": "done"});
    let plan =
        json!({"answer": "plan", "changed": false, "steps": [], "blockers": [], "unmatched": []});
    let claim = json!({"claim": "vmid:100/gpu0", "owner_name": "", "profile": "p", "count": 1,
        "state": "idle", "reason": null, "slices": [], "home": [], "last_refusal": null});
    let status = json!({"answer": "status", "version": "0.1.0", "settled": true, "waiting_for": [],
        "writable": true, "config_errors": [], "parents": 1, "slices": 2, "claims": 3, "attached": 1,
        "warnings": [], "host": "/sys"});
    [
        (json!({"command": "status"}), status),
        (json!({"command": "list-parents"}), json!({"answer": "parents", "rows": []})),
        (json!({"command": "list-profiles"}), json!({"answer": "profiles", "rows": []})),
        (json!({"command": "list-types"}), json!({"answer": "types", "rows": []})),
        (json!({"command": "list-slices"}), json!({"answer": "slices", "rows": []})),
        (json!({"command": "list-claims"}), json!({"answer": "claims", "rows": [claim]})),
        (json!({"command": "claim", "owner": uuid, "owner_name": "win11", "pool": true,
                "request": {"name": "gpu0", "profile": "p", "count": 2}, "reserve": false, "dry_run": true}),
         json!({"answer": "claimed", "changed": true, "claim": claim, "devices": [], "warnings": []})),
        (json!({"command": "unclaim", "key": "vmid:100/gpu0", "force": true}), done.clone()),
        (json!({"command": "plan"}), plan.clone()),
        (json!({"command": "apply"}), plan),
        (json!({"command": "cordon", "parent": "0000:41:00.0", "reason": "fan"}), done.clone()),
        (json!({"command": "uncordon", "parent": "mtty"}), done.clone()),
        (json!({"command": "wait-settled", "timeout_ms": 90_000}), done.clone()),
        (json!({"command": "domain-seen", "shut_off": true, "domain": {"uuid": uuid, "name": "win11",
                "claims": [{"name": "gpu0"}], "devices": []}}),
         json!({"answer": "domain", "devices": [], "refused": []})),
        (json!({"command": "domain-gone", "uuid": uuid}), done),
        (json!({"command": "agent-work"}),
         json!({"answer": "agent-work", "look_again": [], "start": [{"domain": uuid, "only": "marked"}]})),
    ]
    .map(|(asked, answer)| (command(asked), answer))
    .into()
}

#[tokio::test]
async fn every_command_arrives_as_sent_and_its_answer_comes_back() {
    let (asked, answers): (Vec<Command>, Vec<Json>) = commands().into_iter().unzip();
    let answers: Vec<Answer> = serde_json::from_value(json!(answers)).unwrap();
    let served = Served::new(answers.iter().cloned().map(Ok)).await;
    let client = served.client().await;
    for (command, answer) in asked.iter().zip(answers) {
        assert_eq!(client.call(command.clone()).await.unwrap(), answer);
    }
    assert_eq!(*served.asked.lock().unwrap(), asked);
}

#[tokio::test]
async fn a_refusal_arrives_whole_and_is_readable_without_our_client() {
    let refusal = Refusal::new(Code::NoCapacity, "no free slice of nvidia-a40-8q")
        .because("0000:41:00.0: 6 of 6 taken")
        .hint(hint!("virsh shutdown win11"));
    let served = Served::new([Err(refusal.clone()), Err(refusal.clone())]).await;
    let error = served.client().await.call(Command::Status).await;
    assert!(matches!(error, Err(CallError::Refused(got)) if got == refusal));

    let Err(zbus::Error::MethodError(name, Some(text), _)) =
        served.bare(HOST_INTERFACE, "Status", &()).await
    else {
        panic!("not refused");
    };
    assert_eq!(name.as_str(), "org.gpuslice1.Error.NoCapacity");
    assert_eq!(text, refusal.one_line());
}

#[tokio::test]
async fn who_may_not_is_told_apart() {
    let refusal = Refusal::new(Code::NotPermitted, "applying needs org.gpuslice1.apply");
    let served = Served::new([Err(refusal.clone())]).await;
    let error = served.client().await.call(Command::Apply).await;
    assert!(matches!(error, Err(CallError::NotPermitted(got)) if got == refusal));
}

#[tokio::test]
async fn arguments_outside_the_interface_are_refused_before_the_handler() {
    let served = Served::new([]).await;
    for (claim, options, want) in [
        ("vmid:100/gpu0", json!({"forse": true}), "forse"),
        ("vmid:100/gpu0", json!({"force": "yes"}), "boolean"),
        ("gpu0", json!({}), "OWNER/NAME"),
    ] {
        let body = (claim, to_dict(&options).unwrap());
        let Err(zbus::Error::MethodError(name, Some(text), _)) =
            served.bare(HOST_INTERFACE, "Unclaim", &body).await
        else {
            panic!("not refused");
        };
        assert_eq!(name.as_str(), "org.gpuslice1.Error.BadRequest", "{text}");
        assert!(text.contains(want), "{text}");
    }
    assert!(served.asked.lock().unwrap().is_empty());
}

#[tokio::test]
async fn lists_are_filtered() {
    let row = |parent: &str, mechanisms: Json| {
        json!({"parent": parent, "pci_id": "", "driver": null, "mechanisms": mechanisms, "numa_node": 1,
               "serial": null, "vfs": null, "total_vfs": null, "layout": null, "state": "ok",
               "reason": null, "assigned": 0})
    };
    let answer = json!({"answer": "parents", "rows": [
        row("0000:41:00.0", json!(["sriov", "mdev"])), row("mtty", json!(["mdev"]))]});
    let answer: Answer = serde_json::from_value(answer).unwrap();
    let filters = [
        (json!({}), 2),
        (json!({"parent": "mtty"}), 1),
        (json!({"mechanisms": "mdev"}), 2),
        (json!({"mechanisms": "sriov", "numa_node": 1}), 1),
        (json!({"mechanisms": "sriov", "numa_node": 0}), 0),
    ];
    let served = Served::new(vec![Ok(answer); filters.len() + 1]).await;
    for (filter, want) in filters {
        let body = (to_dict(&filter).unwrap(),);
        let reply = served.bare(HOST_INTERFACE, "ListParents", &body).await;
        let rows: Vec<Dict> = reply.unwrap().body().deserialize().unwrap();
        assert_eq!(rows.len(), want, "{filter}");
    }
    let body = (to_dict(&json!({"driwer": "xe"})).unwrap(),);
    let error = served.bare(HOST_INTERFACE, "ListParents", &body).await;
    let error = error.unwrap_err().to_string();
    assert!(error.contains("driwer") && error.contains("driver"), "{error}");
}

#[tokio::test]
async fn the_version_is_a_property() {
    let served = Served::new([]).await;
    let body = (HOST_INTERFACE, "Version");
    let reply = served.bare("org.freedesktop.DBus.Properties", "Get", &body).await;
    let value: OwnedValue = reply.unwrap().body().deserialize().unwrap();
    assert_eq!(String::try_from(value).unwrap(), "0.1.0");
}

#[tokio::test]
async fn listeners_hear_changes_and_the_daemon_come_and_go() {
    let served = Served::new([]).await;
    let client = served.client().await;
    let mut changes = client.changes().await.unwrap();
    let note = ChangeNote {
        kind: "claim".to_owned(),
        id: "vmid:100/gpu0".to_owned(),
        what: "attached to win11".to_owned(),
    };
    announce(&served.daemon, &note).await.unwrap();
    let event = changes.next().await.unwrap().unwrap();
    assert_eq!(event, Event::Changed(note.clone()));

    served.daemon.release_name(BUS_NAME).await.unwrap();
    assert_eq!(changes.next().await.unwrap().unwrap(), Event::DaemonGone);
    served.daemon.request_name(BUS_NAME).await.unwrap();
    assert_eq!(changes.next().await.unwrap().unwrap(), Event::DaemonUp);
    announce(&served.daemon, &note).await.unwrap();
    let event = changes.next().await.unwrap().unwrap();
    assert_eq!(event, Event::Changed(note));
}

#[tokio::test]
async fn a_bus_without_the_daemon_is_unreachable() {
    let bus = PrivateBus::start();
    let error = Client::connect(&Transport::only_bus(bus.address())).await;
    let Err(CallError::Unreachable { who, masked: false, tried }) = error else {
        panic!("{error:?}");
    };
    assert_eq!((who, tried.len()), ("gpusliced", 1));
    assert!(tried[0].contains("org.gpuslice1"), "{tried:?}");
}

/// Refuses to resolve, and otherwise says back what it was told.
struct Agent;

impl Admits for Agent {}

impl LibvirtHandler for Agent {
    async fn attach(
        &self,
        caller: Caller,
        domain: &str,
        profile: ProfileName,
        options: AttachOptions,
    ) -> Result<Attached, Refusal> {
        assert!(caller.interactive);
        Ok(Attached {
            changed: true,
            message: format!("{profile} {options:?}"),
            claim: "vmid:100/gpu0".parse().unwrap(),
            domain: domain.to_owned(),
            devices: Vec::new(),
            warnings: Vec::new(),
        })
    }

    async fn detach(
        &self,
        _: Caller,
        domain: &str,
        claim: Option<ClaimName>,
        options: DetachOptions,
    ) -> Result<Detached, Refusal> {
        Ok(Detached {
            changed: false,
            message: format!("{claim:?} {options:?}"),
            domain: domain.to_owned(),
            warnings: Vec::new(),
        })
    }

    async fn resolve(&self, _: Caller, domain: &str) -> Result<DomainInfo, Refusal> {
        if domain != "win11" {
            return Err(Refusal::new(Code::Unknown, format!("no domain {domain:?}")));
        }
        Ok(DomainInfo {
            uuid: "8e2f2d4e-1b5f-4a4e-9f57-0d9c6f1c6a11".parse().unwrap(),
            name: domain.to_owned(),
            running: true,
        })
    }
}

#[tokio::test]
async fn the_agent_is_called_beside_the_daemon() {
    let served = Served::new([]).await;
    let agent = served.client().await.libvirt().unwrap();
    let absent = agent.resolve("win11").await;
    assert!(
        matches!(&absent, Err(CallError::Unreachable { who: "gpuslice-libvirt-agent", .. })),
        "{absent:?}"
    );

    let connection = served.bus.connect().await;
    let interface = LibvirtInterface::new(Agent);
    libvirt::serve(&connection, interface).await.unwrap();
    let found = agent.resolve("win11").await.unwrap();
    assert_eq!((found.name.as_str(), found.running), ("win11", true));
    let unknown = agent.resolve("win12").await;
    assert!(matches!(unknown, Err(CallError::Refused(r)) if r.code == Code::Unknown));

    let options = AttachOptions {
        name: Some("gpu1".parse().unwrap()),
        live: true,
        count: Some(2),
        parameters: Some("frame_rate_limiter=0,disable_vnc=1".parse().unwrap()),
        ..AttachOptions::default()
    };
    let profile: ProfileName = "nvidia-a40-8q".parse().unwrap();
    let attached = agent.attach("win11", &profile, &options).await.unwrap();
    assert_eq!(attached.message, format!("{profile} {options:?}"));
    assert_eq!(attached.domain, "win11");

    let options = DetachOptions { live: false, config: true };
    for claim in [None, Some("gpu1".parse().unwrap())] {
        let detached = agent.detach("win11", claim.as_ref(), &options).await;
        assert_eq!(detached.unwrap().message, format!("{claim:?} {options:?}"));
    }
}

/// A bus that accepts and says nothing. The clock stands still but while everybody waits.
#[tokio::test(start_paused = true)]
async fn a_bus_that_hangs_is_nobody_who_answers() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("bus");
    let _listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let address = format!("unix:path={}", path.display());
    match Client::connect(&Transport::only_bus(address.as_str())).await {
        Err(CallError::Unreachable { tried, .. }) => {
            assert_eq!(tried, [format!("{address}: no answer within 10 s")]);
        }
        other => panic!("{other:?}"),
    }
}
