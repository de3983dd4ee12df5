//! What a layout that failed is told: where its reason is to be found, and what mends it.

use super::Machine;
use crate::errno::Errno;
use crate::execute::{Meaning, StepError};
use crate::hint;
use crate::ids::ParentId;
use crate::layout::{self, Rule};
use crate::mend;
use crate::plan::Step;
use crate::refusal::{Code, Hint, Refusal};
use std::collections::BTreeSet;

/// What binds VFs of every driver.
const VFIO_PCI: &str = "vfio-pci";

impl Machine {
    /// Why a step of a layout failed, and what mends it.
    pub(super) fn why_layout_failed(
        &self,
        step: &Step,
        error: &StepError,
        parents: &BTreeSet<ParentId>,
        at_fault: &BTreeSet<ParentId>,
    ) -> Refusal {
        match error {
            StepError::Held { .. } | StepError::Mediated { .. } | StepError::Typed { .. } => {
                self.explain_failed_prepare(step, error)
            }
            // Its layout is brought about when one is bound.
            StepError::NoDriver { .. } => {
                Refusal::new(Code::NotSettled, format!("cannot {step} yet"))
                    .because(error.to_string())
                    .hint(hint!("gpuslice wait --settled"))
            }
            _ if used_on_this_host(step, error) => {
                Refusal::new(Code::Held, format!("cannot {step}"))
                    .because(error.to_string())
                    .hint(hint!("stop what uses the device on this host; then gpuslice apply"))
            }
            _ => is_used(step, error)
                .or_else(|| self.has_it_open(step, error, parents))
                .or_else(|| self.makes_no_vfs(step, error))
                .or_else(|| self.bind_is_refused(step, error, parents))
                .unwrap_or_else(|| {
                    Refusal::new(Code::DeviceFailed, format!("cannot {step}"))
                        .because(error.to_string())
                        .hint(self.what_to_look_at(step, error, at_fault))
                }),
        }
    }

    /// Where the reason of a failed layout is to be found, and how it is tried again: of several devices by `apply` alone,
    /// since all have to be lifted.
    fn what_to_look_at(
        &self,
        step: &Step,
        error: &StepError,
        parents: &BTreeSet<ParentId>,
    ) -> Hint {
        if let Some(mends) = self.mends_mode(step, error) {
            return mends;
        }
        let again = match (parents.first(), parents.len()) {
            (Some(parent), 1) if !step.of_driver() => mend::uncordon(parent),
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
            _ if matches!(error, StepError::Opened { .. }) => opened(),
            _ => self
                .mends_count(step, error)
                .unwrap_or_else(|| hint!("dmesg | grep {}", self.named_in_log(step, parents))),
        };
        let mends = hint!("{}; then {}", look, again);
        match self.leave_out(step, error) {
            Some(edit) => hint!("{}; or {}", mends, edit),
            None => mends,
        }
    }

    /// What the mechanism knows of a tool that did not set its device.
    fn mends_mode(&self, step: &Step, error: &StepError) -> Option<Hint> {
        let Step::RunModeTool { device, .. } = step else { return None };
        let parent = ParentId::Pci(*device);
        self.mechanism(&parent)?.mends_mode(&parent, &error.to_string())
    }

    /// That somebody has a device open whose VFs were to be taken, or that was to be set. Where its lock told, or the tool that
    /// sets it, nothing was changed; and to whoever only makes VFs anew it is no fault.
    fn has_it_open(
        &self,
        step: &Step,
        error: &StepError,
        parents: &BTreeSet<ParentId>,
    ) -> Option<Refusal> {
        let open = match (step, error) {
            (_, StepError::Locked { .. })
            | (Step::RunModeTool { .. }, StepError::Opened { .. }) => true,
            (_, StepError::Opened { .. }) => parents.iter().any(|p| self.repairs.contains(p)),
            _ => false,
        };
        open.then(|| {
            let refusal = Refusal::new(Code::Held, format!("cannot {step}"));
            let again = hint!("gpuslice apply");
            refusal.because(error.to_string()).hint(hint!("{}; then {}", opened(), again))
        })
    }

    /// Under which name the kernel's log tells of a step: the device's, unless its driver has words of its own for it, in which it
    /// writes addresses as it likes.
    fn named_in_log(&self, step: &Step, parents: &BTreeSet<ParentId>) -> String {
        let driver = match step {
            Step::UnloadDriver { name, .. } | Step::LoadDriver { name, .. } => Some(name),
            Step::SetMode { device, refusals, .. } if !refusals.is_empty() => {
                self.seen.functions.get(device).and_then(|function| function.driver.as_ref())
            }
            _ => None,
        };
        let device = || parents.first().map(ToString::to_string);
        driver.cloned().or_else(device).unwrap_or_default()
    }

