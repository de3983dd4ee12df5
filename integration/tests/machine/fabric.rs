//! Stories of claims of several slices: all or none, and of one fabric where they say so.

mod hives;
mod linked;

use crate::disk::Disk;
use crate::domains::{claim, write_devices};
use crate::driver::Driver;
use crate::vgpu::{call, order};
use crate::world::bind_by_hand;
use gpuslice_core::domain::{ClaimRequest, Domain, HostDevice, HostDeviceSource};
use gpuslice_core::errno::Errno;
use gpuslice_core::ids::{ClaimName, Owner, ParentId, PciAddress, SliceId};
use gpuslice_core::machine::HookOperation;
use gpuslice_core::numa::Pinned;
use gpuslice_core::port::read_text;
use gpuslice_core::refusal::{Code, Refusal};
use gpuslice_core::request::{Answer, Command, DeviceToWrite};
use gpuslice_sim::{Content, Fault, HostFile, Kernel};
use std::collections::BTreeSet;
use uuid::Uuid;

const SPX: &str = "amd-mi300x-vf1-spx";

/// Eight MI300X of so many VFs each, in hives of so many.
fn hives(vfs: u16, size: u32) -> Driver {
    let layout = format!("layout = {{ vfs = {vfs}, fabric-sharing = {size} }}");
    on(&mi300x(), &format!("[[gpu]]\nmatch = {{ model = \"mi300x\" }}\n{layout}"))
}

fn mi300x() -> HostFile {
    HostFile::parse(include_str!("../../../examples/hosts/mi300x-8.toml")).unwrap()
}

/// A host as `gpuslice apply` leaves it.
fn on(host: &HostFile, config: &str) -> Driver {
    let mut driver = Driver::new(host, config).unwrap();
    let request = driver.command(Command::Apply);
    driver.advance(60_000).unwrap();
    driver.answers.remove(&request).unwrap().unwrap();
    driver
}

/// Four A40 whose VFs make mediated devices.
fn mdevs() -> Driver {
    mdevs_with(&[])
}

/// The same with faults from the first reading on.
fn mdevs_with(faults: &[Fault]) -> Driver {
    let text = include_str!("../../../examples/hosts/a40-mdev.toml");
    let config = "[[gpu]]\nmatch = { vendor-device = \"10de:2235\" }\nlayout = { vfs = \"all\" }";
    let mut kernel = Kernel::from_host(&HostFile::parse(text).unwrap());
    kernel.settle();
    for fault in faults {
        kernel.inject(fault.clone());
    }
    let mut driver = Driver::on(kernel, Disk::default(), config).unwrap();
    let request = driver.command(Command::Apply);
    driver.advance(60_000).unwrap();
    driver.answers.remove(&request).unwrap().unwrap();
    driver
}

fn name(text: &str) -> ClaimName {
    text.parse().unwrap()
}

fn domain(vm: u128) -> Domain {
    let (claims, devices) = (Vec::new(), Vec::new());
    Domain { uuid: Uuid::from_u128(vm), name: format!("vm{vm}"), claims, devices }
}

fn same(of: &str, profile: &str, count: u32) -> ClaimRequest {
    ClaimRequest { same_fabric: true, ..claim(&name(of), profile, count) }
}

/// `gpuslice attach`, with what the agent then writes.
fn ask(driver: &mut Driver, domain: &mut Domain, request: ClaimRequest) -> Result<(), Refusal> {
    let command = Command::Claim {
        owner: Owner::Domain(domain.uuid),
        owner_name: domain.name.clone(),
        request: request.clone(),
        pool: None,
        reserve: None,
        dry_run: false,
    };
    let devices = match order(driver, command)? {
        Answer::Claimed { devices, .. } => devices,
        other => panic!("{other:?}"),
    };
    put(domain, request, devices);
    Ok(())
}

fn put(domain: &mut Domain, request: ClaimRequest, devices: Vec<DeviceToWrite>) {
    domain.claims.retain(|c| c.name != request.name);
    write_devices(domain, |n| *n == request.name, devices);
    domain.claims.push(request);
}

