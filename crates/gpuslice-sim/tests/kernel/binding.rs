//! Groups, VFIO users and drivers.

use super::*;

#[test]
fn a_vfio_driver_gives_nodes_and_a_user_shows_in_proc() {
    let mut kernel = with_bound_vf();
    let device = "/sys/bus/pci/devices/0000:0c:02.0";
    let group = kernel.link(&format!("{device}/iommu_group")).unwrap();
    let group = group.strip_prefix("../../../kernel/iommu_groups/").unwrap();
    assert_eq!(kernel.list(&format!("{device}/iommu_group/devices")).unwrap(), ["0000:0c:02.0"]);
    let mut nodes = kernel.list("/dev/vfio").unwrap();
    nodes.sort();
    assert_eq!(nodes, [group, "vfio"]);
    assert_eq!(kernel.list(&format!("{device}/vfio-dev")).unwrap(), ["vfio0"]);
    let slice = vf("0000:0c:02.0");
    kernel.open(4242, "qemu-system-x86_64", slice).unwrap();
    assert_eq!(kernel.holders(slice), [4242]);
    assert_eq!(text(&kernel, "/proc/4242/comm"), "qemu-system-x86");
    assert_eq!(kernel.link("/proc/4242/fd/4").unwrap(), format!("/dev/vfio/{group}"));
    assert!(text(&kernel, "/proc/4242/fdinfo/4").contains("flags:\t02000002\n"));
    assert_eq!(kernel.list("/proc/4242/fdinfo").unwrap(), kernel.list("/proc/4242/fd").unwrap());
    let opened = kernel.device("/proc/4242/fd/4").unwrap();
    assert_eq!(kernel.device(&format!("/dev/vfio/{group}")).unwrap(), opened);
    assert_ne!(kernel.device("/proc/4242/fd/3").unwrap(), opened);
    assert_eq!(kernel.device("/proc/4242/comm"), Ok(None));
    assert_eq!(kernel.open(4243, "qemu", slice), Err(Errno::EBUSY));
    let file = "/sys/bus/pci/drivers/vfio-pci/unbind";
    assert_eq!(echo(&mut kernel, "0000:0c:02.0", file), Ok(Written::Blocked));
    kernel.close(4242, slice);
    assert_eq!(kernel.poll_blocked().len(), 1);
    assert_eq!(kernel.list("/dev/vfio").unwrap(), ["vfio"]);
    assert!(kernel.list("/proc").unwrap().contains(&"4242".to_owned()));
    kernel.kill(4242);
    assert_eq!(kernel.list("/proc").unwrap(), ["cmdline", "sys"]);
}

#[test]
fn a_node_needs_a_driver_and_a_viable_group() {
    let text = include_str!("../../../../examples/hosts/sriov-8.toml");
    let shared =
        text.replace("driver = \"gpusim\"\n", "driver = \"gpusim\"\niommu_group = \"pf\"\n");
    let mut kernel = Kernel::from_host(&HostFile::parse(&shared).unwrap());
    echo(&mut kernel, "2", NUMVFS).unwrap();
    let slice = vf("0000:0c:02.0");
    assert_eq!(kernel.open(1, "qemu", slice), Err(Errno::ENODEV));
    bind(&mut kernel, "0000:0c:02.0");
    // The PF is in the same group and has a host driver.
    assert_eq!(kernel.open(1, "qemu", slice), Err(Errno::EPERM));
    assert_eq!(kernel.open(1, "qemu", vf("0000:0c:05.0")), Err(Errno::ENOENT));
}

#[test]
fn without_an_iommu_vfio_refuses() {
    let text = include_str!("../../../../examples/hosts/sriov-8.toml");
    let bare = text.replace("[kernel]\n", "[kernel]\niommu = false\n");
    let mut kernel = Kernel::from_host(&HostFile::parse(&bare).unwrap());
    echo(&mut kernel, "1", NUMVFS).unwrap();
    let device = "/sys/bus/pci/devices/0000:0c:02.0";
    assert_eq!(kernel.link(&format!("{device}/iommu_group")), Err(Errno::ENOENT));
    echo(&mut kernel, "vfio-pci", &format!("{device}/driver_override")).unwrap();
    let file = "/sys/bus/pci/drivers/vfio-pci/bind";
    assert_eq!(echo(&mut kernel, "0000:0c:02.0", file), Err(Errno::EINVAL));
    // drivers_probe hides what a probe says.
    assert_eq!(echo(&mut kernel, "0000:0c:02.0", PROBE), Ok(Written::Done));
    assert_eq!(kernel.link(&format!("{device}/driver")), Err(Errno::ENOENT));
}

