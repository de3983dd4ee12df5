//! GPUs of each kind on one host: every mechanism beside every other.

use crate::driver::Driver;
use crate::vgpu::{attach, call, order};
use gpuslice_core::domain::Domain;
use gpuslice_core::machine::HookOperation;
use gpuslice_core::request::{Answer, Command};
use gpuslice_sim::HostFile;
use std::collections::BTreeMap;

const LAYOUTS: &str = r#"
[[gpu]]
match = { vendor-device = "1002:74a1" }
layout = { vfs = 8 }
[[gpu]]
match = { vendor-device = "1002:7460" }
layout = { vfs = 12 }
[[gpu]]
match = { vendor-device = "1002:7ff0" }
layout = { vfs = 4 }
[[gpu]]
match = { vendor-device = "10de:26b9" }
layout = { vfs = "all" }
[[gpu]]
match = { vendor-device = "8086:56c0" }
layout = { vfs = 4 }
[[gpu]]
match = { address = "0000:41:00.0" }
layout = { vfs = "all", sizes = "mixed" }
[[gpu]]
match = { address = "0000:61:00.0" }
layout = { vfs = "all" }
[[gpu]]
match = { address = "0000:a1:00.0" }
layout = { vfs = "all", instances = ["3g.40gb", "2g.20gb"] }
"#;

/// Profiles of each, and the GPU they are of.
const PROFILES: [(&str, &str); 11] = [
    ("amd-mi300x-vf8-cpx", "0000:0c:00.0"),
    ("amd-v710-vf12", "0000:03:00.0"),
    ("amd-7ff0-vf4", "0000:c3:00.0"),
    ("nvidia-l40s-8q", "0000:ca:00.0"),
    ("intel-56c0-vf4", "0000:4d:00.0"),
    ("nvidia-a40-24q", "0000:41:00.0"),
    ("nvidia-a40-8q", "0000:41:00.0"),
    ("nvidia-a40-4q", "0000:41:00.0"),
    ("nvidia-a40-8a", "0000:61:00.0"),
    ("nvidia-t4-4q", "0000:81:00.0"),
    ("nvidia-a100d-2-20c", "0000:a1:00.0"),
];

fn states(driver: &mut Driver) -> BTreeMap<String, String> {
    match order(driver, Command::ListParents).unwrap() {
        Answer::Parents { rows } => {
            rows.into_iter().map(|row| (row.parent.to_string(), row.state)).collect()
        }
        other => panic!("{other:?}"),
    }
}

fn run(driver: &mut Driver, vm: u32, domain: &Domain) {
    call(driver, domain, HookOperation::Prepare).unwrap();
    let slice = domain.devices[0].source.slice();
    driver.kernel.open(1000 + vm, "qemu-system-x86", slice).unwrap();
    call(driver, domain, HookOperation::Started).unwrap();
}

#[test]
fn each_kind_is_sliced_given_and_taken_back_beside_the_others() {
    let text = include_str!("../../../examples/hosts/everything.toml");
    let mut driver = Driver::new(&HostFile::parse(text).unwrap(), "").unwrap();
    driver.config = LAYOUTS.to_owned();
    order(&mut driver, Command::Apply).unwrap();
    // That GIM takes the Radeon that no table knows is seen when it is loaded.
    order(&mut driver, Command::Apply).unwrap();
    let mut domains = Vec::new();
    for (vm, (profile, _)) in (1..).zip(PROFILES) {
        domains.push(attach(&mut driver, vm, profile));
    }
    for round in 0..2 {
        driver.advance(60_000).unwrap();
        let states = states(&mut driver);
        for (_, gpu) in PROFILES.iter().filter(|(_, gpu)| *gpu != "0000:81:00.0") {
            assert_eq!(states[*gpu], "ok", "round {round}: {gpu}");
        }
        for (vm, domain) in (1..).zip(&domains) {
            run(&mut driver, vm, domain);
        }
        for (domain, (profile, gpu)) in domains.iter().zip(PROFILES) {
            let slice = domain.devices[0].source.slice();
            let runtime = driver.machine.runtime();
            let assignment = &runtime.assignments[&slice];
            let seen = driver.machine.observation();
            let pf = seen.pf_of(&assignment.parent).unwrap_or_else(|| assignment.parent.clone());
            assert_eq!((assignment.profile.as_str(), pf.to_string().as_str()), (profile, gpu));
        }
        for (vm, domain) in (1..).zip(&domains) {
            driver.kernel.kill(1000 + vm);
            call(&mut driver, domain, HookOperation::Release).unwrap();
        }
        driver.advance(10_000).unwrap();
        assert!(driver.machine.runtime().assignments.is_empty());
        assert!(driver.machine.durable().quarantines.is_empty());
        driver.kernel.reboot();
        driver.restart().unwrap();
    }
}