fn vfs(domain: &Domain) -> Vec<PciAddress> {
    let address = |d: &HostDevice| match d.source {
        HostDeviceSource::Pci(address) => address,
        HostDeviceSource::Mdev(uuid) => panic!("mdev {uuid}"),
    };
    domain.devices.iter().map(address).collect()
}

/// The GPUs that a domain's VFs are of.
fn gpus(driver: &Driver, domain: &Domain) -> BTreeSet<PciAddress> {
    let seen = driver.machine.observation();
    vfs(domain).iter().map(|address| seen.vfs[address].pf).collect()
}

/// The GPUs in use for a domain.
fn gpus_in_use(driver: &Driver, domain: &Domain) -> BTreeSet<ParentId> {
    let owner = Owner::Domain(domain.uuid);
    let seen = driver.machine.observation();
    let own = driver.machine.runtime().assignments.values().filter(|a| a.claim.owner == owner);
    own.map(|a| seen.device_of(&a.parent)).collect()
}

fn bound(driver: &Driver, domain: &Domain) -> usize {
    let owner = Owner::Domain(domain.uuid);
    driver.machine.runtime().assignments.values().filter(|a| a.claim.owner == owner).count()
}

#[test]
fn a_vm_gets_the_whole_hive_or_nothing() {
    let mut driver = hives(1, 8);
    let (mut vm, mut other) = (domain(1), domain(2));
    ask(&mut driver, &mut vm, same("ai", SPX, 8)).unwrap();
    assert_eq!(gpus(&driver, &vm).len(), 8);
    call(&mut driver, &vm, HookOperation::Prepare).unwrap();
    assert_eq!(bound(&driver, &vm), 8);
    let refusal = ask(&mut driver, &mut other, same("ai", SPX, 1)).unwrap_err();
    assert_eq!(refusal.code, Code::NoCapacity, "{refusal}");
    assert!(
        driver.machine.durable().claims.keys().all(|key| key.owner != Owner::Domain(other.uuid))
    );
    call(&mut driver, &vm, HookOperation::Release).unwrap();
    driver.advance(10_000).unwrap();
    assert_eq!(bound(&driver, &vm), 0);
}

#[test]
fn each_fabric_is_filled_and_a_refusal_says_what_each_lacks() {
    let mut driver = hives(1, 4);
    let (mut a, mut b, mut c, mut d) = (domain(1), domain(2), domain(3), domain(4));
    // Wherever there is room: both go to one hive, so that the other stays whole.
    ask(&mut driver, &mut a, claim(&name("one"), SPX, 1)).unwrap();
    ask(&mut driver, &mut b, same("two", SPX, 2)).unwrap();
    ask(&mut driver, &mut c, same("four", SPX, 4)).unwrap();
    assert!(gpus(&driver, &c).is_disjoint(&gpus(&driver, &a)));
    let refusal = ask(&mut driver, &mut d, same("two", SPX, 2)).unwrap_err();
    assert_eq!(refusal.code, Code::NoCapacity, "{refusal}");
    assert_eq!(refusal.message, format!("{SPX}: wanted 2 of one fabric, the most one has is 1"));
    let causes = &refusal.causes;
    assert!(
        causes[0].starts_with("XGMI hive of 0000:0c:00.0 lacks 1 of 2: every VF of"),
        "{causes:?}"
    );
    assert!(
        causes[1].starts_with("XGMI hive of 0000:9f:00.0 lacks 2 of 2: every VF of"),
        "{causes:?}"
    );
    assert!(refusal.hint.as_ref().unwrap().starts_with("gpuslice "), "{refusal:?}");
    // Nothing of it is left, so one more fits.
    ask(&mut driver, &mut d, same("one", SPX, 1)).unwrap();
    // More than a fabric has is never to be had.
    let refusal = ask(&mut driver, &mut domain(5), same("five", SPX, 5)).unwrap_err();
    assert!(refusal.message.contains("wanted 5 of one fabric"), "{refusal}");
    for vm in [&a, &b, &c, &d] {
        call(&mut driver, vm, HookOperation::Prepare).unwrap();
        assert_eq!(bound(&driver, vm), vm.devices.len());
    }
}

