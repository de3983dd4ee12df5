//! The kept corpus of the fuzz target sysfs, by the target's own check.
#![cfg(test)]

use gpuslice_core::ids::ParentId;

#[path = "../../../integration/fuzz/checks/sysfs.rs"]
mod sysfs;

/// As many places as a host is cut at.
const CUTS: usize = 300;

/// Seeds that are not read would lead the fuzzer nowhere.
#[test]
fn seeds_are_understood() {
    for (mechanism, modes, seed) in [
        ("gim", 4, include_bytes!("../../../integration/fuzz/corpus/sysfs/gim").as_slice()),
        ("amdgpu", 2, include_bytes!("../../../integration/fuzz/corpus/sysfs/amdgpu")),
        ("nvidia-vfio", 1, include_bytes!("../../../integration/fuzz/corpus/sysfs/vgpu-sizes")),
        ("nvidia-vfio", 1, include_bytes!("../../../integration/fuzz/corpus/sysfs/vgpu-instances")),
        ("mdev", 0, include_bytes!("../../../integration/fuzz/corpus/sysfs/vgpu-mdev")),
    ] {
        let seen = sysfs::seen(seed);
        let told: usize = seen.modes.values().map(|modes| modes.len()).sum();
        assert!(
            told >= modes && seen.problems.is_empty(),
            "{mechanism}: {told}, {:?}",
            seen.problems
        );
        let found = gpuslice_vendors::all().into_iter().find(|m| m.name() == mechanism).unwrap();
        let parents = seen.functions.keys().map(|pf| ParentId::Pci(*pf));
        let mut parents = parents.chain(seen.mdev_parents.keys().cloned());
        let offers = parents.any(|parent| !found.offers(&seen, &parent, None).is_empty());
        assert_eq!(offers, mechanism != "amdgpu", "{mechanism}");
    }
}

#[test]
#[expect(clippy::disallowed_methods, reason = "reads the corpus")]
fn hosts() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../integration/fuzz/corpus/sysfs");
    let files: Vec<_> = std::fs::read_dir(folder).expect(folder).collect();
    assert!(!files.is_empty(), "{folder} is empty");
    for file in files {
        let path = file.unwrap().path();
        let data = std::fs::read(&path).unwrap();
        println!("{}", path.display());
        for cut in (0..=data.len()).rev().step_by(data.len() / CUTS + 1) {
            sysfs::check(&data[..cut]);
        }
    }
}
