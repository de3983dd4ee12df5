//! Boot, plug, reboot, log.

use super::*;
use gpuslice_sim::{Action, Command, Noise, Outcome, replay};

const LATE: &str = "/sys/bus/pci/devices/0000:9f:00.0";

#[test]
fn a_late_card_appears_in_its_time_and_again_after_a_reboot() {
    let mut kernel = mixed();
    assert_eq!(kernel.list(LATE), Err(Errno::ENOENT));
    assert_eq!(kernel.next_timer(), Some(40_000));
    kernel.advance(39_999);
    assert!(kernel.take_events().is_empty());
    kernel.advance(1);
    assert_eq!(told(&kernel.take_events()), ["add 0000:9f:00.0", "bind 0000:9f:00.0"]);
    echo(&mut kernel, "2", &format!("{LATE}/sriov_numvfs")).unwrap();
    let boot = text(&kernel, "/proc/sys/kernel/random/boot_id");
    kernel.reboot();
    assert_ne!(text(&kernel, "/proc/sys/kernel/random/boot_id"), boot);
    assert_eq!(kernel.list(LATE), Err(Errno::ENOENT));
    kernel.advance(40_000);
    assert_eq!(text(&kernel, &format!("{LATE}/sriov_numvfs")), "0");
}

#[test]
fn a_card_taken_out_before_its_time_does_not_appear() {
    let mut kernel = mixed();
    assert_eq!(kernel.unplug(pci("0000:9f:00.0")), Outcome::Done);
    kernel.advance(50_000);
    assert_eq!(kernel.list(LATE), Err(Errno::ENOENT));
    kernel.reboot();
    kernel.advance(50_000);
    assert_eq!(kernel.list(LATE), Err(Errno::ENOENT));
    assert_eq!(kernel.plug(pci("0000:9f:00.0")), Outcome::Done);
    assert!(kernel.list(LATE).is_ok());
}

#[test]
fn a_reboot_leaves_nothing() {
    let mut kernel = with_bound_vf();
    kernel.write(&create(PARENT, "nvidia-559"), uuid(1).as_bytes()).unwrap();
    kernel.open(100, "qemu", vf("0000:0c:02.0")).unwrap();
    assert_eq!(echo(&mut kernel, "0", NUMVFS), Ok(Written::Blocked));
    kernel.reboot();
    assert!(kernel.take_events().is_empty());
    assert!(kernel.poll_blocked().is_empty());
    assert_eq!(vfs(&kernel, PF), 0);
    assert_eq!(kernel.list("/proc").unwrap(), ["cmdline", "sys"]);
    assert_eq!(kernel.list("/sys/bus/mdev/devices").unwrap(), [""; 0]);
    assert_eq!(text(&kernel, NUMVFS), "0");
    assert_eq!(echo(&mut kernel, "8", NUMVFS), Ok(Written::Done));
}

#[test]
fn unplug_of_a_held_card_waits_and_a_plug_waits_for_that() {
    let mut kernel = with_bound_vf();
    let card = pci("0000:0c:00.0");
    kernel.open(100, "qemu", vf("0000:0c:02.0")).unwrap();
    assert_eq!(kernel.unplug(card), Outcome::Blocked);
    assert_eq!(kernel.unplug(card), Outcome::Idle);
    assert_eq!(kernel.read(&format!("{PF}/config")).unwrap()[..4], [0xff; 4]);
    assert_eq!(kernel.plug(card), Outcome::Blocked);
    assert_eq!(kernel.plug(card), Outcome::Idle);
    kernel.kill(100);
    let told = told(&kernel.take_events());
    let tail =
        ["unbind 0000:0c:00.0", "remove 0000:0c:00.0", "add 0000:0c:00.0", "bind 0000:0c:00.0"];
    assert_eq!(told[told.len() - 4..], tail);
    assert_eq!(vfs(&kernel, PF), 0);
}

#[test]
fn clones_are_independent() {
    let kernel = with_bound_vf();
    let mut other = kernel.clone();
    echo(&mut other, "0", NUMVFS).unwrap();
    assert_eq!((vfs(&kernel, PF), vfs(&other, PF)), (4, 0));
}

#[test]
fn a_log_can_be_done_again() {
    let mut kernel = with_bound_vf();
    kernel.open(100, "qemu", vf("0000:0c:02.0")).unwrap();
    echo(&mut kernel, "0", NUMVFS).unwrap();
    kernel.write(NUMVFS, b"\xff").unwrap_err();
    kernel.kill(100);
    kernel.advance(40_000);
    let lines = kernel.log_lines();
    assert!(lines.iter().any(|l| l.contains("\"uevent\"")));
    let host = include_str!("../../../../examples/hosts/mixed.toml");
    let host = HostFile::parse(host).unwrap();
    let mut commands = 0;
    let again =
        replay(&host, lines.iter().map(String::as_str), |_, _: &Command| commands += 1).unwrap();
    assert!(commands > 8);
    assert_eq!(again.log_lines(), lines);
    let other = lines.iter().map(|l| l.replace("\"done\"", "\"blocked\"")).collect::<Vec<_>>();
    replay(&host, other.iter().map(String::as_str), |_, _| {}).unwrap_err();
    replay(&host, ["nonsense"], |_, _| {}).unwrap_err();
}

#[test]
fn events_get_lost_and_doubled_on_demand() {
    let mut kernel = mixed();
    kernel.set_noise(Noise { capacity: 3, ..Noise::default() });
    echo(&mut kernel, "4", NUMVFS).unwrap();
    assert_eq!(kernel.take_events().len(), 3);
    assert!(kernel.take_overflow());
    assert!(!kernel.take_overflow());
    kernel.set_noise(Noise { seed: 5, lose: 300, duplicate: 300, capacity: 0 });
    for value in ["0", "8", "0", "8", "0"] {
        echo(&mut kernel, value, NUMVFS).unwrap();
    }
    let events = kernel.take_events();
    assert!(kernel.take_overflow());
    assert!(events.windows(2).any(|pair| pair[0] == pair[1]));
    let removed = events.iter().filter(|e| e.action == Action::Remove).count();
    assert_ne!(removed, 20);
}

#[test]
fn large_machines_work() {
    let mut kernel = Kernel::from_host(&HostFile::sriov_grid(64, 64));
    for pf in kernel.pfs() {
        let file = format!("/sys/bus/pci/devices/{pf}/sriov_numvfs");
        assert_eq!(echo(&mut kernel, "64", &file), Ok(Written::Done));
    }
    assert_eq!(kernel.list("/sys/bus/pci/devices").unwrap().len(), 64 * 65);
    assert_eq!(kernel.list("/sys/kernel/iommu_groups").unwrap().len(), 64 * 65);
    let kernel = Kernel::from_host(&HostFile::mdev_grid(160, 25));
    let parents = kernel.list("/sys/class/mdev_bus").unwrap();
    assert_eq!(parents.len(), 160);
    for parent in &parents {
        let parent = format!("/sys/class/mdev_bus/{parent}");
        assert_eq!(available(&kernel, &parent, "gpusim-500"), 48);
    }
}

#[test]
fn it_can_move_between_threads() {
    fn crosses<T: Send + Sync>() {}
    crosses::<Kernel>();
}
