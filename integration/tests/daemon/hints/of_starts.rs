//! Starts that are refused for what a domain's XML says, or for who has its device.

use super::person::{Person, Refused, hostdev, source};
use crate::host::{Vm, until};
use crate::life::{CARD, ONE_VF, PROFILE};
use gpuslice_core::ids::MdevUuid;
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
    let mut person = Person::at("sriov-8", &ONE_VF.replace("vfs = 1", "vfs = 2"), 1);
    person.does("gpuslice attach vm1 amd-74a1-vf2 --count 2 --reserve");
    let claim = |person: &Person| {
        let row = person.host.only("claims");
        (row["count"].clone(), row["reserve"].clone(), row["profile"].clone())
    };
    // What is not said again stays, whoever writes it: the agent or a person.
    for again in ["vm1", "01111111-1111-4111-8111-111111111111 --print"] {
        person.does(&format!("gpuslice attach {again} amd-74a1-vf2"));
        assert_eq!(claim(&person), (json!(2), json!(true), json!("amd-74a1-vf2")));
    }
    person.host.configure(&ONE_VF.replace("vfs = 1", "vfs = 4"));
    person.does("gpuslice apply");
    person.mends(code, START);
    assert_eq!(claim(&person), (json!(2), json!(true), json!("amd-74a1-vf4")));
    person.does("virsh shutdown vm1");
    person.does("gpuslice attach vm1 amd-74a1-vf4 --count 1 --reserve=false");
    assert_eq!(claim(&person), (json!(1), json!(false), json!("amd-74a1-vf4")));
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

