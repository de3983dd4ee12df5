//! The program itself against a scripted daemon on a socket: streams, exit codes, what reaches the daemon.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking; its shared functions are not marked as tests"
)]

use gpuslice_core::hint;
use gpuslice_core::refusal::{Code, Refusal};
use gpuslice_core::request::{Answer, Command as Order};
use gpuslice_hook_proto::{Body, Reply, ReplyBody, Request, Served};
use serde_json::{Value as Json, json};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::thread::JoinHandle;
use tempfile::TempDir;

const UUID: &str = "8e2f2d4e-1b5f-4a4e-9f57-0d9c6f1c6a11";

/// A daemon that gives its answers in order, and what it was asked.
struct Daemon {
    dir: TempDir,
    served: JoinHandle<Vec<Order>>,
}

fn answer(json: Json) -> ReplyBody {
    let answer: Answer = serde_json::from_value(json).unwrap();
    ReplyBody::Ok(Served::Command(Box::new(answer)))
}

fn daemon(answers: Vec<ReplyBody>) -> Daemon {
    let dir = tempfile::tempdir().unwrap();
    let listener = UnixListener::bind(dir.path().join("sock")).unwrap();
    let served = std::thread::spawn(move || {
        let mut asked = Vec::new();
        let (stream, _) = listener.accept().unwrap();
        let mut reader = BufReader::new(stream);
        for body in answers {
            let mut line = String::new();
            if reader.read_line(&mut line).unwrap() == 0 {
                break;
            }
            let request = Request::from_line(line.as_bytes()).unwrap();
            let Body::Command(order) = request.body else {
                panic!("not a command: {line}");
            };
            asked.push(order);
            let line = Reply::new(request.id, body).to_line().unwrap();
            reader.get_mut().write_all(line.as_bytes()).unwrap();
        }
        asked
    });
    Daemon { dir, served }
}

/// The program, with nothing of this machine's around it.
fn gpuslice(socket: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_gpuslice"));
    command.args(arguments).env_clear().env("GPUSLICE_SOCKET", socket).stdin(Stdio::null());
    command
}

impl Daemon {
    fn run(self, arguments: &[&str]) -> (Ran, Vec<Order>) {
        let output = gpuslice(&self.dir.path().join("sock"), arguments).output().unwrap();
        (Ran::of(&output), self.served.join().unwrap())
    }
}

struct Ran {
    code: Option<i32>,
    out: String,
    err: String,
}

impl Ran {
    fn of(output: &Output) -> Self {
        Self {
            code: output.status.code(),
            out: String::from_utf8(output.stdout.clone()).unwrap(),
            err: String::from_utf8(output.stderr.clone()).unwrap(),
        }
    }

    fn json(&self) -> Json {
        serde_json::from_str(&self.out).unwrap_or_else(|e| panic!("{e}: {}", self.out))
    }
}

fn claim(key: &str, owner_name: &str) -> Json {
    json!({"claim": key, "owner_name": owner_name, "profile": "amd-v620-vf4", "count": 1, "state": "idle",
           "reason": null, "slices": [], "home": ["0000:41:00.4"],
           "pool": false, "reserve": false, "last_refusal": null})
}

fn done(changed: bool, message: &str) -> ReplyBody {
    answer(json!({"answer": "done", "changed": changed, "message": message}))
}

#[test]
fn an_answer_that_finds_no_room_is_said_to_be_that() {
    let served =
        daemon(vec![answer(json!({"answer": "claims", "rows": [claim("vmid:1/a", "vm")]}))]);
    let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
    let mut command = gpuslice(&served.dir.path().join("sock"), &["claims"]);
    let output = command.stdout(full).output().unwrap();
    let err = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{err}");
    assert!(err.starts_with("error: output-unwritable: "), "{err}");
    assert!(err.contains("No space left on device") && err.contains("hint: "), "{err}");
}

#[test]
fn lists_are_tables_or_the_rows_as_they_are() {
    let rows = json!([claim(&format!("{UUID}/gpu0"), "win11")]);
    let served = || daemon(vec![answer(json!({"answer": "claims", "rows": rows}))]);
    let (ran, asked) = served().run(&["claims"]);
    assert_eq!((ran.code, ran.err.as_str()), (Some(0), ""));
    assert_eq!(asked, [Order::ListClaims]);
    assert!(ran.out.starts_with("CLAIM       PROFILE"), "{}", ran.out);
    assert!(ran.out.contains("\nwin11/gpu0  amd-v620-vf4"), "{}", ran.out);
    assert!(!ran.out.contains('\x1b'));

    let (ran, _) = served().run(&["--json", "claims"]);
    assert_eq!(ran.json(), rows);
}

