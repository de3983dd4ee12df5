//! Refusals for what a device is in: cordons, faults, drivers and programs of others.

use super::person::{Person, Refused, hostdev};
use crate::host::{Ran, Vm, until};
use crate::life::{CARD, ONE_VF, PROFILE};
use gpuslice_core::refusal::Code;
use serde_json::json;
use std::process::Stdio;

const START: &str = "virsh start vm1";

fn attached(config: &str) -> Person {
    let mut person = Person::at("sriov-8", config, 1);
    person.does(&format!("gpuslice attach vm1 {PROFILE}"));
    person
}

fn vf_dir(person: &Person) -> String {
    format!("/sys/bus/pci/devices/{}", person.home("vm1"))
}

fn write(person: &Person, file: &str, data: &str) {
    person.host.outside(&json!({"do": "write", "file": file, "data": data}));
}

fn fault(person: &Person, fault: &serde_json::Value) {
    person.host.outside(&json!({"do": "fault", "fault": fault}));
}

fn state(person: &Person) -> String {
    let gpus = person.host.ask(&["gpus"]);
    let mut rows = gpus.as_array().unwrap().iter();
    rows.find(|g| g["parent"] == CARD).unwrap()["state"].as_str().unwrap().to_owned()
}

pub fn it_is_being_made_anew(code: Code) {
    let mut person = Person::at("sriov-8", ONE_VF, 0);
    fault(&person, &json!({"delay": {"pf": CARD, "ms": 1500}}));
    person.host.configure(&ONE_VF.replace("vfs = 1", "vfs = 4"));
    let mut apply = person.host.command(&["apply"]);
    apply.env("GPUSLICE_BUS_ADDRESS", person.host.bus.address());
    let mut apply = apply.spawn().unwrap();
    until("it is under way", || state(&person) == "reshaping");
    person.mends(code, "gpuslice apply");
    assert!(apply.wait().unwrap().success());
}

pub fn a_person_said_so(code: Code) {
    let mut person = attached(ONE_VF);
    person.does(&format!("gpuslice cordon {CARD} --reason loud"));
    person.mends(code, START);
}

pub fn it_was_said_of_all(code: Code) {
    let two = "[[gpu]]\nmatch = { driver = \"gpusim\" }\nlayout = { vfs = 2 }\n";
    let mut person = Person::at("sriov-8", two, 1);
    person.does("gpuslice drain --all --reason firmware");
    person.mends(code, "gpuslice attach vm1 amd-74a1-vf2 --count 3");
    person.does(START);
    // The next host's libvirt waits for this one's.
    drop(person);
    // Mediated devices are asked for when a VM starts.
    let mut person = Person::at("mdev", "", 1);
    person.does("gpuslice attach vm1 nvidia-a40-24q --count 3");
    person.does("gpuslice drain --all");
    person.mends(code, START);
}

/// The next enable of the card fails.
fn enable_fails(person: &Person) {
    fault(person, &json!({"enable": {"pf": CARD, "nth": 1, "times": 1, "errno": 5}}));
}

pub fn a_layout_fails(code: Code) {
    let mut person = Person::at("sriov-8", "", 0);
    enable_fails(&person);
    person.host.configure(ONE_VF);
    person.mends(code, "gpuslice apply");
    person.host.settle();
    assert_eq!(person.host.column("slices", "state"), ["free"]);
}

pub fn a_layout_failed_before(code: Code) {
    let mut person = Person::at("sriov-8", "", 1);
    let probe = "/sys/bus/pci/drivers_probe";
    fault(&person, &json!({"write": {"path": probe, "nth": 1, "times": 1, "errno": 5}}));
    person.host.configure(&ONE_VF.replace("vfs = 1", "vfs = 1, bind = \"vfio-pci\""));
    drop(person.types("gpuslice apply"));
    until("it is quarantined", || state(&person) == "quarantined");
    person.mends(code, &format!("gpuslice attach vm1 {PROFILE}"));
    person.does(START);
}

pub fn a_driver_of_the_host_has_the_vf(code: Code) {
    let config = "[[gpu]]\nmatch = { driver = \"igb\" }\nlayout = { vfs = 1 }\n";
    let mut person = Person::at("mixed", config, 1);
    person.does("gpuslice attach vm1 intel-10c9-vf1");
    write(&person, &format!("{}/driver_override", vf_dir(&person)), "igbvf");
    write(&person, "/sys/bus/pci/drivers_probe", &person.home("vm1"));
    person.mends(code, START);
}

pub fn a_reset_failed(code: Code) {
    let mut person = attached(&ONE_VF.replace("vfs = 1", "vfs = 1, wipe = \"required\""));
    let reset = format!("{}/reset", vf_dir(&person));
    fault(&person, &json!({"write": {"path": reset, "nth": 1, "times": 1000, "errno": 25}}));
    person.does(START);
    person.does("virsh shutdown vm1");
    person.refused(code, START);
    // Whatever kept it from being reset is over.
    person.host.outside(&json!({"do": "clear-faults"}));
    person.mends(code, START);
}

pub fn an_mdev_of_another_program(code: Code) {
    let mut person = Person::at("mdev", "", 1);
    person.does("gpuslice attach vm1 nvidia-a40-8q");
    let xml = person.libvirt.xml("vm1");
    let at = xml.find("<address uuid=").unwrap() + "<address uuid=".len() + 1;
    let types = "/sys/class/mdev_bus/0000:41:00.0/mdev_supported_types/nvidia-562";
    write(&person, &format!("{types}/create"), &xml[at..at + 36]);
    person.mends(code, START);
}

