//! Starts of Proxmox VE's guests that the hookscript refuses, and VMs that are refused for what its guests have.

use super::person::Refused;
use super::registry;
use crate::export::Node as Exporting;
use crate::proxmox::Node;
use gpuslice_core::refusal::Code;

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
