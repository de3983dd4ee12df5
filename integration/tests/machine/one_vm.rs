//! Stories of VMs that want more vGPUs of one GPU than its driver starts, in one VM or at all (NVIDIA tells both of each type).

use crate::calls;
use crate::disk::Disk;
use crate::domains::claim;
use crate::driver::Driver;
use crate::libvirt::{Print, Xml};
use crate::people::hostdev_written;
use crate::vgpu::{LAYOUT, asking, attach_several, call, order, profile};
use gpuslice_core::domain::{Domain, HostDevice, HostDeviceSource, alias_for};
use gpuslice_core::errno::Errno;
use gpuslice_core::ids::{MdevUuid, ParentId, PciAddress, SliceId};
use gpuslice_core::machine::HookOperation;
use gpuslice_core::port::HostRead as _;
use gpuslice_core::refusal::{Code, Refusal};
use gpuslice_core::request::{Answer, Command, Outcome};
use gpuslice_core::state::Claim;
use gpuslice_hook_proto::Operation;
use gpuslice_qemu_hook::verdict::Verdict;
use gpuslice_sim::{Fault, HostFile};
use std::collections::BTreeSet;
use uuid::Uuid;

const A40: &str = "nvidia-a40-8q";
const T4: &str = "nvidia-t4-8q";

/// GPUs of a host, each of whose types one VM can have so many of.
fn of(text: &str, gpus: usize, per_vm: Option<u32>) -> HostFile {
    let mut host = HostFile::parse(text).unwrap();
    let first = host.functions[0].clone();
    host.functions.truncate(1);
    for more in 1..gpus {
        let mut other = first.clone();
        let number = u32::try_from(more).unwrap();
        other.address = PciAddress::new(number, 0x41, 0, 0).unwrap();
        other.serial = Some(format!("48b02dfffe00510{more}"));
        other.slot = None;
        host.functions.push(other);
    }
    for mdev in host.functions.iter_mut().filter_map(|f| f.mdev.as_mut()) {
        mdev.types.iter_mut().for_each(|of_type| of_type.per_vm = per_vm);
    }
    let nvidia = host.drivers.iter_mut().find(|driver| driver.name == "nvidia").unwrap();
    nvidia.smi_tool = Some("/usr/bin/nvidia-smi".to_owned());
    host
}

/// VFs that take a type.
fn a40(gpus: usize, per_vm: Option<u32>) -> Driver {
    let host = of(include_str!("../../../examples/hosts/a40-vfio.toml"), gpus, per_vm);
    let mut driver = Driver::new(&host, LAYOUT).unwrap();
    driver.advance(10_000).unwrap();
    driver
}

/// Mediated devices of the GPU itself.
fn t4(gpus: usize, per_vm: Option<u32>) -> Driver {
    let host = of(include_str!("../../../examples/hosts/t4-l40s.toml"), gpus, per_vm);
    let mut driver = Driver::new(&host, "").unwrap();
    driver.advance(10_000).unwrap();
    driver
}

fn asks(driver: &mut Driver, name: &str, profile: &str, count: u32) -> Outcome {
    vm_asks(driver, 1, name, profile, count)
}

fn vm_asks(driver: &mut Driver, vm: u128, name: &str, profile: &str, count: u32) -> Outcome {
    order(driver, asking(vm, claim(&name.parse().unwrap(), profile, count)))
}

/// What a claim is told that can never start.
fn refused(driver: &mut Driver, name: &str, profile: &str, count: u32) -> String {
    let claims = driver.machine.durable().claims.clone();
    let refusal = asks(driver, name, profile, count).unwrap_err();
    assert_eq!(refusal.code, Code::Unsupported, "{refusal:?}");
    assert_eq!(driver.machine.durable().claims, claims);
    refusal.hint.unwrap()
}

/// QEMU opens all that it has, in one process.
fn start(driver: &mut Driver, domain: &Domain) -> Result<(), Refusal> {
    call(driver, domain, HookOperation::Prepare)?;
    let pid = pid_of(domain);
    for device in &domain.devices {
        driver.kernel.open(pid, "qemu-system-x86", device.source.slice()).unwrap();
    }
    call(driver, domain, HookOperation::Started)
}

fn pid_of(domain: &Domain) -> u32 {
    2000 + u32::try_from(domain.uuid.as_u128()).unwrap()
}

