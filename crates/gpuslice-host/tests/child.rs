//! The blocking-write child, with this binary as the child and a FIFO without a reader for the sysfs file that
//! does not return.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that is not built as one: it has a main of its own"
)]

use gpuslice_core::errno::Errno;
use gpuslice_core::execute::{Performed, StepError};
use gpuslice_core::ids::MdevUuid;
use gpuslice_core::plan::Step;
use gpuslice_host::SysHost;
use gpuslice_host::child::{self, ChildError, Outcome};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{CWD, FileType, FlockOperation, Mode, flock, mknodat};
use rustix::io::FdFlags;
use std::fs;
use std::io::Read;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, ExitStatus, Stdio};
use std::time::{Duration, Instant};

const PF: &str = "sys/bus/pci/devices/0000:41:00.0";
/// With it this binary is a daemon that dies while its child writes.
const LEAVES_A_CHILD: &str = "--leaves-a-child";
const NOBODY: u32 = 65534;
const UUID: &str = "7fd2f4a6-6d5c-5b6e-9d52-0a3c1f0e4b11";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.first().map(String::as_str) {
        Some(child::ARGUMENT) => return child::main(),
        Some(LEAVES_A_CHILD) => return leave_a_child(Path::new(&arguments[1])),
        _ => {}
    }
    let tests: &[(&str, fn())] = &[
        ("a step's outcome comes back", a_steps_outcome_comes_back),
        ("a failure comes back with its errno", a_failure_comes_back_with_its_errno),
        ("a stuck child holds nothing of ours", a_stuck_child_holds_nothing_of_ours),
        ("a killed child is not a success", a_killed_child_is_not_a_success),
        ("what another user calls so is no child", what_another_user_calls_so_is_no_child),
        ("a child dies with its daemon", a_child_dies_with_its_daemon),
        ("what is no answer is not a success", what_is_no_answer_is_not_a_success),
    ];
    let asked: Vec<_> = arguments.iter().filter(|a| !a.starts_with('-')).collect();
    let mut run = 0;
    for (name, test) in tests {
        if asked.iter().all(|part| name.contains(part.as_str())) {
            test();
            println!("test {name} ... ok");
            run += 1;
        }
    }
    let left = tests.len() - run;
    println!(
        "\ntest result: ok. {run} passed; 0 failed; 0 ignored; 0 measured; {left} filtered out"
    );
    ExitCode::SUCCESS
}

fn host(root: &Path) -> SysHost {
    SysHost::new(root).unwrap()
}

fn put(root: &Path, path: &str, content: &str) -> PathBuf {
    let path = root.join(path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, content).unwrap();
    path
}

fn finish(mut child: Child) -> Result<Outcome, ChildError> {
    let mut text = Vec::new();
    child.stdout.take().unwrap().read_to_end(&mut text).unwrap();
    child::answer(&text, child.wait().unwrap())
}

fn run(root: &Path, step: &Step) -> Result<Outcome, ChildError> {
    finish(child::command(&host(root), step).unwrap().spawn().unwrap())
}

fn autoprobe_off() -> Step {
    Step::SetAutoprobe { pf: "41:00.0".parse().unwrap(), on: false }
}

