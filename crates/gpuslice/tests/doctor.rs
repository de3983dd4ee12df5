//! `gpuslice doctor` on hosts that are written down. `doctor/clean-host.tree` is one with nothing wrong; each other file
//! says what is different there, and what has to be found: nothing else.
//!
//! Lines: `expect:` codes, each with words of its mending, parted by `;`. `run:` the domain that is looked at. `- PATH`
//! takes something away. `PATH = TEXT`, `PATH ! TEXT` (executable) and `PATH -> TARGET` make something, `\n` and `\t` being
//! what they are in C.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking; its shared functions are not marked as tests"
)]

use gpuslice_core::refusal::Code;
use serde_json::Value as Json;
use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use tempfile::TempDir;

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/doctor")
}

fn fixture(name: &str) -> String {
    fs::read_to_string(fixtures().join(format!("{name}.tree"))).unwrap()
}

fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().find_map(|line| line.strip_prefix(name)).map(str::trim)
}

/// Lays out a file of lines below a folder.
fn lay_out(root: &Path, text: &str) {
    let lines = text.lines().filter(|line| !line.is_empty());
    let lines = lines.filter(|l| ["#", "expect:", "run:"].iter().all(|lead| !l.starts_with(lead)));
    for line in lines {
        let at = |path: &str| root.join(path.trim_start_matches('/'));
        if let Some(path) = line.strip_prefix("- ") {
            let place = at(path);
            assert!(place.symlink_metadata().is_ok(), "{path} is not on the clean host");
            if place.is_dir() && !place.is_symlink() {
                fs::remove_dir_all(place).unwrap();
            } else {
                fs::remove_file(place).unwrap();
            }
            continue;
        }
        let (path, kind, what) = parts(line).unwrap_or_else(|| panic!("{line:?}"));
        let place = at(path);
        fs::create_dir_all(place.parent().unwrap()).unwrap();
        if place.is_symlink() {
            fs::remove_file(&place).unwrap();
        }
        if kind == "->" {
            symlink(what, &place).unwrap();
            continue;
        }
        fs::write(&place, what.replace("\\n", "\n").replace("\\t", "\t") + "\n").unwrap();
        let mode = if kind == "!" { 0o755 } else { 0o644 };
        fs::set_permissions(&place, fs::Permissions::from_mode(mode)).unwrap();
    }
}

fn parts(line: &str) -> Option<(&str, &str, &str)> {
    let (path, rest) = line.split_once(' ')?;
    let (kind, what) = rest.split_once(' ')?;
    ["=", "!", "->"].contains(&kind).then_some((path, kind, what))
}

/// The clean host, with what a fixture says.
fn host(name: &str) -> TempDir {
    let root = TempDir::new().unwrap();
    lay_out(root.path(), &fixture("clean-host"));
    if name != "clean-host" {
        lay_out(root.path(), &fixture(name));
    }
    root
}

fn gpuslice(root: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_gpuslice"))
        .args(arguments)
        .env("GPUSLICE_ROOT", root)
        .env("GPUSLICE_SOCKET", "/nonexistent")
        .env("GPUSLICE_BUS_ADDRESS", "unix:path=/nonexistent")
        .output()
        .unwrap()
}

fn json(out: &Output) -> Json {
    let text = String::from_utf8_lossy(&out.stdout);
    serde_json::from_str(&text)
        .unwrap_or_else(|e| panic!("{e}: {text}{}", String::from_utf8_lossy(&out.stderr)))
}

fn codes(answer: &Json) -> Vec<String> {
    let findings = answer["findings"].as_array().unwrap();
    findings.iter().map(|f| f["code"].as_str().unwrap().to_owned()).collect()
}

fn names() -> Vec<String> {
    let files = fs::read_dir(fixtures()).unwrap().map(|entry| entry.unwrap().path());
    let mut names: Vec<String> =
        files.map(|path| path.file_stem().unwrap().to_str().unwrap().to_owned()).collect();
    names.sort();
    names
}

#[test]
fn each_host_and_guest_has_what_it_says_and_nothing_else() {
    let mut clean = 0;
    for name in names() {
        let root = host(&name);
        let text = fixture(&name);
        let mut arguments = vec!["doctor", "--json"];
        arguments.extend(field(&text, "run:"));
        let out = gpuslice(root.path(), &arguments);
        let answer = json(&out);
        let expected = field(&text, "expect:").unwrap();
        let expected: Vec<(&str, &str)> = expected
            .split(';')
            .filter(|one| !one.is_empty())
            .map(|one| one.trim().split_once(' ').unwrap_or((one.trim(), "")))
            .collect();
        let found: BTreeSet<String> = codes(&answer).into_iter().collect();
        let want: BTreeSet<String> = expected.iter().map(|(code, _)| (*code).to_owned()).collect();
        assert_eq!(found, want, "{name}: {answer:#}");
        assert_eq!(
            answer["findings"].as_array().unwrap().len(),
            expected.len(),
            "{name}: {answer:#}"
        );
        let mut errors = false;
        for finding in answer["findings"].as_array().unwrap() {
            let code = finding["code"].as_str().unwrap();
            let (_, words) = expected.iter().find(|(c, _)| *c == code).unwrap();
            let said = format!("{} {}", finding["found"], finding["mend"]);
            assert!(said.contains(words), "{name}: {said} lacks {words}");
            errors |= finding["severity"] == "error";
        }
        assert_eq!(out.status.code(), Some(i32::from(errors)), "{name}");
        clean += usize::from(expected.is_empty());
    }
    assert!(clean >= 4, "{clean} clean ones");
}

