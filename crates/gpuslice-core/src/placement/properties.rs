//! Claims that say what a slice must be like rather than which profile it is.

use super::View;
use crate::ids::ProfileName;
use crate::mechanism::{Isolation, Offer};
use crate::refusal::{Code, Refusal};
use std::fmt;

/// The least a slice must have.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Properties {
    /// Bytes.
    pub memory: Option<u64>,
    /// What keeps it apart from others.
    pub isolation: Option<Isolation>,
}

impl Properties {
    /// Whether nothing is asked.
    pub fn is_empty(self) -> bool {
        self == Self::default()
    }

    /// An offer that does not tell its memory has none to count on.
    fn met_by(self, offer: &Offer) -> bool {
        self.memory.is_none_or(|least| offer.memory.is_some_and(|has| has >= least))
            && self.isolation.is_none_or(|least| offer.isolation >= least)
    }
}

impl fmt::Display for Properties {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let memory = self.memory.map(|bytes| format!("{} MiB of memory", bytes >> 20));
        let isolation = self.isolation.map(|i| format!("{} isolation", i.as_str()));
        let parts: Vec<String> = memory.into_iter().chain(isolation).collect();
        f.write_str(&parts.join(" and "))
    }
}

/// The smallest profile that has it all.
///
/// # Errors
/// `no-profile` when the devices here have none.
pub fn by_properties(view: &View<'_>, least: Properties) -> Result<ProfileName, Refusal> {
    let fitting = view.offers.iter().filter(|offer| least.met_by(offer));
    let smallest = fitting.map(|o| (o.memory.unwrap_or(u64::MAX), &o.profile)).min();
    smallest.map(|(_, profile)| profile.clone()).ok_or_else(|| {
        let message = format!("no profile here has {least}");
        Refusal::new(Code::NoProfile, message)
    })
}

/// Judges a profile that is named beside what is asked of it. One that nobody offers now is judged when it is placed.
///
/// # Errors
/// `no-profile` when it is offered, and less than is asked.
pub fn meets(view: &View<'_>, profile: &ProfileName, least: Properties) -> Result<(), Refusal> {
    let mut offers = view.of_profile(profile).peekable();
    if offers.peek().is_none() || offers.any(|offer| least.met_by(offer)) {
        return Ok(());
    }
    let message = format!("{profile} does not have {least}, which the claim asks for");
    Err(Refusal::new(Code::NoProfile, message))
}
