//! Stories of claims that are edited while a VM runs or before anybody has looked, and of what they ask for when GPUs come
//! and go.

use crate::driver::Driver;
use crate::vgpu::{asking, attach, attach_several, call, order, start, vf};
use gpuslice_core::domain::{ClaimRequest, Domain, HostDevice, HostDeviceSource, alias_for};
use gpuslice_core::ids::{ClaimKey, Owner};
use gpuslice_core::machine::HookOperation::{Prepare, Release, Restore, Started};
use gpuslice_core::machine::{HookAnswer, HookCall};
use gpuslice_core::refusal::{Code, Refusal};
use gpuslice_core::request::{Answer, Command};
use gpuslice_sim::HostFile;
use uuid::Uuid;

const ONE: &str = "amd-74a1-vf1";
const TWO: &str = "amd-74a1-vf2";

fn of(address: &str, vfs: u32) -> String {
    format!("[[gpu]]\nmatch = {{ address = \"{address}\" }}\nlayout = {{ vfs = {vfs} }}\n")
}

/// A GPU with this many VFs, and another with that many.
fn gpus(one: u32, two: u32) -> String {
    of("0000:0c:00.0", one) + &of("0000:22:00.0", two)
}

fn ready(config: &str) -> Driver {
    let text = include_str!("../../../examples/hosts/sriov-8.toml");
    let mut driver = Driver::new(&HostFile::parse(text).unwrap(), config).unwrap();
    driver.advance(60_000).unwrap();
    driver
}

fn applies(driver: &mut Driver, config: String) {
    driver.config = config;
    order(driver, Command::Apply).unwrap();
    driver.advance(5_000).unwrap();
}

/// The agent looks at a shut-off domain, and writes what it is told to.
fn look(driver: &mut Driver, domain: &mut Domain) -> Vec<Refusal> {
    let seen = Command::DomainSeen { domain: domain.clone(), shut_off: true };
    let Answer::Domain { devices, refused, .. } = order(driver, seen).unwrap() else { panic!() };
    let written = devices.into_iter().map(|device| HostDevice {
        source: device.source,
        alias: Some(device.alias),
        managed: false,
    });
    domain.devices = written.collect();
    refused
}

fn to_look_at(driver: &mut Driver) -> Vec<Uuid> {
    match order(driver, Command::AgentWork).unwrap() {
        Answer::AgentWork { look_again, .. } => look_again,
        other => panic!("{other:?}"),
    }
}

fn profile(driver: &Driver, domain: &Domain) -> String {
    let owner = Owner::Domain(domain.uuid);
    let key = ClaimKey { owner, name: domain.claims[0].name.clone() };
    driver.machine.durable().claims[&key].profile.to_string()
}

fn starts(driver: &mut Driver, domain: &Domain) -> Result<(), Refusal> {
    call(driver, domain, Prepare)?;
    call(driver, domain, Started)
}

fn asks_for(domain: &mut Domain, profile: &str) {
    domain.claims[0].profile = Some(profile.parse().unwrap());
}

/// Its device is somebody's still, although libvirt has told of its end.
fn lingers(driver: &mut Driver, domain: &Domain) {
    start(driver, domain).unwrap();
    driver.advance(20_000).unwrap();
    call(driver, domain, Release).unwrap();
}

fn is_gone(driver: &mut Driver) {
    driver.kernel.kill(1001);
    driver.advance(2_000).unwrap();
    assert!(driver.machine.runtime().assignments.is_empty());
}

fn by_isolation(driver: &mut Driver) -> Domain {
    let name = "gpu0".parse().unwrap();
    let isolation_min = Some("hardware".to_owned());
    let request = ClaimRequest {
        profile: None,
        isolation_min,
        ..ClaimRequest::one(&name, ONE.parse().unwrap())
    };
    order(driver, asking(1, request.clone())).unwrap();
    let (uuid, devices) = (Uuid::from_u128(1), Vec::new());
    let mut domain = Domain { uuid, name: "vm1".to_owned(), claims: vec![request], devices };
    assert_eq!(look(driver, &mut domain), []);
    domain
}

