//! The kept corpora of the fuzz targets of this crate's parsers, by the targets' own checks.
#![cfg(test)]

#[path = "../../../integration/fuzz/checks/config.rs"]
mod config;
#[path = "../../../integration/fuzz/checks/state_file.rs"]
mod state_file;

#[expect(clippy::disallowed_methods, reason = "reads the corpus")]
fn each(folder: &str, check: fn(&[u8])) {
    let folder = format!("{}/../../{folder}", env!("CARGO_MANIFEST_DIR"));
    let files: Vec<_> = std::fs::read_dir(&folder).expect(&folder).collect();
    assert!(!files.is_empty(), "{folder} is empty");
    for file in files {
        let path = file.unwrap().path();
        let data = std::fs::read(&path).unwrap();
        println!("{}", path.display());
        // A file cut anywhere is a file that some crash leaves.
        for cut in 0..=data.len() {
            check(&data[..cut]);
        }
    }
}

#[test]
fn configurations() {
    each("integration/fuzz/corpus/config", config::check);
    each("examples/config", config::check);
}

#[test]
fn state_files() {
    use gpuslice_core::state::{Durable, Runtime, parse};
    // Seeds that are not read would lead the fuzzer nowhere.
    parse::<Durable>(include_str!("../../../integration/fuzz/corpus/state_file/durable.json"))
        .unwrap();
    parse::<Runtime>(include_str!("../../../integration/fuzz/corpus/state_file/runtime.json"))
        .unwrap();
    each("integration/fuzz/corpus/state_file", state_file::check);
}
