//! Stories of GPUs that are drained: who is in the way is said, and whoever waits is told by what happens, not by a clock.

use crate::directed::{after, all, attach, run, runs, stop};
use crate::happening::Happening as H;
use crate::world::World;
use gpuslice_core::domain::MOST_CLAIMS;
use gpuslice_core::ids::{Owner, ParentId, SliceId};
use gpuslice_core::machine::RequestId;
use gpuslice_core::refusal::{Code, Refusal};
use gpuslice_core::request::{Answer, Command, DrainRow, Outcome};
use gpuslice_sim::Fault;

const CARD: &str = "0000:0c:00.0";

fn card() -> ParentId {
    CARD.parse().unwrap()
}

fn drain(parents: &[ParentId], wait_ms: Option<u64>) -> Command {
    Command::Drain { parents: parents.to_vec(), reason: "new fan".to_owned(), wait_ms }
}

fn row(outcome: Option<Outcome>) -> DrainRow {
    match outcome {
        Some(Ok(Answer::Drain(row))) => row,
        other => panic!("{other:?}"),
    }
}

fn refused(outcome: Option<Outcome>) -> Refusal {
    outcome.unwrap().unwrap_err()
}

/// A VM that runs on the card, and somebody who waits until it has left.
fn waited_for() -> (World, RequestId) {
    let mut world = after(&[attach(0)]);
    all(&mut world, &run(0));
    let request = world.driver.command(drain(&[card()], Some(60_000)));
    world.driver.drain().unwrap();
    assert!(!world.driver.answers.contains_key(&request));
    (world, request)
}

/// A claim of a VM, asked for under whatever name.
fn claim(vm: &World, called: &str, name: &str, dry_run: bool) -> Command {
    let domain = vm.guests[&0].domain();
    let mut request = domain.claims[0].clone();
    request.name = name.parse().unwrap();
    // Mediated devices are made at a start: they may be asked for as often as one likes.
    request.profile = Some("nvidia-a40-4q".parse().unwrap());
    let owner = Owner::Domain(domain.uuid);
    Command::Claim {
        owner,
        owner_name: called.to_owned(),
        request,
        pool: None,
        reserve: None,
        dry_run,
    }
}

#[test]
fn a_vm_is_not_called_what_somebody_has_called_it_who_only_asked() {
    let mut world = after(&[attach(0)]);
    all(&mut world, &run(0));
    let asked = claim(&world, "payroll", "another", true);
    assert!(world.order(asked).unwrap().unwrap().is_ok());
    let row = row(world.order(drain(&[card()], None)).unwrap());
    let [blocker] = row.blockers.as_slice() else { panic!("{row:?}") };
    assert!(blocker.message.starts_with("vm0 uses vf:"), "{blocker}");
    assert_eq!(blocker.hint.as_deref(), Some("virsh shutdown vm0"));
}

#[test]
fn a_domain_has_so_many_claims_and_no_more() {
    let mut world = after(&[attach(0)]);
    let mut order = |name: &str| {
        let order = claim(&world, "vm0", name, false);
        world.order(order).unwrap().unwrap()
    };
    for number in 1..MOST_CLAIMS {
        assert!(order(&format!("c{number}")).is_ok(), "{number}");
    }
    let refusal = order("more").unwrap_err();
    assert_eq!(refusal.hint.as_deref(), Some("gpuslice detach vm0 c1"));
    // What it has may be asked for again.
    assert!(order("c1").is_ok());
}

#[test]
fn who_is_in_the_way_is_said_at_once() {
    let mut world = after(&[attach(0), attach(1)]);
    all(&mut world, &run(0));
    let first = row(world.order(drain(&[card()], None)).unwrap());
    assert!(first.changed && !first.drained);
    let [blocker] = first.blockers.as_slice() else { panic!("{first:?}") };
    assert!(blocker.message.starts_with("vm0 uses vf:"), "{blocker}");
    assert_eq!(blocker.hint.as_deref(), Some("virsh shutdown vm0"));
    let again = row(world.order(drain(&[card()], None)).unwrap());
    assert_eq!((again.changed, again.drained), (false, false));
    all(&mut world, &[H::Start { vm: 1 }, H::Next { vm: 1 }]);
    assert_eq!(world.refusals.keys().map(|c| c.as_str()).collect::<Vec<_>>(), ["cordoned"]);
    assert!(runs(&world, 0), "whoever runs goes on");
    all(&mut world, &stop(0));
    let free = row(world.order(drain(&[card()], None)).unwrap());
    assert_eq!((free.changed, free.drained, free.blockers.len()), (false, true, 0));
    // A person's reason stays, and it outlives the daemon and the boot as a cordon does.
    all(&mut world, &[H::Reboot]);
    assert_eq!(world.driver.machine.durable().cordons[&card()], "new fan");
}

#[test]
fn the_stop_of_the_last_vm_ends_the_wait() {
    let (mut world, request) = waited_for();
    all(&mut world, &stop(0));
    let told = row(world.driver.answers.remove(&request));
    assert_eq!((told.changed, told.drained, told.parents), (true, true, vec![card()]));
}

#[test]
fn a_wait_ends_in_time_and_says_for_whom() {
    let (mut world, request) = waited_for();
    all(&mut world, &[H::Advance { ms: 60_000 }]);
    let why = refused(world.driver.answers.remove(&request));
    assert_eq!(why.code.as_str(), "timeout");
    assert!(why.causes[0].starts_with("vm0 uses vf:"), "{why:?}");
    assert!(world.driver.machine.durable().cordons.contains_key(&card()));
}

