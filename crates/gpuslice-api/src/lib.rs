//! The daemon's public interface: what is on the bus under which name, how the model's rows travel as `a{sv}`,
//! and a client for the command line and the libvirt agent.
//!
//! The questions and answers are those of [`gpuslice_core::request`]; this crate only carries them. Both ends live
//! here so that the D-Bus shape is written once: [`host`] serves it, [`client`] calls it, [`libvirt`] does the same
//! for the agent's own name.
#![forbid(unsafe_code)]

pub mod callers;
pub mod client;
pub mod host;
pub mod libvirt;
pub mod logging;
pub mod names;
mod refused;
pub mod wire;

pub use callers::{Admits, Caller};
pub use client::{CallError, Client, Transport};
pub use host::Handler;
pub use refused::Refused;
