//! Stories of VFs that somebody takes off their driver while a process has them open: the kernel waits for that process, and
//! shows no driver meanwhile.

use crate::driver::Driver;
use crate::vgpu::{attach, call, order, start, vf};
use gpuslice_core::holders;
use gpuslice_core::ids::{PciAddress, SliceId};
use gpuslice_core::machine::HookOperation;
use gpuslice_core::port::{HostRead, HostWrite, Written};
use gpuslice_core::refusal::Code;
use gpuslice_core::request::Command;
use gpuslice_sim::HostFile;

const LAYOUT: &str =
    "[[gpu]]\nmatch = { address = \"0000:0c:00.0\" }\nlayout = { vfs = 4, bind = \"vfio-pci\" }";
const PID: u32 = 1001;

/// Processes open VFs by the nodes of their groups, or by those of their own.
fn ready(cdev: bool) -> Driver {
    let text = include_str!("../../../examples/hosts/sriov-8.toml");
    let mut host = HostFile::parse(text).unwrap();
    host.kernel.vfio_cdev = cdev;
    let mut driver = Driver::new(&host, LAYOUT).unwrap();
    driver.advance(60_000).unwrap();
    driver
}

fn take_off(driver: &mut Driver, vf: PciAddress) {
    let unbind = "/sys/bus/pci/drivers/vfio-pci/unbind";
    let written = driver.kernel.write(unbind, vf.to_string().as_bytes());
    assert_eq!(written, Ok(Written::Blocked));
    driver.wake_up().unwrap();
    let bound = driver.kernel.link(&format!("/sys/bus/pci/devices/{vf}/driver"));
    assert!(bound.is_err(), "{bound:?}");
}

/// A VF that a program has open of which nobody was told.
fn opened_by_hand(cdev: bool) -> (Driver, PciAddress) {
    let mut driver = ready(cdev);
    let vf = *driver.machine.observation().vfs.keys().next().unwrap();
    driver.kernel.open(PID, "qemu-system-x86", SliceId::Vf(vf)).unwrap();
    take_off(&mut driver, vf);
    (driver, vf)
}

#[test]
fn what_a_vm_still_has_is_not_given_back() {
    for cdev in [false, true] {
        let mut driver = ready(cdev);
        let domain = attach(&mut driver, 1, "amd-74a1-vf4");
        start(&mut driver, &domain).unwrap();
        let slice = SliceId::Vf(vf(&domain));
        take_off(&mut driver, vf(&domain));
        call(&mut driver, &domain, HookOperation::Release).unwrap();
        driver.advance(60_000).unwrap();
        assert!(driver.machine.runtime().assignments.contains_key(&slice), "{cdev}");
        driver.kernel.kill(PID);
        driver.advance(60_000).unwrap();
        assert!(!driver.machine.runtime().assignments.contains_key(&slice), "{cdev}");
    }
}

/// As when a daemon is started anew, and watches what its VMs have.
#[test]
fn who_has_it_is_seen() {
    let (driver, held) = opened_by_hand(false);
    let slice = SliceId::Vf(held);
    let each = holders::find_each(&driver.kernel, &[slice]);
    assert_eq!(each.found[&slice][0].pid, PID);
}

/// The kernel would wait in the removal of the VF for whoever has it.
#[test]
fn vfs_are_not_taken_away_meanwhile() {
    for cdev in [false, true] {
        let (mut driver, _) = opened_by_hand(cdev);
        driver.config = LAYOUT.replace("vfs = 4", "vfs = 2");
        let refusal = order(&mut driver, Command::Apply).unwrap_err();
        assert_eq!(refusal.code, Code::Held, "{refusal}");
        assert_eq!(driver.machine.observation().vfs.len(), 4);
        driver.kernel.kill(PID);
        driver.advance(60_000).unwrap();
        order(&mut driver, Command::Apply).unwrap();
        assert_eq!(driver.machine.observation().vfs.len(), 2);
    }
}
