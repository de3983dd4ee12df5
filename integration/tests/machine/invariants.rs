//! What must hold after each event, whatever happened. The kernel's truth counts, not the machine's opinion.

use crate::driver::Driver;
use gpuslice_core::domain::HostDevice;
use gpuslice_core::ids::{ClaimKey, MdevUuid, Owner, ParentId, PciAddress, SliceId};
use gpuslice_core::machine::{HookAnswer, HookCall, HookOperation};
use gpuslice_core::plan::Step;
use gpuslice_core::port::{HostRead, link_name};
use gpuslice_core::refusal::Code;
use gpuslice_core::request::{Answer, Command, DeviceToWrite, Outcome, ProfileRow};
use gpuslice_core::state::Phase;
use gpuslice_sim::Kernel;
use std::collections::{BTreeMap, BTreeSet};
use uuid::Uuid;

/// An invariant that did not hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Broken {
    pub rule: &'static str,
    pub how: String,
}

impl Broken {
    pub fn new(rule: &'static str, how: impl Into<String>) -> Self {
        Self { rule, how: how.into() }
    }
}

impl std::fmt::Display for Broken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.rule, self.how)
    }
}

/// A process that libvirt started, and the slices it was given by claims.
#[derive(Debug, Clone)]
pub struct Vm {
    pub domain: Uuid,
    pub claimed: BTreeSet<SliceId>,
    /// Those among them that it opened so late that they had been taken back, and whose each was then: who had been given it
    /// finds it in use. Nobody knows until libvirt tells.
    pub late: BTreeMap<SliceId, Option<Owner>>,
}

impl Vm {
    /// Whether it has opened a slice late, and nobody has been given that since.
    fn opened_late(&self, slice: SliceId, owner: Option<&Owner>) -> bool {
        self.late.get(&slice).is_some_and(|then| owner.is_none() || then.as_ref() == owner)
    }
}

pub fn slice_of(device: &HostDevice) -> SliceId {
    device.source.slice()
}

pub fn after_event(driver: &Driver) -> Result<(), Broken> {
    never_two_owners_of_one_slice(driver)?;
    what_is_nobodys_is_clean_or_dirty(driver)?;
    no_claim_given_up_under_its_vm(driver)?;
    never_two_claims_with_one_home(driver)?;
    sriov_numvfs_never_read(driver)
}

/// Who has a device open is the one it is assigned to; a slice with two holders has two owners.
fn never_two_owners_of_one_slice(driver: &Driver) -> Result<(), Broken> {
    let rule = "never_two_owners_of_one_slice";
    let run = driver.machine.runtime();
    for (slice, assignment) in &run.assignments {
        if !matches!(assignment.phase, Phase::Prepared | Phase::Attached) || guessed(driver, *slice)
        {
            continue;
        }
        // Whoever asks nobody cannot be kept from opening a device.
        for pid in driver.kernel.holders(*slice) {
            let given = Some(&assignment.claim.owner);
            let granted = |vm: &&Vm| vm.claimed.contains(slice) && !vm.opened_late(*slice, given);
            let asked = driver.vms.get(&pid).filter(granted);
            if let Some(holder) = asked.map(|vm| Owner::Domain(vm.domain))
                && holder != assignment.claim.owner
            {
                let how = format!("{slice} of {} is open in {pid} of {holder}", assignment.claim);
                return Err(Broken::new(rule, how));
            }
        }
        if let Some(hold) = run.foreign.get(slice).filter(|h| h.owner != assignment.claim.owner) {
            let how = format!("{slice} of {} is known to be in {}", assignment.claim, hold.name);
            return Err(Broken::new(rule, how));
        }
    }
    for (pid, vm) in &driver.vms {
        for slice in &vm.claimed {
            let held = driver.kernel.holders(*slice).contains(pid);
            let owner = run.assignments.get(slice).map(|a| &a.claim.owner);
            let leaving = !shown(&driver.kernel, *slice);
            // What no record says is known only when libvirt tells, but it is given to nobody until then.
            let unknown = driver.lost_record && (owner.is_none() || guessed(driver, *slice))
                || vm.opened_late(*slice, owner);
            if held && !leaving && !unknown && owner != Some(&Owner::Domain(vm.domain)) {
                let how =
                    format!("{slice} is open in {pid} of {}, but {owner:?} has it", vm.domain);
                return Err(Broken::new(rule, how));
            }
        }
    }
    Ok(())
}

