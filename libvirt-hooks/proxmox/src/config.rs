//! What a guest's configuration says (`/etc/pve/qemu-server/VMID.conf`). Read leniently: what Proxmox does not take it
//! refuses by itself.

use gpuslice_core::guest::mapping::addresses;
use gpuslice_core::ids::MdevUuid;
use std::collections::BTreeMap;

/// The present section of a guest's configuration, as far as it matters here.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct GuestConfig {
    /// Its name; empty where it has none.
    pub name: String,
    /// By the N of `hostpciN`.
    pub devices: BTreeMap<u32, HostPci>,
}

/// One `hostpciN`.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct HostPci {
    /// Addresses, as written: without a domain, or without a function.
    pub host: Vec<String>,
    /// Or a resource mapping.
    pub mapping: Option<String>,
    /// It has a type, of a mediated device or of a vendor's VF.
    pub mdev: Option<String>,
}

impl GuestConfig {
    /// Reads it up to the first section of a snapshot or of pending changes.
    /// A template has no devices: it is started for a backup alone, and then without them.
    pub fn read(text: &str) -> Self {
        let mut config = Self::default();
        let mut template = false;
        for line in text.lines().take_while(|line| !line.starts_with('[')) {
            let Some((key, value)) = line.split_once(':') else { continue };
            let value = value.trim();
            if key == "name" {
                config.name = value.to_owned();
            } else if key == "template" {
                template = value == "1";
            } else if let Some(index) = key.strip_prefix("hostpci").and_then(|n| n.parse().ok()) {
                config.devices.insert(index, HostPci::read(value));
            }
        }
        if template {
            config.devices.clear();
        }
        config
    }
}

impl HostPci {
    fn read(value: &str) -> Self {
        let mut pci = Self::default();
        for (at, part) in value.split(',').enumerate() {
            match part.split_once('=') {
                Some(("host", host)) => pci.host = addresses(host),
                Some(("mapping", id)) => pci.mapping = Some(id.to_owned()),
                Some(("mdev", type_id)) => pci.mdev = Some(type_id.to_owned()),
                // The first part may leave out its key.
                None if at == 0 => pci.host = addresses(part),
                _ => {}
            }
        }
        pci
    }
}

/// The name of the mediated device that Proxmox makes (qemu-server, `generate_mdev_uuid`).
pub fn mdev_uuid(index: u32, vmid: u32) -> Option<MdevUuid> {
    format!("{index:08}-0000-0000-0000-{vmid:012}").parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_present_section_alone_is_read() {
        let config = GuestConfig::read(
            "#hostpci3: 01:00.0\nname: win11\nhostpci0: 0000:41:00.4,pcie=1\nhostpci12: mapping=a40-8q,mdev=nvidia-558\n\
             hostpci1: host=41:00.5;41:00.6,rombar=0\n[PENDING]\nhostpci2: 01:00.0\n[before]\nname: old\n",
        );
        assert_eq!(config.name, "win11");
        let host = |list: &[&str]| list.iter().map(|a| (*a).to_owned()).collect::<Vec<_>>();
        assert_eq!(config.devices.keys().copied().collect::<Vec<_>>(), [0, 1, 12]);
        assert_eq!(config.devices[&0].host, host(&["0000:41:00.4"]));
        assert_eq!(config.devices[&1].host, host(&["0000:41:00.5", "0000:41:00.6"]));
        let mapped = &config.devices[&12];
        let says = (mapped.mapping.as_deref(), mapped.mdev.as_deref());
        assert_eq!(says, (Some("a40-8q"), Some("nvidia-558")));
    }

    #[test]
    fn a_template_is_started_without_its_devices() {
        let read = |text: &str| GuestConfig::read(text).devices.len();
        assert_eq!(read("hostpci0: 0000:41:00.4\ntemplate: 1\n"), 0);
        assert_eq!(read("hostpci0: 0000:41:00.4\ntemplate: 0\n"), 1);
    }

    #[test]
    fn mdevs_are_named_so_that_their_guest_is_known() {
        assert_eq!(mdev_uuid(3, 104).unwrap().proxmox_guest(), Some(104));
    }
}
