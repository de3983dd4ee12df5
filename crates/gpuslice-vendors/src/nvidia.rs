//! NVIDIA vGPU on GPUs with SR-IOV. VFs come only from the vendor's own `sriov-manage`, all at once. With them comes
//! one of two frameworks, which cannot be told apart before: types written to `<VF>/nvidia/current_vgpu_type`
//! (vendor-specific VFIO), or mediated devices on each VF, which [`crate::mdev`] serves.
//!
//! Facts: NVIDIA Virtual GPU Software User Guide, 2.9 and 2.10.

mod facts;
mod models;
mod modes;
mod names;
mod offers;
mod plan;
mod read;
pub(crate) mod scheduler;
mod serial;
mod sharing;
mod trouble;

pub(crate) use facts::per_vm;
pub(crate) use names::{edition_of_type, isolation, profile_of_type};
pub(crate) use sharing::Sharing;

use crate::makers::maker;
use gpuslice_core::health::Trouble;
use gpuslice_core::ids::{ParentId, PciAddress, SliceId};
use gpuslice_core::layout::Layout;
use gpuslice_core::mechanism::{Cleaned, Layouts, Mechanism, Offer, SerialFile};
use gpuslice_core::mode::Mode;
use gpuslice_core::observation::{Function, Observation, Sriov};
use gpuslice_core::observe::Answers;
use gpuslice_core::plan::Step;
use gpuslice_core::port::HostRead;
use gpuslice_core::refusal::{Hint, Refusal};
use gpuslice_core::state::Assignment;

/// PCI vendor id.
pub(crate) const VENDOR: u16 = 0x10de;

/// The host driver of PF and VFs, bare metal and vGPU alike.
const DRIVER: &str = "nvidia";

/// Below a VF: its type as a decimal number, `0` for none.
const CURRENT_TYPE: &str = "nvidia/current_vgpu_type";

/// Below a VF or an mdev: `key=value` pairs, read when a VM opens it; a blank clears all.
const PARAMETERS: &str = "nvidia/vgpu_params";

/// The parameter that says where on its GPU a vGPU is to be (vGPU software User Guide, placement of vGPUs).
pub(crate) const PLACE: &str = "vgpu-placement-id";

/// How the driver says that its manager of vGPUs has not taken a GPU up yet, and that it did not come to an end with it: on
/// hosts with NVLink that lasts for a while after a boot.
const NOT_READY: [&str; 2] =
    ["GPU is not initialized yet", "Timeout occurred in event processing by vgpu_mgr daemon"];

pub(crate) fn not_ready() -> Vec<String> {
    NOT_READY.map(str::to_owned).to_vec()
}

fn set_parameters(slice: SliceId, value: &str) -> Step {
    Step::SetParameters { slice, attribute: PARAMETERS.to_owned(), value: value.to_owned() }
}

/// The step that gives a vGPU, which is made, what its claim says.
pub(crate) fn parameters(slice: SliceId, assignment: &Assignment) -> Option<Step> {
    number(assignment)?;
    assignment.parameters.as_ref().map(|value| set_parameters(slice, value.as_str()))
}

/// No source says how long the first seconds are.
const FRAGILE_MS: u64 = 10_000;

/// See the module.
#[derive(Debug)]
pub struct NvidiaVfio;

/// A PF whose VFs only the vendor's tool makes. A GPU that is an mdev parent itself (T4) shows an SR-IOV capability
/// too, and does not use it.
pub(crate) fn pf<'a>(
    seen: &'a Observation,
    parent: &ParentId,
) -> Option<(&'a Function, &'a Sriov)> {
    let function = seen.functions.get(&parent.pci()?)?;
    let sriov = function.sriov.as_ref()?;
    let ours = function.vendor == VENDOR
        && function.driver.as_deref() == Some(DRIVER)
        && !has_no_vfs(seen, parent);
    ours.then_some((function, sriov))
}

/// A GPU of which the driver makes mediated devices, or will once `nvidia-vgpud` has told it its types: no VFs are ever made of
/// one, whatever capability it shows. Before its types are there only its product tells that.
pub(crate) fn has_no_vfs(seen: &Observation, parent: &ParentId) -> bool {
    let function = parent.pci().and_then(|address| seen.functions.get(&address));
    let driven = function.filter(|f| f.vendor == VENDOR && f.driver.as_deref() == Some(DRIVER));
    let never = |f: &Function| maker(f.vendor, f.device).is_some_and(|maker| !maker.sriov);
    driven.is_some_and(|f| seen.mdev_parents.contains_key(parent) || never(f))
}

/// How the types share a GPU of which a VF makes them as mediated devices; `names` are those of the types.
pub(crate) fn sharing<'a, 'n>(
    seen: &'a Observation,
    vf: &ParentId,
    names: impl Iterator<Item = &'n str>,
) -> Option<Sharing<'a>> {
    let gpu = seen.pf_of(vf)?;
    let (_, sriov) = pf(seen, &gpu)?;
    Some(Sharing::of(seen, &gpu, sriov.vfs.len(), names))
}

