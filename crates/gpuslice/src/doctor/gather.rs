//! The facts of a host, read and not judged.

use super::facts::{Dkms, Host, Libvirt, Service, Writer};
use super::pci::Device;
use super::system::System;
use super::tree::Tree;
use super::writers::{MAKING_VFS, PVE_UNIT};
use super::{hook_facts, kernel_facts, pci, rules};
use gpuslice_core::guest::mapping;
use gpuslice_core::holders::{self, Holder, Holders};
use gpuslice_core::observation::is_vfio;
use serde_json::Value as Json;
use std::collections::{BTreeMap, BTreeSet};

/// libvirt's daemons that run VMs, and where each writes its process id.
pub const DAEMONS: [(&str, &str); 2] =
    [("libvirtd", "/run/libvirtd.pid"), ("virtqemud", "/run/virtqemud.pid")];

/// Where programs of the system lie; the last is NixOS's.
const PROGRAMS: [&str; 3] = ["/usr/sbin", "/usr/bin", "/run/current-system/sw/bin"];

const MDEVCTL: &str = "/etc/mdevctl.d";

/// Proxmox VE's mappings of its cluster.
const MAPPINGS: &str = "/etc/pve/mapping/pci.cfg";

/// Programs of NVIDIA's monitoring, which keep every GPU open.
const WATCHERS: [&str; 2] = ["nv-hostengine", "dcgm-exporter"];

/// How the programs begin that NVIDIA's driver brings to be there all the time, in as many letters as the kernel keeps.
/// nvidia-smi is none of them.
const DRIVERS_OWN: [&str; 2] = ["nvidia-persiste", "nvidia-vgpu"];

/// Where DKMS keeps the key that it signs modules with: Ubuntu's place, then its own.
const KEYS: [&str; 2] = ["/var/lib/shim-signed/mok/MOK.der", "/var/lib/dkms/mok.pub"];

/// Units of the host's own, and links to those that are started at boot.
const UNITS: &str = "/etc/systemd/system";

/// Jobs that users have cron run.
const USERS_JOBS: &str = "/var/spool/cron";

/// Longest text that is a script's, in bytes: what is longer is a program.
const SCRIPT: u64 = 65536;

/// Longest of a unit, a rule or a table of jobs, which a user may write.
const TABLE: u64 = 1 << 20;

