//! What a word that is being typed can become, as only this host knows: names of VMs, claims, slices, GPUs and profiles. The
//! completions of the shells ask for it at each TAB, so it is quick or silent, and starts no daemon.

use crate::args::Arguments;
use crate::claims;
use crate::doctor::{System, Tree};
use clap::{Arg, Command, CommandFactory};
use gpuslice_api::{Client, Transport};
use gpuslice_core::ids::Owner;
use gpuslice_core::refusal::Code;
use gpuslice_core::request::{self, Answer, ClaimRow};
use std::collections::BTreeSet;
use std::io::Write;
use std::time::{Duration, Instant};

/// Where this is set, the arguments are what is typed, the last of them up to the cursor, and the words that the last can
/// become are printed. A command for it would stand in the list of those that people type.
pub const ENV: &str = "GPUSLICE_COMPLETE";

/// Whoever types waits no longer.
const PATIENCE: Duration = Duration::from_millis(700);

/// What a word names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Domain,
    /// A domain that has claims, or one of its claims.
    Claimed,
    /// Name of a claim of the domain that is typed before.
    ClaimOf,
    Profile,
    Parent,
    /// Whatever has a past.
    Past,
    /// Whatever can be explained.
    Explained,
}

/// What is typed before the last word, as far as it decides what that can be.
struct Typed<'a> {
    kind: Kind,
    positional: Vec<&'a str>,
}

/// Prints the words, one a line.
pub fn print(typed: &[String]) {
    let found = words(typed);
    let mut text = found.into_iter().collect::<Vec<_>>().join("\n");
    if !text.is_empty() {
        text.push('\n');
        // A shell that has gone needs none.
        let _ = std::io::stdout().write_all(text.as_bytes());
    }
}

fn words(typed: &[String]) -> BTreeSet<String> {
    let Some((last, before)) = typed.split_last() else { return BTreeSet::new() };
    let Some(typed) = read(before, last) else { return BTreeSet::new() };
    let mut all = BTreeSet::new();
    if typed.kind == Kind::Explained {
        all.extend(Code::ALL.iter().map(|code| code.as_str().to_owned()));
    }
    if typed.kind == Kind::Domain {
        all.extend(defined());
    }
    all.extend(told(&typed).unwrap_or_default());
    all.retain(|word| word.starts_with(last.as_str()) && !word.chars().any(char::is_control));
    all
}

/// What the definition of the commands says of a word behind others.
fn read<'a>(before: &'a [String], last: &str) -> Option<Typed<'a>> {
    if last.starts_with('-') {
        return None;
    }
    let mut root = Arguments::command();
    root.build();
    let (mut at, mut positional, mut awaits) = (&root, Vec::new(), None);
    for word in before {
        let option = word.strip_prefix("--").filter(|option| !option.is_empty());
        if awaits.take().is_some() {
        } else if let Some(option) = option {
            awaits = at.get_arguments().find(|arg| arg.get_long() == Some(option) && takes(arg));
        } else if let Some(below) = at.find_subcommand(word).filter(|_| positional.is_empty()) {
            at = below;
        } else if !word.starts_with('-') {
            positional.push(word.as_str());
        }
    }
    let arg = awaits.or_else(|| argument(at, positional.len()))?;
    let kind = kind(at.get_name(), arg.get_id().as_str())?;
    Some(Typed { kind, positional })
}

/// Whether an option's value is the word behind it.
fn takes(arg: &Arg) -> bool {
    arg.get_action().takes_values() && !arg.is_require_equals_set()
}

/// The argument that a word without an option is.
fn argument(at: &Command, before: usize) -> Option<&Arg> {
    let all: Vec<&Arg> = at.get_positionals().collect();
    let many = |arg: &&Arg| arg.get_num_args().is_some_and(|n| n.max_values() > 1);
    all.get(before).copied().or_else(|| all.last().copied().filter(many))
}

fn kind(command: &str, argument: &str) -> Option<Kind> {
    Some(match (command, argument) {
        ("attach" | "doctor", "domain") => Kind::Domain,
        ("detach", "domain") | ("release", "claim") => Kind::Claimed,
        ("attach" | "detach" | "release", "name") => Kind::ClaimOf,
        ("attach", "profile") | ("proxmox", "profiles") => Kind::Profile,
        ("cordon" | "uncordon", "parent") | ("drain", "parents") | ("replace", "old" | "new") => {
            Kind::Parent
        }
        ("history", "what") => Kind::Past,
        ("explain", "what") => Kind::Explained,
        _ => return None,
    })
}

