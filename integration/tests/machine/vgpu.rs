//! Stories of GPUs whose VFs take a type when a VM starts (NVIDIA's vendor-specific VFIO).

use crate::domains::claim;
use crate::driver::Driver;
use crate::world::bind_by_hand;
use gpuslice_core::domain::{ClaimRequest, Domain, HostDevice, HostDeviceSource};
use gpuslice_core::ids::{ClaimKey, Owner, PciAddress, SliceId};
use gpuslice_core::machine::{HookAnswer, HookCall, HookOperation};
use gpuslice_core::port::read_text;
use gpuslice_core::refusal::{Code, Refusal};
use gpuslice_core::request::{Answer, Command, DeviceToWrite, Outcome, ProfileRow};
use gpuslice_sim::{Fault, HostFile};
use uuid::Uuid;

pub const LAYOUT: &str =
    "[[gpu]]\nmatch = { vendor-device = \"10de:2235\" }\nlayout = { vfs = \"all\" }";
const FIRST: &str = "0000:41:00.0";

pub fn host() -> HostFile {
    HostFile::parse(include_str!("../../../examples/hosts/a40-vfio.toml")).unwrap()
}

/// A host that has its layout.
fn ready() -> Driver {
    let mut driver = Driver::new(&host(), LAYOUT).unwrap();
    driver.advance(10_000).unwrap();
    driver
}

/// One that has a single GPU.
pub fn one_gpu() -> Driver {
    let mut one = host();
    one.functions.truncate(1);
    let mut driver = Driver::new(&one, LAYOUT).unwrap();
    driver.advance(10_000).unwrap();
    driver
}

pub fn order(driver: &mut Driver, command: Command) -> Outcome {
    let request = driver.command(command);
    driver.advance(10_000).unwrap();
    driver.answers.remove(&request).unwrap()
}

fn owner(vm: u128) -> Owner {
    Owner::Domain(Uuid::from_u128(vm))
}

/// `gpuslice attach`, with what the agent then writes.
pub fn attach(driver: &mut Driver, vm: u128, profile: &str) -> Domain {
    attach_several(driver, vm, profile, 1)
}

pub fn attach_several(driver: &mut Driver, vm: u128, profile: &str, count: u32) -> Domain {
    let request = claim(&"gpu0".parse().unwrap(), profile, count);
    let (devices, _) = claimed(driver, vm, request.clone());
    let devices = devices.into_iter().map(|device| HostDevice {
        source: device.source,
        alias: Some(device.alias),
        managed: false,
    });
    Domain {
        uuid: Uuid::from_u128(vm),
        name: format!("vm{vm}"),
        claims: vec![request],
        devices: devices.collect(),
    }
}

/// The order by which `gpuslice attach` makes a claim of a VM.
pub fn asking(vm: u128, request: ClaimRequest) -> Command {
    Command::Claim {
        owner: owner(vm),
        owner_name: format!("vm{vm}"),
        request,
        pool: None,
        reserve: None,
        dry_run: false,
    }
}

/// Claims, and says what devices there are to write and what there is to warn of.
pub fn claimed(
    driver: &mut Driver,
    vm: u128,
    request: ClaimRequest,
) -> (Vec<DeviceToWrite>, Vec<String>) {
    match order(driver, asking(vm, request)).unwrap() {
        Answer::Claimed { devices, warnings, .. } => (devices, warnings),
        other => panic!("{other:?}"),
    }
}

pub fn call(driver: &mut Driver, domain: &Domain, operation: HookOperation) -> Result<(), Refusal> {
    let request = driver.hook(HookCall::new(operation, domain.clone()));
    driver.advance(1_000).unwrap();
    if operation != HookOperation::Prepare {
        return Ok(());
    }
    match driver.told.remove(&request).unwrap() {
        HookAnswer::Proceed => Ok(()),
        HookAnswer::Refuse(refusal) => Err(refusal),
        other @ HookAnswer::Remap(_) => panic!("{other:?}"),
    }
}

