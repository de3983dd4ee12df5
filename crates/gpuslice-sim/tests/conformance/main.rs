//! The scripts of `integration/lab/conformance`, which the lab runs on a real kernel, run on the simulated one. They ask
//! through pipes, a question after the other; what they find out has to be what the lab recorded, in that order. A fact
//! whose name begins with `lab.` only the lab can know.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking, and what it calls does too"
)]

mod answers;

use answers::Machine;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

fn scripts() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../integration/lab/conformance")
}

/// A word, or nothing at the end.
fn word(from: &mut impl BufRead) -> Option<String> {
    let mut bytes = Vec::new();
    from.read_until(0, &mut bytes).unwrap();
    (bytes.pop()? == 0).then(|| String::from_utf8(bytes).unwrap())
}

/// Answers until the script has ended.
fn talk(script: &mut Child, machine: &mut Machine) {
    let mut asks = BufReader::new(script.stdout.take().unwrap());
    let mut answers = script.stdin.take().unwrap();
    while let Some(count) = word(&mut asks) {
        let count: usize = count.parse().expect("a question begins with its number of words");
        let words: Vec<String> = (0..count).map(|_| word(&mut asks).unwrap()).collect();
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let answer = machine.answer(&words);
        let status = u8::from(!answer.done);
        // One who asked in a pipeline may be gone.
        let _ = answers.write_all(format!("{status}{}\0", answer.text).as_bytes());
    }
}

fn the_lab_saw_the_same(list: &str, host: &str) {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("conformance-{list}"));
    fs::create_dir_all(&folder).unwrap();
    let mut machine = Machine::new(host, &folder);
    let mut script = Command::new("bash")
        .arg(scripts().join("on-simulator.sh"))
        .arg(list)
        .current_dir(&folder)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(fs::File::create(folder.join("log")).unwrap())
        .spawn()
        .unwrap();
    talk(&mut script, &mut machine);
    let ended = script.wait().unwrap();
    let log = fs::read_to_string(folder.join("log")).unwrap();
    assert!(ended.success() && machine.failures.is_empty(), "{:#?}\n{log}", machine.failures);

    let recorded = fs::read_to_string(scripts().join(format!("{list}.txt"))).unwrap();
    let recorded: Vec<&str> = recorded.lines().filter(|line| !line.starts_with("lab.")).collect();
    let here: Vec<&str> = machine.facts.iter().map(String::as_str).collect();
    let only = |these: &[&str], those: &[&str], whose: &str| -> Vec<String> {
        let others = these.iter().filter(|fact| !those.contains(fact));
        others.map(|fact| format!("{whose}: {fact}")).collect()
    };
    let mut differ = only(&recorded, &here, "lab ");
    differ.extend(only(&here, &recorded, "here"));
    assert!(differ.is_empty(), "{}\n{log}", differ.join("\n"));
    assert_eq!(here, recorded, "the order differs");
}

#[test]
fn of_the_kernel() {
    the_lab_saw_the_same("plain", include_str!("plain.toml"));
}

#[test]
fn of_nvidia() {
    the_lab_saw_the_same("nvidia", include_str!("nvidia.toml"));
}

#[test]
fn of_amd() {
    the_lab_saw_the_same("amd", include_str!("amd.toml"));
}
