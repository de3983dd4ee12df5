//! Every plan of n steps, killed at each of its points and failed at each write with each errno that the kernel
//! has for it: what is promised holds on the way, and what is left is as wished, as before, or a device that is
//! not touched and says how to clear it.

use crate::happening::Happening;
use crate::invariants::{Broken, vfs_of};
use crate::world::{State, World};
use gpuslice_core::errno::Errno;
use gpuslice_core::ids::ClaimName;
use gpuslice_core::port::HostRead;
use gpuslice_sim::Fault;

/// Writes a plan can make, and what the kernel answers to them: drivers/pci/iov.c and what `pci_enable_sriov`
/// hands up, drivers/base/bus.c, drivers/vfio/mdev with its drivers' own.
const WRITES: [(&str, &[Errno]); 8] = [
    (
        "*/sriov_numvfs",
        &[
            Errno::EINVAL,
            Errno::ERANGE,
            Errno::ENOENT,
            Errno::EBUSY,
            Errno::ENOMEM,
            Errno::EIO,
            Errno::ENOSYS,
            Errno::ENODEV,
        ],
    ),
    ("*/sriov_drivers_autoprobe", &[Errno::EINVAL, Errno::EIO]),
    ("*/driver_override", &[Errno::EINVAL, Errno::ENOMEM, Errno::ENODEV]),
    ("*/drivers_probe", &[Errno::ENODEV, Errno::EINVAL, Errno::EBUSY]),
    ("*/unbind", &[Errno::ENODEV, Errno::EIO]),
    (
        "*/create",
        &[
            Errno::EINVAL,
            Errno::EEXIST,
            Errno::ENODEV,
            Errno::EUSERS,
            Errno::ENOSPC,
            Errno::ENOMEM,
            Errno::EPERM,
            Errno::EIO,
        ],
    ),
    // drivers/pci/pci.c: ENOTTY when it did not come back, which is 25.
    ("*/reset", &[Errno(25), Errno::EINVAL, Errno::EIO]),
    ("*/remove", &[Errno::EINVAL, Errno::ENODEV, Errno::EAGAIN, Errno::EIO]),
];

/// No plan here makes so many effects and writes.
const MOST_POINTS: u32 = 200;

/// A plan: how to get to where it begins, and what begins it.
struct Plan {
    name: &'static str,
    before: Vec<Happening>,
    begin: Vec<Happening>,
}

fn name() -> ClaimName {
    "gpu0".parse().unwrap()
}

fn attach(profile: &str) -> Happening {
    let (name, profile) = (name(), profile.to_owned());
    Happening::Attach { vm: 0, name, profile, count: 1, pool: false, reserve: false }
}

fn declare(count: u32) -> Happening {
    Happening::Declare { vm: 0, name: name(), profile: "nvidia-a40-4q".to_owned(), count }
}

fn start() -> Happening {
    Happening::Start { vm: 0 }
}

fn next() -> Happening {
    Happening::Next { vm: 0 }
}

fn plugged() -> ClaimName {
    "gpu1".parse().unwrap()
}

fn plug(profile: &str) -> Happening {
    let (name, profile) = (plugged(), profile.to_owned());
    Happening::HotPlug { vm: 0, name, profile, count: 1, keep: false }
}

fn plug_next() -> Happening {
    Happening::HotPlugNext { vm: 0, dies: false }
}

fn stop() -> Happening {
    Happening::Stop { vm: 0, linger: false }
}

/// The late card comes, so that nothing else happens meanwhile.
fn late() -> Happening {
    Happening::Advance { ms: 61_000 }
}

fn plans() -> Vec<Plan> {
    let edit = |config| Happening::Edit { config };
    let pf = "0000:0c:00.0".parse().unwrap();
    let plan = |name, before, begin| Plan { name, before, begin };
    vec![
        plan(
            "bring up 8 VFs",
            vec![late(), Happening::Unplug { address: pf }],
            vec![Happening::Plug { address: pf }],
        ),
        plan("prepare an mdev", vec![late(), declare(1)], vec![start(), next(), next()]),
        plan("prepare two mdevs", vec![late(), declare(2)], vec![start(), next(), next()]),
        plan("prepare a VF", vec![late(), attach("amd-74a1-vf8")], vec![start(), next(), next()]),
        plan(
            "release an mdev",
            vec![late(), declare(1), start(), next(), next()],
            vec![stop(), next()],
        ),
        plan(
            "release a VF",
            vec![late(), attach("amd-74a1-vf8"), start(), next(), next()],
            vec![stop(), next()],
        ),
        plan(
            "release a VF that has to be clean",
            vec![
                late(),
                edit(1),
                Happening::Apply,
                attach("amd-74a1-vf4"),
                start(),
                next(),
                next(),
            ],
            vec![stop(), next()],
        ),
        plan(
            "hot-plug an mdev",
            vec![late(), declare(1), start(), next(), next()],
            vec![plug("nvidia-a40-4q"), plug_next()],
        ),
        plan(
            "hot-plug a VF",
            vec![late(), declare(1), start(), next(), next()],
            vec![plug("amd-74a1-vf8"), plug_next()],
        ),
        plan(
            "hot-unplug a VF",
            vec![late(), declare(1), start(), next(), next(), plug("amd-74a1-vf8"), plug_next()],
            vec![Happening::HotUnplug { vm: 0, name: plugged(), by_hand: true }],
        ),
        plan(
            "reshape from 4 to 8",
            vec![late(), edit(1), Happening::Apply, edit(0)],
            vec![Happening::Apply],
        ),
        plan("bind from the start", vec![late(), edit(2)], vec![Happening::Apply]),
    ]
}

