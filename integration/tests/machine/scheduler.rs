//! Stories of a mode that a driver of the host reads when it is loaded and at no other time: how vGPUs of NVIDIA's GPUs
//! take turns.

use crate::driver::Driver;
use crate::reads::Counting;
use crate::vgpu::{attach, order, start, stop};
use gpuslice_core::errno::Errno;
use gpuslice_core::ids::{ParentId, PciAddress};
use gpuslice_core::mode::Mode;
use gpuslice_core::observe::Observer;
use gpuslice_core::port::{HostWrite, read_text};
use gpuslice_core::refusal::{Code, Refusal};
use gpuslice_core::request::{Answer, Command, ParentRow, PlanRow, StatusRow};
use gpuslice_sim::{Content, Fault, HostFile};
use std::cell::RefCell;

const GPU: &str = "0000:41:00.0";
const OTHER: &str = "0000:61:00.0";
const CONFIG: &str = "/etc/modprobe.d/gpuslice-nvidia.conf";
const THEIRS: &str = "/etc/modprobe.d/nvidia.conf";
const TOLD: &str = "/proc/driver/nvidia/params";
const LATER: &str = "scheduler is best-effort, equal-share with the next load of nvidia";
const MARK: &str = "# Written by gpuslice from its layouts; it is written anew, so edit those.";

fn a40() -> HostFile {
    let text = include_str!("../../../examples/hosts/a40-vfio.toml");
    let mut host = HostFile::parse(text).unwrap();
    host.functions.truncate(2);
    host
}

/// Both GPUs, the first with more.
fn layout(more: &str) -> String {
    format!(
        "[[gpu]]\nmatch = {{ address = \"{GPU}\" }}\nlayout = {{ vfs = \"all\"{more} }}\n\
         [[gpu]]\nmatch = {{ vendor-device = \"10de:2235\" }}\nlayout = {{ vfs = \"all\" }}"
    )
}

fn equal_share() -> String {
    layout(", scheduler = \"equal-share\"")
}

fn option(of: &str) -> String {
    format!("{MARK}\noptions nvidia NVreg_RegistryDwordsPerDevice=\"{of}\"")
}

fn ready(config: &str) -> Driver {
    let mut driver = Driver::new(&a40(), config).unwrap();
    driver.advance(10_000).unwrap();
    driver
}

fn apply(driver: &mut Driver, config: &str) -> Result<PlanRow, Refusal> {
    config.clone_into(&mut driver.config);
    match order(driver, Command::Apply)? {
        Answer::Plan(plan) => Ok(plan),
        other => panic!("{other:?}"),
    }
}

fn plan(driver: &mut Driver) -> PlanRow {
    match order(driver, Command::Plan).unwrap() {
        Answer::Plan(plan) => plan,
        other => panic!("{other:?}"),
    }
}

fn rows(driver: &mut Driver) -> Vec<ParentRow> {
    match order(driver, Command::ListParents).unwrap() {
        Answer::Parents { rows } => rows,
        other => panic!("{other:?}"),
    }
}

fn row(driver: &mut Driver, parent: &str) -> ParentRow {
    rows(driver).into_iter().find(|row| row.parent.to_string() == parent).unwrap()
}

fn status(driver: &mut Driver) -> StatusRow {
    match order(driver, Command::Status).unwrap() {
        Answer::Status(status) => status,
        other => panic!("{other:?}"),
    }
}

/// What a GPU's row says of its scheduler: now, and after a load.
fn shown(driver: &mut Driver, parent: &str) -> (Option<String>, Option<String>) {
    let row = row(driver, parent);
    (row.modes.get("scheduler").cloned(), row.coming.get("scheduler").cloned())
}

fn told(now: &str, coming: Option<&str>) -> (Option<String>, Option<String>) {
    (Some(now.to_owned()), coming.map(str::to_owned))
}

/// By which key the simulated GPU goes.
fn goes_by(driver: &Driver, parent: &str) -> u32 {
    driver.kernel.scheduler(parent.parse().unwrap()).unwrap()
}

fn reboot(driver: &mut Driver) {
    driver.kernel.reboot();
    driver.kernel.settle();
    driver.restart().unwrap();
    driver.advance(60_000).unwrap();
}

