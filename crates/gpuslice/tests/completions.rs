//! Completions in the shells that they are for: what a person gets who types the begin of a word and then TAB.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking; its shared functions are not marked as tests"
)]

#[path = "../../gpuslice-api/tests/private_bus/mod.rs"]
mod private_bus;

use gpuslice_api::host::{self, HostInterface};
use gpuslice_api::names::{BUS_ADDRESS_ENV, BUS_NAME, SOCKET_ENV};
use gpuslice_api::{Admits, Caller, Handler};
use gpuslice_core::request::{Answer, Command as Order, Outcome};
use gpuslice_hook_proto::{Body, Reply, ReplyBody, Request, Served};
use private_bus::PrivateBus;
use serde_json::{Value as Json, json};
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Command, Stdio};
use zbus::fdo::DBusProxy;
use zbus::names::WellKnownName;

const UUID: &str = "8e2f2d4e-1b5f-4a4e-9f57-0d9c6f1c6a11";

/// What is typed, and the only word that its end can become.
const TYPED: [(&str, &str); 5] = [
    ("gpuslice att", "attach"),
    ("gpuslice unc", "uncordon"),
    ("gpuslice export pro", "proxmox"),
    ("gpuslice attach --fab", "--fabric"),
    ("gpuslice attach --fabric s", "same"),
];

/// The same of names that only the host knows.
const NAMES: [(&str, &str); 9] = [
    ("gpuslice attach we", "web"),
    ("gpuslice attach ma", "mail"),
    ("gpuslice attach web nvi", "nvidia-a40-8q"),
    ("gpuslice attach mail nvidia-a40-8q --name ca", "cad"),
    ("gpuslice detach mail/", "mail/cad"),
    ("gpuslice release mail c", "cad"),
    ("gpuslice cordon 0000:41:0", "0000:41:00.0"),
    ("gpuslice explain vf:0000:4", "vf:0000:41:00.4"),
    ("gpuslice explain unsl", "unsliceable"),
];

/// What a daemon says to each question.
fn told(order: &Order) -> Json {
    let slice = "vf:0000:41:00.4";
    match order {
        Order::ListClaims => json!({"answer": "claims", "rows": [
            {"claim": format!("{UUID}/cad"), "owner_name": "mail", "profile": "nvidia-a40-8q",
             "count": 1, "state": "idle", "slices": [], "home": []}]}),
        Order::ListParents => json!({"answer": "parents", "rows": [
            {"parent": "0000:41:00.0", "pci_id": "10de:2235", "mechanisms": [], "state": "ok",
             "assigned": 0}]}),
        Order::ListProfiles => json!({"answer": "profiles", "rows": [
            {"profile": "nvidia-a40-8q", "mechanism": "mdev", "isolation": "shared", "free": 1,
             "used": 0, "parents": []}]}),
        Order::ListSlices => json!({"answer": "slices", "rows": [
            {"slice": slice, "parent": "0000:41:00.0", "mechanism": "sriov", "state": "free"}]}),
        other => panic!("no list: {other:?}"),
    }
}

/// Says the same on a bus.
struct Daemon;

impl Admits for Daemon {}

impl Handler for Daemon {
    async fn call(&self, _: Caller, order: Order) -> Outcome {
        Ok(serde_json::from_value(told(&order)).unwrap())
    }
}

/// Answers whoever comes, until the test is over.
fn daemon(socket: &Path) {
    let listener = UnixListener::bind(socket).unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut reader = BufReader::new(stream.unwrap());
            let mut line = String::new();
            while reader.read_line(&mut line).unwrap_or_default() > 0 {
                let request = Request::from_line(line.as_bytes()).unwrap();
                let Body::Command(order) = request.body else { panic!("no command: {line}") };
                let answer: Answer = serde_json::from_value(told(&order)).unwrap();
                let body = ReplyBody::Ok(Served::Command(Box::new(answer)));
                let reply = Reply::new(request.id, body).to_line().unwrap();
                reader.get_mut().write_all(reply.as_bytes()).unwrap();
                line.clear();
            }
        }
    });
}

