//! VFs whose VM ended soon after its start: which are taken for wedged, and until when.

use crate::driver::Driver;
use crate::vgpu::{attach, call, one_gpu, order, pid, slice_state, start, stop, type_of, vf};
use gpuslice_core::domain::Domain;
use gpuslice_core::ids::SliceId;
use gpuslice_core::machine::HookOperation;
use gpuslice_core::port::HostWrite;
use gpuslice_core::refusal::Code;
use gpuslice_core::request::{Answer, Command};

/// A VM that runs, and another with a VF of the same GPU.
fn beside_another() -> (Driver, Domain, Domain) {
    let mut driver = one_gpu();
    let [running, domain] = [1, 2].map(|vm| attach(&mut driver, vm, "nvidia-a40-8q"));
    start(&mut driver, &running).unwrap();
    (driver, running, domain)
}

/// A VM is killed as soon as it runs.
pub fn killed_young(driver: &mut Driver, domain: &Domain) {
    start(driver, domain).unwrap();
    driver.kernel.kill(pid(domain));
    call(driver, domain, HookOperation::Release).unwrap();
}

#[test]
fn a_vf_whose_vm_is_killed_at_its_start_is_kept_back_until_all_are_made_anew() {
    let (mut driver, running, domain) = beside_another();
    killed_young(&mut driver, &domain);
    assert_eq!(driver.kernel.wedged(), [vf(&domain)]);
    assert_eq!(slice_state(&mut driver, vf(&domain)), "quarantined");
    assert_eq!(type_of(&driver, vf(&domain)), "0");
    // It is not forgotten with the daemon, and nobody is given it.
    driver.restart().unwrap();
    driver.advance(10_000).unwrap();
    assert_eq!(slice_state(&mut driver, vf(&domain)), "quarantined");
    let refusal = start(&mut driver, &domain).unwrap_err();
    assert_eq!(refusal.code, Code::Quarantined, "{refusal}");
    assert!(refusal.message.contains("may be wedged"), "{refusal}");
    let other = attach(&mut driver, 3, "nvidia-a40-8q");
    assert_ne!(vf(&other), vf(&domain));
    let Ok(Answer::Parents { rows }) = order(&mut driver, Command::ListParents) else { panic!() };
    let reason = rows[0].reason.as_ref().unwrap();
    assert!(reason.contains("may be wedged") && reason.contains("made anew"), "{reason}");
    assert_eq!(slice_state(&mut driver, vf(&running)), "attached");
    // The last VM goes: VFs are made anew, and all are good.
    stop(&mut driver, &running);
    driver.advance(30_000).unwrap();
    assert_eq!(driver.kernel.wedged(), []);
    assert_eq!(slice_state(&mut driver, vf(&domain)), "free");
    start(&mut driver, &other).unwrap();
}

/// QEMU goes when it is told to, and closes what it has open.
#[test]
fn a_vm_that_ends_in_order_leaves_its_vf_as_it_was_however_soon() {
    let (mut driver, _, domain) = beside_another();
    for end in [HookOperation::ShutDown, HookOperation::MigratedAway] {
        start(&mut driver, &domain).unwrap();
        let slice = SliceId::Vf(vf(&domain));
        driver.kernel.close(pid(&domain), slice);
        driver.kernel.kill(pid(&domain));
        call(&mut driver, &domain, end).unwrap();
        assert_eq!(driver.kernel.wedged(), []);
        assert_eq!(slice_state(&mut driver, vf(&domain)), "free", "{end:?}");
    }
}

#[test]
fn a_vm_that_ran_for_a_while_leaves_its_vf_as_it_was() {
    let (mut driver, _, domain) = beside_another();
    start(&mut driver, &domain).unwrap();
    stop(&mut driver, &domain);
    assert_eq!(slice_state(&mut driver, vf(&domain)), "free");
    start(&mut driver, &domain).unwrap();
}

#[test]
fn a_wedged_vf_waits_for_others_that_hold_vfs_and_a_boot_ends_it() {
    let mut driver = one_gpu();
    let domain = attach(&mut driver, 1, "nvidia-a40-8q");
    let other = attach(&mut driver, 2, "nvidia-a40-8q");
    // A VM without a claim has another VF of the GPU.
    let path = format!("/sys/bus/pci/devices/{}/nvidia/current_vgpu_type", vf(&other));
    driver.kernel.write(&path, b"562").unwrap();
    driver.kernel.open(5000, "qemu-system-x86", SliceId::Vf(vf(&other))).unwrap();
    driver.wake_up().unwrap();
    killed_young(&mut driver, &domain);
    driver.advance(30_000).unwrap();
    assert_eq!(driver.kernel.wedged(), [vf(&domain)]);
    assert_eq!(driver.machine.durable().quarantines.len(), 0);
    assert_eq!(driver.kernel.holders(SliceId::Vf(vf(&other))), [5000]);
    driver.kernel.reboot();
    driver.kernel.settle();
    driver.restart().unwrap();
    driver.advance(30_000).unwrap();
    assert_eq!(slice_state(&mut driver, vf(&domain)), "free");
}
