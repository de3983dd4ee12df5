//! Stories of GPUs whose VFs come with a load of their driver (AMD's GIM).

mod broken;
mod modes;
mod options;
mod resetting;
mod unload;
mod unmet;

use crate::driver::Driver;
use crate::vgpu::{attach, call};
use crate::world::bind_by_hand;
use gpuslice_core::errno::Errno;
use gpuslice_core::ids::{ParentId, PciAddress, SliceId};
use gpuslice_core::machine::HookOperation;
use gpuslice_core::port::{HostRead, HostWrite, read_text};
use gpuslice_core::refusal::Code;
use gpuslice_core::request::{Answer, Command, Outcome, PlanRow};
use gpuslice_sim::{Fault, HostFile};

const CONFIG: &str = "/etc/modprobe.d/gpuslice-gim.conf";
const LAYOUT: &str = "[[gpu]]\nmatch = { vendor-device = \"1002:74a1\" }\nlayout = { vfs = 8 }";

fn hive() -> HostFile {
    HostFile::parse(include_str!("../../../examples/hosts/mi300x-8.toml")).unwrap()
}

/// The hive beside amdgpu, which takes what it is given.
fn with_amdgpu() -> HostFile {
    let mut host = hive();
    let mut amdgpu = host.drivers[0].clone();
    amdgpu.name = "amdgpu".to_owned();
    (amdgpu.loaded, amdgpu.bind_files, amdgpu.gim) = (true, true, None);
    host.drivers.push(amdgpu);
    host
}

fn radeon() -> HostFile {
    HostFile::parse(include_str!("../../../examples/hosts/radeon-gim.toml")).unwrap()
}

/// Orders, and waits for the slowest of it.
fn order(driver: &mut Driver, command: Command) -> Outcome {
    let request = driver.command(command);
    for _ in 0..40 {
        driver.advance(10_000).unwrap();
        if let Some(outcome) = driver.answers.remove(&request) {
            return outcome;
        }
    }
    panic!("no answer");
}

fn planned(driver: &mut Driver) -> PlanRow {
    match order(driver, Command::Plan).unwrap() {
        Answer::Plan(plan) => plan,
        other => panic!("{other:?}"),
    }
}

/// The hive as `gpuslice apply` leaves it.
fn applied() -> Driver {
    let mut driver = Driver::new(&hive(), LAYOUT).unwrap();
    order(&mut driver, Command::Apply).unwrap();
    driver
}

fn vfs(driver: &Driver, pf: &str) -> usize {
    let names = driver.kernel.list(&format!("/sys/bus/pci/devices/{pf}")).unwrap();
    names.iter().filter(|name| name.starts_with("virtfn")).count()
}

fn counts(driver: &Driver) -> Vec<usize> {
    driver.kernel.pfs().iter().map(|pf| vfs(driver, &pf.to_string())).collect()
}

fn states(driver: &mut Driver) -> Vec<(String, Option<String>)> {
    match order(driver, Command::ListParents).unwrap() {
        Answer::Parents { rows } => rows.into_iter().map(|r| (r.state, r.reason)).collect(),
        other => panic!("{other:?}"),
    }
}

fn quarantines(driver: &Driver) -> Vec<Code> {
    driver.machine.durable().quarantines.values().map(|why| why.code).collect()
}

#[test]
fn one_plan_loads_the_driver_for_all_gpus() {
    let mut driver = Driver::new(&hive(), LAYOUT).unwrap();
    let plan = planned(&mut driver);
    let steps: Vec<&str> = plan.steps.iter().map(|row| row.step.as_str()).collect();
    assert!(plan.blockers.is_empty(), "{plan:?}");
    let value = "8,8,8,8,8,8,8,8";
    assert_eq!(
        steps.first().copied(),
        Some(format!("write \"options gim vf_num={value}\" to {CONFIG}").as_str())
    );
    assert_eq!(
        steps.last().copied(),
        Some(format!("load driver gim with vf_num={value}").as_str())
    );
    assert_eq!(steps.iter().filter(|s| s.contains("sriov_drivers_autoprobe=0")).count(), 8);
    assert!(!steps.iter().any(|step| step.contains("unload")), "{steps:?}");
    // Nothing is done that nobody asked for: whoever else may own these GPUs is not known.
    assert_eq!(counts(&driver), [0; 8]);
    order(&mut driver, Command::Apply).unwrap();
    assert_eq!(counts(&driver), [8; 8]);
    // The driver's own file is the driver's.
    let kept = read_text(&driver.kernel, "/etc/gim_config").unwrap();
    assert_eq!(kept, "vf_num=8\naccelerator_partition_mode=9\nmemory_partition_mode=9");
    assert!(!planned(&mut driver).changed);
}

