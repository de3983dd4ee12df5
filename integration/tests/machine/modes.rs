//! Modes of GPUs: set with the VFs or alone, refused before they are written or by the driver.

use super::*;
use crate::domains::claim;
use crate::vgpu::asking;
use gpuslice_core::mode::Mode;
use gpuslice_core::request::ProfileRow;

pub const NPS4: &str = "[[gpu]]\nmatch = { vendor-device = \"1002:74a1\" }\n\
                    layout = { vfs = 8, compute = \"CPX\", memory = \"NPS4\" }";

pub fn set(driver: &Driver, mode: Mode) -> Vec<String> {
    let seen = driver.machine.observation();
    let pfs = driver.kernel.pfs().into_iter().map(ParentId::Pci);
    pfs.map(|pf| seen.mode(&pf, mode).map(ToString::to_string).unwrap_or_default()).collect()
}

fn profiles(driver: &mut Driver) -> Vec<ProfileRow> {
    match order(driver, Command::ListProfiles).unwrap() {
        Answer::Profiles { rows } => rows,
        other => panic!("{other:?}"),
    }
}

fn steps(driver: &mut Driver) -> Vec<String> {
    let plan = planned(driver);
    assert!(plan.blockers.is_empty(), "{plan:?}");
    plan.steps.into_iter().map(|row| row.step).collect()
}

/// The hive with other GPUs in it.
fn of_kind(device: u16) -> HostFile {
    let mut host = hive();
    for function in &mut host.functions {
        function.device = device;
    }
    host
}

fn layout(device: u16, layout: &str) -> String {
    format!("[[gpu]]\nmatch = {{ vendor-device = \"1002:{device:04x}\" }}\nlayout = {{ {layout} }}")
}

#[test]
fn modes_come_with_the_vfs_and_after_every_boot() {
    let mut driver = Driver::new(&hive(), NPS4).unwrap();
    let planned_steps = steps(&mut driver);
    assert_eq!(
        planned_steps[10..12],
        [
            "write memory_partition_mode=NPS4 on 0000:0c:00.0",
            "write accelerator_partition_profile=CPX on 0000:0c:00.0"
        ]
    );
    order(&mut driver, Command::Apply).unwrap();
    let so = |driver: &mut Driver| {
        assert_eq!(counts(driver), [8; 8]);
        assert_eq!(set(driver, Mode::Memory), ["NPS4"; 8]);
        assert_eq!(set(driver, Mode::Compute), ["CPX"; 8]);
        assert!(states(driver).iter().all(|(state, _)| state == "ok"), "{:?}", states(driver));
        assert!(!planned(driver).changed);
    };
    so(&mut driver);
    let row = profiles(&mut driver).remove(0);
    assert_eq!(row.profile.as_str(), "amd-mi300x-vf8-cpx-nps4");
    assert_eq!(row.memory, Some(24_544 << 20));
    driver.kernel.reboot();
    driver.kernel.settle();
    driver.restart().unwrap();
    driver.advance(60_000).unwrap();
    so(&mut driver);
    assert_eq!(driver.kernel.gpu_resets_by_reading(), 0);
}