fn config_of(driver: &Driver) -> String {
    read_text(&driver.kernel, CONFIG).unwrap()
}

#[test]
fn what_a_layout_says_comes_with_the_next_load_of_the_driver() {
    let mut driver = ready(&layout(""));
    assert_eq!(shown(&mut driver, GPU), told("best-effort", None));
    driver.config = equal_share();
    let before = plan(&mut driver);
    let steps: Vec<&str> = before.steps.iter().map(|row| row.step.as_str()).collect();
    let writes = "write \"options nvidia NVreg_RegistryDwordsPerDevice=\\\"pci=0000:41:00.0;\
                  RmPVMRL=0x01\\\"\" to /etc/modprobe.d/gpuslice-nvidia.conf";
    assert_eq!(steps, [writes]);
    assert_eq!(before.later, [format!("{GPU}: {LATER}")]);
    // A VM keeps nobody from it, and runs on.
    let domain = attach(&mut driver, 1, "nvidia-a40-8q");
    start(&mut driver, &domain).unwrap();
    assert!(apply(&mut driver, &equal_share()).unwrap().changed);
    assert_eq!(config_of(&driver), option("pci=0000:41:00.0;RmPVMRL=0x01"));
    assert_eq!(goes_by(&driver, GPU), 0);
    assert_eq!(shown(&mut driver, GPU), told("best-effort", Some("equal-share")));
    let gpu = row(&mut driver, GPU);
    assert_eq!((gpu.state.as_str(), gpu.reason.as_deref()), ("ok", Some(LATER)));
    assert_eq!(row(&mut driver, OTHER).reason, None);
    let now = status(&mut driver);
    assert!(now.settled, "{now:?}");
    assert_eq!(now.warnings, [format!("{GPU}: {LATER}")]);
    let again = plan(&mut driver);
    assert_eq!((again.changed, again.steps.len()), (false, 0), "{again:?}");
    assert_eq!(again.later, [format!("{GPU}: {LATER}")]);
    assert!(!apply(&mut driver, &equal_share()).unwrap().changed);
    stop(&mut driver, &domain);
    start(&mut driver, &domain).unwrap();
    stop(&mut driver, &domain);

    reboot(&mut driver);
    assert_eq!((goes_by(&driver, GPU), goes_by(&driver, OTHER)), (1, 0));
    assert_eq!(shown(&mut driver, GPU), told("equal-share", None));
    let gpu = row(&mut driver, GPU);
    assert_eq!((gpu.state.as_str(), gpu.reason), ("ok", None));
    let at_rest = plan(&mut driver);
    assert_eq!((at_rest.changed, at_rest.later.len()), (false, 0), "{at_rest:?}");
    assert_eq!(status(&mut driver).warnings, [""; 0]);
}

#[test]
fn what_was_set_outlives_vms_and_sriov_manage_and_boots() {
    let mut driver = ready(&equal_share());
    reboot(&mut driver);
    assert_eq!(goes_by(&driver, GPU), 1);
    let domain = attach(&mut driver, 1, "nvidia-a40-8q");
    for _ in 0..2 {
        start(&mut driver, &domain).unwrap();
        stop(&mut driver, &domain);
        assert_eq!(goes_by(&driver, GPU), 1);
    }
    // All VFs are taken away and made anew, which takes the driver off the GPU and puts it on again.
    let none = equal_share().replace("vfs = \"all\", s", "vfs = 0, s");
    apply(&mut driver, &none).unwrap();
    assert_eq!(row(&mut driver, GPU).vfs, Some(0));
    assert_eq!(config_of(&driver), option("pci=0000:41:00.0;RmPVMRL=0x01"));
    assert_eq!(goes_by(&driver, GPU), 1);
    apply(&mut driver, &equal_share()).unwrap();
    assert_eq!(row(&mut driver, GPU).vfs, Some(32));
    assert_eq!(goes_by(&driver, GPU), 1);
    reboot(&mut driver);
    assert_eq!(goes_by(&driver, GPU), 1);
    assert_eq!(row(&mut driver, GPU).state, "ok");
    // Nothing of it was written again.
    assert_eq!(config_of(&driver), option("pci=0000:41:00.0;RmPVMRL=0x01"));
}

