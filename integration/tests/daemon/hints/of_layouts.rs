//! Layouts that a device cannot have, and GPUs that are exchanged: the hint says what to write instead.

use super::person::Person;
use crate::host::until;
use crate::life::{CARD, ONE_VF};
use gpuslice_core::refusal::Code;
use serde_json::json;

/// A host that is written down.
fn example(name: &str) -> String {
    let path = gpuslice_integration::root().join(format!("examples/hosts/{name}.toml"));
    path.to_str().unwrap().to_owned()
}

/// The GPUs of a kind, and what they shall be.
fn of_kind(ids: &str, layout: &str) -> String {
    format!("[[gpu]]\nmatch = {{ vendor-device = \"{ids}\" }}\nlayout = {{ {layout} }}\n")
}

/// Writes a layout that its device cannot have, is told what to write instead, and writes that.
fn cannot_be(code: Code, host: &str, bad: &str, told: &str, good: &str) {
    let mut person = Person::at(&example(host), "", 0);
    person.host.configure(bad);
    person.mends_by(code, "gpuslice apply", 0, &mut |person, what| {
        assert!(what.contains(told), "{what}");
        person.host.configure(good);
    });
}

pub fn numbers_that_gim_cannot_make(code: Code) {
    let layout = |vfs: u8| of_kind("1002:74a1", &format!("vfs = {vfs}"));
    cannot_be(code, "mi300x-8", &layout(9), "set vfs to 1 to 8 for", &layout(8));
}

pub fn a_gpu_that_gim_cannot_initialise(code: Code) {
    // A driver that is done with its GPUs when its load returns.
    let text = std::fs::read_to_string(example("mi300x-8")).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let host = folder.path().join("host.toml");
    std::fs::write(&host, text.replace("init_ms = 200", "init_ms = 0")).unwrap();
    let mut person = Person::at(host.to_str().unwrap(), "", 0);
    let enable = json!({"pf": "0000:5c:00.0", "nth": 1, "times": 1000, "errno": 12});
    person.host.outside(&json!({"do": "fault", "fault": {"enable": enable}}));
    let layout = of_kind("1002:74a1", "vfs = 8");
    person.host.configure(&layout);
    person.mends_by(code, "gpuslice apply", 1, &mut |person, what| {
        let told = "set vfs to 0 for 0000:5c:00.0 in a [[gpu]] of its own before ";
        let before = what.strip_prefix(told);
        assert!(before.is_some_and(|rule| rule.ends_with("gpuslice.toml:1")), "{what}");
        let out = "[[gpu]]\nmatch = { address = \"0000:5c:00.0\" }\nlayout = { vfs = 0 }\n";
        person.host.configure(&format!("{out}{layout}"));
    });
    assert_eq!(person.host.column("slices", "state"), ["free"; 56]);
}

pub fn a_policy_that_gim_does_not_have(code: Code) {
    let layout = |one: u8| of_kind("1002:74a1", &format!("vfs = 1, scheduler = {one}"));
    cannot_be(
        code,
        "mi300x-8",
        &layout(9),
        "set scheduler to one of 1, 2, 3, 4, 5 for",
        &layout(2),
    );
}

pub fn one_policy_is_for_all(code: Code) {
    let two = |one: u8| {
        let at = "[[gpu]]\nmatch = { address = \"0000:0c:00.0\" }\n";
        let all = of_kind("1002:74a1", "vfs = 1, scheduler = 2");
        format!("{at}layout = {{ vfs = 1, scheduler = {one} }}\n{all}")
    };
    cannot_be(code, "mi300x-8", &two(3), "set scheduler to ", &two(2));
}

pub fn modes_that_gim_does_not_join(code: Code) {
    let layout = |memory: &str| {
        of_kind("1002:74a1", &format!("vfs = 1, compute = \"CPX\", memory = \"{memory}\""))
    };
    let told = "set memory and compute to one of NPS1 SPX, NPS1 CPX, NPS4 CPX for";
    cannot_be(code, "mi300x-8", &layout("NPS2"), told, &layout("NPS4"));
}

