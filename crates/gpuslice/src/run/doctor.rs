//! `gpuslice doctor`: looks by itself, since the daemon may be what is missing.

use crate::doctor::{self, Severity, Tree};
use crate::failure::Failure;
use crate::output::Output;
use crate::render;
use gpuslice_core::refusal::{Code, Refusal};
use serde_json::json;

pub fn doctor(domain: Option<&str>, fix: bool, output: &Output) -> Result<(), Failure> {
    let tree = Tree::from_env();
    let mut findings = doctor::examine(&tree, domain)?;
    let mut fixed = Vec::new();
    if fix {
        // A VM has nothing that is ours to mend, and what its host has keeps it from slices too.
        let of_host = match domain {
            Some(_) => doctor::examine(&tree, None)?,
            None => findings,
        };
        fixed = doctor::mend(&tree, &of_host)?;
        findings = doctor::examine(&tree, domain)?;
    }
    let denied = tree.denied();
    if !denied.is_empty() {
        output.warning(&format!("not looked at, for lack of permission: {}", denied.join(", ")));
    }
    let value = json!({
        "changed": !fixed.is_empty(), "fixed": fixed, "findings": findings, "not_looked_at": denied
    });
    output.answer(&value, |paint| render::findings(domain, &fixed, &findings, paint))?;
    let errors = findings.iter().filter(|f| f.severity == Severity::Error).count();
    if errors == 0 {
        return Ok(());
    }
    let message = format!(
        "{} that {} slices from working, see above",
        render::counted(errors, "error"),
        if errors == 1 { "keeps" } else { "keep" }
    );
    Err(Failure { answered: true, ..Refusal::new(Code::Unsupported, message).into() })
}
