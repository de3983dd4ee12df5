//! From the VFs seen to the VFs wished, of all GPUs at once: the first with a layout has the steps of all.

use super::{DRIVER, Pf, all, modes, pf, read, state};
use crate::sriov::{binds, bound, used_by_host};
use gpuslice_core::execute::CONFIG_MARK;
use gpuslice_core::hint;
use gpuslice_core::ids::{ParentId, PciAddress};
use gpuslice_core::layout::{Layout, VfCount};
use gpuslice_core::mechanism::Layouts;
use gpuslice_core::mend::{self, take_out};
use gpuslice_core::observation::Observation;
use gpuslice_core::per_device;
use gpuslice_core::plan::Step;
use gpuslice_core::refusal::{Code, Refusal};
use std::collections::BTreeMap;

/// Where modprobe finds the number of VFs.
pub(super) const CONFIG: &str = "/etc/modprobe.d/gpuslice-gim.conf";

/// Of VFs per GPU, one value per GPU in the order of the probe.
const PARAMETER: &str = "vf_num";

/// Of the GPUs that the driver takes, addresses with `;` between them: the others have no place in the lists.
const ENABLED: &str = "enabled_devices";

/// How the driver says in the kernel's log that it makes no VFs.
const REFUSALS: [&str; 2] = ["exceeds the vf limit", "Failed to init dev(0x"];

/// What the driver makes for programs beside VMs, as AMD's monitor and its exporters are (`gim_shim/gim_drv.c`).
const NODES: [&str; 2] = ["/dev/gim-smi0", "/dev/amdgv-cmd-handle"];

/// Most VFs of one GPU that the driver is compiled for.
const MOST: u16 = 31;

pub(super) fn layout_steps(
    seen: &Observation,
    parent: &ParentId,
    layouts: &Layouts,
    reshape: bool,
) -> Result<Vec<Step>, Refusal> {
    let (Some(own), Some(layout)) = (pf(seen, parent), layouts.get(parent)) else {
        return Ok(Vec::new());
    };
    let (loaded, options) =
        state(seen).map_or((false, None), |state| (state.loaded, state.options.as_deref()));
    // Where gim was never set up, a GPU without driver may be about to get another, with other limits.
    if !reshape && !loaded && options.is_none() && own.function.driver.is_none() {
        return Ok(Vec::new());
    }
    if leaves_out(layout) {
        let others = all(seen).filter_map(|pf| layouts.get(&ParentId::Pci(pf.address)));
        return left_out(&own, layout, others).map(|()| Vec::new());
    }
    possible(&own, layout)?;
    let layout_of = |pf: &Pf<'_>| layouts.get(&ParentId::Pci(pf.address));
    let wanted = |pf: &Pf<'_>| {
        layout_of(pf).filter(|l| possible(pf, l).is_ok()).map(|l| l.vfs.of(pf.sriov.total))
    };
    let parameters = modes::parameters(seen, layouts)?;
    let (loaded, options, given) = state(seen).map_or((false, None, None), |state| {
        (state.loaded, state.options.as_deref(), Some(&state.parameters))
    });
    // What cannot be read is no reason to take the VFs of all GPUs.
    let gpus = all(seen).count();
    let other = |(name, value): (&String, &String)| {
        let so = |now: &String| alike(now, value, gpus);
        !given.and_then(|given| given.get(name)).is_some_and(so) && !read::untold(seen, name)
    };
    let differs = |pf: &Pf<'_>| wanted(pf).is_some_and(|wanted| wanted != now(pf));
    let anew = all(seen).any(|pf| differs(&pf)) || (loaded && parameters.iter().any(other));
    if reshape || anew {
        modes::judge(seen, &own, layouts, layout.vfs.of(own.sriov.total), anew)?;
    }
    let first = all(seen).find(|pf| wanted(pf).is_some());
    let speaks = first.is_some_and(|first| first.address == own.address);
    // The driver makes one VF at least of every GPU it has.
    let fewest = |pf: &Pf<'_>| {
        if layout_of(pf).is_some_and(leaves_out) { 1 } else { now(pf).max(1) }
    };
    let counts: Vec<(Pf<'_>, u16)> =
        all(seen).map(|pf| (pf, wanted(&pf).unwrap_or_else(|| fewest(&pf)))).collect();
    if !anew {
        let mut steps = Vec::new();
        if reshape {
            let differs = |ours| speaks && loaded && given_otherwise(ours, &counts, &parameters);
            steps.extend(options.filter(|ours| differs(ours)).map(|_| {
                let (_, content) = written(&counts, &parameters);
                Step::WriteConfig { path: CONFIG.to_owned(), content }
            }));
            steps.extend(modes::steps(seen, &own, layouts, false));
        }
        steps.extend(binds(seen, own.sriov, layout));
        return Ok(steps);
    }
    // A module that is loaded may be at work on its GPUs still. One that was never set up here, or that a person has unloaded, is
    // a person's to load.
    let unloaded = state(seen).is_some_and(|state| state.unloaded);
    if !speaks || (!reshape && (loaded || unloaded || options.is_none())) {
        return Ok(Vec::new());
    }
    if loaded {
        // The unload would wait for a driver of the host as it would for a VM.
        used_by_host(seen, all(seen).flat_map(|pf| pf.sriov.vfs.values()))?;
    }
    // Whether it takes a GPU that it never had, and that no layout asks for, is its own affair.
    let judged = |pf: &Pf<'_>| match layout_of(pf) {
        Some(layout) if leaves_out(layout) => false,
        _ => wanted(pf).is_some() || pf.has_driver(DRIVER),
    };
    if reshape {
        given_by_us(seen, &counts, &parameters)?;
    }
    let mut steps = reload(&counts, parameters, loaded, options, judged);
    steps.extend(all(seen).flat_map(|pf| modes::steps(seen, &pf, layouts, true)));
    Ok(steps)
}

