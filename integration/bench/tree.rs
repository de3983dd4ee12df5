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

/// What is the same of both: ours, and mdevctl's.
const TYPES_LISTED: ([&str; 3], [&str; 2]) =
    (["profiles", "--types", "--json"], ["types", "--dumpjson"]);
const DEVICES_LISTED: ([&str; 2], [&str; 1]) = (["slices", "--json"], ["list"]);

/// Where the kernel keeps a daemon and its askers differs from start to start, and with it how long each wakes the other.
const STARTS: usize = 5;

pub(crate) fn against_mdevctl(setup: &Setup, report: &mut Report) {
    if Command::new("mdevctl").arg("--version").output().is_err() {
        report.skipped("lists against mdevctl", "mdevctl is not installed");
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

    let mdevctl = |arguments: &[&str]| mdevctl(root.path(), arguments);
    let daemon = Daemon::start(setup, &On::Tree(root.path()));
    let count = |bytes: &[u8], text: &str| String::from_utf8_lossy(bytes).matches(text).count();
    let types = daemon.ask(&TYPES_LISTED.0);
    let expected = (PARENTS * TYPES) as usize;
    assert_eq!(count(&types, "\"available_instances\""), expected, "gpuslice lists every type");
    let theirs = mdevctl(&TYPES_LISTED.1).output().expect("run mdevctl").stdout;
    if count(&theirs, "\"available_instances\"") != expected {
        // Debian 12's does not know MDEVCTL_ENV_ROOT and looks at this machine's own /sys.
        let why = "this mdevctl cannot read another tree; integration/bench/run makes one that can";
        report.skipped("lists against mdevctl", why);
        return;
    }
    let slices = daemon.ask(&DEVICES_LISTED.0);
    assert_eq!(count(&slices, "\"slice\""), PARENTS as usize, "gpuslice lists every device");

    let rounds = if setup.long { 200 } else { 40 };
    let [ours, theirs] = by_turns(
        rounds,
        [&mut || quiet(daemon.command(&TYPES_LISTED.0)), &mut || quiet(mdevctl(&TYPES_LISTED.1))],
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
            [&mut || quiet(daemon.command(&DEVICES_LISTED.0)), &mut || {
                quiet(mdevctl(&DEVICES_LISTED.1))
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
    let first = |ground: Ground, list: &request::Command| -> Vec<u8> {
        ground.launch(setup, &On::Tree(root.path())).ask_socket(list.clone())
    };
    let (types, slices) = (request::Command::ListTypes, request::Command::ListSlices);
    assert_eq!(count(&first(Ground::new(), &types), "\"available_instances\""), expected);
    assert_eq!(count(&first(Ground::new(), &slices), "\"slice\""), PARENTS as usize);
    let cold = |list: &request::Command, theirs: &[&str]| {
        let [mut cold, mut other] = [const { Vec::new() }; 2];
        for _ in 0..rounds.min(20) {
            let ground = Ground::new();
            let began = Instant::now();
            first(ground, list);
            cold.push(began.elapsed());
            let began = Instant::now();
            quiet(mdevctl(theirs));
            other.push(began.elapsed());
        }
        (Times::of(cold).median(), Times::of(other).median())
    };
    let (ours, theirs) = cold(&types, &TYPES_LISTED.1);
    report.say("cold: daemon's exec to its first list of types", format!("{ours:.1} ms"));
    report.at_most("cold / mdevctl types", ours / theirs, 0.5);
    // The daemon has read every type by then, and mdevctl only the devices: no bar.
    let (ours, theirs) = cold(&slices, &DEVICES_LISTED.1);
    report.say("cold: daemon's exec to its first list of slices", format!("{ours:.1} ms"));
    report.say("cold / mdevctl list, which reads no types", format!("{:.2}", ours / theirs));
    calls(setup, report, root.path());
}

fn mdevctl(root: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new("mdevctl");
    command.args(arguments).env("MDEVCTL_ENV_ROOT", root);
    command
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
        return report.skipped("system calls", "strace is not installed");
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
    let mut count = |name: String, plain: &Command| {
        let mut traced = strace(Path::new(plain.get_program()));
        traced.args(plain.get_args());
        for (key, value) in plain.get_envs() {
            if let Some(value) = value {
                traced.env(key, value);
            }
        }
        assert!(traced.status().expect("run strace").success());
        report.say(&format!("system calls of {name}"), counted());
    };
    let daemon = Daemon::start(setup, &On::Tree(root));
    for (ours, theirs) in
        [(&TYPES_LISTED.0[..], &TYPES_LISTED.1[..]), (&DEVICES_LISTED.0, &DEVICES_LISTED.1)]
    {
        count(format!("mdevctl {}", theirs.join(" ")), &mdevctl(root, theirs));
        count(format!("gpuslice {}", ours.join(" ")), &daemon.command(ours));
    }
}