/// What is a claim's home is nobody else's, but where both say that they share it.
fn never_two_claims_with_one_home(driver: &Driver) -> Result<(), Broken> {
    let mut homes: BTreeMap<PciAddress, &ClaimKey> = BTreeMap::new();
    let durable = driver.machine.durable();
    for (key, claim) in durable.claims.iter().filter(|(_, claim)| !claim.orphaned && !claim.pool) {
        for home in &claim.home {
            if let Some(other) = homes.insert(*home, key) {
                let how = format!("VF {home} is that of {key} and of {other}");
                return Err(Broken::new("never_two_claims_with_one_home", how));
            }
        }
    }
    Ok(())
}

/// A claim whose domain is undefined holds its home and its slices as long as a VM has them, or is about to.
fn no_claim_given_up_under_its_vm(driver: &Driver) -> Result<(), Broken> {
    // What was found after a loss may be anybody's.
    if driver.lost_record {
        return Ok(());
    }
    let durable = driver.machine.durable();
    let given_up =
        |key: &ClaimKey| durable.claims.get(key).is_some_and(|c| c.orphaned && c.undefined);
    let mut given = driver.machine.runtime().assignments.iter();
    match given.find(|(_, a)| a.phase != Phase::Releasing && given_up(&a.claim)) {
        None => Ok(()),
        Some((slice, a)) => {
            let how = format!("{slice} is {} for {}", a.phase.as_str(), a.claim);
            Err(Broken::new("no_claim_given_up_under_its_vm", how))
        }
    }
}

/// Where the layout asks for it, a VF that a VM had and nobody has now was reset, or is known to be dirty.
fn what_is_nobodys_is_clean_or_dirty(driver: &Driver) -> Result<(), Broken> {
    let (run, seen) = (driver.machine.runtime(), driver.machine.observation());
    for (vf, domain) in &driver.used {
        let slice = SliceId::Vf(*vf);
        let required =
            seen.vfs.get(vf).is_some_and(|v| run.accounted.contains(&ParentId::Pci(v.pf)));
        let known = run.assignments.contains_key(&slice)
            || run.foreign.contains_key(&slice)
            || run.dirty.contains_key(&slice);
        if required && !known && driver.kernel.holders(slice).is_empty() {
            let how = format!("{slice} was {domain}'s, and is free without a reset");
            return Err(Broken::new("what_is_nobodys_is_clean_or_dirty", how));
        }
    }
    Ok(())
}

/// Whether its assignment was only inferred after the record of it was lost.
fn guessed(driver: &Driver, slice: SliceId) -> bool {
    driver.machine.runtime().lost.as_ref().is_some_and(|lost| lost.guessed.contains(&slice))
}

/// Whether the device is where a reader looks for it: not while it is being removed under somebody.
fn shown(kernel: &Kernel, slice: SliceId) -> bool {
    match slice {
        SliceId::Mdev(uuid) => kernel.link(&format!("/sys/bus/mdev/devices/{uuid}")).is_ok(),
        SliceId::Vf(address) | SliceId::Function(address) => {
            let dir = format!("/sys/bus/pci/devices/{address}");
            kernel.link(&format!("{dir}/physfn")).is_ok()
                && kernel.link(&format!("{dir}/driver")).is_ok()
        }
    }
}

fn sriov_numvfs_never_read(driver: &Driver) -> Result<(), Broken> {
    match driver.kernel.blocked_reads() {
        0 => Ok(()),
        n => Err(Broken::new("sriov_numvfs_never_read", format!("{n} readers would hang"))),
    }
}

