//! A claim: what it has, or why its VM would not get it.

use super::{Explained, Reason, Rows, end, last_start, named, parent, row_of, slice};
use crate::claims;
use crate::parents::gpus;
use gpuslice_core::ids::{ClaimKey, Owner, ParentId, PciAddress, SliceId};
use gpuslice_core::mend;
use gpuslice_core::refusal::{Code, Holders};
use gpuslice_core::request::{ClaimRow, ParentRow, ProfileRow, SliceRow};
use gpuslice_core::shell::quoted;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;

/// GPUs whose reasons are told.
const MOST: usize = 4;

pub(super) fn of(rows: &Rows, row: &ClaimRow) -> Explained {
    let has = match row.slices.as_slice() {
        [] => String::new(),
        slices => {
            let slices: Vec<String> = slices.iter().map(ToString::to_string).collect();
            format!(", has {}", slices.join(" "))
        }
    };
    let many = if row.count > 1 { format!("{} of ", row.count) } else { String::new() };
    Explained {
        kind: "claim",
        id: row.claim.to_string(),
        state: row.state.clone(),
        about: format!("{}: {many}{}{has}", claims::shown(row), row.profile),
        reasons: reasons(rows, row),
    }
}

fn reasons(rows: &Rows, row: &ClaimRow) -> Vec<Reason> {
    let because = row.reason.clone().unwrap_or_default();
    let mut reasons = match row.state.as_str() {
        "idle" => idle(rows, row),
        "lost" => vec![Reason::new(
            Code::Absent,
            because,
            format!(
                "{}; then start it again, and it gets another slice where one is free",
                end(row)
            ),
        )],
        "orphaned" => vec![Reason::plain(
            because,
            format!(
                "define the domain again; or gpuslice release {}",
                quoted(&row.claim.to_string())
            ),
        )],
        "releasing" => vec![Reason::new(
            Code::Held,
            format!("its slice is not back yet: {because}"),
            "end what holds it; it comes back by itself",
        )],
        _ if !because.is_empty() => vec![Reason::plain(because, "journalctl -u gpusliced")],
        _ => Vec::new(),
    };
    if let Some(last) = &row.last_refusal {
        reasons.push(last_start(last));
    }
    reasons
}

/// What its next start would meet.
fn idle(rows: &Rows, row: &ClaimRow) -> Vec<Reason> {
    if !rows.status.writable {
        let next = "df /var/lib/gpuslice /run/gpuslice";
        return vec![Reason::new(Code::StateUnwritable, "state cannot be recorded", next)];
    }
    let mut reasons: Vec<Reason> = row
        .home
        .iter()
        .flat_map(|home| match row_of(rows, SliceId::Vf(*home)) {
            None => absent(rows, row, *home),
            Some(at_home) if at_home.state == "parent" => vec![Reason::new(
                Code::NotInXml,
                format!("its home VF {home} makes mediated devices now, and is none itself"),
                start(row, "one"),
            )],
            Some(at_home) => {
                let of_slice = slice::state(rows, at_home).into_iter();
                let told = |why: Reason| Reason {
                    text: format!("its home VF {home}: {}", why.text),
                    ..why
                };
                of_slice.map(told).collect()
            }
        })
        .collect();
    if row.home.is_empty() {
        reasons.extend(nowhere(rows, row));
    }
    if !reasons.is_empty() && !rows.status.waiting_for.is_empty() {
        let text = format!("waiting for {}", rows.status.waiting_for.join(", "));
        reasons.insert(0, Reason::new(Code::NotSettled, text, "gpuslice wait --settled"));
    }
    reasons
}

