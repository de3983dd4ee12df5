//! A claim: what it has, or why its VM would not get it.

use super::{Explained, Reason, Rows, end, named, parent, row_of, slice};
use crate::claims;
use gpuslice_core::ids::{ClaimKey, Owner, ParentId, SliceId};
use gpuslice_core::refusal::{Code, Holders};
use gpuslice_core::request::{ClaimRow, ProfileRow};
use gpuslice_core::shell::quoted;
use std::collections::{BTreeMap, BTreeSet};

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
            format!("define the domain again; or gpuslice release {}", row.claim),
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
        let told = format!("its last start was refused: {}", with_causes(last));
        let next = last.hint.clone().unwrap_or_else(|| format!("gpuslice explain {}", last.code));
        reasons.push(Reason::new(last.code, told, next));
    }
    reasons
}

fn with_causes(refusal: &gpuslice_core::refusal::Refusal) -> String {
    let causes = refusal.causes.iter().map(|cause| format!(": {cause}"));
    format!("{}{}", refusal.message, causes.collect::<String>())
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
        .filter_map(|home| match row_of(rows, SliceId::Vf(*home)) {
            None => Some(Reason::new(
                Code::Absent,
                format!("its home VF {home} is not on the host"),
                format!("virsh start {} (the agent gives it another VF)", named(row)),
            )),
            Some(at_home) => {
                let of_slice = slice::state(rows, at_home)?;
                Some(Reason { text: format!("its home VF {home}: {}", of_slice.text), ..of_slice })
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
    let mut reasons: Vec<Reason> = profile
        .parents
        .iter()
        .filter_map(|of| rows.parents.iter().find(|p| p.parent == *of))
        .filter_map(|p| {
            let reason = parent::state(rows, p)?;
            Some(Reason { text: format!("{}: {}", p.parent, reason.text), ..reason })
        })
        .collect();
    reasons.truncate(MOST);
    reasons.push(full(rows, row, profile));
    reasons
}

/// Who has the slices, or the room for them.
fn full(rows: &Rows, row: &ClaimRow, profile: &ProfileRow) -> Reason {
    let pf_of: BTreeMap<String, &ParentId> = rows
        .slices
        .iter()
        .filter_map(|slice| Some((slice.address?.to_string(), &slice.parent)))
        .collect();
    // A parent of mediated devices may be a VF.
    let device = |parent: &ParentId| {
        pf_of.get(&parent.to_string()).map_or_else(|| parent.clone(), |pf| (*pf).clone())
    };
    let devices: BTreeSet<ParentId> = profile.parents.iter().map(device).collect();
    let claims: BTreeMap<&ClaimKey, &ClaimRow> =
        rows.claims.iter().map(|claim| (&claim.claim, claim)).collect();
    let mut holders = Holders::default();
    let (mut same, mut other) = (None, None);
    for slice in &rows.slices {
        let claim = slice.claim.as_ref().and_then(|key| claims.get(key));
        let who = match (claim, slice.state.as_str()) {
            (Some(claim), _) if claim.claim == row.claim => continue,
            (Some(claim), _) => claims::shown(claim),
            (None, "foreign") => {
                slice.holder.clone().unwrap_or_else(|| "another program".to_owned())
            }
            (None, _) => continue,
        };
        if slice.profile.as_ref() == Some(&row.profile) {
            holders.have.insert(who);
            same = same.or(Some(slice));
        } else if devices.contains(&device(&slice.parent)) {
            holders.room.insert(who);
            other = other.or(Some(slice));
        }
    }
    let kept = rows.claims.iter().filter(|other| {
        let idle = other.profile == row.profile && other.state == "idle";
        idle && other.reserve && other.claim != row.claim
    });
    let kept: Vec<&ClaimRow> = kept.collect();
    holders.kept.extend(kept.iter().map(|other| claims::shown(other)));
    if !holders.have.is_empty() || !holders.kept.is_empty() {
        holders.room.clear();
    }
    let text = format!("{}: wanted {}, {} free, {holders}", row.profile, row.count, profile.free);
    let end =
        same.or(other.filter(|_| kept.is_empty())).and_then(|slice| slice::state(rows, slice));
    let next = match (end, kept.first(), profile.free) {
        (Some(reason), ..) => reason.next,
        (None, Some(other), _) => detach(other),
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

/// How a claim is ended.
fn detach(row: &ClaimRow) -> String {
    match &row.claim.owner {
        Owner::Domain(_) => format!("gpuslice detach {} {}", quoted(&named(row)), row.claim.name),
        Owner::Vmid(_) | Owner::External(_) => format!("gpuslice release {}", row.claim),
    }
}
