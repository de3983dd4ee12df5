//! How the vGPUs of a GPU take turns. `RmPVMRL` says it, a key of the driver's own registry, which the module `nvidia` is
//! given as an option and reads when it is loaded; each time the driver takes a GPU it looks there again, so what was
//! set outlives `sriov-manage`. The module is the host's: it is not loaded anew for this, and what is written comes with
//! the next load.
//!
//! Facts: NVIDIA/open-gpu-kernel-modules, `src/nvidia/interface/nvrm_registry.h` (bits of `RmPVMRL`),
//! `kernel-open/nvidia/os-registry.c` and `nv-pci.c` (the option's form, and that each probe reads it),
//! `src/nvidia/arch/nvalloc/unix/src/registry.c` (a GPU's own key wins over the one for all); NVIDIA Virtual GPU Software
//! User Guide, 7.1 to 7.6 (the options, and a reboot for them). That what the module was given is what a GPU does is
//! UNVERIFIED: the guide has one look for it in the kernel's log.

use super::read::DEVICES;
use super::{DRIVER, VENDOR};
use gpuslice_core::execute::CONFIG_MARK;
use gpuslice_core::hint;
use gpuslice_core::ids::{ParentId, PciAddress};
use gpuslice_core::layout::Layout;
use gpuslice_core::mechanism::Layouts;
use gpuslice_core::mend::{self, set_to_one_of, take_out};
use gpuslice_core::mode::{AtLoad, Mode, ModeState, ModeValue};
use gpuslice_core::observation::{DriverState, Observation, ProblemKind, ReadProblem};
use gpuslice_core::observe::{Answers, corrupt, note, own_config};
use gpuslice_core::plan::Step;
use gpuslice_core::port::{HostRead, read_text};
use gpuslice_core::refusal::{Code, Hint, Refusal};
use std::collections::BTreeMap;

/// Where modprobe finds what layouts say.
pub(super) const CONFIG: &str = "/etc/modprobe.d/gpuslice-nvidia.conf";

/// What the loaded module was given (`kernel-open/nvidia/nv-procfs.c`, `nv_procfs_read_params`).
const TOLD: &str = "/proc/driver/nvidia/params";

/// Absent in a module that has none (`kernel/module/main.c`).
const VERSION: &str = "/sys/module/nvidia/version";

/// The option for all GPUs.
const FOR_ALL: &str = "NVreg_RegistryDwords";

/// The option for each GPU. There is one for all of them, and it can be given once.
const FOR_EACH: &str = "NVreg_RegistryDwordsPerDevice";

/// Longest option of text that the kernel takes, in bytes; with a longer one the module is not loaded (kernel/params.c,
/// `param_set_charp`).
const MOST_BYTES: usize = 1024;

/// The key, which is found whatever its case.
const KEY: &str = "RmPVMRL";

const BEST_EFFORT: &str = "best-effort";
const EQUAL_SHARE: &str = "equal-share";
const FIXED_SHARE: &str = "fixed-share";

/// Bits of the key: a scheduler of the host's there is, without rounds of equal frequency, and which; milliseconds.
const ENABLE: u32 = 1;
const PLAIN_ROUNDS: u32 = 1 << 1;
const FIXED: u32 = 1 << 4;
const POLICY: u32 = 0xf << 4;
const SLICE_AT: u32 = 16;
const SLICE: u32 = 0xff << SLICE_AT;

/// Longest time slice in milliseconds: what is more is taken for it.
const LONGEST: u32 = 30;

/// GPUs that have vGPUs, or could: PFs, and parents of mediated devices.
fn gpus(seen: &Observation) -> impl Iterator<Item = PciAddress> {
    let ours = |address: &&PciAddress| is_ours(seen, **address);
    seen.functions.keys().filter(ours).copied()
}

fn is_ours(seen: &Observation, address: PciAddress) -> bool {
    seen.functions.get(&address).is_some_and(|function| {
        function.vendor == VENDOR && function.driver.as_deref() == Some(DRIVER)
    })
}

/// The mode of a parent, where it is such a GPU itself and no VF.
pub(crate) fn modes(seen: &Observation, parent: &ParentId) -> &'static [Mode] {
    if parent.pci().is_some_and(|address| is_ours(seen, address)) {
        &[Mode::Scheduler]
    } else {
        &[]
    }
}

