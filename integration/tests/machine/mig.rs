//! Stories of GPUs that are set before they are sliced: GPU instances (MIG) and mixed sizes.

use crate::driver::Driver;
use crate::room::start_of;
use crate::vgpu::{attach, attach_several, call, order, profile, slice_state, start, stop, vf};
use gpuslice_core::ids::{ParentId, SliceId};
use gpuslice_core::machine::HookOperation::Prepare;
use gpuslice_core::mode::Mode;
use gpuslice_core::plan::Step;
use gpuslice_core::port::{HostRead, HostWrite, read_text};
use gpuslice_core::refusal::Code;
use gpuslice_core::request::{Answer, Command};
use gpuslice_sim::{Fault, HostFile, MdevOn, TypeShape};

const GPU: &str = "0000:41:00.0";
pub const MIG: &str = "[[gpu]]\nmatch = { address = \"0000:41:00.0\" }\n\
    layout = { vfs = \"all\", instances = [\"1g.10gb\", \"2g.20gb\", \"3g.40gb\", \"1g.10gb\"] }";
pub const MIXED: &str = "[[gpu]]\nmatch = { vendor-device = \"10de:2235\" }\n\
    layout = { vfs = \"all\", sizes = \"mixed\" }";

pub fn a100() -> HostFile {
    HostFile::parse(include_str!("../../../examples/hosts/a100-mig.toml")).unwrap()
}

fn a40() -> HostFile {
    let text = include_str!("../../../examples/hosts/a40-vfio.toml");
    let mut host = HostFile::parse(text).unwrap();
    host.functions.truncate(1);
    host
}

fn reboot(driver: &mut Driver) {
    driver.kernel.reboot();
    driver.restart().unwrap();
}

pub fn smi(driver: &mut Driver, arguments: &[&str]) -> String {
    let command: Vec<String> =
        ["/usr/bin/nvidia-smi"].iter().chain(arguments).map(|word| (*word).to_owned()).collect();
    let ran = driver.kernel.run(&command).unwrap();
    assert_eq!(ran.code, 0, "{arguments:?}: {}", ran.said);
    ran.said
}

/// Instances of the first GPU, by name.
pub fn instances(driver: &mut Driver) -> Vec<String> {
    let command = ["/usr/bin/nvidia-smi", "mig", "-i", GPU, "-lgi"].map(str::to_owned);
    let listed = driver.kernel.run(&command).unwrap();
    assert_eq!(listed.code == 6, listed.said.contains("No GPU instances found"), "{listed:?}");
    let rows = listed.said.lines().filter(|line| line.starts_with('|'));
    let mut names: Vec<String> =
        rows.map(|row| row.split_whitespace().nth(3).unwrap().to_owned()).collect();
    names.sort();
    names
}

/// How many of a profile are free, and how many there can be.
fn counted(driver: &mut Driver, name: &str) -> (u32, u32) {
    let row = profile(driver, name);
    (row.free, row.max.unwrap())
}

fn modes(driver: &Driver) -> Vec<String> {
    let parent: ParentId = GPU.parse().unwrap();
    let modes = driver.machine.observation().modes.get(&parent);
    let set = modes.into_iter().flatten().filter(|(mode, _)| **mode != Mode::Scheduler);
    set.filter_map(|(mode, state)| Some(format!("{mode}={}", state.current.as_ref()?))).collect()
}

fn plan(driver: &mut Driver, config: &str) -> Vec<String> {
    driver.config = config.to_owned();
    match order(driver, Command::Plan).unwrap() {
        Answer::Plan(plan) => {
            let steps = plan.steps.iter().map(|row| row.step.clone());
            steps.chain(plan.blockers.iter().map(|why| why.one_line())).collect()
        }
        other => panic!("{other:?}"),
    }
}

pub const WANTED: [&str; 4] = ["1g.10gb", "1g.10gb", "2g.20gb", "3g.40gb"];

