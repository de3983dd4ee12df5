//! The daemon with nothing to do: memory and wakeups.

use crate::daemon::{Daemon, On};
use crate::report::Report;
use crate::{Setup, hosts};
use std::time::Duration;

pub(crate) fn at_rest(setup: &Setup, report: &mut Report) {
    let root = tempfile::tempdir().expect("make a folder");
    let kernel = hosts::with_a_device_on_each(&hosts::parents(160, 25));
    hosts::write_tree(&kernel, root.path());
    let daemon = Daemon::start(setup, &On::Tree(root.path()));
    for list in
        [&["profiles", "--types", "--json"][..], &["profiles", "--json"], &["slices", "--json"]]
    {
        daemon.ask(list);
    }
    // Longer than any ordinary period, so that a timer of half a minute shows in every run.
    let span = Duration::from_secs(if setup.long { 150 } else { 45 });
    // Threads that served the start end by themselves after a while.
    std::thread::sleep(Duration::from_secs(15));
    let before = daemon.wakeups();
    std::thread::sleep(span);
    let woken: u64 = daemon
        .wakeups()
        .iter()
        .map(|(thread, count)| count - before.get(thread).unwrap_or(&0))
        .sum();
    report.at_most("resident memory on 160 parents x 25 types, in MiB", daemon.memory(), 12.0);
    let what = format!("wakeups in {} s without a watchdog", span.as_secs());
    report.at_most(&what, woken as f64, 0.0);
}
