//! Stories of guests of Proxmox VE, as its hookscript tells of them: what is promised across time, a daemon that stops, and
//! phases that never come.

use crate::driver::Driver;
use crate::invariants::Broken;
use crate::vgpu::{attach, call, order, start, stop, vf};
use gpuslice_core::domain::{Domain, HostDevice, HostDeviceSource};
use gpuslice_core::errno::Errno;
use gpuslice_core::guest::{GuestCall, GuestDevice, GuestPhase};
use gpuslice_core::ids::{Owner, PciAddress, SliceId};
use gpuslice_core::machine::{Event, HookAnswer, HookOperation, RequestId};
use gpuslice_core::refusal::{Code, Refusal};
use gpuslice_core::request::{Answer, Command};
use gpuslice_sim::{Fault, HostFile};
use std::collections::BTreeMap;
use uuid::Uuid;

const LAYOUT: &str =
    "[[gpu]]\nmatch = { address = \"0000:0c:00.0\" }\nlayout = { vfs = 4, bind = \"vfio-pci\" }";
const PF: &str = "0000:0c:00.0";
const TITLE: &str = "VM 100 (win11)";
const PID: u32 = 4100;

impl Driver {
    /// Proxmox calls its hookscript.
    pub fn guest(&mut self, call: GuestCall) -> Result<HookAnswer, Broken> {
        let request = self.request();
        let phase = call.phase;
        self.guests.insert(request, call.clone());
        self.queue.push_back(Event::Guest { request, call });
        self.drain()?;
        let Some(answer) = self.told.remove(&request) else {
            return Err(Broken::new("answers", format!("{phase:?} has no answer")));
        };
        match (phase, &answer) {
            (GuestPhase::PreStart, _) | (_, HookAnswer::Proceed) => Ok(answer),
            other => Err(Broken::new("only_starts_are_refused", format!("{other:?}"))),
        }
    }
}

/// What is answered is on the disk by then.
pub fn is_recorded(driver: &Driver, call: &GuestCall) -> Result<(), Broken> {
    let disk = driver.disk.runtime().map(|run| run.foreign).unwrap_or_default();
    let owner = Owner::Vmid(call.vmid);
    if disk != driver.machine.runtime().foreign
        || call.phase == GuestPhase::PostStop && disk.values().any(|hold| hold.owner == owner)
    {
        return Err(Broken::new("no_reply_before_its_record", format!("{call:?}: {disk:?}")));
    }
    Ok(())
}

fn ready() -> Driver {
    let text = include_str!("../../../examples/hosts/sriov-8.toml");
    let mut driver = Driver::new(&HostFile::parse(text).unwrap(), LAYOUT).unwrap();
    driver.advance(60_000).unwrap();
    driver
}

fn vfs(driver: &mut Driver) -> Vec<PciAddress> {
    match order(driver, Command::ListSlices).unwrap() {
        Answer::Slices { rows } => rows.into_iter().filter_map(|row| row.address).collect(),
        other => panic!("{other:?}"),
    }
}

/// Its holder, and how each slice is.
fn shown(driver: &mut Driver) -> Vec<(String, String)> {
    match order(driver, Command::ListSlices).unwrap() {
        Answer::Slices { rows } => {
            rows.into_iter().map(|row| (row.state, row.holder.unwrap_or_default())).collect()
        }
        other => panic!("{other:?}"),
    }
}

fn free() -> (String, String) {
    ("free".to_owned(), String::new())
}

fn guest(phase: GuestPhase, devices: &[&[PciAddress]]) -> GuestCall {
    let device = |(index, alternatives): (usize, &&[PciAddress])| GuestDevice {
        index: u32::try_from(index).unwrap(),
        alternatives: alternatives.iter().map(|address| vec![*address]).collect(),
        mdev: None,
        type_id: None,
        exported: true,
        groups: BTreeMap::new(),
    };
    GuestCall {
        phase,
        vmid: 100,
        name: "win11".to_owned(),
        devices: devices.iter().enumerate().map(device).collect(),
        reserved: BTreeMap::new(),
        patience_ms: 0,
    }
}

fn pre_start(driver: &mut Driver, devices: &[&[PciAddress]]) -> Result<(), Refusal> {
    match driver.guest(guest(GuestPhase::PreStart, devices)).unwrap() {
        HookAnswer::Proceed => Ok(()),
        HookAnswer::Refuse(refusal) => Err(refusal),
        HookAnswer::Remap(_) => panic!("nothing is mapped anew"),
    }
}

