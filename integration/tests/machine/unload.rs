//! Unloads of a driver: one that the kernel does not do, since something uses it, and one that a person did.

use super::*;

const UNLOAD: &str = "modprobe -r gim";

/// The hive, whose layout is to be another one.
fn edited() -> Driver {
    let mut driver = applied();
    driver.config = LAYOUT.replace("vfs = 8", "vfs = 4");
    driver
}

fn free(driver: &mut Driver) -> u32 {
    match order(driver, Command::ListProfiles).unwrap() {
        Answer::Profiles { rows } => rows.iter().map(|row| row.free).sum(),
        other => panic!("{other:?}"),
    }
}

/// By hand, to exchange it or what the GPUs run with.
fn unload(driver: &mut Driver) {
    driver.kernel.unload_module("gim").unwrap();
    driver.kernel.settle();
    driver.wake_up().unwrap();
}

#[test]
fn what_a_person_unloads_is_loaded_when_a_person_says_so() {
    let mut driver = applied();
    unload(&mut driver);
    for _ in 0..2 {
        driver.advance(60_000).unwrap();
        assert_eq!(counts(&driver), [0; 8]);
        let reason = "gim was unloaded: gpuslice apply".to_owned();
        assert_eq!(states(&mut driver), vec![("waiting".to_owned(), Some(reason)); 8]);
        // Also by the next daemon.
        driver.restart().unwrap();
    }
    order(&mut driver, Command::Apply).unwrap();
    assert_eq!(counts(&driver), [8; 8]);
    unload(&mut driver);
    driver.kernel.reboot();
    driver.kernel.settle();
    driver.restart().unwrap();
    driver.advance(60_000).unwrap();
    assert_eq!(counts(&driver), [8; 8]);
}

#[test]
fn before_the_driver_is_loaded_each_gpu_says_what_loads_it() {
    let mut driver = Driver::new(&hive(), LAYOUT).unwrap();
    let reason = "gim is not loaded: gpuslice apply".to_owned();
    assert_eq!(states(&mut driver), vec![("waiting".to_owned(), Some(reason)); 8]);
}

#[test]
fn a_monitor_in_passing_is_waited_for() {
    for errno in [Errno::EBUSY, Errno::EAGAIN] {
        let mut driver = edited();
        driver.kernel.inject(Fault::Write { path: UNLOAD.to_owned(), nth: 1, times: 2, errno });
        order(&mut driver, Command::Apply).unwrap();
        assert_eq!(counts(&driver), [4; 8], "{errno}");
    }
}

#[test]
fn whoever_keeps_a_driver_loaded_is_named_and_no_gpu_is_at_fault() {
    let mut driver = edited();
    driver.kernel.open_node(4242, "amd-smi", "/dev/gim-smi0").unwrap();
    let refusal = order(&mut driver, Command::Apply).unwrap_err();
    assert_eq!(refusal.code, Code::Held, "{refusal}");
    assert!(
        refusal.one_line().contains("amd-smi (pid 4242) has /dev/gim-smi0 open"),
        "{refusal:?}"
    );
    let hint = "kill 4242 (ps -fp 4242 shows it), then gpuslice apply";
    assert_eq!(refusal.hint.as_deref(), Some(hint));
    assert_eq!(quarantines(&driver), []);
    assert_eq!(counts(&driver), [8; 8]);
    // What there is still serves.
    assert_eq!(free(&mut driver), 64);
    let domain = attach(&mut driver, 1, "amd-mi300x-vf8-cpx");
    call(&mut driver, &domain, HookOperation::Prepare).unwrap();
    call(&mut driver, &domain, HookOperation::Release).unwrap();
    driver.advance(10_000).unwrap();
    driver.kernel.kill(4242);
    order(&mut driver, Command::Apply).unwrap();
    assert_eq!(counts(&driver), [4; 8]);
    assert!(states(&mut driver).iter().all(|(state, _)| state == "ok"));
}

#[test]
fn what_keeps_a_driver_loaded_may_not_be_seen() {
    for errno in [Errno::EBUSY, Errno::EAGAIN] {
        let mut driver = edited();
        let path = UNLOAD.to_owned();
        driver.kernel.inject(Fault::Write { path, nth: 1, times: u32::MAX, errno });
        let refusal = order(&mut driver, Command::Apply).unwrap_err();
        assert_eq!(refusal.code, Code::Held, "{refusal}");
        assert!(
            refusal.hint.as_ref().unwrap().starts_with("end what uses module gim ("),
            "{refusal:?}"
        );
        assert_eq!(quarantines(&driver), []);
        // Nor does a next daemon take them for faulty, or begin it without a person.
        driver.restart().unwrap();
        driver.advance(60_000).unwrap();
        assert_eq!(quarantines(&driver), []);
        assert_eq!(counts(&driver), [8; 8]);
        assert_eq!(free(&mut driver), 64);
        driver.kernel.clear_faults();
        order(&mut driver, Command::Apply).unwrap();
        assert_eq!(counts(&driver), [4; 8], "{errno}");
    }
}
