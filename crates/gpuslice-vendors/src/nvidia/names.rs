//! From the vendor's names of types to ours, and what a name tells of a type.

use gpuslice_core::ids::ProfileName;

/// Our name of a type: `NVIDIA A40-8Q` and `GRID A40-8Q` are `nvidia-a40-8q`, whichever framework shows them, so that
/// a request means the same before and after a change of driver.
pub(crate) fn profile_of_type(name: &str) -> Option<ProfileName> {
    let name =
        ["NVIDIA ", "GRID "].iter().find_map(|brand| name.strip_prefix(brand)).unwrap_or(name);
    let plain = |c: char| if c.is_ascii_alphanumeric() || c == '-' || c == '.' { c } else { '-' };
    let words: String = name.trim().chars().map(|c| plain(c.to_ascii_lowercase())).collect();
    let words: Vec<&str> = words.split('-').filter(|word| !word.is_empty()).collect();
    if words.is_empty() {
        return None;
    }
    format!("nvidia-{}", words.join("-")).parse().ok()
}

/// What the last part of a name says: `8Q`, or `1-10CME` on a MIG GPU instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Size {
    /// Gigabytes as in the name; what the guest sees can be a little less.
    pub gb: u32,
    /// Compute slices of the GPU instance it needs; `None` for a time slice of the whole GPU.
    pub mig: Option<u32>,
}

/// Reads the size from the end of a name; names of products contain hyphens and numbers of their own.
pub(super) fn size(name: &str) -> Option<Size> {
    let mut parts = name.rsplit('-');
    let last = parts.next()?;
    let digits = last.find(|c: char| !c.is_ascii_digit())?;
    let (gb, series) = last.split_at(digits);
    let known = ["A", "B", "C", "Q", "CME", "CNOME", "QME", "CMEALL", "CGFX", "QGFX"];
    if !known.contains(&series) {
        return None;
    }
    let gb = gb.parse().ok()?;
    // Between product and size; a number alone there is a count of compute slices, and no product ends in one.
    let mig =
        parts.next().and_then(|part| part.parse().ok()).filter(|slices| (1..=8).contains(slices));
    Some(Size { gb, mig })
}

impl Size {
    /// Bytes of framebuffer by the name. A size of 0 stands for 512 MB.
    pub(super) fn bytes(self) -> u64 {
        if self.gb == 0 { 512 << 20 } else { u64::from(self.gb) << 30 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_name_whichever_framework_shows_the_type() {
        for (theirs, ours) in [
            ("NVIDIA A40-8Q", "nvidia-a40-8q"),
            ("GRID T4-2Q", "nvidia-t4-2q"),
            ("NVIDIA RTX Pro 6000 Blackwell DC-1-24Q", "nvidia-rtx-pro-6000-blackwell-dc-1-24q"),
            ("NVIDIA RTX 6000 Ada-8Q", "nvidia-rtx-6000-ada-8q"),
            ("H200X-141C", "nvidia-h200x-141c"),
        ] {
            assert_eq!(profile_of_type(theirs).unwrap().as_str(), ours);
        }
        assert_eq!(profile_of_type("NVIDIA  "), None);
    }

    #[test]
    fn sizes_are_read_from_the_end() {
        let plain = |gb| Some(Size { gb, mig: None });
        assert_eq!(size("NVIDIA A40-8Q"), plain(8));
        assert_eq!(size("NVIDIA RTX 6000 Ada-48Q"), plain(48));
        assert_eq!(size("GRID M60-0B").map(Size::bytes), Some(512 << 20));
        assert_eq!(size("NVIDIA A100D-1-10CME"), Some(Size { gb: 10, mig: Some(1) }));
        assert_eq!(
            size("NVIDIA RTX Pro 6000 Blackwell DC-1-24Q"),
            Some(Size { gb: 24, mig: Some(1) })
        );
        for odd in ["", "NVIDIA A40", "mtty-2", "NVIDIA A40-Q", "A40-8X"] {
            assert_eq!(size(odd), None, "{odd}");
        }
    }
}
