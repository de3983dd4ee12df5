//! The hook: on a domain that asks for nothing, and with a claim.

use crate::daemon::{Daemon, On};
use crate::report::Report;
use crate::time::{Times, by_turns};
use crate::{Setup, hosts};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use std::fs::{File, Permissions};
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

/// A domain of about 15 KB, as a desktop VM has it: many devices, none of ours.
fn plain_domain() -> String {
    let mut devices = String::new();
    for number in 1..=60 {
        devices.push_str(&format!(
            "    <controller type='pci' index='{number}' model='pcie-root-port'>\n      \
             <model name='pcie-root-port'/>\n      <target chassis='{number}' port='0x{number:x}'/>\n      \
             <address type='pci' domain='0x0000' bus='0x00' slot='0x02' function='0x0'/>\n    \
             </controller>\n"
        ));
    }
    format!(
        "<domain type='kvm' id='1'>\n  <name>plain</name>\n  \
         <uuid>8e2f2d4e-1b5f-4a4e-9f57-0d9c6f1c6a11</uuid>\n  <memory unit='KiB'>8388608</memory>\n  \
         <devices>\n    <emulator>/usr/bin/qemu-system-x86_64</emulator>\n{devices}  </devices>\n\
         </domain>\n"
    )
}

fn run(program: &Path, arguments: &[&str], xml: &Path, socket: Option<&Path>) {
    let mut command = Command::new(program);
    command.args(arguments).stdin(File::open(xml).expect("open the XML")).stdout(Stdio::null());
    if let Some(socket) = socket {
        command.env("GPUSLICE_SOCKET", socket);
    }
    let status = command.status().expect("run a hook");
    assert!(status.success(), "{} {arguments:?}: {status}", program.display());
}

/// Against a static program that reads its input and ends, and against a dispatcher in bash: one that has a script for
/// the VM, which is what it is installed for, and one that finds none.
pub(crate) fn without_slices(setup: &Setup, report: &mut Report) {
    let mut xml = tempfile::NamedTempFile::new().expect("make a file");
    let text = plain_domain();
    xml.write_all(text.as_bytes()).expect("write the XML");
    let arguments = ["plain", "prepare", "begin", "-"];
    let one = |program: &Path| run(program, &arguments, xml.path(), None);
    let (floor, hook) =
        (setup.programs.join("bench-floor"), setup.programs.join("gpuslice-qemu-hook"));
    let folder = tempfile::tempdir().expect("make a folder");
    let serving = with_a_script(folder.path(), &setup.dispatcher, &arguments[..3]);
    let rounds = if setup.long { 2000 } else { 400 };
    let [floor, hook, serving, idle] = on_one_processor(|| {
        by_turns(
            rounds,
            [&mut || one(&floor), &mut || one(&hook), &mut || one(&serving), &mut || {
                one(&setup.dispatcher)
            }],
        )
    });
    let size = format!("{} bytes, {rounds} runs on one processor", text.len());
    report.say("domain XML without slices", size);
    say(report, "static program that reads its input", &floor);
    say(report, "gpuslice-qemu-hook", &hook);
    say(report, "bash dispatcher with an empty script for the VM", &serving);
    say(report, "bash dispatcher without one", &idle);
    report.at_most("hook / floor, medians", hook.median() / floor.median(), 1.5);
    let name = "hook / bash dispatcher with a script, medians";
    report.at_most(name, hook.median() / serving.median(), 0.1);
    let ratios = [hook.median() / idle.median(), floor.median() / idle.median()];
    let text = format!("{:.2}, of which the floor is {:.2}", ratios[0], ratios[1]);
    report.say("hook / bash dispatcher without a script, medians", text);
}

/// The dispatcher in a folder of its own, with a script that does nothing where it looks for one.
fn with_a_script(folder: &Path, dispatcher: &Path, call: &[&str]) -> PathBuf {
    let scripts = call.iter().fold(folder.join("qemu.d"), |path, part| path.join(part));
    std::fs::create_dir_all(&scripts).expect("make the folders of scripts");
    let script = scripts.join("start.sh");
    std::fs::write(&script, "#!/bin/bash\n:\n").expect("write a script");
    std::fs::set_permissions(&script, Permissions::from_mode(0o755)).expect("make it a program");
    let copy = folder.join("qemu");
    std::fs::copy(dispatcher, &copy).expect("copy the dispatcher");
    copy
}

/// Keeps this thread and what it starts on one processor: what is compared here lives a millisecond, and the wake-up of
/// another processor is no part of it.
fn on_one_processor<T>(measure: impl FnOnce() -> T) -> T {
    let all = sched_getaffinity(None).expect("read the processors");
    let mut one = CpuSet::new();
    one.set((0..CpuSet::MAX_CPU).find(|cpu| all.is_set(*cpu)).expect("there is a processor"));
    sched_setaffinity(None, &one).expect("choose a processor");
    let measured = measure();
    sched_setaffinity(None, &all).expect("choose all processors");
    measured
}

/// The whole way of a start: hook, socket, placement, plan, two records on disk, reply. The device itself is simulated and
/// takes no time.
pub(crate) fn with_a_claim(setup: &Setup, report: &mut Report) {
    let host = tempfile::NamedTempFile::new().expect("make a file");
    std::fs::write(host.path(), hosts::cards(8, 8)).expect("write the host");
    let config = "[[gpu]]\nmatch = { driver = \"gpusim\" }\nlayout = { vfs = 8 }\n";
    let daemon = Daemon::start(setup, &On::Sim { host: host.path(), config });
    daemon.ask(&["apply"]);
    daemon.ask(&["wait", "--settled", "--timeout", "60"]);
    let uuid = "8e2f2d4e-1b5f-4a4e-9f57-0d9c6f1c6a11";
    let printed = daemon.ask(&["attach", uuid, "amd-74a1-vf8", "--print"]);
    let xml = tempfile::NamedTempFile::new().expect("make a file");
    std::fs::write(xml.path(), domain_with(uuid, &String::from_utf8_lossy(&printed)))
        .expect("write the XML");
    let (hook, socket) = (setup.programs.join("gpuslice-qemu-hook"), daemon.socket());
    let rounds = if setup.long { 2000 } else { 300 };
    let (mut prepare, mut release) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        let began = Instant::now();
        run(&hook, &["vm", "prepare", "begin", "-"], xml.path(), Some(&socket));
        prepare.push(began.elapsed());
        run(&hook, &["vm", "stopped", "end", "-"], xml.path(), Some(&socket));
        let began = Instant::now();
        run(&hook, &["vm", "release", "end", "shutdown"], xml.path(), Some(&socket));
        release.push(began.elapsed());
    }
    let (prepare, release) = (Times::of(prepare), Times::of(release));
    report.say("simulated kernel, one claim", format!("{rounds} starts and stops"));
    say(report, "prepare", &prepare);
    say(report, "release", &release);
    report.at_most("prepare, p99 in ms", prepare.p99(), 5.0);
}

/// A domain around what `attach --print` gave.
pub(crate) fn domain_with(uuid: &str, printed: &str) -> String {
    let at = printed.find("<hostdev").expect("attach --print gives a hostdev");
    let (metadata, device) = printed.split_at(at);
    format!(
        "<domain type='kvm'><name>vm</name><uuid>{uuid}</uuid>{metadata}\
         <memory unit='GiB'>1</memory><devices>{device}</devices></domain>"
    )
}

fn say(report: &mut Report, what: &str, times: &Times) {
    let text = format!("median {:.3} ms, p99 {:.3} ms", times.median(), times.p99());
    report.say(what, text);
}
