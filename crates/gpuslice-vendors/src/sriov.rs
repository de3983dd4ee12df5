//! Plain SR-IOV: a PF whose driver makes VFs on a write to `sriov_numvfs` (Documentation/PCI/pci-iov-howto.rst).
//! All VFs are made at once and stay; a start binds one to vfio-pci, or to the driver of this kind that its layout names, and
//! a stop leaves it without driver again unless the layout binds it.

mod models;
mod offers;
mod plan;
mod trouble;

pub(crate) use plan::{binds, bound, used_by_host};

use crate::makers::maker;
use crate::nvidia::{has_no_vfs, scheduler};
use gpuslice_core::errno::Errno;
use gpuslice_core::health::Trouble;
use gpuslice_core::hint;
use gpuslice_core::ids::{ParentId, PciAddress, SliceId};
use gpuslice_core::layout::Layout;
use gpuslice_core::mechanism::{Cleaned, Layouts, Mechanism, Offer, SRIOV};
use gpuslice_core::mend;
use gpuslice_core::mode::Mode;
use gpuslice_core::observation::{Function, Observation, is_vfio};
use gpuslice_core::observe::Answers;
use gpuslice_core::plan::Step;
use gpuslice_core::port::HostRead;
use gpuslice_core::refusal::{Hint, Refusal};
use gpuslice_core::state::Assignment;

/// The driver that passes any PCI function to a VM.
const VFIO_PCI: &str = "vfio-pci";

/// Whose hands a VF is passed to a VM by. libvirt 9.7 and newer take each driver that has made a VFIO device of it
/// (`virPCIDeviceGetCurrentDriverNameAndType`), older ones only vfio-pci.
fn passes(layout: Option<&Layout>) -> &str {
    let bind = layout.and_then(|layout| layout.bind.as_deref());
    bind.filter(|driver| is_vfio(driver)).unwrap_or(VFIO_PCI)
}

/// vfio-pci hands a function on without knowing what is inside, so it can save nothing of it; whether a driver of the vendor
/// beside it (`xe-vfio-pci`, `amd-vfio-pci`) can, only that knows.
pub(crate) fn migratable(layout: Option<&Layout>) -> Option<bool> {
    (passes(layout) == VFIO_PCI).then_some(false)
}

/// See the module.
#[derive(Debug)]
pub struct Sriov;

fn function<'a>(seen: &'a Observation, parent: &ParentId) -> Option<&'a Function> {
    seen.functions.get(&parent.pci()?)
}

