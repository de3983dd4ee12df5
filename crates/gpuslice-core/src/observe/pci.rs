//! PCI functions with SR-IOV and their VFs (Documentation/PCI/pci-iov-howto.rst, drivers/pci/iov.c).

use super::serial::Numbered;
use super::{Observer, attribute, named, note, parse_decimal, parse_hex};
use crate::errno::Errno;
use crate::ids::{PciAddress, Serial, VfIndex};
use crate::observation::{Function, Observation, ProblemKind, ReadProblem, Sriov, Vf, is_gpu};
use crate::port::{HostRead, link_name, read_text};
use std::collections::BTreeMap;

const DEVICES: &str = "/sys/bus/pci/devices";

pub(super) fn read(host: &dyn HostRead, observer: &mut Observer, seen: &mut Observation) {
    let names = match host.list(DEVICES) {
        Ok(names) => names,
        Err(errno) => return note(seen, DEVICES, errno),
    };
    let mut addresses: Vec<PciAddress> = names.iter().filter_map(|name| named(name)).collect();
    // PFs come before their VFs, so that a VF is known by its PF's link before its own turn and costs no look.
    addresses.sort_unstable();
    for address in &addresses {
        if !seen.vfs.contains_key(address) {
            read_function(host, observer, seen, *address);
        }
    }
    read_beside(host, seen, &addresses);
}

/// What goes to a VM with a GPU that is passed as a whole. `all` is in order.
fn read_beside(host: &dyn HostRead, seen: &mut Observation, all: &[PciAddress]) {
    let gpus = seen.functions.iter().chain(&seen.whole).filter(|(_, f)| f.is_gpu());
    let grouped: Vec<(PciAddress, u32)> =
        gpus.filter_map(|(gpu, f)| Some((*gpu, f.iommu_group?))).collect();
    for (gpu, own) in grouped {
        let functions = 0..8;
        let of_card = functions
            .filter_map(|n| PciAddress::new(gpu.domain(), gpu.bus(), gpu.device(), n))
            .filter(|other| *other != gpu && all.binary_search(other).is_ok());
        let mut beside = Vec::new();
        for other in of_card {
            let known = seen.functions.get(&other).or_else(|| seen.whole.get(&other));
            let its = match (known, seen.vfs.contains_key(&other)) {
                (_, true) => None,
                (Some(known), _) => known.iommu_group,
                (None, _) => group(host, seen, &format!("{DEVICES}/{other}")),
            };
            if its == Some(own) {
                beside.push(other);
            }
        }
        if !beside.is_empty() {
            seen.beside.insert(gpu, beside);
        }
    }
}

fn read_function(
    host: &dyn HostRead,
    observer: &mut Observer,
    seen: &mut Observation,
    address: PciAddress,
) {
    let dir = format!("{DEVICES}/{address}");
    let total = match read_text(host, &format!("{dir}/sriov_totalvfs")) {
        Ok(text) => match text.parse() {
            Ok(total) => Some(total),
            Err(_) => {
                let path = format!("{dir}/sriov_totalvfs");
                seen.problems.push(ReadProblem { path, why: ProblemKind::Corrupt(text) });
                return;
            }
        },
        // No SR-IOV, or gone. An mdev parent without SR-IOV is read when the mdev bus names it.
        Err(Errno::ENOENT | Errno::ENODEV) => return read_whole(host, observer, seen, address),
        Err(errno) => return note(seen, &format!("{dir}/sriov_totalvfs"), errno),
    };
    if let Some(mut function) = read_common(host, observer, seen, address, Known::default()) {
        function.sriov = total.map(|total| read_sriov(host, seen, address, total));
        seen.functions.insert(address, function);
    }
}

/// A GPU without SR-IOV. A VF that its PF does not link yet is none: its vendor id reads as all ones (PCIe 9.3.4.1.1).
fn read_whole(
    host: &dyn HostRead,
    observer: &mut Observer,
    seen: &mut Observation,
    address: PciAddress,
) {
    let dir = format!("{DEVICES}/{address}");
    let class = read_text(host, &format!("{dir}/class")).ok().and_then(|text| parse_hex(&text));
    if !class.is_some_and(is_gpu) {
        return;
    }
    // One whose serial number was looked for has been seen to be no VF.
    let config = (!observer.serials.contains_key(&address))
        .then(|| host.read(&format!("{dir}/config")).ok())
        .flatten();
    if config.as_ref().is_some_and(|config| config.starts_with(&[0xff, 0xff])) {
        seen.unread_functions.insert(address);
        return;
    }
    if let Some(function) = read_common(host, observer, seen, address, Known { class, config }) {
        seen.whole.insert(address, function);
    }
}

/// What was read of a function already.
#[derive(Default)]
pub(super) struct Known {
    class: Option<u32>,
    config: Option<Vec<u8>>,
}

