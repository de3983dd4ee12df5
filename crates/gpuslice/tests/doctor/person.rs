//! Does what doctor says, word for word, on a host that is written down: commands by what they change there, edits as a
//! person makes them, and of a boot what the kernel then makes of them. Firmware and other drivers are out of reach.

use std::cell::RefCell;
use std::fs;
use std::mem;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

/// How steps begin that nobody can follow here.
const OUT_OF_REACH: &[&str] = &[
    // The machine, its firmware, another kernel or driver.
    "switch ",
    "put ",
    "raise ",
    "remove the driver",
    "install ",
    "take kernel ",
    "look for why ",
    "have nothing ",
    "on the host of this VM",
    "dkms ",
    "dnf ",
    "apt ",
    "mokutil ",
    "stop dcgm-exporter",
    "update the firmware",
    "write a layout ",
    "with no VM on them",
    // An editor, or what takes a decision.
    "virsh edit ",
    "take its hostdev out",
    "define it anew",
    "systemctl edit ",
    "give this container ",
    "write the path ",
    "add virtualisation.",
    "pass it into this container",
    "else correct it",
    // The daemon; see the hints that integration/tests/daemon follows.
    "gpuslice ",
];

/// Steps that change nothing which is seen before the next boot, or are for when another failed.
const NOTHING_SEEN: &[&str] = &[
    "update-initramfs -u",
    "for good, write a layout ",
    "from the next boot on",
    "chown root:kvm /dev/kvm",
    "journalctl ",
    "if that fails",
];

/// What brings arguments to where the kernel is started from, once they were written.
const BOOT_TOOLS: &[&str] = &[
    "update-grub",
    "grub-mkconfig -o ",
    "grub2-mkconfig -o ",
    "proxmox-boot-tool refresh",
    "kernel-install add ",
    "nixos-rebuild boot",
];

/// Where they are written.
const BOOT_FILES: &[&str] =
    &["GRUB_CMDLINE_LINUX", "/etc/kernel/cmdline", "boot.kernelParams", ENTRY];

/// What systemd-boot reads itself.
const ENTRY: &str = "the line options of the entry's file";

/// A change of the kernel's arguments.
enum Edit {
    Add(String),
    Take(String),
}

/// A person at a host.
pub struct Person<'a> {
    root: &'a Path,
    /// Written where arguments are, and brought nowhere yet.
    written: RefCell<Vec<Edit>>,
    /// What the next boot starts with.
    brought: RefCell<Vec<Edit>>,
}

impl<'a> Person<'a> {
    pub fn at_host(root: &'a Path) -> Self {
        Self { root, written: RefCell::default(), brought: RefCell::default() }
    }

    /// Follows all steps; whether that could be done.
    pub fn follows(&self, mend: &str) -> bool {
        let mend = mend.strip_prefix("if it is to be sliced: ").unwrap_or(mend);
        mend.split("; ").all(|step| self.follows_step(step))
    }

    fn at(&self, path: &str) -> PathBuf {
        self.root.join(path.trim_start_matches('/'))
    }

    fn write(&self, path: &str, text: &str) {
        fs::create_dir_all(self.at(path).parent().unwrap()).unwrap();
        fs::write(self.at(path), text).unwrap();
    }

    /// Leaves of a file the lines that are wanted.
    fn keep(&self, path: &str, wanted: impl Fn(&str) -> bool) {
        let text = fs::read_to_string(self.at(path)).unwrap();
        let lines: Vec<&str> = text.lines().filter(|line| wanted(line)).collect();
        assert!(lines.len() < text.lines().count(), "{path} has no such line");
        fs::write(self.at(path), lines.join("\n") + "\n").unwrap();
    }

    fn replace(&self, path: &str, what: &str, by: &str) {
        let text = fs::read_to_string(self.at(path)).unwrap();
        assert!(text.contains(what), "{path} lacks {what}");
        fs::write(self.at(path), text.replace(what, by)).unwrap();
    }