#[test]
fn a_claim_keeps_its_homes_and_leaves_a_fabric_as_a_whole() {
    let mut driver = hives(1, 4);
    let mut vm = domain(1);
    ask(&mut driver, &mut vm, same("ai", SPX, 2)).unwrap();
    let before = vfs(&vm);
    ask(&mut driver, &mut vm, same("ai", SPX, 2)).unwrap();
    assert_eq!(vfs(&vm), before);
    ask(&mut driver, &mut vm, same("ai", SPX, 3)).unwrap();
    assert_eq!(vfs(&vm)[..2], before);
    // The rest of the hive is claimed, and one VF of ours is in a VM without a claim.
    ask(&mut driver, &mut domain(2), claim(&name("rest"), SPX, 1)).unwrap();
    let source = HostDeviceSource::Pci(vfs(&vm)[2]);
    let mut other = domain(3);
    other.devices = vec![HostDevice { source, alias: None, managed: false }];
    call(&mut driver, &other, HookOperation::Prepare).unwrap();
    let refusal = call(&mut driver, &vm, HookOperation::Prepare).unwrap_err();
    assert_eq!(bound(&driver, &vm), 0);
    assert!(refusal.hint.as_ref().unwrap().contains("virsh start vm1"), "{refusal:?}");
    let seen = order(&mut driver, Command::DomainSeen { domain: vm.clone(), shut_off: true });
    let Ok(Answer::Domain { devices, .. }) = seen else { panic!("{seen:?}") };
    put(&mut vm, same("ai", SPX, 3), devices);
    let after = gpus(&driver, &vm);
    assert!(after.iter().all(|gpu| *gpu >= "0000:9f:00.0".parse().unwrap()), "{after:?}");
    call(&mut driver, &vm, HookOperation::Prepare).unwrap();
    assert_eq!(bound(&driver, &vm), 3);
}

#[test]
fn devices_of_two_fabrics_in_the_xml_are_refused() {
    let mut driver = hives(1, 4);
    let (mut a, mut b) = (domain(1), domain(2));
    ask(&mut driver, &mut a, claim(&name("ai"), SPX, 8)).unwrap();
    let devices = a.devices.clone();
    let command = Command::Unclaim {
        key: format!("{}/ai", Owner::Domain(a.uuid)).parse().unwrap(),
        force: false,
    };
    order(&mut driver, command).unwrap();
    let last = devices.len() - 1;
    b.claims = vec![same("ai", SPX, 2)];
    b.devices = vec![
        devices[0].clone(),
        HostDevice { alias: devices[1].alias.clone(), ..devices[last].clone() },
    ];
    let refusal = call(&mut driver, &b, HookOperation::Prepare).unwrap_err();
    assert_eq!(refusal.code, Code::NotInXml, "{refusal}");
    assert!(refusal.message.contains("is not of the fabric of the others"), "{refusal}");
    assert_eq!(bound(&driver, &b), 0);
    b.devices[1].source = devices[1].source;
    call(&mut driver, &b, HookOperation::Prepare).unwrap();
    assert_eq!(bound(&driver, &b), 2);
}

#[test]
fn several_claims_of_one_vm_start_together_or_not_at_all() {
    let mut driver = hives(1, 4);
    let mut vm = domain(1);
    ask(&mut driver, &mut vm, same("a", SPX, 3)).unwrap();
    ask(&mut driver, &mut vm, same("b", SPX, 2)).unwrap();
    let last = *vfs(&vm).last().unwrap();
    bind_by_hand(&mut driver.kernel, last, "vfio-pci");
    driver.kernel.open(5000, "some-tool", SliceId::Vf(last)).unwrap();
    driver.wake_up().unwrap();
    call(&mut driver, &vm, HookOperation::Prepare).unwrap_err();
    driver.advance(10_000).unwrap();
    assert_eq!(bound(&driver, &vm), 0);
    driver.kernel.kill(5000);
    driver.advance(10_000).unwrap();
    call(&mut driver, &vm, HookOperation::Prepare).unwrap_or_else(|_| {
        let seen = order(&mut driver, Command::DomainSeen { domain: vm.clone(), shut_off: true });
        let Ok(Answer::Domain { devices, .. }) = seen else { panic!("{seen:?}") };
        write_devices(&mut vm, |_| true, devices);
        call(&mut driver, &vm, HookOperation::Prepare).unwrap();
    });
    assert_eq!(bound(&driver, &vm), 5);
}

