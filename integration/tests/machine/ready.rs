//! Stories of GPUs that their driver has and has not made ready: a vGPU is refused then, and only the kernel's log tells why.

use crate::domains::claim;
use crate::driver::Driver;
use crate::tools::settled;
use crate::vgpu::{LAYOUT, asking, attach, host as a40s, one_gpu, order, start};
use gpuslice_core::domain::{Domain, HostDevice, HostDeviceSource};
use gpuslice_core::machine::{HookAnswer, HookCall, HookOperation};
use gpuslice_core::refusal::{Code, Refusal};
use gpuslice_core::request::{Answer, Command};
use gpuslice_sim::{Command as Order, Fault, HostFile};
use uuid::Uuid;

const PF: &str = "0000:41:00.0";

/// A start, with the time for whatever is tried again on its way.
pub fn starts(driver: &mut Driver, domain: &Domain) -> Result<(), Refusal> {
    let call = HookCall::new(HookOperation::Prepare, domain.clone());
    let request = driver.hook(call);
    for _ in 0..20 {
        driver.advance(500).unwrap();
        match driver.told.remove(&request) {
            Some(HookAnswer::Proceed) => return Ok(()),
            Some(HookAnswer::Refuse(refusal)) => return Err(refusal),
            Some(other @ HookAnswer::Remap(_)) => panic!("{other:?}"),
            None => {}
        }
    }
    panic!("no answer");
}

/// What the agent starts now.
pub fn to_start(driver: &mut Driver) -> Vec<Uuid> {
    match order(driver, Command::AgentWork).unwrap() {
        Answer::AgentWork { start, .. } => start.iter().map(|due| due.domain).collect(),
        other => panic!("{other:?}"),
    }
}

pub fn not_ready(driver: &mut Driver, times: u32) {
    driver.kernel.inject(Fault::NotReady { pf: PF.parse().unwrap(), nth: 1, times });
}

#[test]
fn a_vgpu_of_a_gpu_that_is_made_ready_in_seconds_is_only_late() {
    let mut driver = one_gpu();
    let domain = attach(&mut driver, 1, "nvidia-a40-8q");
    not_ready(&mut driver, 5);
    starts(&mut driver, &domain).unwrap();
    assert!(settled(&mut driver));
}

fn refused_and_made_up_for(driver: &mut Driver, domain: &Domain) {
    for wait in [5_000, 10_000] {
        let refusal = starts(driver, domain).unwrap_err();
        assert_eq!(refusal.code, Code::NotSettled, "{refusal:?}");
        assert!(refusal.one_line().contains("GPU is not initialized yet"), "{refusal:?}");
        assert!(driver.machine.durable().quarantines.is_empty());
        assert!(driver.machine.runtime().assignments.is_empty());
        driver.advance(wait - 1_000).unwrap();
        let summary = driver.machine.summary();
        assert!(summary.contains("0000:41:00.0 to be made ready"), "{summary}");
        driver.advance(2_000).unwrap();
        assert_eq!(to_start(driver), [domain.uuid]);
        assert!(settled(driver));
    }
    starts(driver, domain).unwrap();
    assert!(to_start(driver).is_empty());
}

/// vgpu_mgr of a host with NVLink takes a while after a boot, in which libvirt starts its domains once.
#[test]
fn a_start_that_is_refused_by_a_gpu_not_yet_ready_is_made_up_for() {
    let mut driver = one_gpu();
    let domain = attach(&mut driver, 1, "nvidia-a40-8q");
    // Each start tries five times, twice each.
    not_ready(&mut driver, 25);
    refused_and_made_up_for(&mut driver, &domain);
}

#[test]
fn in_the_older_framework_too() {
    let older = include_str!("../../../examples/hosts/a40-mdev.toml");
    let mut host = HostFile::parse(older).unwrap();
    host.functions.truncate(1);
    let mut driver = Driver::new(&host, LAYOUT).unwrap();
    driver.advance(10_000).unwrap();
    let domain = attach(&mut driver, 1, "nvidia-a40-8q");
    not_ready(&mut driver, 25);
    refused_and_made_up_for(&mut driver, &domain);
}

#[test]
fn a_gpu_that_is_never_ready_is_not_waited_for_for_ever() {
    let mut driver = one_gpu();
    let domain = attach(&mut driver, 1, "nvidia-a40-8q");
    not_ready(&mut driver, u32::MAX);
    for _ in 0..6 {
        assert_eq!(starts(&mut driver, &domain).unwrap_err().code, Code::NotSettled);
        driver.advance(200_000).unwrap();
    }
    let refusal = starts(&mut driver, &domain).unwrap_err();
    assert_eq!(refusal.code, Code::DeviceFailed, "{refusal:?}");
    assert!(settled(&mut driver));
    assert!(to_start(&mut driver).is_empty());
    // Until it proves to be.
    driver.kernel.clear_faults();
    starts(&mut driver, &domain).unwrap();
}

