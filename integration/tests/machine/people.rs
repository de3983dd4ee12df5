//! How people and their programs write XML: `virsh edit`, virt-manager's dialogs, virt-clone, `virsh metadata`. Each in a
//! style of its own, none of it libvirt's.

use gpuslice_core::domain::{ClaimRequest, Domain, HostDeviceSource, NAMESPACE, parse_alias};
use gpuslice_core::ids::PciAddress;
use gpuslice_domxml::claims_for_set_metadata;
use roxmltree::{Document, Node};
use std::ops::Range;
use uuid::Uuid;

/// virt-clone, and a definition from another domain's dumpxml: all of it but for who it is.
pub fn copied(text: &str, name: &str, uuid: Uuid) -> String {
    let text = with(text, "name", name);
    with(&text, "uuid", &uuid.to_string())
}

pub fn renamed(text: &str) -> String {
    let document = Document::parse(text).unwrap();
    let node = document.descendants().find(|node| node.has_tag_name("name")).unwrap();
    let name = node.text().unwrap();
    let new = match name.strip_suffix("-new") {
        Some(old) => old.to_owned(),
        None => format!("{name}-new"),
    };
    with(text, "name", &new)
}

/// Takes our devices out.
pub fn without_hostdevs(text: &str) -> String {
    cut(text, is_our_device)
}

/// Writes the address of a VF into the first of our devices, a PCI function from then on.
pub fn moved(text: &str, vf: PciAddress) -> String {
    let document = Document::parse(text).unwrap();
    let ours = document.descendants().find(|node| is_our_device(*node));
    let Some(hostdev) = ours else { return text.to_owned() };
    let source = hostdev.children().find(|node| node.has_tag_name("source")).unwrap();
    let kind = hostdev.attribute_node("type").unwrap();
    let new = source_written(HostDeviceSource::Pci(vf));
    spliced(text, &[(kind.range_value(), "pci"), (source.range(), &new)])
}

pub fn managed(text: &str, yes: bool) -> String {
    let (from, to) = if yes { ("'no'", "'yes'") } else { ("'yes'", "'no'") };
    text.replace(&format!("managed={from}"), &format!("managed={to}"))
}

pub fn without_metadata(text: &str) -> String {
    cut(text, |node| node.tag_name().namespace() == Some(NAMESPACE))
}

/// Our whole element and our devices, as somebody writes them who has read the manual: an Ansible role, Terraform.
pub fn defined_as(text: &str, domain: &Domain) -> String {
    let without = cut(&without_metadata(text), |node| {
        node.has_tag_name("hostdev") || node.has_tag_name("metadata") && elements(node) == 0
    });
    let hostdevs: String = domain
        .devices
        .iter()
        .map(|device| hostdev_written(device.source, device.alias.as_deref(), device.managed))
        .collect();
    let claims = match domain.claims.as_slice() {
        [] => String::new(),
        claims => {
            let within = claims_written(claims);
            let within = within.replace("<c", "<g:c").replace("</c", "</g:c");
            let open = format!("<g:claims xmlns:g='{NAMESPACE}'>");
            format!("<metadata>{}</metadata>", within.replacen("<g:claims>", &open, 1))
        }
    };
    let text = without.replacen("</uuid>", &format!("</uuid><!-- GPU -->{claims}"), 1);
    text.replacen("</devices>", &format!("\n<!-- GPU -->{hostdevs}</devices>"), 1)
}

/// What somebody gives to `virsh metadata --set`.
pub fn claims_written(claims: &[ClaimRequest]) -> String {
    let simple = |claim: &ClaimRequest| !claim.asks_for_more();
    if !claims.iter().all(simple) {
        return claims_for_set_metadata(claims);
    }
    let written = |claim: &ClaimRequest| {
        let profile = claim.profile.as_ref().unwrap();
        let count =
            if claim.count == 1 { String::new() } else { format!(" count='{}'", claim.count) };
        format!("<claim{count} profile=\"{profile}\"\n   name='{}' />", claim.name)
    };
    format!("<claims>{}</claims>", claims.iter().map(written).collect::<String>())
}

/// A device of whoever does not care for quotes, lines and leading zeros.
pub fn hostdev_written(source: HostDeviceSource, alias: Option<&str>, managed: bool) -> String {
    let managed = if managed { "yes" } else { "no" };
    let kind = match source {
        HostDeviceSource::Mdev(_) => "type=\"mdev\" model='vfio-pci' display=\"off\"",
        HostDeviceSource::Pci(_) => "type=\"pci\"",
    };
    let alias = alias.map(|alias| format!("<alias name=\"{alias}\"/>")).unwrap_or_default();
    let source = source_written(source);
    format!("<hostdev mode='subsystem' managed='{managed}' {kind}>{alias}{source}</hostdev>")
}

fn source_written(source: HostDeviceSource) -> String {
    match source {
        HostDeviceSource::Mdev(uuid) => format!("<source><address uuid=\"{uuid}\"/></source>"),
        HostDeviceSource::Pci(at) => format!(
            "<source><address function='0x{:x}' slot=\"{}\" bus='0x{:x}' domain='{}' /></source>",
            at.function(),
            at.device(),
            at.bus(),
            at.domain(),
        ),
    }
}

fn is_our_device(node: Node) -> bool {
    let alias = node.children().find(|child| child.has_tag_name("alias"));
    let alias = alias.and_then(|alias| alias.attribute("name"));
    node.has_tag_name("hostdev") && alias.and_then(parse_alias).is_some()
}

fn elements(node: Node) -> usize {
    node.children().filter(Node::is_element).count()
}

/// The text of the first element of a name.
fn with(text: &str, element: &str, new: &str) -> String {
    let document = Document::parse(text).unwrap();
    let node = document.descendants().find(|node| node.has_tag_name(element)).unwrap();
    spliced(text, &[(node.first_child().unwrap().range(), new)])
}

/// Without these elements and what is in them.
fn cut(text: &str, gone: impl Fn(Node) -> bool) -> String {
    let document = Document::parse(text).unwrap();
    let mut ranges: Vec<Range<usize>> = Vec::new();
    for node in document.descendants().filter(|node| node.is_element() && gone(*node)) {
        if ranges.last().is_none_or(|last| last.end <= node.range().start) {
            ranges.push(node.range());
        }
    }
    let cuts: Vec<_> = ranges.into_iter().map(|range| (range, "")).collect();
    spliced(text, &cuts)
}

fn spliced(text: &str, changes: &[(Range<usize>, &str)]) -> String {
    let mut out = text.to_owned();
    for (range, new) in changes.iter().rev() {
        out.replace_range(range.clone(), new);
    }
    out
}