fn post_start(driver: &mut Driver, vf: PciAddress) {
    driver.kernel.open(PID, "kvm", SliceId::Vf(vf)).unwrap();
    let mut call = guest(GuestPhase::PostStart, &[&[vf]]);
    call.reserved = [(vf, 100)].into();
    driver.guest(call).unwrap();
}

#[test]
fn each_device_of_a_guest_is_another_one_and_no_claim_gets_it() {
    let mut driver = ready();
    let all = vfs(&mut driver);
    pre_start(&mut driver, &[&all[..2], &all[..2]]).unwrap();
    let held = ("foreign".to_owned(), TITLE.to_owned());
    assert_eq!(shown(&mut driver), [held.clone(), held, free(), free()]);
    let claims = [attach(&mut driver, 1, "amd-74a1-vf4"), attach(&mut driver, 2, "amd-74a1-vf4")];
    assert_eq!(claims.map(|domain| vf(&domain)), [all[2], all[3]]);
    // A third device of the same two.
    let refusal = pre_start(&mut driver, &[&all[..2], &all[..2], &all[..2]]).unwrap_err();
    assert_eq!(refusal.code, Code::NoCapacity);
    assert!(refusal.message.starts_with("hostpci2 of VM 100 (win11)"), "{refusal}");
}

#[test]
fn a_start_that_nobody_tells_the_end_of_is_over_after_ten_minutes() {
    let mut driver = ready();
    let all = vfs(&mut driver);
    pre_start(&mut driver, &[&all]).unwrap();
    driver.advance(500_000).unwrap();
    assert_eq!(shown(&mut driver)[0].1, TITLE);
    driver.advance(100_000).unwrap();
    assert_eq!(shown(&mut driver), vec![free(); 4]);
}

#[test]
fn a_stop_without_its_phase_is_seen_across_a_restart_of_the_daemon() {
    for told in [true, false] {
        let mut driver = ready();
        let all = vfs(&mut driver);
        pre_start(&mut driver, &[&all]).unwrap();
        post_start(&mut driver, all[0]);
        driver.advance(3_600_000).unwrap();
        driver.restart().unwrap();
        driver.drain().unwrap();
        assert_eq!(shown(&mut driver)[0], ("foreign".to_owned(), TITLE.to_owned()));
        driver.kernel.kill(PID);
        if told {
            driver.guest(guest(GuestPhase::PostStop, &[])).unwrap();
            assert_eq!(driver.machine.runtime().foreign, BTreeMap::new(), "at once");
        }
        driver.advance(60_000).unwrap();
        assert_eq!(shown(&mut driver), vec![free(); 4]);
    }
}

/// As at an upgrade: QEMU may be filling memory, and has nothing open yet.
#[test]
fn a_daemon_that_comes_in_a_start_gives_it_the_time_it_had() {
    for starts in [true, false] {
        let mut driver = ready();
        let all = vfs(&mut driver);
        pre_start(&mut driver, &[&all]).unwrap();
        driver.advance(5_000).unwrap();
        driver.restart().unwrap();
        driver.advance(60_000).unwrap();
        assert_eq!(shown(&mut driver)[0], ("foreign".to_owned(), TITLE.to_owned()));
        if starts {
            post_start(&mut driver, all[0]);
            driver.restart().unwrap();
            driver.advance(600_000).unwrap();
            assert_eq!(shown(&mut driver)[0], ("foreign".to_owned(), TITLE.to_owned()));
            driver.kernel.kill(PID);
            driver.advance(60_000).unwrap();
        } else {
            driver.advance(600_000).unwrap();
        }
        assert_eq!(shown(&mut driver), vec![free(); 4], "{starts}");
    }
}

