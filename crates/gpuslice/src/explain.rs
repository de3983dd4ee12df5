//! Why an object is as it is, and what to do: decided from the rows that the lists print, so that it can say nothing
//! else than they do. No row is asked for here.

mod claim;
mod parent;
mod slice;

use crate::claims;
use gpuslice_core::hint;
use gpuslice_core::ids::{Owner, ParentId, PciAddress, SliceId};
use gpuslice_core::refusal::{Code, Refusal};
use gpuslice_core::request::{ClaimRow, ParentRow, ProfileRow, RefusedStart, SliceRow, StatusRow};
use gpuslice_core::shell::quoted;
use serde::Serialize;

/// Everything there is to know.
#[derive(Debug, Clone)]
pub struct Rows {
    /// Of the daemon.
    pub status: StatusRow,
    /// `gpuslice gpus`.
    pub parents: Vec<ParentRow>,
    /// `gpuslice profiles`.
    pub profiles: Vec<ProfileRow>,
    /// `gpuslice slices`.
    pub slices: Vec<SliceRow>,
    /// `gpuslice claims`.
    pub claims: Vec<ClaimRow>,
}

/// An object, explained.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Explained {
    /// `parent`, `slice`, `claim`, `domain`.
    pub kind: &'static str,
    /// Its name as the lists print it.
    pub id: String,
    /// Its state as the lists print it.
    pub state: String,
    /// What it is or has, in a few words.
    pub about: String,
    /// What stands in its way; empty when nothing does.
    pub reasons: Vec<Reason>,
}

/// One thing that stands in the way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Reason {
    /// The code it is refused with, where it is.
    pub code: Option<Code>,
    /// A sentence.
    pub text: String,
    /// A command or an edit that mends it.
    pub next: String,
    /// What that edit puts into the file it names, line by line.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub lines: Vec<String>,
}

impl Reason {
    fn new(code: Code, text: impl Into<String>, next: impl Into<String>) -> Self {
        Self { code: Some(code), ..Self::plain(text, next) }
    }

    fn plain(text: impl Into<String>, next: impl Into<String>) -> Self {
        Self { code: None, text: text.into(), next: next.into(), lines: Vec::new() }
    }

    fn with_lines(mut self, lines: impl IntoIterator<Item = String>) -> Self {
        self.lines.extend(lines);
        self
    }
}

/// Explains what a person named: a domain, a claim, a slice or a GPU, by what the lists print for it.
///
/// # Errors
/// `unknown` when it is none of them.
pub fn object(rows: &Rows, name: &str) -> Result<Vec<Explained>, Refusal> {
    let of_claims: Vec<Explained> =
        rows.claims.iter().filter(|row| meant(row, name)).map(|row| claim::of(rows, row)).collect();
    if !of_claims.is_empty() {
        return Ok(of_claims);
    }
    if let Some(row) = rows.slices.iter().find(|row| row.slice.is_called(name)) {
        let parent = parent_at(rows, row).filter(|_| row.state == "parent");
        let of_slice = || slice::of(rows, row);
        return Ok(vec![parent.map_or_else(of_slice, |parent| parent::of(rows, parent))]);
    }
    if let Some(row) = rows.parents.iter().find(|row| row.parent.to_string() == address(name)) {
        return Ok(vec![parent::of(rows, row)]);
    }
    // A VM that never asked for a slice: it was to start with one all the same, or has some.
    let is_meant = |start: &&RefusedStart| start.name == name || start.domain.to_string() == name;
    let refused = rows.status.refused.iter().filter(is_meant).map(refused_start);
    let held = rows.slices.iter().filter(|row| row.holder.as_deref() == Some(name));
    let found: Vec<Explained> = refused.chain(held.map(|row| slice::of(rows, row))).collect();
    if found.is_empty() { Err(nothing(name)) } else { Ok(found) }
}

fn refused_start(start: &RefusedStart) -> Explained {
    Explained {
        kind: "domain",
        id: start.name.clone(),
        state: "refused".to_owned(),
        about: format!("{}, without a claim", start.domain),
        reasons: vec![last_start(&start.refusal)],
    }
}

/// What a start was told.
fn last_start(refusal: &Refusal) -> Reason {
    let causes: String = refusal.causes.iter().map(|cause| format!(": {cause}")).collect();
    let told = format!("its last start was refused: {}{causes}", refusal.message);
    let next = refusal.hint.clone().unwrap_or_else(|| format!("gpuslice explain {}", refusal.code));
    Reason::new(refusal.code, told, next)
}

fn meant(row: &ClaimRow, name: &str) -> bool {
    let owner = row.claim.owner.to_string();
    [owner, row.claim.to_string(), row.owner_name.clone(), claims::shown(row)]
        .iter()
        .any(|shown| !shown.is_empty() && shown == name)
}

/// What a VF is that makes mediated devices.
fn parent_at<'a>(rows: &'a Rows, vf: &SliceRow) -> Option<&'a ParentRow> {
    let address = vf.address.map(ParentId::Pci);
    rows.parents.iter().find(|row| Some(&row.parent) == address.as_ref())
}

/// An address as people shorten it, in full: `41:00.0` is `0000:41:00.0`.
fn address(name: &str) -> String {
    let full = [name.to_owned(), format!("0000:{name}")];
    let parsed = full.iter().find_map(|text| text.parse::<PciAddress>().ok());
    parsed.map_or_else(|| name.to_owned(), |address| address.to_string())
}

fn nothing(name: &str) -> Refusal {
    let message = format!("{name} is no code, and no claim, slice or GPU has that name");
    // A domain's name has no slash.
    if name.contains('/') {
        return Refusal::new(Code::Unknown, message).hint(hint!("name one of gpuslice claims"));
    }
    Refusal::new(Code::Unknown, message).hint(hint!(
        "gpuslice attach {} PROFILE, with one of gpuslice profiles (if it is a VM); or name one of gpuslice explain",
        name
    ))
}

/// How a claim's owner gives its slice back.
fn end(row: &ClaimRow) -> String {
    match &row.claim.owner {
        Owner::Domain(_) => format!("virsh shutdown {}", quoted(&named(row))),
        Owner::Vmid(vmid) => format!("qm shutdown {vmid}"),
        Owner::External(_) => format!("gpuslice release {}", quoted(&row.claim.to_string())),
    }
}

/// The owner as `virsh` and people know it.
fn named(row: &ClaimRow) -> String {
    if row.owner_name.is_empty() { row.claim.owner.to_string() } else { row.owner_name.clone() }
}

/// The claim a slice is bound to.
fn holder<'a>(rows: &'a Rows, row: &SliceRow) -> Option<&'a ClaimRow> {
    rows.claims.iter().find(|claim| Some(&claim.claim) == row.claim.as_ref())
}

/// The row of a slice.
fn row_of(rows: &Rows, slice: SliceId) -> Option<&SliceRow> {
    rows.slices.iter().find(|row| row.slice == slice)
}

#[cfg(test)]
mod tests;
