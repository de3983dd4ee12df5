//! What proptest makes up: kinds of things with numbers, which mean something only where they land. Resolving
//! them against the world of the moment gives [`Happening`]s; that way a shorter run of fewer actions still means
//! something, and the log is concrete.

use crate::happening::Happening;
use crate::invariants::vfs_of;
use crate::place::{Hand, Maker};
use crate::world::{State, VMS, World};
use gpuslice_core::errno::Errno;
use gpuslice_core::ids::{ClaimName, MdevUuid, ParentId, PciAddress, SliceId};
use gpuslice_core::port::HostRead;
use gpuslice_sim::{Fault, random_faults};
use proptest::prelude::*;
use uuid::Uuid;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Attach,
    Detach,
    Declare,
    Seen,
    SeenMeanwhile,
    Clone,
    Undefine,
    Rename,
    Define,
    Snapshot,
    Revert,
    Save,
    Restore,
    HostdevGone,
    HostdevMoved,
    NotManaged,
    MetadataGone,
    MetadataAlone,
    Plain,
    Managed,
    Start,
    Next,
    Stop,
    MigrateAway,
    Gone,
    HookDies,
    LibvirtDown,
    LibvirtUp,
    Cordon,
    Uncordon,
    Edit,
    Apply,
    Lists,
    Plug,
    Unplug,
    Reload,
    Fault,
    ClearFaults,
    ForeignMdev,
    ForeignMdevGone,
    ForeignOpen,
    ForeignClose,
    Hand,
    Noise,
    Deaf,
    Lazy,
    Steps,
    KernelSteps,
    Advance,
    Kill,
    DiskFull,
    LoseRecord,
    HotPlug,
    HotPlugNext,
    HotUnplug,
    AgentComes,
    Say,
    Reboot,
}

/// What a person does to a definition.
const EDITS: [Kind; 8] = [
    Kind::HostdevGone,
    Kind::HostdevMoved,
    Kind::MetadataGone,
    Kind::MetadataAlone,
    Kind::Plain,
    Kind::Managed,
    Kind::Revert,
    Kind::Rename,
];

#[derive(Debug, Clone, Copy)]
pub struct Action {
    pub kind: Kind,
    pub a: u8,
    pub b: u8,
    pub c: u16,
}

pub fn actions(longest: usize) -> impl Strategy<Value = Vec<Action>> {
    use Kind as K;
    let kind = prop_oneof![
        8 => Just(K::Attach),
        2 => Just(K::Detach),
        8 => Just(K::Declare),
        3 => Just(K::Seen),
        1 => Just(K::SeenMeanwhile),
        1 => Just(K::Clone),
        1 => Just(K::Undefine),
        1 => Just(K::Rename),
        2 => Just(K::Define),
        1 => Just(K::Snapshot),
        1 => Just(K::Revert),
        3 => Just(K::Save),
        4 => Just(K::Restore),
        1 => Just(K::HostdevGone),
        1 => Just(K::HostdevMoved),
        1 => Just(K::NotManaged),
        1 => Just(K::MetadataGone),
        1 => Just(K::MetadataAlone),
        1 => Just(K::Plain),
        1 => Just(K::Managed),
        24 => Just(K::Start),
        36 => Just(K::Next),
        8 => Just(K::Stop),
        1 => Just(K::MigrateAway),
        2 => Just(K::Gone),
        2 => Just(K::HookDies),
        1 => Just(K::LibvirtDown),
        2 => Just(K::LibvirtUp),
        1 => Just(K::Cordon),
        1 => Just(K::Uncordon),
        2 => Just(K::Edit),
        3 => Just(K::Apply),
        2 => Just(K::Lists),
        3 => Just(K::Plug),
        2 => Just(K::Unplug),
        1 => Just(K::Reload),
        5 => Just(K::Fault),
        3 => Just(K::ClearFaults),
        1 => Just(K::ForeignMdev),
        1 => Just(K::ForeignMdevGone),
        1 => Just(K::ForeignOpen),
        1 => Just(K::ForeignClose),
        2 => Just(K::Hand),
        1 => Just(K::Noise),
        1 => Just(K::Deaf),
        2 => Just(K::Lazy),
        1 => Just(K::Steps),
        6 => Just(K::KernelSteps),
        8 => Just(K::Advance),
        6 => Just(K::Kill),
        2 => Just(K::DiskFull),
        1 => Just(K::LoseRecord),
        16 => Just(K::HotPlug),
        24 => Just(K::HotPlugNext),
        5 => Just(K::HotUnplug),
        2 => Just(K::AgentComes),
        1 => Just(K::Say),
        1 => Just(K::Reboot),
    ];
    of_kind(kind, longest)
}

