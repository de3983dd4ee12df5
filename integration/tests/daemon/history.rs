//! Who had which slice: told by the command line over both ways, kept over the daemon's end, and no reason to keep a VM
//! from its start.

use crate::host::{Host, Vm, as_root, files, until};
use crate::life::{CARD, PROFILE};
use serde_json::{Value as Json, json};
use std::fs;

/// Why each tenure ended, in the order in which they began; null for what goes on.
fn reasons(host: &Host) -> Vec<Json> {
    host.ask(&["history"]).as_array().unwrap().iter().map(|row| row["reason"].clone()).collect()
}

fn with_a_vm() -> (Host, Vm) {
    let (host, vm) = Host::with_vm();
    (host, vm)
}

#[test]
fn a_tenure_from_its_begin_to_its_end() {
    as_root(|| {
        let (host, vm) = with_a_vm();
        assert_eq!(host.ask(&["history"]), json!([]));
        host.run_vm(&vm);
        let row = host.only("history");
        assert_eq!(row["slice"], host.only("slices")["slice"]);
        for (key, want) in [
            ("to", json!(null)),
            ("reason", json!(null)),
            ("owner", json!(vm.uuid)),
            ("owner_name", json!(vm.name)),
            ("claim", json!(format!("{}/gpu0", vm.uuid))),
            ("index", json!(0)),
            ("parent", json!(CARD)),
            ("model", json!("mi300x")),
            ("profile", json!(PROFILE)),
        ] {
            assert_eq!(row[key], want, "{key}: {row}");
        }
        host.stop_vm(&vm);
        let ended = host.only("history");
        assert_eq!((&ended["from"], &ended["reason"]), (&row["from"], &json!("stopped")));
        assert!(ended["to"].as_str() >= ended["from"].as_str(), "{ended}");
        // Over the socket as over the bus, and by whatever name.
        assert_eq!(host.by_socket(&["history", "--json"]).json(), json!([ended]));
        let (slice, claim) = (ended["slice"].as_str().unwrap(), format!("{}/gpu0", vm.name));
        for about in [&vm.name, &vm.uuid, &claim, slice, CARD, "c:00.0"] {
            assert_eq!(host.ask(&["history", about]), json!([ended]), "{about}");
        }
        for none in [&["history", "vm2"][..], &["history", "--since", "2100-01-01"]] {
            assert_eq!(host.ask(none), json!([]), "{none:?}");
        }
        assert_eq!(host.ask(&["history", "--since", "1h"]), json!([ended]));
        // A start that libvirt gave up.
        host.hook(&vm, "prepare").quiet();
        host.hook(&vm, "release").quiet();
        assert_eq!(reasons(&host), [json!("stopped"), json!("start-failed")]);
        // It goes to another host.
        host.run_vm(&vm);
        host.migrates_away(&vm);
        assert_eq!(reasons(&host)[2], json!("migrated"));
        assert!(host.log().contains("gpuslice_reason=\"migrated\""), "{}", host.log());
        assert!(host.log().contains("gpuslice_reason=\"start-failed\""), "{}", host.log());
    });
}

#[test]
fn it_outlives_daemons_and_boots() {
    as_root(|| {
        let (mut host, vm) = with_a_vm();
        host.run_vm(&vm);
        host.outside(&json!({"do": "open", "slice": host.only("slices")["slice"], "pid": 42, "comm": "qemu"}));
        let before = host.only("history");
        host.kill();
        host.start_daemon();
        assert_eq!(host.only("history")["from"], before["from"]);
        // The simulated QEMU ended with the daemon that simulated its kernel.
        until("somebody notices", || reasons(&host) == [json!("vanished")]);
        host.run_vm(&vm);
        host.outside(&json!({"do": "reboot"}));
        host.settle();
        assert_eq!(reasons(&host), [json!("vanished"), json!("rebooted")]);
        assert!(host.terminate().success());
        host.start_daemon();
        assert_eq!(reasons(&host), [json!("vanished"), json!("rebooted")]);
    });
}

#[test]
fn a_line_that_broke_off_and_one_that_is_damaged() {
    as_root(|| {
        let (mut host, vm) = with_a_vm();
        host.run_vm(&vm);
        host.stop_vm(&vm);
        host.run_vm(&vm);
        assert!(host.terminate().success());
        let file = &files(&host.path("state"), "history-")[0];
        let text = fs::read_to_string(file).unwrap();
        assert_eq!(text.lines().count(), 3);
        fs::write(file, format!("\0\0\0\n{text}{{\"at\":\"2026-")).unwrap();
        host.start_daemon();
        assert_eq!(reasons(&host)[0], json!("stopped"));
        let log = host.log();
        for said in ["last line was cut short", "1 lines of the history are damaged"] {
            assert!(log.contains(said), "{said}: {log}");
        }
        assert!(fs::read_to_string(file).unwrap().starts_with("\0\0\0\n"));
    });
}

#[test]
fn a_history_that_cannot_be_written_keeps_no_vm_from_its_start() {
    as_root(|| {
        let (mut host, vm) = with_a_vm();
        assert!(host.terminate().success());
        for file in files(&host.path("state"), "history-") {
            fs::remove_file(file).unwrap();
        }
        let in_the_way = host.path("state/history-000001.jsonl");
        fs::create_dir(&in_the_way).unwrap();
        host.start_daemon();
        host.settle();
        host.run_vm(&vm);
        let trouble = |host: &Host| {
            let status = host.ask(&["status"])["warnings"].to_string();
            status.contains("the history cannot be written: open ")
        };
        until("it is said", || trouble(&host));
        // What waited is written with what comes next.
        fs::remove_dir(&in_the_way).unwrap();
        host.stop_vm(&vm);
        assert_eq!(reasons(&host), [json!("stopped")]);
        until("it is over", || !trouble(&host));
    });
}
