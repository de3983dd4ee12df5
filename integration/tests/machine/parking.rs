//! Stories of mediated devices that stand ready to be picked in virt-manager's dialog.

use crate::another::{carried, own, pick};
use crate::directed::{after, all, declare, run, runs, stop};
use crate::domains::claim;
use crate::happening::Happening as H;
use crate::invariants::vfs_of;
use crate::world::World;
use gpuslice_core::errno::Errno;
use gpuslice_core::ids::{MdevUuid, SliceId};
use gpuslice_core::plan::Step;
use gpuslice_core::port::HostRead;
use gpuslice_core::request::{Answer, Command, PlanRow, ProfileRow, SliceRow};
use gpuslice_sim::Fault;

/// A card of 8 GiB without VFs: two of 4 GiB or one of 8, not both.
const CARD: &str = "0000:41:00.0";
/// Another, with a type of 4 GiB on each of its three VFs.
const ON_VFS: &str = "0000:81:00.0";

fn layouts(of_card: &str, on_vfs: &str) -> String {
    let mut text = String::new();
    for (address, layout) in [(CARD, of_card), (ON_VFS, on_vfs)] {
        if !layout.is_empty() {
            text += &format!(
                "[[gpu]]\nmatch = {{ address = \"{address}\" }}\nlayout = {{ {layout} }}\n"
            );
        }
    }
    text
}

fn apply(world: &mut World, of_card: &str, on_vfs: &str) -> PlanRow {
    world.driver.config = layouts(of_card, on_vfs);
    let request = world.driver.command(Command::Apply);
    world.driver.advance(1000).unwrap();
    match world.driver.answers.remove(&request) {
        Some(Ok(Answer::Plan(plan))) => plan,
        other => panic!("{other:?}"),
    }
}

/// One of 4 GiB is parked on the card.
fn with_one() -> (World, MdevUuid) {
    let mut world = after(&[]);
    let plan = apply(&mut world, "park = { nvidia-a40-4q = 1 }", "");
    assert!(plan.changed, "{plan:?}");
    let [one] = parked(&mut world).try_into().unwrap();
    (world, one)
}

fn mdevs(world: &World) -> Vec<MdevUuid> {
    let names = world.driver.kernel.list("/sys/bus/mdev/devices").unwrap_or_default();
    let mut uuids: Vec<MdevUuid> = names.iter().map(|name| name.parse().unwrap()).collect();
    uuids.sort();
    uuids
}

fn slices(world: &mut World) -> Vec<SliceRow> {
    match world.order(Command::ListSlices).unwrap() {
        Some(Ok(Answer::Slices { rows })) => rows,
        other => panic!("{other:?}"),
    }
}

/// What the list of slices calls so; all of it is there, and nothing else is that looks so.
fn parked(world: &mut World) -> Vec<MdevUuid> {
    let rows = slices(world).into_iter().filter(|row| row.state == "parked");
    let of = |row: SliceRow| match row.slice {
        SliceId::Mdev(uuid) => uuid,
        other => panic!("{other}"),
    };
    let mut parked: Vec<MdevUuid> = rows.map(of).collect();
    parked.sort();
    assert!(parked.iter().all(|uuid| mdevs(world).contains(uuid)));
    parked
}

fn profile(world: &mut World, name: &str) -> ProfileRow {
    match world.order(Command::ListProfiles).unwrap() {
        Some(Ok(Answer::Profiles { rows })) => {
            rows.into_iter().find(|row| row.profile.as_str() == name).unwrap()
        }
        other => panic!("{other:?}"),
    }
}

fn plan(world: &mut World) -> PlanRow {
    match world.order(Command::Plan).unwrap() {
        Some(Ok(Answer::Plan(plan))) => plan,
        other => panic!("{other:?}"),
    }
}

fn refusals(world: &World) -> Vec<&'static str> {
    world.refusals.keys().map(|code| code.as_str()).collect()
}