/// The same of a domain of libvirt's that has a device without a claim.
#[test]
fn a_domain_that_is_being_started_keeps_its_plain_device_over_a_restart_of_the_daemon() {
    let mut driver = ready();
    let vf = vfs(&mut driver)[0];
    let source = HostDeviceSource::Pci(vf);
    let domain = Domain {
        uuid: Uuid::from_u128(1),
        name: "vm1".to_owned(),
        claims: Vec::new(),
        devices: vec![HostDevice { source, alias: None, managed: true }],
    };
    let held = ("foreign".to_owned(), "vm1".to_owned());
    call(&mut driver, &domain, HookOperation::Prepare).unwrap();
    driver.restart().unwrap();
    driver.advance(60_000).unwrap();
    assert_eq!(shown(&mut driver)[0], held);
    driver.kernel.open(PID, "qemu-system-x86", SliceId::Vf(vf)).unwrap();
    call(&mut driver, &domain, HookOperation::Started).unwrap();
    driver.restart().unwrap();
    driver.advance(600_000).unwrap();
    assert_eq!(shown(&mut driver)[0], held);
    // Nobody tells of its end.
    driver.kernel.kill(PID);
    driver.advance(60_000).unwrap();
    assert_eq!(shown(&mut driver)[0], free());
}

#[test]
fn a_vf_that_only_proxmox_says_is_reserved_is_no_claim_s() {
    let mut driver = ready();
    let domain = attach(&mut driver, 1, "amd-74a1-vf4");
    let mut told = guest(GuestPhase::PostStart, &[]);
    told.reserved = [(vf(&domain), 101)].into();
    driver.kernel.open(PID, "kvm", SliceId::Vf(vf(&domain))).unwrap();
    driver.guest(told).unwrap();
    let Answer::Slices { rows } = order(&mut driver, Command::ListSlices).unwrap() else {
        panic!()
    };
    let guests: Vec<u32> = rows.iter().filter_map(|row| row.vmid).collect();
    assert_eq!(guests, [101]);
    let refusal = call(&mut driver, &domain, HookOperation::Prepare).unwrap_err();
    assert_eq!(refusal.code, Code::Held, "{refusal}");
    assert!(refusal.message.contains("VM 101"), "{refusal}");
    driver.kernel.kill(PID);
    driver.advance(60_000).unwrap();
    call(&mut driver, &domain, HookOperation::Prepare).unwrap();
}

#[test]
fn a_guest_is_in_the_way_of_a_drain_until_it_ends() {
    let mut driver = ready();
    let all = vfs(&mut driver);
    pre_start(&mut driver, &[&all]).unwrap();
    post_start(&mut driver, all[0]);
    let drain = |wait_ms| Command::Drain {
        parents: vec![PF.parse().unwrap()],
        reason: "new fan".to_owned(),
        wait_ms,
    };
    let Answer::Drain(row) = order(&mut driver, drain(None)).unwrap() else { panic!() };
    let [blocker] = row.blockers.as_slice() else { panic!("{row:?}") };
    assert_eq!(blocker.message, format!("{TITLE} uses vf:{} of {PF}", all[0]));
    assert_eq!(blocker.hint.as_deref(), Some("qm shutdown 100"));
    let request = driver.command(drain(Some(600_000)));
    driver.advance(60_000).unwrap();
    assert!(!driver.answers.contains_key(&request));
    driver.kernel.kill(PID);
    driver.guest(guest(GuestPhase::PostStop, &[])).unwrap();
    let Some(Ok(Answer::Drain(row))) = driver.answers.remove(&request) else { panic!() };
    assert!(row.drained && row.blockers.is_empty(), "{row:?}");
}

/// A guest runs, on the first of these.
fn runs_on_a_vf_that_is_reset() -> (Driver, Vec<PciAddress>) {
    let mut driver = ready();
    driver.config = LAYOUT.replace("vfs = 4", "vfs = 4, wipe = \"required\"");
    order(&mut driver, Command::Apply).unwrap();
    let all = vfs(&mut driver);
    pre_start(&mut driver, &[&all]).unwrap();
    post_start(&mut driver, all[0]);
    (driver, all)
}

/// What is not answered at once is, or is not, after a while.
fn starts_again(driver: &mut Driver, all: &[PciAddress], patience_ms: u64) -> RequestId {
    let request = driver.request();
    let call = GuestCall { patience_ms, ..guest(GuestPhase::PreStart, &[all]) };
    driver.guests.insert(request, call.clone());
    driver.queue.push_back(Event::Guest { request, call });
    driver.advance(5_000).unwrap();
    request
}

fn refused(answer: Option<HookAnswer>) -> Code {
    match answer {
        Some(HookAnswer::Refuse(refusal)) => refusal.code,
        other => panic!("{other:?}"),
    }
}

