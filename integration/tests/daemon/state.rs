//! Records that are broken, and records that cannot be written. Each is a different message; nothing is given out
//! until a person has looked, and everybody may still read.

use crate::host::{Host, Vm, as_root, files};
use crate::life::{ONE_VF, PROFILE};
use serde_json::json;
use std::fs;
use std::path::Path;

/// A host on which a VM runs, its daemon stopped.
fn with_records() -> (Host, Vm) {
    let (mut host, vm) = Host::with_vm();
    host.run_vm(&vm);
    host.terminate();
    (host, vm)
}

/// Reading works, giving out does not, and both say why.
#[track_caller]
fn gives_nothing(host: &Host, vm: &Vm, why: &str) {
    let status = host.ask(&["status"]);
    assert_eq!(status["writable"], json!(false), "{status}");
    assert!(status["warnings"].to_string().contains(why), "{why}: {status}");
    for list in ["gpus", "profiles", "slices", "claims"] {
        host.ask(&[list]);
    }
    // Twice: what was refused must not have been done.
    for _ in 0..2 {
        let refusal = host.refusal(&["cordon", "0000:22:00.0"]);
        assert_eq!(refusal["code"], json!("state-unwritable"));
        assert!(refusal["causes"].to_string().contains(why), "{why}: {refusal}");
    }
    assert_eq!(host.hook(vm, "prepare").code, Some(1));
    // The end of a VM is a fact whether or not it can be recorded.
    host.stop_vm(vm);
    // A broken record is said where a person looks first.
    let said = host.cli(&["status"]);
    assert!(said.out.contains(why) || said.err.contains(why), "{said:?}");
}

#[test]
fn each_kind_of_broken_record_is_a_message_of_its_own() {
    as_root(|| {
        let (mut host, vm) = with_records();
        for file in ["state/claims.json", "run/assignments.json"] {
            let path = host.path(file);
            let good = fs::read(&path).unwrap();
            let newer = String::from_utf8(good.clone()).unwrap();
            let newer = newer.replacen("\"schema\": 1", "\"schema\": 7", 1);
            let cut = |at: usize| good[..at].to_vec();
            let line = path.display().to_string();
            for (bytes, why) in [
                (cut(1), "line 1, column "),
                (cut(good.len() / 3), ", column "),
                (cut(good.len() / 2), ", column "),
                (cut(good.len() - 3), ", column "),
                (Vec::new(), " is empty"),
                (vec![0xff, 0xfe, 0], " is not text"),
                (b"[]\n".to_vec(), "line 1, column "),
            ] {
                fs::write(&path, &bytes).unwrap();
                host.start_daemon();
                gives_nothing(&host, &vm, why);
                let warnings = host.ask(&["status"])["warnings"].to_string();
                assert!(warnings.contains(&line), "{warnings}");
                host.terminate();
                // It is kept for whoever wants to look at it, and the daemon wrote nothing over it.
                let name = path.file_name().unwrap().to_str().unwrap();
                let kept = files(path.parent().unwrap(), &format!("{name}.corrupt-"));
                assert!(kept.iter().any(|k| fs::read(k).unwrap() == bytes), "{kept:?}");
                assert!(kept.len() <= 4 && !path.exists(), "{kept:?}");
            }
            fs::write(&path, &newer).unwrap();
            host.start_daemon();
            gives_nothing(&host, &vm, "has schema 7 of a later version");
            host.terminate();
            assert_eq!(fs::read_to_string(&path).unwrap(), newer, "it is not ours to touch");
            fs::remove_file(&path).unwrap();

            fs::create_dir(&path).unwrap();
            host.start_daemon();
            gives_nothing(&host, &vm, "cannot be read: ");
            host.terminate();
            fs::remove_dir(&path).unwrap();

            fs::write(&path, &good).unwrap();
            host.start_daemon();
            let status = host.ask(&["status"]);
            assert_eq!((&status["writable"], &status["warnings"]), (&json!(true), &json!([])));
            assert_eq!(host.only("claims")["claim"], json!(format!("{}/gpu0", vm.uuid)));
            host.terminate();
        }
    });
}

#[test]
fn claims_that_were_corrupt_are_missed_until_a_person_has_looked() {
    as_root(|| {
        let (mut host, vm) = with_records();
        let path = host.path("state/claims.json");
        let good = fs::read(&path).unwrap();
        let said = |host: &Host| {
            gives_nothing(host, &vm, "claims.json.corrupt-");
            let warnings = host.ask(&["status"])["warnings"].to_string();
            // What it says to remove is what keeps it from being written.
            assert!(
                warnings.contains(&format!("remove {}.corrupt-*", path.display())),
                "{warnings}"
            );
        };
        let writable = |host: &Host| {
            let status = host.ask(&["status"]);
            assert_eq!((&status["writable"], &status["warnings"]), (&json!(true), &json!([])));
        };
        for bytes in [&good[..good.len() / 2], b""] {
            fs::write(&path, bytes).unwrap();
            // The first start puts it aside; the next ones find none.
            for _ in 0..3 {
                host.start_daemon();
                said(&host);
                host.terminate();
                assert!(!path.exists());
            }
        }
        // A good one is put back: what was kept is of no more consequence.
        fs::write(&path, &good).unwrap();
        host.start_daemon();
        writable(&host);
        assert_eq!(host.only("claims")["claim"], json!(format!("{}/gpu0", vm.uuid)));
        host.terminate();
        // Or all may be forgotten.
        fs::remove_file(&path).unwrap();
        host.start_daemon();
        said(&host);
        host.terminate();
        for kept in files(path.parent().unwrap(), "claims.json.corrupt-") {
            fs::remove_file(kept).unwrap();
        }
        host.start_daemon();
        writable(&host);
        host.terminate();
    });
}

