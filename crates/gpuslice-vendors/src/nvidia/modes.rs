//! What only `nvidia-smi` tells of a GPU: MIG and its GPU instances, and whether sizes are mixed.

use super::facts::{Facts, Parts};
use super::names::size;
use super::read::DEVICES;
use super::{makes_mdevs, pf};
use gpuslice_core::errno::Errno;
use gpuslice_core::ids::{MdevTypeId, ParentId, PciAddress};
use gpuslice_core::mode::{Mode, ModeState, ModeValue};
use gpuslice_core::observation::{Observation, ProblemKind, ReadProblem};
use gpuslice_core::observe::{Answers, corrupt, note};
use gpuslice_core::port::{HostRead, Ran, read_text};
use std::cell::LazyCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

/// Where NVIDIA's host driver puts it.
pub(super) const SMI: &str = "/usr/bin/nvidia-smi";

/// Exit statuses: the driver is not loaded, its library is not there, or of another version.
const NO_DRIVER: [i32; 3] = [9, 12, 18];

/// [`Mode::Instances`]: the GPU is whole.
pub(super) const OFF: &str = "off";

/// [`Mode::Instances`]: MIG is on, and there are none.
pub(super) const NONE: &str = "none";

/// [`Mode::Sizes`]: all vGPUs are of one size.
const EQUAL: &str = "equal";

/// [`Mode::Sizes`]: of any that fit, in places of a grid.
pub(super) const MIXED: &str = "mixed";

pub(super) fn read(host: &dyn HostRead, tools: &mut Answers, seen: &mut Observation) {
    let parents = seen.functions.keys().map(|address| ParentId::Pci(*address));
    let ours: Vec<ParentId> = parents.filter(|parent| pf(seen, parent).is_some()).collect();
    let parents = seen.mdev_parents.keys().filter(|parent| makes_mdevs(seen, parent));
    let with_types: Vec<ParentId> = ours.iter().chain(parents).cloned().collect();
    let parts = match ours.is_empty() {
        true => Some(Parts::new()),
        false => read_modes(host, tools, seen, &ours),
    };
    // A tool that does not answer once is not asked the rest.
    let facts = parts.as_ref().and_then(|_| Facts::ask(host, tools, seen, &with_types));
    match facts {
        Some(facts) => facts.keep(seen, &ours, &parts.unwrap_or_default()),
        None if seen.problems.iter().any(|problem| problem.path.starts_with(SMI)) => {
            seen.unanswered = with_types.iter().map(|parent| seen.device_of(parent)).collect();
        }
        // Without the tool nobody tells.
        None => {}
    }
}

/// Returns what GPU instances are called.
fn read_modes(
    host: &dyn HostRead,
    tools: &mut Answers,
    seen: &mut Observation,
    ours: &[ParentId],
) -> Option<Parts> {
    let state = state(tools, seen, ours);
    let gpus = gpus(host, tools, seen, ours, &state)?;
    let mut instances = instances(host, tools, seen, &gpus, &state)?;
    let kind = |address| seen.functions.get(address)?.kind;
    let named = instances.iter().flat_map(|(address, there)| {
        let of_kind = |i: &Instance| Some(((kind(address)?, i.profile?), i.name.clone()));
        there.iter().filter_map(of_kind)
    });
    let parts = named.collect();
    for gpu in &gpus.told {
        let parent = ParentId::Pci(gpu.address);
        if !ours.contains(&parent) {
            continue;
        }
        // One that is lost, or being reset, is not one without modes.
        if let Some((key, value)) = &gpu.odd {
            corrupt(seen, &query_of(&parent), &format!("{key}: {value}"));
            continue;
        }
        if gpu.mixed == Some(true) {
            read_places(host, seen, &parent);
        }
        let there = instances.remove(&gpu.address);
        // What cannot be listed is not nothing.
        if gpu.mig == Some(true) && there.is_none() {
            continue;
        }
        let there = there.unwrap_or_default();
        let set = gpu.mig.map(|on| match on {
            false => is(OFF),
            true if there.is_empty() => is(NONE),
            true => {
                let names: Vec<&str> = there.iter().map(|i| i.name.as_str()).collect();
                is(&names.join(","))
            }
        });
        let modes = seen.modes.entry(parent).or_default();
        // Of one without MIG too, since that is told.
        modes.insert(Mode::Instances, set.unwrap_or_default());
        if let Some(mixed) = gpu.mixed {
            let offered = [EQUAL, MIXED].iter().filter_map(|text| text.parse().ok()).collect();
            let current = is(if mixed { MIXED } else { EQUAL }).current;
            modes.insert(Mode::Sizes, ModeState { current, offered, at_load: None });
        }
    }
    Some(parts)
}

