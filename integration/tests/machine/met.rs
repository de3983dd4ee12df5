//! GPUs that a rule meets and that never have its VFs, or not while another driver has them, or somebody else a VF: nothing is
//! taken or written there, and nobody has to lift a quarantine.

use crate::domains::claim;
use crate::driver::Driver;
use crate::mig::{MIG, a100};
use crate::vgpu::{LAYOUT, asking, attach, call, one_gpu, order};
use crate::world::bind_by_hand;
use gpuslice_core::ids::PciAddress;
use gpuslice_core::machine::HookOperation::{Prepare, Release, Started};
use gpuslice_core::port::{HostWrite, read_text};
use gpuslice_core::refusal::Code;
use gpuslice_core::request::{Answer, Command, Outcome, ParentRow, PlanRow};
use gpuslice_sim::{FunctionShape, HostFile};
use std::collections::BTreeMap;

const ALL: &str = "[[gpu]]\nmatch = { driver = \"nvidia\" }\nlayout = { vfs = \"all\" }\n";
const T4: &str = "0000:3b:00.0";
const L40S: &str = "0000:ca:00.0";

fn t4_and_l40s() -> HostFile {
    HostFile::parse(include_str!("../../../examples/hosts/t4-l40s.toml")).unwrap()
}

fn plan(driver: &mut Driver) -> PlanRow {
    match order(driver, Command::Plan).unwrap() {
        Answer::Plan(plan) => plan,
        other => panic!("{other:?}"),
    }
}

fn row(driver: &mut Driver, gpu: &str) -> ParentRow {
    match order(driver, Command::ListParents).unwrap() {
        Answer::Parents { rows } => rows.into_iter().find(|r| r.parent.to_string() == gpu).unwrap(),
        other => panic!("{other:?}"),
    }
}

fn vfs(driver: &Driver, gpu: &str) -> usize {
    let address: PciAddress = gpu.parse().unwrap();
    driver.machine.observation().functions[&address].sriov.as_ref().unwrap().vfs.len()
}

#[test]
fn a_gpu_that_makes_mediated_devices_is_none_that_makes_vfs() {
    let mut driver = Driver::new(&t4_and_l40s(), "").unwrap();
    let vm = attach(&mut driver, 1, "nvidia-t4-8q");
    call(&mut driver, &vm, Prepare).unwrap();
    call(&mut driver, &vm, Started).unwrap();
    driver.config = ALL.to_owned();
    let told = plan(&mut driver);
    assert!(told.steps.iter().all(|row| row.parent.to_string() == L40S), "{told:?}");
    let said = "vfs = all of 0000:3b:00.0, which has none: mediated devices are made of it";
    assert_eq!((told.ignored.as_slice(), told.blockers.len()), ([said.to_owned()].as_slice(), 0));
    order(&mut driver, Command::Apply).unwrap();
    assert_eq!((vfs(&driver, T4), vfs(&driver, L40S)), (0, 32));
    let t4 = row(&mut driver, T4);
    assert_eq!(
        (t4.state.as_str(), t4.mechanisms.as_slice()),
        ("ok", ["mdev".to_owned()].as_slice())
    );
    // Its device goes and comes as before.
    call(&mut driver, &vm, Release).unwrap();
    call(&mut driver, &vm, Prepare).unwrap();
    assert!(order(&mut driver, Command::WaitSettled { timeout_ms: 1 }).is_ok());
    assert!(!plan(&mut driver).changed);
}

/// Its driver has it before `nvidia-vgpud` has told that driver which types there are.
#[test]
fn nor_is_it_before_its_types_are_there() {
    let mut host = t4_and_l40s();
    host.functions[0].mdev = None;
    let mut driver = Driver::new(&host, "").unwrap();
    driver.config = ALL.to_owned();
    assert_eq!(plan(&mut driver).ignored.len(), 1);
    order(&mut driver, Command::Apply).unwrap();
    assert_eq!((vfs(&driver, T4), vfs(&driver, L40S)), (0, 32));
    assert_eq!(row(&mut driver, T4).state, "ok");
}

/// Nobody resets what its driver takes away with all that was in it.
#[test]
fn proof_that_nobody_can_give_is_told() {
    let mut driver = Driver::new(&t4_and_l40s(), "").unwrap();
    driver.config = ALL.replace("\"all\"", "\"all\", wipe = \"required\"");
    let told = plan(&mut driver).ignored;
    let of = |gpu: &str| {
        told.iter().find(|line| line.starts_with(&format!("wipe = \"required\" of {gpu}, ")))
    };
    assert!(of(T4).is_some_and(|line| line.contains("made anew")), "{told:?}");
    assert!(of(L40S).is_some_and(|line| line.contains("driver is to clear")), "{told:?}");
}