/// Reads what was given and what will be, once for all GPUs.
pub(super) fn read(host: &dyn HostRead, answers: &mut Answers, seen: &mut Observation) {
    let gpus: Vec<PciAddress> = gpus(seen).collect();
    if gpus.is_empty() {
        return;
    }
    let told = match read_text(host, TOLD) {
        Ok(text) => {
            let told = parse_told(&text);
            if told.is_none() {
                corrupt(seen, TOLD, &text);
            }
            told
        }
        Err(errno) => {
            note(seen, TOLD, errno);
            None
        }
    };
    let options = own_config(host, seen, CONFIG);
    let known = in_its_place(seen).is_none();
    let others = answers.options(host, DRIVER);
    let state = DriverState {
        loaded: true,
        unloaded: false,
        version: read_version(host, seen),
        options,
        others,
        parameters: told.clone().map(Given::named).unwrap_or_default(),
    };
    let next = (known && state.others.unread.is_empty()).then(|| next(&state));
    let offered: Vec<ModeValue> = [BEST_EFFORT, EQUAL_SHARE, FIXED_SHARE]
        .iter()
        .filter_map(|word| word.parse().ok())
        .collect();
    for address in gpus {
        let is = |given: &Given| value(given.of(address));
        let at_load = AtLoad { driver: DRIVER, value: next.as_ref().and_then(is) };
        let state = ModeState {
            current: told.as_ref().and_then(is),
            offered: offered.clone(),
            at_load: Some(at_load),
        };
        seen.modes.entry(ParentId::Pci(address)).or_default().insert(Mode::Scheduler, state);
    }
    seen.drivers.insert(DRIVER, state);
}

/// The version of the module, which goes with its branch: what a vGPU is saved as is the driver's own.
fn read_version(host: &dyn HostRead, seen: &mut Observation) -> Option<String> {
    match read_text(host, VERSION) {
        Ok(version) => Some(version),
        Err(errno) => {
            note(seen, VERSION, errno);
            None
        }
    }
}

/// Both options, as text.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Given {
    for_all: String,
    for_each: String,
}

impl Given {
    fn named(self) -> BTreeMap<String, String> {
        BTreeMap::from([(FOR_ALL.to_owned(), self.for_all), (FOR_EACH.to_owned(), self.for_each)])
    }

    /// The key of a GPU; 0 is the default.
    fn of(&self, gpu: PciAddress) -> u32 {
        let mut of_gpu = entries(&self.for_each).filter(|(address, _)| *address == gpu);
        let of_all = || keys(&self.for_all).filter_map(|(name, text)| key(&name, &text)).last();
        of_gpu.by_ref().last().map(|(_, key)| key).or_else(of_all).unwrap_or_default()
    }
}

/// `None` for what is no such file. Drivers from before the option for each have no line for it.
fn parse_told(text: &str) -> Option<Given> {
    let line = |name: &str| {
        let mut lines = text.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
        lines.next().map(|value| value.strip_prefix('"')?.strip_suffix('"').map(str::to_owned))
    };
    Some(Given {
        for_all: line("RegistryDwords")??,
        for_each: line("RegistryDwordsPerDevice").unwrap_or_else(|| Some(String::new()))?,
    })
}

/// What the next load finds: of each option the one among the kernel's arguments, or in the file whose name comes last.
fn next(state: &DriverState) -> Given {
    let mut given = given_by_others(state);
    let wins = state.others.over(CONFIG, FOR_EACH).is_none();
    if let Some(own) = state.options.as_deref().and_then(written).filter(|_| wins) {
        own.clone_into(&mut given.for_each);
    }
    given
}

fn given_by_others(state: &DriverState) -> Given {
    let of = |name| state.others.of(name).map(|other| other.value.clone()).unwrap_or_default();
    Given { for_all: of(FOR_ALL), for_each: of(FOR_EACH) }
}

/// The value of the option in gpuslice's own file.
fn written(content: &str) -> Option<&str> {
    let lead = format!("options {DRIVER} {FOR_EACH}=\"");
    content.lines().find_map(|line| line.strip_prefix(lead.as_str())?.strip_suffix('"'))
}

/// Names and values of an option, which is a list with semicolons; spaces are as if they were not there.
fn keys(option: &str) -> impl Iterator<Item = (String, String)> {
    let plain = |text: &str| text.chars().filter(|c| !c.is_ascii_whitespace()).collect::<String>();
    option.split(';').filter_map(move |pair| {
        let pair = plain(pair);
        let (name, value) = pair.split_once('=')?;
        let whole = !name.is_empty() && !value.is_empty() && !value.contains('=');
        whole.then(|| (name.to_owned(), value.to_owned()))
    })
}

