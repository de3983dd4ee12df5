//! From the vendor's names of types to ours, and what a name tells of a type.

use gpuslice_core::ids::ProfileName;
use gpuslice_core::mechanism::Isolation;

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
    /// What it is sold for.
    pub series: Series,
    /// What its GPU instance has beside, as in that one's name: `+me`.
    pub beside: &'static str,
}

/// Ends of types' names, and of the names of the GPU instances that have it.
const BESIDE: &[(&str, &str)] =
    &[("", ""), ("ME", "+me"), ("NOME", "-me"), ("MEALL", "+me.all"), ("GFX", "+gfx")];

/// The letter behind the size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Series {
    Applications,
    Business,
    Compute,
    Workstation,
}

/// Reads the size from the end of a name; names of products contain hyphens and numbers of their own.
pub(super) fn size(name: &str) -> Option<Size> {
    let mut parts = name.rsplit('-');
    let last = parts.next()?;
    let digits = last.find(|c: char| !c.is_ascii_digit())?;
    let (gb, series) = last.split_at(digits);
    let (letter, suffix) = series.split_at_checked(1)?;
    let series = match letter {
        "A" => Series::Applications,
        "B" => Series::Business,
        "C" => Series::Compute,
        "Q" => Series::Workstation,
        _ => return None,
    };
    let (_, beside) = BESIDE.iter().find(|(end, _)| *end == suffix)?;
    let gb = gb.parse().ok()?;
    // Between product and size; a number alone there is a count of compute slices, and no product ends in one.
    let mig =
        parts.next().and_then(|part| part.parse().ok()).filter(|slices| (1..=8).contains(slices));
    Some(Size { gb, mig, series, beside })
}

/// Compute slices and gigabytes of a GPU instance, and what it has beside: `2g.20gb`, `1g.10gb+me`.
pub(super) fn instance(name: &str) -> Option<(u32, u32, &str)> {
    let (slices, rest) = name.split_once("g.")?;
    let (gb, beside) = rest.split_once("gb")?;
    Some((slices.parse().ok()?, gb.parse().ok()?, beside))
}

impl Size {
    /// Bytes of framebuffer by the name. A size of 0 stands for 512 MB.
    pub(super) fn bytes(self) -> u64 {
        if self.gb == 0 { 512 << 20 } else { u64::from(self.gb) << 30 }
    }

    /// Virtual displays; those of business desktops depend on the release.
    pub(super) fn heads(self) -> Option<u32> {
        match self.series {
            Series::Workstation => Some(4),
            Series::Applications | Series::Compute => Some(1),
            Series::Business => None,
        }
    }
}

/// The edition a type is licensed under.
pub(crate) fn edition_of_type(name: &str) -> Option<String> {
    let edition = match size(name)?.series {
        Series::Applications => "vApps",
        Series::Business => "vPC",
        Series::Compute => "vCS",
        Series::Workstation => "vWS",
    };
    Some(edition.to_owned())
}

/// Slices of a GPU instance have engines and memory of their own; others take turns.
pub(crate) fn isolation(name: Option<&str>) -> Isolation {
    match name.and_then(size) {
        Some(Size { mig: Some(_), .. }) => Isolation::Hardware,
        _ => Isolation::Shared,
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
        let plain = |gb| Some(Size { gb, mig: None, series: Series::Workstation, beside: "" });
        assert_eq!(size("NVIDIA A40-8Q"), plain(8));
        assert_eq!(size("NVIDIA RTX 6000 Ada-48Q"), plain(48));
        assert_eq!(size("GRID M60-0B").map(Size::bytes), Some(512 << 20));
        assert_eq!(
            size("NVIDIA A100D-1-10CME"),
            Some(Size { gb: 10, mig: Some(1), series: Series::Compute, beside: "+me" })
        );
        assert_eq!(
            size("NVIDIA RTX Pro 6000 Blackwell DC-1-24Q"),
            Some(Size { gb: 24, mig: Some(1), series: Series::Workstation, beside: "" })
        );
        for odd in ["", "NVIDIA A40", "mtty-2", "NVIDIA A40-Q", "A40-8X"] {
            assert_eq!(size(odd), None, "{odd}");
        }
    }

    #[test]
    fn instances_by_their_names() {
        assert_eq!(instance("2g.20gb"), Some((2, 20, "")));
        assert_eq!(instance("1g.10gb+me"), Some((1, 10, "+me")));
        for odd in ["", "none", "off", "g.10gb", "1g.gb"] {
            assert_eq!(instance(odd), None, "{odd}");
        }
    }

    #[test]
    fn only_mig_keeps_slices_apart_in_hardware() {
        assert_eq!(isolation(Some("NVIDIA A100D-1-10C")), Isolation::Hardware);
        assert_eq!(isolation(Some("NVIDIA A100D-10C")), Isolation::Shared);
        assert_eq!(isolation(None), Isolation::Shared);
    }

    #[test]
    fn editions_by_the_letter() {
        for (name, edition) in [
            ("NVIDIA L40S-8Q", Some("vWS")),
            ("NVIDIA L40S-2B", Some("vPC")),
            ("NVIDIA L40S-8A", Some("vApps")),
            ("NVIDIA A100D-1-10CME", Some("vCS")),
            ("mtty", None),
        ] {
            assert_eq!(edition_of_type(name).as_deref(), edition, "{name}");
        }
    }
}
