//! The facts of a host, read and not judged.

use super::facts::{Dkms, Hook, Host, Libvirt, Service};
use super::pci;
use super::tree::Tree;
use serde_json::Value as Json;

/// Where libvirt looks for the hook.
pub const HOOK: &str = "/etc/libvirt/hooks/qemu.d/10-gpuslice";

/// Its daemons that run VMs, and where each writes its process id.
pub const DAEMONS: [(&str, &str); 2] =
    [("libvirtd", "/run/libvirtd.pid"), ("virtqemud", "/run/virtqemud.pid")];

const MDEVCTL: &str = "/etc/mdevctl.d";

/// Proxmox VE's unit, whose program calls NVIDIA's tool.
const PVE_UNIT: &str = "/pve-nvidia-sriov@";

const SELINUX: &str = "/sys/fs/selinux";

/// Reads everything.
pub fn host(tree: &Tree) -> Host {
    let text = |path: &str| tree.text(path).unwrap_or_default();
    Host {
        arguments: text("/proc/cmdline").split_whitespace().map(str::to_owned).collect(),
        intel: text("/proc/cpuinfo").contains("GenuineIntel"),
        iommu: !tree.names("/sys/kernel/iommu_groups").is_empty(),
        lockdown: chosen(&text("/sys/kernel/security/lockdown")).filter(|mode| mode != "none"),
        devices: pci::all(tree),
        sriov_manage: tree.exists("/usr/lib/nvidia/sriov-manage"),
        vgpu_manager: vgpu_manager(tree),
        vfio_ids: vfio_ids(tree),
        dkms: dkms(tree),
        libvirt: libvirt(tree).filter(|_| {
            // Its library alone is there for programs that speak with another host's.
            DAEMONS.iter().any(|(name, _)| tree.exists(&format!("/usr/sbin/{name}")))
        }),
        hook: hook(tree),
        socket: tree.exists("/run/gpuslice/hook.sock"),
        selinux_refuses: text(&format!("{SELINUX}/enforce")) == "1"
            && text(&format!("{SELINUX}/booleans/virt_hooks_unconfined")).starts_with('0'),
        apparmor: text("/sys/kernel/security/apparmor/profiles").lines().any(|profile| {
            (profile.starts_with("libvirtd ") || profile.starts_with("virtqemud "))
                && profile.ends_with("(enforce)")
        }),
        services: DAEMONS.iter().filter_map(|(unit, pid)| service(tree, unit, pid)).collect(),
        mdevctl_auto: mdevctl(tree, |text| {
            let definition: Json = serde_json::from_str(text).unwrap_or_default();
            definition.get("start").and_then(Json::as_str) == Some("auto")
        }),
        mdevctl_broken: mdevctl(tree, |text| serde_json::from_str::<Json>(text).is_err())
            .into_iter()
            .map(|(parent, uuid)| format!("{MDEVCTL}/{parent}/{uuid}"))
            .collect(),
        driverctl: driverctl(tree),
        hooks_with_virsh: hooks_with_virsh(tree),
        sysfsutils: files(tree, "/etc/sysfs.d", ".conf")
            .chain(["/etc/sysfs.conf".to_owned()])
            .filter(|file| says(&text(file), &["sriov_numvfs"]))
            .collect(),
        writers: writers(tree),
    }
}

/// The word in brackets: `none [integrity] confidentiality`.
fn chosen(text: &str) -> Option<String> {
    let (_, rest) = text.split_once('[')?;
    Some(rest.split_once(']')?.0.to_owned())
}

/// From the library's own name: libvirt.so.0.11003.0 is 11.3.0 (its meson.build, libvirt_so_version).
fn libvirt(tree: &Tree) -> Option<Libvirt> {
    let multiarch = tree.names("/usr/lib").into_iter().filter(|name| name.ends_with("-linux-gnu"));
    let folders = multiarch.map(|name| format!("/usr/lib/{name}"));
    let versions = folders.chain(["/usr/lib64".to_owned(), "/usr/lib".to_owned()]);
    let named = |name: &String| {
        let mut numbers = name.strip_prefix("libvirt.so.0.")?.split('.');
        let version: u32 = numbers.next()?.parse().ok()?;
        let micro = numbers.next()?.parse().ok()?;
        Some(Libvirt(version / 1000, version % 1000, micro))
    };
    versions.filter_map(|folder| tree.names(&folder).iter().filter_map(named).max()).max()
}