#[test]
fn after_a_boot_the_driver_is_loaded_again() {
    let mut driver = applied();
    driver.kernel.reboot();
    driver.kernel.settle();
    assert_eq!(counts(&driver), [0; 8]);
    driver.restart().unwrap();
    driver.advance(60_000).unwrap();
    assert_eq!(counts(&driver), [8; 8]);
}

#[test]
fn another_number_reloads_the_driver_when_nobody_uses_a_vf_of_any_gpu() {
    let mut driver = applied();
    let domain = attach(&mut driver, 1, "amd-mi300x-vf8-cpx");
    call(&mut driver, &domain, HookOperation::Prepare).unwrap();
    let slice = domain.devices[0].source.slice();
    driver.kernel.open(4000, "qemu-system-x86", slice).unwrap();
    call(&mut driver, &domain, HookOperation::Started).unwrap();
    // Also a change of another GPU: the driver goes for all.
    driver.config = format!(
        "[[gpu]]\nmatch = {{ address = \"0000:df:00.0\" }}\nlayout = {{ vfs = 1 }}\n{LAYOUT}"
    );
    let refusal = order(&mut driver, Command::Apply).unwrap_err();
    assert_eq!(refusal.code, Code::InUse, "{refusal}");
    assert!(refusal.message.contains("vm1"), "{refusal}");
    assert_eq!(counts(&driver), [8; 8]);
    driver.kernel.kill(4000);
    call(&mut driver, &domain, HookOperation::Release).unwrap();
    driver.advance(10_000).unwrap();
    order(&mut driver, Command::Apply).unwrap();
    assert_eq!(counts(&driver), [8, 8, 8, 8, 8, 8, 8, 1]);
    assert_eq!(
        read_text(&driver.kernel, "/sys/module/gim/parameters/vf_num").unwrap(),
        "8,8,8,8,8,8,8,1"
    );
}

#[test]
fn the_unload_is_never_begun_while_a_stranger_holds_a_vf() {
    let mut driver = applied();
    let vf = *driver.machine.observation().vfs.keys().next_back().unwrap();
    bind_by_hand(&mut driver.kernel, vf, "vfio-pci");
    driver.kernel.open(5000, "some-tool", SliceId::Vf(vf)).unwrap();
    driver.wake_up().unwrap();
    driver.config = LAYOUT.replace("vfs = 8", "vfs = 4");
    let refusal = order(&mut driver, Command::Apply).unwrap_err();
    assert_eq!(refusal.code, Code::Held, "{refusal}");
    assert!(refusal.one_line().contains("some-tool"), "{refusal:?}");
    assert!(driver.kernel.blocked().is_empty());
    assert_eq!(counts(&driver), [8; 8]);
    assert!(quarantines(&driver).is_empty());
    driver.kernel.kill(5000);
    order(&mut driver, Command::Apply).unwrap();
    assert_eq!(counts(&driver), [4; 8]);
}

#[test]
fn a_gpu_of_which_the_driver_makes_no_vfs_says_so() {
    let mut driver = Driver::new(&hive(), LAYOUT).unwrap();
    let (pf, errno) = (driver.kernel.pfs()[0], Errno::ENOMEM);
    driver.kernel.inject(Fault::Enable { pf, nth: 1, times: 1, errno });
    // By hand, so nobody is told what the driver said.
    driver.kernel.load_module("gim").unwrap();
    driver.kernel.settle();
    driver.wake_up().unwrap();
    let (state, reason) = states(&mut driver).remove(0);
    assert_eq!(state, "waiting");
    assert!(
        reason.as_ref().unwrap().contains("dmesg | grep gim; then gpuslice apply"),
        "{reason:?}"
    );
}

