//! No command in the documentation that nothing runs, no sample that nothing reads.
//!
//! A fenced block's first line says by what it is proven:
//!
//! - `sh`: run here, line by line, beside a daemon on a simulated host whose first card is laid out.
//! - `sh lab:NAME`: the lab's scenario of that name does the same with a real libvirtd.
//! - `sh step:NAME`: a step of `integration/test` runs it (`all` is that command itself; of `stage`, which
//!   installs into the system, only the words are compared: the lab installs the same packages).
//! - `toml`: read by the daemon's reader of configurations. `xml`: well formed.
//! - `text`: a picture or a table, no command.

#![cfg(test)]

use gpuslice_core::config;
use gpuslice_integration::{programs, root};
use std::fs;
use std::process::Command;

const PAGES: &[&str] = &["README.md", "ARCHITECTURE.md", "udev-rules/README.md"];

struct Block {
    at: String,
    info: String,
    text: String,
}

fn blocks() -> Vec<Block> {
    PAGES
        .iter()
        .flat_map(|page| {
            let text =
                fs::read_to_string(root().join(page)).unwrap_or_else(|e| panic!("{page}: {e}"));
            blocks_of(page, &text)
        })
        .collect()
}

fn blocks_of(page: &str, text: &str) -> Vec<Block> {
    let mut found = Vec::new();
    let mut open: Option<Block> = None;
    for (number, line) in (1..).zip(text.lines()) {
        match (line.strip_prefix("```"), &mut open) {
            (Some(info), None) => {
                let at = format!("{page}:{number}");
                open = Some(Block { at, info: info.to_owned(), text: String::new() });
            }
            (Some(""), Some(_)) => found.extend(open.take()),
            (_, Some(block)) => {
                block.text.push_str(line);
                block.text.push('\n');
            }
            (None, None) => {}
        }
    }
    assert!(open.is_none(), "{page}: a block is not closed");
    found
}

/// Whether a scenario, with what all scenarios share, has every command of a block, whatever its arguments.
fn lab_runs(scenario: &str, commands: &str) -> bool {
    let folder = root().join("integration/lab/scenarios");
    let read =
        |name: &str| fs::read_to_string(folder.join(format!("{name}.sh"))).unwrap_or_default();
    let own = read(scenario);
    let sourced =
        own.lines().filter_map(|line| line.strip_prefix(". /lab/scenarios/")?.strip_suffix(".sh"));
    let script: String =
        [scenario, "domains", "lib"].into_iter().chain(sourced).map(read).collect();
    !own.is_empty()
        && commands.lines().all(|line| {
            let words: Vec<_> = line.split(' ').take(2).collect();
            script.contains(&words.join(" "))
        })
}

#[test]
fn every_block_is_proven_by_something() {
    let test = fs::read_to_string(root().join("integration/test")).unwrap();
    let ci = fs::read_to_string(root().join(".ci/run")).unwrap();
    let mut commands = 0;
    for Block { at, info, text } in blocks() {
        match info.split_once(' ').unwrap_or((&info, "")) {
            ("text", "") => {}
            ("sh", "") => commands += 1,
            ("sh", by) => {
                let proven = match by.split_once(':') {
                    Some(("lab", name)) => lab_runs(name, &text),
                    Some(("step", "all")) => {
                        text == "integration/test\n" && ci.contains("integration/test")
                    }
                    Some(("step", "stage")) => text == "integration/install\n",
                    Some(("step", name)) => {
                        test.contains(&format!("do_{name}() {{ {}; }}", text.trim_end()))
                    }
                    _ => false,
                };
                assert!(proven, "{at}: nothing proves ```{info}");
                commands += 1;
            }
            ("toml", "") => {
                let files = [(at.clone(), text)];
                config::parse(&files).unwrap_or_else(|errors| panic!("{at}: {errors:#?}"));
            }
            ("xml", "") => {
                roxmltree::Document::parse(&text).unwrap_or_else(|e| panic!("{at}: {e}"));
            }
            _ => panic!("{at}: ```{info} is none of sh, toml, xml, text"),
        }
    }
    assert!(commands >= 5, "the blocks were not found");
}

#[test]
fn commands_do_what_the_page_says() {
    let bin = programs(&["gpusliced", "gpuslice"]);
    let mut script = "set -euo pipefail\n\
        printf '[[gpu]]\\nmatch = { vendor-device = \"1002:74a1\" }\\nlayout = { vfs = 8 }\\n' > $SIM_CONFIG/gpuslice.toml\n\
        gpuslice apply > /dev/null\n"
        .to_owned();
    for block in blocks().into_iter().filter(|block| block.info == "sh") {
        for line in block.text.lines() {
            script.push_str(&format!("echo '{}: {}'\n{line}\n", block.at, line.replace('\'', "")));
        }
    }
    let out = Command::new(root().join("integration/sim-host"))
        .args(["--sim", "sriov-8", "bash", "-c", &script])
        .env("GPUSLICE_BIN", bin)
        .output()
        .unwrap();
    assert!(
        out.status.success(),
        "{}\n{}",
        String::from_utf8_lossy(&out.stdout),
        String::from_utf8_lossy(&out.stderr)
    );
}

#[test]
fn links_lead_somewhere() {
    for page in PAGES {
        let text = fs::read_to_string(root().join(page)).unwrap();
        let folder = root().join(page).parent().unwrap().to_owned();
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            if !link.starts_with("http") && !link.starts_with('#') {
                assert!(folder.join(link).exists(), "{page}: {link} does not exist");
            }
        }
        // Commands and paths in the running text, too.
        for path in text.split('`').skip(1).step_by(2) {
            let word = path.split(' ').next().unwrap_or(path);
            let ours = ["integration/", "crates/", "examples/", "libvirt-hooks/", "udev-rules/"];
            if ours.iter().any(|p| word.starts_with(p)) && !word.contains(['*', '{']) {
                assert!(root().join(word).exists(), "{page}: {word} does not exist");
            }
        }
    }
}

/// The table of refusals names codes that exist.
#[test]
fn refusal_codes_are_real() {
    let readme = fs::read_to_string(root().join("README.md")).unwrap();
    let known: Vec<_> =
        gpuslice_core::refusal::Code::ALL.iter().map(|code| code.as_str()).collect();
    let mut named = 0;
    let table = readme.lines().skip_while(|line| !line.starts_with("| code |")).skip(2);
    for row in table.take_while(|line| line.starts_with('|')) {
        let cell = row.split('|').nth(1).unwrap();
        for code in cell.split('`').skip(1).step_by(2) {
            assert!(known.contains(&code), "README.md: no refusal has the code {code:?}");
            named += 1;
        }
    }
    assert!(named >= 5);
}
