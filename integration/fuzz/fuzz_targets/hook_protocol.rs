#![no_main]
//! Lines on the hook's socket, both ways.

#[path = "../checks/hook_protocol.rs"]
mod check;

libfuzzer_sys::fuzz_target!(|data: &[u8]| check::check(data));
