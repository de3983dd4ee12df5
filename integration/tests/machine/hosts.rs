//! Which host a random run is on: the one of each kind that does without vendors' tools, or one that was drawn, of a
//! few GPUs of any kind. The first line of a log says which, so that a replay has the same.

use crate::happening::Happening;
use gpuslice_sim::Grouping;
use proptest::prelude::*;
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Host {
    /// `host.toml`.
    Each,
    Drawn(Drawn),
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drawn {
    pub gpus: Vec<Gpu>,
    /// Sizes that GPUs with types have, from 4 GiB on, each twice the one before.
    pub types: u8,
    /// Ports of the parent that is on no bus.
    pub mtty: Option<u64>,
    /// VFIO's device nodes beside those of groups.
    pub cdev: bool,
    /// vfio-pci is there from the boot.
    pub vfio: bool,
    /// One lock for VFs of all PFs.
    pub rescan_lock: bool,
}

/// What a GPU is sliced by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// VFs by `sriov_numvfs`.
    Plain,
    /// The same, and a driver of the host wants them.
    Network,
    /// An MI300X under GIM: in a hive with its like, with modes.
    Hive,
    /// A GPU of no name under GIM.
    Radeon,
    /// An MI308X that amdgpu has: partitions, no VFs.
    Partitions,
    /// Mediated devices of the GPU itself.
    Mdev,
    /// Mediated devices of VFs, which a tool makes.
    MdevOfVfs,
    /// VFs that take a type, all of one size.
    Types,
    /// VFs that take a type, of sizes side by side if it is set so.
    Sizes,
    /// VFs that take a type, of GPU instances.
    Instances,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gpu {
    pub kind: Kind,
    /// Most VFs, where its kind does not say.
    pub vfs: u16,
    pub node: i32,
    pub group: Grouping,
    /// It is there 40 s after the boot.
    pub late: bool,
    /// How long its driver takes to make VFs.
    pub slow_ms: u64,
}

pub fn hosts() -> impl Strategy<Value = Host> {
    prop_oneof![
        2 => Just(Host::Each),
        5 => drawn().prop_map(Host::Drawn),
    ]
}

fn drawn() -> impl Strategy<Value = Drawn> {
    let flags = (any::<bool>(), any::<bool>(), any::<bool>());
    (prop::collection::vec(gpu(), 1..=4), 1..=3u8, prop::option::of(1..=4u64), flags).prop_map(
        |(gpus, types, mtty, (cdev, vfio, rescan_lock))| Drawn {
            gpus,
            types,
            mtty,
            cdev,
            vfio,
            rescan_lock,
        },
    )
}

fn gpu() -> impl Strategy<Value = Gpu> {
    let kind = prop_oneof![
        2 => Just(Kind::Plain),
        1 => Just(Kind::Network),
        3 => Just(Kind::Hive),
        1 => Just(Kind::Radeon),
        1 => Just(Kind::Partitions),
        1 => Just(Kind::Mdev),
        1 => Just(Kind::MdevOfVfs),
        1 => Just(Kind::Types),
        2 => Just(Kind::Sizes),
        2 => Just(Kind::Instances),
    ];
    let group = prop_oneof![
        12 => Just(Grouping::Function),
        1 => Just(Grouping::None),
    ];
    let late = prop::bool::weighted(0.1);
    let slow_ms = prop::sample::select(vec![0, 0, 300, 2000]);
    (kind, 1..=6u16, -1..=1i32, group, late, slow_ms).prop_map(
        |(kind, vfs, node, group, late, slow_ms)| Gpu { kind, vfs, node, group, late, slow_ms },
    )
}

/// The first line of a log.
#[derive(Serialize, Deserialize)]
struct On {
    host: Host,
}

pub fn write_log(host: &Host, happenings: &[Happening]) -> String {
    let first = serde_json::to_string(&On { host: host.clone() }).unwrap();
    let lines = happenings.iter().map(|happening| serde_json::to_string(happening).unwrap());
    std::iter::once(first).chain(lines).map(|line| line + "\n").collect()
}

/// Logs of before hosts were drawn do not say.
pub fn read_log(text: &str) -> (Host, Vec<Happening>) {
    let mut lines = text.lines().peekable();
    let first = lines.peek().and_then(|line| serde_json::from_str::<On>(line).ok());
    let host = first.map_or(Host::Each, |on| {
        lines.next();
        on.host
    });
    (host, lines.map(|line| serde_json::from_str(line).unwrap()).collect())
}
