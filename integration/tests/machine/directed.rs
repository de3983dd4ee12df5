//! Single stories, each told once on purpose rather than met by chance.

use crate::happening::Happening as H;
use crate::hosts::read_log;
use crate::invariants::vfs_of;
use crate::world::{State, World};
use gpuslice_core::domain::HostDeviceSource;
use gpuslice_core::errno::Errno;
use gpuslice_core::ids::{ClaimKey, ClaimName, Owner, ParentId, PciAddress, SliceId};
use gpuslice_core::machine::HookAnswer;
use gpuslice_core::port::{HostRead, HostWrite as _, link_name};
use gpuslice_core::refusal::{Code, Refusal};
use gpuslice_core::request::{Answer, Command};
use gpuslice_core::state::Phase;
use gpuslice_sim::Fault;

const PF: &str = "0000:0c:00.0";

fn name() -> ClaimName {
    "gpu0".parse().unwrap()
}

pub fn attach(vm: u8) -> H {
    let profile = "amd-74a1-vf8".to_owned();
    H::Attach { vm, name: name(), profile, count: 1, pool: false, reserve: false }
}

pub fn declare(vm: u8) -> H {
    H::Declare { vm, name: name(), profile: "nvidia-a40-4q".to_owned(), count: 1 }
}

/// From `start` to a running VM.
pub fn run(vm: u8) -> [H; 3] {
    [H::Start { vm }, H::Next { vm }, H::Next { vm }]
}

/// To its end, and as long as a device may be left to its driver.
pub fn stop(vm: u8) -> [H; 3] {
    [H::Stop { vm, linger: false }, H::Next { vm }, H::Advance { ms: 10_001 }]
}

/// A start is refused with this code, and is over.
#[track_caller]
pub fn refused(world: &mut World, vm: u8, code: &str) {
    world.refusals.clear();
    all(world, &[H::Start { vm }, H::Next { vm }, H::Next { vm }]);
    let codes: Vec<&str> = world.refusals.keys().map(|code| code.as_str()).collect();
    assert_eq!((world.guests[&vm].state, codes), (State::Off, vec![code]));
}

/// A world in which all cards have come and these things have happened.
pub fn after(happenings: &[H]) -> World {
    let mut world = World::new().unwrap();
    world.happen(&H::Advance { ms: 61_000 }).unwrap();
    all(&mut world, happenings);
    world
}

pub fn all(world: &mut World, happenings: &[H]) {
    for happening in happenings {
        world.happen(happening).unwrap();
    }
}

pub fn runs(world: &World, vm: u8) -> bool {
    matches!(world.guests[&vm].state, State::Running(_))
}

pub fn phases(world: &World) -> Vec<Phase> {
    world.driver.machine.runtime().assignments.values().map(|a| a.phase).collect()
}

fn refusals(world: &World) -> Vec<&'static str> {
    world.refusals.keys().map(|code| code.as_str()).collect()
}

#[test]
fn a_restart_waits_for_the_release_of_its_last_run() {
    for begin in [attach(0), declare(0)] {
        let mut world = after(&[begin]);
        all(&mut world, &run(0));
        all(&mut world, &[H::Lazy { on: true }]);
        all(&mut world, &stop(0));
        all(&mut world, &[H::Start { vm: 0 }]);
        assert_eq!(phases(&world), [Phase::Releasing]);
        all(&mut world, &[H::Lazy { on: false }, H::Next { vm: 0 }, H::Next { vm: 0 }]);
        assert_eq!((runs(&world, 0), refusals(&world)), (true, vec![]));
        world.finish().unwrap();
    }
}

#[test]
fn an_answer_that_found_nobody_is_taken_back_at_once() {
    let mut world = after(&[declare(0), H::Start { vm: 0 }]);
    assert_eq!(phases(&world), [Phase::Prepared]);
    all(&mut world, &[H::HookDies { vm: 0 }]);
    assert_eq!(phases(&world), []);
}