/// Its home is gone: another VF is to be its home, or what keeps it from one is told beside.
fn absent(rows: &Rows, row: &ClaimRow, home: PciAddress) -> Vec<Reason> {
    let gone = format!("its home VF {home} is not on the host");
    let whose = |vf: PciAddress| {
        let lives = |claim: &&ClaimRow| {
            let another = claim.claim != row.claim && claim.state != "orphaned";
            another && !(claim.pool && row.pool) && claim.home.contains(&vf)
        };
        rows.claims.iter().find(lives)
    };
    let free = free_vfs(rows, row);
    let others = match free.iter().find_map(|vf| whose(*vf)) {
        _ if free.iter().any(|vf| whose(*vf).is_none()) => Vec::new(),
        Some(other) => {
            let text = format!("another is the home of {}", claims::shown(other));
            vec![Reason::new(Code::NoCapacity, text, detach(other))]
        }
        None => nowhere(rows, row),
    };
    if others.is_empty() {
        return vec![Reason::new(Code::Absent, gone, start(row, "another VF"))];
    }
    let said = |other: Reason| Reason { text: format!("{gone}, and {}", other.text), ..other };
    others.into_iter().map(said).collect()
}

/// The VFs of its profile that nobody has.
fn free_vfs(rows: &Rows, row: &ClaimRow) -> Vec<PciAddress> {
    let Some(profile) = rows.profiles.iter().find(|profile| profile.profile == row.profile) else {
        return Vec::new();
    };
    let is_free = |slice: &&SliceRow| {
        slice.state == "free"
            && profile.parents.contains(&slice.parent)
            && slice.profile.as_ref().is_none_or(|of| *of == row.profile)
    };
    let free = rows.slices.iter().filter(is_free).filter_map(|slice| slice.address);
    free.filter(|vf| !row.home.contains(vf)).collect()
}

/// Why no GPU could make one.
fn nowhere(rows: &Rows, row: &ClaimRow) -> Vec<Reason> {
    let Some(profile) = rows.profiles.iter().find(|p| p.profile == row.profile) else {
        let text = format!("no device here offers {}", row.profile);
        return vec![Reason::new(
            Code::NoProfile,
            text,
            "gpuslice profiles; gpuslice gpus says what each GPU lacks",
        )];
    };
    if profile.free >= row.count {
        return Vec::new();
    }
    let devices = devices(rows, profile);
    let of_profile =
        |p: &&ParentRow| devices.contains(&p.parent) || profile.parents.contains(&p.parent);
    let told: Vec<(&ParentId, Reason)> = gpus(&rows.parents)
        .into_iter()
        .filter(of_profile)
        .filter_map(|p| Some((&p.parent, parent::state(rows, p)?)))
        .collect();
    let mut reasons: Vec<Reason> =
        told.iter().map(|(parent, reason)| at(parent, reason)).take(MOST).collect();
    let held = held(rows, row, &devices);
    // What its GPU says of all its slices is said already.
    let stuck = held.stuck.iter().find(|slice| told.iter().all(|(p, _)| **p != slice.parent));
    reasons.extend(stuck.and_then(|slice| Some(at(&slice.slice, &slice::state(rows, slice)?))));
    let explained = profile.free == 0 && !reasons.is_empty();
    if !explained || held.holders != Holders::default() {
        reasons.push(full(rows, row, profile, held));
    }
    reasons
}

/// A reason, with what it is about.
fn at(what: &dyn Display, reason: &Reason) -> Reason {
    Reason { text: format!("{what}: {}", reason.text), ..reason.clone() }
}

/// The GPUs that offer a profile. A parent of mediated devices may be a VF.
fn devices(rows: &Rows, profile: &ProfileRow) -> BTreeSet<ParentId> {
    let pf_of = pfs(rows);
    profile.parents.iter().map(|parent| device(&pf_of, parent)).collect()
}

/// The GPU of each VF, by its name as a parent.
fn pfs(rows: &Rows) -> BTreeMap<String, &ParentId> {
    let vfs = rows.slices.iter().filter_map(|row| Some((row.address?.to_string(), &row.parent)));
    vfs.collect()
}

fn device(pf_of: &BTreeMap<String, &ParentId>, parent: &ParentId) -> ParentId {
    pf_of.get(&parent.to_string()).map_or_else(|| parent.clone(), |pf| (*pf).clone())
}

/// What a claim would otherwise have.
#[derive(Default)]
struct InUse<'a> {
    holders: Holders,
    /// The first slice of its profile that somebody has.
    same: Option<&'a SliceRow>,
    /// The first of another profile, on a GPU that could make its own.
    other: Option<&'a SliceRow>,
    /// Claims that keep some while their VMs are off.
    kept: Vec<&'a ClaimRow>,
    /// Slices that nobody has and nobody gets.
    stuck: Vec<&'a SliceRow>,
}