/// What people do to domains, and the starts, stops and looks in between.
pub fn of_people(longest: usize) -> impl Strategy<Value = Vec<Action>> {
    use Kind as K;
    let kind = prop_oneof![
        8 => Just(K::Attach),
        2 => Just(K::Detach),
        3 => Just(K::Declare),
        8 => Just(K::Seen),
        6 => Just(K::SeenMeanwhile),
        3 => Just(K::Clone),
        2 => Just(K::Undefine),
        2 => Just(K::Rename),
        3 => Just(K::Define),
        3 => Just(K::Snapshot),
        3 => Just(K::Revert),
        4 => Just(K::Save),
        6 => Just(K::Restore),
        2 => Just(K::HostdevGone),
        4 => Just(K::HostdevMoved),
        2 => Just(K::NotManaged),
        2 => Just(K::MetadataGone),
        3 => Just(K::MetadataAlone),
        6 => Just(K::Plain),
        2 => Just(K::Managed),
        20 => Just(K::Start),
        40 => Just(K::Next),
        8 => Just(K::Stop),
        1 => Just(K::MigrateAway),
        1 => Just(K::LibvirtDown),
        2 => Just(K::LibvirtUp),
        1 => Just(K::Edit),
        1 => Just(K::Apply),
        1 => Just(K::ForeignMdev),
        1 => Just(K::ForeignOpen),
        1 => Just(K::ForeignClose),
        4 => Just(K::Advance),
        1 => Just(K::LoseRecord),
        6 => Just(K::HotPlug),
        8 => Just(K::HotPlugNext),
        3 => Just(K::HotUnplug),
        1 => Just(K::AgentComes),
    ];
    of_kind(kind, longest)
}

fn of_kind(
    kind: impl Strategy<Value = Kind>,
    longest: usize,
) -> impl Strategy<Value = Vec<Action>> {
    let action = (kind, any::<u8>(), any::<u8>(), any::<u16>())
        .prop_map(|(kind, a, b, c)| Action { kind, a, b, c });
    prop::collection::vec(action, 1..longest)
}

fn pick<T>(from: &[T], index: u8) -> Option<&T> {
    from.get(usize::from(index).checked_rem(from.len())?)
}

fn address(world: &World, index: u8) -> PciAddress {
    *pick(&world.place.functions, index).unwrap()
}

fn parent(world: &World, index: u8) -> ParentId {
    pick(&world.place.parents, index).unwrap().clone()
}

fn name(index: u8) -> ClaimName {
    if index % 4 == 3 { "gpu1" } else { "gpu0" }.parse().unwrap()
}

/// A VM in one of the states, the `index`-th of them.
fn vm_in(world: &World, index: u8, wanted: impl Fn(State) -> bool) -> Option<u8> {
    let found: Vec<u8> =
        world.guests.iter().filter(|(_, g)| wanted(g.state)).map(|(vm, _)| *vm).collect();
    pick(&found, index).copied()
}

fn any_vf(world: &World, a: u8, b: u8) -> Option<PciAddress> {
    pick(&vfs_of(&world.driver.kernel, address(world, a)), b).copied()
}

