//! One message, one line. Where it is not understood its envelope is read by itself, so that a line of another version
//! is told from a broken one and can still be answered under its id.

use crate::{Reply, VERSION};
use gpuslice_core::hint;
use gpuslice_core::refusal::{Code, Refusal};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// A line that is not a message of this version.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// Over the limit.
    #[error("message of {length} bytes, more than {limit}")]
    TooLong {
        /// Bytes in the line.
        length: usize,
        /// Bytes allowed.
        limit: usize,
    },
    /// Not JSON, or JSON without the envelope's fields.
    #[error("message is not a JSON object with v and id")]
    Envelope(#[source] serde_json::Error),
    /// Well formed, but of another version.
    #[error("message of protocol version {v}, this side speaks {VERSION}")]
    Version {
        /// The version it claims.
        v: u32,
        /// Its id.
        id: Uuid,
    },
    /// Of this version, but its body is not one this side knows.
    #[error("message body cannot be read")]
    Body {
        /// Its id.
        id: Uuid,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
}

impl DecodeError {
    /// What to answer, under the id if one was read.
    pub fn reply(&self) -> Reply {
        let (id, refusal) = match self {
            Self::TooLong { .. } => (Uuid::nil(), Refusal::new(Code::BadRequest, self.to_string())),
            Self::Envelope(source) => (
                Uuid::nil(),
                Refusal::new(Code::BadRequest, self.to_string()).because(source.to_string()),
            ),
            Self::Version { id, .. } => (
                *id,
                Refusal::new(Code::BadRequest, self.to_string())
                    .hint(hint!("systemctl restart gpusliced, so that it is of the same release")),
            ),
            Self::Body { id, source } => {
                (*id, Refusal::new(Code::BadRequest, self.to_string()).because(source.to_string()))
            }
        };
        Reply::refused(id, refusal)
    }
}

/// A message that cannot be sent.
#[derive(Debug, thiserror::Error)]
pub enum EncodeError {
    /// Over the limit.
    #[error("message of {length} bytes, more than {limit}")]
    TooLong {
        /// Bytes it would take.
        length: usize,
        /// Bytes allowed.
        limit: usize,
    },
    /// JSON has no form for it.
    #[error("message has no JSON form")]
    Json(#[source] serde_json::Error),
}

#[derive(Deserialize)]
struct Envelope {
    v: u32,
    id: Uuid,
}

/// Reads a line. Lines are long and good, so only one that is not understood is looked at again to say why.
pub(crate) fn decode<'l, T: Deserialize<'l>>(
    line: &'l [u8],
    limit: usize,
    version: impl FnOnce(&T) -> u32,
) -> Result<T, DecodeError> {
    let length = line.strip_suffix(b"\n").unwrap_or(line).len();
    if length > limit {
        return Err(DecodeError::TooLong { length, limit });
    }
    let body = match serde_json::from_slice(line) {
        Ok(message) if version(&message) == VERSION => return Ok(message),
        Ok(_) => None,
        Err(source) => Some(source),
    };
    let Envelope { v, id } = serde_json::from_slice(line).map_err(DecodeError::Envelope)?;
    match body {
        Some(source) if v == VERSION => Err(DecodeError::Body { id, source }),
        _ => Err(DecodeError::Version { v, id }),
    }
}

pub(crate) fn encode<T: Serialize>(message: &T, limit: usize) -> Result<String, EncodeError> {
    let mut line = serde_json::to_string(message).map_err(EncodeError::Json)?;
    if line.len() > limit {
        return Err(EncodeError::TooLong { length: line.len(), limit });
    }
    line.push('\n');
    Ok(line)
}
