//! Stories of vendors' tools that fail, hang, or get in each other's way.

use crate::driver::Driver;
use crate::mig::{MIG, WANTED, a100, instances};
use crate::stub::{OF_ALL, of_models};
use crate::vgpu::{
    LAYOUT, attach, host as a40s, one_gpu, order, profile, slice_state, start, stop, vf,
};
use gpuslice_core::errno::Errno;
use gpuslice_core::ids::{ParentId, PciAddress};
use gpuslice_core::machine::RequestId;
use gpuslice_core::mode::Mode;
use gpuslice_core::observation::Observation;
use gpuslice_core::plan::Step;
use gpuslice_core::port::{HostRead, HostWrite};
use gpuslice_core::refusal::Code;
use gpuslice_core::request::{Answer, Command};
use gpuslice_sim::{Command as Order, Content, Data, Fault, HostFile};
use std::collections::{BTreeMap, BTreeSet};

const PF: &str = "0000:41:00.0";
const DRIVER: &str = "/sys/bus/pci/drivers/nvidia";
const SMI: &str = "/usr/bin/nvidia-smi";

/// At a boot it can fail because the GPU still initialises. Nothing that it is asked for again by has changed after that.
#[test]
fn a_question_that_failed_at_the_boot_is_asked_again() {
    let mut driver = Driver::new(&a100(), MIG).unwrap();
    driver.kernel.reboot();
    let command = format!("{SMI} -q");
    driver.kernel.inject(Fault::Exits { command, nth: 1, times: 1, code: 9 });
    driver.restart().unwrap();
    driver.advance(10_000).unwrap();
    assert_eq!(instances(&mut driver), WANTED);
}

/// Each reading would wait for it, and every start and stop with the readings.
#[test]
fn a_tool_that_hangs_is_not_asked_by_each_reading() {
    let mut driver = Driver::new(&a100(), MIG).unwrap();
    driver.kernel.reboot();
    let path = SMI.to_owned();
    driver.kernel.inject(Fault::Read { path, nth: 1, times: u32::MAX, errno: Errno::ETIMEDOUT });
    driver.restart().unwrap();
    driver.drain().unwrap();
    let asked = driver.kernel.asked();
    for _ in 0..20 {
        driver.wake_up().unwrap();
    }
    assert_eq!(driver.kernel.asked(), asked);
    // It is looked at a few times more, and then no longer.
    driver.advance(600_000).unwrap();
    assert_eq!(driver.kernel.asked(), asked + 6);
    assert_eq!(driver.machine.durable().quarantines.len(), 0);
    driver.kernel.clear_faults();
    driver.wake_up().unwrap();
    assert_eq!(driver.kernel.asked(), asked + 6);
    // A person who applies may have mended it.
    driver.command(Command::Apply);
    driver.advance(10_000).unwrap();
    assert_eq!(instances(&mut driver), WANTED);
}

#[test]
fn one_that_hung_for_a_while_is_noticed_without_anybody() {
    let mut driver = Driver::new(&a100(), MIG).unwrap();
    driver.kernel.reboot();
    let path = SMI.to_owned();
    driver.kernel.inject(Fault::Read { path, nth: 1, times: 3, errno: Errno::ETIMEDOUT });
    driver.restart().unwrap();
    driver.advance(10_000).unwrap();
    assert_eq!(instances(&mut driver), WANTED);
}

/// What it says of a GPU that is lost, or being reset.
#[test]
fn a_gpu_of_which_the_tool_does_not_know_its_modes_is_not_one_without() {
    for odd in ["Unknown Error", "GPU requires reset"] {
        let mut driver = Driver::new(&a100(), MIG).unwrap();
        driver.kernel.inject(Fault::Untold { pf: PF.parse().unwrap(), says: format!("[{odd}]") });
        driver.restart().unwrap();
        driver.advance(60_000).unwrap();
        let why = driver.machine.durable().quarantines.values().next();
        assert_eq!(why, None, "{odd}");
        let problems = &driver.machine.observation().problems;
        assert!(problems.iter().any(|p| p.to_string().contains(odd)), "{problems:?}");
        let refusal = order(&mut driver, Command::Apply).unwrap_err();
        assert!(refusal.causes.iter().any(|cause| cause.contains(odd)), "{refusal:?}");
        let hint = refusal.hint.as_ref().unwrap();
        assert!(hint.contains(&format!("--gpu-reset -i {PF}")), "{hint}");
        driver.kernel.clear_faults();
        order(&mut driver, Command::Apply).unwrap();
        assert_eq!(instances(&mut driver), WANTED);
    }
}

