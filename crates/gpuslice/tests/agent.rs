//! `attach` and `detach` through a scripted agent, on a bus of their own.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking; its shared functions are not marked as tests"
)]

#[path = "../../gpuslice-api/tests/private_bus/mod.rs"]
mod private_bus;

use gpuslice_api::host::{self, HostInterface};
use gpuslice_api::libvirt::{
    self, AttachOptions, Attached, DetachOptions, Detached, DomainInfo, LibvirtHandler,
    LibvirtInterface,
};
use gpuslice_api::{Admits, Caller, Handler, names};
use gpuslice_core::hint;
use gpuslice_core::ids::{ClaimName, ProfileName};
use gpuslice_core::refusal::{Code, Refusal};
use gpuslice_core::request::{Answer, ChangeNote, Command as Order, Outcome};
use private_bus::PrivateBus;
use serde_json::{Value as Json, json};
use std::process::Stdio;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Command;
use zbus::Connection;

const UUID: &str = "8e2f2d4e-1b5f-4a4e-9f57-0d9c6f1c6a11";

/// Grants every claim a device.
struct Daemon;

impl Admits for Daemon {}

impl Handler for Daemon {
    async fn call(&self, _: Caller, order: Order) -> Outcome {
        let answer = match &order {
            Order::ListClaims => Some(json!({"answer": "claims", "rows": []})),
            Order::ListParents => Some(json!({"answer": "parents", "rows": []})),
            Order::ListProfiles => Some(json!({"answer": "profiles", "rows": []})),
            Order::ListSlices => Some(json!({"answer": "slices", "rows": [
                {"slice": "vf:0000:41:00.4", "address": "0000:41:00.4", "parent": "0000:41:00.0",
                    "mechanism": "sriov", "state": "foreign", "holder": "win11"}]})),
            // Says back what it was asked for.
            Order::ListHistory { about, .. } => Some(json!({"answer": "history", "rows": [
                {"owner": UUID, "owner_name": about, "index": 0, "slice": "vf:0000:41:00.4",
                    "parent": "0000:41:00.0"}]})),
            Order::Status => Some(json!({"answer": "status", "version": "", "settled": true,
                "waiting_for": [], "writable": true, "config_errors": [], "parents": 1, "slices": 1,
                "claims": 0, "attached": 0, "warnings": [], "host": ""})),
            _ => None,
        };
        if let Some(answer) = answer {
            return Ok(serde_json::from_value(answer).unwrap());
        }
        let Order::Claim { owner, owner_name, request, .. } = order else {
            return Err(Refusal::new(Code::Unsupported, "only claims here"));
        };
        let answer = json!({"answer": "claimed", "changed": true, "warnings": [],
            "claim": {"claim": format!("{owner}/{}", request.name), "owner_name": owner_name,
                "profile": request.profile, "count": 1, "state": "idle", "slices": [], "home": []},
            "devices": [{"alias": "ua-gpuslice-gpu0", "source": {"pci": "0000:41:00.4"}}]});
        Ok(serde_json::from_value::<Answer>(answer).unwrap())
    }
}

/// Knows one domain, win11, which runs as 3 and already has gpu0.
struct Agent;

fn known(domain: &str) -> Result<(), Refusal> {
    if domain == "win11" {
        return Ok(());
    }
    Err(Refusal::new(Code::Unknown, format!("no domain {domain:?}"))
        .hint(hint!("virsh list --all")))
}

impl Admits for Agent {}

impl LibvirtHandler for Agent {
    async fn attach(
        &self,
        _: Caller,
        domain: &str,
        profile: ProfileName,
        options: AttachOptions,
    ) -> Result<Attached, Refusal> {
        known(domain)?;
        let name = options.name.clone().unwrap_or_else(|| "gpu0".parse().unwrap());
        Ok(Attached {
            changed: name.as_str() != "gpu0",
            message: format!("{domain} has {name} ({profile}, {options:?})"),
            claim: format!("{UUID}/{name}").parse().unwrap(),
            domain: domain.to_owned(),
            devices: Vec::new(),
            warnings: vec!["9 claims for 8 slices".to_owned()],
        })
    }

    async fn detach(
        &self,
        _: Caller,
        domain: &str,
        claim: Option<ClaimName>,
        options: DetachOptions,
    ) -> Result<Detached, Refusal> {
        known(domain)?;
        Ok(Detached {
            changed: true,
            message: format!("detached {claim:?} {options:?}"),
            domain: domain.to_owned(),
            warnings: Vec::new(),
        })
    }

    async fn resolve(&self, _: Caller, domain: &str) -> Result<DomainInfo, Refusal> {
        let name = if domain == "3" { "win11" } else { domain };
        known(name)?;
        Ok(DomainInfo { uuid: UUID.parse().unwrap(), name: name.to_owned(), running: false })
    }
}

/// A bus with the daemon on it.
async fn host() -> (PrivateBus, Connection) {
    let bus = PrivateBus::start();
    let connection = bus.connect().await;
    host::serve(&connection, HostInterface::new(Daemon, "0.1.0")).await.unwrap();
    (bus, connection)
}

fn gpuslice(bus: &PrivateBus, arguments: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_gpuslice"));
    command.args(arguments.split(' ')).env_clear();
    command.env(names::BUS_ADDRESS_ENV, bus.address()).stdin(Stdio::null()).kill_on_drop(true);
    command
}

