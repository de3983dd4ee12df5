//! The whole engine on the simulated kernel: random hosts, domains, people, hardware, faults, crashes and reboots, with
//! the product's promises checked after each event. A failing run leaves its log in
//! `target/tmp/machine-TEST.jsonl`; `GPUSLICE_REPLAY=FILE cargo test -p gpuslice-integration --test machine
//! replay -- --nocapture` steps through it. `GPUSLICE_CASES` multiplies the number of runs.

#![cfg(test)]

#[path = "machine/actions.rs"]
mod actions;
#[path = "machine/agent.rs"]
mod agent;
#[path = "machine/another.rs"]
mod another;
#[path = "machine/answers.rs"]
mod answers;
#[path = "machine/applying.rs"]
mod applying;
#[path = "machine/beside.rs"]
mod beside;
#[path = "machine/busy.rs"]
mod busy;
#[path = "machine/calls.rs"]
mod calls;
#[path = "machine/cordoned.rs"]
mod cordoned;
#[path = "machine/directed.rs"]
mod directed;
#[path = "machine/disk.rs"]
mod disk;
#[path = "machine/domains.rs"]
mod domains;
#[path = "machine/drain.rs"]
mod drain;
#[path = "machine/driver.rs"]
mod driver;
#[path = "machine/edited.rs"]
mod edited;
#[path = "machine/everything.rs"]
mod everything;
#[path = "machine/exhaustive.rs"]
mod exhaustive;
#[path = "machine/fabric.rs"]
mod fabric;
#[path = "machine/faulty.rs"]
mod faulty;
#[path = "machine/fewer.rs"]
mod fewer;
#[path = "machine/finish.rs"]
mod finish;
#[path = "machine/gim.rs"]
mod gim;
#[path = "machine/gone.rs"]
mod gone;
#[path = "machine/group.rs"]
mod group;
#[path = "machine/guest.rs"]
mod guest;
#[path = "machine/hand.rs"]
mod hand;
#[path = "machine/happening.rs"]
mod happening;
#[path = "machine/hosts.rs"]
mod hosts;
#[path = "machine/identity.rs"]
mod identity;
#[path = "machine/idle.rs"]
mod idle;
#[path = "machine/incoming.rs"]
mod incoming;
#[path = "machine/invariants.rs"]
mod invariants;
#[path = "machine/late.rs"]
mod late;
#[path = "machine/left.rs"]
mod left;
#[path = "machine/libvirt.rs"]
mod libvirt;
#[path = "machine/looking.rs"]
mod looking;
#[path = "machine/lost.rs"]
mod lost;
#[path = "machine/made_up.rs"]
mod made_up;
#[path = "machine/matrix.rs"]
mod matrix;
#[path = "machine/mediating.rs"]
mod mediating;
#[path = "machine/met.rs"]
mod met;
#[path = "machine/mig.rs"]
mod mig;
#[path = "machine/missing.rs"]
mod missing;
#[path = "machine/mistakes.rs"]
mod mistakes;
#[path = "machine/of_host.rs"]
mod of_host;
#[path = "machine/older.rs"]
mod older;
#[path = "machine/one_vm.rs"]
mod one_vm;
#[path = "machine/parking.rs"]
mod parking;
#[path = "machine/past.rs"]
mod past;
#[path = "machine/people.rs"]
mod people;
#[path = "machine/picked.rs"]
mod picked;
#[path = "machine/place.rs"]
mod place;
#[path = "machine/plugging.rs"]
mod plugging;
#[path = "machine/reads.rs"]
mod reads;
#[path = "machine/ready.rs"]
mod ready;
#[path = "machine/refused.rs"]
mod refused;
#[path = "machine/replace.rs"]
mod replace;
#[path = "machine/reserved.rs"]
mod reserved;
#[path = "machine/returning.rs"]
mod returning;
#[path = "machine/room.rs"]
mod room;
#[path = "machine/scheduler.rs"]
mod scheduler;
#[path = "machine/serial.rs"]
mod serial;
#[path = "machine/silent.rs"]
mod silent;
#[path = "machine/storm.rs"]
mod storm;
#[path = "machine/story.rs"]
mod story;
#[path = "machine/stub.rs"]
mod stub;
#[path = "machine/taken_off.rs"]
mod taken_off;
#[path = "machine/tools.rs"]
mod tools;
#[path = "machine/undefined.rs"]
mod undefined;
#[path = "machine/unsliceable.rs"]
mod unsliceable;
#[path = "machine/unwell.rs"]
mod unwell;
#[path = "machine/vgpu.rs"]
mod vgpu;
#[path = "machine/waking.rs"]
mod waking;
#[path = "machine/watched.rs"]
mod watched;
#[path = "machine/wedged.rs"]
mod wedged;
#[path = "machine/whole.rs"]
mod whole;
#[path = "machine/wipe.rs"]
mod wipe;
#[path = "machine/wished.rs"]
mod wished;
#[path = "machine/world.rs"]
mod world;
#[path = "machine/yielded.rs"]
mod yielded;

