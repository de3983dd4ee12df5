//! House rules that no compiler knows: size of files, a word of reason at the top of each, names that say something, and
//! lints that nobody switched off by leaving out a line.

#![cfg(test)]

use gpuslice_integration::{files, root};
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// A file about one thing fits well below this; the limit is where splitting is no longer a matter of taste.
const LONGEST: usize = 600;

fn ours() -> impl Iterator<Item = (PathBuf, String)> {
    files().into_iter().filter_map(|path| {
        let bytes = fs::read(root().join(&path)).ok()?;
        Some((path, String::from_utf8(bytes).ok()?))
    })
}

fn has_extension(path: &Path, extensions: &[&str]) -> bool {
    path.extension().is_some_and(|e| extensions.iter().any(|x| e == *x))
}

/// Lines before the unit tests at the end of a file; all of them in one that has none.
fn lines_outside_tests(text: &str) -> usize {
    let tests = text.match_indices("#[cfg(test)]\nmod tests {").next().map(|(at, _)| at);
    text.get(..tests.unwrap_or(text.len())).unwrap_or(text).lines().count()
}

fn is_script(path: &Path, text: &str) -> bool {
    has_extension(path, &["sh"]) || text.starts_with("#!/bin/bash") || text.starts_with("#!/bin/sh")
}

#[test]
fn files_are_about_one_thing() {
    let mut wrong = Vec::new();
    for (path, text) in ours() {
        let counted = if has_extension(&path, &["rs"]) {
            lines_outside_tests(&text)
        } else if has_extension(&path, &["c", "h"]) || is_script(&path, &text) {
            text.lines().count()
        } else {
            continue;
        };
        if counted > LONGEST {
            wrong.push(format!("{}: {counted} lines", path.display()));
        }
    }
    assert!(wrong.is_empty(), "more than {LONGEST} lines, split them by reason: {wrong:#?}");
}

#[test]
fn every_module_says_why_it_exists() {
    // A child module of tests is explained by its parent.
    let test_module = |path: &Path| path.file_name().is_some_and(|n| n == "tests.rs");
    let wrong: Vec<_> = ours()
        .filter(|(path, _)| has_extension(path, &["rs"]) && !test_module(path))
        .filter(|(_, text)| !text.starts_with("//! ") && !text.starts_with("#![no_main]\n//! "))
        .map(|(path, _)| path)
        .collect();
    assert!(wrong.is_empty(), "no //! at the top: {wrong:#?}");
}

#[test]
fn every_script_says_what_it_does() {
    let wrong: Vec<_> = ours()
        .filter(|(path, text)| is_script(path, text))
        .filter(|(_, text)| {
            let first = text.lines().find(|l| !l.starts_with("#!"));
            !first.is_some_and(|l| l.starts_with("# "))
        })
        .map(|(path, _)| path)
        .collect();
    assert!(wrong.is_empty(), "no comment at the top: {wrong:#?}");
}

/// Such a name collects whatever has no better place.
#[test]
fn no_file_has_a_name_that_says_nothing() {
    let empty: BTreeSet<&str> =
        ["util", "utils", "helper", "helpers", "manager", "misc", "common"].into();
    let wrong: Vec<_> = files()
        .into_iter()
        .filter(|path| has_extension(path, &["rs", "c", "h"]))
        .filter(|path| {
            path.iter()
                .filter_map(|part| part.to_str())
                .any(|part| empty.contains(part.split('.').next().unwrap_or(part)))
        })
        .collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

fn manifests() -> Vec<(PathBuf, toml::Table)> {
    ours()
        .filter(|(path, _)| path.file_name().is_some_and(|n| n == "Cargo.toml"))
        .map(|(path, text)| {
            let table = text.parse().unwrap_or_else(|e| panic!("{}: {e}", path.display()));
            (path, table)
        })
        .collect()
}

#[test]
fn every_crate_takes_the_workspace_lints() {
    for (path, manifest) in manifests() {
        // The workspace itself, and the fuzz targets, which are a workspace of their own.
        if manifest.contains_key("workspace") {
            continue;
        }
        let lints = manifest.get("lints").and_then(|l| l.get("workspace"));
        assert_eq!(
            lints.and_then(toml::Value::as_bool),
            Some(true),
            "{}: add [lints] workspace = true",
            path.display()
        );
    }
}

/// A clippy.toml in a crate replaces the one at the root, so it has to repeat it.
#[test]
fn the_pure_crates_keep_the_root_rules_and_the_ban_on_io() {
    let read = |path: &Path| -> toml::Table {
        let text = fs::read_to_string(root().join(path))
            .unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        text.parse().unwrap_or_else(|e| panic!("{}: {e}", path.display()))
    };
    let common = read(Path::new("clippy.toml"));
    let mut banned: Option<toml::Value> = None;
    for name in ["core", "vendors", "domxml", "hook-proto"] {
        let path = PathBuf::from(format!("crates/gpuslice-{name}/clippy.toml"));
        let own = read(&path);
        for (key, value) in &common {
            // Left at its default where the default is the same.
            let default = toml::Value::Boolean(false);
            assert_eq!(own.get(key).unwrap_or(&default), value, "{}: {key}", path.display());
        }
        let methods = own.get("disallowed-methods").unwrap_or_else(|| panic!("{}", path.display()));
        let first = banned.get_or_insert_with(|| methods.clone());
        assert_eq!(methods, first, "{}: bans other methods than its siblings", path.display());
        for method in ["std::fs::read", "std::time::Instant::now", "std::process::Command::new"] {
            let banned = methods.as_array().into_iter().flatten();
            let mut paths = banned.filter_map(|m| m.get("path")?.as_str());
            assert!(paths.any(|p| p == method), "{}: {method} is not banned", path.display());
        }
    }
}

#[test]
fn sizes_are_counted_without_tests() {
    assert_eq!(lines_outside_tests("a\nb\n#[cfg(test)]\nmod tests {\nc\n}\n"), 2);
    assert_eq!(lines_outside_tests("a\n#[cfg(test)]\nmod tests;\nb\n"), 4);
}

/// A test that cannot be run passes, so it has to say so where `integration/test` looks for it.
#[test]
fn what_is_skipped_is_told_in_one_way() {
    let test = fs::read_to_string(root().join("integration/test")).unwrap();
    let mark = ["SKIP", "PED"].concat();
    assert!(test.contains("-- --show-output") && test.contains(&format!("/^({mark}|NOTE): /")));
    let mut told = 0;
    for (path, text) in ours() {
        let bench = path.starts_with("integration/bench");
        if bench || !has_extension(&path, &["rs"]) {
            continue;
        }
        for line in text.lines().map(str::trim) {
            let place = || format!("{}: {line}", path.display());
            if !line.contains(&mark) || line.contains(".starts_with(") {
                continue;
            }
            let said = line.trim_start_matches("return ");
            let said = said.strip_prefix(&format!("println!(\"{mark}: "));
            let said = said.unwrap_or_else(|| panic!("not println!(\"{mark}: …: {}", place()));
            assert!(said.contains(": "), "what cannot be tested, then why: {}", place());
            told += 1;
        }
    }
    assert!(told >= 10, "they were not found");
}