/// Exit code, stdout, stderr.
async fn run(bus: &PrivateBus, arguments: &str) -> (Option<i32>, String, String) {
    let output = gpuslice(bus, arguments).output().await.unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

#[tokio::test]
async fn attach_and_detach_ask_the_agent() {
    let (bus, connection) = host().await;
    libvirt::serve(&connection, LibvirtInterface::new(Agent)).await.unwrap();

    let (code, out, err) = run(
        &bus,
        "attach win11 p --name ai --live --config --reserve --count 2 --fabric same --numa prefer \
         --parameters disable_vnc=1",
    )
    .await;
    let options = AttachOptions {
        name: Some("ai".parse().unwrap()),
        live: true,
        config: true,
        pool: None,
        reserve: Some(true),
        count: Some(2),
        same_fabric: Some(true),
        prefer_numa: Some(true),
        require_numa: Some(false),
        parameters: Some("disable_vnc=1".parse().unwrap()),
    };
    assert_eq!((code, out), (Some(0), format!("win11 has ai (p, {options:?})\n")));
    assert_eq!(err, "warning: 9 claims for 8 slices\n");

    let (code, out, _) = run(&bus, "attach win11 p").await;
    assert_eq!(code, Some(0));
    assert!(out.starts_with("already so: win11 has gpu0 (p"), "{out}");

    let (_, out, _) = run(&bus, "attach win11 p --json").await;
    let value: Json = serde_json::from_str(&out).unwrap();
    assert_eq!((&value["changed"], &value["domain"]), (&json!(false), &json!("win11")));

    let (code, _, err) = run(&bus, "attach win12 p").await;
    assert_eq!(code, Some(1));
    assert_eq!(err, "error: unknown: no domain \"win12\"\n  hint: virsh list --all\n");

    for (typed, claim) in [("win11", "None"), ("win11 ai", "ai"), ("win11/ai", "ai")] {
        let (code, out, _) = run(&bus, &format!("detach {typed} --live")).await;
        assert_eq!(code, Some(0));
        assert!(out.contains(claim) && out.contains("live: true"), "{out}");
    }
}

#[tokio::test]
async fn attach_print_resolves_a_name_but_needs_no_agent_for_a_uuid() {
    let (bus, connection) = host().await;
    let (code, _, err) = run(&bus, "attach win11 p").await;
    assert_eq!(code, Some(3));
    assert!(err.contains("gpuslice-libvirt-agent does not answer"), "{err}");
    assert!(err.contains("hint: start gpuslice-libvirt-agent"), "{err}");
    let (code, _, err) = run(&bus, "attach win11 p --print").await;
    assert_eq!(code, Some(3));
    assert!(err.contains("hint: name the UUID that virsh domuuid win11 tells"), "{err}");
    let (code, out, _) = run(&bus, &format!("attach {UUID} p --print")).await;
    assert_eq!(code, Some(0));
    assert!(out.contains("ua-gpuslice-gpu0"), "{out}");

    libvirt::serve(&connection, LibvirtInterface::new(Agent)).await.unwrap();
    let (code, out, _) = run(&bus, "attach win11 p --print --json").await;
    let value: Json = serde_json::from_str(&out).unwrap();
    assert_eq!(code, Some(0));
    assert_eq!(value["claim"]["claim"], json!(format!("{UUID}/gpu0")));
    assert_eq!(value["claim"]["owner_name"], json!("win11"));
}

#[tokio::test]
async fn a_number_is_the_id_of_a_vm_that_runs() {
    let (bus, connection) = host().await;
    let (code, _, err) = run(&bus, "explain 3").await;
    assert_eq!(code, Some(1));
    assert!(err.contains("3 is no code, and no claim, slice or GPU has that name"), "{err}");
    libvirt::serve(&connection, LibvirtInterface::new(Agent)).await.unwrap();
    let (code, out, err) = run(&bus, "explain 3 --json").await;
    assert_eq!(code, Some(0), "{err}");
    let value: Json = serde_json::from_str(&out).unwrap();
    assert_eq!(value[0]["id"], json!("vf:0000:41:00.4"));
    for (typed, asked) in [("3", UUID), ("4", "4"), ("03", "03"), ("41:00.0", "0000:41:00.0")] {
        let (_, out, _) = run(&bus, &format!("history {typed} --json")).await;
        let value: Json = serde_json::from_str(&out).unwrap();
        assert_eq!(value[0]["owner_name"], json!(asked), "{typed}");
    }
}

#[tokio::test]
async fn events_are_printed_as_they_happen() {
    let (bus, connection) = host().await;
    let mut child = gpuslice(&bus, "events --json").stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let note = ChangeNote {
        kind: "claim".to_owned(),
        id: "vmid:100/gpu0".to_owned(),
        what: "attached".to_owned(),
    };
    // When the listener is ready cannot be seen from here: told until it is heard.
    let heard = loop {
        host::announce(&connection, &note).await.unwrap();
        let patience = std::time::Duration::from_millis(20);
        if let Ok(line) = tokio::time::timeout(patience, lines.next_line()).await {
            break line.unwrap().unwrap();
        }
    };
    assert_eq!(serde_json::from_str::<ChangeNote>(&heard).unwrap(), note);
    connection.release_name(names::BUS_NAME).await.unwrap();
    let gone = loop {
        let line = lines.next_line().await.unwrap().unwrap();
        let read: ChangeNote = serde_json::from_str(&line).unwrap();
        if read != note {
            break read;
        }
    };
    assert_eq!((gone.kind.as_str(), gone.what.as_str()), ("daemon", "has gone"));
}
