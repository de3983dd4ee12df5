//! Whether a document concerns us at all, from its bytes alone: most domains do not, and libvirt waits.

use gpuslice_core::domain::{ALIAS_PREFIX, NAMESPACE};
use memchr::memmem;

/// What the bytes of a document hold, wherever they stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scan {
    /// Our namespace, or the beginning of an alias of ours.
    pub ours: bool,
    /// A hostdev.
    pub hostdev: bool,
}

impl Scan {
    /// Whether it is worth parsing.
    pub fn concerns_us(self) -> bool {
        self.ours || self.hostdev
    }
}

/// Looks for our namespace and for hostdevs. It may find them where they mean nothing, in a comment; it never
/// misses one that libvirt wrote.
pub fn scan(xml: &[u8]) -> Scan {
    let holds = |text: &[u8]| holds(xml, text);
    Scan {
        ours: holds(NAMESPACE.as_bytes()) || holds(ALIAS_PREFIX.as_bytes()),
        hostdev: holds(b"<hostdev"),
    }
}

/// Whether the bytes hold a text, found without asking the processor what it can: in a virtual machine each such question
/// leaves the machine, and together they take longer than the search.
#[cfg(target_arch = "x86_64")]
fn holds(bytes: &[u8], text: &[u8]) -> bool {
    use memchr::arch::x86_64::sse2::packedpair::Finder;
    match Finder::new(text) {
        Some(finder) if bytes.len() >= finder.min_haystack_len() => {
            finder.find(bytes, text).is_some()
        }
        _ => memmem::find(bytes, text).is_some(),
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn holds(bytes: &[u8], text: &[u8]) -> bool {
    memmem::find(bytes, text).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_ours_and_hostdevs_only() {
        for (xml, ours, hostdev) in [
            (&b""[..], false, false),
            (b"<domain><devices/></domain>", false, false),
            (b"\xff\xfe<\0h\0", false, false),
            (b"<hostde", false, false),
            (b"\xff<hostdev mode='subsystem'", false, true),
            (b"xmlns:g='urn:gpuslice:domain:1'", true, false),
            (b"<alias name='ua-gpuslice-a'/>", true, false),
            (b"<hostdev/>urn:gpuslice:domain:1", true, true),
        ] {
            let found = scan(xml);
            assert_eq!(found, Scan { ours, hostdev }, "{xml:?}");
            assert_eq!(found.concerns_us(), ours || hostdev);
        }
    }

    #[test]
    fn finds_what_stands_at_any_place_of_a_text_of_any_length() {
        let text = b"<hostdev";
        for length in 0..100 {
            let blank = vec![b'<'; length];
            assert!(!scan(&blank).hostdev);
            for at in 0..(length + 1).saturating_sub(text.len()) {
                let mut xml = blank.clone();
                xml[at..at + text.len()].copy_from_slice(text);
                assert!(scan(&xml).hostdev, "{length} bytes, at {at}");
                assert!(!scan(&xml[..at + text.len() - 1]).hostdev, "cut off at {at}");
            }
        }
    }
}
