//! `gpuslice history` as a table.

use crate::since::lasted;
use crate::style::Paint;
use crate::table::{Cell, left, maybe, right, table};
use gpuslice_core::request::HistoryRow;

/// Without its milliseconds, and as people write it.
fn moment(at: Option<&String>) -> Cell {
    let to_the_second = |at: &String| at.get(..19).unwrap_or(at).replace('T', " ");
    maybe(at.map(to_the_second))
}

/// A row for each tenure, in the order in which they began.
pub fn history(rows: &[HistoryRow], paint: Paint) -> String {
    let columns = [
        left("FROM (UTC)"),
        left("TO"),
        right("LASTED"),
        left("OWNER"),
        left("CLAIM"),
        left("SLICE"),
        left("GPU"),
        left("MODEL"),
        left("PROFILE"),
        left("WHY IT ENDED"),
    ];
    let row = |row: &HistoryRow| {
        let owner = row.owner.to_string();
        let span = row.from.as_ref().zip(row.to.as_ref()).and_then(|(from, to)| lasted(from, to));
        vec![
            moment(row.from.as_ref()),
            moment(row.to.as_ref()),
            maybe(span),
            Cell::from(if row.owner_name.is_empty() { &owner } else { &row.owner_name }),
            maybe(row.claim.as_ref().map(|claim| &claim.name)),
            Cell::from(row.slice),
            Cell::from(row.pf.as_ref().unwrap_or(&row.parent)),
            maybe(row.model.as_ref()),
            maybe(row.profile.as_ref()),
            maybe(row.reason.as_ref()),
        ]
    };
    table(&columns, &rows.iter().map(row).collect::<Vec<_>>(), paint)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_goes_on_has_no_end() {
        let row = |from: &str, to: Option<&str>, reason: Option<&str>| {
            json!({"from": from, "to": to, "reason": reason, "owner": "vmid:100", "owner_name": "mail",
                "claim": "vmid:100/gpu0", "index": 0, "slice": "vf:0000:41:00.4",
                "parent": "0000:41:00.0", "model": "v620", "serial": null, "profile": "amd-v620-vf4"})
        };
        let rows = [
            row("2026-03-01T18:00:00.000Z", Some("2026-03-01T20:30:00.000Z"), Some("stopped")),
            row("2026-03-02T08:00:00.000Z", None, None),
        ];
        let rows = rows.map(|row| serde_json::from_value(row).unwrap());
        assert_eq!(
            history(&rows, Paint::Off),
            "\
FROM (UTC)           TO                   LASTED  OWNER  CLAIM  SLICE            GPU           MODEL  PROFILE       WHY IT ENDED
2026-03-01 18:00:00  2026-03-01 20:30:00  2h 30m  mail   gpu0   vf:0000:41:00.4  0000:41:00.0  v620   amd-v620-vf4  stopped
2026-03-02 08:00:00  -                         -  mail   gpu0   vf:0000:41:00.4  0000:41:00.0  v620   amd-v620-vf4  -
"
        );
    }
}