#[test]
fn what_sriov_manage_leaves_undone_when_it_is_ended_is_done() {
    let mut driver = Driver::new(&a100(), "").unwrap();
    driver.kernel.inject(Fault::ToolEnds {
        pf: GPU.parse().unwrap(),
        nth: 1,
        times: 1,
        under_stub: false,
    });
    driver.config = MIG.to_owned();
    order(&mut driver, Command::Apply).unwrap();
    let vfs = driver.machine.observation().vfs.values();
    let usable: Vec<bool> =
        vfs.map(|vf| vf.driver.as_deref() == Some("nvidia") && vf.choice.is_some()).collect();
    assert_eq!(usable, [true; 16]);
    assert_eq!(instances(&mut driver).len(), 4);
}

#[test]
fn instances_come_after_the_vfs_and_again_after_a_boot() {
    let mut driver = Driver::new(&a100(), "").unwrap();
    driver.config = MIG.to_owned();
    order(&mut driver, Command::Apply).unwrap();
    assert_eq!(instances(&mut driver), WANTED);
    assert_eq!(modes(&driver), ["instances=1g.10gb,1g.10gb,2g.20gb,3g.40gb"]);
    assert!(plan(&mut driver, MIG).is_empty());
    // MIG is kept by the card, all else is gone.
    reboot(&mut driver);
    driver.advance(10_000).unwrap();
    assert_eq!(instances(&mut driver), WANTED);
    // Somebody runs sriov-manage: the instances go without an event of their own.
    for option in ["-d", "-e"] {
        let command = ["/usr/lib/nvidia/sriov-manage", option, GPU].map(str::to_owned);
        assert_eq!(driver.kernel.run(&command).unwrap().code, 0);
    }
    assert!(instances(&mut driver).is_empty());
    driver.wake_up().unwrap();
    driver.advance(10_000).unwrap();
    assert_eq!(instances(&mut driver), WANTED);
    // It has the GPU off its driver on the way. Who looks then sees no GPU of NVIDIA's driver, which is no mistake.
    let disable = ["/usr/lib/nvidia/sriov-manage", "-d", GPU].map(str::to_owned);
    assert_eq!(driver.kernel.run(&disable).unwrap().code, 0);
    driver.kernel.write("/sys/bus/pci/drivers/nvidia/unbind", GPU.as_bytes()).unwrap();
    driver.wake_up().unwrap();
    driver.advance(1_000).unwrap();
    assert_eq!(driver.machine.durable().quarantines.len(), 0);
    driver.kernel.write("/sys/bus/pci/drivers/nvidia/bind", GPU.as_bytes()).unwrap();
    driver.wake_up().unwrap();
    driver.advance(10_000).unwrap();
    assert_eq!(instances(&mut driver), WANTED);
}

#[test]
fn a_vm_gets_a_slice_of_an_instance() {
    let mut driver = Driver::new(&a100(), MIG).unwrap();
    driver.advance(10_000).unwrap();
    let domains = [(1, "nvidia-a100d-2-20c"), (2, "nvidia-a100d-1-10c"), (3, "nvidia-a100d-1-10c")]
        .map(|(vm, profile)| attach(&mut driver, vm, profile));
    for domain in &domains {
        start(&mut driver, domain).unwrap();
    }
    let gi = format!("/sys/bus/pci/devices/{}/nvidia/gpu_instance_id", vf(&domains[0]));
    assert_eq!(read_text(&driver.kernel, &gi).unwrap(), "1");
    let row = profile(&mut driver, "nvidia-a100d-1-10c");
    assert_eq!((row.free, row.used, row.max), (0, 2, Some(2)));
    let row = profile(&mut driver, "nvidia-a100d-3-40c");
    assert_eq!((row.free, row.used, row.max), (1, 0, Some(1)));
    // An instance in use is nobody's to take.
    let other = MIG.replace("\"3g.40gb\", ", "");
    let told = plan(&mut driver, &other);
    assert!(told.iter().any(|line| line.contains("vm1 uses")), "{told:?}");
    assert_eq!(order(&mut driver, Command::Apply).unwrap_err().code, Code::InUse);
    for domain in &domains {
        stop(&mut driver, domain);
    }
    order(&mut driver, Command::Apply).unwrap();
    assert_eq!(instances(&mut driver), ["1g.10gb", "1g.10gb", "2g.20gb"]);
}

