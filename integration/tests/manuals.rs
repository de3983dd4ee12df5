//! Manual pages say what the programs do: each key, element and option that is read is in its page, and none that is not;
//! examples are read by the reader they are for; pages name pages that are there.

#![cfg(test)]

use gpuslice_core::config;
use gpuslice_domxml::{DomXmlError, read_domain, read_drivers};
use gpuslice_integration::{files, programs, root};
use gpuslice_sim::HostFile;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::Command;

/// Shipped pages by name with section, `gpuslice.toml.5`, and their text.
fn pages() -> BTreeMap<String, String> {
    let pages = files().into_iter().filter(|path| {
        let parent = path.parent().and_then(Path::file_name);
        parent.is_some_and(|name| name.to_str().is_some_and(|name| name.starts_with("man")))
    });
    let text = |path: &Path| fs::read_to_string(root().join(path)).unwrap();
    pages.map(|p| (p.file_name().unwrap().to_str().unwrap().to_owned(), text(&p))).collect()
}

fn page(name: &str) -> String {
    pages().remove(name).unwrap_or_else(|| panic!("no page {name}"))
}

/// The tags of a section's list: what is in bold in each line after `.TP`, up to a blank.
fn tags(page: &str, section: &str) -> BTreeSet<String> {
    let mut inside = false;
    let (mut found, mut tag) = (BTreeSet::new(), false);
    for line in page.lines() {
        if let Some(title) = line.strip_prefix(".SH ") {
            inside = title == section;
        } else if inside && tag {
            let text = line.split_once(' ').unwrap_or_else(|| panic!("{line}")).1;
            let text = text.replace("\\-", "-");
            found.insert(text.split(' ').next().unwrap_or_default().to_owned());
        }
        tag = line == ".TP";
    }
    assert!(!found.is_empty(), "no list below {section}");
    found
}

/// The blocks of examples.
fn examples(page: &str) -> Vec<String> {
    let blocks = page.split("\n.EX\n").skip(1);
    let found: Vec<_> = blocks.map(|rest| rest.split("\n.EE").next().unwrap().to_owned()).collect();
    assert!(!found.is_empty());
    found
}

fn words(list: &str) -> BTreeSet<String> {
    list.split(", ").map(|word| word.trim().to_owned()).collect()
}

/// What the daemon's reader says is known where a key is not.
fn known_keys(text: &str) -> BTreeSet<String> {
    let errors = config::parse(&[("a.toml".to_owned(), text.to_owned())]).unwrap_err();
    let said = errors.iter().find_map(|e| e.message.split_once("known here: "));
    words(said.unwrap_or_else(|| panic!("{text}: {errors:?}")).1)
}

#[test]
fn every_key_of_the_configuration_is_in_its_page() {
    let page = page("gpuslice.toml.5");
    for (section, text) in [
        ("KEYS", "zzzzzzzzzzzzzzzz = 1"),
        ("KEYS OF [[GPU]]", "[[gpu]]\nzzzzzzzzzzzzzzzz = 1"),
        ("KEYS OF MATCH", "[[gpu]]\nmatch = { zzzzzzzzzzzzzzzz = 1 }"),
        ("KEYS OF LAYOUT", "[[gpu]]\nlayout = { zzzzzzzzzzzzzzzz = 1 }"),
    ] {
        assert_eq!(tags(&page, section), known_keys(text), "{section}");
    }
    for text in examples(&page) {
        let read = config::parse(&[("a.toml".to_owned(), text.clone())]);
        assert_eq!(read.unwrap_or_else(|e| panic!("{text}: {e:?}")).rules.len(), 2);
    }
}