#[test]
fn no_more_of_a_claim_live_on_a_gpu_than_it_can_run() {
    let text = include_str!("../../../examples/hosts/a40-vfio.toml");
    let config = "[[gpu]]\nmatch = { vendor-device = \"10de:2235\" }\nlayout = { vfs = \"all\" }";
    let mut driver = Driver::new(&HostFile::parse(text).unwrap(), config).unwrap();
    driver.advance(10_000).unwrap();
    let mut vm = domain(1);
    ask(&mut driver, &mut vm, claim(&name("all"), "nvidia-a40-48q", 4)).unwrap();
    assert_eq!(gpus(&driver, &vm).len(), 4);
    call(&mut driver, &vm, HookOperation::Prepare).unwrap();
    let refusal = ask(&mut driver, &mut domain(2), same("two", "nvidia-a40-48q", 2)).unwrap_err();
    assert!(refusal.message.contains("wanted 2 of one fabric, the most one has is 1"), "{refusal}");
    assert!(refusal.causes[0].ends_with("lacks 1 of 2: it has no more"), "{refusal:?}");
}

#[test]
fn mediated_devices_are_of_one_gpu_all_or_none() {
    let mut driver = mdevs();
    let (mut a, mut b) = (domain(1), domain(2));
    ask(&mut driver, &mut a, claim(&name("half"), "nvidia-a40-24q", 1)).unwrap();
    call(&mut driver, &a, HookOperation::Prepare).unwrap();
    // The fullest that fits is not the one with room for both.
    ask(&mut driver, &mut b, same("two", "nvidia-a40-24q", 2)).unwrap();
    call(&mut driver, &b, HookOperation::Prepare).unwrap();
    let (of_a, of_b) = (gpus_in_use(&driver, &a), gpus_in_use(&driver, &b));
    assert_eq!((bound(&driver, &b), of_b.len()), (2, 1));
    assert!(of_a.is_disjoint(&of_b));
    let mut c = domain(3);
    ask(&mut driver, &mut c, same("three", "nvidia-a40-24q", 3)).unwrap();
    let refusal = call(&mut driver, &c, HookOperation::Prepare).unwrap_err();
    assert_eq!(refusal.code, Code::NoCapacity, "{refusal}");
    assert!(refusal.message.contains("wanted 3 of one fabric"), "{refusal}");
    assert_eq!((bound(&driver, &c), driver.machine.observation().mdevs.len()), (0, 3));
}

#[test]
fn what_a_start_reserved_before_it_found_too_few_is_nobody_s() {
    let mut driver = mdevs();
    for vm in 1..=3 {
        let mut other = domain(vm);
        ask(&mut driver, &mut other, claim(&name("one"), "nvidia-a40-24q", 1)).unwrap();
        call(&mut driver, &other, HookOperation::Prepare).unwrap();
    }
    let mut many = domain(4);
    ask(&mut driver, &mut many, claim(&name("all"), "nvidia-a40-24q", 6)).unwrap();
    let refusal = call(&mut driver, &many, HookOperation::Prepare).unwrap_err();
    let said = "nvidia-a40-24q: wanted 6, 5 of 8 free, held by vm1, vm2, vm3";
    assert_eq!((refusal.code, refusal.message.as_str()), (Code::NoCapacity, said));
    // The end of one makes room enough.
    assert_eq!(refusal.hint.unwrap().to_string(), "virsh shutdown vm1");
    assert_eq!((bound(&driver, &many), driver.machine.observation().mdevs.len()), (0, 3));
}