#[test]
fn a_hook_that_goes_while_its_slice_is_made_gets_none() {
    let mut world = after(&[attach(0), H::Lazy { on: true }, H::Start { vm: 0 }]);
    assert_eq!(phases(&world), [Phase::Reserved]);
    all(&mut world, &[H::HookDies { vm: 0 }, H::Lazy { on: false }]);
    assert_eq!(phases(&world), []);
    world.finish().unwrap();
}

#[test]
fn a_start_lost_with_libvirtd_is_taken_back_in_time() {
    let mut world = after(&[attach(0), H::Start { vm: 0 }, H::LibvirtDown]);
    // A large VM may take minutes before it opens its device.
    all(&mut world, &[H::Advance { ms: 300_000 }]);
    assert_eq!(phases(&world), [Phase::Prepared]);
    all(&mut world, &[H::Advance { ms: 700_000 }]);
    assert_eq!(phases(&world), []);
}

#[test]
fn a_vm_that_runs_although_nobody_said_so_keeps_its_slice() {
    let mut world = after(&[attach(0), H::Start { vm: 0 }, H::Next { vm: 0 }]);
    assert!(matches!(world.guests[&0].state, State::Launched(_)));
    world.driver.restart().unwrap();
    world.driver.drain().unwrap();
    assert_eq!(phases(&world), [Phase::Prepared]);
    all(&mut world, &[H::Advance { ms: 700_000 }]);
    assert_eq!(phases(&world), [Phase::Attached]);
    world.finish().unwrap();
}

#[test]
fn a_claim_ended_by_force_while_its_slice_is_made_gives_none() {
    let mut world = after(&[attach(0), H::Lazy { on: true }, H::Start { vm: 0 }]);
    all(
        &mut world,
        &[H::Detach { vm: 0, name: name(), force: true }, H::Lazy { on: false }, H::Next { vm: 0 }],
    );
    assert_eq!((phases(&world), refusals(&world)), (vec![], vec!["unknown"]));
}

#[test]
fn what_cannot_be_recorded_is_refused_and_leaves_nothing() {
    for (durable, runtime) in [(u32::MAX, 0), (0, u32::MAX)] {
        let full = H::DiskFull { durable, runtime };
        let mut world = after(&[declare(0), full, H::Start { vm: 0 }, H::Next { vm: 0 }]);
        assert_eq!(refusals(&world), ["state-unwritable"]);
        assert_eq!(phases(&world), []);
        assert_eq!(world.driver.kernel.list("/sys/bus/mdev/devices").unwrap_or_default().len(), 0);
        all(&mut world, &[H::Next { vm: 0 }, H::DiskFull { durable: 0, runtime: 0 }]);
        all(&mut world, &run(0));
        assert!(runs(&world, 0));
        world.finish().unwrap();
    }
}

#[test]
fn a_quarantine_outlives_a_reading_that_failed() {
    let path = format!("/sys/bus/pci/devices/{PF}/sriov_numvfs");
    let errno = Errno::EIO;
    let pf: ParentId = PF.parse().unwrap();
    let mut world = after(&[
        H::Unplug { address: PF.parse().unwrap() },
        H::Fault { fault: Fault::Write { path, nth: 1, times: 1, errno } },
        H::Plug { address: PF.parse().unwrap() },
    ]);
    assert!(world.driver.machine.durable().quarantines.contains_key(&pf));
    let path = format!("/sys/bus/pci/devices/{PF}/sriov_totalvfs");
    all(&mut world, &[H::Fault { fault: Fault::Read { path, nth: 1, times: 1, errno } }]);
    world.driver.wake_up().unwrap();
    assert!(!world.driver.machine.observation().has_parent(&pf));
    assert!(world.driver.machine.durable().quarantines.contains_key(&pf));
    // Nobody tells that it can be read again.
    all(&mut world, &[H::Advance { ms: 2000 }]);
    assert!(world.driver.machine.observation().has_parent(&pf));
}