#[test]
fn a_start_during_the_reload_is_refused() {
    let mut driver = applied();
    let domain = attach(&mut driver, 1, "amd-mi300x-vf8-cpx");
    driver.config = LAYOUT.replace("vfs = 8", "vfs = 4");
    let request = driver.command(Command::Apply);
    driver.drain().unwrap();
    let refusal = call(&mut driver, &domain, HookOperation::Prepare).unwrap_err();
    assert_eq!(refusal.code, Code::NotSettled, "{refusal}");
    driver.advance(60_000).unwrap();
    driver.answers.remove(&request).unwrap().unwrap();
    assert_eq!(counts(&driver), [4; 8]);
}

#[test]
fn an_unload_that_sleeps_quarantines_all_gpus_until_it_returns() {
    let mut driver = Driver::new(&with_amdgpu(), LAYOUT).unwrap();
    order(&mut driver, Command::Apply).unwrap();
    let vf = *driver.machine.observation().vfs.keys().next().unwrap();
    bind_by_hand(&mut driver.kernel, vf, "amdgpu");
    // Nobody sees it.
    let path = format!("/sys/bus/pci/devices/{vf}/driver");
    driver.kernel.inject(Fault::Vanish { path, nth: 1 });
    driver.wake_up().unwrap();
    driver.config = LAYOUT.replace("vfs = 8", "vfs = 2");
    let request = driver.command(Command::Apply);
    driver.drain().unwrap();
    assert_eq!(driver.kernel.blocked(), ["modprobe -r gim"]);
    driver.advance(200_000).unwrap();
    assert_eq!(quarantines(&driver), [Code::DeviceStuck; 8]);
    let refusal = driver.answers.remove(&request).unwrap().unwrap_err();
    assert_eq!(refusal.code, Code::DeviceStuck, "{refusal}");
    let unbind = "/sys/bus/pci/drivers/amdgpu/unbind";
    driver.kernel.write(unbind, vf.to_string().as_bytes()).unwrap();
    driver.advance(60_000).unwrap();
    assert_eq!(quarantines(&driver), []);
    assert_eq!(counts(&driver), [2; 8]);
}

#[test]
fn each_vf_that_the_host_uses_is_to_be_let_go() {
    let mut driver = Driver::new(&with_amdgpu(), LAYOUT).unwrap();
    order(&mut driver, Command::Apply).unwrap();
    let vfs: Vec<_> = driver.machine.observation().vfs.keys().copied().take(2).collect();
    for vf in &vfs {
        bind_by_hand(&mut driver.kernel, *vf, "amdgpu");
    }
    driver.wake_up().unwrap();
    driver.config = LAYOUT.replace("vfs = 8", "vfs = 2");
    let refusal = order(&mut driver, Command::Apply).unwrap_err();
    assert_eq!(refusal.code, Code::HostDriver, "{refusal}");
    let unbind = |vf| format!("echo {vf} > /sys/bus/pci/drivers/amdgpu/unbind");
    let each: Vec<String> = vfs.iter().map(unbind).collect();
    assert_eq!(refusal.hint.as_deref(), Some(each.join(", then ").as_str()));
}

#[test]
fn vfs_are_bound_from_the_start_once_they_are_there() {
    let config = LAYOUT.replace("vfs = 8", "vfs = 2, bind = \"vfio-pci\"");
    let mut driver = Driver::new(&hive(), &config).unwrap();
    order(&mut driver, Command::Apply).unwrap();
    driver.advance(10_000).unwrap();
    let vfs = &driver.machine.observation().vfs;
    assert_eq!(vfs.len(), 16);
    assert!(vfs.values().all(|vf| vf.driver.as_deref() == Some("vfio-pci")), "{vfs:?}");
}

