//! The hookscript as Proxmox VE runs it, against the daemon. Proxmox itself does not run here: `cases/proxmox` holds the
//! sequences of its calls (arguments, environment, files, order) as read from qemu-server and pve-guest-common, with what
//! each has to end with and who has each slice then.

use crate::host::{Host, Ran, Vm, as_root, until};
use gpuslice_hook_proto::{Body, Reply, Request};
use gpuslice_integration::root;
use serde::Deserialize;
use serde_json::json;
use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

pub const FOUR: &str =
    "[[gpu]]\nmatch = { address = \"0000:0c:00.0\" }\nlayout = { vfs = 4, bind = \"vfio-pci\" }\n";

/// A node of Proxmox VE around the host.
pub struct Node {
    pub host: Host,
    pub vfs: Vec<String>,
    name: String,
}

impl Node {
    /// With a guest 100 whose mapping is the first three VFs, in another order.
    pub fn new() -> Self {
        Self::on("sriov-8", FOUR, "1002:74b5", "mapping=gpu,pcie=1")
    }

    /// The same with vGPUs: of VFs that take a type, or of cards that make mediated devices, of which the mapping has both.
    fn with_vgpus(kind: &str) -> Self {
        let example = root().join(format!("examples/hosts/{kind}.toml"));
        let layout = match kind {
            "mdev" => "",
            _ => "[[gpu]]\nmatch = { address = \"0000:41:00.0\" }\nlayout = { vfs = \"all\" }\n",
        };
        let device = match kind {
            "mdev" => "mapping=gpu,mdev=nvidia-562",
            _ => "mapping=gpu,mdev=nvidia-558",
        };
        let node = Self::on(example.to_str().unwrap(), layout, "10de:2235", device);
        for vf in node.vfs.iter().filter(|_| kind != "mdev") {
            node.file(&format!("sys/bus/pci/devices/{vf}/nvidia/current_vgpu_type"), "0");
        }
        node
    }

    fn on(sim: &str, layout: &str, id: &str, device: &str) -> Self {
        let host = Host::start(sim, layout);
        host.settle();
        let mut vfs = host.column("slices", "address");
        if vfs.is_empty() {
            vfs = ["0000:41:00.0", "0000:81:00.0"].map(str::to_owned).to_vec();
        }
        let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
        let name = name.split('.').next().unwrap().to_owned();
        let node = Self { host, vfs, name: name.clone() };
        let mut groups = node.host.column("slices", "iommu_group");
        if groups.is_empty() {
            groups = ["0", "1"].map(str::to_owned).to_vec();
        }
        let map = |at: usize| {
            let (vf, group) = (node.vfs.get(at)?, groups.get(at)?);
            Some(format!("\tmap id={id},iommugroup={group},node={name},path={vf}\n"))
        };
        let mapped: String = [2, 0, 1].into_iter().filter_map(map).collect();
        let elsewhere = format!("\tmap id={id},node=elsewhere,path=0000:01:00.0\n");
        node.file("etc/pve/mapping/pci.cfg", &format!("gpu\n{elsewhere}{mapped}\n"));
        node.guest(100, "win11", device);
        node
    }

