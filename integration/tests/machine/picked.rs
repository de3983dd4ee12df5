//! Stories of devices that a person picked in virt-manager's dialogs, which write neither metadata nor an alias.

use crate::directed::{after, all, attach, phases, run, runs, stop};
use crate::domains::claim;
use crate::happening::Happening as H;
use crate::invariants::vfs_of;
use crate::world::World;
use gpuslice_core::domain::HostDeviceSource;
use gpuslice_core::ids::{ClaimKey, Owner, PciAddress, SliceId};
use gpuslice_core::request::{Answer, Command};

const PF: &str = "0000:0c:00.0";
const PROFILE: &str = "amd-74a1-vf8";

fn vfs(world: &World) -> Vec<PciAddress> {
    vfs_of(&world.driver.kernel, PF.parse().unwrap())
}

/// As the dialog writes it.
fn pick(vm: u8, vf: PciAddress) -> H {
    H::Plain { vm, slice: SliceId::Vf(vf), managed: true }
}

/// Alias, VF and managed of each device of a domain.
fn carried(world: &World, vm: u8) -> Vec<(Option<&str>, PciAddress, bool)> {
    let devices = world.guests[&vm].domain().devices.iter();
    let of = |source| match source {
        HostDeviceSource::Pci(vf) => vf,
        HostDeviceSource::Mdev(uuid) => panic!("{uuid}"),
    };
    devices.map(|d| (d.alias.as_deref(), of(d.source), d.managed)).collect()
}

fn homes(world: &World, vm: u8) -> Vec<(String, Vec<PciAddress>)> {
    let owner = Owner::Domain(world.guests[&vm].domain().uuid);
    let claims = world.driver.machine.durable().claims.iter();
    let mine = claims.filter(|(key, _)| key.owner == owner);
    mine.map(|(key, claim)| (key.name.to_string(), claim.home.clone())).collect()
}

#[test]
fn a_vf_that_was_picked_is_a_claim_of_its_domain() {
    let mut world = after(&[]);
    let vf = vfs(&world)[3];
    all(&mut world, &[pick(0, vf), H::Seen { vm: 0 }]);
    assert_eq!(carried(&world, 0), [(Some("ua-gpuslice-gpu0"), vf, true)]);
    assert_eq!(homes(&world, 0), [("gpu0".to_owned(), vec![vf])]);
    assert_eq!(world.guests[&0].domain().claims, [claim(&"gpu0".parse().unwrap(), PROFILE, 1)]);
    // Nobody else is given it while the domain is shut off.
    let all_but_one = H::Attach {
        vm: 1,
        name: "gpu0".parse().unwrap(),
        profile: PROFILE.to_owned(),
        count: 7,
        pool: false,
        reserve: false,
    };
    all(&mut world, &[all_but_one]);
    assert!(!homes(&world, 1)[0].1.contains(&vf));
    // It is so, and stays so.
    let (domain, durable) = (world.guests[&0].domain().clone(), world.driver.disk.durable());
    all(&mut world, &[H::Seen { vm: 0 }]);
    assert_eq!((world.guests[&0].domain(), world.driver.disk.durable()), (&domain, durable));
    all(&mut world, &run(0));
    assert!(runs(&world, 0), "{:?}", world.refusals);
    assert!(world.driver.machine.runtime().assignments.contains_key(&SliceId::Vf(vf)));
    all(&mut world, &stop(0));
    assert_eq!(phases(&world), []);
    // Terraform defines it without the metadata again: the same claim.
    world.define(0, |domain| {
        domain.claims.clear();
        domain.devices[0].alias = None;
    });
    let taken = vfs(&world)[4];
    all(&mut world, &[pick(0, taken), H::Seen { vm: 0 }]);
    // The other one is the home of another claim by now, and there is none left.
    let both = [(None, taken, true), (Some("ua-gpuslice-gpu0"), vf, true)];
    assert_eq!(carried(&world, 0), both);
    world.finish().unwrap();
}