fn prepared(plan: &Plan) -> Result<World, Broken> {
    let mut world = World::new()?;
    for happening in &plan.before {
        world.happen(happening)?;
    }
    world.driver.drain()?;
    Ok(world)
}

fn go(world: &mut World, plan: &Plan) -> Result<(), Broken> {
    for happening in &plan.begin {
        world.happen(happening)?;
        world.driver.advance(100)?;
    }
    world.driver.advance(120_000)
}

/// VFs of the card all these plans are about, and mdevs.
fn shape(world: &World) -> (usize, usize) {
    let kernel = &world.driver.kernel;
    let mdevs = kernel.list("/sys/bus/mdev/devices").unwrap_or_default().len();
    (vfs_of(kernel, "0000:0c:00.0".parse().unwrap()).len(), mdevs)
}

/// As wished, as before, or kept from being touched with a word on how to clear it.
fn ended_well(world: &World, before: (usize, usize), wished: (usize, usize)) -> Result<(), Broken> {
    let now = shape(world);
    let durable = world.driver.machine.durable();
    let told = durable.quarantines.values().all(|why| why.hint.is_some());
    let kept = !durable.quarantines.is_empty() && told;
    if kept || now == wished || now == before {
        return Ok(());
    }
    let how = format!("{now:?}, was {before:?}, wished {wished:?}: {:?}", durable.quarantines);
    Err(Broken::new("wished_or_before_or_quarantined", how))
}

fn wished(plan: &Plan) -> (usize, usize) {
    let mut world = prepared(plan).unwrap();
    go(&mut world, plan).unwrap();
    assert!(world.driver.machine.durable().quarantines.is_empty(), "{}", plan.name);
    shape(&world)
}

#[test]
fn killed_at_each_point() {
    for plan in plans() {
        let wished = wished(&plan);
        let mut points = 0;
        for after in 0..MOST_POINTS {
            let broken = |broken: Broken| panic!("{}, killed after {after}: {broken}", plan.name);
            let mut world = prepared(&plan).unwrap();
            let before = shape(&world);
            world.driver.dies_after = Some(after);
            if let Err(rule) = go(&mut world, &plan) {
                broken(rule);
            }
            let reached = world.driver.dies_after.is_none();
            world.driver.dies_after = None;
            if let Err(rule) = ended_well(&world, before, wished).and_then(|()| world.finish()) {
                broken(rule);
            }
            if !reached {
                break;
            }
            points = after + 1;
        }
        println!("{}: {points} points", plan.name);
        assert!((2..MOST_POINTS).contains(&points), "{}: {points} points", plan.name);
    }
}

#[test]
fn failed_at_each_write() {
    for plan in plans() {
        let wished = wished(&plan);
        let mut failures = 0;
        for (path, errnos) in WRITES {
            for errno in errnos {
                for (nth, times) in (1..=10).flat_map(|nth| [(nth, 1), (nth, u32::MAX)]) {
                    let what = || format!("{}: {path} {nth} × {times}: {errno}", plan.name);
                    let mut world = prepared(&plan).unwrap();
                    let before = shape(&world);
                    let fault = Fault::Write { path: path.to_owned(), nth, times, errno: *errno };
                    world.driver.kernel.inject(fault);
                    if let Err(rule) = go(&mut world, &plan) {
                        panic!("{}: {rule}", what());
                    }
                    if !struck(&world, *errno, path) {
                        break;
                    }
                    let lasting = times == u32::MAX;
                    let well = if lasting { Ok(()) } else { ended_well(&world, before, wished) };
                    if let Err(rule) = well.and_then(|()| world.finish()) {
                        panic!("{}: {rule}", what());
                    }
                    failures += 1;
                }
            }
        }
        println!("{}: {failures} failures", plan.name);
        assert!(failures >= 4, "{}: {failures} failures", plan.name);
    }
}

/// Whether the fault came to its turn.
fn struck(world: &World, errno: Errno, path: &str) -> bool {
    let ending = path.trim_start_matches('*');
    let failed = format!("{{\"failed\":{}}}", errno.0);
    let lines = world.driver.kernel.log_lines();
    lines.iter().any(|line| line.contains(&failed) && line.contains(&format!("{ending}\"")))
}

/// A start that finds nothing free succeeds as soon as another VM has stopped.
#[test]
fn a_start_refused_for_capacity_succeeds_later() {
    let whole = |vm| {
        let profile = "nvidia-a40-8q".to_owned();
        Happening::Declare { vm, name: name(), profile, count: 1 }
    };
    let second = || [Happening::Start { vm: 1 }, Happening::Next { vm: 1 }];
    let mut world = World::new().unwrap();
    let mut all = |happenings: &[Happening]| {
        happenings.iter().for_each(|happening| world.happen(happening).unwrap());
        let states = [world.guests[&0].state, world.guests[&1].state];
        let codes: Vec<_> = world.refusals.keys().map(|code| code.as_str()).collect();
        (states.map(|state| matches!(state, State::Launched(_) | State::Running(_))), codes)
    };
    assert_eq!(all(&[late(), whole(0), whole(1), start(), next(), next()]).0, [true, false]);
    assert_eq!(all(&second()), ([true, false], vec!["no-capacity"]));
    // libvirt tells of the failed start, then the other VM stops.
    all(&[Happening::Next { vm: 1 }, stop(), next()]);
    // Its driver has time to remove the device itself.
    all(&[Happening::Start { vm: 1 }, Happening::Advance { ms: 10_500 }]);
    assert_eq!(all(&[Happening::Next { vm: 1 }]).0, [false, true]);
    world.finish().unwrap();
}
