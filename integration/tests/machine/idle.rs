//! A host that waits for nothing and serves nobody: `gpuslice status` says why.

use crate::driver::Driver;
use crate::vgpu::order;
use gpuslice_core::request::{Answer, Command, PlanRow, StatusRow};
use gpuslice_sim::HostFile;

const MODEL: &str = "[[gpu]]\nmatch = { model = \"a40\" }\nlayout = { vfs = \"all\" }\n";

/// Four A40, laid out.
fn laid_out() -> Driver {
    let host = HostFile::parse(include_str!("../../../examples/hosts/a40-vfio.toml")).unwrap();
    let mut driver = Driver::new(&host, MODEL).unwrap();
    driver.advance(200_000).unwrap();
    driver
}

fn status(driver: &mut Driver) -> StatusRow {
    match order(driver, Command::Status).unwrap() {
        Answer::Status(status) => status,
        other => panic!("{other:?}"),
    }
}

fn planned(driver: &mut Driver, command: Command) -> PlanRow {
    match order(driver, command).unwrap() {
        Answer::Plan(plan) => plan,
        other => panic!("{other:?}"),
    }
}

/// It is settled all the same.
fn warned(driver: &mut Driver) -> Vec<String> {
    let status = status(driver);
    assert!(status.settled, "{status:?}");
    status.warnings
}

#[test]
fn gpus_that_are_cordoned_are_told_once_for_each_reason() {
    let mut driver = laid_out();
    assert_eq!(warned(&mut driver), [""; 0]);
    let reason = "new fan".to_owned();
    let all = Command::Drain { parents: Vec::new(), reason, wait_ms: None };
    order(&mut driver, all).unwrap();
    let each = "0000:41:00.0, 0000:61:00.0, 0000:81:00.0, 0000:a1:00.0";
    let told = format!("4 GPUs are cordoned: new fan; gpuslice uncordon ends it for each: {each}");
    assert_eq!(warned(&mut driver), [told]);
    for gpu in each.split(", ").skip(1) {
        order(&mut driver, Command::Uncordon { parent: gpu.parse().unwrap() }).unwrap();
    }
    let told = "0000:41:00.0 is cordoned: new fan; gpuslice uncordon 0000:41:00.0 ends it";
    assert_eq!(warned(&mut driver), [told]);
    order(&mut driver, Command::Uncordon { parent: "0000:41:00.0".parse().unwrap() }).unwrap();
    assert_eq!(warned(&mut driver), [""; 0]);
}

#[test]
fn a_rule_that_no_device_meets_is_told_with_the_model_that_is_near() {
    for (model, near) in [("a400", "; did you mean model = \"a40\"?"), ("mi300x", "")] {
        let mut driver = laid_out();
        driver.config = MODEL.replace("a40", model);
        let said = format!(":1: match = {{ model = \"{model}\" }}{near}");
        let plan = planned(&mut driver, Command::Plan);
        let [unmet] = plan.unmatched.as_slice() else { panic!("{plan:?}") };
        assert!(unmet.ends_with(&said), "{unmet}");
        planned(&mut driver, Command::Apply);
        assert_eq!(warned(&mut driver), [format!("no device meets {unmet}")]);
    }
}

#[test]
fn one_whose_gpu_is_awaited_is_told_by_that_alone() {
    let mut driver = laid_out();
    for bus in ["41", "61", "81", "a1"] {
        driver.kernel.unplug(format!("0000:{bus}:00.0").parse().unwrap());
    }
    driver.wake_up().unwrap();
    let status = status(&mut driver);
    assert_eq!((status.waiting_for.len(), status.warnings), (4, Vec::new()));
}
