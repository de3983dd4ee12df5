//! NUMA: which nodes a host has, and on which of them a domain is, as its XML pins it. A slice is on the node of its
//! GPU.

use crate::ids::{ParseIdError, serde_as_text};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;

/// Above any number of a CPU or node: libvirt's limit (`VIR_DOMAIN_CPUMASK_LEN`), and more than the kernel's.
const LIMIT: u32 = 16_384;

/// Numbers of CPUs or nodes, as the kernel and libvirt list them: `0-3,8`; libvirt takes out with `^2` what was before it.
/// A bit is for each, the lowest first, up to the last that is there, so that a range costs no more than its words.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Numbers(Vec<u64>);

impl Numbers {
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// In order.
    pub fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        let words = self.0.iter().copied().zip((0_u32..).step_by(64));
        words.flat_map(|(word, first)| {
            (0..64).filter(move |bit| word >> bit & 1 == 1).map(move |bit| first + bit)
        })
    }

    /// These and others.
    #[must_use]
    pub fn and(mut self, others: &Self) -> Self {
        if self.0.len() < others.0.len() {
            self.0.resize(others.0.len(), 0);
        }
        for (word, other) in self.0.iter_mut().zip(&others.0) {
            *word |= other;
        }
        self
    }

    /// Whether any is one of others.
    fn meets(&self, others: &Self) -> bool {
        self.0.iter().zip(&others.0).any(|(word, other)| word & other != 0)
    }

    /// Whether others are all here.
    fn has_all(&self, others: &Self) -> bool {
        self.clone().and(others) == *self
    }

    /// Puts a range in or takes it out.
    fn set(&mut self, range: &RangeInclusive<u32>, there: bool) {
        let (first, last) = (*range.start(), *range.end());
        let words = usize::try_from(last / 64 + 1).unwrap_or(usize::MAX);
        if there && self.0.len() < words {
            self.0.resize(words, 0);
        }
        for (word, from) in self.0.iter_mut().zip((0_u32..).step_by(64)) {
            if from + 63 < first || last < from {
                continue;
            }
            let low = first.saturating_sub(from);
            let high = (last - from).min(63);
            let bits = (u64::MAX << low) & (u64::MAX >> (63 - high));
            *word = if there { *word | bits } else { *word & !bits };
        }
        while self.0.last() == Some(&0) {
            self.0.pop();
        }
    }
}

impl FromIterator<u32> for Numbers {
    /// What no kernel counts to is passed over.
    fn from_iter<T: IntoIterator<Item = u32>>(numbers: T) -> Self {
        let mut all = Self::default();
        for number in numbers.into_iter().filter(|number| *number < LIMIT) {
            all.set(&(number..=number), true);
        }
        all
    }
}

impl FromStr for Numbers {
    type Err = ParseIdError;

    fn from_str(text: &str) -> Result<Self, ParseIdError> {
        let number = |text: &str| text.trim().parse::<u32>().ok().filter(|n| *n < LIMIT);
        let range = |part: &str| match part.split_once('-') {
            Some((first, last)) => {
                let (first, last) = (number(first)?, number(last)?);
                (first <= last).then_some(first..=last)
            }
            None => number(part).map(|n| n..=n),
        };
        let mut numbers = Self::default();
        // A node without CPUs lists none.
        let is_blank = text.trim().is_empty();
        for part in text.split(',').map(str::trim).filter(|_| !is_blank) {
            let (there, part) = match part.strip_prefix('^') {
                Some(part) => (false, part),
                None => (true, part),
            };
            let why = "expected numbers and ranges of them, with commas between";
            let range =
                range(part).ok_or_else(|| ParseIdError::new("list of numbers", text, why))?;
            numbers.set(&range, there);
        }
        Ok(numbers)
    }
}

impl fmt::Display for Numbers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut numbers = self.iter().peekable();
        let mut between = "";
        while let Some(first) = numbers.next() {
            let mut last = first;
            while let Some(next) = numbers.next_if_eq(&(last + 1)) {
                last = next;
            }
            write!(f, "{between}{first}")?;
            if last != first {
                write!(f, "-{last}")?;
            }
            between = ",";
        }
        Ok(())
    }
}

serde_as_text!(Numbers);

/// Where on its host a domain is, as its XML says.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pinned {
    /// Nodes of its memory (`<numatune>`).
    #[serde(default, skip_serializing_if = "Numbers::is_empty")]
    pub memory: Numbers,
    /// CPUs that run it (`<vcpu cpuset>`, `<cputune>`).
    #[serde(default, skip_serializing_if = "Numbers::is_empty")]
    pub cpus: Numbers,
}

/// Nodes of a host, each with its CPUs. One that tells of none is one node.
pub type Nodes = BTreeMap<u32, Numbers>;

