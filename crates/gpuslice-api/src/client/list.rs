//! Lists, whose rows may be thousands: they stay the text they came as until somebody looks into them.

use super::error::CallError;
use crate::refused::chain;
use gpuslice_core::request::{Answer, Command};
use gpuslice_hook_proto::Rows;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;

/// What can be listed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
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
}

impl Listing {
    /// The question.
    pub fn command(self) -> Command {
        match self {
            Self::Parents => Command::ListParents,
            Self::Profiles => Command::ListProfiles,
            Self::Types => Command::ListTypes,
            Self::Slices => Command::ListSlices,
            Self::Claims => Command::ListClaims,
        }
    }

    /// The answer's name.
    fn word(self) -> &'static str {
        match self {
            Self::Parents => "parents",
            Self::Profiles => "profiles",
            Self::Types => "types",
            Self::Slices => "slices",
            Self::Claims => "claims",
        }
    }
}

/// The rows of an answer.
#[derive(Debug)]
pub struct List {
    rows: Box<RawValue>,
}

impl List {
    pub(super) fn of(what: Listing, rows: &Rows<'_>) -> Result<Self, CallError> {
        if rows.answer != what.word() {
            let what = format!("unexpected {} instead of {}", rows.answer, what.word());
            return Err(CallError::Protocol { what });
        }
        Ok(Self { rows: rows.rows.to_owned() })
    }

    pub(super) fn of_answer(what: Listing, answer: &Answer) -> Result<Self, CallError> {
        let text = serde_json::to_string(answer).map_err(|e| protocol(&e))?;
        Self::of(what, &serde_json::from_str(&text).map_err(|e| protocol(&e))?)
    }

    /// A JSON array, on one line.
    pub fn json(&self) -> &str {
        self.rows.get()
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
