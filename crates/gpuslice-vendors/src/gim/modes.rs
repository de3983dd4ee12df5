//! Modes of GPUs under GIM. Compute and memory are one for all GPUs of an XGMI hive, are set by attributes and kept by
//! the driver; a change resets the hive, and one of the memory gives the compute mode its default. The others are
//! parameters of the module. What the driver refuses it takes without an error.

use super::models::{self, Legal};
use super::{Pf, VENDOR, all, plan};
use gpuslice_core::hint;
use gpuslice_core::ids::{ParentId, PciAddress};
use gpuslice_core::layout::Layout;
use gpuslice_core::mechanism::{Fabric, Layouts};
use gpuslice_core::mend::{set, set_to_one_of};
use gpuslice_core::mode::{Mode, ModeValue};
use gpuslice_core::observation::Observation;
use gpuslice_core::plan::Step;
use gpuslice_core::refusal::{Code, Hint, Refusal};
use std::collections::{BTreeMap, BTreeSet};

/// Modes that are parameters, with the values they take.
pub(super) const PARAMETERS: [(Mode, &str, &[&str]); 2] = [
    (Mode::FabricSharing, "fb_sharing_mode", &["0", "1", "2", "4", "8"]),
    (Mode::Scheduler, "sch_policy", &["1", "2", "3", "4", "5"]),
];

/// What one of them is that is not given: which of its values that is, the driver knows.
pub(super) const DEFAULT: &str = "default";

/// How the driver begins when it refuses a mode.
const REFUSAL: &str = "Failed to set";

const EVERY: &[Mode] = &[Mode::Compute, Mode::Memory, Mode::FabricSharing, Mode::Scheduler];
const UNDIVIDED: &[Mode] = &[Mode::FabricSharing, Mode::Scheduler];