pub fn vf(domain: &Domain) -> PciAddress {
    match domain.devices[0].source {
        HostDeviceSource::Pci(address) => address,
        HostDeviceSource::Mdev(uuid) => panic!("mdev {uuid}"),
    }
}

/// The process of its VM.
pub fn pid(domain: &Domain) -> u32 {
    u32::try_from(domain.uuid.as_u128()).unwrap() + 1000
}

pub fn start(driver: &mut Driver, domain: &Domain) -> Result<(), Refusal> {
    call(driver, domain, HookOperation::Prepare)?;
    driver.kernel.open(pid(domain), "qemu-system-x86", SliceId::Vf(vf(domain))).unwrap();
    call(driver, domain, HookOperation::Started)
}

/// A VM that has run for a while ends.
pub fn stop(driver: &mut Driver, domain: &Domain) {
    driver.advance(20_000).unwrap();
    driver.kernel.kill(pid(domain));
    call(driver, domain, HookOperation::Release).unwrap();
}

pub fn type_of(driver: &Driver, vf: PciAddress) -> String {
    let path = format!("/sys/bus/pci/devices/{vf}/nvidia/current_vgpu_type");
    read_text(&driver.kernel, &path).unwrap()
}

pub fn profile(driver: &mut Driver, name: &str) -> ProfileRow {
    match order(driver, Command::ListProfiles).unwrap() {
        Answer::Profiles { rows } => rows.into_iter().find(|r| r.profile.as_str() == name).unwrap(),
        other => panic!("{other:?}"),
    }
}

fn home(driver: &Driver, vm: u128) -> PciAddress {
    let key = ClaimKey { owner: owner(vm), name: "gpu0".parse().unwrap() };
    driver.machine.durable().claims[&key].home[0]
}

#[test]
fn a_start_gives_the_vf_its_type_and_a_stop_takes_it() {
    let mut driver = ready();
    let domain = attach(&mut driver, 1, "nvidia-a40-8q");
    let vf = vf(&domain);
    assert_eq!(type_of(&driver, vf), "0");
    start(&mut driver, &domain).unwrap();
    assert_eq!(type_of(&driver, vf), "562");
    // Of 24 on four GPUs, and none of another size on this one.
    let row = profile(&mut driver, "nvidia-a40-8q");
    assert_eq!((row.free, row.used, row.max), (23, 1, Some(24)));
    assert_eq!(profile(&mut driver, "nvidia-a40-16q").free, 9);
    stop(&mut driver, &domain);
    assert_eq!(type_of(&driver, vf), "0");
    assert_eq!(profile(&mut driver, "nvidia-a40-8q").free, 24);
}

#[test]
fn homes_are_where_their_size_fits() {
    let mut driver = ready();
    let eights: Vec<Domain> = (1..=6).map(|vm| attach(&mut driver, vm, "nvidia-a40-8q")).collect();
    // A GPU each for other sizes, as long as there is one.
    let whole = attach(&mut driver, 7, "nvidia-a40-48q");
    let four = attach(&mut driver, 8, "nvidia-a40-4q");
    let more: Vec<Domain> = (9..=10).map(|vm| attach(&mut driver, vm, "nvidia-a40-8q")).collect();
    for domain in eights.iter().chain([&whole, &four]).chain(&more) {
        start(&mut driver, domain).unwrap();
    }
}

#[test]
fn a_size_that_does_not_fit_beside_the_others_is_refused_and_moves() {
    let mut driver = ready();
    let eight = attach(&mut driver, 1, "nvidia-a40-8q");
    // Written by hand: it names a VF beside the other's.
    let mut whole = attach(&mut driver, 2, "nvidia-a40-48q");
    let beside = PciAddress::with_routing_id(vf(&eight), vf(&eight).routing_id() + 1);
    whole.devices[0].source = HostDeviceSource::Pci(beside);
    start(&mut driver, &eight).unwrap();
    let refusal = start(&mut driver, &whole).unwrap_err();
    assert_eq!(refusal.code, Code::NoCapacity, "{refusal}");
    assert!(refusal.message.contains("nvidia-a40-8q"), "{refusal}");
    assert_ne!(home(&driver, 2), beside);
    assert_eq!(type_of(&driver, beside), "0");
}

