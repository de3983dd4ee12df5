//! GPUs that cannot be sliced: no SR-IOV, no mediated devices. Nothing is made of them; it is said what works instead.

use gpuslice_core::hint;
use gpuslice_core::ids::{ParentId, PciAddress, SliceId};
use gpuslice_core::layout::Layout;
use gpuslice_core::mechanism::{Cleaned, Layouts, Mechanism, Offer};
use gpuslice_core::observation::{Function, Observation, is_vfio};
use gpuslice_core::observe::Answers;
use gpuslice_core::plan::Step;
use gpuslice_core::port::{HostRead, read_text};
use gpuslice_core::refusal::{Code, Hint, Refusal};
use gpuslice_core::state::Assignment;

/// Makers of GPUs that a VM can have or render on: AMD, NVIDIA, Intel. A server's console is not meant.
const MAKERS: [u16; 3] = [0x1002, 0x10de, 0x8086];

/// Display controllers that the firmware can show itself on (include/linux/pci_ids.h, PCI_CLASS_DISPLAY_VGA).
const VGA: u32 = 0x0300;

/// See the module.
#[derive(Debug)]
pub struct Whole;

/// How VMs can have such a GPU.
pub(crate) fn ways(seen: &Observation, parent: &ParentId, function: &Function) -> Hint {
    let beside = parent.pci().and_then(|address| seen.beside.get(&address));
    let others = beside.into_iter().flatten().map(ToString::to_string);
    let all = Hint::words(std::iter::once(parent.to_string()).chain(others), " and ");
    let whole = hint!(
        "give the whole of it to one VM (virt-manager: Add Hardware, PCI Host Device {})",
        all
    );
    if !serves_host(function) {
        return whole;
    }
    // Without `accel3d` libvirt gives a virtio-vga that draws in the processor, and egl-headless shows nothing by itself.
    hint!(
        "{}; or let VMs render on it, beside VNC or SPICE: \
         <graphics type='egl-headless'><gl rendernode='/dev/dri/by-path/pci-{}-render'/></graphics> \
         and <video><model type='virtio'><acceleration accel3d='yes'/></model></video>",
        whole,
        parent
    )
}

/// What speaks against giving it away. A VM is to have one that the host has given up already.
pub(crate) fn is_console(seen: &Observation, parent: &ParentId) -> Option<&'static str> {
    let is = seen.console.is_some() && seen.console == parent.pci();
    is.then_some("the host's console is on it (boot_vga), and goes dark when a VM has the whole")
}

/// Whether the host could be seen on it: only of a VGA controller the kernel tells.
fn shows(function: &Function) -> bool {
    let passed = function.driver.as_deref().is_some_and(is_vfio);
    MAKERS.contains(&function.vendor) && function.class >> 8 == VGA && !passed
}

/// A driver has it that is not there to pass it to VMs: it has a render node of that one's.
fn serves_host(function: &Function) -> bool {
    function.driver.as_deref().is_some_and(|driver| !is_vfio(driver) && driver != "pci-stub")
}

impl Mechanism for Whole {
    fn name(&self) -> &'static str {
        "whole"
    }

    /// Of those that are told to be given to a VM, which the host is seen on.
    fn observe(&self, host: &dyn HostRead, _: &mut Answers, seen: &mut Observation) {
        let amds = seen
            .functions
            .iter()
            .filter(|(address, _)| crate::amdgpu::gpu(seen, &ParentId::Pci(**address)).is_some());
        let shown = seen.whole.iter().chain(amds).filter(|(_, function)| shows(function));
        let shown: Vec<PciAddress> = shown.map(|(address, _)| *address).collect();
        seen.console = shown.into_iter().find(|address| {
            let path = format!("/sys/bus/pci/devices/{address}/boot_vga");
            read_text(host, &path).as_deref() == Ok("1")
        });
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
        let refusal = Refusal::new(Code::Unsliceable, message);
        let refusal = is_console(seen, parent).into_iter().fold(refusal, Refusal::because);
        Some(refusal.hint(ways(seen, parent, function)))
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