/// What the tool told of GPUs.
struct Gpus {
    told: Vec<Gpu>,
    /// It had nothing to complain of: its own numbers count what it told.
    all: bool,
}

/// A bad GPU leaves a gap in the answer, or ends it, and the tool ends in failure. So each that is missing is asked alone.
fn gpus(
    host: &dyn HostRead,
    tools: &mut Answers,
    seen: &mut Observation,
    ours: &[ParentId],
    state: &str,
) -> Option<Gpus> {
    let (mut told, mut all) = match answer(host, tools, seen, &["-q"], state) {
        Some(ran) if ran.code == 0 => (query(&ran.said), true),
        Some(ran) if is_answer(&ran) => {
            (query(&ran.said).into_iter().filter(|gpu| gpu.complete).collect(), false)
        }
        Some(ran) if !is_without_driver(&ran) => (Vec::new(), false),
        _ => return None,
    };
    for parent in ours {
        let is_it = |gpu: &Gpu| ParentId::Pci(gpu.address) == *parent;
        if told.iter().any(is_it) {
            continue;
        }
        all = false;
        // One that hangs for a GPU hangs for the next.
        let Some(ran) = answer(host, tools, seen, &["-q", "-i", &parent.to_string()], state) else {
            break;
        };
        let whole = query(&ran.said).into_iter().filter(|gpu| ran.code == 0 || gpu.complete);
        told.extend(whole.into_iter().find(is_it));
    }
    Some(Gpus { told, all })
}

/// GPU instances of those that are divided. In one answer the tool counts the GPUs, also one that tells nothing.
fn instances(
    host: &dyn HostRead,
    tools: &mut Answers,
    seen: &mut Observation,
    gpus: &Gpus,
    state: &str,
) -> Option<BTreeMap<PciAddress, Vec<Instance>>> {
    let divided: Vec<&Gpu> = gpus.told.iter().filter(|gpu| gpu.mig == Some(true)).collect();
    let mut instances = BTreeMap::new();
    if gpus.all && !divided.is_empty() {
        let ran = answer(host, tools, seen, &["mig", "-lgi"], state)?;
        if lists_all(&ran) {
            let mut by_number = listed(&ran.said);
            let of = |(index, gpu): (usize, &Gpu)| {
                (gpu.address, by_number.remove(&index).unwrap_or_default())
            };
            return Some(gpus.told.iter().enumerate().map(of).collect());
        }
    }
    for gpu in divided {
        let address = gpu.address.to_string();
        let said = ask(host, tools, seen, &["mig", "-i", &address, "-lgi"], state);
        let there = said.map(|said| listed(&said).into_values().flatten().collect());
        instances.extend(there.map(|there| (gpu.address, there)));
    }
    Some(instances)
}

/// The question of which a GPU's block is a part of the answer.
fn query_of(parent: &ParentId) -> String {
    format!("{SMI} -q -i {parent}")
}

/// Where on its GPU each VF is: an attribute of newer drivers, which has no content while there is no vGPU.
fn read_places(host: &dyn HostRead, seen: &mut Observation, parent: &ParentId) {
    let vfs: Vec<PciAddress> =
        pf(seen, parent).map(|(_, s)| s.vfs.values().copied().collect()).unwrap_or_default();
    for address in vfs {
        let choice = seen.vfs.get(&address).and_then(|vf| vf.choice.as_ref());
        if choice.is_none_or(|choice| choice.current.is_none()) {
            continue;
        }
        let path = format!("{DEVICES}/{address}/nvidia/placement_id");
        let place = match read_text(host, &path) {
            Ok(text) => {
                let place = text.parse().ok();
                if place.is_none() {
                    corrupt(seen, &path, &text);
                }
                place
            }
            // It has been taken away meanwhile.
            Err(Errno::ENXIO) => None,
            Err(errno) => {
                note(seen, &path, errno);
                None
            }
        };
        if let Some(choice) = seen.vfs.get_mut(&address).and_then(|vf| vf.choice.as_mut()) {
            choice.place = place;
        }
    }
}