#[test]
fn a_home_that_another_vm_has_is_kept_as_long_as_no_other_is_better() {
    let mut driver = one_gpu();
    let (whole, eight) =
        (attach(&mut driver, 1, "nvidia-a40-48q"), attach(&mut driver, 2, "nvidia-a40-8q"));
    start(&mut driver, &whole).unwrap();
    // Somebody has its VF, without a claim.
    let alias = Some("ua-theirs".to_owned());
    let devices = vec![HostDevice { alias, ..eight.devices[0].clone() }];
    let (uuid, name) = (Uuid::from_u128(3), "vm3".to_owned());
    let plain = Domain { uuid, name, claims: Vec::new(), devices };
    call(&mut driver, &plain, HookOperation::Prepare).unwrap();
    let refusal = start(&mut driver, &eight).unwrap_err();
    assert_eq!((refusal.code, home(&driver, 2)), (Code::Held, vf(&eight)), "{refusal:?}");
    assert!(!refusal.hint.as_ref().unwrap().contains("another VF"), "{refusal:?}");
    // There is room.
    stop(&mut driver, &whole);
    let refusal = start(&mut driver, &eight).unwrap_err();
    assert_eq!(refusal.code, Code::Held, "{refusal:?}");
    assert!(refusal.hint.as_ref().unwrap().contains("another VF"), "{refusal:?}");
    assert_ne!(home(&driver, 2), vf(&eight));
    let other = HostDeviceSource::Pci(home(&driver, 2));
    let moved = HostDevice { source: other, ..eight.devices[0].clone() };
    start(&mut driver, &Domain { devices: vec![moved], ..eight }).unwrap();
}

#[test]
fn a_home_that_is_another_s_is_given_up_also_when_there_is_no_room() {
    let mut driver = one_gpu();
    let (whole, mut eight) =
        (attach(&mut driver, 1, "nvidia-a40-48q"), attach(&mut driver, 2, "nvidia-a40-8q"));
    start(&mut driver, &whole).unwrap();
    // While its domain was undefined another was given its home, by hand.
    let third = attach(&mut driver, 3, "nvidia-a40-8q");
    eight.devices[0].source = third.devices[0].source;
    let refusal = start(&mut driver, &eight).unwrap_err();
    assert_eq!(refusal.code, Code::ClaimCopied, "{refusal:?}");
    assert!(!refusal.hint.as_ref().unwrap().contains("the agent gives it"), "{refusal:?}");
    stop(&mut driver, &whole);
    let refusal = start(&mut driver, &eight).unwrap_err();
    assert!(refusal.hint.as_ref().unwrap().contains("the agent gives it"), "{refusal:?}");
}

#[test]
fn a_full_gpu_keeps_its_profiles_over_a_restart_of_the_daemon() {
    let mut driver = one_gpu();
    let domain = attach(&mut driver, 1, "nvidia-a40-48q");
    start(&mut driver, &domain).unwrap();
    driver.restart().unwrap();
    driver.advance(10_000).unwrap();
    // The driver lists nothing any more.
    let row = profile(&mut driver, "nvidia-a40-8q");
    assert_eq!((row.free, row.max), (0, Some(6)));
    assert_eq!(profile(&mut driver, "nvidia-a40-48q").used, 1);
    stop(&mut driver, &domain);
    assert_eq!(type_of(&driver, vf(&domain)), "0");
}

