//! Stories of a mediated device of another VM's that was picked in virt-manager's dialog, which lists all that are there.

use crate::directed::{after, all, declare, run, runs, stop};
use crate::happening::Happening as H;
use crate::world::World;
use gpuslice_core::domain::HostDeviceSource;
use gpuslice_core::ids::{MdevUuid, SliceId};
use gpuslice_core::request::{Answer, Command};
use uuid::Uuid;

/// As the dialog writes it.
pub fn pick(vm: u8, uuid: MdevUuid) -> H {
    H::Plain { vm, slice: SliceId::Mdev(uuid), managed: false }
}

pub fn carried(world: &World, vm: u8) -> Vec<(Option<String>, MdevUuid)> {
    let of = |source| match source {
        HostDeviceSource::Mdev(uuid) => uuid,
        HostDeviceSource::Pci(vf) => panic!("{vf}"),
    };
    let devices = world.guests[&vm].domain().devices.iter();
    devices.map(|d| (d.alias.clone(), of(d.source))).collect()
}

pub fn own(world: &World, vm: u8) -> Vec<(Option<String>, MdevUuid)> {
    let uuid = world.guests[&vm].domain().uuid;
    let name = "gpu0".parse().unwrap();
    vec![(Some("ua-gpuslice-gpu0".to_owned()), MdevUuid::for_claim(uuid, &name, 0))]
}

/// vm0 runs with a mediated device of its claim's.
pub fn with_one() -> (World, MdevUuid) {
    let mut world = after(&[declare(0), H::Seen { vm: 0 }]);
    all(&mut world, &run(0));
    assert!(runs(&world, 0), "{:?}", world.refusals);
    let [(_, uuid)] = own(&world, 0).try_into().unwrap();
    (world, uuid)
}

/// A start that is refused since the device is vm0's.
#[track_caller]
pub fn is_refused(world: &mut World, vm: u8) {
    world.refusals.clear();
    all(world, &run(vm));
    let codes: Vec<&str> = world.refusals.keys().map(|code| code.as_str()).collect();
    assert_eq!((runs(world, vm), codes), (false, vec!["taken"]));
}

fn to_be_looked_at(world: &mut World) -> Vec<Uuid> {
    match world.order(Command::AgentWork).unwrap() {
        Some(Ok(Answer::AgentWork { look_again, .. })) => look_again,
        other => panic!("{other:?}"),
    }
}

#[test]
fn who_picks_it_gets_one_of_its_own() {
    let (mut world, one) = with_one();
    all(&mut world, &[pick(1, one), H::Seen { vm: 1 }]);
    assert_eq!(carried(&world, 1), own(&world, 1));
    let (domain, durable) = (world.guests[&1].domain().clone(), world.driver.disk.durable());
    all(&mut world, &[H::Seen { vm: 1 }]);
    assert_eq!((world.guests[&1].domain(), world.driver.disk.durable()), (&domain, durable));
    all(&mut world, &run(1));
    assert!(runs(&world, 0) && runs(&world, 1), "{:?}", world.refusals);
    assert_eq!(carried(&world, 0), own(&world, 0));
    world.finish().unwrap();
}

#[test]
fn a_start_before_the_agent_has_come_is_refused_and_the_next_is_not() {
    let (mut world, one) = with_one();
    all(&mut world, &[pick(1, one)]);
    is_refused(&mut world, 1);
    assert_eq!(to_be_looked_at(&mut world), [world.guests[&1].domain().uuid]);
    // It goes with its VM, and libvirt would start nobody with it then.
    all(&mut world, &stop(0));
    assert!(world.driver.machine.runtime().assignments.is_empty());
    is_refused(&mut world, 1);
    all(&mut world, &[H::Seen { vm: 1 }]);
    assert_eq!(carried(&world, 1), own(&world, 1));
    for vm in [1, 0] {
        all(&mut world, &run(vm));
        assert!(runs(&world, vm), "{:?}", world.refusals);
    }
    world.finish().unwrap();
}

#[test]
fn one_that_a_claim_names_and_that_is_not_there_is_exchanged_too() {
    let (mut world, one) = with_one();
    all(&mut world, &stop(0));
    all(&mut world, &[pick(1, one), H::Seen { vm: 1 }]);
    assert_eq!(carried(&world, 1), own(&world, 1));
    world.finish().unwrap();
}

#[test]
fn what_has_an_alias_or_is_named_by_no_claim_is_left_alone() {
    let (mut world, one) = with_one();
    let nobodys = MdevUuid(Uuid::from_u128(7));
    all(&mut world, &[pick(1, one), pick(1, nobodys)]);
    world.define(1, |domain| domain.devices[0].alias = Some("ua-theirs".to_owned()));
    let before = world.guests[&1].domain().clone();
    all(&mut world, &[H::Seen { vm: 1 }]);
    assert_eq!(*world.guests[&1].domain(), before);
    world.define(1, |domain| domain.devices.clear());
    world.finish().unwrap();
}