/// What can be set on a GPU. One that is known to have modes has them whatever it shows: it shows none with a number of
/// VFs that goes with no mode, as a GPU is given that comes when the module is loaded, nor while it is being reset. Of
/// another, before the driver has it, whatever is not known to be absent.
pub(super) fn of(seen: &Observation, pf: &Pf<'_>) -> &'static [Mode] {
    let known = !models::modes(pf.function.device).is_empty();
    let divided = match seen.modes.get(&ParentId::Pci(pf.address)) {
        Some(modes) => known || modes.contains_key(&Mode::Compute),
        None => !models::whole(pf.function.device),
    };
    if divided { EVERY } else { UNDIVIDED }
}

/// GPUs that change their modes together. GIM does not say which are linked, so all of one kind are taken for it.
pub(super) fn hive(seen: &Observation, pf: &Pf<'_>) -> BTreeSet<PciAddress> {
    let alike = all(seen).filter(|other| other.function.device == pf.function.device);
    alike.map(|other| other.address).collect()
}

/// GPUs that share their framebuffers: as many of a hive as the module's parameter says, by default all that a board has; a
/// GPU with several VFs shares with none (libgv's `mi300_xgmi.c`). GIM counts them by their places on the board, which it
/// does not show; addresses are taken to be in that order (unverified), whoever has the GPUs. Where one is missing its place
/// is not known, and only that all share can be said.
pub(super) fn fabric(seen: &Observation, pf: &Pf<'_>) -> Option<Fabric> {
    let most = models::linked(pf.function.device)?;
    let set = seen.mode(&ParentId::Pci(pf.address), Mode::FabricSharing);
    let set = set.and_then(|value| value.to_string().parse::<usize>().ok());
    let size = set.filter(|size| *size != 0).unwrap_or(most).min(most);
    let alike = seen
        .functions
        .iter()
        .filter(|(_, function)| function.vendor == VENDOR && function.device == pf.function.device);
    let places: Vec<PciAddress> = alike.map(|(address, _)| *address).collect();
    let told = places.len().is_multiple_of(most) || (size == most && places.len() < most);
    let group = places.chunks(size).find(|group| told && group.contains(&pf.address))?;
    let shares = |address: &PciAddress| {
        super::pf(seen, &ParentId::Pci(*address)).is_some_and(|pf| pf.sriov.vfs.len() < 2)
    };
    let sharing: BTreeSet<PciAddress> = group.iter().copied().filter(shares).collect();
    let first = sharing.first().filter(|_| sharing.contains(&pf.address))?;
    let parents = sharing.iter().map(|address| ParentId::Pci(*address)).collect();
    Some(Fabric { name: format!("XGMI hive of {first}"), parents })
}

/// That a layout asks for sharing of a GPU that will have several VFs.
pub(super) fn shares_with_none(pf: &Pf<'_>, layout: &Layout) -> Option<String> {
    models::linked(pf.function.device)?;
    let wanted = layout.modes.get(&Mode::FabricSharing)?;
    let (address, vfs) = (pf.address, layout.vfs.of(pf.sriov.total));
    let many = ["2", "4", "8"].iter().any(|number| wanted.is(number));
    (many && vfs > 1).then(|| {
        format!("fabric-sharing = {wanted} of {address}, which shares its memory with none while it has {vfs} VFs")
    })
}

/// Parameters of the module beside the number of VFs, as all layouts together say.
pub(super) fn parameters(
    seen: &Observation,
    layouts: &Layouts,
) -> Result<BTreeMap<String, String>, Refusal> {
    let mut wanted: BTreeMap<String, (PciAddress, String)> = BTreeMap::new();
    for pf in all(seen) {
        let Some(layout) = layouts.get(&ParentId::Pci(pf.address)) else { continue };
        for (mode, name, values) in PARAMETERS {
            let Some(value) = layout.modes.get(&mode) else { continue };
            if !values.iter().any(|v| value.is(v)) {
                let message = format!("{mode} of {} cannot be {value} under gim", pf.address);
                let hint = set_to_one_of(mode, values, pf.address);
                return Err(Refusal::new(Code::BadConfig, message).hint(hint));
            }
            let value = value.to_string();
            match wanted.get(name) {
                Some((other, there)) if *there != value => {
                    let address = pf.address;
                    let message = format!(
                        "{mode} is one for all GPUs of gim: {address} says {value}, {other} says {there}"
                    );
                    return Err(
                        Refusal::new(Code::BadConfig, message).hint(set(mode, there, address))
                    );
                }
                Some(_) => {}
                None => drop(wanted.insert(name.to_owned(), (pf.address, value))),
            }
        }
    }
    Ok(wanted.into_iter().map(|(name, (_, value))| (name, value)).collect())
}

/// Refuses modes that the GPU cannot have with so many VFs, and those that its hive does not share. `anew` is whether
/// the driver is loaded on the way, which may bring another number of VFs.
pub(super) fn judge(
    seen: &Observation,
    pf: &Pf<'_>,
    layouts: &Layouts,
    vfs: u16,
    anew: bool,
) -> Result<(), Refusal> {
    let parent = ParentId::Pci(pf.address);
    let Some(layout) = layouts.get(&parent) else { return Ok(()) };
    let of = |mode| layout.modes.get(&mode);
    for (mode, value) in layout.modes.iter().filter(|(mode, _)| divides(**mode)) {
        shared(seen, pf, layouts, *mode, value)?;
    }
    let (memory, compute) = (of(Mode::Memory), of(Mode::Compute));
    if memory.is_none() && compute.is_none() {
        return Ok(());
    }
    let known: Vec<&Legal> = models::legal_with(pf.function.device, vfs).collect();
    if known.is_empty() {
        // So its attribute takes it (`gim_monitor.c`).
        if let Some(memory) = memory.filter(|memory| memory.is("NPS8")) {
            let message = format!("gim makes NPS4 of memory {memory}");
            let hint = set(Mode::Memory, "NPS4", pf.address);
            return Err(Refusal::new(Code::BadConfig, message).hint(hint));
        }
        return if anew { Ok(()) } else { reported(seen, pf, layout) };
    }
    let fits = |m: &&Legal| {
        memory.is_none_or(|is| is.is(m.memory)) && compute.is_none_or(|is| is.is(m.compute))
    };
    if known.iter().any(fits) {
        return Ok(());
    }
    let asked = [memory, compute].into_iter().flatten().map(ToString::to_string);
    let asked = asked.collect::<Vec<_>>().join(" ");
    let all = known.iter().map(|m| hint!("{} {}", m.memory, m.compute));
    let address = pf.address;
    let message = format!("{address} with {vfs} VFs cannot be {asked}");
    let all = Hint::words(all, ", ");
    let hint =
        hint!("set memory and compute to one of {} for {}, then gpuslice apply", all, address);
    Err(Refusal::new(Code::BadConfig, message).hint(hint))
}

/// The memory mode of a layout: the one it names, or of several that there could be the only one that goes with the compute
/// mode it names. What the driver has kept from former layouts outlives loads and boots, and may be another.
fn memory_of(pf: &Pf<'_>, layout: &Layout) -> Option<ModeValue> {
    if let Some(named) = layout.modes.get(&Mode::Memory) {
        return Some(named.clone());
    }
    let compute = layout.modes.get(&Mode::Compute)?;
    let (with, without): (Vec<&Legal>, Vec<&Legal>) =
        models::legal_with(pf.function.device, layout.vfs.of(pf.sriov.total))
            .partition(|m| compute.is(m.compute));
    let (first, more) = with.split_first()?;
    let other = |m: &&Legal| m.memory != first.memory;
    let only = without.iter().any(other) && !more.iter().any(other);
    only.then(|| first.memory.parse().ok())?
}

fn divides(mode: Mode) -> bool {
    matches!(mode, Mode::Compute | Mode::Memory)
}

fn reported(seen: &Observation, pf: &Pf<'_>, layout: &Layout) -> Result<(), Refusal> {
    let modes = seen.modes.get(&ParentId::Pci(pf.address));
    for (mode, value) in layout.modes.iter().filter(|(mode, _)| divides(**mode)) {
        let offered = modes.and_then(|modes| Some(&modes.get(mode)?.offered));
        if offered.is_some_and(|offered| !offered.contains(value)) {
            let offered = offered.into_iter().flatten();
            let message = format!("{mode} of {} cannot be {value}", pf.address);
            let hint = set_to_one_of(mode, offered, pf.address);
            return Err(Refusal::new(Code::BadConfig, message).hint(hint));
        }
    }
    Ok(())
}

fn shared(
    seen: &Observation,
    pf: &Pf<'_>,
    layouts: &Layouts,
    mode: Mode,
    value: &ModeValue,
) -> Result<(), Refusal> {
    for other in hive(seen, pf) {
        let layout = layouts.get(&ParentId::Pci(other));
        // Of what is left out nothing is asked.
        if layout.is_some_and(|l| plan::leaves_out(l) || l.modes.get(&mode) == Some(value)) {
            continue;
        }
        let address = pf.address;
        let message =
            format!("{mode} is one for all GPUs of a hive, and {other} is not to be {value}");
        let hint = set(mode, value, other);
        let mut refusal = Refusal::new(Code::BadConfig, message).hint(hint);
        refusal.causes.push(format!("the layout of {address} says {mode}={value}"));
        return Err(refusal);
    }
    Ok(())
}

/// Steps that set the modes of a hive, for its first GPU alone; with `anew` what it is set to by then is not known.
pub(super) fn steps(seen: &Observation, pf: &Pf<'_>, layouts: &Layouts, anew: bool) -> Vec<Step> {
    let hive = hive(seen, pf);
    let wished = |address: &PciAddress, mode| {
        layouts.get(&ParentId::Pci(*address)).and_then(|layout| layout.modes.get(&mode))
    };
    let first = hive.iter().find(|a| EVERY.iter().any(|mode| wished(a, *mode).is_some()));
    if first != Some(&pf.address) {
        return Vec::new();
    }
    let differs = |address: &PciAddress, mode, value: &ModeValue| {
        anew || seen.is_to_be_set(&ParentId::Pci(*address), mode, value)
    };
    let set = |device, mode, value: &ModeValue| {
        let (attribute, choices) = match mode {
            Mode::Memory => ("memory_partition_mode", None),
            _ => ("accelerator_partition_profile", Some("accelerator_partition_profile_config")),
        };
        Step::SetMode {
            device,
            mode,
            value: value.clone(),
            attribute: attribute.to_owned(),
            choices: choices.map(str::to_owned),
            disturbs: hive.clone(),
            refusals: vec![REFUSAL.to_owned()],
        }
    };
    let memory_of = |address: &PciAddress| {
        let parent = ParentId::Pci(*address);
        Some((*address, memory_of(&super::pf(seen, &parent)?, layouts.get(&parent)?)?))
    };
    let memory = hive
        .iter()
        .find_map(memory_of)
        .filter(|(_, value)| hive.iter().any(|address| differs(address, Mode::Memory, value)));
    let computes =
        hive.iter().filter_map(|address| Some((address, wished(address, Mode::Compute)?)));
    let computes =
        computes.filter(|(a, value)| memory.is_some() || differs(a, Mode::Compute, value));
    let computes: Vec<Step> =
        computes.map(|(address, value)| set(*address, Mode::Compute, value)).collect();
    // The driver sets the whole hive, but does nothing for a GPU that has the mode, as one may whose like came since.
    let other = |address: &&PciAddress, value: &ModeValue| {
        !anew && seen.mode(&ParentId::Pci(**address), Mode::Memory).is_some_and(|is| is != value)
    };
    let memory = memory.map(|(of, value)| {
        let device = hive.iter().find(|address| other(address, &value)).copied();
        set(device.unwrap_or(of), Mode::Memory, &value)
    });
    memory.into_iter().chain(computes).collect()
}
