//! Everything that touches libvirt: its event loop, its one connection, the thread that calls it, and the edits
//! written through it.

mod carry;
mod connection;
mod error;
mod event_loop;
mod ffi;
mod running;
mod worker;

pub use carry::carry;
pub use connection::{Connection, Defined, Found, Listed};
pub use error::{LinkError, Said};
pub use event_loop::start as start_events;
pub use ffi::{Notice, Tell, Unplugged};
pub use running::Running;
pub use worker::Worker;