#[test]
fn a_pick_that_is_somebody_else_s_becomes_another_of_its_profile() {
    let mut world = after(&[attach(0)]);
    let home = homes(&world, 0)[0].1[0];
    all(&mut world, &[pick(1, home), H::Seen { vm: 1 }]);
    let [(alias, other, managed)] = carried(&world, 1).try_into().unwrap();
    assert_eq!((alias, managed), (Some("ua-gpuslice-gpu0"), false));
    assert_ne!(other, home);
    assert_eq!(homes(&world, 1), [("gpu0".to_owned(), vec![other])]);
    for vm in [0, 1] {
        all(&mut world, &run(vm));
        assert!(runs(&world, vm), "{:?}", world.refusals);
    }
    // Of one that runs with a VF and no claim the VF is not taken either.
    let plain = vfs(&world).into_iter().find(|vf| ![home, other].contains(vf)).unwrap();
    all(&mut world, &[pick(2, plain)]);
    all(&mut world, &run(2));
    all(&mut world, &[pick(3, plain), H::Seen { vm: 3 }, H::Seen { vm: 2 }]);
    assert_ne!(carried(&world, 3)[0].1, plain);
    assert_eq!(carried(&world, 2), [(None, plain, true)], "it runs");
    all(&mut world, &stop(2));
    all(&mut world, &[H::Seen { vm: 2 }]);
    assert_eq!(homes(&world, 2), [("gpu0".to_owned(), vec![plain])]);
    world.finish().unwrap();
}

#[test]
fn a_pick_that_cannot_be_served_stays_as_it_is() {
    let mut world = after(&[]);
    let several = H::Attach {
        vm: 0,
        name: "gpu0".parse().unwrap(),
        profile: PROFILE.to_owned(),
        count: 8,
        pool: false,
        reserve: false,
    };
    let vf = vfs(&world)[0];
    all(&mut world, &[several, pick(1, vf)]);
    let domain = world.guests[&1].domain().read().clone();
    let seen = world.order(Command::DomainSeen { domain: domain.clone(), shut_off: true });
    let Some(Ok(Answer::Domain { devices, refused, adopted })) = seen.unwrap() else { panic!() };
    assert_eq!((devices, adopted), (Vec::new(), Vec::new()));
    assert_eq!(refused.len(), 1, "{refused:?}");
    assert_eq!(refused[0].code.as_str(), "no-capacity");
    assert_eq!(homes(&world, 1), []);
    world.finish().unwrap();
}

/// `attach` was answered while the VM was being started, and could not write it.
#[test]
fn a_pick_that_cannot_be_served_keeps_no_claim_that_is_in_no_xml() {
    let several = H::Attach {
        vm: 1,
        name: "gpu0".parse().unwrap(),
        profile: PROFILE.to_owned(),
        count: 8,
        pool: false,
        reserve: false,
    };
    let mut world = after(&[several]);
    let mdev = claim(&"gpu0".parse().unwrap(), "nvidia-a40-4q", 1);
    let domain = world.guests[&0].domain().read().clone();
    let order = Command::Claim {
        owner: Owner::Domain(domain.uuid),
        owner_name: domain.name,
        request: mdev,
        pool: None,
        reserve: None,
        dry_run: false,
    };
    assert!(matches!(world.order(order), Ok(Some(Ok(Answer::Claimed { .. })))));
    assert_eq!(homes(&world, 0), [("gpu0".to_owned(), vec![])]);
    let vf = vfs(&world)[0];
    all(&mut world, &[pick(0, vf), H::Seen { vm: 0 }]);
    assert_eq!((carried(&world, 0), homes(&world, 0)), (vec![(None, vf, true)], vec![]));
    world.finish().unwrap();
}

#[test]
fn what_is_not_of_a_layout_or_has_an_alias_is_left_alone() {
    // No layout says anything of the network card.
    let numvfs = "/sys/bus/pci/devices/0000:01:00.0/sriov_numvfs".to_owned();
    let mut world = after(&[H::Other { file: numvfs, data: "2".to_owned() }]);
    let network = vfs_of(&world.driver.kernel, "0000:01:00.0".parse().unwrap())[0];
    let (vf, absent) = (vfs(&world)[0], "0000:7f:00.1".parse().unwrap());
    all(&mut world, &[pick(0, network), pick(0, vf), pick(0, absent)]);
    let alias = Some("ua-theirs".to_owned());
    world.define(0, |domain| domain.devices[1].alias = alias);
    let before = world.guests[&0].domain().clone();
    all(&mut world, &[H::Seen { vm: 0 }]);
    assert_eq!(*world.guests[&0].domain(), before);
    assert_eq!(homes(&world, 0), []);
    world.finish().unwrap();
}

