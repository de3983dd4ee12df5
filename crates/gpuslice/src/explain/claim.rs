//! A claim: what it has, or why its VM would not get it.

use super::{Explained, Reason, Rows, end, named, parent, row_of, slice};
use crate::claims;
use gpuslice_core::ids::SliceId;
use gpuslice_core::refusal::{Code, holders_in_words};
use gpuslice_core::request::{ClaimRow, ProfileRow};

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

fn full(rows: &Rows, row: &ClaimRow, profile: &ProfileRow) -> Reason {
    let has = |other: &&ClaimRow| other.profile == row.profile && !other.slices.is_empty();
    let owners: Vec<&ClaimRow> = rows.claims.iter().filter(has).collect();
    let held = holders_in_words(owners.iter().map(|other| claims::shown(other)).collect());
    let text =
        format!("{}: wanted {}, {} free, held by {held}", row.profile, row.count, profile.free);
    let next = owners.first().map_or_else(
        || "lay out another GPU in /etc/gpuslice/gpuslice.toml, then gpuslice apply".to_owned(),
        |owner| end(owner),
    );
    Reason::new(Code::NoCapacity, text, next)
}