/// What a start or a stop is told is on the disk by then.
pub fn no_reply_before_its_record(
    driver: &Driver,
    call: &HookCall,
    answer: &HookAnswer,
) -> Result<(), Broken> {
    let rule = "no_reply_before_its_record";
    // Nothing is promised by that: the start that follows asks.
    if matches!(call.operation, HookOperation::Migrate | HookOperation::Restore) {
        return Ok(());
    }
    if call.operation != HookOperation::Prepare {
        return match answer {
            HookAnswer::Proceed => Ok(()),
            other => Err(Broken::new("only_starts_are_refused", format!("{call:?}: {other:?}"))),
        };
    }
    if *answer != HookAnswer::Proceed {
        return Ok(());
    }
    let disk = driver.disk.runtime();
    let owner = Owner::Domain(call.domain.uuid);
    for device in &call.domain.devices {
        let Some((name, _)) = device.our_claim() else { continue };
        let key = ClaimKey { owner: owner.clone(), name };
        let slice = slice_of(device);
        let found = disk.as_ref().and_then(|run| run.assignments.get(&slice));
        let good = found.is_some_and(|a| a.claim == key && a.phase == Phase::Prepared);
        if !good {
            return Err(Broken::new(rule, format!("{slice} for {key}: the disk has {found:?}")));
        }
        if !driver.disk.durable().claims.contains_key(&key) {
            return Err(Broken::new(rule, format!("claim {key} is not on the disk")));
        }
    }
    Ok(())
}

/// What an order is told is on the disk by then; and lists count right.
pub fn no_claim_before_its_record(
    driver: &Driver,
    command: &Command,
    outcome: &Outcome,
) -> Result<(), Broken> {
    let rule = "no_reply_before_its_record";
    match (command, outcome) {
        (Command::Claim { dry_run: false, .. }, Ok(Answer::Claimed { claim, .. })) => {
            let durable = driver.disk.durable();
            match durable.claims.get(&claim.claim) {
                Some(found) if found.profile == claim.profile && !found.transient => Ok(()),
                other => Err(Broken::new(rule, format!("{}: the disk has {other:?}", claim.claim))),
            }
        }
        (Command::Plug { keep, .. }, Ok(Answer::Claimed { claim, devices, .. })) => {
            plugged_is_recorded(driver, &claim.claim, devices, *keep)
        }
        (Command::Apply, Ok(_)) if driver.disk.durable() != *driver.machine.durable() => {
            Err(Broken::new(rule, "applied, but not on the disk"))
        }
        (Command::Cordon { parent, .. }, Ok(_))
            if !driver.disk.durable().cordons.contains_key(parent) =>
        {
            Err(Broken::new(rule, format!("cordon of {parent} is not on the disk")))
        }
        (_, Ok(Answer::Profiles { rows })) => {
            rows.iter().try_for_each(|row| capacity_never_negative(driver, row))
        }
        _ => Ok(()),
    }
}

/// The agent has libvirt open what it is told.
fn plugged_is_recorded(
    driver: &Driver,
    key: &ClaimKey,
    devices: &[DeviceToWrite],
    keep: bool,
) -> Result<(), Broken> {
    let rule = "no_reply_before_its_record";
    let durable = driver.disk.durable();
    if durable.claims.get(key).is_none_or(|claim| keep && claim.transient) {
        return Err(Broken::new(rule, format!("claim {key} is not on the disk")));
    }
    let disk = driver.disk.runtime();
    for device in devices {
        let slice = device.source.slice();
        let found = disk.as_ref().and_then(|run| run.assignments.get(&slice));
        let ready = |phase| matches!(phase, Phase::Prepared | Phase::Attached);
        if !found.is_some_and(|a| a.claim == *key && ready(a.phase)) {
            return Err(Broken::new(rule, format!("{slice} for {key}: the disk has {found:?}")));
        }
    }
    Ok(())
}

