//! Resource mappings of Proxmox VE, one for each profile, with each device of this node that can be one. Mirrors
//! pve-guest-common's `PVE::Mapping::PCI`: before a guest starts it compares ids and IOMMU group with sysfs and takes no
//! key too many or too few; a change writes the entries of all nodes anew, so those of others are repeated.

use gpuslice_core::errno::Errno;
use gpuslice_core::guest::mapping::{Entry, Mapping, OURS};
use gpuslice_core::hint;
use gpuslice_core::ids::{MdevTypeId, ParentId, PciAddress, ProfileName};
use gpuslice_core::port::{HostRead, link_name, read_text};
use gpuslice_core::refusal::{Code, Refusal};
use gpuslice_core::request::{ParentRow, ProfileRow, SliceRow};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};

/// Longest description that Proxmox takes.
const DESCRIPTION_LIMIT: usize = 4096;

/// What there is to say of one profile.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Exported {
    /// The mapping's name.
    pub mapping: String,
    /// What it gives; absent when this host offers it no longer.
    pub profile: Option<ProfileName>,
    /// The type that a guest says beside the mapping.
    #[serde(rename = "type")]
    pub type_id: Option<MdevTypeId>,
    /// How it differs from what Proxmox has.
    pub change: Change,
    /// Devices of this node that are to come.
    pub added: Vec<String>,
    /// Devices of this node that are to go.
    pub removed: Vec<String>,
    /// Devices whose ids or group are others.
    pub altered: Vec<String>,
    /// Devices that can be it and that nobody is given now.
    pub left_out: Vec<LeftOut>,
    /// How many this node has then.
    pub devices: usize,
    /// Words of the command that makes it so; empty when nothing is to be done.
    pub command: Vec<String>,
}

/// Devices that are kept back for one reason.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LeftOut {
    /// The reason.
    pub why: String,
    /// Which.
    pub devices: Vec<PciAddress>,
}

/// How a mapping differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Change {
    /// Proxmox has none of the name.
    New,
    /// Proxmox has another one.
    Changed,
    /// It is so.
    Same,
    /// This node offers the profile no longer.
    Gone,
    /// Nothing can be it now, and something will: Proxmox keeps what it has.
    Withheld,
    /// Somebody else made one of the name.
    Foreign,
}

/// A host whose slices are exported.
pub struct Node<'a> {
    /// Its name in the cluster.
    pub name: &'a str,
    /// Where the ids of devices are read.
    pub host: &'a dyn HostRead,
    /// What is not there, and nobody knows when it will be.
    pub waiting_for: &'a [String],
    /// Its GPUs.
    pub parents: &'a [ParentRow],
    /// What it offers.
    pub profiles: &'a [ProfileRow],
    /// What there is.
    pub slices: &'a [SliceRow],
}

