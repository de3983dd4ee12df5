//! The kept corpora of the fuzz targets of this crate's parsers, by the targets' own checks.
#![cfg(test)]

#[path = "../../../integration/fuzz/checks/config.rs"]
mod config;
#[path = "../../../integration/fuzz/kept.rs"]
mod kept;
#[path = "../../../integration/fuzz/checks/state_file.rs"]
mod state_file;

#[test]
fn configurations() {
    kept::each("integration/fuzz/corpus/config", 1, config::check);
    kept::each("examples/config", 1, config::check);
}

#[test]
fn state_files() {
    use gpuslice_core::state::{Durable, Runtime, parse};
    // Seeds that are not read would lead the fuzzer nowhere.
    parse::<Durable>(include_str!("../../../integration/fuzz/corpus/state_file/durable.json"))
        .unwrap();
    parse::<Runtime>(include_str!("../../../integration/fuzz/corpus/state_file/runtime.json"))
        .unwrap();
    // A file cut anywhere is a file that some crash leaves.
    kept::each("integration/fuzz/corpus/state_file", 1, state_file::check);
}
