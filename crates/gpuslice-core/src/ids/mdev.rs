//! Names of mediated devices (Documentation/driver-api/vfio-mediated-device.rst).

use super::{ClaimName, ParentId, ParseIdError, ProfileName, serde_as_text};
use std::fmt;
use std::str::FromStr;
use uuid::Uuid;

/// The end of the name of each device that stands ready to be picked: version and variant, and `gpuslice` in ASCII with
/// the variant in its first letter.
const PARKED: [u8; 10] = [0x80, 0x00, 0xa7, 0x70, 0x75, 0x73, 0x6c, 0x69, 0x63, 0x65];

/// UUID of a mediated device. sysfs shows it in lower case whatever case was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MdevUuid(pub Uuid);

impl MdevUuid {
    /// The UUID of the `index`-th device of a claim: UUIDv5 in the domain's own namespace, so that it can be
    /// computed again from the domain XML alone and a copied domain's device is told from the original's.
    pub fn for_claim(domain: Uuid, claim: &ClaimName, index: u32) -> Self {
        Self(Uuid::new_v5(&domain, format!("{claim}/{index}").as_bytes()))
    }

    /// The UUID of the `index`-th device that stands ready on a parent to be picked. Like that of a claim it can be computed
    /// again; and whatever its parent and profile, its end tells what it is for (RFC 9562, version 8).
    pub fn parked(parent: &ParentId, profile: &ProfileName, index: u32) -> Self {
        let name = format!("{parent}/{profile}/{index}");
        let hash = Uuid::new_v5(&Uuid::nil(), name.as_bytes());
        let mut bytes = *hash.as_bytes();
        for (byte, end) in bytes.iter_mut().skip(16 - PARKED.len()).zip(PARKED) {
            *byte = end;
        }
        Self(Uuid::from_bytes(bytes))
    }

    /// Whether it is the name of a device that stands ready to be picked, wherever.
    pub fn is_parked(self) -> bool {
        self.0.as_bytes().ends_with(&PARKED)
    }

    /// The Proxmox VE guest it was made for, where it is named as Proxmox names them (qemu-server,
    /// `generate_mdev_uuid`): the number of its hostpci and its VMID, both in decimal digits.
    pub fn proxmox_guest(self) -> Option<u32> {
        const DEVICES: u32 = 16;
        const FIRST_VMID: u32 = 100;
        let text = self.to_string();
        let (index, vmid) = text.split_once("-0000-0000-0000-")?;
        let decimal = |part: &str| part.parse::<u32>().ok();
        decimal(index).filter(|index| *index < DEVICES)?;
        decimal(vmid).filter(|vmid| *vmid >= FIRST_VMID)
    }
}

impl fmt::Display for MdevUuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.as_hyphenated().fmt(f)
    }
}

impl FromStr for MdevUuid {
    type Err = ParseIdError;

    fn from_str(text: &str) -> Result<Self, ParseIdError> {
        // The kernel takes only the hyphenated form (mdev_core: 36 bytes).
        if text.len() != 36 {
            return Err(ParseIdError::new("mdev UUID", text, "not 36 characters"));
        }
        let uuid = Uuid::try_parse(text)
            .map_err(|_| ParseIdError::new("mdev UUID", text, "not a hyphenated UUID"))?;
        Ok(Self(uuid))
    }
}

serde_as_text!(MdevUuid);

/// Raw id of an mdev type as the kernel shows it: `nvidia-558`, `i915-GVTg_V5_4`, `mtty-2`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MdevTypeId(String);

impl MdevTypeId {
    /// The text as sysfs shows it.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for MdevTypeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for MdevTypeId {
    type Err = ParseIdError;

    fn from_str(text: &str) -> Result<Self, ParseIdError> {
        let bad = |why| Err(ParseIdError::new("mdev type", text, why));
        if text.is_empty() || text.len() > 255 {
            return bad("empty or longer than 255 bytes");
        }
        // It becomes a path component: nothing that could leave the directory.
        if text.contains('/') || text == "." || text == ".." || text.chars().any(char::is_control) {
            return bad("not a file name");
        }
        Ok(Self(text.to_owned()))
    }
}

serde_as_text!(MdevTypeId);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn claim_uuids_are_stable_and_distinct() {
        let vm = Uuid::from_u128(0x1234);
        let gpu0: ClaimName = "gpu0".parse().unwrap();
        let ai: ClaimName = "ai".parse().unwrap();
        let first = MdevUuid::for_claim(vm, &gpu0, 0);
        assert_eq!(first, MdevUuid::for_claim(vm, &gpu0, 0));
        assert_ne!(first, MdevUuid::for_claim(vm, &gpu0, 1));
        assert_ne!(first, MdevUuid::for_claim(vm, &ai, 0));
        assert_ne!(first, MdevUuid::for_claim(Uuid::from_u128(0x1235), &gpu0, 0));
        assert_eq!(first.0.get_version_num(), 5);
    }

    #[test]
    fn parked_uuids_are_stable_and_known_by_their_end() {
        let parent: ParentId = "0000:41:00.0".parse().unwrap();
        let profile: ProfileName = "nvidia-a40-8q".parse().unwrap();
        let first = MdevUuid::parked(&parent, &profile, 0);
        assert_eq!(first, MdevUuid::parked(&parent, &profile, 0));
        assert!(first.to_string().ends_with("-8000-a770-75736c696365"), "{first}");
        assert_eq!((first.0.get_version_num(), first.0.get_variant()), (8, uuid::Variant::RFC4122));
        let others = [
            MdevUuid::parked(&parent, &profile, 1),
            MdevUuid::parked(&parent, &"nvidia-a40-4q".parse().unwrap(), 0),
            MdevUuid::parked(&"0000:42:00.0".parse().unwrap(), &profile, 0),
        ];
        assert!(others.iter().all(|other| other.is_parked() && *other != first));
        let claim = MdevUuid::for_claim(Uuid::from_u128(1), &"gpu0".parse().unwrap(), 0);
        assert!(!claim.is_parked() && claim.proxmox_guest().is_none());
        assert_eq!(first.proxmox_guest(), None);
    }

    #[test]
    fn uuids_of_proxmox_name_its_guest_and_others_none() {
        for (text, vmid) in [
            ("00000000-0000-0000-0000-000000000100", Some(100)),
            ("00000015-0000-0000-0000-000999999999", Some(999_999_999)),
            ("00000016-0000-0000-0000-000000000100", None),
            ("00000000-0000-0000-0000-000000000099", None),
            ("00000000-0000-0000-0000-00000000010a", None),
            ("0000000a-0000-0000-0000-000000000100", None),
            ("00000000-0000-0000-0001-000000000100", None),
            ("00000000-0000-0000-0000-999999999999", None),
        ] {
            assert_eq!(text.parse::<MdevUuid>().unwrap().proxmox_guest(), vmid, "{text}");
        }
    }

    #[test]
    fn type_ids_stay_file_names() {
        assert!("i915-GVTg_V5_4".parse::<MdevTypeId>().is_ok());
        for text in ["", "..", "a/b", "a\n"] {
            text.parse::<MdevTypeId>().unwrap_err();
        }
    }
}