#[test]
fn what_is_only_missing_is_added_beside_a_vm() {
    let mut driver = Driver::new(&a100(), "").unwrap();
    driver.config = MIG.replace(", \"1g.10gb\"]", "]");
    order(&mut driver, Command::Apply).unwrap();
    let domain = attach(&mut driver, 1, "nvidia-a100d-2-20c");
    start(&mut driver, &domain).unwrap();
    driver.config = MIG.to_owned();
    order(&mut driver, Command::Apply).unwrap();
    assert_eq!(instances(&mut driver), WANTED);
    stop(&mut driver, &domain);
}

#[test]
fn a_gpu_becomes_whole_again() {
    let mut driver = Driver::new(&a100(), MIG).unwrap();
    driver.advance(10_000).unwrap();
    let whole = MIG.split("instances").next().unwrap().to_owned() + "instances = \"off\" }";
    driver.config = whole;
    order(&mut driver, Command::Apply).unwrap();
    assert_eq!(modes(&driver), ["instances=off", "sizes=equal"]);
    let domain = attach(&mut driver, 1, "nvidia-a100d-40c");
    start(&mut driver, &domain).unwrap();
    stop(&mut driver, &domain);
}

#[test]
fn in_the_older_framework_too() {
    let mut driver = Driver::new(&in_the_older_framework(a100()), MIG).unwrap();
    driver.advance(10_000).unwrap();
    assert_eq!(instances(&mut driver), WANTED);
    let counts = |driver: &mut Driver| {
        ["1-10c", "2-20c", "3-40c", "4-40c", "40c"]
            .map(|name| counted(driver, &format!("nvidia-a100d-{name}")))
    };
    assert_eq!(counts(&mut driver), [(2, 2), (1, 1), (1, 1), (0, 0), (0, 0)]);
    let domains = [(1, "nvidia-a100d-1-10c"), (2, "nvidia-a100d-3-40c")]
        .map(|(vm, profile)| attach(&mut driver, vm, profile));
    for domain in &domains {
        call(&mut driver, domain, Prepare).unwrap();
    }
    assert_eq!(counts(&mut driver), [(1, 2), (1, 1), (0, 1), (0, 0), (0, 0)]);
    reboot(&mut driver);
    driver.advance(10_000).unwrap();
    assert_eq!(instances(&mut driver), WANTED);
}

/// The host with a driver that makes mediated devices of its VFs.
pub fn in_the_older_framework(mut host: HostFile) -> HostFile {
    for mdev in host.functions.iter_mut().filter_map(|f| f.mdev.as_mut()) {
        mdev.on = MdevOn::Vf;
    }
    host
}

/// A VF tells of itself alone there, so what they share is counted by what the GPU is set to.
#[test]
fn mixed_sizes_have_places_in_the_older_framework_too() {
    let mut driver = Driver::new(&in_the_older_framework(a40()), MIXED).unwrap();
    driver.advance(10_000).unwrap();
    assert_eq!(modes(&driver), ["sizes=mixed"]);
    assert_eq!(counted(&mut driver, "nvidia-a40-8q"), (4, 4));
    assert_eq!(counted(&mut driver, "nvidia-a40-16q"), (2, 2));
    let domains = [(1, "nvidia-a40-24q"), (2, "nvidia-a40-8q")]
        .map(|(vm, profile)| attach(&mut driver, vm, profile));
    for domain in &domains {
        call(&mut driver, domain, Prepare).unwrap();
    }
    for (name, free) in [("24q", 0), ("16q", 1), ("8q", 1), ("4q", 3), ("48q", 0)] {
        assert_eq!(counted(&mut driver, &format!("nvidia-a40-{name}")).0, free, "{name}");
    }
}

