//! The client against the served interface, over a connection without a bus, and over the socket.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking; its shared functions are not marked as tests"
)]

use gpuslice_api::host::{Caller, HostInterface};
use gpuslice_api::names::{HOST_INTERFACE, HOST_PATH};
use gpuslice_api::{CallError, Client, Handler, Transport};
use gpuslice_core::ids::ClaimKey;
use gpuslice_core::refusal::{Code, Refusal};
use gpuslice_core::request::{Answer, Command, Outcome};
use gpuslice_hook_proto::{Body, Reply, ReplyBody, Request, Served};
use serde_json::{Value as Json, json};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use zbus::zvariant::OwnedValue;
use zbus::{Connection, Guid, connection};

/// Answers every command with the script's next word and remembers what was asked.
#[derive(Clone)]
struct Script {
    outcome: Outcome,
    asked: Arc<Mutex<Vec<(Command, bool)>>>,
}

impl Handler for Script {
    async fn call(&self, caller: Caller, command: Command) -> Outcome {
        assert_eq!(caller.bus_name, None);
        assert_eq!(
            caller.uid().await,
            Some(rustix::process::geteuid().as_raw())
        );
        self.asked
            .lock()
            .unwrap()
            .push((command, caller.interactive));
        self.outcome.clone()
    }
}

async fn pair(outcome: Outcome) -> (Connection, Connection, Arc<Mutex<Vec<(Command, bool)>>>) {
    let (here, there) = UnixStream::pair().unwrap();
    let asked = Arc::new(Mutex::new(Vec::new()));
    let script = Script {
        outcome,
        asked: asked.clone(),
    };
    let server = connection::Builder::unix_stream(there)
        .server(Guid::generate())
        .unwrap()
        .p2p()
        .serve_at(HOST_PATH, HostInterface::new(script, "0.1.0"))
        .unwrap()
        .build();
    let client = connection::Builder::unix_stream(here).p2p().build();
    let (server, client) = tokio::join!(server, client);
    (server.unwrap(), client.unwrap(), asked)
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
         json!({"answer": "agent-work", "look_again": [], "start": [uuid]})),
    ]
    .map(|(asked, answer)| (command(asked), answer))
    .into()
}

#[tokio::test]
async fn every_command_arrives_as_sent_and_its_answer_comes_back() {
    for (command, answer) in commands() {
        let answer: Answer = serde_json::from_value(answer).unwrap();
        let (_server, connection, asked) = pair(Ok(answer.clone())).await;
        let got = Client::over(connection)
            .call(command.clone())
            .await
            .unwrap();
        assert_eq!(got, answer);
        assert_eq!(*asked.lock().unwrap(), [(command, true)]);
    }
}

#[tokio::test]
async fn a_refusal_arrives_whole_and_is_readable_without_our_client() {
    let refusal = Refusal::new(Code::NoCapacity, "no free slice of nvidia-a40-8q")
        .because("0000:41:00.0: 6 of 6 taken")
        .hint("virsh shutdown win11");
    let (_server, connection, _) = pair(Err(refusal.clone())).await;
    let error = Client::over(connection.clone()).call(Command::Status).await;
    assert!(matches!(error, Err(CallError::Refused(got)) if got == refusal));

    let bare = connection
        .call_method(None::<&str>, HOST_PATH, Some(HOST_INTERFACE), "Status", &())
        .await;
    let Err(zbus::Error::MethodError(name, Some(text), _)) = bare else {
        panic!("{bare:?}");
    };
    assert_eq!(name.as_str(), "org.gpuslice1.Error.NoCapacity");
    assert_eq!(text, refusal.one_line());
}

#[tokio::test]
async fn who_may_not_is_told_apart() {
    let refusal = Refusal::new(
        Code::NotPermitted,
        "ending a claim needs org.gpuslice1.release",
    );
    let (_server, connection, _) = pair(Err(refusal.clone())).await;
    let error = Client::over(connection).call(Command::Apply).await;
    assert!(matches!(error, Err(CallError::NotPermitted(got)) if got == refusal));
}

fn dict(json: &Json) -> BTreeMap<String, OwnedValue> {
    gpuslice_api::wire::to_dict(json).unwrap()
}