#[test]
fn the_option_of_a_gpu_stays_while_the_driver_does_not_have_it() {
    let mut driver = ready(
        &equal_share()
            .replace("{ vfs = \"all\" }", "{ vfs = \"all\", scheduler = \"fixed-share-3ms\" }"),
    );
    let both = option("pci=0000:41:00.0;RmPVMRL=0x01;pci=0000:61:00.0;RmPVMRL=0x30013");
    assert_eq!(config_of(&driver), both);
    for gpu in [GPU, OTHER] {
        driver.kernel.write("/sys/bus/pci/drivers/nvidia/unbind", gpu.as_bytes()).unwrap();
        driver.wake_up().unwrap();
        driver.advance(10_000).unwrap();
        assert_eq!(config_of(&driver), both, "{gpu}");
    }
    assert!(driver.machine.durable().quarantines.is_empty());
    reboot(&mut driver);
    assert_eq!(config_of(&driver), both);
    assert_eq!((goes_by(&driver, GPU), goes_by(&driver, OTHER)), (1, 0x0003_0013));
    assert_eq!(shown(&mut driver, OTHER), told("fixed-share-3ms", None));
}

#[test]
fn the_option_of_a_gpu_goes_with_the_gpu() {
    let mut driver = ready(&equal_share());
    let bare = layout("").replace("{ vfs = \"all\" }", "{ vfs = 0, scheduler = \"fixed-share\" }");
    apply(&mut driver, &bare).unwrap();
    let both = option("pci=0000:41:00.0;RmPVMRL=0x11;pci=0000:61:00.0;RmPVMRL=0x11");
    assert_eq!(config_of(&driver), both);
    // What cannot be read may be there.
    let path = format!("/sys/bus/pci/devices/{OTHER}/vendor");
    let unread = Fault::Read { path, nth: 1, times: 9, errno: Errno::EIO };
    driver.kernel.inject(unread);
    apply(&mut driver, &bare).unwrap();
    assert_eq!(config_of(&driver), both);
    driver.kernel.clear_faults();
    driver.kernel.unplug(OTHER.parse().unwrap());
    driver.kernel.settle();
    driver.wake_up().unwrap();
    driver.advance(10_000).unwrap();
    assert_eq!(config_of(&driver), option("pci=0000:41:00.0;RmPVMRL=0x11"));
    // With another it is as with a new one.
    driver.kernel.plug(OTHER.parse().unwrap());
    driver.kernel.settle();
    driver.wake_up().unwrap();
    driver.advance(10_000).unwrap();
    assert_eq!(config_of(&driver), both);
}

/// So many GPUs, one to a bus.
fn many(count: u8) -> HostFile {
    let mut host = a40();
    let gpu = host.functions.remove(0);
    host.functions.clear();
    for bus in 0..count {
        let mut next = gpu.clone();
        next.address = PciAddress::new(0, 0x10 + bus, 0, 0).unwrap();
        (next.slot, next.serial) = (None, None);
        host.functions.push(next);
    }
    host
}

#[test]
fn the_kernel_takes_the_option_of_as_many_gpus_as_there_can_be() {
    let all = |but: &str| {
        format!(
            "{but}[[gpu]]\nmatch = {{ vendor-device = \"10de:2235\" }}\n\
             layout = {{ scheduler = \"equal-share-30ms\" }}"
        )
    };
    // Ten boards of four.
    let mut driver = Driver::new(&many(40), "").unwrap();
    apply(&mut driver, &all("")).unwrap();
    let option = config_of(&driver);
    assert!(option.lines().last().unwrap().contains("\"pci=10:0;RmPVMRL=1966083;"), "{option}");
    reboot(&mut driver);
    for gpu in ["0000:10:00.0", "0000:37:00.0"] {
        assert_eq!(goes_by(&driver, gpu), 0x001e_0003, "{gpu}");
        assert_eq!(shown(&mut driver, gpu), told("equal-share-30ms", None));
    }
    assert!(!plan(&mut driver).changed);

    let mut driver = Driver::new(&many(42), "").unwrap();
    let refusal = apply(&mut driver, &all("")).unwrap_err();
    assert_eq!(refusal.code, Code::BadConfig);
    assert_eq!(refusal.message, "nvidia cannot be given the schedulers of 42 GPUs");
    let why = "NVreg_RegistryDwordsPerDevice would have 1049 bytes, and the kernel takes 1024";
    assert!(refusal.one_line().contains(why), "{refusal:?}");
    let without = "take scheduler out of the layout of 0000:39:00.0, then gpuslice apply";
    assert_eq!(refusal.hint.unwrap(), without);
    assert_eq!(read_text(&driver.kernel, CONFIG), Err(Errno::ENOENT));
    // As its hint says.
    let without = "[[gpu]]\nmatch = { address = \"0000:39:00.0\" }\nlayout = { vfs = 0 }\n";
    apply(&mut driver, &all(without)).unwrap();
    reboot(&mut driver);
    assert_eq!(goes_by(&driver, "0000:38:00.0"), 0x001e_0003);
    assert_eq!(goes_by(&driver, "0000:39:00.0"), 0);
}

