//! Stories of slices that have to be proven clean.

use crate::directed::{IGB, after, all, attach, has_igbvf, host_s_driver_takes, run, runs, stop};
use crate::happening::Happening as H;
use crate::world::{State, World};
use gpuslice_core::errno::Errno;
use gpuslice_core::ids::SliceId;
use gpuslice_core::port::HostWrite as _;
use gpuslice_core::refusal::Code;
use gpuslice_core::request::{Answer, Command, SliceRow};
use gpuslice_sim::Fault;
use uuid::Uuid;

const CARD: &str = "0000:0c:00.0";
const REQUIRED: &str = "[[gpu]]\nmatch = { address = \"0000:0c:00.0\" }\n\
                        layout = { vfs = \"all\", wipe = \"required\" }\n";
const USUAL: &str = "[[gpu]]\nmatch = { address = \"0000:0c:00.0\" }\nlayout = { vfs = \"all\" }\n";

fn world(config: &str, happenings: &[H]) -> World {
    let mut world = after(&[]);
    config.clone_into(&mut world.driver.config);
    all(&mut world, &[H::Apply]);
    all(&mut world, happenings);
    world
}

fn no_reset(times: u32) -> H {
    let (path, errno) = ("*/reset".to_owned(), Errno::EIO);
    H::Fault { fault: Fault::Write { path, nth: 1, times, errno } }
}

fn slices(world: &mut World) -> Vec<SliceRow> {
    match world.order(Command::ListSlices).unwrap() {
        Some(Ok(Answer::Slices { rows })) => {
            rows.into_iter().filter(|row| row.parent.to_string() == CARD).collect()
        }
        other => panic!("{other:?}"),
    }
}

/// Slices that are not clean: which, its state and why.
fn dirty(world: &mut World) -> Vec<(SliceId, String, String)> {
    let rows = slices(world).into_iter();
    rows.filter_map(|row| Some((row.slice, row.state, row.dirty?))).collect()
}

fn free(world: &mut World) -> u32 {
    let name = "amd-74a1-vf8";
    match world.order(Command::ListProfiles).unwrap() {
        Some(Ok(Answer::Profiles { rows })) => {
            rows.into_iter().find(|row| row.profile.as_str() == name).unwrap().free
        }
        other => panic!("{other:?}"),
    }
}

fn uncordon(world: &mut World) {
    world.order(Command::Uncordon { parent: CARD.parse().unwrap() }).unwrap();
}

fn again(world: &mut World) {
    world.driver.restart().unwrap();
    world.driver.drain().unwrap();
}

#[test]
fn a_slice_is_reset_before_the_next_vm_gets_it() {
    let mut world = world(REQUIRED, &[attach(0)]);
    assert_eq!(dirty(&mut world), [], "what was there before was reset");
    let all_free = free(&mut world);
    all(&mut world, &run(0));
    let vf = world.driver.used.keys().copied().collect::<Vec<_>>();
    assert_eq!(vf.len(), 1);
    all(&mut world, &stop(0));
    assert!(world.driver.used.is_empty(), "it was reset");
    assert_eq!((dirty(&mut world), free(&mut world)), (vec![], all_free));
    world.finish().unwrap();
}

