#![no_main]
//! Domain XML, read and edited.

#[path = "../checks/domain_xml.rs"]
mod check;

libfuzzer_sys::fuzz_target!(|data: &[u8]| check::check(data));