/// A VM that has run for a while ends.
fn stop(driver: &mut Driver, domain: &Domain) {
    driver.advance(20_000).unwrap();
    driver.kernel.kill(pid_of(domain));
    call(driver, domain, HookOperation::Release).unwrap();
    driver.advance(20_000).unwrap();
}

/// How many GPUs the slices of all are on.
fn gpus(driver: &Driver) -> usize {
    let seen = driver.machine.observation();
    let assignments = driver.machine.runtime().assignments.values();
    assignments.map(|a| seen.device_of(&a.parent)).collect::<BTreeSet<_>>().len()
}

/// A domain with so many mediated devices of each claim.
fn with_mdevs(claims: &[(&str, u32)]) -> Domain {
    vm_with_mdevs(1, claims)
}

fn vm_with_mdevs(vm: u128, claims: &[(&str, u32)]) -> Domain {
    let uuid = Uuid::from_u128(vm);
    let mut domain = Domain { uuid, name: format!("vm{vm}"), claims: vec![], devices: vec![] };
    for (name, count) in claims {
        let name = name.parse().unwrap();
        domain.claims.push(claim(&name, T4, *count));
        domain.devices.extend((0..*count).map(|index| HostDevice {
            source: HostDeviceSource::Mdev(MdevUuid::for_claim(uuid, &name, index)),
            alias: Some(alias_for(&name, index)),
            managed: false,
        }));
    }
    domain
}

/// Three claims share two VFs, and the one that is left is as good as that which another VM has.
#[test]
fn the_only_vf_that_a_vm_can_have_can_be_another_one() {
    for per_vm in [None, Some(1)] {
        let mut host = of(include_str!("../../../examples/hosts/a40-vfio.toml"), 1, per_vm);
        host.functions[0].sriov.as_mut().unwrap().total_vfs = 2;
        let mut driver = Driver::new(&host, LAYOUT).unwrap();
        driver.advance(10_000).unwrap();
        let request = claim(&"gpu0".parse().unwrap(), A40, 1);
        let domains = [1, 2, 3].map(|vm| {
            let pooled = match asking(vm, request.clone()) {
                Command::Claim { owner, owner_name, request, reserve, dry_run, .. } => {
                    Command::Claim {
                        owner,
                        owner_name,
                        request,
                        pool: Some(true),
                        reserve,
                        dry_run,
                    }
                }
                other => other,
            };
            let Ok(Answer::Claimed { devices, .. }) = order(&mut driver, pooled) else { panic!() };
            let devices = devices.into_iter().map(|device| HostDevice {
                source: device.source,
                alias: Some(device.alias),
                managed: false,
            });
            let (uuid, name) = (Uuid::from_u128(vm), format!("vm{vm}"));
            Domain { uuid, name, claims: vec![request.clone()], devices: devices.collect() }
        });
        let [first, _, third] = domains;
        assert_eq!(first.devices, third.devices);
        start(&mut driver, &first).unwrap();
        let why = start(&mut driver, &third).unwrap_err();
        let hint = why.hint.as_deref().unwrap();
        assert_eq!(why.code, Code::Taken, "{why:?}");
        assert_eq!(hint, "virsh start vm3 (the agent gives it another VF)", "{per_vm:?}");
    }
}

#[test]
fn several_vfs_of_a_claim_are_of_a_gpu_each() {
    let mut driver = a40(2, Some(1));
    assert_eq!(
        refused(&mut driver, "gpu0", A40, 3),
        "gpuslice attach vm1 nvidia-a40-8q --name gpu0 --count 2"
    );
    let domain = attach_several(&mut driver, 1, A40, 2);
    start(&mut driver, &domain).unwrap();
    assert_eq!(gpus(&driver), 2);
    // Nor is there one for another claim of the VM; another VM has one.
    assert!(refused(&mut driver, "gpu1", A40, 1).starts_with("lay out another GPU"));
    attach_several(&mut driver, 2, A40, 1);
}

#[test]
fn where_nothing_is_told_they_are_of_one_gpu() {
    for per_vm in [None, Some(2)] {
        let mut driver = a40(1, per_vm);
        let domain = attach_several(&mut driver, 1, A40, 2);
        start(&mut driver, &domain).unwrap();
        assert_eq!(gpus(&driver), 1);
        let third = asks(&mut driver, "gpu1", A40, 1);
        assert_eq!(third.is_ok(), per_vm.is_none(), "{third:?}");
    }
}

