//! Stories of GPUs that the kernel's log says something against.

use crate::directed::{after, all, attach, run, runs, stop};
use crate::happening::Happening as H;
use crate::world::World;
use gpuslice_core::request::{Answer, Command, ParentRow};

const CARD: &str = "0000:0c:00.0";
const XID: &str = "NVRM: Xid (PCI:0000:0c:00): 79, pid=1, GPU has fallen off the bus.";
const GUARD: &str = "gim 0000:0c:00.0: Event 0x1 overflow.";

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
    assert_eq!(told(&mut world).1, "failed");
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

#[test]
fn what_the_log_says_is_known_also_when_it_cannot_be_recorded() {
    let mut world = after(&[H::DiskFull { durable: 1, runtime: 0 }, say(XID)]);
    let (state, health, _) = told(&mut world);
    assert_eq!((state.as_str(), health.as_str()), ("cordoned", "failed"));
    world.driver.restart().unwrap();
    world.driver.drain().unwrap();
    assert_eq!(told(&mut world).1, "failed");
}
