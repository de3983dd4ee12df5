//! A slice: who has it, or why nobody gets it.

use super::{Explained, Reason, Rows, end, holder, named, parent};
use crate::claims;
use gpuslice_core::holders::Holder;
use gpuslice_core::ids::SliceId;
use gpuslice_core::mend::{end_process, stop_mdev, take_type};
use gpuslice_core::refusal::Code;
use gpuslice_core::request::SliceRow;
use gpuslice_core::shell::quoted;

pub(super) fn of(rows: &Rows, row: &SliceRow) -> Explained {
    let profile = row.profile.as_ref().map_or_else(String::new, |p| format!("{p} "));
    let driver = row.driver.as_ref().map_or_else(String::new, |d| format!(", bound to {d}"));
    Explained {
        kind: "slice",
        id: row.slice.to_string(),
        state: row.state.clone(),
        about: format!("{profile}of {}{driver}", row.parent),
        reasons: state(rows, row).into_iter().chain(left(row)).collect(),
    }
}

/// What may be left in it, where it is given all the same.
fn left(row: &SliceRow) -> Option<Reason> {
    let why = row.dirty.as_ref().filter(|_| row.state != "dirty")?;
    let next = format!("gpuslice uncordon {} once nobody has it", row.parent);
    Some(Reason::new(Code::Dirty, format!("something of a VM may be left in it: {why}"), next))
}

/// Why another than its owner does not get it; nothing where it is free.
pub(super) fn state(rows: &Rows, row: &SliceRow) -> Option<Reason> {
    if let Some(claim) = holder(rows, row) {
        let text = match row.state.as_str() {
            "releasing" => format!("it is on its way back from {}", claims::shown(claim)),
            _ => format!("it is {} to {}", row.state, claims::shown(claim)),
        };
        let text =
            claim.reason.as_ref().map_or_else(|| text.clone(), |why| format!("{text}: {why}"));
        let next = if row.state == "releasing" {
            format!(
                "gpuslice events: it comes back by itself, once what holds it has ended ({} was the last owner)",
                named(claim)
            )
        } else {
            end(claim)
        };
        return Some(Reason::new(Code::Taken, text, next));
    }
    let of_parent = || {
        let parent_row = rows.parents.iter().find(|p| p.parent == row.parent)?;
        parent::state(rows, parent_row)
    };
    let reason = match row.state.as_str() {
        "free" | "parked" | "parent" => return None,
        "foreign" => foreign(row),
        "host" => {
            let driver = row.driver.clone().unwrap_or_default();
            let address = row.address.map(|a| a.to_string()).unwrap_or_default();
            let next = format!("echo {address} > /sys/bus/pci/drivers/{driver}/unbind");
            Reason::new(Code::HostDriver, format!("the host's driver {driver} has it"), next)
        }
        "dirty" => {
            let why = row.dirty.clone().unwrap_or_default();
            let next = format!("gpuslice uncordon {} (it is cleaned again)", row.parent);
            Reason::new(Code::Dirty, format!("it is not proven clean: {why}"), next)
        }
        "quarantined" | "cordoned" => of_parent().unwrap_or_else(|| {
            let text = "it is of no use until all VFs of its GPU are made anew";
            Reason::new(Code::Quarantined, text, "gpuslice apply, when nobody uses the GPU")
        }),
        other => Reason::new(Code::Taken, format!("it is {other}"), "gpuslice claims"),
    };
    Some(reason)
}

/// Somebody else's.
fn foreign(row: &SliceRow) -> Reason {
    let who = row.holder.as_deref();
    let text = match who {
        Some(who) => format!("{who} has it, without a claim"),
        None => "another program made it".to_owned(),
    };
    let next = match (row.slice, who, row.holder_pid) {
        (_, Some(who), Some(pid)) => {
            // Told with its name before it.
            let comm = who.strip_suffix(&format!(" (pid {pid})")).unwrap_or(who).to_owned();
            end_process(&Holder { pid, comm }).as_str().to_owned()
        }
        (_, Some(who), None) => match row.vmid {
            Some(vmid) => format!("qm shutdown {vmid}"),
            None => format!("virsh shutdown {}", quoted(who)),
        },
        (SliceId::Mdev(uuid), None, _) => stop_mdev(uuid).as_str().to_owned(),
        _ => match row.address.zip(row.type_attribute.as_ref()) {
            Some((vf, attribute)) => take_type(vf, attribute).as_str().to_owned(),
            None => "take its type away with the tool that set it".to_owned(),
        },
    };
    Reason::new(if who.is_some() { Code::Held } else { Code::Foreign }, text, next)
}
