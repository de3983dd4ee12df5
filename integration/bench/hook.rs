//! The hook: on a domain that asks for nothing, and with a claim.

use crate::daemon::{Daemon, On};
use crate::report::Report;
use crate::time::{Times, by_turns};
use crate::{Setup, hosts};
use std::fs::File;
use std::io::Write as _;
use std::path::Path;
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

/// Against a static program that reads its input and ends, and against a dispatcher in bash.
pub(crate) fn without_slices(setup: &Setup, report: &mut Report) {
    let mut xml = tempfile::NamedTempFile::new().expect("make a file");
    let text = plain_domain();
    xml.write_all(text.as_bytes()).expect("write the XML");
    let arguments = ["plain", "prepare", "begin", "-"];
    let one = |program: &Path| run(program, &arguments, xml.path(), None);
    let (floor, hook) =
        (setup.statics.join("bench-floor"), setup.statics.join("gpuslice-qemu-hook"));
    let rounds = if setup.long { 2000 } else { 400 };
    let [floor, hook, bash] =
        by_turns(rounds, [&mut || one(&floor), &mut || one(&hook), &mut || one(&setup.dispatcher)]);
    report.say("domain XML without slices", format!("{} bytes, {rounds} runs", text.len()));
    say(report, "static program that reads its input", &floor);
    say(report, "gpuslice-qemu-hook", &hook);
    say(report, "bash dispatcher", &bash);
    report.at_most("hook / floor, medians", hook.median() / floor.median(), 1.5);
    report.at_most("hook / bash dispatcher, medians", hook.median() / bash.median(), 0.1);
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
    let (hook, socket) = (setup.statics.join("gpuslice-qemu-hook"), daemon.socket());
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
