//! Names people choose or read: claims, profiles; and the kernel's boot id.

use super::{ParseIdError, serde_as_text};
use std::fmt;
use std::str::FromStr;
use uuid::Uuid;

/// A name of ASCII letters, digits and some punctuation, with a longest length.
macro_rules! name {
    ($(#[$doc:meta])* $type:ident, $kind:literal, $max:literal, $bytes:expr, $said:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $type(String);

        impl $type {
            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl FromStr for $type {
            type Err = ParseIdError;

            fn from_str(text: &str) -> Result<Self, ParseIdError> {
                let bad = |why| Err(ParseIdError::new($kind, text, why));
                if text.is_empty() {
                    return bad("empty");
                }
                if text.len() > $max {
                    return bad(concat!("longer than ", $max, " characters"));
                }
                if !text.bytes().all(|b| b.is_ascii_alphanumeric() || $bytes.contains(&b)) {
                    return bad(concat!("only letters, digits and ", $said, " are allowed"));
                }
                if text.contains("--") {
                    return bad("two hyphens in a row");
                }
                Ok(Self(text.to_owned()))
            }
        }

        serde_as_text!($type);
    };
}

name!(
    /// Name of a claim, unique within its owner: `gpu0`. At most 32 of letters, digits, `-`, `_`; it becomes
    /// part of a libvirt alias (`ua-gpuslice-gpu0`), in which `--` sets off an index.
    ClaimName, "claim name", 32, b"-_", "- and _"
);
impl ClaimName {
    /// What a claim is called that nobody gave a name: `gpu0`.
    pub fn numbered(number: u32) -> Self {
        Self(format!("gpu{number}"))
    }
}

name!(
    /// What a VM can ask for: `nvidia-a40-8q`. At most 64 of letters, digits, `-`, `_`, `.`.
    ProfileName, "profile name", 64, b"-_.", "- _ and ."
);

/// `/proc/sys/kernel/random/boot_id`: what is stamped with another one is of a former boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BootId(pub Uuid);

impl fmt::Display for BootId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.as_hyphenated().fmt(f)
    }
}

impl FromStr for BootId {
    type Err = ParseIdError;

    fn from_str(text: &str) -> Result<Self, ParseIdError> {
        Uuid::try_parse(text.trim())
            .map(Self)
            .map_err(|_| ParseIdError::new("boot id", text, "not a UUID"))
    }
}

serde_as_text!(BootId);
