//! From what is seen of a GPU to what is wished. `sriov-manage` knows all VFs and none, and takes GPU instances and
//! mixed sizes with it, in both directions; so the order is MIG, VFs, then instances or mixed sizes. Types come with
//! the VMs.

use super::modes::{MIXED, NONE, OFF, SMI};
use super::names::instance;
use super::pf;
use super::scheduler;
use gpuslice_core::hint;
use gpuslice_core::ids::{ParentId, PciAddress};
use gpuslice_core::layout::Layout;
use gpuslice_core::mend::{set, take_out};
use gpuslice_core::mode::{Mode, ModeValue};
use gpuslice_core::observation::{Choice, Observation, ReadProblem, Vf};
use gpuslice_core::plan::{Shown, Step};
use gpuslice_core::refusal::{Code, Hint, Refusal};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

/// Where NVIDIA's host driver puts it.
const TOOL: &str = "/usr/lib/nvidia/sriov-manage";

/// Where the driver tells of each GPU, by its address.
const GPUS: &str = "/proc/driver/nvidia/gpus";

/// What it cannot have while somebody has the GPU open.
const IN_THE_WAY: &str = "unbindLock";

/// How the other tool says that.
const OPENED: &str = "In use by another client";

/// How that one says that a change of MIG waits for a reset of the GPU.
const PENDING: &str = "MIG mode is in pending";

/// Modes that can be set.
pub(super) const MODES: &[Mode] = &[Mode::Instances, Mode::Sizes, Mode::Scheduler];

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
    possible(parent, layout, sriov.total, wanted)?;
    let Some(modes) = ModesNow::of(seen, parent, layout, reshape)? else { return Ok(Vec::new()) };
    let current = u16::try_from(sriov.vfs.len()).unwrap_or(u16::MAX);
    let gpu = Gpu { address };
    let anew = current != wanted || broken(seen, parent) || modes.mig_differs();
    if anew && (current == 0 || reshape) {
        let mut steps = Vec::new();
        if current != 0 {
            steps.push(gpu.vfs("-d", 0));
        }
        if let Some(on) = modes.mig.filter(|_| modes.mig_differs()) {
            // It is turned off only without instances, which go with the VFs where there are some.
            if !on && current == 0 && !modes.there.is_empty() {
                steps.extend(gpu.no_instances());
            }
            steps.push(gpu.mig(on));
        }
        if wanted != 0 {
            steps.push(gpu.vfs("-e", wanted));
            let (instances, mixed) = modes.with_new_vfs();
            steps.extend((!instances.is_empty()).then(|| gpu.instances(instances, &[])));
            steps.extend(mixed.then(|| gpu.mixed(true)));
        }
        return Ok(steps);
    }
    if anew || current == 0 {
        return Ok(Vec::new());
    }
    Ok(gpu.onto_vfs(&modes, has_types(seen, parent), reshape))
}

/// What the layout asks of a GPU's modes, and what they are.
struct ModesNow<'a> {
    /// Whether MIG shall be on, and is.
    mig: Option<bool>,
    mig_now: bool,
    /// Instances that shall be, and are.
    wish: Vec<&'a str>,
    there: Vec<&'a str>,
    /// Whether sizes shall be mixed, and are.
    mixed: Option<bool>,
    mixed_now: bool,
}