pub fn more_vfs_than_the_driver_has_room_for(code: Code) {
    let mut person = Person::at("sriov-8", "", 0);
    let enable = json!({"pf": CARD, "nth": 1, "times": 1, "errno": 28});
    person.host.outside(&json!({"do": "fault", "fault": {"enable": enable}}));
    person.host.configure(&ONE_VF.replace("vfs = 1", "vfs = 8"));
    person.mends_by(code, "gpuslice apply", 0, &mut |person, what| {
        assert_eq!(what, format!("set vfs to fewer for {CARD}"));
        person.host.configure(ONE_VF);
    });
    assert_eq!(person.host.column("slices", "state"), ["free"]);
}

pub fn some_vfs_of_a_gpu_that_makes_all(code: Code) {
    let layout = |vfs: &str| of_kind("10de:2235", &format!("vfs = {vfs}"));
    cannot_be(code, "a40-vfio", &layout("4"), "set vfs to \"all\" for", &layout("\"all\""));
}

pub fn another_driver_for_vfs_that_have_theirs(code: Code) {
    let bad = of_kind("10de:2235", "vfs = \"all\", bind = \"vfio-pci\"");
    let good = of_kind("10de:2235", "vfs = \"all\"");
    cannot_be(code, "a40-vfio", &bad, "take bind out of the layout of", &good);
}

pub fn a_mode_that_the_driver_does_not_have(code: Code) {
    let bad = of_kind("10de:2235", "vfs = \"all\", compute = \"SPX\"");
    let good = of_kind("10de:2235", "vfs = \"all\"");
    cannot_be(code, "a40-vfio", &bad, "take compute out of the layout of", &good);
}

const WITH_A_SCHEDULER: &str = "vfs = \"all\", scheduler = \"equal-share\"";

/// A host whose module options a person has written, before a layout wishes for others.
fn with_options(file: &str, options: &str) -> Person {
    let person = Person::at(&example("a40-vfio"), "", 0);
    let path = format!("/etc/modprobe.d/{file}");
    person.host.outside(&json!({"do": "write", "file": path, "data": options}));
    person.host.configure(&of_kind("10de:2235", WITH_A_SCHEDULER));
    person
}

pub fn an_option_that_a_person_gives(code: Code) {
    let theirs = "options nvidia NVreg_RegistryDwordsPerDevice=\"pci=0000:41:00.0;RmPVMRL=0x11\"\n";
    let mut person = with_options("nvidia.conf", theirs);
    person.mends_by(code, "gpuslice apply", 0, &mut |person, what| {
        assert_eq!(what, "take NVreg_RegistryDwordsPerDevice out of /etc/modprobe.d/nvidia.conf");
        let nothing = json!({"do": "write", "file": "/etc/modprobe.d/nvidia.conf", "data": "#\n"});
        person.host.outside(&nothing);
    });
    // The next host's libvirt waits for this one's.
    drop(person);
    let mut person = with_options("nvidia.conf", theirs);
    person.mends_by(code, "gpuslice apply", 1, &mut |person, what| {
        assert!(what.contains("take scheduler out of the layout of"), "{what}");
        person.host.configure(&of_kind("10de:2235", "vfs = \"all\""));
    });
}

pub fn a_file_in_the_place_of_ours(code: Code) {
    let file = "/etc/modprobe.d/gpuslice-nvidia.conf";
    let mut person = with_options("gpuslice-nvidia.conf", "options nvidia NVreg_EnableMSI=1\n");
    person.mends_by(code, "gpuslice apply", 0, &mut |person, what| {
        assert_eq!(what, format!("move {file} elsewhere"));
        // Of a file that is gone and of one without content the daemon makes no difference.
        person.host.outside(&json!({"do": "write", "file": file, "data": " "}));
    });
}

/// What could not be parked is told by the plan, and the layout is applied all the same.
fn parks(code: Code, bad: &str, told: &str, good: &str) {
    let mut person = Person::at("mdev", "", 0);
    let config = |park: &str| {
        format!(
            "[[gpu]]\nmatch = {{ address = \"0000:41:00.0\" }}\nlayout = {{ park = {{ {park} }} }}\n"
        )
    };
    person.host.configure(&config(bad));
    drop(person.types("gpuslice apply"));
    let blockers = |person: &Person| person.host.ask(&["plan"])["unparked"].clone();
    until("it is told", || blockers(&person)[0]["code"] == json!(code.as_str()));
    let hint = blockers(&person)[0]["hint"].as_str().unwrap().to_owned();
    person.follows(&hint, "", 0, &mut |person, what| {
        assert!(what.contains(told), "{what}");
        person.host.configure(&config(good));
    });
    until("nothing is told", || blockers(&person) == json!([]));
}