#[test]
fn nothing_to_list_is_said_on_stderr_with_a_next_step() {
    let empty = |kind: &str| answer(json!({"answer": kind, "rows": []}));
    for (arguments, answers, want) in [
        (&["gpus"][..], vec![empty("parents")], "no GPUs found"),
        (&["profiles"], vec![empty("profiles"), empty("parents")], "no GPUs found"),
        (&["profiles", "--types"], vec![empty("types")], "no mdev types"),
        (&["slices"], vec![empty("slices")], "no slices"),
        (&["claims"], vec![empty("claims")], "no claims"),
    ] {
        let (ran, _) = daemon(answers).run(arguments);
        assert_eq!((ran.code, ran.out.as_str()), (Some(0), ""), "{arguments:?}");
        assert!(ran.err.contains(want) && ran.err.contains("\n  hint: "), "{}", ran.err);
    }
    let (ran, _) = daemon(vec![empty("slices")]).run(&["slices", "--json"]);
    assert_eq!((ran.json(), ran.err.as_str()), (json!([]), ""));
}

#[test]
fn a_refusal_is_told_to_people_and_programs() {
    let refusal =
        Refusal::new(Code::NotPermitted, "not yours").because("polkit: no").hint(hint!("ask"));
    for (code, exit) in [(Code::Held, 1), (Code::NotPermitted, 4), (Code::Unreachable, 3)] {
        let refusal = Refusal { code, ..refusal.clone() };
        let (ran, _) = daemon(vec![ReplyBody::Refused(refusal.clone())]).run(&["apply", "--json"]);
        assert_eq!(ran.code, Some(exit));
        assert_eq!(ran.json(), json!({"changed": false, "refusal": refusal}));
        let text = format!("error: {code}: not yours\n  caused by: polkit: no\n  hint: ask\n");
        assert_eq!(ran.err, text);
    }
}

#[test]
fn wrong_usage_is_told_to_people_and_programs() {
    let unused = Path::new("/nonexistent");
    for (typed, said) in [
        (
            &["attach", "win11", "--json"][..],
            "the following required arguments were not provided: <PROFILE>",
        ),
        (&["--json", "frobnicate"], "unrecognized subcommand 'frobnicate'"),
        (
            &["--json", "export"],
            "'gpuslice export' requires a subcommand but one was not provided [subcommands: proxmox, help]",
        ),
        (
            &["attach", "win11", "p", "--json", "--pool", "--reserve"],
            "--pool and --reserve exclude each other: what others may be given is not held",
        ),
    ] {
        let ran = Ran::of(&gpuslice(unused, typed).output().unwrap());
        assert_eq!(ran.code, Some(2), "{typed:?}");
        let want = json!({"changed": false, "refusal": {"code": "bad-request", "message": said}});
        assert_eq!(ran.json(), want, "{typed:?}");
        assert!(ran.err.starts_with("error: "), "{}", ran.err);
    }
    let plain = Ran::of(&gpuslice(unused, &["attach", "win11"]).output().unwrap());
    assert_eq!((plain.code, plain.out.as_str()), (Some(2), ""));
    let help = Ran::of(&gpuslice(unused, &["gpus", "--json", "--help"]).output().unwrap());
    assert_eq!((help.code, help.err.as_str()), (Some(0), ""));
    assert!(help.out.contains("Usage: gpuslice gpus"), "{}", help.out);
}

#[test]
fn nobody_there_is_exit_code_3_and_says_what_was_tried() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("sock");
    let ran = Ran::of(&gpuslice(&socket, &["status"]).output().unwrap());
    assert_eq!((ran.code, ran.out.as_str()), (Some(3), ""));
    let want = format!(
        "error: unreachable: gpusliced does not answer\n  caused by: connect {}: no such file or directory \
         (ENOENT)\n  hint: start gpusliced there; or unset GPUSLICE_SOCKET\n",
        socket.display()
    );
    assert_eq!(ran.err, want);
}

#[test]
fn a_daemon_that_leaves_in_the_middle_is_unreachable() {
    let (ran, asked) = daemon(Vec::new()).run(&["status"]);
    assert_eq!((ran.code, asked.len()), (Some(3), 0));
    assert!(ran.err.contains("caused by: "), "{}", ran.err);
}

#[test]
fn orders_arrive_as_typed_and_say_whether_they_changed_anything() {
    for (arguments, want, changed) in [
        (
            &["cordon", "41:00.0", "--reason", "fan"][..],
            json!({"command": "cordon", "parent": "0000:41:00.0", "reason": "fan"}),
            true,
        ),
        (&["uncordon", "mtty"], json!({"command": "uncordon", "parent": "mtty"}), false),
    ] {
        let want: Order = serde_json::from_value(want).unwrap();
        let (ran, asked) = daemon(vec![done(changed, "cordoned")]).run(arguments);
        assert_eq!(asked, [want]);
        let said = if changed { "cordoned\n" } else { "already so: cordoned\n" };
        assert_eq!((ran.code, ran.out.as_str()), (Some(0), said));
        let json = [arguments, &["--json"]].concat();
        let (ran, _) = daemon(vec![done(changed, "cordoned")]).run(&json);
        assert_eq!(ran.json(), json!({"changed": changed, "message": "cordoned"}));
    }
}