#[test]
fn the_tool_is_run_again_while_somebody_looks_at_the_gpu() {
    let pf: PciAddress = FIRST.parse().unwrap();
    for (times, unbinds, settles) in [(3, false, true), (3, true, true), (9, false, false)] {
        let mut driver = Driver::new(&host(), "").unwrap();
        driver.kernel.inject(Fault::Tool { pf, nth: 1, times, unbinds });
        driver.config = LAYOUT.to_owned();
        let applied = order(&mut driver, Command::Apply);
        assert_eq!(applied.is_ok(), settles, "{applied:?}");
        let names = gpuslice_core::port::HostRead::list(
            &driver.kernel,
            &format!("/sys/bus/pci/devices/{pf}"),
        );
        let vfs = names.unwrap().iter().filter(|n| n.starts_with("virtfn")).count();
        assert_eq!(vfs, if settles { 32 } else { 0 });
        if let Err(refusal) = applied {
            assert!(refusal.one_line().contains("unbindLock"), "{refusal:?}");
            assert!(refusal.hint.as_deref().unwrap().starts_with("gpuslice doctor ("));
        }
    }
}

#[test]
fn a_type_that_somebody_else_gave_is_not_taken() {
    let mut driver = ready();
    let domain = attach(&mut driver, 1, "nvidia-a40-8q");
    let path = format!("/sys/bus/pci/devices/{}/nvidia/current_vgpu_type", vf(&domain));
    let written = gpuslice_core::port::HostWrite::write(&mut driver.kernel, &path, b"562");
    written.unwrap();
    // Also when the write is not noticed before the start: no event tells of it.
    let refusal = start(&mut driver, &domain).unwrap_err();
    assert_eq!(refusal.code, Code::Foreign, "{refusal}");
    assert_eq!(type_of(&driver, vf(&domain)), "562");
    driver.wake_up().unwrap();
    let refusal = start(&mut driver, &domain).unwrap_err();
    assert_eq!(refusal.code, Code::Foreign, "{refusal}");
    assert_eq!(type_of(&driver, vf(&domain)), "562");
}

#[test]
fn what_somebody_else_gives_back_is_free_at_the_next_start() {
    let mut driver = one_gpu();
    let domain = attach(&mut driver, 1, "nvidia-a40-48q");
    let mut vfs = driver.machine.observation().vfs.keys();
    let other = *vfs.find(|other| **other != vf(&domain)).unwrap();
    let path = format!("/sys/bus/pci/devices/{other}/nvidia/current_vgpu_type");
    let write = |driver: &mut Driver, text: &[u8]| {
        gpuslice_core::port::HostWrite::write(&mut driver.kernel, &path, text).unwrap();
    };
    write(&mut driver, b"562");
    driver.wake_up().unwrap();
    let refusal = start(&mut driver, &domain).unwrap_err();
    assert_eq!(refusal.code, Code::NoCapacity, "{refusal}");
    // No event tells of it.
    write(&mut driver, b"0");
    start(&mut driver, &domain).unwrap();
}

#[test]
fn a_vf_taken_off_its_driver_is_kept_back_until_all_are_made_anew() {
    let mut driver = one_gpu();
    let (running, domain) =
        (attach(&mut driver, 1, "nvidia-a40-8q"), attach(&mut driver, 2, "nvidia-a40-8q"));
    start(&mut driver, &running).unwrap();
    bind_by_hand(&mut driver.kernel, vf(&domain), "nouveau");
    bind_by_hand(&mut driver.kernel, vf(&domain), "nvidia");
    driver.wake_up().unwrap();
    assert_eq!(slice_state(&mut driver, vf(&domain)), "quarantined");
    let refusal = start(&mut driver, &domain).unwrap_err();
    assert_eq!(refusal.code, Code::Quarantined, "{refusal}");
    assert!(refusal.hint.as_ref().unwrap().contains("virsh start vm2"), "{refusal:?}");
    assert_ne!(home(&driver, 2), vf(&domain));
    // Of a GPU in use nothing is made anew.
    stop(&mut driver, &running);
    driver.advance(30_000).unwrap();
    assert_eq!(slice_state(&mut driver, vf(&domain)), "free");
    start(&mut driver, &running).unwrap();
}