#[test]
fn a_gpu_nobody_has_heard_of_is_sliced() {
    let config = "[[gpu]]\nmatch = { driver = \"gim\" }\nlayout = { vfs = \"all\" }";
    let mut driver = Driver::new(&radeon(), config).unwrap();
    driver.advance(10_000).unwrap();
    // GIM was loaded by somebody, with one VF each.
    assert_eq!(counts(&driver), [1, 1]);
    order(&mut driver, Command::Apply).unwrap();
    assert_eq!(counts(&driver), [12, 4]);
    let profiles = match order(&mut driver, Command::ListProfiles).unwrap() {
        Answer::Profiles { rows } => rows,
        other => panic!("{other:?}"),
    };
    let names: Vec<&str> = profiles.iter().map(|row| row.profile.as_str()).collect();
    assert_eq!(names, ["amd-7ff0-vf4", "amd-v710-vf12"]);
}

#[test]
fn numbers_of_vfs_are_in_the_order_in_which_the_driver_probes() {
    // The V710 has the lower address, and the driver takes all MI300X first.
    let mut host = radeon();
    host.functions.truncate(1);
    host.functions.extend(hive().functions.into_iter().take(1));
    let config = "[[gpu]]\nmatch = { driver = \"gim\" }\nlayout = { vfs = \"all\" }";
    let mut driver = Driver::new(&host, config).unwrap();
    driver.advance(10_000).unwrap();
    order(&mut driver, Command::Apply).unwrap();
    assert_eq!(counts(&driver), [12, 8]);
    assert!(read_text(&driver.kernel, CONFIG).unwrap().ends_with("vf_num=8,12"));
}

#[test]
fn gpus_without_a_layout_keep_what_they_have() {
    let config = "[[gpu]]\nmatch = { address = \"0000:83:00.0\" }\nlayout = { vfs = 3 }";
    let mut driver = Driver::new(&radeon(), config).unwrap();
    order(&mut driver, Command::Apply).unwrap();
    assert_eq!(counts(&driver), [1, 3]);
    let written = read_text(&driver.kernel, CONFIG).unwrap();
    assert!(written.ends_with("options gim vf_num=1,3"), "{written}");
}

#[test]
fn amdgpu_in_the_way_is_explained_and_left() {
    let mut host = with_amdgpu();
    host.functions.truncate(1);
    host.functions[0].driver = Some("amdgpu".to_owned());
    let mut driver = Driver::new(&host, LAYOUT).unwrap();
    let refusal = order(&mut driver, Command::Apply).unwrap_err();
    assert_eq!(refusal.code, Code::HostDriver, "{refusal}");
    assert!(refusal.hint.unwrap().contains("blacklist amdgpu"));
    let pf = host.functions[0].address;
    let bound = driver.machine.observation().functions[&pf].driver.clone();
    assert_eq!(bound.as_deref(), Some("amdgpu"));
}

#[test]
fn numbers_the_driver_cannot_make_are_refused_before_it_forgets_its_settings() {
    let mut driver = applied();
    for vfs in ["0", "9"] {
        driver.config = LAYOUT.replace("vfs = 8", &format!("vfs = {vfs}"));
        let refusal = order(&mut driver, Command::Apply).unwrap_err();
        assert_eq!(refusal.code, Code::BadConfig, "{refusal}");
    }
    assert_eq!(counts(&driver), [8; 8]);
}

#[test]
fn a_vf_that_a_host_driver_uses_is_named() {
    let mut driver = Driver::new(&with_amdgpu(), LAYOUT).unwrap();
    order(&mut driver, Command::Apply).unwrap();
    let vf = *driver.machine.observation().vfs.keys().next().unwrap();
    bind_by_hand(&mut driver.kernel, vf, "amdgpu");
    driver.wake_up().unwrap();
    driver.config = LAYOUT.replace("vfs = 8", "vfs = 4");
    let refusal = order(&mut driver, Command::Apply).unwrap_err();
    assert_eq!(refusal.code, Code::HostDriver, "{refusal}");
    assert!(refusal.message.contains(&vf.to_string()), "{refusal}");
    assert_eq!(counts(&driver), [8; 8]);
}