#[test]
fn a_domain_that_names_two_of_one_gpu_does_not_start() {
    let mut driver = a40(2, Some(1));
    let domain = attach_several(&mut driver, 1, A40, 2);
    let mut by_hand = domain.clone();
    let SliceId::Vf(first) = domain.devices[0].source.slice() else { panic!("{domain:?}") };
    let beside = PciAddress::with_routing_id(first, first.routing_id() + 1);
    by_hand.devices[1].source = HostDeviceSource::Pci(beside);
    let refusal = start(&mut driver, &by_hand).unwrap_err();
    assert_eq!(refusal.code, Code::Unsupported, "{refusal:?}");
    assert_eq!(
        refusal.hint.as_deref(),
        Some("gpuslice attach vm1 nvidia-a40-8q --name gpu0 --count 2")
    );
    assert!(driver.machine.runtime().assignments.is_empty());
    start(&mut driver, &domain).unwrap();
}

#[test]
fn mediated_devices_of_a_start_are_of_a_gpu_each() {
    let mut driver = t4(2, Some(1));
    assert_eq!(
        refused(&mut driver, "gpu0", T4, 3),
        "gpuslice attach vm1 nvidia-t4-8q --name gpu0 --count 2"
    );
    // Of two claims as of one; the cards have room for more.
    for domain in [with_mdevs(&[("gpu0", 2)]), with_mdevs(&[("gpu0", 1), ("gpu1", 1)])] {
        start(&mut driver, &domain).unwrap();
        assert_eq!(gpus(&driver), 2);
        stop(&mut driver, &domain);
    }
    let three = with_mdevs(&[("gpu0", 2), ("gpu1", 1)]);
    let refusal = start(&mut driver, &three).unwrap_err();
    assert_eq!(refusal.code, Code::Unsupported, "{refusal:?}");
    assert!(driver.machine.runtime().assignments.is_empty());
}

#[test]
fn on_one_gpu_a_vm_can_ask_for_one() {
    for (mut driver, profile) in [(a40(1, Some(1)), A40), (t4(1, Some(1)), T4)] {
        let one = format!("gpuslice attach vm1 {profile} --name gpu0 --count 1");
        assert_eq!(refused(&mut driver, "gpu0", profile, 2), one);
        asks(&mut driver, "gpu0", profile, 1).unwrap();
        assert!(refused(&mut driver, "gpu1", profile, 1).starts_with("lay out another GPU"));
        // It is asked for anew, and not beside itself.
        asks(&mut driver, "gpu0", profile, 1).unwrap();
    }
}

/// What the agent is told of a domain whose XML it has read.
fn seen(driver: &mut Driver, domain: &Domain, shut_off: bool) -> (Vec<HostDevice>, Vec<Refusal>) {
    match order(driver, Command::DomainSeen { domain: domain.clone(), shut_off }).unwrap() {
        Answer::Domain { devices, refused, .. } => {
            let devices = devices.into_iter().map(|device| HostDevice {
                source: device.source,
                alias: Some(device.alias),
                managed: false,
            });
            (devices.collect(), refused)
        }
        other => panic!("{other:?}"),
    }
}

fn claims(driver: &Driver) -> Vec<&str> {
    driver.machine.durable().claims.keys().map(|key| key.name.as_str()).collect()
}

/// A person gives a claim another name, or asks for another one in its place.
#[test]
fn what_a_domain_asks_for_no_more_is_not_in_the_way() {
    for (mut driver, profile) in [(a40(1, Some(1)), A40), (t4(1, Some(1)), T4)] {
        let mut domain = attach_several(&mut driver, 1, profile, 1);
        domain.claims[0].name = "gpu1".parse().unwrap();
        let (devices, refused) = seen(&mut driver, &domain, true);
        assert_eq!((devices.len(), refused), (1, vec![]));
        assert_eq!(devices[0].alias, Some(alias_for(&domain.claims[0].name, 0)));
        assert_eq!(claims(&driver), ["gpu1"]);
        domain.devices = devices;
        start(&mut driver, &domain).unwrap();
        driver.advance(20_000).unwrap();
        // The same while it runs: it counts once the VM has ended, be the slice back already or not.
        let ran = domain.clone();
        domain.claims[0].name = "gpu2".parse().unwrap();
        seen(&mut driver, &domain, false);
        assert!(claims(&driver).contains(&"gpu1"), "{:?}", claims(&driver));
        call(&mut driver, &ran, HookOperation::Release).unwrap();
        assert_eq!(driver.machine.runtime().assignments.len(), 1, "QEMU has it open still");
        let (devices, refused) = seen(&mut driver, &domain, true);
        assert_eq!((devices.len(), refused), (1, vec![]));
        driver.kernel.kill(2001);
        driver.advance(60_000).unwrap();
        assert_eq!(claims(&driver), ["gpu2"]);
        domain.devices = devices;
        start(&mut driver, &domain).unwrap();
        assert_eq!(driver.machine.runtime().assignments.len(), 1);
    }
}

