//! Mends what is gpuslice's own: its link in libvirt's folder, its program's x bit, their labels, and that libvirt looks there
//! again. Everything else belongs to somebody, may need a reboot, or takes a decision, and stays a sentence.

use super::check::{Check, Finding};
use super::gather;
use super::hook_facts::RESTORECON;
use super::hooks::{is_ours, not_seen};
use super::system::System;
use super::tree::Tree;
use gpuslice_core::hint;
use gpuslice_core::refusal::{Code, Refusal};

/// The program that the link leads to, as packages install it.
pub const PROGRAM: &str = "/usr/sbin/gpuslice-qemu-hook";

/// Mends what can be, and says what was done.
///
/// # Errors
/// When a write or a command fails; what was done before stays.
pub fn mend(tree: &Tree, findings: &[Finding]) -> Result<Vec<String>, Refusal> {
    let has = |code: Check| findings.iter().any(|finding| finding.fixable && finding.code == code);
    let mut done = Vec::new();
    let hooks = System::of(tree).hooks();
    let folders = [hooks.to_owned(), format!("{hooks}/qemu.d")];
    let folders: Vec<String> = folders.into_iter().filter(|path| !tree.exists(path)).collect();
    if has(Check::HookMissing) || has(Check::HookNotAllowed) {
        let hook = System::of(tree).hook();
        link(tree, &hook).map_err(|refusal| refusal.hint(hint!("sudo gpuslice doctor --fix")))?;
        done.push(format!("{hook} leads to {PROGRAM}"));
    }
    if has(Check::HookNotExecutable) {
        executable(tree)?;
        done.push(format!("{PROGRAM} may be executed"));
    }
    // libvirt may have found no hook that it could execute.
    let all = has(Check::HookNotExecutable);
    let mut facts = gather::host(tree);
    // A link that was just made has its folder's label, and a folder that of the one above it.
    let place = facts.system.hook();
    let ours = |path: &&String| is_ours(path, &place) || folders.contains(path);
    let labels: Vec<String> = facts.mislabelled.iter().filter(ours).cloned().collect();
    if facts.runs_libvirt && !labels.is_empty() {
        let paths: Vec<&str> = labels.iter().map(String::as_str).collect();
        if tree.ask(RESTORECON, &paths).is_none() {
            let message = format!("{} cannot be given its label", paths.join(" "));
            return Err(
                Refusal::new(Code::NotPermitted, message).hint(hint!("sudo gpuslice doctor --fix"))
            );
        }
        done.push(format!("{} has its label", paths.join(", ")));
        facts = gather::host(tree);
    }
    if tree.runs_programs() && (!done.is_empty() || has(Check::HookNotSeen)) {
        let unaware = facts.services.iter().filter(|s| all || not_seen(&facts, s).is_some());
        for service in unaware {
            let unit = service.unit;
            if tree.ask("/usr/bin/systemctl", &["reload", unit]).is_none() {
                let message = format!("{unit} cannot be reloaded");
                return Err(Refusal::new(Code::NotPermitted, message)
                    .hint(hint!("sudo systemctl reload {}", unit)));
            }
            done.push(format!("{unit} is reloaded"));
        }
    }
    Ok(done)
}

fn link(tree: &Tree, hook: &str) -> Result<(), Refusal> {
    let place = tree.place(hook);
    let folder = place.parent().unwrap_or(&place).to_owned();
    let made = std::fs::create_dir_all(folder).and_then(|()| {
        // A link that leads nowhere, or where it must not, is ours to replace by its name; a file would have been found to be there.
        match std::fs::remove_file(&place) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
            _ => std::os::unix::fs::symlink(PROGRAM, &place),
        }
    });
    made.map_err(|error| unmended("the hook cannot be linked", hook, &error))
}

/// The program of ours, as packages install it.
fn executable(tree: &Tree) -> Result<(), Refusal> {
    use std::os::unix::fs::PermissionsExt;
    let mode = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(tree.place(PROGRAM), mode).map_err(|error| {
        unmended("the hook cannot be made executable", PROGRAM, &error)
            .hint(hint!("sudo gpuslice doctor --fix"))
    })
}

fn unmended(message: &str, path: &str, error: &std::io::Error) -> Refusal {
    let code = match error.kind() {
        std::io::ErrorKind::PermissionDenied => Code::NotPermitted,
        _ => Code::OutputUnwritable,
    };
    Refusal::new(code, message).because(format!("{path}: {error}"))
}