#[test]
fn one_that_cannot_be_reset_is_held_back() {
    let mut world = world(REQUIRED, &[attach(0)]);
    let all_free = free(&mut world);
    all(&mut world, &run(0));
    all(&mut world, &[no_reset(u32::MAX)]);
    all(&mut world, &stop(0));
    let [(slice, state, why)] = &dirty(&mut world)[..] else { panic!("not one") };
    assert_eq!(state, "dirty");
    assert!(why.contains("/reset") && why.contains("EIO"), "{why}");
    assert_eq!(free(&mut world), all_free - 1, "neither free nor owned");
    assert!(world.driver.machine.runtime().assignments.is_empty());
    // Not even its own VM gets it, and no other is sent there.
    all(&mut world, &[H::Start { vm: 0 }, H::Next { vm: 0 }, H::Next { vm: 0 }]);
    assert_eq!(world.refusals.keys().copied().collect::<Vec<_>>(), [Code::Dirty]);
    all(&mut world, &[H::Plain { vm: 1, slice: *slice, managed: true }]);
    all(&mut world, &[H::Start { vm: 1 }, H::Next { vm: 1 }, H::Next { vm: 1 }]);
    assert_eq!(world.refusals[&Code::Dirty], 2);
    all(&mut world, &[attach(2)]);
    assert_ne!(world.guests[&2].domain().devices[0].source.slice(), *slice);
    // A restart tries again, in vain, and forgets nothing.
    again(&mut world);
    assert_eq!(dirty(&mut world).len(), 1);
    uncordon(&mut world);
    assert_eq!(dirty(&mut world).len(), 1);
    all(&mut world, &[H::ClearFaults]);
    uncordon(&mut world);
    assert_eq!((dirty(&mut world), free(&mut world)), (vec![], all_free));
    all(&mut world, &run(0));
    assert!(runs(&world, 0));
    all(&mut world, &stop(0));
    world.finish().unwrap();
}

#[test]
fn a_reset_that_clears_nothing_proves_nothing() {
    let mut world = world(REQUIRED, &[attach(0)]);
    let vfs = crate::invariants::vfs_of(&world.driver.kernel, CARD.parse().unwrap());
    let method = |world: &mut World, name: &str| {
        for vf in &vfs {
            let file = format!("/sys/bus/pci/devices/{vf}/reset_method");
            world.driver.kernel.write(&file, name.as_bytes()).unwrap();
        }
    };
    for (left, said) in [("bus", "reset_method bus"), ("\n", "echo default > /sys/")] {
        method(&mut world, left);
        all(&mut world, &run(0));
        all(&mut world, &stop(0));
        let [(_, state, why)] = &dirty(&mut world)[..] else { panic!("not one") };
        assert_eq!(state, "dirty");
        assert!(why.contains(said), "{why}");
        method(&mut world, "default");
        uncordon(&mut world);
        assert_eq!(dirty(&mut world), []);
    }
    world.finish().unwrap();
}

#[test]
fn made_anew_or_after_a_reboot_it_is_clean() {
    for how in [
        vec![
            H::Unplug { address: CARD.parse().unwrap() },
            H::Plug { address: CARD.parse().unwrap() },
        ],
        vec![H::Reboot],
    ] {
        let mut world = world(REQUIRED, &[attach(0)]);
        all(&mut world, &run(0));
        all(&mut world, &[no_reset(1)]);
        all(&mut world, &stop(0));
        assert_eq!(dirty(&mut world).len(), 1);
        all(&mut world, &how);
        all(&mut world, &[H::Advance { ms: 61_000 }]);
        assert_eq!(dirty(&mut world), []);
        assert!(!slices(&mut world).is_empty());
    }
}

#[test]
fn without_being_asked_it_is_shown_and_given_again() {
    let mut world = world(USUAL, &[attach(0)]);
    all(&mut world, &run(0));
    all(&mut world, &stop(0));
    assert_eq!(world.driver.used.len(), 1, "nothing is reset by us");
    let vf = *world.driver.used.keys().next().unwrap();
    let line = format!("vfio-pci {vf}: not ready 65535ms after FLR; giving up");
    world.driver.config = format!("on-error = \"warn\"\n{USUAL}");
    all(&mut world, &[H::Apply, H::Say { line: line.clone() }]);
    let [(slice, state, why)] = &dirty(&mut world)[..] else { panic!("not one") };
    assert_eq!((*slice, state.as_str()), (SliceId::Vf(vf), "free"));
    assert!(why.ends_with(&line), "{why}");
    all(&mut world, &run(0));
    assert!(runs(&world, 0));
    all(&mut world, &stop(0));
    // From the moment it is asked for, it is proven.
    REQUIRED.clone_into(&mut world.driver.config);
    all(&mut world, &[H::Apply]);
    assert_eq!(dirty(&mut world), []);
    assert!(world.driver.used.is_empty());
}

