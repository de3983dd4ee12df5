//! Who has what somebody asks for, in words: a start is refused with them, and `explain` says the same.

use std::collections::BTreeSet;
use std::fmt;

/// Who has all there is of a profile, by their names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Holders {
    /// Slices of it.
    pub have: BTreeSet<String>,
    /// Slices of other profiles, on the devices that could be cut into it.
    pub room: BTreeSet<String>,
    /// Claims that keep some while their VMs are off.
    pub kept: BTreeSet<String>,
    /// Domains that are to come in.
    pub promised: BTreeSet<String>,
}

/// The first few, and how many more.
fn names(all: &BTreeSet<String>) -> String {
    const MOST: usize = 4;
    let named: Vec<&str> = all.iter().take(MOST).map(String::as_str).collect();
    let more = all.len().saturating_sub(MOST);
    let named = named.join(", ");
    if more == 0 { named } else { format!("{named} and {more} more") }
}

impl fmt::Display for Holders {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts: Vec<String> = [
            ("held by", &self.have),
            ("the room is held by", &self.room),
            ("kept for claims of", &self.kept),
            ("promised to what comes in:", &self.promised),
        ]
        .into_iter()
        .filter(|(_, all)| !all.is_empty())
        .map(|(how, all)| format!("{how} {}", names(all)))
        .collect();
        if parts.is_empty() {
            f.write_str("held by nobody here")
        } else {
            f.write_str(&parts.join(", "))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_said_once_and_few_by_name() {
        let of = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        let mut holders = Holders::default();
        assert_eq!(holders.to_string(), "held by nobody here");
        holders.have = of(&["e", "d", "c", "b", "a"]);
        holders.kept = of(&["x"]);
        assert_eq!(holders.to_string(), "held by a, b, c, d and 1 more, kept for claims of x");
        holders.room = of(&["y"]);
        holders.promised = of(&["z"]);
        let end = "the room is held by y, kept for claims of x, promised to what comes in: z";
        assert!(holders.to_string().ends_with(end), "{holders}");
    }
}
