//! Stories of a GPU of NVIDIA's that somebody on the host has open, DCGM for one: `sriov-manage` takes the VFs off their driver,
//! and only then finds that it cannot go on.

use crate::driver::Driver;
use crate::vgpu::{attach, one_gpu, order, slice_state, start, stop, vf};
use crate::wedged::killed_young;
use gpuslice_core::errno::Errno;
use gpuslice_core::ids::PciAddress;
use gpuslice_core::refusal::Code;
use gpuslice_core::request::{Answer, Command};
use gpuslice_sim::Fault;

const PF: &str = "0000:41:00.0";

fn pf() -> PciAddress {
    PF.parse().unwrap()
}

fn reason(driver: &mut Driver) -> Option<String> {
    let Answer::Parents { rows } = order(driver, Command::ListParents).unwrap() else { panic!() };
    assert_eq!(rows[0].state, "ok");
    rows[0].reason.clone()
}

/// All but the one are good, and stay so.
#[test]
fn vfs_are_not_made_anew_while_somebody_has_the_gpu_open() {
    let mut driver = one_gpu();
    let (domain, other) =
        (attach(&mut driver, 1, "nvidia-a40-8q"), attach(&mut driver, 2, "nvidia-a40-8q"));
    driver.kernel.inject(Fault::Computes { pf: pf() });
    killed_young(&mut driver, &domain);
    let wedged = driver.kernel.wedged();
    driver.advance(30_000).unwrap();
    assert_eq!((driver.kernel.wedged(), wedged.len()), (wedged, 1));
    assert_eq!(driver.machine.durable().quarantines.len(), 0);
    assert!(reason(&mut driver).unwrap().contains("gpuslice doctor says who"));
    assert_eq!(slice_state(&mut driver, vf(&domain)), "quarantined");
    // No other VF is the worse for it, and a VM that ends has it tried again.
    start(&mut driver, &other).unwrap();
    stop(&mut driver, &other);
    driver.advance(30_000).unwrap();
    assert_eq!(slice_state(&mut driver, vf(&other)), "free");
    // It is closed, of which nothing tells.
    driver.advance(600_000).unwrap();
    driver.kernel.clear_faults();
    driver.advance(1_200_000).unwrap();
    assert_eq!(slice_state(&mut driver, vf(&domain)), "free");
    assert_eq!(driver.kernel.wedged(), []);
    assert_eq!(reason(&mut driver), None);
    // Nobody looks at it any more.
    let handled = driver.handled;
    driver.advance(86_400_000).unwrap();
    assert_eq!(driver.handled, handled);
}

/// A version without the lock, or somebody who was faster: all VFs are kept back then, until it works.
#[test]
fn a_repair_that_somebody_was_in_the_way_of_quarantines_no_gpu() {
    let mut driver = one_gpu();
    let domain = attach(&mut driver, 1, "nvidia-a40-8q");
    driver.kernel.inject(Fault::Tool { pf: pf(), nth: 1, times: u32::MAX, unbinds: false });
    killed_young(&mut driver, &domain);
    driver.advance(30_000).unwrap();
    assert_eq!(driver.machine.durable().quarantines.len(), 0);
    driver.kernel.clear_faults();
    driver.advance(600_000).unwrap();
    let vfs: Vec<PciAddress> = driver.machine.observation().vfs.keys().copied().collect();
    assert_eq!(vfs.len(), 32);
    for vf in vfs {
        assert_eq!(slice_state(&mut driver, vf), "free", "{vf}");
    }
}

/// A person is told who is in the way, and has what was there before.
#[test]
fn vfs_are_not_taken_for_a_layout_while_somebody_has_the_gpu_open() {
    let mut driver = one_gpu();
    let domain = attach(&mut driver, 1, "nvidia-a40-8q");
    let before = driver.config.clone();
    driver.kernel.inject(Fault::Computes { pf: pf() });
    driver.config = before.replace("\"all\"", "0");
    let refusal = order(&mut driver, Command::Apply).unwrap_err();
    assert_eq!(refusal.code, Code::Held, "{refusal:?}");
    assert!(refusal.hint.as_deref().unwrap().starts_with("gpuslice doctor ("), "{refusal:?}");
    driver.advance(30_000).unwrap();
    assert_eq!(driver.machine.durable().quarantines.len(), 0);
    assert_eq!(driver.machine.observation().vfs.len(), 32);
    driver.config = before;
    order(&mut driver, Command::Apply).unwrap();
    start(&mut driver, &domain).unwrap();
    stop(&mut driver, &domain);
    driver.kernel.clear_faults();
    driver.config = driver.config.replace("\"all\"", "0");
    order(&mut driver, Command::Apply).unwrap();
    assert_eq!(driver.machine.observation().vfs.len(), 0);
}

/// What was in its way is gone, and a person says so.
#[test]
fn vfs_of_a_gpu_that_is_uncordoned_are_made_anew() {
    let mut driver = one_gpu();
    let domain = attach(&mut driver, 1, "nvidia-a40-8q");
    let path = format!("/usr/lib/nvidia/sriov-manage -d {PF}");
    driver.kernel.inject(Fault::Write { path, nth: 1, times: u32::MAX, errno: Errno::EACCES });
    killed_young(&mut driver, &domain);
    driver.advance(60_000).unwrap();
    assert_eq!(driver.machine.durable().quarantines.len(), 1);
    driver.kernel.clear_faults();
    order(&mut driver, Command::Uncordon { parent: PF.parse().unwrap() }).unwrap();
    driver.advance(60_000).unwrap();
    assert_eq!(slice_state(&mut driver, vf(&domain)), "free");
    assert_eq!(driver.kernel.wedged(), []);
}