/// Polls what sends no event; the test fails after a minute.
fn until(what: &str, mut so: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !so() {
        assert!(Instant::now() < deadline, "never: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// A tree with one mdev whose `remove` does not return.
fn stuck_mdev(root: &Path) -> (Step, PathBuf) {
    let device = root.join(format!("sys/devices/mtty/{UUID}"));
    fs::create_dir_all(&device).unwrap();
    let bus = root.join("sys/bus/mdev/devices");
    fs::create_dir_all(&bus).unwrap();
    symlink(format!("../../../devices/mtty/{UUID}"), bus.join(UUID)).unwrap();
    let remove = device.join("remove");
    mknodat(CWD, &remove, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    let uuid: MdevUuid = UUID.parse().unwrap();
    (Step::RemoveMdev { uuid }, remove)
}

/// State, session and blocked signals of a process.
fn status(pid: u32) -> (String, String, String) {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<_> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let blocked = status.lines().find_map(|l| l.strip_prefix("SigBlk:")).unwrap();
    (fields[0].to_owned(), fields[3].to_owned(), blocked.trim().to_owned())
}

fn descriptors(pid: u32) -> Vec<(String, String)> {
    let mut all: Vec<_> = fs::read_dir(format!("/proc/{pid}/fd"))
        .unwrap()
        .map(|entry| entry.unwrap())
        .map(|entry| {
            let target = fs::read_link(entry.path()).unwrap();
            (entry.file_name().into_string().unwrap(), target.to_str().unwrap().to_owned())
        })
        .collect();
    all.sort();
    all
}

fn a_steps_outcome_comes_back() {
    let dir = tempfile::tempdir().unwrap();
    let file = put(dir.path(), &format!("{PF}/sriov_drivers_autoprobe"), "1");
    assert_eq!(run(dir.path(), &autoprobe_off()), Ok(Ok(Performed::Changed)));
    assert_eq!(fs::read_to_string(file).unwrap(), "0");
    assert_eq!(run(dir.path(), &autoprobe_off()), Ok(Ok(Performed::Already)));
}

fn a_failure_comes_back_with_its_errno() {
    let dir = tempfile::tempdir().unwrap();
    let error = run(dir.path(), &autoprobe_off()).unwrap().unwrap_err();
    assert_eq!(error.errno(), Some(Errno::ENOENT));
    put(dir.path(), &format!("{PF}/sriov_numvfs"), "0");
    let pf = "41:00.0".parse().unwrap();
    let step = Step::SetNumVfs { pf, count: 4 };
    let error = run(dir.path(), &step).unwrap().unwrap_err();
    assert_eq!(error, StepError::Fewer { pf, asked: 4, got: 0 });
}

fn a_stuck_child_holds_nothing_of_ours() {
    let dir = tempfile::tempdir().unwrap();
    let (step, remove) = stuck_mdev(dir.path());
    let lock = fs::File::create(dir.path().join("lock")).unwrap();
    flock(&lock, FlockOperation::NonBlockingLockExclusive).unwrap();
    // As a careless library would leave it.
    rustix::io::fcntl_setfd(&lock, FdFlags::empty()).unwrap();

    let mut child = child::command(&host(dir.path()), &step).unwrap().spawn().unwrap();
    let pid = child.id();
    until("the child has a session of its own", || status(pid).1 == pid.to_string());
    until("the child sleeps", || status(pid).0 == "S");
    let open = descriptors(pid);
    let numbers: Vec<_> = open.iter().map(|(number, _)| number.as_str()).collect();
    assert_eq!(numbers, ["0", "1", "2"], "{open:?}");
    assert!(open[0].1.starts_with("/memfd:order"), "{open:?}");
    assert!(open[1].1.starts_with("pipe:"), "{open:?}");
    assert_eq!(open[2].1, "/dev/null");
    assert_eq!(status(pid).2, "0000000000000000");
    assert_eq!(fs::read_link(format!("/proc/{pid}/cwd")).unwrap(), Path::new("/"));
    assert_eq!(fs::read(format!("/proc/{pid}/environ")).unwrap(), b"");

    drop(lock);
    let again = fs::File::open(dir.path().join("lock")).unwrap();
    flock(&again, FlockOperation::NonBlockingLockExclusive).unwrap();

    let real = SysHost::new("/").unwrap();
    let found = child::find(&real, &step.to_string()).unwrap();
    let ended = |timeout| poll(&mut [PollFd::new(&found[0], PollFlags::IN)], timeout).unwrap() == 1;
    let at_once = Timespec::default();
    assert_eq!((found.len(), ended(Some(&at_once))), (1, false));
    let other = Step::RemoveMdev { uuid: "7fd2f4a6-6d5c-5b6e-9d52-0a3c1f0e4b12".parse().unwrap() };
    assert!(child::find(&real, &other.to_string()).unwrap().is_empty());

    // Abandoned: it goes on, and nobody waits for it.
    drop(child.stdout.take());
    assert_eq!(child.try_wait().unwrap(), None);
    assert_eq!(fs::read(&remove).unwrap(), b"1");
    child.wait().unwrap();
    assert!(ended(None));
    assert!(child::find(&real, &step.to_string()).unwrap().is_empty());
}

/// Under the name of such a child, by the file that is given: it waits for its order.
fn called_so(program: &Path, step: &Step) -> Command {
    let mut command = Command::new(program);
    command.arg0("gpuslice-write").arg(child::ARGUMENT).arg(step.to_string());
    command.stdin(Stdio::piped()).stdout(Stdio::null());
    command
}

fn what_another_user_calls_so_is_no_child() {
    if !rustix::process::geteuid().is_root() {
        println!("SKIPPED: children of other users: this is not root");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let program = dir.path().join("program");
    fs::copy("/proc/self/exe", &program).unwrap();
    let step = Step::RemoveMdev { uuid: "7fd2f4a6-6d5c-5b6e-9d52-0a3c1f0e4b13".parse().unwrap() };
    let found = || child::find(&SysHost::new("/").unwrap(), &step.to_string()).unwrap().len();
    let while_it_runs = |command: &mut Command| {
        let mut child = command.spawn().unwrap();
        // The kernel tells that it runs before it shows by which words.
        let words = format!("/proc/{}/cmdline", child.id());
        until("its words are shown", || !fs::read(&words).unwrap().is_empty());
        let found = found();
        child.kill().unwrap();
        child.wait().unwrap();
        found
    };
    assert_eq!(while_it_runs(&mut called_so(&program, &step)), 1);
    assert_eq!(while_it_runs(called_so(&program, &step).uid(NOBODY)), 0);
    // Nor is one that takes root's rights from the file.
    fs::set_permissions(&program, fs::Permissions::from_mode(0o4755)).unwrap();
    assert_eq!(while_it_runs(called_so(&program, &step).uid(NOBODY)), 0);
}

fn a_killed_child_is_not_a_success() {
    let dir = tempfile::tempdir().unwrap();
    let (step, _remove) = stuck_mdev(dir.path());
    let mut child = child::command(&host(dir.path()), &step).unwrap().spawn().unwrap();
    child.kill().unwrap();
    assert_eq!(finish(child), Err(ChildError::Died { status: ExitStatus::from_raw(9) }));
}

/// Tells the process id of a child that sleeps, and ends.
#[expect(clippy::zombie_processes, reason = "what becomes of a child left behind is the question")]
fn leave_a_child(root: &Path) -> ExitCode {
    let step = Step::RemoveMdev { uuid: UUID.parse().unwrap() };
    let child = child::command(&host(root), &step).unwrap().spawn().unwrap();
    until("the child sleeps", || status(child.id()).0 == "S");
    println!("{}", child.id());
    ExitCode::SUCCESS
}

fn a_child_dies_with_its_daemon() {
    let dir = tempfile::tempdir().unwrap();
    let (step, _remove) = stuck_mdev(dir.path());
    let me = std::env::current_exe().unwrap();
    let daemon = Command::new(me).arg(LEAVES_A_CHILD).arg(dir.path()).output().unwrap();
    let said = String::from_utf8(daemon.stdout).unwrap();
    let child: u32 = said.trim().parse().unwrap();
    until("the child is gone", || !Path::new(&format!("/proc/{child}")).exists());
    assert!(child::find(&SysHost::new("/").unwrap(), &step.to_string()).unwrap().is_empty());
}

fn what_is_no_answer_is_not_a_success() {
    let well = ExitStatus::from_raw(0);
    for text in ["", "{", "{\"Ok\":\"chan", "null", "{\"Ok\":\"changed\"} x"] {
        let error = child::answer(text.as_bytes(), well).unwrap_err();
        assert_eq!(error, ChildError::Died { status: well }, "{text}");
    }
    let failed = ExitStatus::from_raw(1 << 8);
    child::answer(b"{\"Ok\":\"changed\"}", failed).unwrap_err();
    assert_eq!(child::answer(b"{\"Ok\":\"changed\"}", well), Ok(Ok(Performed::Changed)));
}
