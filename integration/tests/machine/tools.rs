//! Stories of vendors' tools that fail, hang, or get in each other's way.

use crate::driver::Driver;
use crate::mig::{MIG, WANTED, a100, instances};
use crate::vgpu::order;
use gpuslice_core::errno::Errno;
use gpuslice_core::request::Command;
use gpuslice_sim::Fault;

const SMI: &str = "/usr/bin/nvidia-smi";

/// At a boot it can fail because the GPU still initialises. Nothing that it is asked for again by has changed after that.
#[test]
fn a_question_that_failed_at_the_boot_is_asked_again() {
    let mut driver = Driver::new(&a100(), MIG).unwrap();
    driver.kernel.reboot();
    let command = format!("{SMI} -q");
    driver.kernel.inject(Fault::Exits { command, nth: 1, times: 1, code: 9 });
    driver.restart().unwrap();
    driver.advance(10_000).unwrap();
    assert_eq!(instances(&mut driver), WANTED);
}

/// Each reading would wait for it, and every start and stop with the readings.
#[test]
fn a_tool_that_hangs_is_not_asked_by_each_reading() {
    let mut driver = Driver::new(&a100(), MIG).unwrap();
    driver.kernel.reboot();
    let path = SMI.to_owned();
    driver.kernel.inject(Fault::Read { path, nth: 1, times: u32::MAX, errno: Errno::ETIMEDOUT });
    driver.restart().unwrap();
    driver.drain().unwrap();
    let asked = driver.kernel.asked();
    for _ in 0..20 {
        driver.wake_up().unwrap();
    }
    assert_eq!(driver.kernel.asked(), asked);
    // It is looked at a few times more, and then no longer.
    driver.advance(600_000).unwrap();
    assert_eq!(driver.kernel.asked(), asked + 6);
    assert_eq!(driver.machine.durable().quarantines.len(), 0);
    driver.kernel.clear_faults();
    driver.wake_up().unwrap();
    assert_eq!(driver.kernel.asked(), asked + 6);
    // A person who applies may have mended it.
    driver.command(Command::Apply);
    driver.advance(10_000).unwrap();
    assert_eq!(instances(&mut driver), WANTED);
}

#[test]
fn one_that_hung_for_a_while_is_noticed_without_anybody() {
    let mut driver = Driver::new(&a100(), MIG).unwrap();
    driver.kernel.reboot();
    let path = SMI.to_owned();
    driver.kernel.inject(Fault::Read { path, nth: 1, times: 3, errno: Errno::ETIMEDOUT });
    driver.restart().unwrap();
    driver.advance(10_000).unwrap();
    assert_eq!(instances(&mut driver), WANTED);
}