fn is(text: &str) -> ModeState {
    ModeState { current: text.parse::<ModeValue>().ok(), ..ModeState::default() }
}

/// What changes with the answers, and costs nothing to look at: the VFs, which a change of MIG leads over and which
/// take mixed sizes with them; and the MIG-backed types there are.
fn state(tools: &Answers, seen: &Observation, ours: &[ParentId]) -> String {
    let mut state = String::new();
    let facts = LazyCell::new(|| Facts::last(tools, seen));
    for (function, sriov) in ours.iter().filter_map(|parent| pf(seen, parent)) {
        // A VF does not list what it is once there is no room for more.
        let name = |id: &MdevTypeId| {
            let listed = seen.catalogue.get(&function.kind?).and_then(|names| names.get(id));
            listed.map(String::as_str).or_else(|| facts.name(function.kind?, id))
        };
        let mig = |id: &&_| name(id).and_then(size).is_none_or(|size| size.mig.is_some());
        let choices = sriov.vfs.values().filter_map(|vf| seen.vfs.get(vf)?.choice.as_ref());
        let types = choices.flat_map(|choice| choice.creatable.iter().chain(&choice.current));
        let types: BTreeSet<_> = types.filter(mig).collect();
        // Writing to a text cannot fail.
        let _ = write!(state, "{:?} {types:?};", sriov.vfs);
    }
    state
}

pub(super) fn ask(
    host: &dyn HostRead,
    tools: &mut Answers,
    seen: &mut Observation,
    arguments: &[&str],
    state: &str,
) -> Option<String> {
    let ran = answer(host, tools, seen, arguments, state).filter(is_answer);
    ran.map(|ran| ran.said)
}

/// What the tool said, also where that is no answer, which is noted.
fn answer(
    host: &dyn HostRead,
    tools: &mut Answers,
    seen: &mut Observation,
    arguments: &[&str],
    state: &str,
) -> Option<Ran> {
    let command: Vec<&str> = std::iter::once(SMI).chain(arguments.iter().copied()).collect();
    let (ran, why) = match tools.ask(host, &command, state, is_answer) {
        Ok(ran) if is_answer(&ran) => return Some(ran),
        Ok(ran) => {
            let said = ran.said.trim().chars().take(80).collect();
            (Some(ran), ProblemKind::Corrupt(said))
        }
        // Without the tool there is nothing to set; another is at work, and one reading will follow it.
        Err(Errno::ENOENT | Errno::EAGAIN) => return None,
        Err(errno) => (None, ProblemKind::Errno(errno)),
    };
    seen.problems.push(ReadProblem { path: command.join(" "), why });
    ran
}

/// What it told of some counts, whatever it says of others.
fn is_answer(ran: &Ran) -> bool {
    let of_gpu = |line: &str| line.strip_prefix("GPU ").and_then(bus_id).is_some();
    lists_all(ran) || ran.said.lines().any(of_gpu) || !listed(&ran.said).is_empty()
}

/// A list of nothing ends in failure too.
fn lists_all(ran: &Ran) -> bool {
    ran.code == 0 || ran.said.contains("No GPU instances found")
}

/// No GPU is at fault.
fn is_without_driver(ran: &Ran) -> bool {
    NO_DRIVER.contains(&ran.code) || ran.said.contains("Failed to initialize NVML")
}

/// A GPU as `-q` shows it.
#[derive(Debug, PartialEq, Eq)]
struct Gpu {
    address: PciAddress,
    /// Whether MIG is on; `None` when it has none.
    mig: Option<bool>,
    /// Whether sizes are mixed; `None` when they cannot be.
    mixed: Option<bool>,
    /// A mode of which it says neither that it is on or off nor that there is none, and what it says.
    odd: Option<(String, String)>,
    /// It has come to both of them.
    complete: bool,
}

