//! GPUs that cannot be sliced: what is said of them, and what works instead.

use crate::domains::claim;
use crate::driver::Driver;
use crate::vgpu::{asking, order};
use crate::world::bind_by_hand;
use gpuslice_core::ids::PciAddress;
use gpuslice_core::refusal::Code;
use gpuslice_core::request::{Answer, Command};
use gpuslice_sim::HostFile;

fn consumer() -> HostFile {
    HostFile::parse(include_str!("../../../examples/hosts/consumer.toml")).unwrap()
}

/// What is said of each of its GPUs.
fn reasons(driver: &mut Driver) -> Vec<String> {
    let Answer::Parents { rows } = order(driver, Command::ListParents).unwrap() else { panic!() };
    assert!(rows.iter().all(|row| row.state == "unsliceable"), "{rows:?}");
    rows.into_iter().filter_map(|row| row.reason).collect()
}

#[test]
fn a_gpu_that_cannot_be_sliced_says_so_and_what_works() {
    let config = "[[gpu]]\nmatch = { address = \"0000:01:00.0\" }\nlayout = { vfs = 2 }";
    let mut driver = Driver::new(&consumer(), config).unwrap();
    let reasons = reasons(&mut driver);
    assert_eq!(reasons.len(), 2, "the sound of a card is none: {reasons:?}");
    for reason in reasons {
        let renders = reason.contains("rendernode") && reason.contains("accel3d='yes'");
        let of_radeon = reason.starts_with("0000:06:00.0");
        let sound = reason.contains("PCI Host Device 0000:06:00.0 and 0000:06:00.1)");
        assert!(reason.contains("PCI Host Device") && renders && sound == of_radeon, "{reason}");
    }
    let Answer::Plan(plan) = order(&mut driver, Command::Plan).unwrap() else { panic!() };
    assert_eq!(plan.blockers.iter().map(|b| b.code).collect::<Vec<_>>(), [Code::Unsliceable]);
    // Nothing is waited for.
    order(&mut driver, Command::WaitSettled { timeout_ms: 1_000 }).unwrap();
    let command = asking(1, claim(&"gpu0".parse().unwrap(), "nvidia-a40-8q", 1));
    let refusal = order(&mut driver, command).unwrap_err();
    assert_eq!(refusal.code, Code::Unsliceable, "{refusal}");
    assert!(refusal.one_line().contains("0000:06:00.0"), "{refusal:?}");
}

#[test]
fn the_gpu_that_the_host_is_seen_on_says_so_first() {
    let mut host = consumer();
    host.functions[1].boot_vga = true;
    let mut driver = Driver::new(&host, "").unwrap();
    let dark = "the host's console is on it";
    let told = |driver: &mut Driver| {
        let reasons = reasons(driver);
        let each =
            reasons.iter().map(|reason| reason.split("; try: ").next().unwrap().contains(dark));
        each.collect::<Vec<_>>()
    };
    assert_eq!(told(&mut driver), [false, true]);
    // It is given up already, as nobody gives it up by accident.
    bind_by_hand(&mut driver.kernel, host.functions[1].address, "vfio-pci");
    driver.wake_up().unwrap();
    assert_eq!(told(&mut driver), [false, false]);
}

/// One with SR-IOV is amdgpu's.
#[test]
fn so_does_one_that_has_sr_iov() {
    let text = include_str!("../../../examples/hosts/mi300x-amdgpu.toml");
    let mut host = HostFile::parse(text).unwrap();
    for function in &mut host.functions {
        (function.device, function.class, function.boot_vga) = (0x73a1, 0x03_0000, true);
    }
    host.functions[0].boot_vga = false;
    let mut driver = Driver::new(&host, "").unwrap();
    let reasons = reasons(&mut driver);
    let dark = reasons.iter().map(|reason| reason.contains("console"));
    assert_eq!(dark.collect::<Vec<_>>(), [false, true], "{reasons:?}");
}

/// The node to render on is its driver's.
#[test]
fn nobody_is_told_to_render_on_a_gpu_that_has_no_driver_of_the_host() {
    let mut driver = Driver::new(&consumer(), "").unwrap();
    let whole: Vec<PciAddress> = driver.machine.observation().whole.keys().copied().collect();
    bind_by_hand(&mut driver.kernel, whole[0], "vfio-pci");
    bind_by_hand(&mut driver.kernel, whole[1], "none");
    driver.wake_up().unwrap();
    for reason in reasons(&mut driver) {
        assert!(reason.contains("PCI Host Device") && !reason.contains("rendernode"), "{reason}");
    }
}
