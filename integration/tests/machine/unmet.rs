//! Layouts that a GPU cannot meet for a time, since another driver has it or its own has switched its VFs off.

use super::broken::reboot;
use super::{LAYOUT, counts, hive, order, planned, quarantines, radeon, states, with_amdgpu};
use crate::driver::Driver;
use crate::vgpu::{attach, call};
use crate::world::bind_by_hand;
use gpuslice_core::machine::HookOperation;
use gpuslice_core::port::HostWrite;
use gpuslice_core::refusal::Code;
use gpuslice_core::request::Command;
use gpuslice_sim::{HostFile, Kernel};

/// A boot in which amdgpu is faster.
fn boot_with_amdgpu(driver: &mut Driver) {
    driver.kernel.reboot();
    driver.kernel.settle();
    for pf in driver.kernel.pfs() {
        bind_by_hand(&mut driver.kernel, pf, "amdgpu");
    }
    driver.forget_processes();
    driver.restart().unwrap();
    driver.advance(5_000).unwrap();
    assert_eq!(quarantines(driver), [Code::HostDriver; 8]);
}

fn applied() -> Driver {
    let mut driver = Driver::new(&with_amdgpu(), LAYOUT).unwrap();
    order(&mut driver, Command::Apply).unwrap();
    driver
}

fn all_serve(driver: &mut Driver) {
    assert_eq!(counts(driver), [8; 8]);
    assert_eq!(quarantines(driver), []);
    let states = states(driver);
    assert!(states.iter().all(|(state, _)| state == "ok"), "{states:?}");
    assert!(!planned(driver).changed);
    let domain = attach(driver, 1, "amd-mi300x-vf8-cpx");
    call(driver, &domain, HookOperation::Prepare).unwrap();
}

#[test]
fn a_boot_under_the_right_driver_ends_what_one_under_another_brought() {
    let mut driver = applied();
    boot_with_amdgpu(&mut driver);
    // The person has mended it.
    reboot(&mut driver);
    all_serve(&mut driver);
}

/// Without a boot and without an order; and nothing is loaded before.
#[test]
fn who_gives_gpus_the_right_driver_by_hand_has_their_slices() {
    let mut driver = applied();
    boot_with_amdgpu(&mut driver);
    for pf in driver.kernel.pfs() {
        let unbind = "/sys/bus/pci/drivers/amdgpu/unbind";
        driver.kernel.write(unbind, pf.to_string().as_bytes()).unwrap();
        let file = format!("/sys/bus/pci/devices/{pf}/driver_override");
        driver.kernel.write(&file, b"\n").unwrap();
    }
    driver.wake_up().unwrap();
    driver.advance(10_000).unwrap();
    assert_eq!((counts(&driver), quarantines(&driver)), (vec![0; 8], vec![Code::HostDriver; 8]));
    driver.kernel.load_module("gim").unwrap();
    driver.advance(10_000).unwrap();
    all_serve(&mut driver);
}

/// Before it is loaded, no driver has the GPUs, also those of which nobody but the driver has heard.
#[test]
fn a_rule_that_names_gim_brings_it_back_after_a_boot() {
    let config = LAYOUT.replace("vendor-device = \"1002:74a1\"", "driver = \"gim\"");
    let mut driver = Driver::new(&hive(), &config).unwrap();
    order(&mut driver, Command::Apply).unwrap();
    reboot(&mut driver);
    all_serve(&mut driver);
    let mut host = radeon();
    host.drivers[0].loaded = false;
    let mut driver = Driver::new(&host, &config.replace('8', "\"all\"")).unwrap();
    // Whether one is its, only the driver knows the first time.
    for _ in 0..2 {
        order(&mut driver, Command::Apply).unwrap();
    }
    assert_eq!(counts(&driver), [12, 4]);
    reboot(&mut driver);
    assert_eq!((counts(&driver), quarantines(&driver)), (vec![12, 4], vec![]));
    assert!(!planned(&mut driver).changed);
    // One that a person has unloaded waits for `apply`, and says so.
    driver.kernel.unload_module("gim").unwrap();
    driver.kernel.settle();
    driver.wake_up().unwrap();
    let (state, reason) = states(&mut driver).remove(0);
    assert_eq!(
        (state.as_str(), reason.as_deref()),
        ("waiting", Some("gim was unloaded: gpuslice apply"))
    );
    assert!(order(&mut driver, Command::WaitSettled { timeout_ms: 1_000 }).is_err());
    order(&mut driver, Command::Apply).unwrap();
    assert_eq!(counts(&driver), [12, 4]);
}

/// Its rule says nothing of a GPU that has another driver.
#[test]
fn a_rule_that_names_gim_leaves_amdgpu_s() {
    let config = LAYOUT.replace("vendor-device = \"1002:74a1\"", "driver = \"gim\"");
    let mut driver = applied();
    driver.config = config;
    order(&mut driver, Command::Apply).unwrap();
    driver.kernel.reboot();
    driver.kernel.settle();
    for pf in driver.kernel.pfs() {
        bind_by_hand(&mut driver.kernel, pf, "amdgpu");
    }
    driver.restart().unwrap();
    driver.advance(5_000).unwrap();
    assert_eq!((counts(&driver), quarantines(&driver)), (vec![0; 8], vec![]));
}

#[test]
fn vfs_that_were_switched_off_for_one_boot_come_with_the_next() {
    let host = HostFile::parse(include_str!("../../../examples/hosts/sriov-8.toml")).unwrap();
    let mut driver = Driver::new(&host, "").unwrap();
    let pf = driver.kernel.pfs()[0];
    driver.config = format!("[[gpu]]\nmatch = {{ address = \"{pf}\" }}\nlayout = {{ vfs = 4 }}\n");
    order(&mut driver, Command::Apply).unwrap();
    let vfs = counts(&driver);
    let mut without = host.clone();
    without.functions[0].sriov.as_mut().unwrap().total_vfs = 0;
    let mut mended = std::mem::replace(&mut driver.kernel, Kernel::from_host(&without));
    reboot(&mut driver);
    assert_eq!(quarantines(&driver), [Code::Unsupported]);
    mended.reboot();
    driver.kernel = mended;
    reboot(&mut driver);
    assert_eq!((counts(&driver), quarantines(&driver)), (vfs, vec![]));
}
