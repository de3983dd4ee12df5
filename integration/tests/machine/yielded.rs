//! A GPU that needs no layout comes long after its VM was to start: the start is put off, not refused for good.

use crate::driver::Driver;
use crate::vgpu::{attach, call, order};
use gpuslice_core::domain::{ClaimRequest, Domain, HostDeviceSource};
use gpuslice_core::ids::{ClaimKey, MdevUuid};
use gpuslice_core::machine::HookOperation::Prepare;
use gpuslice_core::refusal::Code;
use gpuslice_core::request::{Answer, Command};
use gpuslice_sim::HostFile;
use uuid::Uuid;

pub const PROFILE: &str = "nvidia-t4-8q";
pub const MS: u64 = 30_000;
const TEN_MINUTES: u64 = 600_000;

/// A T4 whose driver takes its time, alone.
pub fn slow() -> Driver {
    let text = include_str!("../../../examples/hosts/t4-l40s.toml");
    let mut host = HostFile::parse(text).unwrap();
    host.functions.truncate(1);
    host.functions[0].appears_after_ms = MS;
    let mut driver = Driver::new(&host, "").unwrap();
    driver.advance(2 * MS).unwrap();
    driver
}

pub fn boot(driver: &mut Driver) {
    driver.kernel.reboot();
    driver.restart().unwrap();
    driver.advance(100).unwrap();
}

fn to_start(driver: &mut Driver) -> Vec<Uuid> {
    let request = driver.command(Command::AgentWork);
    driver.drain().unwrap();
    match driver.answers.remove(&request).unwrap().unwrap() {
        Answer::AgentWork { start, .. } => start.iter().map(|due| due.domain).collect(),
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

/// A domain that was refused at a boot, and whose GPU has come since.
fn refused() -> (Driver, Domain) {
    let mut driver = slow();
    let domain = attach(&mut driver, 1, PROFILE);
    boot(&mut driver);
    call(&mut driver, &domain, Prepare).unwrap_err();
    driver.advance(2 * MS).unwrap();
    assert_eq!(to_start(&mut driver), [domain.uuid]);
    (driver, domain)
}

#[test]
fn a_start_is_made_up_for_only_for_a_while() {
    let (mut driver, domain) = refused();
    driver.advance(TEN_MINUTES - 3 * MS).unwrap();
    assert_eq!(to_start(&mut driver), [domain.uuid]);
    driver.advance(MS).unwrap();
    assert!(to_start(&mut driver).is_empty());
    // Nor by the next daemon, which does not know since when.
    let (mut driver, domain) = refused();
    driver.restart().unwrap();
    driver.drain().unwrap();
    assert_eq!(to_start(&mut driver), [domain.uuid]);
    driver.advance(TEN_MINUTES + MS).unwrap();
    assert!(to_start(&mut driver).is_empty());
}

#[test]
fn a_start_is_not_made_up_for_when_its_last_claim_is_given_up() {
    let (mut driver, domain) = refused();
    let first = driver.machine.durable().claims.keys().next().unwrap().clone();
    let second = ClaimKey { name: "gpu1".parse().unwrap(), ..first.clone() };
    let more = Command::Claim {
        owner: first.owner.clone(),
        owner_name: domain.name.clone(),
        request: ClaimRequest::one(&second.name, PROFILE.parse().unwrap()),
        pool: None,
        reserve: None,
        dry_run: false,
    };
    order(&mut driver, more).unwrap();
    order(&mut driver, Command::Unclaim { key: first, force: false }).unwrap();
    assert_eq!(to_start(&mut driver), [domain.uuid]);
    order(&mut driver, Command::Unclaim { key: second, force: false }).unwrap();
    assert!(to_start(&mut driver).is_empty());
}

#[test]
fn a_start_is_not_made_up_for_when_its_domain_asks_for_nothing_any_more() {
    let mut driver = slow();
    let domain = attach(&mut driver, 1, PROFILE);
    boot(&mut driver);
    // Nobody has claimed anything for it: its XML alone asks.
    let mut other = domain.clone();
    other.uuid = Uuid::from_u128(2);
    let own = MdevUuid::for_claim(other.uuid, &other.claims[0].name, 0);
    other.devices[0].source = HostDeviceSource::Mdev(own);
    for domain in [&domain, &other] {
        call(&mut driver, domain, Prepare).unwrap_err();
    }
    driver.advance(2 * MS).unwrap();
    assert_eq!(to_start(&mut driver), [domain.uuid, other.uuid]);
    other.claims.clear();
    other.devices.clear();
    order(&mut driver, Command::DomainSeen { domain: other, shut_off: true }).unwrap();
    assert_eq!(to_start(&mut driver), [domain.uuid]);
}