/// `qm reboot` calls `pre-start` right after `post-stop`.
#[test]
fn a_guest_that_is_started_again_waits_for_the_reset_of_its_vf() {
    let asks_again = |fails: bool, patience_ms: u64| {
        let (mut driver, all) = runs_on_a_vf_that_is_reset();
        driver.kernel.kill(PID);
        driver.lazy = true;
        driver.guest(guest(GuestPhase::PostStop, &[])).unwrap();
        if fails {
            let (path, errno) = ("*/reset".to_owned(), Errno::EIO);
            driver.kernel.inject(Fault::Write { path, nth: 1, times: u32::MAX, errno });
        }
        let request = starts_again(&mut driver, &all, patience_ms);
        (driver, request)
    };
    let stopped = |fails: bool| {
        let (driver, request) = asks_again(fails, 20_000);
        assert!(!driver.told.contains_key(&request));
        (driver, request)
    };
    let (mut driver, request) = stopped(false);
    driver.lazy = false;
    driver.begin_lazy().unwrap();
    assert_eq!(driver.told.remove(&request), Some(HookAnswer::Proceed));
    assert_eq!(shown(&mut driver)[0], ("foreign".to_owned(), TITLE.to_owned()));
    let (mut driver, request) = stopped(true);
    driver.lazy = false;
    driver.begin_lazy().unwrap();
    assert_eq!(refused(driver.told.remove(&request)), Code::Dirty);
    let (mut driver, request) = stopped(false);
    driver.advance(10_000).unwrap();
    assert_eq!(refused(driver.told.remove(&request)), Code::Dirty);
    // Nor is it waited for when nobody is there any more to be told.
    for patience_ms in [0, 4_000] {
        let (mut driver, request) = asks_again(false, patience_ms);
        assert_eq!(refused(driver.told.remove(&request)), Code::Dirty);
    }
}

/// A QEMU that is killed is over before it has closed what it had open.
#[test]
fn a_guest_that_is_started_again_waits_for_its_last_qemu_to_let_go() {
    const PATIENCE: u64 = 20_000;
    let held_by = |comm: &str| {
        let (mut driver, all) = runs_on_a_vf_that_is_reset();
        if comm != "kvm" {
            driver.kernel.kill(PID);
            driver.kernel.open(PID, comm, SliceId::Vf(all[0])).unwrap();
        }
        driver.guest(guest(GuestPhase::PostStop, &[])).unwrap();
        let request = starts_again(&mut driver, &all, PATIENCE);
        (driver, request, all[0])
    };
    let (mut driver, request, vf) = held_by("kvm");
    assert!(!driver.told.contains_key(&request));
    driver.kernel.kill(PID);
    driver.drain().unwrap();
    assert_eq!(driver.told.remove(&request), Some(HookAnswer::Proceed));
    assert_eq!(shown(&mut driver)[0], ("foreign".to_owned(), TITLE.to_owned()));
    assert!(!driver.machine.runtime().dirty.contains_key(&SliceId::Vf(vf)), "it was reset");
    // One that cannot be reset then is no reason to start.
    let (mut driver, request, _) = held_by("kvm");
    let (path, errno) = ("*/reset".to_owned(), Errno::EIO);
    driver.kernel.inject(Fault::Write { path, nth: 1, times: u32::MAX, errno });
    driver.kernel.kill(PID);
    driver.drain().unwrap();
    assert_eq!(refused(driver.told.remove(&request)), Code::Dirty);
    // Nor is one that does not let go, or another program, which is told at once.
    let (mut driver, request, _) = held_by("kvm");
    driver.advance(10_000).unwrap();
    assert_eq!(refused(driver.told.remove(&request)), Code::Held);
    let (mut driver, request, _) = held_by("dpdk");
    assert_eq!(refused(driver.told.remove(&request)), Code::Held);
}

/// Who has which VF without a claim.
fn holds(driver: &Driver) -> Vec<(PciAddress, Owner)> {
    let foreign = driver.machine.runtime().foreign.iter();
    foreign.map(|(slice, hold)| (slice.pci().unwrap(), hold.owner.clone())).collect()
}

fn of_another(phase: GuestPhase, reserved: &[PciAddress]) -> GuestCall {
    let reserved = reserved.iter().map(|vf| (*vf, 101)).collect();
    GuestCall { vmid: 101, name: String::new(), reserved, ..guest(phase, &[]) }
}