#[test]
fn whoever_had_a_slice_without_a_claim_leaves_it_dirty_too() {
    let mut world = world(REQUIRED, &[]);
    let slice = slices(&mut world)[0].slice;
    all(&mut world, &[H::Plain { vm: 1, slice, managed: true }]);
    all(&mut world, &run(1));
    assert!(runs(&world, 1));
    all(&mut world, &[no_reset(1)]);
    all(&mut world, &stop(1));
    assert_eq!(dirty(&mut world).len(), 1);
    uncordon(&mut world);
    assert_eq!(dirty(&mut world), []);
}

/// libvirt is told of the stop's record before the reset has begun, and may start a domain of the same VF at once.
#[test]
fn a_start_waits_for_a_reset_and_no_longer() {
    let with_slow_reset = |own: bool| {
        let mut world = world(REQUIRED, &[attach(0)]);
        let slice = world.guests[&0].domain().devices[0].source.slice();
        let had = if own { 1 } else { 0 };
        all(&mut world, &[H::Plain { vm: 1, slice, managed: true }]);
        all(&mut world, &run(1));
        assert!(runs(&world, 1), "{:?}", world.refusals);
        all(&mut world, &[H::Lazy { on: true }]);
        all(&mut world, &[H::Stop { vm: 1, linger: false }, H::Next { vm: 1 }]);
        all(&mut world, &[H::Start { vm: had }, H::Advance { ms: 5_000 }, H::Next { vm: had }]);
        assert!(matches!(world.guests[&had].state, State::Asking(_)), "{:?}", world.refusals);
        (world, had)
    };
    for own in [true, false] {
        let (mut world, vm) = with_slow_reset(own);
        all(&mut world, &[H::Lazy { on: false }, H::Next { vm }, H::Next { vm }]);
        assert!(runs(&world, vm), "{:?}", world.refusals);
        assert_eq!(dirty(&mut world), []);
        // One that fails is no reason to start.
        let (mut world, vm) = with_slow_reset(own);
        all(&mut world, &[no_reset(u32::MAX), H::Lazy { on: false }, H::Next { vm }]);
        assert_eq!(world.refusals.keys().copied().collect::<Vec<_>>(), [Code::Dirty]);
        // Nor is one that does not end.
        let (mut world, vm) = with_slow_reset(own);
        all(&mut world, &[H::Advance { ms: 10_000 }, H::Next { vm }]);
        assert_eq!(world.refusals.keys().copied().collect::<Vec<_>>(), [Code::Dirty]);
    }
    // The reset of another VF is nothing to wait for.
    let mut world = world(REQUIRED, &[]);
    let both: Vec<SliceId> = slices(&mut world).iter().take(2).map(|row| row.slice).collect();
    for (vm, slice) in [(1, both[0]), (2, both[1])] {
        all(&mut world, &[H::Plain { vm, slice, managed: true }]);
        all(&mut world, &run(vm));
    }
    all(&mut world, &[H::Lazy { on: true }]);
    all(&mut world, &stop(1));
    all(&mut world, &[H::Advance { ms: 15_000 }]);
    all(&mut world, &stop(2));
    all(&mut world, &[H::Start { vm: 1 }, H::Next { vm: 1 }]);
    assert_eq!(world.refusals.keys().copied().collect::<Vec<_>>(), [Code::Dirty]);
    all(&mut world, &[H::Start { vm: 2 }, H::Next { vm: 2 }]);
    assert!(matches!(world.guests[&2].state, State::Asking(_)), "{:?}", world.refusals);
}