/// Reads the blocks of `-q` in their order, which is that of the tool's own numbers.
fn query(said: &str) -> Vec<Gpu> {
    let mut gpus: Vec<Gpu> = Vec::new();
    let mut section = "";
    for line in said.lines() {
        if let Some(address) = line.strip_prefix("GPU ").and_then(bus_id) {
            gpus.push(Gpu { address, mig: None, mixed: None, odd: None, complete: false });
            continue;
        }
        let (Some(gpu), line) = (gpus.last_mut(), line.trim()) else { continue };
        let Some((key, value)) = line.split_once(':') else {
            section = line;
            continue;
        };
        let (key, value) = (key.trim(), value.trim());
        let mode = match (section, key) {
            ("MIG Mode", "Current") => &mut gpu.mig,
            // It comes after the other.
            (_, "vGPU Heterogeneous Mode") => {
                gpu.complete = true;
                &mut gpu.mixed
            }
            _ => continue,
        };
        // "Not Supported" contains "Supported": the whole value counts.
        match value {
            "Enabled" => *mode = Some(true),
            "Disabled" => *mode = Some(false),
            "N/A" | "[N/A]" | "Not Supported" | "[Not Supported]" => {}
            _ => gpu.odd = Some((key.to_owned(), value.to_owned())),
        }
    }
    gpus
}

/// `00000000:41:00.0`: the domain has eight digits here, and four in sysfs.
pub(super) fn bus_id(text: &str) -> Option<PciAddress> {
    let text = text.trim().to_ascii_lowercase();
    let (domain, rest) = text.split_once(':')?;
    let domain = u32::from_str_radix(domain, 16).ok()?;
    format!("{domain:04x}:{rest}").parse().ok()
}

/// A GPU instance as the tool lists it.
#[derive(Debug, PartialEq, Eq)]
struct Instance {
    name: String,
    /// The number of its profile, by which types of vGPUs say where they are.
    profile: Option<u32>,
}

/// GPU instances by the number of their GPU, from the table of `mig -lgi`:
/// `|   0  MIG 1g.10gb         19        7          4:1     |`.
fn listed(said: &str) -> BTreeMap<usize, Vec<Instance>> {
    let mut instances: BTreeMap<usize, Vec<Instance>> = BTreeMap::new();
    for line in said.lines() {
        let words: Vec<&str> = line.split_whitespace().filter(|word| *word != "|").collect();
        if let [gpu, "MIG", name, rest @ ..] = words.as_slice()
            && let Ok(gpu) = gpu.trim_start_matches('|').parse()
        {
            let profile = rest.first().and_then(|number| number.parse().ok());
            let instance = Instance { name: (*name).to_owned(), profile };
            instances.entry(gpu).or_default().push(instance);
        }
    }
    instances
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_is_read_by_whole_values() {
        let said = "\
==============NVSMI LOG==============

Attached GPUs                             : 2
GPU 00000000:41:00.0
    Product Name                          : NVIDIA A100 80GB PCIe
    MIG Mode
        Current                           : Enabled
        Pending                           : Disabled
    GPU Virtualization Mode
        Virtualization Mode               : Host VGPU
        vGPU Heterogeneous Mode           : N/A
    Ecc Mode
        Current                           : Disabled
GPU 00010000:C1:00.0
    MIG Mode
        Current                           : N/A
    vGPU Device Capability
        Heterogeneous Time-Slice Sizes    : Not Supported
    GPU Virtualization Mode
        vGPU Heterogeneous Mode           : Disabled
";
        let gpu = |address: &str, mig, mixed| Gpu {
            address: address.parse().unwrap(),
            mig,
            mixed,
            odd: None,
            complete: true,
        };
        assert_eq!(
            query(said),
            [gpu("0000:41:00.0", Some(true), None), gpu("10000:c1:00.0", None, Some(false))]
        );
        assert_eq!(query("No devices were found"), []);
    }

    #[test]
    fn instances_are_read_from_the_table() {
        let said = "\
+-------------------------------------------------------+
| GPU instances:                                        |
| GPU   Name             Profile  Instance   Placement  |
|                          ID       ID       Start:Size |
|=======================================================|
|   0  MIG 1g.10gb         19        7          4:1     |
+-------------------------------------------------------+
|   0  MIG 2g.20gb         14        3          0:2     |
|  12  MIG 1g.10gb+me      20        1          0:1     |
";
        let read = listed(said);
        let instance =
            |name: &str, profile| Instance { name: name.to_owned(), profile: Some(profile) };
        assert_eq!(read[&0], [instance("1g.10gb", 19), instance("2g.20gb", 14)]);
        assert_eq!(read[&12], [instance("1g.10gb+me", 20)]);
        assert_eq!(read.len(), 2);
    }
}
