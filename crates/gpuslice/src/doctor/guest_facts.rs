//! A VM as its XML says it. Read from libvirt's own folder, so that libvirt need not answer.

use super::system::System;
use super::tree::Tree;
use gpuslice_core::domain::Domain;
use gpuslice_core::hint;
use gpuslice_core::refusal::{Code, Refusal};
use roxmltree::{Document, Node, ParsingOptions};
use std::collections::BTreeSet;

/// A VM.
#[derive(Debug)]
pub struct Guest {
    /// Its name.
    pub name: String,
    /// What of it is ours to know, or why that has no meaning.
    pub domain: Result<Domain, String>,
    /// `<os><type machine=…>`.
    pub machine: String,
    /// It boots with UEFI.
    pub uefi: bool,
    /// It knows how much the processor addresses, or was told how large the window is.
    pub wide: bool,
    /// KiB.
    pub memory: Option<u64>,
    /// KiB.
    pub hard_limit: Option<u64>,
    /// It has an IOMMU of its own.
    pub viommu: bool,
    /// It makes a device of VFIO's in `<qemu:commandline>`.
    pub behind_libvirt: bool,
    /// How many pcie-root-ports are free, where any is written: libvirt adds some to a domain that it is given without.
    pub free_ports: Option<usize>,
}

/// Finds a VM by name, id, UUID, or as a file with its XML.
///
/// # Errors
/// `unknown` when there is none, `bad-request` when it is no XML of a domain.
pub fn find(tree: &Tree, domain: &str) -> Result<Guest, Refusal> {
    if domain.contains('/') {
        let text = std::fs::read_to_string(domain).map_err(|error| {
            let message = format!("{domain} cannot be read");
            Refusal::new(Code::BadRequest, message)
                .because(error.to_string())
                .hint(hint!("name a file that virsh dumpxml wrote"))
        })?;
        return read(domain, &text);
    }
    let folder = System::of(tree).domains();
    let of_id = of_id(tree, domain);
    let domain = of_id.as_deref().unwrap_or(domain);
    let named = tree.text(&format!("{folder}/{domain}.xml"));
    let by_uuid = || {
        let mut texts = tree.files(folder, ".xml").filter_map(|file| tree.text(&file));
        texts.find(|text| text.contains(&format!("<uuid>{domain}</uuid>")))
    };
    match named.or_else(by_uuid) {
        Some(text) => read(domain, &text),
        None if !tree.denied().is_empty() => {
            let message = format!("{folder} may not be read");
            Err(Refusal::new(Code::NotPermitted, message)
                .hint(hint!("sudo gpuslice doctor {}", domain)))
        }
        None if tree.exists(&format!("/etc/pve/qemu-server/{domain}.conf")) => {
            let message = format!("{domain} is a guest of Proxmox VE, which is not looked at");
            Err(Refusal::new(Code::Unsupported, message)
                .hint(hint!("gpuslice doctor (it looks at the mappings of Proxmox VE)")))
        }
        None => {
            let message = format!("no domain {domain} is defined below {folder}");
            Err(Refusal::new(Code::Unknown, message).hint(hint!("name one of virsh list --all")))
        }
    }
}

/// Where libvirt keeps what it has to know of each VM that runs: `<domstatus>` around the domain.
const RUNNING: &str = "/run/libvirt/qemu";

/// Name of the VM that runs under a number, as virsh shows it.
fn of_id(tree: &Tree, id: &str) -> Option<String> {
    id.parse::<u32>().ok()?;
    tree.files(RUNNING, ".xml").find_map(|file| {
        let text = tree.text(&file)?;
        let document = document(&text).ok()?;
        let domain = child(document.root_element(), "domain")?;
        let name = child(domain, "name")?.text()?;
        (domain.attribute("id") == Some(id)).then(|| name.to_owned())
    })
}

fn document(text: &str) -> Result<Document<'_>, roxmltree::Error> {
    let options = ParsingOptions { allow_dtd: false, ..ParsingOptions::default() };
    Document::parse_with_options(text, options)
}