impl Action {
    /// What it comes to now; `None` when it makes no sense.
    pub fn resolve(self, world: &World) -> Option<Happening> {
        use Happening as H;
        use Kind as K;
        let Self { kind, a, b, c } = self;
        let vm = a % VMS;
        let profile = || pick(&world.place.profiles, b).unwrap().clone();
        let count = if c % 5 == 0 { 2 } else { 1 };
        let low = u8::try_from(c % 256).unwrap();
        Some(match kind {
            K::Attach => {
                // Both at once is refused.
                let pool = c % 7 == 0;
                let reserve = !pool && c % 11 == 0;
                H::Attach { vm, name: name(low), profile: profile(), count, pool, reserve }
            }
            K::Detach => H::Detach { vm, name: name(b), force: c % 2 == 0 },
            K::Declare => H::Declare { vm, name: name(low), profile: profile(), count },
            K::Seen => H::Seen { vm },
            K::SeenMeanwhile => {
                let kind = EDITS[usize::from(b) % EDITS.len()];
                let edit = Box::new(Self { kind, ..self }.resolve(world)?);
                H::SeenMeanwhile { vm, edit }
            }
            K::Clone => H::Clone { from: vm, to: b % VMS },
            K::Undefine => H::Undefine { vm },
            K::Rename => H::Rename { vm },
            K::Define => H::Define { vm },
            K::Snapshot => H::Snapshot { vm },
            K::Revert => H::Revert { vm },
            K::Save => H::Save { vm: vm_in(world, a, |s| matches!(s, State::Running(_)))? },
            K::Restore => H::Restore { vm },
            K::HostdevGone => H::HostdevGone { vm },
            K::HostdevMoved => H::HostdevMoved { vm, vf: any_vf(world, b, low)? },
            K::NotManaged => H::NotManaged { vm },
            K::MetadataGone => H::MetadataGone { vm },
            K::MetadataAlone => H::MetadataAlone { vm, name: name(low), profile: profile(), count },
            K::Plain => {
                let foreign: Vec<SliceId> = world.driver.foreign_mdevs.iter().copied().collect();
                let parked = parked(world);
                let there = if c % 6 == 0 { &foreign } else { &parked };
                let slice = match pick(there, b).filter(|_| c % 3 == 0) {
                    Some(slice) => *slice,
                    None => SliceId::Vf(any_vf(world, b, low)?),
                };
                H::Plain { vm, slice, managed: c % 2 == 0 }
            }
            K::Managed => H::Managed { vm },
            K::Start => H::Start { vm: vm_in(world, a, |s| s == State::Off)? },
            K::Next => {
                let busy = |s| !matches!(s, State::Off | State::Running(_));
                H::Next { vm: vm_in(world, a, busy)? }
            }
            K::Stop => {
                let runs = |s| matches!(s, State::Running(_) | State::Launched(_));
                H::Stop { vm: vm_in(world, a, runs)?, linger: c % 4 == 0 }
            }
            K::MigrateAway => {
                H::MigrateAway { vm: vm_in(world, a, |s| matches!(s, State::Running(_)))? }
            }
            K::Gone => H::Gone,
            K::HookDies => H::HookDies { vm: vm_in(world, a, |s| matches!(s, State::Asking(_)))? },
            K::LibvirtDown => H::LibvirtDown,
            K::LibvirtUp => H::LibvirtUp { tells: c % 2 == 0 },
            K::Cordon => H::Cordon { parent: parent(world, a) },
            K::Uncordon => H::Uncordon { parent: parent(world, a) },
            K::Edit => H::Edit { config: a % 8 },
            K::Apply => H::Apply,
            K::Lists => H::Lists,
            K::Plug => H::Plug { address: address(world, a) },
            K::Unplug => H::Unplug { address: address(world, a) },
            K::Reload => H::Reload { driver: pick(&world.place.drivers, a)?.clone() },
            K::Fault => H::Fault { fault: fault(world, a, c)? },
            K::ClearFaults => H::ClearFaults,
            K::ForeignMdev => foreign_mdev(world, a, b, c)?,
            K::ForeignMdevGone => {
                let there: Vec<SliceId> = world.driver.foreign_mdevs.iter().copied().collect();
                match pick(&there, a)? {
                    SliceId::Mdev(uuid) => H::ForeignMdevGone { uuid: *uuid },
                    _ => return None,
                }
            }
            K::ForeignOpen => H::ForeignOpen { vf: any_vf(world, a, b)? },
            K::ForeignClose => H::ForeignClose,
            K::Hand => match pick(&world.place.hands, a)? {
                Hand::Writes { file, words } => {
                    H::Other { file: file.clone(), data: pick(words, b)?.clone() }
                }
                Hand::Runs { command } => H::Tool { command: command.clone() },
            },
            K::Noise => {
                H::Noise { seed: u64::from(c), lose: u16::from(a), duplicate: u16::from(b) }
            }
            K::Deaf => H::Deaf { on: a % 2 == 0 },
            K::Lazy => H::Lazy { on: a % 2 == 0 },
            K::Steps => H::Steps { on: a % 2 == 0 },
            K::KernelSteps => H::KernelSteps { count: a % 12 + 1 },
            K::Advance => {
                let spans = [1, 20, 100, 900, 3000, 16_000, 61_000, 700_000];
                H::Advance { ms: spans[usize::from(a) % spans.len()] }
            }
            K::Kill => H::Kill { after: u32::from(a % 16) },
            K::DiskFull => H::DiskFull { durable: u32::from(a % 4), runtime: u32::from(b % 4) },
            K::LoseRecord => H::LoseRecord { claims: false },
            K::HotPlug => {
                let vm = vm_in(world, a, |s| matches!(s, State::Running(_)))?;
                H::HotPlug {
                    vm,
                    name: name(3 - low % 4),
                    profile: profile(),
                    count,
                    keep: c % 3 == 0,
                }
            }
            K::HotPlugNext => {
                let asked: Vec<u8> = world.plugging.keys().copied().collect();
                H::HotPlugNext { vm: *pick(&asked, a)?, dies: c % 4 == 0 }
            }
            K::HotUnplug => {
                let vm = vm_in(world, a, |s| matches!(s, State::Running(_)))?;
                H::HotUnplug { vm, name: name(b), by_hand: c % 2 == 0 }
            }
            K::AgentComes => H::AgentComes,
            K::Say => H::Say { line: line(world, a, b, c) },
            K::Reboot => H::Reboot,
        })
    }
}