/// Two guests run, each on one of these, and the first is started again. It can have the second's VF too, which Proxmox tries
/// first, and waits for the reset of its own.
fn waits_beside_another() -> (Driver, Vec<PciAddress>, RequestId) {
    let (mut driver, all) = runs_on_a_vf_that_is_reset();
    driver.kernel.open(PID + 1, "kvm", SliceId::Vf(all[1])).unwrap();
    driver.guest(of_another(GuestPhase::PostStart, &[all[1]])).unwrap();
    driver.kernel.kill(PID);
    driver.lazy = true;
    driver.guest(guest(GuestPhase::PostStop, &[])).unwrap();
    let request = driver.request();
    let call = guest(GuestPhase::PreStart, &[&[all[1], all[0]]]);
    let call = GuestCall { patience_ms: 20_000, reserved: [(all[1], 101)].into(), ..call };
    driver.guests.insert(request, call.clone());
    driver.queue.push_back(Event::Guest { request, call });
    driver.drain().unwrap();
    assert!(!driver.told.contains_key(&request));
    (driver, all, request)
}

#[test]
fn a_guest_that_waits_is_judged_by_what_another_has_left_meanwhile() {
    let (mut driver, all, request) = waits_beside_another();
    driver.kernel.kill(PID + 1);
    driver.guest(of_another(GuestPhase::PostStop, &[])).unwrap();
    assert!(!driver.told.contains_key(&request), "that one is reset too");
    driver.lazy = false;
    driver.begin_lazy().unwrap();
    assert_eq!(driver.told.remove(&request), Some(HookAnswer::Proceed));
    assert_eq!(holds(&driver), [(all[1], Owner::Vmid(100))]);
}

#[test]
fn a_guest_that_waits_is_judged_by_what_another_has_taken_meanwhile() {
    let (mut driver, all, request) = waits_beside_another();
    driver.guest(of_another(GuestPhase::PostStart, &[all[0], all[1]])).unwrap();
    let other = Owner::Vmid(101);
    assert_eq!(holds(&driver), [(all[0], other.clone()), (all[1], other)]);
    driver.lazy = false;
    driver.begin_lazy().unwrap();
    assert_eq!(refused(driver.told.remove(&request)), Code::NoCapacity);
}

#[test]
fn guests_that_wait_for_one_vf_are_let_go_with_one_each() {
    let (mut driver, all) = runs_on_a_vf_that_is_reset();
    driver.kernel.kill(PID);
    driver.lazy = true;
    driver.guest(guest(GuestPhase::PostStop, &[])).unwrap();
    let requests = [100, 101].map(|vmid| {
        let request = driver.request();
        let call = guest(GuestPhase::PreStart, &[&all[..2]]);
        let call = GuestCall { vmid, patience_ms: 20_000, ..call };
        driver.guests.insert(request, call.clone());
        driver.queue.push_back(Event::Guest { request, call });
        driver.drain().unwrap();
        request
    });
    driver.lazy = false;
    driver.begin_lazy().unwrap();
    for request in requests {
        assert_eq!(driver.told.remove(&request), Some(HookAnswer::Proceed));
    }
    assert_eq!(holds(&driver), [(all[0], Owner::Vmid(100)), (all[1], Owner::Vmid(101))]);
}

/// Of a guest without the hookscript no phase tells that it has ended.
#[test]
fn what_was_reserved_when_a_guest_began_to_wait_is_held_once() {
    let mut driver = ready();
    let all = vfs(&mut driver);
    driver.config = format!("{LAYOUT}\n{}", LAYOUT.replace("0c:00.0", "22:00.0"));
    driver.lazy = true;
    driver.command(Command::Apply);
    driver.drain().unwrap();
    let request = driver.request();
    let to_come = "0000:22:00.1".parse().unwrap();
    let call = guest(GuestPhase::PreStart, &[&[to_come]]);
    let call = GuestCall { patience_ms: 30_000, reserved: [(all[3], 102)].into(), ..call };
    driver.guests.insert(request, call.clone());
    driver.queue.push_back(Event::Guest { request, call });
    driver.drain().unwrap();
    assert_eq!(holds(&driver), [(all[3], Owner::Vmid(102))]);
    driver.advance(16_000).unwrap();
    assert!(!driver.told.contains_key(&request));
    assert_eq!(holds(&driver), []);
}

