//! What `nvidia-smi vgpu -s -v` tells of types, and no file does: the true size of the framebuffer, the places of a grid
//! where one can be when sizes are mixed, how many there can be of one GPU, and how many of them a VM can have.

use super::DRIVER;
use super::modes::{OFF, SMI, ask, bus_id};
use super::names::size;
use super::read::type_id;
use gpuslice_core::ids::{DeviceKind, MdevTypeId, ParentId, PciAddress};
use gpuslice_core::mode::Mode;
use gpuslice_core::observation::{Catalogue, Observation, Places, TypeFacts};
use gpuslice_core::observe::Answers;
use gpuslice_core::port::HostRead;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Names of the GPU instances there are, by the device and the number of their profile.
pub(super) type Parts = BTreeMap<(DeviceKind, u32), String>;

/// What is told of the types of each kind of GPU.
#[derive(Debug, Default)]
pub(super) struct Facts(BTreeMap<DeviceKind, Types>);

const TYPES: [&str; 3] = ["vgpu", "-s", "-v"];

/// The whole command.
const ASKED: [&str; 4] = {
    let [group, supported, verbose] = TYPES;
    [SMI, group, supported, verbose]
};

impl Facts {
    /// They are the same as long as the kinds of GPUs, how each is set and the driver are the same, so what was told before
    /// stands while nothing else is told.
    pub(super) fn ask(
        host: &dyn HostRead,
        tools: &mut Answers,
        seen: &mut Observation,
        ours: &[ParentId],
    ) -> Option<Self> {
        if ours.is_empty() {
            return Some(Self::default());
        }
        let mut state = state(seen, ours);
        // There are none before nvidia-vgpud has told the driver which, and then VFs list them.
        if !tools.is_lasting(&ASKED)
            && Self::told(tools, seen).is_some_and(|told| !told.of_all(seen, ours))
        {
            state.push_str(&format!(" {:?}", listed(seen)));
        }
        match ask(host, tools, seen, &TYPES, &state) {
            Some(said) => {
                let told = Self::of(&said, seen);
                if told.of_all(seen, ours) {
                    tools.lasts(&ASKED);
                }
                Some(told)
            }
            None => Self::told(tools, seen),
        }
    }

    /// As they were told last.
    pub(super) fn last(tools: &Answers, seen: &Observation) -> Self {
        Self::told(tools, seen).unwrap_or_default()
    }

    fn told(tools: &Answers, seen: &Observation) -> Option<Self> {
        Some(Self::of(tools.last(&ASKED)?, seen))
    }

    fn of(said: &str, seen: &Observation) -> Self {
        let mut told: BTreeMap<DeviceKind, Types> = BTreeMap::new();
        for (address, types) in blocks(said) {
            let Some(kind) = seen.functions.get(&address).and_then(|f| f.kind) else { continue };
            // A GPU may tell less than its like.
            let of_kind = told.entry(kind).or_default();
            for (type_id, of_type) in types {
                of_kind.entry(type_id).or_insert(of_type);
            }
        }
        Self(told)
    }

    /// Whether there are any for each of the GPUs.
    fn of_all(&self, seen: &Observation, ours: &[ParentId]) -> bool {
        let mut kinds = ours.iter().filter_map(|parent| seen.functions.get(&parent.pci()?)?.kind);
        kinds.all(|kind| self.0.get(&kind).is_some_and(|types| !types.is_empty()))
    }

    /// What a type is called.
    pub(super) fn name(&self, kind: DeviceKind, type_id: &MdevTypeId) -> Option<&str> {
        self.0.get(&kind)?.get(type_id)?.name.as_deref()
    }

    /// Keeps what is told, and adds to the types those that no VF lists because something is on each GPU of the kind. Time
    /// slices alone: of the others GPU instances decide, and where there are such there are no time slices.
    pub(super) fn keep(self, seen: &mut Observation, ours: &[ParentId], parts: &Parts) {
        let mut catalogue = Catalogue::clone(&seen.catalogue);
        for (kind, types) in self.0 {
            let divided = is_divided(seen, ours, kind);
            for (type_id, Told { mut facts, profile, name }) in types {
                let part = profile.map(|profile| parts.get(&(kind, profile)).cloned());
                facts.part = part.map(Option::unwrap_or_default);
                seen.facts.entry(kind).or_default().insert(type_id.clone(), facts);
                let slice = |name: &String| size(name).is_some_and(|size| size.mig.is_none());
                if let Some(name) = name.filter(|name| !divided && slice(name)) {
                    catalogue.entry(kind).or_default().entry(type_id).or_insert(name);
                }
            }
        }
        seen.catalogue = Arc::new(catalogue);
    }
}

