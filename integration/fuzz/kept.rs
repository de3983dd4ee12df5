//! The kept corpora of fuzz targets, for the tests of the parsers that they are of.

/// Checks all files of a folder, whole and cut at every so many bytes.
#[expect(clippy::disallowed_methods, reason = "reads the corpus")]
pub fn each(folder: &str, step: usize, check: fn(&[u8])) {
    let folder = format!("{}/../../{folder}", env!("CARGO_MANIFEST_DIR"));
    let files: Vec<_> = std::fs::read_dir(&folder).expect(&folder).collect();
    assert!(!files.is_empty(), "{folder} is empty");
    for file in files {
        let path = file.unwrap().path();
        let data = std::fs::read(&path).unwrap();
        println!("{}", path.display());
        for cut in (0..data.len()).step_by(step).chain([data.len()]) {
            check(&data[..cut]);
        }
    }
}
