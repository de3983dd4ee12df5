//! Stories of VFs that share their IOMMU group with their PF: VFIO gives a group out as a whole, and the host has the PF.

use crate::driver::Driver;
use crate::vgpu::{attach, call, profile};
use gpuslice_core::machine::HookOperation;
use gpuslice_core::refusal::Code;
use gpuslice_sim::{Grouping, HostFile};

const LAYOUT: &str = "[[gpu]]\nmatch = { address = \"0000:0c:00.0\" }\nlayout = { vfs = 2 }";

fn host(grouping: Grouping) -> HostFile {
    let mut host = HostFile::parse(include_str!("../../../examples/hosts/sriov-8.toml")).unwrap();
    host.functions.truncate(1);
    host.functions[0].iommu_group = grouping;
    host
}

#[test]
fn a_vf_in_the_group_of_its_pf_is_given_to_no_vm() {
    for (grouping, code) in [
        (Grouping::Function, None),
        (Grouping::Pf, Some(Code::Unsupported)),
        (Grouping::None, Some(Code::Unsupported)),
    ] {
        let host = host(grouping);
        let config = LAYOUT.replace("0000:0c:00.0", &host.functions[0].address.to_string());
        let mut driver = Driver::new(&host, &config).unwrap();
        driver.advance(10_000).unwrap();
        let free = profile(&mut driver, "amd-74a1-vf2").free;
        assert_eq!(free, if code.is_none() { 2 } else { 0 }, "{grouping:?}");
        let domain = attach(&mut driver, 1, "amd-74a1-vf2");
        let refused = call(&mut driver, &domain, HookOperation::Prepare).err();
        assert_eq!(refused.as_ref().map(|why| why.code), code, "{grouping:?}: {refused:?}");
        if grouping == Grouping::Pf {
            let why = refused.unwrap();
            assert!(why.message.contains("shares its IOMMU group with"), "{why}");
            assert!(why.hint.as_ref().unwrap().contains("ACS"), "{why:?}");
        }
    }
}
