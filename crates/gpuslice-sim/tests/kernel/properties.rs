//! Random use of a random machine keeps what no kernel ever breaks.

use super::*;
use gpuslice_sim::{Noise, Pace, random_faults, replay};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

#[derive(Debug, Clone)]
enum Act {
    NumVfs(usize, u16),
    Bind(usize),
    Unbind(usize),
    Create(usize, u128),
    RemoveMdev(u128),
    OpenVf(u32, usize),
    OpenMdev(u32, u128),
    Kill(u32),
    Plug(usize),
    Unplug(usize),
    Reload(usize),
    Advance(u64),
    Pace(bool),
    Step(u8),
    Faults(u64),
    ClearFaults,
    Reboot,
}

const PFS: [&str; 4] = ["0000:0c:00.0", "0000:9f:00.0", "0000:01:00.0", "0000:41:00.0"];
const VFS: [&str; 5] =
    ["0000:0c:02.0", "0000:0c:02.1", "0000:9f:02.0", "0000:02:10.0", "0000:0c:00.0"];
const DRIVERS: [&str; 4] = ["gpusim", "nvidia", "mtty", "vfio-pci"];
const TYPES: [(&str, &str); 6] = [
    ("0000:41:00.0", "nvidia-559"),
    ("0000:41:00.0", "nvidia-565"),
    ("mtty", "mtty-1"),
    ("mtty", "mtty-2"),
    ("mdpy", "mdpy-hd"),
    ("mbochs", "mbochs-large"),
];

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        6 => (0..3_usize, 0..10_u16).prop_map(|(pf, n)| Act::NumVfs(pf, n)),
        6 => (0..5_usize).prop_map(Act::Bind),
        2 => (0..5_usize).prop_map(Act::Unbind),
        8 => (0..6_usize, 0..8_u128).prop_map(|(t, u)| Act::Create(t, u)),
        4 => (0..8_u128).prop_map(Act::RemoveMdev),
        4 => (1..4_u32, 0..5_usize).prop_map(|(pid, v)| Act::OpenVf(pid, v)),
        4 => (1..4_u32, 0..8_u128).prop_map(|(pid, u)| Act::OpenMdev(pid, u)),
        4 => (1..4_u32).prop_map(Act::Kill),
        2 => (0..4_usize).prop_map(Act::Plug),
        2 => (0..4_usize).prop_map(Act::Unplug),
        1 => (0..4_usize).prop_map(Act::Reload),
        2 => (0..30_000_u64).prop_map(Act::Advance),
        1 => any::<bool>().prop_map(Act::Pace),
        3 => (0..20_u8).prop_map(Act::Step),
        1 => any::<u64>().prop_map(Act::Faults),
        1 => Just(Act::ClearFaults),
        1 => Just(Act::Reboot),
    ]
}

fn perform(kernel: &mut Kernel, act: &Act) {
    let device = |address: &str| format!("/sys/bus/pci/devices/{address}");
    // Refusals are as good as successes here.
    match act {
        Act::NumVfs(pf, n) => {
            let _ = echo(kernel, &n.to_string(), &format!("{}/sriov_numvfs", device(PFS[*pf])));
        }
        Act::Bind(v) => {
            let _ = echo(kernel, "vfio-pci", &format!("{}/driver_override", device(VFS[*v])));
            let _ = echo(kernel, VFS[*v], PROBE);
        }
        Act::Unbind(v) => {
            let _ = echo(kernel, VFS[*v], &format!("{}/driver/unbind", device(VFS[*v])));
        }
        Act::Create(t, u) => {
            let (parent, kind) = TYPES[*t];
            let file = create(&format!("/sys/class/mdev_bus/{parent}"), kind);
            let _ = kernel.write(&file, uuid(*u).as_bytes());
        }
        Act::RemoveMdev(u) => {
            let file = format!("/sys/bus/mdev/devices/{}/remove", uuid(*u));
            let _ = kernel.write(&file, b"1\n");
        }
        Act::OpenVf(pid, v) => drop(kernel.open(*pid, "qemu", vf(VFS[*v]))),
        Act::OpenMdev(pid, u) => drop(kernel.open(*pid, "qemu", mdev(*u))),
        Act::Kill(pid) => kernel.kill(*pid),
        Act::Plug(pf) => drop(kernel.plug(pci(PFS[*pf]))),
        Act::Unplug(pf) => drop(kernel.unplug(pci(PFS[*pf]))),
        Act::Reload(d) => drop(kernel.reload_driver(DRIVERS[*d])),
        Act::Advance(ms) => kernel.advance(*ms),
        Act::Pace(steps) => {
            kernel.set_pace(if *steps { Pace::Steps } else { Pace::Whole });
        }
        Act::Step(n) => {
            for _ in 0..*n {
                kernel.step();
            }
        }
        Act::Faults(seed) => {
            for fault in random_faults(*seed, &kernel.pfs(), 2) {
                kernel.inject(fault);
            }
        }
        Act::ClearFaults => kernel.clear_faults(),
        Act::Reboot => kernel.reboot(),
    }
}