#[test]
fn a_late_card_is_waited_for_although_its_rule_has_moved() {
    let mut world = after(&[]);
    world.driver.config.insert_str(0, "# moved by a line\n");
    all(&mut world, &[H::Reboot]);
    match world.order(Command::Status).unwrap() {
        Some(Ok(Answer::Status(status))) => {
            assert!(!status.settled);
            assert_eq!(status.waiting_for, ["0000:9f:00.0 to appear"]);
        }
        other => panic!("{other:?}"),
    }
    all(&mut world, &[H::Advance { ms: 61_000 }]);
    world.finish().unwrap();
}

#[test]
fn a_vf_that_left_and_returned_under_its_vm_is_nobody_else_s() {
    let mut world = after(&[attach(0)]);
    all(&mut world, &run(0));
    let address = PF.parse().unwrap();
    all(&mut world, &[H::Unplug { address }, H::Plug { address }, H::Advance { ms: 5000 }]);
    // Another domain that carries the same VF, by a copy of its XML.
    all(&mut world, &[H::Clone { from: 0, to: 1 }]);
    all(&mut world, &run(1));
    assert!(!runs(&world, 1));
    assert_eq!(phases(&world), [Phase::Attached]);
    all(&mut world, &stop(0));
    all(&mut world, &[H::Advance { ms: 5000 }]);
    assert_eq!(phases(&world), []);
    world.finish().unwrap();
}

#[test]
fn a_write_in_line_behind_others_is_not_stuck() {
    let [first, second] = [PF, "0000:9f:00.0"].map(|pf| pf.parse::<PciAddress>().unwrap());
    let both = |what: fn(PciAddress) -> H| [what(first), what(second)];
    let quarantined = |world: &World| world.driver.machine.durable().quarantines.len();
    for (ms, stuck) in [(100_000, 0), (1_000_000, 1)] {
        let mut world = after(&both(|address| H::Unplug { address }));
        let delay = |pf, ms| H::Fault { fault: Fault::Delay { pf, ms } };
        all(&mut world, &[delay(first, 50_000), delay(second, ms)]);
        all(&mut world, &both(|address| H::Plug { address }));
        // The second is past its time, and the first has come back in between.
        all(&mut world, &[H::Advance { ms: 51_000 }, H::Advance { ms: 20_000 }]);
        assert_eq!(quarantined(&world), 0);
        all(&mut world, &[H::Advance { ms: 60_000 }]);
        assert_eq!(quarantined(&world), stuck);
        world.finish().unwrap();
    }
}

/// The VF in a VM's XML.
fn home_of(world: &World) -> PciAddress {
    match world.guests[&0].domain().devices[0].source {
        HostDeviceSource::Pci(address) => address,
        other => panic!("{other:?}"),
    }
}

/// A VM with a claim, and its home on a PF.
fn with_a_home((pf, profile): (&str, &str)) -> (World, PciAddress) {
    let profile = profile.to_owned();
    let world = after(&[
        H::Edit { config: 2 },
        H::Apply,
        H::Attach { vm: 0, name: name(), profile, count: 1, pool: false, reserve: false },
    ]);
    let home = home_of(&world);
    assert!(vfs_of(&world.driver.kernel, pf.parse().unwrap()).contains(&home));
    (world, home)
}

/// A VM's own VF is in other hands when it starts. `others` take it, and the refusal has this code.
fn the_next_start_has_another_vf(
    on: (&str, &str),
    others: impl Fn(PciAddress) -> Vec<H>,
    code: &str,
) {
    let (mut world, home) = with_a_home(on);
    all(&mut world, &others(home));
    all(&mut world, &run(0));
    assert_eq!((runs(&world, 0), refusals(&world)), (false, vec![code]));
    let refusal =
        world.driver.machine.durable().claims.values().find_map(|c| c.last_refusal.clone());
    let hint = refusal.and_then(|r| r.hint).unwrap_or_default();
    assert!(hint.ends_with("(the agent gives it another VF)"), "{hint}");
    all(&mut world, &[H::Seen { vm: 0 }]);
    assert_ne!(home_of(&world), home);
    all(&mut world, &run(0));
    assert!(runs(&world, 0), "{:?}", world.refusals);
    world.finish().unwrap();
}