    pub fn file(&self, path: &str, text: &str) {
        let path = self.host.path("pve").join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    /// The mapping is one that was exported.
    pub fn exported(&self) {
        let file = "etc/pve/mapping/pci.cfg";
        let text = fs::read_to_string(self.host.path("pve").join(file)).unwrap();
        self.file(file, &text.replacen('\n', "\n\tdescription gpuslice: it\n", 1));
    }

    /// Makes a file one that cannot be read, also by root, and says what was in it.
    pub fn unreadable(&self, path: &str) -> String {
        let path = self.host.path("pve").join(path);
        let text = fs::read_to_string(&path).unwrap();
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        text
    }

    pub fn readable(&self, path: &str, text: &str) {
        fs::remove_dir(self.host.path("pve").join(path)).unwrap();
        self.file(path, text);
    }

    fn guest(&self, vmid: u32, name: &str, device: &str) {
        let text = format!("hostpci0: {device}\nname: {name}\n[old]\nhostpci1: 0000:01:00.0\n");
        self.file(&format!("etc/pve/qemu-server/{vmid}.conf"), &text);
    }

    /// A guest's QEMU opens its device.
    fn open(&self, vf: usize, vmid: u32, pid: u32) {
        self.file(&format!("proc/{pid}/comm"), "kvm\n");
        self.file(&format!("run/qemu-server/{vmid}.pid"), &format!("{pid}\n"));
        self.host
            .outside(&json!({"do": "open", "slice": self.slice(vf), "pid": pid, "comm": "kvm"}));
    }

    fn slice(&self, vf: usize) -> String {
        self.host.column("slices", "slice")[vf].clone()
    }

    pub fn hook(&self, vmid: &str, phase: &str, from: &[(&str, &str)]) -> Ran {
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

/// A sequence of calls.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Sequence {
    /// The kind of slices, where it is not VFs of `sriov-8`.
    host: Option<String>,
    step: Vec<Step>,
}

/// What happens at one point, in the order of the fields. `{vf2}` in texts is the address of the third VF, `{node}` the
/// name of this node.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Step {
    /// What Proxmox or a person does.
    what: String,
    /// Files below the root and their text.
    #[serde(default)]
    write: BTreeMap<String, String>,
    /// Lines of Proxmox's reservations: `{vf2} 100 pid:4100`.
    reserve: Option<Vec<String>>,
    /// A file that is gone.
    remove: Option<String>,
    /// A file that cannot be read.
    unreadable: Option<String>,
    /// Attributes that Proxmox writes. `{types0}` is where the types of the first card are.
    #[serde(default)]
    kernel: BTreeMap<String, String>,
    /// This guest's QEMU, of this pid, opens these slices.
    open: Option<(u32, u32, Vec<usize>)>,
    /// QEMU ends.
    kill: Option<u32>,
    /// Power off and on; /run is empty after.
    #[serde(default)]
    reboot: bool,
    /// Words after `gpuslice`.
    command: Option<Vec<String>>,
    /// VMID and phase.
    call: Option<(u32, String)>,
    #[serde(default)]
    env: BTreeMap<String, String>,
    /// What the call ends with.
    #[serde(default)]
    exit: i32,
    /// The code of the refusal that it says.
    says: Option<String>,
    /// Who has each VF then; empty is nobody.
    holders: Option<Vec<String>>,
    /// Nothing announces it, and it comes in time.
    #[serde(default)]
    eventually: bool,
}

impl Node {
    fn filled(&self, text: &str) -> String {
        let vfs = self.vfs.iter().enumerate();
        let text = vfs.fold(text.to_owned(), |t, (n, vf)| t.replace(&format!("{{vf{n}}}"), vf));
        let types =
            |address: &String| format!("/sys/class/mdev_bus/{address}/mdev_supported_types");
        let cards = self.vfs.iter().take(2).enumerate();
        let text = cards.fold(text, |t, (n, a)| t.replace(&format!("{{types{n}}}"), &types(a)));
        text.replace("{node}", &self.name)
    }

    fn act(&self, step: &Step) {
        for (path, text) in &step.write {
            self.file(&self.filled(path), &self.filled(text));
        }
        if let Some(lines) = &step.reserve {
            let text: String = lines.iter().map(|line| self.filled(line) + "\n").collect();
            self.file("run/qemu-server/pci-id-reservations", &text);
        }
        if let Some(path) = &step.remove {
            fs::remove_file(self.host.path("pve").join(path)).unwrap();
        }
        if let Some(path) = &step.unreadable {
            self.unreadable(path);
        }
        if let Some(pid) = step.kill {
            fs::remove_dir_all(self.host.path("pve/proc").join(pid.to_string())).unwrap();
            self.host.outside(&json!({"do": "kill", "pid": pid}));
        }
        for (file, data) in &step.kernel {
            let file = self.filled(file);
            self.host.outside(&json!({"do": "write", "file": file, "data": data}));
        }
        if let Some((vmid, pid, vfs)) = &step.open {
            vfs.iter().for_each(|vf| self.open(*vf, *vmid, *pid));
        }
        if step.reboot {
            for folder in ["run", "proc"] {
                let _ = fs::remove_dir_all(self.host.path("pve").join(folder));
            }
            self.host.outside(&json!({"do": "reboot"}));
            self.host.settle();
        }
        if let Some(words) = &step.command {
            self.host.ask(&words.iter().map(String::as_str).collect::<Vec<_>>());
        }
    }