#[test]
fn release_finds_the_claim_by_its_owners_name() {
    let key = format!("{UUID}/gpu0");
    let rows = json!([claim(&key, "win11"), claim("vmid:100/gpu0", "mail")]);
    let list = || answer(json!({"answer": "claims", "rows": rows}));
    for typed in [&["release", "win11/gpu0"][..], &["release", "win11", "gpu0"], &["release", &key]]
    {
        let (ran, asked) = daemon(vec![list(), done(true, "released")]).run(typed);
        assert_eq!((ran.code, ran.out.as_str()), (Some(0), "released\n"), "{}", ran.err);
        let key = key.parse().unwrap();
        assert_eq!(asked[1], Order::Unclaim { key, force: false });
    }
    // Where it is known that there is such a VM, or was, or that it is one's id, nothing is there to be ended any more.
    let slices = |holder: &str| {
        answer(json!({"answer": "slices", "rows": [{"slice": "vf:0000:41:00.4", "address": null,
            "parent": "0000:41:00.0", "mechanism": "sriov", "state": "foreign", "holder": holder}]}))
    };
    let history = |name: &str| {
        answer(json!({"answer": "history", "rows": [{"owner": UUID, "owner_name": name, "index": 0,
            "slice": "vf:0000:41:00.4", "parent": "0000:41:00.0"}]}))
    };
    let other = "vmid:7/gpu0";
    for (typed, answers, what) in [
        ("win11/gpu7", vec![list()], "win11/gpu7"),
        ("win12", vec![list(), slices("win12")], "win12"),
        ("win12", vec![list(), slices("win11"), history("win12")], "win12"),
        (other, vec![list(), done(false, "already so")], other),
    ] {
        let questions = answers.len();
        let (ran, asked) = daemon(answers).run(&["release", typed, "--force"]);
        assert_eq!((ran.code, ran.err.as_str()), (Some(0), ""));
        assert_eq!((ran.out, asked.len()), (format!("already so: no claim {what}\n"), questions));
    }
    let answers = vec![list(), slices("win11"), history("win11")];
    let (ran, asked) = daemon(answers).run(&["release", "win12", "--force"]);
    assert_eq!((ran.code, ran.out.as_str(), asked.len()), (Some(1), "", 3));
    assert!(ran.err.starts_with("error: unknown: no claim win12\n"), "{}", ran.err);
    // Which of several is meant stays a question.
    let rows = json!([claim(&key, "win11"), claim(&format!("{UUID}/ai"), "win11")]);
    let list = answer(json!({"answer": "claims", "rows": rows}));
    let (ran, asked) = daemon(vec![list]).run(&["release", "win11"]);
    assert_eq!((ran.code, asked.len()), (Some(1), 1), "{}", ran.out);
}

#[test]
fn apply_fails_when_something_is_in_the_way_and_prints_json_once() {
    let plan = json!({"changed": true, "unmatched": [],
        "steps": [{"parent": "0000:41:00.0", "step": "write sriov_numvfs=8"}],
        "blockers": [{"code": "in-use", "message": "0000:81:00.0 has running VMs"}]});
    let mut tagged = plan.clone();
    tagged["answer"] = json!("plan");
    let (ran, _) = daemon(vec![answer(tagged.clone())]).run(&["apply", "--json"]);
    assert_eq!(ran.code, Some(1));
    let printed: gpuslice_core::request::PlanRow = serde_json::from_value(ran.json()).unwrap();
    assert_eq!(printed, serde_json::from_value(plan).unwrap());
    assert!(ran.err.starts_with("error: in-use: 1 change blocked"), "{}", ran.err);

    // A plan is only a look: what is in the way is part of the answer.
    let (ran, _) = daemon(vec![answer(tagged)]).run(&["plan"]);
    assert_eq!((ran.code, ran.err.as_str()), (Some(0), ""));
    assert!(ran.out.contains("in the way: in-use:"), "{}", ran.out);
}

