//! Writes other functions into a domain that comes from elsewhere, by migration or from a saved image. libvirt
//! honours a hook's output there and compares the rest, so nothing else may change.

use crate::error::DomXmlError;
use crate::hostdev::{PCI_ATTRIBUTES, source_address, source_of};
use crate::read::{domain_of, hostdevs};
use crate::shape::parse;
use crate::splice::{Splice, apply};
use crate::write::pci_values;
use gpuslice_core::domain::HostDeviceSource;
use gpuslice_core::ids::PciAddress;
use roxmltree::Node;
use std::collections::BTreeMap;

/// The domain with each hostdev whose function is in the map given the new one, all at once: functions may be
/// swapped. Equal to the input if none is.
///
/// # Errors
/// Not a well-formed domain within the limits.
pub fn remap_pci(xml: &str, map: &BTreeMap<PciAddress, PciAddress>) -> Result<String, DomXmlError> {
    let document = parse(xml)?;
    let mut splices = Vec::new();
    for hostdev in hostdevs(domain_of(&document)?) {
        if let Ok(HostDeviceSource::Pci(old)) = source_of(hostdev)
            && let Some(new) = map.get(&old)
            && let Some(address) = source_address(hostdev)
        {
            let (old, new) = (pci_values(old), pci_values(*new));
            splices.extend(number_splices(xml, address, &PCI_ATTRIBUTES, &old, &new));
        }
    }
    Ok(apply(xml, splices))
}

/// Gives attributes of an element the values that differ; those it lacks come right behind its name.
pub(crate) fn number_splices(
    xml: &str,
    element: Node,
    names: &[&str],
    old: &[String],
    new: &[String],
) -> Vec<Splice> {
    let mut splices = Vec::new();
    let start = element.range().start;
    let tag = xml.get(start..).unwrap_or_default();
    // `<address` in whatever prefix: up to the first byte that is not of the name.
    let name_end =
        tag.find(|c: char| c.is_whitespace() || c == '/' || c == '>').unwrap_or(tag.len());
    let mut lacking = String::new();
    for ((name, old), new) in names.iter().zip(old).zip(new) {
        if old == new {
            continue;
        }
        match element.attribute_node(*name) {
            Some(found) => splices.push(Splice { range: found.range_value(), text: new.clone() }),
            None => lacking.push_str(&format!(" {name}='{new}'")),
        }
    }
    if !lacking.is_empty() {
        let at = start + name_end;
        splices.push(Splice { range: at..at, text: lacking });
    }
    splices
}
