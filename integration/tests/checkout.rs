//! What was compiled of one checkout serves the next, as far as it is the same: `.ci/run`.

#![cfg(test)]

use gpuslice_integration::root;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};
use tempfile::TempDir;

/// Files of a small repository.
const FILES: [(&str, &str); 3] = [("a.rs", "fn a() {}\n"), ("b.rs", ""), ("Cargo.lock", "")];

/// A repository, and what is kept of its checkouts.
struct Repository {
    dir: TempDir,
}

impl Repository {
    fn new() -> Self {
        let repository = Self { dir: TempDir::new().unwrap() };
        git(repository.dir.path(), &["init", "-q", "origin"]);
        let script = fs::read_to_string(root().join(".ci/run")).unwrap();
        repository.commit(".ci/run", &script);
        // It tells where it was to compile, and fails if it is told to.
        let test = "#!/bin/bash\necho \"${CARGO_TARGET_DIR:-}\" > \"$TOLD\"; exit \"$STATUS\"\n";
        repository.commit("integration/test", test);
        for (path, text) in FILES {
            repository.commit(path, text);
        }
        repository
    }

    fn commit(&self, path: &str, text: &str) {
        let origin = self.dir.path().join("origin");
        let file = origin.join(path);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(&file, text).unwrap();
        fs::set_permissions(file, Permissions::from_mode(0o755)).unwrap();
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

    /// Runs what every change must pass. Returns which of the files it took for unchanged, and where it was to compile.
    fn run(&self, place: &Path, status: u8) -> (Vec<&'static str>, String) {
        let (told, begins) = (self.dir.path().join("told"), SystemTime::now());
        let mut run = Command::new("bash");
        run.arg(place.join(".ci/run")).env("TOLD", &told).env("STATUS", status.to_string());
        run.env("GPUSLICE_CACHE", self.dir.path().join("cache")).env_remove("CARGO_TARGET_DIR");
        assert_eq!(run.status().unwrap().code(), Some(status.into()));
        let told = fs::read_to_string(told).unwrap().trim().to_owned();
        let mut unchanged = Vec::new();
        for (name, _) in FILES {
            let written = fs::metadata(place.join(name)).unwrap().modified().unwrap();
            if begins.duration_since(written).is_ok_and(|age| age > Duration::from_hours(24)) {
                unchanged.push(name);
            } else if !told.is_empty() {
                assert!(written + Duration::from_millis(100) > begins, "{name} is new");
            }
        }
        (unchanged, told)
    }
}

fn git(place: &Path, arguments: &[&str]) {
    assert!(Command::new("git").current_dir(place).args(arguments).status().unwrap().success());
}

#[test]
fn what_is_as_it_was_compiled_is_not_compiled_again() {
    let repository = Repository::new();
    let first = repository.run(&repository.checkout("here"), 0);
    assert!(first.0.is_empty());
    assert!(first.1.starts_with(repository.dir.path().join("cache").to_str().unwrap()));
    let all = FILES.map(|(name, _)| name);
    let second = repository.run(&repository.checkout("here"), 0);
    assert_eq!((second.0.as_slice(), &second.1), (&all[..], &first.1));
    repository.commit("a.rs", "fn b() {}\n");
    let third = repository.run(&repository.checkout("here"), 0);
    assert_eq!(third.0, ["b.rs", "Cargo.lock"]);
    // Another compiler's, or with other dependencies.
    repository.commit("Cargo.lock", "other");
    let other = repository.run(&repository.checkout("here"), 0);
    assert_eq!(other.0, [""; 0]);
    assert_ne!(other.1, first.1);
    assert!(!Path::new(&first.1).parent().unwrap().exists(), "one is enough");
}

/// Cargo looks for what is outside a package where it was.
#[test]
fn in_another_place_only_dependencies_are_as_they_were() {
    let repository = Repository::new();
    let (_, target) = repository.run(&repository.checkout("here"), 0);
    let prints = Path::new(&target).join("debug/.fingerprint");
    for name in ["gpuslice-core-1", "serde-1"] {
        fs::create_dir_all(prints.join(name)).unwrap();
    }
    assert_eq!(repository.run(&repository.checkout("there"), 0), (Vec::new(), target));
    let left: Vec<_> = fs::read_dir(prints).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left, ["serde-1"]);
}

/// What was compiled then is of no known text.
#[test]
fn what_a_run_that_failed_may_have_compiled_is_compiled_again() {
    let repository = Repository::new();
    repository.run(&repository.checkout("here"), 0);
    repository.commit("a.rs", "fn b() {}\n");
    let failed = repository.run(&repository.checkout("here"), 1);
    assert_eq!(failed.0, ["b.rs", "Cargo.lock"]);
    repository.commit("a.rs", FILES[0].1);
    // It may have waited for long, and be older than what was compiled last.
    let place = repository.checkout("here");
    let touched = Command::new("touch").args(["-d", "2020-01-01"]).arg(place.join("a.rs")).status();
    assert!(touched.unwrap().success());
    assert_eq!(repository.run(&place, 0).0, ["b.rs", "Cargo.lock"]);
}

#[test]
fn only_new_checkouts_are_compiled_elsewhere() {
    let repository = Repository::new();
    for own in ["target/debug/program", "a.rs"] {
        let place = repository.checkout("here");
        fs::create_dir_all(place.join(own).parent().unwrap()).unwrap();
        fs::write(place.join(own), "mine").unwrap();
        assert_eq!(repository.run(&place, 0), (Vec::new(), String::new()), "{own}");
    }
}
