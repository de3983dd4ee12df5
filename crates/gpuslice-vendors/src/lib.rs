//! Mechanisms by which GPUs are sliced, one folder each. Pure: a mechanism reads an observation and answers with
//! offers and steps; the vendor's traps stay in its folder.
#![forbid(unsafe_code)]

pub mod mdev;
pub mod sriov;

use gpuslice_core::mechanism::Mechanism;

/// Every mechanism, in the order in which they are asked.
pub fn all() -> Vec<Box<dyn Mechanism>> {
    vec![Box::new(sriov::Sriov), Box::new(mdev::Mdev)]
}