/// Four of a kind.
fn flex() -> HostFile {
    let text = include_str!("../../../examples/hosts/everything.toml");
    let mut host = HostFile::parse(text).unwrap();
    let one = host.functions.into_iter().find(|f| f.device == 0x56c0).unwrap();
    let at = |bus| FunctionShape {
        address: format!("0000:4{bus}:00.0").parse().unwrap(),
        ..one.clone()
    };
    host.functions = (1..=4).map(at).collect();
    host
}

const FLEX: &str = "[[gpu]]\nmatch = { model = \"flex170\" }\nlayout = { vfs = 8 }\n";

/// A boot after which vfio-pci has this GPU before the daemon looks.
fn boots_passed(driver: &mut Driver, gpu: PciAddress, ms: u64) {
    driver.kernel.reboot();
    bind_by_hand(&mut driver.kernel, gpu, "vfio-pci");
    driver.restart().unwrap();
    driver.advance(ms).unwrap();
}

/// The first GPU is passed to a VM: `apply` says so, and after a boot the others are as their layout says, with so many VFs.
fn the_first_is_passed(host: &HostFile, config: &str, count: usize) -> Driver {
    let passed = host.functions[0].address;
    let mut driver = Driver::new(host, "").unwrap();
    bind_by_hand(&mut driver.kernel, passed, "vfio-pci");
    driver.wake_up().unwrap();
    driver.config = config.to_owned();
    let told = plan(&mut driver);
    let [blocker] = told.blockers.as_slice() else { panic!("{told:?}") };
    assert_eq!(blocker.code, Code::Unsupported);
    assert_eq!(blocker.message, format!("vfio-pci has {passed}, and makes no VFs of it"));
    assert_eq!(order(&mut driver, Command::Apply).unwrap_err().code, Code::Unsupported);
    // At a boot that is no reason to leave the others as they are, or to wait.
    let mut driver = Driver::new(host, config).unwrap();
    let request = driver.command(Command::Apply);
    driver.advance(200_000).unwrap();
    driver.answers.remove(&request).unwrap().unwrap();
    boots_passed(&mut driver, passed, 200_000);
    assert_eq!(driver.machine.durable().quarantines, BTreeMap::new());
    let gpus = driver.machine.observation().functions.values();
    let with_vfs = gpus.filter(|f| f.sriov.as_ref().is_some_and(|s| s.vfs.len() == count));
    assert_eq!(with_vfs.count(), host.functions.len() - 1);
    let autoprobe = format!("/sys/bus/pci/devices/{passed}/sriov_drivers_autoprobe");
    assert_eq!(read_text(&driver.kernel, &autoprobe).as_deref(), Ok("1"));
    assert!(order(&mut driver, Command::WaitSettled { timeout_ms: 1 }).is_ok());
    let of_it = row(&mut driver, &passed.to_string());
    let why = of_it.reason.unwrap_or_default();
    assert!(of_it.state == "waiting" && why.starts_with("vfio-pci has it"), "{why}");
    driver
}

/// It has its layout by itself.
fn given_back(driver: &mut Driver, gpu: PciAddress, to: &str, count: usize) {
    bind_by_hand(&mut driver.kernel, gpu, to);
    driver.wake_up().unwrap();
    driver.advance(10_000).unwrap();
    assert_eq!(vfs(driver, &gpu.to_string()), count);
}

#[test]
fn one_that_is_passed_to_a_vm_is_not_written_to() {
    let text = include_str!("../../../examples/hosts/a40-vfio.toml");
    let host = HostFile::parse(text).unwrap();
    let config = ALL.replace("driver = \"nvidia\"", "model = \"a40\"");
    let mut driver = the_first_is_passed(&host, &config, 32);
    given_back(&mut driver, host.functions[0].address, "nvidia", 32);
    let mut driver = the_first_is_passed(&flex(), FLEX, 8);
    given_back(&mut driver, flex().functions[0].address, "xe", 8);
    // Of one that the host computes on, or that comes back to GIM, a load of that driver is a person's to order.
    let text = include_str!("../../../examples/hosts/mi300x-8.toml");
    let layout = "vfs = 8, compute = \"CPX\", memory = \"NPS4\"";
    let config = format!("[[gpu]]\nmatch = {{ model = \"mi300x\" }}\nlayout = {{ {layout} }}\n");
    the_first_is_passed(&HostFile::parse(text).unwrap(), &config, 8);
}

/// Its modes are its own driver's, also where no VFs are wanted.
#[test]
fn nor_is_one_at_fault_that_has_no_modes_meanwhile() {
    let text = include_str!("../../../examples/hosts/mi300x-amdgpu.toml");
    let host = HostFile::parse(text).unwrap();
    let config =
        "[[gpu]]\nmatch = { model = \"mi300x\" }\nlayout = { vfs = 0, compute = \"CPX\" }\n";
    let passed = host.functions[0].address;
    let mut driver = Driver::new(&host, config).unwrap();
    boots_passed(&mut driver, passed, 10_000);
    assert_eq!(driver.machine.durable().quarantines, BTreeMap::new());
    assert_eq!(row(&mut driver, &passed.to_string()).state, "waiting");
    let refusal = order(&mut driver, Command::Apply).unwrap_err();
    assert_eq!(refusal.code, Code::Unsupported);
    assert_eq!(refusal.message, format!("vfio-pci has {passed}, and sets no mode of it"));
    driver.config = config.replace(", compute = \"CPX\"", "");
    order(&mut driver, Command::Apply).unwrap();
    assert_eq!(row(&mut driver, &passed.to_string()).state, "ok");
}