/// Whoever ends on the GPU that serves the VM already makes no room for it.
#[test]
fn room_is_made_on_a_gpu_that_can_serve_the_vm_once_more() {
    let mut driver = t4(2, Some(1));
    let vms: Vec<Domain> = (1..=4).map(|vm| vm_with_mdevs(vm, &[("gpu0", 1)])).collect();
    for vm in &vms {
        start(&mut driver, vm).unwrap();
    }
    stop(&mut driver, &vms[0]);
    let two = with_mdevs(&[("gpu0", 1), ("gpu1", 1)]);
    let refusal = start(&mut driver, &two).unwrap_err();
    assert_eq!(refusal.code, Code::NoCapacity, "{refusal:?}");
    assert!(refusal.message.contains("wanted 1, 0 of 2 free"), "{refusal:?}");
    let hint = refusal.hint.unwrap();
    let ends = vms.iter().find(|vm| hint.as_str() == format!("virsh shutdown {}", vm.name));
    stop(&mut driver, ends.unwrap_or_else(|| panic!("{hint}")));
    start(&mut driver, &two).unwrap();
    assert_eq!(gpus(&driver), 2);
}

#[test]
fn a_home_is_freed_on_a_gpu_that_can_serve_the_vm_once_more() {
    let mut driver = a40(2, Some(1));
    let mut vms = 0;
    while vm_asks(&mut driver, vms + 1, "gpu0", A40, 1).is_ok() {
        vms += 1;
    }
    let claims = &driver.machine.durable().claims;
    let seen = driver.machine.observation();
    let gpu = |claim: &Claim| seen.pf_of(&ParentId::Pci(claim.home[0]));
    // The first of all claims is of the GPU that serves the VM, and so is the one that is ended.
    let first = claims.values().next().unwrap();
    let beside = claims.iter().filter(|(_, claim)| gpu(claim) == gpu(first));
    let [(_, asks), (ended, _)] = beside.skip(1).take(2).collect::<Vec<_>>()[..] else { panic!() };
    let vm = asks.owner_name.strip_prefix("vm").unwrap().parse().unwrap();
    let key = ended.clone();
    order(&mut driver, Command::Unclaim { key, force: false }).unwrap();
    let refusal = vm_asks(&mut driver, vm, "gpu1", A40, 1).unwrap_err();
    assert_eq!(refusal.code, Code::NoCapacity, "{refusal:?}");
    let hint = refusal.hint.unwrap();
    let claims = driver.machine.durable().claims.iter();
    let mut ends = claims
        .filter(|(_, claim)| hint.as_str() == format!("gpuslice detach {} gpu0", claim.owner_name));
    let key = ends.next().unwrap_or_else(|| panic!("{hint}")).0.clone();
    order(&mut driver, Command::Unclaim { key, force: false }).unwrap();
    vm_asks(&mut driver, vm, "gpu1", A40, 1).unwrap();
}

/// Six have room by their size; the driver starts four.
#[test]
fn no_more_are_promised_than_the_tool_tells() {
    let mut host = of(include_str!("../../../examples/hosts/a40-vfio.toml"), 1, None);
    for of_type in &mut host.functions[0].mdev.as_mut().unwrap().types {
        of_type.max = (of_type.name == "NVIDIA A40-8Q").then_some(4);
    }
    let mut driver = Driver::new(&host, LAYOUT).unwrap();
    driver.advance(10_000).unwrap();
    let row = profile(&mut driver, A40);
    assert_eq!((row.free, row.max), (4, Some(4)));
    let started: Vec<Domain> = (1..=3).map(|vm| attach_several(&mut driver, vm, A40, 1)).collect();
    started.iter().for_each(|domain| start(&mut driver, domain).unwrap());
    let row = profile(&mut driver, A40);
    assert_eq!((row.free, row.used), (1, 3));
    let refusal = vm_asks(&mut driver, 4, "gpu0", A40, 5).unwrap_err();
    assert_eq!(refusal.hint.unwrap(), "gpuslice attach vm4 nvidia-a40-8q --name gpu0 --count 4");
}

