//! A simulated host with a daemon, a bus, and directories of its own, and the programs that ask it.

use crate::bus::Bus;
use crate::life::{ONE_VF, PROFILE};
use serde_json::{Value as Json, json};
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Longer than anything takes on a machine that is busy with something else.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Waits for a condition that nothing announces.
pub fn until(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !done() {
        assert!(Instant::now() < deadline, "in vain: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn is_root() -> bool {
    fs::metadata("/proc/self").unwrap().uid() == 0
}

/// Runs a test as root: the hook serves root alone, and so does a daemon without polkit. Here a root that has nothing
/// will do, in a user namespace.
pub fn as_root<F: FnOnce()>(test: F) {
    if is_root() {
        return test();
    }
    let name = std::any::type_name::<F>();
    let name = name.trim_end_matches("::{{closure}}").split_once("::").unwrap().1;
    let output = Command::new("unshare")
        .args(["--user", "--map-root-user"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", name, "--show-output"])
        .output()
        .unwrap();
    let ran = Ran::of(&output);
    for line in ran.out.lines().filter(|line| line.starts_with("SKIPPED: ")) {
        println!("{line}");
    }
    assert!(ran.code == Some(0) && ran.out.contains("1 passed"), "{name}: {}{}", ran.out, ran.err);
}

/// What a program did.
#[derive(Debug)]
pub struct Ran {
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

impl Ran {
    pub fn of(output: &Output) -> Self {
        Self {
            code: output.status.code(),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    pub fn json(&self) -> Json {
        serde_json::from_str(&self.out).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }

    /// That of a hook which let the VM start or stop: libvirt would show whatever it says.
    #[track_caller]
    pub fn quiet(&self) {
        assert_eq!((self.code, self.out.as_str(), self.err.as_str()), (Some(0), "", ""));
    }

    /// That of a hook which refused: one line, as it must fit behind libvirt's own words.
    #[track_caller]
    pub fn refused(&self, code: &str) -> &str {
        assert_eq!((self.code, self.out.as_str()), (Some(1), ""), "{self:?}");
        assert_eq!(self.err.trim_end().lines().count(), 1, "{self:?}");
        assert!(self.err.starts_with(&format!("gpuslice: {code}: ")), "{self:?}");
        self.err.trim_end()
    }
}

/// A domain.
#[derive(Clone)]
pub struct Vm {
    pub name: String,
    pub uuid: String,
    pub xml: String,
}

impl Vm {
    pub fn new(number: u8) -> Self {
        let uuid = format!("{number:02x}111111-1111-4111-8111-111111111111");
        let mut vm = Self { name: format!("vm{number}"), uuid, xml: String::new() };
        vm.wear("");
        vm
    }

    /// Puts what `attach --print` printed into its XML.
    pub fn wear(&mut self, printed: &str) {
        let (metadata, devices) = printed.split_at(printed.find("<hostdev").unwrap_or(0));
        let Self { name, uuid, .. } = self;
        self.xml = format!(
            "<domain type='kvm'><name>{name}</name><uuid>{uuid}</uuid>{metadata}\
             <memory unit='GiB'>8</memory><vcpu>4</vcpu>\
             <os><type arch='x86_64' machine='q35'>hvm</type></os><devices>{devices}</devices></domain>"
        );
    }

    /// A domain made from this one's XML.
    pub fn copy(&self, number: u8) -> Self {
        let mut copy = Self::new(number);
        copy.xml = self.xml.replace(&self.uuid, &copy.uuid).replace(&self.name, &copy.name);
        copy
    }
}

pub struct Host {
    dir: TempDir,
    sim: String,
    programs: PathBuf,
    pub bus: Bus,
    daemon: Option<Child>,
    /// What the daemon finds there beside this process's own.
    pub environment: Vec<(&'static str, OsString)>,
}

impl Host {
    /// Settled, a GPU with one VF, and a VM with a claim on it.
    pub fn with_vm() -> (Self, Vm) {
        let (host, mut vm) = (Self::start("sriov-8", ONE_VF), Vm::new(1));
        host.settle();
        host.attach(&mut vm, PROFILE);
        (host, vm)
    }

    /// With a bus and a daemon that answers.
    pub fn start(sim: &str, config: &str) -> Self {
        let mut host = Self::off(sim, config);
        host.bus.start();
        host.start_daemon();
        host
    }

    /// With nothing running.
    pub fn off(sim: &str, config: &str) -> Self {
        let programs =
            gpuslice_integration::programs(&["gpusliced", "gpuslice", "gpuslice-qemu-hook"]);
        let dir = tempfile::tempdir().unwrap();
        // Other users come as far as the bus.
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        fs::create_dir(dir.path().join("etc")).unwrap();
        let bus = Bus::at(dir.path());
        let sim = sim.to_owned();
        let host = Self { dir, sim, programs, bus, daemon: None, environment: Vec::new() };
        host.configure(config);
        host
    }

    /// What the next daemon of these directories runs on.
    pub fn becomes(&mut self, host: &str) {
        let path = self.path("host.toml");
        fs::write(&path, host).unwrap();
        self.sim = path.to_str().unwrap().to_owned();
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn program(&self, name: &str) -> PathBuf {
        self.programs.join(name)
    }

    pub fn configure(&self, text: &str) {
        fs::write(self.path("etc/gpuslice.toml"), text).unwrap();
    }

    /// A daemon on this host's directories; the caller owns it.
    pub fn daemon(&self, log: &str) -> Child {
        let log = File::options().create(true).append(true).open(self.path(log)).unwrap();
        let mut command = Command::new(self.program("gpusliced"));
        command.args(["--sim", &self.sim, "--bus", &self.bus.address()]);
        for (flag, name) in [
            ("--socket", "hook.sock"),
            ("--sim-control", "control"),
            ("--state", "state"),
            ("--run", "run"),
            ("--config", "etc"),
        ] {
            command.arg(flag).arg(self.path(name));
        }
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command.env("NO_COLOR", "1").stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        command.spawn().unwrap()
    }

    /// Starts it and waits until its socket answers.
    pub fn start_daemon(&mut self) {
        assert!(self.daemon.is_none());
        self.daemon = Some(self.daemon("log"));
        let deadline = Instant::now() + PATIENCE;
        while self.by_socket(&["status"]).code != Some(0) {
            let ended = self.daemon.as_mut().and_then(|d| d.try_wait().unwrap());
            let late = Instant::now() > deadline;
            assert!(ended.is_none() && !late, "no daemon ({ended:?}): {}", self.log());
            std::thread::sleep(Duration::from_millis(5));
        }
        // With a bus it has its name in a moment; everything is asked there.
        if self.path("bus").exists() {
            until("the bus name", || self.cli(&["status"]).code == Some(0));
        }
    }

    pub fn pid(&self) -> u32 {
        self.daemon.as_ref().unwrap().id()
    }

    pub fn kill(&mut self) {
        let mut daemon = self.daemon.take().unwrap();
        daemon.kill().unwrap();
        daemon.wait().unwrap();
    }

    /// As systemd stops it.
    pub fn terminate(&mut self) -> ExitStatus {
        let mut daemon = self.daemon.take().unwrap();
        let pid = rustix::process::Pid::from_child(&daemon);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        daemon.wait().unwrap()
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    /// The command line, with nothing of this machine's around it.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(self.program("gpuslice"));
        command.args(arguments).env_clear().stdin(Stdio::null());
        command
    }

    pub fn cli(&self, arguments: &[&str]) -> Ran {
        let mut command = self.command(arguments);
        Ran::of(&command.env("GPUSLICE_BUS_ADDRESS", self.bus.address()).output().unwrap())
    }

    pub fn by_socket(&self, arguments: &[&str]) -> Ran {
        let mut command = self.command(arguments);
        Ran::of(&command.env("GPUSLICE_SOCKET", self.path("hook.sock")).output().unwrap())
    }

    /// What a command that succeeds prints for programs.
    #[track_caller]
    pub fn ask(&self, arguments: &[&str]) -> Json {
        let ran = self.cli(&[arguments, &["--json"]].concat());
        assert_eq!(ran.code, Some(0), "{arguments:?}: {ran:?}\n{}", self.log());
        ran.json()
    }

    /// The refusal of a command that fails.
    #[track_caller]
    pub fn refusal(&self, arguments: &[&str]) -> Json {
        let ran = self.cli(&[arguments, &["--json"]].concat());
        assert_eq!(ran.code, Some(1), "{arguments:?}: {ran:?}");
        let printed = ran.json();
        assert_eq!(printed["changed"], json!(false));
        printed["refusal"].clone()
    }

    #[track_caller]
    pub fn settle(&self) {
        self.ask(&["wait", "--settled", "--timeout", "50"]);
    }

    /// The only row of a list.
    #[track_caller]
    pub fn only(&self, list: &str) -> Json {
        let rows = self.ask(&[list]);
        assert_eq!(rows.as_array().map(Vec::len), Some(1), "{list}: {rows}");
        rows[0].clone()
    }

    /// One property of the rows of a list.
    #[track_caller]
    pub fn column(&self, list: &str, key: &str) -> Vec<String> {
        let rows = self.ask(&[list]);
        let text =
            |row: &Json| row[key].as_str().map_or_else(|| row[key].to_string(), str::to_owned);
        rows.as_array().unwrap().iter().map(text).collect()
    }

    /// A claim, and the domain's XML with what it asks for. Whether the claim is new.
    #[track_caller]
    pub fn attach(&self, vm: &mut Vm, profile: &str) -> bool {
        let answer = self.ask(&["attach", &vm.uuid, profile, "--print"]);
        vm.wear(answer["xml"].as_str().unwrap());
        answer["changed"].as_bool().unwrap()
    }

    /// The hook as libvirt runs it.
    pub fn hook(&self, vm: &Vm, operation: &str) -> Ran {
        let (sub, extra) = match operation {
            "release" => ("end", "shutdown"),
            "stopped" => ("end", "-"),
            _ => ("begin", "-"),
        };
        self.hook_with(vm, [operation, sub, extra])
    }

    fn hook_with(&self, vm: &Vm, arguments: [&str; 3]) -> Ran {
        let mut child = Command::new(self.program("gpuslice-qemu-hook"))
            .arg(&vm.name)
            .args(arguments)
            .env_clear()
            .env("GPUSLICE_SOCKET", self.path("hook.sock"))
            .env("GPUSLICE_HOOK_CONF", self.path("hook.conf"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(vm.xml.as_bytes()).unwrap();
        Ran::of(&child.wait_with_output().unwrap())
    }

    #[track_caller]
    pub fn run_vm(&self, vm: &Vm) {
        self.hook(vm, "prepare").quiet();
        self.hook(vm, "started").quiet();
    }

    #[track_caller]
    pub fn stop_vm(&self, vm: &Vm) {
        self.hook(vm, "stopped").quiet();
        self.hook(vm, "release").quiet();
    }

    /// As the host that it was on is told.
    #[track_caller]
    pub fn migrates_away(&self, vm: &Vm) {
        self.hook(vm, "stopped").quiet();
        self.hook_with(vm, ["release", "end", "migrated"]).quiet();
    }

    /// Something happens around the simulated host.
    #[track_caller]
    pub fn outside(&self, order: &Json) {
        let mut stream = UnixStream::connect(self.path("control")).unwrap();
        writeln!(stream, "{order}").unwrap();
        let mut answer = String::new();
        BufReader::new(stream).read_line(&mut answer).unwrap();
        assert_eq!(answer, "{\"ok\":true}\n", "{order}");
    }

    #[track_caller]
    pub fn plug(&self, parent: &str, there: bool) {
        self.outside(&json!({"do": if there { "plug" } else { "unplug" }, "parent": parent}));
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if let Some(mut daemon) = self.daemon.take() {
            daemon.kill().unwrap();
            daemon.wait().unwrap();
        }
        if std::thread::panicking() {
            eprintln!("the daemon said:\n{}", self.log());
        }
    }
}

/// Files of a directory whose names begin so.
pub fn files(dir: &Path, prefix: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).unwrap().map(|e| e.unwrap().path());
    entries.filter(|p| p.file_name().unwrap().to_str().unwrap().starts_with(prefix)).collect()
}
