//! The facts of libvirt's hooks, ours and those beside it.

use super::facts::{Hook, OtherHook};
use super::fix::PROGRAM;
use super::gather::without_comments;
use super::system::System;
use super::tree::Tree;

/// How far below qemu.d a domain's scripts lie: DOMAIN/prepare/begin/SCRIPT.
const DEEP: usize = 4;

const SELINUX: &str = "/sys/fs/selinux";

/// Ours.
pub fn own(tree: &Tree, system: &System) -> Hook {
    let place = &system.hook();
    let target = tree.resolved(place).filter(|target| tree.exists(target));
    Hook {
        unknown: target.is_none() && !tree.absent(place),
        present: tree.exists(place),
        no_folder: tree.absent(&format!("{}/qemu.d", system.hooks())),
        installed: tree.executable(PROGRAM),
        executable: target.as_ref().is_some_and(|target| tree.executable(target)),
        made_at: tree.changed_at(place),
        target,
    }
}

/// Those beside it that libvirt executes.
pub fn others(tree: &Tree, system: &System, path: Option<&str>) -> Vec<OtherHook> {
    let own = system.hook();
    let folder = format!("{}/qemu.d", system.hooks());
    let beside = tree.files(&folder, "").filter(|file| *file != own);
    let all = beside.chain([format!("{}/qemu", system.hooks())]);
    let all = all.filter(|file| tree.executable(file));
    all.map(|file| other(tree, path, file)).collect()
}

/// Scripts of single domains, which libvirt does not call itself: a widespread hook calls those in qemu.d/DOMAIN/prepare/begin
/// and beside it.
pub fn dispatched(tree: &Tree, system: &System, path: Option<&str>) -> Vec<OtherHook> {
    let mut folders = vec![format!("{}/qemu.d", system.hooks())];
    let mut found = Vec::new();
    for _ in 0..DEEP {
        folders = folders.iter().flat_map(|folder| tree.files(folder, "")).collect();
        let scripts = folders.iter().filter(|file| tree.executable(file));
        found.extend(scripts.cloned());
    }
    let of_domain = |file: &String| file.split("/qemu.d/").nth(1).is_some_and(|p| p.contains('/'));
    found.into_iter().filter(of_domain).map(|file| other(tree, path, file)).collect()
}

fn other(tree: &Tree, path: Option<&str>, file: String) -> OtherHook {
    let text = tree.text(&file).unwrap_or_default();
    let target = tree.resolved(&file).and_then(|target| tree.changed_at(&target));
    OtherHook {
        lacks: lacks(tree, &text, path),
        text: without_comments(&text),
        // A link tells nothing of when what it leads to became one.
        made_at: tree.changed_at(&file).max(target),
        file,
    }
}

/// What a script's first line wants it run by, when that is not there. A program is looked for where libvirt's own environment
/// says, as far as that may be read.
fn lacks(tree: &Tree, text: &str, path: Option<&str>) -> Option<String> {
    let line = text.split('\n').next()?.strip_prefix("#!")?;
    let mut words = line.split([' ', '\t']).filter(|word| !word.is_empty());
    let interpreter = words.next()?;
    if tree.absent(interpreter) {
        return Some(interpreter.to_owned());
    }
    let program = words.find(|word| !word.starts_with('-'))?;
    if !interpreter.ends_with("/env") || program.contains(['/', '=']) {
        return None;
    }
    let nowhere = path?.split(':').all(|folder| tree.absent(&format!("{folder}/{program}")));
    nowhere.then(|| program.to_owned())
}

/// SELinux enforces.
pub fn enforces(tree: &Tree) -> bool {
    tree.text(&format!("{SELINUX}/enforce")).as_deref() == Some("1")
}

/// What libvirt passes on its way to the hook, the hook last.
pub fn way(hook: &Hook, system: &System) -> Vec<String> {
    let folder = system.hooks();
    let link = system.hook();
    let target = hook.target.clone().filter(|target| *target != link);
    [folder.to_owned(), format!("{folder}/qemu.d"), link].into_iter().chain(target).collect()
}

/// What of it has another label than the policy has for it. Which that is, restorecon knows, and with -n it changes nothing.
pub fn mislabelled(tree: &Tree, way: &[String]) -> Vec<String> {
    let there: Vec<&str> = way.iter().filter(|p| tree.exists(p)).map(String::as_str).collect();
    let arguments: Vec<&str> = ["-n", "-v"].into_iter().chain(there).collect();
    let said = tree.ask(RESTORECON, &arguments).unwrap_or_default();
    let path = |line: &str| {
        let rest = line.strip_prefix("Would relabel ")?;
        Some(rest.split_once(" from ")?.0.to_owned())
    };
    said.lines().filter_map(path).collect()
}

/// Gives files the labels of SELinux's policy.
pub const RESTORECON: &str = "/usr/sbin/restorecon";