#[test]
fn a_home_that_a_process_holds_is_left_to_it() {
    let open = |vf| vec![H::ForeignOpen { vf }];
    the_next_start_has_another_vf((PF, "amd-74a1-vf2"), open, "held");
}

#[test]
fn a_home_that_another_vm_has_is_left_to_it() {
    let plain = |vf| {
        let mut happenings = vec![H::Plain { vm: 1, slice: SliceId::Vf(vf), managed: true }];
        happenings.extend(run(1));
        happenings
    };
    the_next_start_has_another_vf((PF, "amd-74a1-vf2"), plain, "held");
}

pub const IGB: (&str, &str) = ("0000:01:00.0", "intel-10c9-vf3");

pub fn host_s_driver_takes(vf: PciAddress) -> Vec<H> {
    let other = |file: String, data: &str| H::Other { file, data: data.to_owned() };
    vec![
        other(format!("/sys/bus/pci/devices/{vf}/driver_override"), "igbvf"),
        other("/sys/bus/pci/drivers_probe".to_owned(), &vf.to_string()),
    ]
}

#[test]
fn a_home_on_a_host_s_driver_is_left_to_it() {
    the_next_start_has_another_vf(IGB, host_s_driver_takes, "host-driver");
}

#[test]
fn a_home_that_a_host_s_driver_takes_while_its_vm_starts_is_left_to_it() {
    let (mut world, home) = with_a_home(IGB);
    unseen(&mut world, home);
    all(&mut world, &run(0));
    assert_eq!((runs(&world, 0), refusals(&world)), (false, vec!["host-driver"]));
    assert!(has_igbvf(&world, home));
    all(&mut world, &[H::Seen { vm: 0 }]);
    all(&mut world, &run(0));
    assert!(runs(&world, 0), "{:?}", world.refusals);
    world.finish().unwrap();
}

/// What a host's driver does to a VF before anybody has told the daemon.
fn unseen(world: &mut World, vf: PciAddress) {
    for happening in host_s_driver_takes(vf) {
        let H::Other { file, data } = happening else { panic!("{happening:?}") };
        world.driver.kernel.write(&file, data.as_bytes()).unwrap();
    }
}

pub fn has_igbvf(world: &World, vf: PciAddress) -> bool {
    let driver = link_name(&world.driver.kernel, &format!("/sys/bus/pci/devices/{vf}/driver"));
    driver.unwrap().as_deref() == Some("igbvf")
}

#[test]
fn a_layout_that_binds_leaves_a_vf_to_a_host_s_driver_that_was_faster() {
    let mut world = after(&[H::Edit { config: 2 }, H::Apply]);
    let vfs = vfs_of(&world.driver.kernel, IGB.0.parse().unwrap());
    let first = *vfs.first().unwrap();
    unseen(&mut world, first);
    let bind = "[[gpu]]\nmatch = { address = \"0000:01:00.0\" }\nlayout = { vfs = 3, bind = \"vfio-pci\" }";
    bind.clone_into(&mut world.driver.config);
    let Some(Ok(_)) = world.order(Command::Apply).unwrap() else { panic!("not applied") };
    assert!(has_igbvf(&world, first) && world.driver.machine.durable().quarantines.is_empty());
}

#[test]
fn a_vf_that_a_host_s_driver_has_by_now_is_not_taken_from_it_when_its_vm_is_over() {
    let (mut world, home) = with_a_home(IGB);
    all(&mut world, &run(0));
    // QEMU is gone, and nobody has told of it.
    all(&mut world, &[H::Stop { vm: 0, linger: false }]);
    let dir = format!("/sys/bus/pci/devices/{home}");
    let kernel = &mut world.driver.kernel;
    kernel.write(&format!("{dir}/driver_override"), b"igbvf").unwrap();
    kernel.write("/sys/bus/pci/drivers/vfio-pci/unbind", home.to_string().as_bytes()).unwrap();
    kernel.write("/sys/bus/pci/drivers_probe", home.to_string().as_bytes()).unwrap();
    all(&mut world, &[H::Next { vm: 0 }, H::Advance { ms: 61_000 }]);
    assert!(has_igbvf(&world, home));
    assert!(world.driver.machine.runtime().assignments.is_empty());
}

