//! A GPU: why it gets no new VMs, or not the ones it should.

use super::{Explained, Reason, Rows, named};
use gpuslice_core::ids::ParentId;
use gpuslice_core::refusal::{Code, Refusal};
use gpuslice_core::request::ParentRow;
use std::collections::BTreeSet;

pub(super) fn of(rows: &Rows, row: &ParentRow) -> Explained {
    let mut reasons: Vec<Reason> = state(rows, row).into_iter().collect();
    if let Some(line) = row.health_reason.as_ref().filter(|_| row.health != "ok") {
        let next = format!("gpuslice uncordon {}, once it is well", row.parent);
        reasons.push(Reason::plain(
            format!("the kernel's log says it is {}: {line}", row.health),
            next,
        ));
    }
    if row.dirty > 0 {
        let text = format!("something of a VM may be left in {} of its slices", row.dirty);
        reasons.push(Reason::new(Code::Dirty, text, format!("gpuslice uncordon {}", row.parent)));
    }
    Explained {
        kind: "parent",
        id: row.parent.to_string(),
        state: row.state.clone(),
        about: about(rows, row),
        reasons,
    }
}

/// What it is, and who has its slices.
fn about(rows: &Rows, row: &ParentRow) -> String {
    let what = row.model.clone().unwrap_or_else(|| row.pci_id.clone());
    let layout = match (&row.layout, &row.pf) {
        (Some(layout), _) => layout.clone(),
        (None, Some(pf)) => format!("a VF of {pf} that makes mediated devices"),
        (None, None) => "no layout".to_owned(),
    };
    let on = row.driver.as_ref().map_or_else(String::new, |driver| format!(" on {driver}"));
    let what = if what.is_empty() { String::new() } else { format!("{what}{on}, ") };
    let of_gpu = rows.parents.iter().filter(|other| other.pf.as_ref() == Some(&row.parent));
    let vfs: BTreeSet<&ParentId> = of_gpu.map(|vf| &vf.parent).collect();
    let mut owners: Vec<String> = rows
        .slices
        .iter()
        .filter(|slice| slice.parent == row.parent || vfs.contains(&slice.parent))
        .filter_map(|slice| super::holder(rows, slice).map(named).or_else(|| slice.holder.clone()))
        .collect();
    owners.sort();
    owners.dedup();
    let used = match row.assigned {
        _ if !owners.is_empty() => format!("used by {}", owners.join(", ")),
        0 => "used by nobody".to_owned(),
        // They left with it.
        gone => format!("{gone} of its slices given out (gpuslice claims)"),
    };
    format!("{what}{layout}, {used}")
}

/// What its state means and what ends it; nothing where it is as it should be.
pub(super) fn state(rows: &Rows, row: &ParentRow) -> Option<Reason> {
    // VFs share what is said of their GPU, and what ends it is said there.
    let gpu = row.pf.as_ref().filter(|pf| {
        rows.parents.iter().any(|other| other.parent == **pf && other.state == row.state)
    });
    let parent = gpu.unwrap_or(&row.parent);
    let because = row.reason.clone().unwrap_or_default();
    let with = |text: &str| {
        if because.is_empty() { text.to_owned() } else { format!("{text}: {because}") }
    };
    let reason = match row.state.as_str() {
        "quarantined" => Reason::new(
            Code::Quarantined,
            with("it is not touched because of a fault"),
            format!("mend what it names, then gpuslice uncordon {parent}"),
        ),
        "cordoned" => Reason::new(
            Code::Cordoned,
            with("it gets no new VMs, as somebody said so"),
            format!("gpuslice uncordon {parent}"),
        ),
        "reshaping" => Reason::new(
            Code::Reshaping,
            with("it is being changed as a whole"),
            "gpuslice wait --settled",
        ),
        "waiting" if row.driver.is_none() => Reason::new(
            Code::NotSettled,
            with("it is not yet as its layout says"),
            "load the driver that makes its slices; lspci -nnk shows each GPU and its driver",
        ),
        "waiting" => Reason::new(
            Code::NotSettled,
            with("it is not yet as its layout says"),
            "gpuslice wait --settled",
        ),
        "drift" => Reason::plain(with("it is not as its layout says"), "gpuslice apply"),
        "absent" => Reason::new(
            Code::NotSettled,
            with("it has a layout and is not on the host"),
            "put it back; or take its layout out of the configuration, then gpuslice apply",
        ),
        "no-layout" => Reason::new(
            Code::Foreign,
            "it has no layout, so gpuslice does not touch it",
            "add these lines to /etc/gpuslice/gpuslice.toml, then gpuslice apply",
        )
        .with_lines([
            "[[gpu]]".to_owned(),
            format!("match = {{ address = \"{parent}\" }}"),
            "layout = { vfs = \"all\" }".to_owned(),
        ]),
        "unsliceable" => {
            let (why, ways) = Refusal::way_out_in(&because);
            Reason::new(Code::Unsliceable, why, ways.unwrap_or("gpuslice explain unsliceable"))
        }
        _ if because.is_empty() => return None,
        _ if keeps_back(rows, parent) => {
            let users: Vec<String> = rows
                .claims
                .iter()
                .filter(|claim| uses(rows, claim, parent))
                .map(super::end)
                .collect();
            let next =
                if users.is_empty() { "gpuslice apply".to_owned() } else { users.join("; ") };
            Reason::new(Code::Quarantined, because, next)
        }
        _ => match Refusal::way_out_in(&because) {
            (why, Some(hint)) => Reason::new(Code::NoProfile, why, hint),
            // What comes with the next load of its driver, and what could not be parked.
            (why, None) => Reason::plain(why, "gpuslice plan"),
        },
    };
    Some(reason)
}

/// Whether some of its VFs are of no use for now.
fn keeps_back(rows: &Rows, parent: &ParentId) -> bool {
    rows.slices.iter().any(|slice| slice.parent == *parent && slice.state == "quarantined")
}

fn uses(rows: &Rows, claim: &gpuslice_core::request::ClaimRow, parent: &ParentId) -> bool {
    let on = |slice: &gpuslice_core::ids::SliceId| {
        super::row_of(rows, *slice).is_some_and(|row| row.parent == *parent)
    };
    claim.slices.iter().any(on)
}