/// What is given is counted, and what there is besides is no more than what is left of it: of VFs each is given or free, or neither.
fn capacity_never_negative(driver: &Driver, row: &ProfileRow) -> Result<(), Broken> {
    let machine = &driver.machine;
    let assigned = machine.runtime().assignments.iter().filter(|(_, a)| a.profile == row.profile);
    let seen = machine.observation();
    let there = assigned.clone().filter(|(slice, _)| seen.has_slice(**slice)).count();
    let of_vfs = ["sriov", "gim"].contains(&row.mechanism.as_str());
    let left =
        |max: u32| usize::try_from(row.free).unwrap() + there <= usize::try_from(max).unwrap();
    let fits = !of_vfs || row.max.is_none_or(left);
    let assigned = assigned.count();
    if usize::try_from(row.used).unwrap() == assigned && fits {
        return Ok(());
    }
    let how = format!("{assigned} assigned, {there} of them there: {row:?}");
    Err(Broken::new("capacity_never_negative", how))
}

/// What a step could harm, as it was before.
pub struct Before {
    held: Vec<(SliceId, Vec<u32>)>,
    writes: u64,
    foreign: BTreeSet<SliceId>,
}

impl Before {
    pub fn look(driver: &Driver, step: &Step) -> Self {
        let kernel = &driver.kernel;
        let held = touched(kernel, step)
            .into_iter()
            .map(|slice| (slice, kernel.holders(slice)))
            .filter(|(_, pids)| !pids.is_empty())
            .collect();
        Self { held, writes: kernel.writes(), foreign: foreign_there(driver) }
    }

    /// `nothing_cleared_while_held` and `foreign_devices_untouched`.
    pub fn unharmed(&self, driver: &Driver, step: &Step) -> Result<(), Broken> {
        if let Some((slice, pids)) = self.held.first()
            && driver.kernel.writes() != self.writes
        {
            let how = format!("{step}: {slice} is open in {pids:?}");
            return Err(Broken::new("nothing_cleared_while_held", how));
        }
        let now = foreign_there(driver);
        if let Some(lost) = self.foreign.difference(&now).next() {
            let how = format!("{step} removed {lost} of somebody else");
            return Err(Broken::new("foreign_devices_untouched", how));
        }
        Ok(())
    }
}

fn foreign_there(driver: &Driver) -> BTreeSet<SliceId> {
    driver.foreign_mdevs.iter().copied().filter(|s| shown(&driver.kernel, *s)).collect()
}

/// Slices a step changes or takes away.
fn touched(kernel: &Kernel, step: &Step) -> Vec<SliceId> {
    match step {
        Step::SetNumVfs { pf, count: 0 } | Step::RunVfTool { pf, count: 0, .. } => {
            let vfs = vfs_of(kernel, *pf);
            let below: Vec<SliceId> = vfs.iter().flat_map(|vf| mdevs_of(kernel, *vf)).collect();
            vfs.into_iter().map(SliceId::Vf).chain(below).collect()
        }
        Step::UnloadDriver { name, .. } => {
            let pfs = bound_to(kernel, name);
            let vfs = pfs.into_iter().flat_map(|pf| vfs_of(kernel, pf));
            vfs.map(SliceId::Vf).collect()
        }
        Step::SetMode { disturbs, .. } | Step::RunModeTool { disturbs, .. } => {
            disturbs.iter().flat_map(|pf| vfs_of(kernel, *pf)).map(SliceId::Vf).collect()
        }
        // It takes nothing from a device that leaves under its user; the kernel refuses the name twice.
        Step::CreateMdev { .. } => Vec::new(),
        other => other.slice().into_iter().collect(),
    }
}

pub fn vfs_of(kernel: &Kernel, pf: PciAddress) -> Vec<PciAddress> {
    let dir = format!("/sys/bus/pci/devices/{pf}");
    let names = kernel.list(&dir).unwrap_or_default();
    let links = names.iter().filter(|name| name.starts_with("virtfn"));
    links
        .filter_map(|link| link_name(kernel, &format!("{dir}/{link}")).ok()??.parse().ok())
        .collect()
}

fn bound_to(kernel: &Kernel, driver: &str) -> Vec<PciAddress> {
    let names = kernel.list(&format!("/sys/bus/pci/drivers/{driver}")).unwrap_or_default();
    names.iter().filter_map(|name| name.parse().ok()).collect()
}

