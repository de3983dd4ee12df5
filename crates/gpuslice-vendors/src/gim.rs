//! AMD GPUs under the GIM driver (MxGPU). VFs come only when its module is loaded, as many of each GPU as the option
//! `vf_num` says; `sriov_numvfs` is refused with ENOENT. So all its GPUs change together, by a reload, which waits
//! inside the kernel for ever while one VF is in use. Nothing loads the module by itself: it has no alias.
//!
//! `/etc/gim_config` is the driver's own file: it rewrites it at every load and throws it away over a word it does
//! not know. The option is given in a file of `/etc/modprobe.d` instead, which wins over it.
//!
//! Facts: amd/MxGPU-Virtualization, `gim_shim/gim_config.c`, `gim_drv.c`, `gim_os_service.c`.

mod models;
mod modes;
mod offers;
mod plan;
mod read;
mod trouble;

use crate::sriov::Sriov as Vfs;
use gpuslice_core::health::Trouble;
use gpuslice_core::ids::{ParentId, PciAddress, SliceId};
use gpuslice_core::layout::Layout;
use gpuslice_core::mechanism::{Cleaned, Fabric, Layouts, Mechanism, Offer};
use gpuslice_core::mode::Mode;
use gpuslice_core::observation::{DriverState, Function, Observation, Sriov};
use gpuslice_core::observe::Answers;
use gpuslice_core::plan::Step;
use gpuslice_core::port::HostRead;
use gpuslice_core::refusal::Refusal;
use gpuslice_core::state::Assignment;
use std::collections::BTreeSet;

/// PCI vendor id.
const VENDOR: u16 = 0x1002;

/// The driver and its module.
const DRIVER: &str = "gim";

/// See the module.
#[derive(Debug)]
pub struct Gim;

/// A GPU that GIM has or could have.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pf<'a> {
    address: PciAddress,
    function: &'a Function,
    sriov: &'a Sriov,
}

/// By what the kernel shows. A GPU without driver is taken for one of GIM's when GIM is loaded or was set up here,
/// or knows its id.
pub(crate) fn pf<'a>(seen: &'a Observation, parent: &ParentId) -> Option<Pf<'a>> {
    let address = parent.pci()?;
    let function = seen.functions.get(&address)?;
    let sriov = function.sriov.as_ref()?;
    if function.vendor != VENDOR || !function.is_gpu() || sriov.total == 0 {
        return None;
    }
    let set_up = || state(seen).is_some_and(|state| state.loaded || state.options.is_some());
    let ours = match function.driver.as_deref() {
        Some(DRIVER) => true,
        Some(_) => false,
        None => models::name(function.device).is_some() || set_up(),
    };
    ours.then_some(Pf { address, function, sriov })
}

impl Pf<'_> {
    fn has_driver(&self, name: &str) -> bool {
        self.function.driver.as_deref() == Some(name)
    }
}

fn state(seen: &Observation) -> Option<&DriverState> {
    seen.drivers.get(DRIVER)
}

/// The GPUs that GIM has or will have, in the order of its probe: by id, and those of one id by address.
fn all(seen: &Observation) -> impl Iterator<Item = Pf<'_>> {
    let parents = seen.functions.keys().map(|address| ParentId::Pci(*address));
    let mut all: Vec<Pf<'_>> = parents.filter_map(|parent| pf(seen, &parent)).collect();
    all.sort_by_key(|pf| (models::turn(pf.function.device), pf.address));
    all.into_iter()
}

impl Mechanism for Gim {
    fn name(&self) -> &'static str {
        "gim"
    }

    fn model(&self, vendor: u16, device: u16) -> Option<&'static str> {
        (vendor == VENDOR).then(|| models::name(device))?
    }

    fn maker(&self, seen: &Observation, pci: PciAddress, _: &Function) -> Option<&'static str> {
        pf(seen, &ParentId::Pci(pci)).map(|_| DRIVER)
    }

    fn observe(&self, host: &dyn HostRead, answers: &mut Answers, seen: &mut Observation) {
        read::read(host, answers, seen);
    }

    fn trouble(&self, line: &str) -> Option<Trouble> {
        trouble::of_line(line)
    }

    fn applies(&self, seen: &Observation, parent: &ParentId) -> bool {
        pf(seen, parent).is_some()
    }

    fn modes(&self, seen: &Observation, parent: &ParentId) -> &'static [Mode] {
        pf(seen, parent).map_or(&[], |pf| modes::of(seen, &pf))
    }

    fn offers(&self, seen: &Observation, parent: &ParentId, layout: Option<&Layout>) -> Vec<Offer> {
        if layout.is_some_and(plan::leaves_out) {
            return Vec::new();
        }
        offers::offers(seen, parent, layout).into_iter().collect()
    }

    fn together(&self, seen: &Observation, parent: &ParentId) -> BTreeSet<ParentId> {
        let all: BTreeSet<ParentId> = all(seen).map(|pf| ParentId::Pci(pf.address)).collect();
        if all.contains(parent) { all } else { BTreeSet::from([parent.clone()]) }
    }

    fn fabric(&self, seen: &Observation, parent: &ParentId) -> Option<Fabric> {
        modes::fabric(seen, &pf(seen, parent)?)
    }

    /// GIM turns the reset of a VF into one of its own. That this clears the VF's framebuffer is UNVERIFIED; when it
    /// fails, GIM says so.
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
        plan::layout_steps(seen, parent, layouts, reshape)
    }

    fn realised(&self, seen: &Observation, parent: &ParentId, layout: &Layout) -> bool {
        plan::realised(seen, parent, layout)
    }

    fn ignores(&self, seen: &Observation, parent: &ParentId, layout: &Layout) -> Option<String> {
        modes::shares_with_none(&pf(seen, parent)?, layout)
    }

    /// It makes its VFs beside its load, in no time or never, and stays bound to a GPU that it could not initialise. Before it
    /// is loaded, no probe gives it a GPU.
    fn lacks(&self, seen: &Observation, parent: &ParentId) -> Option<String> {
        let pf = pf(seen, parent)?;
        if pf.has_driver(DRIVER) && pf.sriov.vfs.is_empty() {
            return Some(format!(
                "{DRIVER} has it and has made no VFs: dmesg | grep {DRIVER}; then gpuslice apply"
            ));
        }
        let state = state(seen).filter(|state| !state.loaded && pf.function.driver.is_none())?;
        let is = if state.unloaded { "was unloaded" } else { "is not loaded" };
        Some(format!("{DRIVER} {is}: gpuslice apply"))
    }

    /// A VF that is there is like any other.
    fn prepare_steps(
        &self,
        slice: SliceId,
        assignment: &Assignment,
        layout: Option<&Layout>,
    ) -> Vec<Step> {
        Vfs.prepare_steps(slice, assignment, layout)
    }

    fn release_steps(
        &self,
        slice: SliceId,
        assignment: &Assignment,
        layout: Option<&Layout>,
    ) -> Vec<Step> {
        Vfs.release_steps(slice, assignment, layout)
    }
}