/// vfio_pci_core_register_device: "Cannot bind to PF with SRIOV enabled".
#[test]
fn vfio_does_not_take_a_pf_with_vfs_left() {
    let text = include_str!("../../../../examples/hosts/sriov-8.toml");
    let keeps = text.replace("name = \"gpusim\"\n", "name = \"gpusim\"\nkeeps_vfs = true\n");
    let mut kernel = Kernel::from_host(&HostFile::parse(&keeps).unwrap());
    echo(&mut kernel, "2", NUMVFS).unwrap();
    echo(&mut kernel, "0000:0c:00.0", &format!("{PF}/driver/unbind")).unwrap();
    assert_eq!(vfs(&kernel, PF), 2, "driver left SR-IOV enabled after remove");
    echo(&mut kernel, "vfio-pci", &format!("{PF}/driver_override")).unwrap();
    let file = "/sys/bus/pci/drivers/vfio-pci/bind";
    assert_eq!(echo(&mut kernel, "0000:0c:00.0", file), Err(Errno::EBUSY));
}

#[test]
fn modules_bring_drivers() {
    let text = include_str!("../../../../examples/hosts/sriov-8.toml");
    let bare = text
        .replace("modules = [\"vfio-pci\"]", "modules = []")
        .replace("name = \"gpusim\"\n", "name = \"gpusim\"\nloaded = false\n");
    let mut kernel = Kernel::from_host(&HostFile::parse(&bare).unwrap());
    assert_eq!(kernel.list("/sys/bus/pci/drivers").unwrap(), [""; 0]);
    assert_eq!(kernel.list("/dev/vfio"), Err(Errno::ENOENT));
    assert_eq!(kernel.load_module("nothing"), Err(Errno::ENOENT));
    kernel.load_module("gpusim").unwrap();
    kernel.load_module("gpusim").unwrap();
    kernel.load_module("vfio_pci").unwrap();
    assert!(kernel.link(&format!("{PF}/driver")).unwrap().ends_with("/gpusim"));
    let mut modules = kernel.list("/sys/module").unwrap();
    modules.sort();
    assert_eq!(modules, ["gpusim", "vfio", "vfio_iommu_type1", "vfio_pci", "vfio_pci_core"]);
}

#[test]
fn suppressed_bind_files_are_absent() {
    let text = include_str!("../../../../examples/hosts/sriov-8.toml");
    let text = text.replace("name = \"gpusim\"\n", "name = \"gpusim\"\nbind_files = false\n");
    let mut kernel = Kernel::from_host(&HostFile::parse(&text).unwrap());
    let file = "/sys/bus/pci/drivers/gpusim/unbind";
    assert_eq!(echo(&mut kernel, "0000:0c:00.0", file), Err(Errno::ENOENT));
}

/// iommu_device_use_default_domain: who has the group open owns its DMA.
#[test]
fn no_host_driver_joins_a_group_in_use() {
    let text = include_str!("../../../../examples/hosts/sriov-8.toml");
    let text = text
        .replace("name = \"gpusim\"\n", "name = \"gpusim\"\nkeeps_vfs = true\n")
        .replace("driver = \"gpusim\"\n", "driver = \"gpusim\"\niommu_group = \"pf\"\n");
    let mut kernel = Kernel::from_host(&HostFile::parse(&text).unwrap());
    echo(&mut kernel, "1", NUMVFS).unwrap();
    echo(&mut kernel, "0000:0c:00.0", &format!("{PF}/driver/unbind")).unwrap();
    bind(&mut kernel, "0000:0c:02.0");
    kernel.open(5, "qemu", vf("0000:0c:02.0")).unwrap();
    let file = "/sys/bus/pci/drivers/gpusim/bind";
    assert_eq!(echo(&mut kernel, "0000:0c:00.0", file), Err(Errno::EBUSY));
    kernel.kill(5);
    assert_eq!(echo(&mut kernel, "0000:0c:00.0", file), Ok(Written::Done));
}

/// ida_alloc: a number that was given back is the next one given out.
#[test]
fn group_numbers_are_reused() {
    let mut kernel = mixed();
    let group = |kernel: &Kernel| kernel.link(&format!("{PF}/virtfn0/iommu_group"));
    echo(&mut kernel, "2", NUMVFS).unwrap();
    let first = group(&kernel).unwrap();
    echo(&mut kernel, "0", NUMVFS).unwrap();
    echo(&mut kernel, "1", NUMVFS).unwrap();
    assert_eq!(group(&kernel), Ok(first));
}