/// The option `vf_num`, and the whole file.
fn written(counts: &[(Pf<'_>, u16)], others: &BTreeMap<String, String>) -> (String, String) {
    let value = counts.iter().map(|(_, n)| n.to_string()).collect::<Vec<_>>().join(",");
    let more: String = others.iter().map(|(name, value)| format!(" {name}={value}")).collect();
    let content = format!("{CONFIG_MARK}\noptions {DRIVER} {PARAMETER}={value}{more}\n");
    (value, content)
}

/// Refuses a load that would not find what is wished, before it takes the VFs of all GPUs for nothing.
fn given_by_us(
    seen: &Observation,
    counts: &[(Pf<'_>, u16)],
    parameters: &BTreeMap<String, String>,
) -> Result<(), Refusal> {
    if let Some(other) = state(seen).and_then(|state| state.others.of(ENABLED)) {
        let listed = |gpu| other.value.split(';').any(|one| one.trim().parse() == Ok(gpu));
        if let Some(out) = all(seen).map(|pf| pf.address).find(|gpu| !listed(*gpu)) {
            let (giver, value) = (other.given_by(), &other.value);
            let message = format!(
                "{giver} gives {DRIVER} {ENABLED}={value}, which leaves {out} out of what {PARAMETER} counts"
            );
            let hint = mend::take_option_out(DRIVER, other);
            return Err(Refusal::new(Code::BadConfig, message).hint(hint));
        }
    }
    let vfs = written(counts, parameters).0;
    let wished = parameters.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    for (name, value) in wished.chain([(PARAMETER, vfs.as_str())]) {
        let other = state(seen).and_then(|state| state.others.over(CONFIG, name));
        let Some(other) = other.filter(|other| !alike(&other.value, value, counts.len())) else {
            continue;
        };
        let (giver, value) = (other.given_by(), &other.value);
        let message = format!("{giver} gives {DRIVER} {name}={value}, which comes after {CONFIG}");
        let hint = mend::take_option_out(DRIVER, other);
        return Err(Refusal::new(Code::BadConfig, message).hint(hint));
    }
    Ok(())
}

/// Whether two values say the same of so many GPUs.
fn alike(one: &str, other: &str, gpus: usize) -> bool {
    per_device::alike(one, other, gpus).unwrap_or(one == other)
}

/// What a file of ours gives the module for a parameter.
pub(super) fn option<'a>(ours: &'a str, name: &str) -> Option<&'a str> {
    let mut lines =
        ours.lines().filter_map(|line| line.strip_prefix("options ")?.strip_prefix(DRIVER));
    lines
        .next_back()?
        .split_whitespace()
        .find_map(|word| word.strip_prefix(name)?.strip_prefix('='))
}

/// Whether the next load would find something else in a file of ours than what layouts say, as it does when one says
/// nothing any more of a parameter.
fn given_otherwise(
    ours: &str,
    counts: &[(Pf<'_>, u16)],
    others: &BTreeMap<String, String>,
) -> bool {
    let (value, _) = written(counts, others);
    option(ours, PARAMETER) != Some(value.as_str())
        || modes::PARAMETERS
            .iter()
            .any(|(_, name, _)| option(ours, name) != others.get(*name).map(String::as_str))
}

/// Sets the options, keeps host drivers off the new VFs, and loads the module anew.
fn reload(
    counts: &[(Pf<'_>, u16)],
    others: BTreeMap<String, String>,
    loaded: bool,
    options: Option<&str>,
    judged: impl Fn(&Pf<'_>) -> bool,
) -> Vec<Step> {
    let (value, content) = written(counts, &others);
    let mut steps = Vec::new();
    if options != Some(content.trim_end()) {
        steps.push(Step::WriteConfig { path: CONFIG.to_owned(), content });
    }
    let probing = counts.iter().filter(|(pf, _)| pf.sriov.autoprobe != Some(false));
    steps.extend(probing.map(|(pf, _)| Step::SetAutoprobe { pf: pf.address, on: false }));
    let name = DRIVER.to_owned();
    if loaded {
        let nodes = NODES.iter().map(|node| (*node).to_owned()).collect();
        steps.push(Step::UnloadDriver { name: name.clone(), nodes });
    }
    let vfs: BTreeMap<PciAddress, u16> =
        counts.iter().filter(|(pf, _)| judged(pf)).map(|(pf, n)| (pf.address, *n)).collect();
    let refusals = REFUSALS.map(str::to_owned).to_vec();
    let parameter = PARAMETER.to_owned();
    steps.push(Step::LoadDriver { name, parameter, value, others, refusals, vfs });
    steps
}

fn now(pf: &Pf<'_>) -> u16 {
    u16::try_from(pf.sriov.vfs.len()).unwrap_or(u16::MAX)
}

/// The driver makes VFs of every GPU it has, or fails to. Of one that is left out nothing is asked, and what it makes of it is
/// given to nobody.
pub(super) fn leaves_out(layout: &Layout) -> bool {
    layout.vfs == VfCount::Exactly(0)
}

/// Where all are left out the module would be loaded for none.
fn left_out<'a>(
    pf: &Pf<'_>,
    layout: &Layout,
    mut others: impl Iterator<Item = &'a Layout>,
) -> Result<(), Refusal> {
    let address = pf.address;
    if let Some(mode) = layout.modes.keys().next() {
        let message = format!("{address} is left out, and its layout sets {mode}");
        return Err(Refusal::new(Code::BadConfig, message).hint(take_out(mode, address)));
    }
    if others.all(leaves_out) { possible(pf, layout) } else { Ok(()) }
}

/// More VFs than the GPU can have and the driver gives it none, and forgets its own settings.
fn possible(pf: &Pf<'_>, layout: &Layout) -> Result<(), Refusal> {
    let (address, most) = (pf.address, pf.sriov.total.min(MOST));
    let wanted = layout.vfs.of(pf.sriov.total);
    if (1..=most).contains(&wanted) {
        return Ok(());
    }
    let message = format!("{address} can have 1 to {most} VFs under gim, the layout says {wanted}");
    let hint = hint!("set vfs to 1 to {} for {}, then gpuslice apply", most, address);
    Err(Refusal::new(Code::BadConfig, message).hint(hint))
}

pub(super) fn realised(seen: &Observation, parent: &ParentId, layout: &Layout) -> bool {
    pf(seen, parent).is_some_and(|pf| {
        leaves_out(layout)
            || pf.has_driver(DRIVER)
                && now(&pf) == layout.vfs.of(pf.sriov.total)
                && bound(seen, pf.sriov, layout)
                && !read::modes_untold(seen, pf.address)
    })
}
