//! Starts that are refused for what a domain's XML says, or for who has its device.

use super::person::{Person, hostdev, source};
use crate::host::{Vm, until};
use crate::life::{CARD, ONE_VF, PROFILE};
use gpuslice_core::refusal::Code;
use serde_json::json;

const START: &str = "virsh start vm1";
const FOUR: &str = "[[gpu]]\nmatch = { address = \"0000:0c:00.0\" }\nlayout = { vfs = 4 }\n";

/// A host on which a domain has a claim and does not run.
fn attached(config: &str, profile: &str, vms: u8) -> Person {
    let mut person = Person::at("sriov-8", config, vms);
    person.does(&format!("gpuslice attach vm1 {profile}"));
    person
}

pub fn the_profile_is_another_now(code: Code) {
    let mut person = attached(ONE_VF, PROFILE, 1);
    person.host.configure(&ONE_VF.replace("vfs = 1", "vfs = 2"));
    person.does("gpuslice apply");
    person.mends(code, START);
}

pub fn metadata_is_misspelt(code: Code) {
    let mut person = attached(ONE_VF, PROFILE, 1);
    person.edits_unseen("vm1", |xml| xml.replace(" profile=", " profil="));
    person.mends_by(code, START, 0, &mut |person, what| {
        assert!(what.starts_with("virsh edit "), "{what}");
        person.edits("vm1", |xml| xml.replace(" profil=", " profile="));
    });
}

/// The domain of another one's XML.
fn copies(person: &mut Person) {
    let original = Vm { xml: person.libvirt.xml("vm1"), ..Vm::new(1) };
    person.libvirt.agent_goes();
    person.defines(original.copy(2));
}

/// A copy that starts before the agent has seen it.
fn copy_mends(code: Code, mut person: Person) {
    copies(&mut person);
    let refused = person.refused(code, "virsh start vm2");
    person.agent_comes();
    assert!(person.follows(&refused.hint, "virsh start vm2", 0, &mut super::person::no_edit));
    person.does(START);
}

pub fn a_copy_carries_a_vf(code: Code) {
    copy_mends(code, attached(FOUR, "amd-74a1-vf4", 1));
}

pub fn a_copy_carries_an_mdev(code: Code) {
    let mut person = Person::at("mdev", "", 1);
    person.does("gpuslice attach vm1 nvidia-a40-8q");
    copy_mends(code, person);
}

pub fn a_copy_carries_the_only_vf(code: Code) {
    let mut person = attached(ONE_VF, PROFILE, 1);
    copies(&mut person);
    person.agent_comes();
    person.mends(code, "virsh start vm2");
}

pub fn the_gpu_has_not_come(code: Code) {
    let mut person = attached(ONE_VF, PROFILE, 1);
    person.host.plug(CARD, false);
    until("it is gone", || person.host.ask(&["slices"]) == json!([]));
    let refused = person.refused(code, START);
    person.host.plug(CARD, true);
    person.follows(&refused.hint, START, 0, &mut super::person::no_edit);
    // By itself, as the hint says.
    until("the agent starts it", || person.libvirt.runs("vm1"));
    person.does(START);
}

fn held_by_vm2(person: &mut Person) {
    let home = person.home("vm1");
    person.passes("vm2", &home);
    person.does("virsh start vm2");
}

pub fn a_vm_without_a_claim_runs_on_the_home(code: Code) {
    let mut person = attached(ONE_VF, PROFILE, 2);
    held_by_vm2(&mut person);
    person.mends(code, START);
}

pub fn the_home_is_taken_and_another_is_free(code: Code) {
    let mut person = attached(FOUR, "amd-74a1-vf4", 2);
    let home = person.home("vm1");
    held_by_vm2(&mut person);
    person.mends(code, START);
    assert_ne!(person.home("vm1"), home);
}

pub fn a_process_has_the_vf_open(code: Code) {
    let mut person =
        attached(&ONE_VF.replace("vfs = 1", "vfs = 1, bind = \"vfio-pci\""), PROFILE, 1);
    let home = person.home("vm1");
    let slice = format!("vf:{home}");
    person.host.outside(&json!({"do": "open", "slice": slice, "pid": 4242, "comm": "dpdk"}));
    person.mends(code, START);
}

pub fn a_plain_device_is_somebodys(code: Code) {
    let mut person = attached(ONE_VF, PROFILE, 2);
    person.passes("vm2", &person.home("vm1"));
    person.does(START);
    person.mends(code, "virsh start vm2");
}

pub fn the_home_was_given_up(code: Code) {
    let mut person = attached(ONE_VF, PROFILE, 2);
    let xml = person.libvirt.xml("vm1");
    person.does("virsh undefine vm1");
    until("it is known", || person.host.only("claims")["state"] == json!("orphaned"));
    person.does(&format!("gpuslice attach vm2 {PROFILE}"));
    person.libvirt.define(&xml);
    let refused = person.refused(code, START);
    assert!(refused.said.contains("was given to vm2 meanwhile"), "{}", refused.said);
    person.mends(code, START);
}

