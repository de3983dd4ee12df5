//! Hosts to measure on, written as host files of the simulator.

use gpuslice_sim::{HostFile, Kernel, Projected};
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

/// `pfs` cards of `vfs` virtual functions, a card a bus.
pub(crate) fn cards(pfs: u32, vfs: u32) -> String {
    let mut text = "name = \"bench\"\n[kernel]\nmodules = [\"vfio-pci\"]\n\
        [[driver]]\nname = \"gpusim\"\n"
        .to_owned();
    for bus in 1..=pfs {
        writeln!(
            text,
            "[[function]]\naddress = \"0000:{bus:02x}:00.0\"\nvendor = 0x1002\ndevice = 0x74a1\n\
             class = 0x120000\ndriver = \"gpusim\"\nsriov = {{ total_vfs = {vfs}, vf_device = 0x74b5 }}"
        )
        .expect("write to a text");
    }
    text
}

/// `parents` cards with `types` types of mediated devices each.
pub(crate) fn parents(parents: u32, types: u32) -> String {
    let mut text = "name = \"bench\"\n[kernel]\nmodules = [\"vfio-pci\"]\n\
        [[driver]]\nname = \"nvidia\"\nsriov_configure = false\n"
        .to_owned();
    for bus in 1..=parents {
        writeln!(
            text,
            "[[function]]\naddress = \"0000:{bus:02x}:00.0\"\nvendor = 0x10de\ndevice = 0x20b5\n\
             class = 0x030200\ndriver = \"nvidia\"\n\
             [function.mdev]\ndriver = \"nvidia\"\nmemory_mib = 40960\nrule = \"same-size\""
        )
        .expect("write to a text");
        for id in 0..types {
            writeln!(
                text,
                "[[function.mdev.type]]\nid = \"{}\"\nname = \"NVIDIA A100-{id}C\"\nmemory_mib = {}\n\
                 description = \"num_heads=1, frl_config=60, framebuffer=1024M, \
                 max_resolution=4096x2160, max_instance=20\"",
                400 + id,
                1024 * (1 + id)
            )
            .expect("write to a text");
        }
    }
    text
}

/// Starts the host and makes one device on each parent.
pub(crate) fn with_a_device_on_each(text: &str) -> Kernel {
    let host = HostFile::parse(text).expect("a good host file");
    let mut kernel = Kernel::from_host(&host);
    kernel.settle();
    for (number, function) in host.functions.iter().enumerate() {
        let create = format!(
            "/sys/class/mdev_bus/{}/mdev_supported_types/nvidia-400/create",
            function.address
        );
        let uuid = format!("00000000-0000-4000-8000-{number:012x}\n");
        gpuslice_core::port::HostWrite::write(&mut kernel, &create, uuid.as_bytes())
            .unwrap_or_else(|errno| panic!("{create}: {errno:?}"));
    }
    kernel.settle();
    kernel
}

/// Writes what the host's files read into a folder, for programs that know no simulator.
pub(crate) fn write_tree(kernel: &Kernel, root: &Path) {
    kernel.dump(&mut |path, entry| {
        let to = root.join(path.trim_start_matches('/'));
        match entry {
            Projected::Dir => fs::create_dir_all(&to),
            Projected::File(content) => fs::write(&to, content),
            Projected::Link(target) => std::os::unix::fs::symlink(target, &to),
        }
        .unwrap_or_else(|e| panic!("{path}: {e}"));
    });
}
