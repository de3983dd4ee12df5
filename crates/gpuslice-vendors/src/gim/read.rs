//! What there is of the driver: its module, the options that gpuslice wrote, and the attributes of its GPUs that are
//! named here and no other: reading `reset_gpu` of a GPU resets it.

use super::{DRIVER, VENDOR, models, modes, plan};
use gpuslice_core::errno::Errno;
use gpuslice_core::ids::{ParentId, PciAddress};
use gpuslice_core::mode::{AtLoad, Mode, ModeState, ModeValue};
use gpuslice_core::observation::{DriverState, Function, Observation};
use gpuslice_core::observe::{Answers, corrupt, note, own_config};
use gpuslice_core::per_device;
use gpuslice_core::port::{HostRead, read_text};
use std::collections::BTreeMap;

/// Parameters that are looked at.
const PARAMETERS: [&str; 3] = ["fb_sharing_mode", "pf_fb_size", "sch_policy"];

const DEVICES: &str = "/sys/bus/pci/devices";

/// Attributes of a GPU that tell its modes.
const MODES: [&str; 2] = ["accelerator_partition_profile", "memory_partition_mode"];

pub(super) fn read(host: &dyn HostRead, answers: &mut Answers, seen: &mut Observation) {
    let candidate = |f: &Function| {
        let free = f.driver.as_deref().is_none_or(|driver| driver == DRIVER);
        free && f.vendor == VENDOR && f.is_gpu() && f.sriov.is_some()
    };
    if !seen.functions.values().any(candidate) {
        return;
    }
    let module = format!("/sys/module/{DRIVER}");
    let loaded = match host.list(&module) {
        Ok(_) => true,
        Err(Errno::ENOENT) => false,
        Err(errno) => {
            note(seen, &module, errno);
            // What cannot be looked at is not loaded a second time.
            true
        }
    };
    let options = own_config(host, seen, plan::CONFIG);
    let parameters = if loaded { parameters(host, seen) } else { BTreeMap::new() };
    let ours = |(address, f): (&PciAddress, &Function)| {
        (candidate(f) && f.driver.is_some()).then_some(*address)
    };
    let mut gpus: Vec<PciAddress> = seen.functions.iter().filter_map(ours).collect();
    gpus.sort_by_key(|address| {
        (seen.functions.get(address).map(|f| models::turn(f.device)), *address)
    });
    let others = answers.options(host, DRIVER);
    let ends = |name: &str| {
        let was_ours = parameters.contains_key(name)
            && options.as_deref().is_some_and(|ours| plan::option(ours, name).is_none());
        was_ours && others.unread.is_empty() && others.of(name).is_none()
    };
    let ending = modes::PARAMETERS.map(|(_, name, _)| ends(name));
    for (at, address) in gpus.into_iter().enumerate() {
        read_gpu(host, answers, seen, address);
        let own = seen.modes.entry(ParentId::Pci(address)).or_default();
        for ((mode, name, values), ends) in modes::PARAMETERS.into_iter().zip(ending) {
            let given =
                parameters.get(name).and_then(|list| per_device::nth(list, at)?.parse().ok());
            let offered = values.iter().filter_map(|value| value.parse().ok()).collect();
            let value = || modes::DEFAULT.parse().ok();
            let at_load = ends.then(|| AtLoad { driver: DRIVER, value: value() });
            own.insert(mode, ModeState { current: given, offered, at_load });
        }
    }
    let state = DriverState { loaded, unloaded: false, version: None, options, others, parameters };
    seen.drivers.insert(DRIVER, state);
}

/// Those that were given.
fn parameters(host: &dyn HostRead, seen: &mut Observation) -> BTreeMap<String, String> {
    let mut given = BTreeMap::new();
    for name in PARAMETERS {
        match read_text(host, &parameter(name)) {
            Ok(text) if text.is_empty() => {}
            Ok(text) => drop(given.insert(name.to_owned(), text)),
            Err(errno) => note(seen, &parameter(name), errno),
        }
    }
    given
}

fn parameter(name: &str) -> String {
    format!("/sys/module/{DRIVER}/parameters/{name}")
}

/// Whether it could not be read what a parameter is.
pub(super) fn untold(seen: &Observation, name: &str) -> bool {
    let path = parameter(name);
    seen.problems.iter().any(|problem| problem.path == path)
}

/// Whether a GPU that has modes did not tell one: while it is being reset, it cannot.
pub(super) fn modes_untold(seen: &Observation, gpu: PciAddress) -> bool {
    let dir = format!("{DEVICES}/{gpu}/");
    let of_gpu = |path: &str| path.strip_prefix(&dir).is_some_and(|name| MODES.contains(&name));
    seen.problems.iter().any(|problem| of_gpu(&problem.path))
}

