//! The program itself: says when it is ready, answers, ends on SIGTERM and when the bus is gone.

use crate::bus::Bus;
use gpuslice_api::Client;
use std::os::unix::net::UnixDatagram;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

fn start(bus: &Bus, notify: &std::path::Path) -> (Child, UnixDatagram) {
    let socket = UnixDatagram::bind(notify).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let child = Command::new(env!("CARGO_BIN_EXE_gpuslice-libvirt-agent"))
        .args(["--connect", "test:///default", "--bus", &bus.address])
        .env("NOTIFY_SOCKET", notify)
        .env_remove("JOURNAL_STREAM")
        .spawn()
        .unwrap();
    (child, socket)
}

fn hears(socket: &UnixDatagram, wanted: &str) {
    let mut buffer = [0; 4096];
    loop {
        let length = socket.recv(&mut buffer).unwrap_or_else(|e| panic!("no {wanted}: {e}"));
        if String::from_utf8_lossy(&buffer[..length]).contains(wanted) {
            return;
        }
    }
}

fn ends(child: &mut Child) -> std::process::ExitStatus {
    let deadline = Instant::now() + Duration::from_secs(20);
    while Instant::now() < deadline {
        if let Some(status) = child.try_wait().unwrap() {
            return status;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    child.kill().unwrap();
    panic!("it does not end");
}

#[test]
fn it_serves_and_ends_when_told() {
    let bus = Bus::start();
    let directory = tempfile::tempdir().unwrap();
    let (mut child, socket) = start(&bus, &directory.path().join("notify"));
    hears(&socket, "READY=1");
    hears(&socket, "STATUS=connected to test:///default; gpusliced down");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let info = runtime.block_on(async {
        let client = Client::over(bus.connect().await).libvirt().unwrap();
        client.resolve("test").await.unwrap()
    });
    assert_eq!(info.uuid.to_string(), "6695eb01-f6a4-8304-79aa-97f2502e193f");
    let pid = child.id().to_string();
    assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
    hears(&socket, "STOPPING=1");
    assert!(ends(&mut child).success());
}

#[test]
fn it_ends_with_the_bus_for_systemd_to_start_again() {
    let mut bus = Bus::start();
    let directory = tempfile::tempdir().unwrap();
    let (mut child, socket) = start(&bus, &directory.path().join("notify"));
    hears(&socket, "STATUS=connected");
    bus.stop();
    assert_eq!(ends(&mut child).code(), Some(1));
}
