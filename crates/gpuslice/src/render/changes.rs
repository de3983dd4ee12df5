//! Plans, and the XML that `attach --print` gives to those who write it themselves.

use super::counted;
use crate::style::{Paint, Tone};
use crate::table::{Cell, left, printable, table};
use gpuslice_core::domain::ClaimRequest;
use gpuslice_core::ids::ParentId;
use gpuslice_core::refusal::Refusal;
use gpuslice_core::request::{DeviceToWrite, DrainRow, LayoutRow, OverruledRow, PlanRow, StepRow};
use std::fmt::Write as _;

/// `gpuslice plan` and, with `done`, `gpuslice apply`.
pub fn plan(row: &PlanRow, done: bool, paint: Paint) -> String {
    let mut out = String::new();
    if !row.steps.is_empty() {
        let rows: Vec<_> = row.steps.iter().map(step).collect();
        out = table(&[left("GPU"), left("STEP")], &rows, paint);
    }
    taken_over(&mut out, row, paint);
    reasons(&mut out, &row.blockers, &paint.paint(Tone::Bad, "in the way:"), paint);
    reasons(&mut out, &row.unparked, &paint.paint(Tone::Warn, "not parked:"), paint);
    // Writing to a String cannot fail.
    for unmatched in &row.unmatched {
        let label = paint.paint(Tone::Warn, "no device meets:");
        let _ = writeln!(out, "{label} {}", printable(unmatched));
    }
    for ignored in &row.ignored {
        let label = paint.paint(Tone::Warn, "ignored:");
        let _ = writeln!(out, "{label} {}", printable(ignored));
    }
    for OverruledRow { rule, by, parents } in &row.overruled {
        let label = paint.paint(Tone::Warn, "overruled:");
        let (rule, by) = (printable(rule), printable(by));
        let _ = writeln!(
            out,
            "{label} {rule}: {by} comes first for {}; write it before that if it is to count there, or take it out",
            some(parents)
        );
    }
    for later in &row.later {
        let label = paint.paint(Tone::Warn, "later:");
        let _ = writeln!(out, "{label} {}", printable(later));
    }
    let steps = counted(row.steps.len(), "step");
    let without = row.steps.is_empty() && !(row.layouts.is_empty() && row.settings.is_empty());
    let _ = match (done, row.steps.is_empty(), row.blockers.is_empty()) {
        (true, _, true) if without => writeln!(out, "taken over; no step is needed"),
        (false, _, true) if without => {
            writeln!(out, "no step is needed; gpuslice apply takes it over")
        }
        (_, true, true) if !row.later.is_empty() => {
            writeln!(out, "nothing to do: the rest is as the layouts say")
        }
        (_, true, true) => writeln!(out, "already so: every GPU is as its layout says"),
        (_, true, false) => writeln!(out, "nothing can be done before that"),
        (true, false, _) => writeln!(out, "{steps} done"),
        (false, false, false) => writeln!(out, "{steps}, and none is done before that"),
        (false, false, true) => writeln!(
            out,
            "{steps}; gpuslice apply does {}",
            if row.steps.len() == 1 { "it" } else { "them" }
        ),
    };
    out
}

/// Layouts that change, once for all GPUs of which that is so, and settings.
fn taken_over(out: &mut String, row: &PlanRow, paint: Paint) {
    let mut alike: Vec<(&LayoutRow, Vec<ParentId>)> = Vec::new();
    for layout in &row.layouts {
        let same = |of: &&mut (&LayoutRow, _)| {
            (&of.0.before, &of.0.after) == (&layout.before, &layout.after)
        };
        match alike.iter_mut().find(same) {
            Some((_, parents)) => parents.push(layout.parent.clone()),
            None => alike.push((layout, vec![layout.parent.clone()])),
        }
    }
    for (LayoutRow { before, after, .. }, parents) in alike {
        let what = match (before.as_deref().map(printable), after.as_deref().map(printable)) {
            (None, after) => after.unwrap_or_default(),
            (Some(before), Some(after)) => format!("{after}, was {before}"),
            (Some(before), None) => {
                format!("{before} dropped; VFs that are there stay until the next boot")
            }
        };
        let label = paint.paint(Tone::Good, "layout:");
        // Writing to a String cannot fail.
        let _ = writeln!(out, "{label} {}: {what}", some(&parents));
    }
    for setting in &row.settings {
        let label = paint.paint(Tone::Good, "also:");
        // Writing to a String cannot fail.
        let _ = writeln!(out, "{label} {}", printable(setting));
    }
}

