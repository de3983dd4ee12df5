//! Stories of domains that come in by a migration or out of a saved image, as they ran there and then.

use crate::driver::Driver;
use crate::vgpu::{attach, attach_several, call, one_gpu, order, start, stop, vf};
use gpuslice_core::domain::{ClaimRequest, Domain, HostDevice, HostDeviceSource};
use gpuslice_core::driver::DriverOf;
use gpuslice_core::ids::{PciAddress, SliceId};
use gpuslice_core::machine::HookOperation::{Migrate, Prepare, Release, Restore, Started};
use gpuslice_core::machine::{HookAnswer, HookCall, HookOperation};
use gpuslice_core::port::HostWrite as _;
use gpuslice_core::refusal::{Code, Refusal};
use gpuslice_core::request::{Answer, Command, DueStart};
use gpuslice_core::state::Phase;
use gpuslice_sim::HostFile;

const PF: &str = "0000:0c:00.0";
const LAYOUT: &str = "[[gpu]]\nmatch = { address = \"0000:0c:00.0\" }\nlayout = { vfs = 4 }\n";
const PROFILE: &str = "amd-74a1-vf4";

fn ready() -> Driver {
    let text = include_str!("../../../examples/hosts/sriov-8.toml");
    let mut driver = Driver::new(&HostFile::parse(text).unwrap(), LAYOUT).unwrap();
    driver.advance(60_000).unwrap();
    driver
}

/// What libvirt is told when a domain is to come in.
fn let_in(driver: &mut Driver, domain: &Domain, by: HookOperation) -> Result<Domain, Refusal> {
    let request = driver.hook(HookCall::new(by, domain.clone()));
    driver.advance(1_000).unwrap();
    let mut domain = domain.clone();
    match driver.told.remove(&request).unwrap() {
        HookAnswer::Proceed => {}
        HookAnswer::Remap(edits) => {
            for device in &mut domain.devices {
                if let HostDeviceSource::Pci(address) = &mut device.source {
                    *address = edits.get(address).copied().unwrap_or(*address);
                }
            }
        }
        HookAnswer::Refuse(refusal) => return Err(refusal),
    }
    Ok(domain)
}

/// It starts with these, as it was let in.
fn starts(driver: &mut Driver, domain: &Domain) -> Result<(), Refusal> {
    call(driver, domain, Prepare)?;
    call(driver, domain, Started)
}

fn attached(driver: &Driver) -> Vec<PciAddress> {
    let assignments = driver.machine.runtime().assignments.iter();
    let attached = assignments.filter(|(_, a)| a.phase == Phase::Attached);
    attached.filter_map(|(slice, _)| slice.pci()).collect()
}

fn devices_wanted(driver: &mut Driver, domain: &Domain) -> Vec<SliceId> {
    let seen = Command::DomainSeen { domain: domain.clone(), shut_off: true };
    match order(driver, seen).unwrap() {
        Answer::Domain { devices, refused, .. } => {
            assert_eq!(refused, []);
            devices.into_iter().map(|device| device.source.slice()).collect()
        }
        other => panic!("{other:?}"),
    }
}

fn due(driver: &mut Driver) -> Vec<DueStart> {
    match order(driver, Command::AgentWork).unwrap() {
        Answer::AgentWork { start, .. } => start,
        other => panic!("{other:?}"),
    }
}

/// A VM that was saved after some of its devices had left it: what it is defined as, and what it ran with then.
fn saved(driver: &mut Driver, count: u32, left: &[usize]) -> (Domain, Domain) {
    let domain = attach_several(driver, 1, PROFILE, count);
    start(driver, &domain).unwrap();
    let mut ran = domain.clone();
    ran.devices = left.iter().filter_map(|index| domain.devices.get(*index)).cloned().collect();
    // The guest let go of them, and nobody has edited the claim.
    order(driver, Command::DomainRuns { domain: ran.clone() }).unwrap();
    driver.advance(20_000).unwrap();
    driver.kernel.kill(1001);
    call(driver, &ran, Release).unwrap();
    (domain, ran)
}

#[test]
fn what_left_a_vm_that_ran_is_not_asked_for_when_it_is_restored() {
    for (count, left) in [(1, &[][..]), (3, &[2]), (3, &[0, 2])] {
        for by in [Restore, Migrate] {
            let mut driver = ready();
            let (domain, ran) = saved(&mut driver, count, left);
            let homes: Vec<SliceId> = domain.devices.iter().map(|d| d.source.slice()).collect();
            assert_eq!(let_in(&mut driver, &ran, by), Ok(ran.clone()));
            // The next daemon knows it, too.
            driver.restart().unwrap();
            starts(&mut driver, &ran).unwrap();
            let has: Vec<PciAddress> =
                ran.devices.iter().filter_map(|device| device.source.slice().pci()).collect();
            assert_eq!(attached(&driver), has);
            // Its next start is one with all.
            call(&mut driver, &ran, Release).unwrap();
            assert_eq!(devices_wanted(&mut driver, &domain), homes);
            let refused = call(&mut driver, &ran, Prepare).unwrap_err();
            assert_eq!(refused.code, Code::NotInXml, "{refused}");
            starts(&mut driver, &domain).unwrap();
            assert_eq!(attached(&driver).len(), domain.devices.len());
        }
    }
}