pub fn a_vf_without_a_layout(code: Code) {
    // A network card's VFs are slices only where a layout says so.
    let mut person = Person::at("mixed", "", 1);
    let card = "0000:01:00.0";
    write(&person, &format!("/sys/bus/pci/devices/{card}/sriov_drivers_autoprobe"), "0");
    write(&person, &format!("/sys/bus/pci/devices/{card}/sriov_numvfs"), "1");
    let device = hostdev("0000:02:10.0").replace("yes", "no");
    let mut vm = Vm::new(1);
    vm.wear(&format!(
        "<metadata><gpuslice:claims xmlns:gpuslice='urn:gpuslice:domain:1'>\
         <gpuslice:claim name='gpu0' profile='intel-10c9-vf1'/></gpuslice:claims></metadata>{}",
        device.replace("</source>", "</source><alias name='ua-gpuslice-gpu0'/>")
    ));
    // It would write the device anew just as the VM is started.
    person.libvirt.agent_goes();
    person.defines(vm);
    person.mends_by(code, START, 0, &mut |person, what| {
        assert_eq!(what, format!("write a layout for {card} in /etc/gpuslice/gpuslice.toml"));
        let layout = "[[gpu]]\nmatch = { driver = \"igb\" }\nlayout = { vfs = 1 }\n";
        person.host.configure(layout);
    });
}

pub fn a_type_of_another_program(code: Code) {
    let host = gpuslice_integration::root().join("examples/hosts/a40-vfio.toml");
    let config = "[[gpu]]\nmatch = { driver = \"nvidia\" }\nlayout = { vfs = \"all\" }\n";
    let mut person = Person::at(host.to_str().unwrap(), config, 1);
    person.does("gpuslice attach vm1 nvidia-a40-2q");
    write(&person, &format!("{}/nvidia/current_vgpu_type", vf_dir(&person)), "558");
    // Nor has anybody who explains it other words.
    let explain = || person.host.ask(&["explain", &person.home("vm1")])[0]["reasons"][0].clone();
    until("it is seen", || !explain().is_null());
    let explained = explain();
    person.libvirt.agent_goes();
    let refused = person.refused(code, START);
    assert_eq!((&explained["code"], &explained["next"]), (&json!(code), &json!(refused.hint)));
    person.mends(code, START);
}

pub fn no_device_makes_one(code: Code) {
    let mut person = Person::at("mdev", "", 1);
    person.does("gpuslice attach vm1 nvidia-a40-8q");
    let path = "*/nvidia-562/create";
    fault(&person, &json!({"write": {"path": path, "nth": 1, "times": 1000, "errno": 5}}));
    person.mends_by(code, START, 0, &mut |person, what| {
        assert_eq!(what, "mend what it says");
        person.host.outside(&json!({"do": "clear-faults"}));
    });
}

/// A driver that takes longer than it is given. The quarantine ends by itself when its write returns.
pub fn a_write_sleeps(code: Code) {
    let mut person = Person::at("sriov-8", ONE_VF, 0);
    fault(&person, &json!({"delay": {"pf": CARD, "ms": 3000}}));
    person.host.configure(&ONE_VF.replace("vfs = 1", "vfs = 4"));
    let mut apply = person.host.command(&["apply"]);
    apply.env("GPUSLICE_BUS_ADDRESS", person.host.bus.address()).stderr(Stdio::piped());
    let apply = apply.spawn().unwrap();
    until("it is under way", || state(&person) == "reshaping");
    person.host.outside(&json!({"do": "overdue"}));
    let refused = Refused::read(&Ran::of(&apply.wait_with_output().unwrap()).err);
    assert_eq!(refused.code, code.as_str(), "{}", refused.said);
    // Whoever tries again before it is over is told the same.
    assert_eq!(person.refused(code, "gpuslice apply").hint, refused.hint);
    person.follows(&refused.hint, "", 0, &mut |person, what| {
        assert!(what.starts_with("stop the VM or process that uses the device"), "{what}");
        until("the write returns", || state(person) == "ok");
    });
    person.does("gpuslice apply");
    assert_eq!(person.host.column("slices", "state"), ["free"; 4]);
}

/// Eight GPUs under GIM, which are to have another number of VFs.
fn to_be_loaded_anew() -> Person {
    let host = gpuslice_integration::root().join("examples/hosts/mi300x-8.toml");
    let layout = |vfs: u8| {
        format!("[[gpu]]\nmatch = {{ model = \"mi300x\" }}\nlayout = {{ vfs = {vfs} }}\n")
    };
    let mut person = Person::at(host.to_str().unwrap(), "", 0);
    person.host.configure(&layout(1));
    person.does("gpuslice apply");
    person.host.configure(&layout(2));
    person
}

fn is_loaded_anew(person: &Person) {
    assert_eq!(person.host.column("slices", "state"), ["free"; 16]);
}

pub fn a_monitor_keeps_the_driver_loaded(code: Code) {
    let mut person = to_be_loaded_anew();
    let opens = json!({"do": "open-node", "node": "/dev/gim-smi0", "pid": 4242, "comm": "amd-smi"});
    person.host.outside(&opens);
    person.mends(code, "gpuslice apply");
    is_loaded_anew(&person);
}

pub fn a_module_keeps_the_driver_loaded(code: Code) {
    let mut person = to_be_loaded_anew();
    let path = "modprobe -r gim";
    fault(&person, &json!({"write": {"path": path, "nth": 1, "times": 1000, "errno": 16}}));
    person.mends_by(code, "gpuslice apply", 0, &mut |person, what| {
        assert_eq!(what, "end what uses module gim");
        person.host.outside(&json!({"do": "clear-faults"}));
    });
    is_loaded_anew(&person);
}
