//! Stories of a GPU of the configuration that is not there, and perhaps never comes: who waits for it, and who does not.

use crate::domains::claim;
use crate::driver::Driver;
use crate::ready::to_start;
use crate::vgpu::{asking, attach, attach_several, call, order};
use gpuslice_core::domain::{Domain, HostDeviceSource};
use gpuslice_core::ids::PciAddress;
use gpuslice_core::machine::HookOperation::Prepare;
use gpuslice_core::refusal::{Code, Refusal};
use gpuslice_core::request::Command;
use gpuslice_sim::HostFile;
use uuid::Uuid;

const FIRST: &str = "0000:0c:00.0";
const SECOND: &str = "0000:9f:00.0";

/// Never seen: dead, or mistyped.
const NEVER: &str = "0000:ee:00.0";

/// When a boot has brought what it brings.
const TEN_MINUTES: u64 = 600_000;

/// Both cards and a configuration that names so many VFs of each GPU.
fn host(layouts: &[(&str, u8)]) -> Driver {
    let mut host = HostFile::parse(include_str!("../../../examples/hosts/mixed.toml")).unwrap();
    host.functions.retain(|f| [FIRST, SECOND].contains(&f.address.to_string().as_str()));
    host.functions.iter_mut().for_each(|function| function.appears_after_ms = 0);
    let layout = |(gpu, vfs): &(&str, u8)| {
        format!("[[gpu]]\nmatch = {{ address = \"{gpu}\" }}\nlayout = {{ vfs = {vfs} }}\n")
    };
    let config: String = layouts.iter().map(layout).collect();
    let mut driver = Driver::new(&host, &config).unwrap();
    driver.advance(10_000).unwrap();
    driver
}

fn plug(driver: &mut Driver, gpu: &str, there: bool) {
    let address: PciAddress = gpu.parse().unwrap();
    match there {
        true => driver.kernel.plug(address),
        false => driver.kernel.unplug(address),
    };
    driver.advance(10_000).unwrap();
}

fn until(driver: &mut Driver, ms: u64) {
    driver.advance(ms - driver.kernel.now_ms()).unwrap();
}

fn not_settled(driver: &mut Driver, domain: &Domain) -> Refusal {
    let refusal = call(driver, domain, Prepare).unwrap_err();
    assert_eq!(refusal.code, Code::NotSettled, "{refusal:?}");
    refusal
}

/// `gpuslice attach` of one more VM is refused.
fn refused(driver: &mut Driver, vm: u128, profile: &str) -> Refusal {
    let request = claim(&"gpu0".parse().unwrap(), profile, 1);
    order(driver, asking(vm, request)).unwrap_err()
}

fn hint(refusal: &Refusal) -> &str {
    refusal.hint.as_deref().unwrap()
}

/// A host whose four slices all run, with `NEVER` in its configuration.
fn full() -> Driver {
    let mut driver = host(&[(FIRST, 4), (NEVER, 4)]);
    for vm in 1..=4 {
        let domain = attach(&mut driver, vm, "amd-74a1-vf4");
        call(&mut driver, &domain, Prepare).unwrap();
    }
    driver
}

#[test]
fn a_start_is_made_up_for_when_its_own_gpu_is_back_whatever_else_is_awaited() {
    let mut driver = host(&[(FIRST, 1), (NEVER, 1)]);
    let domain = attach(&mut driver, 1, "amd-74a1-vf1");
    for _ in 0..2 {
        plug(&mut driver, FIRST, false);
        let refusal = not_settled(&mut driver, &domain);
        assert!(refusal.message.contains(FIRST) && !refusal.message.contains(NEVER), "{refusal}");
        assert!(to_start(&mut driver).is_empty());
        let told = driver.agent_told;
        plug(&mut driver, FIRST, true);
        assert_eq!(driver.agent_told, told + 1);
        assert_eq!(to_start(&mut driver), [domain.uuid]);
        // Its home is all that it waits for, however old the boot is.
        driver.advance(2 * TEN_MINUTES).unwrap();
        assert!(to_start(&mut driver).is_empty());
    }
    call(&mut driver, &domain, Prepare).unwrap();
}

/// As long as the daemon lives and after it.
#[test]
fn starts_are_made_up_for_in_the_order_in_which_they_were_refused() {
    let mut driver = host(&[(FIRST, 4), (NEVER, 1)]);
    let domains = [1, 2, 3].map(|vm| attach(&mut driver, vm, "amd-74a1-vf4"));
    plug(&mut driver, FIRST, false);
    for at in [2, 0, 1] {
        not_settled(&mut driver, &domains[at]);
    }
    driver.restart().unwrap();
    driver.drain().unwrap();
    assert!(to_start(&mut driver).is_empty());
    plug(&mut driver, FIRST, true);
    assert_eq!(to_start(&mut driver), [2, 0, 1].map(|at| domains[at].uuid));
    call(&mut driver, &domains[2], Prepare).unwrap();
    assert_eq!(to_start(&mut driver), [0, 1].map(|at| domains[at].uuid));
}

#[test]
fn a_start_that_needs_two_gpus_waits_for_both() {
    let mut driver = host(&[(FIRST, 1), (SECOND, 1), (NEVER, 1)]);
    let domain = attach_several(&mut driver, 1, "amd-74a1-vf1", 2);
    plug(&mut driver, FIRST, false);
    plug(&mut driver, SECOND, false);
    not_settled(&mut driver, &domain);
    plug(&mut driver, FIRST, true);
    assert!(to_start(&mut driver).is_empty());
    plug(&mut driver, SECOND, true);
    assert_eq!(to_start(&mut driver), [domain.uuid]);
    call(&mut driver, &domain, Prepare).unwrap();
}