/// What the answer depends on. Of several of a kind that are set alike any tells for all: each leaves its driver while its
/// VFs are made, and how it is set is not told then.
fn state(seen: &Observation, ours: &[ParentId]) -> String {
    let kind = |parent: &ParentId| seen.functions.get(&parent.pci()?)?.kind;
    let set = |parent: &ParentId| {
        let modes = seen.modes.get(parent).filter(|told| told.contains_key(&Mode::Instances))?;
        Some([Mode::Instances, Mode::Sizes].map(|mode| modes.get(&mode)?.current.as_ref()))
    };
    let mut kinds: BTreeSet<_> =
        ours.iter().filter_map(|parent| Some((kind(parent)?, set(parent)))).collect();
    let told: Vec<_> = kinds.iter().filter_map(|(kind, set)| set.map(|_| *kind)).collect();
    kinds.retain(|(kind, set)| set.is_some() || !told.contains(kind));
    let version = seen.drivers.get(DRIVER).and_then(|driver| driver.version.as_deref());
    format!("{kinds:?} {version:?}")
}

/// Kinds of GPUs whose VFs list types.
fn listed(seen: &Observation) -> BTreeSet<DeviceKind> {
    let vfs = seen.vfs.values();
    let list = vfs.filter(|vf| vf.choice.as_ref().is_some_and(|c| !c.creatable.is_empty()));
    list.filter_map(|vf| seen.functions.get(&vf.pf)?.kind).collect()
}

fn is_divided(seen: &Observation, ours: &[ParentId], kind: DeviceKind) -> bool {
    let of_kind = |pf: &&ParentId| {
        pf.pci().and_then(|address| seen.functions.get(&address)?.kind) == Some(kind)
    };
    let divided = |pf| seen.mode(pf, Mode::Instances).is_some_and(|now| !now.is(OFF));
    ours.iter().filter(of_kind).any(divided)
}

/// What is told of a type.
#[derive(Debug, Default, PartialEq, Eq)]
struct Told {
    facts: TypeFacts,
    /// The number of the GPU instances' profile that it is for.
    profile: Option<u32>,
    name: Option<String>,
}

type Types = BTreeMap<MdevTypeId, Told>;

/// How many of a type one VM can have of one GPU.
pub(crate) fn per_vm(seen: &Observation, parent: &ParentId, type_id: &MdevTypeId) -> Option<u32> {
    let gpu = seen.functions.get(&seen.device_of(parent).pci()?)?;
    seen.facts.get(&gpu.kind?)?.get(type_id)?.per_vm
}

fn blocks(said: &str) -> Vec<(PciAddress, Types)> {
    let mut gpus: Vec<(PciAddress, Types)> = Vec::new();
    let (mut of, mut size) = (None, 0);
    for line in said.lines() {
        if let Some(address) = line.strip_prefix("GPU ").and_then(bus_id) {
            gpus.push((address, Types::new()));
            of = None;
            continue;
        }
        let Some((key, value)) = line.split_once(':') else { continue };
        let (key, value) = (key.trim(), value.trim());
        if key == "vGPU Type ID" {
            // Hexadecimal here, decimal in sysfs.
            let number = value.strip_prefix("0x").and_then(|n| u32::from_str_radix(n, 16).ok());
            (of, size) = (number.and_then(type_id), 0);
        }
        let (Some((_, types)), Some(of)) = (gpus.last_mut(), &of) else { continue };
        let Told { facts, profile, name } = types.entry(of.clone()).or_default();
        match key {
            "Name" => *name = Some(value.to_owned()),
            "GPU Instance Profile ID" => *profile = value.parse().ok(),
            "FB Memory" => {
                let mib = value.strip_suffix("MiB").and_then(|n| n.trim().parse::<u64>().ok());
                facts.memory = mib.and_then(|mib| mib.checked_mul(1 << 20));
            }
            "Max Instances" => facts.most = value.parse().ok(),
            "Max Instances Per GI" => facts.per_part = value.parse().ok(),
            "Max Instances Per VM" => facts.per_vm = value.parse().ok(),
            "Placement Size" => size = value.parse().unwrap_or(0),
            "Supported Placement IDs" => {
                // Not every version tells the size here; in all tables it is the memory in whole GiB.
                let gib = facts.memory.and_then(|memory| u32::try_from(memory >> 30).ok());
                let size = if size > 0 { size } else { gib.unwrap_or(0) };
                let words = value.split(|c: char| c == ',' || c.is_whitespace());
                let starts = words.filter_map(|word| word.parse().ok()).collect();
                facts.places = (size > 0).then(|| Arc::new(Places { size, starts }));
            }
            _ => {}
        }
    }
    gpus
}