/// Reads everything.
pub fn host(tree: &Tree) -> Host {
    let text = |path: &str| tree.text(path).unwrap_or_default();
    let system = System::of(tree);
    let arguments: Vec<String> =
        text("/proc/cmdline").split_whitespace().map(str::to_owned).collect();
    let hook = hook_facts::own(tree, &system);
    let enforces = hook_facts::enforces(tree);
    let processes = processes(tree);
    let devices = pci::all(tree);
    let laid_out = rules::laid_out(tree, &devices);
    let path = search_path(tree);
    // The library alone is there for programs that speak with another host's.
    let has = |name: &str| PROGRAMS.iter().any(|folder| tree.exists(&format!("{folder}/{name}")));
    let runs_libvirt = DAEMONS.iter().any(|(name, _)| has(name));
    Host {
        intel: text("/proc/cpuinfo").contains("GenuineIntel"),
        is_guest: kernel_facts::has_flag(tree, &["hypervisor"]),
        kvm: kernel_facts::kvm(tree, runs_libvirt),
        modules_gone: kernel_facts::modules_gone(tree),
        drivers: tree.names("/sys/bus/pci/drivers").into_iter().collect(),
        kvmgt: tree.exists("/sys/module/kvmgt"),
        unsafe_interrupts: kernel_facts::unsafe_interrupts(tree, &arguments),
        vgpu_vfio: tree.exists("/sys/module/nvidia_vgpu_vfio"),
        switched_off: kernel_facts::switched_off(tree, &arguments),
        iommu: !tree.empty("/sys/kernel/iommu_groups"),
        lockdown: chosen(&text("/sys/kernel/security/lockdown")).filter(|mode| mode != "none"),
        passed_to: passed_to(tree, &devices, &laid_out.vfs),
        laid_out: laid_out.vfs,
        parked: laid_out.parked,
        passed_by: laid_out.passed_by,
        i915_makes_vfs: tree.exists(&format!("/sys/module/i915/{MAX_VFS}")),
        vfio_makes_vfs: text("/sys/module/vfio_pci/parameters/enable_sriov") == "Y",
        signing_key: KEYS.into_iter().find(|key| tree.exists(key)).unwrap_or(KEYS[1]),
        devices,
        sriov_manage: tree.exists("/usr/lib/nvidia/sriov-manage"),
        vgpu_manager: vgpu_manager(tree, &processes),
        unheard: unheard(tree, &processes),
        watchers: processes.into_iter().filter(|p| WATCHERS.contains(&p.as_str())).collect(),
        openers: openers(tree),
        kept_back: kept_back(tree),
        vfio_ids: vfio_ids(tree),
        dkms: dkms(tree),
        runs_libvirt,
        libvirt: libvirt(tree),
        proxmox_hook: tree.exists("/var/lib/vz/snippets/gpuslice-proxmox-hook"),
        options: INTELS.map(|name| (name, kernel_facts::options(tree, name))).into(),
        max_vfs: INTELS.into_iter().filter_map(|name| Some((name, max_vfs(tree, name)?))).collect(),
        configfs_none: configfs_none(tree),
        mislabelled: if enforces {
            hook_facts::mislabelled(tree, &hook_facts::way(&hook, &system))
        } else {
            Vec::new()
        },
        hook,
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
        mdevctl_known: mdevctl(tree, |_| true).into_iter().map(|(_, u)| u.to_lowercase()).collect(),
        mdevs: tree.names("/sys/bus/mdev/devices").into_iter().collect(),
        driverctl: driverctl(tree),
        other_hooks: hook_facts::others(tree, &system, path.as_deref()),
        dispatched: hook_facts::dispatched(tree, &system, path.as_deref()),
        sysfsutils: tree
            .files("/etc/sysfs.d", ".conf")
            .chain(["/etc/sysfs.conf".to_owned()])
            .map(|file| Writer { text: without_comments(&text(&file)), file })
            .filter(|writer| writer.text.contains("sriov_numvfs"))
            .collect(),
        interfaces: tree.names("/sys/class/net").into_iter().filter(|n| n != "lo").collect(),
        writers: writers(tree),
        mappings: tree.host_name().filter(|_| tree.exists("/etc/pve")).map(|name| {
            (name, tree.text(MAPPINGS).map(|text| mapping::read(&text)).unwrap_or_default())
        }),
        system,
        arguments,
    }
}

/// Whether it is certain that nobody listens for hooks. A socket's file stays when who listened has gone. Who listens in another
/// network is not seen, as in a container that has the file from its host.
fn unheard(tree: &Tree, processes: &BTreeSet<String>) -> bool {
    const SOCKET: &str = "/run/gpuslice/hook.sock";
    if tree.absent(SOCKET) {
        return true;
    }
    let elsewhere = processes.contains("gpusliced") || kernel_facts::in_container(tree);
    let Some(sockets) = tree.text("/proc/1/net/unix").filter(|_| tree.exists(SOCKET)) else {
        return false;
    };
    // The flag is that of a socket that listens (__SO_ACCEPTCON).
    let listens = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        words.get(3) == Some(&"00010000") && words.last() == Some(&SOCKET)
    };
    !sockets.lines().any(listens) && !elsewhere
}

/// Drivers of Intel's.
const INTELS: [&str; 2] = ["i915", "xe"];

/// Below a module: how many VFs it makes at most.
const MAX_VFS: &str = "parameters/max_vfs";

fn max_vfs(tree: &Tree, driver: &str) -> Option<String> {
    tree.text(&format!("/sys/module/{driver}/{MAX_VFS}"))
}

/// GPUs of which xe was told to make no VFs, each by its folder (Documentation/gpu/xe/xe_configfs.rst).
fn configfs_none(tree: &Tree) -> BTreeSet<String> {
    const FOLDER: &str = "/sys/kernel/config/xe";
    let most = |gpu: &String| tree.text(&format!("{FOLDER}/{gpu}/sriov/max_vfs"));
    tree.names(FOLDER).into_iter().filter(|gpu| most(gpu).as_deref() == Some("0")).collect()
}