#[test]
fn what_a_layout_parks_is_there_and_stays() {
    let mut world = after(&[]);
    let free = profile(&mut world, "nvidia-a40-4q").free;
    let done =
        apply(&mut world, "park = { nvidia-a40-4q = 1 }", "vfs = 3, park = { nvidia-a40-4q = 2 }");
    assert!(done.steps.iter().any(|row| row.step.starts_with("create mdev ")), "{done:?}");
    let there = parked(&mut world);
    assert_eq!((there.len(), mdevs(&world)), (3, there.clone()));
    let row = profile(&mut world, "nvidia-a40-4q");
    let mut picks: Vec<SliceId> = row.pick.clone();
    picks.sort();
    assert_eq!(picks, there.iter().map(|uuid| SliceId::Mdev(*uuid)).collect::<Vec<_>>());
    // They take nothing from anybody; the other card has VFs now, and room for two.
    assert_eq!((free, row.free), (2, 4));
    assert_eq!(plan(&mut world), PlanRow::default());
    // Known by their names alone, by a daemon without a record, after a reboot and a hotplug.
    let executed = world.driver.executed;
    world.driver.disk.runtime = None;
    world.driver.restart().unwrap();
    world.driver.advance(1000).unwrap();
    assert_eq!((world.driver.executed, parked(&mut world)), (executed, there.clone()));
    all(&mut world, &[H::Reboot, H::Advance { ms: 61_000 }]);
    assert_eq!(parked(&mut world), there);
    let address = CARD.parse().unwrap();
    all(&mut world, &[H::Unplug { address }]);
    assert_eq!(parked(&mut world).len(), 2);
    all(&mut world, &[H::Plug { address }, H::Advance { ms: 5000 }]);
    assert_eq!(parked(&mut world), there);
    // Fewer, none, and of another profile.
    apply(&mut world, "park = { nvidia-a40-8q = 1 }", "vfs = 3, park = { nvidia-a40-4q = 1 }");
    let other = parked(&mut world);
    assert_eq!((other.len(), other.iter().filter(|uuid| there.contains(uuid)).count()), (2, 1));
    // Nobody is in the way of a layout that takes the VFs below them.
    let done = apply(&mut world, "", "vfs = 0");
    assert!(
        done.blockers.is_empty()
            && vfs_of(&world.driver.kernel, ON_VFS.parse().unwrap()).is_empty()
    );
    assert_eq!((parked(&mut world), mdevs(&world)), (Vec::new(), Vec::new()));
    world.finish().unwrap();
}

#[test]
fn a_start_that_needs_the_room_has_it_and_gives_it_back() {
    let (mut world, one) = with_one();
    all(&mut world, &[declare(0), declare(1)]);
    all(&mut world, &run(0));
    assert_eq!(parked(&mut world), [one], "there was room beside it");
    all(&mut world, &run(1));
    assert!(runs(&world, 0) && runs(&world, 1), "{:?}", world.refusals);
    assert_eq!(parked(&mut world), []);
    let now = plan(&mut world);
    assert_eq!((now.changed, now.unparked.len()), (false, 1), "{now:?}");
    assert!(now.unparked[0].message.starts_with("0 of 1 nvidia-a40-4q"), "{now:?}");
    all(&mut world, &stop(0));
    assert_eq!(parked(&mut world), [one]);
    // Another size needs the whole card.
    let big = "nvidia-a40-8q".to_owned();
    all(&mut world, &[H::Declare { vm: 2, name: "gpu0".parse().unwrap(), profile: big, count: 1 }]);
    all(&mut world, &[H::Seen { vm: 2 }]);
    all(&mut world, &run(2));
    let refused = world.driver.machine.durable().claims.values();
    let refused: Vec<String> =
        refused.filter_map(|c| Some(c.last_refusal.as_ref()?.one_line())).collect();
    let [why] = refused.try_into().unwrap();
    assert!(why.contains("wanted 1, none free, the room is held by vm1; try: "), "{why}");
    all(&mut world, &stop(1));
    world.refusals.clear();
    all(&mut world, &run(2));
    assert!(runs(&world, 2), "{:?}", world.refusals);
    assert_eq!(parked(&mut world), []);
    // One for which it would be in vain is refused, and the place comes back.
    all(&mut world, &stop(2));
    let none = H::Declare {
        vm: 3,
        name: "gpu0".parse().unwrap(),
        profile: "nvidia-a40-8q".to_owned(),
        count: 2,
    };
    all(&mut world, &[none]);
    all(&mut world, &run(3));
    assert_eq!((runs(&world, 3), refusals(&world)), (false, vec!["no-capacity"]));
    assert_eq!(parked(&mut world), [one]);
    world.finish().unwrap();
}

