//! What vendors' drivers and tools do beyond the kernel's own interfaces, one file each.

pub(crate) mod amdgpu;
pub(crate) mod gim;
pub(crate) mod nvidia;

use super::Kernel;

impl Kernel {
    /// An option of a module among the kernel's arguments; the last counts.
    fn argument(&self, module: &str, option: &str) -> Option<String> {
        let lead = format!("{module}.{option}=");
        let (_, value) = self.arguments.rsplit_once(&lead)?;
        let value = match value.strip_prefix('"') {
            Some(quoted) => quoted.split('"').next(),
            None => value.split_whitespace().next(),
        };
        value.map(str::to_owned)
    }
}