#[test]
fn a_device_that_does_not_make_one_leaves_nothing_of_the_others() {
    let mut driver = mdevs();
    let mut vm = domain(1);
    ask(&mut driver, &mut vm, same("two", "nvidia-a40-24q", 2)).unwrap();
    let path = "*/mdev_supported_types/*/create".to_owned();
    driver.kernel.inject(Fault::Write { path, nth: 2, times: 200, errno: Errno::EIO });
    let refusal = call(&mut driver, &vm, HookOperation::Prepare).unwrap_err();
    driver.advance(60_000).unwrap();
    assert!(refusal.hint.is_some(), "{refusal:?}");
    assert_eq!((bound(&driver, &vm), driver.machine.observation().mdevs.len()), (0, 0));
    driver.kernel.clear_faults();
    call(&mut driver, &vm, HookOperation::Prepare).unwrap();
    assert_eq!((bound(&driver, &vm), gpus_in_use(&driver, &vm).len()), (2, 1));
}

#[test]
fn slices_that_prefer_one_numa_node_have_it_while_there_is_room() {
    let mut driver = hives(1, 8);
    let (mut a, mut b) = (domain(1), domain(2));
    ask(&mut driver, &mut a, claim(&name("one"), SPX, 1)).unwrap();
    let near = |count| ClaimRequest { prefer_numa: true, ..claim(&name("near"), SPX, count) };
    let nodes = |driver: &Driver, vm: &Domain| -> Vec<u32> {
        let seen = driver.machine.observation();
        let of = |gpu| seen.numa_node(&ParentId::Pci(gpu)).unwrap();
        let nodes: BTreeSet<u32> = gpus(driver, vm).into_iter().map(of).collect();
        nodes.into_iter().collect()
    };
    ask(&mut driver, &mut b, near(3)).unwrap();
    assert_eq!(nodes(&driver, &b).len(), 1);
    ask(&mut driver, &mut b, near(5)).unwrap();
    assert_eq!(nodes(&driver, &b).len(), 2);
}

/// On the node of a domain's memory, and on no other.
fn on_node(request: ClaimRequest, memory: &str, cpus: &str) -> ClaimRequest {
    let pinned = Pinned { memory: memory.parse().unwrap(), cpus: cpus.parse().unwrap() };
    ClaimRequest { require_numa: Some(pinned), ..request }
}

#[test]
fn slices_that_require_a_node_are_there_or_nowhere() {
    let mut driver = hives(1, 8);
    let nodes = |driver: &Driver, vm: &Domain| -> BTreeSet<u32> {
        let seen = driver.machine.observation();
        gpus(driver, vm)
            .into_iter()
            .map(|gpu| seen.numa_node(&ParentId::Pci(gpu)).unwrap())
            .collect()
    };
    let (mut a, mut b, mut c) = (domain(1), domain(2), domain(3));
    ask(&mut driver, &mut a, on_node(claim(&name("a"), SPX, 3), "1", "")).unwrap();
    // By its CPUs: eight of each node.
    ask(&mut driver, &mut b, on_node(claim(&name("b"), SPX, 1), "", "12-13")).unwrap();
    assert_eq!((nodes(&driver, &a), nodes(&driver, &b)), ([1].into(), [1].into()));
    let refusal =
        ask(&mut driver, &mut c, on_node(claim(&name("c"), SPX, 1), "1", "")).unwrap_err();
    assert_eq!(refusal.code, Code::NoCapacity, "{refusal:?}");
    let hint = refusal.hint.as_deref().unwrap();
    assert!(hint.ends_with(" --nodeset 0 --config, then the same again"), "{hint}");
    let causes = refusal.causes.join("; ");
    assert!(causes.contains("0000:0c:00.0 is on NUMA node 0"), "{causes}");
    // The VM's memory moves, and with the next look at it its VFs.
    ask(&mut driver, &mut c, on_node(claim(&name("c"), SPX, 1), "0", "")).unwrap();
    assert_eq!(nodes(&driver, &c), [0].into());
    call(&mut driver, &c, HookOperation::Prepare).unwrap();
    // What the XML carries is judged at the start.
    b.claims = vec![on_node(claim(&name("b"), SPX, 1), "0", "12-13")];
    let refusal = call(&mut driver, &b, HookOperation::Prepare).unwrap_err();
    assert_eq!(refusal.code, Code::OtherNumaNode, "{refusal:?}");
    assert_eq!(bound(&driver, &b), 0);
    let seen = order(&mut driver, Command::DomainSeen { domain: b.clone(), shut_off: true });
    let Ok(Answer::Domain { devices, .. }) = seen else { panic!("{seen:?}") };
    write_devices(&mut b, |_| true, devices);
    call(&mut driver, &b, HookOperation::Prepare).unwrap();
    assert_eq!(nodes(&driver, &b), [0].into());
}