#[test]
fn who_picks_one_gets_another_and_it_stays_for_the_next() {
    let (mut world, one) = with_one();
    for vm in [0, 1] {
        all(&mut world, &[pick(vm, one), H::Seen { vm }]);
        assert_eq!(carried(&world, vm), own(&world, vm));
        assert_eq!(parked(&mut world), [one]);
        let before = world.guests[&vm].domain().clone();
        all(&mut world, &[H::Seen { vm }]);
        assert_eq!(*world.guests[&vm].domain(), before);
    }
    for vm in [0, 1] {
        all(&mut world, &run(vm));
        assert!(runs(&world, vm), "{:?}", world.refusals);
    }
    // It is picked while it is not there for want of room, as from a dialog that was open before.
    assert_eq!(parked(&mut world), []);
    all(&mut world, &[pick(2, one), H::Seen { vm: 2 }]);
    assert_eq!(carried(&world, 2), own(&world, 2));
    world.finish().unwrap();
}

#[test]
fn a_vm_that_starts_before_it_is_adopted_has_the_parked_one_for_that_run() {
    let (mut world, one) = with_one();
    all(&mut world, &[pick(0, one), pick(1, one)]);
    all(&mut world, &run(0));
    assert!(runs(&world, 0), "{:?}", world.refusals);
    let rows = slices(&mut world);
    let row = rows.iter().find(|row| row.slice == SliceId::Mdev(one)).unwrap();
    assert_eq!((row.state.as_str(), row.holder.as_deref()), ("attached", Some("vm0")));
    all(&mut world, &run(1));
    assert_eq!((runs(&world, 1), refusals(&world)), (false, vec!["taken"]));
    // The agent was told to look: it is given its own.
    let Some(Ok(Answer::AgentWork { look_again, .. })) = world.order(Command::AgentWork).unwrap()
    else {
        panic!();
    };
    assert_eq!(look_again, [world.guests[&1].domain().uuid]);
    all(&mut world, &[H::Seen { vm: 1 }, H::Seen { vm: 0 }]);
    assert_eq!(carried(&world, 1), own(&world, 1));
    assert_eq!(carried(&world, 0), [(None, one)], "it runs");
    all(&mut world, &run(1));
    assert!(runs(&world, 1), "{:?}", world.refusals);
    // A daemon that has lost its record hears of it from libvirt.
    all(
        &mut world,
        &[H::LoseRecord { claims: false }, H::LibvirtDown, H::LibvirtUp { tells: true }],
    );
    let assigned = world.driver.machine.runtime().assignments.get(&SliceId::Mdev(one)).unwrap();
    assert_eq!(assigned.claim.owner.to_string(), world.guests[&0].domain().uuid.to_string());
    // What a VM had is made anew before it is picked again.
    let removed = world.driver.executed;
    all(&mut world, &stop(0));
    assert_eq!(parked(&mut world), [one]);
    assert!(world.driver.executed >= removed + 2);
    assert!(
        world.driver.machine.durable().claims.keys().all(|key| key.owner != assigned_to(&world, 0))
    );
    all(&mut world, &[H::Seen { vm: 0 }]);
    assert_eq!(carried(&world, 0), own(&world, 0));
    all(&mut world, &run(0));
    assert!(runs(&world, 0), "{:?}", world.refusals);
    world.finish().unwrap();
}

