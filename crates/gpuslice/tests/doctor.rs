//! `gpuslice doctor` on hosts that are written down. `doctor/clean-host.tree` is one with nothing wrong; each other file
//! says what is different there, and what has to be found: nothing else.
//!
//! Lines: `expect:` codes, each with words of its mending, parted by `;`. `run:` the domain that is looked at. `- PATH`
//! takes something away, `mode BITS PATH` says who may do what with it. `PATH = TEXT`, `PATH ! TEXT` (executable) and
//! `PATH -> TARGET` make something, `\n`, `\t`, `\r` and `\0` being what they are in C.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking; its shared functions are not marked as tests"
)]

#[path = "doctor/person.rs"]
mod person;
#[path = "doctor/traps.rs"]
mod traps;

use gpuslice_core::refusal::Code;
use person::Person;
use serde_json::Value as Json;
use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::thread;
use std::time::Duration;
use tempfile::TempDir;
use traps::Seen;

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
        if let Some((bits, path)) = line.strip_prefix("mode ").and_then(|rest| rest.split_once(' '))
        {
            let bits = u32::from_str_radix(bits, 8).unwrap();
            fs::set_permissions(at(path), fs::Permissions::from_mode(bits)).unwrap();
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
        fs::write(&place, unescaped(what) + "\n").unwrap();
        let mode = if kind == "!" { 0o755 } else { 0o644 };
        fs::set_permissions(&place, fs::Permissions::from_mode(mode)).unwrap();
    }
}

fn unescaped(text: &str) -> String {
    let signs = [("\\n", "\n"), ("\\t", "\t"), ("\\r", "\r"), ("\\0", "\0")];
    signs.iter().fold(text.to_owned(), |text, (written, meant)| text.replace(written, meant))
}