/// The driver keeps its modes over loads and boots, and SPX goes with NPS1 alone.
#[test]
fn a_compute_mode_brings_the_memory_mode_that_it_needs() {
    let former = layout(0x74a1, "vfs = 1, compute = \"CPX\", memory = \"NPS4\"");
    let so = |driver: &mut Driver| {
        assert_eq!(set(driver, Mode::Memory), ["NPS1"; 8]);
        assert_eq!(set(driver, Mode::Compute), ["SPX"; 8]);
        assert_eq!(quarantines(driver), []);
        assert!(!planned(driver).changed);
    };
    for (more, loads) in [("", false), (", fabric-sharing = 2", true)] {
        let mut driver = Driver::new(&hive(), &former).unwrap();
        order(&mut driver, Command::Apply).unwrap();
        driver.config = layout(0x74a1, &format!("vfs = 1, compute = \"SPX\"{more}"));
        let changes = steps(&mut driver);
        assert_eq!(changes.iter().any(|step| step.contains("load driver")), loads, "{changes:?}");
        let memory = "write memory_partition_mode=NPS1 on 0000:0c:00.0";
        assert!(changes.iter().any(|step| step == memory), "{changes:?}");
        order(&mut driver, Command::Apply).unwrap();
        so(&mut driver);
    }
    // Edited and not applied, so it comes with the boot.
    let mut driver = Driver::new(&hive(), &former).unwrap();
    order(&mut driver, Command::Apply).unwrap();
    driver.config = layout(0x74a1, "vfs = 1, compute = \"SPX\"");
    driver.kernel.reboot();
    driver.kernel.settle();
    driver.restart().unwrap();
    driver.advance(60_000).unwrap();
    so(&mut driver);
    // One that goes with several leaves what there is.
    driver.config = layout(0x74a1, "vfs = 1, compute = \"CPX\"");
    let changes = steps(&mut driver);
    assert!(!changes.iter().any(|step| step.contains("memory")), "{changes:?}");
}

#[test]
fn a_mode_is_changed_alone_and_only_by_a_person() {
    let mut driver = applied();
    assert_eq!(set(&driver, Mode::Memory), ["NPS1"; 8]);
    driver.config = NPS4.to_owned();
    let changes = steps(&mut driver);
    assert!(!changes.iter().any(|step| step.contains("load driver")), "{changes:?}");
    order(&mut driver, Command::Apply).unwrap();
    assert_eq!(set(&driver, Mode::Memory), ["NPS4"; 8]);
    // Somebody sets it back.
    let path = "/sys/bus/pci/devices/0000:5c:00.0/memory_partition_mode";
    driver.kernel.write(path, b"NPS1").unwrap();
    driver.advance(10_000).unwrap();
    driver.wake_up().unwrap();
    assert_eq!(set(&driver, Mode::Memory), ["NPS1"; 8]);
    let (state, reason) = states(&mut driver).remove(0);
    assert_eq!(state, "drift");
    assert!(reason.unwrap().contains("memory=NPS4"));
    order(&mut driver, Command::Apply).unwrap();
    assert_eq!(set(&driver, Mode::Memory), ["NPS4"; 8]);
}

#[test]
fn no_mode_is_set_while_a_vf_of_the_hive_is_in_use() {
    let mut driver = applied();
    let vf = *driver.machine.observation().vfs.keys().next_back().unwrap();
    bind_by_hand(&mut driver.kernel, vf, "vfio-pci");
    driver.kernel.open(5000, "some-tool", SliceId::Vf(vf)).unwrap();
    driver.wake_up().unwrap();
    driver.config = NPS4.to_owned();
    let before = driver.kernel.kernel_log().unwrap().len();
    let refusal = order(&mut driver, Command::Apply).unwrap_err();
    assert_eq!(refusal.code, Code::Held, "{refusal}");
    assert!(refusal.one_line().contains("some-tool"), "{refusal:?}");
    // The driver was not even asked.
    assert_eq!(driver.kernel.kernel_log().unwrap().len(), before);
    driver.kernel.kill(5000);
    let domain = attach(&mut driver, 1, "amd-mi300x-vf8-cpx");
    call(&mut driver, &domain, HookOperation::Prepare).unwrap();
    let refusal = order(&mut driver, Command::Apply).unwrap_err();
    assert_eq!(refusal.code, Code::InUse, "{refusal}");
    assert!(refusal.message.contains("vm1"), "{refusal}");
    call(&mut driver, &domain, HookOperation::Release).unwrap();
    driver.advance(10_000).unwrap();
    order(&mut driver, Command::Apply).unwrap();
    assert_eq!(set(&driver, Mode::Memory), ["NPS4"; 8]);
}