#[test]
fn a_gpu_of_which_nothing_is_known_may_serve_as_long_as_the_boot_is_young() {
    let mut driver = full();
    let more = refused(&mut driver, 5, "amd-74a1-vf4");
    assert_eq!(more.code, Code::NotSettled, "{more:?}");
    // It may as well never come, so what else mends it is told too.
    let (wait, other) = hint(&more).split_once("; or ").unwrap();
    assert!(wait.starts_with("gpuslice wait --settled"), "{more:?}");
    until(&mut driver, TEN_MINUTES + 1_000);
    let more = refused(&mut driver, 5, "amd-74a1-vf4");
    assert_eq!((more.code, hint(&more)), (Code::NoCapacity, other), "{more:?}");
    let misspelt = refused(&mut driver, 5, "amd-74a1-vf5");
    assert_eq!(misspelt.code, Code::NoProfile, "{misspelt:?}");
    assert!(hint(&misspelt).contains("amd-74a1-vf4"), "{misspelt:?}");
    // A daemon that comes into an old boot knows that it is.
    driver.restart().unwrap();
    driver.drain().unwrap();
    assert_eq!(refused(&mut driver, 5, "amd-74a1-vf4").code, Code::NoCapacity);
    // All that are waited for are told all the same.
    let summary = driver.machine.summary();
    assert!(summary.contains("0000:ee:00.0 to appear"), "{summary}");
}

#[test]
fn a_start_that_waited_for_it_is_tried_when_it_has_not_come() {
    let mut driver = full();
    // Somebody wrote down what is to be on it.
    let mut domain = attach(&mut driver, 1, "amd-74a1-vf4");
    (domain.uuid, domain.name) = (Uuid::from_u128(5), "vm5".to_owned());
    domain.devices[0].source = HostDeviceSource::Pci("0000:ee:00.1".parse().unwrap());
    not_settled(&mut driver, &domain);
    until(&mut driver, TEN_MINUTES - 20_000);
    assert!(to_start(&mut driver).is_empty());
    let told = driver.agent_told;
    until(&mut driver, TEN_MINUTES + 1_000);
    assert_eq!(driver.agent_told, told + 1);
    assert_eq!(to_start(&mut driver), [domain.uuid]);
    let refusal = call(&mut driver, &domain, Prepare).unwrap_err();
    assert_eq!(refusal.code, Code::Absent, "{refusal:?}");
    assert!(to_start(&mut driver).is_empty());
}

/// What it offered under its layout is remembered.
#[test]
fn a_gpu_that_is_away_is_awaited_by_those_alone_who_ask_for_what_it_offered() {
    let mut driver = host(&[(FIRST, 4), (SECOND, 8)]);
    for vm in 1..=4 {
        let domain = attach(&mut driver, vm, "amd-74a1-vf4");
        call(&mut driver, &domain, Prepare).unwrap();
    }
    plug(&mut driver, SECOND, false);
    for old in [false, true] {
        if old {
            until(&mut driver, TEN_MINUTES + 1_000);
        }
        assert_eq!(refused(&mut driver, 5, "amd-74a1-vf4").code, Code::NoCapacity);
        assert_eq!(refused(&mut driver, 5, "amd-74a1-vf5").code, Code::NoProfile);
        let away = refused(&mut driver, 5, "amd-74a1-vf8");
        assert_eq!(away.code, Code::NotSettled, "{away:?}");
        assert!(!hint(&away).contains("; or "), "{away:?}");
    }
    // In the next boot too.
    driver.kernel.reboot();
    driver.restart().unwrap();
    driver.advance(10_000).unwrap();
    assert_eq!(refused(&mut driver, 5, "amd-74a1-vf5").code, Code::NoProfile);
    assert_eq!(refused(&mut driver, 5, "amd-74a1-vf8").code, Code::NotSettled);
    plug(&mut driver, SECOND, true);
    attach(&mut driver, 5, "amd-74a1-vf8");
}

/// Under another layout it will offer something else.
#[test]
fn what_a_gpu_offered_under_a_former_layout_says_nothing() {
    let mut driver = host(&[(FIRST, 4), (SECOND, 8)]);
    plug(&mut driver, SECOND, false);
    driver.config = driver.config.replace("vfs = 8", "vfs = 2");
    order(&mut driver, gpuslice_core::request::Command::Apply).unwrap();
    assert_eq!(refused(&mut driver, 1, "amd-74a1-vf2").code, Code::NotSettled);
    until(&mut driver, TEN_MINUTES + 1_000);
    for profile in ["amd-74a1-vf2", "amd-74a1-vf8"] {
        assert_eq!(refused(&mut driver, 1, profile).code, Code::NoProfile);
    }
}

#[test]
fn who_waits_for_it_waits_a_day_at_the_most_and_no_longer_than_he_is_there() {
    const DAY: u64 = 24 * 60 * 60 * 1000;
    let mut driver = host(&[(NEVER, 4)]);
    let wait = |timeout_ms| Command::WaitSettled { timeout_ms };
    let for_ever = driver.command(wait(u64::MAX >> 1));
    let gone = driver.command(wait(1000));
    driver.drain().unwrap();
    driver.caller_gone(gone);
    driver.advance(DAY - 1).unwrap();
    assert!(driver.answers.is_empty(), "{:?}", driver.answers);
    driver.advance(1).unwrap();
    let refusal = driver.answers.remove(&for_ever).unwrap().unwrap_err();
    assert_eq!(refusal.code, Code::Timeout);
    assert!(driver.answers.is_empty(), "{:?}", driver.answers);
}