    fn follows_step(&self, step: &str) -> bool {
        if OUT_OF_REACH.iter().any(|lead| step.starts_with(lead)) {
            return false;
        }
        if NOTHING_SEEN.iter().any(|lead| step.starts_with(lead)) {
            return true;
        }
        if let Some((what, place)) =
            step.strip_prefix("take ").and_then(|rest| rest.split_once(" out of "))
        {
            return self.takes_out(what, place);
        }
        if let Some((argument, place)) =
            step.strip_prefix("add ").and_then(|rest| rest.split_once(" to "))
        {
            assert!(BOOT_FILES.iter().any(|file| place.starts_with(file)), "{place}");
            let to = if place.starts_with(ENTRY) { &self.brought } else { &self.written };
            to.borrow_mut().push(Edit::Add(argument.to_owned()));
            return true;
        }
        if BOOT_TOOLS.iter().any(|tool| step.starts_with(tool)) {
            self.brought.borrow_mut().append(&mut self.written.borrow_mut());
            return true;
        }
        let vm = step.strip_prefix("shut down the VM of process ");
        if let Some((pid, _)) = vm.and_then(|rest| rest.split_once(' ')) {
            fs::remove_dir_all(self.at(&format!("/proc/{pid}"))).unwrap();
            return true;
        }
        let words: Vec<&str> = step.split(' ').collect();
        match words.as_slice() {
            ["echo", text @ .., ">", path] => self.echoes(&text.join(" "), path),
            ["reboot"] => self.boots(),
            ["grubby", "--update-kernel=ALL", changes @ ..] => {
                self.changes(changes, "--args=", "--remove-args=");
            }
            ["mknod", "-m", "660", path, "c", "10", "232"] => {
                self.write(path, "");
                fs::set_permissions(self.at(path), fs::Permissions::from_mode(0o660)).unwrap();
            }
            ["mv", path, "/root/"] => fs::remove_file(self.at(path)).unwrap(),
            ["chmod", bits, path] => {
                let bits = u32::from_str_radix(bits, 8).unwrap();
                fs::set_permissions(self.at(path), fs::Permissions::from_mode(bits)).unwrap();
            }
            ["ln", "-sfn", target, path] => {
                let _ = fs::remove_file(self.at(path));
                symlink(target, self.at(path)).unwrap();
            }
            ["sed", "-i", script, path] => {
                let script = script.trim_matches('\'');
                let done = Command::new("sed").args(["-i", script]).arg(self.at(path)).status();
                assert!(done.unwrap().success());
            }
            ["restorecon", ..] => self.runs("/usr/sbin/restorecon", &words[1..]),
            ["rpm-ostree", "kargs", changes @ ..] => {
                self.changes(changes, "--append=", "--delete=");
            }
            ["kill", pid, ..] => fs::remove_dir_all(self.at(&format!("/proc/{pid}"))).unwrap(),
            ["mkdir", "-p", path] => fs::create_dir_all(self.at(path)).unwrap(),
            ["driverctl", "unset-override", address] => {
                fs::remove_file(self.at(&format!("/etc/driverctl.d/{address}"))).unwrap();
                if *address == "0000:0c:00.0" {
                    self.probes(address);
                }
            }
            ["mdevctl", "modify", "--uuid", uuid, "--parent", parent, "--manual"] => {
                self.replace(&format!("/etc/mdevctl.d/{parent}/{uuid}"), "auto", "manual");
            }
            ["mdevctl", "start", "-u", uuid] => {
                self.write(&format!("/sys/bus/mdev/devices/{uuid}/remove"), "");
            }
            ["modprobe", module] => self.loads(module),
            ["systemctl", order @ ..] => self.orders(order),
            ["virsh", "memtune", name, "--hard-limit", "-1", "--config"] => {
                let path = format!("/etc/libvirt/qemu/{name}.xml");
                let text = fs::read_to_string(self.at(&path)).unwrap();
                let (before, rest) = text.split_once("<memtune>").unwrap();
                let (_, after) = rest.split_once("</memtune>").unwrap();
                self.write(&path, &format!("{before}{after}"));
            }
            _ => panic!("nobody knows how to follow {step:?}"),
        }
        true
    }

    fn takes_out(&self, what: &str, place: &str) -> bool {
        let argument = place.strip_prefix("vfio-pci.ids in ").unwrap_or(place);
        if BOOT_FILES.iter().any(|file| argument.starts_with(file)) {
            self.takes_argument(what, argument);
            return true;
        }
        let file = place.strip_prefix("vfio-pci's ids in ").unwrap_or(place);
        if !file.starts_with('/') {
            return false;
        }
        let lines = what.strip_prefix("the lines with ").or(match what {
            "the calls of virsh" => Some("virsh "),
            _ => None,
        });
        match lines {
            Some(words) => {
                let words = words.trim_end_matches(" of GPUs");
                let (word, of) = words.split_once(" of GPU ").unwrap_or((words, ""));
                // What a shell is told to take as it is, a person reads as it is.
                let read = |line: &str| line.replace('\\', "");
                let is = |line: &str| line.contains(word) && read(line).contains(of);
                self.keep(file, |line| !is(line));
            }
            None if file.contains("/modprobe.d/") => {
                self.keep(file, |line| line.starts_with('#') || !line.contains(what));
            }
            None => self.replace(file, what, ""),
        }
        true
    }