#[test]
fn a_start_waits_for_the_vm_before_it_to_let_go_and_no_longer() {
    let lingers = || {
        let mut world = world(REQUIRED, &[]);
        let slice = slices(&mut world)[0].slice;
        all(&mut world, &[H::Plain { vm: 1, slice, managed: false }]);
        let vf = slice.pci().unwrap();
        crate::world::bind_by_hand(&mut world.driver.kernel, vf, "vfio-pci");
        all(&mut world, &run(1));
        assert!(runs(&world, 1), "{:?}", world.refusals);
        all(&mut world, &[H::Stop { vm: 1, linger: true }, H::Next { vm: 1 }]);
        all(&mut world, &[H::Start { vm: 1 }, H::Advance { ms: 5_000 }, H::Next { vm: 1 }]);
        assert!(matches!(world.guests[&1].state, State::Asking(_)), "{:?}", world.refusals);
        world
    };
    let mut world = lingers();
    all(&mut world, &[H::Gone, H::Next { vm: 1 }, H::Next { vm: 1 }]);
    assert!(runs(&world, 1), "{:?}", world.refusals);
    assert_eq!(dirty(&mut world), []);
    let mut world = lingers();
    all(&mut world, &[H::Advance { ms: 10_000 }, H::Next { vm: 1 }]);
    assert_eq!(world.refusals.keys().copied().collect::<Vec<_>>(), [Code::Held]);
}

/// Nothing wakes the daemon on account of what is done.
#[test]
fn a_reset_that_is_over_is_timed_no_longer() {
    for fails in [false, true] {
        let mut world = world(REQUIRED, &[]);
        let slice = slices(&mut world)[0].slice;
        all(&mut world, &[H::Plain { vm: 1, slice, managed: true }]);
        all(&mut world, &run(1));
        if fails {
            all(&mut world, &[no_reset(u32::MAX)]);
        }
        all(&mut world, &stop(1));
        assert_eq!(dirty(&mut world).len(), usize::from(fails));
        let handled = world.driver.handled;
        all(&mut world, &[H::Advance { ms: 20_000 }]);
        assert_eq!(world.driver.handled, handled);
    }
}

/// Somebody lists slices, for which holders are looked for.
fn looked(world: &mut World) {
    world.order(Command::ListSlices).unwrap();
}

/// A VM that nobody told of, with a VF that a claim lives on.
fn opened() -> (World, SliceId) {
    let mut world = world(REQUIRED, &[attach(0)]);
    let slice = world.guests[&0].domain().devices[0].source.slice();
    let vf = slice.pci().unwrap();
    all(&mut world, &[H::ForeignOpen { vf }]);
    world.driver.used.insert(vf, Uuid::nil());
    (world, slice)
}

fn untold() -> (World, SliceId) {
    let (mut world, slice) = opened();
    looked(&mut world);
    (world, slice)
}

#[test]
fn whoever_opens_a_slice_without_a_word_leaves_it_dirty_too() {
    let (mut world, slice) = untold();
    let [(held, state, why)] = &dirty(&mut world)[..] else { panic!("not one") };
    assert_eq!((*held, state.as_str()), (slice, "foreign"));
    assert!(why.contains("is held by dpdk"), "{why}");
    all(&mut world, &[H::Start { vm: 0 }, H::Next { vm: 0 }, H::Next { vm: 0 }]);
    assert_eq!(world.refusals.keys().copied().collect::<Vec<_>>(), [Code::Held]);
    all(&mut world, &[H::ForeignClose]);
    assert_eq!((dirty(&mut world), world.driver.used.len()), (vec![], 0), "it was reset");
    // Also by a daemon that did not see it open.
    let (mut world, _) = untold();
    again(&mut world);
    assert_eq!(dirty(&mut world).len(), 1);
    all(&mut world, &[H::ForeignClose]);
    assert_eq!((dirty(&mut world), world.driver.used.len()), (vec![], 0));
    // It lets go and lives on.
    let (mut world, slice) = untold();
    let pid = world.driver.kernel.holders(slice)[0];
    world.driver.kernel.close(pid, slice);
    looked(&mut world);
    assert_eq!((dirty(&mut world), world.driver.used.len()), (vec![], 0));
    // And a start that finds it before anybody has listed slices.
    let (mut world, _) = opened();
    all(&mut world, &[H::Start { vm: 0 }, H::Next { vm: 0 }, H::Next { vm: 0 }]);
    assert_eq!(world.refusals.keys().copied().collect::<Vec<_>>(), [Code::Held]);
    all(&mut world, &[H::ForeignClose]);
    assert_eq!((dirty(&mut world), world.driver.used.len()), (vec![], 0));
}