pub fn slice_state(driver: &mut Driver, vf: PciAddress) -> String {
    match order(driver, Command::ListSlices).unwrap() {
        Answer::Slices { rows } => {
            rows.into_iter().find(|row| row.address == Some(vf)).unwrap().state
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn managed_by_libvirt_is_refused() {
    let mut driver = ready();
    let mut domain = attach(&mut driver, 1, "nvidia-a40-8q");
    domain.devices[0].managed = true;
    let refusal = start(&mut driver, &domain).unwrap_err();
    assert_eq!(refusal.code, Code::Managed, "{refusal}");
}

/// Picked, and managed by nobody: QEMU could not open it.
#[test]
fn a_vf_without_a_type_is_refused_to_a_vm_that_asks_for_none() {
    let mut driver = one_gpu();
    let mut domain = attach(&mut driver, 1, "nvidia-a40-8q");
    let address = vf(&domain);
    domain.uuid = uuid::Uuid::from_u128(2);
    domain.claims.clear();
    domain.devices[0].alias = None;
    let refusal = start(&mut driver, &domain).unwrap_err();
    assert_eq!(refusal.code, Code::NoProfile, "{refusal}");
    assert!(refusal.hint.unwrap().contains("PROFILE"));
    // A program gives its devices an alias, and may type them later; a person has done it.
    domain.devices[0].alias = Some("ua-theirs".to_owned());
    call(&mut driver, &domain, HookOperation::Prepare).unwrap();
    call(&mut driver, &domain, HookOperation::Release).unwrap();
    let path = format!("/sys/bus/pci/devices/{address}/nvidia/current_vgpu_type");
    gpuslice_core::port::HostWrite::write(&mut driver.kernel, &path, b"562").unwrap();
    driver.wake_up().unwrap();
    domain.devices[0].alias = None;
    start(&mut driver, &domain).unwrap();
}

#[test]
fn a_layout_with_a_number_of_vfs_is_refused() {
    let mut driver = ready();
    driver.config = LAYOUT.replace("\"all\"", "8");
    let refusal = order(&mut driver, Command::Apply).unwrap_err();
    assert_eq!(refusal.code, Code::BadConfig, "{refusal}");
}

#[test]
fn a_request_means_the_same_in_the_older_framework() {
    let text = include_str!("../../../examples/hosts/a40-mdev.toml");
    let mut driver = Driver::new(&HostFile::parse(text).unwrap(), LAYOUT).unwrap();
    driver.advance(10_000).unwrap();
    let row = profile(&mut driver, "nvidia-a40-8q");
    assert_eq!(
        (row.mechanism.as_str(), row.type_id.unwrap().to_string()),
        ("mdev", "nvidia-562".to_owned())
    );
    let domain = attach(&mut driver, 1, "nvidia-a40-8q");
    call(&mut driver, &domain, HookOperation::Prepare).unwrap();
    let made = driver.machine.observation().mdevs.values().next().unwrap().type_id.to_string();
    assert_eq!(made, "nvidia-562");
}

#[test]
fn what_is_asked_of_a_slice_decides_and_is_never_dropped() {
    let mut driver = ready();
    let mut ask = |profile: Option<&str>, memory: Option<u64>, isolation: Option<&str>| {
        let mut request = claim(&"gpu0".parse().unwrap(), "nvidia-a40-8q", 1);
        request.profile = profile.map(|name| name.parse().unwrap());
        request.memory_min = memory.map(|gib| gib << 30);
        request.isolation_min = isolation.map(str::to_owned);
        let (owner, owner_name) = (owner(1), "vm1".to_owned());
        let (pool, reserve, dry_run) = (None, None, true);
        order(&mut driver, Command::Claim { owner, owner_name, request, pool, reserve, dry_run })
    };
    let given = |outcome: Outcome| match outcome.unwrap() {
        Answer::Claimed { claim, .. } => claim.profile.to_string(),
        other => panic!("{other:?}"),
    };
    assert_eq!(given(ask(None, Some(7), None)), "nvidia-a40-8q");
    assert_eq!(given(ask(None, Some(17), Some("shared"))), "nvidia-a40-24q");
    assert_eq!(given(ask(Some("nvidia-a40-8q"), Some(8), Some("shared"))), "nvidia-a40-8q");
    for (profile, memory, isolation) in [
        (None, Some(49), None),
        (None, Some(1), Some("hardware")),
        (Some("nvidia-a40-8q"), None, Some("hardware")),
        (Some("nvidia-a40-8q"), Some(9), None),
    ] {
        assert_eq!(ask(profile, memory, isolation).unwrap_err().code, Code::NoProfile);
    }
    assert_eq!(ask(None, None, None).unwrap_err().code, Code::BadRequest);
}

/// NVIDIA's driver says EIO when an mdev does not fit, and the GPU is not at fault.
#[test]
fn an_mdev_that_does_not_fit_any_more_is_made_elsewhere() {
    let text = include_str!("../../../examples/hosts/a40-mdev.toml");
    let mut driver = Driver::new(&HostFile::parse(text).unwrap(), LAYOUT).unwrap();
    driver.advance(10_000).unwrap();
    let domain = attach(&mut driver, 1, "nvidia-a40-8q");
    // Somebody's vGPUs of another size come up unseen, on all GPUs but the last.
    for (n, pf) in ["0000:41:00.4", "0000:61:00.4", "0000:81:00.4"].iter().enumerate() {
        let types = format!("/sys/bus/pci/devices/{pf}/mdev_supported_types");
        let uuid = Uuid::from_u128(n as u128 + 77).to_string();
        let create = format!("{types}/nvidia-560/create");
        gpuslice_core::port::HostWrite::write(&mut driver.kernel, &create, uuid.as_bytes())
            .unwrap();
    }
    driver.deaf = true;
    let request = driver.hook(HookCall::new(HookOperation::Prepare, domain.clone()));
    driver.advance(5_000).unwrap();
    assert!(matches!(driver.told.remove(&request), Some(HookAnswer::Proceed)));
    assert!(driver.machine.durable().quarantines.is_empty());
    let made = driver.machine.observation().mdevs.values();
    let parents: Vec<String> = made.map(|mdev| mdev.parent.to_string()).collect();
    assert!(parents.iter().any(|parent| parent.starts_with("0000:a1:")), "{parents:?}");
}

/// What the agent does with a domain that is shut off.
fn rewritten(driver: &mut Driver, domain: &Domain) -> Domain {
    let seen = Command::DomainSeen { domain: domain.clone(), shut_off: true };
    let devices = match order(driver, seen).unwrap() {
        Answer::Domain { devices, refused, .. } if refused.is_empty() => devices,
        other => panic!("{other:?}"),
    };
    let device = |d: gpuslice_core::request::DeviceToWrite| HostDevice {
        source: d.source,
        alias: Some(d.alias),
        managed: false,
    };
    Domain { devices: devices.into_iter().map(device).collect(), ..domain.clone() }
}

pub fn agent_looks_at(driver: &mut Driver) -> Vec<Uuid> {
    match order(driver, Command::AgentWork).unwrap() {
        Answer::AgentWork { look_again, .. } => look_again,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_request_outlives_a_driver_that_turns_mdevs_into_vfs_and_one_that_turns_them_back() {
    let older = include_str!("../../../examples/hosts/a40-mdev.toml");
    let mut driver = Driver::new(&HostFile::parse(older).unwrap(), LAYOUT).unwrap();
    driver.advance(10_000).unwrap();
    let before = attach(&mut driver, 1, "nvidia-a40-8q");
    assert!(matches!(before.devices[0].source, HostDeviceSource::Mdev(_)));
    call(&mut driver, &before, HookOperation::Prepare).unwrap();
    call(&mut driver, &before, HookOperation::Release).unwrap();
    assert!(agent_looks_at(&mut driver).is_empty());
    // The host comes up with the newer driver.
    driver.kernel = gpuslice_sim::Kernel::from_host(&host());
    driver.restart().unwrap();
    driver.advance(10_000).unwrap();
    assert_eq!(agent_looks_at(&mut driver), [before.uuid]);
    let refusal = call(&mut driver, &before, HookOperation::Prepare).unwrap_err();
    assert_eq!(refusal.code, Code::NotInXml, "{refusal}");
    let now = rewritten(&mut driver, &before);
    assert!(matches!(now.devices[0].source, HostDeviceSource::Pci(_)));
    assert_eq!((&now.claims, &now.devices[0].alias), (&before.claims, &before.devices[0].alias));
    assert!(agent_looks_at(&mut driver).is_empty());
    start(&mut driver, &now).unwrap();
    assert_eq!(type_of(&driver, vf(&now)), "562");
    stop(&mut driver, &now);
    // And back again.
    driver.kernel = gpuslice_sim::Kernel::from_host(&HostFile::parse(older).unwrap());
    driver.restart().unwrap();
    driver.advance(10_000).unwrap();
    assert_eq!(agent_looks_at(&mut driver), [before.uuid]);
    assert_eq!(rewritten(&mut driver, &now), before);
}

#[test]
fn parameters_come_after_the_type_and_go_before_it() {
    let mut driver = one_gpu();
    let (mut domain, other) =
        (attach(&mut driver, 1, "nvidia-a40-8q"), attach(&mut driver, 2, "nvidia-a40-8q"));
    let set = "frame_rate_limiter=0,disable_vnc=1";
    domain.claims[0].parameters = Some(set.parse().unwrap());
    let path = format!("/sys/bus/pci/devices/{}/nvidia/vgpu_params", vf(&domain));
    let params = |driver: &Driver| read_text(&driver.kernel, &path).unwrap().trim().to_owned();
    start(&mut driver, &domain).unwrap();
    assert_eq!(params(&driver), set);
    // What a daemon after this one takes back is the same.
    driver.restart().unwrap();
    stop(&mut driver, &domain);
    driver.advance(10_000).unwrap();
    assert_eq!((params(&driver), type_of(&driver, vf(&domain))), (String::new(), "0".to_owned()));
    // A boot takes all; they are written again.
    driver.kernel.reboot();
    driver.kernel.settle();
    driver.restart().unwrap();
    driver.advance(30_000).unwrap();
    assert_eq!(params(&driver), "");
    start(&mut driver, &domain).unwrap();
    assert_eq!(params(&driver), set);
    start(&mut driver, &other).unwrap();
    let beside = format!("/sys/bus/pci/devices/{}/nvidia/vgpu_params", vf(&other));
    assert_eq!(read_text(&driver.kernel, &beside).unwrap().trim(), "");
}

#[test]
fn a_start_is_refused_whose_parameters_are_not_taken() {
    let mut driver = one_gpu();
    let mut domain = attach(&mut driver, 1, "nvidia-a40-8q");
    domain.claims[0].parameters = Some("frame_rate_limiter=0".parse().unwrap());
    let path = format!("/sys/bus/pci/devices/{}/nvidia/vgpu_params", vf(&domain));
    for errno in [gpuslice_core::errno::Errno::EINVAL, gpuslice_core::errno::Errno::EIO] {
        driver.kernel.inject(Fault::Write { path: path.clone(), nth: 1, times: 1, errno });
        let refusal = call(&mut driver, &domain, HookOperation::Prepare).unwrap_err();
        assert!(refusal.one_line().contains("vgpu_params"), "{refusal:?}");
        driver.kernel.clear_faults();
        driver.advance(30_000).unwrap();
        assert_eq!(type_of(&driver, vf(&domain)), "0");
        assert!(driver.machine.runtime().assignments.is_empty());
    }
    start(&mut driver, &domain).unwrap();
}