#[test]
fn another_file_that_sets_the_number_is_named() {
    let mut driver = Driver::new(&hive(), LAYOUT).unwrap();
    driver.kernel.replace("/etc/modprobe.d/zz-site.conf", b"options gim vf_num=2\n").unwrap();
    let refusal = order(&mut driver, Command::Apply).unwrap_err();
    let told =
        format!("/etc/modprobe.d/zz-site.conf gives gim vf_num=2, which comes after {CONFIG}");
    assert_eq!((refusal.code, refusal.message.as_str()), (Code::BadConfig, told.as_str()));
    let hint = "take vf_num out of /etc/modprobe.d/zz-site.conf, then gpuslice apply";
    assert_eq!(refusal.hint.unwrap(), hint);
    assert_eq!(counts(&driver), [0; 8]);
    assert_eq!(driver.kernel.list("/sys/module/gim"), Err(Errno::ENOENT), "it was not loaded");
    driver.kernel.replace("/etc/modprobe.d/zz-site.conf", b"options gim log_level=4\n").unwrap();
    // One that comes first is no hindrance.
    driver.kernel.replace("/etc/modprobe.d/amd.conf", b"options gim vf_num=2\n").unwrap();
    order(&mut driver, Command::Apply).unwrap();
    assert_eq!(counts(&driver), [8; 8]);
}

#[test]
fn an_argument_of_the_kernel_that_sets_the_number_is_named_before_any_vf_goes() {
    let mut driver = Driver::new(&hive(), LAYOUT).unwrap();
    order(&mut driver, Command::Apply).unwrap();
    driver.kernel.replace("/proc/cmdline", b"quiet gim.vf_num=8,2\n").unwrap();
    driver.config = LAYOUT.replace("vfs = 8", "vfs = 4");
    let refusal = order(&mut driver, Command::Apply).unwrap_err();
    let told =
        format!("an argument of the kernel gives gim vf_num=8,2, which comes after {CONFIG}");
    assert_eq!((refusal.code, refusal.message.as_str()), (Code::BadConfig, told.as_str()));
    let hint = "take gim.vf_num out of the kernel's arguments, then reboot, then gpuslice apply";
    assert_eq!(refusal.hint.unwrap(), hint);
    assert_eq!(counts(&driver), [8; 8]);
    // One that says the same is none.
    driver.kernel.replace("/proc/cmdline", b"quiet gim.vf_num=4,4\n").unwrap();
    order(&mut driver, Command::Apply).unwrap();
    assert_eq!(counts(&driver), [4; 8]);
    // At a boot there are no VFs to lose, and the load tells all of them.
    driver.kernel.replace("/proc/cmdline", b"quiet gim.vf_num=2\n").unwrap();
    broken::reboot(&mut driver);
    let told: Vec<Option<String>> = states(&mut driver).into_iter().map(|(_, why)| why).collect();
    let says = |why: &Option<String>| why.as_ref().is_some_and(|why| why.contains("reads 2, not"));
    assert_eq!(told.iter().filter(|why| says(why)).count(), 8, "{told:?}");
}

#[test]
fn a_file_of_somebody_else_is_not_written_over() {
    let mut driver = Driver::new(&hive(), LAYOUT).unwrap();
    driver.kernel.replace(CONFIG, b"options gim log_level=4\n").unwrap();
    driver.wake_up().unwrap();
    let refusal = order(&mut driver, Command::Apply).unwrap_err();
    assert!(refusal.one_line().contains("was not written by gpuslice"), "{refusal:?}");
    assert_eq!(read_text(&driver.kernel, CONFIG).unwrap(), "options gim log_level=4");
    assert_eq!(counts(&driver), [0; 8]);
}

