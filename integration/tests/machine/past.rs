//! The history on the disk: whatever happens, tenures of a slice never overlap, each has one begin and one end, and what
//! is open is what VMs have.

use crate::directed::{after, all, attach, declare, run, runs, stop};
use crate::driver::Driver;
use crate::happening::Happening as H;
use crate::invariants::{Broken, vfs_of};
use crate::world::World;
use gpuslice_core::history::{Entry, Line, Point, Reader, Tenure, Wanted};
use gpuslice_core::ids::{PciAddress, SliceId};
use gpuslice_core::request::HistoryRow;
use gpuslice_core::state::Phase;
use std::collections::BTreeMap;

/// The lines, and what is open after them.
#[derive(Debug, Clone, Default)]
pub struct Past {
    text: String,
    open: BTreeMap<SliceId, Tenure>,
}

impl Past {
    pub fn add(&mut self, now: u64, entries: &[Entry]) -> Result<(), Broken> {
        let rule = "tenures_never_overlap";
        for entry in entries {
            let slice = entry.tenure.slice;
            match (entry.event, self.open.remove(&slice)) {
                (Point::Begin, None) => drop(self.open.insert(slice, entry.tenure.clone())),
                (Point::End, Some(before)) if before == entry.tenure => {}
                (event, before) => {
                    let how = format!("{event:?} of {:?}, after {before:?}", entry.tenure);
                    return Err(Broken::new(rule, how));
                }
            }
            if (entry.event == Point::End) != entry.reason.is_some() {
                return Err(Broken::new("each_end_has_its_reason", format!("{entry:?}")));
            }
            let line = Line { at: format!("{now:020}"), entry: entry.clone() };
            self.text += &line.print().unwrap();
        }
        Ok(())
    }

    /// As a daemon reads it that starts.
    pub fn open(&self) -> BTreeMap<SliceId, Line> {
        self.reader(Wanted::default()).open()
    }

    pub fn rows(&self, wanted: Wanted) -> Vec<HistoryRow> {
        self.reader(wanted).rows()
    }

    fn reader(&self, wanted: Wanted) -> Reader {
        let mut reader = Reader::new(wanted);
        reader.read(self.text.as_bytes());
        assert_eq!(reader.damaged(), 0);
        reader
    }
}

/// After an event whose records were written.
pub fn says_who_has_what(driver: &Driver) -> Result<(), Broken> {
    let rule = "the_history_says_who_has_what";
    let run = driver.machine.runtime();
    let guessed = |slice| run.lost.as_ref().is_some_and(|lost| lost.guessed.contains(slice));
    let open = &driver.disk.history.open;
    for (slice, a) in &run.assignments {
        if !matches!(a.phase, Phase::Prepared | Phase::Attached) || guessed(slice) {
            continue;
        }
        let of = open.get(slice).map(|t| (&t.owner, t.claim.as_ref(), t.index, &t.parent));
        if of != Some((&a.claim.owner, Some(&a.claim.name), a.index, &a.parent)) {
            let how = format!("{slice} is {}'s, and the history has {of:?}", a.claim);
            return Err(Broken::new(rule, how));
        }
    }
    let unsure = run.lost.as_ref().is_some_and(|lost| !lost.looked);
    for (slice, tenure) in open {
        let assigned = run.assignments.get(slice).map(|a| &a.claim.owner);
        let foreign = run.foreign.get(slice).map(|hold| &hold.owner);
        if !unsure && assigned.or(foreign) != Some(&tenure.owner) {
            let how = format!("the history has {tenure:?}, and {assigned:?} or {foreign:?} it is");
            return Err(Broken::new(rule, how));
        }
    }
    Ok(())
}

/// Who had a slice, and how that ended; nothing for what goes on.
fn told(world: &World) -> Vec<(String, String)> {
    let rows = world.driver.disk.history.rows(Wanted::default());
    let told = |row: HistoryRow| (row.owner_name, row.reason.unwrap_or_default());
    rows.into_iter().map(told).collect()
}

fn of(vm: u8, reasons: &[&str]) -> Vec<(String, String)> {
    reasons.iter().map(|reason| (format!("vm{vm}"), (*reason).to_owned())).collect()
}

