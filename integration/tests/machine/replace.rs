//! Stories of GPUs that are exchanged: what was kept of the old one is the new one's, or nothing has changed.

use crate::directed::{after, all, run, runs, stop};
use crate::happening::Happening as H;
use crate::world::World;
use gpuslice_core::ids::{ParentId, PciAddress, SliceId};
use gpuslice_core::port::HostRead;
use gpuslice_core::request::{Answer, Command, Outcome};

const OLD: &str = "0000:0c:00.0";
const NEW: &str = "0000:9f:00.0";
/// Four VFs on each of both.
const FOUR: H = H::Edit { config: 1 };

fn gpu(address: &str) -> ParentId {
    address.parse().unwrap()
}

fn attach(vm: u8, profile: &str) -> H {
    let name = "gpu0".parse().unwrap();
    H::Attach { vm, name, profile: profile.to_owned(), count: 1, pool: false, reserve: false }
}

fn gone() -> H {
    H::Unplug { address: OLD.parse().unwrap() }
}

/// VMs with homes on the old one.
fn with_homes(vms: u8) -> World {
    let mut world = after(&[FOUR, H::Apply]);
    for vm in 0..vms {
        all(&mut world, &[attach(vm, "amd-74a1-vf4")]);
    }
    world
}

fn replace(world: &mut World, old: &str, new: &str) -> Outcome {
    world.order(Command::Replace { old: gpu(old), new: gpu(new) }).unwrap().unwrap()
}

fn changed(world: &mut World) -> bool {
    match replace(world, OLD, NEW) {
        Ok(Answer::Done { changed, .. }) => changed,
        other => panic!("{other:?}"),
    }
}

/// Refused by this code, and nothing is changed.
#[track_caller]
fn refused(world: &mut World, new: &str, code: &str) {
    let before = world.driver.machine.durable().clone();
    let why = replace(world, OLD, new).unwrap_err();
    assert_eq!(why.code.as_str(), code, "{why:?}");
    assert!(why.hint.is_some(), "{why:?}");
    assert_eq!(*world.driver.machine.durable(), before);
}

/// The home of each claim, as its GPU and its number there.
fn homes(world: &World) -> Vec<(String, u16)> {
    let durable = world.driver.machine.durable();
    let homes = durable.claims.values().flat_map(|claim| &claim.home);
    let place = |home: &PciAddress| {
        let place = durable.places[home];
        (place.pf.to_string(), place.index.0)
    };
    homes.map(place).collect()
}

fn on(gpu: &str, numbers: &[u16]) -> Vec<(String, u16)> {
    numbers.iter().map(|number| (gpu.to_owned(), *number)).collect()
}

#[test]
fn what_was_kept_of_the_old_one_is_the_new_one_s() {
    let mut world = with_homes(2);
    assert_eq!(homes(&world), on(OLD, &[0, 1]));
    world.order(Command::Cordon { parent: gpu(OLD), reason: "new fan".to_owned() }).unwrap();
    all(&mut world, &[gone()]);
    // It left, and a daemon that never saw it knows what was where.
    world.driver.restart().unwrap();
    world.driver.drain().unwrap();
    assert!(changed(&mut world));
    assert_eq!(homes(&world), on(NEW, &[0, 1]));
    let durable = world.driver.machine.durable();
    assert!(!durable.expected.contains_key(&gpu(OLD)), "nobody waits for it");
    assert_eq!(durable.cordons.get(&gpu(NEW)).map(String::as_str), Some("new fan"));
    assert!(!durable.cordons.contains_key(&gpu(OLD)));
    assert!(!changed(&mut world), "the second time it is already so");
    world.order(Command::Uncordon { parent: gpu(NEW) }).unwrap();
    all(&mut world, &[H::Seen { vm: 0 }]);
    all(&mut world, &run(0));
    assert!(runs(&world, 0));
    let slice = *world.driver.machine.runtime().assignments.keys().next().unwrap();
    let SliceId::Vf(vf) = slice else { panic!("{slice}") };
    let pf = format!("/sys/bus/pci/devices/{vf}/physfn");
    assert!(world.driver.kernel.link(&pf).unwrap().ends_with(NEW));
    all(&mut world, &stop(0));
    world.finish().unwrap();
}

