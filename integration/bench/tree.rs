//! Listing types and devices on an inert tree of files, against mdevctl on the same tree. Neither can be helped by the
//! simulator: both read the files of a real file system.

use crate::daemon::{Daemon, Ground, On};
use crate::report::Report;
use crate::time::{Times, by_turns};
use crate::{Setup, hosts};
use gpuslice_core::request;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

const PARENTS: u32 = 160;
const TYPES: u32 = 25;

/// Where the kernel keeps a daemon and its askers differs from start to start, and with it how long each wakes the other.
const STARTS: usize = 5;

pub(crate) fn against_mdevctl(setup: &Setup, report: &mut Report) {
    if Command::new("mdevctl").arg("--version").output().is_err() {
        report.say("SKIPPED", "mdevctl is not installed");
        return;
    }
    let root = tempfile::tempdir().expect("make a folder");
    let kernel = hosts::with_a_device_on_each(&hosts::parents(PARENTS, TYPES));
    hosts::write_tree(&kernel, root.path());
    // mdevctl insists on its own folders.
    for folder in ["etc/mdevctl.d/scripts.d", "usr/lib/mdevctl/scripts.d"] {
        for kind in ["callouts", "notifiers"] {
            let folder = root.path().join(folder).join(kind);
            std::fs::create_dir_all(folder).expect("make mdevctl's folders");
        }
    }
    report.say("tree", format!("{PARENTS} parents x {TYPES} types, {PARENTS} devices"));

    let mdevctl = |arguments: &[&str]| {
        let mut command = Command::new("mdevctl");
        command.args(arguments).env("MDEVCTL_ENV_ROOT", root.path());
        command
    };
    let daemon = Daemon::start(setup, &On::Tree(root.path()));
    let count = |bytes: &[u8], text: &str| String::from_utf8_lossy(bytes).matches(text).count();
    let types = daemon.ask(&["profiles", "--types", "--json"]);
    let expected = (PARENTS * TYPES) as usize;
    assert_eq!(count(&types, "\"available_instances\""), expected, "gpuslice lists every type");
    let theirs = mdevctl(&["types", "--dumpjson"]).output().expect("run mdevctl").stdout;
    if count(&theirs, "\"available_instances\"") != expected {
        // Debian 12's does not know MDEVCTL_ENV_ROOT and looks at this machine's own /sys.
        report.say("SKIPPED", "this mdevctl cannot read another tree; cargo install mdevctl");
        return;
    }
    let slices = daemon.ask(&["slices", "--json"]);
    assert_eq!(count(&slices, "\"slice\""), PARENTS as usize, "gpuslice lists every device");

    let rounds = if setup.long { 200 } else { 40 };
    let [ours, theirs] = by_turns(
        rounds,
        [&mut || quiet(daemon.command(&["profiles", "--types", "--json"])), &mut || {
            quiet(mdevctl(&["types", "--dumpjson"]))
        }],
    );
    report
        .say("gpuslice profiles --types --json, warm, as root", format!("{:.2} ms", ours.median()));
    report.say("mdevctl types --dumpjson", format!("{:.2} ms", theirs.median()));
    report.at_least("types, times faster warm", theirs.median() / ours.median(), 10.0);
    by_bus(report, &daemon, "profiles --types", rounds);
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..STARTS {
        let daemon = Daemon::start(setup, &On::Tree(root.path()));
        let [slices, devices] = by_turns(
            rounds / STARTS,
            [&mut || quiet(daemon.command(&["slices", "--json"])), &mut || {
                quiet(mdevctl(&["list"]))
            }],
        );
        ours.push(slices);
        theirs.push(devices);
    }
    let by_start = Times::of(ours.iter().map(Times::middle).collect());
    let (ours, theirs) = (Times::together(ours), Times::together(theirs));
    report.say("gpuslice slices --json, warm, as root", format!("{:.2} ms", ours.median()));
    let spread = format!("{:.2} to {:.2} ms", by_start.fastest(), by_start.slowest());
    report.say(&format!("the same, medians of {STARTS} starts of gpusliced"), spread);
    report.say("mdevctl list", format!("{:.2} ms", theirs.median()));
    report.at_least("devices, times faster warm", theirs.median() / ours.median(), 10.0);
    by_bus(report, &daemon, "slices", rounds);

    // From the daemon's exec to its first answer. The bus is there before it, as on a host.
    let types = |ground: Ground| -> Vec<u8> {
        ground.launch(setup, &On::Tree(root.path())).ask_socket(request::Command::ListTypes)
    };
    assert_eq!(count(&types(Ground::new()), "\"available_instances\""), expected);
    let [mut cold, mut theirs] = [const { Vec::new() }; 2];
    for _ in 0..rounds.min(20) {
        let ground = Ground::new();
        let began = Instant::now();
        types(ground);
        cold.push(began.elapsed());
        let began = Instant::now();
        quiet(mdevctl(&["types", "--dumpjson"]));
        theirs.push(began.elapsed());
    }
    let (cold, theirs) = (Times::of(cold), Times::of(theirs));
    report
        .say("cold: daemon's exec to its first list of types", format!("{:.1} ms", cold.median()));
    report.at_most("cold / mdevctl types", cold.median() / theirs.median(), 0.5);
    calls(setup, report, root.path());
}

/// mdevctl is for root alone. Everybody else lists over the bus, which has no bar.
fn by_bus(report: &mut Report, daemon: &Daemon, list: &str, rounds: usize) {
    let arguments: Vec<&str> = list.split(' ').chain(["--json"]).collect();
    let [times] = by_turns(rounds, [&mut || quiet(daemon.command_by_bus(&arguments))]);
    report.say(&format!("the same over the bus: {list}"), format!("{:.2} ms", times.median()));
}

fn quiet(mut command: Command) {
    let status = command.stdout(Stdio::null()).status().expect("run a program");
    assert!(status.success(), "{command:?}");
}

/// System calls, where strace is there to count them.
fn calls(setup: &Setup, report: &mut Report, root: &Path) {
    if Command::new("strace").arg("--version").output().is_err() {
        report.say("system calls", "SKIPPED: strace is not installed");
        return;
    }
    let log = tempfile::NamedTempFile::new().expect("make a file");
    let counted = || -> usize {
        let text = std::fs::read_to_string(log.path()).expect("read strace's count");
        let total = text.lines().find(|line| line.ends_with(" total")).expect("a total");
        // % time, seconds, usecs/call, calls, errors, "total"
        total.split_whitespace().nth(3).and_then(|n| n.parse().ok()).expect("a number of calls")
    };
    let strace = |program: &Path| {
        let mut command = Command::new("strace");
        command.args(["-f", "-c", "-o"]).arg(log.path()).arg(program).stdout(Stdio::null());
        command
    };
    let mut theirs = strace(Path::new("mdevctl"));
    theirs.args(["types", "--dumpjson"]).env("MDEVCTL_ENV_ROOT", root);
    assert!(theirs.status().expect("run strace").success());
    report.say("system calls of mdevctl types --dumpjson", counted());

    let daemon = Daemon::start(setup, &On::Tree(root));
    let plain = daemon.command(&["profiles", "--types", "--json"]);
    let mut ours = strace(Path::new(plain.get_program()));
    ours.args(plain.get_args());
    for (key, value) in plain.get_envs() {
        if let Some(value) = value {
            ours.env(key, value);
        }
    }
    assert!(ours.status().expect("run strace").success());
    report.say("system calls of gpuslice profiles --types --json", counted());
}