/// The agent writes the metadata, then the device that is the claim's own.
#[test]
fn a_vm_that_starts_between_the_agents_two_writes_has_the_parked_one_by_its_claim() {
    let (mut world, one) = with_one();
    all(&mut world, &[pick(0, one)]);
    let domain = world.guests[&0].domain().read().clone();
    world.order(Command::DomainSeen { domain, shut_off: true }).unwrap();
    let asked = claim(&"gpu0".parse().unwrap(), "nvidia-a40-4q", 1);
    world.define(0, |domain| domain.claims.push(asked));
    assert_eq!(carried(&world, 0), [(None, one)]);
    all(&mut world, &run(0));
    assert!(runs(&world, 0), "{:?}", world.refusals);
    let assigned = &world.driver.machine.runtime().assignments;
    assert_eq!(assigned[&SliceId::Mdev(one)].claim.name.as_str(), "gpu0");
    assert_eq!(assigned.len(), 1);
    all(&mut world, &stop(0));
    // The run is over, the claim is not, and has its own device from now on.
    all(&mut world, &[H::Seen { vm: 0 }]);
    assert_eq!((carried(&world, 0), parked(&mut world)), (own(&world, 0), vec![one]));
    all(&mut world, &run(0));
    assert!(runs(&world, 0), "{:?}", world.refusals);
    world.finish().unwrap();
}

#[test]
fn one_that_a_process_has_is_neither_free_nor_to_be_picked() {
    let (mut world, one) = with_one();
    let slice = SliceId::Mdev(one);
    let shown = |world: &mut World| {
        let row = profile(world, "nvidia-a40-4q");
        (row.free, row.pick)
    };
    let (free, pick) = shown(&mut world);
    assert_eq!(pick, [slice]);
    world.driver.kernel.open(77, "qemu", slice).unwrap();
    assert_eq!(shown(&mut world), (free - 1, Vec::new()));
    world.driver.kernel.kill(77);
    assert_eq!(shown(&mut world), (free, vec![slice]));
    world.finish().unwrap();
}

fn assigned_to(world: &World, vm: u8) -> gpuslice_core::ids::Owner {
    gpuslice_core::ids::Owner::Domain(world.guests[&vm].domain().uuid)
}

#[test]
fn one_that_is_parked_no_more_is_refused_with_what_to_do() {
    let (mut world, one) = with_one();
    all(&mut world, &[pick(0, one)]);
    apply(&mut world, "", "");
    assert_eq!(mdevs(&world), []);
    all(&mut world, &run(0));
    assert_eq!((runs(&world, 0), refusals(&world)), (false, vec!["absent"]));
    all(&mut world, &[H::Seen { vm: 0 }]);
    assert_eq!(carried(&world, 0), [(None, one)], "nobody knows what it was");
    world.define(0, |domain| domain.devices.clear());
    world.finish().unwrap();
}

#[test]
fn what_cannot_be_parked_says_why_and_keeps_nothing_else_from_being_done() {
    let mut world = after(&[]);
    let park = "park = { nvidia-a40-16q = 1, nvidia-a40-4q = 3 }";
    let done = apply(&mut world, park, "vfs = 3, park = { nvidia-a40-8q = 1 }");
    assert_eq!(parked(&mut world).len(), 2);
    assert_eq!(vfs_of(&world.driver.kernel, ON_VFS.parse().unwrap()).len(), 3);
    drop(done);
    let now = plan(&mut world);
    let told: Vec<(&str, &str)> =
        now.unparked.iter().map(|why| (why.code.as_str(), why.message.as_str())).collect();
    let [unknown, full, other] = told.try_into().unwrap();
    assert_eq!(unknown, ("no-profile", "0000:41:00.0 offers no nvidia-a40-16q to be parked"));
    assert_eq!(full.0, "no-capacity");
    assert!(full.1.starts_with("2 of 3 nvidia-a40-4q are parked on 0000:41:00.0"), "{full:?}");
    assert_eq!(other, ("no-profile", "0000:81:00.0 offers no nvidia-a40-8q to be parked"));
    assert!(!now.changed && now.blockers.is_empty(), "{now:?}");
    let Some(Ok(Answer::Status(status))) = world.order(Command::Status).unwrap() else { panic!() };
    assert!(status.settled);
    assert_eq!(status.warnings.iter().filter(|w| w.contains("to be parked")).count(), 2);
    world.finish().unwrap();
}