/// `virsh create`: there is no definition that the agent could write into.
pub fn a_copy_that_libvirt_does_not_keep(code: Code) {
    let person = attached(FOUR, "amd-74a1-vf4", 1);
    let original = Vm { xml: person.libvirt.xml("vm1"), ..Vm::new(1) };
    let mut copy = original.copy(2);
    let hint = || {
        let ran = person.host.hook(&copy, "prepare");
        super::person::Refused::read(ran.refused(code.as_str())).hint
    };
    assert!(hint().ends_with("(the agent gives it its own device)"));
    let told = std::cell::RefCell::default();
    until("the agent has looked", || {
        told.replace(hint());
        told.borrow().starts_with("gpuslice attach ")
    });
    let hint: String = told.into_inner();
    super::registry::follows(&hint);
    let (order, then) = hint.split_once(", then ").unwrap();
    assert!(then.starts_with("put that into the XML it is started with"), "{hint}");
    let words: Vec<&str> = order.split(' ').skip(1).collect();
    assert!(person.host.cli(&words).out.contains("<hostdev "));
    let home = person.home("vm1");
    let homes = person.host.column("claims", "home");
    let homes = homes.iter().map(|home| home.trim_matches(|c| "[]\"".contains(c)));
    let own = homes.into_iter().find(|own| *own != home).unwrap();
    copy.xml = copy.xml.replace(&source(&home), &source(own));
    person.host.run_vm(&copy);
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

pub fn an_mdev_of_another_vm_was_picked(code: Code) {
    let mut person = Person::at("mdev", "", 2);
    person.does("gpuslice attach vm1 nvidia-a40-8q");
    person.does(START);
    let uuid = MdevUuid::for_claim(Vm::new(1).uuid.parse().unwrap(), &"gpu0".parse().unwrap(), 0);
    let picked = format!(
        "<hostdev mode='subsystem' type='mdev' model='vfio-pci'>\
         <source><address uuid='{uuid}'/></source></hostdev>"
    );
    let order = "virsh start vm2";
    person.edits_unseen("vm2", |xml| xml.replace("</devices>", &format!("{picked}</devices>")));
    let refused = person.refused(code, order);
    person.agent_comes();
    until("it has been there", || !person.libvirt.xml("vm2").contains(&uuid.to_string()));
    assert!(person.follows(&refused.hint, order, 0, &mut super::person::no_edit));
    // Each has its own.
    let running = person.host.column("slices", "state");
    assert_eq!(running.iter().filter(|state| *state == "attached").count(), 2);
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

pub fn the_vf_is_not_there_and_nothing_offers_its_profile(code: Code) {
    let host = gpuslice_integration::root().join("examples/hosts/a40-vfio.toml");
    let of = |vfs: &str| {
        format!("[[gpu]]\nmatch = {{ address = \"0000:41:00.0\" }}\nlayout = {{ vfs = {vfs} }}\n")
    };
    let mut person = Person::at(host.to_str().unwrap(), &of("\"all\""), 1);
    person.does("gpuslice attach vm1 nvidia-a40-24q");
    person.host.configure(&of("0"));
    person.does("gpuslice apply");
    person.mends_by(code, START, 0, &mut |person, what| {
        assert_eq!(what, "write a layout for 0000:41:00.0 in /etc/gpuslice/gpuslice.toml");
        person.host.configure(&of("\"all\""));
    });
}

/// Somebody has taken a VM's device out of its XML, whose start is refused for that; the agent has looked then.
fn without_its_device(code: Code) -> (Person, Refused) {
    let mut person = attached(ONE_VF, PROFILE, 1);
    let home = source(&person.home("vm1"));
    person.edits_unseen("vm1", |xml| without_device(xml, &home));
    let refused = person.refused(code, START);
    person.agent_comes();
    (person, refused)
}

pub fn a_device_is_missing(code: Code) {
    let (mut person, refused) = without_its_device(code);
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

/// In virt-manager, which leaves the metadata alone.
pub fn a_device_was_taken_out_for_good(code: Code) {
    let (mut person, refused) = without_its_device(code);
    person.follows(&refused.hint, START, 1, &mut super::person::no_edit);
    person.does(START);
    assert_eq!(person.host.ask(&["claims"]), json!([]));
}

pub fn a_count_was_lowered(code: Code) {
    let mut person = Person::at("sriov-8", FOUR, 1);
    person.does("gpuslice attach vm1 amd-74a1-vf4 --count 3");
    person.edits_unseen("vm1", |xml| {
        xml.replace(" count='3'", " count='1'").replace(" count=\"3\"", " count=\"1\"")
    });
    let refused = person.refused(code, START);
    person.agent_comes();
    person.follows(&refused.hint, START, 0, &mut super::person::no_edit);
    let states = person.host.column("slices", "state");
    assert_eq!(states.iter().filter(|state| *state == "attached").count(), 1);
}

/// Whose metadata was taken out while it ran.
fn without_its_claim(person: &mut Person) -> (Vm, String) {
    let vm = Vm { xml: person.libvirt.xml("vm1"), ..Vm::new(1) };
    let begin = vm.xml.find("<metadata>").unwrap();
    let end = vm.xml.find("</metadata>").unwrap() + "</metadata>".len();
    let metadata = vm.xml[begin..end].to_owned();
    (Vm { xml: vm.xml.replace(&metadata, ""), ..vm }, metadata)
}

pub fn an_image_carries_what_it_does_not_claim(code: Code) {
    let mut person = attached(FOUR, "amd-74a1-vf4", 1);
    let (mut saved, metadata) = without_its_claim(&mut person);
    let said = person.host.hook(&saved, "restore").refused(code.as_str()).to_owned();
    let hint = super::person::Refused::read(&said).hint;
    super::registry::follows(&hint);
    assert!(hint.starts_with("virsh managedsave-edit vm1: claim it in its metadata, "), "{hint}");
    saved.xml = saved.xml.replace("</uuid>", &format!("</uuid>{metadata}"));
    person.host.hook(&saved, "restore").quiet();
    person.host.run_vm(&saved);
}

pub fn it_migrates_with_what_it_does_not_claim(code: Code) {
    let mut person = attached(FOUR, "amd-74a1-vf4", 1);
    let (saved, _) = without_its_claim(&mut person);
    let said = person.host.hook(&saved, "migrate").refused(code.as_str()).to_owned();
    let hint = super::person::Refused::read(&said).hint;
    super::registry::follows(&hint);
    let there = "virsh shutdown vm1 (where it is), then gpuslice detach vm1 gpu0 (there)";
    assert_eq!(hint, there);
    person.does("gpuslice detach vm1 gpu0");
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

/// Of a VF that takes a type, as virt-manager's dialog writes it into the first VM.
fn picked_typed_vf() -> Person {
    let host = gpuslice_integration::root().join("examples/hosts/a40-vfio.toml");
    let config = "[[gpu]]\nmatch = { driver = \"nvidia\" }\nlayout = { vfs = \"all\" }\n";
    let person = Person::at(host.to_str().unwrap(), config, 1);
    let device = hostdev("0000:41:00.4");
    person.edits("vm1", |xml| xml.replace("</devices>", &format!("{device}</devices>")));
    person
}

pub fn a_typed_vf_was_picked(code: Code) {
    let mut person = picked_typed_vf();
    person.mends_by(code, START, 0, &mut |person, what| {
        assert_eq!(what, "virsh edit vm1: take the device out");
        let picked = source("0000:41:00.4");
        person.edits("vm1", |xml| without_device(xml, &picked));
    });
}

/// It has no claim that could remember it.
pub fn a_refused_vm_without_a_claim_is_explained(code: Code) {
    let mut person = picked_typed_vf();
    let refused = person.refused(code, START);
    for name in ["vm1", &Vm::new(1).uuid] {
        let explained = person.host.ask(&["explain", name])[0].clone();
        let reason = &explained["reasons"][0];
        assert_eq!((&explained["kind"], &explained["id"]), (&json!("domain"), &json!("vm1")));
        assert_eq!((&reason["code"], &reason["next"]), (&json!(code), &json!(refused.hint)));
    }
    person.follows(&refused.hint, START, 0, &mut |person, _| {
        let picked = source("0000:41:00.4");
        person.edits("vm1", |xml| without_device(xml, &picked));
    });
    person.does("gpuslice detach vm1");
    until("it is forgotten", || person.host.cli(&["explain", "vm1"]).code == Some(1));
    person.does(START);
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

pub fn it_cannot_be_where_it_is_to_be(code: Code) {
    let host = gpuslice_integration::root().join("examples/hosts/a40-vfio.toml");
    let config =
        "[[gpu]]\nmatch = { driver = \"nvidia\" }\nlayout = { vfs = \"all\", sizes = \"mixed\" }\n";
    let mut person = Person::at(host.to_str().unwrap(), config, 1);
    person.does("gpuslice attach vm1 nvidia-a40-12q");
    let at = |place: &str| format!(" parameters='vgpu-placement-id={place}' profile=");
    person.edits("vm1", |xml| xml.replace(" profile=", &at("5")));
    person.mends_by(code, START, 0, &mut |person, what| {
        let place = what.strip_prefix("virsh edit vm1: vgpu-placement-id=").unwrap();
        let place = place.strip_suffix(" in claim gpu0").unwrap().to_owned();
        person.edits("vm1", |xml| {
            xml.replace("vgpu-placement-id=5", &format!("vgpu-placement-id={place}"))
        });
    });
}

pub fn nothing_has_what_is_asked(code: Code) {
    let mut person = Person::at("mdev", "", 1);
    person.does("gpuslice attach vm1 nvidia-a40-8q");
    let more = "><gpuslice:memory min='1' unit='TiB'/></gpuslice:claim>";
    person.edits_unseen("vm1", |xml| {
        let at = xml.find(" profile=").unwrap();
        let end = at + xml[at..].find("/>").unwrap();
        format!("{}{more}{}", &xml[..at], &xml[end + 2..])
    });
    person.mends_by(code, START, 0, &mut |person, what| {
        assert_eq!(what, "virsh edit vm1: ask for less in claim gpu0");
        person.edits("vm1", |xml| xml.replace("TiB", "GiB"));
    });
}

pub fn a_vf_was_taken_off_its_driver(code: Code) {
    let host = gpuslice_integration::root().join("examples/hosts/a40-vfio.toml");
    let config = "[[gpu]]\nmatch = { address = \"0000:41:00.0\" }\nlayout = { vfs = \"all\" }\n";
    let mut person = Person::at(host.to_str().unwrap(), config, 2);
    for number in 1..=2 {
        person.does(&format!("gpuslice attach vm{number} nvidia-a40-8q"));
    }
    person.does("virsh start vm2");
    // Nor does any other remain, but that of the VM that runs.
    let runs = person.home("vm2");
    for vf in person.host.column("slices", "address").iter().filter(|vf| **vf != runs) {
        for file in ["unbind", "bind"] {
            let file = format!("/sys/bus/pci/drivers/nvidia/{file}");
            person.host.outside(&json!({"do": "write", "file": file, "data": vf}));
        }
    }
    person.mends_by(code, START, 0, &mut |person, what| {
        assert_eq!(what, "shut down what uses 0000:41:00.0");
        person.does("virsh shutdown vm2");
    });
}

pub fn its_vfs_are_of_two_fabrics(code: Code) {
    let two = "[[gpu]]\nmatch = { driver = \"gpusim\" }\nlayout = { vfs = 2 }\n";
    let mut person = Person::at("sriov-8", two, 1);
    person.does("gpuslice attach vm1 amd-74a1-vf2 --count 2 --fabric same");
    let homes = person.host.only("claims")["home"].clone();
    let second = homes[1].as_str().unwrap();
    let slices = person.host.column("slices", "address");
    let other = slices.iter().find(|vf| vf[..7] != second[..7]).unwrap();
    let (second, other) = (source(second), source(other));
    person.edits_unseen("vm1", |xml| xml.replace(&second, &other));
    let refused = person.refused(code, START);
    person.agent_comes();
    if !person.follows(&refused.hint, START, 0, &mut super::person::no_edit) {
        person.does(START);
    }
}

/// Who runs it is not root, as in `qemu:///session`.
pub fn it_is_of_a_person_s_own_libvirt(code: Code) {
    let mut person = attached(ONE_VF, PROFILE, 1);
    let program = person.host.path("hook");
    std::fs::copy(person.host.program("gpuslice-qemu-hook"), &program).unwrap();
    let mut command = std::process::Command::new("setpriv");
    command.args(["--reuid", "65534", "--regid", "65534", "--clear-groups"]).arg(&program);
    command
        .args(["vm1", "prepare", "begin", "-"])
        .env("GPUSLICE_SOCKET", person.host.path("hook.sock"));
    command.stdin(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
    let mut hook = command.stdout(std::process::Stdio::piped()).spawn().unwrap();
    let xml = person.libvirt.xml("vm1");
    std::io::Write::write_all(&mut hook.stdin.take().unwrap(), xml.as_bytes()).unwrap();
    let ran = crate::host::Ran::of(&hook.wait_with_output().unwrap());
    if ran.err.contains("setpriv") {
        println!("SKIPPED: a hook of another user: this root cannot become one");
        return super::registry::follows("define the domain in qemu:///system");
    }
    let refused = super::person::Refused::read(&ran.err);
    assert_eq!(refused.code, code.as_str(), "{}", refused.said);
    person.follows(&refused.hint, "", 0, &mut |person, what| {
        assert_eq!(what, "define the domain in qemu:///system");
        person.does(START);
    });
}

/// Names that are more than one word to a shell.
pub fn names_that_have_to_be_quoted(code: Code) {
    const QUOTED: &str = r"'win 11'\''s (test)'";
    let odd = |number: u8| {
        let mut vm = Vm::new(number);
        let name = "win 11's (test)".to_owned();
        vm.xml =
            vm.xml.replace(&format!("<name>{}</name>", vm.name), &format!("<name>{name}</name>"));
        Vm { name, ..vm }
    };
    let mut person = Person::at("sriov-8", ONE_VF, 0);
    person.defines(odd(1));
    person.defines(Vm::new(2));
    person.does(&format!("gpuslice attach {QUOTED} {PROFILE}"));
    let start = format!("virsh start {QUOTED}");
    // What it has not.
    let home = source(person.host.only("claims")["home"][0].as_str().unwrap());
    person.edits_unseen("win 11's (test)", |xml| without_device(xml, &home));
    let refused = person.refused(code, &start);
    assert!(refused.hint.contains(QUOTED), "{}", refused.hint);
    person.agent_comes();
    person.follows(&refused.hint, &start, 0, &mut super::person::no_edit);
    person.does(&start);
    // What it has, and another wants.
    let order = format!("gpuslice attach vm2 {PROFILE}");
    let refused = person.refused(Code::NoCapacity, &order);
    let told = format!("virsh shutdown {QUOTED}, then gpuslice detach {QUOTED} gpu0");
    assert_eq!(refused.hint, told);
    person.follows(&refused.hint, &order, 0, &mut super::person::no_edit);
    person.does(&order);
}

/// A VF that comes from a host where the profile is one, to one where it is made.
pub fn it_comes_with_a_vf_and_is_made_here(code: Code) {
    let mut person = Person::at("mdev", "", 0);
    let mut vm = Vm::new(1);
    let device = hostdev("0000:c1:00.3").replace("yes", "no");
    vm.wear(&format!(
        "<metadata><gpuslice:claims xmlns:gpuslice='urn:gpuslice:domain:1'>\
         <gpuslice:claim name='gpu0' profile='nvidia-a40-8q'/></gpuslice:claims></metadata>{}",
        device.replace("</source>", "</source><alias name='ua-gpuslice-gpu0'/>")
    ));
    let ran = person.host.hook(&vm, "migrate");
    let said = ran.refused(code.as_str()).to_owned();
    let hint = super::person::Refused::read(&said).hint;
    super::registry::follows(&hint);
    let [away, here, attach] = hint.split(", then ").collect::<Vec<_>>()[..] else {
        panic!("{hint}")
    };
    assert_eq!((away, here), ("virsh shutdown vm1 (where it is)", "define it here"));
    person.defines(vm);
    person.does(attach);
    person.does(START);
}
