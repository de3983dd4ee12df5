//! Replies: done, with what comes of it, or refused, with the reason.

use crate::decode::{DecodeError, EncodeError, decode, encode};
use crate::{REPLY_LIMIT, VERSION};
use gpuslice_core::ids::PciAddress;
use gpuslice_core::machine::HookAnswer;
use gpuslice_core::refusal::Refusal;
use gpuslice_core::request::Answer;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use std::collections::BTreeMap;
use uuid::Uuid;

/// One line from the daemon. `A` is how an answer to a command is taken.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reply<A = Answer> {
    /// [`VERSION`].
    pub v: u32,
    /// The request's; nil when it could not be read.
    pub id: Uuid,
    /// The answer.
    pub body: ReplyBody<A>,
}

/// The answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ReplyBody<A = Answer> {
    /// Done, and recorded.
    Ok(Served<A>),
    /// Not done.
    Refused(Refusal),
}

/// What was done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Served<A = Answer> {
    /// To a hook's call.
    Hook(HookDone),
    /// To a command.
    Command(Box<A>),
}

/// What a hook is to do.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HookDone {
    /// Only to `migrate` and `restore`: functions named in the XML, each with the one to write instead. Functions
    /// not named stay.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub edits: BTreeMap<PciAddress, PciAddress>,
}

/// A list as it stands in the line. Thousands of rows are mostly printed and not looked at, so whoever asked decides
/// whether they are read.
#[derive(Debug, Clone, Copy, Deserialize)]
pub struct Rows<'l> {
    /// Of what: `slices`, as [`Answer`] names it.
    pub answer: &'l str,
    /// A JSON array.
    #[serde(borrow)]
    pub rows: &'l RawValue,
}

impl<A: Serialize> Reply<A> {
    /// A reply of this version.
    pub fn new(id: Uuid, body: ReplyBody<A>) -> Self {
        Self { v: VERSION, id, body }
    }

    /// The line to send, with its line feed.
    ///
    /// # Errors
    /// Longer than [`REPLY_LIMIT`].
    pub fn to_line(&self) -> Result<String, EncodeError> {
        encode(self, REPLY_LIMIT)
    }
}

impl Reply {
    /// A hook's call was served; nothing in the XML changes.
    pub fn hook_done(id: Uuid) -> Self {
        Self::new(id, ReplyBody::Ok(Served::Hook(HookDone::default())))
    }

    /// What the state machine answered to a hook.
    pub fn to_hook(id: Uuid, answer: HookAnswer) -> Self {
        match answer {
            HookAnswer::Proceed => Self::hook_done(id),
            HookAnswer::Remap(edits) => {
                Self::new(id, ReplyBody::Ok(Served::Hook(HookDone { edits })))
            }
            HookAnswer::Refuse(refusal) => Self::refused(id, refusal),
        }
    }

    /// A refusal.
    pub fn refused(id: Uuid, refusal: Refusal) -> Self {
        Self::new(id, ReplyBody::Refused(refusal))
    }

    /// Reads one line, with or without its line feed.
    ///
    /// # Errors
    /// Too long, not JSON, another version, or not a reply.
    pub fn from_line(line: &[u8]) -> Result<Self, DecodeError> {
        decode(line, REPLY_LIMIT, |reply: &Self| reply.v)
    }
}

impl<'l> Reply<Rows<'l>> {
    /// Reads one line that answers a list.
    ///
    /// # Errors
    /// As [`Reply::from_line`]; also when an answer has no rows.
    pub fn list_from_line(line: &'l [u8]) -> Result<Self, DecodeError> {
        decode(line, REPLY_LIMIT, |reply: &Self| reply.v)
    }
}
