//! For each mechanism, whatever can go wrong at its interface does: each attribute, each write with each errno and one
//! that never returns, and a GPU, a driver or a host that goes in mid-plan. Each failure is told with what to do; nothing
//! is given twice, nothing lost, no VM disturbed; and once it is mended all is as wished.

use crate::invariants::{Broken, slice_of};
use crate::reads::{Counting, general};
use crate::story::{Ready, Scene, Story, scenes};
use gpuslice_core::errno::Errno;
use gpuslice_core::observe::Observer;
use gpuslice_sim::{Content, Fault, Kernel};
use std::cell::RefCell;
use std::collections::BTreeMap;

/// No story here does as many things.
const MOST_POINTS: u32 = 400;

/// What a file, a link, a folder or a tool may answer instead.
fn wrong(path: &str) -> Vec<Fault> {
    // Even root may not read what is only written; a device or its driver may be gone, or in trouble.
    const ERRNOS: [Errno; 6] =
        [Errno::EACCES, Errno::EPERM, Errno::EIO, Errno::ENODEV, Errno::ENXIO, Errno::EBUSY];
    const CONTENTS: [Content; 7] = [
        Content::Empty,
        Content::NotUtf8,
        Content::TrailingBlanks,
        Content::TooLong,
        Content::Garbage,
        Content::OtherDigits,
        Content::Changing,
    ];
    let path = || path.to_owned();
    let mut faults = vec![
        Fault::Vanish { path: path(), nth: 1 },
        Fault::Vanish { path: path(), nth: 2 },
        Fault::Read { path: path(), nth: 2, times: 1, errno: Errno::EIO },
    ];
    let fails = |errno| Fault::Read { path: path(), nth: 1, times: u32::MAX, errno };
    faults.extend(ERRNOS.map(fails));
    faults.extend(CONTENTS.map(|as_| Fault::Reads { path: path(), as_ }));
    faults
}

/// What nothing can tell from the truth, and no kernel does: a list that is not there while its entries are, a device
/// that its list has and that is not there, and another number in the place of the type that a VF has.
fn believed(path: &str, fault: &Fault) -> bool {
    let gone = match fault {
        Fault::Vanish { .. } => true,
        Fault::Read { errno, times, .. } => *errno == Errno::ENODEV && *times > 1,
        _ => false,
    };
    let reads = |as_| *fault == Fault::Reads { path: path.to_owned(), as_ };
    let below = path.split("/devices").nth(1).filter(|_| path.starts_with("/sys/bus/"));
    let listed = below.is_some_and(|below| below.matches('/').count() < 2);
    let of_vf = path.ends_with("/current_vgpu_type");
    let other = reads(Content::OtherDigits) || reads(Content::Changing);
    // A tool's answer may be of any length.
    let long = path.starts_with("/usr/") && reads(Content::TooLong);
    listed && gone || of_vf && (gone || other) || long
}

/// What a type says once for all is asked for once; a daemon that is next asks again.
fn said_once(path: &str) -> bool {
    path.contains("/mdev_supported_types/") && !path.ends_with("/available_instances")
}

/// What a reading asks of a host, one of each kind of thing: that of the VM that runs, if it has one.
fn asked(scene: &Scene, ready: &Ready) -> Vec<String> {
    let story = scene.with_vm(ready).unwrap();
    let counting = Counting { kernel: &story.driver.kernel, asked: RefCell::default() };
    let seen = Observer::new(gpuslice_vendors::all()).observe(&counting);
    let of_vm = story.domain_of_first().map(|d| slice_of(&d.devices[0]).to_string());
    let mut one_of_each: BTreeMap<(String, String), String> = BTreeMap::new();
    for asked in counting.asked.into_inner().into_keys() {
        let (how, path) = asked.split_once(' ').unwrap();
        let path = if how == "ask" { path.split(' ').next().unwrap() } else { path };
        let kind = general(&seen, &asked);
        let preferred = of_vm.as_ref().is_some_and(|of| path.contains(of));
        let entry = one_of_each.entry(kind).or_insert_with(|| path.to_owned());
        if preferred {
            path.clone_into(entry);
        }
    }
    let mut paths: Vec<String> = one_of_each.into_values().collect();
    paths.sort();
    paths.dedup();
    paths
}