/// Tools of GPUs of several models run side by side, and the kernel makes VFs of one device at a time.
#[test]
fn a_tool_in_line_behind_others_is_not_stuck() {
    let mut driver = Driver::new(&of_models([0x2235, 0x26b9, 0x26b5, 0x25b6]), "").unwrap();
    (driver.config, driver.lazy) = (OF_ALL.to_owned(), true);
    driver.command(Command::Apply);
    driver.drain().unwrap();
    let quarantined = |driver: &Driver| driver.machine.durable().quarantines.len();
    for left in (1..4).rev() {
        assert_eq!(driver.under.len(), left + 1);
        driver.advance(100_000).unwrap();
        assert_eq!(quarantined(&driver), 0, "{left} left");
        let later = driver.under.split_off(1);
        driver.begin_lazy().unwrap();
        driver.under.extend(later);
    }
    // It has its time from when the last one before it came back, and a second one.
    driver.advance(241_000).unwrap();
    assert_eq!(quarantined(&driver), 1);
    driver.begin_lazy().unwrap();
    driver.advance(1_000).unwrap();
    assert_eq!((quarantined(&driver), driver.under.len()), (0, 0));
    assert_eq!(driver.machine.observation().vfs.len(), 4 * 32);
}

/// Between taking the driver off and giving it back.
#[test]
fn a_gpu_whose_tool_was_broken_off_has_its_driver_again() {
    let mut driver = Driver::new(&a40s(), "").unwrap();
    let unbind = Order::Write { file: format!("{DRIVER}/unbind"), data: Data::new(PF.as_bytes()) };
    driver.kernel.inject(Fault::Before { nth: 1, does: Box::new(unbind) });
    let path = format!("/usr/lib/nvidia/sriov-manage -e {PF}");
    driver.kernel.inject(Fault::Write { path, nth: 1, times: 1, errno: Errno::ETIMEDOUT });
    driver.config = LAYOUT.to_owned();
    let refusal = order(&mut driver, Command::Apply).unwrap_err();
    assert!(refusal.one_line().contains("ETIMEDOUT"), "{refusal:?}");
    let bound = driver.kernel.link(&format!("/sys/bus/pci/devices/{PF}/driver")).unwrap();
    assert!(bound.ends_with("/nvidia"), "{bound}");
    order(&mut driver, Command::Apply).unwrap();
    assert_eq!(driver.machine.observation().vfs.len(), 4 * 32);
}

/// Its tool takes it off its driver for a while, and what can be set is the driver's to say.
#[test]
fn a_layout_for_a_gpu_that_its_tool_is_at_is_no_mistake() {
    let mut driver = Driver::new(&a40s(), "").unwrap();
    (driver.config, driver.lazy) = (LAYOUT.to_owned(), true);
    driver.command(Command::Apply);
    driver.drain().unwrap();
    driver.kernel.write(&format!("{DRIVER}/unbind"), PF.as_bytes()).unwrap();
    driver.wake_up().unwrap();
    driver.config = LAYOUT.replace("\"all\"", "\"all\", sizes = \"mixed\"");
    let refusal = order(&mut driver, Command::Apply).unwrap_err();
    assert_eq!(refusal.code, Code::Reshaping, "{refusal:?}");
    // Somebody else's tool is not known of: the layout stands, and is brought about when it may be.
    let mut driver = Driver::new(&a40s(), "").unwrap();
    driver.kernel.write(&format!("{DRIVER}/unbind"), PF.as_bytes()).unwrap();
    driver.wake_up().unwrap();
    driver.config = LAYOUT.replace("\"all\"", "\"all\", sizes = \"mixed\"");
    order(&mut driver, Command::Apply).unwrap();
    driver.kernel.write(&format!("{DRIVER}/bind"), PF.as_bytes()).unwrap();
    driver.wake_up().unwrap();
    driver.advance(10_000).unwrap();
    assert_eq!(driver.machine.durable().quarantines.len(), 0);
    let set = &driver.machine.observation().modes[&PF.parse().unwrap()][&Mode::Sizes];
    assert_eq!(set.current.as_ref().map(ToString::to_string).as_deref(), Some("mixed"));
}

