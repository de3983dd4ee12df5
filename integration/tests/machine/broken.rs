//! A GPU that GIM cannot initialise, beside others that it can.

use super::modes::{NPS4, set};
use super::{CONFIG, LAYOUT, counts, hive, order, planned, quarantines, states};
use crate::driver::Driver;
use crate::vgpu::{attach, call};
use gpuslice_core::errno::Errno;
use gpuslice_core::ids::PciAddress;
use gpuslice_core::machine::HookOperation;
use gpuslice_core::mode::Mode;
use gpuslice_core::port::{HostWrite, read_text};
use gpuslice_core::refusal::{Code, Refusal};
use gpuslice_core::request::{Answer, Command};
use gpuslice_sim::{Fault, HostFile};
use std::collections::BTreeSet;

const BROKEN: &str = "0000:5c:00.0";

const PROFILE: &str = "amd-mi300x-vf8-cpx";

const LEFT_OUT: &str = "[[gpu]]\nmatch = { address = \"0000:5c:00.0\" }\nlayout = { vfs = 0 }\n";

/// A driver that has initialised its GPUs when its load returns.
fn waiting() -> HostFile {
    let mut host = hive();
    host.drivers[0].gim.as_mut().unwrap().init_ms = 0;
    host
}

/// A hive of which one GPU is broken for so many loads.
fn with_a_broken_one(host: &HostFile, pf: &str, times: u32) -> Driver {
    let pf: PciAddress = pf.parse().unwrap();
    let mut driver = Driver::new(host, LAYOUT).unwrap();
    driver.kernel.inject(Fault::Enable { pf, nth: 1, times, errno: Errno::ENOMEM });
    driver
}

fn refused(driver: &mut Driver) -> Refusal {
    let refusal = order(driver, Command::Apply).unwrap_err();
    assert_eq!(refusal.code, Code::DeviceFailed, "{refusal}");
    refusal
}

pub fn reboot(driver: &mut Driver) {
    driver.kernel.reboot();
    driver.kernel.settle();
    driver.forget_processes();
    driver.restart().unwrap();
    driver.advance(5_000).unwrap();
}

fn quarantined(driver: &Driver) -> Vec<String> {
    driver.machine.durable().quarantines.keys().map(ToString::to_string).collect()
}

fn has_all_but(driver: &Driver, broken: &str, vfs: usize) {
    let pfs = driver.kernel.pfs();
    let wanted: Vec<usize> =
        pfs.iter().map(|pf| if pf.to_string() == broken { vfs } else { 8 }).collect();
    assert_eq!(counts(driver), wanted);
}

fn all_are_ok(driver: &mut Driver) {
    let states = states(driver);
    assert!(states.iter().all(|(state, _)| state == "ok"), "{states:?}");
}

/// A VM starts on what the others have.
fn others_serve(driver: &mut Driver) {
    let domain = attach(driver, 1, PROFILE);
    call(driver, &domain, HookOperation::Prepare).unwrap();
    call(driver, &domain, HookOperation::Release).unwrap();
}

#[test]
fn it_is_told_of_and_the_others_serve() {
    let mut driver = with_a_broken_one(&hive(), BROKEN, 1);
    let refusal = refused(&mut driver);
    let said = refusal.one_line();
    assert!(said.contains("did not make the VFs asked for of 0000:5c:00.0;"), "{said}");
    assert!(said.contains("Failed to init dev(0x5c00)."), "{said}");
    assert_eq!(
        refusal.hint.as_deref(),
        Some(
            "dmesg | grep gim; then gpuslice apply; or set vfs to 0 for 0000:5c:00.0 in a [[gpu]] \
             of its own before gpuslice.toml:1, then gpuslice apply"
        )
    );
    assert_eq!(quarantined(&driver), [BROKEN]);
    has_all_but(&driver, BROKEN, 0);
    let states = states(&mut driver);
    assert_eq!(states.iter().filter(|(state, _)| state == "ok").count(), 7, "{states:?}");
    others_serve(&mut driver);
}

