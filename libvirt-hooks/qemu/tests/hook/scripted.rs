//! The hook as libvirt runs it, and a daemon that does as it is told.

use gpuslice_hook_proto::{Body, HookCall, Reply, Request};
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::JoinHandle;
use tempfile::TempDir;

pub const HOOK: &str = env!("CARGO_BIN_EXE_gpuslice-qemu-hook");
pub const UUID: &str = "4be47ad5-6e2f-4e0c-9d4a-1f6a3f0e1a01";

/// A folder for the socket and hook.conf of one run.
pub struct Place {
    folder: TempDir,
}

/// How the hook ended.
#[derive(Debug, PartialEq, Eq)]
pub struct Ended {
    /// `None` when a signal ended it.
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

/// Exit 0 without a word.
pub fn silent_pass() -> Ended {
    Ended { code: Some(0), out: String::new(), err: String::new() }
}

/// Exit 1 with one line.
pub fn refused(line: &str) -> Ended {
    Ended { code: Some(1), out: String::new(), err: format!("{line}\n") }
}

impl Place {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self { folder }
    }

    pub fn socket(&self) -> PathBuf {
        self.folder.path().join("hook.sock")
    }

    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Shows the place's socket under a name that does not change from run to run.
    pub fn plain(&self, text: &str) -> String {
        text.replace(self.folder.path().to_str().unwrap(), "PLACE")
    }

    pub fn write_conf(&self, text: &str) {
        std::fs::write(self.folder.path().join("hook.conf"), text).unwrap();
    }

    /// The hook with libvirt's environment and nothing else, as root: in a user namespace if the tests are not.
    pub fn command(&self, program: &str, arguments: &[&str]) -> Command {
        let mut command = if rustix::process::geteuid().is_root() {
            Command::new(program)
        } else {
            let mut command = Command::new("unshare");
            command.args(["--map-root-user", program]);
            command
        };
        command
            .args(arguments)
            .env_clear()
            .env("LC_ALL", "C")
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .env("GPUSLICE_SOCKET", self.socket())
            .env("GPUSLICE_HOOK_CONF", self.folder.path().join("hook.conf"))
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    /// `OPERATION` with the words libvirt passes.
    pub fn run(&self, operation: &str, xml: &[u8]) -> Ended {
        let (sub, extra) = match operation {
            "release" => ("end", "destroyed"),
            "stopped" => ("end", "-"),
            _ => ("begin", "-"),
        };
        finish(self.command(HOOK, &["win11", operation, sub, extra]), xml)
    }
}

/// Feeds stdin and waits.
pub fn finish(mut command: Command, xml: &[u8]) -> Ended {
    let mut child = command.spawn().expect("the hook runs");
    let mut stdin = child.stdin.take().unwrap();
    let xml = xml.to_owned();
    // The hook must take all of it: a broken pipe fails the test.
    let feeder = std::thread::spawn(move || stdin.write_all(&xml));
    let out = child.wait_with_output().unwrap();
    feeder.join().unwrap().expect("the hook reads all of stdin");
    Ended {
        code: out.status.code(),
        out: String::from_utf8(out.stdout).unwrap(),
        err: String::from_utf8(out.stderr).unwrap(),
    }
}

/// What the daemon does with one connection, after it has read the request.
pub enum Act {
    /// Sends this line and waits for the hook to go.
    Say(String),
    /// As `Say`, with what comes of the request.
    Answer(fn(&Request) -> Reply),
    /// Closes the connection.
    HangUp,
    /// Closes the connection in the middle of a line.
    BreakOff,
    /// Waits for the hook to go.
    KeepSilent,
    /// Closes connection and socket; nobody listens then.
    Vanish,
}

pub struct Daemon {
    thread: JoinHandle<Vec<Request>>,
}

impl Daemon {
    /// Serves one connection per act, then listens no more.
    pub fn start(place: &Place, acts: Vec<Act>) -> Self {
        let listener = UnixListener::bind(place.socket()).unwrap();
        Self::serve(listener, place.socket(), acts)
    }

    fn serve(listener: UnixListener, path: PathBuf, acts: Vec<Act>) -> Self {
        let thread = std::thread::spawn(move || {
            let mut listener = Some(listener);
            let mut heard = Vec::new();
            for act in acts {
                let Some((stream, _)) = listener.as_ref().map(|l| l.accept().unwrap()) else {
                    break;
                };
                let mut from = BufReader::new(stream);
                let mut line = String::new();
                from.read_line(&mut line).unwrap();
                let request = Request::from_line(line.as_bytes()).expect("a request");
                perform(act, &request, from, || {
                    listener = None;
                    std::fs::remove_file(&path).unwrap();
                });
                heard.push(request);
            }
            heard
        });
        Self { thread }
    }

    /// What was asked, once every act is done.
    pub fn heard(self) -> Vec<Request> {
        self.thread.join().unwrap()
    }

    /// The one call that was made.
    pub fn call(self) -> HookCall {
        let mut heard = self.heard();
        assert_eq!(heard.len(), 1);
        match heard.remove(0).body {
            Body::Hook(call) => call,
            body @ (Body::Guest(_) | Body::Command(_)) => unreachable!("{body:?}"),
        }
    }
}

fn perform(act: Act, request: &Request, mut from: BufReader<UnixStream>, vanish: impl FnOnce()) {
    let broken_off = matches!(act, Act::BreakOff);
    let line = match act {
        Act::Say(line) => line,
        Act::Answer(reply) => reply(request).to_line().unwrap(),
        Act::HangUp => return,
        Act::Vanish => return vanish(),
        Act::BreakOff => "{\"v\":1,".to_owned(),
        Act::KeepSilent => String::new(),
    };
    from.get_ref().write_all(line.as_bytes()).unwrap();
    if broken_off {
        return;
    }
    // Until the hook closes its end; it may be killed in the middle.
    let _ = from.read_line(&mut String::new());
}

/// A domain around these parts.
pub fn domain(metadata: &str, devices: &str) -> String {
    format!(
        "<domain type='kvm' id='7'>\n  <name>win11</name>\n  <uuid>{UUID}</uuid>\n  <metadata>{metadata}</metadata>\n  <devices>{devices}</devices>\n</domain>\n"
    )
}

/// A domain that asks for a slice and carries its VF.
pub fn claiming() -> String {
    domain(
        "<gpuslice:claims xmlns:gpuslice='urn:gpuslice:domain:1'><gpuslice:claim name='gpu0' profile='nvidia-a40-8q'/></gpuslice:claims>",
        "<hostdev mode='subsystem' type='pci' managed='no'><source><address domain='0x0000' bus='0x41' slot='0x00' function='0x4'/></source><alias name='ua-gpuslice-gpu0'/></hostdev>",
    )
}

/// A domain with a device of someone else's.
pub fn plain_hostdev() -> String {
    domain(
        "",
        "<hostdev mode='subsystem' type='pci' managed='yes'><source><address domain='0x0000' bus='0x41' slot='0x00' function='0x5'/></source></hostdev>",
    )
}

/// A domain that has nothing to do with us.
pub fn bystander() -> String {
    domain("", "<disk type='file'><source file='/a'/></disk>")
}