/// Who has the slices, or the room for them.
fn held<'a>(rows: &'a Rows, row: &ClaimRow, devices: &BTreeSet<ParentId>) -> InUse<'a> {
    let pf_of = pfs(rows);
    let claims: BTreeMap<&ClaimKey, &ClaimRow> =
        rows.claims.iter().map(|claim| (&claim.claim, claim)).collect();
    let mut held = InUse::default();
    for slice in &rows.slices {
        let same = slice.profile.as_ref() == Some(&row.profile);
        if !same && !devices.contains(&device(&pf_of, &slice.parent)) {
            continue;
        }
        let claim = slice.claim.as_ref().and_then(|key| claims.get(key));
        let who = match (claim, slice.state.as_str()) {
            (Some(claim), _) if claim.claim == row.claim => continue,
            (Some(claim), _) => claims::shown(claim),
            (None, "foreign") => {
                slice.holder.clone().unwrap_or_else(|| "another program".to_owned())
            }
            (None, "free" | "parked" | "parent") => continue,
            (None, _) => {
                held.stuck.push(slice);
                continue;
            }
        };
        if same {
            held.holders.have.insert(who);
            held.same = held.same.or(Some(slice));
        } else {
            held.holders.room.insert(who);
            held.other = held.other.or(Some(slice));
        }
    }
    let kept = rows.claims.iter().filter(|other| {
        let idle = other.profile == row.profile && other.state == "idle";
        idle && other.reserve && other.claim != row.claim
    });
    held.kept = kept.collect();
    held.holders.kept.extend(held.kept.iter().map(|other| claims::shown(other)));
    if !held.holders.have.is_empty() || !held.holders.kept.is_empty() {
        held.holders.room.clear();
    }
    held
}

fn full(rows: &Rows, row: &ClaimRow, profile: &ProfileRow, held: InUse<'_>) -> Reason {
    let InUse { holders, same, other, kept, .. } = held;
    let text = format!("{}: wanted {}, {} free, {holders}", row.profile, row.count, profile.free);
    // Nobody's end makes room for more than there is.
    let fewer = profile.free > 0
        && profile.max.is_some_and(|max| max > 0 && row.count > max)
        && !another(rows, profile);
    let end =
        same.or(other.filter(|_| kept.is_empty())).and_then(|slice| slice::state(rows, slice));
    let next = match (end.filter(|_| !fewer), kept.first().filter(|_| !fewer), profile.free) {
        (Some(reason), ..) => reason.next,
        (None, Some(other), _) => detach(other),
        (None, None, _) if another(rows, profile) => mend::lay_out_another().as_str().to_owned(),
        (None, None, 0) => detach(row),
        (None, None, fewer) => format!(
            "gpuslice attach {} {} --name {} --count {fewer}",
            quoted(&named(row)),
            row.profile,
            row.claim.name
        ),
    };
    Reason::new(Code::NoCapacity, text, next)
}

/// Whether a GPU that could be cut into the same has no layout.
fn another(rows: &Rows, profile: &ProfileRow) -> bool {
    let devices = devices(rows, profile);
    let kinds = rows.parents.iter().filter(|p| devices.contains(&p.parent));
    let kinds: BTreeSet<&str> = kinds.map(|p| p.pci_id.as_str()).collect();
    let bare = |p: &ParentRow| p.state == "no-layout" && p.total_vfs.is_some();
    rows.parents.iter().any(|p| bare(p) && kinds.contains(p.pci_id.as_str()))
}

/// How its owner gets another device: the agent writes it into a domain, and nobody else's configuration.
fn start(row: &ClaimRow, gets: &str) -> String {
    match &row.claim.owner {
        Owner::Domain(_) => {
            format!("virsh start {} (the agent gives it {gets})", quoted(&named(row)))
        }
        Owner::Vmid(_) | Owner::External(_) => {
            format!("{} (whoever asks for it again is given {gets})", detach(row))
        }
    }
}

/// How a claim is ended.
fn detach(row: &ClaimRow) -> String {
    mend::end_claim(&row.claim, &named(row)).as_str().to_owned()
}