#[test]
fn what_the_driver_refuses_without_an_error_is_told_by_the_kernel_s_log() {
    let pf: PciAddress = "0000:0c:00.0".parse().unwrap();
    let mut driver = applied();
    driver.config = NPS4.to_owned();
    driver.kernel.inject(Fault::Refuses { pf, nth: 1, times: 1 });
    let began = driver.kernel.now_ms();
    let request = driver.command(Command::Apply);
    driver.drain().unwrap();
    let refusal = driver.answers.remove(&request).unwrap().unwrap_err();
    assert_eq!(refusal.code, Code::DeviceFailed, "{refusal}");
    assert!(refusal.one_line().contains("firmware did not answer"), "{refusal:?}");
    assert_eq!(driver.kernel.now_ms(), began, "it is known at once");
    assert_eq!(quarantines(&driver), [Code::DeviceFailed; 8]);
    order(&mut driver, Command::Apply).unwrap();
    assert_eq!(set(&driver, Mode::Memory), ["NPS4"; 8]);
    assert_eq!(quarantines(&driver), []);
}

#[test]
fn modes_that_do_not_go_together_are_never_written() {
    for (device, bad, hint) in [
        (0x74a1, "vfs = 1, compute = \"DPX\"", "NPS1 SPX, NPS1 CPX, NPS4 CPX"),
        (0x74a1, "vfs = 1, compute = \"SPX\", memory = \"NPS4\"", "NPS4 CPX"),
        (0x74a1, "vfs = 2, memory = \"NPS4\"", "NPS1 DPX, NPS1 CPX"),
        (0x74a1, "vfs = 8, compute = \"QPX\"", "NPS1 CPX, NPS4 CPX"),
        (0x74a1, "vfs = 8, memory = \"NPS8\"", "NPS1 CPX, NPS4 CPX"),
        (0x74a2, "vfs = 1, compute = \"CPX\"", "NPS1 SPX, NPS1 QPX"),
        (0x75a3, "vfs = 8, memory = \"NPS1\"", "NPS2 CPX"),
        (0x740f, "vfs = 1, compute = \"CPX\"", "NPS1 SPX"),
        (0x74a5, "vfs = 1, memory = \"NPS2\"", "NPS1 SPX"),
    ] {
        let mut driver = Driver::new(&of_kind(device), &layout(device, bad)).unwrap();
        let refusal = order(&mut driver, Command::Apply).unwrap_err();
        assert_eq!(refusal.code, Code::BadConfig, "{bad}: {refusal}");
        assert!(refusal.hint.as_ref().unwrap().contains(hint), "{bad}: {refusal:?}");
        assert_eq!(counts(&driver), [0; 8], "{bad}");
    }
}

/// GPU, its name, and every memory and compute mode that go together, by the number of VFs: the tables of GIM 8.0 and of
/// libgv's capabilities, written down a second time.
const LEGAL: [(u16, &str, &str); 8] = [
    (0x74a1, "mi300x", MI300X),
    (0x74a9, "mi300x-hf", MI300X),
    (0x74a2, "mi308x", MI308X),
    (0x74a8, "mi308x", MI308X),
    (0x75a0, "mi350x", MI350X),
    (0x75a3, "mi355x", MI350X),
    (0x74a5, "mi325x", "1 NPS1 SPX"),
    (0x740f, "mi210", "1 NPS1 SPX"),
];
const MI300X: &str = "1 NPS1 SPX,1 NPS1 CPX,1 NPS4 CPX,2 NPS1 DPX,2 NPS1 CPX,4 NPS1 QPX,4 NPS1 CPX,\
                      4 NPS4 QPX,4 NPS4 CPX,8 NPS1 CPX,8 NPS4 CPX";