#[test]
fn without_the_key_a_persons_own_option_is_left_alone_and_ours_goes() {
    let theirs = b"options nvidia NVreg_RegistryDwords=\"RmPVMRL=0x11;ForceP2P=0\"\n";
    let mut driver = ready("");
    driver.kernel.replace(THEIRS, theirs).unwrap();
    reboot(&mut driver);
    assert_eq!(shown(&mut driver, GPU), told("fixed-share", None));
    apply(&mut driver, &layout("")).unwrap();
    assert_eq!(read_text(&driver.kernel, CONFIG), Err(Errno::ENOENT));
    assert_eq!(row(&mut driver, GPU).reason, None);
    // One GPU's own wins over the one for all.
    apply(&mut driver, &layout(", scheduler = \"best-effort\"")).unwrap();
    assert_eq!(shown(&mut driver, GPU), told("fixed-share", Some("best-effort")));
    reboot(&mut driver);
    assert_eq!((goes_by(&driver, GPU), goes_by(&driver, OTHER)), (0, 0x11));
    assert_eq!(shown(&mut driver, GPU), told("best-effort", None));
    assert_eq!(shown(&mut driver, OTHER), told("fixed-share", None));
    let gone = apply(&mut driver, &layout("")).unwrap();
    assert_eq!((gone.steps.len(), gone.later.len()), (1, 0), "{gone:?}");
    assert_eq!(config_of(&driver), MARK);
    assert!(!plan(&mut driver).changed);
    assert_eq!(shown(&mut driver, GPU), told("best-effort", Some("fixed-share")));
    // Nobody asked for that, so nobody is told.
    assert_eq!(row(&mut driver, GPU).reason, None);
    reboot(&mut driver);
    assert_eq!(goes_by(&driver, GPU), 0x11);
    assert_eq!(
        std::str::from_utf8(theirs).unwrap().trim_end(),
        read_text(&driver.kernel, THEIRS).unwrap()
    );
}

#[test]
fn an_option_that_somebody_else_gives_is_not_fought() {
    let theirs =
        b"options nvidia NVreg_RegistryDwordsPerDevice=\"pci=0000:61:00.0;RmPVMRL=0x11\"\n";
    let mut driver = ready(&layout(""));
    driver.kernel.replace(THEIRS, theirs).unwrap();
    let refusal = apply(&mut driver, &equal_share()).unwrap_err();
    assert_eq!(refusal.code, Code::BadConfig, "{refusal}");
    assert!(refusal.message.contains(THEIRS), "{refusal}");
    let hint = refusal.hint.unwrap().to_string();
    assert!(
        hint.starts_with("take NVreg_RegistryDwordsPerDevice out of /etc/modprobe.d/nvidia.conf"),
        "{hint}"
    );
    assert_eq!(plan(&mut driver).blockers.len(), 1);
    assert_eq!(read_text(&driver.kernel, CONFIG), Err(Errno::ENOENT));
    assert_eq!(row(&mut driver, GPU).state, "ok");
    // It is taken out.
    driver.kernel.replace(THEIRS, b"# nothing\n").unwrap();
    apply(&mut driver, &equal_share()).unwrap();
    assert_eq!(config_of(&driver), option("pci=0000:41:00.0;RmPVMRL=0x01"));
    // And comes back after the layout was applied: no GPU is kept back for that.
    driver.kernel.replace(THEIRS, theirs).unwrap();
    reboot(&mut driver);
    assert!(driver.machine.durable().quarantines.is_empty());
    assert_eq!((goes_by(&driver, GPU), goes_by(&driver, OTHER)), (0, 0x11));
    let gpu = row(&mut driver, GPU);
    assert_eq!(gpu.state, "drift", "{gpu:?}");
    assert_eq!(config_of(&driver), option("pci=0000:41:00.0;RmPVMRL=0x01"));
    let domain = attach(&mut driver, 1, "nvidia-a40-8q");
    start(&mut driver, &domain).unwrap();
    assert_eq!(apply(&mut driver, &equal_share()).unwrap_err().code, Code::BadConfig);
    // A file that cannot be read may hold it.
    driver.kernel.replace(THEIRS, b"# nothing\n").unwrap();
    let unread = Fault::Read { path: THEIRS.to_owned(), nth: 1, times: 9, errno: Errno::EIO };
    driver.kernel.inject(unread);
    let refusal = apply(&mut driver, &equal_share()).unwrap_err();
    assert!(refusal.one_line().contains("EIO"), "{refusal:?}");
    driver.kernel.clear_faults();
    apply(&mut driver, &equal_share()).unwrap();
    assert_eq!(row(&mut driver, GPU).state, "ok");
}

