//! From the VFs seen to the VFs wished.

use super::{VFIO_PCI, function};
use gpuslice_core::hint;
use gpuslice_core::ids::{ParentId, PciAddress};
use gpuslice_core::layout::{Layout, VfCount};
use gpuslice_core::mend::{driver_of_vfs, give_back, let_go, set, take_out};
use gpuslice_core::observation::{DriverState, Function, Observation, Sriov, is_vfio};
use gpuslice_core::observe::note;
use gpuslice_core::plan::Step;
use gpuslice_core::port::{HostRead, read_text};
use gpuslice_core::refusal::{Code, Hint, Refusal};
use std::collections::BTreeMap;

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
    let mut steps = Vec::new();
    if current != 0 {
        used_by_host(seen, sriov.vfs.values())?;
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

/// Refuses to take VFs that a driver of the host has.
pub(crate) fn used_by_host<'a>(
    seen: &Observation,
    vfs: impl Iterator<Item = &'a PciAddress>,
) -> Result<(), Refusal> {
    let used: Vec<(&PciAddress, &str)> = vfs
        .filter_map(|address| {
            let driver = seen.vfs.get(address)?.driver.as_deref().filter(|d| !is_vfio(d))?;
            Some((address, driver))
        })
        .collect();
    let Some(((address, driver), others)) = used.split_first() else { return Ok(()) };
    let message = format!("the host uses VF {address} through its driver {driver}");
    let each = used.iter().map(|(address, driver)| let_go(**address, driver));
    let mut refusal = Refusal::new(Code::HostDriver, message);
    if let Some(hint) = Hint::in_turn(each) {
        refusal = refusal.hint(hint);
    }
    Err(others.iter().fold(refusal, |refusal, (address, driver)| {
        refusal.because(format!("and VF {address} through {driver}"))
    }))
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

/// vfio-pci's parameter by which it makes VFs of a PF that it has.
const ENABLE_SRIOV: &str = "enable_sriov";

/// Reads whether vfio-pci makes VFs, where it has a PF.
pub(super) fn read_vfio(host: &dyn HostRead, seen: &mut Observation) {
    let has = |f: &Function| f.driver.as_deref() == Some(VFIO_PCI) && f.sriov.is_some();
    if !seen.functions.values().any(has) {
        return;
    }
    let path = format!("/sys/module/vfio_pci/parameters/{ENABLE_SRIOV}");
    match read_text(host, &path) {
        Ok(text) => {
            let parameters = BTreeMap::from([(ENABLE_SRIOV.to_owned(), text)]);
            let state = DriverState { loaded: true, parameters, ..DriverState::default() };
            seen.drivers.insert(VFIO_PCI, state);
        }
        Err(errno) => note(seen, &path, errno),
    }
}

/// The driver that has a PF in the place of one that makes VFs of it. vfio-pci makes some where it was told to, but for
/// NVIDIA's.
pub(super) fn rival<'a>(seen: &Observation, function: &'a Function) -> Option<&'a str> {
    let passing = || {
        let driver = function.driver.as_deref().filter(|driver| is_vfio(driver))?;
        let told = || seen.drivers.get(driver)?.parameters.get(ENABLE_SRIOV);
        (told().map(String::as_str) != Some("Y")).then_some(driver)
    };
    crate::nvidia::rival(function).or_else(passing)
}

/// Why nothing of a layout comes true while such a driver has the PF. It has it for a reason, say for a VM that it is passed
/// to: a person gives it back.
pub(super) fn not_its_own(
    seen: &Observation,
    parent: &ParentId,
    layout: &Layout,
) -> Option<Refusal> {
    let (pf, function) = (parent.pci()?, function(seen, parent)?);
    let (sriov, driver) = (function.sriov.as_ref()?, rival(seen, function)?);
    let wanted = layout.vfs.of(sriov.total);
    let because = not_laid_out(parent, function, driver);
    if wanted != 0 && sriov.vfs.len() != usize::from(wanted) {
        let message = format!("{driver} has {parent}, and makes no VFs of it");
        let refusal = Refusal::new(Code::Unsupported, message);
        return Some(refusal.because(because).hint(driver_of_vfs(pf)));
    }
    let mode = layout.modes.keys().next()?;
    let message = format!("{driver} has {parent}, and sets no mode of it");
    let refusal = Refusal::new(Code::Unsupported, message);
    Some(refusal.because(because).hint(take_out(mode, parent)))
}

/// What is to be done where it is to be as its layout says.
pub(super) fn not_laid_out(parent: &ParentId, function: &Function, driver: &str) -> String {
    let own = if function.vendor == crate::nvidia::VENDOR { "nvidia" } else { "its own driver" };
    let back = give_back(parent, driver);
    format!("{driver} has it, and only under {own} it is laid out; when no VM has it: {back}")
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
