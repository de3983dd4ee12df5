//! From the VFs seen to the VFs wished.

use super::function;
use crate::nvidia::rival;
use gpuslice_core::hint;
use gpuslice_core::ids::{ParentId, PciAddress};
use gpuslice_core::layout::{Layout, VfCount};
use gpuslice_core::mend::{driver_of_vfs, give_back, set};
use gpuslice_core::observation::{Function, Observation, Sriov};
use gpuslice_core::plan::Step;
use gpuslice_core::refusal::{Code, Refusal};

pub(super) fn layout_steps(
    seen: &Observation,
    parent: &ParentId,
    layout: &Layout,
    reshape: bool,
) -> Result<Vec<Step>, Refusal> {
    let (Some(pf), Some(function)) = (parent.pci(), function(seen, parent)) else {
        return Ok(Vec::new());
    };
    let Some(sriov) = &function.sriov else { return Ok(Vec::new()) };
    let wanted = layout.vfs.of(sriov.total);
    if let (0, Some(driver), true) =
        (sriov.total, &function.driver, layout.vfs != VfCount::Exactly(0))
    {
        return Err(switched_off(parent, driver));
    }
    if wanted > sriov.total {
        let message = format!("{parent} can have {} VFs, the layout says {wanted}", sriov.total);
        let hint = hint!("set vfs to at most {} for {}, then gpuslice apply", sriov.total, parent);
        return Err(Refusal::new(Code::BadConfig, message).hint(hint));
    }
    if sriov_manage_has(function) {
        return Ok(Vec::new());
    }
    let current = u16::try_from(sriov.vfs.len()).unwrap_or(u16::MAX);
    if current == wanted {
        return Ok(binds(seen, sriov, layout));
    }
    // Any change from one number to another leads over none, which takes every VF away. And only a driver makes
    // VFs: without one there is nothing to do but wait for its bind event.
    if (current != 0 && !reshape) || function.driver.is_none() {
        return Ok(Vec::new());
    }
    if let Some(driver) = rival(function).filter(|_| wanted != 0) {
        return if reshape { Err(not_its_own(pf, driver)) } else { Ok(Vec::new()) };
    }
    let mut steps = Vec::new();
    if current != 0 {
        steps.push(Step::SetNumVfs { pf, count: 0 });
    }
    if wanted != 0 {
        if sriov.autoprobe != Some(false) {
            steps.push(Step::SetAutoprobe { pf, on: false });
        }
        steps.push(Step::SetNumVfs { pf, count: wanted });
    }
    Ok(steps)
}

/// A driver lowers the number of possible VFs to none while its own option or its hardware's state wants none
/// (drivers/pci/iov.c, pci_sriov_set_totalvfs). How many there could be is not told then.
fn switched_off(parent: &ParentId, driver: &str) -> Refusal {
    let message = format!("{driver}, the driver of {parent}, has switched its VFs off");
    let refusal = Refusal::new(Code::Unsupported, message).because("its sriov_totalvfs is 0");
    refusal.hint(hint!(
        "gpuslice doctor (it says how they are switched on), then gpuslice apply; or {}",
        set("vfs", 0, parent)
    ))
}

/// Who has it has it for a reason, say for a VM that it is passed to: a person gives it back.
fn not_its_own(pf: PciAddress, driver: &str) -> Refusal {
    let parent = ParentId::Pci(pf);
    let message = format!("{driver} has {parent}, and makes no VFs of it");
    let refusal = Refusal::new(Code::Unsupported, message);
    refusal.because(makes_none(&parent, driver)).hint(driver_of_vfs(pf))
}

/// What is to be done where it is to have VFs.
pub(super) fn makes_none(parent: &ParentId, driver: &str) -> String {
    let back = give_back(parent, driver);
    format!("{driver} has it, and only under nvidia it has VFs; when no VM has it: {back}")
}

/// NVIDIA's tool takes the driver off the GPU, makes VFs under the kernel's stub, and gives the GPU back then. Only with that
/// driver the VFs are of use.
pub(super) fn sriov_manage_has(function: &Function) -> bool {
    let away = function.driver.is_none() || function.under_stub();
    function.vendor == crate::nvidia::VENDOR && away
}

/// VFs the layout wants bound from the start, and that have no driver.
pub(crate) fn binds(seen: &Observation, sriov: &Sriov, layout: &Layout) -> Vec<Step> {
    let Some(driver) = &layout.bind else { return Vec::new() };
    let unbound: Vec<&PciAddress> = driverless(seen, sriov).collect();
    if unbound.is_empty() {
        return Vec::new();
    }
    let load = Step::LoadModule { name: driver.clone() };
    let bind = |vf: &PciAddress| Step::Bind { function: *vf, driver: driver.clone() };
    std::iter::once(load).chain(unbound.into_iter().map(bind)).collect()
}

fn driverless<'a>(seen: &'a Observation, sriov: &'a Sriov) -> impl Iterator<Item = &'a PciAddress> {
    sriov.vfs.values().filter(|vf| seen.vfs.get(vf).is_some_and(|v| v.driver.is_none()))
}

pub(super) fn realised(seen: &Observation, parent: &ParentId, layout: &Layout) -> bool {
    let function = function(seen, parent).filter(|f| !sriov_manage_has(f));
    function.and_then(|f| f.sriov.as_ref()).is_some_and(|sriov| {
        sriov.vfs.len() == usize::from(layout.vfs.of(sriov.total)) && bound(seen, sriov, layout)
    })
}

/// Whether each VF has a driver, where the layout wants that.
pub(crate) fn bound(seen: &Observation, sriov: &Sriov, layout: &Layout) -> bool {
    layout.bind.is_none() || driverless(seen, sriov).next().is_none()
}