impl<'a> ModesNow<'a> {
    /// `None` when the GPU's modes matter and are not told yet.
    fn of(
        seen: &'a Observation,
        parent: &ParentId,
        layout: &'a Layout,
        reshape: bool,
    ) -> Result<Option<Self>, Refusal> {
        let wish = layout.modes.get(&Mode::Instances);
        let sizes = layout.modes.get(&Mode::Sizes);
        let told = seen.modes.get(parent).filter(|told| told.contains_key(&Mode::Instances));
        if told.is_none() && (wish.is_some() || sizes.is_some()) {
            if !reshape {
                return Ok(None);
            }
            return Err(untold(seen, parent));
        }
        let now = |mode| seen.mode(parent, mode);
        let mig = wish.map(|value| !value.is(OFF));
        if mig == Some(true) && now(Mode::Instances).is_none() {
            let message = format!("{parent} cannot be divided into GPU instances");
            let hint = take_out(Mode::Instances, parent);
            return Err(Refusal::new(Code::BadConfig, message).hint(hint));
        }
        let mig_now = now(Mode::Instances).is_some_and(|value| !value.is(OFF));
        let mixed = sizes.map(|value| value.is(MIXED));
        if mixed == Some(true) && (mig.unwrap_or(mig_now) || told.is_some_and(|t| !can_mix(t))) {
            let why = if mig.unwrap_or(mig_now) { "while it has GPU instances" } else { "at all" };
            let message = format!("{parent} cannot mix sizes {why}");
            let hint = take_out(Mode::Sizes, parent);
            return Err(Refusal::new(Code::BadConfig, message).hint(hint));
        }
        let mixed_now = now(Mode::Sizes).is_some_and(|value| value.is(MIXED));
        if mixed == Some(true) && !mixed_now {
            scheduler::lets_mix(seen, parent, layout)?;
        }
        Ok(Some(Self {
            mig,
            mig_now,
            wish: wish.map(named).unwrap_or_default(),
            there: now(Mode::Instances).map(named).unwrap_or_default(),
            mixed,
            mixed_now,
        }))
    }

    /// What is to be there once the VFs are: what the layout says, and what it leaves to others as they have set it, which went
    /// with the VFs before.
    fn with_new_vfs(&self) -> (&[&'a str], bool) {
        let instances = if self.mig.is_some() { &self.wish } else { &self.there };
        let whole = !self.mig.unwrap_or(self.mig_now);
        (instances, whole && self.mixed.unwrap_or(self.mixed_now))
    }

    fn mig_differs(&self) -> bool {
        self.mig.is_some_and(|wanted| wanted != self.mig_now)
    }
}

/// What is wrong with a GPU of which the tool tells nothing.
fn silence<'a>(seen: &'a Observation, parent: &ParentId) -> Option<&'a ReadProblem> {
    let alone = format!(" -i {parent}");
    let of_gpu = |path: &str| path.starts_with(SMI) && path.contains(&alone);
    seen.problems.iter().find(|problem| of_gpu(&problem.path))
}

pub(super) fn lacks(seen: &Observation, parent: &ParentId) -> Option<String> {
    let problem = pf(seen, parent).and_then(|_| silence(seen, parent))?;
    let reset = format!("{SMI} --gpu-reset -i {parent}");
    Some(format!("{problem}; {reset} while nothing uses it, or reboot; then gpuslice apply"))
}

/// Of a GPU that is lost, or has to be reset, the tool itself says so; else it is missing or broken.
fn untold(seen: &Observation, parent: &ParentId) -> Refusal {
    let refusal =
        Refusal::new(Code::DeviceFailed, format!("{SMI} does not tell how {parent} is set"));
    if let Some(problem) = silence(seen, parent) {
        return refusal.because(problem.to_string()).hint(reset(parent));
    }
    let problem = seen.problems.iter().find(|problem| problem.path.starts_with(SMI));
    let refusal = problem.iter().fold(refusal, |refusal, why| refusal.because(why.to_string()));
    refusal.hint(hint!(
        "install NVIDIA's vGPU host driver, so that {} -q works, then gpuslice apply",
        SMI
    ))
}

fn reset(parent: &ParentId) -> Hint {
    hint!("{} --gpu-reset -i {} while nothing uses it, or reboot; then gpuslice apply", SMI, parent)
}

/// The tool calls a change of MIG done for which the GPU has yet to be reset, and could not be.
pub(super) fn mends_mode(parent: &ParentId, said: &str) -> Option<Hint> {
    said.contains(PENDING).then(|| reset(parent))
}

/// One whose MIG is on tells nothing of it before it is off.
fn can_mix(modes: &BTreeMap<Mode, gpuslice_core::mode::ModeState>) -> bool {
    let mig = modes.get(&Mode::Instances).and_then(|state| state.current.as_ref());
    modes.contains_key(&Mode::Sizes) || mig.is_some_and(|value| !value.is(OFF))
}

/// The instances of a list, those of the most memory first: that is what has places, and a small one can take the only one
/// of a large one.
fn named(value: &ModeValue) -> Vec<&str> {
    let mut names: Vec<&str> = value.parts().filter(|part| part.contains("g.")).collect();
    let size = |name: &&str| instance(name).map(|(slices, gb, _)| (gb, slices));
    names.sort_by_key(|name| Reverse(size(name)));
    names
}

