//! From the VFs seen to the VFs wished. `sriov-manage` knows all and none, and nothing between.

use super::pf;
use gpuslice_core::ids::ParentId;
use gpuslice_core::layout::Layout;
use gpuslice_core::observation::Observation;
use gpuslice_core::plan::Step;
use gpuslice_core::refusal::{Code, Refusal};

/// Where NVIDIA's host driver puts it.
const TOOL: &str = "/usr/lib/nvidia/sriov-manage";

pub(super) fn layout_steps(
    seen: &Observation,
    parent: &ParentId,
    layout: &Layout,
    reshape: bool,
) -> Result<Vec<Step>, Refusal> {
    let (Some(address), Some((_, sriov))) = (parent.pci(), pf(seen, parent)) else {
        return Ok(Vec::new());
    };
    let wanted = layout.vfs.of(sriov.total);
    if wanted != 0 && wanted != sriov.total {
        let total = sriov.total;
        let message = format!("{parent} has all its {total} VFs or none, the layout says {wanted}");
        let refusal = Refusal::new(Code::BadConfig, message);
        return Err(refusal.because("NVIDIA's sriov-manage takes no number").hint(format!(
            "set vfs to \"all\" for {parent}; which profile each becomes is decided when a VM starts"
        )));
    }
    if layout.bind.is_some() {
        let message = format!("VFs of {parent} stay on NVIDIA's driver, which passes them to VMs");
        let refusal = Refusal::new(Code::BadConfig, message);
        return Err(refusal.hint(format!("remove bind from the layout of {parent}")));
    }
    let current = u16::try_from(sriov.vfs.len()).unwrap_or(u16::MAX);
    let step = |option: &str, count| Step::RunVfTool {
        pf: address,
        count,
        command: vec![TOOL.to_owned(), option.to_owned(), address.to_string()],
    };
    let broken = broken(seen, parent);
    if current == wanted && !(broken && reshape) {
        return Ok(Vec::new());
    }
    if current != 0 && !reshape {
        return Ok(Vec::new());
    }
    let mut steps = Vec::new();
    if current != 0 {
        steps.push(step("-d", 0));
    }
    if wanted != 0 {
        steps.push(step("-e", wanted));
    }
    Ok(steps)
}

/// A VF that was taken off its driver stays useless until all are made anew.
fn broken(seen: &Observation, parent: &ParentId) -> bool {
    pf(seen, parent).is_some_and(|(_, sriov)| {
        let mut choices = sriov.vfs.values().filter_map(|vf| seen.vfs.get(vf)?.choice.as_ref());
        choices.any(|choice| choice.broken)
    })
}

pub(super) fn realised(seen: &Observation, parent: &ParentId, layout: &Layout) -> bool {
    pf(seen, parent)
        .is_some_and(|(_, sriov)| sriov.vfs.len() == usize::from(layout.vfs.of(sriov.total)))
}
