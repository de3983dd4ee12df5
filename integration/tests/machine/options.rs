//! Options of a driver whose VFs come with its load: what no layout says any more ends with the next load, and is told.

use super::*;
use gpuslice_core::request::ParentRow;

const POLICY: &str = "vfs = 8, scheduler = 4, fabric-sharing = 2";

fn laid_out(layout: &str) -> String {
    LAYOUT.replace("vfs = 8", layout)
}

fn rows(driver: &mut Driver) -> Vec<ParentRow> {
    match order(driver, Command::ListParents).unwrap() {
        Answer::Parents { rows } => rows,
        other => panic!("{other:?}"),
    }
}

/// What is to come of each GPU.
fn coming(driver: &mut Driver) -> Vec<Vec<String>> {
    let words = |row: ParentRow| row.coming.into_iter().map(|(mode, to)| format!("{mode}={to}"));
    rows(driver).into_iter().map(|row| words(row).collect()).collect()
}

fn with_policy() -> Driver {
    let mut driver = Driver::new(&hive(), &laid_out(POLICY)).unwrap();
    order(&mut driver, Command::Apply).unwrap();
    assert_eq!(coming(&mut driver), [[""; 0]; 8]);
    driver
}

#[test]
fn what_no_layout_says_any_more_ends_with_the_next_load() {
    let mut driver = with_policy();
    // Nobody is disturbed.
    let domain = attach(&mut driver, 1, "amd-mi300x-vf8-cpx");
    call(&mut driver, &domain, HookOperation::Prepare).unwrap();
    driver.config = LAYOUT.to_owned();
    let plan = planned(&mut driver);
    assert!(plan.blockers.is_empty(), "{plan:?}");
    let steps: Vec<&str> = plan.steps.iter().map(|row| row.step.as_str()).collect();
    let write = format!("write \"options gim vf_num=8,8,8,8,8,8,8,8\" to {CONFIG}");
    assert_eq!(steps, [write.as_str()]);
    order(&mut driver, Command::Apply).unwrap();
    assert!(read_text(&driver.kernel, CONFIG).unwrap().ends_with("vf_num=8,8,8,8,8,8,8,8"));
    assert_eq!(counts(&driver), [8; 8]);
    assert_eq!(coming(&mut driver), [["fabric-sharing=default", "scheduler=default"]; 8]);
    assert!(states(&mut driver).iter().all(|(state, _)| state == "ok"));
    assert!(!planned(&mut driver).changed);
    driver.kernel.reboot();
    driver.kernel.settle();
    driver.restart().unwrap();
    driver.advance(60_000).unwrap();
    assert_eq!(counts(&driver), [8; 8]);
    assert_eq!(coming(&mut driver), [[""; 0]; 8]);
    let seen = driver.machine.observation();
    assert!(seen.drivers["gim"].parameters.is_empty(), "{:?}", seen.drivers["gim"]);
}

#[test]
fn one_that_is_said_again_is_written_again() {
    let mut driver = with_policy();
    driver.config = LAYOUT.to_owned();
    order(&mut driver, Command::Apply).unwrap();
    // The module has it still.
    driver.config = laid_out(POLICY);
    assert_eq!(planned(&mut driver).steps.len(), 1);
    order(&mut driver, Command::Apply).unwrap();
    assert!(read_text(&driver.kernel, CONFIG).unwrap().ends_with("fb_sharing_mode=2 sch_policy=4"));
    assert_eq!(coming(&mut driver), [[""; 0]; 8]);
    assert!(!planned(&mut driver).changed);
}

#[test]
fn what_another_file_gives_does_not_end() {
    let mut driver = with_policy();
    driver.kernel.replace("/etc/modprobe.d/zz.conf", b"options gim sch_policy=4\n").unwrap();
    driver.config = LAYOUT.to_owned();
    order(&mut driver, Command::Apply).unwrap();
    assert_eq!(coming(&mut driver), [["fabric-sharing=default"]; 8]);
}

/// The file was written before the driver was not unloaded, and the next boot would read it.
#[test]
fn a_layout_that_is_taken_back_is_written_back() {
    let mut driver = applied();
    driver.kernel.open_node(4242, "amd-smi", "/dev/gim-smi0").unwrap();
    driver.config = LAYOUT.replace("vfs = 8", "vfs = 4");
    order(&mut driver, Command::Apply).unwrap_err();
    assert!(read_text(&driver.kernel, CONFIG).unwrap().ends_with("vf_num=4,4,4,4,4,4,4,4"));
    driver.config = LAYOUT.to_owned();
    order(&mut driver, Command::Apply).unwrap();
    assert!(read_text(&driver.kernel, CONFIG).unwrap().ends_with("vf_num=8,8,8,8,8,8,8,8"));
    assert_eq!(counts(&driver), [8; 8]);
    assert!(!planned(&mut driver).changed);
}
