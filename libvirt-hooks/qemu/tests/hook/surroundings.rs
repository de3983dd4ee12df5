//! The hook in odd surroundings: closed streams, signals, without root, with a broken hook.conf.

use crate::scripted::{
    Act, Daemon, HOOK, Place, bystander, claiming, finish, plain_hostdev, refused, silent_pass,
};
use gpuslice_hook_proto::{HookDone, Reply, ReplyBody, Request, Served};
use std::collections::BTreeMap;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::process::Stdio;

fn done(request: &Request) -> Reply {
    Reply::hook_done(request.id)
}

fn remapped(request: &Request) -> Reply {
    let edits =
        BTreeMap::from([("0000:41:00.4".parse().unwrap(), "0000:42:00.7".parse().unwrap())]);
    Reply::new(request.id, ReplyBody::Ok(Served::Hook(HookDone { edits })))
}

/// The hook behind a shell that closes streams. Input comes from a file, since the shell may close stdin.
fn redirected(
    place: &Place,
    operation: &str,
    redirection: &str,
    xml: &str,
) -> crate::scripted::Ended {
    let input = place.path().join("input.xml");
    std::fs::write(&input, xml).unwrap();
    let script = format!("exec \"$0\" win11 {operation} begin - <\"$1\" {redirection}");
    finish(place.command("sh", &["-c", &script, HOOK, input.to_str().unwrap()]), b"")
}

#[test]
fn closed_streams_do_no_harm() {
    let place = Place::new();
    // Without stdin there is no domain that asks for anything.
    let ended = redirected(&place, "prepare", "<&-", &claiming());
    assert_eq!((ended.code, ended.out.as_str()), (Some(0), ""));
    assert!(ended.err.starts_with("gpuslice: warning: no XML of win11 on stdin"), "{}", ended.err);
    for (redirection, code) in [("2>&-", 1), (">&- 2>&-", 1), ("2>/dev/full", 1), (">&-", 1)] {
        let ended = redirected(&place, "prepare", redirection, &claiming());
        assert_eq!(ended.code, Some(code), "{redirection}");
    }
    assert_eq!(redirected(&place, "prepare", "<&- >&- 2>&-", &claiming()), silent_pass());
    assert_eq!(redirected(&place, "release", ">&- 2>&-", &claiming()), silent_pass());
    assert_eq!(redirected(&place, "prepare", ">&- 2>&-", &bystander()), silent_pass());
}

#[test]
fn an_edit_that_cannot_be_told_refuses() {
    let lost = "gpuslice: device-failed: the domain's new devices cannot be told to libvirt";
    for (redirection, why) in [
        (">&-", "stdout is closed"),
        (">/dev/full", "write stdout: No space left on device (os error 28)"),
    ] {
        let place = Place::new();
        let daemon = Daemon::start(&place, vec![Act::Answer(remapped)]);
        let ended = redirected(&place, "restore", redirection, &claiming());
        assert_eq!(ended, refused(&format!("{lost}: {why}")));
        daemon.heard();
        // With nothing to tell, nothing is lost.
        std::fs::remove_file(place.socket()).unwrap();
        let daemon = Daemon::start(&place, vec![Act::Answer(done)]);
        assert_eq!(redirected(&place, "restore", redirection, &claiming()), silent_pass());
        daemon.heard();
    }
}

/// Lets the hook be killed while the daemon has its request and has not answered.
fn terminated(operation: &str, signal: rustix::process::Signal) -> std::process::ExitStatus {
    let place = Place::new();
    let listener = std::os::unix::net::UnixListener::bind(place.socket()).unwrap();
    // Whoever runs the tests in the background has SIGINT ignored, and that is inherited.
    let mut command =
        place.command("env", &["--default-signal=INT,TERM", HOOK, "win11", operation, "end", "-"]);
    let mut hook = command.stdout(Stdio::null()).spawn().unwrap();
    hook.stdin.take().unwrap().write_all(claiming().as_bytes()).unwrap();
    let (mut stream, _) = listener.accept().unwrap();
    let mut line = String::new();
    let mut reader = std::io::BufReader::new(stream.try_clone().unwrap());
    std::io::BufRead::read_line(&mut reader, &mut line).unwrap();
    let pid = rustix::process::Pid::from_child(&hook);
    rustix::process::kill_process(pid, signal).unwrap();
    let reply = done(&Request::from_line(line.as_bytes()).unwrap());
    // One that was killed does not listen any more.
    let _ = stream.write_all(reply.to_line().unwrap().as_bytes());
    hook.wait().unwrap()
}

