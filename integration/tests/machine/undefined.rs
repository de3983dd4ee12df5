//! Stories of domains that are undefined: programs that manage VMs undefine one and define it again.

use crate::directed::{after, all, attach, phases, run, runs, stop};
use crate::happening::Happening as H;
use crate::world::World;
use gpuslice_core::ids::{ClaimKey, PciAddress};
use gpuslice_core::state::Claim;

const DAY: u64 = 24 * 60 * 60 * 1000;

fn claims(world: &World) -> Vec<(&ClaimKey, &Claim)> {
    world.driver.machine.durable().claims.iter().collect()
}

/// Where each claim of a domain lives.
fn homes(world: &World, vm: u8) -> Vec<PciAddress> {
    let owner = gpuslice_core::ids::Owner::Domain(world.guests[&vm].domain.uuid);
    claims(world)
        .into_iter()
        .filter(|(k, _)| k.owner == owner)
        .flat_map(|(_, c)| c.home.clone())
        .collect()
}

fn several(vm: u8, count: u32) -> H {
    let H::Attach { name, profile, .. } = attach(vm) else { unreachable!() };
    H::Attach { vm, name, profile, count, pool: false, reserve: false }
}

/// virsh undefine, and later virsh define of the same XML.
fn undefine(world: &mut World, vm: u8) -> impl FnOnce(&mut World) + use<> {
    let domain = world.guests[&vm].domain.clone();
    all(world, &[H::Undefine { vm }]);
    move |world| {
        world.guests.get_mut(&vm).unwrap().domain = domain;
        all(world, &[H::Seen { vm }]);
    }
}

#[test]
fn one_that_is_defined_again_has_its_home_again() {
    let mut world = after(&[attach(0)]);
    let home = homes(&world, 0);
    let define = undefine(&mut world, 0);
    // Others are given what is nobody's first.
    all(&mut world, &[several(1, 7)]);
    assert_eq!(homes(&world, 1).len(), 7);
    world.driver.restart().unwrap();
    world.driver.drain().unwrap();
    all(&mut world, &[H::Advance { ms: DAY - 60_000 }]);
    define(&mut world);
    assert_eq!(homes(&world, 0), home);
    // It is an ordinary claim again: the day is over, and nothing ends.
    all(&mut world, &[H::Advance { ms: DAY }]);
    all(&mut world, &run(0));
    assert!(runs(&world, 0), "{:?}", world.refusals);
    all(&mut world, &stop(0));
    world.finish().unwrap();
}

#[test]
fn its_home_goes_to_whoever_finds_no_other() {
    let mut world = after(&[attach(0), several(1, 7)]);
    let home = homes(&world, 0);
    let define = undefine(&mut world, 0);
    all(&mut world, &[attach(2)]);
    assert_eq!(homes(&world, 2), home);
    define(&mut world);
    all(&mut world, &[H::Start { vm: 0 }, H::Next { vm: 0 }]);
    let refused: Vec<&str> = world.refusals.keys().map(|code| code.as_str()).collect();
    assert_eq!((runs(&world, 0), refused), (false, vec!["taken"]));
    all(&mut world, &run(2));
    assert!(runs(&world, 2), "{:?}", world.refusals);
    all(&mut world, &stop(2));
    world.finish().unwrap();
}

#[test]
fn after_a_day_its_claims_end_also_when_the_daemon_was_restarted() {
    let mut world = after(&[attach(0)]);
    drop(undefine(&mut world, 0));
    all(&mut world, &[H::Advance { ms: DAY / 2 }]);
    assert_eq!(claims(&world).len(), 1);
    world.driver.restart().unwrap();
    all(&mut world, &[H::Advance { ms: DAY + 1 }]);
    assert_eq!(claims(&world), []);
    world.finish().unwrap();
}

#[test]
fn one_that_runs_on_keeps_its_slice_and_then_its_home() {
    let mut world = after(&[attach(0)]);
    let home = homes(&world, 0);
    all(&mut world, &run(0));
    let define = undefine(&mut world, 0);
    assert!(runs(&world, 0) && phases(&world).len() == 1);
    all(&mut world, &stop(0));
    all(&mut world, &[H::Advance { ms: 60_000 }]);
    assert_eq!((phases(&world), homes(&world, 0)), (vec![], home.clone()));
    define(&mut world);
    assert_eq!(homes(&world, 0), home);
    world.finish().unwrap();
}

#[test]
fn an_order_ends_it_at_once() {
    let mut world = after(&[attach(0)]);
    drop(undefine(&mut world, 0));
    let H::Attach { name, .. } = attach(0) else { unreachable!() };
    all(&mut world, &[H::Detach { vm: 0, name, force: false }]);
    assert_eq!(claims(&world), []);
    world.finish().unwrap();
}
