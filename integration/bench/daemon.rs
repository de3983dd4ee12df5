//! A daemon with a bus, a socket and state of its own, ended with its value.

use crate::Setup;
use gpuslice_core::request;
use gpuslice_hook_proto::{Body, Request};
use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};
use uuid::Uuid;

/// On what the daemon runs.
pub(crate) enum On<'a> {
    /// A simulated host, with this configuration.
    Sim { host: &'a Path, config: &'a str },
    /// The real backend on a tree of files.
    Tree(&'a Path),
}

/// Folders as a host has them, and a bus: what is there before the daemon comes.
pub(crate) struct Ground {
    folder: tempfile::TempDir,
    /// In memory, as /run is.
    run: tempfile::TempDir,
    bus: Child,
}

pub(crate) struct Daemon {
    ground: Ground,
    programs: PathBuf,
    daemon: Child,
}

impl Ground {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().expect("make a folder");
        let run = tempfile::tempdir_in("/dev/shm").expect("make a folder in memory");
        let at = |name: &str| folder.path().join(name);
        for name in ["etc", "state"] {
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
        let ground = Self { folder, run, bus };
        until("the bus", || ground.at("bus").exists());
        ground
    }

    fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Starts the daemon and does not wait for it.
    pub(crate) fn launch(self, setup: &Setup, on: &On<'_>) -> Daemon {
        let mut command = Command::new(setup.programs.join("gpusliced"));
        match on {
            On::Sim { host, config } => {
                fs::write(self.at("etc/gpuslice.toml"), config).expect("write the configuration");
                command.arg("--sim").arg(host);
            }
            On::Tree(root) => drop(command.env("GPUSLICE_ROOT", root)),
        }
        let log = fs::File::create(self.at("log")).expect("make a log");
        let daemon = command
            .arg("--bus")
            .arg(format!("unix:path={}", self.at("bus").display()))
            .arg("--socket")
            .arg(self.run.path().join("hook.sock"))
            .arg("--state")
            .arg(self.at("state"))
            .arg("--run")
            .arg(self.run.path().join("state"))
            .arg("--config")
            .arg(self.at("etc"))
            .stderr(log.try_clone().expect("share the log"))
            .stdout(log)
            .spawn()
            .expect("start gpusliced");
        Daemon { ground: self, programs: setup.programs.clone(), daemon }
    }
}

impl Drop for Ground {
    fn drop(&mut self) {
        drop(self.bus.kill());
        drop(self.bus.wait());
    }
}

impl Daemon {
    /// Starts one and returns when it answers.
    pub(crate) fn start(setup: &Setup, on: &On<'_>) -> Self {
        let mut started = Ground::new().launch(setup, on);
        until("the daemon", || {
            started.lives();
            let by_bus = started.command_by_bus(&["status", "--json"]).output();
            by_bus.is_ok_and(|out| out.status.success())
        });
        started
    }

    fn lives(&mut self) {
        let ended = self.daemon.try_wait().expect("ask for the daemon");
        assert!(ended.is_none(), "gpusliced ended: {}", self.log());
    }

    /// Asks over the socket, as soon as somebody listens there, and returns the line that is answered.
    pub(crate) fn ask_socket(&mut self, question: request::Command) -> Vec<u8> {
        let path = self.socket();
        let mut socket = None;
        until("the socket", || {
            self.lives();
            socket = UnixStream::connect(&path).ok();
            socket.is_some()
        });
        let mut socket = socket.expect("it was connected");
        let request = Request::new(Uuid::from_u128(1), Body::Command(question));
        let line = request.to_line().expect("the question has a line");
        socket.write_all(line.as_bytes()).expect("ask");
        let mut answer = Vec::new();
        BufReader::new(socket).read_until(b'\n', &mut answer).expect("read the answer");
        answer
    }

    pub(crate) fn pid(&self) -> u32 {
        self.daemon.id()
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.ground.run.path().join("hook.sock")
    }

    /// The command line, pointed at this daemon: as root finds it on a host, over the bus and the socket.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.command_by_bus(arguments);
        command.env("GPUSLICE_SOCKET", self.socket());
        command
    }

    /// As everybody else finds it.
    pub(crate) fn command_by_bus(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(self.programs.join("gpuslice"));
        command
            .args(arguments)
            .env("GPUSLICE_BUS_ADDRESS", format!("unix:path={}", self.ground.at("bus").display()))
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
        fs::read_to_string(self.ground.at("log")).unwrap_or_default()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        drop(self.daemon.kill());
        drop(self.daemon.wait());
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
        std::thread::sleep(Duration::from_micros(500));
    }
}