#[test]
fn waiting_ends_settled_or_says_what_is_missing() {
    // What it took to reach the daemon is part of the time.
    let waits = |asked: &[Order], at_most: u64| match asked {
        [Order::WaitSettled { timeout_ms }] => {
            assert!((1..=at_most).contains(timeout_ms), "{timeout_ms}");
        }
        other => panic!("{other:?}"),
    };
    let (ran, asked) = daemon(vec![done(false, "settled")]).run(&["wait", "--settled"]);
    waits(&asked, 90_000);
    assert_eq!((ran.code, ran.out.as_str(), ran.err.as_str()), (Some(0), "settled\n", ""));

    let late = Refusal::new(Code::Timeout, "not settled in the time given")
        .because("waiting for 0000:41:00.0")
        .hint(hint!("gpuslice gpus"));
    let typed = ["wait", "--settled", "--timeout", "2"];
    let (ran, asked) = daemon(vec![ReplyBody::Refused(late)]).run(&typed);
    waits(&asked, 2000);
    assert_eq!((ran.code, ran.out.as_str()), (Some(1), ""));
    assert!(ran.err.contains("caused by: waiting for 0000:41:00.0"), "{}", ran.err);
}

#[test]
fn attach_print_records_the_claim_and_prints_xml() {
    let claimed = json!({"answer": "claimed", "changed": true, "claim": claim(&format!("{UUID}/cad"), ""),
        "devices": [{"alias": "ua-gpuslice-cad", "source": {"pci": "0000:41:00.4"}}],
        "warnings": ["9 claims for 8 slices"]});
    let typed = ["attach", UUID, "amd-v620-vf4", "--print", "--name", "cad", "--reserve"];
    let known = || answer(json!({"answer": "claims", "rows": []}));
    let (ran, asked) = daemon(vec![known(), answer(claimed.clone())]).run(&typed);
    let want = json!({"command": "claim", "owner": UUID, "owner_name": "", "reserve": true,
        "request": {"name": "cad", "profile": "amd-v620-vf4"}});
    assert_eq!(asked, [Order::ListClaims, serde_json::from_value::<Order>(want).unwrap()]);
    assert_eq!(ran.err, "warning: 9 claims for 8 slices\n");
    for part in ["<metadata>", "name='cad'", "ua-gpuslice-cad", "bus='0x41'"] {
        assert!(ran.out.contains(part), "{part}: {}", ran.out);
    }
    let (json, _) = daemon(vec![known(), answer(claimed)]).run(&[&typed[..], &["--json"]].concat());
    assert_eq!(json.json()["xml"], json!(ran.out));
}

#[test]
fn what_needs_the_bus_says_so() {
    for typed in [&["attach", "win11", "p"][..], &["detach", "win11"], &["events"]] {
        let (ran, _) = daemon(Vec::new()).run(typed);
        assert_eq!(ran.code, Some(1));
        assert!(ran.err.contains("over D-Bus") && ran.err.contains("hint: "), "{}", ran.err);
    }
    let (ran, _) = daemon(Vec::new()).run(&["attach", "win11", "p", "--print"]);
    assert_eq!(ran.code, Some(3));
    assert!(ran.err.contains("hint: name the UUID that virsh domuuid win11 tells"), "{}", ran.err);
}

#[test]
fn a_reader_that_left_is_no_failure() {
    let row = claim("vmid:100/gpu0", "mail");
    let rows: Vec<Json> = std::iter::repeat_n(row, 5000).collect();
    let daemon = daemon(vec![answer(json!({"answer": "claims", "rows": rows}))]);
    let mut child = gpuslice(&daemon.dir.path().join("sock"), &["claims"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let ran = Ran::of(&child.wait_with_output().unwrap());
    assert_eq!((ran.code, ran.err.as_str()), (Some(0), ""));
}

#[test]
fn wrong_usage_is_exit_code_2_and_asks_nobody() {
    let nowhere = Path::new("/nonexistent");
    let ran = Ran::of(&gpuslice(nowhere, &["attach", "win11"]).output().unwrap());
    assert_eq!((ran.code, ran.out.as_str()), (Some(2), ""));
    assert!(ran.err.contains("<PROFILE>"), "{}", ran.err);
}

#[test]
fn pages_need_no_daemon() {
    let nowhere = Path::new("/nonexistent");
    for shell in ["bash", "fish", "zsh"] {
        let ran = Ran::of(&gpuslice(nowhere, &["completions", shell]).output().unwrap());
        assert_eq!(ran.code, Some(0));
        assert!(ran.out.contains("uncordon"));
    }
    let dir = tempfile::tempdir().unwrap();
    let into = dir.path().to_str().unwrap();
    let ran = Ran::of(&gpuslice(nowhere, &["man", into]).output().unwrap());
    assert_eq!((ran.code, ran.err.as_str()), (Some(0), ""));
    for page in ["gpuslice.1", "gpuslice-attach.1", "gpuslice-wait.1"] {
        assert!(dir.path().join(page).exists(), "{page}");
    }
    let missing = dir.path().join("missing");
    let ran = gpuslice(nowhere, &["man", missing.to_str().unwrap()]).output().unwrap();
    assert_eq!(Ran::of(&ran).code, Some(1));
}
