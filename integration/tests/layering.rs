//! Which crate may know which, as ARCHITECTURE.md draws it. Read from cargo itself, so that a dependency added in
//! any way is seen, also one that only another dependency brings.

#![cfg(test)]

#[path = "layering/deny.rs"]
mod deny;

use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

/// Direct dependencies on our own crates that each may have. Development dependencies are free.
const MAY_KNOW: &[(&str, &[&str])] = &[
    ("gpuslice-core", &[]),
    ("gpuslice-vendors", &["gpuslice-core"]),
    ("gpuslice-domxml", &["gpuslice-core"]),
    ("gpuslice-hook-proto", &["gpuslice-core"]),
    ("gpuslice-sim", &["gpuslice-core"]),
    ("gpuslice-host", &["gpuslice-core"]),
    ("gpuslice-api", &["gpuslice-core", "gpuslice-hook-proto"]),
    (
        "gpuslice",
        &["gpuslice-api", "gpuslice-core", "gpuslice-domxml", "gpuslice-sim", "gpuslice-vendors"],
    ),
    (
        "gpusliced",
        &[
            "gpuslice-api",
            "gpuslice-core",
            "gpuslice-hook-proto",
            "gpuslice-host",
            "gpuslice-sim",
            "gpuslice-vendors",
        ],
    ),
    ("gpuslice-libvirt", &["gpuslice-api", "gpuslice-core", "gpuslice-domxml"]),
    ("gpuslice-hook-ask", &["gpuslice-core", "gpuslice-hook-proto"]),
    (
        "gpuslice-qemu-hook",
        &["gpuslice-core", "gpuslice-domxml", "gpuslice-hook-ask", "gpuslice-hook-proto"],
    ),
    ("gpuslice-proxmox-hook", &["gpuslice-core", "gpuslice-hook-ask", "gpuslice-hook-proto"]),
    ("gpuslice-integration", &[]),
];

/// Crates that touch the world. No pure crate may bring one along.
const TOUCHES_THE_WORLD: &[&str] = &[
    "atomic-write-file",
    "getrandom",
    "libc",
    "mio",
    "nix",
    "rustix",
    "sd-notify",
    "socket2",
    "tempfile",
    "tokio",
    "tracing-journald",
    "tracing-subscriber",
    "udev",
    "virt",
    "virt-sys",
    "zbus",
    "zbus_polkit",
];

const PURE: &[&str] = &[
    "gpuslice-core",
    "gpuslice-vendors",
    "gpuslice-domxml",
    "gpuslice-hook-proto",
    "gpuslice-sim",
];

struct Workspace {
    members: BTreeSet<String>,
    /// Package name to the names it depends on: normal and build dependencies on our platform, not development ones.
    edges: BTreeMap<String, BTreeSet<String>>,
    minimum: Vec<(String, String, Option<String>)>,
}

fn cargo(arguments: &[&str]) -> Vec<u8> {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let out = Command::new(cargo)
        .args(arguments)
        .args(["--offline", "--color=never"])
        .current_dir(gpuslice_integration::root())
        .output()
        .unwrap();
    assert!(out.status.success(), "cargo {arguments:?}: {}", String::from_utf8_lossy(&out.stderr));
    out.stdout
}

fn workspace() -> Workspace {
    let platform = "--filter-platform=x86_64-unknown-linux-gnu";
    let out = cargo(&["metadata", "--format-version=1", platform]);
    let data: Value = serde_json::from_slice(&out).unwrap();
    let text = |v: &Value| v.as_str().unwrap().to_owned();
    let list = |v: &Value| v.as_array().unwrap().clone();

    let mut names = BTreeMap::new();
    let mut minimum = Vec::new();
    for package in list(&data["packages"]) {
        names.insert(text(&package["id"]), text(&package["name"]));
        minimum.push((
            text(&package["name"]),
            text(&package["version"]),
            package["rust_version"].as_str().map(str::to_owned),
        ));
    }
    let mut edges: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for node in list(&data["resolve"]["nodes"]) {
        let to = edges.entry(names[&text(&node["id"])].clone()).or_default();
        for dep in list(&node["deps"]) {
            if list(&dep["dep_kinds"]).iter().any(|k| k["kind"].as_str() != Some("dev")) {
                to.insert(names[&text(&dep["pkg"])].clone());
            }
        }
    }
    let members =
        list(&data["workspace_members"]).iter().map(|id| names[&text(id)].clone()).collect();
    Workspace { members, edges, minimum }
}

/// Everything a package brings along when it is built by itself. `cargo metadata` cannot say this: it unites the
/// features that any member of the workspace asks of a common dependency.
fn brings(package: &str) -> BTreeSet<String> {
    let out = cargo(&["tree", "--prefix=none", "--edges=normal,build", "--package", package]);
    let names: BTreeSet<String> = String::from_utf8(out)
        .unwrap()
        .lines()
        .filter_map(|line| line.split(' ').next().map(str::to_owned))
        .collect();
    assert!(names.contains(package), "cargo tree says nothing of {package}");
    names
}