    fn text(&self, path: &str) -> String {
        fs::read_to_string(self.at(path)).unwrap_or_default()
    }

    /// Where it is, which is in the variable that was named, as far as the file is there.
    fn takes_argument(&self, argument: &str, place: &str) {
        if let Some((variable, file)) =
            place.split_once(" in ").filter(|(_, f)| self.at(f).exists())
        {
            let text = self.text(file);
            let line = text.lines().find(|line| line.starts_with(&format!("{variable}=")));
            assert!(line.is_some_and(|line| line.contains(argument)), "{place}: {text}");
            self.replace(file, argument, "");
        }
        self.written.borrow_mut().push(Edit::Take(argument.to_owned()));
    }

    /// What the kernel is started with now.
    fn starts(&self) {
        for edit in mem::take(&mut *self.brought.borrow_mut()) {
            match edit {
                Edit::Add(argument) => {
                    let told = self.text("/proc/cmdline");
                    self.write("/proc/cmdline", &format!("{} {argument}\n", told.trim()));
                }
                Edit::Take(argument) => self.replace("/proc/cmdline", &argument, ""),
            }
        }
    }

    /// What a kernel makes of what it and modprobe were told, on the hosts that are written down.
    fn boots(&self) {
        self.starts();
        let told = self.text("/proc/cmdline");
        let files = fs::read_dir(self.at("/etc/modprobe.d")).unwrap();
        let files = files.map(|file| fs::read_to_string(file.unwrap().path()).unwrap());
        let files: String = files.collect();
        let lines: Vec<&str> = files.lines().collect();
        let away = |driver: &str| {
            lines.contains(&format!("blacklist {driver}").as_str())
                || told.split(' ').any(|a| a.contains("blacklist=") && a.contains(driver))
        };
        let gpus = [
            ("0000:41:00.0", "nouveau", "nvidia"),
            ("0000:0c:00.0", "amdgpu", "gim"),
            ("0000:51:00.0", "", "i915"),
        ];
        for (address, rival, driver) in gpus {
            let link = self.at(&format!("/sys/bus/pci/devices/{address}/driver"));
            let now = fs::read_link(&link).unwrap_or_default();
            let by_ids = files.contains("ids=") || told.contains("ids=");
            let free = now.as_os_str().is_empty()
                || now.ends_with(rival) && away(rival)
                || now.ends_with("vfio-pci") && !by_ids;
            let shown = driver != "i915" || !told.contains("nomodeset");
            let there = link.parent().is_some_and(Path::exists);
            if there && free && shown && !away(driver) {
                let _ = fs::remove_file(&link);
                symlink(format!("../../../bus/pci/drivers/{driver}"), link).unwrap();
            }
        }
        let off = told.split_whitespace().any(|a| a.contains("iommu=off"));
        if !off && (told.contains("iommu=on") || self.text("/proc/cpuinfo").contains("AMD")) {
            self.write("/sys/kernel/iommu_groups/1/type", "DMA\n");
        }
        let integrated = "/sys/bus/pci/devices/0000:00:02.0";
        let i915 = format!("{told} {files}");
        if i915.contains("enable_gvt=1") && !i915.contains("enable_guc") {
            self.write(&format!("{integrated}/mdev_supported_types/i915-GVTg_V5_4/create"), "");
        }
        let vf = self.at("/sys/bus/pci/devices/0000:00:02.1");
        if told.contains("intel_iommu=on") && vf.exists() {
            symlink("../../../../kernel/iommu_groups/3", vf.join("iommu_group")).unwrap();
        }
        let flex = "/sys/bus/pci/devices/0000:51:00.0";
        let on_xe = fs::read_link(self.at(&format!("{flex}/driver")));
        let none = told.contains("xe.max_vfs=0") || files.contains("options xe max_vfs=0");
        if on_xe.is_ok_and(|driver| driver.ends_with("xe")) && !none {
            self.write(&format!("{flex}/sriov_totalvfs"), "31\n");
        }
        // Of the arguments and of modprobe's options the last counts.
        let word = |name: &str| {
            let words = i915.split_whitespace().map(|word| word.trim_start_matches("i915."));
            words.filter_map(|word| word.strip_prefix(name)?.strip_prefix('=')).next_back()
        };
        let linked = self.text(&format!("{flex}/device")).starts_with("0x0b");
        let makes = word("max_vfs").is_some_and(|most| most != "0")
            && !matches!(word("enable_guc"), Some("0" | "2"))
            && (!linked || word("enable_iaf") == Some("0"));
        for device in [integrated, flex] {
            let driver = fs::read_link(self.at(&format!("{device}/driver")));
            if makes && driver.is_ok_and(|driver| driver.ends_with("i915")) {
                self.write(&format!("{device}/sriov_totalvfs"), "7\n");
            }
        }
        // DKMS's is there, and the initramfs has it now.
        let kernel = self.text("/proc/sys/kernel/osrelease");
        if self.at(&format!("/lib/modules/{}/updates/dkms/i915.ko", kernel.trim())).exists() {
            self.write("/sys/module/i915/parameters/max_vfs", "7\n");
        }
        if let Ok(kernels) = fs::read_dir(self.at("/lib/modules")) {
            let newest = kernels.map(|kernel| kernel.unwrap().file_name()).max().unwrap();
            self.write("/proc/sys/kernel/osrelease", newest.to_str().unwrap());
        }
    }