#[test]
fn an_argument_of_the_kernel_comes_after_all_files() {
    let argument = "quiet nvidia.NVreg_RegistryDwordsPerDevice=\"pci=0000:41:00.0;RmPVMRL=0x11\"\n";
    let mut driver = ready(&equal_share());
    driver.kernel.replace("/proc/cmdline", argument.as_bytes()).unwrap();
    reboot(&mut driver);
    // It was applied before.
    assert_eq!(config_of(&driver), option("pci=0000:41:00.0;RmPVMRL=0x01"));
    assert_eq!(goes_by(&driver, GPU), 0x11);
    assert_eq!(shown(&mut driver, GPU), told("fixed-share", None));
    assert_eq!(row(&mut driver, GPU).state, "drift");
    let refusal = apply(&mut driver, &equal_share()).unwrap_err();
    assert_eq!(refusal.code, Code::BadConfig);
    let what = "an argument of the kernel gives nvidia the option NVreg_RegistryDwordsPerDevice";
    assert!(refusal.message.starts_with(what), "{refusal}");
    let hint = refusal.hint.unwrap();
    let what =
        "take nvidia.NVreg_RegistryDwordsPerDevice out of the kernel's arguments, then reboot";
    assert!(hint.starts_with(what), "{hint}");
    driver.kernel.replace("/proc/cmdline", b"quiet\n").unwrap();
    reboot(&mut driver);
    assert_eq!(shown(&mut driver, GPU), told("equal-share", None));
    apply(&mut driver, &equal_share()).unwrap();
    // The one for all comes from there too, and a GPU's own key wins over it.
    let argument = b"nvidia.NVreg_RegistryDwords=RmPVMRL=0x11\n";
    driver.kernel.replace("/proc/cmdline", argument).unwrap();
    reboot(&mut driver);
    assert_eq!((goes_by(&driver, GPU), goes_by(&driver, OTHER)), (1, 0x11));
    assert_eq!(shown(&mut driver, OTHER), told("fixed-share", None));
}

#[test]
fn a_file_of_that_name_that_is_somebody_elses_is_left_alone() {
    let mut driver = ready(&layout(""));
    driver.kernel.replace(CONFIG, b"options nvidia NVreg_EnableMSI=1\n").unwrap();
    let refusal = apply(&mut driver, &equal_share()).unwrap_err();
    assert_eq!(refusal.message, format!("{CONFIG} is not what gpuslice wrote"));
    assert_eq!(config_of(&driver), "options nvidia NVreg_EnableMSI=1");
    assert!(driver.machine.durable().quarantines.is_empty());
    // One that lost its content in a crash was ours.
    driver.kernel.replace(CONFIG, b"").unwrap();
    apply(&mut driver, &equal_share()).unwrap();
    assert_eq!(config_of(&driver), option("pci=0000:41:00.0;RmPVMRL=0x01"));
}