/// Names of the processes that are seen.
fn processes(tree: &Tree) -> BTreeSet<String> {
    let numbers = tree.names("/proc").into_iter().filter(|name| name.parse::<u32>().is_ok());
    numbers.filter_map(|pid| tree.text(&format!("/proc/{pid}/comm"))).collect()
}

/// Where NVIDIA's driver tells of each GPU that it has, by its address.
const NVIDIA_GPUS: &str = "/proc/driver/nvidia/gpus";

/// Who has which GPU of NVIDIA's open, beside what comes with its driver.
fn openers(tree: &Tree) -> BTreeMap<String, Vec<Holder>> {
    let node = |gpu: String| {
        let told = tree.text(&format!("{NVIDIA_GPUS}/{gpu}/information"))?;
        let minor = told.lines().find_map(|line| line.strip_prefix("Device Minor:"))?;
        let minor: u32 = minor.trim().parse().ok()?;
        Some((format!("/dev/nvidia{minor}"), vec![gpu]))
    };
    let nodes = tree.names(NVIDIA_GPUS).into_iter().filter_map(node).collect();
    let others = |holder: &Holder| {
        !DRIVERS_OWN.iter().any(|name| holder.comm.starts_with(name))
            && !WATCHERS.contains(&holder.comm.as_str())
    };
    let mut found = holders::by_node(tree, &nodes).unwrap_or_default();
    for holders in found.values_mut() {
        holders.retain(others);
    }
    found
}

/// As the daemon has recorded it for this boot.
fn kept_back(tree: &Tree) -> BTreeSet<String> {
    let text = tree.text("/run/gpuslice/state/assignments.json").unwrap_or_default();
    let record: Json = serde_json::from_str(&text).unwrap_or_default();
    let vfs = record.get("wedged").and_then(Json::as_array).into_iter().flatten();
    vfs.filter_map(Json::as_str).map(str::to_owned).collect()
}

/// Who has a function open that VFIO has and a layout cuts into VFs.
fn passed_to(
    tree: &Tree,
    devices: &[Device],
    laid_out: &BTreeSet<String>,
) -> BTreeMap<String, Holders> {
    let passed = devices.iter().filter(|device| {
        device.driver.as_deref().is_some_and(is_vfio) && laid_out.contains(&device.address)
    });
    let holders = |device: &Device| {
        let nodes = holders::nodes_of_function(tree, device.address.parse().ok()?).ok()?;
        Some((device.address.clone(), holders::find(tree, &nodes).ok()?))
    };
    passed.filter_map(holders).collect()
}

