//! Who may ask, and how: the hook socket and the bus.

pub mod bus;
pub mod socket;