#[test]
fn one_that_cannot_be_made_is_tried_again_when_something_changes() {
    let mut world = after(&[]);
    let fault =
        Fault::Write { path: "*/create".to_owned(), nth: 1, times: u32::MAX, errno: Errno::EIO };
    all(&mut world, &[H::Fault { fault }]);
    apply(&mut world, "park = { nvidia-a40-4q = 2 }", "");
    let tried = world.driver.executed;
    all(&mut world, &[H::Lists, H::Advance { ms: 60_000 }]);
    assert_eq!((parked(&mut world), world.driver.executed), (Vec::new(), tried));
    let now = plan(&mut world);
    assert_eq!((now.changed, now.unparked[0].code.as_str()), (false, "device-failed"));
    all(&mut world, &[H::ClearFaults, H::Apply]);
    assert_eq!(parked(&mut world).len(), 2);
    world.finish().unwrap();
}

#[test]
fn one_whose_removal_is_refused_for_a_moment_goes_by_itself() {
    let (mut world, one) = with_one();
    let path = format!("/sys/bus/mdev/devices/{one}/remove");
    let fault = Fault::Write { path, nth: 1, times: 2, errno: Errno::EAGAIN };
    all(&mut world, &[H::Fault { fault }]);
    world.driver.config = layouts("", "");
    all(&mut world, &[H::Apply, H::Advance { ms: 5000 }]);
    assert_eq!(mdevs(&world), []);
    world.finish().unwrap();
}

#[test]
fn one_that_a_process_holds_is_left_to_it() {
    let (mut world, one) = with_one();
    world.driver.kernel.open(77, "qemu", SliceId::Mdev(one)).unwrap();
    apply(&mut world, "", "");
    assert_eq!(mdevs(&world), [one]);
    let now = plan(&mut world);
    assert_eq!((now.changed, now.unparked[0].code.as_str()), (false, "held"));
    world.driver.kernel.kill(77);
    all(&mut world, &[H::Advance { ms: 1000 }]);
    assert_eq!(mdevs(&world), []);
    world.finish().unwrap();
}

#[test]
fn what_is_reserved_for_a_claim_is_not_parked() {
    let (mut world, one) = with_one();
    let reserved = H::Attach {
        vm: 0,
        name: "gpu0".parse().unwrap(),
        profile: "nvidia-a40-4q".to_owned(),
        count: 2,
        pool: false,
        reserve: true,
    };
    all(&mut world, &[reserved]);
    all(&mut world, &run(0));
    assert!(runs(&world, 0), "{:?}", world.refusals);
    all(&mut world, &stop(0));
    assert_eq!(parked(&mut world), [], "the claim may come back at any time");
    all(&mut world, &[H::Undefine { vm: 0 }]);
    assert_eq!(parked(&mut world), [one]);
    world.finish().unwrap();
}

#[test]
fn who_waits_for_all_to_be_settled_waits_for_what_can_be_parked_and_for_no_more() {
    let wait = |world: &mut World, timeout_ms| {
        let request = world.driver.command(Command::WaitSettled { timeout_ms });
        world.driver.drain().unwrap();
        request
    };
    let mut world = after(&[H::Steps { on: true }]);
    world.driver.config = layouts("park = { nvidia-a40-4q = 2 }", "");
    let applied = world.driver.command(Command::Apply);
    let (short, long) = (wait(&mut world, 1000), wait(&mut world, 14_000));
    world.driver.advance(2000).unwrap();
    let refusal = world.driver.answers.remove(&short).unwrap().unwrap_err();
    assert_eq!(refusal.code.as_str(), "timeout");
    assert_eq!(refusal.causes, [format!("waiting for what is parked on {CARD}")]);
    assert!(!world.driver.answers.contains_key(&long));
    all(&mut world, &[H::Steps { on: false }]);
    assert!(world.driver.answers.remove(&long).unwrap().is_ok());
    assert!(world.driver.answers.remove(&applied).unwrap().is_ok());
    assert_eq!(parked(&mut world).len(), 2);
    // A VM has all of the card: nothing is parked, and nobody waits for it. Nor for what cannot be made.
    all(&mut world, &[whole(0)]);
    all(&mut world, &run(0));
    assert!(runs(&world, 0) && parked(&mut world).is_empty());
    let at_once = wait(&mut world, 14_000);
    assert!(world.driver.answers.remove(&at_once).unwrap().is_ok());
    let fails =
        Fault::Write { path: "*/create".to_owned(), nth: 1, times: u32::MAX, errno: Errno::EIO };
    all(&mut world, &[H::Fault { fault: fails }]);
    all(&mut world, &stop(0));
    let at_once = wait(&mut world, 14_000);
    assert!(
        world.driver.answers.remove(&at_once).unwrap().is_ok() && parked(&mut world).is_empty()
    );
    all(&mut world, &[H::ClearFaults]);
    world.finish().unwrap();
}

