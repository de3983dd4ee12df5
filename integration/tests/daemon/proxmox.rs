//! The hookscript as Proxmox VE runs it (its arguments, environment, files and order of phases as read from
//! qemu-server and pve-guest-common), against the daemon. Proxmox itself does not run here.

use crate::host::{Host, Ran, Vm, as_root, until};
use serde_json::json;
use std::fs;
use std::process::Command;

const FOUR: &str =
    "[[gpu]]\nmatch = { address = \"0000:0c:00.0\" }\nlayout = { vfs = 4, bind = \"vfio-pci\" }\n";
const CARD: &str = "0000:0c:00.0";

/// A node of Proxmox VE around the host.
struct Node {
    host: Host,
    vfs: Vec<String>,
}

impl Node {
    /// With a guest 100 whose mapping is the first three VFs, in another order.
    fn new() -> Self {
        let host = Host::start("sriov-8", FOUR);
        host.settle();
        let vfs = host.column("slices", "address");
        let node = Self { host, vfs };
        let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
        let name = name.split('.').next().unwrap().to_owned();
        let map = |vf: &str| format!("\tmap id=1002:74b5,iommugroup=9,node={name},path={vf}\n");
        let [a, b, c] = [2, 0, 1].map(|at| map(&node.vfs[at]));
        node.file(
            "etc/pve/mapping/pci.cfg",
            &format!("gpu\n\tmap id=1002:74b5,node=elsewhere,path=0000:01:00.0\n{a}{b}{c}\n"),
        );
        node.guest(100, "win11", "mapping=gpu,pcie=1");
        node
    }