impl Node<'_> {
    /// Compares what there is with the mappings of the cluster. Of these profiles alone, unless there are none.
    pub fn export(
        &self,
        wanted: &[ProfileName],
        present: &[Mapping],
    ) -> Result<Vec<Exported>, Refusal> {
        let asked = |id: &str| wanted.is_empty() || wanted.iter().any(|name| id_of(name) == id);
        let mut offered: BTreeMap<String, Option<&ProfileRow>> = BTreeMap::new();
        for row in self.profiles {
            offered.insert(id_of(&row.profile), Some(row));
        }
        let ours = present.iter().filter(|mapping| {
            mapping.is_ours() && mapping.entries.iter().any(|entry| entry.is_on(self.name))
        });
        for mapping in ours {
            offered.entry(mapping.id.clone()).or_default();
        }
        offered.retain(|id, _| asked(id));
        if let Some(unknown) = wanted.iter().find(|name| !offered.contains_key(&id_of(name))) {
            let message = format!("no device here offers {unknown}");
            return Err(
                Refusal::new(Code::NoProfile, message).hint(hint!("name one of gpuslice profiles"))
            );
        }
        let mut exported = Vec::new();
        for (id, row) in offered {
            let now = present.iter().find(|mapping| mapping.id == id);
            exported.extend(self.compared(id, row, now)?);
        }
        Ok(exported)
    }

    /// `None` for a profile whose parents are no PCI devices, and one without any device.
    fn compared(
        &self,
        id: String,
        row: Option<&ProfileRow>,
        now: Option<&Mapping>,
    ) -> Result<Option<Exported>, Refusal> {
        let devices = row.map(|row| self.devices(row)).unwrap_or_default();
        let (devices, left_out) = self.given_out(devices);
        let entries = devices.into_iter().map(|address| self.entry(address));
        let entries = entries.collect::<Result<Vec<String>, Refusal>>()?;
        let (here, others): (Vec<&Entry>, Vec<&Entry>) = now
            .into_iter()
            .flat_map(|mapping| &mapping.entries)
            .partition(|entry| entry.is_on(self.name));
        if entries.is_empty() && here.is_empty() && left_out.is_empty() {
            return Ok(None);
        }
        let type_id = row.and_then(|row| row.type_id.clone());
        let mdev = type_id.is_some();
        let difference = difference(&here, &entries);
        let foreign = now.is_some_and(|mapping| !mapping.is_ours());
        // A guest whose mapping is gone is told nothing of why.
        let withheld = entries.is_empty() && (!left_out.is_empty() || self.lacks_gpus());
        let change = match now {
            Some(_) if foreign => Change::Foreign,
            _ if withheld => Change::Withheld,
            None => Change::New,
            Some(_) if entries.is_empty() => Change::Gone,
            Some(mapping) if difference.is_none() && mapping.mdev == mdev => Change::Same,
            Some(_) => Change::Changed,
        };
        let maps: Vec<String> =
            others.iter().map(|e| e.text.clone()).chain(entries.iter().cloned()).collect();
        let command = match change {
            Change::Same | Change::Withheld | Change::Foreign => Vec::new(),
            Change::Gone if maps.is_empty() => words(&["pvesh", "delete", &address_of(&id)]),
            Change::Gone => with_maps(words(&["pvesh", "set", &address_of(&id)]), maps),
            Change::Changed => {
                let mut command = words(&["pvesh", "set", &address_of(&id)]);
                match (mdev, now.is_some_and(|mapping| mapping.mdev)) {
                    (true, false) => command.extend(words(&["--mdev", "1"])),
                    (false, true) => command.extend(words(&["--delete", "mdev"])),
                    _ => {}
                }
                with_maps(command, maps)
            }
            Change::New => {
                let description = row.map(description).unwrap_or_default();
                let mut command = words(&["pvesh", "create", MAPPINGS, "--id", &id]);
                command.extend(words(&["--description", &description]));
                if mdev {
                    command.extend(words(&["--mdev", "1"]));
                }
                with_maps(command, maps)
            }
        };
        let difference = difference.filter(|_| change != Change::Withheld);
        let Difference { added, removed, altered } = difference.unwrap_or_default();
        let devices = if change == Change::Withheld { here.len() } else { entries.len() };
        Ok(Some(Exported {
            mapping: id,
            profile: row.map(|row| row.profile.clone()),
            type_id,
            change,
            added,
            removed,
            altered,
            left_out,
            devices,
            command,
        }))
    }

    /// Whether GPUs that may offer more are not there, or not as they are to be.
    fn lacks_gpus(&self) -> bool {
        let lacks = |row: &ParentRow| {
            matches!(row.state.as_str(), "absent" | "quarantined" | "drift" | "waiting")
        };
        !self.waiting_for.is_empty() || self.parents.iter().any(lacks)
    }

    /// Parts those that somebody is given from those that nobody is. Proxmox takes the first that is free, and the hookscript
    /// refuses that one, whatever else there is.
    fn given_out(&self, devices: Vec<PciAddress>) -> (Vec<PciAddress>, Vec<LeftOut>) {
        let parents: BTreeMap<&ParentId, &ParentRow> =
            self.parents.iter().map(|row| (&row.parent, row)).collect();
        let slices: BTreeMap<PciAddress, &SliceRow> =
            self.slices.iter().filter_map(|row| Some((row.address?, row))).collect();
        let why = |address: PciAddress| {
            let slice = slices.get(&address);
            // One that makes mediated devices is held back by itself or with its PF, and says so of both.
            let own = parents.get(&ParentId::Pci(address));
            let parent = own.or_else(|| parents.get(&slice?.parent));
            if let Some(row) = parent.filter(|p| matches!(&*p.state, "cordoned" | "quarantined")) {
                let reason = row.reason.as_ref().map(|reason| format!(": {reason}"));
                let reason = reason.unwrap_or_default();
                return Some(format!("{} is {}{reason}", row.parent, row.state));
            }
            let slice = slice?;
            match slice.state.as_str() {
                "quarantined" => Some("it has no device for VMs".to_owned()),
                "dirty" => {
                    let reason = slice.dirty.as_deref().unwrap_or("it is not clean");
                    Some(format!("something of a VM may be left in it: {reason}"))
                }
                _ => None,
            }
        };
        let (mut given, mut left_out) = (Vec::new(), Vec::<LeftOut>::new());
        for address in devices {
            match why(address) {
                None => given.push(address),
                Some(why) => match left_out.iter_mut().find(|other| other.why == why) {
                    Some(other) => other.devices.push(address),
                    None => left_out.push(LeftOut { why, devices: vec![address] }),
                },
            }
        }
        (given, left_out)
    }

    /// Each device that can be one: the parents of mediated devices, or the VFs that are it or can be given its type.
    fn devices(&self, row: &ProfileRow) -> Vec<PciAddress> {
        if row.mechanism == "mdev" {
            return row.parents.iter().filter_map(|parent| parent.pci()).collect();
        }
        let parents: BTreeSet<_> = row.parents.iter().collect();
        let fits = |slice: &&SliceRow| match row.type_id {
            Some(_) => slice.mechanism == row.mechanism && parents.contains(&slice.parent),
            None => slice.profile.as_ref() == Some(&row.profile),
        };
        self.slices.iter().filter(fits).filter_map(|slice| slice.address).collect()
    }

    fn entry(&self, address: PciAddress) -> Result<String, Refusal> {
        let folder = format!("/sys/bus/pci/devices/{address}");
        let unread = |path: &str, errno: Errno| {
            Refusal::new(Code::Absent, format!("the ids of {address} cannot be read"))
                .because(format!("read {path}: {errno}"))
                .hint(hint!("gpuslice wait --settled, then the same again"))
        };
        let id = |name: &str| {
            let path = format!("{folder}/{name}");
            let text = read_text(self.host, &path).map_err(|errno| unread(&path, errno))?;
            Ok::<_, Refusal>(text.trim_start_matches("0x").to_owned())
        };
        let mut entry = format!(
            "node={},path={address},id={}:{},subsystem-id={}:{}",
            self.name,
            id("vendor")?,
            id("device")?,
            id("subsystem_vendor")?,
            id("subsystem_device")?,
        );
        let group = format!("{folder}/iommu_group");
        if let Some(number) = link_name(self.host, &group).map_err(|errno| unread(&group, errno))? {
            entry.push_str(&format!(",iommugroup={number}"));
        }
        Ok(entry)
    }
}