/// Whoever has a slice by a claim, or told the hook, is seen to hold it too.
#[test]
fn what_a_hook_told_of_is_reset_once() {
    let resets = |looks: bool| {
        let mut world = world(REQUIRED, &[]);
        let slice = slices(&mut world)[0].slice;
        all(&mut world, &[H::Plain { vm: 1, slice, managed: true }]);
        all(&mut world, &run(1));
        if looks {
            looked(&mut world);
            assert_eq!(dirty(&mut world), []);
        }
        let before = world.driver.executed;
        all(&mut world, &stop(1));
        if looks {
            looked(&mut world);
        }
        all(&mut world, &[H::Advance { ms: 60_000 }]);
        world.driver.executed - before
    };
    assert_eq!((resets(false), resets(true)), (1, 1));
}

#[test]
fn a_lost_record_leaves_nothing_to_be_believed() {
    let mut world = world(REQUIRED, &[attach(0)]);
    all(&mut world, &run(0));
    all(&mut world, &[no_reset(1)]);
    all(&mut world, &stop(0));
    assert_eq!(dirty(&mut world).len(), 1);
    all(&mut world, &[H::LoseRecord { claims: false }]);
    assert!(world.driver.used.is_empty(), "all were reset");
    assert_eq!(dirty(&mut world), []);
}

/// A reset would take from under the host's driver what it has in the VF.
#[test]
fn a_vf_that_a_host_s_driver_has_is_reset_when_it_lets_go() {
    let of_igb = |config: &str| config.replace(CARD, IGB.0);
    let mut world = world(&of_igb(USUAL), &[]);
    let vf = *world.driver.machine.observation().vfs.keys().next().unwrap();
    all(&mut world, &host_s_driver_takes(vf));
    assert!(has_igbvf(&world, vf));
    world.driver.config = of_igb(REQUIRED);
    all(&mut world, &[H::Apply]);
    let dirt = |world: &World| {
        let dirty = world.driver.machine.runtime().dirty.iter();
        dirty.map(|(slice, dirt)| (*slice, dirt.why.clone())).collect::<Vec<_>>()
    };
    let why = format!("{vf} is used by the host's driver igbvf");
    assert_eq!(dirt(&world), [(SliceId::Vf(vf), why)]);
    all(&mut world, &[H::Plain { vm: 1, slice: SliceId::Vf(vf), managed: true }]);
    all(&mut world, &run(1));
    assert_eq!(world.refusals.keys().copied().collect::<Vec<_>>(), [Code::Dirty]);
    let let_go = "/sys/bus/pci/drivers/igbvf/unbind".to_owned();
    all(&mut world, &[H::Other { file: let_go, data: vf.to_string() }]);
    assert_eq!(dirt(&world), []);
}

/// A watch sees none of those that cannot be looked into, and tells at once that nobody is there.
#[test]
fn what_nobody_in_sight_has_open_is_cleaned_after_a_pause() {
    let mut world = world(REQUIRED, &[attach(0)]);
    all(&mut world, &run(0));
    let slice = slices(&mut world).last().unwrap().slice;
    all(&mut world, &[H::Plain { vm: 1, slice, managed: true }]);
    all(&mut world, &run(1));
    assert!(runs(&world, 0) && runs(&world, 1));
    let (path, errno) = ("/proc/*/fd".to_owned(), Errno::EACCES);
    let fault = Fault::Read { path, nth: 1, times: u32::MAX, errno };
    all(&mut world, &[H::Fault { fault }]);
    all(&mut world, &stop(1));
    all(&mut world, &[H::Advance { ms: 100_000 }]);
    let [(left, state, _)] = &dirty(&mut world)[..] else { panic!("not one") };
    assert_eq!((*left, state.as_str()), (slice, "dirty"));
    all(&mut world, &[H::ClearFaults, H::Advance { ms: 31_000 }]);
    assert_eq!(dirty(&mut world), []);
}