use actions::{Action, actions, of_people};
use happening::Happening;
use hosts::{Host, hosts, read_log, write_log};
use invariants::Broken;
use proptest::strategy::Strategy;
use proptest::test_runner::{Config, TestCaseError, TestRunner};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use world::World;

const RUNS: u32 = 200;
const LONGEST: usize = 160;

/// Where a failing run of a test leaves its log.
fn failure_log(test: &str) -> std::path::PathBuf {
    std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("machine-{test}.jsonl"))
}

fn run(host: &Host, actions: &[Action], log: &mut Vec<Happening>) -> Result<World, Broken> {
    let mut world = World::on(host)?;
    for action in actions {
        if let Some(happening) = action.resolve(&world) {
            log.push(happening.clone());
            world.happen(&happening)?;
        }
    }
    world.finish()?;
    Ok(world)
}

/// How often which came to pass.
#[derive(Default)]
struct Counts {
    events: AtomicU64,
    starts: AtomicU64,
    plugs: AtomicU64,
}

fn hold(test: &str, runs: u32, actions: impl Strategy<Value = Vec<Action>>) -> Counts {
    let kept = failure_log(test);
    let times: u32 = std::env::var("GPUSLICE_CASES").map_or(1, |n| n.parse().unwrap());
    let config = Config {
        cases: runs * times,
        failure_persistence: None,
        max_shrink_iters: 1500,
        ..Config::default()
    };
    let counts = Counts::default();
    let result = TestRunner::new(config).run(&(hosts(), actions), |(host, actions)| {
        let mut log = Vec::new();
        let ended = catch_unwind(AssertUnwindSafe(|| run(&host, &actions, &mut log)));
        let broken = match ended {
            Ok(Ok(world)) => {
                counts.events.fetch_add(world.driver.handled, Ordering::Relaxed);
                counts.starts.fetch_add(u64::from(world.starts), Ordering::Relaxed);
                counts.plugs.fetch_add(u64::from(world.plugs), Ordering::Relaxed);
                return Ok(());
            }
            Ok(Err(broken)) => broken.to_string(),
            Err(_) => "panicked".to_owned(),
        };
        std::fs::write(&kept, write_log(&host, &log)).unwrap();
        Err(TestCaseError::fail(broken))
    });
    if let Err(failure) = result {
        let text = failure.to_string();
        let reason = text.split("minimal failing input").next().unwrap_or_default();
        panic!("{reason}\nlog of the shortest run found: {}", kept.display());
    }
    counts
}

#[test]
fn promises_hold_whatever_happens() {
    let Counts { events, starts, plugs } = hold("whatever-happens", RUNS, actions(LONGEST));
    let (events, starts) = (events.into_inner(), starts.into_inner());
    let plugs = plugs.into_inner();
    println!("{events} events, {starts} starts, {plugs} devices plugged in");
    assert!(plugs >= 10, "only {plugs} devices plugged in");
    assert!(events >= 20_000, "only {events} events");
    assert!(starts >= 500, "only {starts} VMs ever ran");
}

#[test]
fn promises_hold_whatever_people_do_to_domains() {
    let Counts { events, starts, plugs } =
        hold("whatever-people-do", RUNS / 4, of_people(LONGEST / 2));
    let (events, starts) = (events.into_inner(), starts.into_inner());
    println!("{events} events, {starts} starts, {} devices plugged in", plugs.into_inner());
    assert!(starts >= 50, "only {starts} VMs ever ran");
}

/// Steps through the log of a run, and says what the machine was told and ordered.
#[test]
fn replay() {
    let Ok(file) = std::env::var("GPUSLICE_REPLAY") else { return };
    let (host, happenings) = read_log(&std::fs::read_to_string(&file).unwrap());
    let mut world = World::on(&host).unwrap();
    world.driver.verbose = true;
    for happening in happenings {
        println!("{}", serde_json::to_string(&happening).unwrap());
        world.happen(&happening).unwrap();
    }
    println!("finish");
    world.finish().unwrap();
}

/// Logs of runs that failed once.
#[test]
fn runs_that_failed_once() {
    let dir = gpuslice_integration::root().join("integration/tests/machine/runs");
    let mut files: Vec<_> = std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()).collect();
    files.sort();
    assert!(!files.is_empty());
    for file in files {
        let (host, happenings) = read_log(&std::fs::read_to_string(&file).unwrap());
        let go = || -> Result<(), Broken> {
            let mut world = World::on(&host)?;
            happenings.iter().try_for_each(|happening| world.happen(happening))?;
            world.finish()
        };
        if let Err(broken) = go() {
            panic!("{}: {broken}", file.display());
        }
    }
}