/// Its VFs list what still fits: eighths, and nothing once it is full.
#[test]
fn a_gpu_that_others_use_is_not_without_the_types_it_does_not_list() {
    for (running, free) in [(1, 5), (6, 0)] {
        let mut before = a40(1, None);
        for vm in 1..=running {
            let domain = attach_several(&mut before, vm, A40, 1);
            start(&mut before, &domain).unwrap();
        }
        let mut driver = Driver::on(before.kernel, Disk::default(), LAYOUT).unwrap();
        driver.advance(10_000).unwrap();
        let row = profile(&mut driver, A40);
        assert_eq!((row.free, row.max), (free, Some(6)), "{running} run");
        let row = profile(&mut driver, "nvidia-a40-24q");
        assert_eq!((row.free, row.max), (0, Some(2)), "{running} run");
    }
}

/// One alone starts whatever the tool says.
#[test]
fn a_second_one_waits_for_the_tool_to_tell_how_many_a_vm_can_have() {
    let hangs = |driver: &mut Driver| {
        let path = "/usr/bin/nvidia-smi".to_owned();
        let (nth, times, errno) = (1, u32::MAX, Errno::ETIMEDOUT);
        driver.kernel.inject(Fault::Read { path, nth, times, errno });
    };
    for per_vm in [None, Some(1)] {
        let mut driver = t4(1, per_vm);
        let (one, two) = (vm_with_mdevs(1, &[("gpu0", 1)]), vm_with_mdevs(2, &[("gpu0", 2)]));
        hangs(&mut driver);
        driver.restart().unwrap();
        driver.advance(10_000).unwrap();
        let refusal = start(&mut driver, &two).unwrap_err();
        assert_eq!(refusal.code, Code::NotSettled, "{per_vm:?}: {refusal:?}");
        let way = "gpuslice wait --settled, then the same again (gpuslice status tells which)";
        assert_eq!(refusal.hint.as_deref(), Some(way));
        start(&mut driver, &one).unwrap();
        stop(&mut driver, &one);
        driver.kernel.clear_faults();
        driver.advance(70_000).unwrap();
        let why = start(&mut driver, &two).err().map(|refusal| refusal.code);
        assert_eq!(why, per_vm.map(|_| Code::Unsupported));
    }
}

/// Nothing in its XML is ours before the agent has looked.
#[test]
fn two_that_were_picked_of_a_gpu_that_starts_one_in_a_vm_are_refused_by_the_hook() {
    for (per_vm, starts) in [(2, true), (1, false)] {
        let host = of(include_str!("../../../examples/hosts/t4-l40s.toml"), 1, Some(per_vm));
        let parks = "[[gpu]]\nmatch = { address = \"0000:3b:00.0\" }\nlayout = { park = { nvidia-t4-8q = 2 } }";
        let mut driver = Driver::new(&host, parks).unwrap();
        driver.advance(10_000).unwrap();
        let mut xml = Xml::plain("vm1".to_owned(), Uuid::from_u128(1));
        let parked = driver.kernel.list("/sys/bus/mdev/devices").unwrap();
        assert_eq!(parked.len(), 2);
        for uuid in parked {
            let picked =
                hostdev_written(HostDeviceSource::Mdev(uuid.parse().unwrap()), None, false);
            xml = xml.change(Print::Inactive, |def| def.attach(&picked)).unwrap();
        }
        let call = calls::told(Operation::Prepare, "-", &xml).unwrap();
        let request = driver.hook(call);
        driver.advance(1_000).unwrap();
        let answer = driver.told.remove(&request).unwrap();
        match calls::heeded(Operation::Prepare, &xml, answer) {
            Verdict::Pass => assert!(starts),
            Verdict::Refused(why) => assert_eq!((starts, why.code), (false, Code::Unsupported)),
            Verdict::Edited(_) => panic!("a start is edited"),
        }
    }
}