#[test]
fn another_gpu_is_no_reason_for_a_claim_by_properties_to_become_something_else() {
    let mut driver = ready(&gpus(0, 2));
    let mut domain = by_isolation(&mut driver);
    let written = domain.clone();
    assert_eq!(profile(&driver, &domain), TWO);
    starts(&mut driver, &domain).unwrap();
    call(&mut driver, &domain, Release).unwrap();
    // What sorts before it has as much.
    applies(&mut driver, gpus(1, 2));
    starts(&mut driver, &domain).unwrap();
    call(&mut driver, &domain, Release).unwrap();
    assert_eq!((look(&mut driver, &mut domain), &domain), (vec![], &written));
    // Nothing else has it any more.
    applies(&mut driver, gpus(1, 0));
    assert_eq!((look(&mut driver, &mut domain), profile(&driver, &domain)), (vec![], ONE.into()));
    starts(&mut driver, &domain).unwrap();
}

#[test]
fn a_saved_vm_gets_what_it_was_saved_with_whatever_its_claim_is_now() {
    let mut driver = ready(&gpus(0, 2));
    let image = by_isolation(&mut driver);
    applies(&mut driver, gpus(1, 0));
    let mut domain = image.clone();
    look(&mut driver, &mut domain);
    assert_eq!(profile(&driver, &domain), ONE);
    applies(&mut driver, gpus(1, 2));
    let request = driver.hook(HookCall::new(Restore, image.clone()));
    driver.advance(1_000).unwrap();
    assert_eq!(driver.told.remove(&request), Some(HookAnswer::Proceed));
    starts(&mut driver, &image).unwrap();
    assert_eq!(profile(&driver, &image), TWO);
}

#[test]
fn a_profile_that_was_edited_while_its_vm_ran_is_what_the_next_start_has() {
    let mut driver = ready(&gpus(1, 2));
    let mut domain = attach(&mut driver, 1, ONE);
    lingers(&mut driver, &domain);
    asks_for(&mut domain, TWO);
    // The slice is on its way back.
    assert_eq!(look(&mut driver, &mut domain), []);
    assert_eq!(profile(&driver, &domain), TWO);
    is_gone(&mut driver);
    starts(&mut driver, &domain).unwrap();
}

#[test]
fn who_asks_for_something_else_than_was_looked_at_is_looked_at_again() {
    let mut driver = ready(&gpus(1, 2));
    let mut domain = attach(&mut driver, 1, ONE);
    starts(&mut driver, &domain).unwrap();
    asks_for(&mut domain, TWO);
    let refused = look(&mut driver, &mut domain);
    assert_eq!(refused[0].code, Code::InUse);
    call(&mut driver, &domain, Release).unwrap();
    assert_eq!(to_look_at(&mut driver), [domain.uuid]);
    // An edit that nobody has looked at.
    assert_eq!(look(&mut driver, &mut domain), []);
    asks_for(&mut domain, ONE);
    let refusal = call(&mut driver, &domain, Prepare).unwrap_err();
    assert_eq!(refusal.code, Code::NoProfile, "{refusal}");
    assert_eq!(to_look_at(&mut driver), [domain.uuid]);
    assert_eq!(look(&mut driver, &mut domain), []);
    starts(&mut driver, &domain).unwrap();
}

#[test]
fn a_slice_on_its_way_back_is_in_nobody_s_use() {
    let mut driver = ready(&gpus(1, 2));
    let domain = attach(&mut driver, 1, ONE);
    let (owner, name) = (Owner::Domain(domain.uuid), domain.claims[0].name.clone());
    let key = ClaimKey { owner, name };
    let ends =
        |driver: &mut Driver| order(driver, Command::Unclaim { key: key.clone(), force: false });
    start(&mut driver, &domain).unwrap();
    assert_eq!(ends(&mut driver).unwrap_err().code, Code::InUse);
    driver.advance(20_000).unwrap();
    call(&mut driver, &domain, Release).unwrap();
    // As another profile.
    let other = attach(&mut driver, 1, TWO);
    assert_ne!(vf(&other), vf(&domain));
    ends(&mut driver).unwrap();
    assert!(!driver.machine.runtime().assignments.is_empty(), "it is held");
    is_gone(&mut driver);
    assert!(driver.machine.durable().claims.is_empty());
}

#[test]
fn devices_beyond_a_count_that_was_lowered_are_taken_out_and_the_claim_stays() {
    let mut driver = ready(&gpus(0, 4));
    let mut domain = attach_several(&mut driver, 1, "amd-74a1-vf4", 3);
    domain.claims[0].count = 1;
    let refusal = call(&mut driver, &domain, Prepare).unwrap_err();
    assert_eq!(refusal.code, Code::NotInXml);
    assert!(refusal.message.contains("more devices for claim gpu0 than the 1"), "{refusal}");
    let hint = refusal.hint.unwrap();
    assert_eq!(hint, "virsh start vm1 (the agent takes out what is too many)");
    assert_eq!(to_look_at(&mut driver), [domain.uuid]);
    look(&mut driver, &mut domain);
    assert_eq!(domain.devices.len(), 1);
    starts(&mut driver, &domain).unwrap();
}