    /// Has a tool change the kernel's arguments, by its words for one more and one less.
    fn changes(&self, changes: &[&str], more: &str, less: &str) {
        let edits = changes.iter().map(|change| {
            let added = change.strip_prefix(more).map(|a| Edit::Add(a.to_owned()));
            let taken = || change.strip_prefix(less).unwrap().to_owned();
            added.unwrap_or_else(|| Edit::Take(taken()))
        });
        self.brought.borrow_mut().extend(edits);
    }

    /// Writes into a file, which may be the kernel's.
    fn echoes(&self, text: &str, path: &str) {
        if let Some(driver) = path.strip_suffix("/bind") {
            let link = self.at(&format!("/sys/bus/pci/devices/{text}/driver"));
            symlink(format!("../../..{}", driver.trim_start_matches("/sys")), link).unwrap();
        } else if path.ends_with("/drivers_probe") {
            self.probes(text);
        } else if path.ends_with("/unbind") {
            fs::remove_file(self.at(&format!("/sys/bus/pci/devices/{text}/driver"))).unwrap();
        } else {
            self.write(path, &format!("{text}\n"));
        }
    }

    /// The GPU that GIM takes.
    fn probes(&self, address: &str) {
        assert_eq!(address, "0000:0c:00.0");
        let link = self.at(&format!("/sys/bus/pci/devices/{address}/driver"));
        let _ = fs::remove_file(&link);
        symlink("../../../bus/pci/drivers/gim", link).unwrap();
    }

    fn loads(&self, module: &str) {
        let made = match module {
            "kvm_amd" => {
                self.write("/dev/kvm", "");
                return self.echo_mode("/dev/kvm");
            }
            "kvmgt" => {
                "/sys/bus/pci/devices/0000:00:02.0/mdev_supported_types/i915-GVTg_V5_4/create"
            }
            "xe" => {
                let link = self.at("/sys/bus/pci/devices/0000:51:00.0/driver");
                return symlink("../../../bus/pci/drivers/xe", link).unwrap();
            }
            "nvidia-vgpu-vfio" => "/sys/bus/pci/devices/0000:41:00.4/nvidia/current_vgpu_type",
            _ => panic!("{module}"),
        };
        self.write(made, "0\n");
    }

    fn echo_mode(&self, path: &str) {
        fs::set_permissions(self.at(path), fs::Permissions::from_mode(0o666)).unwrap();
    }

    fn orders(&self, order: &[&str]) {
        match order {
            ["enable", "--now", "gpusliced.socket", ..] => {
                self.write("/run/gpuslice/hook.sock", "");
                let listens = "0: 00000002 00000000 00010000 0001 01 9 /run/gpuslice/hook.sock\n";
                self.write("/proc/1/net/unix", listens);
            }
            ["enable", "--now", "nvidia-vgpud", "nvidia-vgpu-mgr"] => {
                self.write("/proc/902/comm", "nvidia-vgpu-mgr\n");
            }
            ["disable", unit] => {
                let unit = unit.trim_matches('\'');
                let wants = "/etc/systemd/system/multi-user.target.wants";
                fs::remove_file(self.at(&format!("{wants}/{unit}"))).unwrap();
            }
            ["stop", "nvidia-dcgm"] => fs::remove_dir_all(self.at("/proc/950")).unwrap(),
            ["reload", _] => self.runs("/usr/bin/systemctl", order),
            _ => panic!("systemctl {order:?}"),
        }
    }

    /// A program that the host itself has.
    fn runs(&self, program: &str, arguments: &[&str]) {
        // Where the host's own has nothing to do for it, it does nothing.
        let _ = Command::new(self.at(program)).args(arguments).status().unwrap();
    }
}
