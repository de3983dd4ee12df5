//! What the tests of the whole share: where things are in the source tree and what was built from it.

use std::path::{Path, PathBuf};

/// Root of the source tree.
pub fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

/// Every file of the source tree that is under version control or would be, as paths below [`root`].
///
/// # Panics
/// When git cannot be run or fails.
#[expect(clippy::expect_used, clippy::panic, reason = "a test's own tool")]
pub fn files() -> Vec<PathBuf> {
    let out = std::process::Command::new("git")
        .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"])
        .current_dir(root())
        .output()
        .expect("run git");
    assert!(out.status.success(), "git ls-files: {}", String::from_utf8_lossy(&out.stderr));
    let Ok(text) = String::from_utf8(out.stdout) else { panic!("a file name is not UTF-8") };
    text.split_terminator('\0').map(PathBuf::from).filter(|p| root().join(p).is_file()).collect()
}

/// The folder that holds these programs, built with the same profile as the test.
///
/// # Panics
/// When one is missing: cargo builds a test's own package alone.
#[expect(clippy::expect_used, reason = "a test's own tool")]
pub fn programs(names: &[&str]) -> PathBuf {
    let own = std::env::current_exe().expect("know where the test is");
    let folder = own.ancestors().nth(2).expect("the test is in target/PROFILE/deps");
    for name in names {
        assert!(
            folder.join(name).is_file(),
            "{name} is not in {}; first: cargo build --workspace --bins",
            folder.display()
        );
    }
    folder.to_owned()
}