#[test]
fn the_device_below_a_slice_in_use_is_no_guest_s() {
    let mut driver = ready();
    let domain = attach(&mut driver, 1, "amd-74a1-vf4");
    let pf: PciAddress = PF.parse().unwrap();
    pre_start(&mut driver, &[&[pf]]).unwrap();
    start(&mut driver, &domain).unwrap();
    let refusal = pre_start(&mut driver, &[&[pf]]).unwrap_err();
    assert_eq!(refusal.code, Code::Taken, "{refusal}");
    assert!(refusal.message.contains("assigned to vm1"), "{refusal}");
    stop(&mut driver, &domain);
    pre_start(&mut driver, &[&[pf]]).unwrap();
}

/// Proxmox calls the hookscript before it reserves, so that of others which are being started it has nothing to tell yet.
fn begins(driver: &mut Driver, vmid: u32, all: &[PciAddress]) -> Result<(), Refusal> {
    let call = GuestCall { vmid, ..guest(GuestPhase::PreStart, &[all]) };
    match driver.guest(call).unwrap() {
        HookAnswer::Proceed => Ok(()),
        HookAnswer::Refuse(refusal) => Err(refusal),
        HookAnswer::Remap(_) => panic!("nothing is mapped anew"),
    }
}

fn runs(driver: &mut Driver, vmid: u32, vf: PciAddress) {
    driver.kernel.open(PID + vmid, "kvm", SliceId::Vf(vf)).unwrap();
    let call = GuestCall { vmid, ..guest(GuestPhase::PostStart, &[&[vf]]) };
    driver.guest(GuestCall { reserved: [(vf, vmid)].into(), ..call }).unwrap();
}

#[test]
fn of_guests_that_start_at_once_each_is_judged_by_what_may_be_left_for_it() {
    let (mut driver, all) = runs_on_a_vf_that_is_reset();
    let (path, errno) = ("*/reset".to_owned(), Errno::EIO);
    driver.kernel.inject(Fault::Write { path, nth: 1, times: u32::MAX, errno });
    driver.kernel.kill(PID);
    driver.guest(guest(GuestPhase::PostStop, &[])).unwrap();
    driver.advance(20_000).unwrap();
    let (dirty, first, next) = (all[0], all[1], all[2]);
    let [one, other] = [101, 102].map(Owner::Vmid);
    begins(&mut driver, 101, &[first, dirty]).unwrap();
    let refusal = begins(&mut driver, 102, &[first, dirty]).unwrap_err();
    assert_eq!(refusal.code, Code::Dirty, "{refusal}");
    // The first one's start may have failed; else Proxmox has none for this.
    begins(&mut driver, 102, &[first]).unwrap();
    assert_eq!(holds(&driver), [(first, one.clone())]);
    begins(&mut driver, 102, &[first, next]).unwrap();
    assert_eq!(holds(&driver), [(first, one.clone()), (next, other.clone())]);
    runs(&mut driver, 102, next);
    assert_eq!(holds(&driver), [(first, one), (next, other)]);
}

/// Nobody tells of a start that fails.
#[test]
fn what_a_guest_was_to_start_with_is_that_of_the_guest_that_proxmox_gave_it_to() {
    let mut driver = ready();
    let all = vfs(&mut driver);
    begins(&mut driver, 101, &all).unwrap();
    driver.advance(500_000).unwrap();
    begins(&mut driver, 102, &all).unwrap();
    // It is held as long as this one's start may take.
    driver.advance(500_000).unwrap();
    assert_eq!(holds(&driver), [(all[0], Owner::Vmid(101)), (all[1], Owner::Vmid(102))]);
    runs(&mut driver, 102, all[0]);
    assert_eq!(holds(&driver), [(all[0], Owner::Vmid(102))]);
    // Also where another guest's call is the first to tell.
    begins(&mut driver, 103, &all[2..]).unwrap();
    let call = GuestCall { reserved: [(all[2], 104)].into(), ..guest(GuestPhase::PostStop, &[]) };
    driver.guest(call).unwrap();
    assert_eq!(holds(&driver), [(all[0], Owner::Vmid(102)), (all[2], Owner::Vmid(104))]);
}
