//! Starts of domains without a claim that were refused: how long that is known.

use crate::driver::Driver;
use crate::vgpu::{attach, call, one_gpu, order};
use gpuslice_core::domain::{Domain, HostDevice, HostDeviceSource};
use gpuslice_core::machine::HookOperation;
use gpuslice_core::refusal::Code;
use gpuslice_core::request::{Answer, Command, RefusedStart};
use uuid::Uuid;

fn known(driver: &mut Driver) -> Vec<RefusedStart> {
    let Answer::Status(row) = order(driver, Command::Status).unwrap() else { panic!() };
    row.refused
}

fn names(driver: &mut Driver) -> Vec<String> {
    known(driver).into_iter().map(|start| start.name).collect()
}

/// Its VF was picked in a dialog, which has libvirt take it off its driver.
fn picked(vm: u128) -> Domain {
    let source = HostDeviceSource::Pci("0000:41:00.5".parse().unwrap());
    let name = format!("vm{vm}");
    let devices = vec![HostDevice { source, alias: None, managed: true }];
    Domain { uuid: Uuid::from_u128(vm), name, claims: Vec::new(), devices }
}

#[test]
fn a_refused_start_is_known_until_its_domain_starts_or_is_undefined() {
    let mut driver = one_gpu();
    let mut domains = [7, 8].map(picked);
    for domain in &domains {
        for _ in 0..2 {
            call(&mut driver, domain, HookOperation::Prepare).unwrap_err();
        }
    }
    let told = known(&mut driver);
    let codes: Vec<Code> = told.iter().map(|start| start.refusal.code).collect();
    assert_eq!(
        (names(&mut driver), codes),
        (vec!["vm7".into(), "vm8".into()], vec![Code::Managed; 2])
    );
    assert!(told[0].refusal.hint.is_some());
    // Somebody takes its device out, so that no hook tells of its start.
    let domain = Domain { devices: Vec::new(), ..domains[0].clone() };
    order(&mut driver, Command::DomainSeen { domain, shut_off: true }).unwrap();
    assert_eq!(names(&mut driver), ["vm8"]);
    call(&mut driver, &domains[0], HookOperation::Prepare).unwrap_err();
    domains[0].devices.clear();
    call(&mut driver, &domains[0], HookOperation::Prepare).unwrap();
    assert_eq!(names(&mut driver), ["vm8"]);
    order(&mut driver, Command::DomainGone { uuid: domains[1].uuid }).unwrap();
    assert_eq!(known(&mut driver), []);
    // Of one with a claim that tells.
    let mut claimed = attach(&mut driver, 9, "nvidia-a40-8q");
    claimed.devices[0].managed = true;
    call(&mut driver, &claimed, HookOperation::Prepare).unwrap_err();
    assert_eq!(known(&mut driver), []);
}

#[test]
fn of_many_the_latest_are_known() {
    let mut driver = one_gpu();
    for vm in 100..200 {
        call(&mut driver, &picked(vm), HookOperation::Prepare).unwrap_err();
    }
    let names = names(&mut driver);
    assert_eq!((names.len(), names[0].as_str(), names[63].as_str()), (64, "vm136", "vm199"));
}
