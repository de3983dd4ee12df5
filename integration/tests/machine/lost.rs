//! The record of a boot is lost while VMs run: what each has is found again, and nobody else is given it.

use crate::directed::{after, all, attach, declare, phases, run, runs, stop};
use crate::happening::Happening as H;
use crate::world::{State, World};
use gpuslice_core::domain::HostDeviceSource;
use gpuslice_core::errno::Errno;
use gpuslice_core::ids::{ClaimName, MdevUuid, Owner, SliceId};
use gpuslice_core::machine::{HookCall, HookOperation};
use gpuslice_core::port::HostRead;
use gpuslice_core::refusal::Code;
use gpuslice_core::state::{Assignment, Phase};
use gpuslice_sim::{Content, Fault};
use serde_json::json;

const LOSE: H = H::LoseRecord { claims: false };

fn libvirt_tells() -> [H; 2] {
    [H::LibvirtDown, H::LibvirtUp { tells: true }]
}

fn owners(world: &World) -> Vec<Owner> {
    world.driver.machine.runtime().assignments.values().map(|a| a.claim.owner.clone()).collect()
}

fn owner(world: &World, vm: u8) -> Owner {
    Owner::Domain(world.guests[&vm].domain().uuid)
}

fn mdevs(world: &World) -> usize {
    world.driver.kernel.list("/sys/bus/mdev/devices").unwrap_or_default().len()
}

/// Nobody tells, and yet a VM that runs keeps what was found and one that ends gives it back.
fn is_kept_by_who_runs_and_given_back(mut world: World) {
    all(&mut world, &[H::Advance { ms: 700_000 }]);
    assert_eq!(phases(&world), [Phase::Attached]);
    all(&mut world, &stop(0));
    assert_eq!((phases(&world), mdevs(&world)), (vec![], 0));
    world.finish().unwrap();
}

#[test]
fn what_a_claim_names_and_is_there_is_its_own_at_once() {
    for begin in [attach(0), declare(0)] {
        let mut world = after(&[begin]);
        all(&mut world, &run(0));
        let before = world.driver.machine.runtime().assignments.clone();
        all(&mut world, &[LOSE]);
        let mut found = world.driver.machine.runtime().assignments.clone();
        assert_eq!(phases(&world), [Phase::Prepared]);
        found.values_mut().for_each(|a| a.phase = Phase::Attached);
        assert_eq!(found, before);
        is_kept_by_who_runs_and_given_back(world);
    }
}

/// Asks for slices of one claim, in a domain that is shut off or runs.
fn ask(profile: &str, count: u32) -> H {
    let (name, profile) = ("gpu0".parse().unwrap(), profile.to_owned());
    H::Attach { vm: 0, name, profile, count, pool: false, reserve: false }
}

#[test]
fn what_a_claim_names_no_more_is_its_vm_s_as_long_as_it_has_it() {
    for profile in ["amd-74a1-vf8", "mtty-1"] {
        for steps in [1, 3] {
            for (restarted, ends) in [(false, false), (true, false), (false, true)] {
                let mut world = after(&[ask(profile, 2)]);
                all(&mut world, &run(0)[..steps]);
                all(&mut world, &[ask(profile, 1)]);
                let given = world.driver.disk.durable().given;
                assert_eq!(given.values().map(|g| g.index).collect::<Vec<_>>(), [1]);
                if restarted {
                    world.driver.restart().unwrap();
                    world.driver.drain().unwrap();
                }
                let before = world.driver.machine.runtime().assignments.clone();
                if ends {
                    all(&mut world, &[H::LibvirtDown, H::Stop { vm: 0, linger: false }]);
                }
                all(&mut world, &[LOSE]);
                let found = &world.driver.machine.runtime().assignments;
                let which = |a: &Assignment| (a.claim.clone(), a.index, a.profile.clone());
                assert_eq!(
                    found.iter().map(|(slice, a)| (*slice, which(a))).collect::<Vec<_>>(),
                    before.iter().map(|(slice, a)| (*slice, which(a))).collect::<Vec<_>>()
                );
                all(&mut world, &[H::Advance { ms: 700_000 }]);
                if steps == 3 && !ends {
                    assert_eq!(phases(&world), [Phase::Attached; 2]);
                    all(&mut world, &stop(0));
                }
                assert_eq!((phases(&world), mdevs(&world)), (vec![], 0));
                assert!(world.driver.disk.durable().given.is_empty());
                world.finish().unwrap();
            }
        }
    }
}