#[test]
fn what_was_deleted_by_hand_is_written_again() {
    let mut driver = ready(&equal_share());
    driver.kernel.replace(CONFIG, format!("{MARK}\n").as_bytes()).unwrap();
    driver.wake_up().unwrap();
    driver.advance(10_000).unwrap();
    assert_eq!(config_of(&driver), option("pci=0000:41:00.0;RmPVMRL=0x01"));
}

#[test]
fn gpus_that_make_mediated_devices_have_it_too() {
    let text = include_str!("../../../examples/hosts/t4-l40s.toml");
    let mut host = HostFile::parse(text).unwrap();
    // A V100 has no SR-IOV.
    for sriov in [true, false] {
        host.functions[0].sriov = host.functions[0].sriov.take().filter(|_| sriov);
        let config = "[[gpu]]\nmatch = { address = \"0000:3b:00.0\" }\nlayout = { scheduler = \"fixed-share\" }";
        let mut driver = Driver::new(&host, "").unwrap();
        apply(&mut driver, config).unwrap();
        assert_eq!(config_of(&driver), option("pci=0000:3b:00.0;RmPVMRL=0x11"));
        let t4 = row(&mut driver, "0000:3b:00.0");
        let later = "scheduler is best-effort, fixed-share with the next load of nvidia";
        assert_eq!((t4.state.as_str(), t4.reason.as_deref()), ("ok", Some(later)));
        assert!(!plan(&mut driver).changed);
        reboot(&mut driver);
        assert_eq!(goes_by(&driver, "0000:3b:00.0"), 0x11);
        assert_eq!(shown(&mut driver, "0000:3b:00.0"), told("fixed-share", None));
    }
}

#[test]
fn what_cannot_be_is_refused_in_the_layout() {
    let mut driver = ready(&layout(""));
    for (more, why) in [
        (", scheduler = \"turbo\"", "scheduler of 0000:41:00.0 cannot be turbo under nvidia"),
        (", scheduler = \"equal-share-31ms\"", "cannot be equal-share-31ms"),
        (", scheduler = 1", "cannot be 1 under nvidia"),
        (
            ", scheduler = \"fixed-share\", sizes = \"mixed\"",
            "cannot mix sizes with the scheduler fixed-share",
        ),
    ] {
        let refusal = apply(&mut driver, &layout(more)).unwrap_err();
        assert_eq!(refusal.code, Code::BadConfig, "{more}");
        assert!(refusal.message.contains(why), "{more}: {refusal}");
    }
    apply(&mut driver, &layout(", scheduler = \"equal-share\", sizes = \"mixed\"")).unwrap();
    assert_eq!(read_text(&driver.kernel, THEIRS), Err(Errno::ENOENT));
}

#[test]
fn sizes_are_mixed_when_no_fixed_share_is_in_force_any_more() {
    let mixed = layout(", sizes = \"mixed\"");
    let sizes = |driver: &mut Driver| row(driver, GPU).modes.get("sizes").cloned();
    // What somebody gives to all GPUs is there after each load.
    let given = "options nvidia NVreg_RegistryDwords=\"RmPVMRL=0x11\"\n";
    let mut driver = ready(&layout(""));
    driver.kernel.replace(THEIRS, given.as_bytes()).unwrap();
    reboot(&mut driver);
    assert_eq!(shown(&mut driver, GPU), told("fixed-share", None));
    let refusal = apply(&mut driver, &mixed).unwrap_err();
    assert_eq!(refusal.code, Code::BadConfig);
    let why = "0000:41:00.0 cannot mix sizes with the scheduler fixed-share";
    assert!(refusal.message.ends_with(why), "{refusal}");
    let hint = refusal.hint.unwrap().to_string();
    assert!(hint.contains("scheduler") && hint.contains("equal-share"), "{hint}");
    assert_eq!(sizes(&mut driver).as_deref(), Some("equal"));
    let both = layout(", sizes = \"mixed\", scheduler = \"equal-share\"");
    let refusal = apply(&mut driver, &both).unwrap_err();
    assert_eq!(refusal.code, Code::BadConfig);
    assert!(refusal.message.ends_with(why), "{refusal}");
    // As its hint says.
    assert!(refusal.hint.unwrap().to_string().contains("reboot"));
    apply(&mut driver, &equal_share()).unwrap();
    reboot(&mut driver);
    apply(&mut driver, &both).unwrap();
    assert_eq!((goes_by(&driver, GPU), sizes(&mut driver).as_deref()), (1, Some("mixed")));
    reboot(&mut driver);
    assert_eq!((goes_by(&driver, GPU), sizes(&mut driver).as_deref()), (1, Some("mixed")));

    // What a layout said before goes with the next load.
    let mut driver = ready(&layout(", scheduler = \"fixed-share\""));
    reboot(&mut driver);
    assert!(apply(&mut driver, &mixed).unwrap_err().hint.unwrap().to_string().contains("reboot"));
    apply(&mut driver, &layout("")).unwrap();
    reboot(&mut driver);
    apply(&mut driver, &mixed).unwrap();
    assert_eq!((goes_by(&driver, GPU), sizes(&mut driver).as_deref()), (0, Some("mixed")));
}