fn possible(parent: &ParentId, layout: &Layout, total: u16, wanted: u16) -> Result<(), Refusal> {
    if wanted != 0 && wanted != total {
        let message = format!("{parent} has all its {total} VFs or none, the layout says {wanted}");
        let refusal = Refusal::new(Code::BadConfig, message);
        return Err(refusal.because("NVIDIA's sriov-manage takes no number").hint(hint!(
            "set vfs to \"all\" for {} (which profile each becomes is decided when a VM starts), \
             then gpuslice apply",
            parent
        )));
    }
    if layout.bind.is_some() {
        let message = format!("VFs of {parent} stay on NVIDIA's driver, which passes them to VMs");
        let refusal = Refusal::new(Code::BadConfig, message);
        return Err(refusal.hint(take_out("bind", parent)));
    }
    Ok(())
}

/// The tools' commands for a GPU.
struct Gpu {
    address: PciAddress,
}

impl Gpu {
    fn vfs(&self, option: &str, count: u16) -> Step {
        let command = vec![TOOL.to_owned(), option.to_owned(), self.address.to_string()];
        let (not_ready, in_the_way) = (super::not_ready(), vec![IN_THE_WAY.to_owned()]);
        let (pf, attribute) = (self.address, Some(super::CURRENT_TYPE.to_owned()));
        let lock = Some(format!("{GPUS}/{pf}/unbindLock"));
        let resumed = false;
        Step::RunVfTool { pf, count, command, not_ready, in_the_way, lock, attribute, resumed }
    }

    fn smi(&self, arguments: &[&str]) -> Vec<String> {
        let gpu = self.address.to_string();
        let words = arguments.iter().map(|word| if *word == "GPU" { gpu.as_str() } else { word });
        std::iter::once(SMI).chain(words).map(str::to_owned).collect()
    }

    fn set(&self, mode: Mode, command: &[&str], by: &[&str], lines: &[(String, u16)]) -> Step {
        let shown = Shown { by: self.smi(by), lines: lines.iter().cloned().collect() };
        let (device, command) = (self.address, self.smi(command));
        let (in_the_way, disturbs) = (vec![OPENED.to_owned()], BTreeSet::from([device]));
        Step::RunModeTool { device, mode, command, in_the_way, shown, disturbs }
    }

    fn mig(&self, on: bool) -> Step {
        let (number, word) = if on { ("1", "Enabled") } else { ("0", "Disabled") };
        let ask = ["-i", "GPU", "--query-gpu=mig.mode.current", "--format=csv,noheader"];
        self.set(Mode::Instances, &["-i", "GPU", "-mig", number], &ask, &[(word.to_owned(), 1)])
    }

    /// Makes the instances that are not there; it takes nothing from those that are.
    fn instances(&self, wish: &[&str], there: &[&str]) -> Step {
        let mut missing = wish.to_vec();
        for name in there {
            if let Some(at) = missing.iter().position(|wanted| wanted == name) {
                missing.remove(at);
            }
        }
        let mut counts: BTreeMap<&str, u16> = BTreeMap::new();
        for name in wish {
            *counts.entry(name).or_default() += 1;
        }
        let lines: Vec<(String, u16)> =
            counts.into_iter().map(|(name, count)| (format!("MIG {name}"), count)).collect();
        let (command, ask) = (missing.join(","), ["mig", "-i", "GPU", "-lgi"]);
        let step =
            self.set(Mode::Instances, &["mig", "-i", "GPU", "-cgi", &command, "-C"], &ask, &lines);
        undisturbing(step)
    }

    /// GPU instances go only without the compute instances in them.
    fn no_instances(&self) -> [Step; 2] {
        [("-dci", "-lci"), ("-dgi", "-lgi")].map(|(drop, list)| {
            let (command, ask) = (["mig", "-i", "GPU", drop], ["mig", "-i", "GPU", list]);
            self.set(Mode::Instances, &command, &ask, &[("MIG".to_owned(), 0)])
        })
    }

