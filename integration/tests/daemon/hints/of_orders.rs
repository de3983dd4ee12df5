//! Orders that are refused for what they name, or for who gives them.

use super::person::{Person, hostdev, no_edit};
use crate::host::{Ran, until};
use crate::life::{CARD, ONE_VF, PROFILE};
use gpuslice_core::refusal::Code;
use serde_json::json;
use std::process::Command;

pub fn a_name_is_misspelt(code: Code) {
    let mut person = Person::at("sriov-8", ONE_VF, 1);
    person.mends(code, "gpuslice attach vm1 amd-74a1-fv1");
    person.does("virsh start vm1");
}

pub fn no_gpu_has_a_layout(code: Code) {
    let mut person = Person::at("sriov-8", "", 1);
    person.mends_by(code, &format!("gpuslice attach vm1 {PROFILE}"), 0, &mut |person, what| {
        assert_eq!(what, format!("write a layout for {CARD} in /etc/gpuslice/gpuslice.toml"));
        person.host.configure(ONE_VF);
    });
}

pub fn no_driver_makes_it(code: Code) {
    let mut person = Person::at("mdev", "", 1);
    // Whatever a tenant's XML names is no module to load.
    let refused = person.refused(code, "gpuslice attach vm1 nouveau-vga");
    let other = " PROFILE --name gpu0, with one of gpuslice profiles";
    assert!(refused.hint.starts_with("gpuslice attach "), "{refused:?}");
    assert!(refused.hint.ends_with(other), "{refused:?}");
    let refused = person.refused(code, "gpuslice attach vm1 mdpy-vga");
    assert!(refused.hint.starts_with("modprobe mdpy, then the same again; or "), "{refused:?}");
    person.follows(&refused.hint, "gpuslice attach vm1 mdpy-vga", 1, &mut no_edit);
    person.does("virsh start vm1");
}

pub fn no_such_gpu(code: Code) {
    // The other one's first function with VFs is a network card, which is none of gpuslice's.
    for host in ["sriov-8", "mixed"] {
        let mut person = Person::at(host, ONE_VF, 0);
        let refused = person.refused(code, "gpuslice cordon 0000:ff:00.0");
        person.follows(&refused.hint, "", 0, &mut |person, what| {
            let named = what.strip_prefix("name one of gpuslice gpus: ").unwrap();
            let first = named.split([',', ' ']).next().unwrap();
            assert!(person.host.column("gpus", "parent").contains(&first.to_owned()), "{what}");
            person.does(&format!("gpuslice cordon {first}"));
        });
    }
}

pub fn no_such_domain(code: Code) {
    let mut person = Person::at("sriov-8", ONE_VF, 1);
    let refused = person.refused(code, &format!("gpuslice attach vm9 {PROFILE}"));
    person.follows(&refused.hint, "", 0, &mut |person, what| {
        assert_eq!(what, "name one of virsh list --all");
        person.does(&format!("gpuslice attach vm1 {PROFILE}"));
    });
}

pub fn nobody_of_that_name(code: Code) {
    let mut person = Person::at("sriov-8", ONE_VF, 1);
    person.does(&format!("gpuslice attach vm1 {PROFILE}"));
    let refused = person.refused(code, "gpuslice release vm9");
    person.follows(&refused.hint, "", 0, &mut no_edit);
    person.does("gpuslice release vm1");
    // libvirt has such a domain, though nothing here tells of it any more.
    person.does("gpuslice release vm1");
}

pub fn there_is_no_room_for_the_record(code: Code) {
    let mut person = Person::at("sriov-8", ONE_VF, 0);
    // A directory where the new record is to be written: works also against root.
    let block = person.host.path("state/.claims.json.new");
    std::fs::create_dir(&block).unwrap();
    person.mends_by(code, &format!("gpuslice cordon {CARD}"), 0, &mut |_, what| {
        assert!(what.starts_with("free space or fix permissions of "), "{what}");
        std::fs::remove_dir(&block).unwrap();
    });
}

pub fn there_is_no_room_for_the_answer(code: Code) {
    let mut person = Person::at("sriov-8", ONE_VF, 0);
    let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
    let mut command = person.host.command(&["slices"]);
    command.env("GPUSLICE_BUS_ADDRESS", person.host.bus.address()).stdout(full);
    let ran = Ran::of(&command.output().unwrap());
    assert_eq!(ran.code, Some(1), "{ran:?}");
    assert!(ran.err.contains(code.as_str()), "{ran:?}");
    let hint = super::person::Refused::read(&ran.err).hint;
    assert!(hint.starts_with("write it to where there is room"), "{hint}");
    super::registry::follows(&hint);
    person.does("gpuslice slices");
}