/// Looks at a copy without faults, so that the look itself meets none.
fn audit(kernel: &Kernel) {
    let mut kernel = kernel.clone();
    kernel.clear_faults();
    let mut placed: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for parent in kernel.list("/sys/class/mdev_bus").unwrap_or_default() {
        let types = format!("/sys/class/mdev_bus/{parent}/mdev_supported_types");
        for kind in kernel.list(&types).unwrap() {
            let left = available(&kernel, &format!("/sys/class/mdev_bus/{parent}"), &kind);
            let most = match kind.as_str() {
                "mtty-1" => 24,
                "nvidia-559" | "mtty-2" => 12,
                "nvidia-562" => 6,
                "nvidia-565" => 2,
                "mbochs-small" => 64,
                "mbochs-medium" => 16,
                _ => 4,
            };
            let devices = kernel.list(&format!("{types}/{kind}/devices")).unwrap();
            assert!(left + devices.len() as u64 <= most, "{kind}: {left} left, {devices:?}");
            for device in devices {
                placed.entry(device).or_default().push(parent.clone());
            }
        }
    }
    for (device, parents) in &placed {
        assert_eq!(parents.len(), 1, "{device} is under {parents:?}");
    }
    let quiet = kernel.blocked().is_empty();
    let mut grouped = BTreeSet::new();
    for group in kernel.list("/sys/kernel/iommu_groups").unwrap() {
        let devices = kernel.list(&format!("/sys/kernel/iommu_groups/{group}/devices")).unwrap();
        assert!(!devices.is_empty(), "group {group} is empty");
        for device in devices {
            assert!(grouped.insert(device.clone()), "{device} is in two groups");
        }
    }
    for address in kernel.list("/sys/bus/pci/devices").unwrap() {
        let device = format!("/sys/bus/pci/devices/{address}");
        let names = kernel.list(&device).unwrap();
        if let Ok(pf) = kernel.link(&format!("{device}/physfn")) {
            assert!(kernel.list(&format!("{device}/{pf}")).is_ok(), "{address} has no PF");
        }
        let links = names.iter().filter(|n| n.starts_with("virtfn")).count();
        if let Ok(bytes) = kernel.read(&format!("{device}/sriov_numvfs"))
            && quiet
        {
            let numvfs: usize = String::from_utf8(bytes).unwrap().trim().parse().unwrap();
            if !names.contains(&"driver".to_owned()) && numvfs == 0 {
                assert_eq!(links, 0, "{address}");
            }
            if numvfs != links && kernel.next_timer().is_none() {
                assert!(unfinished(&kernel), "{address}: {numvfs} VFs, {links} links");
            }
        }
    }
    let names = kernel.list("/proc").unwrap();
    for pid in names.iter().filter(|name| name.parse::<u32>().is_ok()) {
        for fd in kernel.list(&format!("/proc/{pid}/fd")).unwrap() {
            let node = kernel.link(&format!("/proc/{pid}/fd/{fd}")).unwrap();
            // EINVAL: the node is there and no file to read.
            assert_eq!(kernel.read(&node), Err(Errno::EINVAL), "{pid} holds {node}");
        }
    }
}

/// Something is on its way that is not a write: an unplug that waits, a step not taken.
fn unfinished(kernel: &Kernel) -> bool {
    let mut copy = kernel.clone();
    copy.set_pace(Pace::Whole);
    for pid in 1..4 {
        copy.kill(pid);
    }
    copy.settle();
    let state = |k: &Kernel| {
        let mut all = Vec::new();
        k.dump(&mut |path, _| {
            if !path.starts_with("/proc") {
                all.push(path.to_owned());
            }
        });
        all
    };
    state(&copy) != state(kernel)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn invariants_hold(acts in prop::collection::vec(act(), 1..80), seed in any::<u64>()) {
        let mut kernel = mixed();
        kernel.set_noise(Noise { seed, lose: 50, duplicate: 50, capacity: 0 });
        for act in &acts {
            perform(&mut kernel, act);
            audit(&kernel);
        }
        // Once everybody lets go and time has passed, nothing sleeps.
        kernel.clear_faults();
        kernel.set_pace(Pace::Whole);
        for pid in 1..4 {
            kernel.kill(pid);
        }
        kernel.advance(200_000);
        prop_assert_eq!(kernel.blocked(), Vec::<String>::new());
        prop_assert_eq!(kernel.next_timer(), None);
        audit(&kernel);
        let host = include_str!("../../../../examples/hosts/mixed.toml");
        let host = HostFile::parse(host).unwrap();
        let lines = kernel.log_lines();
        let again = replay(&host, lines.iter().map(String::as_str), |_, _| {});
        let again = again.map_err(|e| TestCaseError::fail(e.to_string()))?;
        prop_assert_eq!(again.log_lines(), lines);
    }
}