#[test]
fn what_ended_with_the_record_is_taken_back() {
    let mut world = after(&[declare(0)]);
    all(&mut world, &run(0));
    all(&mut world, &[H::LibvirtDown, H::Stop { vm: 0, linger: false }, LOSE]);
    assert_eq!((phases(&world), mdevs(&world)), (vec![Phase::Prepared], 1));
    all(&mut world, &[H::Advance { ms: 700_000 }]);
    assert_eq!((phases(&world), mdevs(&world)), (vec![], 0));
    world.finish().unwrap();
}

#[test]
fn libvirt_s_word_makes_it_certain() {
    // Without the claims the XML alone says whose it is.
    for claims in [false, true] {
        for begin in [attach(0), declare(0)] {
            let mut world = after(&[begin]);
            all(&mut world, &run(0));
            all(&mut world, &[H::LoseRecord { claims }]);
            all(&mut world, &libvirt_tells());
            assert_eq!(
                (phases(&world), owners(&world)),
                (vec![Phase::Attached], vec![owner(&world, 0)])
            );
            assert_eq!(world.driver.machine.durable().claims.len(), 1);
            world.driver.restart().unwrap();
            world.driver.drain().unwrap();
            assert_eq!(phases(&world), [Phase::Attached], "it is on record");
            all(&mut world, &stop(0));
            assert_eq!((phases(&world), mdevs(&world)), (vec![], 0));
            world.finish().unwrap();
        }
    }
}

/// Two claims that share a home VF: which of them has it cannot be told from the device.
fn shared(runs_with_it: u8) -> World {
    let pooled = |vm| match attach(vm) {
        H::Attach { vm, name, count, reserve, .. } => {
            let profile = "amd-74a1-vf4".to_owned();
            H::Attach { vm, name, profile, count, pool: true, reserve }
        }
        other => other,
    };
    // Four VFs for five pooled claims.
    let mut world = after(&[0, 1, 2, 3, 4].map(pooled));
    let home = |vm: u8| world.guests[&vm].domain().devices[0].source;
    assert_eq!(home(0), home(4), "the fifth shares the first's");
    all(&mut world, &run(runs_with_it));
    world
}

#[test]
fn a_shared_home_is_nobody_else_s_whoever_was_guessed() {
    for (has, asks) in [(0, 4), (4, 0)] {
        let mut world = shared(has);
        all(&mut world, &[LOSE]);
        all(&mut world, &run(asks));
        assert!(!runs(&world, asks), "{asks}: {:?}", world.refusals);
        all(&mut world, &libvirt_tells());
        let run = world.driver.machine.runtime();
        let slice: SliceId = world.guests[&has].domain().devices[0].source.slice();
        let found = &run.assignments[&slice];
        assert_eq!((found.phase, &found.claim.owner), (Phase::Attached, &owner(&world, has)));
        assert!(run.lost.as_ref().unwrap().guessed.is_empty());
        all(&mut world, &stop(has));
        assert_eq!(phases(&world), []);
        world.finish().unwrap();
    }
}