fn key(name: &str, text: &str) -> Option<u32> {
    name.eq_ignore_ascii_case(KEY).then(|| number(text))
}

/// Keys of GPUs: a `pci=` says whose those are that follow, and one that is no address that they are nobody's.
fn entries(option: &str) -> impl Iterator<Item = (PciAddress, u32)> {
    let mut of = None;
    keys(option).filter_map(move |(name, text)| {
        if name == "pci" {
            of = device(&text);
            return None;
        }
        Some((of?, key(&name, &text)?))
    })
}

/// `domain:bus:slot.function`, where the function and the domain may be left out and are 0 then.
fn device(text: &str) -> Option<PciAddress> {
    let (device, function) = text.split_once('.').unwrap_or((text, "0"));
    let hex = |part: &str| u32::from_str_radix(part, 16).ok();
    let parts: Vec<u32> = device.split(':').map(hex).collect::<Option<_>>()?;
    let (domain, bus, slot) = match parts.as_slice() {
        [domain, bus, slot] => (*domain, *bus, *slot),
        [bus, slot] => (0, *bus, *slot),
        _ => return None,
    };
    format!("{domain:04x}:{bus:02x}:{slot:02x}.{function}").parse().ok()
}

/// As `simple_strtoul` with base 0 reads it: a number with whatever follows, 0 when there is none.
fn number(text: &str) -> u32 {
    let lower = text.to_ascii_lowercase();
    let (radix, digits) = match lower.strip_prefix("0x") {
        Some(hex) => (16, hex),
        None if lower.starts_with('0') => (8, lower.as_str()),
        None => (10, lower.as_str()),
    };
    let digits = digits.chars().map_while(|c| c.to_digit(radix));
    digits.fold(0, |sum: u32, digit| sum.wrapping_mul(radix).wrapping_add(digit))
}

/// Our word for a key. What more it says of rounds than their length stands behind it as it is: in the guide's older
/// chapters bits 16 to 23 are a time slice in each key, in the driver's source part of a frequency where rounds are not
/// plain.
fn value(key: u32) -> Option<ModeValue> {
    if key & ENABLE == 0 {
        return BEST_EFFORT.parse().ok();
    }
    let word = match key & POLICY {
        0 => EQUAL_SHARE,
        FIXED => FIXED_SHARE,
        // The driver takes none then.
        _ => return format!("{key:#x}").parse().ok(),
    };
    let (rest, slice) = (key & !(ENABLE | POLICY), (key & SLICE) >> SLICE_AT);
    let plain = rest & !SLICE == PLAIN_ROUNDS && slice > 0;
    match (rest, plain) {
        (0, _) => word.parse().ok(),
        (_, true) => format!("{word}-{}ms", slice.min(LONGEST)).parse().ok(),
        (_, false) => format!("{word}+{key:#x}").parse().ok(),
    }
}

/// The key for a word of a layout.
fn key_of(value: &ModeValue) -> Option<u32> {
    let text = value.as_str().to_ascii_lowercase();
    if text == BEST_EFFORT {
        return Some(0);
    }
    let policies = [(EQUAL_SHARE, ENABLE), (FIXED_SHARE, ENABLE | FIXED)];
    policies.into_iter().find_map(|(word, key)| {
        let slice = text.strip_prefix(word)?;
        if slice.is_empty() {
            return Some(key);
        }
        let ms = slice.strip_prefix('-')?.strip_suffix("ms")?;
        let ms: u32 = ms.parse().ok().filter(|ms| (1..=LONGEST).contains(ms))?;
        Some(key | PLAIN_ROUNDS | ms << SLICE_AT)
    })
}

