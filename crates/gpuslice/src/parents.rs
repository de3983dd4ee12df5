//! Which parents a person takes for GPUs.

use gpuslice_core::ids::ParentId;
use gpuslice_core::request::ParentRow;
use std::collections::BTreeMap;

/// The rows without VFs of which no more is to be said than of their GPU.
pub fn gpus(rows: &[ParentRow]) -> Vec<&ParentRow> {
    let states: BTreeMap<&ParentId, &str> =
        rows.iter().map(|row| (&row.parent, row.state.as_str())).collect();
    let told = |row: &&ParentRow| {
        let of_gpu = row.pf.as_ref().and_then(|pf| states.get(pf));
        of_gpu.is_none_or(|state| row.state != "ok" && row.state != *state)
    };
    rows.iter().filter(told).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_vf_is_told_of_where_it_is_not_as_its_gpu() {
        let row = |parent: &str, pf: Option<&str>, state: &str| {
            json!({"parent": parent, "pf": pf, "pci_id": "", "mechanisms": [], "state": state,
                "assigned": 0})
        };
        let (a, b) = ("0000:41:00.0", "0000:61:00.0");
        let rows: Vec<ParentRow> = serde_json::from_value(json!([
            row(a, None, "cordoned"),
            row("0000:41:00.4", Some(a), "cordoned"),
            row("0000:41:00.5", Some(a), "quarantined"),
            row(b, None, "waiting"),
            row("0000:61:00.4", Some(b), "ok"),
            row("0000:81:00.4", Some("0000:81:00.0"), "ok"),
        ]))
        .unwrap();
        let shown: Vec<String> = gpus(&rows).iter().map(|row| row.parent.to_string()).collect();
        assert_eq!(shown, [a, "0000:41:00.5", b, "0000:81:00.4"]);
    }
}
