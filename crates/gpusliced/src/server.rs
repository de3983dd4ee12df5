//! Who may ask, and how: the hook socket and the bus.

pub mod bus;
mod places;
mod polkit;
pub mod socket;
