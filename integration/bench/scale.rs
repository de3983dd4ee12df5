//! Thousands of slices: how time and memory grow. The kernel is simulated and answers at once, so this is our part alone.

use crate::daemon::{Daemon, Ground, On};
use crate::report::Report;
use crate::time::{Times, by_turns};
use crate::{Setup, hosts};
use gpuslice_core::request;
use std::process::Stdio;
use std::time::{Duration, Instant};

pub(crate) fn with_thousands(setup: &Setup, report: &mut Report) {
    let config = "[[gpu]]\nmatch = { driver = \"gpusim\" }\nlayout = { vfs = \"all\" }\n";
    let mut before: Option<(f64, f64, f64)> = None;
    for pfs in [4_u32, 16, 64] {
        let slices = pfs * 64;
        let host = tempfile::NamedTempFile::new().expect("make a file");
        std::fs::write(host.path(), hosts::cards(pfs, 64)).expect("write the host");
        // From the daemon's exec, through the first reading and every layout, to its word that all is done.
        let settle = || -> (Daemon, Duration) {
            let ground = Ground::new();
            let began = Instant::now();
            let mut daemon = ground.launch(setup, &On::Sim { host: host.path(), config });
            let done = daemon.ask_socket(request::Command::WaitSettled { timeout_ms: 600_000 });
            let took = began.elapsed();
            assert!(String::from_utf8_lossy(&done).contains("\"settled\""), "{done:?}");
            (daemon, took)
        };
        let (daemon, first) = settle();
        let others = (0..4).map(|_| settle().1);
        let settled = Times::of(others.chain([first]).collect()).median();
        let listed = daemon.ask(&["slices", "--json"]);
        let rows = String::from_utf8_lossy(&listed).matches("\"slice\"").count();
        assert_eq!(rows, slices as usize, "every slice is listed");
        let [list] = by_turns(
            10,
            [&mut || {
                let mut command = daemon.command(&["slices", "--json"]);
                let status = command.stdout(Stdio::null()).status().expect("run gpuslice");
                assert!(status.success());
            }],
        );
        let (list, memory) = (list.median(), daemon.memory());
        let text = format!(
            "settled in {settled:.0} ms, slices --json {list:.1} ms, {memory:.1} MiB with the simulated kernel"
        );
        report.say(&format!("{slices} slices on {pfs} cards"), text);
        if let Some((settled_before, list_before, memory_before)) = before {
            let name = |what: &str| format!("{what}: growth from {} to {slices}", slices / 4);
            report.at_most(&name("settled"), settled / settled_before, 4.0);
            report.at_most(&name("slices --json"), list / list_before, 4.0);
            report.at_most(&name("memory"), memory / memory_before, 4.0);
        }
        before = Some((settled, list, memory));
    }
}
