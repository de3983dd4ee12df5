//! Puts our elements into a domain and takes them out, byte for byte: what stands around them stays. Taking out
//! what was put in gives the document back as it was.

use crate::error::DomXmlError;
use crate::hostdev::{PCI_ATTRIBUTES, alias_of, source_address, source_of};
use crate::read::{child, domain_of, hostdevs, is_plain, our_element};
use crate::remap::number_splices;
use crate::shape::parse;
use crate::splice::{Splice, apply, lead};
use crate::write::{Lines, alias_xml, claims_lines, hostdev_lines, laid_out, pci_values};
use gpuslice_core::domain::{ClaimRequest, HostDeviceSource};
use gpuslice_core::request::DeviceToWrite;
use roxmltree::Node;

/// The text of the hostdev with this alias.
///
/// # Errors
/// Not a well-formed domain within the limits.
pub fn device_xml<'a>(xml: &'a str, alias: &str) -> Result<Option<&'a str>, DomXmlError> {
    let document = parse(xml)?;
    let found = by_alias(domain_of(&document)?, alias);
    Ok(found.and_then(|hostdev| xml.get(hostdev.range())))
}

/// Makes the domain carry a device: the hostdev of its alias is given the new source and keeps its guest address
/// and everything else; without one, a new one is added behind the last device.
///
/// # Errors
/// Not a well-formed domain within the limits.
pub fn put_device(xml: &str, device: &DeviceToWrite) -> Result<String, DomXmlError> {
    let document = parse(xml)?;
    let domain = domain_of(&document)?;
    let splices = match by_alias(domain, &device.alias) {
        Some(hostdev) => replace(xml, hostdev, device),
        None => {
            let lines = hostdev_lines(device, &[]);
            vec![match child(domain, "devices") {
                Some(devices) => append(xml, devices, &lines),
                None => append(xml, domain, &within("devices", lines)),
            }]
        }
    };
    Ok(apply(xml, splices))
}

/// The text of the hostdev without an alias that passes this.
///
/// # Errors
/// Not a well-formed domain within the limits.
pub fn plain_device_xml(xml: &str, passed: HostDeviceSource) -> Result<Option<&str>, DomXmlError> {
    let document = parse(xml)?;
    let found = by_source(domain_of(&document)?, passed);
    Ok(found.and_then(|hostdev| xml.get(hostdev.range())))
}

/// Gives the hostdev without an alias that passes `passed` the alias and the source of a device of ours. Everything
/// else of it stays, `managed` too as long as it passes the same. A domain without one is returned as it is.
///
/// # Errors
/// Not a well-formed domain within the limits.
pub fn adopt_device(
    xml: &str,
    passed: HostDeviceSource,
    device: &DeviceToWrite,
) -> Result<String, DomXmlError> {
    let document = parse(xml)?;
    let Some(hostdev) = by_source(domain_of(&document)?, passed) else {
        return Ok(xml.to_owned());
    };
    let source = child(hostdev, "source").filter(|_| same_kind(passed, device.source));
    let Some(source) = source else { return Ok(apply(xml, rewritten(xml, hostdev, device))) };
    let mut splices = Vec::new();
    if passed != device.source {
        splices = replace(xml, hostdev, device);
    }
    splices.push(behind(xml, source, &vec![(0, alias_xml(&device.alias))]));
    Ok(apply(xml, splices))
}

/// Gives the hostdev of an alias another one. Everything else of it stays. A domain without one is returned as it is.
///
/// # Errors
/// Not a well-formed domain within the limits.
pub fn rename_device(xml: &str, alias: &str, new: &str) -> Result<String, DomXmlError> {
    let document = parse(xml)?;
    let hostdev = by_alias(domain_of(&document)?, alias);
    let named = hostdev.and_then(|hostdev| child(hostdev, "alias")?.attribute_node("name"));
    let splice = named.map(|name| Splice { range: name.range_value(), text: new.to_owned() });
    Ok(apply(xml, splice.into_iter().collect()))
}

/// Takes out the hostdev of an alias. A domain without one is returned as it is.
///
/// # Errors
/// Not a well-formed domain within the limits.
pub fn remove_device(xml: &str, alias: &str) -> Result<String, DomXmlError> {
    let document = parse(xml)?;
    let splices = by_alias(domain_of(&document)?, alias).map(|hostdev| removal(xml, hostdev));
    Ok(apply(xml, splices.into_iter().collect()))
}

/// Makes the domain ask for these claims and no others. No claims take the element out.
///
/// # Errors
/// Not a well-formed domain within the limits; our namespace twice or out of place. What stands within our element
/// is not judged: it goes.
pub fn put_claims(xml: &str, claims: &[ClaimRequest]) -> Result<String, DomXmlError> {
    if claims.is_empty() {
        return remove_claims(xml);
    }
    let document = parse(xml)?;
    let domain = domain_of(&document)?;
    let lines = claims_lines(claims);
    let splice = match (our_element(domain)?, child(domain, "metadata")) {
        (Some(element), _) => Splice {
            text: laid_out(&lines, lead(xml, element.range().start)),
            range: element.range(),
        },
        (None, Some(metadata)) => append(xml, metadata, &lines),
        (None, None) => {
            let lines = within("metadata", lines);
            // Where libvirt writes it: behind what says who the domain is.
            let identity = ["name", "uuid", "genid", "title", "description"];
            let before =
                domain.children().rfind(|node| identity.iter().any(|name| is_plain(*node, name)));
            match before {
                Some(node) => behind(xml, node, &lines),
                None => append(xml, domain, &lines),
            }
        }
    };
    Ok(apply(xml, vec![splice]))
}