/// `virsh nodedev-detach`, and libvirt when it fails to take a VF for itself, leave it without driver.
#[test]
fn a_vf_without_driver_is_kept_back_and_all_are_made_anew_when_nobody_uses_them() {
    let mut driver = one_gpu();
    let (running, domain) =
        (attach(&mut driver, 1, "nvidia-a40-8q"), attach(&mut driver, 2, "nvidia-a40-8q"));
    start(&mut driver, &running).unwrap();
    let bare = vf(&domain);
    driver.kernel.write(&format!("{DRIVER}/unbind"), bare.to_string().as_bytes()).unwrap();
    driver.wake_up().unwrap();
    assert_eq!(slice_state(&mut driver, bare), "quarantined");
    let refusal = start(&mut driver, &domain).unwrap_err();
    assert_eq!(refusal.code, Code::Quarantined, "{refusal:?}");
    assert!(refusal.hint.as_ref().unwrap().contains("virsh start vm2"), "{refusal:?}");
    stop(&mut driver, &running);
    driver.advance(120_000).unwrap();
    assert_eq!(slice_state(&mut driver, bare), "free");
}

/// A `sriov-manage` of somebody else's that was killed when the PF had its driver back and no VF had.
#[test]
fn vfs_that_nobody_gave_their_driver_are_made_anew() {
    let older = HostFile::parse(include_str!("../../../examples/hosts/a40-mdev.toml")).unwrap();
    for mut one in [a40s(), older] {
        one.functions.truncate(1);
        let mut driver = Driver::new(&one, LAYOUT).unwrap();
        driver.advance(10_000).unwrap();
        assert!(profile(&mut driver, "nvidia-a40-8q").free > 0);
        let tool = |option: &str| ["/usr/lib/nvidia/sriov-manage", option, PF].map(str::to_owned);
        assert_eq!(driver.kernel.run(&tool("-d")).unwrap().code, 0);
        driver.kernel.inject(Fault::ToolEnds {
            pf: PF.parse().unwrap(),
            nth: 1,
            times: 1,
            under_stub: false,
        });
        assert_eq!(driver.kernel.run(&tool("-e")).unwrap().code, 1);
        driver.kernel.write(&format!("{DRIVER}/bind"), PF.as_bytes()).unwrap();
        driver.wake_up().unwrap();
        // It may be at work still.
        assert!(!settled(&mut driver));
        let vf = *driver.machine.observation().vfs.keys().next().unwrap();
        assert_eq!(slice_state(&mut driver, vf), "quarantined");
        driver.advance(120_000).unwrap();
        assert!(settled(&mut driver));
        assert!(driver.machine.observation().vfs.values().all(|vf| vf.driver.is_some()));
        assert!(profile(&mut driver, "nvidia-a40-8q").free > 0);
    }
}

/// Of our own tool we know that it has ended.
#[test]
fn a_gpu_whose_tool_was_killed_under_the_stub_has_its_driver_again() {
    let mut one = a40s();
    one.functions.truncate(1);
    let mut driver = Driver::new(&one, "").unwrap();
    let pf = PF.parse().unwrap();
    driver.kernel.inject(Fault::ToolEnds { pf, nth: 1, times: 1, under_stub: true });
    driver.config = LAYOUT.to_owned();
    order(&mut driver, Command::Apply).unwrap();
    let seen = driver.machine.observation();
    let of = |driver: &Option<String>| driver.as_deref() == Some("nvidia");
    assert!(of(&seen.functions[&pf].driver) && seen.vfs.values().all(|vf| of(&vf.driver)));
    assert_eq!(seen.vfs.len(), 32);
}

/// The step that makes them is ordered, and has not begun.
fn about_to_make_vfs() -> (Driver, PciAddress, RequestId) {
    let mut one = a40s();
    one.functions.truncate(1);
    let mut driver = Driver::new(&one, "").unwrap();
    (driver.config, driver.lazy) = (LAYOUT.to_owned(), true);
    let request = driver.command(Command::Apply);
    driver.drain().unwrap();
    (driver, PF.parse().unwrap(), request)
}