/// The device of its claim is one that this host does not have.
fn without_vf(person: &mut Person) {
    let home = person.home("vm1");
    let gone = "0000:0c:1f.7";
    let (home, gone) = (source(&home), source(gone));
    person.edits_unseen("vm1", |xml| xml.replace(&home, &gone));
}

pub fn the_vf_is_not_there(code: Code) {
    let mut person = attached(FOUR, "amd-74a1-vf4", 1);
    without_vf(&mut person);
    let refused = person.refused(code, START);
    person.agent_comes();
    if !person.follows(&refused.hint, START, 0, &mut super::person::no_edit) {
        person.does(START);
    }
}

pub fn the_vf_is_not_there_and_no_other_is_free(code: Code) {
    let mut person = attached(ONE_VF, PROFILE, 1);
    let home = source(&person.home("vm1"));
    let original = Vm { xml: person.libvirt.xml("vm1"), ..Vm::new(1) };
    let mut other = original.copy(2);
    other.xml = other.xml.replace(&home, &source("0000:0c:1f.7"));
    person.libvirt.agent_goes();
    person.defines(other);
    person.agent_comes();
    person.mends(code, "virsh start vm2");
}

pub fn a_device_is_missing(code: Code) {
    let mut person = attached(ONE_VF, PROFILE, 1);
    let home = source(&person.home("vm1"));
    person.edits_unseen("vm1", |xml| without_device(xml, &home));
    let refused = person.refused(code, START);
    person.agent_comes();
    person.follows(&refused.hint, START, 0, &mut super::person::no_edit);
    person.does(START);
}

fn without_device(xml: &str, source: &str) -> String {
    let at = xml.find(source).unwrap();
    let begin = xml[..at].rfind("<hostdev").unwrap();
    let end = at + xml[at..].find("</hostdev>").unwrap() + "</hostdev>".len();
    format!("{}{}", &xml[..begin], &xml[end..])
}

pub fn a_device_is_one_too_many(code: Code) {
    let mut person = attached(FOUR, "amd-74a1-vf4", 1);
    let device = hostdev("0000:0c:02.2").replace("yes", "no");
    let device = device.replace("</source>", "</source><alias name='ua-gpuslice-gpu7'/>");
    person.edits_unseen("vm1", |xml| xml.replace("</devices>", &format!("{device}</devices>")));
    let refused = person.refused(code, START);
    person.agent_comes();
    person.follows(&refused.hint, START, 0, &mut super::person::no_edit);
    person.does(START);
}

pub fn libvirt_would_unbind_it(code: Code) {
    let host = gpuslice_integration::root().join("examples/hosts/a40-vfio.toml");
    let config = "[[gpu]]\nmatch = { driver = \"nvidia\" }\nlayout = { vfs = \"all\" }\n";
    let mut person = Person::at(host.to_str().unwrap(), config, 1);
    person.does("gpuslice attach vm1 nvidia-a40-8q");
    person.edits_unseen("vm1", |xml| xml.replace("managed='no'", "managed='yes'"));
    let home = person.home("vm1");
    person.mends_by(code, START, 0, &mut |person, what| {
        assert_eq!(what, format!("virsh edit vm1: managed='no' in the hostdev of {home}"));
        person.edits("vm1", |xml| xml.replace("managed='yes'", "managed='no'"));
    });
}

/// As virt-manager's dialog writes it.
pub fn a_typed_vf_was_picked(code: Code) {
    let host = gpuslice_integration::root().join("examples/hosts/a40-vfio.toml");
    let config = "[[gpu]]\nmatch = { driver = \"nvidia\" }\nlayout = { vfs = \"all\" }\n";
    let mut person = Person::at(host.to_str().unwrap(), config, 1);
    let device = hostdev("0000:41:00.4");
    person.edits("vm1", |xml| xml.replace("</devices>", &format!("{device}</devices>")));
    person.mends_by(code, START, 0, &mut |person, what| {
        assert_eq!(what, "virsh edit vm1: take the device out");
        let picked = source("0000:41:00.4");
        person.edits("vm1", |xml| without_device(xml, &picked));
    });
}

pub fn no_daemon_runs(code: Code) {
    let mut person = attached(ONE_VF, PROFILE, 1);
    std::fs::write(person.host.path("hook.conf"), "deadline-seconds = 1\n").unwrap();
    person.host.terminate();
    person.mends(code, START);
}

pub fn it_takes_no_parameters(code: Code) {
    let mut person = attached(ONE_VF, PROFILE, 1);
    person.edits("vm1", |xml| xml.replace(" profile=", " parameters='a=1' profile="));
    person.mends_by(code, START, 0, &mut |person, what| {
        assert_eq!(what, "virsh edit vm1: no parameters in claim gpu0");
        person.edits("vm1", |xml| {
            xml.replace(" parameters='a=1'", "").replace(" parameters=\"a=1\"", "")
        });
    });
}