#[test]
fn a_reshape_waits_for_mdevs_below_its_vfs() {
    let numvfs = "/sys/bus/pci/devices/0000:81:00.0/sriov_numvfs".to_owned();
    let mut world = after(&[H::Other { file: numvfs, data: "2".to_owned() }]);
    // Two on the card without VFs, the third on a VF.
    for vm in 0..3 {
        all(&mut world, &[declare(vm)]);
        all(&mut world, &run(vm));
        assert!(runs(&world, vm), "{vm}: {:?}", world.refusals);
    }
    all(&mut world, &[H::Edit { config: 4 }]);
    let Some(Err(refusal)) = world.order(Command::Apply).unwrap() else { panic!("applied") };
    assert_eq!(refusal.code.as_str(), "in-use");
    for vm in 0..3 {
        all(&mut world, &stop(vm));
    }
    world.finish().unwrap();
}

/// Three devices that seem to have room for a VM's mdev: a card, and two VFs of another.
fn roomy() -> World {
    let numvfs = "/sys/bus/pci/devices/0000:81:00.0/sriov_numvfs".to_owned();
    after(&[H::Other { file: numvfs, data: "2".to_owned() }, declare(0)])
}

/// The next so many writes to `create` fail: somebody was faster than the daemon's reading.
fn creates_fail(times: u32, errno: Errno) -> H {
    H::Fault { fault: Fault::Write { path: "*/create".to_owned(), nth: 1, times, errno } }
}

fn told(world: &World) -> Refusal {
    let [answer] = Vec::from_iter(world.driver.told.values()).try_into().unwrap();
    match answer {
        HookAnswer::Refuse(refusal) => refusal.clone(),
        other => panic!("{other:?}"),
    }
}

fn made_on(world: &World) -> ParentId {
    let run = world.driver.machine.runtime();
    let [assignment] = Vec::from_iter(run.assignments.values()).try_into().unwrap();
    assignment.parent.clone()
}

#[test]
fn a_device_that_fills_up_meanwhile_is_passed_over() {
    let mut world = roomy();
    all(&mut world, &[H::Start { vm: 0 }]);
    let first = made_on(&world);
    for errno in [Errno::ENOSPC, Errno::EUSERS] {
        for times in [1, 2] {
            let mut world = roomy();
            all(&mut world, &[creates_fail(times, errno)]);
            all(&mut world, &run(0));
            assert!(runs(&world, 0), "{:?}", world.refusals);
            assert_ne!(made_on(&world), first);
            all(&mut world, &stop(0));
            world.finish().unwrap();
        }
    }
}

#[test]
fn devices_that_all_fill_up_meanwhile_are_no_capacity_each_by_name() {
    for errno in [Errno::ENOSPC, Errno::EUSERS] {
        let mut world = roomy();
        let cordoned: ParentId = "0000:81:00.0".parse().unwrap();
        all(&mut world, &[creates_fail(u32::MAX, errno), H::Cordon { parent: cordoned }]);
        all(&mut world, &[H::Start { vm: 0 }]);
        let refusal = told(&world);
        assert_eq!(refusal.code.as_str(), "no-capacity", "{refusal:?}");
        assert!(refusal.hint.is_some());
        let [tried, other] = refusal.causes.try_into().unwrap();
        assert!(tried.starts_with("0000:41:00.0 has no room"), "{tried}");
        assert!(tried.contains(errno.name().unwrap()), "{tried}");
        assert!(other.starts_with("0000:81:00.0 is cordoned"), "{other}");
        assert_eq!(phases(&world), []);
        world.finish().unwrap();
    }
}

