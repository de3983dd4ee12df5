//! Machines too large to write down: grids of equal cards, for scale tests and benches.

use super::{
    DriverShape, FunctionShape, Grouping, HostFile, KernelShape, MdevOn, MdevRule, MdevShape,
    SriovShape, TypeShape,
};
use gpuslice_core::ids::PciAddress;

impl HostFile {
    /// `pfs` equal SR-IOV cards of `vfs` VFs, each in a PCI domain of its own, on two NUMA nodes.
    pub fn sriov_grid(pfs: u32, vfs: u16) -> Self {
        let functions = (0..pfs).map(|i| {
            let mut function = plain_card(i);
            function.sriov = Some(SriovShape {
                total_vfs: vfs,
                offset: 16,
                stride: 1,
                vf_device: 0x74b5,
                vf_subsystem_device: None,
                vf_driver: None,
                configure_ms: 0,
            });
            function
        });
        Self::of("sriov-grid", functions.collect())
    }

    /// `parents` cards that are parents of mediated devices with `types` types each.
    pub fn mdev_grid(parents: u32, types: u32) -> Self {
        let functions = (0..parents).map(|i| {
            let mut function = plain_card(i);
            function.mdev = Some(MdevShape {
                on: MdevOn::Pf,
                driver: "gpusim-mdev".to_owned(),
                memory_mib: 49152,
                rule: MdevRule::Mixed,
                sizes: Vec::new(),
                mig: None,
                removes_after_ms: None,
                types: (0..types).map(grid_type).collect(),
            });
            function
        });
        Self::of("mdev-grid", functions.collect())
    }

    fn of(name: &str, functions: Vec<FunctionShape>) -> Self {
        Self {
            name: name.to_owned(),
            kernel: KernelShape::default(),
            drivers: vec![DriverShape {
                name: "gpusim".to_owned(),
                version: None,
                loaded: true,
                sriov_configure: true,
                keeps_vfs: false,
                bind_files: true,
                vfio: false,
                ids: Vec::new(),
                refuses_vfs: false,
                vf_tool: None,
                smi_tool: None,
                old_files: false,
                list_header: true,
                probe_ms: 0,
                gim: None,
            }],
            functions,
            virtuals: Vec::new(),
        }
    }
}

fn grid_type(index: u32) -> TypeShape {
    let memory_mib = 1024 * u64::from(index % 24 + 1);
    let max = 49152 / memory_mib;
    TypeShape {
        id: (500 + index).to_string(),
        name: format!("GRID G{index}-{}Q", memory_mib / 1024),
        memory_mib,
        max: None,
        description: Some(format!(
            "num_heads=4, frl_config=60, framebuffer={memory_mib}M, max_resolution=7680x4320, max_instance={max}"
        )),
        gi_profile: None,
        per_gi: None,
        per_vm: None,
    }
}

fn plain_card(index: u32) -> FunctionShape {
    // A domain each leaves room for any number of VFs; 0 is left to the rest of the machine.
    let address = PciAddress::new(index + 1, 0, 0, 0);
    #[expect(clippy::expect_used, reason = "device and function are literals in range")]
    let address = address.expect("0.0 is in range");
    FunctionShape {
        address,
        vendor: 0x1002,
        device: 0x74a1,
        subsystem_vendor: 0x1002,
        subsystem_device: 0x74a1,
        class: 0x12_0000,
        revision: 0,
        numa_node: i32::from(index % 2 == 1),
        slot: None,
        driver: Some("gpusim".to_owned()),
        serial: Some(format!("{:016x}", 0x0011_2233_4455_0000_u64 + u64::from(index))),
        iommu_group: Grouping::Function,
        reset_method: "flr bus".to_owned(),
        appears_after_ms: 0,
        boot_vga: false,
        sriov: None,
        mdev: None,
    }
}