#[test]
fn each_write_may_fail() {
    for (path, errnos) in [
        (CONFIG, [Errno::EROFS, Errno::ENOSPC, Errno::EACCES]),
        ("modprobe -r gim", [Errno::EIO, Errno::EPERM, Errno::ENOSYS]),
        ("modprobe gim", [Errno::ENODEV, Errno::EKEYREJECTED, Errno::ENOMEM]),
    ] {
        for errno in errnos {
            let mut driver = applied();
            driver.config = LAYOUT.replace("vfs = 8", "vfs = 4");
            let path = path.to_owned();
            driver.kernel.inject(Fault::Write { path: path.clone(), nth: 1, times: 1, errno });
            let refusal = order(&mut driver, Command::Apply).unwrap_err();
            assert!(refusal.one_line().contains(&errno.to_string()), "{path} {refusal:?}");
            driver.kernel.clear_faults();
            order(&mut driver, Command::Apply).unwrap();
            assert_eq!(counts(&driver), [4; 8], "{path} {errno}");
        }
    }
}

#[test]
fn a_daemon_killed_in_mid_plan_finishes_it() {
    let mut deaths = 0;
    for dies_after in 0..80 {
        let mut driver = applied();
        driver.config = LAYOUT.replace("vfs = 8", "vfs = 4");
        driver.dies_after = Some(dies_after);
        driver.command(Command::Apply);
        driver.advance(400_000).unwrap();
        deaths += driver.deaths;
        driver.dies_after = None;
        // One that died before anything was taken away has the old layout; asking again always helps.
        if counts(&driver) != [4; 8] {
            assert_eq!(counts(&driver), [8; 8], "died after {dies_after}");
            order(&mut driver, Command::Apply).unwrap();
        }
        assert_eq!(counts(&driver), [4; 8], "died after {dies_after}");
        assert!(quarantines(&driver).is_empty());
    }
    assert!(deaths > 10, "{deaths}");
}

#[test]
fn a_gpu_unplugged_in_mid_plan_holds_up_nobody() {
    let pf: PciAddress = "0000:38:00.0".parse().unwrap();
    let mut driver = applied();
    driver.config = LAYOUT.replace("vfs = 8", "vfs = 4");
    let request = driver.command(Command::Apply);
    driver.drain().unwrap();
    driver.kernel.unplug(pf);
    driver.advance(400_000).unwrap();
    let refusal = driver.answers.remove(&request).unwrap().unwrap_err();
    assert_eq!(refusal.code, Code::NotSettled, "{refusal}");
    assert_eq!(counts_of_others(&driver, pf), [4; 7]);
    assert!(quarantines(&driver).is_empty());
}

fn counts_of_others(driver: &Driver, gone: PciAddress) -> Vec<usize> {
    let pfs = driver.kernel.pfs().into_iter().filter(|pf| *pf != gone);
    pfs.map(|pf| vfs(driver, &pf.to_string())).collect()
}

#[test]
fn what_cannot_be_read_is_told_and_nothing_is_done() {
    for path in ["/sys/module/gim", CONFIG] {
        let mut driver = applied();
        driver.kernel.inject(Fault::Read {
            path: path.to_owned(),
            nth: 1,
            times: u32::MAX,
            errno: Errno::EACCES,
        });
        driver.wake_up().unwrap();
        let problems = &driver.machine.observation().problems;
        assert!(problems.iter().any(|problem| problem.path == path), "{problems:?}");
        assert_eq!(counts(&driver), [8; 8]);
        assert!(quarantines(&driver).is_empty());
        assert!(states(&mut driver).iter().all(|(state, _)| state == "ok"));
    }
}

#[test]
fn the_driver_s_gpus_are_one_when_it_comes_to_a_quarantine() {
    let mut driver = applied();
    driver.config = LAYOUT.replace("vfs = 8", "vfs = 4");
    driver.kernel.inject(Fault::Write {
        path: "modprobe gim".to_owned(),
        nth: 1,
        times: 1,
        errno: Errno::ENODEV,
    });
    order(&mut driver, Command::Apply).unwrap_err();
    assert_eq!(quarantines(&driver), [Code::DeviceFailed; 8]);
    driver.kernel.clear_faults();
    let parents: Vec<ParentId> = driver.machine.durable().quarantines.keys().cloned().collect();
    for parent in parents {
        order(&mut driver, Command::Uncordon { parent }).unwrap();
    }
    driver.advance(60_000).unwrap();
    assert_eq!(counts(&driver), [4; 8]);
}