#[test]
fn devices_that_fail_rather_than_fill_up_are_at_fault() {
    let mut world = roomy();
    all(&mut world, &[creates_fail(1, Errno::ENOSPC)]);
    all(
        &mut world,
        &[H::Fault {
            fault: Fault::Write {
                path: "*/create".to_owned(),
                nth: 1,
                times: u32::MAX,
                errno: Errno::EIO,
            },
        }],
    );
    all(&mut world, &[H::Start { vm: 0 }]);
    let refusal = told(&world);
    assert_eq!((refusal.code.as_str(), refusal.causes.len()), ("device-failed", 3), "{refusal:?}");
    let full = refusal.causes.iter().filter(|c| c.contains("has no room")).count();
    assert_eq!(full, 1, "{refusal:?}");
    world.finish().unwrap();
}

/// The PF's write sleeps for so long, and its daemon is replaced meanwhile.
fn replaced_while_a_write_sleeps(ms: u64) -> World {
    let pf: PciAddress = PF.parse().unwrap();
    let mut world = after(&[H::Unplug { address: pf }]);
    all(&mut world, &[H::Fault { fault: Fault::Delay { pf, ms } }, H::Plug { address: pf }]);
    world.driver.restart().unwrap();
    world.driver.drain().unwrap();
    world
}

fn quarantines(world: &World) -> Vec<Code> {
    world.driver.machine.durable().quarantines.values().map(|why| why.code).collect()
}

#[test]
fn a_former_daemon_s_write_that_hangs_is_a_stuck_device() {
    let mut world = replaced_while_a_write_sleeps(1_000_000);
    let codes = quarantines;
    all(&mut world, &[H::Advance { ms: 59_000 }]);
    assert_eq!(codes(&world), []);
    all(&mut world, &[H::Advance { ms: 2_000 }]);
    assert_eq!(codes(&world), [Code::DeviceStuck]);
    // One more daemon finds it still asleep, and that it ends.
    world.driver.restart().unwrap();
    all(&mut world, &[H::Advance { ms: 61_000 }]);
    assert_eq!(codes(&world), [Code::DeviceStuck]);
    all(&mut world, &[H::Advance { ms: 1_000_000 }]);
    assert_eq!(codes(&world), []);
    world.finish().unwrap();
}

/// No reading tells that the kernel is done with a slice: the daemons after that wait for the process that slept.
#[test]
fn a_slice_s_write_that_outlives_its_daemon_is_waited_for() {
    let mut world = after(&[declare(0)]);
    all(&mut world, &run(0));
    let fault = Fault::Sleeps { path: "*/remove".to_owned(), nth: 1 };
    all(&mut world, &[H::Fault { fault }]);
    all(&mut world, &stop(0));
    all(&mut world, &[H::Advance { ms: 16_000 }]);
    assert_eq!(quarantines(&world), [Code::DeviceStuck]);
    let why = world.driver.machine.durable().quarantines.values().next().unwrap();
    let way = "virsh shutdown vm0 (it goes on when the write returns)";
    assert_eq!(why.hint.as_deref(), Some(way));
    for _ in 0..2 {
        world.driver.restart().unwrap();
        all(&mut world, &[H::Advance { ms: 1_000_000 }]);
        assert_eq!(quarantines(&world), [Code::DeviceStuck]);
        assert_eq!(world.driver.machine.runtime().assignments.len(), 1);
    }
    all(&mut world, &[H::ClearFaults, H::Advance { ms: 1000 }]);
    assert_eq!(quarantines(&world), []);
    let left = world.driver.machine.runtime();
    assert!(left.assignments.is_empty() && left.stuck.is_empty(), "{left:?}");
    all(&mut world, &run(0));
    assert!(runs(&world, 0));
    // One that ended while no daemon was there to see it is over when the next one comes.
    let fault = Fault::Sleeps { path: "*/remove".to_owned(), nth: 1 };
    all(&mut world, &[H::Fault { fault }]);
    all(&mut world, &stop(0));
    all(&mut world, &[H::Advance { ms: 16_000 }]);
    assert_eq!(quarantines(&world), [Code::DeviceStuck]);
    world.driver.kernel.clear_faults();
    world.driver.kernel.settle();
    world.driver.restart().unwrap();
    all(&mut world, &[H::Advance { ms: 1000 }]);
    assert_eq!(quarantines(&world), []);
    world.finish().unwrap();
}

