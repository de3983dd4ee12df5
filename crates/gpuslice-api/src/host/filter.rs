//! Rows of a list's answer, those that a caller's filter keeps: each key of the filter must have its value in the
//! row, or among the values of the row's list. A key that no row has is a mistake and said so.

use crate::refused::Refused;
use crate::wire::{self, Dict};
use gpuslice_core::hint;
use gpuslice_core::refusal::{Code, Hint, Refusal};
use gpuslice_core::request::Answer;
use serde_json::Value as Json;

pub(super) fn rows(answer: &Answer, filter: &Dict) -> Result<Vec<Dict>, Refused> {
    let rows = match serde_json::to_value(answer) {
        Ok(Json::Object(mut fields)) => fields.remove("rows"),
        _ => None,
    };
    let Some(Json::Array(rows)) = rows else {
        let what = "the daemon answered a list with something else";
        return Err(Refusal::new(Code::Unsupported, what).into());
    };
    let wanted = wire::dict_to_json(filter)?;
    let mut kept = Vec::with_capacity(rows.len());
    for row in rows {
        let Json::Object(fields) = row else {
            continue;
        };
        if matches(&fields, &wanted)? {
            kept.push(wire::json_to_dict(fields)?);
        }
    }
    Ok(kept)
}

fn matches(fields: &serde_json::Map<String, Json>, wanted: &Json) -> Result<bool, Refused> {
    let mut all = true;
    for (key, want) in wanted.as_object().into_iter().flatten() {
        let have = fields.get(key).ok_or_else(|| {
            let keys = Hint::words(fields.keys(), ", ");
            Refusal::new(Code::BadRequest, format!("no row has a key {key:?} to filter by"))
                .hint(hint!("filter by one of {}", keys))
        })?;
        all &= match have {
            Json::Array(items) => items.contains(want) || have == want,
            _ => have == want,
        };
    }
    Ok(all)
}