/// Also where the daemon that ran it is gone, and the process that it left cannot mend what the tool left.
#[test]
fn a_gpu_that_a_former_daemon_s_tool_left_under_the_stub_has_its_driver_again() {
    let (mut driver, pf, _) = about_to_make_vfs();
    driver.restart().unwrap();
    driver.kernel.inject(Fault::ToolEnds { pf, nth: 1, times: 1, under_stub: true });
    let path = format!("/sys/bus/pci/devices/{PF}/driver_override");
    driver.kernel.inject(Fault::Write { path, nth: 1, times: 1, errno: Errno::EIO });
    driver.lazy = false;
    driver.begin_lazy().unwrap();
    driver.advance(300_000).unwrap();
    let of = driver.machine.observation().functions[&pf].driver.clone();
    assert_eq!(of.as_deref(), Some("nvidia"));
    assert!(settled(&mut driver));
    assert_eq!(driver.machine.observation().vfs.len(), 32);
}

/// Its PF is under the stub for a while, and taken from there it would end half done.
#[test]
fn the_stub_is_not_taken_from_a_tool_of_somebody_else() {
    let (mut driver, pf, request) = about_to_make_vfs();
    // It has begun between our reading and our own run.
    driver.deaf = true;
    driver.kernel.inject(Fault::ToolEnds { pf, nth: 1, times: 1, under_stub: true });
    let tool = ["/usr/lib/nvidia/sriov-manage", "-e", PF].map(str::to_owned);
    assert_eq!(driver.kernel.run(&tool).unwrap().code, 1);
    driver.deaf = false;
    driver.lazy = false;
    driver.begin_lazy().unwrap();
    driver.advance(60_000).unwrap();
    assert_eq!(driver.answers[&request].as_ref().unwrap_err().code, Code::NotSettled);
    assert_eq!(driver.machine.durable().quarantines.len(), 0);
    let of = driver.machine.observation().functions[&pf].driver.clone();
    assert_eq!(of.as_deref(), Some("pci-pf-stub"));
}

fn waiting(driver: &mut Driver) -> Option<String> {
    match order(driver, Command::ListParents).unwrap() {
        Answer::Parents { rows } => {
            rows.into_iter().find(|row| row.state == "waiting").and_then(|row| row.reason)
        }
        other => panic!("{other:?}"),
    }
}

/// Does what a row or a hint says.
pub fn follow(driver: &mut Driver, reason: &str) {
    for order in reason.split("echo ").skip(1) {
        let (what, rest) = order.split_once("> ").unwrap();
        let file = rest.split([';', ',', ' ']).next().unwrap();
        driver.kernel.write(file, format!("{}\n", what.trim()).as_bytes()).unwrap();
    }
    driver.wake_up().unwrap();
}

/// Somebody else's may be at work still, and only a person knows.
#[test]
fn a_gpu_that_a_killed_tool_left_says_how_it_has_its_driver_again() {
    let stub = "/sys/bus/pci/drivers/pci-pf-stub";
    for unbound in [false, true] {
        let mut one = a40s();
        one.functions.truncate(1);
        let mut driver = Driver::new(&one, LAYOUT).unwrap();
        driver.advance(10_000).unwrap();
        let tool = |option: &str| ["/usr/lib/nvidia/sriov-manage", option, PF].map(str::to_owned);
        driver.deaf = true;
        assert_eq!(driver.kernel.run(&tool("-d")).unwrap().code, 0);
        let pf = PF.parse().unwrap();
        driver.kernel.inject(Fault::ToolEnds { pf, nth: 1, times: 1, under_stub: true });
        assert_eq!(driver.kernel.run(&tool("-e")).unwrap().code, 1);
        if unbound {
            driver.kernel.write(&format!("{stub}/unbind"), PF.as_bytes()).unwrap();
        }
        driver.deaf = false;
        driver.wake_up().unwrap();
        driver.advance(120_000).unwrap();
        assert_eq!(driver.machine.durable().quarantines.len(), 0);
        assert!(!settled(&mut driver));
        let Answer::Profiles { rows } = order(&mut driver, Command::ListProfiles).unwrap() else {
            panic!()
        };
        assert_eq!(rows, []);
        let reason = waiting(&mut driver).unwrap();
        assert_eq!(reason.contains("pci-pf-stub has it"), !unbound, "{reason}");
        follow(&mut driver, &reason);
        let of = driver.machine.observation().functions[&pf].driver.clone();
        assert_eq!(of.as_deref(), Some("nvidia"), "{reason}");
        driver.advance(120_000).unwrap();
        assert!(settled(&mut driver));
        assert!(profile(&mut driver, "nvidia-a40-8q").free > 0);
    }
}