/// The step that has the next load find what layouts say: of the GPUs that have one the first has it. Of a parent of
/// another kind there is none.
pub(crate) fn layout_steps(
    seen: &Observation,
    parent: &ParentId,
    layouts: &Layouts,
    reshape: bool,
) -> Result<Vec<Step>, Refusal> {
    let Some(layout) = layouts.get(parent).filter(|_| !modes(seen, parent).is_empty()) else {
        return Ok(Vec::new());
    };
    possible(parent, layout)?;
    let laid_out = |address: &PciAddress| layouts.contains_key(&ParentId::Pci(*address));
    let first = gpus(seen).find(laid_out).map(ParentId::Pci);
    let state = seen.drivers.get(DRIVER);
    let (Some(state), true) = (state, first.as_ref() == Some(parent)) else {
        return Ok(Vec::new());
    };
    let entries = wished(seen, state, layouts);
    if !entries.is_empty()
        && let Some(refusal) = others(state, layouts)
    {
        return if reshape { Err(refusal) } else { Ok(Vec::new()) };
    }
    let option = option(&entries);
    if option.len() > MOST_BYTES {
        return if reshape { Err(too_long(seen, entries, layouts)) } else { Ok(Vec::new()) };
    }
    let content = content(&option);
    let so = match &state.options {
        Some(now) => now == content.trim_end(),
        None => entries.is_empty(),
    };
    if so {
        return Ok(Vec::new());
    }
    // That is a person's to hear of, and no device's fault.
    if let Some(problem) = in_its_place(seen) {
        let message = format!("{CONFIG} is not what gpuslice wrote");
        let hint = hint!("move {} elsewhere, then gpuslice apply", CONFIG);
        let refusal = Refusal::new(Code::BadConfig, message).because(problem.to_string());
        return if reshape { Err(refusal.hint(hint)) } else { Ok(Vec::new()) };
    }
    Ok(vec![Step::WriteConfig { path: CONFIG.to_owned(), content }])
}

/// What is where gpuslice's own file should be, and is not its own or cannot be read. An empty one is what a crash of the
/// file system leaves.
fn in_its_place(seen: &Observation) -> Option<&ReadProblem> {
    let empty = ProblemKind::Corrupt(String::new());
    seen.problems.iter().find(|problem| problem.path == CONFIG && problem.why != empty)
}

/// What the option is to say: of GPUs that the driver does not have now, what it says already.
fn wished(seen: &Observation, state: &DriverState, layouts: &Layouts) -> BTreeMap<PciAddress, u32> {
    let now = state.options.as_deref().and_then(written).unwrap_or_default();
    let mut entries: BTreeMap<PciAddress, u32> =
        entries(now).filter(|(gpu, _)| may_be_there(seen, *gpu)).collect();
    for gpu in gpus(seen) {
        match key_in(layouts, gpu) {
            Some(key) => drop(entries.insert(gpu, key)),
            None => drop(entries.remove(&gpu)),
        }
    }
    entries
}

/// What a GPU's layout says.
fn key_in(layouts: &Layouts, gpu: PciAddress) -> Option<u32> {
    layouts.get(&ParentId::Pci(gpu))?.modes.get(&Mode::Scheduler).and_then(key_of)
}

/// Whether one of NVIDIA's is at an address, as far as could be read.
fn may_be_there(seen: &Observation, gpu: PciAddress) -> bool {
    if let Some(function) = seen.functions.get(&gpu).or_else(|| seen.whole.get(&gpu)) {
        return function.vendor == VENDOR;
    }
    let own = format!("{DEVICES}/{gpu}/");
    let hides = |path: &str| path == DEVICES || path.starts_with(&own);
    seen.unread_functions.contains(&gpu) || seen.problems.iter().any(|problem| hides(&problem.path))
}

/// The option's value, with addresses in full where there is room for that.
fn option(entries: &BTreeMap<PciAddress, u32>) -> String {
    let full = |(gpu, key): (&PciAddress, &u32)| format!("pci={gpu};{KEY}={key:#04x}");
    let brief = |(gpu, key): (&PciAddress, &u32)| format!("pci={};{KEY}={key}", short(*gpu));
    let option = entries.iter().map(full).collect::<Vec<_>>().join(";");
    if option.len() <= MOST_BYTES {
        return option;
    }
    entries.iter().map(brief).collect::<Vec<_>>().join(";")
}

/// Without what the driver takes for 0 (`os-registry.c`, `pci_str_to_bdf`).
fn short(gpu: PciAddress) -> String {
    let (domain, bus, slot) = (gpu.domain(), gpu.bus(), gpu.device());
    match (domain, gpu.function()) {
        (0, 0) => format!("{bus:x}:{slot:x}"),
        (_, 0) => format!("{domain:x}:{bus:x}:{slot:x}"),
        _ => gpu.to_string(),
    }
}