/// Modes and memory of a GPU. One that has no partitions says that it failed to read them, or lacks the files; one that
/// has them fails to while it is being reset, or waits.
fn read_gpu(
    host: &dyn HostRead,
    answers: &mut Answers,
    seen: &mut Observation,
    address: PciAddress,
) {
    let dir = format!("{DEVICES}/{address}");
    let divided = seen.functions.get(&address).is_some_and(|f| {
        f.sriov.as_ref().is_some_and(|sriov| models::divided(f.device, sriov.vfs.len()))
    });
    let mut text = |name: &str| {
        let path = format!("{dir}/{name}");
        match answers.text(host, &path) {
            Ok(text) if text.starts_with("failed to") => {
                if divided {
                    corrupt(seen, &path, &text);
                }
                None
            }
            Ok(text) => Some((path, text)),
            Err(errno) => {
                note(seen, &path, errno);
                None
            }
        }
    };
    let [profile, memory] = MODES.map(&mut text);
    let profiles =
        profile.is_some().then(|| text("accelerator_partition_profile_config")).flatten();
    let memories = memory.is_some().then(|| text("memory_partition_config")).flatten();
    let mut states = Vec::new();
    if let Some((path, text)) = profile {
        let offered = profiles.map(|(_, text)| choices(&text)).unwrap_or_default();
        let current = numbered(&text).next();
        states.push((Mode::Compute, path, current, text, offered));
    }
    if let Some((path, text)) = memory {
        let current = text.lines().find_map(|line| line.strip_prefix("memory_partition_mode:"));
        let current = current.and_then(|mode| mode.trim().parse().ok());
        if let Some(function) = seen.functions.get_mut(&address) {
            function.memory = ranges(&text);
        }
        let offered = memories.map(|(_, text)| words(&text)).unwrap_or_default();
        states.push((Mode::Memory, path, current, text, offered));
    }
    for (mode, path, current, text, offered) in states {
        match current {
            Some(current) => {
                let state = ModeState { current: Some(current), offered, at_load: None };
                seen.modes.entry(ParentId::Pci(address)).or_default().insert(mode, state);
            }
            None => corrupt(seen, &path, &text),
        }
    }
}

/// Names of lines that begin with a number and a name.
fn numbered(text: &str) -> impl Iterator<Item = ModeValue> + '_ {
    text.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        words.next()?.parse::<u32>().ok()?;
        words.next()?.parse().ok()
    })
}

/// Profiles are the second of two tables; the first has resources, by number and name too.
fn choices(text: &str) -> Vec<ModeValue> {
    let profiles = text.split_once("\nprofiles:").map_or("", |(_, profiles)| profiles);
    numbered(profiles).collect()
}

fn words(text: &str) -> Vec<ModeValue> {
    text.split_whitespace().filter_map(|word| word.parse().ok()).collect()
}

/// Sum of the ranges of memory partitions, `… start=0x… end=0x…`, whose ends are the last byte or the one after.
fn ranges(text: &str) -> Option<u64> {
    let number = |line: &str, key: &str| {
        let value = line.split_whitespace().find_map(|word| word.strip_prefix(key))?;
        u64::from_str_radix(value, 16).ok()
    };
    let lines = text.lines().filter(|line| line.starts_with("NUMA"));
    let sizes = lines.map(|line| {
        let (start, end) = (number(line, "start=0x")?, number(line, "end=0x")?);
        end.checked_add(end & 1)?.checked_sub(start)
    });
    let sum: u64 =
        sizes.collect::<Option<Vec<u64>>>()?.into_iter().try_fold(0, u64::checked_add)?;
    (sum > 0).then_some(sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_add_up_whichever_way_their_ends_are_meant() {
        let text = "memory_partition_mode: NPS2\nnuma_count: 2\n\
                    NUMA0 type=0 start=0x0000000000000000 end=0x000000007fffffff\n\
                    NUMA1 type=0 start=0x0000000080000000 end=0x00000000ffffffff";
        assert_eq!(ranges(text), Some(4 << 30));
        assert_eq!(
            ranges(&text.replace("7fffffff", "80000000").replace("00ffffffff", "0100000000")),
            Some(4 << 30)
        );
        for odd in
            ["", "NUMA0 type=0 start=0x10", "NUMA0 start=0x2 end=0x1", "NUMA0 start=0xg end=0x1"]
        {
            assert_eq!(ranges(odd), None, "{odd}");
        }
        let most = "NUMA0 start=0x0000000000000000 end=0xffffffffffffffff";
        assert_eq!(ranges(most), None);
    }

    #[test]
    fn profiles_are_not_taken_for_resources() {
        let text = "resource_profiles:\nresource_index  resource_type\n0  XCC  8  1\n\
                    profiles:\nprofile_index  profile_type\n0  SPX  1\n1  CPX  8\n";
        assert_eq!(choices(text), ["SPX".parse().unwrap(), "CPX".parse().unwrap()]);
        assert_eq!(choices("failed to get cp profile"), []);
    }
}