#[test]
fn mediated_devices_are_made_on_the_node_that_is_required() {
    let mut driver = mdevs();
    for (vm, node) in [(1, "0"), (2, "1"), (3, "1")] {
        let mut vm = domain(vm);
        ask(&mut driver, &mut vm, on_node(claim(&name("a"), "nvidia-a40-24q", 2), node, ""))
            .unwrap();
        call(&mut driver, &vm, HookOperation::Prepare).unwrap();
        let seen = driver.machine.observation();
        let of = |gpu: &ParentId| seen.numa_node(gpu).unwrap().to_string();
        assert!(gpus_in_use(&driver, &vm).iter().all(|gpu| of(gpu) == node), "{vm:?}");
    }
    let mut vm = domain(4);
    ask(&mut driver, &mut vm, on_node(claim(&name("a"), "nvidia-a40-24q", 1), "1", "")).unwrap();
    let refusal = call(&mut driver, &vm, HookOperation::Prepare).unwrap_err();
    assert_eq!(refusal.code, Code::NoCapacity, "{refusal:?}");
    assert!(refusal.hint.as_ref().is_some_and(|hint| hint.contains("--nodeset 0")), "{refusal:?}");
    // Those of node 0 are two, on one GPU, until one of them is kept for another.
    let sent_elsewhere = |driver: &mut Driver, count| {
        let mut vm = domain(6);
        let near = on_node(claim(&name("a"), "nvidia-a40-24q", count), "1", "");
        ask(driver, &mut vm, near).unwrap();
        let refusal = call(driver, &vm, HookOperation::Prepare).unwrap_err();
        refusal.hint.unwrap().contains("--nodeset")
    };
    assert_eq!([2, 3].map(|count| sent_elsewhere(&mut driver, count)), [true, false]);
    let keep = Command::Claim {
        owner: Owner::Domain(domain(7).uuid),
        owner_name: "vm7".to_owned(),
        request: claim(&name("a"), "nvidia-a40-24q", 1),
        pool: None,
        reserve: Some(true),
        dry_run: false,
    };
    order(&mut driver, keep).unwrap();
    assert_eq!([1, 2].map(|count| sent_elsewhere(&mut driver, count)), [true, false]);
    // Nor are they there for one that could be anywhere.
    let mut vm = domain(5);
    ask(&mut driver, &mut vm, on_node(claim(&name("a"), "nvidia-a40-24q", 1), "", "")).unwrap();
    let refusal = call(&mut driver, &vm, HookOperation::Prepare).unwrap_err();
    assert_eq!(refusal.code, Code::OtherNumaNode, "{refusal:?}");
}

const CPUS_OF_1: &str = "/sys/devices/system/node/node1/cpulist";

#[test]
fn nodes_that_cannot_be_read_are_near_nobody() {
    let text = include_str!("../../../examples/hosts/mi300x-8.toml");
    let mut kernel = Kernel::from_host(&HostFile::parse(text).unwrap());
    kernel.settle();
    let (path, times) = ("/sys/devices/system/node".to_owned(), u32::MAX);
    kernel.inject(Fault::Read { path, nth: 1, times, errno: Errno::EMFILE });
    let config = "[[gpu]]\nmatch = { model = \"mi300x\" }\nlayout = { vfs = 1 }";
    let mut driver = Driver::on(kernel, Disk::default(), config).unwrap();
    order(&mut driver, Command::Apply).unwrap();
    driver.advance(60_000).unwrap();
    let mut vm = domain(1);
    for request in [claim(&name("a"), SPX, 1), same("a", SPX, 1)] {
        let refusal = ask(&mut driver, &mut vm, on_node(request, "1", "")).unwrap_err();
        assert_eq!(refusal.code, Code::OtherNumaNode, "{refusal:?}");
        assert!(refusal.message.contains("are not known"), "{refusal:?}");
        assert!(refusal.causes.join("; ").contains("EMFILE"), "{refusal:?}");
        let hint = refusal.hint.as_deref().unwrap();
        assert!(hint.ends_with(" --numa prefer"), "{hint}");
    }
    // Whoever does not ask is not in its way.
    ask(&mut driver, &mut domain(2), claim(&name("a"), SPX, 1)).unwrap();
    driver.kernel.clear_faults();
    // Each try has them read anew.
    let near = || on_node(claim(&name("a"), SPX, 1), "1", "");
    ask(&mut driver, &mut vm, near()).unwrap_err();
    ask(&mut driver, &mut vm, near()).unwrap();
    let seen = driver.machine.observation();
    let of = |gpu: &PciAddress| seen.numa_node(&ParentId::Pci(*gpu)) == Some(1);
    assert!(gpus(&driver, &vm).iter().all(of));
}

