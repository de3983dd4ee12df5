//! Mediated devices that their driver may remove by itself when their VM has ended.

use crate::driver::Driver;
use crate::vgpu::{attach, call, order};
use gpuslice_core::domain::Domain;
use gpuslice_core::history::Wanted;
use gpuslice_core::ids::{ClaimKey, Owner};
use gpuslice_core::machine::{HookCall, HookOperation};
use gpuslice_core::port::HostRead as _;
use gpuslice_core::request::Command;
use gpuslice_sim::HostFile;

/// Two of them fill the card.
const PROFILE: &str = "nvidia-t4-8q";

/// A card whose driver removes them so long after the end of their VM, or never.
fn t4(removes_after_ms: Option<u64>) -> Driver {
    let text = include_str!("../../../examples/hosts/t4-l40s.toml");
    let mut host = HostFile::parse(text).unwrap();
    host.functions.truncate(1);
    host.functions[0].mdev.as_mut().unwrap().removes_after_ms = removes_after_ms;
    let mut driver = Driver::new(&host, "").unwrap();
    driver.advance(10_000).unwrap();
    driver
}

fn pid_of(domain: &Domain) -> u32 {
    2000 + u32::try_from(domain.uuid.as_u128()).unwrap()
}

fn opens(driver: &mut Driver, domain: &Domain) {
    let slice = domain.devices[0].source.slice();
    driver.kernel.open(pid_of(domain), "qemu-system-x86", slice).unwrap();
    call(driver, domain, HookOperation::Started).unwrap();
}

fn start(driver: &mut Driver, domain: &Domain) {
    call(driver, domain, HookOperation::Prepare).unwrap();
    opens(driver, domain);
}

fn stop(driver: &mut Driver, domain: &Domain) {
    driver.kernel.kill(pid_of(domain));
    call(driver, domain, HookOperation::Release).unwrap();
}

fn there(driver: &Driver) -> usize {
    driver.kernel.list("/sys/bus/mdev/devices").unwrap_or_default().len()
}

/// As the kernel shows it, and as the record has it.
#[track_caller]
fn has(driver: &Driver, slices: usize) {
    assert_eq!((there(driver), driver.machine.runtime().assignments.len()), (slices, slices));
}

/// How often anybody but the driver has asked for a removal.
fn written(driver: &Driver) -> usize {
    driver.kernel.log_lines().iter().filter(|line| line.contains("/remove\"")).count()
}

#[test]
fn what_a_driver_removes_is_left_to_it_each_time() {
    let mut driver = t4(Some(4000));
    let domain = attach(&mut driver, 1, PROFILE);
    for _ in 0..3 {
        start(&mut driver, &domain);
        stop(&mut driver, &domain);
        driver.advance(2_900).unwrap();
        has(&driver, 1);
        driver.advance(200).unwrap();
        has(&driver, 0);
    }
    assert_eq!(written(&driver), 0);
}

/// It would be waited for in vain at the end of each VM.
#[test]
fn a_driver_that_removes_nothing_is_waited_for_once() {
    let mut driver = t4(None);
    let domains = [1, 2].map(|vm| attach(&mut driver, vm, PROFILE));
    domains.iter().for_each(|domain| start(&mut driver, domain));
    stop(&mut driver, &domains[0]);
    driver.advance(8_900).unwrap();
    has(&driver, 2);
    driver.advance(200).unwrap();
    has(&driver, 1);
    stop(&mut driver, &domains[1]);
    has(&driver, 0);
    assert_eq!(written(&driver), 2);
    // Nor does the next daemon believe anything of what it has not seen.
    start(&mut driver, &domains[0]);
    driver.restart().unwrap();
    stop(&mut driver, &domains[0]);
    driver.advance(8_900).unwrap();
    has(&driver, 1);
    driver.advance(200).unwrap();
    has(&driver, 0);
}

/// The same VM, and another for which there is no room.
#[test]
fn a_start_waits_for_what_is_left_to_a_driver() {
    for (removes_after_ms, ms) in [(Some(3_000), 2_100), (None, 9_100)] {
        for again in [0, 2] {
            let mut driver = t4(removes_after_ms);
            let domains = [1, 2, 3].map(|vm| attach(&mut driver, vm, PROFILE));
            domains[..2].iter().for_each(|domain| start(&mut driver, domain));
            stop(&mut driver, &domains[0]);
            let next = &domains[again];
            let (operation, domain) = (HookOperation::Prepare, next.clone());
            let request = driver.hook(HookCall::new(operation, domain));
            driver.drain().unwrap();
            assert!(driver.unanswered(request));
            driver.advance(ms).unwrap();
            assert!(!driver.unanswered(request));
            opens(&mut driver, next);
            has(&driver, 2);
        }
    }
}

/// The host may go down before it is removed, and what the record of its boot says of it with it.
#[test]
fn who_had_it_has_it_no_longer_while_it_is_left() {
    let mut driver = t4(None);
    let domain = attach(&mut driver, 1, PROFILE);
    start(&mut driver, &domain);
    let ended = |driver: &Driver| {
        let rows = driver.disk.history.rows(Wanted::default());
        rows.into_iter().map(|row| row.reason.unwrap_or_default()).collect::<Vec<_>>()
    };
    assert_eq!(ended(&driver), [""]);
    stop(&mut driver, &domain);
    has(&driver, 1);
    assert_eq!(ended(&driver), ["stopped"]);
    let why = driver.machine.runtime().assignments.values().find_map(|a| a.trouble.clone());
    assert_eq!(why.as_deref(), Some("left to nvidia, which may remove it by itself, for 10 s"));
    driver.restart().unwrap();
    driver.advance(11_000).unwrap();
    has(&driver, 0);
    assert_eq!(ended(&driver), ["stopped"]);
}

/// Of a VM that was started and never ran the driver may never have heard.
#[test]
fn what_no_vm_opened_and_what_a_person_wants_back_is_left_to_nobody() {
    let mut driver = t4(None);
    let domain = attach(&mut driver, 1, PROFILE);
    call(&mut driver, &domain, HookOperation::Prepare).unwrap();
    has(&driver, 1);
    call(&mut driver, &domain, HookOperation::Release).unwrap();
    has(&driver, 0);
    start(&mut driver, &domain);
    stop(&mut driver, &domain);
    has(&driver, 1);
    let key = ClaimKey { owner: Owner::Domain(domain.uuid), name: domain.claims[0].name.clone() };
    order(&mut driver, Command::Unclaim { key, force: true }).unwrap();
    has(&driver, 0);
}
