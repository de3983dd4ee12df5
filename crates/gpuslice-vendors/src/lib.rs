//! Mechanisms by which GPUs are sliced, one folder each. Pure: a mechanism reads an observation and answers with
//! offers and steps; the vendor's traps stay in its folder.
#![forbid(unsafe_code)]

pub mod amdgpu;
pub mod gim;
pub mod makers;
pub mod mdev;
pub mod nvidia;
pub mod sriov;
pub mod whole;

use gpuslice_core::mechanism::Mechanism;

/// Every mechanism, in the order in which they are asked: what knows a vendor before what takes any.
pub fn all() -> Vec<Box<dyn Mechanism>> {
    vec![
        Box::new(nvidia::NvidiaVfio),
        Box::new(gim::Gim),
        Box::new(amdgpu::Amdgpu),
        Box::new(sriov::Sriov),
        Box::new(mdev::Mdev),
        Box::new(whole::Whole),
    ]
}