/// In bash the completion is a function that is called with what was typed.
const BASH: &str = r#"
source "$1/gpuslice"
read -ra COMP_WORDS <<< "$2"
COMP_CWORD=$((${#COMP_WORDS[@]} - 1)) COMP_LINE=$2 COMP_POINT=${#2}
handler=$(complete -p gpuslice | sed 's/.*-F \([^ ]*\).*/\1/')
"$handler" gpuslice "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD - 1]}"
printf '%s\n' "${COMPREPLY[@]}"
"#;

/// fish says what it would offer.
const FISH: &str = r#"
source $argv[1]/gpuslice
complete -C $argv[2] | string split -f 1 \t
# Names have no remark behind them to be cut off.
true
"#;

/// zsh completes only at a terminal: it is given one, with a command of this name that says what it was called with.
const ZSH: &str = r#"
zmodload zsh/zpty
zpty -b shell TERM=vt100 zsh -f -i
zpty -w shell "fpath=($1 \$fpath); autoload -Uz compinit; compinit -u -d $1/dump"
zpty -w shell "path=($3 \$path)"
zpty -w shell 'gpuslice() { print -r -- "GO""T=$argv[-1]=" }; PS1=; print REA""DY'
zpty -r shell said '*READY*'
zpty -w -n shell "$2"$'\t\n'
zpty -r shell said '*GOT=*=*'
said=${said##*GOT=}
print -r -- ${said%%=*}
"#;

/// Has a shell complete everything, or says that it is not there.
fn completes(shell: &str, file: &str, options: &[&str], script: &str) {
    if Command::new(shell).arg("--version").stdout(Stdio::null()).status().is_err() {
        return println!("SKIPPED: completions in {shell}: it is not installed");
    }
    let dir = tempfile::tempdir().unwrap();
    let made = Command::new(env!("CARGO_BIN_EXE_gpuslice")).args(["completions", shell]).output();
    fs::write(dir.path().join(file), made.unwrap().stdout).unwrap();
    // While no daemon runs there are no names, and nothing is said of that.
    for (typed, want) in TYPED {
        assert_eq!(said(shell, options, script, dir.path(), typed), [want], "{shell}: {typed}");
    }
    fs::create_dir_all(dir.path().join("etc/libvirt/qemu/networks")).unwrap();
    fs::write(dir.path().join("etc/libvirt/qemu/web.xml"), "").unwrap();
    daemon(&dir.path().join("sock"));
    // An option's value fish takes from what is said of that option alone.
    let asked = |(typed, _): &(&str, &str)| shell != "fish" || !typed.contains(" --name ");
    for (typed, want) in NAMES.into_iter().filter(asked).chain(TYPED) {
        let said = said(shell, options, script, dir.path(), typed);
        // For bash a word begins behind each colon that is typed.
        let typed_word = typed.rsplit(' ').next().unwrap();
        let cut = typed_word.rfind(':').filter(|_| shell == "bash").map_or(0, |at| at + 1);
        let want = &want[cut..];
        assert_eq!(said, [want], "{shell}: {typed}");
    }
}

fn said(shell: &str, options: &[&str], script: &str, dir: &Path, typed: &str) -> Vec<String> {
    let programs = Path::new(env!("CARGO_BIN_EXE_gpuslice")).parent().unwrap();
    let mut command = Command::new("timeout");
    command.args(["60", shell]).args(options).args(["-c", script]);
    if shell != "fish" {
        command.arg(shell);
    }
    let path = std::env::var("PATH").unwrap();
    command.arg(dir).arg(typed).arg(programs).stdin(Stdio::null());
    command.env("HOME", dir).env("PATH", format!("{}:{path}", programs.display()));
    // A daemon of nobody, and the domains of a host of its own.
    command.env("GPUSLICE_SOCKET", dir.join("sock")).env("GPUSLICE_ROOT", dir);
    let out = command.output().unwrap();
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    let words: Vec<String> = text.lines().map(|line| line.trim().to_owned()).collect();
    assert!(out.status.success(), "{shell}: {typed}: {out:?}");
    words
}

#[test]
fn in_bash() {
    completes("bash", "gpuslice", &["--norc", "--noprofile"], BASH);
}

#[test]
fn in_zsh() {
    completes("zsh", "_gpuslice", &["-f"], ZSH);
}

#[test]
fn in_fish() {
    completes("fish", "gpuslice", &["--no-config"], FISH);
}

/// The words that the last one typed can become, as a shell asks for them.
async fn printed(way: &str, to: &str, typed: &str) -> String {
    let mut command = tokio::process::Command::new("timeout");
    command.args(["20", env!("CARGO_BIN_EXE_gpuslice")]).args(typed.split(' '));
    command.env_remove(BUS_ADDRESS_ENV).env_remove(SOCKET_ENV);
    command.env("GPUSLICE_COMPLETE", "1").env(way, to).stdin(Stdio::null());
    let out = command.output().await.unwrap();
    assert!(out.status.success(), "{typed}: {out:?}");
    String::from_utf8(out.stdout).unwrap()
}

#[tokio::test]
async fn a_daemon_on_the_bus_tells_names() {
    let bus = PrivateBus::start();
    let connection = bus.connect().await;
    host::serve(&connection, HostInterface::new(Daemon, "0.1.0")).await.unwrap();
    for (typed, want) in [
        ("cordon 0000:4", "0000:41:00.0\n"),
        ("attach mail nv", "nvidia-a40-8q\n"),
        ("detach mail/", "mail/cad\n"),
        ("explain vf:", "vf:0000:41:00.4\n"),
        ("cordon 0000:5", ""),
    ] {
        assert_eq!(printed(BUS_ADDRESS_ENV, bus.address(), typed).await, want, "{typed}");
    }
}

#[tokio::test]
async fn no_daemon_is_started_for_a_word() {
    let dir = tempfile::tempdir().unwrap();
    let mark = dir.path().join("started");
    let start = format!("/bin/sh -c \"echo > {}; exit 1\"", mark.display());
    let bus = PrivateBus::with(&[(BUS_NAME, &start)]);
    assert_eq!(printed(BUS_ADDRESS_ENV, bus.address(), "cordon 0000:4").await, "");
    assert!(!mark.exists());
    // Whoever asks the bus for it has it started.
    let connection = bus.connect().await;
    let name = WellKnownName::from_static_str(BUS_NAME).unwrap();
    let proxy = DBusProxy::new(&connection).await.unwrap();
    proxy.start_service_by_name(name, 0).await.unwrap_err();
    assert!(mark.exists());
}

#[tokio::test]
async fn a_daemon_that_is_silent_is_not_waited_for() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("sock");
    // Whoever connects is never answered. What the lists may take otherwise is longer than the run may.
    let _listener = UnixListener::bind(&socket).unwrap();
    assert_eq!(printed(SOCKET_ENV, socket.to_str().unwrap(), "explain vf:").await, "");
}