/// What an observation says while the file reads so.
fn seen_with(as_: Option<Fault>) -> (Option<String>, Vec<String>, String) {
    let mut driver = ready(&equal_share());
    if let Some(fault) = as_ {
        driver.kernel.inject(fault);
        driver.wake_up().unwrap();
        driver.advance(1_000).unwrap();
    }
    let warnings = status(&mut driver).warnings.into_iter().filter(|w| w.contains(TOLD)).collect();
    let gpu = row(&mut driver, GPU);
    assert_eq!(gpu.state, "ok", "{gpu:?}");
    let domain = attach(&mut driver, 1, "nvidia-a40-8q");
    start(&mut driver, &domain).unwrap();
    (gpu.modes.get("scheduler").cloned(), warnings, gpu.reason.unwrap())
}

#[test]
fn what_the_driver_was_told_may_not_be_readable_and_a_gpu_serves_all_the_same() {
    let reads = |as_| Fault::Reads { path: TOLD.to_owned(), as_ };
    let fails = |errno| Fault::Read { path: TOLD.to_owned(), nth: 1, times: 1000, errno };
    let not_told = LATER.replace("best-effort", "not told");
    let all = [
        (None, Some("best-effort"), 0),
        (Some(fails(Errno::ENOENT)), None, 0),
        (Some(fails(Errno::EACCES)), None, 1),
        (Some(reads(Content::Empty)), None, 1),
        (Some(reads(Content::Garbage)), None, 1),
    ];
    let mut said = Vec::new();
    for (fault, now, problems) in all {
        let what = format!("{fault:?}");
        let (scheduler, warnings, reason) = seen_with(fault);
        assert_eq!((scheduler.as_deref(), warnings.len()), (now, problems), "{what}: {warnings:?}");
        assert_eq!(reason, if now.is_some() { LATER } else { &not_told }, "{what}");
        said.extend(warnings);
    }
    said.dedup();
    assert_eq!(said.len(), 3, "each is another answer: {said:?}");
}

#[test]
fn one_look_reads_one_file_for_all_gpus_and_other_peoples_files_once() {
    let mut driver = ready(&equal_share());
    driver.kernel.replace(THEIRS, b"options nvidia NVreg_EnableMSI=1\n").unwrap();
    let mut observer = Observer::new(gpuslice_vendors::all());
    let mut asked = || {
        let counting = Counting { kernel: &driver.kernel, asked: RefCell::default() };
        let seen = observer.observe(&counting);
        let gpu: PciAddress = GPU.parse().unwrap();
        assert!(seen.mode(&ParentId::Pci(gpu), Mode::Scheduler).is_some());
        let mut asked: Vec<(String, u32)> = counting
            .asked
            .into_inner()
            .into_iter()
            .filter(|(what, _)| {
                let ends = |end| what.ends_with(end);
                what.contains("modprobe.d") || ends(TOLD) || ends("/proc/cmdline")
            })
            .collect();
        assert!(asked.iter().all(|(_, times)| *times == 1), "{asked:?}");
        asked.sort();
        asked.into_iter().map(|(what, _)| what).collect::<Vec<_>>()
    };
    let each_time = [format!("read {CONFIG}"), format!("read {TOLD}")];
    let first = asked();
    assert_eq!(first.len(), 2 + 5 + 2 + 1, "{first:?}");
    assert!(first.contains(&format!("read {THEIRS}")), "{first:?}");
    assert_eq!(asked(), each_time);
    assert_eq!(asked(), each_time);
}