/// Types of one size are in each other's place, whatever they are sold for.
#[test]
fn all_series_of_a_size_share_a_gpu_in_the_older_framework() {
    let mut host = in_the_older_framework(a40());
    let types = &mut host.functions[0].mdev.as_mut().unwrap().types;
    let eight = types.iter_mut().find(|of| of.name == "NVIDIA A40-8Q").unwrap();
    eight.description = "framebuffer=8192M, max_instance=6".to_owned().into();
    let eight = eight.clone();
    types.push(TypeShape { id: "999".to_owned(), name: "NVIDIA A40-8A".to_owned(), ..eight });
    let driver = &mut Driver::new(&host, &MIXED.replace("mixed", "equal")).unwrap();
    driver.advance(10_000).unwrap();
    let of_six = ["nvidia-a40-8q", "nvidia-a40-8a"];
    assert_eq!(of_six.map(|name| counted(driver, name)), [(6, 6); 2]);
    let domain = attach_several(driver, 1, "nvidia-a40-8a", 3);
    call(driver, &domain, Prepare).unwrap();
    assert_eq!(of_six.map(|name| counted(driver, name)), [(3, 6); 2]);
}

/// A type is in instances of the profile that it names, and in no larger ones.
#[test]
fn a_larger_instance_is_not_one_of_another_profile() {
    let config = MIG.replace("\"1g.10gb\", \"2g.20gb\", \"3g.40gb\", \"1g.10gb\"", "\"1g.20gb\"");
    for host in [a100(), in_the_older_framework(a100())] {
        // Its types are known from when it had such instances.
        let mut driver = Driver::new(&host, MIG).unwrap();
        driver.advance(10_000).unwrap();
        driver.config.clone_from(&config);
        order(&mut driver, Command::Apply).unwrap();
        assert_eq!(instances(&mut driver), ["1g.20gb"]);
        assert_eq!(counted(&mut driver, "nvidia-a100d-1-10c"), (0, 0));
    }
}

/// Of seven compute slices an instance of two memory slices can be at the even ones alone.
#[test]
fn instances_of_more_memory_come_first() {
    let (small, all) = ("1g.10gb,".repeat(6), ["1g.10gb", "1g.20gb"]);
    let list = format!("\"1g.20gb\", {}", ["\"1g.10gb\""; 6].join(", "));
    let config = MIG.replace("\"1g.10gb\", \"2g.20gb\", \"3g.40gb\", \"1g.10gb\"", &list);
    let mut driver = Driver::new(&a100(), "").unwrap();
    let command = format!("mig -i {GPU} -cgi 1g.20gb,{} -C", small.trim_end_matches(','));
    let steps = plan(&mut driver, &config);
    assert!(steps.iter().any(|step| step.contains(&command)), "{steps:?}");
    order(&mut driver, Command::Apply).unwrap();
    let mut made = instances(&mut driver);
    assert_eq!(made.len(), 7);
    made.dedup();
    assert_eq!(made, all);
}

#[test]
fn instances_that_do_not_fit_are_the_tools_to_refuse() {
    let mut driver = Driver::new(&a100(), "").unwrap();
    driver.config = MIG.replace("\"1g.10gb\", \"2g", "\"7g.80gb\", \"2g");
    let refusal = order(&mut driver, Command::Apply).unwrap_err();
    assert_eq!(refusal.code, Code::DeviceFailed);
    assert!(refusal.one_line().contains("Insufficient Resources"), "{refusal:?}");
    assert!(driver.machine.durable().quarantines.contains_key(&GPU.parse().unwrap()));
    driver.config = MIG.to_owned();
    order(&mut driver, Command::Apply).unwrap();
    assert_eq!(instances(&mut driver), WANTED);
}

