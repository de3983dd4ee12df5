//! The hook socket under peers that do not keep to the protocol, or leave in the middle of it.

use crate::host::{Host, Vm, as_root, until};
use crate::life::{CARD, ONE_VF, PROFILE};
use serde_json::{Value as Json, json};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;

/// One question by hand: any command, without a bus.
const STATUS: &str = r#"{"v":1,"id":"00000000-0000-0000-0000-000000000001","body":{"command":{"command":"status"}}}"#;

fn connect(host: &Host) -> UnixStream {
    UnixStream::connect(host.path("hook.sock")).unwrap()
}

/// What comes back for these bytes, until an answer's end or the daemon's.
fn answer(host: &Host, bytes: &[u8]) -> Json {
    let mut stream = connect(host);
    // The daemon may have had enough before all is sent.
    drop(stream.write_all(bytes));
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).unwrap();
    serde_json::from_str(&line).unwrap_or_else(|e| panic!("{e}: {line:?}"))
}

#[test]
fn lines_that_are_no_question_are_refused_and_the_next_peer_is_served() {
    as_root(|| {
        let host = Host::start("sriov-8", ONE_VF);
        host.settle();
        let mode = std::fs::metadata(host.path("hook.sock")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let version = STATUS.replace("\"v\":1", "\"v\":9");
        let unknown = STATUS.replace("\"command\":\"status\"", "\"command\":\"explode\"");
        let deep = "[".repeat(100_000);
        for line in [
            "",
            "hello",
            "{}",
            "null",
            "[1,2",
            "\u{0}\u{1}",
            &version,
            &unknown,
            &deep,
            "\"\\ud800\"",
        ] {
            let said = answer(&host, format!("{line}\n").as_bytes());
            let text = said.to_string();
            assert!(
                text.contains("\"refused\"") || text.contains("bad-request"),
                "{line:.60}: {text}"
            );
        }
        let said = answer(&host, b"\xff\xfe\xfd\n").to_string();
        assert!(said.contains("bad-request"), "{said}");
        let said = answer(&host, &vec![b'x'; (1 << 20) + 8192]).to_string();
        assert!(said.contains("line longer than"), "{said}");

        // A line that is wrong does not spoil the connection; one that never ends is nobody's question.
        let mut stream = connect(&host);
        write!(stream, "nonsense\n{STATUS}\n{STATUS}\n").unwrap();
        let mut lines = BufReader::new(stream).lines();
        assert!(lines.next().unwrap().unwrap().contains("bad-request"));
        assert!(lines.next().unwrap().unwrap().contains("\"settled\":true"));
        assert!(lines.next().unwrap().unwrap().contains("\"settled\":true"));
        let mut half = connect(&host);
        half.write_all(&STATUS.as_bytes()[..40]).unwrap();
        half.shutdown(std::net::Shutdown::Write).unwrap();
        let mut rest = String::new();
        half.read_to_string(&mut rest).unwrap();
        assert_eq!(rest, "");
        assert_eq!(host.by_socket(&["status"]).code, Some(0));
        assert_eq!(host.ask(&["claims"]), json!([]));
    });
}

#[test]
fn peers_that_say_nothing_keep_nobody_out() {
    as_root(|| {
        let (host, vm) = Host::with_vm();
        let mut silent: Vec<UnixStream> = (0..300).map(|_| connect(&host)).collect();
        for stream in silent.iter_mut().take(100) {
            // Some have begun to speak. The first of them may have been asked to leave.
            drop(stream.write_all(b"{"));
        }
        assert_eq!(host.by_socket(&["status"]).code, Some(0));
        host.run_vm(&vm);
        host.stop_vm(&vm);
        // The last to come was not the one to go.
        let last = silent.last_mut().unwrap();
        writeln!(last, "{STATUS}").unwrap();
        let mut line = String::new();
        BufReader::new(last).read_line(&mut line).unwrap();
        assert!(line.contains("\"settled\":true"), "{line}");
    });
}

#[test]
fn who_waits_keeps_no_hook_out_and_is_forgotten_when_he_has_left() {
    as_root(|| {
        let missing = "0000:22:00.0";
        let layout = ONE_VF.replace(CARD, missing);
        let host = Host::start("sriov-8", &format!("{ONE_VF}{layout}"));
        host.settle();
        let mut vm = Vm::new(1);
        assert!(host.attach(&mut vm, PROFILE));
        host.plug(missing, false);
        let wait = r#"{"command":"wait-settled","timeout_ms":86400000}"#;
        let wait = STATUS.replace(r#"{"command":"status"}"#, wait);
        // As many as there are places, and more.
        let mut crowd: Vec<UnixStream> = (0..300).map(|_| connect(&host)).collect();
        for stream in &mut crowd {
            // Who is refused may have been asked to leave.
            drop(writeln!(stream, "{wait}"));
        }
        host.run_vm(&vm);
        host.stop_vm(&vm);
        let status = || answer(&host, format!("{STATUS}\n").as_bytes()).to_string();
        let full = status();
        assert!(full.contains("commands are under way"), "{full}");
        drop(crowd);
        until("who waited is forgotten", || status().contains("\"settled\":false"));
    });
}

/// What the hook asks when this VM starts, whose slice was put into its XML.
fn prepare(vm: &Vm, address: &str) -> Json {
    let domain = json!({"uuid": vm.uuid, "name": vm.name,
        "claims": [{"name": "gpu0", "profile": PROFILE}],
        "devices": [{"source": {"pci": address}, "alias": "ua-gpuslice-gpu0", "managed": false}]});
    json!({"v": 1, "id": "00000000-0000-0000-0000-000000000002",
        "body": {"hook": {"operation": "prepare", "sub": "begin", "extra": "-", "domain": domain}}})
}

#[test]
fn what_was_made_for_a_hook_that_cannot_be_told_is_taken_back() {
    as_root(|| {
        let (host, vm) = Host::with_vm();
        let row = host.only("slices");
        let mut hook = connect(&host);
        // It still has its connection when it is answered, and nobody takes the answer.
        hook.shutdown(std::net::Shutdown::Read).unwrap();
        writeln!(hook, "{}", prepare(&vm, row["address"].as_str().unwrap())).unwrap();
        let ended = || host.ask(&["history"]).pointer("/0/reason").cloned();
        until("the slice comes back", || ended() == Some(json!("start-failed")));
        until("it is free", || host.only("slices")["state"] == json!("free"));
        host.run_vm(&vm);
        host.stop_vm(&vm);
    });
}

#[test]
fn a_hook_that_leaves_before_its_answer_gets_nothing() {
    as_root(|| {
        let (host, vm) = Host::with_vm();
        host.hook(&vm, "prepare").quiet();
        let row = host.only("slices");
        let (slice, address) = (row["slice"].clone(), row["address"].as_str().unwrap());
        host.outside(
            &json!({"do": "open", "slice": slice, "pid": 4242, "comm": "qemu-system-x86"}),
        );
        host.hook(&vm, "started").quiet();
        host.stop_vm(&vm);
        assert_eq!(host.only("slices")["state"], json!("releasing"));

        // Its QEMU is slow to end, so the next start has to wait; its hook is killed meanwhile.
        let prepare = prepare(&vm, address);
        let mut hook = connect(&host);
        writeln!(hook, "{prepare}").unwrap();
        hook.set_read_timeout(Some(std::time::Duration::from_millis(300))).unwrap();
        let early = hook.read(&mut [0; 4096]);
        assert!(early.is_err(), "it was answered at once: {early:?}");
        drop(hook);

        host.outside(&json!({"do": "kill", "pid": 4242}));
        until("the slice comes back", || host.only("slices")["state"] == json!("free"));
        assert_eq!(host.only("claims")["state"], json!("idle"));
        host.run_vm(&vm);
        host.stop_vm(&vm);
    });
}
