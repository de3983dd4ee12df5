//! What we write into a domain, in libvirt's own style (single quotes, two blanks), so that what libvirt gives back
//! looks the same.

use gpuslice_core::domain::{ClaimRequest, HostDeviceSource, NAMESPACE};
use gpuslice_core::ids::PciAddress;
use gpuslice_core::request::DeviceToWrite;
use std::fmt::Write as _;

/// Lines, each with its depth of indentation.
pub(crate) type Lines = Vec<(usize, String)>;

/// Joins lines by a line break and indentation as found in a document; everything on one line if there is none.
pub(crate) fn laid_out(lines: &Lines, lead: &str) -> String {
    let mut out = String::new();
    for (n, (depth, line)) in lines.iter().enumerate() {
        if n > 0 && !lead.is_empty() {
            out.push_str(lead);
            out.push_str(&"  ".repeat(*depth));
        }
        out.push_str(line);
    }
    out
}

/// A `<hostdev>` of ours. It has no guest address: libvirt picks one and keeps it.
pub fn hostdev_xml(device: &DeviceToWrite) -> String {
    laid_out(&hostdev_lines(device, &[]), "\n")
}

/// A `<hostdev>` with elements kept from an earlier one.
pub(crate) fn hostdev_lines(device: &DeviceToWrite, kept: &[&str]) -> Lines {
    let attributes = match device.source {
        HostDeviceSource::Mdev(_) => "type='mdev' model='vfio-pci'",
        HostDeviceSource::Pci(_) => "type='pci' managed='no'",
    };
    let mut lines = vec![
        (0, format!("<hostdev mode='subsystem' {attributes}>")),
        (1, "<source>".to_owned()),
        (2, source_address_xml(device.source)),
        (1, "</source>".to_owned()),
        (1, alias_xml(&device.alias)),
    ];
    lines.extend(kept.iter().map(|element| (1, (*element).to_owned())));
    lines.push((0, "</hostdev>".to_owned()));
    lines
}

pub(crate) fn alias_xml(alias: &str) -> String {
    format!("<alias name='{}'/>", escaped(alias))
}

fn source_address_xml(source: HostDeviceSource) -> String {
    match source {
        HostDeviceSource::Mdev(uuid) => format!("<address uuid='{uuid}'/>"),
        HostDeviceSource::Pci(address) => {
            let [domain, bus, slot, function] = pci_values(address);
            format!("<address domain='{domain}' bus='{bus}' slot='{slot}' function='{function}'/>")
        }
    }
}

/// The numbers of an address as libvirt writes them, in the order of `PCI_ATTRIBUTES`.
pub(crate) fn pci_values(address: PciAddress) -> [String; 4] {
    [
        format!("{:#06x}", address.domain()),
        format!("{:#04x}", address.bus()),
        format!("{:#04x}", address.device()),
        format!("{:#x}", address.function()),
    ]
}

/// Our metadata element, whole, as it stands in a domain.
pub fn claims_xml(claims: &[ClaimRequest]) -> String {
    laid_out(&claims_lines(claims), "\n")
}

/// Our metadata element as virDomainSetMetadata wants it: without prefixes, which libvirt adds itself and refuses
/// to find.
pub fn claims_for_set_metadata(claims: &[ClaimRequest]) -> String {
    let open = "<claims>".to_owned();
    laid_out(&claims_between(claims, open, ""), "\n")
}

pub(crate) fn claims_lines(claims: &[ClaimRequest]) -> Lines {
    let open = format!("<gpuslice:claims xmlns:gpuslice='{NAMESPACE}'>");
    claims_between(claims, open, "gpuslice:")
}

fn claims_between(claims: &[ClaimRequest], open: String, prefix: &str) -> Lines {
    let mut lines = vec![(0, open)];
    for claim in claims {
        claim_lines(claim, prefix, &mut lines);
    }
    lines.push((0, format!("</{prefix}claims>")));
    lines
}

fn claim_lines(claim: &ClaimRequest, prefix: &str, lines: &mut Lines) {
    let mut open = format!("<{prefix}claim name='{}'", claim.name);
    // Writing to a String cannot fail.
    if let Some(profile) = &claim.profile {
        let _ = write!(open, " profile='{profile}'");
    }
    if claim.count != 1 {
        let _ = write!(open, " count='{}'", claim.count);
    }
    if claim.same_fabric {
        open.push_str(" fabric='same'");
    }
    if claim.require_numa.is_some() {
        open.push_str(" numa='require'");
    } else if claim.prefer_numa {
        open.push_str(" numa='prefer'");
    }
    if let Some(parameters) = &claim.parameters {
        let _ = write!(open, " parameters='{parameters}'");
    }
    let mut children = Vec::new();
    if let Some(bytes) = claim.memory_min {
        let (min, unit) = in_largest_unit(bytes);
        children.push(format!("<{prefix}memory min='{min}' unit='{unit}'/>"));
    }
    if let Some(isolation) = &claim.isolation_min {
        children.push(format!("<{prefix}isolation min='{}'/>", escaped(isolation)));
    }
    if children.is_empty() {
        lines.push((1, format!("{open}/>")));
        return;
    }
    lines.push((1, format!("{open}>")));
    lines.extend(children.into_iter().map(|child| (2, child)));
    lines.push((1, format!("</{prefix}claim>")));
}

fn in_largest_unit(bytes: u64) -> (u64, &'static str) {
    [(1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")]
        .into_iter()
        .find(|(unit, _)| bytes.is_multiple_of(*unit))
        .map_or((bytes, "bytes"), |(unit, name)| (bytes / unit, name))
}

/// Text within single quotes.
fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('\'', "&apos;")
}
