//! Stories of VFs that make mediated devices (NVIDIA's older framework): what has slices, and is counted and named, is
//! their GPU.

use crate::driver::Driver;
use crate::vgpu::{LAYOUT, attach, call, order};
use gpuslice_core::domain::Domain;
use gpuslice_core::machine::HookOperation;
use gpuslice_core::request::{Answer, Command, SliceRow};
use gpuslice_sim::HostFile;

const PROFILE: &str = "nvidia-a40-8q";

fn ready() -> Driver {
    let host = include_str!("../../../examples/hosts/a40-mdev.toml");
    let mut driver = Driver::new(&HostFile::parse(host).unwrap(), LAYOUT).unwrap();
    driver.advance(10_000).unwrap();
    driver
}

/// A VM that runs.
fn running(driver: &mut Driver, vm: u128) -> Domain {
    let domain = attach(driver, vm, PROFILE);
    call(driver, &domain, HookOperation::Prepare).unwrap();
    let pid = u32::try_from(vm).unwrap() + 1000;
    driver.kernel.open(pid, "qemu-system-x86", domain.devices[0].source.slice()).unwrap();
    call(driver, &domain, HookOperation::Started).unwrap();
    domain
}

fn slices(driver: &mut Driver) -> Vec<SliceRow> {
    match order(driver, Command::ListSlices).unwrap() {
        Answer::Slices { rows } => rows,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_vf_that_makes_mediated_devices_is_no_slice() {
    let mut driver = ready();
    let domain = running(&mut driver, 1);
    let rows = slices(&mut driver);
    let (vfs, made): (Vec<_>, Vec<_>) = rows.iter().partition(|row| row.address.is_some());
    assert_eq!(vfs.len(), 128);
    assert!(vfs.iter().all(|row| row.state == "parent"), "{vfs:?}");
    let [made] = made.as_slice() else { panic!("{made:?}") };
    assert_eq!((made.slice, made.state.as_str()), (domain.devices[0].source.slice(), "attached"));
}
