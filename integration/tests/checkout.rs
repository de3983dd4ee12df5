//! What was compiled of one checkout serves the next, as far as it is the same: `integration/compiled`.

#![cfg(test)]

use gpuslice_integration::root;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};
use tempfile::TempDir;

/// Files of a small repository. The second is compiled with its place.
const FILES: [(&str, &str); 3] =
    [("a.rs", "fn a() {}\n"), ("placed.rs", "env!(\"CARGO_MANIFEST_DIR\")\n"), ("Cargo.lock", "")];

/// A repository, and what is kept of its checkouts.
struct Repository {
    dir: TempDir,
}

impl Repository {
    fn new() -> Self {
        let repository = Self { dir: TempDir::new().unwrap() };
        git(repository.dir.path(), &["init", "-q", "origin"]);
        let script = fs::read_to_string(root().join("integration/compiled")).unwrap();
        repository.commit("integration/compiled", &script);
        for (path, text) in FILES {
            repository.commit(path, text);
        }
        repository
    }

    fn commit(&self, path: &str, text: &str) {
        let origin = self.dir.path().join("origin");
        let file = origin.join(path);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, text).unwrap();
        git(&origin, &["add", "-A"]);
        git(&origin, &["-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", path]);
    }

    /// A new checkout of that name.
    fn checkout(&self, name: &str) -> PathBuf {
        let place = self.dir.path().join(name);
        let _ = fs::remove_dir_all(&place);
        git(self.dir.path(), &["clone", "-q", "origin", name]);
        place
    }

    /// Runs a command in a checkout by the script. Returns which of the files it took for unchanged, and where it was to compile.
    fn run(&self, place: &Path, command: &str) -> (Vec<&'static str>, String) {
        let told = self.dir.path().join("told");
        let command = format!("echo \"${{CARGO_TARGET_DIR:-}}\" > {}; {command}", told.display());
        let script = place.join("integration/compiled");
        let mut run = Command::new("bash");
        run.arg(script).args(["bash", "-c", &command]);
        run.env("GPUSLICE_CACHE", self.dir.path().join("cache")).env_remove("CARGO_TARGET_DIR");
        let succeeds = !command.ends_with("false");
        assert_eq!(run.status().unwrap().success(), succeeds);
        let names = FILES.into_iter().map(|(name, _)| name);
        let unchanged = names.filter(|name| is_old(&place.join(name))).collect();
        (unchanged, fs::read_to_string(told).unwrap().trim().to_owned())
    }
}

fn git(place: &Path, arguments: &[&str]) {
    assert!(Command::new("git").current_dir(place).args(arguments).status().unwrap().success());
}

fn is_old(file: &Path) -> bool {
    let written = fs::metadata(file).unwrap().modified().unwrap();
    SystemTime::now().duration_since(written).unwrap() > Duration::from_hours(24)
}

#[test]
fn what_is_as_it_was_compiled_is_not_compiled_again() {
    let repository = Repository::new();
    let first = repository.run(&repository.checkout("here"), "true");
    assert!(first.0.is_empty());
    assert!(first.1.starts_with(repository.dir.path().join("cache").to_str().unwrap()));
    let all = FILES.map(|(name, _)| name);
    let second = repository.run(&repository.checkout("here"), "true");
    assert_eq!((second.0.as_slice(), &second.1), (&all[..], &first.1));
    repository.commit("a.rs", "fn b() {}\n");
    let third = repository.run(&repository.checkout("here"), "true");
    assert_eq!(third.0, ["placed.rs", "Cargo.lock"]);
    let elsewhere = repository.run(&repository.checkout("there"), "true");
    assert_eq!(elsewhere.0, ["a.rs", "Cargo.lock"]);
    // Another compiler's, or with other dependencies.
    repository.commit("Cargo.lock", "other");
    let other = repository.run(&repository.checkout("there"), "true");
    assert_eq!(other.0, [""; 0]);
    assert_ne!(other.1, first.1);
    assert!(!Path::new(&first.1).parent().unwrap().exists(), "one is enough");
}

/// What was compiled then is of no known text.
#[test]
fn what_a_run_that_failed_may_have_compiled_is_compiled_again() {
    let repository = Repository::new();
    repository.run(&repository.checkout("here"), "true");
    repository.commit("a.rs", "fn b() {}\n");
    let failed = repository.run(&repository.checkout("here"), "false");
    assert_eq!(failed.0, ["placed.rs", "Cargo.lock"]);
    repository.commit("a.rs", FILES[0].1);
    let back = repository.run(&repository.checkout("here"), "true");
    assert_eq!(back.0, ["placed.rs", "Cargo.lock"]);
}

#[test]
fn only_new_checkouts_are_compiled_elsewhere() {
    let repository = Repository::new();
    let place = repository.checkout("here");
    repository.run(&place, "true");
    for own in ["target/debug/program", "a.rs"] {
        let place = repository.checkout("here");
        fs::create_dir_all(place.join(own).parent().unwrap()).unwrap();
        fs::write(place.join(own), "mine").unwrap();
        assert_eq!(repository.run(&place, "true"), (Vec::new(), String::new()), "{own}");
    }
}
