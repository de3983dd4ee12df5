//! A daemon with a bus, a socket and state of its own, ended with its value.

use crate::Setup;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// On what the daemon runs.
pub(crate) enum On<'a> {
    /// A simulated host, with this configuration.
    Sim { host: &'a Path, config: &'a str },
    /// The real backend on a tree of files.
    Tree(&'a Path),
}

pub(crate) struct Daemon {
    folder: tempfile::TempDir,
    programs: PathBuf,
    bus: Child,
    daemon: Child,
}

impl Daemon {
    /// Starts one and returns when it answers.
    pub(crate) fn start(setup: &Setup, on: &On<'_>) -> Self {
        let folder = tempfile::tempdir().expect("make a folder");
        let at = |name: &str| folder.path().join(name);
        for name in ["etc", "run", "state"] {
            fs::create_dir(at(name)).expect("make a folder");
        }
        let config = format!(
            "<busconfig><type>session</type><listen>unix:path={}</listen><auth>EXTERNAL</auth>\
             <policy context=\"default\"><allow send_destination=\"*\"/>\
             <allow receive_sender=\"*\"/><allow own=\"*\"/></policy>\
             </busconfig>",
            at("bus").display()
        );
        fs::write(at("bus.conf"), config).expect("write the bus's configuration");
        let bus = Command::new("dbus-daemon")
            .args(["--nofork", "--nopidfile", "--nosyslog"])
            .arg(format!("--config-file={}", at("bus.conf").display()))
            .spawn()
            .expect("start dbus-daemon");
        until("the bus", || at("bus").exists());
        let mut command = Command::new(setup.programs.join("gpusliced"));
        match on {
            On::Sim { host, config } => {
                fs::write(at("etc/gpuslice.toml"), config).expect("write the configuration");
                command.arg("--sim").arg(host);
            }
            On::Tree(root) => drop(command.env("GPUSLICE_ROOT", root)),
        }
        let log = fs::File::create(at("log")).expect("make a log");
        let daemon = command
            .arg("--bus")
            .arg(format!("unix:path={}", at("bus").display()))
            .arg("--socket")
            .arg(at("run/hook.sock"))
            .arg("--state")
            .arg(at("state"))
            .arg("--run")
            .arg(at("run"))
            .arg("--config")
            .arg(at("etc"))
            .stderr(log.try_clone().expect("share the log"))
            .stdout(log)
            .spawn()
            .expect("start gpusliced");
        let mut started = Self { folder, programs: setup.programs.clone(), bus, daemon };
        until("the daemon", || {
            let ended = started.daemon.try_wait().expect("ask for the daemon");
            assert!(ended.is_none(), "gpusliced ended: {}", started.log());
            started.command(&["status", "--json"]).output().is_ok_and(|out| out.status.success())
        });
        started
    }

    pub(crate) fn pid(&self) -> u32 {
        self.daemon.id()
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.folder.path().join("run/hook.sock")
    }

    /// The command line, pointed at this daemon.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(self.programs.join("gpuslice"));
        command
            .args(arguments)
            .env("GPUSLICE_BUS_ADDRESS", format!("unix:path={}/bus", self.folder.path().display()))
            .env_remove("GPUSLICE_SOCKET")
            .stdin(Stdio::null());
        command
    }

    /// What it prints; it must succeed.
    pub(crate) fn ask(&self, arguments: &[&str]) -> Vec<u8> {
        let Output { status, stdout, stderr } =
            self.command(arguments).output().expect("run gpuslice");
        assert!(
            status.success(),
            "gpuslice {arguments:?}: {}{}",
            String::from_utf8_lossy(&stderr),
            self.log()
        );
        stdout
    }

    /// Resident memory in MiB.
    pub(crate) fn memory(&self) -> f64 {
        status(&format!("/proc/{}/status", self.pid()), "VmRSS") as f64 / 1024.0
    }

    /// How often each of its threads has gone to sleep and so was woken.
    pub(crate) fn wakeups(&self) -> BTreeMap<String, u64> {
        fs::read_dir(format!("/proc/{}/task", self.pid()))
            .expect("list threads")
            .map(|task| {
                let path = task.expect("list threads").path().display().to_string();
                let count = status(&format!("{path}/status"), "voluntary_ctxt_switches");
                (path, count)
            })
            .collect()
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        for child in [&mut self.daemon, &mut self.bus] {
            drop(child.kill());
            drop(child.wait());
        }
    }
}

/// A number of a status file of /proc.
fn status(file: &str, key: &str) -> u64 {
    let text = fs::read_to_string(file).expect("read status");
    let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
    let word = line.and_then(|line| line.split_whitespace().next()).expect("the key is there");
    word.parse().expect("it is a number")
}

/// Waits for a condition that nothing announces.
fn until(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !done() {
        assert!(Instant::now() < deadline, "{what} does not come up");
        std::thread::sleep(Duration::from_millis(2));
    }
}