#[test]
fn who_comes_in_with_some_of_its_devices_needs_room_for_these_alone() {
    let mut driver = ready();
    let others = attach_several(&mut driver, 2, PROFILE, 3);
    let mut stranger = attach_several(&mut driver, 3, PROFILE, 1);
    let free = vf(&stranger);
    order(&mut driver, Command::DomainGone { uuid: stranger.uuid }).unwrap();
    stranger.uuid = uuid::Uuid::from_u128(4);
    stranger.claims = vec![ClaimRequest { count: 3, ..stranger.claims[0].clone() }];
    stranger.devices[0].source = HostDeviceSource::Pci("0000:c1:00.3".parse().unwrap());
    let here = let_in(&mut driver, &stranger, Migrate).unwrap();
    assert_eq!(vf(&here), free);
    assert!(others.devices.iter().all(|device| device.source.slice() != SliceId::Vf(free)));
    starts(&mut driver, &here).unwrap();
    assert_eq!(attached(&driver), [free]);
}

#[test]
fn a_device_without_a_claim_is_mended_where_its_xml_is() {
    let mut driver = ready();
    let mut domain = attach(&mut driver, 1, PROFILE);
    let alias = Some("ua-gpuslice-gpu7".to_owned());
    let device = HostDevice { alias, ..domain.devices[0].clone() };
    domain.devices = vec![device];
    domain.claims.clear();
    let mut hint = |by| {
        let refusal = let_in(&mut driver, &domain, by).unwrap_err();
        assert_eq!(refusal.code, Code::NotInXml);
        refusal.hint.unwrap()
    };
    let image = "virsh managedsave-edit vm1: claim it in its metadata, then the same again \
                 (virsh save-image-edit, if it was saved to a file)";
    assert_eq!(hint(Restore), image);
    let there = "virsh shutdown vm1 (where it is), then gpuslice detach vm1 gpu7 (there)";
    assert_eq!(hint(Migrate), there);
}

fn gpu(driver: &mut Driver, comes: bool) {
    let pf: PciAddress = PF.parse().unwrap();
    let _ = if comes { driver.kernel.plug(pf) } else { driver.kernel.unplug(pf) };
    driver.advance(5_000).unwrap();
}

/// A domain that may migrate here, as the daemon knows that let it in, or the next one.
fn let_in_here(restart: bool) -> (Driver, Domain) {
    let mut driver = ready();
    let domain = attach(&mut driver, 1, PROFILE);
    let_in(&mut driver, &domain, Migrate).unwrap();
    if restart {
        driver.restart().unwrap();
    }
    (driver, domain)
}

/// It runs on where it was: to start it here as well would ruin its disks.
#[test]
fn what_was_to_migrate_here_is_not_started_here_by_the_next_daemon() {
    for restart in [false, true] {
        let (mut driver, domain) = let_in_here(restart);
        gpu(&mut driver, false);
        let refusal = starts(&mut driver, &domain).unwrap_err();
        assert_eq!(refusal.code, Code::NotSettled, "{refusal}");
        // Nor is that promised.
        let hint = refusal.hint.unwrap();
        assert_eq!(hint, "gpuslice wait --settled, then the same again");
        gpu(&mut driver, true);
        assert_eq!(due(&mut driver), []);
    }
}

/// libvirt may fail before it asks for the start, and tells nobody.
#[test]
fn who_never_came_is_started_later_like_any_other() {
    for restart in [false, true] {
        let (mut driver, domain) = let_in_here(restart);
        driver.advance(600_001).unwrap();
        assert!(driver.machine.runtime().coming_in.is_empty());
        gpu(&mut driver, false);
        let refusal = starts(&mut driver, &domain).unwrap_err();
        assert_eq!(refusal.code, Code::NotSettled, "{refusal}");
        assert!(refusal.hint.unwrap().contains("is started by itself"));
        gpu(&mut driver, true);
        assert_eq!(due(&mut driver), [DueStart { domain: domain.uuid, only: None }]);
    }
}

#[test]
fn who_is_over_comes_in_no_more() {
    let mut driver = ready();
    let domain = attach(&mut driver, 1, PROFILE);
    let_in(&mut driver, &domain, Restore).unwrap();
    assert_eq!(driver.machine.runtime().coming_in.len(), 1);
    start(&mut driver, &domain).unwrap();
    assert!(driver.machine.runtime().coming_in.is_empty());
    stop(&mut driver, &domain);
}

