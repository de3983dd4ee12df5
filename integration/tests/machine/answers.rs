//! Whatever a write, a tool or a module may be answered, because of what, and what a person is told of it. The list holds
//! what the kernel and the vendors' drivers are known to say; a write that the product makes and that has no row here
//! fails, and so does a row of which nothing comes.

use crate::driver::Driver;
use crate::faulty::{changed, done_to, people, whole_story};
use crate::invariants::Broken;
use crate::story::{Ready, Scene, Story, scenes};
use crate::vgpu::{attach, call, order};
use gpuslice_core::errno::Errno;
use gpuslice_core::ids::PciAddress;
use gpuslice_core::machine::HookOperation;
use gpuslice_core::port::HostWrite;
use gpuslice_core::refusal::{Code, Refusal};
use gpuslice_core::request::Command;
use gpuslice_sim::{Command as Order, Data, Fault, HostFile};
use std::collections::BTreeSet;
use uuid::Uuid;

/// What comes of an answer that is given each time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Told {
    /// Somebody is refused with this code, and told the answer.
    As(Code),
    /// A slice does not come back, and its row says why.
    NotBack,
    /// A slice comes back, is kept from others, and its row says why.
    Dirty,
    /// It goes on without, and nobody is told.
    Nothing,
}

use Told::{As, Dirty, NotBack, Nothing};

const FAILED: Told = As(Code::DeviceFailed);

