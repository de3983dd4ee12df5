//! What a person sees at a terminal while a command waits, and what nobody sees elsewhere.

use crate::host::{Host, as_root, until};
use crate::life::{CARD, ONE_VF, PROFILE};
use gpuslice_api::names::LIBVIRT_BUS_NAME;
use rustix::pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt};
use serde_json::json;
use std::fs::File;
use std::io::Read;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// A terminal, which shows what is written to it.
struct Terminal {
    screen: File,
    written: Vec<u8>,
}

impl Terminal {
    /// With the end that a program gets.
    fn open() -> (Self, Stdio) {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let screen = openpt(flags).unwrap();
        grantpt(&screen).unwrap();
        unlockpt(&screen).unwrap();
        let program = ioctl_tiocgptpeer(&screen, flags).unwrap();
        (Self { screen: screen.into(), written: Vec::new() }, program.into())
    }

    /// Waits until it shows that, or until its programs have ended, which is told by an error (EIO).
    fn shows(&mut self, text: &str) -> bool {
        let mut bytes = [0; 4096];
        while !self.shown().contains(text) {
            match self.screen.read(&mut bytes) {
                Ok(read @ 1..) => self.written.extend(&bytes[..read]),
                _ => return false,
            }
        }
        true
    }

    fn shown(&self) -> String {
        String::from_utf8_lossy(&self.written).into_owned()
    }
}

#[test]
fn a_wait_is_shown_at_a_terminal_and_nowhere_else() {
    as_root(|| {
        let host = Host::start("sriov-8", ONE_VF);
        host.settle();
        host.plug(CARD, false);
        until("it is gone", || host.ask(&["slices"]) == json!([]));
        let wait = || -> Command {
            let mut command = host.command(&["wait", "--settled", "--timeout", "50"]);
            command.env("GPUSLICE_BUS_ADDRESS", host.bus.address()).stdout(Stdio::piped());
            command
        };
        // The answer's terminal is not the one to say it on.
        let (mut answers, end) = Terminal::open();
        let unseen = wait().stdout(end).stderr(Stdio::piped()).spawn().unwrap();
        let (mut terminal, end) = Terminal::open();
        let seen = wait().stderr(end).spawn().unwrap();

        assert!(terminal.shows("waiting until settled … 1 s"), "{:?}", terminal.shown());
        assert!(terminal.shows("\r\u{1b}[Kwaiting until settled … 2 s"), "{:?}", terminal.shown());
        host.plug(CARD, true);
        let seen = seen.wait_with_output().unwrap();
        assert_eq!((seen.status.code(), seen.stdout.as_slice()), (Some(0), &b"settled\n"[..]));
        // The line is taken away again.
        assert!(!terminal.shows("error"), "{:?}", terminal.shown());
        assert!(terminal.shown().ends_with("\r\u{1b}[K"), "{:?}", terminal.shown());

        let unseen = unseen.wait_with_output().unwrap();
        assert_eq!((unseen.status.code(), unseen.stderr.as_slice()), (Some(0), &b""[..]));
        assert!(!answers.shows("waiting"), "{:?}", answers.shown());
        assert_eq!(answers.shown(), "settled\r\n");
    });
}

/// As at a boot, which is not to go on because its daemon crashed.
#[test]
fn a_wait_outlives_the_daemon() {
    as_root(|| {
        let mut host = Host::start("sriov-8", ONE_VF);
        host.settle();
        host.plug(CARD, false);
        until("it is gone", || host.ask(&["slices"]) == json!([]));
        let ways = [
            ("GPUSLICE_BUS_ADDRESS", host.bus.address().into()),
            ("GPUSLICE_SOCKET", host.path("hook.sock").into_os_string()),
        ];
        let mut waits = ways.map(|(way, to)| {
            let (terminal, end) = Terminal::open();
            let mut command = host.command(&["wait", "--settled", "--timeout", "120"]);
            command.env(way, to).stdout(Stdio::piped()).stderr(end);
            (terminal, command.spawn().unwrap())
        });
        for (terminal, _) in &mut waits {
            assert!(terminal.shows("waiting until settled … 1 s"), "{:?}", terminal.shown());
        }
        host.kill();
        for (terminal, _) in &mut waits {
            assert!(terminal.shows("waiting for gpusliced … 1 s"), "{:?}", terminal.shown());
        }
        // On a host on which everything is in its slot.
        host.start_daemon();
        for (_, wait) in waits {
            let ended = wait.wait_with_output().unwrap();
            assert_eq!(
                (ended.status.code(), ended.stdout.as_slice()),
                (Some(0), &b"settled\n"[..])
            );
        }
        // One that does not come is told of when the time is over.
        host.kill();
        let began = Instant::now();
        let ran = host.by_socket(&["wait", "--settled", "--timeout", "3"]);
        assert!(began.elapsed() >= Duration::from_secs(1), "{:?}", began.elapsed());
        assert_eq!((ran.code, ran.out.as_str()), (Some(3), ""), "{ran:?}");
    });
}

#[test]
fn what_is_asked_of_libvirt_is_shown_too() {
    as_root(|| {
        let host = Host::start("sriov-8", ONE_VF);
        // An agent that takes its time.
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let _agent = runtime.block_on(async {
            let address = host.bus.address();
            let agent = zbus::connection::Builder::address(address.as_str()).unwrap();
            agent.name(LIBVIRT_BUS_NAME).unwrap().build().await.unwrap()
        });
        for (typed, shown) in [
            (&["attach", "vm1", PROFILE][..], "attaching to vm1 … 1 s"),
            (&["detach", "vm1"][..], "detaching from vm1 … 1 s"),
        ] {
            let (mut terminal, end) = Terminal::open();
            let mut command = host.command(typed);
            command.env("GPUSLICE_BUS_ADDRESS", host.bus.address());
            let mut asks = command.stdout(Stdio::null()).stderr(end).spawn().unwrap();
            drop(command);
            assert!(terminal.shows(shown), "{:?}", terminal.shown());
            asks.kill().unwrap();
            asks.wait().unwrap();
        }
    });
}