/// What the reader of host files says is known where a key is not: "expected one of `a`, `b`" or "expected `a` or `b`".
fn known_of_a_host(text: &str) -> BTreeSet<String> {
    let text = format!("name = \"a\"\n{text}zzzz = 1\n");
    let said = HostFile::parse(&text).unwrap_err().to_string();
    let (_, known) =
        said.split_once("unknown field `zzzz`, expected").unwrap_or_else(|| panic!("{said}"));
    known.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

#[test]
fn every_key_of_a_host_file_is_in_its_page() {
    let page = page("gpuslice-host.5");
    let function = "[[function]]\naddress = \"0c:00.0\"\nvendor = 1\ndevice = 1\n";
    let mdev = format!("{function}[function.mdev]\ndriver = \"a\"\nmemory_mib = 1\n");
    for (section, text) in [
        ("KEYS", String::new()),
        ("KEYS OF KERNEL", "[kernel]\n".to_owned()),
        ("KEYS OF [[DRIVER]]", "[[driver]]\nname = \"a\"\n".to_owned()),
        ("KEYS OF GIM", "[[driver]]\nname = \"a\"\n[driver.gim]\n".to_owned()),
        ("KEYS OF [[FUNCTION]]", function.to_owned()),
        ("KEYS OF SRIOV", format!("{function}[function.sriov]\n")),
        ("KEYS OF MDEV", mdev.clone()),
        ("KEYS OF [[FUNCTION.MDEV.TYPE]]", format!("{mdev}[[function.mdev.type]]\n")),
        ("KEYS OF SIZES", format!("{mdev}[[function.mdev.sizes]]\n")),
        ("KEYS OF MIG", format!("{mdev}[function.mdev.mig]\n")),
        ("KEYS OF MIG PROFILES", format!("{mdev}[[function.mdev.mig.profiles]]\n")),
        ("KEYS OF [[VIRTUAL]]", "[[virtual]]\n".to_owned()),
    ] {
        assert_eq!(tags(&page, section), known_of_a_host(&text), "{section}");
    }
    for text in examples(&page) {
        HostFile::parse(&text).unwrap_or_else(|e| panic!("{text}: {e}"));
    }
}

/// What a hook says of a file of settings. No daemon answers, so it is quick.
fn hook_says(settings: &str) -> String {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("hook.conf");
    fs::write(&file, settings).unwrap();
    let out = Command::new(programs(&["gpuslice-proxmox-hook"]).join("gpuslice-proxmox-hook"))
        .args(["100", "post-start"])
        .env("GPUSLICE_HOOK_CONF", &file)
        .env("GPUSLICE_SOCKET", folder.path().join("none"))
        .env("GPUSLICE_PVE_ROOT", guest(folder.path()))
        .output()
        .unwrap();
    let said = String::from_utf8(out.stderr).unwrap();
    assert!(said.contains("unreachable"), "{said}");
    said
}

/// A node whose guest 100 has a device.
fn guest(folder: &Path) -> &Path {
    fs::create_dir_all(folder.join("etc/pve/qemu-server")).unwrap();
    fs::write(folder.join("etc/pve/qemu-server/100.conf"), "hostpci0: 01:00.0\n").unwrap();
    folder
}

#[test]
fn every_key_of_the_hooks_settings_is_in_its_page() {
    let page = page("gpuslice-hook.conf.5");
    let said = hook_says("zzzz = 1\n");
    let known = said.split_once("known are ").unwrap_or_else(|| panic!("{said}")).1;
    let known = known.split(';').next().unwrap();
    assert_eq!(tags(&page, "KEYS"), words(known));
    for text in examples(&page) {
        let said = hook_says(&text);
        assert!(!said.contains("warning"), "{text}: {said}");
    }
}

/// What is known in an element of ours: attributes or elements.
fn known_in(xml: &str) -> &'static [&'static str] {
    let domain = "4be47ad5-6e2f-4e0c-9d4a-1f6a3f0e1a01";
    let xml = format!(
        "<domain><name>a</name><uuid>{domain}</uuid><metadata xmlns:gpuslice='urn:gpuslice:domain:1'>{xml}</metadata></domain>"
    );
    match read_domain(&xml) {
        Err(DomXmlError::Unknown { known, .. }) => known,
        other => panic!("{xml}: {other:?}"),
    }
}