#[test]
fn what_somebody_else_gives_back_is_free_for_who_comes_in() {
    for by in [Restore, Migrate] {
        let mut driver = one_gpu();
        let domain = attach(&mut driver, 1, "nvidia-a40-48q");
        let mut vfs = driver.machine.observation().vfs.keys();
        let other = *vfs.find(|other| **other != vf(&domain)).unwrap();
        let path = format!("/sys/bus/pci/devices/{other}/nvidia/current_vgpu_type");
        driver.kernel.write(&path, b"562").unwrap();
        driver.wake_up().unwrap();
        let refusal = let_in(&mut driver, &domain, by).unwrap_err();
        assert_eq!(refusal.code, Code::NoCapacity, "{refusal}");
        // No event tells of it.
        driver.kernel.write(&path, b"0").unwrap();
        assert_eq!(let_in(&mut driver, &domain, by), Ok(domain.clone()));
        starts(&mut driver, &domain).unwrap();
    }
}

fn noted(driver: &mut Driver, domain: &Domain) -> Vec<DriverOf> {
    match order(driver, Command::DomainRuns { domain: domain.clone() }).unwrap() {
        Answer::Runs { drivers, .. } => drivers,
        other => panic!("{other:?}"),
    }
}

fn of(name: &str, version: Option<&str>) -> DriverOf {
    let driver = gpuslice_core::driver::Driver::told(name, version).unwrap();
    DriverOf { claim: "gpu0".parse().unwrap(), driver }
}

/// One that ran here, and what was noted of it.
fn ran(host: &str, layout: &str, profile: &str) -> (Driver, Domain, Vec<DriverOf>) {
    let path = gpuslice_integration::root().join("examples/hosts").join(host);
    let text = std::fs::read_to_string(path).unwrap();
    let mut driver = Driver::new(&HostFile::parse(&text).unwrap(), layout).unwrap();
    driver.advance(60_000).unwrap();
    let domain = attach(&mut driver, 1, profile);
    assert_eq!(noted(&mut driver, &domain), [], "nothing runs yet");
    starts(&mut driver, &domain).unwrap();
    let drivers = noted(&mut driver, &domain);
    driver.advance(20_000).unwrap();
    call(&mut driver, &domain, Release).unwrap();
    driver.advance(20_000).unwrap();
    assert_eq!(noted(&mut driver, &domain), [], "nothing runs any more");
    (driver, domain, drivers)
}

fn comes(
    driver: &mut Driver,
    domain: &Domain,
    by: HookOperation,
    drivers: &[DriverOf],
) -> Result<(), Refusal> {
    let call = HookCall { drivers: drivers.to_vec(), ..HookCall::new(by, domain.clone()) };
    let request = driver.hook(call);
    driver.advance(1_000).unwrap();
    match driver.told.remove(&request).unwrap() {
        HookAnswer::Proceed => Ok(()),
        HookAnswer::Refuse(refusal) => Err(refusal),
        other @ HookAnswer::Remap(_) => panic!("{other:?}"),
    }
}

#[test]
fn what_made_its_slices_goes_along_and_is_judged() {
    let mdevs = "[[gpu]]\nmatch = { driver = \"nvidia\" }\nlayout = { vfs = \"all\" }\n";
    for (host, layout, profile, name, version) in [
        ("a40-vfio.toml", crate::vgpu::LAYOUT, "nvidia-a40-8q", "nvidia", Some("580.65.05")),
        ("a40-mdev.toml", mdevs, "nvidia-a40-8q", "nvidia", Some("580.65.05")),
        // Nothing depends on the version of this one.
        ("sriov-8.toml", LAYOUT, PROFILE, "gpusim", None),
    ] {
        let (mut driver, domain, drivers) = ran(host, layout, profile);
        assert_eq!(drivers, [of(name, version)], "{host}");
        for by in [Migrate, Restore] {
            let mut comes = |drivers: &[DriverOf]| comes(&mut driver, &domain, by, drivers);
            // The same, one that is not told, and one of a claim that it does not make.
            let other = DriverOf { claim: "other".parse().unwrap(), ..of("gim", None) };
            for fits in [&drivers[..], &[], &[of(name, None)], &[other]] {
                assert_eq!(comes(fits), Ok(()), "{host}: {fits:?}");
            }
            for version in ["550.163.02", "580.95.02", "580.65.05"] {
                assert_eq!(comes(&[of(name, Some(version))]), Ok(()), "{host}: from {version}");
            }
            let of_a_newer_branch = comes(&[of(name, Some("590.48.01"))]);
            let refused = comes(&[of("another", version)]).unwrap_err();
            assert_eq!(refused.code, Code::OtherDriver, "{refused}");
            match version {
                None => assert_eq!(of_a_newer_branch, Ok(())),
                Some(_) => {
                    let refusal = of_a_newer_branch.unwrap_err();
                    assert_eq!(refusal.code, Code::OtherDriver, "{refusal}");
                    let both = ["ran with nvidia 590.48.01", "has nvidia 580.65.05 here"];
                    assert!(both.iter().all(|word| refusal.message.contains(word)), "{refusal}");
                }
            }
            // Nothing is left of those that were refused.
            assert_eq!(comes(&drivers), Ok(()));
        }
        starts(&mut driver, &domain).unwrap();
    }
}
