//! Stories of VMs whose home VF is gone with its GPU's layout: what is said brings it back, or another in its place.

use crate::driver::Driver;
use crate::vgpu::{attach, call, order};
use gpuslice_core::domain::Domain;
use gpuslice_core::machine::HookOperation::Prepare;
use gpuslice_core::refusal::Code;
use gpuslice_core::request::Command;
use gpuslice_sim::HostFile;

fn apply(driver: &mut Driver, config: &str) {
    config.clone_into(&mut driver.config);
    let request = driver.command(Command::Apply);
    driver.advance(60_000).unwrap();
    driver.answers.remove(&request).unwrap().unwrap();
}

fn of_type(vfs: &str) -> String {
    format!("[[gpu]]\nmatch = {{ address = \"0000:41:00.0\" }}\nlayout = {{ vfs = {vfs} }}\n")
}

/// A VM whose VF takes a type.
fn claimed() -> (Driver, Domain) {
    let text = include_str!("../../../examples/hosts/a40-vfio.toml");
    let mut driver = Driver::new(&HostFile::parse(text).unwrap(), &of_type("\"all\"")).unwrap();
    driver.advance(60_000).unwrap();
    let domain = attach(&mut driver, 1, "nvidia-a40-24q");
    (driver, domain)
}

#[test]
fn a_gpu_whose_vfs_are_gone_is_to_have_its_layout_again() {
    let (mut driver, domain) = claimed();
    for none in [of_type("0"), String::new()] {
        apply(&mut driver, &of_type("0"));
        apply(&mut driver, &none);
        let refusal = call(&mut driver, &domain, Prepare).unwrap_err();
        assert_eq!(refusal.code, Code::NoProfile, "{refusal:?}");
        let told =
            "write a layout for 0000:41:00.0 in /etc/gpuslice/gpuslice.toml, then gpuslice apply";
        assert_eq!(refusal.hint.as_deref(), Some(told), "{refusal:?}");
        assert!(refusal.causes.iter().any(|why| why.ends_with("is not on this host")));
    }
    apply(&mut driver, &of_type("\"all\""));
    call(&mut driver, &domain, Prepare).unwrap();
}

/// Fewer VFs are of another profile, and one of them can be had.
#[test]
fn where_other_vfs_were_made_the_nearest_profile_is_named() {
    let of = |vfs| {
        format!("[[gpu]]\nmatch = {{ address = \"0000:0c:00.0\" }}\nlayout = {{ vfs = {vfs} }}\n")
    };
    let text = include_str!("../../../examples/hosts/sriov-8.toml");
    let mut driver = Driver::new(&HostFile::parse(text).unwrap(), &of(8)).unwrap();
    driver.advance(10_000).unwrap();
    let domains: Vec<Domain> = (1..=8).map(|vm| attach(&mut driver, vm, "amd-74a1-vf8")).collect();
    order(&mut driver, Command::WaitSettled { timeout_ms: 1 }).unwrap();
    apply(&mut driver, &of(1));
    let gone = domains.iter().find_map(|domain| {
        call(&mut driver, domain, Prepare)
            .err()
            .filter(|why| why.causes.iter().any(|c| c.contains("is not on this host")))
    });
    let refusal = gone.unwrap();
    assert_eq!(refusal.code, Code::NoProfile, "{refusal:?}");
    let hint = refusal.hint.unwrap();
    assert!(hint.starts_with("gpuslice attach vm") && hint.contains(" amd-74a1-vf1 "), "{hint}");
}
