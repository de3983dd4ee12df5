#![no_main]
//! The daemon's state files.

#[path = "../checks/state_file.rs"]
mod check;

libfuzzer_sys::fuzz_target!(|data: &[u8]| check::check(data));
