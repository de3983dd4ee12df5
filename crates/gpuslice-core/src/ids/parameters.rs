//! Parameters of a slice, as the vendor writes them.

use super::{ParseIdError, serde_as_text};
use std::fmt;
use std::str::FromStr;

/// `key=value` pairs with commas between, for a slice's driver: `frame_rate_limiter=0,disable_vnc=1`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Parameters(String);

/// Most characters; the attribute holds no more than a page, and a person writes less.
const LIMIT: usize = 512;

impl Parameters {
    /// As it is written.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The value of a key.
    pub fn get(&self, key: &str) -> Option<&str> {
        let mut pairs = self.0.split(',').filter_map(|pair| pair.split_once('='));
        pairs.find(|(of, _)| *of == key).map(|(_, value)| value)
    }
}

impl FromStr for Parameters {
    type Err = ParseIdError;

    fn from_str(text: &str) -> Result<Self, ParseIdError> {
        let word = |word: &str| {
            let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | ':');
            !word.is_empty() && word.chars().all(plain)
        };
        let pair =
            |part: &str| part.split_once('=').is_some_and(|(key, value)| word(key) && word(value));
        if text.len() > LIMIT || !text.split(',').all(pair) {
            let why =
                "expected key=value pairs of letters, digits, _ - . and :, with commas between";
            return Err(ParseIdError::new("list of parameters", text, why));
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for Parameters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

serde_as_text!(Parameters);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_are_taken_and_nothing_else() {
        for good in ["a=1", "frame_rate_limiter=0,disable_vnc=1", "vgpu-placement-id=4"] {
            assert_eq!(good.parse::<Parameters>().unwrap().as_str(), good);
        }
        let long = format!("a={}", "1".repeat(LIMIT));
        for bad in
            ["", " ", "a", "a=", "=1", "a=1,", "a=1, b=2", "a=1\nb=2", "a=b=c", long.as_str()]
        {
            assert!(bad.parse::<Parameters>().is_err(), "{bad:?}");
        }
    }
}
