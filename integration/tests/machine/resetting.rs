//! GPUs of a hive that are reset each in its own time, and tell nothing meanwhile.

use super::modes::{NPS4, set};
use super::{LAYOUT, applied, hive, order, planned, quarantines};
use crate::driver::Driver;
use gpuslice_core::ids::PciAddress;
use gpuslice_core::machine::RequestId;
use gpuslice_core::mode::Mode;
use gpuslice_core::port::HostWrite;
use gpuslice_core::request::Command;
use gpuslice_sim::Fault;

fn all_are_set(driver: &mut Driver) {
    assert_eq!(quarantines(driver), []);
    assert_eq!(set(driver, Mode::Memory), ["NPS4"; 8]);
    assert_eq!(set(driver, Mode::Compute), ["CPX"; 8]);
    assert!(!planned(driver).changed);
}

/// Whoever ordered it waits as long as a GPU is being reset, and no longer.
fn answered_once_well(driver: &mut Driver, request: RequestId) {
    assert!(!driver.answers.contains_key(&request));
    driver.kernel.clear_faults();
    driver.advance(60_000).unwrap();
    driver.answers.remove(&request).unwrap().unwrap();
    all_are_set(driver);
}

/// Neither while the slow one tells what it was, nor while it tells nothing.
#[test]
fn a_mode_is_set_when_the_slowest_of_the_hive_has_it() {
    let slow: PciAddress = "0000:5c:00.0".parse().unwrap();
    for fault in [Fault::Delay { pf: slow, ms: 20_000 }, Fault::Resets { pf: slow }] {
        let mut driver = applied();
        driver.config = NPS4.to_owned();
        let request = driver.command(Command::Apply);
        driver.lazy = true;
        driver.drain().unwrap();
        driver.kernel.inject(fault);
        driver.lazy = false;
        driver.begin_lazy().unwrap();
        driver.advance(10_000).unwrap();
        answered_once_well(&mut driver, request);
    }
}

/// A driver that was just loaded brings the modes it had before into force, which resets the GPUs.
#[test]
fn a_hive_that_cannot_tell_how_it_is_set_is_looked_at_again() {
    for only in [None, Some("0000:0c:00.0"), Some("0000:5c:00.0")] {
        let mut driver = Driver::new(&hive(), LAYOUT).unwrap();
        driver.config = NPS4.to_owned();
        let request = driver.command(Command::Apply);
        driver.drain().unwrap();
        let resets = driver.kernel.pfs().into_iter();
        for pf in resets.filter(|pf| only.is_none_or(|only| pf.to_string() == only)) {
            driver.kernel.inject(Fault::Resets { pf });
        }
        driver.advance(20_000).unwrap();
        answered_once_well(&mut driver, request);
    }
}

#[test]
fn a_mode_that_is_on_its_way_is_not_refused() {
    let mut driver = applied();
    driver.config = NPS4.to_owned();
    let path = "/sys/bus/pci/devices/0000:0c:00.0/memory_partition_mode";
    driver.kernel.write(path, b"NPS4").unwrap();
    order(&mut driver, Command::Apply).unwrap();
    all_are_set(&mut driver);
}