/// Errno, because of what, and what comes of it.
type Answer = (Errno, &'static str, Told);

/// By the file's name; a run of a tool is a write to its command line, and a load of a module one to `modprobe`.
pub const ANSWERS: &[(&str, &[Answer])] = &[
    // drivers/pci/iov.c in the order of its checks, then what pci_enable_sriov and drivers hand up.
    (
        "sriov_numvfs",
        &[
            (Errno::EINVAL, "no number of 16 bits; or the driver takes no such count", FAILED),
            (Errno::ERANGE, "more than sriov_totalvfs", FAILED),
            (Errno::ENOENT, "the driver makes no VFs by this file", As(Code::Unsupported)),
            (Errno::EBUSY, "there are VFs; or the driver initialises the PF still", FAILED),
            (Errno::ENOMEM, "no address space or bus numbers for the VFs", FAILED),
            (Errno::EIO, "InitialVFs is not TotalVFs", FAILED),
            (Errno::ENOSYS, "not a PF", FAILED),
            (Errno::ENODEV, "not a PF to its driver; or it left", FAILED),
            (Errno::EPERM, "i915: a VF is marked as assigned", FAILED),
            (Errno::ENOKEY, "i915: some VFs have quotas and some have none", FAILED),
            (Errno::ENOSPC, "i915: no room for the shares of so many VFs", FAILED),
            (Errno::EUCLEAN, "i915: its tree of quotas is inconsistent", FAILED),
        ],
    ),
    ("sriov_drivers_autoprobe", &[(Errno::EINVAL, "neither 0 nor 1", FAILED)]),
    // drivers/pci/pci-sysfs.c, drivers/base/bus.c.
    (
        "driver_override",
        &[
            (Errno::EINVAL, "longer than a page", FAILED),
            (Errno::ENOMEM, "no memory for the name", FAILED),
            (Errno::ENODEV, "the function is on its way out", FAILED),
        ],
    ),
    (
        "drivers_probe",
        &[
            (Errno::ENODEV, "no such function", FAILED),
            (Errno::EINVAL, "the driver cannot have it", FAILED),
            (Errno::EBUSY, "somebody has its group", FAILED),
        ],
    ),
    (
        "unbind",
        &[
            (Errno::ENODEV, "it is not bound to that driver", NotBack),
            (Errno::EIO, "the driver did not let go", NotBack),
        ],
    ),
    (
        "reset",
        &[
            (Errno::ENOTTY, "it did not come back, or has no way left", Dirty),
            (Errno::EINVAL, "not 1", Dirty),
            (Errno::EIO, "the device does not answer", Dirty),
        ],
    ),
    // drivers/vfio/mdev, then what drivers answer when they are full or refuse.
    (
        "create",
        &[
            (Errno::EINVAL, "no UUID; or NVIDIA's refusal", FAILED),
            (Errno::EEXIST, "the name is taken, on whichever parent", As(Code::Foreign)),
            (Errno::ENODEV, "the parent is on its way out", FAILED),
            (Errno::EUSERS, "the core's count is at 0", As(Code::NoCapacity)),
            (Errno::ENOSPC, "the driver is full: mtty, mbochs, GVT-g", As(Code::NoCapacity)),
            (Errno::ENOMEM, "mdpy is full, before Linux 6.1", FAILED),
            (Errno::EPERM, "NVIDIA's refusal", FAILED),
            (Errno::EIO, "NVIDIA's refusal", FAILED),
        ],
    ),
    (
        "remove",
        &[
            (Errno::EINVAL, "no number", NotBack),
            (Errno::ENODEV, "it is gone", NotBack),
            (Errno::EAGAIN, "it is being made or removed by somebody else", NotBack),
            (Errno::EBUSY, "a driver that refuses rather than waits", NotBack),
        ],
    ),
    // NVIDIA's proprietary driver, then what is proposed for the kernel's own.
    (
        "current_vgpu_type",
        &[
            (Errno::EINVAL, "no number; no VFIO device; or of another size", FAILED),
            (Errno::EPERM, "the VF has a type, or none to take", As(Code::Foreign)),
            (Errno::EIO, "no room, no GPU instance, or not ready", As(Code::NoCapacity)),
            (Errno::ENODEV, "no such type", FAILED),
            (Errno::ENOSPC, "as many as there can be", As(Code::NoCapacity)),
            (Errno::EBUSY, "a VM has it open", FAILED),
        ],
    ),
    ("vgpu_params", &[(Errno::EINVAL, "no VFIO device", FAILED)]),
    // amdgpu on bare metal.
    (
        "current_compute_partition",
        &[
            (Errno::EBUSY, "somebody computes on the GPU", As(Code::Held)),
            (Errno::EPERM, "the GPU is being reset", FAILED),
            (Errno::EINVAL, "no such mode, or not beside the other", FAILED),
        ],
    ),
    // GIM answers success to what it refuses: see `Fault::Refuses`.
    ("accelerator_partition_profile", &[(Errno::EINVAL, "no number", FAILED)]),
    ("memory_partition_mode", &[(Errno::EINVAL, "no such mode", FAILED)]),
    // gpuslice's own file of a module's options.
    (
        "modprobe.d",
        &[
            (Errno::EROFS, "the file system is read-only", FAILED),
            (Errno::EACCES, "it may not be written", FAILED),
            (Errno::ENOSPC, "the disk is full", FAILED),
            (Errno::EIO, "the disk does not answer", FAILED),
        ],
    ),
    (
        "modprobe",
        &[
            (Errno::ENOENT, "no such module", FAILED),
            (Errno::EINVAL, "a parameter that is none", FAILED),
            (Errno::ENODEV, "it finds no device of its own", FAILED),
            (Errno::ENOMEM, "it finds no memory, as after many loads", FAILED),
            (Errno::EKEYREJECTED, "it is not signed, and has to be", FAILED),
            (Errno::EPERM, "the kernel is locked down", FAILED),
        ],
    ),
    (
        "modprobe -r",
        &[
            (Errno::EBUSY, "somebody uses the module", As(Code::Held)),
            (Errno::EAGAIN, "somebody has begun to use the module", As(Code::Held)),
            (Errno::EPERM, "the kernel is locked down", FAILED),
            (Errno::ENOSYS, "the kernel unloads none", FAILED),
        ],
    ),
    // kernel-open/nvidia: nv-procfs.c. The tool asks for it too.
    ("unbindLock", &[(Errno::EINVAL, "no number", Nothing)]),
    ("sriov-manage", TOOL),
    ("nvidia-smi", TOOL),
];

const TOOL: &[Answer] = &[
    (Errno::ENOENT, "it is not installed", FAILED),
    (Errno::EACCES, "it may not be run", FAILED),
    (Errno::ETIMEDOUT, "it does not end", FAILED),
];

/// How the tools end that were run: NVML's numbers, and 1 for all that a shell script says.
pub const EXITS: &[(&str, &[i32])] = &[
    // No unbindLock; no VFs at all; the driver did not come back.
    ("sriov-manage", &[1]),
    // Invalid argument, not supported, not found, in use by another client, insufficient resources; killed.
    ("nvidia-smi", &[2, 3, 6, 19, 23, 137]),
];

/// The row of what was written to.
pub fn row(written: &str) -> &str {
    let first = written.split(' ').next().unwrap_or_default();
    if written.starts_with("modprobe -r ") {
        return "modprobe -r";
    }
    if first == "modprobe" || first.starts_with("/etc/modprobe.d/") {
        return if first == "modprobe" { first } else { "modprobe.d" };
    }
    first.rsplit('/').next().unwrap_or_default()
}

fn answers(written: &str) -> &'static [Answer] {
    let row = row(written);
    let found = ANSWERS.iter().find(|(name, _)| *name == row);
    found.map(|(_, answers)| *answers).unwrap_or_else(|| panic!("no row for {written}"))
}

