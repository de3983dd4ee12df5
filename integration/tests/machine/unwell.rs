//! Stories of GPUs that the kernel's log says something against.

use crate::directed::{after, all, attach, run, runs, stop};
use crate::happening::Happening as H;
use crate::world::World;
use gpuslice_core::errno::Errno;
use gpuslice_core::ids::SliceId;
use gpuslice_core::refusal::Code;
use gpuslice_core::request::{Answer, Command, ParentRow};
use gpuslice_sim::Fault;

const CARD: &str = "0000:0c:00.0";
const XID: &str = "NVRM: Xid (PCI:0000:0c:00): 79, pid=1, GPU has fallen off the bus.";
const GUARD: &str = "gim error libgv: [0:c:0:0][VF01][amdgv_put_event:9] Event 0x1 overflow.";

fn say(line: &str) -> H {
    H::Say { line: line.to_owned() }
}

fn card(world: &mut World) -> ParentRow {
    match world.order(Command::ListParents).unwrap() {
        Some(Ok(Answer::Parents { rows })) => {
            rows.into_iter().find(|row| row.parent.to_string() == CARD).unwrap()
        }
        other => panic!("{other:?}"),
    }
}

/// State, health and the line.
fn told(world: &mut World) -> (String, String, String) {
    let row = card(world);
    (row.state, row.health, row.health_reason.unwrap_or_default())
}