#[test]
fn vfio_pci_makes_vfs_where_it_was_told_to() {
    let mut host = flex();
    host.kernel.vfio_sriov = true;
    let passed = host.functions[0].address;
    let mut driver = Driver::new(&host, FLEX).unwrap();
    boots_passed(&mut driver, passed, 10_000);
    assert_eq!(vfs(&driver, &passed.to_string()), 8);
    assert_eq!(row(&mut driver, &passed.to_string()).state, "ok");
}

/// A type that somebody wrote to a VF by hand, say for a VM that virsh starts.
fn typed_by_hand(driver: &mut Driver) -> String {
    let vf = driver.machine.observation().vfs.keys().nth(1).copied().unwrap();
    let file = format!("/sys/bus/pci/devices/{vf}/nvidia/current_vgpu_type");
    driver.kernel.write(&file, b"562").unwrap();
    file
}

/// What `apply` is refused with while a VF has that type, and that it is met when the type is gone.
fn refused_for_the_type(driver: &mut Driver, file: &str, outcome: Outcome) {
    let refusal = outcome.unwrap_err();
    assert_eq!(refusal.code, Code::Foreign, "{refusal}");
    assert_eq!(refusal.hint, Some(format!("echo 0 > {file}")));
    assert_eq!(read_text(&driver.kernel, file).as_deref(), Ok("562"));
    assert!(driver.machine.durable().quarantines.is_empty());
    driver.kernel.write(file, b"0").unwrap();
    driver.wake_up().unwrap();
    order(driver, Command::Apply).unwrap();
    assert_eq!(row(driver, "0000:41:00.0").state, "ok");
}

#[test]
fn a_type_of_somebody_else_is_in_the_way() {
    for wish in ["vfs = 0", "vfs = \"all\", sizes = \"mixed\""] {
        let mut driver = one_gpu();
        let file = typed_by_hand(&mut driver);
        driver.wake_up().unwrap();
        driver.config = LAYOUT.replace("vfs = \"all\"", wish);
        let blockers = plan(&mut driver).blockers;
        assert_eq!(blockers.len(), 1, "{wish}: {blockers:?}");
        let outcome = order(&mut driver, Command::Apply);
        refused_for_the_type(&mut driver, &file, outcome);
    }
}

#[test]
fn nor_is_one_taken_that_was_given_since_that_was_planned() {
    let mut driver = one_gpu();
    driver.config = LAYOUT.replace("vfs = \"all\"", "vfs = 0");
    driver.lazy = true;
    let request = driver.command(Command::Apply);
    driver.advance(1_000).unwrap();
    let file = typed_by_hand(&mut driver);
    driver.begin_lazy().unwrap();
    driver.lazy = false;
    driver.advance(1_000).unwrap();
    let outcome = driver.answers.remove(&request).unwrap();
    refused_for_the_type(&mut driver, &file, outcome);
}

/// A person had it divided before; the mode outlives boots, the instances do not.
#[test]
fn one_that_is_divided_into_nothing_says_so() {
    let mut host = a100();
    host.functions.truncate(1);
    host.functions[0].mdev.as_mut().unwrap().mig.as_mut().unwrap().on = true;
    let (layout, _) = MIG.split_once(", instances").unwrap();
    let mut driver = Driver::new(&host, &format!("{layout} }}")).unwrap();
    driver.advance(10_000).unwrap();
    let why = "MIG is on for 0000:41:00.0, and it has no GPU instances for vGPUs to be in";
    let gpu = row(&mut driver, "0000:41:00.0");
    assert_eq!(gpu.state, "ok");
    assert!(gpu.reason.as_ref().is_some_and(|reason| reason.starts_with(why)), "{gpu:?}");
    let asked = asking(1, claim(&"gpu0".parse().unwrap(), "nvidia-a100d-20c", 1));
    let refusal = order(&mut driver, asked).unwrap_err();
    assert_eq!(
        (refusal.code, refusal.causes.as_slice()),
        (Code::NoProfile, [why.to_owned()].as_slice())
    );
    let hint = refusal.hint.unwrap();
    assert!(
        hint.starts_with("set instances to off for 0000:41:00.0, then gpuslice apply"),
        "{hint}"
    );
    driver.config = format!("{layout}, instances = \"off\" }}");
    order(&mut driver, Command::Apply).unwrap();
    attach(&mut driver, 1, "nvidia-a100d-20c");
    assert_eq!(row(&mut driver, "0000:41:00.0").reason, None);
}
