//! Stories of NVIDIA's `sriov-manage` and the kernel's stub, which it tells the ids of a GPU: they are those of all GPUs of that
//! model, and of their VFs.

use crate::driver::Driver;
use crate::tools::settled;
use crate::vgpu::{attach, host as a40s, one_gpu, order, slice_state, start, stop};
use gpuslice_core::ids::PciAddress;
use gpuslice_core::plan::Step;
use gpuslice_core::port::{HostRead, HostWrite};
use gpuslice_core::request::Command;
use gpuslice_sim::{Fault, HostFile};
use std::collections::BTreeSet;

const PF: &str = "0000:41:00.0";

/// All GPUs of NVIDIA's driver.
pub const OF_ALL: &str = "[[gpu]]\nmatch = { driver = \"nvidia\" }\nlayout = { vfs = \"all\" }\n";

/// The host with GPUs of these device ids.
pub fn of_models(devices: [u16; 4]) -> HostFile {
    let mut host = a40s();
    for (function, device) in host.functions.iter_mut().zip(devices) {
        function.device = device;
        function.sriov.as_mut().unwrap().vf_device = device;
    }
    host
}

/// One run for a GPU of a model takes the stub's id from the other, and with it the VFs.
#[test]
fn gpus_of_one_model_take_turns_and_those_of_others_go_on() {
    let host = of_models([0x2235, 0x26b9, 0x2235, 0x26b9]);
    let mut driver = Driver::new(&host, "").unwrap();
    (driver.config, driver.lazy) = (OF_ALL.to_owned(), true);
    let request = driver.command(Command::Apply);
    driver.drain().unwrap();
    let mut most = 0;
    while !driver.under.is_empty() {
        let device = |pf: &PciAddress| driver.machine.observation().functions[pf].device;
        let models: Vec<u16> = driver
            .under
            .iter()
            .map(|under| match &under.step {
                Step::RunVfTool { pf, .. } => device(pf),
                other => panic!("{other}"),
            })
            .collect();
        let different: BTreeSet<&u16> = models.iter().collect();
        assert_eq!(different.len(), models.len(), "{models:x?}");
        most = most.max(models.len());
        let later = driver.under.split_off(1);
        driver.begin_lazy().unwrap();
        driver.under.extend(later);
        driver.drain().unwrap();
    }
    assert_eq!(most, 2);
    driver.answers.remove(&request).unwrap().unwrap();
    assert_eq!(driver.machine.observation().vfs.len(), 4 * 32);
}

/// Somebody else ran it for another one meanwhile. That it ends well does not make it so.
#[test]
fn a_tool_that_ends_well_and_has_changed_nothing_is_run_again() {
    let pf = PF.parse().unwrap();
    let beside = |times| Fault::ToolBeside { pf, nth: 1, times };
    let mut one = a40s();
    one.functions.truncate(1);
    let mut driver = Driver::new(&one, "").unwrap();
    driver.kernel.inject(beside(1));
    driver.config = OF_ALL.to_owned();
    order(&mut driver, Command::Apply).unwrap();
    assert_eq!(driver.machine.observation().vfs.len(), 32);
    driver.config = OF_ALL.replace("\"all\"", "0");
    driver.kernel.clear_faults();
    driver.kernel.inject(beside(1));
    order(&mut driver, Command::Apply).unwrap();
    assert_eq!(driver.machine.observation().vfs.len(), 0);
    // It never works, and what it took is given back all the same.
    driver.config = OF_ALL.to_owned();
    driver.kernel.clear_faults();
    order(&mut driver, Command::Apply).unwrap();
    driver.config = OF_ALL.replace("\"all\"", "0");
    driver.kernel.inject(beside(u32::MAX));
    let refusal = order(&mut driver, Command::Apply).unwrap_err();
    assert!(refusal.one_line().contains("32 VFs, not 0"), "{refusal:?}");
    let vfs = &driver.machine.observation().vfs;
    assert!(vfs.values().all(|vf| vf.driver.as_deref() == Some("nvidia")), "{vfs:?}");
}

/// It is of as little use as one without driver.
#[test]
fn a_vf_that_the_stub_has_taken_is_made_anew() {
    let mut driver = one_gpu();
    let running = attach(&mut driver, 1, "nvidia-a40-8q");
    start(&mut driver, &running).unwrap();
    let vfs: Vec<PciAddress> = driver.machine.observation().vfs.keys().copied().collect();
    let taken = *vfs.last().unwrap();
    let devices = "/sys/bus/pci/devices";
    let drivers = "/sys/bus/pci/drivers";
    let mut write = |file: String, text: &str| {
        driver.kernel.write(&file, text.as_bytes()).unwrap();
    };
    let name = taken.to_string();
    write(format!("{drivers}/nvidia/unbind"), &name);
    write(format!("{devices}/{taken}/driver_override"), "pci-pf-stub");
    write(format!("{drivers}/pci-pf-stub/bind"), &name);
    write(format!("{devices}/{taken}/driver_override"), "\n");
    driver.wake_up().unwrap();
    let bound = driver.kernel.link(&format!("{devices}/{taken}/driver")).unwrap();
    assert!(bound.ends_with("/pci-pf-stub"), "{bound}");
    assert_eq!(slice_state(&mut driver, taken), "quarantined");
    stop(&mut driver, &running);
    driver.advance(120_000).unwrap();
    assert_eq!(slice_state(&mut driver, taken), "free");
    assert!(settled(&mut driver));
}
