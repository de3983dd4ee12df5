//! From a configuration to a VM with a slice and back, over unplugging and reboots.

use crate::host::{Host, Vm, as_root, until};
use serde_json::json;

pub const CARD: &str = "0000:0c:00.0";
pub const ONE_VF: &str = "[[gpu]]\nmatch = { address = \"0000:0c:00.0\" }\nlayout = { vfs = 1 }\n";
pub const PROFILE: &str = "amd-74a1-vf1";

#[test]
fn a_virtual_function_from_the_configuration_to_the_vm_and_back() {
    as_root(|| {
        let host = Host::start("sriov-8", ONE_VF);
        host.settle();
        let free = host.only("slices");
        assert_eq!((&free["state"], &free["parent"]), (&json!("free"), &json!(CARD)));

        let mut vm = Vm::new(1);
        assert!(host.attach(&mut vm, PROFILE));
        assert!(!host.attach(&mut vm, PROFILE), "the second time it is already so");
        assert_eq!(host.only("claims")["state"], json!("idle"));

        host.hook(&vm, "prepare").quiet();
        let prepared = host.only("slices");
        assert_eq!(prepared["state"], json!("prepared"));
        assert_eq!(prepared["driver"], json!("vfio-pci"));
        assert_eq!(prepared["slice"], free["slice"]);
        host.hook(&vm, "started").quiet();
        let attached = host.only("slices");
        assert_eq!(attached["state"], json!("attached"));
        assert_eq!(attached["claim"], json!(format!("{}/gpu0", vm.uuid)));
        assert_eq!(attached["holder"], json!(vm.name));
        assert_eq!(host.ask(&["status"])["attached"], json!(1));

        // All that asks for the same slice is told whose it is, and takes nothing.
        let other = Vm::new(2);
        let refusal = host.refusal(&["attach", &other.uuid, PROFILE, "--print"]);
        assert_eq!(refusal["code"], json!("no-capacity"));
        assert!(refusal["message"].as_str().unwrap().contains(&vm.name), "{refusal}");
        let copied = host.hook(&vm.copy(3), "prepare");
        let line = copied.refused("claim-copied");
        assert!(line.contains(&vm.name) && line.contains("; try: "), "{line}");
        assert_eq!(host.only("slices"), attached);
        assert_eq!(host.refusal(&["release", &vm.uuid])["code"], json!("in-use"));

        host.stop_vm(&vm);
        let freed = host.only("slices");
        assert_eq!((&freed["state"], &freed["claim"]), (&json!("free"), &json!(null)));
        assert_eq!(host.only("claims")["state"], json!("idle"));

        // The end of the claim: nothing of it is left.
        assert_eq!(host.ask(&["release", &vm.uuid])["changed"], json!(true));
        assert_eq!(host.ask(&["claims"]), json!([]));
    });
}

#[test]
fn a_card_that_leaves_and_comes_back() {
    as_root(|| {
        let (host, vm) = Host::with_vm();
        let home = host.only("claims")["home"][0].as_str().unwrap().to_owned();

        host.plug(CARD, false);
        until("its slices leave", || host.ask(&["slices"]) == json!([]));
        let claim = host.only("claims");
        assert_eq!(claim["reason"], json!(format!("its home VF {home} is not on the host")));
        let gpus = host.ask(&["gpus"]);
        let gone = gpus.as_array().unwrap().iter().find(|g| g["parent"] == json!(CARD)).unwrap();
        assert_eq!(gone["state"], json!("absent"), "{gone}");
        assert!(host.hook(&vm, "prepare").refused("not-settled").contains(CARD));
        let status = host.ask(&["status"]);
        assert_eq!(status["settled"], json!(false));
        assert!(status["waiting_for"].to_string().contains(CARD), "{status}");
        assert_eq!(
            host.refusal(&["wait", "--settled", "--timeout", "0"])["code"],
            json!("timeout")
        );

        host.plug(CARD, true);
        host.settle();
        assert_eq!(host.only("slices")["address"], json!(home));
        assert_eq!(host.only("claims")["reason"], json!(null));
        host.run_vm(&vm);
        host.stop_vm(&vm);
        assert_eq!(host.only("slices")["state"], json!("free"));
    });
}

#[test]
fn after_a_reboot_layouts_and_claims_are_there_and_assignments_are_not() {
    as_root(|| {
        let (host, vm) = Host::with_vm();
        host.run_vm(&vm);
        host.outside(&json!({"do": "reboot"}));
        host.settle();
        assert_eq!(host.only("slices")["state"], json!("free"));
        assert_eq!(host.only("claims")["state"], json!("idle"));
        host.run_vm(&vm);
        assert_eq!(host.only("slices")["state"], json!("attached"));
    });
}

#[test]
fn an_edited_layout_waits_for_apply_and_running_vms_stand_in_its_way() {
    as_root(|| {
        let (host, vm) = Host::with_vm();
        host.run_vm(&vm);
        host.configure(&ONE_VF.replace("vfs = 1", "vfs = 4"));
        let plan = host.ask(&["plan"]);
        assert!(plan["blockers"].to_string().contains(&vm.name), "{plan}");
        let ran = host.cli(&["apply", "--json"]);
        assert_eq!(ran.code, Some(1), "{ran:?}");
        assert!(ran.out.contains("\"in-use\"") && ran.out.contains(&vm.name), "{ran:?}");
        assert_eq!(host.only("slices")["state"], json!("attached"));

        host.stop_vm(&vm);
        assert_eq!(host.ask(&["apply"])["changed"], json!(true));
        assert_eq!(host.column("slices", "state"), ["free"; 4]);
        assert_eq!(host.ask(&["apply"])["changed"], json!(false));
        assert_eq!(host.ask(&["plan"])["steps"], json!([]));
    });
}