const MAPPINGS: &str = "/cluster/mapping/pci";

fn address_of(id: &str) -> String {
    format!("{MAPPINGS}/{id}")
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

fn with_maps(mut command: Vec<String>, maps: Vec<String>) -> Vec<String> {
    for map in maps {
        command.extend(["--map".to_owned(), map]);
    }
    command
}

/// A profile's name as Proxmox takes it (`pve-configid`): a letter, then letters, digits, `-` and `_`.
fn id_of(profile: &ProfileName) -> String {
    let name = profile.as_str().replace('.', "_");
    let begins = name.starts_with(|c: char| c.is_ascii_alphabetic()) && name.len() > 1;
    if begins { name } else { format!("gpu-{name}") }
}

fn description(row: &ProfileRow) -> String {
    let what = row.description.as_deref().unwrap_or(row.profile.as_str());
    let what = what.chars().filter(|c| !c.is_control());
    OURS.chars().chain(what).take(DESCRIPTION_LIMIT / 4).collect()
}

/// Devices that differ.
#[derive(Debug, Default)]
struct Difference {
    added: Vec<String>,
    removed: Vec<String>,
    altered: Vec<String>,
}

/// `None` when these are the same devices in the same order. A person's words for one count for nothing.
fn difference(now: &[&Entry], wished: &[String]) -> Option<Difference> {
    let keys = |entry: &Entry| {
        let mut keys = entry.keys.clone();
        keys.remove("description");
        keys
    };
    let path = |entry: &Entry| entry.path().join(";");
    let wished: Vec<Entry> = wished.iter().map(|text| Entry::new(text)).collect();
    if now.iter().map(|entry| keys(entry)).eq(wished.iter().map(keys)) {
        return None;
    }
    let before: BTreeMap<String, _> = now.iter().map(|e| (path(e), keys(e))).collect();
    let after: BTreeMap<String, _> = wished.iter().map(|e| (path(e), keys(e))).collect();
    let not_in = |one: &BTreeMap<String, _>, other: &BTreeMap<String, _>| {
        one.keys().filter(|path| !other.contains_key(*path)).cloned().collect()
    };
    let is_other = |(path, keys): &(&String, &BTreeMap<String, String>)| {
        before.get(*path).is_some_and(|before| before != *keys)
    };
    Some(Difference {
        added: not_in(&after, &before),
        removed: not_in(&before, &after),
        altered: after.iter().filter(is_other).map(|(path, _)| path.clone()).collect(),
    })
}
