//! NUMA: which nodes a host has, and on which of them a domain is, as its XML pins it. A slice is on the node of its
//! GPU.

use crate::ids::{ParseIdError, serde_as_text};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;

/// Above any number of a CPU or node: libvirt's limit (`VIR_DOMAIN_CPUMASK_LEN`), and more than the kernel's.
const LIMIT: u32 = 16_384;

/// Numbers of CPUs or nodes, as the kernel and libvirt list them: `0-3,8`; libvirt takes out with `^2` what was before it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Numbers(BTreeSet<u32>);

impl Numbers {
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// In order.
    pub fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        self.0.iter().copied()
    }

    /// These and others.
    #[must_use]
    pub fn and(mut self, others: &Self) -> Self {
        self.0.extend(others.iter());
        self
    }
}

impl FromIterator<u32> for Numbers {
    fn from_iter<T: IntoIterator<Item = u32>>(numbers: T) -> Self {
        Self(numbers.into_iter().collect())
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
        let mut numbers = BTreeSet::new();
        // A node without CPUs lists none.
        for part in text.split(',').map(str::trim).filter(|_| !text.trim().is_empty()) {
            let (out, part) = match part.strip_prefix('^') {
                Some(part) => (true, part),
                None => (false, part),
            };
            let why = "expected numbers and ranges of them, with commas between";
            let range =
                range(part).ok_or_else(|| ParseIdError::new("list of numbers", text, why))?;
            if out {
                numbers.retain(|n| !range.contains(n));
            } else {
                numbers.extend(range);
            }
        }
        Ok(Self(numbers))
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
}

impl Pinned {
    /// Where memory and CPUs differ, memory decides: that is what a device reads and writes.
    pub fn within(&self, nodes: &Nodes) -> Within {
        if nodes.len() < 2 {
            return Within::Anywhere;
        }
        let has_cpu = |cpus: &Numbers| self.cpus.iter().any(|cpu| cpus.0.contains(&cpu));
        let of_cpus = || nodes.iter().filter(|(_, cpus)| has_cpu(cpus)).map(|(node, _)| *node);
        let found: BTreeSet<u32> =
            if self.memory.is_empty() { of_cpus().collect() } else { self.memory.0.clone() };
        if found.is_empty() { Within::Unknown } else { Within::Nodes(found) }
    }
}

impl Within {
    /// Whether a device of this node will do. One without a node may be anywhere, so on a host of several it will not.
    pub fn has(&self, node: Option<u32>) -> bool {
        match self {
            Self::Anywhere => true,
            Self::Nodes(nodes) => node.is_some_and(|node| nodes.contains(&node)),
            Self::Unknown => false,
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
        assert_eq!(pinned("1", "0-3").within(&two), on(&[1]));
        assert_eq!(pinned("", "2,5").within(&two), on(&[0, 1]));
        assert_eq!(pinned("", "6").within(&two), on(&[1]));
        // Not a CPU of this host.
        assert_eq!(pinned("", "99").within(&two), Within::Unknown);
        assert_eq!(pinned("", "").within(&two), Within::Unknown);
        for one in [Nodes::new(), [(0, numbers("0-7"))].into()] {
            assert_eq!(pinned("", "").within(&one), Within::Anywhere);
        }
    }

    #[test]
    fn a_device_without_a_node_is_near_nobody_on_a_host_of_several() {
        let on = Within::Nodes([1].into());
        assert!(on.has(Some(1)) && !on.has(Some(0)) && !on.has(None));
        assert!(Within::Anywhere.has(None) && !Within::Unknown.has(Some(0)));
    }
}
