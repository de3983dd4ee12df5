//! For each mechanism, whatever can go wrong at its interface does: each attribute, each write with each errno and one
//! that never returns, and a GPU, a driver or a host that goes in mid-plan. Each failure is told with what to do; nothing
//! is given twice, nothing lost, no VM disturbed; and once it is mended all is as wished.

use crate::answers::{fails, written_by};
use crate::invariants::{Broken, slice_of};
use crate::reads::{Counting, general, needed};
use crate::story::{Ready, Scene, Story, scenes};
use gpuslice_core::errno::Errno;
use gpuslice_core::observation::Observation;
use gpuslice_core::observe::Observer;
use gpuslice_sim::{Content, Fault, Kernel};
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

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

/// One of each kind of thing that is asked for, by how and what: that of the VM that runs, if it has one.
type Things = BTreeMap<(String, String), String>;

fn one_of_each(seen: &Observation, of_vm: Option<&str>, asked: BTreeSet<String>) -> Things {
    let mut things = Things::new();
    for asked in asked {
        let (how, path) = asked.split_once(' ').unwrap();
        let path = if how == "ask" { path.split(' ').next().unwrap() } else { path };
        let kind = general(seen, &asked);
        let preferred = of_vm.is_some_and(|of| path.contains(of));
        let entry = things.entry(kind).or_insert_with(|| path.to_owned());
        if preferred {
            path.clone_into(entry);
        }
    }
    things
}

fn slice_of_first(story: &Story<'_>) -> Option<String> {
    story.domain_of_first().map(|domain| slice_of(&domain.devices[0]).to_string())
}

/// What a look at a host asks for.
fn looked_at(scene: &Scene, ready: &Ready) -> Things {
    let story = scene.with_vm(ready).unwrap();
    let counting = Counting { kernel: &story.driver.kernel, asked: RefCell::default() };
    let seen = Observer::new(gpuslice_vendors::all()).observe(&counting);
    let asked = counting.asked.into_inner().into_keys().collect();
    one_of_each(&seen, slice_of_first(&story).as_deref(), asked)
}