/// Each way in which it can fail, given when it is tried for the `nth` time, and so many times.
pub fn fails(written: &str, nth: u32, times: u32) -> Vec<Fault> {
    let (path, command) = (|| written.to_owned(), || written.to_owned());
    let exits =
        EXITS.iter().filter(|(tool, _)| *tool == row(written)).flat_map(|(_, codes)| *codes);
    let exits = exits.map(|code| Fault::Exits { command: command(), nth, times, code: *code });
    let errnos = answers(written).iter().map(|(errno, ..)| *errno);
    errnos.map(|errno| Fault::Write { path: path(), nth, times, errno }).chain(exits).collect()
}

/// What is to come of a fault that stays, and by which words it is known.
fn told(fault: &Fault) -> (Option<Told>, String) {
    match fault {
        Fault::Write { path, errno, .. } => {
            let row = answers(path).iter().find(|(other, ..)| other == errno);
            (row.map(|(.., told)| *told), errno.name().unwrap_or_default().to_owned())
        }
        Fault::Exits { command, code, .. } => {
            let set = row(command) == "nvidia-smi";
            (Some(FAILED), if set { String::new() } else { format!("ended with {code}") })
        }
        _ => (None, String::new()),
    }
}

/// What people see of it.
fn comes_of_it(story: &Story<'_>, fault: &Fault) -> Result<(), Broken> {
    let (told, says) = told(fault);
    let run = story.driver.machine.runtime();
    let quarantines = story.driver.machine.durable().quarantines.values();
    let mut told_of: Vec<&Refusal> = story.refused.iter().chain(quarantines).collect();
    told_of.retain(|refusal| refusal.causes.iter().any(|cause| cause.contains(&says)));
    let good = match told {
        None => return Err(Broken::new("each_answer_has_a_row", format!("{fault:?}"))),
        Some(As(code)) => told_of.iter().any(|refusal| refusal.code == code),
        Some(Nothing) => told_of.is_empty(),
        Some(NotBack) => run.assignments.values().any(|a| a.trouble.is_some()),
        Some(Dirty) => run.dirty.values().any(|dirt| dirt.why.contains(&says)),
    };
    if good {
        return Ok(());
    }
    let how = format!("not {told:?}: {:?}, {:?}, {:?}", story.refused, run.assignments, run.dirty);
    Err(Broken::new("each_answer_is_told", how))
}

/// What is written to on the way up and down, and what only a change of the layout writes to.
pub fn written_by(scene: &Scene, ready: &Ready) -> (BTreeSet<String>, BTreeSet<String>) {
    let up = done_to(&whole_story(scene).driver.kernel);
    let mut other = scene.with_vm(ready).unwrap();
    changed(&mut other, None).unwrap();
    let change = done_to(&other.driver.kernel);
    let more = change.difference(&up).cloned().collect();
    (up, more)
}

#[test]
fn each_answer_of_a_write_is_told_with_its_code() {
    let mut broken = Vec::new();
    let mut seen = BTreeSet::new();
    let mut stories = 0;
    for scene in scenes() {
        let ready = scene.ready();
        let (up, more) = written_by(&scene, &ready);
        for (written, from_start) in
            up.iter().map(|w| (w, true)).chain(more.iter().map(|w| (w, false)))
        {
            seen.insert(row(written).to_owned());
            // What one device does not make, another may.
            let any = if row(written) == "create" { "*/create" } else { written };
            for fault in fails(any, 1, u32::MAX) {
                // A slice that is new has nothing of a former one.
                if !from_start && matches!(told(&fault).0, Some(NotBack | Dirty)) {
                    continue;
                }
                stories += 1;
                let tell = || -> Result<(), Broken> {
                    let mut story = if from_start {
                        scene.begun(Some(&fault))?
                    } else {
                        scene.with_vm(&ready)?
                    };
                    if from_start {
                        people(&mut story)?;
                    } else {
                        changed(&mut story, Some(&fault))?;
                    }
                    comes_of_it(&story, &fault)
                };
                if let Err(rule) = tell() {
                    broken.push(format!("{}: {fault:?}: {rule}", scene.name));
                }
            }
        }
    }
    println!("{stories} stories");
    assert!(broken.is_empty(), "{}:\n{}", broken.len(), broken.join("\n"));
    let rows: BTreeSet<String> = ANSWERS.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(seen, rows, "what is written to, and what has a row");
}

