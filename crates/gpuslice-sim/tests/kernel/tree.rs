//! The tree holds together, and opens as sysfs does.

use super::*;
use gpuslice_sim::Projected;

fn busy() -> Kernel {
    let mut kernel = with_bound_vf();
    kernel.write(&create(PARENT, "nvidia-562"), uuid(1).as_bytes()).unwrap();
    let mtty = "/sys/class/mdev_bus/mtty";
    kernel.write(&create(mtty, "mtty-1"), uuid(2).as_bytes()).unwrap();
    kernel.open(77, "qemu", mdev(2)).unwrap();
    kernel.open(78, "qemu", vf("0000:0c:02.0")).unwrap();
    kernel
}

/// What is listed is there, reads as its mode says, and links lead where their text says.
#[test]
fn every_entry_resolves() {
    let kernel = busy();
    let mut seen = 0;
    kernel.dump(&mut |path, projected| {
        seen += 1;
        match projected {
            Projected::Dir => drop(kernel.list(path).unwrap()),
            Projected::Link(target) => {
                assert_eq!(kernel.link(path).as_ref(), Ok(&target), "{path}");
                let (inside, _) = path.rsplit_once('/').unwrap();
                let there =
                    if target.starts_with('/') { target } else { format!("{inside}/{target}") };
                let direct = kernel.list(&there);
                assert_eq!(kernel.list(path), direct, "{path} -> {there}");
                assert_ne!(direct, Err(Errno::ENOENT), "{path} -> {there}");
            }
            Projected::File(content) => match kernel.read(path) {
                Ok(read) => assert_eq!(read, content, "{path}"),
                Err(errno) => assert!([Errno::EACCES, Errno::EINVAL].contains(&errno), "{path}"),
            },
        }
    });
    assert!(seen > 300, "{seen}");
}

#[test]
fn paths_fail_as_the_kernels_do() {
    let mut kernel = busy();
    for (path, want) in [
        ("/nowhere", Errno::ENOENT),
        ("relative", Errno::ENOENT),
        ("/sys/bus/pci/devices/0000:0c:00.0/vendor/x", Errno::ENOTDIR),
        ("/sys/bus/pci/devices/0C:00.0/vendor", Errno::ENOENT),
        ("/sys/bus/pci/devices/0000:0c:00.0", Errno::EISDIR),
        ("/sys/bus/pci/drivers/gpusim/bind", Errno::EACCES),
        ("/sys/bus/pci/drivers_probe", Errno::EACCES),
        ("/sys/class/mdev_bus/mtty/mdev_supported_types/mtty-1/create", Errno::EACCES),
    ] {
        assert_eq!(kernel.read(path), Err(want), "{path}");
    }
    assert_eq!(kernel.write(&format!("{PF}/sriov_totalvfs"), b"1"), Err(Errno::EACCES));
    assert_eq!(kernel.write(PF, b"1"), Err(Errno::EISDIR));
    assert_eq!(kernel.list(&format!("{PF}/vendor")), Err(Errno::ENOTDIR));
    assert_eq!(kernel.link(&format!("{PF}/vendor")), Err(Errno::EINVAL));
    assert_eq!(kernel.link(&format!("{PARENT}/physfn")), Err(Errno::ENOENT));
    // `..` leaves the directory that a link leads to, not the one the link is in.
    assert_eq!(kernel.list(&format!("{PF}/virtfn0/../virtfn0")), Err(Errno::ENOENT));
    // Nothing written, nothing done.
    assert_eq!(kernel.write(NUMVFS, b""), Ok(Written::Done));
    assert_eq!(text(&kernel, &format!("{PF}/virtfn0/physfn/../0000:0c:00.0/sriov_numvfs")), "4");
}

#[test]
fn reset_methods_are_a_subset() {
    let mut kernel = mixed();
    let file = format!("{PF}/reset_method");
    for (value, want, reads) in [
        ("bus", Ok(Written::Done), "bus"),
        ("pm", Err(Errno::EINVAL), "bus"),
        ("flr nonsense", Err(Errno::EINVAL), "bus"),
        ("", Ok(Written::Done), ""),
        ("default", Ok(Written::Done), "flr bus"),
    ] {
        assert_eq!(echo(&mut kernel, value, &file), want, "{value}");
        assert_eq!(text(&kernel, &file), reads);
    }
}