/// A VM that asks for the whole card.
fn whole(vm: u8) -> H {
    H::Declare { vm, name: "gpu0".parse().unwrap(), profile: "nvidia-a40-8q".to_owned(), count: 1 }
}

#[test]
fn the_room_made_for_a_start_is_not_parked_in_before_the_start_has_it() {
    let (mut world, one) = with_one();
    all(&mut world, &[whole(0)]);
    // The kernel takes its time to make the VM's; the reading shows the room all the while.
    let path = "*/create".to_owned();
    all(&mut world, &[H::Fault { fault: Fault::Sleeps { path, nth: 1 } }, H::Start { vm: 0 }]);
    world.driver.drain().unwrap();
    let made = |world: &World| -> Vec<MdevUuid> {
        let creates = world.driver.under.iter().filter_map(|under| match under.step {
            Step::CreateMdev { uuid, .. } => Some(uuid),
            _ => None,
        });
        creates.chain(mdevs(world)).collect()
    };
    let [(_, asked)] = own(&world, 0).try_into().unwrap();
    assert_eq!(made(&world), [asked]);
    all(&mut world, &[H::Lists]);
    assert_eq!(made(&world), [asked]);
    // It comes to nothing, and the place with it.
    all(&mut world, &[H::ClearFaults, H::Next { vm: 0 }, H::Next { vm: 0 }]);
    assert_eq!((refusals(&world), parked(&mut world)), (vec!["device-failed"], vec![one]));
    all(&mut world, &run(0));
    assert!(runs(&world, 0), "{:?}", world.refusals);
    assert_eq!(parked(&mut world), []);
    world.finish().unwrap();
}

#[test]
fn a_start_waits_for_one_device_that_is_taken_away_and_not_for_all() {
    let mut world = after(&[]);
    apply(&mut world, "", "vfs = 3, park = { nvidia-a40-4q = 2 }");
    let two = parked(&mut world);
    assert_eq!(two.len(), 2);
    all(&mut world, &[declare(0), H::Lazy { on: true }]);
    world.driver.config = layouts("", "vfs = 3");
    all(&mut world, &[H::Apply, H::Start { vm: 0 }, H::Next { vm: 0 }]);
    assert!(!runs(&world, 0));
    world.driver.begin_lazy().unwrap();
    all(&mut world, &[H::Next { vm: 0 }, H::Next { vm: 0 }]);
    assert!(runs(&world, 0), "{:?}", world.refusals);
    assert_eq!(mdevs(&world).iter().filter(|uuid| two.contains(uuid)).count(), 1);
    // The other follows.
    all(&mut world, &[H::Lazy { on: false }]);
    assert_eq!((parked(&mut world), mdevs(&world).len()), (vec![], 1));
    world.finish().unwrap();
}