/// Where libvirt's daemon looks for programs, as far as that may be read.
fn search_path(tree: &Tree) -> Option<String> {
    let pid = DAEMONS.iter().find_map(|(_, file)| tree.text(file))?;
    let environment = tree.text(&format!("/proc/{pid}/environ"))?;
    environment.split('\0').find_map(|pair| pair.strip_prefix("PATH=")).map(str::to_owned)
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

fn service(tree: &Tree, unit: &'static str, pid_file: &str) -> Option<Service> {
    let pid: u32 = tree.text(pid_file)?.parse().ok()?;
    let limits = tree.text(&format!("/proc/{pid}/limits"))?;
    let status = tree.text(&format!("/proc/{pid}/status")).unwrap_or_default();
    let users = tree.text(&format!("/proc/{pid}/uid_map"));
    let mapped = users.is_some_and(|users| is_mapped(&users));
    // A reload is a change of the unit's state too.
    let property = "--property=StateChangeTimestamp";
    let said = tree.ask("/usr/bin/systemctl", &["show", "--timestamp=unix", property, unit]);
    let looked_at = said.and_then(|said| said.trim().split_once("=@")?.1.parse().ok());
    Some(Service {
        unit,
        looked_at,
        memlock: hard_memlock(&limits).filter(|_| mapped || !may_raise(&status)),
        mapped,
    })
}

/// Third column of `Max locked memory` (fs/proc/base.c, proc_pid_limits); none when it is unlimited.
fn hard_memlock(limits: &str) -> Option<u64> {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max locked memory"))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

/// Whether a process is in a user namespace of its own, whose capabilities raise no limit (kernel/sys.c, do_prlimit). In the
/// first one each user is itself.
fn is_mapped(users: &str) -> bool {
    users.split_whitespace().ne(["0", "0", "4294967295"])
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
fn vgpu_manager(tree: &Tree, processes: &BTreeSet<String>) -> Option<bool> {
    let folders = ["/usr/lib/systemd/system", "/etc/systemd/system"];
    let has_unit = |folder: &str| tree.exists(&format!("{folder}/nvidia-vgpu-mgr.service"));
    let known = folders.into_iter().any(has_unit) && !processes.is_empty();
    known.then(|| processes.contains("nvidia-vgpu-mgr"))
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
            take(list, argument);
        }
    }
    for file in tree.files("/etc/modprobe.d", ".conf") {
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

/// Units that are started at boot: the links in folders of what wants or requires them.
fn enabled(tree: &Tree) -> Vec<String> {
    let of = |name: &String| name.ends_with(".wants") || name.ends_with(".requires");
    let folders = tree.names(UNITS).into_iter().filter(of);
    let folders: Vec<String> = folders.map(|name| format!("{UNITS}/{name}")).collect();
    folders.iter().flat_map(|folder| tree.files(folder, "").collect::<Vec<_>>()).collect()
}

/// Files that write the number of VFs, at boot or at times of their own.
fn writers(tree: &Tree) -> Vec<Writer> {
    let rules = tree.files("/etc/udev/rules.d", ".rules");
    let written = tree.files("/etc/tmpfiles.d", ".conf");
    let jobs = ["/etc/cron.d", "/var/spool/cron/crontabs", USERS_JOBS];
    let jobs = jobs.into_iter().flat_map(|folder| tree.files(folder, ""));
    let all = enabled(tree).into_iter().chain(rules).chain(written).chain(jobs);
    let all = all.chain(["/etc/rc.local".to_owned(), "/etc/crontab".to_owned()]);
    let writer = |file: String| {
        let text = tree.resolved(&file).and_then(|file| tree.short_text(&file, TABLE));
        let text = text.unwrap_or_default();
        let instance = file.rsplit_once('@').and_then(|(_, name)| Some(name.rsplit_once('.')?.0));
        let instance = instance.unwrap_or_default();
        let text = without_comments(&text).replace("%i", instance).replace("%I", instance);
        Writer { file, text }
    };
    let makes = |writer: &Writer| {
        let says = MAKING_VFS.iter().any(|word| writer.text.contains(word));
        says || writer.file.contains(PVE_UNIT)
    };
    let ours = |file: &String| file.rsplit('/').next().is_some_and(|n| n.starts_with("gpuslice"));
    let all: Vec<Writer> = all.filter(|file| !ours(file)).map(writer).collect();
    let mut found = Vec::new();
    for writer in all {
        if makes(&writer) {
            found.push(writer);
            continue;
        }
        // A user's job may name what root must not open.
        if writer.file.starts_with(USERS_JOBS) {
            continue;
        }
        let mut scripts = scripts(tree, &writer.text).into_iter().filter(makes);
        if writer.file.starts_with(UNITS) {
            // Disabled as a whole, whatever its scripts do.
            let first = scripts.next();
            found.extend(first.map(|Writer { text, .. }| Writer { text, file: writer.file }));
        } else {
            found.extend(scripts);
        }
    }
    found
}

/// Scripts that a unit or a job runs, by their paths.
fn scripts(tree: &Tree, text: &str) -> Vec<Writer> {
    let paths = text.split([' ', '\t', '\n', '=', ';', '"', '\'']);
    let paths = paths.map(|word| word.trim_start_matches(['-', '@', '+', '!', ':']));
    let script = |path: &str| {
        let file = tree.resolved(path)?;
        let text = tree.short_text(&file, SCRIPT).filter(|text| text.starts_with("#!"))?;
        Some(Writer { text: without_comments(&text), file: path.to_owned() })
    };
    paths.filter(|word| word.starts_with('/')).filter_map(script).collect()
}

/// A script's lines that are no comments.
pub fn without_comments(text: &str) -> String {
    let lines = text.lines().filter(|line| !line.trim_start().starts_with(['#', ';']));
    lines.collect::<Vec<_>>().join("\n")
}