const MI308X: &str = "1 NPS1 SPX,1 NPS1 QPX,2 NPS1 DPX,4 NPS1 QPX";
const MI350X: &str = "1 NPS1 SPX,1 NPS2 DPX,1 NPS2 QPX,1 NPS2 CPX,2 NPS2 DPX,4 NPS2 QPX,8 NPS2 CPX";

fn two_of(device: u16) -> HostFile {
    let mut host = of_kind(device);
    host.functions.truncate(2);
    host
}

fn in_words(vfs: &str, memory: &str, compute: &str) -> String {
    format!("vfs = {vfs}, memory = \"{memory}\", compute = \"{compute}\"")
}

#[test]
fn every_legal_combination_comes_true() {
    for (device, name, legal) in LEGAL {
        for combination in legal.split(',') {
            let words: Vec<&str> = combination.split(' ').collect();
            let [vfs, memory, compute] = words[..] else { panic!("{combination}") };
            let config = layout(device, &in_words(vfs, memory, compute));
            let mut driver = Driver::new(&two_of(device), &config).unwrap();
            order(&mut driver, Command::Apply).unwrap();
            assert_eq!(set(&driver, Mode::Memory), [memory; 2], "{name} {combination}");
            assert_eq!(set(&driver, Mode::Compute), [compute; 2], "{name} {combination}");
            let profile = profiles(&mut driver).remove(0).profile;
            let nps = match memory {
                "NPS1" => String::new(),
                other => format!("-{}", other.to_lowercase()),
            };
            let want = format!("amd-{name}-vf{vfs}-{}{nps}", compute.to_lowercase());
            assert_eq!(profile.as_str(), want);
        }
    }
}

#[test]
fn every_other_combination_is_refused_before_anything_is_written() {
    let mut refused = 0;
    for (device, name, legal) in LEGAL {
        let legal: Vec<&str> = legal.split(',').collect();
        let mut driver = Driver::new(&two_of(device), "").unwrap();
        let untouched = driver.executed;
        for vfs in ["1", "2", "4", "8"] {
            // Of a number that is not in the tables only the driver knows.
            if !legal.iter().any(|row| row.starts_with(vfs)) {
                continue;
            }
            for memory in ["NPS1", "NPS2", "NPS4", "NPS8"] {
                for compute in ["SPX", "DPX", "TPX", "QPX", "CPX"] {
                    let combination = format!("{vfs} {memory} {compute}");
                    if legal.contains(&combination.as_str()) {
                        continue;
                    }
                    driver.config = layout(device, &in_words(vfs, memory, compute));
                    let refusal = order(&mut driver, Command::Apply).unwrap_err();
                    assert_eq!(refusal.code, Code::BadConfig, "{name} {combination}: {refusal}");
                    assert_eq!(driver.executed, untouched, "{name} {combination}");
                    refused += 1;
                }
            }
        }
    }
    // 20 for each number of VFs, less the legal ones.
    assert_eq!(refused, 20 * (4 + 4 + 3 + 3 + 4 + 4 + 1 + 1) - (11 + 11 + 4 + 4 + 7 + 7 + 1 + 1));
}

#[test]
fn what_a_hive_shares_all_its_layouts_say() {
    let one = "[[gpu]]\nmatch = { address = \"0000:0c:00.0\" }\n\
               layout = { vfs = 8, memory = \"NPS4\" }";
    for config in [one.to_owned(), format!("{one}\n{LAYOUT}")] {
        let mut driver = Driver::new(&hive(), &config).unwrap();
        let refusal = order(&mut driver, Command::Apply).unwrap_err();
        assert_eq!(refusal.code, Code::BadConfig, "{refusal}");
        assert!(refusal.message.contains("0000:22:00.0 is not to be NPS4"), "{refusal}");
    }
}