#[test]
fn a_layout_that_cannot_be_says_so() {
    let mut driver = Driver::new(&a40(), "").unwrap();
    let on_a40 = |layout: &str| MIXED.replace("sizes = \"mixed\"", layout);
    let both = "instances = [\"1g.10gb\"], sizes = \"mixed\"";
    for (config, said) in [
        (on_a40("instances = [\"1g.10gb\"]"), "cannot be divided"),
        (on_a40("compute = \"CPX\""), "has no mode compute"),
    ] {
        driver.config = config;
        let refusal = order(&mut driver, Command::Apply).unwrap_err();
        assert_eq!(refusal.code, Code::BadConfig, "{refusal}");
        assert!(refusal.message.contains(said), "{refusal}");
    }
    let mut driver = Driver::new(&a100(), "").unwrap();
    driver.config = MIG.split("instances").next().unwrap().to_owned() + both + " }";
    let refusal = order(&mut driver, Command::Apply).unwrap_err();
    assert!(refusal.message.contains("cannot mix sizes"), "{refusal}");
}

#[test]
fn a_tool_that_tells_nothing_is_waited_for() {
    let mut driver = Driver::new(&a100(), "").unwrap();
    let (path, errno) = ("/usr/bin/nvidia-smi".to_owned(), gpuslice_core::errno::Errno::ETIMEDOUT);
    driver.kernel.inject(Fault::Read { path, nth: 1, times: u32::MAX, errno });
    driver.wake_up().unwrap();
    driver.restart().unwrap();
    driver.config = MIG.to_owned();
    let refusal = order(&mut driver, Command::Apply).unwrap_err();
    assert!(refusal.message.contains("does not tell"), "{refusal}");
    assert!(refusal.causes.iter().any(|cause| cause.contains("ETIMEDOUT")), "{refusal:?}");
    driver.kernel.clear_faults();
    driver.wake_up().unwrap();
    order(&mut driver, Command::Apply).unwrap();
    assert_eq!(instances(&mut driver), WANTED);
}

/// It runs on when the daemon that started it is killed, and a second one beside it would be refused, or make more.
#[test]
fn a_tool_whose_daemon_is_gone_is_waited_for() {
    let mut driver = Driver::new(&a100(), "").unwrap();
    driver.wake_up().unwrap();
    (driver.config, driver.lazy) = (MIG.to_owned(), true);
    driver.command(Command::Apply);
    let mut tools = 0;
    for _ in 0..100 {
        driver.advance(1_000).unwrap();
        if driver.under.iter().any(|under| matches!(under.step, Step::RunModeTool { .. })) {
            tools += 1;
            driver.restart().unwrap();
            driver.advance(1_000).unwrap();
            assert_eq!(driver.under.len(), 0, "nothing begins beside it");
        }
        driver.begin_lazy().unwrap();
    }
    assert!(tools > 1, "{tools}");
    driver.lazy = false;
    driver.advance(10_000).unwrap();
    assert_eq!(instances(&mut driver), WANTED);
}

/// A question takes a second and is in others' way, so a VM's start and stop cost none.
#[test]
fn the_tool_is_asked_only_when_its_answer_may_be_another() {
    let mut driver = Driver::new(&a100(), MIG).unwrap();
    driver.advance(10_000).unwrap();
    let domain = attach(&mut driver, 1, "nvidia-a100d-2-20c");
    let before = driver.kernel.asked();
    start(&mut driver, &domain).unwrap();
    stop(&mut driver, &domain);
    assert_eq!(driver.kernel.asked(), before);
}

