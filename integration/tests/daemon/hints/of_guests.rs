//! Starts of Proxmox VE's guests that the hookscript refuses, and VMs that are refused for what its guests have.

use super::person::Refused;
use super::registry;
use crate::export::Node as Exporting;
use crate::host::until;
use crate::proxmox::{FOUR, Node};
use gpuslice_core::refusal::Code;
use serde_json::json;

/// The start of guest 100, which is refused; what the hint says is done, and then it starts.
#[track_caller]
fn mends(node: &Node, code: Code, told: &str, does: impl FnOnce()) {
    let ran = node.hook("100", "pre-start", &[]);
    assert_eq!(ran.code, Some(1), "{ran:?}");
    let refused = Refused::read(&ran.err);
    assert_eq!((refused.code.as_str(), refused.hint.as_str()), (code.as_str(), told));
    registry::follows(told);
    does();
    node.hook("100", "pre-start", &[]).quiet();
}

pub fn other_guests_have_the_mapping(code: Code) {
    let node = Node::new();
    let reserved = |vfs: &[(usize, u32)]| {
        let line =
            |(vf, vmid): &(usize, u32)| format!("{} {vmid} time:99999999999\n", node.vfs[*vf]);
        let text: String = vfs.iter().map(line).collect();
        node.file("run/qemu-server/pci-id-reservations", &text);
    };
    reserved(&[(0, 101), (1, 102), (2, 103)]);
    mends(&node, code, "qm shutdown 103", || reserved(&[(0, 101), (1, 102)]));
}

pub fn one_guest_names_a_device_twice(code: Code) {
    let node = Node::new();
    let line = |index: u8| format!("hostpci{index}: {}\n", node.vfs[0]);
    node.file("etc/pve/qemu-server/100.conf", &(line(0) + &line(1)));
    mends(&node, code, "qm set 100 --delete hostpci1", || {
        node.file("etc/pve/qemu-server/100.conf", &line(0));
    });
}

pub fn another_gpu_is_in_the_mapping(code: Code) {
    let node = Exporting::with_two();
    node.run();
    let card = "0000:0c:00.0";
    node.host.ask(&["cordon", card]);
    let ran = node.pre_start("amd-74a1-vf2");
    let refused = Refused::read(&ran.err);
    let told = format!(
        "gpuslice export proxmox | sh (it leaves out what nobody is given), then start it again; \
         or gpuslice uncordon {card}"
    );
    assert_eq!((refused.code.as_str(), refused.hint), (code.as_str(), told.clone()));
    registry::follows(&told);
    node.run();
    node.pre_start("amd-74a1-vf2").quiet();
}

pub fn another_vf_is_in_a_mapping_of_somebody_else(code: Code) {
    let node = Node::new();
    let vf = node.vfs[2].clone();
    let reset = format!("/sys/bus/pci/devices/{vf}/reset");
    let fails = json!({"write": {"path": reset, "nth": 1, "times": 1000, "errno": 25}});
    node.host.outside(&json!({"do": "fault", "fault": fails}));
    node.host.configure(&FOUR.replace("vfs = 4", "vfs = 4, wipe = \"required\""));
    node.host.ask(&["apply"]);
    let state = || node.host.column("slices", "state");
    until("one is not clean", || state() == ["free", "free", "dirty", "free"]);
    let told = format!(
        "take {vf} out of its mapping in Datacenter, Resource Mappings, then start it again; \
         or gpuslice uncordon 0000:0c:00.0 (it is cleaned again); \
         or take wipe out of its layout, then gpuslice apply"
    );
    mends(&node, code, &told, || {
        let file = node.host.path("pve/etc/pve/mapping/pci.cfg");
        let text = std::fs::read_to_string(&file).unwrap();
        let left: Vec<&str> = text.lines().filter(|line| !line.contains(&vf)).collect();
        std::fs::write(file, left.join("\n")).unwrap();
    });
}

pub fn its_gpu_has_not_come(code: Code) {
    let node = Node::new();
    node.exported();
    let card = "0000:0c:00.0";
    node.host.plug(card, false);
    let status = || node.host.ask(&["status"])["waiting_for"].to_string();
    until("it is awaited", || status().contains(card));
    std::fs::write(node.host.path("hook.conf"), "deadline-seconds = 1\n").unwrap();
    mends(&node, code, "gpuslice wait --settled, then start it again", || {
        node.host.plug(card, true);
        node.host.settle();
    });
}

/// A mapping's text with another IOMMU group, and what it has to be.
fn of_another_boot(text: &str) -> (String, String) {
    let (before, behind) = text.split_once("iommugroup=").unwrap();
    let digits = behind.find(|c: char| !c.is_ascii_digit()).unwrap();
    let (group, rest) = behind.split_at(digits);
    (format!("{before}iommugroup=77{rest}"), group.to_owned())
}