#[test]
fn parameters_of_the_driver_are_options_beside_the_number() {
    let config = layout(0x74a1, "vfs = 4, fabric-sharing = 4, scheduler = 2");
    let mut driver = Driver::new(&hive(), &config).unwrap();
    order(&mut driver, Command::Apply).unwrap();
    let written = read_text(&driver.kernel, CONFIG).unwrap();
    assert!(
        written.ends_with("vf_num=4,4,4,4,4,4,4,4 fb_sharing_mode=4 sch_policy=2"),
        "{written}"
    );
    assert_eq!(set(&driver, Mode::FabricSharing), ["4"; 8]);
    assert_eq!(set(&driver, Mode::Scheduler), ["2"; 8]);
    assert!(!planned(&mut driver).changed);
    // A change of one is a reload.
    driver.config = config.replace("scheduler = 2", "scheduler = 3");
    assert!(steps(&mut driver).contains(&"unload driver gim".to_owned()));
    order(&mut driver, Command::Apply).unwrap();
    assert_eq!(set(&driver, Mode::Scheduler), ["3"; 8]);
    driver.config = config.replace("scheduler = 2", "scheduler = 7");
    let refusal = order(&mut driver, Command::Apply).unwrap_err();
    assert!(refusal.one_line().contains("one of 1, 2, 3, 4, 5"), "{refusal:?}");
    driver.config = format!(
        "[[gpu]]\nmatch = {{ address = \"0000:22:00.0\" }}\nlayout = {{ vfs = 4, scheduler = 1 }}\n{config}"
    );
    let refusal = order(&mut driver, Command::Apply).unwrap_err();
    assert!(refusal.message.contains("one for all GPUs of gim"), "{refusal}");
    // One that says the same in other words is no reason to load it again.
    driver.kernel.replace("/etc/modprobe.d/zz.conf", b"options gim sch_policy=2,2\n").unwrap();
    driver.config.clone_from(&config);
    order(&mut driver, Command::Apply).unwrap();
    assert!(!planned(&mut driver).changed);
    // What another file sets is not taken for ours.
    driver.kernel.replace("/etc/modprobe.d/zz.conf", b"options gim sch_policy=5\n").unwrap();
    driver.config = config.replace("scheduler = 2", "scheduler = 3");
    let refusal = order(&mut driver, Command::Apply).unwrap_err();
    assert!(refusal.message.contains("zz.conf gives gim sch_policy=5"), "{refusal:?}");
    // Where it cannot be read, that is seen afterwards.
    let (path, errno) = ("/etc/modprobe.d/zz.conf".to_owned(), Errno::EIO);
    driver.kernel.inject(Fault::Read { path, nth: 1, times: u32::MAX, errno });
    let refusal = order(&mut driver, Command::Apply).unwrap_err();
    assert!(refusal.one_line().contains("parameters/sch_policy reads 5, not 3"), "{refusal:?}");
}

/// Of a GPU of which no table says what goes together.
#[test]
fn what_the_driver_makes_another_mode_of_is_refused() {
    let config = layout(0x75a8, "vfs = 2, memory = \"NPS8\"");
    let mut driver = Driver::new(&of_kind(0x75a8), &config).unwrap();
    let refusal = order(&mut driver, Command::Apply).unwrap_err();
    assert_eq!(refusal.code, Code::BadConfig, "{refusal:?}");
    assert!(refusal.message.contains("makes NPS4 of memory NPS8"), "{refusal:?}");
    assert_eq!(counts(&driver), [0; 8]);
}

/// The driver would be loaded anew for all GPUs, each time somebody says `apply`.
#[test]
fn a_parameter_that_cannot_be_read_is_told_and_no_reason_for_a_reload() {
    let config = LAYOUT.replace("vfs = 8", "vfs = 8, scheduler = 1");
    let mut driver = Driver::new(&hive(), &config).unwrap();
    order(&mut driver, Command::Apply).unwrap();
    assert!(!planned(&mut driver).changed);
    let path = "/sys/module/gim/parameters/sch_policy".to_owned();
    driver.kernel.inject(Fault::Read { path, nth: 1, times: u32::MAX, errno: Errno::EIO });
    driver.wake_up().unwrap();
    assert!(!planned(&mut driver).changed);
    let problems = &driver.machine.observation().problems;
    assert!(problems.iter().any(|p| p.path.ends_with("sch_policy")), "{problems:?}");
}

