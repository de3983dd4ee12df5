//! `gpuslice export proxmox` beside a daemon: what it prints is run by a shell, with a stand-in for `pvesh` that keeps a
//! cluster's mappings as Proxmox does, and what the hookscript then reads of them.

use crate::host::{Host, Ran, as_root, until};
use serde_json::json;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::PathBuf;
use std::process::Command;

const LAYOUT: &str =
    "[[gpu]]\nmatch = { address = \"0000:0c:00.0\" }\nlayout = { vfs = 2, bind = \"vfio-pci\" }\n";

/// Creates, changes and deletes sections, and fails where Proxmox would. What it was run with is in `log`.
const PVESH: &str = r#"#!/bin/sh
set -e
verb=$1 path=$2
printf '%s\n' "$*" >> "$CLUSTER/log"
shift 2
id=${path#/cluster/mapping/pci} id=${id#/}
maps= rest=
while [ $# -gt 0 ]; do
  case $1 in
    --id) id=$2 ;;
    --description) rest="$rest	description $2
" ;;
    --mdev) rest="$rest	mdev $2
" ;;
    --map) maps="$maps	map $2
" ;;
    *) exit 2 ;;
  esac
  shift 2
done
section=$CLUSTER/mapping.d/$id
mkdir -p "$CLUSTER/mapping.d" "$CLUSTER/mapping"
case $verb in
  create) [ ! -e "$section" ] && printf '%s' "$rest" > "$section.rest" ;;
  set) [ -e "$section" ] ;;
  delete) rm "$section" "$section.rest" ;;
