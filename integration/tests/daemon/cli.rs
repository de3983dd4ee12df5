//! The command line against the real daemon: exit codes, streams and terminals. What it prints word for word is in the
//! transcripts beside this test.

use crate::host::{Host, Ran, Vm, as_root, until};
use crate::life::{CARD, ONE_VF, PROFILE};
use serde_json::{Value as Json, json};
use std::fs::{self, File};
use std::process::{Command, Stdio};

#[test]
fn exit_codes_say_what_became_of_it() {
    as_root(|| {
        let mut host = Host::start("sriov-8", ONE_VF);
        host.settle();
        let uuid = Vm::new(1).uuid;
        let key = format!("{uuid}/gpu0");
        for (arguments, code, changed) in [
            (&["status"][..], 0, None),
            (&["attach", &uuid, PROFILE, "--print"], 0, Some(true)),
            (&["attach", &uuid, PROFILE, "--print"], 0, Some(false)),
            (&["attach", &uuid, "amd-74a1-vf9", "--print", "--name", "b"], 1, Some(false)),
            (&["attach", "win11", PROFILE], 3, Some(false)),
            (&["attach", "win11", PROFILE, "--print"], 3, Some(false)),
            (&["cordon", "0000:22:00.0", "--reason", "fan"], 0, Some(true)),
            (&["cordon", "0000:22:00.0", "--reason", "fan"], 0, Some(false)),
            (&["uncordon", "0000:22:00.0"], 0, Some(true)),
            (&["uncordon", "0000:22:00.0"], 0, Some(false)),
            (&["cordon", "0000:ff:00.0"], 1, Some(false)),
            (&["plan"], 0, Some(false)),
            (&["apply"], 0, Some(false)),
            (&["wait", "--settled"], 0, Some(false)),
            (&["release", &key], 0, Some(true)),
            (&["release", &key], 0, Some(false)),
            (&["frobnicate"], 2, Some(false)),
            (&["wait"], 2, Some(false)),
            (&["attach", &uuid, PROFILE, "--print", "--count", "0"], 2, Some(false)),
        ] {
            let ran = host.cli(&[arguments, &["--json"]].concat());
            assert_eq!(ran.code, Some(code), "{arguments:?}: {ran:?}");
            assert_eq!(ran.json()["changed"].as_bool(), changed, "{arguments:?}: {ran:?}");
            assert_eq!(code == 0, ran.err.is_empty(), "{arguments:?}: {ran:?}");
            assert!(!ran.out.contains('\x1b') && !ran.err.contains('\x1b'), "{ran:?}");
        }
        host.terminate();
        assert_eq!(host.cli(&["status", "--json"]).code, Some(3));
    });
}

/// `attach UUID --print` knows no name.
#[test]
fn a_vm_whose_first_start_was_refused_is_known_by_its_name() {
    as_root(|| {
        let (host, vm) = Host::with_vm();
        assert_eq!(host.cli(&["explain", &vm.name]).code, Some(1));
        host.ask(&["cordon", CARD]);
        host.hook(&vm, "prepare").refused("cordoned");
        let told = host.ask(&["explain", &vm.name]);
        assert_eq!(told[0]["reasons"][0]["code"], json!("cordoned"), "{told}");
        assert_eq!(host.only("claims")["owner_name"], json!(vm.name));
    });
}

#[test]
fn events_tell_what_the_kernels_log_says_of_a_gpu() {
    as_root(|| {
        let host = Host::start("sriov-8", ONE_VF);
        host.settle();
        let events = File::create(host.path("events")).unwrap();
        let mut command = host.command(&["events", "--json"]);
        command.env("GPUSLICE_BUS_ADDRESS", host.bus.address());
        let mut listener = command.stdout(events).spawn().unwrap();
        let told = || fs::read_to_string(host.path("events")).unwrap();
        // Only a change that it tells shows that it listens.
        until("it listens", || {
            host.ask(&["cordon", "0000:22:00.0"]);
            host.ask(&["uncordon", "0000:22:00.0"]);
            !told().is_empty()
        });
        let (card, line) =
            ("0000:0c:00.0", "vfio-pci 0000:0c:02.0: not ready 65535ms after FLR; giving up");
        host.outside(&json!({"do": "say", "line": line}));
        let unwell = json!({"kind": "parent", "id": card, "what": format!("degraded: {line}")});
        let dirty = json!({"kind": "slice", "id": "vf:0000:0c:02.0", "what": "dirty"});
        let is_told = |change: &Json| {
            told().lines().any(|l| serde_json::from_str::<Json>(l).is_ok_and(|l| l == *change))
        };
        until("the GPU is degraded", || is_told(&unwell) && is_told(&dirty));
        host.ask(&["uncordon", card]);
        until("it is well", || {
            is_told(&json!({"kind": "parent", "id": card, "what": "given out again"}))
        });
        listener.kill().unwrap();
        listener.wait().unwrap();
    });
}