#[test]
fn a_gpu_without_partitions_has_no_modes_but_the_driver_s() {
    let config = "[[gpu]]\nmatch = { driver = \"gim\" }\nlayout = { vfs = 2, compute = \"CPX\" }";
    let mut driver = Driver::new(&radeon(), config).unwrap();
    let refusal = order(&mut driver, Command::Apply).unwrap_err();
    assert_eq!(refusal.code, Code::BadConfig, "{refusal}");
    assert!(refusal.message.contains("has no mode compute"), "{refusal}");
    assert!(driver.machine.observation().problems.is_empty());
    driver.config = config.replace("compute = \"CPX\"", "scheduler = 1");
    order(&mut driver, Command::Apply).unwrap();
    assert_eq!(counts(&driver), [2, 2]);
    assert_eq!(driver.kernel.gpu_resets_by_reading(), 0);
}

fn bare_metal() -> HostFile {
    let mut host = with_amdgpu();
    host.functions.truncate(2);
    for function in &mut host.functions {
        function.driver = Some("amdgpu".to_owned());
    }
    host
}

#[test]
fn bare_metal_partitions_are_shown_and_the_compute_mode_is_set() {
    let mut driver = Driver::new(&bare_metal(), &layout(0x74a1, "compute = \"QPX\"")).unwrap();
    assert_eq!(set(&driver, Mode::Compute), ["SPX"; 2]);
    assert_eq!(set(&driver, Mode::Memory), ["NPS1"; 2]);
    let pf: PciAddress = "0000:0c:00.0".parse().unwrap();
    driver.kernel.inject(Fault::Computes { pf });
    let refusal = order(&mut driver, Command::Apply).unwrap_err();
    assert_eq!(refusal.code, Code::Held, "{refusal}");
    assert!(quarantines(&driver).is_empty());
    driver.kernel.clear_faults();
    order(&mut driver, Command::Apply).unwrap();
    assert_eq!(set(&driver, Mode::Compute), ["QPX"; 2]);
    assert!(states(&mut driver).iter().all(|(state, _)| state == "ok"));
    assert!(profiles(&mut driver).is_empty());
    for (bad, code, said) in [
        ("compute = \"QPX\", memory = \"NPS4\"", Code::Unsupported, "modprobe -r amdgpu"),
        ("compute = \"TPX\"", Code::BadConfig, "one of SPX, DPX, QPX, CPX"),
        ("scheduler = 1", Code::BadConfig, "has no mode scheduler"),
        ("vfs = 1, compute = \"QPX\"", Code::HostDriver, "blacklist amdgpu"),
    ] {
        driver.config = layout(0x74a1, bad);
        let refusal = order(&mut driver, Command::Apply).unwrap_err();
        assert_eq!(refusal.code, code, "{bad}: {refusal}");
        assert!(refusal.one_line().contains(said), "{bad}: {refusal:?}");
    }
    assert_eq!(set(&driver, Mode::Compute), ["QPX"; 2]);
}

/// One reading tells nothing of its modes, and the next one does.
fn untold_once(driver: &mut Driver, faults: &[Fault]) {
    let before = states(driver);
    for fault in faults {
        driver.kernel.inject(fault.clone());
        driver.wake_up().unwrap();
        assert!(quarantines(driver).is_empty(), "{fault:?}: {:?}", states(driver));
        assert!(!driver.machine.observation().problems.is_empty(), "{fault:?}");
        driver.kernel.clear_faults();
        driver.wake_up().unwrap();
        driver.advance(10_000).unwrap();
        assert_eq!(states(driver), before, "{fault:?}");
    }
}

