use super::{HostError, HostFile};

const SHIPPED: &[(&str, &str, usize)] = &[
    ("sriov-8", include_str!("../../../../examples/hosts/sriov-8.toml"), 8),
    ("mdev", include_str!("../../../../examples/hosts/mdev.toml"), 2),
    ("mixed", include_str!("../../../../examples/hosts/mixed.toml"), 4),
];

#[test]
fn shipped_hosts_parse_and_boot() {
    for (name, text, functions) in SHIPPED {
        let host = HostFile::parse(text).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!(host.name, *name);
        assert_eq!(host.functions.len(), *functions, "{name}");
        let again = toml::to_string(&host).unwrap();
        assert_eq!(HostFile::parse(&again).unwrap(), host, "{name}");
        crate::Kernel::from_host(&host);
    }
}

const CARD: &str = "name = \"x\"\n[[driver]]\nname = \"gpusim\"\n[[function]]\n\
    address = \"0000:0c:00.0\"\nvendor = 0x1002\ndevice = 0x74a1\n";

#[test]
fn mistakes_are_named() {
    HostFile::parse(CARD).unwrap();
    for (more, said) in [
        ("colour = 1\n", "colour"),
        ("vendor = 1\n", "duplicate key"),
        ("driver = \"nowhere\"\n", "function 0000:0c:00.0: driver: no [[driver]] is named nowhere"),
        ("class = 0x1000000\n", "class: exceeds 24 bits"),
        ("serial = \"12\"\n", "serial: is not 16 hexadecimal digits"),
        ("numa_node = \"x\"\n", "line 8"),
        ("iommu_group = \"both\"\n", "unknown variant `both`"),
        ("sriov = { total_vfs = 8 }\n", "vf_device"),
        ("sriov = { total_vfs = 65000, vf_device = 1 }\n", "leaves the PCI domain"),
        ("sriov = { total_vfs = 1, vf_device = 1, vf_driver = \"x\" }\n", "named x"),
        (
            "[function.mdev]\ndriver = \"d\"\nmemory_mib = 1\ntype = [{ id = \"a/b\", name = \"n\", memory_mib = 1 }]\n",
            "not a file name",
        ),
        (
            "[function.mdev]\ndriver = \"d\"\nmemory_mib = 1\ntype = [{ id = \"a\", name = \"n\", memory_mib = 0 }]\n",
            "is 0",
        ),
        (
            "[[function]]\naddress = \"0000:0c:00.0\"\nvendor = 1\ndevice = 1\n",
            "another function's",
        ),
        ("[[function]]\naddress = \"0c:20.0\"\nvendor = 1\ndevice = 1\n", "line 9"),
        ("[[virtual]]\nkind = \"mtty\"\n[[virtual]]\nkind = \"mtty\"\n", "there twice"),
        ("[[driver]]\nname = \"vfio-pci\"\n", "declared twice"),
    ] {
        let error = HostFile::parse(&format!("{CARD}{more}")).unwrap_err();
        assert!(error.to_string().contains(said), "{more}: {error}");
    }
    assert!(matches!(HostFile::parse("name"), Err(HostError::Parse(_))));
}

#[test]
fn grids_are_sound() {
    for host in [HostFile::sriov_grid(64, 64), HostFile::mdev_grid(160, 25)] {
        host.check().unwrap();
    }
}
