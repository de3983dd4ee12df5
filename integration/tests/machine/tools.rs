//! Stories of vendors' tools that fail, hang, or get in each other's way.

use crate::driver::Driver;
use crate::mig::{MIG, WANTED, a100, instances};
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