fn read(name: &str, text: &str) -> Result<Guest, Refusal> {
    let document = document(text).map_err(|error| {
        Refusal::new(Code::BadRequest, format!("{name} is no XML"))
            .because(error.to_string())
            .hint(hint!("name a file that virsh dumpxml wrote"))
    })?;
    let root = document.root_element();
    let os = child(root, "os");
    let loader = os.and_then(|os| child(os, "loader")).and_then(|l| l.attribute("type"));
    let machine = os.and_then(|os| child(os, "type")).and_then(|t| t.attribute("machine"));
    let memtune = child(root, "memtune").and_then(|memtune| child(memtune, "hard_limit"));
    Ok(Guest {
        name: child(root, "name").and_then(|n| n.text()).unwrap_or(name).to_owned(),
        domain: gpuslice_domxml::read_domain(text).map_err(|error| error.to_string()),
        machine: machine.unwrap_or_default().to_owned(),
        uefi: loader == Some("pflash") || os.and_then(|os| os.attribute("firmware")) == Some("efi"),
        wide: wide(root),
        memory: child(root, "memory").and_then(kib),
        hard_limit: memtune.and_then(kib),
        viommu: child(root, "devices").is_some_and(|devices| child(devices, "iommu").is_some()),
        behind_libvirt: arguments(root).any(|argument| {
            argument.starts_with("vfio-pci,") || argument.contains("\"driver\":\"vfio-pci")
        }),
        free_ports: free_ports(root),
    })
}

fn child<'a, 'i>(node: Node<'a, 'i>, name: &str) -> Option<Node<'a, 'i>> {
    node.children().find(|child| child.has_tag_name(name))
}

/// A size as libvirt reads it; KiB without a unit (its docs/formatdomain.rst).
fn kib(size: Node) -> Option<u64> {
    let number: u64 = size.text()?.trim().parse().ok()?;
    let unit = size.attribute("unit").unwrap_or("KiB");
    let bytes: u64 = match unit {
        "b" | "bytes" => 1,
        "KB" => 1000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        "TB" => 1_000_000_000_000,
        "M" | "MiB" => 1 << 20,
        "G" | "GiB" => 1 << 30,
        "T" | "TiB" => 1 << 40,
        _ => 1 << 10,
    };
    Some(number.saturating_mul(bytes) >> 10)
}

/// The processor's width reaches the guest, or its firmware was told.
fn wide(root: Node) -> bool {
    let cpu = child(root, "cpu");
    let host = cpu
        .is_some_and(|cpu| matches!(cpu.attribute("mode"), Some("host-passthrough" | "maximum")));
    let width = cpu.and_then(|cpu| child(cpu, "maxphysaddr")).is_some();
    let told = arguments(root).any(|argument| argument.contains("X-PciMmio64Mb"));
    host || width || told
}

/// What QEMU is told past libvirt.
fn arguments<'a>(root: Node<'a, '_>) -> impl Iterator<Item = &'a str> {
    let told = root.descendants().filter(|node| node.tag_name().name() == "arg");
    told.filter_map(|argument| argument.attribute("value"))
}

/// Root ports that no device sits on.
fn free_ports(root: Node) -> Option<usize> {
    let devices = child(root, "devices")?;
    let ports = devices.children().filter(|node| {
        node.has_tag_name("controller") && node.attribute("model") == Some("pcie-root-port")
    });
    let indexes: BTreeSet<u32> =
        ports.filter_map(|port| port.attribute("index")?.parse().ok()).collect();
    let used: BTreeSet<u32> = devices
        .children()
        .filter_map(|device| child(device, "address"))
        .filter(|address| matches!(address.attribute("type"), Some("pci") | None))
        .filter_map(|address| address.attribute("bus"))
        .filter_map(|bus| u32::from_str_radix(bus.trim_start_matches("0x"), 16).ok())
        .collect();
    (!indexes.is_empty()).then(|| indexes.difference(&used).count())
}