/// The driver that has a PF of NVIDIA's in the place of the only one under which its tool makes VFs. That tool's own stub is none.
pub(crate) fn rival(function: &Function) -> Option<&str> {
    let driver = function.driver.as_deref().filter(|driver| *driver != DRIVER)?;
    (function.vendor == VENDOR && !function.under_stub()).then_some(driver)
}

/// A GPU that is a parent of mediated devices itself: with no modes, and with types like those of the others.
pub(crate) fn makes_mdevs(seen: &Observation, parent: &ParentId) -> bool {
    seen.mdev_parents.contains_key(parent) && has_no_vfs(seen, parent)
}

/// The number in a raw type: the kernel's name of the type in one framework (`nvidia-558`), what is written in the
/// other.
fn number(assignment: &Assignment) -> Option<&str> {
    assignment.type_id.as_ref()?.as_str().strip_prefix("nvidia-")
}

impl Mechanism for NvidiaVfio {
    fn name(&self) -> &'static str {
        "nvidia-vfio"
    }

    fn model(&self, vendor: u16, device: u16) -> Option<&'static str> {
        (vendor == VENDOR).then(|| models::name(device))?
    }

    fn serial(&self, function: PciAddress, driver: &str) -> Option<SerialFile> {
        serial::file(function, driver)
    }

    fn observe(&self, host: &dyn HostRead, tools: &mut Answers, seen: &mut Observation) {
        read::read(host, seen);
        // With its version, on which depends what a tool tells.
        scheduler::read(host, tools, seen);
        modes::read(host, tools, seen);
    }

    fn trouble(&self, line: &str) -> Option<Trouble> {
        trouble::of_line(line)
    }

    fn applies(&self, seen: &Observation, parent: &ParentId) -> bool {
        pf(seen, parent).is_some()
    }

    fn offers(&self, seen: &Observation, parent: &ParentId, _: Option<&Layout>) -> Vec<Offer> {
        offers::offers(seen, parent)
    }

    fn modes(&self, _: &Observation, _: &ParentId) -> &'static [Mode] {
        plan::MODES
    }

    /// The vGPU goes with its type, and its memory with it; that its driver clears that memory is UNVERIFIED.
    fn cleaned(&self) -> Cleaned {
        Cleaned::ByDriver
    }

    fn layout_steps(
        &self,
        seen: &Observation,
        parent: &ParentId,
        layouts: &Layouts,
        reshape: bool,
    ) -> Result<Vec<Step>, Refusal> {
        let Some(layout) = layouts.get(parent) else { return Ok(Vec::new()) };
        let mut steps = scheduler::layout_steps(seen, parent, layouts, reshape)?;
        steps.extend(plan::layout_steps(seen, parent, layout, reshape)?);
        Ok(steps)
    }

    fn realised(&self, seen: &Observation, parent: &ParentId, layout: &Layout) -> bool {
        plan::realised(seen, parent, layout)
    }

    fn offers_nothing(&self, seen: &Observation, parent: &ParentId) -> Option<Refusal> {
        plan::offers_nothing(seen, parent)
    }

    fn mends_mode(&self, parent: &ParentId, said: &str) -> Option<Hint> {
        plan::mends_mode(parent, said)
    }

    fn lacks(&self, seen: &Observation, parent: &ParentId) -> Option<String> {
        plan::lacks(seen, parent)
    }

    fn lists_types(&self, seen: &Observation, parent: &ParentId) -> bool {
        plan::lists_types(seen, parent)
    }

    fn type_attribute(&self) -> Option<&'static str> {
        Some(CURRENT_TYPE)
    }

    /// The VF stays on its driver: unbinding it would break it.
    fn prepare_steps(
        &self,
        slice: SliceId,
        assignment: &Assignment,
        _: Option<&Layout>,
    ) -> Vec<Step> {
        let (Some(vf), Some(number)) = (slice.pci(), number(assignment)) else { return Vec::new() };
        let (attribute, value) = (CURRENT_TYPE.to_owned(), number.to_owned());
        let give = Step::GiveVfType { vf, attribute, value, not_ready: not_ready() };
        std::iter::once(give).chain(parameters(slice, assignment)).collect()
    }

    fn place_parameter(&self) -> Option<&'static str> {
        Some(PLACE)
    }

    /// A SIGKILL in the first seconds, in which the guest's driver takes the vGPU up (seen on an L40S).
    fn fragile_ms(&self) -> Option<u64> {
        Some(FRAGILE_MS)
    }

    /// The type outlives the VM, so it is ours to take away.
    fn release_steps(
        &self,
        slice: SliceId,
        assignment: &Assignment,
        _: Option<&Layout>,
    ) -> Vec<Step> {
        let (Some(vf), Some(number)) = (slice.pci(), number(assignment)) else { return Vec::new() };
        let (attribute, value) = (CURRENT_TYPE.to_owned(), number.to_owned());
        // They would be the next VM's too.
        let clear = assignment.parameters.as_ref().map(|_| set_parameters(slice, ""));
        clear.into_iter().chain([Step::TakeVfType { vf, attribute, value }]).collect()
    }
}