#[test]
fn every_word_of_a_claim_is_in_its_page() {
    let page = page("gpuslice-domain.5");
    let claim = "<gpuslice:claims><gpuslice:claim name='a' profile='p'";
    let end = "</gpuslice:claim></gpuslice:claims>";
    let known: BTreeSet<String> = [
        "<gpuslice:zzzzzzzz/>".to_owned(),
        "<gpuslice:claims><gpuslice:zzzzzzzz/></gpuslice:claims>".to_owned(),
        format!("{claim} zzzzzzzz='1'>{end}"),
        format!("{claim}><gpuslice:zzzzzzzz/>{end}"),
        format!("{claim}><gpuslice:memory zzzzzzzz='1'/>{end}"),
        format!("{claim}><gpuslice:isolation zzzzzzzz='1'/>{end}"),
    ]
    .iter()
    .flat_map(|xml| known_in(xml))
    .map(|word| (*word).to_owned())
    .collect();
    assert_eq!(tags(&page, "ELEMENTS AND ATTRIBUTES"), known);
    for text in examples(&page) {
        let xml = format!(
            "<domain><name>a</name><uuid>4be47ad5-6e2f-4e0c-9d4a-1f6a3f0e1a01</uuid>{text}</domain>"
        );
        let read = read_domain(&xml).unwrap_or_else(|e| panic!("{text}: {e}"));
        assert!(!read.claims.is_empty(), "{text}");
        assert_eq!(read_drivers(&xml).is_empty(), !text.contains("-run:"), "{text}");
    }
}

#[test]
fn every_option_of_a_daemon_is_in_its_page() {
    for daemon in ["gpusliced", "gpuslice-libvirt-agent"] {
        let out = Command::new(programs(&[daemon]).join(daemon)).arg("--help").output();
        let help = String::from_utf8(out.unwrap().stdout).unwrap();
        let options: BTreeSet<String> = help
            .split_whitespace()
            .filter(|word| word.starts_with("--") && !["--help", "--version"].contains(word))
            .map(str::to_owned)
            .collect();
        assert!(options.contains("--bus"), "{help}");
        assert_eq!(tags(&page(&format!("{daemon}.8")), "OPTIONS"), options);
    }
}

/// Pages of the command line, as it writes them itself.
fn written() -> BTreeSet<String> {
    let folder = tempfile::tempdir().unwrap();
    let out = Command::new(programs(&["gpuslice"]).join("gpuslice"))
        .arg("man")
        .arg(folder.path())
        .output()
        .unwrap();
    assert!(out.status.success(), "{out:?}");
    let names = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name());
    names.map(|name| name.into_string().unwrap()).collect()
}

#[test]
fn every_program_has_a_page_and_pages_name_pages_that_are_there() {
    let pages = pages();
    let mut all: BTreeSet<String> = pages.keys().cloned().collect();
    all.extend(written());
    let layout = fs::read_to_string(root().join("integration/layout")).unwrap();
    let installed: Vec<_> = layout
        .lines()
        .filter_map(|line| line.strip_prefix("program \"")?.rsplit('/').next())
        .collect();
    assert!(installed.len() > 4, "{installed:?}");
    for program in installed {
        let has = ["1", "8"].iter().any(|section| all.contains(&format!("{program}.{section}")));
        assert!(has, "{program} has no page");
    }
    for (name, text) in &pages {
        let title = text.lines().next().unwrap();
        let (of, section) = name.rsplit_once('.').unwrap();
        assert!(title.starts_with(&format!(".TH {of} {section} ")), "{name}: {title}");
        let named = text.lines().filter_map(|line| line.strip_prefix(".BR ")?.split_once(" ("));
        for (other, rest) in named {
            let section = rest.split(')').next().unwrap();
            assert!(all.contains(&format!("{other}.{section}")), "{name} names {other}({section})");
        }
    }
}

#[test]
fn pages_are_shown_without_a_warning() {
    if Command::new("man").arg("--version").output().is_err() {
        println!("SKIPPED: manual pages as man shows them: it is not installed");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in pages() {
        let file = folder.path().join(&name);
        fs::write(&file, text).unwrap();
        let out = Command::new("man")
            .args(["--warnings", "--local-file"])
            .arg(&file)
            .env("LC_ALL", "C.UTF-8")
            .env("MANWIDTH", "80")
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&out.stderr);
        assert!(out.status.success() && said.is_empty(), "{name}: {said}");
        assert!(String::from_utf8_lossy(&out.stdout).contains("NAME"), "{name}");
    }
}
