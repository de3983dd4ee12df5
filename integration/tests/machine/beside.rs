//! Several GPUs are made ready side by side: none waits for what another is at.

use crate::driver::Driver;
use gpuslice_core::ids::PciAddress;
use gpuslice_core::plan::Step;
use gpuslice_core::request::Command;
use gpuslice_sim::HostFile;
use std::collections::BTreeSet;

const LAYOUTS: &str = "[[gpu]]\nmatch = { vendor-device = \"1002:74a1\" }\n\
                       layout = { vfs = \"all\", bind = \"vfio-pci\" }";

fn host() -> HostFile {
    HostFile::parse(include_str!("../../../examples/hosts/sriov-8.toml")).unwrap()
}

/// PFs whose VFs are being made.
fn at_it(driver: &Driver) -> BTreeSet<PciAddress> {
    let steps = driver.under.iter().map(|under| &under.step);
    steps
        .filter_map(|step| match step {
            Step::SetNumVfs { pf, .. } => Some(*pf),
            _ => None,
        })
        .collect()
}

fn bound(driver: &Driver) -> usize {
    driver.machine.observation().vfs.values().filter(|vf| vf.on_vfio()).count()
}

#[test]
fn each_gpu_is_begun_before_the_first_is_done() {
    let mut driver = Driver::new(&host(), "").unwrap();
    let pfs: BTreeSet<PciAddress> = driver.kernel.pfs().into_iter().collect();
    (driver.config, driver.lazy) = (LAYOUTS.to_owned(), true);
    let request = driver.command(Command::Apply);
    driver.drain().unwrap();
    assert_eq!(at_it(&driver), pfs, "ordered, and none has even begun");
    assert_eq!((pfs.len(), bound(&driver)), (8, 0));
    assert!(!driver.answers.contains_key(&request));

    driver.lazy = false;
    driver.begin_lazy().unwrap();
    driver.answers.remove(&request).unwrap().unwrap();
    assert_eq!(bound(&driver), 64);
}

/// Milliseconds that the driver takes for each GPU in turn; no two together are as quick as the slowest and a tenth.
const DELAYS: [u64; 8] = [5_000, 1_000, 600, 2_000, 700, 3_000, 800, 4_000];

#[test]
fn all_are_ready_in_a_tenth_more_than_the_slowest_takes() {
    for gpus in [1, 4, 8] {
        let mut host = host();
        host.functions.truncate(gpus);
        for (function, delay) in host.functions.iter_mut().zip(DELAYS) {
            function.sriov.as_mut().unwrap().configure_ms = delay;
        }
        let mut driver = Driver::new(&host, "").unwrap();
        driver.config = LAYOUTS.to_owned();
        let request = driver.command(Command::Apply);
        driver.advance(DELAYS[0] - 1).unwrap();
        assert!(!driver.answers.contains_key(&request), "{gpus} GPUs: the slowest is not done");
        assert_eq!(at_it(&driver).len(), 1, "{gpus} GPUs: all others are");
        driver.advance(1 + DELAYS[0] / 10).unwrap();
        driver.answers.remove(&request).unwrap().unwrap();
        assert_eq!(bound(&driver), 8 * gpus, "{gpus} GPUs");
    }
}
