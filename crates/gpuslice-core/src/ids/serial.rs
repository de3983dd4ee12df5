//! What tells a GPU from any other: its serial number, or the id that its driver shows.

use super::ParseIdError;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;
use uuid::Uuid;

/// A GPU's own number. It goes with it into another slot and another host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Serial {
    /// Device Serial Number capability (PCIe 7.9.3), or what amdgpu shows as `unique_id`: 64 bits.
    Number(u64),
    /// What NVIDIA's driver and tools call the GPU's UUID.
    Uuid(Uuid),
}

impl fmt::Display for Serial {
    /// 16 hexadecimal digits, or `GPU-` and a UUID.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(number) => write!(f, "{number:016x}"),
            Self::Uuid(uuid) => write!(f, "GPU-{uuid}"),
        }
    }
}

impl FromStr for Serial {
    type Err = ParseIdError;

    /// Digits as they are, or with hyphens as lspci writes them (`ab-cd-…`).
    fn from_str(text: &str) -> Result<Self, ParseIdError> {
        let error = || {
            let rule = "16 hexadecimal digits, or GPU- and a UUID";
            ParseIdError::new("serial number", text, rule)
        };
        if let Some(uuid) = text.strip_prefix("GPU-") {
            return uuid.parse().map(Self::Uuid).map_err(|_| error());
        }
        let digits: String = text.chars().filter(|c| *c != '-').collect();
        let hexadecimal = digits.len() == 16 && digits.bytes().all(|b| b.is_ascii_hexdigit());
        let number = hexadecimal.then(|| u64::from_str_radix(&digits, 16).ok()).flatten();
        number.map(Self::Number).ok_or_else(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_read_as_it_is_shown() {
        for (text, shown) in [
            ("692b1f0c3a5d0100", "692b1f0c3a5d0100"),
            ("69-2B-1f-0c-3a-5d-01-00", "692b1f0c3a5d0100"),
            (
                "GPU-1b724e78-eef5-4163-d43c-e4da15d41176",
                "GPU-1b724e78-eef5-4163-d43c-e4da15d41176",
            ),
        ] {
            let serial: Serial = text.parse().unwrap();
            assert_eq!(serial.to_string(), shown);
            let json = serde_json::to_string(&serial).unwrap();
            assert_eq!(serde_json::from_str::<Serial>(&json).unwrap(), serial, "{json}");
        }
        // As it was recorded when there was no other.
        assert_eq!(serde_json::from_str::<Serial>("18").unwrap(), Serial::Number(18));
        let bad = ["", "12", "692b1f0c3a5d010", "+92b1f0c3a5d0100", "GPU-", "GPU-1b724e78"];
        for text in bad.into_iter().chain(["1b724e78-eef5-4163-d43c-e4da15d41176"]) {
            text.parse::<Serial>().unwrap_err();
        }
    }
}
