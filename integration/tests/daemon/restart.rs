//! The daemon ends, by request or by SIGKILL, between any two things it is asked, and the next one on the same
//! directories takes over. The simulated kernel boots with the same boot id each time, so to the daemon it is a
//! restart within one boot, with every device as new: what is on record must hold all the same.

use crate::host::{Host, Ran, Vm, as_root, until};
use crate::life::{ONE_VF, PROFILE};
use serde_json::{Value as Json, json};
use std::path::Path;
use std::process::Command;

#[derive(Debug, Clone, Copy)]
enum End {
    Asked,
    Killed,
}

fn again(host: &mut Host, end: End) {
    match end {
        End::Asked => assert!(host.terminate().success(), "{}", host.log()),
        End::Killed => host.kill(),
    }
    host.start_daemon();
    host.settle();
}

fn between_any_two_acts(end: End) {
    let mut host = Host::start("sriov-8", ONE_VF);
    again(&mut host, end);
    assert_eq!(host.only("slices")["state"], json!("free"));

    let mut vm = Vm::new(1);
    assert!(host.attach(&mut vm, PROFILE));
    let claim = host.only("claims");
    again(&mut host, end);
    assert_eq!(host.only("claims"), claim);
    assert!(!host.attach(&mut vm, PROFILE));

    host.hook(&vm, "prepare").quiet();
    let prepared = host.only("slices");
    again(&mut host, end);
    let still = host.only("slices");
    for key in ["slice", "claim", "state"] {
        assert_eq!(still[key], prepared[key]);
    }
    // libvirt was told to go on, so the slice is this VM's.
    host.hook(&vm.copy(2), "prepare").refused("claim-copied");
    host.hook(&vm, "started").quiet();
    assert_eq!(host.only("slices")["state"], json!("attached"));

    // The simulated QEMU ended with its kernel, and nobody holds the slice: it comes back by itself.
    again(&mut host, end);
    until("the slice comes back", || host.only("slices")["state"] == json!("free"));
    host.stop_vm(&vm);
    again(&mut host, end);
    assert_eq!(host.only("slices")["state"], json!("free"));
    host.run_vm(&vm);
    host.stop_vm(&vm);

    host.ask(&["release", &vm.uuid]);
    again(&mut host, end);
    assert_eq!(host.ask(&["claims"]), json!([]));
}

#[test]
fn a_restart_between_any_two_acts_loses_nothing() {
    as_root(|| between_any_two_acts(End::Asked));
}

#[test]
fn a_kill_between_any_two_acts_loses_nothing() {
    as_root(|| between_any_two_acts(End::Killed));
}

#[test]
fn an_mdev_whose_daemon_is_killed_is_made_again_for_the_same_vm() {
    as_root(|| {
        let mut host = Host::start("mdev", "");
        let mut vm = Vm::new(1);
        host.attach(&mut vm, "nvidia-a40-24q");
        host.hook(&vm, "prepare").quiet();
        let uuid = host.only("slices")["slice"].clone();
        host.kill();
        host.start_daemon();
        // The device is gone, which the claim says; the assignment is not forgotten.
        let claim = host.only("claims");
        assert_eq!(claim["slices"], json!([uuid]), "{claim}");
        assert_eq!(claim["state"], json!("lost"), "{claim}");
        host.run_vm(&vm);
        assert_eq!(host.only("slices")["slice"], uuid);
        assert_eq!(host.only("claims")["state"], json!("attached"));
        host.stop_vm(&vm);
        // Its driver has time to remove it.
        until("it is removed", || host.ask(&["slices"]) == json!([]));
    });
}

#[test]
fn cordons_outlive_the_daemon_and_the_boot() {
    as_root(|| {
        let mut host = Host::start("sriov-8", ONE_VF);
        host.settle();
        let card = |host: &Host| -> Json {
            let rows = host.ask(&["gpus"]);
            rows.as_array().unwrap().iter().find(|g| g["parent"] == "0000:0c:00.0").unwrap().clone()
        };
        host.ask(&["cordon", "0000:0c:00.0", "--reason", "fan is loud"]);
        host.kill();
        host.start_daemon();
        host.outside(&json!({"do": "reboot"}));
        host.settle();
        assert_eq!(card(&host)["state"], json!("cordoned"));
        assert_eq!(card(&host)["reason"], json!("fan is loud"));
        let vm = Vm::new(1);
        let refusal = host.refusal(&["attach", &vm.uuid, PROFILE, "--print"]);
        assert!(refusal.to_string().contains("cordon"), "{refusal}");
        host.ask(&["uncordon", "0000:0c:00.0"]);
        assert_eq!(card(&host)["state"], json!("ok"));
    });
}

#[test]
fn a_second_daemon_leaves_the_first_one_alone() {
    as_root(|| {
        let host = Host::start("sriov-8", ONE_VF);
        host.settle();
        let mut second = host.daemon("second");
        assert_eq!(second.wait().unwrap().code(), Some(1));
        let said = std::fs::read_to_string(host.path("second")).unwrap();
        assert!(said.contains(&format!("in use by process {}", host.pid())), "{said}");
        // Also by the socket, whose file the second one would have replaced.
        assert_eq!(host.by_socket(&["status"]).code, Some(0));
        assert_eq!(host.cli(&["status"]).code, Some(0));
        host.plug("0000:0c:00.0", false);
    });
}

#[test]
fn one_without_state_leaves_the_first_one_s_sockets_alone() {
    as_root(|| {
        let mut host = Host::start("sriov-8", ONE_VF);
        let (hooks, control, own) =
            (host.path("hook.sock"), host.path("control"), host.path("own.sock"));
        for (socket, control) in [(&hooks, None), (&own, Some(&control))] {
            // It ends by itself, with 1.
            let mut second = Command::new("timeout");
            second.arg("60").arg(host.program("gpusliced"));
            second.args(["--sim", "sriov-8", "--bus", &host.bus.address(), "--socket"]).arg(socket);
            second.args(control.iter().flat_map(|path| [Path::new("--sim-control"), path]));
            let ran = Ran::of(&second.env("NO_COLOR", "1").output().unwrap());
            assert_eq!(ran.code, Some(1), "{ran:?}");
            let taken = control.unwrap_or(socket).display().to_string();
            let said = ran.err + &ran.out;
            assert!(said.contains(&format!("{taken} is in use by another gpusliced")), "{said}");
            assert!(said.contains("hint: "), "{said}");
            assert_eq!(host.by_socket(&["status"]).code, Some(0));
            host.plug("0000:0c:00.0", false);
            host.plug("0000:0c:00.0", true);
        }
        // What a daemon left that is gone is in nobody's way.
        host.kill();
        assert!(hooks.exists() && control.exists());
        host.start_daemon();
    });
}