#[test]
fn a_start_has_nodes_read_anew_that_could_not_be_read_or_lacked_its_cpus() {
    let (path, times) = (CPUS_OF_1.to_owned(), u32::MAX);
    let fails = Fault::Read { path: path.clone(), nth: 1, times, errno: Errno::EIO };
    let garbage = Fault::Reads { path: path.clone(), as_: Content::Garbage };
    // None of its CPUs is online.
    let empty = Fault::Reads { path, as_: Content::Empty };
    for fault in [fails, garbage, empty] {
        let mut driver = mdevs_with(std::slice::from_ref(&fault));
        let mut vm = domain(1);
        let near = on_node(claim(&name("a"), "nvidia-a40-24q", 1), "", "12-13");
        ask(&mut driver, &mut vm, near).unwrap();
        let refusal = call(&mut driver, &vm, HookOperation::Prepare).unwrap_err();
        assert_eq!(refusal.code, Code::OtherNumaNode, "{fault:?}: {refusal:?}");
        driver.kernel.clear_faults();
        call(&mut driver, &vm, HookOperation::Prepare).unwrap();
        let seen = driver.machine.observation();
        let in_use = gpus_in_use(&driver, &vm);
        assert!(in_use.iter().all(|gpu| seen.numa_node(gpu) == Some(1)), "{fault:?}: {in_use:?}");
    }
}

#[test]
fn what_is_far_is_on_another_node_whatever_else_is_with_it() {
    let text = include_str!("../../../examples/hosts/mi300x-8.toml");
    let mut host = HostFile::parse(text).unwrap();
    host.functions.truncate(1);
    host.functions[0].numa_node = 1;
    let config = "[[gpu]]\nmatch = { model = \"mi300x\" }\nlayout = { vfs = 1 }";
    let mut driver = Driver::new(&host, config).unwrap();
    order(&mut driver, Command::Apply).unwrap();
    driver.advance(60_000).unwrap();
    let mut refused = |request: ClaimRequest| {
        let refusal = ask(&mut driver, &mut domain(1), on_node(request, "0", "")).unwrap_err();
        assert_eq!(refusal.code, Code::OtherNumaNode, "{refusal:?}");
        refusal.hint.unwrap()
    };
    // Nor is there a fabric that could have it.
    assert!(refused(same("a", SPX, 1)).ends_with(" --numa prefer"));
    let mut carries = domain(2);
    ask(&mut driver, &mut carries, on_node(claim(&name("a"), SPX, 1), "1", "")).unwrap();
    let parent = ParentId::Pci(host.functions[0].address);
    order(&mut driver, Command::Cordon { parent: parent.clone(), reason: String::new() }).unwrap();
    // What is given again after that is no nearer then.
    carries.claims = vec![on_node(claim(&name("a"), SPX, 1), "0", "")];
    let refusal = call(&mut driver, &carries, HookOperation::Prepare).unwrap_err();
    assert_eq!(refusal.code, Code::OtherNumaNode, "{refusal:?}");
    let far = format!("gpuslice attach vm2 {SPX} --name a --count 1 --numa prefer");
    let told = format!("gpuslice uncordon {parent}, then {far}");
    assert_eq!(refusal.hint.as_deref(), Some(told.as_str()), "{refusal:?}");
    for request in [claim(&name("a"), SPX, 1), same("a", SPX, 1)] {
        let refusal = ask(&mut driver, &mut domain(1), on_node(request, "0", "")).unwrap_err();
        assert_eq!(refusal.code, Code::OtherNumaNode, "{refusal:?}");
    }
}

