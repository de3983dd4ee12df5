//! A GPU is drained: by the command line, while VMs come and go.

use crate::host::{Host, Ran, Vm, as_root, until};
use crate::life::{CARD, PROFILE};
use serde_json::json;
use std::process::Stdio;

#[test]
fn a_drain_waits_for_the_vm_that_runs() {
    as_root(|| {
        let (mut host, vm) = Host::with_vm();
        host.run_vm(&vm);
        let slice = host.only("slices")["slice"].clone();
        host.outside(&json!({"do": "open", "slice": slice, "pid": 42, "comm": "qemu"}));

        let order = ["drain", CARD, "--wait", "10m", "--json"];
        let mut waiting = host.command(&order);
        waiting.env("GPUSLICE_BUS_ADDRESS", host.bus.address());
        let waiting = waiting.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        until("it is cordoned", || host.column("gpus", "state").contains(&"cordoned".to_owned()));
        let there = host.ask(&["drain", CARD]);
        assert_eq!((&there["changed"], &there["drained"]), (&json!(false), &json!(false)));
        let message = there["blockers"][0]["message"].as_str().unwrap();
        assert!(message.starts_with("vm1 uses vf:"), "{there}");
        host.hook(&Vm::new(2), "prepare").quiet();
        // What was ordered stays, whatever becomes of the wait.
        let short = ["drain", "--all", "--wait", "0"];
        let late = host.cli(&[&short[..], &["--json"]].concat()).json();
        assert_eq!((&late["changed"], &late["refusal"]["code"]), (&json!(true), &json!("timeout")));
        assert_eq!(host.refusal(&short)["code"], json!("timeout"));

        host.outside(&json!({"do": "kill", "pid": 42}));
        host.stop_vm(&vm);
        let told = Ran::of(&waiting.wait_with_output().unwrap());
        assert_eq!(told.code, Some(0), "{told:?}");
        let told = told.json();
        assert_eq!((&told["changed"], &told["drained"]), (&json!(true), &json!(true)));

        // It is kept, and over with a word.
        host.kill();
        host.start_daemon();
        host.settle();
        host.hook(&vm, "prepare").refused("cordoned");
        assert_eq!(host.ask(&["uncordon", CARD])["changed"], json!(true));
        host.run_vm(&vm);
    });
}

#[test]
fn a_gpu_that_is_exchanged_leaves_its_claims_to_the_next() {
    as_root(|| {
        let other = "0000:22:00.0";
        let config = "[[gpu]]\nmatch = { model = \"mi300x\" }\nlayout = { vfs = 1 }\n";
        let mut host = Host::start("sriov-8", config);
        host.settle();
        let mut vm = Vm::new(1);
        host.attach(&mut vm, PROFILE);
        let home = host.only("claims")["home"].clone();
        host.run_vm(&vm);
        assert_eq!(host.refusal(&["replace", CARD, other])["code"], json!("in-use"));
        host.stop_vm(&vm);

        host.plug(CARD, false);
        until("it has left", || host.ask(&["status"])["settled"] == json!(false));
        host.kill();
        host.start_daemon();
        host.plug(CARD, false);
        until("it has left", || host.ask(&["status"])["settled"] == json!(false));
        assert_eq!(host.ask(&["replace", CARD, other])["changed"], json!(true));
        host.settle();
        assert_eq!(host.ask(&["replace", CARD, other])["changed"], json!(false));
        assert_ne!(host.only("claims")["home"], home);
        // The next start carries the VF of the new one.
        host.hook(&vm, "prepare").refused("absent");
        let moved = host.only("claims")["home"].clone();
        host.attach(&mut vm, PROFILE);
        assert_eq!(host.only("claims")["home"], moved);
        host.run_vm(&vm);
        let row = host.ask(&["history", &vm.name]);
        assert_eq!(row.as_array().unwrap().last().unwrap()["parent"], json!(other));
    });
}
