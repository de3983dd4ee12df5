//! Where no slice is left: the hint names whose end makes room.

use super::person::{Person, hostdev, no_edit, source};
use crate::host::Vm;
use crate::life::{ONE_VF, PROFILE};
use gpuslice_core::refusal::Code;
use serde_json::json;

const Q24: &str = "nvidia-a40-24q";

pub fn a_claim_that_does_not_run_has_the_vf(code: Code) {
    let mut person = Person::at("sriov-8", ONE_VF, 2);
    person.does(&format!("gpuslice attach vm1 {PROFILE}"));
    person.mends(code, &format!("gpuslice attach vm2 {PROFILE}"));
    person.does("virsh start vm2");
}

pub fn a_claim_that_runs_has_the_vf(code: Code) {
    let mut person = Person::at("sriov-8", ONE_VF, 2);
    person.does(&format!("gpuslice attach vm1 {PROFILE}"));
    person.does("virsh start vm1");
    person.mends(code, &format!("gpuslice attach vm2 {PROFILE}"));
    person.does("virsh start vm2");
}

pub fn a_vm_without_a_claim_has_the_vf(code: Code) {
    let mut person = Person::at("sriov-8", ONE_VF, 2);
    let vf = person.host.column("slices", "address")[0].clone();
    person.passes("vm2", &vf);
    person.does("virsh start vm2");
    person.mends(code, &format!("gpuslice attach vm1 {PROFILE}"));
    person.does("virsh start vm1");
}

fn four_run(person: &mut Person) {
    for number in 1..=5 {
        person.does(&format!("gpuslice attach vm{number} {Q24}"));
    }
    for number in 1..=4 {
        person.does(&format!("virsh start vm{number}"));
    }
}

pub fn all_mdevs_run(code: Code) {
    let mut person = Person::at("mdev", "", 5);
    four_run(&mut person);
    person.mends(code, "virsh start vm5");
}

pub fn mdevs_of_another_size_run(code: Code) {
    let mut person = Person::at("mdev", "placement = \"spread\"\n", 3);
    for number in 1..=2 {
        person.does(&format!("gpuslice attach vm{number} nvidia-a40-8q"));
        person.does(&format!("virsh start vm{number}"));
    }
    person.does(&format!("gpuslice attach vm3 {Q24}"));
    person.mends(code, "virsh start vm3");
}

pub fn the_last_are_reserved(code: Code) {
    let mut person = Person::at("mdev", "", 5);
    for number in 1..=4 {
        person.does(&format!("gpuslice attach vm{number} {Q24} --reserve"));
    }
    person.does(&format!("gpuslice attach vm5 {Q24}"));
    person.mends(code, "virsh start vm5");
}

pub fn the_rest_is_reserved_in_another_size(code: Code) {
    let mut person = Person::at("mdev", "", 5);
    for number in 1..=4 {
        person.does(&format!("gpuslice attach vm{number} {Q24} --reserve"));
    }
    person.does("gpuslice attach vm5 nvidia-a40-4q");
    person.mends(code, "virsh start vm5");
}

pub fn the_rest_is_reserved_for_a_type_of_another_size(code: Code) {
    let host = gpuslice_integration::root().join("examples/hosts/a40-vfio.toml");
    let config = "[[gpu]]\nmatch = { address = \"0000:41:00.0\" }\nlayout = { vfs = \"all\" }\n";
    let mut person = Person::at(host.to_str().unwrap(), config, 2);
    person.does(&format!("gpuslice attach vm1 {Q24} --reserve"));
    person.does("gpuslice attach vm2 nvidia-a40-8q");
    person.mends(code, "virsh start vm2");
}

pub fn mdevs_of_another_program(code: Code) {
    let mut person = Person::at("mdev", "", 1);
    for (index, parent) in [(1, "41"), (2, "41"), (3, "81"), (4, "81")] {
        let types = format!("/sys/class/mdev_bus/0000:{parent}:00.0/mdev_supported_types");
        let file = format!("{types}/nvidia-565/create");
        let uuid = format!("f{index}111111-1111-4111-8111-111111111111");
        person.host.outside(&json!({"do": "write", "file": file, "data": uuid}));
    }
    person.does(&format!("gpuslice attach vm1 {Q24}"));
    person.mends(code, "virsh start vm1");
}

pub fn types_of_another_size_run(code: Code) {
    let host = gpuslice_integration::root().join("examples/hosts/a40-vfio.toml");
    let config = "[[gpu]]\nmatch = { address = \"0000:41:00.0\" }\nlayout = { vfs = \"all\" }\n";
    let mut person = Person::at(host.to_str().unwrap(), config, 2);
    person.does(&format!("gpuslice attach vm1 {Q24}"));
    person.does("virsh start vm1");
    person.does("gpuslice attach vm2 nvidia-a40-8q");
    person.mends(code, "virsh start vm2");
}

pub fn no_gpu_has_all(code: Code) {
    let two = "[[gpu]]\nmatch = { driver = \"gpusim\" }\nlayout = { vfs = 2 }\n";
    let mut person = Person::at("sriov-8", two, 1);
    person.mends(code, "gpuslice attach vm1 amd-74a1-vf2 --count 3 --fabric same");
    person.does("virsh start vm1");
}

