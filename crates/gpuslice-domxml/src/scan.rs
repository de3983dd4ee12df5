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
    let holds = |text: &[u8]| memmem::find(xml, text).is_some();
    Scan {
        ours: holds(NAMESPACE.as_bytes()) || holds(ALIAS_PREFIX.as_bytes()),
        hostdev: holds(b"<hostdev"),
    }
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
}