#[test]
fn a_device_without_a_claim_is_known_again() {
    let vf: SliceId = world_vf();
    let mut world = after(&[H::Plain { vm: 1, slice: vf, managed: true }]);
    all(&mut world, &run(1));
    assert!(runs(&world, 1));
    all(&mut world, &[LOSE]);
    assert!(world.driver.machine.runtime().foreign.is_empty());
    all(&mut world, &libvirt_tells());
    assert_eq!(world.driver.machine.runtime().foreign[&vf].owner, owner(&world, 1));
    all(&mut world, &stop(1));
    assert!(world.driver.machine.runtime().foreign.is_empty());
    world.finish().unwrap();
}

#[test]
fn a_plain_device_is_that_of_the_vm_that_runs_with_it() {
    let vf = world_vf();
    let plain = |vm| H::Plain { vm, slice: vf, managed: true };
    let mut world = after(&[plain(1), plain(2)]);
    all(&mut world, &run(1));
    all(&mut world, &run(2));
    assert!(runs(&world, 1) && !runs(&world, 2), "libvirt refuses it");
    assert_eq!(world.driver.machine.runtime().foreign[&vf].owner, owner(&world, 1));
    all(&mut world, &stop(1));
    all(&mut world, &run(2));
    assert!(runs(&world, 2));
    assert_eq!(world.driver.machine.runtime().foreign[&vf].owner, owner(&world, 2));
    // libvirt forgot to tell of its end.
    all(
        &mut world,
        &[H::LibvirtDown, H::Stop { vm: 2, linger: false }, H::LibvirtUp { tells: false }],
    );
    all(&mut world, &run(1));
    assert_eq!(world.driver.machine.runtime().foreign[&vf].owner, owner(&world, 1));
    all(&mut world, &stop(1));
    world.finish().unwrap();
}

fn world_vf() -> SliceId {
    SliceId::Vf("0000:0c:02.1".parse().unwrap())
}

#[test]
fn an_end_that_is_told_after_the_loss_gives_back_what_an_ended_claim_has() {
    let mut world = after(&[declare(0)]);
    all(&mut world, &run(0));
    let name = "gpu0".parse().unwrap();
    // Until its slice is back, an ended claim still tells whose it is.
    all(&mut world, &[H::Detach { vm: 0, name, force: true }, LOSE]);
    assert_eq!((phases(&world), mdevs(&world)), (vec![Phase::Prepared], 1));
    all(&mut world, &stop(0));
    assert_eq!((phases(&world), mdevs(&world)), (vec![], 0));
    world.finish().unwrap();
}

/// Made for a start that the former daemon allowed, and out of sight when the next one looked.
#[test]
fn what_was_made_for_a_start_is_taken_back_when_it_is_seen_again() {
    for again in [false, true] {
        let name = "gpu0".parse().unwrap();
        let profile = "nvidia-l40s-4q".to_owned();
        let attach = H::Attach { vm: 3, name, profile, count: 2, pool: false, reserve: false };
        let mut world = after(&[attach, H::Start { vm: 3 }]);
        assert_eq!(phases(&world), [Phase::Prepared; 2]);
        let path = "*/device".to_owned();
        let fault = Fault::Reads { path, as_: Content::NotUtf8 };
        // Its hook asks again, and is refused.
        all(&mut world, &[H::Fault { fault }, LOSE]);
        assert_eq!(phases(&world), []);
        all(&mut world, &[H::Next { vm: 3 }, H::Next { vm: 3 }, H::ClearFaults]);
        all(&mut world, &[H::Advance { ms: 10_000 }]);
        assert_eq!(phases(&world), [Phase::Prepared; 2], "they are its own");
        if again {
            all(&mut world, &run(3));
            assert!(runs(&world, 3), "{:?}", world.refusals);
            all(&mut world, &[H::Advance { ms: 60_000 }]);
            assert_eq!(phases(&world), [Phase::Attached; 2]);
        } else {
            all(&mut world, &[H::Advance { ms: 60_000 }]);
            assert_eq!(phases(&world), [], "it does not run");
        }
        world.finish().unwrap();
    }
}

