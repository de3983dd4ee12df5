//! How much of a host one reading asks for. The simulated kernel counts; on a real one each is a system call or three.

use crate::Setup;
use crate::report::Report;
use gpuslice_core::observe::Observer;
use gpuslice_core::port::HostWrite;
use gpuslice_sim::{HostFile, Kernel};

/// Types of mediated devices of a GPU.
const TYPES: usize = 25;

pub(crate) fn per_slice(_: &Setup, report: &mut Report) {
    let host = |name: &str| {
        let path = gpuslice_integration::root().join("examples/hosts").join(name);
        let text = std::fs::read_to_string(path).expect("read an example");
        HostFile::parse(&text).expect("a good host file")
    };
    let mut gim = Kernel::from_host(&host("mi300x-8.toml"));
    let options = b"options gim vf_num=8,8,8,8,8,8,8,8\n";
    gim.replace("/etc/modprobe.d/gpuslice-gim.conf", options).expect("write the option");
    gim.load_module("gim").expect("load gim");
    of("8 MI300X under GIM", gim, 64, 64, report);

    let mut many = host("a40-mdev.toml");
    for function in &mut many.functions {
        let Some(mdev) = &mut function.mdev else { continue };
        let smallest = mdev.types[0].clone();
        while mdev.types.len() < TYPES {
            let id = (600 + mdev.types.len()).to_string();
            mdev.types.push(gpuslice_sim::TypeShape { id, ..smallest.clone() });
        }
    }
    of("4 A40, each VF a parent of 25 types", made(&many), 128, 128 * TYPES, report);
    of("4 A40 whose VFs take a type", made(&host("a40-vfio.toml")), 128, 128, report);
}

/// With all VFs of NVIDIA's GPUs.
fn made(host: &HostFile) -> Kernel {
    let mut kernel = Kernel::from_host(host);
    kernel.settle();
    for pf in kernel.pfs() {
        let command = ["/usr/lib/nvidia/sriov-manage", "-e", &pf.to_string()].map(str::to_owned);
        let ran = kernel.run(&command).expect("run sriov-manage");
        assert_eq!(ran.code, 0, "{}", ran.said);
    }
    kernel
}

/// The first reading, and the next, at which nothing is asked again that cannot have changed.
fn of(name: &str, mut kernel: Kernel, vfs: usize, things: usize, report: &mut Report) {
    kernel.advance(60_000);
    let mut observer = Observer::new(gpuslice_vendors::all());
    for (which, divisor) in [("first reading", things), ("next", things)] {
        let before = kernel.reads();
        let seen = observer.observe(&kernel);
        assert_eq!(seen.vfs.len(), vfs, "{name}");
        let reads = kernel.reads() - before;
        #[expect(clippy::cast_precision_loss, reason = "thousands")]
        let each = reads as f64 / divisor as f64;
        let of = if things == vfs { "VF" } else { "type of a VF" };
        report.say(&format!("{name}: {which}"), format!("{reads} reads, {each:.1} for each {of}"));
    }
}
