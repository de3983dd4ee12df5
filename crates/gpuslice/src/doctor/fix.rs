//! Mends what is gpuslice's own: its link in libvirt's folder, and that libvirt looks there again. Everything else
//! belongs to somebody, may need a reboot, or takes a decision, and stays a sentence.

use super::check::{Check, Finding};
use super::gather::{self, HOOK};
use super::host::not_seen;
use super::tree::Tree;
use gpuslice_core::hint;
use gpuslice_core::refusal::{Code, Refusal};

/// The program that the link leads to, as packages install it.
const PROGRAM: &str = "/usr/sbin/gpuslice-qemu-hook";

/// Mends what can be, and says what was done.
///
/// # Errors
/// When a write or a command fails; what was done before stays.
pub fn mend(tree: &Tree, findings: &[Finding]) -> Result<Vec<String>, Refusal> {
    let has = |code: Check| findings.iter().any(|finding| finding.fixable && finding.code == code);
    let mut done = Vec::new();
    if has(Check::HookMissing) {
        link(tree).map_err(|refusal| refusal.hint(hint!("sudo gpuslice doctor --fix")))?;
        done.push(format!("{HOOK} leads to {PROGRAM}"));
    }
    if !done.is_empty() || has(Check::HookNotSeen) {
        let facts = gather::host(tree);
        let unaware = facts.services.iter().filter(|s| not_seen(s, facts.hook.made_at));
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

fn link(tree: &Tree) -> Result<(), Refusal> {
    if !tree.executable(PROGRAM) {
        let message = format!("{PROGRAM} is not installed");
        return Err(Refusal::new(Code::Absent, message));
    }
    let place = tree.place(HOOK);
    let folder = place.parent().unwrap_or(&place).to_owned();
    let made = std::fs::create_dir_all(folder).and_then(|()| {
        // A link that leads nowhere is ours to replace by its name; a file would have been found to be there.
        match std::fs::remove_file(&place) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
            _ => std::os::unix::fs::symlink(PROGRAM, &place),
        }
    });
    made.map_err(|error| {
        let code = match error.kind() {
            std::io::ErrorKind::PermissionDenied => Code::NotPermitted,
            _ => Code::OutputUnwritable,
        };
        Refusal::new(code, "the hook cannot be linked").because(format!("{HOOK}: {error}"))
    })
}
