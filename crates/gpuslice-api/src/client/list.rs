//! Lists, whose rows may be thousands: they stay the text they came as until somebody looks into them.

use super::error::CallError;
use crate::refused::chain;
use gpuslice_core::request::{Answer, Command};
use gpuslice_hook_proto::Rows;
use serde::de::DeserializeOwned;
use std::ops::Range;

/// What can be listed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Listing {
    /// [`Command::ListParents`].
    Parents,
    /// [`Command::ListProfiles`].
    Profiles,
    /// [`Command::ListTypes`].
    Types,
    /// [`Command::ListSlices`].
    Slices,
    /// [`Command::ListClaims`].
    Claims,
    /// [`Command::ListHistory`].
    History {
        /// Of an owner, claim, slice or device.
        about: Option<String>,
        /// What lasted until then or longer.
        since: Option<String>,
    },
}

impl Listing {
    /// The question.
    pub fn command(&self) -> Command {
        match self {
            Self::Parents => Command::ListParents,
            Self::Profiles => Command::ListProfiles,
            Self::Types => Command::ListTypes,
            Self::Slices => Command::ListSlices,
            Self::Claims => Command::ListClaims,
            Self::History { about, since } => {
                Command::ListHistory { about: about.clone(), since: since.clone() }
            }
        }
    }

    /// The answer's name.
    fn word(&self) -> &'static str {
        match self {
            Self::Parents => "parents",
            Self::Profiles => "profiles",
            Self::Types => "types",
            Self::Slices => "slices",
            Self::Claims => "claims",
            Self::History { .. } => "history",
        }
    }
}

/// The rows of an answer, in the text they came in.
#[derive(Debug)]
pub struct List {
    text: String,
    rows: Range<usize>,
}

impl List {
    /// Where in a line the rows of its answer are.
    pub(super) fn place(
        what: &Listing,
        rows: &Rows<'_>,
        line: &[u8],
    ) -> Result<Range<usize>, CallError> {
        if rows.answer != what.word() {
            let what = format!("unexpected {} instead of {}", rows.answer, what.word());
            return Err(CallError::Protocol { what });
        }
        // They are borrowed from it.
        let rows = rows.rows.get();
        let start = (rows.as_ptr() as usize).saturating_sub(line.as_ptr() as usize);
        Ok(start..start + rows.len())
    }

    pub(super) fn within(line: Vec<u8>, rows: Range<usize>) -> Result<Self, CallError> {
        let text = String::from_utf8(line);
        let text = text.map_err(|e| CallError::Protocol { what: e.to_string() })?;
        Ok(Self { text, rows })
    }

    pub(super) fn of_answer(what: &Listing, answer: &Answer) -> Result<Self, CallError> {
        let text = serde_json::to_string(answer).map_err(|e| protocol(&e))?;
        let rows = serde_json::from_str(&text).map_err(|e| protocol(&e))?;
        let rows = Self::place(what, &rows, text.as_bytes())?;
        Ok(Self { text, rows })
    }

    /// A JSON array, on one line.
    pub fn json(&self) -> &str {
        self.text.get(self.rows.clone()).unwrap_or_default()
    }

    /// The rows, read.
    ///
    /// # Errors
    /// They are not of this type.
    pub fn rows<T: DeserializeOwned>(&self) -> Result<Vec<T>, CallError> {
        serde_json::from_str(self.json()).map_err(|e| protocol(&e))
    }
}

fn protocol(error: &serde_json::Error) -> CallError {
    CallError::Protocol { what: chain(error) }
}
