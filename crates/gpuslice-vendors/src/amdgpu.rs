//! AMD GPUs that the host's own driver has. It makes no VFs: such a GPU serves the host, or goes to a VM as a whole. An
//! Instinct's partition modes are shown, and the compute mode is set.
//!
//! Facts: torvalds/linux, `drivers/gpu/drm/amd/amdgpu/amdgpu_gfx.c`, `amdgpu_gmc.c`, `aqua_vanjaram.c`.

use crate::makers::maker;
use gpuslice_core::hint;
use gpuslice_core::ids::{ParentId, PciAddress, Serial, SliceId};
use gpuslice_core::layout::Layout;
use gpuslice_core::mechanism::{Cleaned, Layouts, Mechanism, Offer, SerialFile, ShownSerial};
use gpuslice_core::mend::{set, set_to_one_of};
use gpuslice_core::mode::{Mode, ModeState, ModeValue};
use gpuslice_core::observation::{Function, Observation};
use gpuslice_core::observe::{Answers, attribute};
use gpuslice_core::plan::Step;
use gpuslice_core::port::HostRead;
use gpuslice_core::refusal::{Code, Refusal};
use gpuslice_core::state::Assignment;
use std::collections::BTreeSet;

/// PCI vendor id.
const VENDOR: u16 = 0x1002;

/// The driver.
const DRIVER: &str = "amdgpu";

/// A mode's attribute, and the one that lists what it can be.
const ATTRIBUTES: [(Mode, &str, &str); 2] = [
    (Mode::Compute, "current_compute_partition", "available_compute_partition"),
    (Mode::Memory, "current_memory_partition", "available_memory_partition"),
];

/// Compute modes, and the memory modes that each goes with.
const LEGAL: [(&str, &[&str]); 5] = [
    ("SPX", &["NPS1"]),
    ("DPX", &["NPS1", "NPS2"]),
    ("TPX", &["NPS1", "NPS4"]),
    ("QPX", &["NPS1", "NPS2", "NPS4"]),
    ("CPX", &["NPS1", "NPS2", "NPS4"]),
];

/// See the module.
#[derive(Debug)]
pub struct Amdgpu;

/// A GPU of the driver.
pub(crate) fn gpu<'a>(
    seen: &'a Observation,
    parent: &ParentId,
) -> Option<(PciAddress, &'a Function)> {
    let address = parent.pci()?;
    let function = seen.functions.get(&address)?;
    let ours = function.vendor == VENDOR
        && function.is_gpu()
        && function.driver.as_deref() == Some(DRIVER)
        && !seen.vfs.contains_key(&address);
    ours.then_some((address, function))
}

fn values(text: &str) -> Vec<ModeValue> {
    text.split([',', ' ']).filter_map(|word| word.parse().ok()).collect()
}

/// 16 hexadecimal digits.
fn unique_id(text: &str) -> Option<ShownSerial> {
    if text.is_empty() {
        return Some(ShownSerial::NotYet);
    }
    let digits = text.len() == 16 && text.bytes().all(|b| b.is_ascii_hexdigit());
    match text.parse().ok().filter(|_| digits)? {
        Serial::Number(0) => Some(ShownSerial::NotYet),
        serial => Some(ShownSerial::Is(serial)),
    }
}

impl Mechanism for Amdgpu {
    fn name(&self) -> &'static str {
        "amdgpu"
    }

    /// `amdgpu_get_unique_id`: absent before GFX9, empty where there is none, refused during a reset.
    fn serial(&self, function: PciAddress, driver: &str) -> Option<SerialFile> {
        let path = format!("/sys/bus/pci/devices/{function}/unique_id");
        (driver == DRIVER).then_some(SerialFile { path, read: unique_id })
    }

    fn observe(&self, host: &dyn HostRead, _: &mut Answers, seen: &mut Observation) {
        let parents = seen.functions.keys().map(|address| ParentId::Pci(*address));
        let ours: Vec<ParentId> = parents.filter(|parent| gpu(seen, parent).is_some()).collect();
        for parent in ours {
            for (mode, current, available) in ATTRIBUTES {
                let path = |name| format!("/sys/bus/pci/devices/{parent}/{name}");
                let Some(now) = attribute(host, seen, &path(current), |t| t.parse().ok()) else {
                    continue;
                };
                let listed = attribute(host, seen, &path(available), |t| Some(values(t)));
                let state = ModeState {
                    current: Some(now),
                    offered: listed.unwrap_or_default(),
                    at_load: None,
                };
                seen.modes.entry(parent.clone()).or_default().insert(mode, state);
            }
        }
    }

    fn applies(&self, seen: &Observation, parent: &ParentId) -> bool {
        gpu(seen, parent).is_some()
    }

    /// The host's driver has it. An Instinct has partitions, and trouble with resets.
    fn unsliceable(&self, seen: &Observation, parent: &ParentId) -> Option<Refusal> {
        let (_, function) = gpu(seen, parent)?;
        let message =
            format!("{parent} is not sliced: {DRIVER} has it for the host, and makes no VFs");
        let refusal = Refusal::new(Code::Unsliceable, message);
        let console = crate::whole::is_console(seen, parent);
        let mut refusal = console.into_iter().fold(refusal, Refusal::because);
        if seen.modes.contains_key(parent) {
            refusal = refusal.because(
                "after a VM had the whole of such a GPU, its reset can leave it unreadable until the host reboots",
            );
        }
        let gim = match gim_takes(function) {
            true => hint!("; or blacklist {} and let gim make VFs of it", DRIVER),
            false => hint!(""),
        };
        Some(refusal.hint(hint!("{}{}", crate::whole::ways(seen, parent, function), gim)))
    }

    fn offers(&self, _: &Observation, _: &ParentId, _: Option<&Layout>) -> Vec<Offer> {
        Vec::new()
    }

    fn modes(&self, seen: &Observation, parent: &ParentId) -> &'static [Mode] {
        let divided = seen.modes.contains_key(parent) || seen.unreadable(parent);
        if divided { &[Mode::Compute, Mode::Memory] } else { &[] }
    }

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
        let (Some((device, function)), Some(layout)) = (gpu(seen, parent), layouts.get(parent))
        else {
            return Ok(Vec::new());
        };
        if vfs(function, layout) > 0 {
            return Err(host_driver(parent, function));
        }
        if reshape {
            judge(seen, parent, layout)?;
        }
        let compute = layout
            .modes
            .get(&Mode::Compute)
            .filter(|value| reshape && seen.is_to_be_set(parent, Mode::Compute, value));
        let set = |value: &ModeValue| Step::SetMode {
            device,
            mode: Mode::Compute,
            value: value.clone(),
            attribute: "current_compute_partition".to_owned(),
            choices: None,
            disturbs: BTreeSet::new(),
            refusals: Vec::new(),
        };
        Ok(compute.map(set).into_iter().collect())
    }

    fn realised(&self, seen: &Observation, parent: &ParentId, layout: &Layout) -> bool {
        gpu(seen, parent).is_some_and(|(_, function)| vfs(function, layout) == 0)
    }

    /// It has no slices.
    fn prepare_steps(&self, _: SliceId, _: &Assignment, _: Option<&Layout>) -> Vec<Step> {
        Vec::new()
    }

    fn release_steps(&self, _: SliceId, _: &Assignment, _: Option<&Layout>) -> Vec<Step> {
        Vec::new()
    }
}