/// Their starts would be made up for when that GPU is ready, and refused again.
#[test]
fn nobody_waits_for_a_gpu_that_has_not_what_he_asks_for() {
    let mixed = HostFile::parse(include_str!("../../../examples/hosts/mixed.toml")).unwrap();
    let mut host = a40s();
    host.functions.truncate(1);
    host.drivers.extend(mixed.drivers.into_iter().filter(|driver| driver.name == "gpusim"));
    let other = mixed.functions.into_iter().filter(|f| f.address.to_string() == "0000:0c:00.0");
    host.functions.extend(other);
    let beside = "\n[[gpu]]\nmatch = { address = \"0000:0c:00.0\" }\nlayout = { vfs = 1 }";
    let mut driver = Driver::new(&host, &format!("{LAYOUT}{beside}")).unwrap();
    driver.advance(10_000).unwrap();
    let (domain, other) =
        (attach(&mut driver, 1, "nvidia-a40-8q"), attach(&mut driver, 2, "amd-74a1-vf1"));
    start(&mut driver, &other).unwrap();
    not_ready(&mut driver, u32::MAX);
    for wait in [6_000, 11_000, 0] {
        assert_eq!(starts(&mut driver, &domain).unwrap_err().code, Code::NotSettled);
        driver.advance(wait).unwrap();
    }
    // By hand it names a VF that is another's, and one that is not there.
    let named = |vf: &str| {
        let source = HostDeviceSource::Pci(vf.parse().unwrap());
        let devices = vec![HostDevice { source, ..other.devices[0].clone() }];
        Domain { uuid: Uuid::from_u128(3), name: "vm3".to_owned(), devices, ..other.clone() }
    };
    let absent = starts(&mut driver, &named("0000:0c:01.7")).unwrap_err();
    assert_eq!(absent.code, Code::Absent, "{absent:?}");
    let command = asking(4, claim(&"gpu0".parse().unwrap(), "amd-74a1-vf1", 1));
    let full = order(&mut driver, command).unwrap_err();
    assert_eq!(full.code, Code::NoCapacity, "{full:?}");
    let summary = driver.machine.summary();
    assert!(summary.contains("0000:41:00.0 to be made ready"), "{summary}");
}

#[test]
fn what_else_a_driver_says_of_its_refusal_is_told() {
    let mut driver = one_gpu();
    let domain = attach(&mut driver, 1, "nvidia-a40-8q");
    let path = "*/nvidia/current_vgpu_type".to_owned();
    let errno = gpuslice_core::errno::Errno::EIO;
    driver.kernel.inject(Fault::Write { path, nth: 1, times: u32::MAX, errno });
    let said = "NVRM: kvgpumgrCreateRequestVgpu: no room".to_owned();
    driver.kernel.inject(Fault::Before { nth: 2, does: Box::new(Order::Say(said)) });
    let refusal = starts(&mut driver, &domain).unwrap_err();
    assert_eq!(refusal.code, Code::NoCapacity, "{refusal:?}");
    assert!(refusal.one_line().contains("kvgpumgrCreateRequestVgpu: no room"), "{refusal:?}");
}

/// They are one vendor's words, and may stand in the log for another GPU's sake.
#[test]
fn another_driver_does_not_mean_what_nvidia_s_says() {
    let host = HostFile::parse(include_str!("../../../examples/hosts/mdev.toml")).unwrap();
    let mut driver = Driver::new(&host, "").unwrap();
    driver.advance(10_000).unwrap();
    let domain = attach(&mut driver, 1, "mtty-2");
    let (path, errno) = ("*/create".to_owned(), gpuslice_core::errno::Errno::EIO);
    driver.kernel.inject(Fault::Write { path, nth: 1, times: u32::MAX, errno });
    // Before each second try, which follows the look at the log; of those armed each counts what the others leave it.
    for nth in 2..20 {
        let said = "NVRM: GPU is not initialized yet".to_owned();
        driver.kernel.inject(Fault::Before { nth, does: Box::new(Order::Say(said)) });
    }
    let refusal = starts(&mut driver, &domain).unwrap_err();
    assert_eq!(refusal.code, Code::DeviceFailed, "{refusal:?}");
    assert!(settled(&mut driver));
}

#[test]
fn vfs_wait_longer_where_the_manager_of_vgpus_does_not_come_to_an_end() {
    let mut host = a40s();
    host.functions.truncate(1);
    let mut driver = Driver::new(&host, "").unwrap();
    let (pf, unbinds) = (PF.parse().unwrap(), false);
    driver.kernel.inject(Fault::Tool { pf, nth: 1, times: 1, unbinds });
    let said = "NVRM: Timeout occurred in event processing by vgpu_mgr daemon".to_owned();
    driver.kernel.inject(Fault::Before { nth: 1, does: Box::new(Order::Say(said)) });
    driver.config = LAYOUT.to_owned();
    let request = driver.command(Command::Apply);
    driver.advance(14_000).unwrap();
    assert!(driver.answers.is_empty(), "{:?}", driver.answers);
    driver.advance(2_000).unwrap();
    driver.answers.remove(&request).unwrap().unwrap();
    assert_eq!(driver.machine.observation().vfs.len(), 32);
}
