//! What vendors' drivers and tools do beyond the kernel's own interfaces, one file each.

pub(crate) mod amdgpu;
pub(crate) mod gim;
pub(crate) mod nvidia;
