//! What of its messages the daemon lets out.

use crate::host::{Host, as_root};
use crate::life::ONE_VF;

/// Everything that a daemon told which made one VF and ended.
fn told(filter: &str) -> String {
    let mut host = Host::off("sriov-8", ONE_VF);
    host.environment.push(("GPUSLICE_LOG", filter.into()));
    host.bus.start();
    host.start_daemon();
    host.settle();
    assert!(host.terminate().success(), "{}", host.log());
    host.log()
}

fn has_steps(log: &str) -> bool {
    log.lines().any(|line| line.contains("DEBUG") && line.contains("0000:0c:00.0"))
}

#[test]
fn a_filter_lets_out_more_or_less_and_a_wrong_one_is_told() {
    as_root(|| {
        let usual = told("");
        assert!(usual.contains("INFO") && !usual.contains("DEBUG"), "{usual}");
        let steps = told("warn,gpusliced=debug");
        assert!(has_steps(&steps) && !steps.contains("zbus"), "{steps}");
        assert_eq!(told("off"), "");
        let wrong = told("gpusliced=loud");
        assert!(
            wrong.contains("WARN") && wrong.contains("GPUSLICE_LOG=gpusliced=loud "),
            "{wrong}"
        );
        assert!(wrong.contains("INFO") && !wrong.contains("DEBUG"), "{wrong}");
    });
}
