//! Stories of domains that are undefined: programs that manage VMs undefine one and define it again.

use crate::directed::{after, all, attach, declare, phases, run, runs, stop};
use crate::happening::Happening as H;
use crate::world::World;
use gpuslice_core::ids::{ClaimKey, PciAddress};
use gpuslice_core::state::{Claim, Phase};

const DAY: u64 = 24 * 60 * 60 * 1000;

fn claims(world: &World) -> Vec<(&ClaimKey, &Claim)> {
    world.driver.machine.durable().claims.iter().collect()
}

/// Where each claim of a domain lives.
fn homes(world: &World, vm: u8) -> Vec<PciAddress> {
    let owner = gpuslice_core::ids::Owner::Domain(world.guests[&vm].domain().uuid);
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
    let definition = world.guests[&vm].definition.clone();
    all(world, &[H::Undefine { vm }]);
    move |world| {
        world.guests.get_mut(&vm).unwrap().definition = definition;
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

/// Whether each claim of a VM is orphaned, and whether its domain is known to be undefined.
fn gone(world: &World, vm: u8) -> Vec<(bool, bool)> {
    let owner = gpuslice_core::ids::Owner::Domain(world.guests[&vm].domain().uuid);
    let of_vm = claims(world).into_iter().filter(|(key, _)| key.owner == owner);
    of_vm.map(|(_, claim)| (claim.orphaned, claim.undefined)).collect()
}

/// The agent tells late that the domain before is gone: the one that was made again by its name is on its way.
#[test]
fn one_that_is_being_started_anew_is_not_given_up() {
    let steps = [H::Start { vm: 0 }, H::Next { vm: 0 }, H::Next { vm: 0 }];
    // While the device is made, when it is ready, and when the VM has begun and runs.
    for (lazy, done) in [(true, 1), (false, 1), (false, 2), (false, 3)] {
        // As `virsh create` has it, and as `virsh undefine`, `define` and `start` do.
        for begin in [declare(0), attach(0)] {
            let transient = matches!(begin, H::Declare { .. });
            let mut world = after(&[begin, several(1, 7), H::Lazy { on: lazy }]);
            let (before, then) = steps.split_at(done);
            all(&mut world, before);
            let home = homes(&world, 0);
            let definition = world.guests[&0].definition.clone();
            all(&mut world, &[H::Undefine { vm: 0 }]);
            world.guests.get_mut(&0).unwrap().definition = definition;
            assert_eq!(gone(&world, 0), [(false, true)]);
            // Nobody else is given its home.
            all(&mut world, &[attach(2), H::Lazy { on: false }]);
            all(&mut world, then);
            assert!(runs(&world, 0), "{:?}", world.refusals);
            assert_eq!((homes(&world, 0), gone(&world, 0)), (home, vec![(false, true)]));
            world.driver.restart().unwrap();
            all(&mut world, &[H::Advance { ms: 2 * DAY }]);
            assert_eq!((phases(&world), gone(&world, 0).len()), (vec![Phase::Attached], 1));
            all(&mut world, &stop(0));
            all(&mut world, &[H::Advance { ms: 60_000 }]);
            let left = if transient { vec![] } else { vec![(true, true)] };
            assert_eq!((phases(&world), gone(&world, 0)), (vec![], left));
            world.driver.restart().unwrap();
            all(&mut world, &[H::Advance { ms: DAY + 1 }]);
            assert_eq!(gone(&world, 0), []);
            world.finish().unwrap();
        }
    }
}

#[test]
fn a_start_that_comes_to_nothing_leaves_an_undefined_domain_s_claim_without_owner() {
    for dies in [false, true] {
        let mut world = after(&[attach(0), H::Lazy { on: true }, H::Start { vm: 0 }]);
        let definition = world.guests[&0].definition.clone();
        all(&mut world, &[H::Undefine { vm: 0 }]);
        world.guests.get_mut(&0).unwrap().definition = definition;
        assert_eq!(gone(&world, 0), [(false, true)]);
        if dies {
            world.driver.restart().unwrap();
            all(&mut world, &[H::LibvirtDown]);
        } else {
            all(&mut world, &[H::HookDies { vm: 0 }]);
        }
        all(&mut world, &[H::Lazy { on: false }, H::Advance { ms: 60_000 }]);
        assert_eq!((phases(&world), gone(&world, 0)), (vec![], vec![(true, true)]));
        all(&mut world, &[H::LibvirtUp { tells: true }, H::Advance { ms: DAY + 1 }]);
        assert_eq!(gone(&world, 0), []);
        world.finish().unwrap();
    }
}

/// A start that waits until the last run is over.
#[test]
fn a_start_that_waits_is_one_that_is_being_started() {
    let mut world = after(&[attach(0), several(1, 7)]);
    let home = homes(&world, 0);
    all(&mut world, &run(0));
    all(&mut world, &[H::Lazy { on: true }]);
    all(&mut world, &stop(0));
    all(&mut world, &[H::Start { vm: 0 }]);
    assert_eq!(phases(&world), [Phase::Releasing]);
    let definition = world.guests[&0].definition.clone();
    all(&mut world, &[H::Undefine { vm: 0 }, attach(2)]);
    world.guests.get_mut(&0).unwrap().definition = definition;
    assert_eq!((homes(&world, 2), gone(&world, 0)), (vec![], vec![(false, true)]));
    all(&mut world, &[H::Lazy { on: false }, H::Next { vm: 0 }, H::Next { vm: 0 }]);
    assert!(runs(&world, 0), "{:?}", world.refusals);
    assert_eq!((homes(&world, 0), gone(&world, 0)), (home, vec![(false, false)]));
    world.finish().unwrap();
}

#[test]
fn one_that_is_defined_while_it_runs_is_an_ordinary_claim_again() {
    let mut world = after(&[attach(0)]);
    all(&mut world, &run(0));
    let define = undefine(&mut world, 0);
    assert_eq!(gone(&world, 0), [(false, true)]);
    define(&mut world);
    assert_eq!(gone(&world, 0), [(false, false)]);
    all(&mut world, &stop(0));
    all(&mut world, &[H::Advance { ms: 2 * DAY }]);
    assert_eq!(gone(&world, 0), [(false, false)]);
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