/// Domains that libvirt keeps on this host, for those who may look.
fn defined() -> Vec<String> {
    let tree = Tree::from_env();
    let names = tree.names(System::of(&tree).domains());
    names.iter().filter_map(|name| name.strip_suffix(".xml")).map(str::to_owned).collect()
}

/// What the daemon knows, if one runs.
fn told(typed: &Typed<'_>) -> Option<Vec<String>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().ok()?;
    let deadline = Instant::now() + PATIENCE;
    let known = async {
        // Over a socket its calls block, and no timer of the runtime ends them.
        let client = Client::running(&Transport::from_env()).await?.until(deadline);
        let mut known = Vec::new();
        for question in questions(typed.kind) {
            known.extend(names(&client.call(question).await.ok()?, typed));
        }
        Some(known)
    };
    runtime.block_on(async { tokio::time::timeout(PATIENCE, known).await }).ok()?
}

fn questions(kind: Kind) -> Vec<request::Command> {
    use request::Command::{ListClaims, ListParents, ListProfiles, ListSlices};
    match kind {
        Kind::Domain | Kind::Claimed | Kind::ClaimOf => vec![ListClaims],
        Kind::Profile => vec![ListProfiles],
        Kind::Parent => vec![ListParents],
        Kind::Past | Kind::Explained => vec![ListClaims, ListParents, ListSlices],
    }
}

fn names(answer: &Answer, typed: &Typed<'_>) -> Vec<String> {
    match answer {
        Answer::Parents { rows } => rows.iter().map(|row| row.parent.to_string()).collect(),
        Answer::Profiles { rows } => rows.iter().map(|row| row.profile.to_string()).collect(),
        Answer::Slices { rows } => rows.iter().map(|row| row.slice.to_string()).collect(),
        Answer::Claims { rows } => rows.iter().flat_map(|row| of_claim(row, typed)).collect(),
        _ => Vec::new(),
    }
}

fn of_claim(row: &ClaimRow, typed: &Typed<'_>) -> Vec<String> {
    let owner = match row.owner_name.as_str() {
        "" => row.claim.owner.to_string(),
        name => name.to_owned(),
    };
    match typed.kind {
        Kind::Domain if !matches!(row.claim.owner, Owner::Domain(_)) => Vec::new(),
        Kind::Domain => vec![owner],
        Kind::ClaimOf => {
            let meant = |named: &&str| *named == owner || *named == row.claim.owner.to_string();
            let of_owner = typed.positional.first().is_some_and(meant);
            of_owner.then(|| row.claim.name.to_string()).into_iter().collect()
        }
        _ => vec![owner, claims::shown(row)],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_is_what_the_commands_take_there() {
        let kind = |line: &str| {
            let words: Vec<String> = line.split(' ').map(str::to_owned).collect();
            let (last, before) = words.split_last().unwrap();
            read(before, last).map(|typed| typed.kind)
        };
        for (line, want) in [
            ("", None),
            ("att", None),
            ("attach ", Some(Kind::Domain)),
            ("attach win", Some(Kind::Domain)),
            ("--json attach win", Some(Kind::Domain)),
            ("attach --count 2 win", Some(Kind::Domain)),
            ("attach --reserve win", Some(Kind::Domain)),
            ("attach --reserve=false win", Some(Kind::Domain)),
            ("attach win11 ", Some(Kind::Profile)),
            ("attach win11 p ", None),
            ("attach win11 p --name ", Some(Kind::ClaimOf)),
            ("attach win11 p --count ", None),
            ("attach win11 p --na", None),
            ("detach ", Some(Kind::Claimed)),
            ("detach win11 ", Some(Kind::ClaimOf)),
            ("release ", Some(Kind::Claimed)),
            ("cordon ", Some(Kind::Parent)),
            ("cordon 0000:41:00.0 --reason ", None),
            ("drain 0000:41:00.0 0000:42:00.0 ", Some(Kind::Parent)),
            ("replace 0000:41:00.0 ", Some(Kind::Parent)),
            ("explain no", Some(Kind::Explained)),
            ("history ", Some(Kind::Past)),
            ("export ", None),
            ("export proxmox ", Some(Kind::Profile)),
            ("doctor ", Some(Kind::Domain)),
            ("claims ", None),
        ] {
            assert_eq!(kind(line), want, "{line:?}");
        }
    }
}