#[test]
fn a_reader_that_left_is_no_failure() {
    as_root(|| {
        let host = Host::start("sriov-8", ONE_VF);
        host.settle();
        for arguments in [&["gpus"][..], &["gpus", "--json"], &["man"], &["completions", "bash"]] {
            let mut command = host.command(arguments);
            command.env("GPUSLICE_BUS_ADDRESS", host.bus.address());
            let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
            drop(child.stdout.take());
            let ran = Ran::of(&child.wait_with_output().unwrap());
            assert_eq!((ran.code, ran.err.as_str()), (Some(0), ""), "{arguments:?}");
        }
        // A shell's `>&-` closes it before it begins, and a full disk takes nothing.
        for redirect in [">&-", ">/dev/full"] {
            let mut command = Command::new("sh");
            command.args(["-c", &format!("exec \"$0\" gpus {redirect}")]);
            command.arg(host.program("gpuslice")).env("GPUSLICE_BUS_ADDRESS", host.bus.address());
            let ran = Ran::of(&command.env_remove("GPUSLICE_SOCKET").output().unwrap());
            let code = ran.code.unwrap_or_else(|| panic!("{redirect}: {ran:?}"));
            assert!(code <= 1 && !ran.err.contains("panicked"), "{redirect}: {ran:?}");
        }
    });
}

#[test]
fn colours_are_for_terminals_that_want_them() {
    as_root(|| {
        let host = Host::start("sriov-8", ONE_VF);
        host.settle();
        let on_terminal = |no_color: Option<&str>| {
            let order = format!("{} cordon 0000:ff:00.0", host.program("gpuslice").display());
            let mut command = Command::new("script");
            command.args(["-qec", &order, "/dev/null"]).stdin(Stdio::null());
            command.env("GPUSLICE_BUS_ADDRESS", host.bus.address()).env_remove("GPUSLICE_SOCKET");
            command.env("TERM", "xterm").env_remove("NO_COLOR");
            if let Some(value) = no_color {
                command.env("NO_COLOR", value);
            }
            let ran = Ran::of(&command.output().unwrap());
            assert_eq!(ran.code, Some(1), "{ran:?}");
            assert!(ran.out.contains("error:"), "{ran:?}");
            ran.out
        };
        assert!(on_terminal(None).contains("\x1b["));
        assert!(!on_terminal(Some("1")).contains("\x1b["));
    });
}

#[test]
fn a_terminal_sees_that_something_long_goes_on() {
    as_root(|| {
        let (host, vm) = Host::with_vm();
        host.run_vm(&vm);
        let order = format!("{} drain {CARD} --wait 10m", host.program("gpuslice").display());
        let screen = host.path("screen");
        let mut command = Command::new("script");
        command.args(["-qefc", &order]).arg(&screen).stdin(Stdio::null()).stdout(Stdio::null());
        command.env("GPUSLICE_BUS_ADDRESS", host.bus.address()).env_remove("GPUSLICE_SOCKET");
        let mut draining = command.spawn().unwrap();
        let shown = || fs::read_to_string(&screen).unwrap_or_default();
        until("the seconds are counted", || shown().contains(" … 2 s"));
        assert!(shown().contains("\r\x1b[Kdraining: vm1 uses vf:"), "{}", shown());
        assert!(!shown().contains("no VM has"), "{}", shown());

        // The line makes room for what came of it.
        host.stop_vm(&vm);
        assert!(draining.wait().unwrap().success(), "{}", shown());
        let told = shown();
        let (_, last) = told.rsplit_once(" … ").unwrap();
        assert!(last.contains(" s\r\x1b[Kno VM has a slice of"), "{told}");
        // What is no terminal is told nothing of it.
        let again = host.cli(&["drain", CARD, "--wait", "10m"]);
        assert_eq!((again.code, again.err.as_str()), (Some(0), ""), "{again:?}");
    });
}