fn mdevs_of(kernel: &Kernel, vf: PciAddress) -> Vec<SliceId> {
    let names = kernel.list(&format!("/sys/bus/pci/devices/{vf}")).unwrap_or_default();
    names.iter().filter_map(|name| name.parse::<MdevUuid>().ok()).map(SliceId::Mdev).collect()
}

/// `quarantined_parents_untouched`: nothing that writes is even ordered on one.
pub fn quarantined_parents_untouched(driver: &Driver, step: &Step) -> Result<(), Broken> {
    let durable = driver.machine.durable();
    let seen = driver.machine.observation();
    let direct = match step {
        // Who they are about, only the plan knows.
        Step::LoadModule { .. } | Step::RequireUnheld { .. } | Step::WriteConfig { .. } => {
            return Ok(());
        }
        Step::UnloadDriver { name, .. } => {
            let mut bound = bound_to(&driver.kernel, name).into_iter().map(ParentId::Pci);
            bound.find(|parent| durable.quarantines.contains_key(parent))
        }
        Step::LoadDriver { vfs, .. } => {
            let mut parents = vfs.keys().map(|pf| ParentId::Pci(*pf));
            parents.find(|parent| durable.quarantines.contains_key(parent))
        }
        Step::SetMode { disturbs, .. } | Step::RunModeTool { disturbs, .. } => {
            let mut parents = disturbs.iter().map(|pf| ParentId::Pci(*pf));
            parents.find(|parent| durable.quarantines.contains_key(parent))
        }
        Step::SetNumVfs { pf, .. } | Step::RunVfTool { pf, .. } | Step::SetAutoprobe { pf, .. } => {
            Some(ParentId::Pci(*pf))
        }
        Step::CreateMdev { parent, .. } => Some(parent.clone()),
        Step::RemoveMdev { uuid } => seen.mdevs.get(uuid).map(|m| m.parent.clone()),
        Step::SetParameters { slice, .. } => match slice {
            SliceId::Mdev(uuid) => seen.mdevs.get(uuid).map(|m| m.parent.clone()),
            SliceId::Vf(vf) | SliceId::Function(vf) => {
                seen.vfs.get(vf).map(|vf| ParentId::Pci(vf.pf))
            }
        },
        Step::GiveVfType { vf: function, .. }
        | Step::TakeVfType { vf: function, .. }
        | Step::Bind { function, .. }
        | Step::Reset { function }
        | Step::Unbind { function } => seen.vfs.get(function).map(|vf| ParentId::Pci(vf.pf)),
    };
    let above = direct.as_ref().and_then(ParentId::pci).and_then(|a| seen.vfs.get(&a));
    let above = above.map(|vf| ParentId::Pci(vf.pf));
    // Of a GPU that has no fault but its layout, what a VM had is taken back.
    let takes_back = matches!(
        step,
        Step::RemoveMdev { .. }
            | Step::SetParameters { .. }
            | Step::TakeVfType { .. }
            | Step::Reset { .. }
            | Step::Unbind { .. }
    );
    let forbids = |p: &&ParentId| {
        let why = durable.quarantines.get(*p);
        why.is_some_and(|why| !takes_back || why.code != Code::BadConfig)
    };
    match direct.iter().chain(&above).find(forbids) {
        None => Ok(()),
        Some(parent) => {
            let how = format!("{step}, while {parent} is quarantined");
            Err(Broken::new("quarantined_parents_untouched", how))
        }
    }
}

/// `clean_before_the_next`: where the layout asks for it, a VM finds nothing of another in a VF it is given.
pub fn clean_before_the_next(driver: &Driver, domain: Uuid, slice: SliceId) -> Result<(), Broken> {
    let Some((vf, before)) = slice.pci().and_then(|vf| driver.used.get_key_value(&vf)) else {
        return Ok(());
    };
    let seen = driver.machine.observation().vfs.get(vf);
    let required =
        seen.is_some_and(|v| driver.machine.runtime().accounted.contains(&ParentId::Pci(v.pf)));
    if required && *before != domain {
        let how = format!("{slice} was {before}'s, and is {domain}'s now without a reset");
        return Err(Broken::new("clean_before_the_next", how));
    }
    Ok(())
}
