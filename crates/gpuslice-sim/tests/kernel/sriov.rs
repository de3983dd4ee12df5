//! drivers/pci/iov.c beyond what the lists of conformance say: gaps between steps, sleeping writers.

use super::*;
use gpuslice_sim::{Outcome, Pace};

#[test]
fn vf_addresses_follow_offset_and_stride_over_the_bus() {
    let mut kernel = mixed();
    let igb = "/sys/bus/pci/devices/0000:01:00.0";
    echo(&mut kernel, "7", &format!("{igb}/sriov_numvfs")).unwrap();
    for (index, want) in [(0, "../0000:02:10.0"), (1, "../0000:02:10.2"), (6, "../0000:02:11.4")] {
        assert_eq!(kernel.link(&format!("{igb}/virtfn{index}")).unwrap(), want);
    }
    let vf = "/sys/bus/pci/devices/0000:02:10.0";
    assert_eq!(kernel.link(&format!("{vf}/physfn")).unwrap(), "../0000:01:00.0");
    assert_eq!(kernel.link(vf).unwrap(), "../../../devices/pci0000:01/0000:02:10.0");
    // Autoprobe is on by default, and the host has a driver for these.
    assert!(kernel.link(&format!("{vf}/driver")).unwrap().ends_with("/drivers/igbvf"));
    assert_eq!(text(&kernel, &format!("{vf}/device")), "0x10ca");
    assert_eq!(text(&kernel, &format!("{vf}/vendor")), "0x8086");
    assert_eq!(&kernel.read(&format!("{vf}/config")).unwrap()[..4], b"\xff\xff\xff\xff");
}

#[test]
fn autoprobe_off_leaves_vfs_alone_unless_overridden() {
    let mut kernel = mixed();
    let igb = "/sys/bus/pci/devices/0000:01:00.0";
    echo(&mut kernel, "0", &format!("{igb}/sriov_drivers_autoprobe")).unwrap();
    echo(&mut kernel, "2", &format!("{igb}/sriov_numvfs")).unwrap();
    assert_eq!(kernel.link(&format!("{igb}/virtfn0/driver")), Err(Errno::ENOENT));
    let bind_file = "/sys/bus/pci/drivers/igbvf/bind";
    assert_eq!(echo(&mut kernel, "0000:02:10.0", bind_file), Err(Errno::ENODEV));
    bind(&mut kernel, "0000:02:10.0");
    assert!(kernel.link(&format!("{igb}/virtfn0/driver")).unwrap().ends_with("vfio-pci"));
    // Clearing an override does not unbind, and a driver left does not come back by itself.
    echo(&mut kernel, "", &format!("{igb}/virtfn0/driver_override")).unwrap();
    echo(&mut kernel, "0000:02:10.0", &format!("{igb}/virtfn0/driver/unbind")).unwrap();
    echo(&mut kernel, "0000:02:10.0", PROBE).unwrap();
    assert_eq!(kernel.link(&format!("{igb}/virtfn0/driver")), Err(Errno::ENOENT));
}

/// pci_iov_add_virtfn: add, links, change; sriov_enable: PF change, then num_VFs.
#[test]
fn a_reader_between_steps_sees_the_gaps() {
    let mut kernel = mixed();
    kernel.set_pace(Pace::Steps);
    assert_eq!(echo(&mut kernel, "1", NUMVFS), Ok(Written::Blocked));
    let physfn = "/sys/bus/pci/devices/0000:0c:02.0/physfn";
    let mut seen = Vec::new();
    while kernel.step() {
        for event in told(&kernel.take_events()) {
            // What a listener reads that wakes at once. The PF's lock is still held: a read would sleep.
            seen.push((event, kernel.link(physfn).is_ok(), kernel.read(NUMVFS)));
        }
    }
    let busy = || Err(Errno::EINTR);
    assert_eq!(
        seen,
        [
            ("add 0000:0c:02.0".to_owned(), false, busy()),
            ("change 0000:0c:02.0".to_owned(), true, busy()),
            ("change 0000:0c:00.0".to_owned(), true, busy()),
        ]
    );
    assert_eq!(kernel.blocked_reads(), 3);
    assert_eq!(text(&kernel, NUMVFS), "1");
    let done = kernel.poll_blocked();
    assert_eq!((done.len(), &done[0].result), (1, &Ok(())));
    assert_eq!(done[0].file, NUMVFS);
    assert_eq!(done[0].data, b"1\n");
}