#[test]
fn a_vm_that_runs_and_stops_is_one_tenure() {
    for begin in [attach(0), declare(0)] {
        let mut world = after(&[begin]);
        assert_eq!(told(&world), []);
        all(&mut world, &run(0));
        assert_eq!(told(&world), of(0, &[""]));
        all(&mut world, &[H::Advance { ms: 1000 }]);
        all(&mut world, &stop(0));
        assert_eq!(told(&world), of(0, &["stopped"]));
        let rows = world.driver.disk.history.rows(Wanted::default());
        assert!(rows[0].from < rows[0].to && rows[0].profile.is_some(), "{rows:?}");
        all(&mut world, &run(0));
        assert_eq!(told(&world), of(0, &["stopped", ""]));
    }
}

#[test]
fn a_vm_that_goes_to_another_host_has_not_stopped() {
    let mut world = after(&[attach(0), declare(1)]);
    let foreign = H::Plain { vm: 2, slice: SliceId::Vf(free_vf(&world)), managed: true };
    all(&mut world, &[foreign]);
    for vm in 0..3 {
        all(&mut world, &run(vm));
    }
    all(&mut world, &[H::Advance { ms: 30_000 }]);
    for vm in 0..3 {
        all(&mut world, &[H::MigrateAway { vm }, H::Next { vm }]);
    }
    all(&mut world, &[H::Advance { ms: 30_000 }]);
    let ended = [0, 1, 2].map(|vm| of(vm, &["migrated"])).concat();
    let mut now = told(&world);
    now.sort();
    assert_eq!(now, ended);
    // It comes back, and stops here.
    all(&mut world, &run(0));
    all(&mut world, &stop(0));
    assert_eq!(told(&world).last(), of(0, &["stopped"]).last());
    world.finish().unwrap();
}

/// One of a GPU with a layout that nobody has as its home.
fn free_vf(world: &World) -> PciAddress {
    let homes = world.driver.machine.durable().claims.values().flat_map(|claim| &claim.home);
    let homes: Vec<PciAddress> = homes.copied().collect();
    let vfs = vfs_of(&world.driver.kernel, "0000:0c:00.0".parse().unwrap());
    vfs.into_iter().find(|vf| !homes.contains(vf)).unwrap()
}

#[test]
fn a_start_that_comes_to_nothing_is_told_as_such() {
    let mut world = after(&[attach(0), H::Start { vm: 0 }, H::HookDies { vm: 0 }]);
    all(&mut world, &[H::Advance { ms: 1000 }]);
    assert_eq!(told(&world), of(0, &["start-failed"]));
}

#[test]
fn a_daemon_that_is_killed_says_nothing_twice() {
    for after_effects in 0..40 {
        let mut world = after(&[attach(0)]);
        all(&mut world, &[H::Kill { after: after_effects }]);
        all(&mut world, &run(0));
        all(&mut world, &run(0));
        world.driver.restart().unwrap();
        all(&mut world, &[H::Advance { ms: 1000 }]);
        let going_on = told(&world).iter().filter(|(_, reason)| reason.is_empty()).count();
        assert!(going_on <= 1, "{:?}", told(&world));
        all(&mut world, &stop(0));
        all(&mut world, &[H::Advance { ms: 30_000 }]);
        assert!(told(&world).iter().all(|(_, reason)| !reason.is_empty()), "{:?}", told(&world));
    }
}

#[test]
fn a_boot_ends_what_was_going_on() {
    let mut world = after(&[attach(0), declare(1)]);
    all(&mut world, &run(0));
    all(&mut world, &run(1));
    all(&mut world, &[H::Reboot]);
    let mut ended = told(&world);
    ended.sort();
    assert_eq!(ended, [of(0, &["rebooted"]), of(1, &["rebooted"])].concat());
}

#[test]
fn a_record_that_was_lost_ends_nothing_of_what_goes_on() {
    let mut world = after(&[attach(0)]);
    all(&mut world, &run(0));
    all(&mut world, &[H::LoseRecord { claims: false }, H::Advance { ms: 1000 }]);
    assert_eq!(told(&world), of(0, &[""]));
    all(&mut world, &stop(0));
    assert_eq!(told(&world), of(0, &["stopped"]));
}

#[test]
fn what_cannot_be_recorded_is_not_told_before_it_is() {
    let full = |n| H::DiskFull { durable: 0, runtime: n };
    let mut world = after(&[attach(0), full(1)]);
    all(&mut world, &[H::Start { vm: 0 }, H::Next { vm: 0 }]);
    assert_eq!(told(&world), []);
    all(&mut world, &[H::Next { vm: 0 }]);
    all(&mut world, &run(0));
    assert!(runs(&world, 0));
    assert_eq!(told(&world), of(0, &[""]));
}