#[test]
fn each_check_fails_somewhere_and_has_a_page() {
    let everything = json(&gpuslice(Path::new("/"), &["explain", "--json"]));
    let pages = everything.as_array().unwrap();
    let codes: BTreeSet<String> =
        pages.iter().map(|page| page["code"].as_str().unwrap().to_owned()).collect();
    assert_eq!(codes.len(), pages.len(), "a code stands twice");
    let checks: BTreeSet<String> =
        codes.into_iter().filter(|code| code.parse::<Code>().is_err()).collect();
    let mut found = BTreeSet::new();
    for name in names() {
        let text = fixture(&name);
        let expected = field(&text, "expect:").unwrap().split(';').map(str::trim);
        found.extend(expected.filter_map(|one| Some(one.split(' ').next()?.to_owned())));
    }
    found.remove("");
    assert_eq!(found, checks);
    for page in pages {
        for part in ["meaning", "rule", "blocks", "next"] {
            assert!(!page[part].as_str().unwrap().is_empty(), "{page}");
        }
    }
}

/// A reload that is seen as one, as systemd shows it.
const SYSTEMCTL: &str = r#"/usr/bin/systemctl ! #!/bin/sh\ncd "$(dirname "$0")" || exit\nif [ "$1" = reload ]; then echo "$2" >> reloads; exit; fi\nif [ -e reloads ]; then echo StateChangeTimestamp=@99999999999; else echo StateChangeTimestamp=@1000; fi"#;

#[test]
fn fix_links_the_hook_has_libvirt_look_and_leaves_the_rest() {
    let root = host("sysfsutils");
    lay_out(root.path(), "- /etc/libvirt/hooks/qemu.d/10-gpuslice");
    lay_out(root.path(), SYSTEMCTL);
    let before = json(&gpuslice(root.path(), &["doctor", "--json"]));
    assert_eq!(codes(&before), ["hook-missing", "sysfsutils"]);
    let fixed = json(&gpuslice(root.path(), &["doctor", "--fix", "--json"]));
    assert_eq!(codes(&fixed), ["sysfsutils"], "{fixed:#}");
    assert_eq!(fixed["changed"], true);
    assert_eq!(fixed["fixed"].as_array().unwrap().len(), 2, "{fixed:#}");
    let link = root.path().join("etc/libvirt/hooks/qemu.d/10-gpuslice");
    assert_eq!(fs::read_link(link).unwrap(), Path::new("/usr/sbin/gpuslice-qemu-hook"));
    let reloads = fs::read_to_string(root.path().join("usr/bin/reloads")).unwrap();
    assert_eq!(reloads, "libvirtd\n");
    let again = json(&gpuslice(root.path(), &["doctor", "--fix", "--json"]));
    assert_eq!(
        (&again["changed"], codes(&again)),
        (&Json::Bool(false), vec!["sysfsutils".to_owned()])
    );
    assert_eq!(fs::read_to_string(root.path().join("usr/bin/reloads")).unwrap(), reloads);
}

#[test]
fn fix_does_not_link_to_what_is_not_there_and_replaces_no_file() {
    let root = host("hook-dangling");
    let out = gpuslice(root.path(), &["doctor", "--fix"]);
    assert_eq!(out.status.code(), Some(1));
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(said.contains("/usr/sbin/gpuslice-qemu-hook is not installed"), "{said}");

    let root = host("clean-host");
    let own = "/etc/libvirt/hooks/qemu.d/10-gpuslice";
    lay_out(root.path(), &format!("{own} = somebody's own"));
    let out = gpuslice(root.path(), &["doctor", "--fix", "--json"]);
    assert_eq!(codes(&json(&out)), ["hook-not-executable"]);
    let text = fs::read_to_string(root.path().join(own.trim_start_matches('/'))).unwrap();
    assert_eq!(text, "somebody's own\n");
}

#[test]
fn a_vm_that_is_not_there_is_no_clean_vm() {
    let root = host("clean-host");
    for (name, code) in [("mail", "unknown"), ("./nothing.xml", "bad-request")] {
        let out = gpuslice(root.path(), &["doctor", name, "--json"]);
        assert_eq!(out.status.code(), Some(1), "{name}");
        assert_eq!(json(&out)["refusal"]["code"], code, "{name}");
    }
    lay_out(root.path(), "/etc/libvirt/qemu/broken.xml = <domain><name>broken</name>");
    let out = gpuslice(root.path(), &["doctor", "broken", "--json"]);
    assert_eq!(json(&out)["refusal"]["code"], "bad-request");
}

#[test]
fn a_person_reads_what_why_and_how() {
    let out = gpuslice(host("hook-missing").path(), &["doctor"]);
    let said = String::from_utf8_lossy(&out.stdout).into_owned();
    for words in [
        "hook-missing: /etc/libvirt/hooks/qemu.d/10-gpuslice is not there",
        "why: libvirt calls",
        "mend: ln -sfn",
        "or: gpuslice doctor --fix",
    ] {
        assert!(said.contains(words), "{said}");
    }
    let out = gpuslice(host("clean-host").path(), &["doctor"]);
    assert_eq!(
        String::from_utf8_lossy(&out.stdout),
        "nothing found that keeps slices from working\n"
    );
}