/// How long it has been so is counted for each GPU, whatever goes on beside it.
#[test]
fn vfs_are_made_anew_on_a_host_where_others_change_all_the_time() {
    let mut two = a40s();
    two.functions.truncate(2);
    let mut driver = Driver::new(&two, LAYOUT).unwrap();
    driver.advance(10_000).unwrap();
    let bare = *driver.machine.observation().vfs.keys().next().unwrap();
    driver.kernel.write(&format!("{DRIVER}/unbind"), bare.to_string().as_bytes()).unwrap();
    driver.wake_up().unwrap();
    for _ in 0..20 {
        let path = "/sys/bus/pci/devices/0000:61:00.0/subsystem_device".to_owned();
        driver.kernel.inject(Fault::Reads { path, as_: Content::Garbage });
        driver.wake_up().unwrap();
        driver.advance(10_000).unwrap();
        driver.kernel.clear_faults();
        driver.wake_up().unwrap();
        driver.advance(10_000).unwrap();
    }
    assert_eq!(slice_state(&mut driver, bare), "free");
}

/// It is looked at a few times, and then no more.
#[test]
fn a_problem_that_reads_differently_each_time_is_one_problem() {
    let mut driver = one_gpu();
    let looks = |driver: &mut Driver, seconds: u32| {
        let before = driver.handled;
        for second in 0..seconds {
            driver.kernel.clear_faults();
            let path = format!("/sys/bus/pci/devices/{PF}/subsystem_device");
            let as_ = if second % 2 == 1 { Content::Garbage } else { Content::NotUtf8 };
            driver.kernel.inject(Fault::Reads { path, as_ });
            driver.advance(1_000).unwrap();
        }
        driver.handled - before
    };
    looks(&mut driver, 2);
    driver.wake_up().unwrap();
    looks(&mut driver, 70);
    assert!(!driver.machine.observation().problems.is_empty());
    assert_eq!(looks(&mut driver, 300), 0);
}

/// `sriov-manage` gives VFs their driver one after the other.
#[test]
fn vfs_that_get_their_driver_just_now_are_left_alone() {
    let mut driver = one_gpu();
    let vfs: Vec<_> = driver.machine.observation().vfs.keys().copied().collect();
    let command = ["/usr/lib/nvidia/sriov-manage", "-d", PF].map(str::to_owned);
    assert_eq!(driver.kernel.run(&command).unwrap().code, 0);
    driver.kernel.inject(Fault::ToolEnds {
        pf: PF.parse().unwrap(),
        nth: 1,
        times: 1,
        under_stub: false,
    });
    driver.deaf = true;
    let command = ["/usr/lib/nvidia/sriov-manage", "-e", PF].map(str::to_owned);
    assert_eq!(driver.kernel.run(&command).unwrap().code, 1);
    driver.kernel.write(&format!("{DRIVER}/bind"), PF.as_bytes()).unwrap();
    driver.deaf = false;
    let ran = driver.executed;
    for vf in vfs {
        driver.kernel.write(&format!("{DRIVER}/bind"), vf.to_string().as_bytes()).unwrap();
        driver.wake_up().unwrap();
    }
    driver.advance(120_000).unwrap();
    assert_eq!(driver.executed, ran);
    assert!(settled(&mut driver));
}