#[test]
fn what_is_left_is_counted_on_the_node_that_is_required() {
    let profile = "nvidia-a40-24q";
    let mut driver = mdevs();
    let start = |driver: &mut Driver, vm: u128, request: ClaimRequest, node: &str| {
        let mut vm = domain(vm);
        ask(driver, &mut vm, on_node(request, node, "")).unwrap();
        call(driver, &vm, HookOperation::Prepare)
    };
    // One is left on each node.
    for (vm, node) in [(1, "0"), (2, "1")] {
        start(&mut driver, vm, claim(&name("a"), profile, 3), node).unwrap();
    }
    let refusal = start(&mut driver, 3, same("two", profile, 2), "0-1").unwrap_err();
    assert!(refusal.hint.as_ref().unwrap().ends_with(" --fabric any"), "{refusal:?}");
    let refusal = start(&mut driver, 3, same("two", profile, 2), "1").unwrap_err();
    assert_eq!(refusal.code, Code::NoCapacity, "{refusal:?}");
    assert!(!refusal.hint.as_ref().unwrap().contains("--fabric"), "{refusal:?}");
    // With nothing far and nobody to end, as many as the node has.
    let mut driver = mdevs();
    start(&mut driver, 1, claim(&name("a"), profile, 4), "0").unwrap();
    let refusal = start(&mut driver, 2, claim(&name("a"), profile, 5), "1").unwrap_err();
    assert!(refusal.hint.as_ref().unwrap().ends_with(" --count 4"), "{refusal:?}");
}

/// Its memory is where it is.
#[test]
fn a_vm_that_runs_is_not_told_to_move() {
    let mut driver = hives(1, 8);
    ask(&mut driver, &mut domain(1), on_node(claim(&name("a"), SPX, 4), "1", "")).unwrap();
    for request in [claim(&name("a"), SPX, 1), same("a", SPX, 1)] {
        let command = Command::Plug {
            domain: Uuid::from_u128(2),
            domain_name: "vm2".to_owned(),
            request: on_node(request, "1", ""),
            pool: None,
            reserve: None,
            keep: false,
        };
        let refusal = order(&mut driver, command).unwrap_err();
        let hint = refusal.hint.as_deref().unwrap();
        let far = format!("gpuslice attach vm2 {SPX} --name a --count 1 --numa prefer --live");
        assert_eq!(hint, far, "{refusal:?}");
    }
}

#[test]
fn parameters_of_mediated_devices_are_written_to_each() {
    let mut driver = mdevs();
    let mut vm = domain(1);
    let set = "disable_vnc=1";
    let parameters = Some(set.parse().unwrap());
    let request = ClaimRequest { parameters, ..same("two", "nvidia-a40-24q", 2) };
    ask(&mut driver, &mut vm, request).unwrap();
    call(&mut driver, &vm, HookOperation::Prepare).unwrap();
    for uuid in driver.machine.observation().mdevs.keys() {
        let path = format!("/sys/bus/mdev/devices/{uuid}/nvidia/vgpu_params");
        assert_eq!(read_text(&driver.kernel, &path).unwrap().trim(), set);
    }
    assert_eq!(bound(&driver, &vm), 2);
}

#[test]
fn parameters_that_a_slice_does_not_have_are_refused() {
    let mut driver = hives(1, 8);
    let mut vm = domain(1);
    let parameters = Some("disable_vnc=1".parse().unwrap());
    ask(&mut driver, &mut vm, ClaimRequest { parameters, ..claim(&name("one"), SPX, 1) }).unwrap();
    let refusal = call(&mut driver, &vm, HookOperation::Prepare).unwrap_err();
    assert_eq!(refusal.code, Code::Unsupported, "{refusal}");
    assert!(refusal.hint.is_some() && bound(&driver, &vm) == 0, "{refusal:?}");
}