pub fn more_are_parked_than_fit(code: Code) {
    let told = "write park = { nvidia-a40-24q = 2 } for 0000:41:00.0";
    parks(code, "nvidia-a40-24q = 3", told, "nvidia-a40-24q = 2");
}

pub fn what_is_parked_lacks_its_vfs(code: Code) {
    let mut person = Person::at(&example("a40-mdev"), "", 0);
    let layout = |vfs: &str| of_kind("10de:2235", &format!("{vfs}park = {{ nvidia-a40-8q = 1 }}"));
    person.host.configure(&layout(""));
    person.does("gpuslice apply");
    let unparked = |person: &Person| person.host.ask(&["plan"])["unparked"].clone();
    assert_eq!(unparked(&person)[0]["code"], json!(code.as_str()));
    let hint = unparked(&person)[0]["hint"].as_str().unwrap().to_owned();
    person.follows(&hint, "", 0, &mut |person, what| {
        assert_eq!(what, "add vfs = \"all\" to the layout of 0000:41:00.0");
        person.host.configure(&layout("vfs = \"all\", "));
    });
    until("nothing is told", || unparked(&person) == json!([]));
}

pub fn what_is_parked_is_misspelt(code: Code) {
    parks(code, "nvidia-a40-8p = 1", "write nvidia-a40-8", "nvidia-a40-8q = 1");
}

pub fn what_is_to_be_parked_is_not_made(code: Code) {
    let mut person = Person::at("mdev", "", 0);
    // A refused one is tried once more, for what the driver says of it.
    let fails = json!({"write": {"path": "*/nvidia-562/create", "nth": 1, "times": 2, "errno": 5}});
    person.host.outside(&json!({"do": "fault", "fault": fails}));
    let park = "layout = { park = { nvidia-a40-8q = 1 } }\n";
    person.host.configure(&format!("[[gpu]]\nmatch = {{ address = \"0000:41:00.0\" }}\n{park}"));
    person.does("gpuslice apply");
    let unparked = |person: &Person| person.host.ask(&["plan"])["unparked"][0].clone();
    until("it is told", || unparked(&person)["code"] == json!(code.as_str()));
    let hint = unparked(&person)["hint"].as_str().unwrap().to_owned();
    person.follows(&hint, "", 0, &mut super::person::no_edit);
    until("it is parked", || person.host.ask(&["slices"]).as_array().unwrap().len() == 1);
}

pub fn the_host_uses_the_device(code: Code) {
    let mut person = Person::at(&example("mi300x-amdgpu"), "", 0);
    let path = "*/current_compute_partition";
    let busy = json!({"write": {"path": path, "nth": 1, "times": 1000, "errno": 16}});
    person.host.outside(&json!({"do": "fault", "fault": busy}));
    person.host.configure(&of_kind("1002:74a1", "compute = \"CPX\""));
    person.mends_by(code, "gpuslice apply", 0, &mut |person, what| {
        assert_eq!(what, "stop what uses the device on this host");
        person.host.outside(&json!({"do": "clear-faults"}));
    });
}

/// Writes a layout whose VFs are made and cannot be bound.
fn made_and_not_bound(person: &mut Person, driver: &str) {
    person.host.configure(&bound(driver));
    drop(person.types("gpuslice apply"));
    until("it is quarantined", || {
        let gpus = person.host.ask(&["gpus"]);
        gpus.as_array().unwrap().iter().any(|gpu| gpu["state"] == json!("quarantined"))
    });
}

fn bound(driver: &str) -> String {
    ONE_VF.replace("vfs = 1", &format!("vfs = 1, bind = \"{driver}\""))
}

pub fn a_module_to_bind_to_is_misspelt(code: Code) {
    let mut person = Person::at("sriov-8", "", 0);
    made_and_not_bound(&mut person, "nope");
    let file = person.host.path("etc/gpuslice.toml");
    person.mends_by(code, "gpuslice apply", 0, &mut |person, what| {
        let edit = "bind = \"vfio-pci\" in place of \"nope\"";
        assert_eq!(what, format!("edit {}:1: {edit}", file.display()));
        person.host.configure(&bound("vfio-pci"));
    });
    assert_eq!(person.host.only("slices")["driver"], json!("vfio-pci"));
}

