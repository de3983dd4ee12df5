//! Completions in the shells that they are for: what a person gets who types the begin of a word and then TAB.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking; its shared functions are not marked as tests"
)]

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

/// What is typed, and the only word that its end can become.
const TYPED: [(&str, &str); 5] = [
    ("gpuslice att", "attach"),
    ("gpuslice unc", "uncordon"),
    ("gpuslice export pro", "proxmox"),
    ("gpuslice attach --fab", "--fabric"),
    ("gpuslice attach --fabric s", "same"),
];

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
"#;

/// zsh completes only at a terminal: it is given one, with a command of this name that says what it was called with.
const ZSH: &str = r#"
zmodload zsh/zpty
zpty -b shell TERM=vt100 zsh -f -i
zpty -w shell "fpath=($1 \$fpath); autoload -Uz compinit; compinit -u -d $1/dump"
zpty -w shell 'gpuslice() { print -r -- "GO""T:$argv[-1]:" }; PS1=; print REA""DY'
zpty -r shell said '*READY*'
zpty -w -n shell "$2"$'\t\n'
zpty -r shell said '*GOT:*:*'
said=${said##*GOT:}
print -r -- ${said%%:*}
"#;

/// Has a shell complete everything, or says that it is not there.
fn completes(shell: &str, file: &str, options: &[&str], script: &str) {
    if Command::new(shell).arg("--version").stdout(Stdio::null()).status().is_err() {
        return println!("SKIPPED: completions in {shell}: it is not installed");
    }
    let dir = tempfile::tempdir().unwrap();
    let made = Command::new(env!("CARGO_BIN_EXE_gpuslice")).args(["completions", shell]).output();
    fs::write(dir.path().join(file), made.unwrap().stdout).unwrap();
    for (typed, want) in TYPED {
        assert_eq!(said(shell, options, script, dir.path(), typed), [want], "{shell}: {typed}");
    }
}

fn said(shell: &str, options: &[&str], script: &str, dir: &Path, typed: &str) -> Vec<String> {
    let mut command = Command::new("timeout");
    command.args(["60", shell]).args(options).args(["-c", script]);
    if shell != "fish" {
        command.arg(shell);
    }
    let command = command.arg(dir).arg(typed).env("HOME", dir).stdin(Stdio::null());
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