fn vfs(function: &Function, layout: &Layout) -> u16 {
    layout.vfs.of(function.sriov.as_ref().map_or(0, |sriov| sriov.total))
}

/// Some have SR-IOV and are none of GIM's: without amdgpu such a GPU would be of no use at all.
fn gim_takes(function: &Function) -> bool {
    let has_vfs = function.sriov.as_ref().is_some_and(|sriov| sriov.total > 0);
    has_vfs && maker(function.vendor, function.device).is_some_and(|maker| maker.driver == "gim")
}

fn host_driver(parent: &ParentId, function: &Function) -> Refusal {
    if !gim_takes(function) {
        let message = format!("{DRIVER} has {parent} and makes no VFs, nor does GIM of this model");
        return Refusal::new(Code::Unsupported, message).hint(set("vfs", 0, parent));
    }
    let message = format!("{DRIVER} has {parent}, and only gim makes VFs of it");
    Refusal::new(Code::HostDriver, message).hint(hint!(
        "echo blacklist {} > /etc/modprobe.d/{}-off.conf, then make the initramfs anew, then reboot, then gpuslice apply",
        DRIVER,
        DRIVER
    ))
}

/// Refuses a mode that the GPU does not list or that does not go with the other, and a memory mode that only a new load
/// of the driver brings: that would take the GPUs from whoever computes on them, all of a hive.
fn judge(seen: &Observation, parent: &ParentId, layout: &Layout) -> Result<(), Refusal> {
    for (mode, value) in &layout.modes {
        let state = seen.modes.get(parent).and_then(|modes| modes.get(mode));
        let Some(state) = state.filter(|s| !s.offered.is_empty() && !s.offered.contains(value))
        else {
            continue;
        };
        let message = format!("{mode} of {parent} cannot be {value}");
        return Err(Refusal::new(Code::BadConfig, message).hint(set_to_one_of(
            mode,
            &state.offered,
            parent,
        )));
    }
    let now = seen.mode(parent, Mode::Memory);
    if let (Some(memory), Some(now)) = (layout.modes.get(&Mode::Memory), now)
        && memory != now
    {
        let message = format!(
            "memory {memory} of {parent} comes with the next load of {DRIVER}, for its whole hive"
        );
        let attribute = format!("/sys/bus/pci/devices/{parent}/current_memory_partition");
        return Err(Refusal::new(Code::Unsupported, message).hint(hint!(
            "stop what computes on the GPUs, then echo {} > {}, then modprobe -r {}, then modprobe {}",
            memory,
            attribute,
            DRIVER,
            DRIVER
        )));
    }
    let (Some(compute), Some(memory)) = (layout.modes.get(&Mode::Compute), now) else {
        return Ok(());
    };
    let with = LEGAL.iter().find(|(name, _)| compute.is(name)).map(|(_, with)| *with);
    match with {
        Some(with) if !with.iter().any(|name| memory.is(name)) => {
            let message = format!("{parent} cannot be {compute} beside {memory}");
            let goes = |with: &[&str]| with.iter().any(|name| memory.is(name));
            let goes = LEGAL.iter().filter(|(_, with)| goes(with)).map(|(name, _)| *name);
            let hint = set_to_one_of(Mode::Compute, goes, parent);
            Err(Refusal::new(Code::BadConfig, message).hint(hint))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_unique_id_is_16_digits() {
        let told = ShownSerial::Is(Serial::Number(0x692b_1f0c_3a5d_0100));
        assert_eq!(unique_id("692b1f0c3a5d0100"), Some(told));
        for text in ["", "0000000000000000"] {
            assert_eq!(unique_id(text), Some(ShownSerial::NotYet), "{text}");
        }
        for text in ["12", "692b1f0c3a5d010x", "+92b1f0c3a5d0100", "692b1f0c3a5d01000"] {
            assert_eq!(unique_id(text), None, "{text}");
        }
    }
}