/// A kernel that has no module for VFs, does not take it, or says why not in its log alone.
pub fn a_module_that_is_not_loaded(code: Code) {
    let text = std::fs::read_to_string(example("sriov-8")).unwrap();
    let bare = text.replace("modules = [\"vfio-pci\"]", "");
    assert_ne!(bare, text);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("bare.toml");
    std::fs::write(&file, bare).unwrap();
    let sign = "sign the module vfio-pci with a key that the kernel knows";
    let told = [(2, "install the module vfio-pci"), (129, sign), (5, "mend what it says")];
    for (errno, told) in told {
        let mut person = Person::at(file.to_str().unwrap(), "", 0);
        let fails = json!({"write": {"path": "modprobe vfio-pci", "nth": 1, "times": 1000, "errno": errno}});
        person.host.outside(&json!({"do": "fault", "fault": fails}));
        made_and_not_bound(&mut person, "vfio-pci");
        person.mends_by(code, "gpuslice apply", 0, &mut |person, what| {
            assert_eq!(what, told);
            person.host.outside(&json!({"do": "clear-faults"}));
        });
        assert_eq!(person.host.only("slices")["driver"], json!("vfio-pci"));
    }
}

pub fn a_driver_that_makes_no_vfs(code: Code) {
    for way in 0..2 {
        let mut person = Person::at("sriov-8", "", 0);
        let card = format!("/sys/bus/pci/devices/{CARD}");
        let written = |person: &Person, file: &str, data: &str| {
            person.host.outside(&json!({"do": "write", "file": file, "data": data}));
        };
        written(&person, &format!("{card}/driver/unbind"), CARD);
        written(&person, &format!("{card}/driver_override"), "vfio-pci");
        written(&person, "/sys/bus/pci/drivers_probe", CARD);
        person.host.configure(ONE_VF);
        person.mends_by(code, "gpuslice apply", way, &mut |person, what| {
            if way == 1 {
                assert_eq!(what, format!("set vfs to 0 for {CARD}"));
                return person.host.configure(&ONE_VF.replace("vfs = 1", "vfs = 0"));
            }
            assert_eq!(what, format!("give {CARD} to a driver that makes VFs of it"));
            written(person, &format!("{card}/driver/unbind"), CARD);
            written(person, &format!("{card}/driver_override"), "gpusim");
            written(person, "/sys/bus/pci/drivers_probe", CARD);
        });
        person.host.settle();
        let gpus = person.host.ask(&["gpus"]);
        let states: Vec<_> = gpus.as_array().unwrap().iter().map(|row| &row["state"]).collect();
        assert!(!states.contains(&&json!("quarantined")), "{states:?}");
        assert_eq!(person.host.column("slices", "state").len(), 1 - way);
    }
}

pub fn modes_that_amdgpu_does_not_join(code: Code) {
    let layout = |compute: &str| of_kind("1002:74a1", &format!("compute = \"{compute}\""));
    let told = "set compute to one of ";
    cannot_be(code, "mi300x-amdgpu", &layout("TPX"), told, &layout("CPX"));
}

pub fn a_memory_mode_that_a_load_of_amdgpu_brings(code: Code) {
    let mut person = Person::at(&example("mi300x-amdgpu"), "", 0);
    person.host.configure(&of_kind("1002:74a1", "compute = \"CPX\", memory = \"NPS4\""));
    person.mends_by(code, "gpuslice apply", 0, &mut |_, what| {
        assert_eq!(what, "stop what computes on the GPUs");
    });
    let modes = person.host.ask(&["gpus"]);
    for row in modes.as_array().unwrap() {
        assert_eq!(row["modes"], json!({"compute": "CPX", "memory": "NPS4"}), "{modes}");
    }
}

pub fn one_that_is_to_be_clean_need_not_be(code: Code) {
    let wiped = ONE_VF.replace("vfs = 1", "vfs = 1, wipe = \"required\"");
    let mut person = Person::at("sriov-8", &wiped, 1);
    person.does("gpuslice attach vm1 amd-74a1-vf1");
    let reset = format!("/sys/bus/pci/devices/{}/reset", person.home("vm1"));
    let fails = json!({"write": {"path": reset, "nth": 1, "times": 1000, "errno": 25}});
    person.host.outside(&json!({"do": "fault", "fault": fails}));
    person.does("virsh start vm1");
    person.does("virsh shutdown vm1");
    person.mends_by(code, "virsh start vm1", 1, &mut |person, what| {
        assert_eq!(what, "take wipe out of its layout");
        person.host.configure(ONE_VF);
    });
}

