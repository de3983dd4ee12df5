//! Layouts that only a device can refuse: told with the place they are written at, once for all GPUs of a rule.

use crate::driver::Driver;
use crate::vgpu::order;
use gpuslice_core::refusal::{Code, Refusal};
use gpuslice_core::request::{Answer, Command};
use gpuslice_sim::HostFile;

/// The first GPU by itself, the others by their model; each asks for more than there can be.
const TWO_RULES: &str = "[[gpu]]\nmatch = { address = \"0000:0c:00.0\" }\nlayout = { vfs = 12 }\n\
                         [[gpu]]\nmatch = { model = \"mi300x\" }\nlayout = { vfs = 9 }\n";

/// Eight under GIM.
fn gim() -> HostFile {
    HostFile::parse(include_str!("../../../examples/hosts/mi300x-8.toml")).unwrap()
}

/// Eight whose driver makes VFs for each by itself.
fn sriov() -> HostFile {
    HostFile::parse(include_str!("../../../examples/hosts/sriov-8.toml")).unwrap()
}

fn blockers(driver: &mut Driver) -> Vec<Refusal> {
    match order(driver, Command::Plan).unwrap() {
        Answer::Plan(plan) => plan.blockers,
        other => panic!("{other:?}"),
    }
}

/// The end of the place at which a text names a rule.
fn place(text: &str, line: u32) -> bool {
    text.contains(&format!("gpuslice.toml:{line}")) || text.contains(&format!("config:{line}"))
}

#[test]
fn each_is_told_once_for_the_gpus_of_its_rule() {
    for host in [gim(), sriov()] {
        told_once(&host);
    }
}

fn told_once(host: &HostFile) {
    let mut driver = Driver::new(host, "").unwrap();
    driver.config = TWO_RULES.to_owned();
    let told = blockers(&mut driver);
    let [one, others] = told.as_slice() else { panic!("{told:?}") };
    for (why, line, of) in [(one, 1, "for 0000:0c:00.0 ("), (others, 4, "for 7 GPUs (")] {
        let hint = why.hint.as_deref().unwrap();
        assert_eq!(why.code, Code::BadConfig);
        assert!(place(&why.message, line) && place(hint, line) && hint.contains(of), "{why:?}");
    }
    assert!(others.message.contains(", of 7 GPUs: 0000:22:00.0 "), "{others}");
    let refusal = order(&mut driver, Command::Apply).unwrap_err();
    assert_eq!((refusal.message.as_str(), refusal.causes.len()), (one.message.as_str(), 1));
}

/// A boot takes a configuration as it is.
#[test]
fn so_are_gpus_that_are_not_touched_for_it() {
    let mut driver = Driver::new(&sriov(), TWO_RULES).unwrap();
    driver.advance(10_000).unwrap();
    let quarantines = &driver.machine.durable().quarantines;
    assert_eq!(quarantines.len(), 8);
    for (parent, why) in quarantines {
        let line = if parent.to_string() == "0000:0c:00.0" { 1 } else { 4 };
        let hint = why.hint.as_deref().unwrap();
        assert!(place(&why.message, line) && place(hint, line), "{parent}: {why:?}");
    }
    let warnings = match order(&mut driver, Command::Status).unwrap() {
        Answer::Status(status) => status.warnings,
        other => panic!("{other:?}"),
    };
    let [one, others] = warnings.as_slice() else { panic!("{warnings:?}") };
    assert!(one.starts_with("0000:0c:00.0 is quarantined: bad-config: "), "{one}");
    assert!(
        others.starts_with("0000:22:00.0 and 6 more are quarantined: bad-config: "),
        "{others}"
    );
}
