//! Stories of starts that meet slices on their way back.

use crate::calls;
use crate::directed::{after, all, attach, declare, run, runs, stop};
use crate::happening::Happening as H;
use crate::libvirt::Xml;
use crate::world::World;
use gpuslice_core::domain::HostDeviceSource;
use gpuslice_core::errno::Errno;
use gpuslice_core::ids::SliceId;
use gpuslice_core::machine::HookAnswer;
use gpuslice_core::refusal::Refusal;
use gpuslice_hook_proto::Operation;
use gpuslice_sim::Fault;

fn last_refusal(world: &World) -> Refusal {
    let claims = world.driver.machine.durable().claims.values();
    claims.filter_map(|claim| claim.last_refusal.clone()).next_back().unwrap()
}

/// What libvirt is told of a saved image, or of a VM that migrates here, before its hook has waited in vain.
fn told_of(world: &mut World, operation: Operation, image: &Xml) -> HookAnswer {
    let request = world.ask(calls::told(operation, "-", image));
    all(world, &[H::Advance { ms: 19_000 }]);
    world.driver.told.remove(&request).unwrap()
}

fn refused(answer: HookAnswer) -> Refusal {
    match answer {
        HookAnswer::Refuse(why) => why,
        other => panic!("{other:?}"),
    }
}

/// Two of 4 GiB are all that the card can make, and removing takes some tries.
#[test]
fn a_start_that_finds_no_room_waits_for_what_is_being_taken_back() {
    let mut world = after(&[declare(0), declare(1), declare(2)]);
    for vm in [0, 1] {
        all(&mut world, &run(vm));
        assert!(runs(&world, vm), "{:?}", world.refusals);
    }
    let busy = Fault::Write { path: "*/remove".to_owned(), nth: 1, times: 4, errno: Errno::EBUSY };
    all(&mut world, &[H::Fault { fault: busy }]);
    all(&mut world, &stop(0));
    all(&mut world, &[H::Start { vm: 2 }]);
    assert!(world.refusals.is_empty(), "{:?}", world.refusals);
    all(&mut world, &[H::Advance { ms: 2000 }, H::Next { vm: 2 }, H::Next { vm: 2 }]);
    assert!(runs(&world, 2), "{:?}", world.refusals);
    // Nothing is on its way back for this one.
    all(&mut world, &[H::Start { vm: 0 }, H::Next { vm: 0 }]);
    let codes: Vec<&str> = world.refusals.keys().map(|code| code.as_str()).collect();
    assert_eq!((runs(&world, 0), codes), (false, vec!["no-capacity"]));
    world.finish().unwrap();
}

/// One picked it in a dialog while the other still had it.
#[test]
fn a_start_with_a_plain_vf_waits_for_it_and_is_refused_when_somebody_keeps_it() {
    let mut world = after(&[attach(0)]);
    all(&mut world, &run(0));
    let HostDeviceSource::Pci(vf) = world.guests[&0].domain().devices[0].source else { panic!() };
    all(&mut world, &[H::Plain { vm: 1, slice: SliceId::Vf(vf), managed: true }]);
    all(&mut world, &[H::Stop { vm: 0, linger: true }, H::Next { vm: 0 }, H::Start { vm: 1 }]);
    assert!(world.refusals.is_empty(), "{:?}", world.refusals);
    all(&mut world, &[H::Advance { ms: 20_000 }, H::Next { vm: 1 }]);
    let codes: Vec<&str> = world.refusals.keys().map(|code| code.as_str()).collect();
    assert_eq!((runs(&world, 1), codes), (false, vec!["taken"]));
    all(&mut world, &[H::Next { vm: 1 }, H::Gone, H::Advance { ms: 1000 }]);
    all(&mut world, &run(1));
    assert!(runs(&world, 1), "{:?}", world.refusals);
    world.finish().unwrap();
}

#[test]
fn a_vm_whose_own_slice_somebody_keeps_is_told_who() {
    for begin in [attach(0), declare(0)] {
        let mut world = after(&[begin]);
        all(&mut world, &run(0));
        all(&mut world, &[H::Stop { vm: 0, linger: true }, H::Next { vm: 0 }, H::Start { vm: 0 }]);
        all(&mut world, &[H::Advance { ms: 20_000 }, H::Next { vm: 0 }]);
        let why = last_refusal(&world);
        assert_eq!(why.code.as_str(), "held", "{why}");
        let hint = why.hint.as_deref().unwrap();
        assert!(hint.starts_with("shut down the VM of process "), "{hint}");
        all(&mut world, &[H::Next { vm: 0 }, H::Gone, H::Advance { ms: 1000 }]);
        all(&mut world, &run(0));
        assert!(runs(&world, 0), "{:?}", world.refusals);
        world.finish().unwrap();
    }
}

