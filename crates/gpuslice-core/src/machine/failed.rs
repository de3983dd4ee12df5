//! What a layout that failed is told: where its reason is to be found, and what mends it.

use super::Machine;
use crate::errno::Errno;
use crate::execute::{Meaning, StepError};
use crate::hint;
use crate::ids::ParentId;
use crate::mend;
use crate::plan::Step;
use crate::refusal::{Code, Hint, Refusal};
use std::collections::BTreeSet;

impl Machine {
    /// Where the reason of a failed layout is to be found, and how it is tried again: of several devices by `apply` alone,
    /// since all have to be lifted.
    pub(super) fn what_to_look_at(
        &self,
        step: &Step,
        error: &StepError,
        parents: &BTreeSet<ParentId>,
    ) -> Hint {
        let again = match (parents.first(), parents.len()) {
            (Some(parent), 1) => mend::uncordon(parent),
            _ => hint!("gpuslice apply"),
        };
        let missing = |what: &str| hint!("install the vendor's host driver that brings {}", what);
        let look = match (step, error.errno()) {
            (
                Step::RunVfTool { command, .. } | Step::RunModeTool { command, .. },
                Some(Errno::ENOENT),
            ) => {
                let tool = command.first().map(String::as_str).unwrap_or_default();
                missing(tool)
            }
            (Step::LoadDriver { name, .. }, Some(Errno::ENOENT)) => missing(name),
            // The kernel's log does not tell whose fault that is.
            (Step::RunVfTool { in_the_way, .. }, _) if says(error, in_the_way) => {
                hint!("gpuslice doctor (it says who has the GPU open)")
            }
            _ => self
                .mends_count(step, error)
                .unwrap_or_else(|| hint!("dmesg | grep {}", step.named_in_kernel_log(parents))),
        };
        hint!("{}; then {}", look, again)
    }

    /// That of a driver which makes no VFs: nothing is broken, and no line of the kernel's log says more.
    pub(super) fn makes_no_vfs(&self, step: &Step, error: &StepError) -> Option<Refusal> {
        let Step::SetNumVfs { pf, .. } = step else { return None };
        let driver = self.seen.functions.get(pf)?.driver.as_deref()?;
        (error.meaning(step) == Meaning::Unable).then(|| {
            let message = format!("{driver}, the driver of {pf}, makes no VFs");
            let refusal = Refusal::new(Code::Unsupported, message).because(error.to_string());
            let told = self.mends_count(step, error);
            refusal.hint(told.unwrap_or_else(|| mend::driver_of_vfs(*pf)))
        })
    }

    /// What the mechanism knows of a driver that refused a number of VFs.
    fn mends_count(&self, step: &Step, error: &StepError) -> Option<Hint> {
        let Step::SetNumVfs { pf, .. } = step else { return None };
        let driver = self.seen.functions.get(pf)?.driver.as_deref()?;
        self.mechanism(&ParentId::Pci(*pf))?.mends_count(*pf, driver, error.errno()?)
    }
}

/// Whether a tool ended with such words.
fn says(error: &StepError, words: &[String]) -> bool {
    let said = |said: &String| words.iter().any(|word| said.contains(word.as_str()));
    matches!(error, StepError::Tool { said: last, .. } if said(last))
}