/// Fails when a package brings one of these crates along.
fn assert_free_of(package: &str, crates: &[&str]) {
    let brings = brings(package);
    let found: Vec<_> = crates.iter().filter(|c| brings.contains(**c)).collect();
    assert!(found.is_empty(), "{package} brings {found:?}; see cargo tree -p {package} -i NAME");
}

#[test]
fn our_crates_know_only_what_is_below_them() {
    let workspace = workspace();
    let rules: BTreeMap<_, BTreeSet<&str>> =
        MAY_KNOW.iter().map(|(name, may)| (*name, may.iter().copied().collect())).collect();
    for member in &workspace.members {
        let may = rules
            .get(member.as_str())
            .unwrap_or_else(|| panic!("{member} has no rule here; say what it may know"));
        let ours = workspace.edges[member].iter().filter(|d| workspace.members.contains(*d));
        let wrong: Vec<_> = ours.filter(|d| !may.contains(d.as_str())).collect();
        assert!(wrong.is_empty(), "{member} must not depend on {wrong:?}");
    }
    for (name, _) in MAY_KNOW {
        assert!(workspace.members.contains(*name), "rule for {name}, which does not exist");
    }
}

#[test]
fn pure_crates_bring_nothing_that_touches_the_world() {
    for pure in PURE {
        assert_free_of(pure, TOUCHES_THE_WORLD);
    }
}

#[test]
fn only_the_agent_links_libvirt() {
    for member in workspace().members.iter().filter(|m| *m != "gpuslice-libvirt") {
        assert_free_of(member, &["virt", "virt-sys"]);
    }
    assert!(brings("gpuslice-libvirt").contains("virt"));
}

#[test]
fn hooks_stay_small() {
    let workspace = workspace();
    let hooks: Vec<_> = workspace.members.iter().filter(|m| m.ends_with("-hook")).collect();
    assert!(!hooks.is_empty());
    for hook in hooks {
        assert_free_of(
            hook,
            &["gpuslice-api", "gpuslice-host", "zbus", "tokio", "udev", "tracing"],
        );
    }
}

/// Cargo does not refuse a dependency that needs a newer compiler than we promise; it only prefers others.
#[test]
fn no_dependency_needs_a_newer_compiler_than_we_state() {
    let workspace = workspace();
    let parse = |text: &str| -> Vec<u32> {
        text.split('.').map(|part| part.parse().unwrap()).chain([0; 2]).take(3).collect()
    };
    let stated = |name: &str| {
        let found = workspace.minimum.iter().find(|(n, _, _)| n == name).unwrap();
        found.2.clone().unwrap_or_else(|| panic!("{name} states no rust-version"))
    };
    let ours = stated("gpuslice-core");
    for member in &workspace.members {
        assert_eq!(stated(member), ours, "{member} states another rust-version");
    }
    for (name, version, needs) in &workspace.minimum {
        if let Some(needs) = needs {
            assert!(
                parse(needs) <= parse(&ours),
                "{name} {version} needs Rust {needs}, we state {ours}"
            );
        }
    }
    let clippy = std::fs::read_to_string(gpuslice_integration::root().join("clippy.toml")).unwrap();
    let clippy: toml::Table = clippy.parse().unwrap();
    assert_eq!(clippy["msrv"].as_str(), Some(ours.as_str()), "clippy.toml: msrv");
}

/// By which names of the standard library the world is touched, and time and chance come in.
const WORLD: &[&str] = &[
    "std::fs",
    "std::env",
    "std::process",
    "std::thread",
    "std::net",
    "std::os",
    "std::io::std",
    "Instant::now",
    "SystemTime",
    "RandomState",
];

#[test]
fn pure_crates_name_nothing_of_the_world() {
    let mut looked = 0;
    for path in gpuslice_integration::files() {
        let text = path.to_string_lossy();
        let pure = PURE.iter().any(|name| text.starts_with(&format!("crates/{name}/src/")));
        if !pure
            || !text.ends_with(".rs")
            || text.ends_with("/tests.rs")
            || text.contains("/tests/")
        {
            continue;
        }
        looked += 1;
        let source = std::fs::read_to_string(gpuslice_integration::root().join(&path)).unwrap();
        let product = source.split("#[cfg(test)]\nmod tests {").next().unwrap();
        let code = product.lines().filter(|line| !line.trim_start().starts_with("//"));
        for (at, line) in code.enumerate() {
            let found = WORLD.iter().find(|name| line.contains(**name));
            assert_eq!(found, None, "{text}: line of code {at}: {line}");
        }
    }
    assert!(looked > 100, "{looked}");
}