#[test]
fn assignments_that_were_corrupt_are_made_up_for_after_a_restart() {
    as_root(|| {
        let (mut host, vm) = with_records();
        fs::write(host.path("run/assignments.json"), "[]\n").unwrap();
        host.start_daemon();
        gives_nothing(&host, &vm, "assignments.json.corrupt-1");
        host.terminate();
        host.start_daemon();
        let status = host.ask(&["status"]);
        assert_eq!(status["writable"], json!(true));
        assert!(!status["warnings"].to_string().contains("corrupt"), "{status}");
    });
}

#[test]
fn absent_records_are_a_first_start() {
    as_root(|| {
        let (mut host, mut vm) = with_records();
        fs::remove_file(host.path("state/claims.json")).unwrap();
        fs::remove_file(host.path("run/assignments.json")).unwrap();
        host.start_daemon();
        host.settle();
        let status = host.ask(&["status"]);
        assert_eq!((&status["writable"], &status["warnings"]), (&json!(true), &json!([])));
        assert_eq!(host.ask(&["claims"]), json!([]));
        assert!(host.attach(&mut vm, PROFILE));
    });
}

/// Nothing can be recorded from now on; then it can again.
fn while_unwritable(host: &Host, break_it: impl FnOnce(), why: &str, mend: impl FnOnce()) {
    let mut vm = Vm::new(1);
    host.attach(&mut vm, PROFILE);
    break_it();
    let refusal = host.refusal(&["cordon", "0000:22:00.0"]);
    assert_eq!(refusal["code"], json!("state-unwritable"));
    assert!(refusal["causes"].to_string().contains(why), "{refusal}");
    assert!(refusal["hint"].as_str().is_some());
    let refused = host.hook(&vm, "prepare");
    assert!(refused.refused("state-unwritable").contains(why), "{refused:?}");
    assert_eq!(host.ask(&["status"])["writable"], json!(false));
    assert_eq!(host.only("slices")["state"], json!("free"));
    assert_eq!(host.refusal(&["release", &vm.uuid])["code"], json!("state-unwritable"));
    assert_eq!(host.only("claims")["state"], json!("idle"), "it was not ended");
    mend();
    host.run_vm(&vm);
    assert_eq!(host.ask(&["status"])["writable"], json!(true));
    let cordoned = host.column("gpus", "state").contains(&"cordoned".to_owned());
    assert!(!cordoned, "what was refused does not come true later");
    host.stop_vm(&vm);
}

#[test]
fn what_cannot_be_recorded_is_not_promised() {
    as_root(|| {
        let host = Host::start("sriov-8", ONE_VF);
        host.settle();
        // A directory where the new record is to be written: works also against root.
        let blocks = [host.path("state/.claims.json.new"), host.path("run/.assignments.json.new")];
        while_unwritable(
            &host,
            || blocks.iter().for_each(|b| fs::create_dir(b).unwrap()),
            "open ",
            || blocks.iter().for_each(|b| fs::remove_dir(b).unwrap()),
        );
    });
}

fn mount_small(at: &Path) -> bool {
    let options = ["-t", "tmpfs", "-o", "size=64k,mode=700", "gpuslice-test"];
    let mount = std::process::Command::new("mount").args(options).arg(at).output();
    mount.is_ok_and(|out| out.status.success())
}

/// Unmounts when the test ends, however it ends.
struct Mounted<'a>(&'a Path);

impl Drop for Mounted<'_> {
    fn drop(&mut self) {
        drop(std::process::Command::new("umount").arg("-l").arg(self.0).status());
    }
}

#[test]
fn a_full_disk_is_told_and_survived() {
    as_root(|| {
        let mut host = Host::off("sriov-8", ONE_VF);
        let state = host.path("state");
        fs::create_dir(&state).unwrap();
        if !mount_small(&state) {
            println!("SKIPPED: a full disk: no tmpfs can be mounted here");
            return;
        }
        let mounted = Mounted(&state);
        host.bus.start();
        host.start_daemon();
        host.settle();
        let ballast = state.join("ballast");
        while_unwritable(
            &host,
            || drop(fs::write(&ballast, vec![0; 1 << 20]).unwrap_err()),
            "ENOSPC",
            || fs::remove_file(&ballast).unwrap(),
        );
        host.terminate();
        drop(mounted);
    });
}

#[test]
fn a_folder_that_cannot_be_used_is_told_with_what_mends_it() {
    as_root(|| {
        let host = Host::off("sriov-8", ONE_VF);
        fs::write(host.path("state"), "no folder").unwrap();
        let mut daemon = host.daemon("log");
        assert!(!daemon.wait().unwrap().success());
        let (log, state) = (host.log(), host.path("state"));
        assert!(
            log.contains(&format!("cannot open {}: not a directory (ENOTDIR)", state.display())),
            "{log}"
        );
        assert!(
            log.contains(&format!(
                "; hint: mend what is said of it (namei -lm {}",
                state.display()
            )),
            "{log}"
        );
        assert!(!log.contains("another"), "{log}");
    });
}