#[test]
fn giving_back_outlives_a_termination() {
    use rustix::process::Signal;
    for signal in [Signal::TERM, Signal::INT] {
        for operation in ["release", "stopped"] {
            let status = terminated(operation, signal);
            assert_eq!(status.code(), Some(0), "{operation}: {status}");
        }
        // A start may be given up.
        assert_eq!(terminated("prepare", signal).signal(), Some(signal.as_raw()));
    }
}

#[test]
fn without_root_a_claim_is_refused_and_the_rest_passes() {
    let place = Place::new();
    // The build's folder may be closed to others.
    let copy = place.path().join("hook");
    std::fs::copy(HOOK, &copy).unwrap();
    for path in [place.path(), &copy] {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
    }
    let run = |operation: &str, xml: &str| {
        let mut command = std::process::Command::new(&copy);
        command
            .args(["win11", operation, "begin", "-"])
            .env("GPUSLICE_SOCKET", place.socket())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        if rustix::process::geteuid().is_root() {
            command.uid(65534).gid(65534);
        }
        finish(command, xml.as_bytes())
    };
    let line = "gpuslice: not-permitted: slices are given to domains of the system's libvirt only, this one runs without root; try: define the domain in qemu:///system";
    for operation in ["prepare", "migrate", "restore"] {
        assert_eq!(run(operation, &claiming()), refused(line));
    }
    for operation in ["release", "reconnect", "started"] {
        assert_eq!(run(operation, &claiming()), silent_pass());
    }
    assert_eq!(run("prepare", &plain_hostdev()), silent_pass());
    assert_eq!(run("prepare", &bystander()), silent_pass());
}

#[test]
fn a_broken_hook_conf_is_told_and_its_defaults_stand() {
    let warned = |conf: &str| {
        let place = Place::new();
        place.write_conf(conf);
        let daemon = Daemon::start(&place, vec![Act::Answer(done)]);
        let ended = place.run("prepare", claiming().as_bytes());
        daemon.heard();
        assert_eq!((ended.code, ended.out.as_str()), (Some(0), ""));
        place.plain(&ended.err)
    };
    assert_eq!(warned(""), "");
    assert_eq!(
        warned("# mine\ndeadline = 3\ndeadline-seconds = 7\n"),
        "gpuslice: warning: PLACE/hook.conf:2: unknown key \"deadline\", known are deadline-seconds, socket; the default stands\n"
    );
    assert_eq!(
        warned("deadline-seconds = soon\nsocket = /nowhere"),
        "gpuslice: warning: PLACE/hook.conf:1: deadline-seconds is not a number from 1 to 600; the default stands\n\
         gpuslice: warning: PLACE/hook.conf:2: socket is not an absolute path in double quotes; the default stands\n"
    );
    let place = Place::new();
    std::fs::create_dir(place.path().join("hook.conf")).unwrap();
    let ended = place.run("prepare", plain_hostdev().as_bytes());
    assert_eq!(ended.code, Some(0));
    assert_eq!(
        place.plain(&ended.err),
        "gpuslice: warning: read PLACE/hook.conf: Is a directory (os error 21); the default stands\n"
    );
}

#[test]
fn hook_conf_names_the_socket() {
    let place = Place::new();
    place.write_conf(&format!("socket = \"{}\"\n", place.socket().display()));
    let daemon = Daemon::start(&place, vec![Act::Answer(done)]);
    let mut command = place.command(HOOK, &["win11", "prepare", "begin", "-"]);
    command.env_remove("GPUSLICE_SOCKET");
    assert_eq!(finish(command, claiming().as_bytes()), silent_pass());
    assert_eq!(daemon.heard().len(), 1);
}
