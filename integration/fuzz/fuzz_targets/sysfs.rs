#![no_main]
//! A host's sysfs, read by the observer.

#[path = "../checks/sysfs.rs"]
mod check;

libfuzzer_sys::fuzz_target!(|data: &[u8]| check::check(data));