esac
if [ $verb != delete ]; then printf '%s\n%s%s\n' "$id" "$maps" "$(cat "$section.rest")" > "$section"; fi
for section in "$CLUSTER"/mapping.d/*; do
  case $section in *.rest | *'*') ;; *) cat "$section"; echo ;; esac
done > "$CLUSTER/mapping/pci.cfg"
"#;

/// A node of Proxmox VE: its files, below one root.
pub struct Node {
    pub host: Host,
}

impl Node {
    pub fn new() -> Self {
        Self::with(LAYOUT)
    }

    /// With two GPUs, of one profile.
    pub fn with_two() -> Self {
        Self::with(&(LAYOUT.to_owned() + &LAYOUT.replace("0000:0c", "0000:22")))
    }

    pub fn with(layout: &str) -> Self {
        let host = Host::start("sriov-8", layout);
        host.settle();
        let node = Self { host };
        node.attributes();
        node.put(
            "proc/sys/kernel/hostname",
            &fs::read_to_string("/proc/sys/kernel/hostname").unwrap(),
        );
        node.put("bin/pvesh", PVESH);
        let program = node.place("bin/pvesh");
        fs::set_permissions(program, fs::Permissions::from_mode(0o755)).unwrap();
        fs::create_dir_all(node.place("etc/pve")).unwrap();
        node
    }

    pub fn place(&self, path: &str) -> PathBuf {
        self.host.path("pve").join(path)
    }

    pub fn put(&self, path: &str, text: &str) {
        let path = self.place(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    /// What sysfs says of each VF there is by now.
    pub fn attributes(&self) {
        let _ = fs::remove_dir_all(self.place("sys"));
        let groups = self.host.column("slices", "iommu_group");
        for (group, address) in groups.iter().zip(self.host.column("slices", "address")) {
            let folder = format!("sys/bus/pci/devices/{address}");
            for (name, text) in [
                ("vendor", "0x1002\n"),
                ("device", "0x74b5\n"),
                ("subsystem_vendor", "0x1002\n"),
                ("subsystem_device", "0x74a1\n"),
            ] {
                self.put(&format!("{folder}/{name}"), text);
            }
            let groups = format!("../../../kernel/iommu_groups/{group}");
            symlink(groups, self.place(&format!("{folder}/iommu_group"))).unwrap();
        }
    }

    /// A GPU goes, and is awaited.
    pub fn without(&self, card: &str) {
        self.host.plug(card, false);
        let status = || self.host.ask(&["status"])["waiting_for"].to_string();
        until("it is awaited", || status().contains(&format!("{card} to appear")));
    }

    pub fn export(&self, words: &[&str]) -> Ran {
        let mut command = self.host.command(&[&["export", "proxmox"], words].concat());
        command.env("GPUSLICE_SOCKET", self.host.path("hook.sock"));
        Ran::of(&command.env("GPUSLICE_ROOT", self.host.path("pve")).output().unwrap())
    }

    /// `gpuslice export proxmox | sh`
    #[track_caller]
    pub fn run(&self) -> String {
        let ran = self.export(&[]);
        assert_eq!((ran.code, ran.err.as_str()), (Some(0), ""), "{ran:?}");
        let path = format!("{}:/usr/bin:/bin", self.place("bin").display());
        let shell = Command::new("/bin/sh")
            .args(["-euc", &ran.out])
            .env_clear()
            .env("PATH", path)
            .env("CLUSTER", self.place("etc/pve"))
            .output();
        let shell = Ran::of(&shell.unwrap());
        assert_eq!((shell.code, shell.err.as_str()), (Some(0), ""), "{}: {shell:?}", ran.out);
        ran.out
    }
}

impl Node {
    /// Guest 100 is started, whose device is of a mapping.
    pub fn pre_start(&self, mapping: &str) -> Ran {
        let device = format!("name: a\nhostpci0: mapping={mapping}\n");
        self.put("etc/pve/qemu-server/100.conf", &device);
        let hook = Command::new(self.host.program("gpuslice-proxmox-hook"))
            .args(["100", "pre-start"])
            .env("GPUSLICE_SOCKET", self.host.path("hook.sock"))
            .env("GPUSLICE_PVE_ROOT", self.host.path("pve"))
            .output();
        Ran::of(&hook.unwrap())
    }
}

#[test]
fn mappings_are_made_once_and_follow_the_layout() {
    as_root(|| {
        let node = Node::new();
        let out = node.run();
        assert!(out.starts_with("# amd-74a1-vf2: new, 2 devices of "), "{out}");
        let again = node.run();
        assert!(again.starts_with("# amd-74a1-vf2: already so, 2 devices of "), "{again}");
        assert_eq!(again.lines().count(), 1, "nothing but the remark: {again}");

        // Another layout, another profile; what a second node has stays, and so does what somebody else made.
        let theirs = "node=elsewhere,path=0000:0c:02.0,id=1002:74b5,subsystem-id=1002:74a1,iommugroup=7,description=it's";
        let section = node.place("etc/pve/mapping.d/amd-74a1-vf2");
        let text = fs::read_to_string(&section).unwrap() + &format!("\tmap {theirs}\n");
        fs::write(section, &text).unwrap();
        node.put("etc/pve/mapping/pci.cfg", &text);
        node.host.configure(&LAYOUT.replace("vfs = 2", "vfs = 4"));
        node.host.ask(&["apply"]);
        node.host.settle();
        node.attributes();
        let out = node.run();
        assert!(
            out.contains("# amd-74a1-vf2: ") && out.contains(" offers it no longer\n"),
            "{out}"
        );
        assert!(out.contains("# amd-74a1-vf4: new, 4 devices of "), "{out}");
        let kept = fs::read_to_string(node.place("etc/pve/mapping.d/amd-74a1-vf2")).unwrap();
        assert_eq!(kept.matches("\tmap ").count(), 1, "{kept}");
        assert!(kept.contains(&format!("\tmap {theirs}\n")), "{kept}");
        let again = node.run();
        assert!(again.starts_with("# amd-74a1-vf4: already so") && again.lines().count() == 1);

        // The hookscript reads the same file, and Proxmox takes the first.
        node.pre_start("amd-74a1-vf4").quiet();
        assert_eq!(node.host.column("slices", "holder"), ["VM 100 (a)", "null", "null", "null"]);
    });
}

#[test]
fn what_nobody_is_given_is_left_out_until_it_is_given_again() {
    as_root(|| {
        let node = Node::with_two();
        let vfs = node.host.column("slices", "address");
        let [first, second] = [&vfs[..2], &vfs[2..]].map(|of| of.join(" "));
        assert!(node.run().starts_with("# amd-74a1-vf2: new, 4 devices of "));
        node.host.ask(&["drain", "0000:0c:00.0", "--reason", "fan"]);
        // Proxmox takes the first, whatever the others are.
        node.pre_start("amd-74a1-vf2").refused("cordoned");
        let out = node.run();
        assert!(out.starts_with("# amd-74a1-vf2: changed, 2 devices of "), "{out}");
        assert!(out.contains(&format!("#   - {first}\n")), "{out}");
        let not = format!("#   not {first}: 0000:0c:00.0 is cordoned: fan\n");
        assert!(out.contains(&not), "{out}");
        node.pre_start("amd-74a1-vf2").quiet();
        assert_eq!(node.host.column("slices", "holder")[2], "VM 100 (a)");

        // The last go too: what guests name stays, and is refused with the reason.
        node.host.ask(&["cordon", "0000:22:00.0"]);
        let file = node.place("etc/pve/mapping/pci.cfg");
        let before = fs::read_to_string(&file).unwrap();
        let out = node.run();
        let left = "# amd-74a1-vf2: left as it is: nothing on ";
        assert!(out.starts_with(left) && out.contains(&not), "{out}");
        assert!(out.contains(&format!("#   not {second}: 0000:22:00.0 is cordoned\n")), "{out}");
        assert_eq!((out.lines().count(), fs::read_to_string(&file).unwrap()), (3, before));
        node.pre_start("amd-74a1-vf2").refused("cordoned");
        for card in ["0000:0c:00.0", "0000:22:00.0"] {
            node.host.ask(&["uncordon", card]);
        }
        let out = node.run();
        assert!(out.starts_with("# amd-74a1-vf2: changed, 4 devices of "), "{out}");
        assert!(out.contains(&format!("#   + {first}\n")), "{out}");
    });
}

#[test]
fn a_boot_that_numbers_groups_anew_is_told_before_proxmox_fails() {
    as_root(|| {
        let node = Node::new();
        let groups = node.host.column("slices", "iommu_group");
        node.run();
        let file = node.place("etc/pve/mapping/pci.cfg");
        let text = fs::read_to_string(&file).unwrap();
        // Proxmox would take the first, and fails for the second.
        let (is, was) = (format!("iommugroup={}\n", groups[1]), "iommugroup=77\n");
        assert!(text.contains(&is), "{text}");
        fs::write(&file, text.replace(&is, was)).unwrap();
        let ran = node.pre_start("amd-74a1-vf2");
        assert!(ran.refused("bad-request").contains("IOMMU group 77 of "), "{ran:?}");
        assert_eq!(node.host.column("slices", "holder"), ["null", "null"]);
        let out = node.run();
        assert!(out.starts_with("# amd-74a1-vf2: changed, 2 devices of "), "{out}");
        node.pre_start("amd-74a1-vf2").quiet();
    });
}

#[test]
fn a_gpu_that_does_not_come_keeps_no_other_s_devices_from_guests() {
    as_root(|| {
        let node = Node::with_two();
        let vfs = node.host.column("slices", "address");
        node.run();
        node.without("0000:22:00.0");
        // As long as the boot is young it may come.
        let ran = node.export(&[]);
        assert!(ran.err.starts_with("error: not-settled: "), "{ran:?}");
        assert!(ran.err.contains("0000:22:00.0 to appear"), "{ran:?}");
        node.host.outside(&json!({"do": "grown"}));
        // Proxmox would fail for what is missing, whatever else there is.
        assert!(node.pre_start("amd-74a1-vf2").refused("absent").contains(&vfs[2]));
        let out = node.run();
        let lacks =
            |card: &str| format!("# without what is not there: waiting for {card} to appear\n");
        let changed = lacks("0000:22:00.0") + "# amd-74a1-vf2: changed, 2 devices of ";
        assert!(out.starts_with(&changed), "{out}");
        assert!(out.contains(&format!("#   - {}\n", vfs[2..].join(" "))), "{out}");
        node.pre_start("amd-74a1-vf2").quiet();

        // Of a mapping nothing is left: it stays for when they come.
        node.without("0000:0c:00.0");
        let out = node.run();
        assert!(out.contains("# amd-74a1-vf2: left as it is: nothing on "), "{out}");
        assert_eq!(out.lines().count(), 3, "{out}");
    });
}

#[test]
fn half_of_a_change_is_never_exported() {
    as_root(|| {
        let node = Node::new();
        node.host.outside(&json!({"do": "grown"}));
        let slow = json!({"delay": {"pf": "0000:0c:00.0", "ms": 1500}});
        node.host.outside(&json!({"do": "fault", "fault": slow}));
        node.host.configure(&LAYOUT.replace("vfs = 2", "vfs = 4"));
        let mut apply = node.host.command(&["apply"]);
        apply.env("GPUSLICE_BUS_ADDRESS", node.host.bus.address());
        let mut apply = apply.spawn().unwrap();
        let state = || node.host.column("gpus", "state");
        until("it is under way", || state().contains(&"reshaping".to_owned()));
        let ran = node.export(&[]);
        assert!(ran.err.starts_with("error: not-settled: "), "{ran:?}");
        assert!(apply.wait().unwrap().success());
        node.host.settle();
        node.attributes();
        assert!(node.run().starts_with("# amd-74a1-vf4: new, 4 devices of "));
    });
}

#[test]
fn what_cannot_be_read_is_no_empty_cluster() {
    as_root(|| {
        let node = Node::new();
        node.run();
        let file = node.place("etc/pve/mapping/pci.cfg");
        fs::remove_file(&file).unwrap();
        fs::create_dir(&file).unwrap();
        let ran = node.export(&[]);
        assert_eq!((ran.code, ran.out.as_str()), (Some(1), ""), "{ran:?}");
        assert!(ran.err.contains("mappings of Proxmox VE cannot be read"), "{ran:?}");
        fs::remove_dir(&file).unwrap();
        fs::remove_dir_all(node.place("sys")).unwrap();
        let ran = node.export(&[]);
        assert_eq!((ran.code, ran.out.as_str()), (Some(1), ""), "{ran:?}");
        assert!(ran.err.contains("vendor: no such file or directory (ENOENT)"), "{ran:?}");
    });
}