    /// Has the next load ask nothing of the devices that got nothing of this one, so that nobody who uses the others is in its
    /// way.
    fn leave_out(&self, step: &Step, error: &StepError) -> Option<Hint> {
        let (Step::LoadDriver { vfs, .. }, StepError::Short { short, .. }) = (step, error) else {
            return None;
        };
        let first = ParentId::Pci(*short.first().filter(|_| short.len() < vfs.len())?);
        let resolved = layout::resolve(&self.durable.rules, &self.seen).devices;
        let (_, rule) = resolved.into_iter().find(|(parent, _)| *parent == first)?;
        let each = Hint::words(short, ", ");
        Some(hint!(
            "set vfs to 0 for {} in a [[gpu]] of its own before {}, then gpuslice apply",
            each,
            rule.origin
        ))
    }

    /// A module that is not there, or that the kernel does not take: no line of the kernel's log has the GPU's address.
    pub(super) fn module_is_refused(
        &self,
        step: &Step,
        error: &StepError,
        again: &Hint,
    ) -> Option<Refusal> {
        let Step::LoadModule { name } = step else { return None };
        let (message, mends) = match error.errno()? {
            Errno::ENOENT => (
                format!("the running kernel has no module {name}"),
                hint!("install the module {}", name),
            ),
            Errno::EKEYREJECTED => (
                format!("the kernel knows no key by which module {name} is signed"),
                hint!(
                    "sign the module {} with a key that the kernel knows (mokutil --import enrols one)",
                    name
                ),
            ),
            _ => (format!("cannot {step}"), hint!("journalctl -k -n 20, mend what it says")),
        };
        let refusal = Refusal::new(Code::DeviceFailed, message).because(error.to_string());
        Some(refusal.hint(hint!("{}, then {}", mends, again)))
    }

    /// The same of the one that a layout binds VFs to, which may be misspelt.
    fn bind_is_refused(
        &self,
        step: &Step,
        error: &StepError,
        parents: &BTreeSet<ParentId>,
    ) -> Option<Refusal> {
        let refusal = self.module_is_refused(step, error, &hint!("gpuslice apply"))?;
        let Step::LoadModule { name } = step else { return Some(refusal) };
        let resolved = layout::resolve(&self.durable.rules, &self.seen).devices;
        let says = |(parent, rule): &(ParentId, &Rule)| {
            parents.contains(parent) && rule.layout.bind.as_ref() == Some(name)
        };
        let rule = resolved.into_iter().find(says).filter(|_| name != VFIO_PCI);
        let edit = rule.map(|(_, rule)| {
            hint!(
                "edit {}: bind = \"vfio-pci\" in place of \"{}\", then gpuslice apply",
                rule.origin,
                name
            )
        });
        Some(match (edit, refusal.way_out()) {
            (Some(edit), Some(other)) => refusal.hint(hint!("{}; or {}", edit, other)),
            _ => refusal,
        })
    }

    /// That of a driver which makes no VFs: nothing is broken, and no line of the kernel's log says more.
    fn makes_no_vfs(&self, step: &Step, error: &StepError) -> Option<Refusal> {
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

/// Whoever has it was there first, and nothing was changed.
fn used_on_this_host(step: &Step, error: &StepError) -> bool {
    let left_to_it = matches!((step, error), (Step::SetNumVfs { .. }, StepError::Occupied { .. }));
    left_to_it || error.meaning(step) == Meaning::Others && error.errno().is_some()
}

/// A driver that the kernel does not unload because it is in use: nothing was changed, and no device has a fault.
fn is_used(step: &Step, error: &StepError) -> Option<Refusal> {
    let Step::UnloadDriver { name, .. } = step else { return None };
    if error.meaning(step) != Meaning::Later {
        return None;
    }
    let holder = match error {
        StepError::Open { holders, .. } => holders.first(),
        _ => None,
    };
    let end = holder.map_or_else(
        || hint!("end what uses module {} (lsmod | grep {} shows which modules do)", name, name),
        mend::end_process,
    );
    let refusal = Refusal::new(Code::Held, format!("cannot {step}")).because(error.to_string());
    Some(refusal.hint(hint!("{}, then gpuslice apply", end)))
}

fn opened() -> Hint {
    hint!("gpuslice doctor (it says who has the GPU open)")
}

/// A vendor's tool ended in failure, or without one and has changed nothing.
pub(super) fn as_a_tool(step: &Step, error: &StepError) -> bool {
    match (step, error) {
        (_, StepError::Tool { .. }) | (Step::RunModeTool { .. }, StepError::Unchanged { .. }) => {
            true
        }
        (Step::RunVfTool { count, .. }, StepError::NotZero { .. }) => *count == 0,
        (Step::RunVfTool { .. }, StepError::Fewer { got, .. }) => *got == 0,
        _ => false,
    }
}
