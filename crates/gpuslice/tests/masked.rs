//! Units that systemd does not start, on a bus of their own that asks a stand-in of systemd for them.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking; its shared functions are not marked as tests"
)]

#[path = "../../gpuslice-api/tests/private_bus/mod.rs"]
mod private_bus;

use futures_lite::StreamExt;
use gpuslice_api::host::{self, HostInterface};
use gpuslice_api::{Admits, Caller, Handler, names};
use gpuslice_core::request::{Answer, Command as Order, Outcome};
use gpuslice_hook_proto::{Reply, ReplyBody, Request, Served};
use private_bus::PrivateBus;
use std::process::{Output, Stdio};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixListener;
use tokio::process::Command;
use zbus::{Connection, MessageStream};

const UNITS: [(&str, &str); 2] = [
    (names::BUS_NAME, "gpusliced.service"),
    (names::LIBVIRT_BUS_NAME, "gpuslice-libvirt-agent.service"),
];

/// A bus on which systemd refuses each unit with this error of its own.
async fn refusing(error: &'static str) -> (PrivateBus, Connection) {
    let bus = PrivateBus::with(&UNITS);
    let systemd = bus.connect().await;
    systemd.request_name("org.freedesktop.systemd1").await.unwrap();
    let mut asked = MessageStream::from(&systemd);
    let answering = systemd.clone();
    tokio::spawn(async move {
        while let Some(Ok(message)) = asked.next().await {
            if message.header().member().is_none_or(|member| member != "ActivationRequest") {
                continue;
            }
            let unit: String = message.body().deserialize().unwrap();
            let text = format!("Unit {unit} is {error}.");
            let name = format!("org.freedesktop.systemd1.{error}");
            let (path, activator) =
                ("/org/freedesktop/systemd1", "org.freedesktop.systemd1.Activator");
            let to = Some("org.freedesktop.DBus");
            let body = (unit, name, text);
            answering.emit_signal(to, path, activator, "ActivationFailure", &body).await.unwrap();
        }
    });
    (bus, systemd)
}

async fn run(arguments: &[&str], environment: &[(&str, &str)]) -> (Option<i32>, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_gpuslice"));
    command.args(arguments).env_clear().envs(environment.iter().copied());
    let Output { status, stdout, stderr } =
        command.stdin(Stdio::null()).kill_on_drop(true).output().await.unwrap();
    (status.code(), String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap())
}

const CORDON: [&str; 2] = ["cordon", "0000:41:00.0"];

#[tokio::test]
async fn a_unit_that_is_not_started_is_a_daemon_that_does_not_answer() {
    for error in ["UnitMasked", "NoSuchUnit", "LoadFailed"] {
        let (bus, _systemd) = refusing(error).await;
        let (code, out, err) = run(&CORDON, &[(names::BUS_ADDRESS_ENV, bus.address())]).await;
        assert_eq!((code, out.as_str()), (Some(3), ""), "{err}");
        assert!(err.starts_with("error: unreachable: gpusliced does not answer\n"), "{err}");
        assert!(err.contains(&format!("unit gpusliced.service is {error}\n")), "{err}");
    }
    // As one that is not installed.
    let bus = PrivateBus::start();
    let (code, _, err) = run(&CORDON, &[(names::BUS_ADDRESS_ENV, bus.address())]).await;
    assert_eq!(code, Some(3), "{err}");
}

#[tokio::test]
async fn beside_a_masked_unit_the_socket_of_a_daemon_that_runs_is_asked() {
    let (bus, _systemd) = refusing("UnitMasked").await;
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("sock");
    let listener = UnixListener::bind(&socket).unwrap();
    tokio::spawn(async move {
        let mut stream = BufReader::new(listener.accept().await.unwrap().0);
        let mut line = String::new();
        stream.read_line(&mut line).await.unwrap();
        let request = Request::from_line(line.as_bytes()).unwrap();
        let answer = Answer::Done { changed: true, message: "cordoned".to_owned() };
        let body = ReplyBody::Ok(Served::Command(Box::new(answer)));
        let line = Reply::new(request.id, body).to_line().unwrap();
        stream.get_mut().write_all(line.as_bytes()).await.unwrap();
    });
    let ways =
        [(names::BUS_ADDRESS_ENV, bus.address()), (names::SOCKET_ENV, socket.to_str().unwrap())];
    let ran = run(&CORDON, &ways).await;
    assert_eq!(ran, (Some(0), "cordoned\n".to_owned(), String::new()));
}

/// Is there, and is asked nothing.
struct Daemon;

impl Admits for Daemon {}

impl Handler for Daemon {
    async fn call(&self, _: Caller, order: Order) -> Outcome {
        panic!("{order:?}");
    }
}

#[tokio::test]
async fn which_of_the_two_is_masked_is_said_with_what_unmasks_it() {
    for (error, hint) in [
        (
            "UnitMasked",
            "systemctl unmask gpuslice-libvirt-agent, then systemctl start gpuslice-libvirt-agent",
        ),
        ("NoSuchUnit", "systemctl start gpuslice-libvirt-agent"),
    ] {
        let (bus, _systemd) = refusing(error).await;
        let daemon = bus.connect().await;
        host::serve(&daemon, HostInterface::new(Daemon, "0.1.0")).await.unwrap();
        // As the host's own bus, whose units an order can start.
        let host = [("DBUS_SYSTEM_BUS_ADDRESS", bus.address())];
        let (code, out, err) = run(&["attach", "win11", "p"], &host).await;
        assert_eq!((code, out.as_str()), (Some(3), ""), "{err}");
        assert!(err.contains("gpuslice-libvirt-agent does not answer"), "{err}");
        assert!(err.ends_with(&format!("hint: {hint}\n")), "{err}");
    }
}