pub fn several_are_missing(code: Code) {
    let four = ONE_VF.replace("vfs = 1", "vfs = 4");
    let mut person = Person::at("sriov-8", &four, 4);
    for number in 1..=3 {
        person.does(&format!("gpuslice attach vm{number} amd-74a1-vf4"));
    }
    person.does("virsh start vm1");
    // One is free, and two more have to be.
    person.mends(code, "gpuslice attach vm4 amd-74a1-vf4 --count 3");
    person.does("virsh start vm4");
}

/// A domain with a claim that never was on this host.
fn stranger(number: u8) -> Vm {
    let mut vm = Vm::new(number);
    let device = hostdev("0000:c1:00.3").replace("yes", "no");
    let alias = "</source><alias name='ua-gpuslice-gpu0'/>";
    vm.wear(&format!(
        "<metadata><gpuslice:claims xmlns:gpuslice='urn:gpuslice:domain:1'>\
         <gpuslice:claim name='gpu0' profile='{PROFILE}'/></gpuslice:claims></metadata>{}",
        device.replace("</source>", alias)
    ));
    vm
}

pub fn what_comes_in_has_it_promised(code: Code) {
    let mut person = Person::at("sriov-8", ONE_VF, 0);
    let vf = person.host.column("slices", "address")[0].clone();
    let comes = |person: &Person, number| {
        let vm = stranger(number);
        let ran = person.host.hook(&vm, "migrate");
        assert!(ran.code != Some(0) || ran.out.contains(&source(&vf)), "{ran:?}");
        ran
    };
    assert_eq!(comes(&person, 1).code, Some(0));
    let ran = comes(&person, 2);
    let said = ran.refused(code.as_str());
    assert!(said.contains("promised to what comes in: vm1"), "{said}");
    let (_, hint) = said.split_once("; try: ").unwrap();
    person.follows(hint, "virsh migrate vm2", 0, &mut no_edit);
    assert_eq!(comes(&person, 2).code, Some(0));
}

pub fn there_are_not_so_many(code: Code) {
    let of = |gpus: &[&str]| -> String {
        let gpu = |address: &&str| {
            format!("[[gpu]]\nmatch = {{ address = \"{address}\" }}\nlayout = {{ vfs = 8 }}\n")
        };
        gpus.iter().map(gpu).collect()
    };
    let mut person = Person::at("sriov-8", &of(&["0000:0c:00.0"]), 1);
    let order = "gpuslice attach vm1 amd-74a1-vf8 --count 9";
    person.mends_by(code, order, 0, &mut |person, what| {
        assert_eq!(what, "lay out another GPU in /etc/gpuslice/gpuslice.toml");
        person.host.configure(&of(&["0000:0c:00.0", "0000:22:00.0"]));
    });
    person.does("virsh start vm1");
}

/// Whoever else has some of them.
pub fn there_are_not_so_many_and_another_has_one(code: Code) {
    let host =
        |name: &str| gpuslice_integration::root().join(format!("examples/hosts/{name}.toml"));
    let all = "[[gpu]]\nmatch = { model = \"a40\" }\nlayout = { vfs = \"all\" }\n";
    let mut person = Person::at(host("a40-vfio").to_str().unwrap(), all, 2);
    person.does(&format!("gpuslice attach vm2 {Q24}"));
    person.mends(code, "gpuslice attach vm1 nvidia-a40-48q --count 9");
    // The next host's libvirt waits for this one's.
    drop(person);
    // Nor does it keep another from having one.
    let mut person = Person::at("mdev", "", 2);
    person.does(&format!("gpuslice attach vm2 {Q24}"));
    person.does("virsh start vm2");
    person.does(&format!("gpuslice attach vm1 {Q24} --count 5"));
    person.mends(code, "virsh start vm1");
    assert!(person.libvirt.runs("vm2"));
    // The next host's libvirt waits for this one's.
    drop(person);
    // Where others have all, one of them ends for one.
    let ones = "[[gpu]]\nmatch = { driver = \"gpusim\" }\nlayout = { vfs = 1 }\n";
    let mut person = Person::at("sriov-8", ones, 2);
    person.does("gpuslice attach vm2 amd-74a1-vf1 --count 8");
    person.mends(code, "gpuslice attach vm1 amd-74a1-vf1 --count 9");
    person.does("virsh start vm1");
}

/// Devices of a driver that needs no layout.
pub fn there_are_not_so_many_of_a_driver(code: Code) {
    let mut person = Person::at("mdev", "", 1);
    person.does("gpuslice attach vm1 mtty-2 --count 13");
    person.mends(code, "virsh start vm1");
    assert_eq!(person.host.only("claims")["count"], json!(12));
}

/// Its own other claim has all there are.
pub fn the_vm_itself_has_all(code: Code) {
    let mut person = Person::at("mdev", "", 1);
    person.does(&format!("gpuslice attach vm1 {Q24} --count 4"));
    person.does(&format!("gpuslice attach vm1 {Q24} --name more"));
    person.mends(code, "virsh start vm1");
}