/// What every parent on the PCI bus has.
pub(super) fn read_common(
    host: &dyn HostRead,
    observer: &mut Observer,
    seen: &mut Observation,
    address: PciAddress,
    known: Known,
) -> Option<Function> {
    let dir = format!("{DEVICES}/{address}");
    let narrow = |v: u32| u16::try_from(v).ok();
    let hex16 = |text: &str| parse_hex(text).and_then(narrow);
    let vendor = attribute(host, seen, &format!("{dir}/vendor"), hex16)?;
    let device = attribute(host, seen, &format!("{dir}/device"), hex16)?;
    let class = match known.class {
        Some(class) => class,
        None => attribute(host, seen, &format!("{dir}/class"), parse_hex)?,
    };
    let numa_node = attribute(host, seen, &format!("{dir}/numa_node"), |t| t.parse::<i32>().ok())
        .and_then(|n| u32::try_from(n).ok());
    Some(Function {
        vendor,
        device,
        class,
        driver: link(host, seen, &format!("{dir}/driver")),
        numa_node,
        iommu_group: group(host, seen, &dir),
        serial: serial(host, observer, address, (vendor, device), known.config),
        slot: None,
        sriov: None,
        model: None,
        maker: None,
        kind: None,
        memory: None,
    })
}

fn read_sriov(host: &dyn HostRead, seen: &mut Observation, pf: PciAddress, total: u16) -> Sriov {
    let dir = format!("{DEVICES}/{pf}");
    let autoprobe = attribute(host, seen, &format!("{dir}/sriov_drivers_autoprobe"), parse_decimal)
        .map(|v| v != 0);
    let mut vfs = BTreeMap::new();
    match host.list(&dir) {
        Ok(names) => {
            for (name, index) in names.iter().filter_map(|n| Some((n, VfIndex::from_link_name(n)?)))
            {
                let path = format!("{dir}/{name}");
                let address = link(host, seen, &path).and_then(|target| target.parse().ok());
                if let Some(address) = address {
                    let vf = format!("{DEVICES}/{address}");
                    let driver = link(host, seen, &format!("{vf}/driver"));
                    let iommu_group = group(host, seen, &vf);
                    seen.vfs.insert(address, Vf { pf, index, driver, iommu_group, choice: None });
                    vfs.insert(index, address);
                }
            }
        }
        Err(errno) => note(seen, &dir, errno),
    }
    Sriov { total, autoprobe, vfs }
}

fn link(host: &dyn HostRead, seen: &mut Observation, path: &str) -> Option<String> {
    link_name(host, path).unwrap_or_else(|errno| {
        note(seen, path, errno);
        None
    })
}

pub(super) fn group(host: &dyn HostRead, seen: &mut Observation, dir: &str) -> Option<u32> {
    link(host, seen, &format!("{dir}/iommu_group"))?.parse().ok()
}

/// The serial number needs the whole extended configuration space, so it is read once per device.
fn serial(
    host: &dyn HostRead,
    observer: &mut Observer,
    address: PciAddress,
    id: (u16, u16),
    config: Option<Vec<u8>>,
) -> Option<Serial> {
    match observer.serials.get(&address) {
        Some(known) if known.id == id => known.serial,
        _ => {
            // A function that cannot be read now is asked again; one that answers with all ones is not there.
            let config =
                config.or_else(|| host.read(&format!("{DEVICES}/{address}/config")).ok())?;
            let number = device_serial(&config).filter(|s| ![0, u64::MAX].contains(s));
            let serial = number.map(Serial::Number);
            observer.serials.insert(address, Numbered { id, serial, asked: None });
            serial
        }
    }
}

/// Finds the Device Serial Number capability (id 3) in extended configuration space.
fn device_serial(config: &[u8]) -> Option<u64> {
    let dword = |at: usize| {
        let bytes = config.get(at..at.checked_add(4)?)?;
        Some(u32::from_le_bytes(bytes.try_into().ok()?))
    };
    let mut at = 0x100;
    // Each capability takes at least 8 bytes, so a longer chain is a loop.
    for _ in 0..(4096 - 0x100) / 8 {
        let header = dword(at)?;
        if header & 0xffff == 3 {
            return Some(u64::from(dword(at + 8)?) << 32 | u64::from(dword(at + 4)?));
        }
        at = usize::try_from(header >> 20).ok()? & !3;
        if at < 0x100 {
            return None;
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_capability(at: usize, header: u32) -> Vec<u8> {
        let mut config = vec![0; 4096];
        config[at..at + 4].copy_from_slice(&header.to_le_bytes());
        config
    }

    #[test]
    fn serial_is_found_behind_other_capabilities() {
        let mut config = with_capability(0x100, 0x1501_0010);
        config[0x150..0x154].copy_from_slice(&0x0001_0003_u32.to_le_bytes());
        config[0x154..0x15c].copy_from_slice(&0x1122_3344_5566_7788_u64.to_le_bytes());
        assert_eq!(device_serial(&config), Some(0x1122_3344_5566_7788));
    }

    #[test]
    fn odd_capability_chains_end() {
        assert_eq!(device_serial(&[]), None);
        assert_eq!(device_serial(&[0; 256]), None);
        assert_eq!(device_serial(&vec![0; 4096]), None);
        // Points at itself.
        assert_eq!(device_serial(&with_capability(0x100, 0x1001_0010)), None);
        // Points past the end, and the number is cut off.
        assert_eq!(device_serial(&with_capability(0x100, 0xffc1_0010)), None);
        assert_eq!(device_serial(&with_capability(0x100, 0x0001_0003)[..0x106]), None);
    }
}