    fn judge(&self, at: &str, step: &Step) {
        if let Some((vmid, phase)) = &step.call {
            let env: Vec<_> = step.env.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
            let ran = self.hook(&vmid.to_string(), phase, &env);
            assert_eq!((ran.code, ran.out.as_str()), (Some(step.exit), ""), "{at}: {ran:?}");
            match &step.says {
                None => assert_eq!(ran.err, "", "{at}"),
                Some(code) => {
                    assert!(ran.err.starts_with(&format!("gpuslice: {code}: ")), "{at}: {ran:?}");
                    assert_eq!(ran.err.trim_end().lines().count(), 1, "{at}: {ran:?}");
                }
            }
        }
        let Some(wanted) = &step.holders else { return };
        let holders = || -> Vec<String> {
            let none = |holder: String| if holder == "null" { String::new() } else { holder };
            let mut all: Vec<String> = self.holders().into_iter().map(none).collect();
            // Of a GPU with many, those that nobody has are not told.
            while all.len() > wanted.len() && all.last().is_some_and(String::is_empty) {
                all.pop();
            }
            all
        };
        if step.eventually {
            until(at, || holders() == *wanted);
        }
        assert_eq!(holders(), *wanted, "{at}");
    }
}

fn sequence(name: &str) {
    let file = format!("integration/cases/proxmox/{name}.toml");
    let text = fs::read_to_string(root().join(&file)).unwrap();
    let sequence: Sequence = toml::from_str(&text).unwrap_or_else(|e| panic!("{file}: {e}"));
    assert!(sequence.step.iter().any(|step| step.call.is_some()), "{file} calls nothing");
    let node = sequence.host.as_deref().map_or_else(Node::new, Node::with_vgpus);
    for (number, step) in (1..).zip(&sequence.step) {
        node.act(step);
        node.judge(&format!("{file}, step {number}, {}", step.what), step);
    }
}

macro_rules! sequences {
    ($($name:ident = $file:literal,)*) => {
        $(#[test]
        fn $name() {
            as_root(|| sequence($file));
        })*

        #[test]
        fn each_sequence_is_run() {
            let folder = root().join("integration/cases/proxmox");
            let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
            let stem = |path: &Path| path.file_stem().unwrap().to_str().unwrap().to_owned();
            let mut found: Vec<_> = entries.map(|path| stem(&path)).collect();
            let mut run = vec![$($file.to_owned()),*];
            found.sort();
            run.sort();
            assert_eq!(found, run);
        }
    };
}

sequences! {
    a_start_and_a_stop = "start-stop",
    a_guest_that_shuts_itself_down_and_is_started_again = "shutdown-inside",
    a_start_that_is_refused = "refused",
    a_start_that_fails_after_pre_start = "failed-start",
    a_qemu_that_crashes_without_post_stop = "crash",
    a_node_that_reboots = "reboot",
    a_backup_of_a_guest_that_is_off = "backup",
    a_backup_of_a_template = "template",
    a_clone = "clone",
    a_guest_that_migrates_here = "migrated-here",
    a_guest_that_migrates_away = "migrated-away",
    a_stop_by_the_ha_manager = "ha-stop",
    guests_without_the_hookscript = "no-hookscript",
    reservations_that_cannot_be_read = "unreadable",
    a_vgpu_that_is_an_mdev = "mdev-start-stop",
    a_start_with_an_mdev_that_fails_after_pre_start = "mdev-failed-start",
    a_start_with_an_mdev_that_is_refused = "mdev-refused",
    a_card_that_is_named_a_backup_and_a_template = "mdev-named",
    a_guest_with_an_mdev_that_migrates = "mdev-migrated",
    a_vgpu_that_is_a_type_of_a_vf = "vendor-vfio",
}

#[test]
fn a_start_waits_for_a_device_that_is_on_its_way_as_long_as_the_hook_may() {
    as_root(|| {
        let node = Node::new();
        node.exported();
        let card = "0000:0c:00.0";
        node.host.plug(card, false);
        let status = || node.host.ask(&["status"])["waiting_for"].to_string();
        until("it is awaited", || status().contains(card));
        fs::write(node.host.path("hook.conf"), "deadline-seconds = 2\n").unwrap();
        let ran = node.hook("100", "pre-start", &[]);
        assert!(ran.refused("not-settled").contains("0000:0c:00.0 to appear"), "{ran:?}");
        fs::remove_file(node.host.path("hook.conf")).unwrap();
        std::thread::scope(|scope| {
            let start = scope.spawn(|| node.hook("100", "pre-start", &[]));
            std::thread::sleep(Duration::from_millis(300));
            assert!(!start.is_finished());
            node.host.plug(card, true);
            start.join().unwrap().quiet();
        });
        assert_eq!(node.holders()[2], "VM 100 (win11)");
    });
}

/// The daemon that is asked again cannot know how long another one was waited for.
#[test]
fn who_asks_again_says_how_long_it_can_wait_still() {
    as_root(|| {
        let mut node = Node::new();
        node.host.kill();
        let socket = node.host.path("hook.sock");
        fs::remove_file(&socket).unwrap();
        let daemon = UnixListener::bind(&socket).unwrap();
        let asked = || {
            let (stream, _) = daemon.accept().unwrap();
            let mut line = String::new();
            BufReader::new(&stream).read_line(&mut line).unwrap();
            let request = Request::from_line(line.trim_end().as_bytes()).unwrap();
            let Body::Guest(call) = &request.body else { panic!("{line}") };
            (call.patience_ms, request.id, stream)
        };
        std::thread::scope(|scope| {
            let start = scope.spawn(|| node.hook("100", "pre-start", &[]));
            let (first, id, stream) = asked();
            assert!((14_000..=15_000).contains(&first), "{first}");
            std::thread::sleep(Duration::from_millis(500));
            drop(stream);
            let (second, same, mut stream) = asked();
            assert!(second <= first - 500, "{first}, then {second}");
            assert_eq!(id, same);
            stream.write_all(Reply::hook_done(id).to_line().unwrap().as_bytes()).unwrap();
            start.join().unwrap().quiet();
        });
    });
}

#[test]
fn a_start_is_refused_for_what_a_claim_has_or_nobody_answers_and_other_phases_never_are() {
    as_root(|| {
        let mut node = Node::new();
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