/// Drivers say whatever when they are full, and the GPU is not at fault.
#[test]
fn a_device_that_fills_up_unseen_is_full_whatever_its_driver_answers() {
    let text = include_str!("../../../examples/hosts/t4-l40s.toml");
    let mut host = HostFile::parse(text).unwrap();
    host.functions.truncate(1);
    let card = host.functions[0].address;
    let of_type = format!("/sys/class/mdev_bus/{card}/mdev_supported_types/nvidia-233");
    for (errno, others, code) in [
        (Errno::EIO, 2_u128, Code::NoCapacity),
        (Errno::EPERM, 2, Code::NoCapacity),
        (Errno::EINVAL, 2, Code::NoCapacity),
        (Errno::ENOMEM, 2, Code::NoCapacity),
        (Errno::EPERM, 1, Code::DeviceFailed),
    ] {
        let mut driver = Driver::new(&host, "").unwrap();
        let domain = attach(&mut driver, 1, "nvidia-t4-8q");
        driver.deaf = true;
        for other in 0..others {
            let uuid = Uuid::from_u128(77 + other).to_string();
            driver.kernel.write(&format!("{of_type}/create"), uuid.as_bytes()).unwrap();
        }
        let path = "*/create".to_owned();
        driver.kernel.inject(Fault::Write { path, nth: 1, times: u32::MAX, errno });
        let refusal = call(&mut driver, &domain, HookOperation::Prepare).unwrap_err();
        assert_eq!(refusal.code, code, "{errno} beside {others}: {refusal:?}");
    }
}

/// A PF that is being initialised, a GPU that is being reset: nobody is to lift a quarantine for that.
#[test]
fn a_driver_that_is_at_work_is_waited_for() {
    let mut told = 0;
    for scene in scenes() {
        for (path, errno) in
            [("*/sriov_numvfs", Errno::EBUSY), ("*/current_compute_partition", Errno::EPERM)]
        {
            let path = path.to_owned();
            let mut story =
                scene.begun(Some(&Fault::Write { path, nth: 1, times: 3, errno })).unwrap();
            people(&mut story).unwrap();
            let durable = story.driver.machine.durable();
            assert!(durable.quarantines.is_empty(), "{}: {durable:?}", scene.name);
            let failed = format!("{{\"failed\":{}}}", errno.0);
            let lines = story.driver.kernel.log_lines();
            told += lines.iter().filter(|line| line.contains(&failed)).count();
        }
    }
    // Each of both was told three times, of the latter by two GPUs' drivers.
    assert_eq!(told, 6);
}

/// `sriov_numvfs` says the same of a driver that makes none and of a PF that has lost its driver since it was looked at.
#[test]
fn a_driver_that_lets_go_before_the_write_is_not_one_that_makes_no_vfs() {
    let mixed = HostFile::parse(include_str!("../../../examples/hosts/mixed.toml")).unwrap();
    let (pf, own) = ("0000:0c:00.0", "/sys/bus/pci/drivers/gpusim");
    let config = format!("[[gpu]]\nmatch = {{ address = \"{pf}\" }}\nlayout = {{ vfs = 8 }}");
    for (away, comes_of_it) in [(2_000, Ok(())), (30_000, Err(Code::NotSettled))] {
        let mut driver = Driver::new(&mixed, "").unwrap();
        let unbind = Order::Write { file: format!("{own}/unbind"), data: Data::new(pf.as_bytes()) };
        driver.kernel.inject(Fault::Before { nth: 2, does: Box::new(unbind) });
        driver.config = config.clone();
        let request = driver.command(Command::Apply);
        driver.advance(away).unwrap();
        driver.kernel.write(&format!("{own}/bind"), pf.as_bytes()).unwrap();
        driver.advance(10_000).unwrap();
        let applied = driver.answers.remove(&request).unwrap();
        assert_eq!(applied.map(|_| ()).map_err(|why| why.code), comes_of_it);
        assert!(driver.machine.durable().quarantines.is_empty());
        assert_eq!(driver.machine.observation().vfs.len(), 8);
    }
}

