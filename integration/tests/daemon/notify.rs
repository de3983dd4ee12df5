//! What systemd is told: when hooks are answered, what `systemctl status` shows, that the engine still turns, and the end.
//! A watchdog that heard nothing would kill the daemon again and again, and a restart is so quiet that nobody would see it.

use crate::host::{Host, PATIENCE, Vm, as_root};
use crate::life::{ONE_VF, PROFILE};
use std::os::unix::net::UnixDatagram;
use std::time::Instant;

/// The receiving end, and all that came.
struct Systemd {
    socket: UnixDatagram,
    heard: Vec<String>,
}

impl Systemd {
    fn of(host: &mut Host) -> Self {
        let path = host.path("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        host.environment.push(("NOTIFY_SOCKET", path.into()));
        Self { socket, heard: Vec::new() }
    }

    /// What comes next; while it waits for something, signs of life alone are no reason to wait on.
    fn next(&mut self, until: Instant) -> &str {
        assert!(Instant::now() < until, "in vain: {:#?}", self.heard);
        let mut buffer = [0; 4096];
        let length = self.socket.recv(&mut buffer);
        let length = length.unwrap_or_else(|e| panic!("nothing more: {e}; {:#?}", self.heard));
        let text = str::from_utf8(&buffer[..length]).unwrap();
        self.heard.push(text.trim_end().to_owned());
        self.heard.last().unwrap()
    }

    /// Waits for it, if it has not come yet.
    fn hears(&mut self, wanted: &str) {
        let before = self.heard.iter().any(|text| text == wanted);
        let until = Instant::now() + PATIENCE;
        while !before && self.next(until) != wanted {}
    }
}

#[test]
fn systemd_is_told_of_the_start_of_each_turn_and_of_the_end() {
    as_root(|| {
        let mut host = Host::off("sriov-8", ONE_VF);
        let mut systemd = Systemd::of(&mut host);
        // Half of that is the pause between two signs of life.
        host.environment.push(("WATCHDOG_USEC", "100000".into()));
        host.bus.start();
        host.start_daemon();
        systemd.hears("READY=1");
        host.settle();
        systemd.hears("STATUS=settled; slices with VMs: 0, claims: 0");

        let mut vm = Vm::new(1);
        host.attach(&mut vm, PROFILE);
        host.run_vm(&vm);
        systemd.hears("STATUS=settled; slices with VMs: 1, claims: 1");

        // Again and again, while nothing else happens.
        let until = Instant::now() + PATIENCE;
        for _ in 0..3 {
            while systemd.next(until) != "WATCHDOG=1" {}
        }
        assert!(host.terminate().success(), "{}", host.log());
        systemd.hears("STOPPING=1");
    });
}

#[test]
fn a_daemon_without_a_watchdog_gives_no_sign_of_life() {
    as_root(|| {
        let mut host = Host::off("sriov-8", ONE_VF);
        let mut systemd = Systemd::of(&mut host);
        // That of another process, as a program that it starts would find.
        host.environment.push(("WATCHDOG_USEC", "1000".into()));
        host.environment.push(("WATCHDOG_PID", "1".into()));
        host.bus.start();
        host.start_daemon();
        host.settle();
        assert!(host.terminate().success(), "{}", host.log());
        systemd.hears("STOPPING=1");
        assert!(!systemd.heard.iter().any(|text| text == "WATCHDOG=1"), "{:#?}", systemd.heard);
    });
}