    fn mixed(&self, on: bool) -> Step {
        let (number, word) = if on { ("1", "Enabled") } else { ("0", "Disabled") };
        let line = format!("vGPU Heterogeneous Mode : {word}");
        let command = ["vgpu", "-i", "GPU", "-shm", number];
        undisturbing(self.set(Mode::Sizes, &command, &["-q", "-i", "GPU"], &[(line, 1)]))
    }

    /// What is set while the VFs are there, and as long as nothing is in its way.
    fn onto_vfs(&self, modes: &ModesNow<'_>, has_types: bool, reshape: bool) -> Vec<Step> {
        let mut steps = Vec::new();
        if modes.mig == Some(true) {
            let mut rest = modes.there.clone();
            let missing = modes.wish.iter().any(|name| match rest.iter().position(|n| n == name) {
                Some(at) => {
                    rest.remove(at);
                    false
                }
                None => true,
            });
            match (rest.is_empty(), missing) {
                (true, true) => steps.push(self.instances(&modes.wish, &modes.there)),
                // Those in the way are taken with all others: which stay where, decides what fits.
                (false, _) if reshape => {
                    steps.extend(self.no_instances());
                    if !modes.wish.is_empty() {
                        steps.push(self.instances(&modes.wish, &[]));
                    }
                }
                _ => {}
            }
        }
        if let Some(mixed) = modes.mixed.filter(|mixed| *mixed != modes.mixed_now) {
            let mut step = self.mixed(mixed);
            // With a vGPU there it is refused; so it waits, or says who is in the way.
            if let (true, Step::RunModeTool { disturbs, .. }) = (has_types, &mut step) {
                disturbs.insert(self.address);
            }
            steps.extend((reshape || !has_types).then_some(step));
        }
        steps
    }
}

fn undisturbing(mut step: Step) -> Step {
    if let Step::RunModeTool { disturbs, .. } = &mut step {
        disturbs.clear();
    }
    step
}

/// Whether a VF has a type, or makes a mediated device.
fn has_types(seen: &Observation, parent: &ParentId) -> bool {
    let below = |other: &ParentId| seen.pf_of(other).as_ref() == Some(parent);
    let vfs = pf(seen, parent).map(|(_, sriov)| &sriov.vfs);
    let mut choices = vfs
        .into_iter()
        .flat_map(|vfs| vfs.values())
        .filter_map(|vf| seen.vfs.get(vf)?.choice.as_ref());
    choices.any(|choice| choice.current.is_some()) || seen.mdevs.values().any(|m| below(&m.parent))
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

/// MIG outlives a boot and the instances do not, so one that was divided before somebody had it sliced has none.
pub(super) fn offers_nothing(seen: &Observation, parent: &ParentId) -> Option<Refusal> {
    let (_, sriov) = pf(seen, parent)?;
    let empty = seen.mode(parent, Mode::Instances).is_some_and(|value| value.is(NONE));
    (empty && !sriov.vfs.is_empty()).then(|| {
        let message =
            format!("MIG is on for {parent}, and it has no GPU instances for vGPUs to be in");
        Refusal::new(Code::NoProfile, message).hint(hint!(
            "{}; or set instances to a list of them for {}, then gpuslice apply",
            set(Mode::Instances, OFF, parent),
            parent
        ))
    })
}

/// The driver has its types from `nvidia-vgpud`, which gives them to it at a boot. A GPU that is divided and has no
/// instances lists none, and VFs without their driver tell nothing.
pub(super) fn lists_types(seen: &Observation, parent: &ParentId) -> bool {
    let Some((_, sriov)) = pf(seen, parent) else { return true };
    let said = |vf: &PciAddress| {
        let said = |vf: &Vf, c: &Choice| {
            c.current.is_some() || !c.creatable.is_empty() || (c.broken && !vf.is_bare())
        };
        let seen_vf = seen.vfs.get(vf);
        seen_vf.is_some_and(|vf| vf.choice.as_ref().is_some_and(|c| said(vf, c)))
            || seen.mdev_parents.contains_key(&ParentId::Pci(*vf))
    };
    let empty = seen.mode(parent, Mode::Instances).is_some_and(|value| value.is(NONE));
    sriov.vfs.is_empty() || empty || sriov.vfs.values().any(said)
}
