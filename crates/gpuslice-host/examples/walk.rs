//! Measures what one look at a large host costs: `walk ROOT` observes the tree below ROOT once cold and twice warm and
//! prints the times; under `strace -c`, the system calls. Where ROOT does not exist it becomes an inert tree of 64
//! PFs with 64 VFs each and 160 mdev parents with 25 types each.

use gpuslice_core::observe::Observer;
use gpuslice_host::SysHost;
use std::error::Error;
use std::fs;
use std::io::Result as IoResult;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::Instant;

fn main() -> Result<(), Box<dyn Error>> {
    let root = std::env::args_os().nth(1).ok_or("usage: walk ROOT")?;
    if !Path::new(&root).exists() {
        make(Path::new(&root))?;
    }
    let host = SysHost::new(root)?;
    let mut observer = Observer::default();
    for what in ["cold", "warm", "warm"] {
        let start = Instant::now();
        let seen = observer.observe(&host);
        let took = start.elapsed();
        println!(
            "{what}: {took:?}, {} functions, {} mdev parents, {} problems",
            seen.functions.len(),
            seen.mdev_parents.len(),
            seen.problems.len()
        );
    }
    Ok(())
}

fn make(root: &Path) -> IoResult<()> {
    for dir in ["sys/bus/pci/devices", "sys/bus/pci/drivers/vfio-pci", "sys/class/mdev_bus"] {
        fs::create_dir_all(root.join(dir))?;
    }
    for gpu in 0..64_u32 {
        let pf = function(root, &format!("{gpu:04x}:00:00.0"))?;
        let dir = root.join("sys/devices").join(&pf);
        for (name, content) in [
            ("sriov_totalvfs", "64"),
            ("sriov_numvfs", "64"),
            ("sriov_drivers_autoprobe", "0"),
            ("sriov_offset", "8"),
            ("sriov_stride", "1"),
        ] {
            fs::write(dir.join(name), content)?;
        }
        for vf in 0..64_u32 {
            let name = function(root, &format!("{gpu:04x}:00:{:02x}.{}", 1 + vf / 8, vf % 8))?;
            symlink(format!("../{name}"), dir.join(format!("virtfn{vf}")))?;
            let dir = root.join("sys/devices").join(name);
            symlink(format!("../{pf}"), dir.join("physfn"))?;
        }
    }
    for parent in 0..160_u32 {
        let name = function(root, &format!("{parent:04x}:80:00.0"))?;
        let link = root.join("sys/class/mdev_bus").join(&name);
        symlink(format!("../../devices/{name}"), link)?;
        for of in 0..25_u32 {
            let dir = root
                .join("sys/devices")
                .join(&name)
                .join(format!("mdev_supported_types/nvidia-{of}"));
            fs::create_dir_all(dir.join("devices"))?;
            for (name, content) in [
                ("name", "GRID A40-8Q"),
                ("description", "num_heads=4, frl_config=60, framebuffer=8192M, max_instance=6"),
                ("device_api", "vfio-pci"),
                ("available_instances", "6"),
                ("create", ""),
            ] {
                fs::write(dir.join(name), content)?;
            }
        }
    }
    Ok(())
}

/// Makes a PCI function bound to vfio-pci; returns its name.
fn function(root: &Path, name: &str) -> IoResult<String> {
    let dir = root.join("sys/devices").join(name);
    fs::create_dir_all(&dir)?;
    symlink(format!("../../../devices/{name}"), root.join("sys/bus/pci/devices").join(name))?;
    for (attribute, content) in [
        ("vendor", "0x10de\n"),
        ("device", "0x2235\n"),
        ("class", "0x030200\n"),
        ("numa_node", "0\n"),
        ("driver_override", "(null)\n"),
        ("config", ""),
    ] {
        fs::write(dir.join(attribute), content)?;
    }
    symlink("../../bus/pci/drivers/vfio-pci", dir.join("driver"))?;
    symlink("../../kernel/iommu_groups/7", dir.join("iommu_group"))?;
    Ok(name.to_owned())
}
