//! Which claim a person means.

use gpuslice_core::hint;
use gpuslice_core::ids::{ClaimKey, ClaimName};
use gpuslice_core::refusal::{Code, Hint, Refusal};
use gpuslice_core::request::ClaimRow;

/// A claim as people write it: the owner's name where it has one.
pub fn shown(row: &ClaimRow) -> String {
    if row.owner_name.is_empty() {
        row.claim.to_string()
    } else {
        format!("{}/{}", row.owner_name, row.claim.name)
    }
}

/// Splits `OWNER/NAME`; a name given apart wins. No libvirt domain has a slash in its name.
pub fn split(text: &str, name: Option<ClaimName>) -> (&str, Option<ClaimName>) {
    if name.is_none()
        && let Some((owner, last)) = text.rsplit_once('/')
        && let Ok(last) = last.parse()
    {
        return (owner, Some(last));
    }
    (text, name)
}

/// The claim meant by `OWNER/NAME` or by an owner with a name, or without one when it has just one claim. An owner
/// is its id or its name.
pub fn find(rows: &[ClaimRow], text: &str, name: Option<ClaimName>) -> Result<ClaimKey, Refusal> {
    let (owner, name) = split(text, name);
    let of_owner: Vec<&ClaimRow> = rows
        .iter()
        .filter(|_| !owner.is_empty())
        .filter(|row| row.owner_name == owner || row.claim.owner.to_string() == owner)
        .collect();
    let meant: Vec<&ClaimRow> = of_owner
        .iter()
        .copied()
        .filter(|row| name.as_ref().is_none_or(|name| row.claim.name == *name))
        .collect();
    match meant.as_slice() {
        [only] => Ok(only.claim.clone()),
        [] => {
            let what = name.map_or_else(|| owner.to_owned(), |name| format!("{owner}/{name}"));
            // Whoever wants it ended is told that it is.
            Err(Refusal::new(Code::Unknown, format!("no claim {what}")))
        }
        several => {
            let what = format!("{} claims are meant by {text}", several.len());
            Err(listed(Refusal::new(Code::BadRequest, what), several))
        }
    }
}

fn listed(refusal: Refusal, rows: &[&ClaimRow]) -> Refusal {
    let keys = Hint::words(rows.iter().map(|row| &row.claim), ", ");
    refusal.hint(hint!("name one of {}", keys))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(claim: &str, owner_name: &str) -> ClaimRow {
        ClaimRow {
            claim: claim.parse().unwrap(),
            owner_name: owner_name.to_owned(),
            profile: "p".parse().unwrap(),
            count: 1,
            state: "idle".to_owned(),
            reason: None,
            slices: Vec::new(),
            home: Vec::new(),
            pool: false,
            reserve: false,
            request: None,
            last_refusal: None,
        }
    }

    #[test]
    fn claims_are_found_by_what_is_shown() {
        let uuid = "8e2f2d4e-1b5f-4a4e-9f57-0d9c6f1c6a11";
        let rows = [
            row(&format!("{uuid}/gpu0"), "win11"),
            row(&format!("{uuid}/ai"), "win11"),
            row("vmid:100/gpu0", "mail"),
            row("external:ci/7/gpu0", ""),
            row("vmid:101/gpu0", "twin"),
            row("vmid:102/gpu0", "twin"),
        ];
        let name = |text: &str| (!text.is_empty()).then(|| text.parse().unwrap());
        for (text, apart, want) in [
            ("win11", "gpu0", format!("{uuid}/gpu0")),
            ("win11/ai", "", format!("{uuid}/ai")),
            (uuid, "ai", format!("{uuid}/ai")),
            ("mail", "", "vmid:100/gpu0".to_owned()),
            ("vmid:102", "", "vmid:102/gpu0".to_owned()),
            ("external:ci/7/gpu0", "", "external:ci/7/gpu0".to_owned()),
            ("external:ci/7", "gpu0", "external:ci/7/gpu0".to_owned()),
        ] {
            let found = find(&rows, text, name(apart)).unwrap();
            assert_eq!(found.to_string(), want);
        }
        for (text, apart, code, hint) in [
            ("win11", "", Code::BadRequest, "/ai"),
            ("twin/gpu0", "", Code::BadRequest, "vmid:101/gpu0, vmid:102/gpu0"),
            ("win11", "gpu7", Code::Unknown, ""),
            ("nobody", "", Code::Unknown, ""),
            ("", "", Code::Unknown, ""),
        ] {
            let refusal = find(&rows, text, name(apart)).unwrap_err();
            assert_eq!(refusal.code, code, "{text}");
            assert!(refusal.hint.unwrap_or_default().contains(hint), "{text}");
        }
        for row in &rows[..4] {
            assert_eq!(find(&rows, &shown(row), None).unwrap(), row.claim);
        }
    }
}