fn eio(name: &str) -> Fault {
    let path = format!("/sys/bus/pci/devices/*/{name}");
    Fault::Read { path, nth: 1, times: 1, errno: Errno::EIO }
}

#[test]
fn a_gpu_that_does_not_tell_its_modes_once_is_in_no_quarantine() {
    let mut driver = Driver::new(&hive(), NPS4).unwrap();
    order(&mut driver, Command::Apply).unwrap();
    let resets = |driver: &Driver| Fault::Resets { pf: driver.kernel.pfs()[0] };
    let faults =
        [resets(&driver), eio("accelerator_partition_profile"), eio("memory_partition_mode")];
    untold_once(&mut driver, &faults);
    let only = layout(0x74a5, "vfs = 1, compute = \"SPX\", memory = \"NPS1\"");
    let mut driver = Driver::new(&of_kind(0x74a5), &only).unwrap();
    order(&mut driver, Command::Apply).unwrap();
    untold_once(&mut driver, &faults);
    let mut driver = Driver::new(&bare_metal(), &layout(0x74a1, "compute = \"QPX\"")).unwrap();
    order(&mut driver, Command::Apply).unwrap();
    let faults = [resets(&driver), eio("current_compute_partition")];
    untold_once(&mut driver, &faults);
}

/// To set what may be so already would take the VFs of a hive, or be refused for the VMs that have them.
#[test]
fn a_mode_that_is_not_told_is_not_set() {
    let bare = layout(0x74a1, "compute = \"QPX\"");
    let others = [NPS4.replace("NPS4", "NPS1"), bare.replace("QPX", "CPX")];
    for ((host, config), other) in [(hive(), NPS4), (bare_metal(), &bare)].into_iter().zip(others) {
        let mut driver = Driver::new(&host, config).unwrap();
        order(&mut driver, Command::Apply).unwrap();
        let pfs = [0, 1].map(|nth| driver.kernel.pfs()[nth]);
        for pf in pfs {
            driver.kernel.inject(Fault::Resets { pf });
            driver.wake_up().unwrap();
            assert_eq!(steps(&mut driver), [""; 0], "{pf}");
            driver.config = other.clone();
            let refusal = order(&mut driver, Command::Apply).unwrap_err();
            assert_eq!(refusal.code, Code::Reshaping, "{refusal:?}");
            driver.kernel.clear_faults();
            driver.wake_up().unwrap();
            driver.config = config.to_owned();
        }
        driver.config = other;
        order(&mut driver, Command::Apply).unwrap();
        assert!(states(&mut driver).iter().all(|(state, _)| state == "ok"));
    }
}

/// Only `apply` sets what somebody has set to something else, so it does not pass over one that is not told.
#[test]
fn what_somebody_else_set_is_not_taken_for_right_because_it_is_not_told() {
    let mut driver = Driver::new(&bare_metal(), &layout(0x74a1, "compute = \"QPX\"")).unwrap();
    order(&mut driver, Command::Apply).unwrap();
    let pf = driver.kernel.pfs()[0];
    driver.kernel.inject(Fault::Resets { pf });
    driver.wake_up().unwrap();
    order(&mut driver, Command::Apply).unwrap();
    driver.kernel.clear_faults();
    let file = format!("/sys/bus/pci/devices/{pf}/current_compute_partition");
    driver.kernel.write(&file, b"CPX").unwrap();
    driver.wake_up().unwrap();
    assert_eq!(set(&driver, Mode::Compute), ["CPX", "QPX"]);
    driver.kernel.inject(Fault::Resets { pf });
    for _ in 0..2 {
        driver.wake_up().unwrap();
        assert_eq!(set(&driver, Mode::Compute), ["", "QPX"]);
        let refusal = order(&mut driver, Command::Apply).unwrap_err();
        assert_eq!(refusal.code, Code::Reshaping, "{refusal:?}");
    }
    driver.kernel.clear_faults();
    driver.wake_up().unwrap();
    order(&mut driver, Command::Apply).unwrap();
    assert_eq!(set(&driver, Mode::Compute), ["QPX"; 2]);
}