/// i915 without `max_vfs`: all that there are would be none.
#[test]
fn a_layout_with_vfs_for_a_driver_that_has_switched_them_off_is_refused() {
    let mut mixed = HostFile::parse(include_str!("../../../examples/hosts/mixed.toml")).unwrap();
    let gpu = mixed.functions.iter_mut().find(|f| f.address.to_string() == "0000:0c:00.0").unwrap();
    gpu.sriov.as_mut().unwrap().total_vfs = 0;
    for vfs in ["\"all\"", "7"] {
        let mut driver = Driver::new(&mixed, "").unwrap();
        driver.config = format!(
            "[[gpu]]\nmatch = {{ address = \"0000:0c:00.0\" }}\nlayout = {{ vfs = {vfs} }}"
        );
        let refusal = order(&mut driver, Command::Apply).unwrap_err();
        assert_eq!(refusal.code, Code::Unsupported, "{refusal:?}");
        assert!(refusal.message.contains("switched its VFs off"), "{refusal:?}");
    }
}

#[test]
fn a_module_that_is_not_there_is_to_be_installed() {
    let scene = scenes().into_iter().find(|scene| scene.name.contains("Radeon")).unwrap();
    let (path, times, errno) = ("modprobe gim".to_owned(), u32::MAX, Errno::ENOENT);
    let mut story = scene.begun(Some(&Fault::Write { path, nth: 1, times, errno })).unwrap();
    people(&mut story).unwrap();
    let hints: Vec<String> = story.refused.iter().filter_map(|why| why.hint.clone()).collect();
    assert!(hints.iter().any(|hint| hint.contains("driver that brings gim")), "{hints:?}");
}

/// Why there is no such profile is that a GPU is kept from being sliced.
#[test]
fn what_a_quarantined_gpu_would_offer_is_refused_with_the_way_out() {
    let scene = scenes().remove(0);
    let (path, times, errno) = ("*/sriov_numvfs".to_owned(), u32::MAX, Errno::ENOMEM);
    let mut story = scene.begun(Some(&Fault::Write { path, nth: 1, times, errno })).unwrap();
    people(&mut story).unwrap();
    let why = story.refused.iter().find(|why| why.code == Code::NoProfile).unwrap();
    assert!(why.causes.iter().any(|cause| cause.contains("is quarantined: cannot")), "{why:?}");
    let way_out = why.hint.as_ref().unwrap();
    assert!(way_out.contains("gpuslice uncordon 0000:df:00.0"), "{way_out}");
}

/// The kernel's log does not tell of it, and an `uncordon` alone meets it again.
#[test]
fn a_number_of_vfs_that_is_refused_is_told_with_what_makes_room() {
    let quotas = |pf| {
        let drm = format!("/sys/bus/pci/devices/{pf}/drm/card*/*iov");
        format!("echo 0 | tee {drm}/vf*/gt*/*_quota; echo 1 | tee {drm}/pf/auto_provisioning")
    };
    let space = |_| {
        "switch \"Above 4G decoding\" and \"Resizable BAR\" on in the firmware, \
        or add pci=realloc to the kernel's arguments; then reboot"
            .to_owned()
    };
    let fewer = |pf| format!("set vfs to fewer for {pf}, then gpuslice apply");
    let told: [(Errno, &dyn Fn(PciAddress) -> String); 3] =
        [(Errno::ENOKEY, &quotas), (Errno::ENOMEM, &space), (Errno::ENOSPC, &fewer)];
    for (errno, hint) in told {
        let host = HostFile::parse(include_str!("../../../examples/hosts/sriov-8.toml")).unwrap();
        let mut driver = Driver::new(&host, "").unwrap();
        let pf = driver.kernel.pfs()[0];
        driver.kernel.inject(Fault::Enable { pf, nth: 1, times: 1, errno });
        driver.config =
            format!("[[gpu]]\nmatch = {{ address = \"{pf}\" }}\nlayout = {{ vfs = 4 }}\n");
        let refusal = order(&mut driver, Command::Apply).unwrap_err();
        assert_eq!(refusal.code, Code::DeviceFailed, "{refusal:?}");
        assert_eq!(refusal.hint.unwrap(), format!("{}; then gpuslice uncordon {pf}", hint(pf)));
    }
}