/// `virsh create` of a copy: the agent finds nothing to write into.
#[test]
fn a_copy_that_libvirt_does_not_keep_is_told_what_to_write() {
    let mut driver = ready(&gpus(0, 4));
    let original = attach(&mut driver, 1, "amd-74a1-vf4");
    let mut copy = Domain { uuid: Uuid::from_u128(2), name: "vm2".to_owned(), ..original.clone() };
    let hint = |driver: &mut Driver| {
        let refusal = call(driver, &copy, Prepare).unwrap_err();
        assert_eq!(refusal.code, Code::ClaimCopied, "{refusal}");
        refusal.hint.unwrap()
    };
    let start = "virsh start vm2 (the agent gives it its own device)";
    assert_eq!(hint(&mut driver), start);
    // Nobody has looked.
    assert_eq!(hint(&mut driver), start);
    assert_eq!(to_look_at(&mut driver), [copy.uuid]);
    order(&mut driver, Command::DomainGone { uuid: copy.uuid }).unwrap();
    let print = format!("gpuslice attach {} amd-74a1-vf4 --name gpu0 --count 1 --print", copy.uuid);
    let by_hand = hint(&mut driver);
    assert!(by_hand.starts_with(&format!("{print}, then put that into the XML")), "{by_hand}");
    let own = attach(&mut driver, 2, "amd-74a1-vf4");
    copy.devices.clone_from(&own.devices);
    starts(&mut driver, &copy).unwrap();
    call(&mut driver, &copy, Release).unwrap();
    // Whoever reverts to a snapshot that names a VF of another by now.
    copy.devices.clone_from(&original.devices);
    let refusal = call(&mut driver, &copy, Prepare).unwrap_err();
    assert_eq!(refusal.hint.as_deref(), Some(start));
    copy.devices.clone_from(&own.devices);
    assert_eq!(look(&mut driver, &mut copy), []);
    copy.devices.clone_from(&original.devices);
    let refusal = call(&mut driver, &copy, Prepare).unwrap_err();
    assert!(refusal.hint.unwrap().starts_with(&print));
}

/// A claim that was written while all was somebody's, and one that no GPU offered.
#[test]
fn what_was_refused_at_a_look_is_looked_at_again_when_there_is_room() {
    let config = gpus(1, 0);
    let mut driver = ready(&config);
    let other = attach(&mut driver, 2, ONE);
    let mut domain = Domain { uuid: Uuid::from_u128(1), name: "vm1".to_owned(), ..other.clone() };
    domain.devices.clear();
    let refused = look(&mut driver, &mut domain);
    assert_eq!(refused[0].code, Code::NoCapacity);
    driver.advance(60_000).unwrap();
    assert!(to_look_at(&mut driver).is_empty());
    let key = ClaimKey { owner: Owner::Domain(other.uuid), name: other.claims[0].name.clone() };
    order(&mut driver, Command::Unclaim { key, force: false }).unwrap();
    assert_eq!(to_look_at(&mut driver), [domain.uuid]);
    assert_eq!(look(&mut driver, &mut domain), []);
    assert!(to_look_at(&mut driver).is_empty());
    starts(&mut driver, &domain).unwrap();

    // No GPU offers it before it is laid out.
    let mut driver = ready(&gpus(0, 2));
    let mut domain = Domain { devices: Vec::new(), ..domain };
    assert_eq!(look(&mut driver, &mut domain)[0].code, Code::NoProfile);
    applies(&mut driver, gpus(1, 2));
    assert_eq!(to_look_at(&mut driver), [domain.uuid]);
}

