//! Stories of hosts where one of NVIDIA's GPUs does not answer its tool. The others are what they were.

use crate::driver::Driver;
use crate::mig::a100;
use crate::vgpu::order;
use gpuslice_core::ids::ParentId;
use gpuslice_core::mode::Mode;
use gpuslice_core::refusal::Code;
use gpuslice_core::request::{Answer, Command, ParentRow};
use gpuslice_sim::{Fault, HostFile};

const LOST: &str = "0000:41:00.0";
const DIVIDED: &str = "0000:81:00.0";
const MIXED: &str = "0000:c1:00.0";
const SMI: &str = "/usr/bin/nvidia-smi";

fn three() -> HostFile {
    let mut host = a100();
    host.functions.truncate(1);
    for address in [DIVIDED, MIXED] {
        let mut other = host.functions[0].clone();
        other.address = address.parse().unwrap();
        host.functions.push(other);
    }
    host
}

fn layouts() -> String {
    let of = |address: &str, modes: &str| {
        format!(
            "[[gpu]]\nmatch = {{ address = \"{address}\" }}\nlayout = {{ vfs = \"all\", {modes} }}\n"
        )
    };
    of(LOST, "instances = [\"7g.80gb\"]")
        + &of(DIVIDED, "instances = [\"3g.40gb\", \"2g.20gb\"]")
        + &of(MIXED, "sizes = \"mixed\"")
}

fn lost() -> Fault {
    Fault::Lost { pf: LOST.parse().unwrap() }
}

fn set(driver: &Driver, address: &str, mode: Mode) -> Option<String> {
    let parent: ParentId = address.parse().unwrap();
    driver.machine.observation().mode(&parent, mode).map(ToString::to_string)
}

fn row(driver: &mut Driver, address: &str) -> ParentRow {
    let Answer::Parents { rows } = order(driver, Command::ListParents).unwrap() else { panic!() };
    rows.into_iter().find(|row| row.parent.to_string() == address).unwrap()
}

fn others_are_well(driver: &mut Driver) {
    assert_eq!(driver.machine.observation().vfs.len(), 2 * 16);
    assert_eq!(set(driver, DIVIDED, Mode::Instances).as_deref(), Some("2g.20gb,3g.40gb"));
    assert_eq!(set(driver, MIXED, Mode::Sizes).as_deref(), Some("mixed"));
    for address in [DIVIDED, MIXED] {
        assert_eq!(row(driver, address).state, "ok", "{address}");
    }
}

/// It is left out of the tool's list, which then ends in failure, and the tool's numbers go on counting it.
#[test]
fn a_gpu_that_fell_off_the_bus_keeps_no_other_from_its_vfs_at_a_boot() {
    let mut driver = Driver::new(&three(), &layouts()).unwrap();
    driver.advance(10_000).unwrap();
    assert_eq!(set(&driver, LOST, Mode::Instances).as_deref(), Some("7g.80gb"));
    driver.kernel.inject(lost());
    driver.kernel.reboot();
    driver.restart().unwrap();
    driver.advance(60_000).unwrap();
    others_are_well(&mut driver);
    assert_eq!(driver.machine.durable().quarantines.len(), 0);
    let bad = row(&mut driver, LOST);
    assert_eq!(bad.state, "waiting");
    let reason = bad.reason.unwrap();
    assert!(reason.contains("GPU is lost") && reason.contains("--gpu-reset"), "{reason}");
    let refusal = order(&mut driver, Command::Apply).unwrap_err();
    assert_eq!(refusal.code, Code::DeviceFailed, "{refusal:?}");
    assert!(refusal.message.contains(LOST), "{refusal:?}");
    assert!(refusal.hint.as_ref().unwrap().contains(&format!("--gpu-reset -i {LOST}")));
    // It was reset.
    driver.kernel.clear_faults();
    driver.command(Command::Apply);
    driver.advance(10_000).unwrap();
    assert_eq!(set(&driver, LOST, Mode::Instances).as_deref(), Some("7g.80gb"));
    assert_eq!(row(&mut driver, LOST).state, "ok");
}

/// Older versions end at the first that does not answer; one whose memory of itself is damaged is told of after all is listed.
#[test]
fn a_list_that_ends_in_failure_is_asked_for_gpu_by_gpu() {
    for command in ["-q", "mig -lgi"] {
        let mut driver = Driver::new(&three(), &layouts()).unwrap();
        let command = format!("{SMI} {command}");
        driver.kernel.inject(Fault::Exits { command, nth: 1, times: u32::MAX, code: 15 });
        driver.kernel.reboot();
        driver.restart().unwrap();
        driver.advance(10_000).unwrap();
        assert_eq!(driver.machine.observation().vfs.len(), 3 * 16);
        for (address, there) in [(LOST, "7g.80gb"), (DIVIDED, "2g.20gb,3g.40gb")] {
            assert_eq!(set(&driver, address, Mode::Instances).as_deref(), Some(there));
        }
        assert_eq!(set(&driver, MIXED, Mode::Sizes).as_deref(), Some("mixed"));
    }
}

/// No GPU is at fault then, and none is to be reset.
#[test]
fn a_tool_that_finds_no_driver_is_not_asked_of_each_gpu() {
    let mut driver = Driver::new(&three(), "").unwrap();
    for option in ["-q", "-q -i *"] {
        let command = format!("{SMI} {option}");
        driver.kernel.inject(Fault::Exits { command, nth: 1, times: u32::MAX, code: 18 });
    }
    driver.restart().unwrap();
    driver.config = layouts();
    let refusal = order(&mut driver, Command::Apply).unwrap_err();
    assert!(!refusal.hint.as_ref().unwrap().contains("--gpu-reset"), "{refusal:?}");
}