/// The claim alone tells whose a VF is that cannot be read yet.
#[test]
fn a_claim_names_what_it_had_until_that_was_looked_at() {
    let name = || "gpu0".parse().unwrap();
    let profile = "nvidia-l40s-4q".to_owned();
    let (pool, reserve) = (false, false);
    for change in [
        H::Attach { vm: 0, name: name(), profile, count: 1, pool, reserve },
        H::Detach { vm: 0, name: name(), force: true },
        H::Undefine { vm: 0 },
    ] {
        let mut world = after(&[attach(0)]);
        all(&mut world, &run(0));
        let path = "*/device".to_owned();
        let fault = Fault::Reads { path, as_: Content::NotUtf8 };
        all(&mut world, &[H::Fault { fault }, LOSE, change.clone(), change, H::ClearFaults]);
        all(&mut world, &[H::Advance { ms: 10_000 }]);
        assert_eq!(phases(&world), [Phase::Prepared], "it is found again");
        // Nobody tells of its end.
        all(&mut world, &[H::LibvirtDown, H::Stop { vm: 0, linger: false }]);
        all(&mut world, &[H::Advance { ms: 700_000 }]);
        assert_eq!(phases(&world), []);
        world.finish().unwrap();
    }
}

/// A hook that asks before the daemon has looked at the host.
#[test]
fn what_was_made_for_a_start_serves_the_same_start_after_the_loss() {
    for begin in [attach(0), declare(0)] {
        let mut world = after(&[begin, H::Start { vm: 0 }]);
        assert_eq!(phases(&world), [Phase::Prepared]);
        (world.driver.disk.runtime, world.driver.lost_record) = (None, true);
        world.driver.restart().unwrap();
        let domain = world.guests[&0].domain().read().clone();
        let call = HookCall::new(HookOperation::Prepare, domain);
        let request = world.driver.hook_before_look(call).unwrap();
        world.driver.deaths = 0;
        world.guests.get_mut(&0).unwrap().state = State::Asking(request);
        all(&mut world, &[H::Next { vm: 0 }, H::Next { vm: 0 }]);
        assert!(runs(&world, 0), "{:?}", world.refusals);
        assert_eq!(phases(&world), [Phase::Attached]);
        world.finish().unwrap();
    }
}

/// What somebody else makes after the loss under the very name that a claim's device is to have, while there is something
/// that cannot be read.
#[test]
fn an_mdev_that_was_made_since_is_not_the_claim_s() {
    for restart in [false, true] {
        let mut world = after(&[declare(0), H::Seen { vm: 0 }]);
        let HostDeviceSource::Mdev(uuid) = world.guests[&0].domain().devices[0].source else {
            panic!()
        };
        let fault = Fault::Reads { path: "*/device".to_owned(), as_: Content::NotUtf8 };
        all(&mut world, &[H::Fault { fault }, LOSE]);
        assert!(world.driver.machine.runtime().lost.as_ref().is_some_and(|lost| !lost.looked));
        let (parent, type_id) = ("0000:41:00.0".parse().unwrap(), "nvidia-558".parse().unwrap());
        all(&mut world, &[H::ForeignMdev { parent, type_id, uuid }]);
        if restart {
            world.driver.restart().unwrap();
            world.driver.advance(1000).unwrap();
        }
        assert_eq!((phases(&world), mdevs(&world)), (vec![], 1));
        all(&mut world, &run(0));
        assert!(!runs(&world, 0) && world.refusals.contains_key(&Code::Foreign));
        all(&mut world, &[H::ClearFaults, H::Advance { ms: 700_000 }]);
        assert_eq!((phases(&world), mdevs(&world)), (vec![], 1), "it is left alone");
        all(&mut world, &[H::ForeignMdevGone { uuid }]);
        all(&mut world, &run(0));
        assert!(runs(&world, 0), "{:?}", world.refusals);
        world.finish().unwrap();
    }
}