fn uncordon(world: &mut World) -> bool {
    match world.order(Command::Uncordon { parent: CARD.parse().unwrap() }).unwrap() {
        Some(Ok(Answer::Done { changed, .. })) => changed,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_failed_gpu_gets_no_new_vms_until_a_person_has_looked() {
    let mut world = after(&[attach(0), attach(1)]);
    all(&mut world, &run(0));
    all(&mut world, &[say("usb 1-1: reset"), say(XID)]);
    let (state, health, line) = told(&mut world);
    assert_eq!((state.as_str(), health.as_str()), ("cordoned", "failed"));
    assert!(line.starts_with("[   61.") && line.ends_with(XID), "{line}");
    assert!(card(&mut world).reason.unwrap().contains("fallen off the bus"));
    assert!(runs(&world, 0), "whoever runs goes on");
    all(&mut world, &[H::Start { vm: 1 }, H::Next { vm: 1 }]);
    assert_eq!(world.refusals.keys().map(|c| c.as_str()).collect::<Vec<_>>(), ["cordoned"]);
    all(&mut world, &stop(0));
    // It outlives the daemon and the boot, and is told of which boot it is.
    world.driver.restart().unwrap();
    world.driver.drain().unwrap();
    assert_eq!(told(&mut world).1, "failed");
    all(&mut world, &[H::Reboot]);
    assert!(told(&mut world).2.ends_with("(before this boot)"));
    assert!(uncordon(&mut world) && !uncordon(&mut world));
    assert_eq!(told(&mut world), ("ok".to_owned(), "ok".to_owned(), String::new()));
    all(&mut world, &run(1));
    assert!(runs(&world, 1));
    all(&mut world, &stop(1));
    world.finish().unwrap();
}

#[test]
fn a_line_counts_once_and_none_is_missed() {
    let mut world = after(&[say(XID)]);
    assert!(uncordon(&mut world));
    // The log is read from its begin by each daemon.
    world.driver.restart().unwrap();
    world.driver.drain().unwrap();
    assert_eq!(told(&mut world).1, "ok", "a person has said that it is well");
    // Said while no daemon ran.
    world.driver.kernel.say(XID);
    world.driver.restart().unwrap();
    world.driver.drain().unwrap();
    assert_eq!(told(&mut world).1, "failed");
    // A new boot counts its lines anew.
    assert!(uncordon(&mut world));
    all(&mut world, &[H::Reboot, say(XID)]);
    assert_eq!(told(&mut world).1, "failed");
}

#[test]
fn what_a_guest_can_do_takes_the_gpu_from_nobody() {
    let mut world = after(&[say(GUARD)]);
    let (state, health, line) = told(&mut world);
    assert_eq!((state.as_str(), health.as_str()), ("ok", "degraded"));
    assert!(line.ends_with(GUARD), "{line}");
    // Worse is told, and better is not.
    all(&mut world, &[say(XID), say(GUARD)]);
    let (state, health, line) = told(&mut world);
    assert_eq!((state.as_str(), health.as_str()), ("cordoned", "failed"));
    assert!(line.ends_with(XID), "{line}");
}

#[test]
fn by_policy_it_is_only_shown() {
    let mut world = after(&[]);
    world.driver.config.insert_str(0, "on-error = \"warn\"\n");
    all(&mut world, &[H::Apply, say(XID)]);
    let (state, health, _) = told(&mut world);
    assert_eq!((state.as_str(), health.as_str()), ("ok", "failed"));
    let status = world.order(Command::Status).unwrap();
    let Some(Ok(Answer::Status(status))) = status else { panic!("{status:?}") };
    let hint = format!("gpuslice uncordon {CARD}");
    assert!(status.warnings.iter().any(|w| w.contains(XID) && w.ends_with(&hint)), "{status:?}");
    assert!(uncordon(&mut world));
    assert_eq!(told(&mut world).1, "ok");
}

#[test]
fn a_vf_speaks_for_its_gpu_and_a_device_that_comes_later_is_not_forgotten() {
    let mut world = after(&[]);
    let pf = CARD.parse().unwrap();
    let vf = crate::invariants::vfs_of(&world.driver.kernel, pf)[0];
    all(&mut world, &[say(&format!("vfio-pci {vf}: not ready 65535ms after FLR; giving up"))]);
    assert_eq!(told(&mut world).1, "degraded");
    assert!(uncordon(&mut world));
    // A daemon in between has read the line, and recorded that it has.
    all(&mut world, &[H::Unplug { address: pf }, say(XID)]);
    world
        .order(Command::Cordon { parent: "0000:41:00.0".parse().unwrap(), reason: String::new() })
        .unwrap();
    world.driver.restart().unwrap();
    world.driver.drain().unwrap();
    all(&mut world, &[H::Plug { address: pf }, H::Advance { ms: 61_000 }]);
    assert_eq!(told(&mut world).1, "failed");
}

/// A guest may be able to keep its own VF from coming back: that costs it and others the VF alone, until several do so.
#[test]
fn vfs_that_do_not_come_back_are_held_back_and_three_are_a_failed_gpu() {
    let mut world = after(&[attach(0), attach(1)]);
    let vfs = crate::invariants::vfs_of(&world.driver.kernel, CARD.parse().unwrap());
    let lost =
        |at: usize| say(&format!("vfio-pci {}: not ready 65535ms after FLR; giving up", vfs[at]));
    let state = |world: &mut World, at: usize| match world.order(Command::ListSlices).unwrap() {
        Some(Ok(Answer::Slices { rows })) => {
            rows.into_iter().find(|row| row.slice == SliceId::Vf(vfs[at])).unwrap().state
        }
        other => panic!("{other:?}"),
    };
    let path = "*/reset".to_owned();
    let fault = Fault::Write { path, nth: 1, times: u32::MAX, errno: Errno::EIO };
    all(&mut world, &[H::Fault { fault }, lost(0), lost(0), lost(0)]);
    assert_eq!(told(&mut world).0, "ok", "one VF, however often it is said");
    assert_eq!((state(&mut world, 0).as_str(), state(&mut world, 1).as_str()), ("dirty", "free"));
    // Its own VM is not given it either, and the daemon that is next knows.
    world.driver.restart().unwrap();
    world.driver.drain().unwrap();
    all(&mut world, &[H::Start { vm: 0 }, H::Next { vm: 0 }, H::Next { vm: 0 }]);
    assert_eq!(world.refusals.keys().copied().collect::<Vec<_>>(), [Code::Dirty]);
    all(&mut world, &[lost(1)]);
    let (known, health, line) = told(&mut world);
    assert_eq!((known.as_str(), health.as_str()), ("ok", "degraded"));
    assert!(
        line.contains(&vfs[0].to_string()) && line.ends_with("(2 VFs did not come back)"),
        "{line}"
    );
    all(&mut world, &[lost(2)]);
    let (known, health, line) = told(&mut world);
    assert_eq!((known.as_str(), health.as_str()), ("cordoned", "failed"));
    assert!(line.contains(&vfs[2].to_string()), "{line}");
    // A person has looked; a reset that works gives them back.
    all(&mut world, &[H::ClearFaults]);
    assert!(uncordon(&mut world));
    for at in 0..3 {
        assert_eq!(state(&mut world, at), "free");
    }
    all(&mut world, &run(0));
    assert!(runs(&world, 0));
    all(&mut world, &stop(0));
    world.finish().unwrap();
}

#[test]
fn a_vf_that_was_cleaned_since_is_not_held_back_for_what_was_said_before() {
    let mut world = after(&[attach(0)]);
    let vf = crate::invariants::vfs_of(&world.driver.kernel, CARD.parse().unwrap())[0];
    let lost = say(&format!("vfio-pci {vf}: not ready 65535ms after FLR; giving up"));
    for _ in 0..2 {
        all(&mut world, &run(0));
        all(&mut world, std::slice::from_ref(&lost));
        assert_eq!(world.driver.machine.runtime().dirty.len(), 1);
        // The reset at its release has it clean again.
        all(&mut world, &stop(0));
        assert!(world.driver.machine.runtime().dirty.is_empty());
    }
    world.driver.restart().unwrap();
    world.driver.drain().unwrap();
    assert!(world.driver.machine.runtime().dirty.is_empty());
    all(&mut world, &run(0));
    assert!(runs(&world, 0));
}

#[test]
fn vfs_are_counted_anew_after_a_boot() {
    let mut world = after(&[]);
    let lost = |world: &World, at: usize| {
        let vfs = crate::invariants::vfs_of(&world.driver.kernel, CARD.parse().unwrap());
        say(&format!("vfio-pci {}: not ready 65535ms after FLR; giving up", vfs[at]))
    };
    for boot in 0..2 {
        for at in 0..2 {
            let line = lost(&world, at);
            all(&mut world, &[line]);
        }
        let (_, health, line) = told(&mut world);
        assert_eq!(health, "degraded", "boot {boot}");
        assert!(line.ends_with("(2 VFs did not come back)"), "boot {boot}: {line}");
        all(&mut world, &[H::Reboot, H::Advance { ms: 61_000 }]);
    }
}

#[test]
fn what_the_log_says_is_known_also_when_it_cannot_be_recorded() {
    let mut world = after(&[H::DiskFull { durable: 1, runtime: 0 }, say(XID)]);
    let (state, health, _) = told(&mut world);
    assert_eq!((state.as_str(), health.as_str()), ("cordoned", "failed"));
    world.driver.restart().unwrap();
    world.driver.drain().unwrap();
    assert_eq!(told(&mut world).1, "failed");
}