#[test]
fn a_start_or_hot_plug_whose_room_cannot_be_recorded_is_refused_at_once() {
    for (durable, runtime) in [(u32::MAX, 0), (0, u32::MAX)] {
        let (mut world, one) = with_one();
        all(&mut world, &[declare(0), whole(1), declare(2)]);
        let full = H::DiskFull { durable, runtime };
        // Something waits to be recorded.
        all(&mut world, &[full, H::Start { vm: 0 }, H::Next { vm: 0 }]);
        assert_eq!(refusals(&world), ["state-unwritable"]);
        world.refusals.clear();
        all(&mut world, &[H::Start { vm: 1 }, H::Next { vm: 1 }]);
        assert_eq!((refusals(&world), parked(&mut world)), (vec!["state-unwritable"], vec![one]));
        all(&mut world, &[H::Next { vm: 0 }, H::Next { vm: 1 }]);
        all(&mut world, &[H::DiskFull { durable: 0, runtime: 0 }]);
        all(&mut world, &run(0));
        assert!(runs(&world, 0));
        world.refusals.clear();
        let (name, profile) = ("hot".parse().unwrap(), "nvidia-a40-4q".to_owned());
        let plug = H::HotPlug { vm: 0, name, profile, count: 1, keep: false };
        let next = H::HotPlugNext { vm: 0, dies: false };
        all(&mut world, &[H::DiskFull { durable: u32::MAX, runtime: 0 }, plug, next]);
        assert_eq!((refusals(&world), parked(&mut world)), (vec!["state-unwritable"], vec![one]));
        all(&mut world, &[H::DiskFull { durable: 0, runtime: 0 }]);
        all(&mut world, &run(2));
        assert!(runs(&world, 2));
        world.finish().unwrap();
    }
}

#[test]
fn a_hot_plug_has_the_room_too() {
    let (mut world, _) = with_one();
    all(&mut world, &[declare(0)]);
    all(&mut world, &run(0));
    let (name, profile) = ("hot".parse().unwrap(), "nvidia-a40-4q".to_owned());
    all(&mut world, &[H::HotPlug { vm: 0, name, profile, count: 1, keep: false }]);
    all(
        &mut world,
        &[H::HotPlugNext { vm: 0, dies: false }, H::HotPlugNext { vm: 0, dies: false }],
    );
    assert_eq!(world.plugs, 1, "{:?}", world.plug_refused);
    assert_eq!(parked(&mut world), []);
    world.finish().unwrap();
}

/// By migration, or out of the image that it was saved to.
#[test]
fn one_that_comes_from_elsewhere_has_the_room_too() {
    let (mut world, one) = with_one();
    all(&mut world, &[whole(0)]);
    all(&mut world, &run(0));
    all(&mut world, &[H::Save { vm: 0 }, H::Next { vm: 0 }, H::Advance { ms: 10_001 }]);
    assert_eq!(parked(&mut world), [one]);
    // What cannot be recorded is refused at once here too.
    let full = H::DiskFull { durable: u32::MAX, runtime: u32::MAX };
    all(&mut world, &[declare(1), full, H::Start { vm: 1 }, H::Next { vm: 1 }]);
    world.refusals.clear();
    all(&mut world, &[H::Restore { vm: 0 }]);
    assert_eq!((refusals(&world), parked(&mut world)), (vec!["state-unwritable"], vec![one]));
    all(&mut world, &[H::Next { vm: 1 }, H::DiskFull { durable: 0, runtime: 0 }]);
    world.refusals.clear();
    all(&mut world, &[H::Restore { vm: 0 }, H::Next { vm: 0 }, H::Next { vm: 0 }]);
    assert!(runs(&world, 0), "{:?}", world.refusals);
    assert_eq!(parked(&mut world), []);
    world.finish().unwrap();
}

#[test]
fn killed_at_each_write_nothing_is_parked_twice_or_lost() {
    for after_writes in 0..12 {
        let (mut world, one) = with_one();
        all(&mut world, &[declare(0), declare(1), H::Kill { after: after_writes }]);
        for vm in [0, 1] {
            all(&mut world, &run(vm));
        }
        for vm in [0, 1] {
            all(&mut world, &stop(vm));
        }
        all(&mut world, &[H::Advance { ms: 700_000 }]);
        world.driver.dies_after = None;
        world.driver.restart().unwrap();
        world.driver.advance(1000).unwrap();
        assert_eq!((parked(&mut world), mdevs(&world)), (vec![one], vec![one]), "{after_writes}");
        world.finish().unwrap();
    }
}
