//! What a hook, or the command line without a bus, and the daemon say to each other over
//! [`SOCKET`]: one JSON line asks, one JSON line answers, any number of times on one connection.
//!
//! Unknown fields of the envelope are passed over, so that a newer peer may say more. The model's own types (a
//! domain, a claim) refuse them: a constraint this side does not know must not be dropped in silence.
#![forbid(unsafe_code)]

mod decode;
mod lines;
mod reply;
mod request;

pub use decode::{DecodeError, EncodeError};
pub use lines::{LineTooLong, Lines};
pub use reply::{HookDone, Reply, ReplyBody, Rows, Served};
pub use request::{Body, HookCall, Operation, Request};

/// The version both sides speak.
pub const VERSION: u32 = 1;

/// Where the daemon listens: root only, mode 0600.
pub const SOCKET: &str = "/run/gpuslice/hook.sock";

/// Longest request in bytes, without its line feed. A domain of 1024 devices fits many times.
pub const REQUEST_LIMIT: usize = 1024 * 1024;

/// Longest reply in bytes, without its line feed: the rows of 4096 slices are a few megabytes.
pub const REPLY_LIMIT: usize = 16 * 1024 * 1024;
