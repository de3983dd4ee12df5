//! The simulated kernel against what the kernel's documents and sources say, and against itself under random use.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking, and what it calls does too"
)]

mod binding;
mod faults;
mod gim;
mod machine;
mod mdev;
mod properties;
mod sriov;
mod tree;

use gpuslice_core::errno::Errno;
use gpuslice_core::ids::{MdevUuid, PciAddress, SliceId};
use gpuslice_core::port::{HostRead, HostWrite, Written, read_text};
use gpuslice_sim::{HostFile, Kernel, Uevent};

const PF: &str = "/sys/bus/pci/devices/0000:0c:00.0";
const NUMVFS: &str = "/sys/bus/pci/devices/0000:0c:00.0/sriov_numvfs";
const PARENT: &str = "/sys/bus/pci/devices/0000:41:00.0";
const PROBE: &str = "/sys/bus/pci/drivers_probe";

fn mixed() -> Kernel {
    let text = include_str!("../../../../examples/hosts/mixed.toml");
    Kernel::from_host(&HostFile::parse(text).unwrap())
}

fn pci(text: &str) -> PciAddress {
    text.parse().unwrap()
}

fn vf(text: &str) -> SliceId {
    SliceId::Vf(pci(text))
}

fn uuid(n: u128) -> String {
    uuid::Uuid::from_u128(n).to_string()
}

fn mdev(n: u128) -> SliceId {
    SliceId::Mdev(MdevUuid(uuid::Uuid::from_u128(n)))
}

fn echo(kernel: &mut Kernel, value: &str, file: &str) -> Result<Written, Errno> {
    kernel.write(file, format!("{value}\n").as_bytes())
}

fn text(kernel: &Kernel, file: &str) -> String {
    read_text(kernel, file).unwrap()
}

fn create(parent: &str, kind: &str) -> String {
    format!("{parent}/mdev_supported_types/{kind}/create")
}

fn available(kernel: &Kernel, parent: &str, kind: &str) -> u64 {
    let file = format!("{parent}/mdev_supported_types/{kind}/available_instances");
    text(kernel, &file).parse().unwrap()
}

fn vfs(kernel: &Kernel, pf: &str) -> usize {
    kernel.list(pf).unwrap().iter().filter(|n| n.starts_with("virtfn")).count()
}

/// PCI and mdev events as `add 0000:0c:02.0`.
fn told(events: &[Uevent]) -> Vec<String> {
    let shown = events.iter().filter(|e| matches!(e.subsystem.as_str(), "pci" | "mdev"));
    shown.map(|e| format!("{} {}", e.action, e.name())).collect()
}

/// VFs enabled, the first bound to vfio-pci.
fn with_bound_vf() -> Kernel {
    let mut kernel = mixed();
    echo(&mut kernel, "0", &format!("{PF}/sriov_drivers_autoprobe")).unwrap();
    echo(&mut kernel, "4", NUMVFS).unwrap();
    bind(&mut kernel, "0000:0c:02.0");
    kernel.take_events();
    kernel
}

fn bind(kernel: &mut Kernel, address: &str) {
    let over = format!("/sys/bus/pci/devices/{address}/driver_override");
    echo(kernel, "vfio-pci", &over).unwrap();
    echo(kernel, address, PROBE).unwrap();
}
