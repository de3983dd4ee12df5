//! Stories of VFs that make mediated devices (NVIDIA's older framework): what has slices, and is counted and named, is
//! their GPU.

use crate::driver::Driver;
use crate::vgpu::{LAYOUT, attach, call, order, profile};
use gpuslice_core::domain::Domain;
use gpuslice_core::history::Wanted;
use gpuslice_core::ids::ParentId;
use gpuslice_core::machine::HookOperation;
use gpuslice_core::request::{Answer, Command, ParentRow, SliceRow};
use gpuslice_sim::HostFile;

const PROFILE: &str = "nvidia-a40-8q";
const GPU: &str = "0000:41:00.0";

fn ready() -> Driver {
    let host = include_str!("../../../examples/hosts/a40-mdev.toml");
    let mut driver = Driver::new(&HostFile::parse(host).unwrap(), LAYOUT).unwrap();
    driver.advance(10_000).unwrap();
    driver
}

/// A VM that runs.
fn running(driver: &mut Driver, vm: u128) -> Domain {
    let domain = attach(driver, vm, PROFILE);
    call(driver, &domain, HookOperation::Prepare).unwrap();
    let pid = u32::try_from(vm).unwrap() + 1000;
    driver.kernel.open(pid, "qemu-system-x86", domain.devices[0].source.slice()).unwrap();
    call(driver, &domain, HookOperation::Started).unwrap();
    domain
}

fn slices(driver: &mut Driver) -> Vec<SliceRow> {
    match order(driver, Command::ListSlices).unwrap() {
        Answer::Slices { rows } => rows,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_vf_that_makes_mediated_devices_is_no_slice() {
    let mut driver = ready();
    let domain = running(&mut driver, 1);
    let rows = slices(&mut driver);
    let (vfs, made): (Vec<_>, Vec<_>) = rows.iter().partition(|row| row.address.is_some());
    assert_eq!(vfs.len(), 128);
    assert!(vfs.iter().all(|row| row.state == "parent"), "{vfs:?}");
    let [made] = made.as_slice() else { panic!("{made:?}") };
    assert_eq!((made.slice, made.state.as_str()), (domain.devices[0].source.slice(), "attached"));
}

fn gpus(driver: &mut Driver) -> Vec<ParentRow> {
    match order(driver, Command::ListParents).unwrap() {
        Answer::Parents { rows } => rows,
        other => panic!("{other:?}"),
    }
}

/// The rows of the GPU and of its first VF.
fn first_two(driver: &mut Driver) -> [ParentRow; 2] {
    let rows = gpus(driver);
    [GPU, "0000:41:00.4"]
        .map(|name| rows.iter().find(|row| row.parent.to_string() == name).cloned().unwrap())
}

#[test]
fn counts_are_of_gpus_and_of_what_they_make() {
    let mut driver = ready();
    let domains = [1, 2].map(|vm| running(&mut driver, vm));
    let Answer::Status(row) = order(&mut driver, Command::Status).unwrap() else { panic!() };
    assert_eq!((row.parents, row.slices, row.attached), (4, 2, 2));
    let rows = gpus(&mut driver);
    let (vfs, pfs): (Vec<_>, Vec<_>) = rows.iter().partition(|row| row.pf.is_some());
    assert_eq!((vfs.len(), pfs.len()), (128, 4));
    let used = |rows: &[&ParentRow]| rows.iter().map(|row| row.assigned).sum::<u32>();
    assert_eq!((used(&vfs), used(&pfs)), (2, 2));
    let of_vfs = |gpu: &ParentRow| {
        let own = vfs.iter().filter(|vf| vf.pf.as_ref() == Some(&gpu.parent));
        own.map(|vf| vf.assigned).sum::<u32>()
    };
    assert!(pfs.iter().all(|gpu| gpu.assigned == of_vfs(gpu)), "{pfs:?}");
    let offered = profile(&mut driver, PROFILE);
    let names: Vec<String> = offered.gpus.iter().map(ToString::to_string).collect();
    assert_eq!(names, [GPU, "0000:61:00.0", "0000:81:00.0", "0000:a1:00.0"]);
    assert_eq!(offered.parents.len(), 128);
    // Whoever asks for the GPU's past is told of its VFs'.
    let mut remembered = 0;
    for gpu in &pfs {
        let wanted = Wanted { about: Some(gpu.parent.to_string()), since: None };
        let told = driver.disk.history.rows(wanted);
        assert!(told.iter().all(|row| row.pf.as_ref() == Some(&gpu.parent)), "{told:?}");
        remembered += told.len();
    }
    assert_eq!(remembered, domains.len());
}

#[test]
fn what_is_said_of_a_gpu_is_said_of_its_vfs() {
    let mut driver = ready();
    let parent: ParentId = GPU.parse().unwrap();
    let cordon = Command::Cordon { parent: parent.clone(), reason: "loud".to_owned() };
    order(&mut driver, cordon).unwrap();
    for row in first_two(&mut driver) {
        assert_eq!((row.state.as_str(), row.reason.as_deref()), ("cordoned", Some("loud")));
    }
    order(&mut driver, Command::Uncordon { parent }).unwrap();
    assert!(first_two(&mut driver).iter().all(|row| row.state == "ok"));
}