/// All that failed, told together.
///
/// `GPUSLICE_STORY=WORDS` tells those alone that have the words in their name. With `GPUSLICE_CASES` all are told, else one
/// in `one_in`, which has no divisor in common with the number of faults of a thing.
struct Failures {
    one_in: u32,
    stories: u32,
    told: Vec<String>,
}

impl Failures {
    fn new(one_in: u32) -> Self {
        let all = ["GPUSLICE_CASES", "GPUSLICE_STORY"].iter().any(|v| std::env::var(v).is_ok());
        Self { one_in: if all { 1 } else { one_in }, stories: 0, told: Vec::new() }
    }

    fn story(&mut self, scene: &Scene, what: &str, story: impl FnOnce() -> Result<(), Broken>) {
        let name = format!("{}: {what}", scene.name);
        if std::env::var("GPUSLICE_STORY").is_ok_and(|only| !name.contains(&only)) {
            return;
        }
        self.stories += 1;
        if self.stories.is_multiple_of(self.one_in)
            && let Err(broken) = story()
        {
            self.told.push(format!("{name}: {broken}"));
        }
    }

    fn none(self, at_least: u32) {
        println!("{} stories", self.stories);
        assert!(
            self.told.is_empty(),
            "{} of {}:\n{}",
            self.told.len(),
            self.stories,
            self.told.join("\n")
        );
        let all = std::env::var("GPUSLICE_STORY").is_err();
        assert!(!all || self.stories >= at_least, "{} stories", self.stories);
    }
}

/// A host that comes up with it: whatever is done meanwhile may be refused.
fn from_the_start(scene: &Scene, ready: &Ready, fault: &Fault) -> Result<(), Broken> {
    let mut story = scene.begun(Some(fault))?;
    people(&mut story)?;
    mended(story, ready, fault)
}

fn mended(mut story: Story<'_>, ready: &Ready, fault: &Fault) -> Result<(), Broken> {
    if let Fault::Reads { path, .. } | Fault::Read { path, .. } | Fault::Vanish { path, .. } = fault
        && said_once(path)
    {
        story.driver.kernel.clear_faults();
        story.driver.restart()?;
        story.driver.deaths = 0;
    }
    story.finish(ready)
}

fn people(story: &mut Story<'_>) -> Result<(), Broken> {
    drop(story.apply()?);
    for vm in 0..2 {
        story.attach(vm)?;
        story.start(vm)?;
    }
    story.driver.advance(60_000)?;
    for vm in 0..2 {
        story.stop(vm)?;
    }
    story.driver.advance(60_000)
}

/// It begins while a VM runs.
fn under_a_vm(scene: &Scene, ready: &Ready, fault: &Fault) -> Result<(), Broken> {
    let mut story = scene.with_vm(ready)?;
    story.driver.kernel.inject(fault.clone());
    for _ in 0..2 {
        story.driver.wake_up()?;
        story.driver.advance(60_000)?;
        story.undisturbed(ready)?;
        story.start(1)?;
        drop(story.apply()?);
        story.undisturbed(ready)?;
        story.stop(1)?;
        story.driver.restart()?;
        story.driver.deaths = 0;
    }
    story.stop(0)?;
    mended(story, ready, fault)
}

#[test]
fn each_attribute_may_read_wrong() {
    let mut failures = Failures::new(7);
    for scene in scenes() {
        let ready = scene.ready();
        for path in asked(&scene, &ready) {
            for fault in wrong(&path).into_iter().filter(|fault| !believed(&path, fault)) {
                let what = format!("{fault:?}");
                failures.story(&scene, &format!("{what} from the start"), || {
                    from_the_start(&scene, &ready, &fault)
                });
                failures.story(&scene, &format!("{what} under a VM"), || {
                    under_a_vm(&scene, &ready, &fault)
                });
            }
        }
    }
    failures.none(2000);
}

