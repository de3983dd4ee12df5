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