fn parts(line: &str) -> Option<(&str, &str, &str)> {
    let (path, rest) = line.split_once(' ')?;
    let (kind, what) = rest.split_once(' ').unwrap_or((rest, ""));
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

/// Runs it on a host whose programs it may run, as they are ours.
fn gpuslice(root: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_gpuslice"));
    command.env("GPUSLICE_ROOT_PROGRAMS", "1");
    output(command, root, arguments)
}

fn output(mut command: Command, root: &Path, arguments: &[&str]) -> Output {
    command
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
    let files = files.filter(|path| path.extension().is_some_and(|kind| kind == "tree"));
    let mut names: Vec<String> =
        files.map(|path| path.file_stem().unwrap().to_str().unwrap().to_owned()).collect();
    names.sort();
    names
}

#[test]
fn each_host_and_guest_has_what_it_says_and_nothing_else() {
    let names = names();
    let clean = names.iter().filter(|name| expected(&fixture(name)).is_empty()).count();
    assert!(clean >= 20, "{clean} clean ones");
    let wrong = of_each(&names, |name| differs(host(name).path(), name, &expected(&fixture(name))));
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// What is said of each, by four at a time.
fn of_each<T: Send>(names: &[String], each: impl Fn(&str) -> Option<T> + Sync) -> Vec<T> {
    let each = &each;
    thread::scope(|scope| {
        let parts = names.chunks(names.len().div_ceil(4));
        let threads: Vec<_> = parts
            .map(|names| {
                scope.spawn(move || names.iter().filter_map(|name| each(name)).collect::<Vec<T>>())
            })
            .collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    })
}

#[test]
fn who_does_what_it_says_hears_no_more_of_it() {
    let names = names();
    let followed = of_each(&names, |name| {
        let (root, text) = (host(name), fixture(name));
        let mut arguments = vec!["doctor", "--json"];
        arguments.extend(field(&text, "run:"));
        let before = json(&gpuslice(root.path(), &arguments));
        let findings = before["findings"].as_array().unwrap();
        let person = Person::at_host(root.path());
        let mended = findings.iter().all(|f| person.follows(f["mend"].as_str().unwrap()));
        if findings.is_empty() || !mended {
            return None;
        }
        let after = json(&gpuslice(root.path(), &arguments));
        let silent = after["findings"].as_array().unwrap().is_empty();
        Some((name.to_owned(), (!silent).then(|| format!("{before:#}\n{after:#}"))))
    });
    let wrong: Vec<_> = followed.iter().filter(|(_, wrong)| wrong.is_some()).collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
    let names: Vec<&str> = followed.iter().map(|(name, _)| name.as_str()).collect();
    assert!(names.len() >= 30, "{} of them could be followed: {names:?}", names.len());
}

/// Codes with words of their mending.
fn expected(text: &str) -> Vec<(String, String)> {
    let all = field(text, "expect:").unwrap().split(';').map(str::trim);
    let each =
        all.filter(|one| !one.is_empty()).map(|one| one.split_once(' ').unwrap_or((one, "")));
    each.map(|(code, words)| (code.to_owned(), words.to_owned())).collect()
}

/// How what is found differs from what was to be.
fn differs(root: &Path, name: &str, expected: &[(String, String)]) -> Option<String> {
    let text = fixture(name);
    let mut arguments = vec!["doctor", "--json"];
    arguments.extend(field(&text, "run:"));
    let out = gpuslice(root, &arguments);
    let answer = json(&out);
    let mut found = answer["findings"].as_array().unwrap().clone();
    let errors = found.iter().any(|finding| finding["severity"] == "error");
    for (code, words) in expected {
        let is = |finding: &Json| {
            let said = format!("{} {}", finding["found"], finding["mend"]);
            finding["code"] == **code && said.replace("\\\"", "\"").contains(words)
        };
        let Some(place) = found.iter().position(is) else {
            return Some(format!("{name}: no {code} with {words:?} in {answer:#}"));
        };
        found.remove(place);
    }
    let whole = found.is_empty() && out.status.code() == Some(i32::from(errors));
    (!whole).then(|| format!("{name}: more, or {}: {answer:#}", out.status))
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
    let all = names().into_iter().flat_map(|name| expected(&fixture(&name)));
    let found: BTreeSet<String> = all.map(|(code, _)| code).collect();
    assert_eq!(found, checks);
    for page in pages {
        for part in ["meaning", "rule", "blocks", "next"] {
            assert!(!page[part].as_str().unwrap().is_empty(), "{page}");
        }
    }
}

#[test]
fn the_examples_are_vms_as_they_should_be() {
    let root = host("clean-host");
    // The one that was picked in virt-manager has a VF of the MI300X.
    let vf = "/sys/bus/pci/devices/0000:0c:02.1";
    let parts = "vendor = 0x1002,device = 0x74b5,class = 0x120000,driver -> ../../../bus/pci/drivers/vfio-pci,physfn -> ../0000:0c:00.0";
    lay_out(
        root.path(),
        &parts.split(',').map(|part| format!("{vf}/{part}\n")).collect::<String>(),
    );
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/domains");
    let files: Vec<_> = fs::read_dir(examples).unwrap().map(|file| file.unwrap().path()).collect();
    assert!(files.len() >= 7);
    for file in files {
        let out = gpuslice(root.path(), &["doctor", file.to_str().unwrap(), "--json"]);
        assert_eq!(
            codes(&json(&out)),
            Vec::<String>::new(),
            "{}: {:#}",
            file.display(),
            json(&out)
        );
    }
}

#[test]
fn each_host_with_a_failure_is_one_of_a_trap() {
    let failing = names().into_iter().filter(|name| !expected(&fixture(name)).is_empty());
    let failing: BTreeSet<String> = failing.collect();
    let mut shown = BTreeSet::new();
    for (trap, seen) in traps::TRAPS {
        match seen {
            Seen::By(hosts) => shown.extend(hosts.iter().map(|host| (*host).to_owned())),
            Seen::Not(why) => assert!(!why.is_empty(), "{trap}"),
        }
    }
    assert_eq!(failing, shown);
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
fn fix_mends_the_host_before_a_vm_is_looked_at() {
    let root = host("guest-managed");
    lay_out(root.path(), "- /etc/libvirt/hooks/qemu.d/10-gpuslice");
    lay_out(root.path(), SYSTEMCTL);
    let link = root.path().join("etc/libvirt/hooks/qemu.d/10-gpuslice");
    // A misspelt name is no reason to change anything.
    let wrong = json(&gpuslice(root.path(), &["doctor", "mail", "--fix", "--json"]));
    assert_eq!(wrong["refusal"]["code"], "unknown", "{wrong:#}");
    assert!(fs::read_link(&link).is_err());
    let fixed = json(&gpuslice(root.path(), &["doctor", "win11", "--fix", "--json"]));
    assert_eq!(codes(&fixed), ["guest-managed"], "{fixed:#}");
    assert_eq!(fixed["changed"], true);
    assert_eq!(fs::read_link(link).unwrap(), Path::new("/usr/sbin/gpuslice-qemu-hook"));
}

#[test]
fn fix_gives_the_hook_its_label_and_its_x_bit() {
    let root = host("hook-label-link");
    let fixed = json(&gpuslice(root.path(), &["doctor", "--fix", "--json"]));
    assert_eq!((codes(&fixed), &fixed["changed"]), (vec![], &Json::Bool(true)), "{fixed:#}");
    let restored = fs::read_to_string(root.path().join("usr/sbin/restored")).unwrap();
    assert_eq!(restored, "/etc/libvirt/hooks/qemu.d/10-gpuslice\n");

    // libvirt's folder is not ours, unless we made it.
    let root = host("hook-label");
    let fixed = json(&gpuslice(root.path(), &["doctor", "--fix", "--json"]));
    assert_eq!(
        (codes(&fixed), &fixed["changed"]),
        (vec!["hook-label".to_owned()], &Json::Bool(false))
    );
    assert!(!root.path().join("usr/sbin/restored").exists());
    lay_out(root.path(), "- /etc/libvirt/hooks");
    let fixed = json(&gpuslice(root.path(), &["doctor", "--fix", "--json"]));
    assert_eq!((codes(&fixed), &fixed["changed"]), (vec![], &Json::Bool(true)), "{fixed:#}");
    let restored = fs::read_to_string(root.path().join("usr/sbin/restored")).unwrap();
    assert_eq!(restored, "/etc/libvirt/hooks\n");

    let root = host("hook-not-allowed-apparmor");
    lay_out(root.path(), SYSTEMCTL);
    let fixed = json(&gpuslice(root.path(), &["doctor", "--fix", "--json"]));
    assert_eq!((codes(&fixed), &fixed["changed"]), (vec![], &Json::Bool(true)), "{fixed:#}");

    let root = host("hook-not-executable");
    lay_out(root.path(), SYSTEMCTL);
    let fixed = json(&gpuslice(root.path(), &["doctor", "--fix", "--json"]));
    assert_eq!((codes(&fixed), &fixed["changed"]), (vec![], &Json::Bool(true)), "{fixed:#}");
    // It may have found no hook that it could execute.
    let reloads = fs::read_to_string(root.path().join("usr/bin/reloads")).unwrap();
    assert_eq!(reloads, "libvirtd\n");
}

#[test]
fn libvirt_that_found_another_hook_sees_ours() {
    let (other, own) = ("etc/libvirt/hooks/qemu", "etc/libvirt/hooks/qemu.d/10-gpuslice");
    let root = host("clean-host");
    let changed = |path| root.path().join(path).symlink_metadata().unwrap().ctime();
    // Between the two, in whole seconds.
    while changed(own) == changed(other) {
        thread::sleep(Duration::from_millis(100));
        lay_out(
            root.path(),
            "/etc/libvirt/hooks/qemu.d/10-gpuslice -> /usr/sbin/gpuslice-qemu-hook",
        );
    }
    let found = |looked: i64| {
        let says = format!("echo StateChangeTimestamp=@{looked}");
        lay_out(root.path(), &format!(r"/usr/bin/systemctl ! #!/bin/sh\n{says}"));
        let answer = json(&gpuslice(root.path(), &["doctor", "--json"]));
        let severity = answer["findings"][0]["severity"].as_str().map(str::to_owned);
        (codes(&answer), severity)
    };
    let seen = changed(other);
    assert_eq!(found(seen), (Vec::new(), None));
    // It was changed since, and whether it was there nobody knows.
    let not_seen = |severity: &str| (vec!["hook-not-seen".to_owned()], Some(severity.to_owned()));
    assert_eq!(found(seen - 1), not_seen("warning"));
    lay_out(root.path(), "- /etc/libvirt/hooks/qemu");
    assert_eq!(found(seen), not_seen("error"));
}

#[test]
fn programs_of_a_folder_that_is_looked_at_are_not_run() {
    let root = host("hook-missing");
    let run = r#"#!/bin/sh\necho "$0" >> "$(dirname "$0")/run""#;
    for program in ["/usr/bin/systemctl", "/usr/sbin/restorecon"] {
        lay_out(root.path(), &format!("{program} ! {run}"));
    }
    lay_out(root.path(), "/sys/fs/selinux/enforce = 1");
    let ran = |folder: &str| root.path().join(folder).join("run").exists();
    let command = Command::new(env!("CARGO_BIN_EXE_gpuslice"));
    let fixed = json(&output(command, root.path(), &["doctor", "--fix", "--json"]));
    assert_eq!((codes(&fixed), &fixed["changed"]), (vec![], &Json::Bool(true)), "{fixed:#}");
    assert_eq!((ran("usr/bin"), ran("usr/sbin")), (false, false));
    // They would have been seen.
    gpuslice(root.path(), &["doctor", "--json"]);
    assert_eq!((ran("usr/bin"), ran("usr/sbin")), (true, true));
}

#[test]
fn what_the_host_may_need_itself_is_an_error_only_where_a_layout_has_it() {
    for (name, of, layout) in [
        ("driver-amdgpu", "0000:0c:00.0", "vfs = 4"),
        ("driver-amdgpu-computes", "0000:0c:00.0", "vfs = 4"),
        ("driver-in-the-way-t4", "0000:41:00.0", "park = { nvidia-t4-8q = 1 }"),
        ("driver-i915", "0000:51:00.0", "vfs = 4"),
        ("sriov-off-max-vfs", "0000:51:00.0", "vfs = 4"),
        ("vgpu-driver-computes", "0000:41:00.0", "vfs = \"all\""),
    ] {
        let root = host(name);
        let judged = |expected| {
            let out = gpuslice(root.path(), &["doctor", "--json"]);
            let answer = json(&out);
            let [finding] = answer["findings"].as_array().unwrap().as_slice() else {
                panic!("{name}: {answer:#}")
            };
            let found = (finding["severity"].as_str().unwrap(), out.status.code());
            assert_eq!(found, expected, "{name}: {answer:#}");
            finding["mend"].as_str().unwrap().starts_with("if it is to be sliced: ")
        };
        assert!(judged(("warning", Some(0))), "{name}");
        let rule = format!(r#"[[gpu]]\nmatch = {{ address = "{of}" }}\nlayout = {{ {layout} }}"#);
        lay_out(root.path(), &format!("/etc/gpuslice/gpuslice.toml = {rule}"));
        assert!(!judged(("error", Some(1))), "{name}");
    }
}

#[test]
fn a_device_that_a_hook_may_make_is_no_error_and_a_claims_is() {
    let of = |root: &Path| {
        let answer = json(&gpuslice(root, &["doctor", "win11", "--json"]));
        let finding = answer["findings"][0].clone();
        let said = format!("{} {}", finding["found"], finding["mend"]);
        (finding["severity"].as_str().unwrap_or_default().to_owned(), said)
    };
    for (name, with_hook) in [
        ("guest-device-gone", "error"),
        ("guest-device-vf", "warning"),
        ("guest-device-nic", "warning"),
    ] {
        let root = host(name);
        let (severity, said) = of(root.path());
        assert_eq!(severity, with_hook, "{name}: {said}");
        assert_eq!(said.contains("unless the hook"), with_hook == "warning", "{name}: {said}");
        assert_eq!(said.contains("gpuslice attach"), name == "guest-device-vf", "{said}");
        lay_out(root.path(), "- /etc/libvirt/hooks/qemu");
        assert_eq!(of(root.path()).0, "error", "{name}");
    }
}

/// What somebody without rights reads of a host.
fn as_anybody(root: &Path, arguments: &[&str]) -> Output {
    use std::os::unix::process::CommandExt;
    let mut command = Command::new(env!("CARGO_BIN_EXE_gpuslice"));
    if fs::metadata(root).unwrap().uid() == 0 {
        // The folder of what is built may be root's alone. Copied by another program, as a child that is forked beside us
        // would have the copy open for writing, and what is, cannot be run (execve(2), ETXTBSY).
        let program = root.join("gpuslice");
        let from = Path::new(env!("CARGO_BIN_EXE_gpuslice"));
        assert!(Command::new("cp").args([from, &program]).status().unwrap().success());
        fs::set_permissions(root, fs::Permissions::from_mode(0o755)).unwrap();
        command = Command::new(program);
        command.uid(65534).gid(65534);
    }
    command.args(arguments).env("GPUSLICE_ROOT", root).current_dir("/").output().unwrap()
}

#[test]
fn a_users_jobs_are_read_as_far_as_a_table_is_long() {
    let root = host("clean-host");
    let found = |before: &str| {
        let jobs = format!("{before}\n@reboot echo 4 > /sys/class/drm/card1/device/sriov_numvfs\n");
        let place = root.path().join("var/spool/cron/crontabs/somebody");
        fs::create_dir_all(place.parent().unwrap()).unwrap();
        fs::write(place, jobs).unwrap();
        codes(&json(&gpuslice(root.path(), &["doctor", "--json"])))
    };
    assert_eq!(found(""), ["sriov-unit"]);
    assert_eq!(found(&"#".repeat(1 << 20)), Vec::<String>::new());
}

#[test]
fn nobody_takes_a_gpu_from_a_process_that_is_not_seen() {
    let root = host("driver-vfio-held");
    lay_out(root.path(), "mode 0 /proc/4242/fd");
    let answer = json(&as_anybody(root.path(), &["doctor", "--json"]));
    let mend = answer["findings"][0]["mend"].as_str().unwrap();
    assert!(mend.starts_with("when no process has it open"), "{answer:#}");
}

#[test]
fn what_may_not_be_read_is_said_and_not_guessed() {
    let root = host("clean-host");
    let closed = [
        "/etc/libvirt/hooks",
        "/run/gpuslice",
        "/sys/kernel/iommu_groups",
        "/etc/libvirt/qemu",
        "/dev",
        "/proc/812",
    ];
    lay_out(root.path(), "/etc/libvirt/qemu/win11.xml = <domain/>");
    for path in closed {
        lay_out(root.path(), &format!("mode 0 {path}"));
    }
    let out = as_anybody(root.path(), &["doctor", "--json"]);
    let answer = json(&out);
    assert_eq!((codes(&answer), out.status.code()), (vec![], Some(0)), "{answer:#}");
    let denied = answer["not_looked_at"].to_string();
    for path in closed.into_iter().filter(|path| !path.ends_with("/libvirt/qemu")) {
        assert!(denied.contains(path), "{path}: {denied}");
    }
    let said = String::from_utf8_lossy(&as_anybody(root.path(), &["doctor"]).stderr).into_owned();
    assert!(said.contains("not looked at, for lack of permission: "), "{said}");
    // A VM that cannot be looked for is not one that is not there.
    let out = as_anybody(root.path(), &["doctor", "win11", "--json"]);
    let answer = json(&out);
    assert_eq!(answer["refusal"]["code"], "not-permitted", "{answer:#}");
    assert_eq!(answer["refusal"]["hint"], "sudo gpuslice doctor win11");
    for path in closed {
        lay_out(root.path(), &format!("mode 755 {path}"));
    }
}

#[test]
fn fix_does_not_link_to_what_is_not_there_and_replaces_no_file() {
    let root = host("hook-dangling");
    let out = gpuslice(root.path(), &["doctor", "--fix", "--json"]);
    assert_eq!(out.status.code(), Some(1));
    let answer = json(&out);
    assert_eq!(
        (codes(&answer), &answer["changed"]),
        (vec!["hook-missing".to_owned()], &Json::Bool(false))
    );

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
    // Nor is a guest of Proxmox VE one of libvirt's.
    let node = host("clean-kvm-proxmox");
    let out = json(&gpuslice(node.path(), &["doctor", "100", "--json"]));
    assert_eq!(out["refusal"]["code"], "unsupported", "{out:#}");
    assert_eq!(
        json(&gpuslice(node.path(), &["doctor", "101", "--json"]))["refusal"]["code"],
        "unknown"
    );
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