/// What the drivers' own writes may answer beside what is said in `exhaustive`.
fn errnos(file: &str) -> &'static [Errno] {
    let name = file.rsplit('/').next().unwrap_or_default();
    match name {
        "sriov_numvfs" => &[Errno::ENOENT, Errno::ERANGE, Errno::EBUSY, Errno::ENOMEM, Errno::EIO],
        "current_vgpu_type" => {
            &[Errno::EPERM, Errno::EIO, Errno::EINVAL, Errno::ENODEV, Errno::ENOSPC, Errno::EBUSY]
        }
        "current_compute_partition" => &[Errno::EBUSY, Errno::EPERM, Errno::EINVAL],
        "create" => &[Errno::EINVAL, Errno::EPERM, Errno::EIO, Errno::ENOSPC, Errno::ENODEV],
        "remove" => &[Errno::EINVAL, Errno::ENODEV, Errno::EAGAIN],
        // ENOTTY
        "reset" => &[Errno(25), Errno::EIO],
        _ => &[Errno::EINVAL, Errno::EIO, Errno::ENODEV, Errno::EBUSY],
    }
}

/// Files that a clean story writes, in the order of their first writes.
fn written(kernel: &Kernel) -> Vec<String> {
    let mut files = Vec::new();
    for line in kernel.log_lines() {
        let line: serde_json::Value = serde_json::from_str(&line).unwrap();
        let did = &line["did"][0];
        let file = did["write"]["file"].as_str().or_else(|| did["replace"]["file"].as_str());
        let module = did["load-module"].as_str().map(|name| format!("modprobe {name}"));
        if let Some(file) = file.map(str::to_owned).or(module)
            && !files.contains(&file)
        {
            files.push(file);
        }
    }
    files
}

/// How many things a daemon did to the host, plans and all.
fn done(kernel: &Kernel) -> u32 {
    const OF_DAEMON: [&str; 5] = ["write", "replace", "run", "load-module", "unload-module"];
    let of_daemon = |line: &String| {
        OF_DAEMON.iter().any(|what| line.contains(&format!("\"did\":[{{\"{what}\"")))
    };
    let lines = kernel.log_lines().into_iter().filter(of_daemon).count();
    u32::try_from(lines).unwrap()
}

fn whole_story(scene: &Scene) -> Story<'_> {
    let mut story = scene.begun(None).unwrap();
    people(&mut story).unwrap();
    story
}

#[test]
fn each_write_may_fail_or_never_return() {
    let mut failures = Failures::new(5);
    for scene in scenes() {
        let ready = scene.ready();
        for path in written(&whole_story(&scene).driver.kernel) {
            let mut faults = vec![
                Fault::Sleeps { path: path.clone(), nth: 1 },
                Fault::Sleeps { path: path.clone(), nth: 2 },
            ];
            for errno in errnos(&path) {
                for (nth, times) in [(1, 1), (1, u32::MAX), (2, 1)] {
                    faults.push(Fault::Write { path: path.clone(), nth, times, errno: *errno });
                }
            }
            for fault in faults {
                let what = format!("{fault:?}");
                failures.story(&scene, &what, || from_the_start(&scene, &ready, &fault));
                failures.story(&scene, &format!("{what} under a VM"), || {
                    under_a_vm(&scene, &ready, &fault)
                });
            }
        }
    }
    failures.none(500);
}

#[test]
fn a_gpu_or_its_driver_goes_in_mid_plan() {
    let mut failures = Failures::new(1);
    for scene in scenes() {
        let ready = scene.ready();
        let things = done(&whole_story(&scene).driver.kernel);
        for nth in 1..=things {
            for does in scene.hazards() {
                let what = format!("{does:?} before the {nth}th write");
                let fault = Fault::Before { nth, does: Box::new(does) };
                failures.story(&scene, &what, || from_the_start(&scene, &ready, &fault));
            }
        }
    }
    failures.none(100);
}

/// And one who asks people to start all anew.
#[test]
fn the_host_reboots_in_mid_plan() {
    let mut failures = Failures::new(3);
    for scene in scenes() {
        let ready = scene.ready();
        for after in 0..MOST_POINTS {
            let reached = RefCell::new(true);
            let go = || -> Result<(), Broken> {
                let mut story = scene.begun(None)?;
                story.driver.dies_after = Some(after);
                story.driver.dies_by_reboot = true;
                people(&mut story)?;
                *reached.borrow_mut() = story.driver.dies_after.is_none();
                story.finish(&ready)
            };
            failures.story(&scene, &format!("a reboot after {after}"), go);
            if !*reached.borrow() {
                break;
            }
        }
    }
    failures.none(100);
}