#[test]
fn disable_sleeps_while_a_vf_is_held_and_wakes_with_its_holder() {
    let mut kernel = with_bound_vf();
    kernel.open(100, "qemu-system-x86", vf("0000:0c:02.0")).unwrap();
    assert_eq!(echo(&mut kernel, "0", NUMVFS), Ok(Written::Blocked));
    assert_eq!(kernel.blocked(), [NUMVFS]);
    // Links of the VF that is waited for are gone, the VF is not, its driver's link is.
    assert_eq!(vfs(&kernel, PF), 3);
    let held = "/sys/bus/pci/devices/0000:0c:02.0";
    assert_eq!(kernel.link(&format!("{held}/driver")), Err(Errno::ENOENT));
    assert!(kernel.list(held).is_ok());
    // Only sriov_numvfs hangs; a second writer hangs behind the first.
    assert_eq!(kernel.read(NUMVFS), Err(Errno::EINTR));
    assert_eq!(kernel.blocked_reads(), 1);
    assert_eq!(text(&kernel, &format!("{PF}/sriov_totalvfs")), "8");
    assert_eq!(echo(&mut kernel, "2", NUMVFS), Ok(Written::Blocked));
    assert_eq!(echo(&mut kernel, "99", NUMVFS), Err(Errno::ERANGE));
    // The rescan lock is global: another PF's enable waits too.
    let igb = "/sys/bus/pci/devices/0000:01:00.0/sriov_numvfs";
    assert_eq!(echo(&mut kernel, "1", igb), Ok(Written::Blocked));
    kernel.advance(3_600_000);
    assert!(kernel.poll_blocked().is_empty());
    // Nobody opens what is on its way out.
    assert_eq!(kernel.open(101, "qemu", vf("0000:0c:02.0")), Err(Errno::ENODEV));
    kernel.kill(100);
    let done = kernel.poll_blocked();
    assert_eq!(done.iter().map(|d| d.file.as_str()).collect::<Vec<_>>(), [NUMVFS, NUMVFS, igb]);
    assert!(done.iter().all(|d| d.result.is_ok()));
    assert_eq!(vfs(&kernel, PF), 2);
    assert!(kernel.blocked().is_empty());
}

#[test]
fn a_slow_driver_takes_virtual_time() {
    let mut kernel = mixed();
    kernel.inject(gpuslice_sim::Fault::Delay { pf: pci("0000:0c:00.0"), ms: 1500 });
    assert_eq!(echo(&mut kernel, "3", NUMVFS), Ok(Written::Blocked));
    assert_eq!(kernel.next_timer(), Some(1500));
    kernel.advance(1499);
    assert_eq!(vfs(&kernel, PF), 0);
    kernel.advance(1);
    assert_eq!(vfs(&kernel, PF), 3);
    assert_eq!(kernel.poll_blocked().len(), 1);
}

#[test]
fn a_pf_that_falls_off_mid_write_takes_everything_along() {
    let mut kernel = mixed();
    kernel.inject(gpuslice_sim::Fault::FallsOff { pf: pci("0000:0c:00.0"), after: 2 });
    assert_eq!(echo(&mut kernel, "4", NUMVFS), Err(Errno::ENODEV));
    assert_eq!(kernel.list(PF), Err(Errno::ENOENT));
    assert_eq!(
        told(&kernel.take_events()),
        [
            "add 0000:0c:02.0",
            "change 0000:0c:02.0",
            "add 0000:0c:02.1",
            "change 0000:0c:02.1",
            "remove 0000:0c:02.1",
            "remove 0000:0c:02.0",
            "unbind 0000:0c:00.0",
            "remove 0000:0c:00.0",
        ]
    );
    assert_eq!(kernel.plug(pci("0000:0c:00.0")), Outcome::Done);
    assert_eq!(text(&kernel, NUMVFS), "0");
    assert_eq!(echo(&mut kernel, "4", NUMVFS), Ok(Written::Done));
}

#[test]
fn unplug_between_two_steps_of_an_enable() {
    for steps in 0..24 {
        let mut kernel = mixed();
        kernel.set_pace(Pace::Steps);
        echo(&mut kernel, "4", NUMVFS).unwrap();
        for _ in 0..steps {
            kernel.step();
        }
        kernel.unplug(pci("0000:0c:00.0"));
        kernel.set_pace(Pace::Whole);
        kernel.settle();
        assert_eq!(kernel.poll_blocked().len(), 1, "after {steps} steps");
        assert!(kernel.blocked().is_empty());
        let left = kernel.list("/sys/bus/pci/devices").unwrap();
        assert!(!left.iter().any(|name| name.starts_with("0000:0c")), "after {steps}: {left:?}");
    }
}

/// i915, xe and gpusim clean up when they are unbound.
#[test]
fn unbinding_the_pf_takes_its_vfs() {
    let mut kernel = with_bound_vf();
    echo(&mut kernel, "0000:0c:00.0", "/sys/bus/pci/drivers/gpusim/unbind").unwrap();
    assert_eq!(vfs(&kernel, PF), 0);
    assert_eq!(text(&kernel, NUMVFS), "0");
    assert_eq!(told(&kernel.take_events()).last().unwrap(), "unbind 0000:0c:00.0");
}
