//! Modes: what a parent can be set to beside the number of its slices, and what decides which slices those are. Which
//! modes a device has, which values go together and how one is set, its mechanism knows.

use crate::ids::{ParseIdError, serde_as_text};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

/// What is set. The words are for all vendors; each is a key of a layout.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// Into which parts the engines are divided.
    Compute,
    /// Into which parts the memory is divided.
    Memory,
    /// Instances with engines and memory of their own, in which slices are made: a list of them, `none`, or `off` when
    /// the device is whole.
    Instances,
    /// Whether slices of different sizes may be side by side: `equal` or `mixed`.
    Sizes,
    /// How many devices of a fabric reach each other's memory.
    FabricSharing,
    /// How slices take turns.
    Scheduler,
}

impl Mode {
    /// Every mode.
    pub const ALL: &[Self] = &[
        Self::Compute,
        Self::Memory,
        Self::Instances,
        Self::Sizes,
        Self::FabricSharing,
        Self::Scheduler,
    ];

    /// The word, as in a layout.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Compute => "compute",
            Self::Memory => "memory",
            Self::Instances => "instances",
            Self::Sizes => "sizes",
            Self::FabricSharing => "fabric-sharing",
            Self::Scheduler => "scheduler",
        }
    }

    /// The mode of a word.
    pub fn of(word: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|mode| mode.as_str() == word)
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// A value as the vendor writes it: `CPX`, `NPS4`; of several parts the list, in order of their names, with commas.
/// Case makes no difference.
#[derive(Debug, Clone)]
pub struct ModeValue(String);

impl ModeValue {
    /// The value as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it is the value of this name.
    pub fn is(&self, text: &str) -> bool {
        self.0.eq_ignore_ascii_case(text)
    }

    /// Its parts; one where it is no list.
    pub fn parts(&self) -> impl Iterator<Item = &str> {
        self.0.split(',')
    }
}

impl PartialEq for ModeValue {
    fn eq(&self, other: &Self) -> bool {
        self.is(&other.0)
    }
}

impl Eq for ModeValue {}

impl PartialOrd for ModeValue {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for ModeValue {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.to_ascii_lowercase().cmp(&other.0.to_ascii_lowercase())
    }
}

impl fmt::Display for ModeValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl FromStr for ModeValue {
    type Err = ParseIdError;

    fn from_str(text: &str) -> Result<Self, ParseIdError> {
        let bad = |why| Err(ParseIdError::new("mode", text, why));
        if text.len() > 512 {
            return bad("longer than 512 characters");
        }
        let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_.+".contains(&b);
        let mut parts: Vec<&str> = text.split(',').map(|part| part.trim_matches(' ')).collect();
        if parts.iter().any(|part| part.is_empty() || !part.bytes().all(plain)) {
            return bad("only letters, digits and - _ . + are allowed, and commas between");
        }
        parts.sort_unstable();
        Ok(Self(parts.join(",")))
    }
}

serde_as_text!(ModeValue);

/// Values that are wished.
pub type Modes = BTreeMap<Mode, ModeValue>;

/// A mode of a device as read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ModeState {
    /// What it is; `None` when the device does not say.
    pub current: Option<ModeValue>,
    /// What it could be, as far as the device says.
    pub offered: Vec<ModeValue>,
    /// Where its driver reads it when it is loaded and at no other time: what the next load will find.
    pub at_load: Option<AtLoad>,
}

/// What a driver will find when it is loaded next. When that is, is its host's affair.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AtLoad {
    /// The driver.
    pub driver: &'static str,
    /// What the mode will be; `None` when that cannot be told.
    pub value: Option<ModeValue>,
}

impl ModeState {
    /// What it is set to: there is nothing more to be done for it than to wait for the load that brings it.
    pub fn set(&self) -> Option<&ModeValue> {
        self.at_load.as_ref().map_or(self.current.as_ref(), |load| load.value.as_ref())
    }

    /// What the next load of its driver makes of it, when that is another than now.
    pub fn coming(&self) -> Option<(&ModeValue, &'static str)> {
        let load = self.at_load.as_ref()?;
        let value = load.value.as_ref().filter(|value| self.current.as_ref() != Some(value))?;
        Some((value, load.driver))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_differ_in_neither_case_nor_order() {
        let value = |text: &str| text.parse::<ModeValue>().unwrap();
        assert_eq!(value("cpx"), value("CPX"));
        assert_eq!(value("3g.20gb, 1g.5gb"), value("1g.5gb,3g.20gb"));
        assert_ne!(value("1g.5gb,1g.5gb"), value("1g.5gb"));
        assert_eq!(
            value("3g.20gb,1g.5gb+me").parts().collect::<Vec<_>>(),
            ["1g.5gb+me", "3g.20gb"]
        );
        assert_eq!(value("cpx").cmp(&value("CPX")), std::cmp::Ordering::Equal);
    }

    #[test]
    fn what_is_no_value_is_refused() {
        for bad in ["", ",", "a,", "../x", "a b", "a\n", "Ü", &"x".repeat(513)] {
            assert!(bad.parse::<ModeValue>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn what_comes_with_a_load_is_set_before_it_is_so() {
        let value = |text: &str| text.parse::<ModeValue>().ok();
        let state = |now: &str, next: Option<&str>| ModeState {
            current: value(now),
            offered: Vec::new(),
            at_load: next.map(|next| AtLoad { driver: "drv", value: value(next) }),
        };
        let (now, next) = (value("A").unwrap(), value("B").unwrap());
        assert_eq!((state("A", None).set(), state("A", None).coming()), (Some(&now), None));
        assert_eq!(state("A", Some("B")).set(), Some(&next));
        assert_eq!(state("A", Some("B")).coming(), Some((&next, "drv")));
        assert_eq!(state("B", Some("b")).coming(), None);
        // What is not told now comes all the same, and what the load finds may not be known.
        assert_eq!(state("", Some("B")).coming(), Some((&next, "drv")));
        assert_eq!((state("A", Some("")).set(), state("A", Some("")).coming()), (None, None));
    }

    #[test]
    fn words_are_read_back() {
        for mode in Mode::ALL {
            assert_eq!(Mode::of(mode.as_str()), Some(*mode));
            let json = serde_json::to_string(mode).unwrap();
            assert_eq!(json, format!("\"{mode}\""));
        }
        assert_eq!(Mode::of("colour"), None);
    }
}