/// No VF lists a type then, and no other GPU has any.
#[test]
fn nor_is_the_tool_asked_for_a_vm_that_fills_its_gpu() {
    let mut driver =
        Driver::new(&a40(), MIXED.replace(", sizes = \"mixed\"", "").as_str()).unwrap();
    driver.advance(10_000).unwrap();
    let domain = attach(&mut driver, 1, "nvidia-a40-48q");
    let before = driver.kernel.asked();
    start(&mut driver, &domain).unwrap();
    driver.advance(10_000).unwrap();
    stop(&mut driver, &domain);
    driver.advance(10_000).unwrap();
    assert_eq!(driver.kernel.asked(), before);
}

#[test]
fn sizes_are_mixed_once_the_vfs_are_there_and_again_after_a_boot() {
    let mut driver = Driver::new(&a40(), MIXED).unwrap();
    driver.advance(10_000).unwrap();
    assert_eq!(modes(&driver), ["sizes=mixed"]);
    let domains = [(1, "nvidia-a40-24q"), (2, "nvidia-a40-8q"), (3, "nvidia-a40-4q")]
        .map(|(vm, profile)| attach(&mut driver, vm, profile));
    for domain in &domains {
        start(&mut driver, domain).unwrap();
    }
    for domain in &domains {
        stop(&mut driver, domain);
    }
    reboot(&mut driver);
    driver.advance(10_000).unwrap();
    assert_eq!(modes(&driver), ["sizes=mixed"]);
}

#[test]
fn sizes_of_a_gpu_with_vms_wait_for_them() {
    let mut driver = Driver::new(&a40(), "").unwrap();
    driver.config = MIXED.replace(", sizes = \"mixed\"", "");
    order(&mut driver, Command::Apply).unwrap();
    let domain = attach(&mut driver, 1, "nvidia-a40-8q");
    start(&mut driver, &domain).unwrap();
    let told = plan(&mut driver, MIXED);
    assert!(told.iter().any(|line| line.contains("vm1 uses")), "{told:?}");
    assert_eq!(order(&mut driver, Command::Apply).unwrap_err().code, Code::InUse);
    let holders = driver.kernel.holders(SliceId::Vf(vf(&domain)));
    assert_eq!(holders, [1001]);
    stop(&mut driver, &domain);
    order(&mut driver, Command::Apply).unwrap();
    assert_eq!(modes(&driver), ["sizes=mixed"]);
    let names = driver.kernel.list(&format!("/sys/bus/pci/devices/{GPU}")).unwrap();
    assert_eq!(names.iter().filter(|n| n.starts_with("virtfn")).count(), 32);
}

/// A VF that was taken off its driver has all of them made anew, without anybody who asks for it.
fn make_anew(driver: &mut Driver) {
    let bare = *driver.machine.observation().vfs.keys().next().unwrap();
    driver.kernel.write("/sys/bus/pci/drivers/nvidia/unbind", bare.to_string().as_bytes()).unwrap();
    driver.wake_up().unwrap();
    driver.advance(120_000).unwrap();
    assert_eq!(slice_state(driver, bare), "free");
}

/// The layout leaves them to whoever sets them.
#[test]
fn what_a_person_set_beside_the_layout_outlives_new_vfs() {
    let only = MIG.split(", instances").next().unwrap().to_owned() + " }";
    let mut driver = Driver::new(&a100(), &only).unwrap();
    driver.advance(10_000).unwrap();
    smi(&mut driver, &["-i", GPU, "-mig", "1"]);
    smi(&mut driver, &["mig", "-i", GPU, "-cgi", "3g.40gb,1g.10gb", "-C"]);
    make_anew(&mut driver);
    assert_eq!(instances(&mut driver), ["1g.10gb", "3g.40gb"]);
    let mut driver = Driver::new(&a40(), &MIXED.replace(", sizes = \"mixed\"", "")).unwrap();
    driver.advance(10_000).unwrap();
    smi(&mut driver, &["vgpu", "-i", GPU, "-shm", "1"]);
    make_anew(&mut driver);
    assert_eq!(modes(&driver), ["sizes=mixed"]);
}

