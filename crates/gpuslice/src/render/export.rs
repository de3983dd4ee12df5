//! Commands for a shell, with remarks.

use super::counted;
use crate::export::proxmox::{Change, Exported, LeftOut};
use crate::table::printable;
use gpuslice_core::shell::quoted;
use std::fmt::Write as _;

/// `pvesh` commands; what they change, and how a guest asks for the mapping, stands in remarks.
pub fn proxmox(node: &str, waiting_for: &[String], exported: &[Exported]) -> String {
    let mut out = String::new();
    for what in waiting_for {
        remark(&mut out, &format!("without what is not there: waiting for {what}"));
    }
    for one in exported {
        let devices = counted(one.devices, "device");
        let how = match one.change {
            Change::New => format!("new, {devices} of {node}"),
            Change::Changed => format!("changed, {devices} of {node}"),
            Change::Same => format!("already so, {devices} of {node}"),
            Change::Gone => format!("{node} offers it no longer"),
            Change::Withheld => format!("left as it is: nothing on {node} can be it now"),
            Change::Foreign => "left alone: somebody else made a mapping of this name".to_owned(),
        };
        remark(&mut out, &format!("{}: {how}", one.mapping));
        if one.change == Change::Changed {
            for (sign, list) in [("+", &one.added), ("-", &one.removed), ("~", &one.altered)] {
                if !list.is_empty() {
                    remark(&mut out, &format!("  {sign} {}", list.join(" ")));
                }
            }
        }
        for LeftOut { why, devices } in &one.left_out {
            let devices: Vec<String> = devices.iter().map(ToString::to_string).collect();
            remark(&mut out, &format!("  not {}: {why}", devices.join(" ")));
        }
        if one.command.is_empty() {
            continue;
        }
        if one.change != Change::Gone {
            let with = one.type_id.as_ref().map(|of| format!(",mdev={of}")).unwrap_or_default();
            let guest = quoted(&format!("mapping={}{with}", one.mapping));
            remark(&mut out, &format!("for a guest: qm set VMID --hostpci0 {guest}"));
        }
        let words = one.command.iter().map(|word| quoted(word));
        // A line for each device: a person reads it too.
        let line = words.collect::<Vec<_>>().join(" ").replace(" --map ", " \\\n  --map ");
        out.push_str(&line);
        out.push('\n');
    }
    out
}

/// Nothing in it can end the line.
fn remark(out: &mut String, text: &str) {
    // Writing to a String cannot fail.
    let _ = writeln!(out, "# {}", printable(text));
}
