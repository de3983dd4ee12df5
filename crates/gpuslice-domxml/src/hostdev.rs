//! `<hostdev>`: a PCI function or a mediated device passed to the domain. Mirrors virDomainHostdevDef's parsing in
//! libvirt's src/conf/domain_conf.c and virPCIDeviceAddressParseXML.

use crate::error::DomXmlError;
use crate::read::{at, child};
use gpuslice_core::domain::{ALIAS_PREFIX, HostDevice, HostDeviceSource, parse_alias};
use gpuslice_core::ids::PciAddress;
use roxmltree::Node;

/// Reads one. `None` for what is not ours and of another kind or malformed.
pub(crate) fn read_hostdev(hostdev: Node) -> Result<Option<HostDevice>, DomXmlError> {
    let alias = alias_of(hostdev);
    let ours = alias.filter(|alias| alias.starts_with(ALIAS_PREFIX));
    let named = ours.is_none_or(|alias| parse_alias(alias).is_some());
    let source = match source_of(hostdev) {
        Ok(source) if named => source,
        read => {
            let Some(alias) = ours else {
                return Ok(None);
            };
            let why = read.err().unwrap_or("its alias names no claim");
            return Err(DomXmlError::Device {
                at: at(hostdev),
                alias: alias.chars().take(80).collect(),
                why: why.to_owned(),
            });
        }
    };
    // libvirt takes the attribute on mediated devices too, and passes it over.
    let managed =
        matches!(source, HostDeviceSource::Pci(_)) && hostdev.attribute("managed") == Some("yes");
    Ok(Some(HostDevice { source, alias: alias.map(str::to_owned), managed }))
}

/// What the aliases begin with that somebody gives; the others of a running domain libvirt has given itself
/// (virDomainDeviceAliasIsUserAlias).
const USER_ALIAS: &str = "ua-";

/// The alias that somebody gave a device.
pub(crate) fn alias_of<'a>(hostdev: Node<'a, '_>) -> Option<&'a str> {
    child(hostdev, "alias")?.attribute("name").filter(|alias| alias.starts_with(USER_ALIAS))
}

/// The `<address>` of the `<source>`, which is the host's; the one beside it is the guest's.
pub(crate) fn source_address<'a, 'i>(hostdev: Node<'a, 'i>) -> Option<Node<'a, 'i>> {
    child(child(hostdev, "source")?, "address")
}

/// What is passed, or why that cannot be said.
pub(crate) fn source_of(hostdev: Node) -> Result<HostDeviceSource, &'static str> {
    if hostdev.attribute("mode").unwrap_or("subsystem") != "subsystem" {
        return Err("its mode is not subsystem");
    }
    let address = source_address(hostdev).ok_or("it has no source address");
    match hostdev.attribute("type") {
        Some("mdev") => {
            let uuid = address?.attribute("uuid").ok_or("its source has no uuid")?;
            let uuid = uuid.parse().map_err(|_| "the uuid of its source is none")?;
            Ok(HostDeviceSource::Mdev(uuid))
        }
        Some("pci") => pci_address(address?).map(HostDeviceSource::Pci),
        _ => Err("it is neither of type mdev nor of type pci"),
    }
}

/// Names of the numbers of a PCI address.
pub(crate) const PCI_ATTRIBUTES: [&str; 4] = ["domain", "bus", "slot", "function"];

fn pci_address(address: Node) -> Result<PciAddress, &'static str> {
    if PCI_ATTRIBUTES.iter().all(|name| !address.has_attribute(*name)) {
        return Err("the address of its source is empty");
    }
    let number = |name| match address.attribute(name) {
        Some(text) => number(text).ok_or("the address of its source has a part that is no number"),
        None => Ok(0),
    };
    let narrow = |name| u8::try_from(number(name)?).map_err(|_| OUT_OF_RANGE);
    PciAddress::new(number("domain")?, narrow("bus")?, narrow("slot")?, narrow("function")?)
        .ok_or(OUT_OF_RANGE)
}

const OUT_OF_RANGE: &str = "the address of its source is out of range";

/// A number as strtoul(3) of base 0 takes it, which is how libvirt reads these.
fn number(text: &str) -> Option<u32> {
    let (digits, base) = match text.as_bytes() {
        [b'0', b'x' | b'X', ..] => (text.get(2..)?, 16),
        [b'0', _, ..] => (text.get(1..)?, 8),
        _ => (text, 10),
    };
    // from_str_radix would take a sign.
    let plain = digits.bytes().all(|byte| byte.is_ascii_alphanumeric());
    plain.then(|| u32::from_str_radix(digits, base).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_every_base_libvirt_takes() {
        for (text, want) in [
            ("0x41", Some(0x41)),
            ("0XfF", Some(0xff)),
            ("31", Some(31)),
            ("017", Some(15)),
            ("0", Some(0)),
            ("0x10001", Some(0x10001)),
            ("", None),
            ("0x", None),
            ("08", None),
            ("+1", None),
            ("-1", None),
            ("0x+1", None),
            (" 1", None),
            ("41h", None),
            ("0x100000000", None),
            ("٣", None),
        ] {
            assert_eq!(number(text), want, "{text:?}");
        }
    }
}
