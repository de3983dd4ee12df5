//! Whose VFs a file makes that writes `sriov_numvfs`: a network card's are nobody's business here, and without them its
//! host may not be reached.

use super::facts::Host;
use super::pci::Device;

/// Words of whoever makes VFs.
pub const MAKING_VFS: [&str; 2] = ["sriov-manage", "sriov_numvfs"];

/// Proxmox VE's unit, whose program calls NVIDIA's tool.
pub const PVE_UNIT: &str = "/pve-nvidia-sriov@";

/// Lines of a file that make VFs of GPUs.
#[derive(Debug)]
pub struct Lines {
    /// The word by which they are found.
    pub word: &'static str,
    /// `of GPU 0000:51:00.0`, as far as it is known which.
    pub of: String,
    /// Others beside them make VFs of something else.
    pub mixed: bool,
}

impl Lines {
    /// How they go.
    pub fn mend(&self, file: &str) -> String {
        let Self { word, of, .. } = self;
        format!("take the lines with {word}{of} out of {file}")
    }
}

/// Whose a text says that they are.
#[derive(Debug, Clone, Copy)]
enum Whose<'a> {
    Gpu(&'a Device),
    SomeGpu,
    Others,
    Unsaid,
}

/// What of a text makes VFs of a GPU, where this host has one. A line that does not say whose is judged by the whole text,
/// and where that does not say either, it may be a GPU.
pub fn lines(host: &Host, text: &str) -> Option<Lines> {
    if !host.devices.iter().any(Device::is_sliced) {
        return None;
    }
    // What a shell or systemd is told to take as it is.
    let text = &text.replace('\\', "");
    let made = text.lines().filter_map(|line| {
        let word = MAKING_VFS.into_iter().find(|word| line.contains(word))?;
        let said = whose(host, line);
        Some((word, if matches!(said, Whose::Unsaid) { whose(host, text) } else { said }))
    });
    let made: Vec<_> = made.collect();
    let (word, whose) = *made.iter().find(|(_, whose)| !matches!(whose, Whose::Others))?;
    let of = match whose {
        Whose::Gpu(gpu) => format!(" of GPU {}", gpu.address),
        Whose::SomeGpu if word == "sriov_numvfs" => " of GPUs".to_owned(),
        _ => String::new(),
    };
    Some(Lines { word, of, mixed: made.iter().any(|(_, whose)| matches!(whose, Whose::Others)) })
}

fn whose<'a>(host: &'a Host, text: &str) -> Whose<'a> {
    if text.contains("sriov-manage") {
        return Whose::SomeGpu;
    }
    let gpus = || host.devices.iter().filter(|device| device.is_sliced());
    let part = |sign: char| !sign.is_ascii_alphanumeric() && !"_-.:".contains(sign);
    let words: Vec<&str> = text.split(part).filter(|word| !word.is_empty()).collect();
    let addresses: Vec<String> = words.iter().filter_map(|word| address(word)).collect();
    let named = |gpu: &&Device| addresses.iter().any(|a| gpu.address.starts_with(a));
    if let Some(gpu) = gpus().find(named) {
        return Whose::Gpu(gpu);
    }
    // A class of devices by its folder; a GPU's is drm.
    let of_class = text.split("class/").skip(1).any(|rest| !rest.starts_with("drm"));
    let of_network = || words.iter().any(|word| is_of_network(host, word));
    if !addresses.is_empty() || of_class || of_network() {
        return Whose::Others;
    }
    if let Some(said) = words.iter().find_map(|word| by_id(host, word)) {
        return said;
    }
    let on = |word: &&str| *word == "drm" || gpus().any(|gpu| gpu.driver.as_deref() == Some(*word));
    if words.iter().any(on) {
        return Whose::SomeGpu;
    }
    let lower = text.to_ascii_lowercase();
    let network = ["network", "ethernet", "infiniband"].iter().any(|word| lower.contains(word));
    if network { Whose::Others } else { Whose::Unsaid }
}

/// The function that a word names, or the slot: `0000:51:00.0`, `51:00.0`, `0000:51:00`.
fn address(word: &str) -> Option<String> {
    let word = word.trim_end_matches(['.', ':']).to_ascii_lowercase();
    let mut dotted = word.split('.');
    let slot: Vec<&str> = dotted.next()?.split(':').collect();
    let function = dotted.next();
    if function.is_some_and(|function| !is_hex(function, 1)) {
        return None;
    }
    let slot = match slot.as_slice() {
        [domain, bus, slot] if is_hex(domain, 4) && is_hex(bus, 2) && is_hex(slot, 2) => {
            format!("{domain}:{bus}:{slot}")
        }
        [bus, slot] if is_hex(bus, 2) && is_hex(slot, 2) && function.is_some() => {
            format!("0000:{bus}:{slot}")
        }
        _ => return None,
    };
    Some(function.map_or_else(|| format!("{slot}."), |function| format!("{slot}.{function}")))
}

fn is_hex(text: &str, length: usize) -> bool {
    text.len() == length && text.chars().all(|sign| sign.is_ascii_hexdigit())
}

/// The class, an interface, a driver of a card, or a card's own address.
fn is_of_network(host: &Host, word: &str) -> bool {
    let of_card = |device: &Device| device.is_network() && device.driver.as_deref() == Some(word);
    let octets: Vec<&str> = word.split(':').collect();
    matches!(word, "net" | "nic" | "nics" | "NIC" | "NICs")
        || host.interfaces.contains(word)
        || host.devices.iter().any(of_card)
        || octets.len() == 6 && octets.iter().all(|octet| is_hex(octet, 2))
}

/// By ids as udev and lspci write them; a vendor alone says nothing, as it may make both.
fn by_id<'a>(host: &'a Host, word: &str) -> Option<Whose<'a>> {
    let number = |text: &str| u16::from_str_radix(text, 16).ok().filter(|_| is_hex(text, 4));
    let mut gpus = host.devices.iter().filter(|device| device.is_sliced());
    let (vendor, device) = match word.strip_prefix("0x") {
        Some(class) if is_hex(class, 6) => {
            return Some(if class.starts_with("03") { Whose::SomeGpu } else { Whose::Others });
        }
        Some(id) => (None, number(id)?),
        None => {
            let (vendor, device) = word.split_once(':')?;
            (Some(number(vendor)?), number(device)?)
        }
    };
    if vendor.is_none() && host.devices.iter().any(|gpu| gpu.is_sliced() && gpu.vendor == device) {
        return None;
    }
    let is = |gpu: &&Device| gpu.device == device && vendor.is_none_or(|v| v == gpu.vendor);
    Some(gpus.find(is).map_or(Whose::Others, Whose::Gpu))
}