pub fn a_key_is_misspelt(code: Code) {
    let mut person = Person::at("sriov-8", ONE_VF, 0);
    person.host.configure(&ONE_VF.replace("vfs", "vsf"));
    let file = person.host.path("etc/gpuslice.toml");
    person.mends_by(code, "gpuslice apply", 0, &mut |person, what| {
        assert_eq!(what, format!("edit {}", file.display()));
        person.host.configure(ONE_VF);
    });
}

pub fn more_vfs_than_there_are(code: Code) {
    let mut person = Person::at("sriov-8", "", 0);
    person.host.configure(&ONE_VF.replace("vfs = 1", "vfs = 9"));
    person.mends_by(code, "gpuslice apply", 0, &mut |person, what| {
        assert_eq!(what, format!("set vfs to at most 8 for {CARD}"));
        person.host.configure(&ONE_VF.replace("vfs = 1", "vfs = 8"));
    });
}

/// A host on which a VM runs with its slice.
fn runs() -> Person {
    let mut person = Person::at("sriov-8", ONE_VF, 1);
    person.does(&format!("gpuslice attach vm1 {PROFILE}"));
    person.does("virsh start vm1");
    person
}

pub fn a_vm_uses_the_gpu(code: Code) {
    let mut person = runs();
    person.host.configure(&ONE_VF.replace("vfs = 1", "vfs = 4"));
    person.mends(code, "gpuslice apply");
}

pub fn the_claim_runs(code: Code) {
    runs().mends(code, "gpuslice release vm1/gpu0");
}

pub fn somebody_else_asks(code: Code) {
    let mut person = Person::at("sriov-8", ONE_VF, 0);
    // Where it was built others may not look.
    let program = person.host.path("gpuslice");
    std::fs::copy(person.host.program("gpuslice"), &program).unwrap();
    let mut command = Command::new("setpriv");
    command.args(["--reuid", "65534", "--regid", "65534", "--clear-groups"]);
    command.arg(&program).args(["cordon", CARD]);
    command.env("GPUSLICE_BUS_ADDRESS", person.host.bus.address()).env_remove("GPUSLICE_SOCKET");
    let ran = Ran::of(&command.output().unwrap());
    if ran.err.contains("setpriv") {
        return println!("SKIPPED: another user on the bus: this root cannot become one");
    }
    assert_eq!(ran.code, Some(4), "{ran:?}");
    assert!(ran.err.contains(code.as_str()), "{ran:?}");
    let hint = ran.err.lines().find_map(|line| line.strip_prefix("  hint: ")).unwrap();
    // sudo is what this test runs as already.
    person.follows(hint, "", 0, &mut no_edit);
    assert!(person.host.column("gpus", "state").contains(&"cordoned".to_owned()));
}

pub fn no_agent_runs(code: Code) {
    let mut person = Person::at("sriov-8", ONE_VF, 1);
    person.libvirt.agent_goes();
    let order = format!("gpuslice attach vm1 {PROFILE}");
    person.mends_by(code, &order, 0, &mut |person, what| {
        assert!(what.starts_with("start gpuslice-libvirt-agent there"), "{what}");
        person.agent_comes();
    });
}

const SETTLE: &str = "gpuslice wait --settled --timeout 0";

fn card_gone() -> Person {
    let person = Person::at("sriov-8", ONE_VF, 0);
    person.host.plug(CARD, false);
    until("it is gone", || person.host.ask(&["slices"]) == json!([]));
    person
}

pub fn it_never_settles(code: Code) {
    let mut person = card_gone();
    person.mends_by(code, SETTLE, 1, &mut |person, what| {
        assert_eq!(what, "take what is gone for good out of /etc/gpuslice/gpuslice.toml");
        person.host.configure("");
    });
}

pub fn it_settles_later(code: Code) {
    let mut person = card_gone();
    let refused = person.refused(code, SETTLE);
    person.host.plug(CARD, true);
    person.follows(&refused.hint, SETTLE, 0, &mut |person, what| {
        assert_eq!(what, "the same again with a longer --timeout");
        person.does("gpuslice wait --settled --timeout 50");
    });
}

pub fn the_gpu_is_no_parent(code: Code) {
    let host = gpuslice_integration::root().join("examples/hosts/consumer.toml");
    let mut person = Person::at(host.to_str().unwrap(), "", 1);
    let refused = person.refused(code, "gpuslice attach vm1 nvidia-a40-8q");
    let whole = "0000:01:00.0";
    super::registry::follows(&refused.hint);
    let way = "give the whole of it to one VM";
    assert!(refused.hint.starts_with(way) && refused.hint.contains(whole), "{}", refused.hint);
    let device = hostdev(whole);
    person.edits("vm1", |xml| xml.replace("</devices>", &format!("{device}</devices>")));
    person.does("virsh start vm1");
}