fn hook(tree: &Tree) -> Hook {
    let target = tree.resolved(HOOK).filter(|target| tree.exists(target));
    Hook {
        present: tree.exists(HOOK),
        executable: target.as_ref().is_some_and(|target| tree.executable(target)),
        made_at: tree.changed_at(HOOK),
        target,
    }
}

fn service(tree: &Tree, unit: &'static str, pid_file: &str) -> Option<Service> {
    let pid: u32 = tree.text(pid_file)?.parse().ok()?;
    let limits = tree.text(&format!("/proc/{pid}/limits"))?;
    let status = tree.text(&format!("/proc/{pid}/status")).unwrap_or_default();
    // A reload is a change of the unit's state too.
    let property = "--property=StateChangeTimestamp";
    let said = tree.ask("/usr/bin/systemctl", &["show", "--timestamp=unix", property, unit]);
    let looked_at = said.and_then(|said| said.trim().split_once("=@")?.1.parse().ok());
    Some(Service {
        unit,
        looked_at,
        memlock: hard_memlock(&limits).filter(|_| !may_raise(&status)),
    })
}

/// Third column of `Max locked memory` (fs/proc/base.c, proc_pid_limits); none when it is unlimited.
fn hard_memlock(limits: &str) -> Option<u64> {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max locked memory"))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

/// Whether a process has CAP_SYS_RESOURCE (capabilities(7), bit 24).
fn may_raise(status: &str) -> bool {
    let set = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    set.and_then(|set| u64::from_str_radix(set.trim(), 16).ok())
        .is_some_and(|set| set >> 24 & 1 == 1)
}

/// Parent and UUID of the definitions that are so.
fn mdevctl(tree: &Tree, is_so: impl Fn(&str) -> bool) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for parent in tree.names(MDEVCTL) {
        for uuid in tree.names(&format!("{MDEVCTL}/{parent}")) {
            let text = tree.text(&format!("{MDEVCTL}/{parent}/{uuid}"));
            if text.is_some_and(|text| is_so(&text)) {
                found.push((parent.clone(), uuid));
            }
        }
    }
    found
}

/// Its process has the name of its program, which is as long as the kernel keeps. Where its unit is not installed, nothing
/// is known of what runs in its place.
fn vgpu_manager(tree: &Tree) -> Option<bool> {
    let folders = ["/usr/lib/systemd/system", "/etc/systemd/system"];
    let has_unit = |folder: &str| tree.exists(&format!("{folder}/nvidia-vgpu-mgr.service"));
    if !folders.into_iter().any(has_unit) {
        return None;
    }
    let numbers = tree.names("/proc").into_iter().filter(|name| name.parse::<u32>().is_ok());
    let names: Vec<String> =
        numbers.filter_map(|pid| tree.text(&format!("/proc/{pid}/comm"))).collect();
    (!names.is_empty()).then(|| names.iter().any(|name| name == "nvidia-vgpu-mgr"))
}

