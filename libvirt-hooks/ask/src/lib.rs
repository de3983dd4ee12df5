//! How a hook asks the daemon: what an administrator may set, and one request with its reply before a deadline.

mod conversation;
mod settings;
pub mod signals;

pub use conversation::{NoAnswer, ask, fresh_id};
pub use settings::Settings;

use std::io::Write as _;

/// One line on stderr, which is shown behind the caller's own words when the hook fails. Nobody may be there to read
/// it.
pub fn complain(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}