#[test]
fn of_mixed_sizes_there_are_as_many_as_places() {
    let mut driver = Driver::new(&a40(), MIXED).unwrap();
    driver.advance(10_000).unwrap();
    // Six of 8 GiB when all are equal; the grid has places for four.
    assert_eq!(counted(&mut driver, "nvidia-a40-8q"), (4, 4));
    assert_eq!(counted(&mut driver, "nvidia-a40-16q"), (2, 2));
    let domains = [(1, "nvidia-a40-24q"), (2, "nvidia-a40-8q")]
        .map(|(vm, profile)| attach(&mut driver, vm, profile));
    for domain in &domains {
        start(&mut driver, domain).unwrap();
    }
    // From 0 to 24 and from 24 to 32.
    for (name, free) in [("24q", 0), ("16q", 1), ("8q", 1), ("4q", 3), ("48q", 0)] {
        assert_eq!(counted(&mut driver, &format!("nvidia-a40-{name}")).0, free, "{name}");
    }
    let row = profile(&mut driver, "nvidia-a40-16q");
    assert_eq!(row.memory, Some(16 << 30));
}

/// All that live on a GPU can run there at once, until no GPU has room for another.
#[test]
fn homes_of_mixed_sizes_are_where_they_find_places() {
    let mut host = a40();
    let mut second = host.functions[0].clone();
    second.address = "0000:61:00.0".parse().unwrap();
    host.functions.push(second);
    let mut driver = Driver::new(&host, MIXED).unwrap();
    driver.advance(10_000).unwrap();
    let sizes = ["24q", "8q", "8q", "4q", "4q", "48q"];
    let domains: Vec<_> = (1..)
        .zip(sizes)
        .map(|(vm, size)| attach(&mut driver, vm, &format!("nvidia-a40-{size}")))
        .collect();
    for domain in &domains {
        start(&mut driver, domain).unwrap();
    }
    let bus = |domain| vf(domain).bus();
    assert!(domains[..5].iter().all(|domain| bus(domain) == bus(&domains[0])));
    assert_ne!(bus(&domains[5]), bus(&domains[0]));
}

/// One start of them takes the places that each of them would have alone.
#[test]
fn mixed_sizes_of_one_start_have_places_or_nothing_is_made() {
    let start = |sizes: &[&str]| {
        let mut driver = Driver::new(&a40(), MIXED).unwrap();
        driver.advance(10_000).unwrap();
        let profiles: Vec<String> = sizes.iter().map(|size| format!("nvidia-a40-{size}")).collect();
        let profiles: Vec<&str> = profiles.iter().map(String::as_str).collect();
        start_of(&mut driver, &profiles).map_err(|refusal| refusal.code)
    };
    assert_eq!(start(&["24q", "8q", "8q", "4q", "4q"]), Ok(()));
    assert_eq!(start(&["24q", "24q", "4q"]), Err(Code::NoCapacity));
    assert_eq!(start(&["4q", "48q"]), Err(Code::NoCapacity));
}

#[test]
fn what_lives_in_an_instance_does_not_crowd_another_kind() {
    let config =
        MIG.replace("match = { address = \"0000:41:00.0\" }", "match = { driver = \"nvidia\" }");
    let mut driver = Driver::new(&a100(), &config).unwrap();
    driver.advance(10_000).unwrap();
    let domains: Vec<_> = (1..)
        .zip(["2-20c", "1-10c", "1-10c", "3-40c", "1-10c"])
        .map(|(vm, size)| attach(&mut driver, vm, &format!("nvidia-a100d-{size}")))
        .collect();
    for domain in &domains {
        start(&mut driver, domain).unwrap();
    }
    let bus: Vec<u8> = domains.iter().map(|domain| vf(domain).bus()).collect();
    assert!(bus[..4].iter().all(|other| *other == bus[0]), "{bus:x?}");
    assert_ne!(bus[4], bus[0]);
}