#[test]
fn the_others_serve_while_it_is_waited_for() {
    let mut driver = with_a_broken_one(&hive(), BROKEN, 1);
    let request = driver.command(Command::Apply);
    driver.advance(2_000).unwrap();
    has_all_but(&driver, BROKEN, 0);
    others_serve(&mut driver);
    assert_eq!(quarantines(&driver), []);
    assert!(!driver.answers.contains_key(&request));
    // Also for a daemon that finds the load begun.
    driver.restart().unwrap();
    driver.drain().unwrap();
    others_serve(&mut driver);
}

#[test]
fn a_driver_that_waits_for_its_gpus_is_not_waited_for_when_one_failed() {
    let mut driver = with_a_broken_one(&waiting(), BROKEN, 1);
    let request = driver.command(Command::Apply);
    driver.drain().unwrap();
    let refusal = driver.answers.remove(&request).unwrap().unwrap_err();
    assert_eq!(refusal.code, Code::DeviceFailed, "{refusal}");
    assert!(refusal.one_line().contains("Failed to init dev(0x5c00)."), "{refusal:?}");
    // Also after a restart, until a person asks again.
    driver.restart().unwrap();
    driver.drain().unwrap();
    assert_eq!(quarantined(&driver), [BROKEN]);
    others_serve(&mut driver);
    driver.advance(10_000).unwrap();
    order(&mut driver, Command::Apply).unwrap();
    assert_eq!(counts(&driver), [8; 8]);
    assert_eq!(quarantines(&driver), []);
}

/// Whichever of them has the plan of all.
#[test]
fn after_a_boot_the_others_have_their_vfs_at_once() {
    for (host, broken) in [(hive(), BROKEN), (waiting(), BROKEN), (hive(), "0000:0c:00.0")] {
        let mut driver = with_a_broken_one(&host, broken, u32::MAX);
        refused(&mut driver);
        reboot(&mut driver);
        has_all_but(&driver, broken, 0);
        assert_eq!(quarantined(&driver), [broken]);
        assert!(driver.machine.runtime().pending.is_empty());
        others_serve(&mut driver);
    }
}

#[test]
fn a_load_that_never_ran_quarantines_all_also_over_a_boot() {
    let mut driver = Driver::new(&hive(), LAYOUT).unwrap();
    let path = "modprobe gim".to_owned();
    driver.kernel.inject(Fault::Write { path, nth: 1, times: u32::MAX, errno: Errno::ENODEV });
    let refusal = refused(&mut driver);
    assert_eq!(refusal.hint.as_deref(), Some("dmesg | grep gim; then gpuslice apply"));
    assert_eq!(quarantines(&driver), [Code::DeviceFailed; 8]);
    reboot(&mut driver);
    assert_eq!(quarantines(&driver), [Code::DeviceFailed; 8]);
    assert_eq!(counts(&driver), [0; 8]);
}

#[test]
fn one_that_is_left_out_is_in_nobodys_way() {
    for host in [hive(), waiting()] {
        let mut driver = with_a_broken_one(&host, BROKEN, u32::MAX);
        refused(&mut driver);
        let domain = attach(&mut driver, 1, PROFILE);
        call(&mut driver, &domain, HookOperation::Prepare).unwrap();
        let slice = domain.devices[0].source.slice();
        driver.kernel.open(4000, "qemu-system-x86", slice).unwrap();
        call(&mut driver, &domain, HookOperation::Started).unwrap();
        // It is said for the next load, and VMs run on.
        driver.config = format!("{LEFT_OUT}{LAYOUT}");
        order(&mut driver, Command::Apply).unwrap();
        assert_eq!(quarantines(&driver), []);
        all_are_ok(&mut driver);
        let written = read_text(&driver.kernel, CONFIG).unwrap();
        assert!(written.ends_with("options gim vf_num=8,8,8,1,8,8,8,8"), "{written}");
        assert!(!planned(&mut driver).changed);
        driver.kernel.kill(4000);
        reboot(&mut driver);
        has_all_but(&driver, BROKEN, 0);
        assert_eq!(quarantines(&driver), []);
        assert!(driver.machine.runtime().pending.is_empty());
        all_are_ok(&mut driver);
    }
}