#[test]
fn an_mdev_that_was_there_all_the_time_is_its_own_when_it_can_be_read() {
    for of_all in [false, true] {
        let mut world = after(&[declare(0), H::Seen { vm: 0 }]);
        all(&mut world, &run(0));
        let HostDeviceSource::Mdev(uuid) = world.guests[&0].domain().devices[0].source else {
            panic!()
        };
        let list = "/sys/bus/mdev/devices";
        let path = if of_all { list.to_owned() } else { format!("{list}/{uuid}/mdev_type") };
        let fault = Fault::Read { path, nth: 1, times: u32::MAX, errno: Errno::EIO };
        all(&mut world, &[H::Fault { fault }, LOSE]);
        assert_eq!(phases(&world), []);
        // For so long that nobody waits for it any more, and with another daemon.
        all(&mut world, &[H::Advance { ms: 200_000 }]);
        world.driver.restart().unwrap();
        all(&mut world, &[H::Advance { ms: 200_000 }, H::ClearFaults, H::Lists]);
        world.driver.wake_up().unwrap();
        assert_eq!(phases(&world), [Phase::Prepared]);
        is_kept_by_who_runs_and_given_back(world);
    }
}

#[test]
fn an_mdev_of_another_profile_was_never_the_claim_s() {
    let mut world = after(&[declare(0), H::Seen { vm: 0 }]);
    let HostDeviceSource::Mdev(uuid) = world.guests[&0].domain().devices[0].source else {
        panic!()
    };
    let (parent, type_id) = ("0000:41:00.0".parse().unwrap(), "nvidia-559".parse().unwrap());
    all(&mut world, &[H::ForeignMdev { parent, type_id, uuid }]);
    (world.driver.disk.runtime, world.driver.lost_record) = (None, true);
    world.driver.restart().unwrap();
    world.driver.deaths = 0;
    all(&mut world, &[H::Advance { ms: 700_000 }]);
    assert_eq!((phases(&world), mdevs(&world)), (vec![], 1));
    world.finish().unwrap();
}

/// A record of a version that did not tell which mdevs could not be read when it looked.
#[test]
fn an_upgrade_after_a_loss_takes_no_mdev_that_somebody_else_has_made_since() {
    let (name, profile): (ClaimName, _) = ("gpu0".parse().unwrap(), "nvidia-a40-4q".to_owned());
    let attach =
        H::Attach { vm: 0, name: name.clone(), profile, count: 1, pool: false, reserve: false };
    let mut world = after(&[attach, H::LoseRecord { claims: false }, H::Advance { ms: 1000 }]);
    let uuid = MdevUuid::for_claim(world.guests[&0].domain().uuid, &name, 0);
    let parent = "0000:41:00.0".parse().unwrap();
    let type_id = "nvidia-558".parse().unwrap();
    all(&mut world, &[H::ForeignMdev { parent, type_id, uuid }]);
    assert!(world.driver.foreign_mdevs.contains(&SliceId::Mdev(uuid)));
    let record = world.driver.disk.runtime.clone().unwrap();
    let mut record: serde_json::Value = serde_json::from_str(&record).unwrap();
    let hidden = record["lost"].as_object_mut().unwrap().remove("hidden");
    assert_eq!((hidden, &record["lost"]["looked"]), (Some(json!([])), &json!(true)));
    world.driver.disk.runtime = Some(record.to_string());
    world.driver.restart().unwrap();
    all(&mut world, &[H::Advance { ms: 700_000 }]);
    assert_eq!(phases(&world), []);
    assert!(world.driver.foreign_mdevs.contains(&SliceId::Mdev(uuid)), "it is left alone");
    all(&mut world, &run(0));
    let refused: Vec<&str> = world.refusals.keys().map(|code| code.as_str()).collect();
    assert_eq!((runs(&world, 0), refused), (false, vec!["foreign"]));
    world.finish().unwrap();
}