/// What stands in virt-manager's dialog for mediated devices.
fn parked(world: &World) -> Vec<SliceId> {
    let names = world.driver.kernel.list("/sys/bus/mdev/devices").unwrap_or_default();
    let uuids = names.iter().filter_map(|name| name.parse::<MdevUuid>().ok());
    uuids.filter(|uuid| uuid.is_parked()).map(SliceId::Mdev).collect()
}

fn line(world: &World, a: u8, b: u8, c: u16) -> String {
    let vf = any_vf(world, a, b);
    match (c % 4, vf) {
        (0, Some(vf)) => format!("vfio-pci {vf}: not ready 65535ms after FLR; giving up"),
        (1, _) => format!("gim {}: Event 0x1 overflow.", address(world, a)),
        _ => format!("NVRM: Xid (PCI:{:.10}): 79, off the bus", address(world, a).to_string()),
    }
}

fn fault(world: &World, a: u8, c: u16) -> Option<Fault> {
    let (nth, times) = (u32::from(c % 2) + 1, u32::from(c % 3) + 1);
    let errno = Errno::EIO;
    let writes = |path: &str| Some(Fault::Write { path: path.to_owned(), nth, times, errno });
    match a % 12 {
        0 | 6 => writes("*/unbind"),
        3 => vendor_fault(world, c, nth, times),
        _ => random_faults(u64::from(c), &world.driver.kernel.pfs(), 1).into_iter().next(),
    }
}

/// How a vendor's driver or tool fails.
fn vendor_fault(world: &World, c: u16, nth: u32, times: u32) -> Option<Fault> {
    let pfs = world.driver.kernel.pfs();
    let pf = *pick(&pfs, u8::try_from(c % 251).unwrap())?;
    let smi = || "/usr/bin/nvidia-smi*".to_owned();
    Some(match c / 251 % 6 {
        0 => Fault::Tool { pf, nth, times, unbinds: c.is_multiple_of(2) },
        1 => Fault::Exits { command: smi(), nth, times, code: 6 },
        2 => Fault::Refuses { pf, nth, times },
        3 => Fault::Computes { pf },
        4 => Fault::Write { path: "modprobe*".to_owned(), nth, times, errno: Errno::EBUSY },
        _ => Fault::Read { path: smi(), nth, times, errno: Errno::ETIMEDOUT },
    })
}

fn foreign_mdev(world: &World, a: u8, b: u8, c: u16) -> Option<Happening> {
    let (maker, type_id) = pick(&world.place.makers, a)?.clone();
    let parent = match maker {
        Maker::Itself(parent) => parent,
        Maker::VfsOf(pf) => ParentId::Pci(*pick(&vfs_of(&world.driver.kernel, pf), b)?),
    };
    // Sometimes under the very name that a claim's device is to have.
    let uuid = if c.is_multiple_of(4) {
        let domain = world.guests[&(b % VMS)].domain().uuid;
        MdevUuid::for_claim(domain, &"gpu0".parse().unwrap(), 0)
    } else {
        MdevUuid(Uuid::from_u128(0xf000_0000_0000_4000_8000_0000_0000_0000 + u128::from(c)))
    };
    Some(Happening::ForeignMdev { parent, type_id, uuid })
}