/// Takes our metadata element out. A domain without one is returned as it is.
///
/// # Errors
/// As for [`put_claims`].
pub fn remove_claims(xml: &str) -> Result<String, DomXmlError> {
    let document = parse(xml)?;
    let splices = our_element(domain_of(&document)?)?.map(|element| removal(xml, element));
    Ok(apply(xml, splices.into_iter().collect()))
}

fn by_alias<'a, 'i>(domain: Node<'a, 'i>, alias: &str) -> Option<Node<'a, 'i>> {
    hostdevs(domain).find(|hostdev| alias_of(*hostdev) == Some(alias))
}

fn by_source<'a, 'i>(domain: Node<'a, 'i>, passed: HostDeviceSource) -> Option<Node<'a, 'i>> {
    let plain = |hostdev: &Node| alias_of(*hostdev).is_none();
    hostdevs(domain).filter(plain).find(|hostdev| source_of(*hostdev) == Ok(passed))
}

fn same_kind(one: HostDeviceSource, other: HostDeviceSource) -> bool {
    std::mem::discriminant(&one) == std::mem::discriminant(&other)
}

fn replace(xml: &str, hostdev: Node, device: &DeviceToWrite) -> Vec<Splice> {
    let (old, new) = (source_of(hostdev), device.source);
    if let (Ok(old), Some(address)) = (old, source_address(hostdev)) {
        match (old, new) {
            (HostDeviceSource::Mdev(old), HostDeviceSource::Mdev(new)) => {
                return number_splices(
                    xml,
                    address,
                    &["uuid"],
                    &[old.to_string()],
                    &[new.to_string()],
                );
            }
            (HostDeviceSource::Pci(old), HostDeviceSource::Pci(new)) => {
                let (old, new) = (pci_values(old), pci_values(new));
                let mut splices = number_splices(xml, address, &PCI_ATTRIBUTES, &old, &new);
                let managed = hostdev.attribute_node("managed");
                splices.extend(
                    managed
                        .filter(|found| found.value() != "no")
                        .map(|found| Splice { range: found.range_value(), text: "no".to_owned() }),
                );
                return splices;
            }
            _ => {}
        }
    }
    rewritten(xml, hostdev, device)
}

/// Of another kind or malformed: little of it has a meaning for the new one but where the guest sees it.
fn rewritten(xml: &str, hostdev: Node, device: &DeviceToWrite) -> Vec<Splice> {
    let kept = child(hostdev, "address").and_then(|address| xml.get(address.range()));
    let lines = hostdev_lines(device, kept.as_slice());
    vec![Splice {
        text: laid_out(&lines, lead(xml, hostdev.range().start)),
        range: hostdev.range(),
    }]
}

fn within(element: &str, lines: Lines) -> Lines {
    let mut all = vec![(0, format!("<{element}>"))];
    all.extend(lines.into_iter().map(|(depth, line)| (depth + 1, line)));
    all.push((0, format!("</{element}>")));
    all
}

/// Right behind an element, on a line of its own if that one is.
fn behind(xml: &str, node: Node, lines: &Lines) -> Splice {
    let lead = lead(xml, node.range().start);
    let end = node.range().end;
    Splice { range: end..end, text: format!("{lead}{}", laid_out(lines, lead)) }
}

/// As the last element within another.
fn append(xml: &str, parent: Node, lines: &Lines) -> Splice {
    if let Some(last) = parent.last_element_child() {
        return behind(xml, last, lines);
    }
    let range = parent.range();
    let text = xml.get(range.clone()).unwrap_or_default();
    let outer = lead(xml, range.start);
    let inner = if outer.is_empty() { String::new() } else { format!("{outer}  ") };
    let lines = laid_out(lines, &inner);
    match text.strip_suffix("/>") {
        // `<devices/>` becomes a pair of tags.
        Some(open) => {
            let name = parent.tag_name().name();
            let at = range.start + open.len();
            Splice { range: at..range.end, text: format!(">{inner}{lines}{outer}</{name}>") }
        }
        None => {
            // Behind the comments and white space, if any, and before the line of the end tag.
            let close = range.start + text.rfind("</").unwrap_or(text.len());
            let at = close - lead(xml, close).len();
            let outer = if at == close { outer } else { "" };
            Splice { range: at..at, text: format!("{inner}{lines}{outer}") }
        }
    }
}

/// An element with the line break and indentation before it.
fn removal(xml: &str, node: Node) -> Splice {
    let range = node.range();
    let start = range.start - lead(xml, range.start).len();
    Splice { range: start..range.end, text: String::new() }
}
