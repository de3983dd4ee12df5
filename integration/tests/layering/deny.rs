//! deny.toml is held to without cargo-deny: which licences a dependency may have, that each has a version and that all come
//! from the registry. The lists are that file's own. A key in it that is not understood here fails, so that nothing stands
//! there and is checked by nobody.

use super::cargo;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;

/// Where crates come from when no registry is named.
const REGISTRY: &str = "registry+https://github.com/rust-lang/crates.io-index";

fn deny() -> toml::Table {
    let text = fs::read_to_string(gpuslice_integration::root().join("deny.toml")).unwrap();
    text.parse().unwrap()
}

/// Checks that a table has these keys and no other.
#[track_caller]
fn has_keys(table: &toml::Table, keys: &[&str]) {
    let there: BTreeSet<&str> = table.keys().map(String::as_str).collect();
    assert_eq!(there, keys.iter().copied().collect(), "keys of deny.toml and what is known here");
}

fn texts(value: &toml::Value) -> BTreeSet<&str> {
    value.as_array().unwrap().iter().map(|text| text.as_str().unwrap()).collect()
}

/// Every package that the host's build, its tests or its build scripts take.
fn packages(deny: &toml::Table) -> Vec<Value> {
    let mut arguments = vec!["metadata".to_owned(), "--format-version=1".to_owned()];
    let targets = texts(&deny["graph"]["targets"]).into_iter();
    arguments.extend(targets.map(|target| format!("--filter-platform={target}")));
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let data: Value = serde_json::from_slice(&cargo(&arguments)).unwrap();
    data["packages"].as_array().unwrap().clone()
}

fn name(package: &Value) -> &str {
    package["name"].as_str().unwrap()
}

/// Whether an SPDX expression can be met with these licences alone. The slash is what crates wrote before there was `OR`.
fn met(expression: &str, allowed: &BTreeSet<&str>) -> bool {
    let spaced = expression.replace('(', " ( ").replace(')', " ) ").replace('/', " OR ");
    let mut words = spaced.split_whitespace().peekable();
    let met = any(&mut words, allowed);
    assert_eq!(words.next(), None, "{expression}");
    met
}

type Words<'w> = std::iter::Peekable<std::str::SplitWhitespace<'w>>;

fn any(words: &mut Words<'_>, allowed: &BTreeSet<&str>) -> bool {
    let mut met = all(words, allowed);
    while words.next_if_eq(&"OR").is_some() {
        met |= all(words, allowed);
    }
    met
}

fn all(words: &mut Words<'_>, allowed: &BTreeSet<&str>) -> bool {
    let mut met = one(words, allowed);
    while words.next_if_eq(&"AND").is_some() {
        met &= one(words, allowed);
    }
    met
}

fn one(words: &mut Words<'_>, allowed: &BTreeSet<&str>) -> bool {
    let word = words.next().unwrap();
    if word == "(" {
        let met = any(words, allowed);
        assert_eq!(words.next(), Some(")"));
        return met;
    }
    if words.next_if_eq(&"WITH").is_some() {
        return allowed.contains(format!("{word} WITH {}", words.next().unwrap()).as_str());
    }
    allowed.contains(word)
}

#[test]
fn expressions_are_read_as_spdx_says() {
    let allowed = ["MIT", "Unicode-3.0", "Apache-2.0 WITH LLVM-exception"].into();
    for (expression, want) in [
        ("MIT", true),
        ("GPL-3.0", false),
        ("Apache-2.0", false),
        ("MIT OR GPL-3.0", true),
        ("GPL-3.0/MIT", true),
        ("MIT AND GPL-3.0", false),
        ("Apache-2.0 WITH LLVM-exception OR GPL-3.0", true),
        ("GPL-3.0 OR MIT AND Apache-2.0", false),
        ("(GPL-3.0 OR MIT) AND Unicode-3.0", true),
    ] {
        assert_eq!(met(expression, &allowed), want, "{expression}");
    }
}

#[test]
fn every_licence_is_allowed() {
    let deny = deny();
    has_keys(&deny, &["graph", "licenses", "bans", "sources"]);
    let licences = deny["licenses"].as_table().unwrap();
    has_keys(licences, &["allow", "exceptions"]);
    let allowed = texts(&licences["allow"]);
    let mut exceptions: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for exception in licences["exceptions"].as_array().unwrap() {
        let exception = exception.as_table().unwrap();
        has_keys(exception, &["crate", "allow"]);
        exceptions.insert(exception["crate"].as_str().unwrap(), texts(&exception["allow"]));
    }
    let packages = packages(&deny);
    assert!(packages.len() > 100, "the dependencies were not found");
    for package in &packages {
        let name = name(package);
        let expression = package["license"].as_str();
        let expression = expression.unwrap_or_else(|| panic!("{name} has no licence"));
        let extra = exceptions.remove(name).unwrap_or_default();
        let allowed = allowed.union(&extra).copied().collect();
        assert!(
            met(expression, &allowed),
            "{name} is {expression}, which deny.toml does not allow"
        );
    }
    assert!(exceptions.is_empty(), "for crates that are not there: {exceptions:?}");
}

#[test]
fn every_dependency_has_a_version_and_comes_from_the_registry() {
    let deny = deny();
    let bans = deny["bans"].as_table().unwrap();
    has_keys(bans, &["multiple-versions", "wildcards", "allow-wildcard-paths"]);
    assert_eq!(bans["multiple-versions"].as_str(), Some("warn"), "nothing here refuses them");
    assert_eq!(bans["wildcards"].as_str(), Some("deny"));
    let paths = bans["allow-wildcard-paths"].as_bool().unwrap();
    let sources = deny["sources"].as_table().unwrap();
    has_keys(sources, &["unknown-registry", "unknown-git"]);
    assert!(sources.values().all(|value| value.as_str() == Some("deny")), "{sources:?}");
    for package in packages(&deny) {
        let name = name(&package);
        match package["source"].as_str() {
            None => assert!(name.starts_with("gpuslice"), "{name} is a folder of nobody's"),
            Some(source) => assert_eq!(source, REGISTRY, "{name}"),
        }
        for needed in package["dependencies"].as_array().unwrap() {
            let free = needed["req"].as_str() == Some("*");
            let ours = paths && needed["path"].is_string();
            assert!(!free || ours, "{name} takes any version of {}", needed["name"]);
        }
    }
}