/// As many of the layouts as are too many have to do without, the last first.
fn too_long(
    seen: &Observation,
    mut entries: BTreeMap<PciAddress, u32>,
    layouts: &Layouts,
) -> Refusal {
    let (count, length) = (entries.len(), option(&entries).len());
    let mut without = Vec::new();
    let laid_out: Vec<PciAddress> =
        gpus(seen).filter(|gpu| key_in(layouts, *gpu).is_some()).collect();
    for gpu in laid_out.into_iter().rev() {
        if option(&entries).len() <= MOST_BYTES {
            break;
        }
        entries.remove(&gpu);
        without.push(gpu.to_string());
    }
    let message = format!("{DRIVER} cannot be given the schedulers of {count} GPUs");
    let why = format!("{FOR_EACH} would have {length} bytes, and the kernel takes {MOST_BYTES}");
    let hint = take_out(Mode::Scheduler, without.join(","));
    Refusal::new(Code::BadConfig, message).because(why).hint(hint)
}

fn content(option: &str) -> String {
    if option.is_empty() {
        return format!("{CONFIG_MARK}\n");
    }
    format!("{CONFIG_MARK}\noptions {DRIVER} {FOR_EACH}=\"{option}\"\n")
}

/// Refuses what no load would bring.
fn possible(parent: &ParentId, layout: &Layout) -> Result<(), Refusal> {
    let Some(value) = layout.modes.get(&Mode::Scheduler) else { return Ok(()) };
    let Some(key) = key_of(value) else {
        let message = format!("scheduler of {parent} cannot be {value} under {DRIVER}");
        let refusal = Refusal::new(Code::BadConfig, message);
        let words = [BEST_EFFORT, EQUAL_SHARE, FIXED_SHARE];
        let slice = format!(
            "behind a share can be a time slice of 1 to {LONGEST} ms, as in {EQUAL_SHARE}-3ms"
        );
        return Err(refusal.because(slice).hint(set_to_one_of(Mode::Scheduler, words, parent)));
    };
    let mixed = layout.modes.get(&Mode::Sizes).is_some_and(|sizes| sizes.is(super::modes::MIXED));
    if mixed && key & FIXED != 0 { Err(mixes_nothing(value, parent)) } else { Ok(()) }
}

/// User Guide, 7.1, and NUG-2024 App. A of mixed sizes.
fn mixes_nothing(scheduler: &ModeValue, parent: &ParentId) -> Refusal {
    let message = format!("{parent} cannot mix sizes with the scheduler {scheduler}");
    Refusal::new(Code::BadConfig, message)
        .because("a fixed share is one of so many of its size")
        .hint(set_to_one_of(Mode::Scheduler, [BEST_EFFORT, EQUAL_SHARE], parent))
}

/// Refuses mixed sizes while a fixed share is in force: another scheduler comes with a load of the driver, and they after it.
pub(super) fn lets_mix(
    seen: &Observation,
    parent: &ParentId,
    layout: &Layout,
) -> Result<(), Refusal> {
    let fixed = |value: &&ModeValue| value.as_str().starts_with(FIXED_SHARE);
    let Some(now) = seen.mode(parent, Mode::Scheduler).filter(fixed) else { return Ok(()) };
    let refusal = mixes_nothing(now, parent);
    let theirs = || Some(given_by_others(seen.drivers.get(DRIVER)?).of(parent.pci()?));
    let stays = theirs().is_some_and(|key| key & FIXED != 0);
    if stays && !layout.modes.contains_key(&Mode::Scheduler) {
        return Err(refusal);
    }
    Err(refusal.hint(hint!(
        "{}, which writes the scheduler that the next load of {} brings; reboot, and put it in again",
        take_out(Mode::Sizes, parent),
        DRIVER
    )))
}

/// Who else gives the option, or may: of two the module takes one.
fn others(state: &DriverState, layouts: &Layouts) -> Option<Refusal> {
    let asks = |(parent, layout): (&ParentId, &Layout)| {
        layout.modes.contains_key(&Mode::Scheduler).then(|| parent.clone())
    };
    let parent = layouts.iter().find_map(asks)?;
    let refused = |message, hint: Hint| Some(Refusal::new(Code::BadConfig, message).hint(hint));
    if let Some(other) = state.others.of(FOR_EACH) {
        let giver = other.given_by();
        let message =
            format!("{giver} gives {DRIVER} the option {FOR_EACH}, which can be given once");
        let not_at_all = take_out(Mode::Scheduler, parent);
        return refused(
            message,
            hint!("{}; or {}", mend::take_option_out(DRIVER, other), not_at_all),
        );
    }
    let unread = state.others.unread.first()?;
    let message =
        format!("whether another file gives {DRIVER} the option {FOR_EACH} cannot be told");
    let refusal = refused(message, take_out(Mode::Scheduler, parent))?;
    Some(refusal.because(unread.to_string()))
}

#[cfg(test)]
mod tests;