/// Of many devices a few.
fn some(parents: &[ParentId]) -> String {
    const MOST: usize = 4;
    let first: Vec<String> = parents.iter().take(MOST).map(ToString::to_string).collect();
    let first = first.join(", ");
    match parents.len().saturating_sub(MOST) {
        0 => first,
        more => format!("{first} and {more} more"),
    }
}

fn reasons(out: &mut String, whys: &[Refusal], label: &str, paint: Paint) {
    for why in whys {
        // Writing to a String cannot fail.
        let _ = writeln!(out, "{label} {}", printable(&why.to_string()));
        for cause in &why.causes {
            let _ = writeln!(out, "  caused by: {}", printable(cause));
        }
        if let Some(hint) = &why.hint {
            let _ = writeln!(out, "  {} {}", paint.paint(Tone::Good, "hint:"), printable(hint));
        }
    }
}

/// `gpuslice drain`.
pub fn drain(row: &DrainRow, paint: Paint) -> String {
    let mut out = String::new();
    reasons(&mut out, &row.blockers, &paint.paint(Tone::Bad, "in the way:"), paint);
    let which = match row.parents.as_slice() {
        [one] => one.to_string(),
        many => counted(many.len(), "GPU"),
    };
    let already = if row.changed { "" } else { "already so: " };
    // Writing to a String cannot fail.
    let _ = if row.drained {
        writeln!(out, "{already}no VM has a slice of {which}, and none is given one")
    } else {
        writeln!(
            out,
            "{already}no new VM is given a slice of {which}; --wait T waits for those above"
        )
    };
    out
}

/// A step beside its device, which its words need not name again.
fn step(row: &StepRow) -> Vec<Cell> {
    let on = format!(" on {}", row.parent);
    vec![Cell::from(&row.parent), Cell::from(row.step.strip_suffix(&on).unwrap_or(&row.step))]
}