/// One of the A100's types by another name, beside those there are.
fn another<'h>(
    host: &'h mut HostFile,
    of: &str,
    name: &str,
) -> (TypeShape, &'h mut Vec<TypeShape>) {
    let types = &mut host.functions[0].mdev.as_mut().unwrap().types;
    let like = types.iter().find(|like| like.name == format!("GRID A100D-{of}")).unwrap().clone();
    (TypeShape { id: "999".to_owned(), name: format!("GRID A100D-{name}"), ..like }, types)
}

/// Half of it is free, and is for none of another size.
#[test]
fn an_instance_holds_one_size_at_a_time() {
    let mut host = a100();
    let (half, types) = another(&mut host, "3-40C", "3-20C");
    types.push(TypeShape { memory_mib: half.memory_mib / 2, ..half });
    let config = MIG
        .replace("\"1g.10gb\", \"2g.20gb\", \"3g.40gb\", \"1g.10gb\"", "\"3g.40gb\", \"3g.40gb\"");
    let mut driver = Driver::new(&host, &config).unwrap();
    driver.advance(10_000).unwrap();
    let free = |driver: &mut Driver| {
        ["nvidia-a100d-3-40c", "nvidia-a100d-3-20c"].map(|name| profile(driver, name).free)
    };
    assert_eq!(free(&mut driver), [2, 4]);
    let halves: Vec<_> = (1..=3).map(|vm| attach(&mut driver, vm, "nvidia-a100d-3-20c")).collect();
    for (half, left) in halves.iter().zip([[1, 3], [1, 2], [0, 1]]) {
        start(&mut driver, half).unwrap();
        assert_eq!(free(&mut driver), left);
    }
    stop(&mut driver, &halves[2]);
    let other = attach(&mut driver, 4, "nvidia-a100d-3-40c");
    start(&mut driver, &other).unwrap();
    assert_eq!(free(&mut driver), [0, 0]);
}

/// Two have room in each, and the driver takes one.
#[test]
fn an_instance_holds_as_many_as_the_tool_tells() {
    let mut host = a100();
    let (half, types) = another(&mut host, "3-40C", "3-20C");
    types.push(TypeShape { memory_mib: half.memory_mib / 2, per_gi: Some(1), ..half });
    let mut driver = Driver::new(&host, MIG).unwrap();
    driver.advance(10_000).unwrap();
    assert_eq!(counted(&mut driver, "nvidia-a100d-3-20c"), (1, 1));
    let first = attach(&mut driver, 1, "nvidia-a100d-3-20c");
    start(&mut driver, &first).unwrap();
    assert_eq!(counted(&mut driver, "nvidia-a100d-3-20c"), (0, 1));
}

/// Of one slice each, and with different memory: who is in one takes nothing of the other.
#[test]
fn instances_of_two_sizes_are_counted_apart() {
    let mut host = a100();
    let (large, types) = another(&mut host, "1-10C", "1-20C");
    types.retain(|of| of.name != large.name);
    types.push(TypeShape { memory_mib: large.memory_mib * 2, gi_profile: Some(15), ..large });
    let config = MIG.replace("\"2g.20gb\", \"3g.40gb\", \"1g.10gb\"", "\"1g.20gb\"");
    let mut driver = Driver::new(&host, &config).unwrap();
    driver.advance(10_000).unwrap();
    let free = |driver: &mut Driver| {
        ["nvidia-a100d-1-10c", "nvidia-a100d-1-20c"].map(|name| profile(driver, name).free)
    };
    assert_eq!(free(&mut driver), [1, 1]);
    let small = attach(&mut driver, 1, "nvidia-a100d-1-10c");
    start(&mut driver, &small).unwrap();
    assert_eq!(free(&mut driver), [0, 1]);
    let large = attach(&mut driver, 2, "nvidia-a100d-1-20c");
    start(&mut driver, &large).unwrap();
    assert_eq!(free(&mut driver), [0, 0]);
}