#[test]
fn a_write_that_died_with_its_daemon_is_not_waited_for() {
    let pf: PciAddress = PF.parse().unwrap();
    let mut world = after(&[H::Unplug { address: pf }, H::Lazy { on: true }]);
    all(&mut world, &[H::Plug { address: pf }]);
    let vfs = |world: &World| vfs_of(&world.driver.kernel, pf).len();
    assert_eq!((vfs(&world), world.driver.under.len()), (0, 1));
    world.driver.lazy = false;
    world.driver.restart().unwrap();
    world.driver.drain().unwrap();
    assert_eq!(vfs(&world), 8);
    world.finish().unwrap();
}

#[test]
fn a_claim_is_ended_by_force_once() {
    let mut world = after(&[attach(0)]);
    all(&mut world, &run(0));
    let key = ClaimKey { owner: Owner::Domain(world.guests[&0].domain().uuid), name: name() };
    let mut end = |force| {
        let outcome = world.order(Command::Unclaim { key: key.clone(), force }).unwrap().unwrap();
        matches!(outcome.unwrap(), Answer::Done { changed: true, .. })
    };
    // The VM holds the slice all the while.
    assert_eq!([end(true), end(true), end(false)], [true, false, false]);
    world.finish().unwrap();
}

/// A VM has a slice of a GPU whose layout cannot be met.
fn unmet() -> World {
    let log = "runs/layout-that-cannot-be-met-on-a-gpu-of-which-a-vm-has-a-slice.jsonl";
    let log = gpuslice_integration::root().join("integration/tests/machine").join(log);
    let (host, happenings) = read_log(&std::fs::read_to_string(log).unwrap());
    let mut world = World::on(&host).unwrap();
    all(&mut world, &happenings);
    assert!(!world.driver.machine.runtime().assignments.is_empty());
    all(&mut world, &[H::Advance { ms: 20_000 }]);
    assert_eq!(quarantines(&world), [Code::BadConfig; 2]);
    world
}

#[test]
fn a_layout_that_cannot_be_met_keeps_no_slice_from_coming_back() {
    let mut world = unmet();
    all(&mut world, &stop(4));
    assert_eq!(quarantines(&world), [Code::BadConfig; 2]);
    assert!(world.driver.machine.runtime().assignments.is_empty());
    // Nobody is given it before the layout is another.
    all(&mut world, &[H::Start { vm: 4 }, H::Next { vm: 4 }]);
    assert_eq!(world.refusals.keys().copied().collect::<Vec<_>>(), [Code::Quarantined]);
    world.finish().unwrap();
}

/// No second write joins it, also of the next daemon. When it is back, the layout is as wrong as before.
#[test]
fn a_write_that_sleeps_where_a_layout_cannot_be_met_is_a_stuck_device() {
    let mut world = unmet();
    let fault = Fault::Sleeps { path: "*/current_vgpu_type".to_owned(), nth: 1 };
    all(&mut world, &[H::Fault { fault }]);
    all(&mut world, &stop(4));
    all(&mut world, &[H::Advance { ms: 130_000 }]);
    assert_eq!(quarantines(&world), [Code::DeviceStuck, Code::BadConfig]);
    world.driver.restart().unwrap();
    all(&mut world, &[H::Advance { ms: 130_000 }]);
    assert_eq!(quarantines(&world), [Code::DeviceStuck, Code::BadConfig]);
    assert!(!world.driver.machine.runtime().assignments.is_empty());
    all(&mut world, &[H::ClearFaults, H::Advance { ms: 20_000 }]);
    assert_eq!(quarantines(&world), [Code::BadConfig; 2]);
    assert!(world.driver.machine.runtime().assignments.is_empty());
    world.finish().unwrap();
}
