//! A GPU that needs no layout comes long after its VM was to start: the start is put off, not refused for good.

use crate::driver::Driver;
use crate::vgpu::{attach, call, order};
use gpuslice_core::machine::HookOperation::Prepare;
use gpuslice_core::refusal::Code;
use gpuslice_core::request::{Answer, Command};
use gpuslice_sim::HostFile;
use uuid::Uuid;

const PROFILE: &str = "nvidia-t4-8q";
const MS: u64 = 30_000;

/// A T4 whose driver takes its time, alone.
fn slow() -> Driver {
    let text = include_str!("../../../examples/hosts/t4-l40s.toml");
    let mut host = HostFile::parse(text).unwrap();
    host.functions.truncate(1);
    host.functions[0].appears_after_ms = MS;
    let mut driver = Driver::new(&host, "").unwrap();
    driver.advance(2 * MS).unwrap();
    driver
}

fn boot(driver: &mut Driver) {
    driver.kernel.reboot();
    driver.restart().unwrap();
    driver.advance(100).unwrap();
}

fn to_start(driver: &mut Driver) -> Vec<Uuid> {
    let request = driver.command(Command::AgentWork);
    driver.drain().unwrap();
    match driver.answers.remove(&request).unwrap().unwrap() {
        Answer::AgentWork { start, .. } => start,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_start_waits_for_what_yielded_its_profile_before() {
    let mut driver = slow();
    let domain = attach(&mut driver, 1, PROFILE);
    boot(&mut driver);
    let refusal = call(&mut driver, &domain, Prepare).unwrap_err();
    assert_eq!(refusal.code, Code::NotSettled, "{refusal}");
    assert!(refusal.message.contains("0000:3b:00.0 to appear"), "{refusal}");
    assert!(to_start(&mut driver).is_empty());
    let waits = driver.command(Command::WaitSettled { timeout_ms: 10 * MS });
    driver.advance(1000).unwrap();
    assert!(!driver.answers.contains_key(&waits));
    driver.advance(MS).unwrap();
    assert!(driver.answers.remove(&waits).unwrap().is_ok());
    assert_eq!(to_start(&mut driver), [domain.uuid]);
    call(&mut driver, &domain, Prepare).unwrap();
    assert!(to_start(&mut driver).is_empty());
}

#[test]
fn nobody_else_waits_and_nothing_is_waited_for_that_never_was() {
    let mut driver = slow();
    let domain = attach(&mut driver, 1, PROFILE);
    boot(&mut driver);
    // Until somebody asks for it, it may as well have been taken out.
    assert!(order(&mut driver, Command::WaitSettled { timeout_ms: 1 }).is_ok());
    call(&mut driver, &domain, Prepare).unwrap_err();
    let mut other = domain.clone();
    (other.uuid, other.name) = (Uuid::from_u128(2), "vm2".to_owned());
    other.devices.clear();
    other.claims[0].profile = Some("nvidia-a40-4q".parse().unwrap());
    let refusal = call(&mut driver, &other, Prepare).unwrap_err();
    assert_ne!(refusal.code, Code::NotSettled, "{refusal}");
    // Its claim is given up: so is the wait.
    let key = driver.machine.durable().claims.keys().next().unwrap().clone();
    order(&mut driver, Command::Unclaim { key, force: false }).unwrap();
    assert!(order(&mut driver, Command::WaitSettled { timeout_ms: 1 }).is_ok());
    assert!(driver.machine.durable().yielded.is_empty());
}