/// Also one whose slices are on their way back.
#[test]
fn a_claim_that_gets_another_name_keeps_its_homes() {
    for runs in [false, true] {
        let mut driver = ready(&gpus(0, 8));
        // What is nobody's by then, and would be found first, is not what it had.
        let before = attach_several(&mut driver, 2, "amd-74a1-vf8", 2);
        let mut domain = attach_several(&mut driver, 1, "amd-74a1-vf8", 2);
        if runs {
            lingers(&mut driver, &domain);
        }
        let key = ClaimKey { owner: Owner::Domain(before.uuid), name: "gpu0".parse().unwrap() };
        domain.claims[0].name = "main".parse().unwrap();
        let homes: Vec<HostDeviceSource> = domain.devices.iter().map(|d| d.source).collect();
        order(&mut driver, Command::Unclaim { key, force: false }).unwrap();
        assert_eq!(look(&mut driver, &mut domain), []);
        let now: Vec<HostDeviceSource> = domain.devices.iter().map(|d| d.source).collect();
        assert_eq!(now, homes);
        if runs {
            is_gone(&mut driver);
        }
        starts(&mut driver, &domain).unwrap();
    }
}

/// A person, or a script, calls its claim so, in the metadata and in its device's alias.
fn is_called(domain: &mut Domain, name: &str) {
    domain.claims[0].name = name.parse().unwrap();
    domain.devices[0].alias = Some(alias_for(&domain.claims[0].name, 0));
}

fn claims_of(driver: &Driver, domain: &Domain) -> Vec<String> {
    let claims = driver.machine.durable().claims.iter();
    let of_domain = claims.filter(|(key, _)| key.owner == Owner::Domain(domain.uuid));
    of_domain.map(|(key, claim)| format!("{}: {:?}", key.name, claim.home)).collect()
}

/// Where each VF is somebody's home.
#[test]
fn a_claim_that_gets_another_name_starts_before_anybody_has_looked() {
    let mut driver = ready(&gpus(0, 2));
    attach(&mut driver, 2, TWO);
    let mut domain = attach(&mut driver, 1, TWO);
    is_called(&mut domain, "main");
    let main = [format!("main: {:?}", [vf(&domain)])];
    starts(&mut driver, &domain).unwrap();
    assert_eq!(claims_of(&driver, &domain), main);
    // The claim is its definition's, also when that run is over.
    call(&mut driver, &domain, Release).unwrap();
    driver.advance(2_000).unwrap();
    assert_eq!(claims_of(&driver, &domain), main);
    let written = domain.clone();
    assert_eq!((look(&mut driver, &mut domain), domain), (vec![], written));
}

#[test]
fn two_claims_of_a_vm_exchange_their_vfs() {
    let mut driver = ready(&gpus(0, 2));
    let mut domain = attach(&mut driver, 1, TWO);
    let more = ClaimRequest { name: "gpu1".parse().unwrap(), ..domain.claims[0].clone() };
    domain.claims.push(more);
    assert_eq!(look(&mut driver, &mut domain), []);
    let [first, second] = [0, 1].map(|at: usize| domain.devices[at].source);
    (domain.devices[0].source, domain.devices[1].source) = (second, first);
    starts(&mut driver, &domain).unwrap();
    call(&mut driver, &domain, Release).unwrap();
    let written = domain.clone();
    assert_eq!((look(&mut driver, &mut domain), domain), (vec![], written));
}

#[test]
fn a_saved_vm_whose_claim_has_another_name_by_now_gets_its_vf() {
    let mut driver = ready(&gpus(0, 2));
    attach(&mut driver, 2, TWO);
    let image = attach(&mut driver, 1, TWO);
    let mut domain = image.clone();
    is_called(&mut domain, "main");
    assert_eq!(look(&mut driver, &mut domain), []);
    assert_eq!(vf(&domain), vf(&image));
    let request = driver.hook(HookCall::new(Restore, image.clone()));
    driver.advance(1_000).unwrap();
    assert_eq!(driver.told.remove(&request), Some(HookAnswer::Proceed));
    starts(&mut driver, &image).unwrap();
    let home = [vf(&image)];
    assert_eq!(claims_of(&driver, &domain), [format!("gpu0: {home:?}"), "main: []".to_owned()]);
    // While it runs its definition keeps what it says.
    let written = domain.clone();
    let seen = Command::DomainSeen { domain: domain.clone(), shut_off: false };
    let Answer::Domain { devices, .. } = order(&mut driver, seen).unwrap() else { panic!() };
    assert_eq!(devices.len(), 1);
    assert_eq!(devices[0].source, domain.devices[0].source);
    call(&mut driver, &image, Release).unwrap();
    driver.advance(2_000).unwrap();
    assert_eq!(to_look_at(&mut driver), [domain.uuid]);
    assert_eq!((look(&mut driver, &mut domain), &domain), (vec![], &written));
    assert_eq!(claims_of(&driver, &domain), [format!("main: {home:?}")]);
    starts(&mut driver, &domain).unwrap();
}
