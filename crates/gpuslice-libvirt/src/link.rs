//! Everything that touches libvirt: its event loop, its one connection, and the thread that calls it.

mod connection;
mod error;
mod event_loop;
mod ffi;
mod running;
mod worker;

pub use connection::{Connection, Defined, Found, Listed, Written};
pub use error::{LinkError, Said};
pub use event_loop::start as start_events;
pub use ffi::{Notice, Tell, Unplugged};
pub use running::Running;
pub use worker::Worker;