const NEW: &str = "0000:22:00.0";

/// A host whose card has left, with a home on it; the layout is written for that card by this.
fn exchanged(matches: &str, layout: &str, profile: &str) -> Person {
    let config = format!("[[gpu]]\nmatch = {{ {matches} }}\nlayout = {{ {layout} }}\n");
    let mut person = Person::at("sriov-8", &config, 1);
    person.does(&format!("gpuslice attach vm1 {profile}"));
    person.host.plug(CARD, false);
    until("it has left", || person.host.ask(&["status"])["settled"] == json!(false));
    person
}

/// Replaces it, and makes the edit that is told, in the file and line that are told.
fn edits_the_rule(code: Code, matches: &str, want: &str) {
    let mut person = exchanged(matches, "vfs = 1", "amd-74a1-vf1");
    let order = format!("gpuslice replace {CARD} {NEW}");
    let file = person.host.path("etc/gpuslice.toml");
    person.mends_by(code, &order, 0, &mut |person, what| {
        let edit = what.strip_prefix(&format!("edit {}:1: ", file.display()));
        let (new, old) =
            edit.unwrap_or_else(|| panic!("{what}")).split_once(" in place of ").unwrap();
        assert_eq!(new, want);
        let (key, _) = new.split_once(" = ").unwrap();
        let old = format!("{key} = {old}");
        let text = std::fs::read_to_string(&file).unwrap();
        assert!(text.contains(&old), "{text}: {old}");
        person.host.configure(&text.replace(&old, new));
    });
    person.host.settle();
    assert!(person.home("vm1").starts_with("0000:22:"));
}

pub fn the_layout_names_the_old_address(code: Code) {
    edits_the_rule(code, "address = \"0000:0c:00.0\"", "address = \"0000:22:00.0\"");
}

pub fn the_layout_names_the_old_serial(code: Code) {
    edits_the_rule(code, "serial = \"692b1f0c3a5d0100\"", "serial = \"692b1f0c3a5d0101\"");
}

pub fn the_new_one_has_another_shape(code: Code) {
    let two = |new: u8| {
        let at = |address: &str, vfs: u8| {
            format!("[[gpu]]\nmatch = {{ address = \"{address}\" }}\nlayout = {{ vfs = {vfs} }}\n")
        };
        at(CARD, 4) + &at(NEW, new)
    };
    let mut person = Person::at("sriov-8", &two(2), 1);
    person.does("gpuslice attach vm1 amd-74a1-vf4");
    person.host.plug(CARD, false);
    until("it has left", || person.host.ask(&["status"])["settled"] == json!(false));
    person.mends_by(code, &format!("gpuslice replace {CARD} {NEW}"), 0, &mut |person, what| {
        assert_eq!(what, format!("lay {NEW} out as {CARD} was"));
        person.host.configure(&two(4));
    });
}

/// A GPU whose MIG was turned on before: whole again, or divided.
pub fn mig_is_on_and_divides_nothing(code: Code) {
    let folder = tempfile::tempdir().unwrap();
    let host = folder.path().join("host.toml");
    let text = std::fs::read_to_string(example("a100-mig")).unwrap();
    std::fs::write(&host, text.replace("mig = {", "mig = { on = true,")).unwrap();
    let layout = |more: &str| of_kind("10de:20b5", &format!("vfs = \"all\"{more}"));
    let ways = [
        ("off", ", instances = \"off\"", "nvidia-a100d-20c"),
        ("a list of them", ", instances = [\"1g.10gb\"]", "nvidia-a100d-1-10c"),
    ];
    for (way, (to, instances, profile)) in ways.into_iter().enumerate() {
        let mut person = Person::at(host.to_str().unwrap(), &layout(""), 1);
        let attach = format!("gpuslice attach vm1 {profile}");
        person.mends_by(code, &attach, way, &mut |person, what| {
            assert!(what.starts_with(&format!("set instances to {to} for")), "{what}");
            person.host.configure(&layout(instances));
        });
        assert_eq!(person.host.column("gpus", "state"), ["ok"; 2]);
    }
}