#[cfg(test)]
mod tests {
    use super::*;
    use gpuslice_core::observation::Function;

    #[test]
    fn blocks_of_types_are_read() {
        let said = "\
GPU 00000000:41:00.0
    vGPU Type ID                          : 0x230
        Name                              : NVIDIA A40-4Q
        GPU Instance Profile ID           : N/A
        Max Instances                     : 12
        Max Instances Per VM              : 1
        FB Memory                         : 4096 MiB
        Placement Size                    : 4
        Supported Placement IDs           : 0 8 12 20
    vGPU Type ID                          : 0x2bb
        Name                              : GRID A100D-1-10C
        GPU Instance Profile ID           : 19
        Max Instances Per GI              : 1
        FB Memory                         : 9728 MiB
    vGPU Type ID                          : 0x3f1
        Name                              : NVIDIA H100L-47C
        FB Memory                         : 48128 MiB
        Supported Placement IDs           : 0 47
GPU 00000000:61:00.0
";
        let read = blocks(said);
        let [(address, types), (_, none)] = read.as_slice() else { panic!("{read:?}") };
        assert_eq!(address.to_string(), "0000:41:00.0");
        let of = |id: &str| &types[&id.parse::<MdevTypeId>().unwrap()];
        let sized = of("nvidia-560");
        let facts = &sized.facts;
        assert_eq!((facts.memory, facts.most, facts.per_vm), (Some(4 << 30), Some(12), Some(1)));
        let places = Places { size: 4, starts: vec![0, 8, 12, 20] };
        assert_eq!((sized.facts.places.as_deref(), sized.profile), (Some(&places), None));
        let memory = Some(9728 << 20);
        let facts = TypeFacts { memory, per_part: Some(1), ..TypeFacts::default() };
        assert_eq!(
            *of("nvidia-699"),
            Told { facts, profile: Some(19), name: Some("GRID A100D-1-10C".to_owned()) }
        );
        let by_memory = Places { size: 47, starts: vec![0, 47] };
        assert_eq!(of("nvidia-1009").facts.places.as_deref(), Some(&by_memory));
        assert!(none.is_empty());
    }

    #[test]
    fn a_gpu_that_tells_less_hides_nothing_of_its_like() {
        let said = "\
GPU 00000000:41:00.0
GPU 00000000:61:00.0
    vGPU Type ID                          : 0x230
        Name                              : NVIDIA A40-4Q
        FB Memory                         : 4096 MiB
GPU 00000000:81:00.0
    vGPU Type ID                          : 0x230
        Name                              : NVIDIA A40-4Q
    vGPU Type ID                          : 0x231
        Name                              : NVIDIA A40-6Q
";
        let kind = DeviceKind {
            vendor: 0x10de,
            device: 0x2235,
            subsystem_vendor: 0x10de,
            subsystem_device: 0x145a,
        };
        let function = Function {
            vendor: kind.vendor,
            device: kind.device,
            class: 0x03_0200,
            driver: None,
            numa_node: None,
            iommu_group: None,
            serial: None,
            slot: None,
            sriov: None,
            model: None,
            maker: None,
            kind: Some(kind),
            memory: None,
        };
        let mut seen = Observation::default();
        for gpu in ["0000:41:00.0", "0000:61:00.0", "0000:81:00.0"] {
            seen.functions.insert(gpu.parse().unwrap(), function.clone());
        }
        let Facts(told) = Facts::of(said, &seen);
        let of = |id: &str| &told[&kind][&id.parse::<MdevTypeId>().unwrap()];
        assert_eq!(of("nvidia-560").facts.memory, Some(4 << 30));
        assert_eq!(of("nvidia-561").name.as_deref(), Some("NVIDIA A40-6Q"));
    }
}