/// The metadata is there, the alias is not: the agent was interrupted, or a person wrote the one and picked the
/// other.
#[test]
fn a_claim_that_lacks_its_device_takes_the_pick() {
    let mut world = after(&[]);
    let vf = vfs(&world)[2];
    let mine = claim(&"mine".parse().unwrap(), PROFILE, 1);
    world.define(0, |domain| domain.claims.push(mine));
    all(&mut world, &[pick(0, vf), H::Seen { vm: 0 }]);
    assert_eq!(carried(&world, 0), [(Some("ua-gpuslice-mine"), vf, true)]);
    // Its device was taken out, and another one picked: it moves there.
    let other = vfs(&world)[5];
    world.define(0, |domain| domain.devices.clear());
    all(&mut world, &[pick(0, other), H::Seen { vm: 0 }]);
    assert_eq!(carried(&world, 0), [(Some("ua-gpuslice-mine"), other, true)]);
    assert_eq!(homes(&world, 0), [("mine".to_owned(), vec![other])]);
    world.finish().unwrap();
}

/// The agent writes the metadata, then the alias.
#[test]
fn a_vm_that_starts_between_the_agents_two_writes_has_what_was_picked() {
    let mut world = after(&[]);
    let vf = vfs(&world)[3];
    all(&mut world, &[pick(0, vf)]);
    let domain = world.guests[&0].domain().read().clone();
    world.order(Command::DomainSeen { domain, shut_off: true }).unwrap();
    world.define(0, |domain| domain.claims.push(claim(&"gpu0".parse().unwrap(), PROFILE, 1)));
    assert_eq!(carried(&world, 0), [(None, vf, true)]);
    let has_it = |world: &World| {
        let assignments = &world.driver.machine.runtime().assignments;
        assert_eq!(assignments[&SliceId::Vf(vf)].claim.name.as_str(), "gpu0");
        assert_eq!((assignments.len(), homes(world, 0)), (1, vec![("gpu0".to_owned(), vec![vf])]));
    };
    all(&mut world, &run(0));
    assert!(runs(&world, 0), "{:?}", world.refusals);
    has_it(&world);
    // The VM that runs is without an alias for good, whoever tells of it.
    let told = [H::LoseRecord { claims: false }, H::LibvirtDown, H::LibvirtUp { tells: true }];
    all(&mut world, &told);
    all(&mut world, &[H::Seen { vm: 0 }, H::Advance { ms: 61_000 }]);
    has_it(&world);
    all(&mut world, &stop(0));
    assert_eq!(phases(&world), []);
    all(&mut world, &[H::Seen { vm: 0 }]);
    assert_eq!(carried(&world, 0), [(Some("ua-gpuslice-gpu0"), vf, true)]);
    all(&mut world, &run(0));
    has_it(&world);
    world.finish().unwrap();
}

#[test]
fn a_vf_that_takes_a_type_is_of_no_profile_yet() {
    let mut world = after(&[]);
    let vf = vfs_of(&world.driver.kernel, "0000:c1:00.0".parse().unwrap())[0];
    all(&mut world, &[pick(0, vf)]);
    let domain = world.guests[&0].domain().read().clone();
    let seen = world.order(Command::DomainSeen { domain, shut_off: true }).unwrap();
    let Some(Ok(Answer::Domain { refused, adopted, .. })) = seen else { panic!("{seen:?}") };
    assert_eq!(adopted, []);
    let hint = refused[0].hint.as_deref().unwrap();
    assert!(hint.contains("gpuslice attach vm0 PROFILE"), "{hint}");
    // What the dialog writes would take it off its driver, and leave it of no use to anybody.
    all(&mut world, &run(0));
    assert!(!runs(&world, 0));
    let refusals: Vec<&str> = world.refusals.keys().map(|code| code.as_str()).collect();
    assert_eq!(refusals, ["managed"]);
    let key = ClaimKey {
        owner: Owner::Domain(world.guests[&0].domain().uuid),
        name: "gpu0".parse().unwrap(),
    };
    assert!(!world.driver.machine.durable().claims.contains_key(&key));
    world.finish().unwrap();
}
