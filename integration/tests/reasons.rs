//! Every code has a page and every page a code: what `gpuslice explain` prints is neither missing nor of something
//! that is never said.

#![cfg(test)]

use gpuslice_core::refusal::Code;
use gpuslice_integration::{files, root};
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// Longest page that is read at night.
const LONGEST_PAGE: usize = 30;

/// Names of the pages in a folder.
fn pages(folder: &str) -> BTreeSet<String> {
    let found = files().into_iter().filter(|path| path.parent() == Some(Path::new(folder)));
    found.map(|path| path.file_stem().unwrap().to_str().unwrap().to_owned()).collect()
}

/// A code as the source names it: `no-capacity` is `NoCapacity`.
fn variant(code: &str) -> String {
    let capital = |word: &str| word[..1].to_uppercase() + &word[1..];
    code.split('-').map(capital).collect()
}

/// What the product says: its source without its tests, and without the list of codes itself.
fn said() -> String {
    let product = |path: &Path| {
        let path = path.to_str().unwrap();
        (path.starts_with("crates/") || path.starts_with("libvirt-hooks/"))
            && path.ends_with(".rs")
            && !path.contains("/tests")
            && path != "crates/gpuslice-core/src/refusal.rs"
    };
    let texts = files().into_iter().filter(|path| product(path)).map(|path| {
        let text = fs::read_to_string(root().join(path)).unwrap();
        let tests = text.find("#[cfg(test)]\nmod tests {").unwrap_or(text.len());
        text[..tests].to_owned()
    });
    texts.collect()
}

#[test]
fn every_code_has_a_page_and_every_page_a_code() {
    let codes: BTreeSet<String> = Code::ALL.iter().map(ToString::to_string).collect();
    assert_eq!(pages("crates/gpuslice-core/src/refusal/pages"), codes);
    for code in Code::ALL {
        let page = code.page();
        assert_eq!(page.code, code.as_str(), "the title of the page of {code}");
        assert!(page.is_whole(), "the page of {code} lacks a section: {page:?}");
        let lines = [page.rule, page.blocks, page.next].map(|text| text.lines().count());
        assert!(lines.iter().sum::<usize>() < LONGEST_PAGE, "the page of {code} is too long");
        assert_eq!(code.as_str().parse::<Code>(), Ok(*code));
        let first = page.meaning.chars().next();
        assert!(first.is_some_and(|c| !c.is_uppercase()), "{code}: {}", page.meaning);
    }
}

/// Made from no type: a code whose last use went away would keep its page for ever.
#[test]
fn every_code_is_said_by_something() {
    let said = said();
    // Given, not compared with: as an argument, or as one half of a pair.
    let given = |name: &str| {
        let code = format!("Code::{name}");
        said.match_indices(&code).any(|(at, _)| {
            let after = said[at + code.len()..].chars().next();
            let before = said[..at].trim_end().chars().next_back();
            after.is_some_and(|c| ",) }".contains(c) && before.is_some_and(|c| "(,{=>".contains(c)))
        })
    };
    let silent: Vec<_> = Code::ALL.iter().filter(|code| !given(&variant(code.as_str()))).collect();
    assert!(silent.is_empty(), "nothing says {silent:?}; take them out with their pages");
}

/// Codes by which a page sends on to commands: they must be ones that exist.
#[test]
fn pages_name_commands_that_exist() {
    let args = fs::read_to_string(root().join("crates/gpuslice/src/args.rs")).unwrap();
    let mut commands = 0;
    for code in Code::ALL {
        let page = code.page();
        for text in [page.rule, page.blocks, page.next] {
            for (at, lead) in text.match_indices("`gpuslice ") {
                let word = text[at + lead.len()..].split([' ', '`']).next().unwrap();
                let known = word == "help"
                    || args.contains(&format!("    {},\n", variant(word)))
                    || args.contains(&format!("    {} {{\n", variant(word)))
                    || args.contains(&format!("    {}(", variant(word)));
                assert!(known, "{code}: gpuslice {word}");
                commands += 1;
            }
        }
    }
    assert!(commands > 30, "{commands}");
}

/// `attach` and `detach` write XML through the agent; `attach --print` and `release` ask the daemon alone.
#[test]
fn what_pages_say_for_hosts_without_the_agent_needs_none() {
    let mut told = 0;
    for code in Code::ALL {
        let Some((_, without)) = code.page().next.split_once("Without the agent:") else {
            continue;
        };
        for (at, lead) in without.match_indices("`gpuslice ") {
            let order = without[at + lead.len()..].split('`').next().unwrap();
            let alone = order.starts_with("release ")
                || order.starts_with("gpus")
                || order.starts_with("attach ") && order.ends_with("--print");
            assert!(alone, "{code}: gpuslice {order}");
            told += 1;
        }
    }
    assert!(told >= 3, "{told}");
}