/// On which nodes the slices of a domain have to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Within {
    /// The host has one alone, or nobody asks.
    Anywhere,
    /// On these.
    Nodes(BTreeSet<u32>),
    /// The domain could be on any: its XML pins neither memory nor CPUs.
    Unknown,
    /// Nobody knows which nodes the host has: they could not be read.
    Unread,
}

impl Pinned {
    /// Where memory and CPUs differ, memory decides: that is what a device reads and writes.
    pub fn within(&self, nodes: Option<&Nodes>) -> Within {
        let Some(nodes) = nodes else { return Within::Unread };
        if nodes.len() < 2 {
            return Within::Anywhere;
        }
        let of_cpus = nodes.iter().filter(|(_, cpus)| self.cpus.meets(cpus)).map(|(node, _)| *node);
        let found: BTreeSet<u32> =
            if self.memory.is_empty() { of_cpus.collect() } else { self.memory.iter().collect() };
        if found.is_empty() { Within::Unknown } else { Within::Nodes(found) }
    }

    /// Whether the nodes, were they read anew, could tell more of where this is: a node lists the CPUs that are online.
    pub fn outgrows(&self, nodes: Option<&Nodes>) -> bool {
        let Some(nodes) = nodes else { return true };
        let known = nodes.values().fold(Numbers::default(), Numbers::and);
        nodes.len() > 1 && self.memory.is_empty() && !known.has_all(&self.cpus)
    }
}

impl Within {
    /// Whether a device of this node will do. One without a node may be anywhere, so on a host of several it will not.
    pub fn has(&self, node: Option<u32>) -> bool {
        match self {
            Self::Anywhere => true,
            Self::Nodes(nodes) => node.is_some_and(|node| nodes.contains(&node)),
            Self::Unknown | Self::Unread => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(text: &str) -> Numbers {
        text.parse().unwrap()
    }

    #[test]
    fn lists_are_read_as_kernel_and_libvirt_write_them() {
        let all = |text: &str| numbers(text).iter().collect::<Vec<_>>();
        assert_eq!(all("0-3,8"), [0, 1, 2, 3, 8]);
        assert_eq!(all("1-4,^3,6"), [1, 2, 4, 6]);
        assert!(all("").is_empty());
        assert_eq!(numbers("8,0-2,3").to_string(), "0-3,8");
        assert_eq!(numbers("16383").to_string(), "16383");
        assert_eq!(numbers("60-70,^64-127,128,^128").to_string(), "60-63");
        assert_eq!(numbers("0-16383,^1-16383"), numbers("0"));
        assert_eq!([3, 200, 64, u32::MAX].into_iter().collect::<Numbers>(), numbers("3,64,200"));
        let (few, more) = (numbers("1,63"), numbers("64-65"));
        assert_eq!(few.clone().and(&more), numbers("1,63-65"));
        assert_eq!(more.and(&few), numbers("1,63-65"));
        for bad in ["a", "1-", "-1", "3-1", "1,", ",", "1 2", "16384", "0-99999999", "^"] {
            assert!(bad.parse::<Numbers>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn memory_decides_before_cpus_and_one_node_is_everywhere() {
        let two: Nodes = [(0, numbers("0-3")), (1, numbers("4-7"))].into();
        let pinned =
            |memory: &str, cpus: &str| Pinned { memory: numbers(memory), cpus: numbers(cpus) };
        let on = |nodes: &[u32]| Within::Nodes(nodes.iter().copied().collect());
        let two = Some(&two);
        assert_eq!(pinned("1", "0-3").within(two), on(&[1]));
        assert_eq!(pinned("", "2,5").within(two), on(&[0, 1]));
        assert_eq!(pinned("", "6").within(two), on(&[1]));
        // Not a CPU of this host.
        assert_eq!(pinned("", "99").within(two), Within::Unknown);
        assert_eq!(pinned("", "").within(two), Within::Unknown);
        for one in [Nodes::new(), [(0, numbers("0-7"))].into()] {
            assert_eq!(pinned("", "").within(Some(&one)), Within::Anywhere);
            assert!(!pinned("", "99").outgrows(Some(&one)));
        }
        // Which there are is not known.
        assert_eq!(pinned("1", "").within(None), Within::Unread);
        assert!(pinned("1", "").outgrows(None));
        assert!(pinned("", "7-8").outgrows(two) && !pinned("", "0-7").outgrows(two));
        assert!(!pinned("1", "99").outgrows(two));
    }

    #[test]
    fn a_device_without_a_node_is_near_nobody_on_a_host_of_several() {
        let on = Within::Nodes([1].into());
        assert!(on.has(Some(1)) && !on.has(Some(0)) && !on.has(None));
        assert!(Within::Anywhere.has(None) && !Within::Unknown.has(Some(0)));
        assert!(!Within::Unread.has(Some(0)));
    }
}