#[test]
fn mediated_devices_fill_both_parents_and_leave_nothing() {
    as_root(|| {
        let host = Host::start("mdev", "");
        let mut vms: Vec<Vm> = (1..=5).map(Vm::new).collect();
        for vm in &mut vms {
            assert!(host.attach(vm, "nvidia-a40-24q"));
        }
        let (last, running) = vms.split_last().unwrap();
        for vm in running {
            host.run_vm(vm);
        }
        let mut parents = host.column("slices", "parent");
        parents.sort();
        assert_eq!(parents, ["0000:41:00.0", "0000:41:00.0", "0000:81:00.0", "0000:81:00.0"]);
        let refused = host.hook(last, "prepare");
        let line = refused.refused("no-capacity");
        for part in ["nvidia-a40-24q", "wanted 1, 0 of 4 free", "vm1", "; try: virsh shutdown vm"] {
            assert!(line.contains(part), "{part}: {line}");
        }
        assert_eq!(host.column("slices", "state"), ["attached"; 4]);

        host.stop_vm(&running[0]);
        host.run_vm(last);
        for vm in vms.iter().skip(1) {
            host.stop_vm(vm);
        }
        assert_eq!(host.ask(&["slices"]), json!([]));
        let profiles = host.ask(&["profiles"]);
        let whole = profiles.as_array().unwrap().iter().find(|p| p["profile"] == "nvidia-a40-24q");
        assert_eq!((&whole.unwrap()["free"], &whole.unwrap()["used"]), (&json!(4), &json!(0)));
    });
}

#[test]
fn a_slice_that_a_process_keeps_is_given_to_nobody_until_it_ends() {
    as_root(|| {
        let (host, vm) = Host::with_vm();
        host.hook(&vm, "prepare").quiet();
        let slice = host.only("slices")["slice"].clone();
        host.outside(
            &json!({"do": "open", "slice": slice, "pid": 4242, "comm": "qemu-system-x86"}),
        );
        host.hook(&vm, "started").quiet();
        host.stop_vm(&vm);
        assert_eq!(host.only("slices")["state"], json!("releasing"));
        host.ask(&["release", &vm.uuid, "--force"]);
        // Nobody's claim is on it any more; the process still is.
        assert_eq!(host.only("slices")["state"], json!("releasing"));
        host.outside(&json!({"do": "kill", "pid": 4242}));
        until("the slice comes back", || host.only("slices")["state"] == json!("free"));
        until("its claim is gone", || host.ask(&["claims"]) == json!([]));
    });
}

#[test]
fn a_card_torn_out_under_a_vm_says_so_in_its_claim() {
    as_root(|| {
        let host = Host::start("mdev", "");
        let mut vm = Vm::new(1);
        host.attach(&mut vm, "nvidia-a40-24q");
        host.run_vm(&vm);
        let parent = host.only("slices")["parent"].as_str().unwrap().to_owned();
        host.plug(&parent, false);
        until("the slice leaves", || host.ask(&["slices"]) == json!([]));
        let claim = host.only("claims");
        assert!(claim["reason"].as_str().is_none_or(|r| r.contains(&parent)), "{claim}");
        host.stop_vm(&vm);
        assert_eq!(host.only("claims")["state"], json!("idle"));
        // The other card serves the next start.
        host.run_vm(&vm);
        assert_ne!(host.only("slices")["parent"], json!(parent));
    });
}

#[test]
fn a_gpu_that_the_kernels_log_says_has_failed() {
    as_root(|| {
        let (mut host, vm) = Host::with_vm();
        let line = "NVRM: Xid (PCI:0000:0c:00): 79, pid=7, GPU has fallen off the bus.";
        host.outside(&json!({"do": "say", "line": line}));
        let card = |host: &Host| {
            let gpus = host.ask(&["gpus"]);
            gpus.as_array().unwrap().iter().find(|g| g["parent"] == json!(CARD)).unwrap().clone()
        };
        until("it is known", || card(&host)["health"] == json!("failed"));
        assert_eq!(card(&host)["state"], json!("cordoned"));
        assert!(card(&host)["health_reason"].as_str().unwrap().ends_with(line));
        let table = host.cli(&["gpus"]);
        assert!(table.out.contains("HEALTH") && table.out.contains("failed: ["), "{table:?}");
        let warnings = host.ask(&["status"])["warnings"].to_string();
        assert!(warnings.contains(line) && warnings.contains("gpuslice uncordon"), "{warnings}");
        assert!(host.hook(&vm, "prepare").refused("cordoned").contains("fallen off the bus"));
        // It outlives the daemon.
        assert!(host.terminate().success());
        host.start_daemon();
        host.settle();
        assert_eq!(card(&host)["health"], json!("failed"));
        assert_eq!(host.ask(&["uncordon", CARD])["changed"], json!(true));
        assert_eq!(card(&host)["health"], json!("ok"));
        host.run_vm(&vm);
        host.stop_vm(&vm);
    });
}
