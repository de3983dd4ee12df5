//! Resource mappings of Proxmox VE (`/etc/pve/mapping/pci.cfg`; pve-guest-common, `PVE::Mapping::PCI`): which devices
//! something can be, on each node of a cluster. Read leniently: what Proxmox does not take it refuses by itself.

use crate::ids::PciAddress;
use std::collections::BTreeMap;

/// How a description begins by which a mapping is known to be ours.
pub const OURS: &str = "gpuslice: ";

/// One mapping.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Mapping {
    /// Its name, as guests say it.
    pub id: String,
    /// For people; empty where it has none.
    pub description: String,
    /// Its devices become something else, by a type that the guest says.
    pub mdev: bool,
    /// In their order, of every node.
    pub entries: Vec<Entry>,
}

/// What a mapping can be on a node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Entry {
    /// As written.
    pub text: String,
    /// Its keys: `node`, `path`, `id`, `subsystem-id`, `iommugroup`, `description`.
    pub keys: BTreeMap<String, String>,
}

impl Mapping {
    /// Whether `gpuslice export proxmox` made it.
    pub fn is_ours(&self) -> bool {
        self.description.starts_with(OURS)
    }

    /// The alternatives that it has on a node, in their order: addresses that are passed together.
    pub fn alternatives(&self, node: &str) -> Vec<Vec<String>> {
        let here = self.entries.iter().filter(|entry| entry.is_on(node));
        here.map(Entry::path).filter(|path| !path.is_empty()).collect()
    }

    /// The IOMMU group that it says of the first function of each alternative on a node. A device that is named without a
    /// function is known by function 0.
    pub fn groups(&self, node: &str) -> BTreeMap<PciAddress, Option<u32>> {
        let here = self.entries.iter().filter(|entry| entry.is_on(node));
        let said = here.filter_map(|entry| {
            let first = entry.path().into_iter().next()?;
            let first = if first.contains('.') { first } else { first + ".0" };
            let group = entry.keys.get("iommugroup").and_then(|group| group.parse().ok());
            Some((first.parse().ok()?, group))
        });
        said.collect()
    }
}

impl Entry {
    /// Of a property's text: `node=pve1,path=0000:41:00.4,id=10de:2235`.
    pub fn new(text: &str) -> Self {
        let pairs = text.split(',').filter_map(|part| part.trim().split_once('='));
        let keys = pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
        Self { text: text.to_owned(), keys }
    }

    /// Whether it is of this node.
    pub fn is_on(&self, node: &str) -> bool {
        self.keys.get("node").is_some_and(|name| name == node)
    }

    /// Addresses that are passed together.
    pub fn path(&self) -> Vec<String> {
        self.keys.get("path").map(|path| addresses(path)).unwrap_or_default()
    }
}

/// Addresses with `;` between, each with its domain.
pub fn addresses(list: &str) -> Vec<String> {
    list.split(';').map(full_address).collect()
}

/// With its domain, which may be left out where it is 0.
pub fn full_address(address: &str) -> String {
    if address.matches(':').count() == 1 { format!("0000:{address}") } else { address.to_owned() }
}

/// Every mapping of a cluster.
pub fn read(text: &str) -> Vec<Mapping> {
    let mut mappings: Vec<Mapping> = Vec::new();
    for line in text.lines() {
        let inside = line.starts_with(char::is_whitespace);
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if !inside {
            mappings.push(Mapping { id: line.to_owned(), ..Mapping::default() });
            continue;
        }
        let (Some(mapping), Some((key, value))) = (mappings.last_mut(), line.split_once(' '))
        else {
            continue;
        };
        match key {
            "description" => value.trim().clone_into(&mut mapping.description),
            "mdev" => mapping.mdev = value.trim() == "1",
            "map" => mapping.entries.push(Entry::new(value.trim())),
            _ => {}
        }
    }
    mappings
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "gpu\n\tdescription x y\n\tmap id=10de:2235,node=one,path=0000:41:00.5\n\tmdev 1\n\
                        \tmap node=two,path=0000:42:00.0\n\tmap node=one,path=41:00.4;0000:41:00.6,id=10de:2235\n\
                        \tmap node=one,id=10de:2235\n\nother\n\tmap node=one,path=0000:43:00.0\n";

    #[test]
    fn a_mapping_has_the_devices_of_its_node_in_their_order() {
        let [gpu, other] = &read(TEXT)[..] else { panic!() };
        assert_eq!(
            gpu.alternatives("one"),
            [vec!["0000:41:00.5".to_owned()], vec!["0000:41:00.4".into(), "0000:41:00.6".into()]]
        );
        assert!(other.alternatives("two").is_empty());
        let text =
            "a\n\tmap node=one,path=41:00.4;41:00.5,iommugroup=7\n\tmap node=one,path=0000:42:00\n";
        let said = [("0000:41:00.4", Some(7)), ("0000:42:00.0", None)];
        let said = said.map(|(address, group)| (address.parse().unwrap(), group));
        assert_eq!(read(text)[0].groups("one"), said.into());
    }

    #[test]
    fn mappings_are_read_whole() {
        let [gpu, other] = &read(TEXT)[..] else { panic!() };
        assert_eq!((gpu.id.as_str(), gpu.description.as_str(), gpu.mdev), ("gpu", "x y", true));
        assert_eq!(gpu.entries.len(), 4);
        assert_eq!(gpu.entries[1].text, "node=two,path=0000:42:00.0");
        assert!(gpu.entries[1].is_on("two") && !gpu.entries[1].is_on("one"));
        assert_eq!((other.id.as_str(), other.mdev), ("other", false));
        assert_eq!(read("\tmap node=one,path=0000:43:00.0\n#x\n"), []);
    }
}