    fn file(&self, path: &str, text: &str) {
        let path = self.host.path("pve").join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn guest(&self, vmid: u32, name: &str, device: &str) {
        let text = format!("hostpci0: {device}\nname: {name}\n[old]\nhostpci1: 0000:01:00.0\n");
        self.file(&format!("etc/pve/qemu-server/{vmid}.conf"), &text);
    }

    fn reserve(&self, lines: &[(usize, u32, &str)]) {
        let line =
            |(vf, vmid, how): &(usize, u32, &str)| format!("{} {vmid} {how}\n", self.vfs[*vf]);
        let text: String = lines.iter().map(line).collect();
        self.file("run/qemu-server/pci-id-reservations", &text);
    }

    /// QEMU opens its device.
    fn open(&self, vf: usize, pid: u32) {
        self.file(&format!("proc/{pid}/comm"), "kvm\n");
        self.host
            .outside(&json!({"do": "open", "slice": self.slice(vf), "pid": pid, "comm": "kvm"}));
    }

    fn slice(&self, vf: usize) -> String {
        self.host.column("slices", "slice")[vf].clone()
    }

    fn hook(&self, vmid: &str, phase: &str, from: &[(&str, &str)]) -> Ran {
        let mut command = Command::new(self.host.program("gpuslice-proxmox-hook"));
        command
            .args([vmid, phase])
            .env_clear()
            .env("GPUSLICE_SOCKET", self.host.path("hook.sock"))
            .env("GPUSLICE_HOOK_CONF", self.host.path("hook.conf"))
            .env("GPUSLICE_PVE_ROOT", self.host.path("pve"))
            .envs(from.iter().copied());
        Ran::of(&command.output().unwrap())
    }

    fn holders(&self) -> Vec<String> {
        self.host.column("slices", "holder")
    }
}

#[test]
fn a_guest_is_recorded_from_its_start_to_its_stop() {
    as_root(|| {
        let node = Node::new();
        node.hook("100", "pre-start", &[]).quiet();
        let title = "VM 100 (win11)";
        assert_eq!(node.holders(), ["null", "null", title, "null"], "the first of its mapping");
        assert_eq!(node.host.column("slices", "state")[2], "foreign");
        // Proxmox chose another one.
        node.open(0, 4100);
        node.reserve(&[(0, 100, "pid:4100")]);
        node.hook("100", "post-start", &[]).quiet();
        assert_eq!(node.holders(), [title, "null", "null", "null"]);
        // No claim is given it.
        let refused = node.host.refusal(&[
            "attach",
            &Vm::new(1).uuid,
            "amd-74a1-vf4",
            "--count",
            "4",
            "--print",
        ]);
        assert_eq!(refused["code"], json!("no-capacity"));
        node.hook("100", "pre-stop", &[]).quiet();
        assert_eq!(node.holders()[0], title);
        node.host.outside(&json!({"do": "kill", "pid": 4100}));
        node.reserve(&[]);
        node.hook("100", "post-stop", &[]).quiet();
        assert_eq!(node.holders(), ["null"; 4]);
    });
}

#[test]
fn a_stop_that_nobody_tells_of_is_found_by_its_process() {
    as_root(|| {
        let node = Node::new();
        node.hook("100", "pre-start", &[]).quiet();
        node.open(2, 4100);
        node.reserve(&[(2, 100, "pid:4100")]);
        node.hook("100", "post-start", &[]).quiet();
        node.host.outside(&json!({"do": "kill", "pid": 4100}));
        until("its VF is free", || node.holders() == ["null"; 4]);
    });
}

#[test]
fn a_start_that_failed_after_its_first_phase_stands_in_nobodys_way() {
    as_root(|| {
        let node = Node::new();
        node.hook("100", "pre-start", &[]).quiet();
        // No other phase comes. Another guest takes what Proxmox gives it; then this one is started again.
        node.guest(101, "other", "mapping=gpu");
        node.hook("101", "pre-start", &[]).quiet();
        assert_eq!(node.holders()[2], "VM 101 (other)");
        node.open(2, 4101);
        node.reserve(&[(2, 101, "pid:4101")]);
        node.hook("101", "post-start", &[]).quiet();
        node.hook("100", "pre-start", &[]).quiet();
        assert_eq!(node.holders()[..3], ["VM 100 (win11)", "null", "VM 101 (other)"]);
    });
}

#[test]
fn a_guest_without_the_hookscript_is_known_by_its_reservation() {
    as_root(|| {
        let node = Node::new();
        node.open(2, 4102);
        node.reserve(&[(2, 102, "pid:4102"), (0, 103, "time:1"), (1, 104, "pid:4104")]);
        node.hook("100", "pre-start", &[]).quiet();
        // Those that are over are nobody's.
        assert_eq!(node.holders(), ["VM 100 (win11)", "null", "VM 102", "null"]);
    });
}

#[test]
fn a_start_is_refused_for_what_cannot_be_had_and_other_phases_never_are() {
    as_root(|| {
        let mut node = Node::new();
        let later = "time:99999999999";
        node.reserve(&[(0, 101, later), (1, 102, later), (2, 103, later)]);
        let ran = node.hook("100", "pre-start", &[]);
        assert!(ran.refused("no-capacity").contains("hostpci0 of VM 100 (win11)"), "{ran:?}");
        node.reserve(&[]);
        node.host.ask(&["cordon", CARD, "--reason", "fan"]);
        node.hook("100", "pre-start", &[]).refused("cordoned");
        node.host.ask(&["uncordon", CARD]);
        // A slice that a claim has.
        let mut vm = Vm::new(1);
        node.host.attach(&mut vm, "amd-74a1-vf4");
        node.host.run_vm(&vm);
        let taken = node.host.only("claims")["home"][0].as_str().unwrap().to_owned();
        node.guest(100, "win11", &format!("{},pcie=1", taken.strip_prefix("0000:").unwrap()));
        assert!(node.hook("100", "pre-start", &[]).refused("taken").contains(&vm.name));
        // A guest with nothing of the kind, a container, and one that is not there.
        node.file("etc/pve/qemu-server/105.conf", "name: plain\nnet0: virtio\n");
        for vmid in ["105", "106"] {
            node.hook(vmid, "pre-start", &[]).quiet();
        }
        node.host.kill();
        node.hook("105", "pre-start", &[]).quiet();
        node.hook("100", "pre-start", &[]).refused("unreachable");
        for phase in ["post-start", "post-stop", "pre-stop", "later"] {
            assert_eq!(node.hook("100", phase, &[]).code, Some(0), "{phase}");
        }
    });
}

#[test]
fn a_backup_takes_the_devices_of_a_guest_and_none_of_a_template() {
    as_root(|| {
        let node = Node::new();
        // vzdump starts a stopped guest, paused; its end has no `pre-stop`.
        node.file("etc/pve/qemu-server/100.conf", "hostpci0: mapping=gpu\nlock: backup\n");
        node.hook("100", "pre-start", &[]).quiet();
        node.open(2, 4100);
        node.reserve(&[(2, 100, "pid:4100")]);
        node.hook("100", "post-start", &[]).quiet();
        assert_eq!(node.holders(), ["null", "null", "VM 100", "null"]);
        node.host.outside(&json!({"do": "kill", "pid": 4100}));
        node.reserve(&[]);
        // What it has is given back also when its configuration cannot be read.
        let path = node.host.path("pve/etc/pve/qemu-server/100.conf");
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        assert_eq!(node.hook("100", "pre-start", &[]).code, Some(1));
        node.hook("100", "post-stop", &[]).quiet();
        assert_eq!(node.holders(), ["null"; 4]);
        let template = "hostpci0: mapping=gpu\ntemplate: 1\nlock: backup\n";
        node.file("etc/pve/qemu-server/110.conf", template);
        for phase in ["pre-start", "post-start"] {
            node.hook("110", phase, &[]).quiet();
        }
        assert_eq!(node.holders(), ["null"; 4]);
    });
}

#[test]
fn a_guest_that_migrates_here_is_read_from_the_node_it_comes_from() {
    as_root(|| {
        let node = Node::new();
        let text = fs::read_to_string(node.host.path("pve/etc/pve/qemu-server/100.conf")).unwrap();
        fs::remove_file(node.host.path("pve/etc/pve/qemu-server/100.conf")).unwrap();
        node.file("etc/pve/nodes/alpha/qemu-server/100.conf", &text);
        node.hook("100", "pre-start", &[]).quiet();
        assert_eq!(node.holders(), ["null"; 4]);
        node.hook("100", "pre-start", &[("PVE_MIGRATED_FROM", "alpha")]).quiet();
        assert_eq!(node.holders()[2], "VM 100 (win11)");
    });
}
