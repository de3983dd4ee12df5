//! The command line against the real daemon on simulated hosts: what a person sees, word for word.
//!
//! `cases/NAME.trycmd` is a session in order, `cases/NAME.toml` the configuration it finds. After a change that is
//! meant, `TRYCMD=overwrite cargo test -p gpuslice-integration --test cli` writes the new words.

#![cfg(test)]

use gpuslice_integration::{programs, root};
use std::path::Path;
use std::process::Command;

/// Which session, given to this program when it runs again beside a daemon.
const SESSION: &str = "GPUSLICE_TEST_SESSION";

/// Runs the session beside a daemon on a simulated host.
fn session(name: &str, host: &str) {
    let bin = programs(&["gpusliced", "gpuslice", "sim-control"]);
    let own = std::env::current_exe().unwrap();
    let out = Command::new(root().join("integration/sim-host"))
        .args(["--sim", host])
        .arg(own)
        .args(["--ignored", "--exact", "inside", "--nocapture"])
        .env("GPUSLICE_BIN", bin)
        .env(SESSION, name)
        .env_remove("RUST_BACKTRACE")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&out.stdout) + String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "{said}");
    assert!(said.contains("1 passed"), "the session did not run: {said}");
}

#[test]
fn sriov() {
    session("sriov-8", "sriov-8");
}

#[test]
fn parked() {
    session("parked", "mdev");
}

#[test]
fn mdev() {
    session("mdev", "mdev");
}

#[test]
fn mdevs_on_vfs() {
    let host = root().join("examples/hosts/a40-mdev.toml");
    session("a40-mdev", host.to_str().unwrap());
}

#[test]
fn vendor_vfio() {
    let host = root().join("examples/hosts/a40-vfio.toml");
    session("a40-vfio", host.to_str().unwrap());
}

#[test]
fn what_comes_with_a_boot() {
    let host = root().join("examples/hosts/t4-l40s.toml");
    session("scheduler", host.to_str().unwrap());
}

#[test]
fn gim() {
    let host = root().join("examples/hosts/mi300x-8.toml");
    session("mi300x-8", host.to_str().unwrap());
}

#[test]
fn hive() {
    let host = root().join("examples/hosts/mi300x-8.toml");
    session("hive", host.to_str().unwrap());
}

#[test]
fn bare_metal() {
    let host = root().join("examples/hosts/mi300x-amdgpu.toml");
    session("mi300x-amdgpu", host.to_str().unwrap());
}

#[test]
fn gpus_that_are_unwell() {
    let host = root().join("examples/hosts/mi300x-8.toml");
    session("unwell", host.to_str().unwrap());
}

#[test]
fn gpus_that_fail() {
    session("failing", "sriov-8");
}

#[test]
fn gpus_that_cannot_be_sliced() {
    let host = root().join("examples/hosts/consumer.toml");
    session("consumer", host.to_str().unwrap());
}

#[test]
fn reasons() {
    session("explain", "sriov-8");
}

/// A session in which there is nobody to be asked.
fn alone(name: &str) {
    let bin = programs(&["gpuslice"]);
    trycmd::TestCases::new()
        .register_bin("gpuslice", bin.join("gpuslice"))
        .env("GPUSLICE_SOCKET", "/nonexistent")
        .env("GPUSLICE_BUS_ADDRESS", "unix:path=/nonexistent")
        .case(root().join(format!("integration/cases/{name}.trycmd")));
}

#[test]
fn hosts_that_are_written_down() {
    alone("host-files");
}

#[test]
fn mappings_of_proxmox() {
    alone("export-proxmox");
}

#[test]
fn codes_without_a_daemon() {
    alone("explain-codes");
}

#[test]
fn json_is_laid_out_for_a_terminal_alone() {
    let gpuslice = programs(&["gpuslice"]).join("gpuslice");
    let explain = ["explain", "held", "--json"];
    let piped = Command::new(&gpuslice).args(explain).output().unwrap().stdout;
    let piped = String::from_utf8(piped).unwrap();
    let value: serde_json::Value = serde_json::from_str(&piped).unwrap();
    assert_eq!(piped.lines().count(), 1);

    let shown = Command::new("script")
        .args(["--quiet", "--return", "--command", &format!("\"$PROGRAM\" {}", explain.join(" "))])
        .arg("/dev/null")
        .env("PROGRAM", gpuslice)
        .env("SHELL", "/bin/sh")
        .output()
        .unwrap();
    let shown = String::from_utf8(shown.stdout).unwrap().replace("\r\n", "\n");
    assert!(shown.starts_with("{\n  \"code\": \"held\",\n  "), "{shown}");
    assert_eq!(serde_json::from_str::<serde_json::Value>(&shown).unwrap(), value);
}

#[test]
fn bad_config() {
    session("bad-config", "sriov-8");
}

#[test]
#[ignore = "run by the others, beside a daemon"]
fn inside() {
    let name = std::env::var(SESSION).unwrap();
    let config = std::env::var("SIM_CONFIG").unwrap();
    let cases = root().join("integration/cases");
    let given = cases.join(format!("{name}.toml"));
    if given.exists() {
        std::fs::copy(given, Path::new(&config).join("gpuslice.toml")).unwrap();
    }
    let bin = programs(&["gpuslice", "sim-control"]);
    trycmd::TestCases::new()
        .register_bin("gpuslice", bin.join("gpuslice"))
        .register_bin("sim-control", bin.join("sim-control"))
        .insert_var("[CONFIG]", config)
        .unwrap()
        .insert_var("[VERSION]", env!("CARGO_PKG_VERSION"))
        .unwrap()
        .case(cases.join(format!("{name}.trycmd")));
}