#[test]
fn what_is_used_is_not_moved() {
    let mut world = with_homes(1);
    all(&mut world, &run(0));
    refused(&mut world, NEW, "in-use");
    // Also when its GPU has left under the VM.
    all(&mut world, &[gone()]);
    refused(&mut world, NEW, "in-use");
}

#[test]
fn a_new_one_that_others_have_is_not_taken() {
    // The fifth finds no room on the old one.
    let mut world = with_homes(5);
    assert_eq!(homes(&world).iter().filter(|(gpu, _)| gpu == NEW).count(), 1);
    refused(&mut world, NEW, "taken");
    let durable = world.driver.machine.durable();
    let last = durable
        .claims
        .iter()
        .find(|(_, c)| c.home.iter().any(|home| durable.places[home].pf.to_string() == NEW));
    let vm: u8 = last.unwrap().1.owner_name.strip_prefix("vm").unwrap().parse().unwrap();
    all(&mut world, &run(vm));
    refused(&mut world, NEW, "in-use");
}

fn detach(vm: u8) -> H {
    H::Detach { vm, name: "gpu0".parse().unwrap(), force: false }
}

/// A VM's homes, as [`homes`] tells them.
fn homes_of(world: &World, vm: u8) -> Vec<(String, u16)> {
    let durable = world.driver.machine.durable();
    let claim = durable.claims.values().find(|claim| claim.owner_name == format!("vm{vm}"));
    let place =
        |home: &PciAddress| (durable.places[home].pf.to_string(), durable.places[home].index.0);
    claim.unwrap().home.iter().map(place).collect()
}

#[test]
fn no_vf_becomes_a_home_twice() {
    let attach = |vm, count| {
        let (name, profile) = ("gpu0".parse().unwrap(), "amd-74a1-vf4".to_owned());
        H::Attach { vm, name, profile, count, pool: false, reserve: false }
    };
    for (one, number) in [(0, 0), (4, 1)] {
        let mut world = with_homes(0);
        all(&mut world, &[attach(0, 1), attach(4, 1), attach(1, 2), attach(2, 1), attach(3, 3)]);
        // A claim with a home on each of both: its own first one, or that of another, would come on its second.
        all(&mut world, &[detach(one), detach(2), attach(one, 2), detach(3)]);
        assert_eq!(homes_of(&world, one), [on(OLD, &[number]), on(NEW, &[0])].concat());
        refused(&mut world, NEW, "taken");
        all(&mut world, &[detach(one)]);
        assert!(changed(&mut world));
        world.finish().unwrap();
    }
}

#[test]
fn a_claim_that_is_given_up_is_not_in_the_way() {
    let mut world = with_homes(5);
    assert_eq!((homes_of(&world, 0), homes_of(&world, 4)), (on(OLD, &[0]), on(NEW, &[0])));
    all(&mut world, &[detach(1), detach(2), detach(3), H::Undefine { vm: 0 }]);
    assert!(changed(&mut world));
    // Defined again, it has another home.
    all(&mut world, &[H::Define { vm: 0 }, H::Seen { vm: 0 }]);
    assert_ne!(homes_of(&world, 0), homes_of(&world, 4));
    for vm in [0, 4] {
        all(&mut world, &run(vm));
        assert!(runs(&world, vm));
    }
    world.finish().unwrap();
}

#[test]
fn one_of_another_shape_is_refused() {
    let mut world = after(&[attach(0, "amd-74a1-vf8"), gone()]);
    refused(&mut world, NEW, "no-profile");
    refused(&mut world, "0000:fe:00.0", "unknown");
    // The configuration says of the old one alone how it is to be.
    let mut world = after(&[H::Edit { config: 2 }, H::Apply, attach(0, "amd-74a1-vf2"), gone()]);
    refused(&mut world, NEW, "not-settled");
}

#[test]
fn what_cannot_be_recorded_is_not_moved() {
    let mut world = with_homes(1);
    all(&mut world, &[gone(), H::DiskFull { durable: 1, runtime: 0 }]);
    assert_eq!(replace(&mut world, OLD, NEW).unwrap_err().code.as_str(), "state-unwritable");
    assert_eq!(homes(&world), on(OLD, &[0]));
    assert!(changed(&mut world));
}
