//! Stories of what versions of NVIDIA's driver show less of, or otherwise, than the newest.

use crate::driver::Driver;
use crate::mig::{MIG, WANTED, a100, in_the_older_framework, instances};
use crate::vgpu::{LAYOUT, agent_looks_at, attach, call, host, one_gpu, start, vf};
use gpuslice_core::domain::HostDeviceSource;
use gpuslice_core::machine::HookOperation;
use gpuslice_core::refusal::Code;
use gpuslice_sim::{Content, Fault, Kernel};

/// Every file of a VF but the two that a type is given by came later.
#[test]
fn a_driver_without_parameters_gives_a_vgpu_to_whoever_asks_for_none() {
    let mut driver = one_gpu();
    let (mut domain, plain) =
        (attach(&mut driver, 1, "nvidia-a40-8q"), attach(&mut driver, 2, "nvidia-a40-8q"));
    domain.claims[0].parameters = Some("frame_rate_limiter=0".parse().unwrap());
    driver.kernel.inject(Fault::Vanish { path: "*/nvidia/vgpu_params".to_owned(), nth: 1 });
    let refusal = call(&mut driver, &domain, HookOperation::Prepare).unwrap_err();
    assert_eq!(refusal.code, Code::Unsupported, "{refusal:?}");
    let way_out = "virsh edit vm1: no parameters in claim gpu0";
    assert_eq!(refusal.hint.unwrap(), way_out);
    driver.advance(10_000).unwrap();
    assert!(driver.machine.runtime().assignments.is_empty());
    start(&mut driver, &plain).unwrap();
}

/// The first versions had two files for a VF, and a list without header: of no bytes when there is no type.
#[test]
fn the_two_files_of_the_first_drivers_are_enough() {
    let mut old = host();
    old.functions.truncate(1);
    for driver in &mut old.drivers {
        (driver.old_files, driver.list_header) = (true, false);
    }
    let mut driver = Driver::new(&old, LAYOUT).unwrap();
    driver.advance(10_000).unwrap();
    assert!(driver.machine.observation().problems.is_empty());
    let (a, b) =
        (attach(&mut driver, 1, "nvidia-a40-24q"), attach(&mut driver, 2, "nvidia-a40-24q"));
    start(&mut driver, &a).unwrap();
    start(&mut driver, &b).unwrap();
    // The card is full, so that each list is empty.
    driver.wake_up().unwrap();
    driver.advance(10_000).unwrap();
    assert!(driver.machine.observation().problems.is_empty());
    for domain in [&a, &b] {
        let pid = driver.kernel.holders(domain.devices[0].source.slice())[0];
        driver.kernel.kill(pid);
        call(&mut driver, domain, HookOperation::Release).unwrap();
    }
    driver.advance(20_000).unwrap();
    assert!(driver.machine.runtime().assignments.is_empty());
    start(&mut driver, &a).unwrap();
}

/// A form that no driver known had is not an empty list.
#[test]
fn a_list_of_types_that_is_not_understood_is_told() {
    let mut driver = one_gpu();
    let domain = attach(&mut driver, 1, "nvidia-a40-8q");
    assert!(driver.machine.observation().problems.is_empty());
    let path = format!("*/{}/nvidia/creatable_vgpu_types", vf(&domain));
    driver.kernel.inject(Fault::Reads { path, as_: Content::Garbage });
    driver.wake_up().unwrap();
    let problems = &driver.machine.observation().problems;
    let told = problems.iter().any(|p| p.to_string().contains("creatable_vgpu_types holds"));
    assert!(told, "{problems:?}");
}

/// After an upgrade the VFs come first, and list what is in GPU instances when those were made. Only then is it known what the
/// device of a VM is to be.
#[test]
fn a_request_for_a_slice_of_an_instance_outlives_an_upgrade_too() {
    let mut driver = Driver::new(&in_the_older_framework(a100()), MIG).unwrap();
    driver.advance(10_000).unwrap();
    let domain = attach(&mut driver, 1, "nvidia-a100d-2-20c");
    assert!(matches!(domain.devices[0].source, HostDeviceSource::Mdev(_)));
    driver.kernel = Kernel::from_host(&a100());
    // Others are at work on the host: after each step it is looked at.
    driver.lazy = true;
    for _ in 0..8 {
        driver.wake_up().unwrap();
        driver.begin_lazy().unwrap();
        driver.advance(100).unwrap();
    }
    driver.lazy = false;
    driver.begin_lazy().unwrap();
    driver.advance(10_000).unwrap();
    assert_eq!(instances(&mut driver), WANTED);
    assert_eq!(agent_looks_at(&mut driver), [domain.uuid]);
}