#[test]
fn a_gpu_without_driver_is_not_judged_by_what_gim_can() {
    // Its driver comes later, and need not be gim.
    let beyond = LAYOUT.replace("vfs = 8", "vfs = 64");
    let mut driver = Driver::new(&hive(), &beyond).unwrap();
    assert_eq!(quarantines(&driver), []);
    // A person who asks is told, and it is still not settled.
    let refusal = order(&mut driver, Command::Apply).unwrap_err();
    assert_eq!(refusal.code, Code::BadConfig, "{refusal}");
    assert!(order(&mut driver, Command::WaitSettled { timeout_ms: 1000 }).is_err());
}

#[test]
fn what_is_reset_and_tells_no_mode_is_waited_for() {
    let mut driver = applied();
    let domain = attach(&mut driver, 1, "amd-mi300x-vf8-cpx");
    for pf in driver.kernel.pfs() {
        let path = format!("/sys/bus/pci/devices/{pf}/accelerator_partition_profile");
        driver.kernel.inject(Fault::Read { path, nth: 1, times: 3, errno: Errno::EIO });
    }
    driver.wake_up().unwrap();
    driver.advance(100).unwrap();
    let refusal = call(&mut driver, &domain, HookOperation::Prepare).unwrap_err();
    assert_eq!(refusal.code, Code::NotSettled, "{refusal}");
    driver.advance(60_000).unwrap();
    let due = match order(&mut driver, Command::AgentWork).unwrap() {
        Answer::AgentWork { start, .. } => start,
        other => panic!("{other:?}"),
    };
    assert_eq!(due.iter().map(|start| start.domain).collect::<Vec<_>>(), [domain.uuid]);
    call(&mut driver, &domain, HookOperation::Prepare).unwrap();
}

#[test]
fn a_reset_that_failed_costs_its_vf_on_a_host_with_many_gpus() {
    let mut driver = applied();
    driver.config = LAYOUT.replace("vfs = 8", "vfs = 8, wipe = \"required\"");
    order(&mut driver, Command::Apply).unwrap();
    driver.kernel.say("gim error libgv: [0:5c:0:0][PF][amdgv_put_event:9] FLR failed on vf : 3!");
    driver.wake_up().unwrap();
    driver.advance(1_000).unwrap();
    let rows = match order(&mut driver, Command::ListParents).unwrap() {
        Answer::Parents { rows } => rows,
        other => panic!("{other:?}"),
    };
    let unwell = rows.iter().filter(|row| row.health != "ok");
    let unwell: Vec<_> = unwell.map(|row| (row.parent.to_string(), row.health.as_str())).collect();
    assert_eq!(unwell, [("0000:5c:00.0".to_owned(), "degraded")]);
    let dirty: Vec<&SliceId> = driver.machine.runtime().dirty.keys().collect();
    assert_eq!(dirty, [&SliceId::Vf("0000:5c:02.3".parse().unwrap())]);
}

/// A line may have lost its begin.
#[test]
fn a_line_of_the_kernels_log_that_names_no_gpu_is_told_all_the_same() {
    let mut driver = Driver::new(&hive(), LAYOUT).unwrap();
    driver.advance(200_000).unwrap();
    for _ in 0..2 {
        driver.kernel.say("gim: FLR failed on vf : 3!");
        driver.wake_up().unwrap();
        driver.advance(1_000).unwrap();
    }
    let warnings = match order(&mut driver, Command::Status).unwrap() {
        Answer::Status(status) => status.warnings,
        other => panic!("{other:?}"),
    };
    let told = warnings.iter().filter(|w| w.contains("under gim") && w.contains("vf : 3"));
    assert_eq!(told.count(), 1, "{warnings:?}");
    assert_eq!(driver.machine.durable().health.len(), 0);
}