/// Its complaint is what counts, whatever becomes of what it left undone; and somebody else may see to that.
#[test]
fn vfs_that_a_tool_left_and_nobody_can_bind_are_a_failure_of_the_tool() {
    let mut one = a40s();
    one.functions.truncate(1);
    let pf = PF.parse().unwrap();
    let bind = |errno, times| Fault::Write { path: format!("{DRIVER}/bind"), nth: 1, times, errno };
    for (errno, times, works) in
        [(Errno::ENODEV, 3, true), (Errno::EBUSY, 3, true), (Errno::ENODEV, u32::MAX, false)]
    {
        let mut driver = Driver::new(&one, "").unwrap();
        driver.kernel.inject(Fault::ToolEnds { pf, nth: 1, times: 1, under_stub: false });
        driver.kernel.inject(bind(errno, times));
        driver.config = LAYOUT.to_owned();
        let applied = order(&mut driver, Command::Apply);
        assert_eq!(applied.is_ok(), works, "{errno}: {applied:?}");
        let bound = driver.machine.observation().vfs.values().filter(|vf| vf.driver.is_some());
        assert_eq!(bound.count(), if works { 32 } else { 0 });
    }
}

/// A second run of the same list would make the first ones again.
#[test]
fn instances_of_a_list_that_was_half_made_are_made_once() {
    for after in 1..WANTED.len() {
        let mut driver = Driver::new(&a100(), "").unwrap();
        driver.kernel.inject(Fault::HalfMade { pf: PF.parse().unwrap(), after });
        driver.config = MIG.replace("\"3g.40gb\"", "\"1g.10gb\"");
        order(&mut driver, Command::Apply).unwrap();
        assert_eq!(instances(&mut driver), ["1g.10gb", "1g.10gb", "1g.10gb", "2g.20gb"]);
    }
}

/// `-lgi` and `-lci` fail in many ways, and one of them alone says that there are none.
#[test]
fn instances_that_cannot_be_listed_are_not_gone() {
    let mut driver = Driver::new(&a100(), MIG).unwrap();
    driver.advance(10_000).unwrap();
    let other = MIG.replace("\"1g.10gb\", \"2g.20gb\", \"3g.40gb\", \"1g.10gb\"", "\"3g.40gb\"");
    driver.config = other;
    let command = format!("{SMI} mig -i {PF} -lgi");
    driver.kernel.inject(Fault::Exits { command, nth: 1, times: 1, code: 9 });
    order(&mut driver, Command::Apply).unwrap();
    assert_eq!(instances(&mut driver), ["3g.40gb"]);
}

/// It could make VFs there itself, in the middle of the tool's.
#[test]
fn a_gpu_that_the_tool_has_under_the_kernel_s_stub_is_left_to_it() {
    let driver = Driver::new(&a40s(), LAYOUT).unwrap();
    let parent: ParentId = PF.parse().unwrap();
    let layout = driver.machine.durable().rules[0].layout.clone();
    let layouts = BTreeMap::from([(parent.clone(), layout)]);
    let mut seen = driver.machine.observation().clone();
    let steps_under = |seen: &mut Observation, name: &str, vendor: u16| {
        let function = seen.functions.get_mut(&PF.parse().unwrap()).unwrap();
        (function.driver, function.vendor) = (Some(name.to_owned()), vendor);
        function.sriov.as_mut().unwrap().vfs.clear();
        let mechanisms = gpuslice_vendors::all();
        let of = mechanisms.into_iter().find(|m| m.applies(seen, &parent)).unwrap();
        let steps = of.layout_steps(seen, &parent, &layouts, true).unwrap();
        // A mode that it does not know then is no mistake, and of others it is.
        assert_eq!(steps.is_empty(), of.is_between_drivers(seen, &parent));
        steps.len()
    };
    assert_eq!(steps_under(&mut seen, "pci-pf-stub", 0x10de), 0);
    // Whoever has no such tool has VFs made there by us.
    assert_ne!(steps_under(&mut seen, "pci-pf-stub", 0x1d0f), 0);
}

/// What `nvidia-vgpud` has not told the driver yet.
fn boot_without_types(driver: &mut Driver) {
    driver.kernel.reboot();
    let path = "/sys/bus/pci/devices/*/nvidia/creatable_vgpu_types".to_owned();
    driver.kernel.inject(Fault::Reads { path, as_: Content::Empty });
    driver.restart().unwrap();
    driver.advance(5_000).unwrap();
    assert_eq!(driver.machine.observation().vfs.len(), 4 * 32);
}

pub fn settled(driver: &mut Driver) -> bool {
    let status = order(driver, Command::Status).unwrap();
    let Answer::Status(row) = status else { panic!("{status:?}") };
    row.settled
}

