//! The kept corpus of the fuzz target hook_protocol, by the target's own check.
#![cfg(test)]

#[path = "../../../integration/fuzz/checks/hook_protocol.rs"]
mod check;

#[test]
#[expect(clippy::disallowed_methods, reason = "reads the corpus")]
fn the_kept_corpus_keeps_its_promises() {
    for folder in ["integration/fuzz/corpus/hook_protocol"] {
        let folder = format!("{}/../../{folder}", env!("CARGO_MANIFEST_DIR"));
        let files: Vec<_> = std::fs::read_dir(&folder).expect(&folder).collect();
        assert!(!files.is_empty(), "{folder} is empty");
        for file in files {
            let path = file.unwrap().path();
            let data = std::fs::read(&path).unwrap();
            println!("{}", path.display());
            // A file cut anywhere is a file that some crash leaves.
            for cut in 0..=data.len() {
                check::check(&data[..cut]);
            }
        }
    }
}