impl Mechanism for Sriov {
    fn name(&self) -> &'static str {
        SRIOV
    }

    fn model(&self, vendor: u16, device: u16) -> Option<&'static str> {
        (vendor == 0x8086).then(|| models::intel(device))?
    }

    fn maker(&self, _: &Observation, _: PciAddress, function: &Function) -> Option<&'static str> {
        maker(function.vendor, function.device).map(|maker| maker.driver)
    }

    fn observe(&self, host: &dyn HostRead, _: &mut Answers, seen: &mut Observation) {
        plan::read_vfio(host, seen);
    }

    fn trouble(&self, line: &str) -> Option<Trouble> {
        trouble::of_line(line)
    }

    fn applies(&self, seen: &Observation, parent: &ParentId) -> bool {
        function(seen, parent).is_some_and(|f| f.sriov.is_some())
            && crate::nvidia::pf(seen, parent).is_none()
            && !crate::nvidia::makes_mdevs(seen, parent)
            && crate::gim::pf(seen, parent).is_none()
            && crate::amdgpu::gpu(seen, parent).is_none()
    }

    /// A GPU of which mediated devices will be made can have SR-IOV too, and not use it (NVIDIA's T4).
    fn modes(&self, seen: &Observation, parent: &ParentId) -> &'static [Mode] {
        scheduler::modes(seen, parent)
    }

    fn offers(&self, seen: &Observation, parent: &ParentId, layout: Option<&Layout>) -> Vec<Offer> {
        offers::offers(seen, parent, layout).into_iter().collect()
    }

    /// PCIe 6.6.2: a function-level reset leaves nothing of its former user to be seen.
    fn cleaned(&self) -> Cleaned {
        Cleaned::ByReset
    }

    fn layout_steps(
        &self,
        seen: &Observation,
        parent: &ParentId,
        layouts: &Layouts,
        reshape: bool,
    ) -> Result<Vec<Step>, Refusal> {
        let Some(layout) = layouts.get(parent) else { return Ok(Vec::new()) };
        if let Some(refusal) = plan::not_its_own(seen, parent, layout) {
            return if reshape { Err(refusal) } else { Ok(Vec::new()) };
        }
        let mut steps = scheduler::layout_steps(seen, parent, layouts, reshape)?;
        if !has_no_vfs(seen, parent) {
            steps.extend(plan::layout_steps(seen, parent, layout, reshape)?);
        }
        Ok(steps)
    }

    fn realised(&self, seen: &Observation, parent: &ParentId, layout: &Layout) -> bool {
        has_no_vfs(seen, parent) || plan::realised(seen, parent, layout)
    }

    fn ignores(&self, seen: &Observation, parent: &ParentId, layout: &Layout) -> Option<String> {
        has_no_vfs(seen, parent).then(|| crate::mdev::ignores_vfs(parent, layout))?
    }

    fn is_given_away(&self, seen: &Observation, parent: &ParentId) -> bool {
        function(seen, parent).is_some_and(|f| plan::rival(seen, f).is_some())
    }

    fn is_between_drivers(&self, seen: &Observation, parent: &ParentId) -> bool {
        function(seen, parent).is_some_and(plan::sriov_manage_has)
    }

    fn mends_count(&self, pf: PciAddress, driver: &str, errno: Errno) -> Option<Hint> {
        match (errno, driver) {
            // That of the kernel's own tree.
            (Errno::ENOENT, "i915") => Some(hint!(
                "install i915-sriov-dkms or Intel's own build of i915 (the kernel's makes no VFs), reboot, then gpuslice apply; or {}",
                mend::set("vfs", 0, pf)
            )),
            // i915: of some VFs it is still said what they get, and of others not. Whoever says something shares out by hand from
            // then on, and VFs of which nothing is said get nothing.
            (Errno::ENOKEY, _) => Some(hint!(
                "echo 0 | tee /sys/bus/pci/devices/{}/drm/card*/*iov/vf*/gt*/*_quota; echo 1 | tee /sys/bus/pci/devices/{}/drm/card*/*iov/pf/auto_provisioning",
                pf,
                pf
            )),
            // Of address space for their BARs, as a rule.
            (Errno::ENOMEM, _) => Some(hint!(
                "switch \"Above 4G decoding\" and \"Resizable BAR\" on in the firmware, or add pci=realloc to the kernel's arguments; then reboot"
            )),
            (Errno::ENOSPC, _) => Some(hint!("set vfs to fewer for {}, then gpuslice apply", pf)),
            _ => None,
        }
    }

    fn lacks(&self, seen: &Observation, parent: &ParentId) -> Option<String> {
        let function = function(seen, parent)?;
        if let Some(driver) = plan::rival(seen, function) {
            return Some(plan::not_laid_out(parent, function, driver));
        }
        (plan::sriov_manage_has(function) && function.under_stub()).then_some(())?;
        let (stub, back) = ("pci-pf-stub", mend::give_back(parent, "pci-pf-stub"));
        Some(format!("{stub} has it, as while sriov-manage runs; where none does: {back}"))
    }

    fn prepare_steps(
        &self,
        slice: SliceId,
        assignment: &Assignment,
        layout: Option<&Layout>,
    ) -> Vec<Step> {
        let Some(function) = slice.pci() else { return Vec::new() };
        if assignment.managed {
            // libvirt binds it right after.
            return vec![Step::LoadModule { name: VFIO_PCI.to_owned() }];
        }
        let driver = passes(layout).to_owned();
        vec![Step::LoadModule { name: driver.clone() }, Step::Bind { function, driver }]
    }

    fn release_steps(
        &self,
        slice: SliceId,
        assignment: &Assignment,
        layout: Option<&Layout>,
    ) -> Vec<Step> {
        let Some(function) = slice.pci() else { return Vec::new() };
        let stays_bound = layout.is_some_and(|l| l.bind.is_some());
        if assignment.managed || stays_bound {
            return vec![Step::RequireUnheld { function }];
        }
        vec![Step::Unbind { function }]
    }
}