/// A VM that starts with the host would be refused for want of room, and nobody would try again.
#[test]
fn vfs_of_which_nothing_is_said_are_waited_for() {
    let mut driver = Driver::new(&a40s(), LAYOUT).unwrap();
    driver.advance(10_000).unwrap();
    let domain = attach(&mut driver, 1, "nvidia-a40-8q");
    boot_without_types(&mut driver);
    assert!(!settled(&mut driver));
    let refusal = start(&mut driver, &domain).unwrap_err();
    assert_eq!(refusal.code, Code::NotSettled, "{refusal}");
    assert!(refusal.message.contains("types for its VFs"), "{refusal}");
    // No event tells that it knows them now.
    driver.kernel.clear_faults();
    driver.advance(60_000).unwrap();
    assert!(settled(&mut driver));
    start(&mut driver, &domain).unwrap();
    stop(&mut driver, &domain);
}

/// What is told of types stands as long as their GPUs are the same; not where none was told.
#[test]
fn what_the_tool_tells_of_types_is_asked_again_once_there_are_any() {
    let mut driver = Driver::new(&a40s(), LAYOUT).unwrap();
    let command = format!("{SMI} vgpu -s -v");
    let (nth, times, code) = (1, u32::MAX, 0);
    driver.kernel.inject(Fault::Exits { command, nth, times, code });
    boot_without_types(&mut driver);
    assert_eq!(driver.machine.observation().facts.len(), 0);
    driver.kernel.clear_faults();
    driver.advance(60_000).unwrap();
    assert_eq!(driver.machine.observation().facts.len(), 1);
}

#[test]
fn a_gpu_that_never_lists_a_type_is_not_waited_for_for_ever() {
    let mut driver = Driver::new(&a40s(), LAYOUT).unwrap();
    boot_without_types(&mut driver);
    assert!(!settled(&mut driver));
    driver.advance(90_000).unwrap();
    assert!(settled(&mut driver));
    driver.advance(600_000).unwrap();
    // Nor is it again, or looked at any more, once the boot is no longer young.
    let handled = driver.handled;
    driver.advance(600_000).unwrap();
    assert_eq!(driver.handled, handled);
    driver.wake_up().unwrap();
    assert!(settled(&mut driver));
}

/// One GPU is divided while another gets its VFs: the tool that divides looks at both.
#[test]
fn tools_that_are_in_each_others_way_take_turns() {
    let mut driver = Driver::new(&a100(), "").unwrap();
    let other = "\n[[gpu]]\nmatch = { address = \"0000:c1:00.0\" }\nlayout = { vfs = \"all\" }";
    (driver.config, driver.lazy) = (format!("{MIG}{other}"), true);
    let request = driver.command(Command::Apply);
    driver.drain().unwrap();
    let mut seen = BTreeSet::new();
    while !driver.under.is_empty() {
        let kind = |step: &Step| match step {
            Step::RunVfTool { .. } => "VFs",
            Step::RunModeTool { .. } => "mode",
            other => panic!("{other}"),
        };
        let kinds: BTreeSet<&str> = driver.under.iter().map(|under| kind(&under.step)).collect();
        assert_eq!(kinds.len(), 1, "{:?}", driver.under);
        seen.extend(kinds);
        // One of them ends, and later the next one.
        let later = driver.under.split_off(1);
        driver.begin_lazy().unwrap();
        driver.under.extend(later);
        driver.drain().unwrap();
    }
    assert_eq!(seen.len(), 2);
    driver.answers.remove(&request).unwrap().unwrap();
    assert_eq!(instances(&mut driver), WANTED);
    assert_eq!(driver.machine.observation().vfs.len(), 2 * 16);
}

/// Who waits for one that does not come back has waited long enough.
#[test]
fn one_past_its_time_keeps_no_other_from_its_turn() {
    let mut driver = Driver::new(&a100(), "").unwrap();
    let other = "\n[[gpu]]\nmatch = { address = \"0000:c1:00.0\" }\nlayout = { vfs = \"all\" }";
    (driver.config, driver.lazy) = (format!("{MIG}{other}"), true);
    driver.command(Command::Apply);
    driver.drain().unwrap();
    let stuck = driver.under.pop().unwrap();
    assert_eq!(driver.under.len(), 0, "the other awaits its turn");
    driver.advance(121_000).unwrap();
    assert_ne!(driver.under.pop().unwrap().step, stuck.step);
}