/// What only steps ask for. Of processes there is no list: one that cannot be looked into holds whatever there is.
fn looked_at_by_steps(scene: &Scene, ready: &Ready) -> BTreeSet<String> {
    let mut things = Things::new();
    let mut up = scene.begun(None).unwrap();
    let mut change = scene.with_vm(ready).unwrap();
    for story in [&mut up, &mut change] {
        story.driver.asked = Some(RefCell::default());
    }
    people(&mut up).unwrap();
    changed(&mut change, None).unwrap();
    for mut story in [up, change] {
        let asked = story.driver.asked.take().unwrap_or_default().into_inner();
        let of_vm = slice_of_first(&story);
        let seen = story.driver.machine.observation();
        things.extend(one_of_each(seen, of_vm.as_deref(), asked));
    }
    let known = looked_at(scene, ready);
    things.retain(|kind, path| !known.contains_key(kind) && !path.starts_with("/proc"));
    things.into_values().collect()
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

pub fn people(story: &mut Story<'_>) -> Result<(), Broken> {
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
        let by_looks: BTreeSet<String> = looked_at(&scene, &ready).into_values().collect();
        for path in by_looks {
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
        for path in looked_at_by_steps(&scene, &ready) {
            for fault in wrong(&path).into_iter().filter(|fault| !believed(&path, fault)) {
                let what = format!("{fault:?}");
                failures.story(&scene, &format!("{what} over a change"), || {
                    over_a_change(&scene, &ready, &fault)
                });
                failures.story(&scene, &format!("{what} under a VM"), || {
                    under_a_vm(&scene, &ready, &fault)
                });
            }
        }
    }
    failures.none(2000);
}

/// It waits until the GPU's layout is made, and that is what fails.
#[test]
fn a_release_is_not_begun_on_what_is_quarantined_while_it_waits_for_its_turn() {
    let scene = scenes().into_iter().find(|scene| scene.name == "a hive under gim").unwrap();
    let path = "/etc/modprobe.d/gpuslice-gim.conf".to_owned();
    let fault = Fault::Reads { path, as_: Content::OtherDigits };
    under_a_vm(&scene, &scene.ready(), &fault).unwrap();
}

/// Whatever a look at any host asks for is in one of the stories, so what is new there has to be in a scene.
#[test]
fn each_attribute_that_is_read_is_in_a_story() {
    let mut told: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for scene in scenes() {
        for (kind, name) in looked_at(&scene, &scene.ready()).into_keys() {
            told.entry(kind).or_default().insert(name);
        }
    }
    let mut needed = needed();
    // It is not there: nothing can be wrong with what it says.
    needed.get_mut("host").unwrap().retain(|asked| !asked.starts_with("seek "));
    for (kind, names) in needed {
        let of_kind = told.remove(&kind).unwrap_or_default();
        let missing: Vec<_> = names.difference(&of_kind).collect();
        assert!(missing.is_empty(), "{kind}: no scene asks for {missing:?}");
    }
}

/// What a daemon and its former ones wrote to: files, command lines of tools, modules.
pub fn done_to(kernel: &Kernel) -> BTreeSet<String> {
    let lines = kernel.log_lines().into_iter();
    let done = lines.filter_map(|line| {
        let line: serde_json::Value = serde_json::from_str(&line).unwrap();
        let did = &line["did"][0];
        let file = did["write"]["file"].as_str().or_else(|| did["replace"]["file"].as_str());
        let module = |how: &str, what| did[what].as_str().map(|name| format!("{how} {name}"));
        let words = did["run"].as_array().map(|words| {
            let words: Vec<&str> = words.iter().filter_map(|word| word.as_str()).collect();
            words.join(" ")
        });
        let module =
            module("modprobe", "load-module").or_else(|| module("modprobe -r", "unload-module"));
        file.map(str::to_owned).or(module).or(words)
    });
    done.collect()
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

/// What people do where all is well.
pub fn whole_story(scene: &Scene) -> Story<'_> {
    let mut story = scene.begun(None).unwrap();
    people(&mut story).unwrap();
    story
}

/// The layout becomes another, and what it was.
pub fn changed(story: &mut Story<'_>, fault: Option<&Fault>) -> Result<(), Broken> {
    story.stop(0)?;
    story.driver.advance(60_000)?;
    if let Some(fault) = fault {
        story.driver.kernel.inject(fault.clone());
    }
    for config in [&story.scene.other, &story.scene.config] {
        story.driver.config.clone_from(config);
        drop(story.apply()?);
        story.driver.advance(60_000)?;
    }
    Ok(())
}

fn over_a_change(scene: &Scene, ready: &Ready, fault: &Fault) -> Result<(), Broken> {
    let mut story = scene.with_vm(ready)?;
    changed(&mut story, Some(fault))?;
    mended(story, ready, fault)
}

#[test]
fn each_write_may_fail_or_never_return() {
    let mut failures = Failures::new(5);
    for scene in scenes() {
        let ready = scene.ready();
        let (up, more) = written_by(&scene, &ready);
        let faults = |written: &String| {
            let sleeps = [1, 2].map(|nth| Fault::Sleeps { path: written.clone(), nth });
            let fails = [(1, 1), (1, u32::MAX), (2, 1)].map(|(nth, n)| fails(written, nth, n));
            sleeps.into_iter().chain(fails.into_iter().flatten()).collect::<Vec<_>>()
        };
        for fault in up.iter().flat_map(faults) {
            let what = format!("{fault:?}");
            failures.story(&scene, &what, || from_the_start(&scene, &ready, &fault));
            failures.story(&scene, &format!("{what} under a VM"), || {
                under_a_vm(&scene, &ready, &fault)
            });
        }
        let refusals = scene.refusals();
        for fault in more.iter().chain(&up).flat_map(faults).chain(refusals) {
            let what = format!("{fault:?} over a change");
            failures.story(&scene, &what, || over_a_change(&scene, &ready, &fault));
        }
    }
    failures.none(2000);
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
        for nth in 1..=changes(&scene, &ready) {
            for does in scene.hazards() {
                let what = format!("{does:?} before the {nth}th write of a change");
                let fault = Fault::Before { nth, does: Box::new(does) };
                failures.story(&scene, &what, || over_a_change(&scene, &ready, &fault));
            }
        }
    }
    failures.none(200);
}

/// How many things a change of the layout does to the host.
fn changes(scene: &Scene, ready: &Ready) -> u32 {
    let mut story = scene.with_vm(ready).unwrap();
    let before = done(&story.driver.kernel);
    changed(&mut story, None).unwrap();
    done(&story.driver.kernel) - before
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
        for after in 0..MOST_POINTS {
            let reached = RefCell::new(true);
            let go = || -> Result<(), Broken> {
                let mut story = scene.with_vm(&ready)?;
                story.driver.dies_after = Some(after);
                story.driver.dies_by_reboot = true;
                changed(&mut story, None)?;
                *reached.borrow_mut() = story.driver.dies_after.is_none();
                story.finish(&ready)
            };
            failures.story(&scene, &format!("a reboot after {after} of a change"), go);
            if !*reached.borrow() {
                break;
            }
        }
    }
    failures.none(100);
}
