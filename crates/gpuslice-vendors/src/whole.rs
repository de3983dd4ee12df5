//! GPUs that cannot be sliced: no SR-IOV, no mediated devices. Nothing is made of them; it is said what works instead.

use gpuslice_core::hint;
use gpuslice_core::ids::{ParentId, SliceId};
use gpuslice_core::layout::Layout;
use gpuslice_core::mechanism::{Cleaned, Layouts, Mechanism, Offer};
use gpuslice_core::observation::Observation;
use gpuslice_core::plan::Step;
use gpuslice_core::refusal::{Code, Hint, Refusal};
use gpuslice_core::state::Assignment;

/// Makers of GPUs that a VM can have or render on: AMD, NVIDIA, Intel. A server's console is not meant.
const MAKERS: [u16; 3] = [0x1002, 0x10de, 0x8086];

/// See the module.
#[derive(Debug)]
pub struct Whole;

/// The two ways to give a VM such a GPU.
pub(crate) fn ways(parent: &ParentId) -> Hint {
    hint!(
        "give the whole of it to one VM (virt-manager: Add Hardware, PCI Host Device {}); or let VMs render on it: \
         virtio video with <graphics type='egl-headless'><gl rendernode='/dev/dri/by-path/pci-{}-render'/></graphics>",
        parent,
        parent
    )
}

impl Mechanism for Whole {
    fn name(&self) -> &'static str {
        "whole"
    }

    fn applies(&self, _: &Observation, _: &ParentId) -> bool {
        false
    }

    fn unsliceable(&self, seen: &Observation, parent: &ParentId) -> Option<Refusal> {
        let function = seen.whole.get(&parent.pci()?)?;
        if !MAKERS.contains(&function.vendor) {
            return None;
        }
        let driver = match function.driver.as_deref() {
            Some(driver) => format!("its driver {driver} makes no mediated devices"),
            None => "it has no driver that makes mediated devices".to_owned(),
        };
        let message =
            format!("{parent} cannot be sliced on this host: it has no SR-IOV, and {driver}");
        Some(Refusal::new(Code::Unsliceable, message).hint(ways(parent)))
    }

    fn offers(&self, _: &Observation, _: &ParentId, _: Option<&Layout>) -> Vec<Offer> {
        Vec::new()
    }

    fn cleaned(&self) -> Cleaned {
        Cleaned::ByReset
    }

    fn layout_steps(
        &self,
        _: &Observation,
        _: &ParentId,
        _: &Layouts,
        _: bool,
    ) -> Result<Vec<Step>, Refusal> {
        Ok(Vec::new())
    }

    fn realised(&self, _: &Observation, _: &ParentId, _: &Layout) -> bool {
        false
    }

    fn prepare_steps(&self, _: SliceId, _: &Assignment, _: Option<&Layout>) -> Vec<Step> {
        Vec::new()
    }

    fn release_steps(&self, _: SliceId, _: &Assignment, _: Option<&Layout>) -> Vec<Step> {
        Vec::new()
    }
}