/// What belongs into a domain's XML.
pub fn xml(request: &ClaimRequest, devices: &[DeviceToWrite]) -> String {
    let claims = gpuslice_domxml::claims_xml(std::slice::from_ref(request));
    let mut out = String::from(
        "<!-- below <domain>; claims it already has go into the same <gpuslice:claims> -->\n<metadata>\n",
    );
    for line in claims.lines() {
        // Writing to a String cannot fail.
        let _ = writeln!(out, "  {line}");
    }
    out.push_str("</metadata>\n<!-- below <devices> -->\n");
    for device in devices {
        out.push_str(gpuslice_domxml::hostdev_xml(device).trim_end());
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn row(json: serde_json::Value) -> PlanRow {
        serde_json::from_value(json).unwrap()
    }

    #[test]
    fn plans_end_in_what_is_to_do() {
        let nothing = json!({"changed": false, "steps": [], "blockers": [], "unmatched": []});
        let steps = json!([
            {"parent": "0000:41:00.0", "step": "write sriov_numvfs=8 on 0000:41:00.0"},
            {"parent": "0000:41:00.0", "step": "bind vfio-pci on 0000:41:00.4"}]);
        let blockers = json!([{"code": "in-use", "message": "2 VFs of 0000:81:00.0 are with VMs",
            "causes": ["win11 holds vf:0000:81:00.4"], "hint": "virsh shutdown win11"}]);
        let full = json!({"changed": true, "steps": steps, "blockers": blockers, "unmatched": ["gpuslice.toml:3"]});
        let blocked = json!({"changed": false, "steps": [], "blockers": blockers, "unmatched": []});
        let way = "\
in the way: in-use: 2 VFs of 0000:81:00.0 are with VMs
  caused by: win11 holds vf:0000:81:00.4
  hint: virsh shutdown win11
";
        let table = "GPU           STEP\n0000:41:00.0  write sriov_numvfs=8\n\
                     0000:41:00.0  bind vfio-pci on 0000:41:00.4\n";
        for (json, done, want) in [
            (&nothing, false, "already so: every GPU is as its layout says\n".to_owned()),
            (&nothing, true, "already so: every GPU is as its layout says\n".to_owned()),
            (
                &full,
                false,
                format!(
                    "{table}{way}no device meets: gpuslice.toml:3\n2 steps, and none is done before that\n"
                ),
            ),
            (&full, true, format!("{table}{way}no device meets: gpuslice.toml:3\n2 steps done\n")),
            (&blocked, false, format!("{way}nothing can be done before that\n")),
        ] {
            assert_eq!(plan(&row(json.clone()), done, Paint::Off), want);
        }
    }

    #[test]
    fn what_applies_without_a_step_is_told_once_for_all_it_is_of() {
        let layout = |bus: u8, before: Option<&str>, after: Option<&str>| json!({"parent": format!("0000:{bus}:00.0"), "before": before, "after": after});
        let wiped = Some("vfs=8 wipe=required");
        let layouts = json!([
            layout(41, Some("vfs=8"), wiped),
            layout(42, Some("vfs=8"), wiped),
            layout(43, Some("vfs=8"), None),
            layout(44, None, Some("vfs=2"))
        ]);
        let setting = json!(["placement = \"spread\", was \"pack\""]);
        let told = "\
layout: 0000:41:00.0, 0000:42:00.0: vfs=8 wipe=required, was vfs=8
layout: 0000:43:00.0: vfs=8 dropped; VFs that are there stay until the next boot
layout: 0000:44:00.0: vfs=2
also: placement = \"spread\", was \"pack\"
";
        let json = json!({"changed": true, "steps": [], "blockers": [], "unmatched": [],
            "layouts": layouts, "settings": setting});
        for (done, end) in [
            (false, "no step is needed; gpuslice apply takes it over\n"),
            (true, "taken over; no step is needed\n"),
        ] {
            assert_eq!(plan(&row(json.clone()), done, Paint::Off), format!("{told}{end}"));
        }
    }

    #[test]
    fn a_rule_that_comes_too_late_is_told_with_the_one_before_it() {
        let told = |addresses: &[&str]| {
            let overruled = json!([{"rule": "conf.d/b.toml:1: match = { driver = \"gim\" }",
                "by": "gpuslice.toml:4", "parents": addresses}]);
            let json = json!({"changed": false, "steps": [], "blockers": [], "unmatched": [], "overruled": overruled});
            plan(&row(json), false, Paint::Off)
        };
        let six = ["41", "42", "43", "44", "45", "46"].map(|bus| format!("0000:{bus}:00.0"));
        for (count, of) in [
            (1, "0000:41:00.0"),
            (6, "0000:41:00.0, 0000:42:00.0, 0000:43:00.0, 0000:44:00.0 and 2 more"),
        ] {
            let addresses: Vec<&str> = six.iter().take(count).map(String::as_str).collect();
            assert_eq!(
                told(&addresses),
                format!(
                    "overruled: conf.d/b.toml:1: match = {{ driver = \"gim\" }}: gpuslice.toml:4 comes first for {of}; \
                         write it before that if it is to count there, or take it out\nalready so: every GPU is as its layout says\n"
                )
            );
        }
    }

    #[test]
    fn printed_xml_is_what_the_reader_takes() {
        let request: ClaimRequest =
            serde_json::from_value(json!({"name": "gpu0", "profile": "p", "count": 2})).unwrap();
        let devices: Vec<DeviceToWrite> = serde_json::from_value(json!([
            {"alias": "ua-gpuslice-gpu0", "source": {"pci": "0000:41:00.4"}},
            {"alias": "ua-gpuslice-gpu0--1", "source": {"mdev": "b8c2ef9a-9bc4-5a2b-8d4b-0f9d0c1f2a3b"}}]))
        .unwrap();
        let text = xml(&request, &devices);
        let (metadata, hostdevs) = text.split_once("<!-- below <devices> -->").unwrap();
        let domain = format!(
            "<domain><name>win11</name><uuid>8e2f2d4e-1b5f-4a4e-9f57-0d9c6f1c6a11</uuid>\
             {metadata}<devices>{hostdevs}</devices></domain>"
        );
        let read = gpuslice_domxml::read_domain(&domain).unwrap();
        assert_eq!(read.claims, [request]);
        let sources: Vec<_> =
            read.devices.iter().map(|d| (d.alias.clone().unwrap(), d.source)).collect();
        let wanted: Vec<_> = devices.iter().map(|d| (d.alias.clone(), d.source)).collect();
        assert_eq!(sources, wanted);
    }
}