#[test]
fn the_vf_of_one_that_is_left_out_is_listed_as_what_made_it() {
    let mut driver = Driver::new(&hive(), &format!("{LEFT_OUT}{LAYOUT}")).unwrap();
    order(&mut driver, Command::Apply).unwrap();
    let Answer::Slices { rows } = order(&mut driver, Command::ListSlices).unwrap() else {
        panic!()
    };
    let made = rows.iter().map(|row| (row.mechanism.as_str(), row.profile.is_some()));
    assert_eq!(BTreeSet::from_iter(made), [("gim", false), ("gim", true)].into());
}

#[test]
fn modes_are_those_of_the_others() {
    let mut driver = with_a_broken_one(&hive(), BROKEN, u32::MAX);
    let cpx = LAYOUT.replace("vfs = 8", "vfs = 8, compute = \"CPX\"");
    driver.config = format!("{LEFT_OUT}{cpx}");
    order(&mut driver, Command::Apply).unwrap();
    has_all_but(&driver, BROKEN, 0);
    all_are_ok(&mut driver);
    driver.config =
        format!("{}{LAYOUT}", LEFT_OUT.replace("vfs = 0", "vfs = 0, compute = \"CPX\""));
    let refusal = order(&mut driver, Command::Apply).unwrap_err();
    assert_eq!(refusal.code, Code::BadConfig, "{refusal}");
    let told =
        "take compute out of the layout of 0000:5c:00.0 (gpuslice.toml:1), then gpuslice apply";
    assert_eq!(refusal.hint.as_deref(), Some(told));
}

/// Also where it is the first of the hive, which sets the memory mode of all.
#[test]
fn the_others_have_their_modes() {
    for (host, broken) in [(hive(), BROKEN), (waiting(), BROKEN), (hive(), "0000:0c:00.0")] {
        let mut driver = with_a_broken_one(&host, broken, u32::MAX);
        driver.config = NPS4.to_owned();
        let others_are_so = |driver: &mut Driver| {
            has_all_but(driver, broken, 0);
            assert_eq!(quarantined(driver), [broken]);
            for (mode, value) in [(Mode::Memory, "NPS4"), (Mode::Compute, "CPX")] {
                let set = set(driver, mode);
                assert_eq!(set.iter().filter(|set| *set == value).count(), 7, "{set:?}");
            }
            let states = states(driver);
            assert_eq!(states.iter().filter(|(state, _)| state == "ok").count(), 7, "{states:?}");
        };
        let refusal = refused(&mut driver);
        assert!(refusal.one_line().contains("did not make the VFs asked for of"), "{refusal:?}");
        others_are_so(&mut driver);
        reboot(&mut driver);
        others_are_so(&mut driver);
    }
}

/// The driver forgets what it was set to when the number of VFs of one becomes another.
#[test]
fn a_boot_brings_the_others_their_modes() {
    let mut driver = with_a_broken_one(&hive(), BROKEN, u32::MAX);
    driver.config = NPS4.to_owned();
    refused(&mut driver);
    driver.kernel.replace("/etc/gim_config", b"").unwrap();
    reboot(&mut driver);
    driver.advance(60_000).unwrap();
    assert_eq!(quarantined(&driver), [BROKEN]);
    let set = set(&driver, Mode::Memory);
    assert_eq!(set.iter().filter(|set| *set == "NPS4").count(), 7, "{set:?}");
}

#[test]
fn what_is_left_out_and_well_is_given_to_nobody() {
    let mut driver = Driver::new(&hive(), &format!("{LEFT_OUT}{LAYOUT}")).unwrap();
    order(&mut driver, Command::Apply).unwrap();
    has_all_but(&driver, BROKEN, 1);
    all_are_ok(&mut driver);
    let profiles = match order(&mut driver, Command::ListProfiles).unwrap() {
        Answer::Profiles { rows } => rows,
        other => panic!("{other:?}"),
    };
    let names: Vec<&str> = profiles.iter().map(|row| row.profile.as_str()).collect();
    assert_eq!(names, [PROFILE]);
    assert!(!planned(&mut driver).changed);
}