#[tokio::test]
async fn arguments_outside_the_interface_are_refused_before_the_handler() {
    let answer = Answer::Parents { rows: Vec::new() };
    let (_server, connection, asked) = pair(Ok(answer)).await;
    let call = async |method: &'static str, body: (&str, BTreeMap<String, OwnedValue>)| {
        let called = connection
            .call_method(None::<&str>, HOST_PATH, Some(HOST_INTERFACE), method, &body)
            .await;
        match called {
            Err(zbus::Error::MethodError(name, text, _)) => (name.to_string(), text.unwrap()),
            other => panic!("{other:?}"),
        }
    };
    for (claim, options, want) in [
        ("vmid:100/gpu0", json!({"forse": true}), "forse"),
        ("vmid:100/gpu0", json!({"force": "yes"}), "boolean"),
        ("gpu0", json!({}), "OWNER/NAME"),
    ] {
        let (name, text) = call("Unclaim", (claim, dict(&options))).await;
        assert_eq!(name, "org.gpuslice1.Error.BadRequest", "{text}");
        assert!(text.contains(want), "{text}");
    }
    assert!(asked.lock().unwrap().is_empty());
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
    let (_server, connection, _) = pair(Ok(serde_json::from_value(answer).unwrap())).await;
    let list = async |filter: Json| -> Result<Vec<String>, zbus::Error> {
        let reply = connection
            .call_method(
                None::<&str>,
                HOST_PATH,
                Some(HOST_INTERFACE),
                "ListParents",
                &(dict(&filter),),
            )
            .await?;
        let rows: Vec<BTreeMap<String, OwnedValue>> = reply.body().deserialize()?;
        let parent = |row: &BTreeMap<String, OwnedValue>| row["parent"].to_string();
        Ok(rows.iter().map(parent).collect())
    };
    for (filter, want) in [
        (json!({}), 2),
        (json!({"parent": "mtty"}), 1),
        (json!({"mechanisms": "mdev"}), 2),
        (json!({"mechanisms": "sriov", "numa_node": 1}), 1),
        (json!({"mechanisms": "sriov", "numa_node": 0}), 0),
    ] {
        assert_eq!(list(filter.clone()).await.unwrap().len(), want, "{filter}");
    }
    let error = list(json!({"driwer": "xe"})).await.unwrap_err().to_string();
    assert!(
        error.contains("driwer") && error.contains("driver"),
        "{error}"
    );
}

#[tokio::test]
async fn the_version_is_a_property() {
    let (_server, connection, _) = pair(Ok(Answer::Types { rows: Vec::new() })).await;
    let body = (HOST_INTERFACE, "Version");
    let get = Some("org.freedesktop.DBus.Properties");
    let reply = connection
        .call_method(None::<&str>, HOST_PATH, get, "Get", &body)
        .await;
    let value: OwnedValue = reply.unwrap().body().deserialize().unwrap();
    assert_eq!(String::try_from(value).unwrap(), "0.1.0");
}

/// Serves one connection: replies to each request with what `reply` makes of it, then closes.
fn socket(replies: Vec<fn(&Request) -> Vec<Reply>>) -> (tempfile::TempDir, Transport) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("sock");
    let listener = UnixListener::bind(&path).unwrap();
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let mut stream = BufReader::new(stream);
        for reply in replies {
            let mut line = String::new();
            stream.read_line(&mut line).await.unwrap();
            let request = Request::from_line(line.as_bytes()).unwrap();
            for reply in reply(&request) {
                let line = reply.to_line().unwrap();
                stream.get_mut().write_all(line.as_bytes()).await.unwrap();
            }
        }
    });
    (dir, Transport::only_socket(path))
}

fn done(request: &Request, message: &str) -> Reply {
    let answer = Answer::Done {
        changed: true,
        message: message.to_owned(),
    };
    Reply::new(request.id, ReplyBody::Ok(Served::Command(Box::new(answer))))
}

#[tokio::test]
async fn the_socket_serves_commands_one_after_the_other() {
    let (_dir, transport) = socket(vec![
        |request| {
            assert_eq!(request.body, Body::Command(Command::Apply));
            // A late answer to something else comes first.
            let late = Request::new(
                "8e2f2d4e-1b5f-4a4e-9f57-0d9c6f1c6a11".parse().unwrap(),
                Body::Command(Command::Plan),
            );
            vec![done(&late, "late"), done(request, "applied")]
        },
        |request| {
            let refusal = Refusal::new(Code::Unknown, "no claim vmid:100/gpu0");
            vec![Reply::refused(request.id, refusal)]
        },
        |_| Vec::new(),
    ]);
    let client = Client::connect(&transport).await.unwrap();
    let got = client.call(Command::Apply).await.unwrap();
    assert!(matches!(got, Answer::Done { message, .. } if message == "applied"));

    let key: ClaimKey = "vmid:100/gpu0".parse().unwrap();
    let unclaim = client.call(Command::Unclaim { key, force: false }).await;
    assert!(matches!(unclaim, Err(CallError::Refused(r)) if r.code == Code::Unknown));

    let broken = client.call(Command::Status).await.unwrap_err();
    assert!(
        matches!(&broken, CallError::Unreachable { tried, .. } if tried[0].contains("closed")),
        "{broken:?}"
    );
    assert!(
        matches!(client.changes().await, Err(CallError::Refused(r)) if r.code == Code::Unsupported)
    );
}

#[tokio::test]
async fn nobody_there_says_what_was_tried() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("sock");
    let error = Client::connect(&Transport::only_socket(&socket))
        .await
        .unwrap_err();
    let CallError::Unreachable { who, tried } = error else {
        panic!("{error:?}");
    };
    assert_eq!(who, "gpusliced");
    assert_eq!(
        tried,
        [format!(
            "connect {}: no such file or directory (ENOENT)",
            socket.display()
        )]
    );

    let address = format!("unix:path={}", socket.display());
    let error = Client::connect(&Transport::only_bus(&address))
        .await
        .unwrap_err();
    assert!(
        matches!(&error, CallError::Unreachable { tried, .. } if tried[0].contains("sock")),
        "{error:?}"
    );
}