/// In the kernel's arguments and in modprobe's files.
fn vfio_ids(tree: &Tree) -> Vec<(u16, u16, String)> {
    let mut found = Vec::new();
    let mut take = |list: &str, place: &str| {
        for id in list.split(',') {
            let mut parts = id.split(':').map(|part| u16::from_str_radix(part, 16));
            if let (Some(Ok(vendor)), Some(Ok(device))) = (parts.next(), parts.next()) {
                found.push((vendor, device, place.to_owned()));
            }
        }
    };
    for argument in tree.text("/proc/cmdline").unwrap_or_default().split_whitespace() {
        let list = ["vfio-pci.ids=", "vfio_pci.ids="].iter().find_map(|a| argument.strip_prefix(a));
        if let Some(list) = list {
            take(list, "the kernel's arguments");
        }
    }
    for file in files(tree, "/etc/modprobe.d", ".conf") {
        for line in tree.text(&file).unwrap_or_default().lines() {
            let mut words = line.split_whitespace();
            let (first, module) = (words.next(), words.next());
            if first == Some("options") && matches!(module, Some("vfio-pci" | "vfio_pci")) {
                words.filter_map(|word| word.strip_prefix("ids=")).for_each(|l| take(l, &file));
            }
        }
    }
    found
}

fn dkms(tree: &Tree) -> Dkms {
    let kernel = tree.text("/proc/sys/kernel/osrelease").unwrap_or_default();
    let folders = ["updates/dkms", "updates", "extra", "weak-updates"];
    let built =
        folders.iter().flat_map(|name| tree.names(&format!("/lib/modules/{kernel}/{name}")));
    Dkms { sources: tree.names("/var/lib/dkms"), built: built.collect(), kernel }
}

fn driverctl(tree: &Tree) -> Vec<(String, String)> {
    const FOLDER: &str = "/etc/driverctl.d";
    let driver = |address: String| Some((tree.text(&format!("{FOLDER}/{address}"))?, address));
    let found = tree.names(FOLDER).into_iter().filter_map(driver);
    found.map(|(driver, address)| (address, driver)).collect()
}

fn hooks_with_virsh(tree: &Tree) -> Vec<String> {
    let beside = files(tree, "/etc/libvirt/hooks/qemu.d", "").filter(|file| file != HOOK);
    let all = beside.chain(["/etc/libvirt/hooks/qemu".to_owned()]);
    let calls = |file: &String| says(&tree.text(file).unwrap_or_default(), &["virsh "]);
    all.filter(|file| tree.executable(file)).filter(calls).collect()
}

/// Units that a target wants, wherever they lie.
fn enabled(tree: &Tree) -> Vec<String> {
    const FOLDER: &str = "/etc/systemd/system";
    let wants = tree.names(FOLDER).into_iter().filter(|name| name.ends_with(".wants"));
    let wants: Vec<String> = wants.map(|wants| format!("{FOLDER}/{wants}")).collect();
    let units = |folder: &String| {
        let units = tree.names(folder).into_iter();
        units.map(|unit| format!("{folder}/{unit}")).collect::<Vec<_>>()
    };
    wants.iter().flat_map(units).collect()
}

fn writers(tree: &Tree) -> Vec<String> {
    let units = files(tree, "/etc/systemd/system", ".service");
    let rules = files(tree, "/etc/udev/rules.d", ".rules");
    let jobs = files(tree, "/etc/cron.d", "");
    let all = units.chain(enabled(tree)).chain(rules).chain(jobs);
    let all = all.chain(["/etc/rc.local".to_owned()]);
    let makes = |file: &String| {
        let text = tree.resolved(file).and_then(|file| tree.text(&file)).unwrap_or_default();
        says(&text, &["sriov_numvfs", "sriov-manage"]) || file.contains(PVE_UNIT)
    };
    let ours = |file: &String| file.rsplit('/').next().is_some_and(|n| n.starts_with("gpuslice"));
    all.filter(|file| !ours(file)).filter(makes).collect()
}

fn files<'a>(
    tree: &Tree,
    folder: &'a str,
    ending: &'a str,
) -> impl Iterator<Item = String> + use<'a> {
    let names = tree.names(folder).into_iter();
    names.filter(move |name| name.ends_with(ending)).map(move |name| format!("{folder}/{name}"))
}

/// Whether a line that is no comment has one of the words.
fn says(text: &str, words: &[&str]) -> bool {
    let lines = text.lines().map(str::trim_start).filter(|line| !line.starts_with(['#', ';']));
    lines.flat_map(|line| words.iter().map(move |word| line.contains(word))).any(|found| found)
}
