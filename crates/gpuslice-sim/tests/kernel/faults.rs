//! Faults strike where and when they were told to.

use super::*;
use gpuslice_sim::{Content, Fault};

#[test]
fn a_write_fails_at_its_turn_and_does_nothing() {
    let mut kernel = mixed();
    let (path, errno) = ("*/sriov_numvfs".to_owned(), Errno::EIO);
    kernel.inject(Fault::Write { path, nth: 2, times: 2, errno });
    assert_eq!(echo(&mut kernel, "0", NUMVFS), Ok(Written::Done));
    assert_eq!(echo(&mut kernel, "4", NUMVFS), Err(Errno::EIO));
    assert_eq!(echo(&mut kernel, "4", NUMVFS), Err(Errno::EIO));
    assert_eq!(vfs(&kernel, PF), 0);
    assert_eq!(echo(&mut kernel, "4", NUMVFS), Ok(Written::Done));
    kernel.clear_faults();
}

#[test]
fn attributes_read_strangely() {
    let mut kernel = mixed();
    let file = format!("{PF}/numa_node");
    for (as_, want) in [
        (Content::Empty, b"".to_vec()),
        (Content::NotUtf8, b"\xff0\n".to_vec()),
        (Content::TrailingBlanks, b"0\n \t \n".to_vec()),
        (Content::TooLong, b"0\n".repeat(2500)),
    ] {
        kernel.inject(Fault::Reads { path: file.clone(), as_ });
        assert_eq!(kernel.read(&file).unwrap(), want);
        kernel.clear_faults();
    }
    assert_eq!(kernel.read(&file).unwrap(), b"0\n");
}

#[test]
fn something_vanishes_between_list_and_read() {
    let mut kernel = mixed();
    kernel.inject(Fault::Vanish { path: PARENT.to_owned(), nth: 2 });
    let listed = kernel.list("/sys/bus/pci/devices").unwrap();
    assert!(listed.contains(&"0000:41:00.0".to_owned()));
    assert_eq!(text(&kernel, &format!("{PARENT}/vendor")), "0x10de");
    assert_eq!(kernel.read(&format!("{PARENT}/device")), Err(Errno::ENOENT));
    assert_eq!(kernel.list(PARENT), Err(Errno::ENOENT));
    assert!(kernel.list(PF).is_ok());
    let errno = Errno::ENODEV;
    kernel.inject(Fault::Read { path: format!("{PF}/class"), nth: 1, times: 1, errno });
    assert_eq!(kernel.read(&format!("{PF}/class")), Err(Errno::ENODEV));
    assert!(kernel.read(&format!("{PF}/class")).is_ok());
}