#[test]
fn an_uncordon_ends_the_wait() {
    let (mut world, request) = waited_for();
    world.order(Command::Uncordon { parent: card() }).unwrap();
    assert_eq!(refused(world.driver.answers.remove(&request)).code.as_str(), "in-use");
}

#[test]
fn what_cannot_be_recorded_is_not_waited_for() {
    for wait in [None, Some(60_000)] {
        let mut world = after(&[attach(0)]);
        all(&mut world, &run(0));
        all(&mut world, &[H::DiskFull { durable: 1, runtime: 0 }]);
        let why = refused(world.order(drain(&[card()], wait)).unwrap());
        assert_eq!(why.code.as_str(), "state-unwritable");
        assert!(world.driver.machine.durable().cordons.is_empty());
    }
}

#[test]
fn all_of_them_and_none_that_is_not_there() {
    let mut world = after(&[]);
    let every = row(world.order(drain(&[], None)).unwrap());
    assert!(every.changed && every.drained && every.parents.len() > 1, "{every:?}");
    assert!(!row(world.order(drain(&[], None)).unwrap()).changed);
    let nowhere = "0000:fe:00.0".parse().unwrap();
    let why = refused(world.order(drain(&[nowhere], None)).unwrap());
    assert_eq!(why.code.as_str(), "unknown");
}

#[test]
fn an_mdev_that_others_made_is_in_the_way_and_who_made_it_ends_it() {
    let mut world = after(&[]);
    let parent: ParentId = "0000:41:00.0".parse().unwrap();
    for (uuid, hint) in [
        ("00000000-0000-0000-0000-000000000101", "qm shutdown 101"),
        (
            "f0000000-0000-4000-8000-000000000001",
            "echo 1 > /sys/bus/mdev/devices/f0000000-0000-4000-8000-000000000001/remove",
        ),
    ] {
        let uuid = uuid.parse().unwrap();
        let type_id = "nvidia-558".parse().unwrap();
        all(&mut world, &[H::ForeignMdev { parent: parent.clone(), type_id, uuid }]);
        let told = row(world.order(drain(std::slice::from_ref(&parent), None)).unwrap());
        let [blocker] = told.blockers.as_slice() else { panic!("{told:?}") };
        assert!(blocker.message.contains(&uuid.to_string()), "{blocker}");
        assert_eq!(blocker.hint.as_deref(), Some(hint));
        all(&mut world, &[H::ForeignMdevGone { uuid }]);
    }
}

#[test]
fn a_process_with_a_parked_device_is_in_the_way() {
    let mut world = after(&[]);
    let parks: ParentId = "0000:41:00.0".parse().unwrap();
    world.driver.config = format!(
        "[[gpu]]\nmatch = {{ address = \"{parks}\" }}\nlayout = {{ park = {{ nvidia-a40-4q = 1 }} }}\n"
    );
    all(&mut world, &[H::Apply, H::Advance { ms: 1000 }]);
    let mut slices = world.driver.machine.unassigned().into_iter();
    let slice = slices.find(|slice| matches!(slice, SliceId::Mdev(_))).unwrap();
    world.driver.kernel.open(77, "qemu", slice).unwrap();
    let told = row(world.order(drain(&[card(), parks.clone()], None)).unwrap());
    let [blocker] = told.blockers.as_slice() else { panic!("{told:?}") };
    assert_eq!(
        (told.drained, blocker.message.clone()),
        (false, format!("qemu (pid 77) uses {slice}"))
    );
    // Nor does it take the place of another.
    all(&mut world, &[H::Unplug { address: CARD.parse().unwrap() }]);
    let new = parks.clone();
    let why = refused(world.order(Command::Replace { old: card(), new }).unwrap());
    assert_eq!((why.code.as_str(), why.message.contains("qemu (pid 77)")), ("in-use", true));
    let request = world.driver.command(drain(&[parks], Some(60_000)));
    world.driver.drain().unwrap();
    assert!(!world.driver.answers.contains_key(&request));
    world.driver.kernel.kill(77);
    all(&mut world, &[H::Advance { ms: 1000 }]);
    assert!(row(world.driver.answers.remove(&request)).drained);
}

#[test]
fn nobody_is_waited_for_who_is_gone_and_what_was_ordered_stays() {
    let (mut world, request) = waited_for();
    world.driver.caller_gone(request);
    world.driver.drain().unwrap();
    all(&mut world, &stop(0));
    world.driver.advance(60_000).unwrap();
    assert!(!world.driver.answers.contains_key(&request));
    assert!(world.driver.machine.durable().cordons.contains_key(&card()));
}

#[test]
fn an_uncordon_that_is_refused_has_lifted_nothing() {
    let sleeps = Fault::Sleeps { path: "*/sriov_numvfs".to_owned(), nth: 1 };
    let mut world = after(&[H::Fault { fault: sleeps }]);
    all(&mut world, &[H::Edit { config: 1 }, H::Apply, H::Advance { ms: 61_000 }]);
    let reason = "new fan".to_owned();
    world.order(Command::Cordon { parent: card(), reason }).unwrap().unwrap().unwrap();
    let before = world.driver.machine.durable().clone();
    let why = refused(world.order(Command::Uncordon { parent: card() }).unwrap());
    assert_eq!(why.code, Code::DeviceStuck, "{why:?}");
    assert_eq!(*world.driver.machine.durable(), before);
    // What is no GPU of this host is no reason to clean anything.
    let nobody: ParentId = "0000:77:00.0".parse().unwrap();
    let why = refused(world.order(Command::Uncordon { parent: nobody }).unwrap());
    assert_eq!(why.code, Code::Unknown, "{why:?}");
}
