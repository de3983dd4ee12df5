//! Claims that say where on its GPU their vGPU is to be: what the driver would refuse without a word is refused with one.

use crate::driver::Driver;
use crate::vgpu::{LAYOUT, attach, call, host, start, stop, vf};
use gpuslice_core::domain::Domain;
use gpuslice_core::machine::HookOperation;
use gpuslice_core::port::read_text;
use gpuslice_core::refusal::{Code, Refusal};

/// One GPU whose vGPUs are of one size, or mixed.
fn gpu(sizes: &str) -> Driver {
    let mut one = host();
    one.functions.truncate(1);
    let layout = LAYOUT.replace("vfs = \"all\"", &format!("vfs = \"all\", sizes = \"{sizes}\""));
    let mut driver = Driver::new(&one, &layout).unwrap();
    driver.advance(10_000).unwrap();
    driver
}

/// A VM whose claim has these parameters.
fn at(driver: &mut Driver, vm: u128, profile: &str, parameters: &str) -> Domain {
    let mut domain = attach(driver, vm, profile);
    wish(&mut domain, parameters);
    domain
}

fn wish(domain: &mut Domain, parameters: &str) {
    domain.claims[0].parameters = Some(parameters.parse().unwrap());
}

fn refused(driver: &mut Driver, domain: &Domain) -> Refusal {
    call(driver, domain, HookOperation::Prepare).unwrap_err()
}

/// Does what the hint of a refusal says to a claim.
fn follow(domain: &mut Domain, refusal: &Refusal) {
    let hint = refusal.hint.as_deref().unwrap();
    let parameters = hint.split(' ').find(|word| word.starts_with("vgpu-placement-id=")).unwrap();
    assert!(hint.starts_with(&format!("virsh edit {}: ", domain.name)), "{hint}");
    wish(domain, parameters);
}

fn place(driver: &Driver, domain: &Domain) -> String {
    let path = format!("/sys/bus/pci/devices/{}/nvidia/placement_id", vf(domain));
    read_text(&driver.kernel, &path).unwrap()
}

#[test]
fn a_place_off_the_grid_is_refused_with_those_on_it() {
    let mut driver = gpu("mixed");
    for (vm, wrong) in [(1, "5"), (2, "nowhere"), (3, "4294967296")] {
        let parameters = format!("frame_rate_limiter=0,vgpu-placement-id={wrong}");
        let mut domain = at(&mut driver, vm, "nvidia-a40-8q", &parameters);
        let why = refused(&mut driver, &domain);
        assert_eq!(why.code, Code::Unsupported, "{why}");
        let told = format!("and not at vgpu-placement-id={wrong}");
        assert!(why.message.contains(&told), "{why}");
        follow(&mut domain, &why);
        start(&mut driver, &domain).unwrap();
    }
}

#[test]
fn a_place_that_another_has_is_refused_with_who_has_it() {
    let mut driver = gpu("mixed");
    let first = at(&mut driver, 1, "nvidia-a40-24q", "vgpu-placement-id=24");
    start(&mut driver, &first).unwrap();
    assert_eq!(place(&driver, &first), "24");
    // Inside the other, rather than where it begins.
    let mut second = at(&mut driver, 2, "nvidia-a40-12q", "vgpu-placement-id=36");
    let why = refused(&mut driver, &second);
    assert_eq!(why.code, Code::NoCapacity, "{why}");
    assert!(why.message.starts_with(&format!("vf:{} is at 24", vf(&first))), "{why}");
    follow(&mut second, &why);
    start(&mut driver, &second).unwrap();
    // The place is free when its VM has stopped.
    let third = at(&mut driver, 3, "nvidia-a40-12q", "vgpu-placement-id=36");
    assert_eq!(refused(&mut driver, &third).code, Code::NoCapacity);
    stop(&mut driver, &first);
    start(&mut driver, &third).unwrap();
    assert_eq!(place(&driver, &third), "36");
}

/// The kernel shows where the driver put it first; where it will be its VM says when it opens it.
#[test]
fn a_place_that_another_start_is_about_to_have_is_taken() {
    let mut driver = gpu("mixed");
    let first = at(&mut driver, 1, "nvidia-a40-12q", "vgpu-placement-id=24");
    call(&mut driver, &first, HookOperation::Prepare).unwrap();
    assert_eq!(place(&driver, &first), "0");
    let mut second = at(&mut driver, 2, "nvidia-a40-12q", "vgpu-placement-id=24");
    let why = refused(&mut driver, &second);
    assert_eq!(why.code, Code::NoCapacity, "{why}");
    follow(&mut second, &why);
    start(&mut driver, &second).unwrap();
}

/// No grid is told for them: it is the driver's to say.
#[test]
fn where_all_are_of_one_size_nothing_is_refused_for_its_place() {
    let mut driver = gpu("equal");
    let domain = at(&mut driver, 1, "nvidia-a40-12q", "vgpu-placement-id=7");
    call(&mut driver, &domain, HookOperation::Prepare).unwrap();
}
