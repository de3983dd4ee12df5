//! VFs that a driver of the host uses are not taken from it by a layout that wants another number of them.

use crate::driver::Driver;
use crate::vgpu::order;
use crate::world::bind_by_hand;
use gpuslice_core::ids::PciAddress;
use gpuslice_core::port::HostWrite as _;
use gpuslice_core::refusal::Code;
use gpuslice_core::request::{Answer, Command, PlanRow};
use gpuslice_sim::HostFile;

const PF: &str = "0000:01:00.0";

fn driver() -> Driver {
    let mut host = HostFile::parse(include_str!("host.toml")).unwrap();
    host.functions.retain(|function| function.address.to_string() == PF);
    let mut driver = Driver::new(&host, "").unwrap();
    driver.advance(10_000).unwrap();
    driver
}

fn laid_out(driver: &mut Driver, layout: &str) {
    driver.config = format!("[[gpu]]\nmatch = {{ address = \"{PF}\" }}\nlayout = {{ {layout} }}");
}

fn planned(driver: &mut Driver) -> PlanRow {
    match order(driver, Command::Plan).unwrap() {
        Answer::Plan(plan) => plan,
        other => panic!("{other:?}"),
    }
}

/// VFs and their drivers.
fn vfs(driver: &mut Driver) -> Vec<(PciAddress, String)> {
    driver.wake_up().unwrap();
    let vfs = &driver.machine.observation().vfs;
    vfs.iter().map(|(vf, of)| (*vf, of.driver.clone().unwrap_or_default())).collect()
}

fn drivers(driver: &mut Driver) -> Vec<String> {
    vfs(driver).into_iter().map(|(_, driver)| driver).collect()
}

#[test]
fn a_layout_takes_no_vfs_that_a_script_has_made_for_the_host() {
    for vfs_wanted in [2, 0] {
        let mut driver = driver();
        driver.kernel.write(&format!("/sys/bus/pci/devices/{PF}/sriov_numvfs"), b"3").unwrap();
        driver.advance(1_000).unwrap();
        assert_eq!(drivers(&mut driver), ["igbvf"; 3]);
        laid_out(&mut driver, &format!("vfs = {vfs_wanted}"));
        let codes: Vec<Code> = planned(&mut driver).blockers.iter().map(|b| b.code).collect();
        assert_eq!(codes, [Code::HostDriver]);
        let refusal = order(&mut driver, Command::Apply).unwrap_err();
        assert_eq!(refusal.code, Code::HostDriver, "{refusal:?}");
        assert_eq!(drivers(&mut driver), ["igbvf"; 3]);
        // What the hint says of each.
        for (vf, _) in vfs(&mut driver) {
            let unbind = "/sys/bus/pci/drivers/igbvf/unbind";
            let hint = refusal.hint.as_deref().unwrap();
            assert!(hint.contains(&format!("echo {vf} > {unbind}")), "{refusal:?}");
            driver.kernel.write(unbind, vf.to_string().as_bytes()).unwrap();
        }
        driver.wake_up().unwrap();
        order(&mut driver, Command::Apply).unwrap();
        assert_eq!(drivers(&mut driver), vec![""; vfs_wanted]);
    }
}

#[test]
fn vfs_that_only_wait_for_a_vm_are_made_anew() {
    let mut driver = driver();
    laid_out(&mut driver, "vfs = 3, bind = \"vfio-pci\"");
    order(&mut driver, Command::Apply).unwrap();
    driver.advance(10_000).unwrap();
    assert_eq!(drivers(&mut driver), ["vfio-pci"; 3]);
    laid_out(&mut driver, "vfs = 2");
    order(&mut driver, Command::Apply).unwrap();
    assert_eq!(drivers(&mut driver), [""; 2]);
}

#[test]
fn a_driver_of_the_host_that_comes_before_the_write_keeps_its_vf() {
    let mut driver = driver();
    laid_out(&mut driver, "vfs = 3");
    order(&mut driver, Command::Apply).unwrap();
    let (last, _) = vfs(&mut driver).pop().unwrap();
    laid_out(&mut driver, "vfs = 2");
    driver.lazy = true;
    let request = driver.command(Command::Apply);
    driver.drain().unwrap();
    bind_by_hand(&mut driver.kernel, last, "igbvf");
    driver.lazy = false;
    driver.begin_lazy().unwrap();
    driver.advance(10_000).unwrap();
    let refusal = driver.answers.remove(&request).unwrap().unwrap_err();
    assert_eq!(refusal.code, Code::Held, "{refusal:?}");
    let why = format!("VF {last} is used by the host through its driver igbvf");
    assert!(refusal.causes.contains(&why), "{refusal:?}");
    assert_eq!(drivers(&mut driver), ["", "", "igbvf"]);
    // Nothing is wrong with the card.
    assert!(driver.machine.durable().quarantines.is_empty());
    driver.kernel.write("/sys/bus/pci/drivers/igbvf/unbind", last.to_string().as_bytes()).unwrap();
    driver.wake_up().unwrap();
    order(&mut driver, Command::Apply).unwrap();
    assert_eq!(drivers(&mut driver), [""; 2]);
}