pub fn an_exported_mapping_is_of_another_boot(code: Code) {
    let node = Exporting::new();
    node.run();
    let file = node.place("etc/pve/mapping/pci.cfg");
    let (text, _) = of_another_boot(&std::fs::read_to_string(&file).unwrap());
    std::fs::write(&file, text).unwrap();
    let refused = Refused::read(&node.pre_start("amd-74a1-vf2").err);
    let told = "gpuslice export proxmox | sh, then start it again";
    assert_eq!((refused.code.as_str(), refused.hint.as_str()), (code.as_str(), told));
    registry::follows(told);
    node.run();
    node.pre_start("amd-74a1-vf2").quiet();
}

pub fn a_mapping_is_of_another_boot(code: Code) {
    let node = Node::new();
    let file = "etc/pve/mapping/pci.cfg";
    let right = std::fs::read_to_string(node.host.path("pve").join(file)).unwrap();
    let (wrong, group) = of_another_boot(&right);
    node.file(file, &wrong);
    let told = format!(
        "correct {} in Datacenter, Resource Mappings (it is in IOMMU group {group}), then start it again",
        node.vfs[2]
    );
    mends(&node, code, &told, || node.file(file, &right));
}

pub fn the_cluster_s_files_do_not_answer(code: Code) {
    let node = Node::new();
    let text = node.unreadable("etc/pve/mapping/pci.cfg");
    mends(&node, code, "systemctl restart pve-cluster, then start it again", || {
        node.readable("etc/pve/mapping/pci.cfg", &text);
    });
}

pub fn the_reservations_cannot_be_read(code: Code) {
    let node = Node::new();
    let file = "run/qemu-server/pci-id-reservations";
    node.file(file, "");
    let text = node.unreadable(file);
    let told = format!("fix permissions of /{file}, then start it again");
    mends(&node, code, &told, || node.readable(file, &text));
}

pub fn it_comes_from_no_node(code: Code) {
    let node = Node::new();
    let ran = node.hook("100", "pre-start", &[("PVE_MIGRATED_FROM", "../100")]);
    let refused = Refused::read(&ran.err);
    let told = "unset PVE_MIGRATED_FROM, then start it again";
    assert_eq!((refused.code.as_str(), refused.hint.as_str()), (code.as_str(), told));
    registry::follows(told);
    node.hook("100", "pre-start", &[]).quiet();
}

/// An export that is refused for what it cannot read, and works once that is mended.
fn exports(code: Code, node: &Exporting, told: &str, words: &[&str], mends: impl FnOnce()) {
    let ran = node.export(&[]);
    assert_eq!(ran.code, Some(1), "{ran:?}");
    let refused = Refused::read(&ran.err);
    assert_eq!((refused.code.as_str(), refused.hint.as_str()), (code.as_str(), told));
    registry::follows(told);
    mends();
    let ran = node.export(words);
    assert_eq!((ran.code, ran.err.as_str()), (Some(0), ""), "{ran:?}");
}

pub fn a_gpu_has_not_come(code: Code) {
    let node = Exporting::with_two();
    let ways = [
        "gpuslice wait --settled, then the same again",
        "the same again ten minutes after the boot (without what has not come by then)",
    ];
    ways.into_iter().for_each(registry::follows);
    let card = "0000:22:00.0";
    let told = ways.join("; or ");
    node.without(card);
    exports(code, &node, &told, &[], || {
        node.host.plug(card, true);
        node.host.settle();
    });
    node.without(card);
    exports(code, &node, &told, &[], || node.host.outside(&json!({"do": "grown"})));
}

pub fn a_node_without_a_name(code: Code) {
    let node = Exporting::new();
    std::fs::remove_file(node.place("proc/sys/kernel/hostname")).unwrap();
    let told = "gpuslice export proxmox --node NAME";
    exports(code, &node, told, &["--node", "alpha"], || {});
}

pub fn mappings_that_do_not_answer(code: Code) {
    let node = Exporting::new();
    let file = node.place("etc/pve/mapping/pci.cfg");
    std::fs::create_dir_all(&file).unwrap();
    let told = "systemctl restart pve-cluster, then the same again";
    exports(code, &node, told, &[], || std::fs::remove_dir(&file).unwrap());
}

pub fn devices_that_are_not_there_yet(code: Code) {
    let node = Exporting::new();
    std::fs::remove_dir_all(node.place("sys")).unwrap();
    let told = "gpuslice wait --settled, then the same again";
    exports(code, &node, told, &[], || node.attributes());
}
