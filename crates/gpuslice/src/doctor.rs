//! What of this host or of a VM keeps slices from working, found without the daemon. Facts are gathered by reading
//! (`tree`, `facts`, `pci`, `gather` and beside it `kernel_facts`, `hook_facts`, `guest_facts`, `rules`), judged without IO (`kernel`, `host` with `intel`, `hooks`, `fights` by `writers`, `guest`), and only what is ours is mended (`fix`).

mod check;
mod facts;
mod fights;
mod fix;
mod gather;
mod guest;
mod guest_facts;
mod hook_facts;
mod hooks;
mod host;
mod intel;
mod kernel;
mod kernel_facts;
mod pci;
mod rules;
mod system;
mod tree;
mod writers;

pub use check::{Check, Finding, Severity};
pub use fix::mend;
pub use system::System;
pub use tree::Tree;

use gpuslice_core::refusal::Refusal;

/// Everything wrong with the host, or with a VM on it, in the order in which it should be mended.
///
/// # Errors
/// When no such VM is defined, or its XML cannot be read.
pub fn examine(tree: &Tree, domain: Option<&str>) -> Result<Vec<Finding>, Refusal> {
    let facts = gather::host(tree);
    let mut findings = match domain {
        None => {
            let mut found = kernel::check(&facts);
            found.extend(host::check(&facts));
            found.extend(hooks::check(&facts));
            found.extend(fights::check(&facts));
            found
        }
        Some(domain) => guest::check(&guest_facts::find(tree, domain)?, &facts),
    };
    findings.sort_by_key(|finding| finding.severity);
    Ok(findings)
}