#[test]
fn a_vm_whose_own_slice_cannot_be_taken_back_is_told_why() {
    let mut world = after(&[declare(0)]);
    all(&mut world, &run(0));
    let path = "*/remove".to_owned();
    let busy = Fault::Write { path, nth: 1, times: u32::MAX, errno: Errno::EBUSY };
    all(&mut world, &[H::Fault { fault: busy }]);
    all(&mut world, &stop(0));
    all(&mut world, &[H::Start { vm: 0 }, H::Advance { ms: 20_000 }, H::Next { vm: 0 }]);
    let why = last_refusal(&world);
    assert_eq!(why.code.as_str(), "device-failed", "{why}");
    assert!(why.causes.iter().any(|cause| cause.contains("EBUSY")), "{why:?}");
    all(&mut world, &[H::Next { vm: 0 }, H::ClearFaults, H::Advance { ms: 60_000 }]);
    all(&mut world, &run(0));
    assert!(runs(&world, 0), "{:?}", world.refusals);
    world.finish().unwrap();
}

#[test]
fn who_comes_in_without_room_waits_for_what_is_being_taken_back() {
    for operation in [Operation::Restore, Operation::Migrate] {
        let mut world = after(&[declare(0), declare(1), declare(2)]);
        all(&mut world, &run(2));
        let image = world.guests[&2].domain().image();
        all(&mut world, &[H::Save { vm: 2 }, H::Next { vm: 2 }, H::Advance { ms: 11_000 }]);
        for vm in [0, 1] {
            all(&mut world, &run(vm));
            assert!(runs(&world, vm), "{:?}", world.refusals);
        }
        let (path, errno) = ("*/remove".to_owned(), Errno::EBUSY);
        all(&mut world, &[H::Fault { fault: Fault::Write { path, nth: 1, times: 4, errno } }]);
        all(&mut world, &stop(0));
        assert_eq!(told_of(&mut world, operation, &image), HookAnswer::Proceed);
        all(&mut world, &run(2));
        assert!(runs(&world, 2), "{:?}", world.refusals);
        // Nothing is on its way back for this one.
        let image = world.guests[&0].definition.image();
        let why = refused(told_of(&mut world, operation, &image));
        assert_eq!(why.code.as_str(), "no-capacity", "{why}");
        world.finish().unwrap();
    }
}

#[test]
fn who_comes_in_while_somebody_keeps_its_slice_is_told_who() {
    for begin in [attach(0), declare(0)] {
        let mut world = after(&[begin]);
        all(&mut world, &run(0));
        let image = world.guests[&0].domain().image();
        all(&mut world, &[H::Stop { vm: 0, linger: true }, H::Next { vm: 0 }]);
        for operation in [Operation::Restore, Operation::Migrate] {
            let why = refused(told_of(&mut world, operation, &image));
            assert_eq!(why.code.as_str(), "held", "{why}");
            let hint = why.hint.as_deref().unwrap();
            assert!(hint.starts_with("shut down the VM of process "), "{hint}");
        }
        all(&mut world, &[H::Gone, H::Advance { ms: 1000 }]);
        assert_eq!(told_of(&mut world, Operation::Restore, &image), HookAnswer::Proceed);
        world.finish().unwrap();
    }
}

#[test]
fn who_comes_in_while_its_slice_cannot_be_taken_back_is_told_why() {
    let mut world = after(&[declare(0)]);
    all(&mut world, &run(0));
    let image = world.guests[&0].domain().image();
    let (path, errno) = ("*/remove".to_owned(), Errno::EBUSY);
    all(&mut world, &[H::Fault { fault: Fault::Write { path, nth: 1, times: u32::MAX, errno } }]);
    all(&mut world, &stop(0));
    let why = refused(told_of(&mut world, Operation::Restore, &image));
    assert_eq!(why.code.as_str(), "device-failed", "{why}");
    assert!(why.causes.iter().any(|cause| cause.contains("EBUSY")), "{why:?}");
    all(&mut world, &[H::ClearFaults, H::Advance { ms: 60_000 }]);
    assert_eq!(told_of(&mut world, Operation::Restore, &image), HookAnswer::Proceed);
    world.finish().unwrap();
}