#[test]
fn a_mode_that_never_comes_quarantines_the_hive() {
    let mut host = hive();
    host.drivers[0].gim.as_mut().unwrap().reset_ms = 1_000_000;
    let mut driver = Driver::new(&host, LAYOUT).unwrap();
    order(&mut driver, Command::Apply).unwrap();
    driver.config = NPS4.to_owned();
    let refusal = order(&mut driver, Command::Apply).unwrap_err();
    assert_eq!(refusal.code, Code::DeviceFailed, "{refusal}");
    // GIM writes addresses in its own way.
    assert_eq!(refusal.hint.as_deref(), Some("dmesg | grep gim; then gpuslice apply"));
    assert_eq!(quarantines(&driver), [Code::DeviceFailed; 8]);
    driver.advance(1_000_000).unwrap();
    order(&mut driver, Command::Apply).unwrap();
    assert_eq!(set(&driver, Mode::Memory), ["NPS4"; 8]);
    assert_eq!(quarantines(&driver), []);
}

/// The layout that is asked for is a GPU's, also where a network card has VFs and the lower address.
#[test]
fn nobody_is_told_to_lay_out_a_network_card() {
    let text = include_str!("../../../examples/hosts/mixed.toml");
    let mut host = HostFile::parse(text).unwrap();
    host.functions.truncate(2);
    host.virtuals.clear();
    let mut driver = Driver::new(&host, "").unwrap();
    let command = asking(1, claim(&"gpu0".parse().unwrap(), "amd-mi300x-vf1", 1));
    let refusal = order(&mut driver, command).unwrap_err();
    let hint = refusal.hint.as_deref().unwrap();
    assert!(hint.contains("write a layout for 0000:0c:00.0"), "{refusal:?}");
}

/// A V620 has SR-IOV, and GIM does not take it: without amdgpu it would be of no use (amd/MxGPU-Virtualization#6).
#[test]
fn a_gpu_that_gim_does_not_take_is_left_to_amdgpu() {
    let mut host = bare_metal();
    for function in &mut host.functions {
        function.device = 0x73a1;
    }
    let mut driver = Driver::new(&host, &layout(0x73a1, "vfs = 1")).unwrap();
    let refusal = order(&mut driver, Command::Apply).unwrap_err();
    assert_eq!(refusal.code, Code::Unsupported, "{refusal}");
    assert!(refusal.hint.as_deref().unwrap().starts_with("set vfs to 0 for "), "{refusal:?}");
    let mut driver = Driver::new(&host, "").unwrap();
    let (state, reason) = states(&mut driver).remove(0);
    assert_eq!(state, "unsliceable");
    assert!(!reason.unwrap().contains("blacklist"));
}

#[test]
fn a_whole_instinct_warns_of_its_reset() {
    let mut driver = Driver::new(&bare_metal(), "").unwrap();
    let (state, reason) = states(&mut driver).remove(0);
    assert_eq!(state, "unsliceable");
    assert!(reason.as_ref().unwrap().contains("until the host reboots"), "{reason:?}");
    assert!(reason.unwrap().contains("blacklist amdgpu"));
}

#[test]
fn a_vf_that_its_pf_does_not_link_yet_is_no_gpu_of_its_own() {
    let mut driver = applied();
    let vf = *driver.machine.observation().vfs.keys().next().unwrap();
    driver.kernel.inject(Fault::Vanish { path: format!("*/{}/virtfn0", "0000:0c:00.0"), nth: 1 });
    driver.wake_up().unwrap();
    let seen = driver.machine.observation();
    assert!(!seen.vfs.contains_key(&vf));
    assert!(seen.whole.is_empty(), "{:?}", seen.whole);
}
