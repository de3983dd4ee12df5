//! A refusal as a D-Bus error. Its first argument is the whole on one line, which is all that `busctl` and most
//! bindings show; its second is the refusal itself as `a{sv}`, from which the client rebuilds an equal one.

use crate::names::{error_code, error_name};
use crate::wire::{self, Dict, WireError};
use gpuslice_core::refusal::{Code, Refusal};
use zbus::message::{Header, Message};
use zbus::names::ErrorName;

/// What a method of ours fails with.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{refusal}")]
pub struct Refused {
    // Boxed, as every method of the interface returns it by value.
    refusal: Box<Refusal>,
    name: String,
    line: String,
}

impl From<Refusal> for Refused {
    fn from(refusal: Refusal) -> Self {
        Self {
            name: error_name(refusal.code),
            line: refusal.one_line(),
            refusal: Box::new(refusal),
        }
    }
}

impl From<WireError> for Refused {
    /// An argument that is not of this interface.
    fn from(error: WireError) -> Self {
        Refusal::new(Code::BadRequest, chain(&error)).into()
    }
}

impl Refused {
    /// The refusal.
    pub fn refusal(&self) -> &Refusal {
        &self.refusal
    }

    /// The refusal that an error reply of ours carries; `None` for an error that is not ours.
    pub(crate) fn read(name: &str, text: Option<&str>, reply: &Message) -> Option<Refusal> {
        let code = error_code(name)?;
        let whole = reply
            .body()
            .deserialize::<(String, Dict)>()
            .ok()
            .and_then(|(_, dict)| wire::from_dict::<Refusal>(&dict).ok());
        Some(whole.unwrap_or_else(|| Refusal::new(code, text.unwrap_or("no reason given"))))
    }
}

/// An error and what lies behind it, on one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut line = error.to_string();
    let mut below = error.source();
    while let Some(cause) = below {
        line.push_str(": ");
        line.push_str(&cause.to_string());
        below = cause.source();
    }
    line
}

impl zbus::DBusError for Refused {
    fn create_reply(&self, call: &Header<'_>) -> zbus::Result<Message> {
        let dict = wire::to_dict(self.refusal()).unwrap_or_default();
        Message::error(call, self.name())?.build(&(&self.line, dict))
    }

    fn name(&self) -> ErrorName<'_> {
        ErrorName::from_str_unchecked(&self.name)
    }

    fn description(&self) -> Option<&str> {
        Some(&self.line)
    }
}
