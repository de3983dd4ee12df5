//! Which boot this is: `/proc/sys/kernel/random/boot_id` (random(4)).

use gpuslice_core::errno::Errno;
use gpuslice_core::ids::{BootId, ParseIdError};
use gpuslice_core::port::{HostRead, read_text};

const PATH: &str = "/proc/sys/kernel/random/boot_id";

/// Why the boot id is not known.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BootIdError {
    /// It could not be read.
    #[error("read {PATH}: {errno}")]
    Read {
        /// The kernel's answer.
        errno: Errno,
    },
    /// It is not a UUID.
    #[error("read {PATH}")]
    Parse(#[from] ParseIdError),
}

/// Reads the boot id.
///
/// # Errors
/// See [`BootIdError`].
pub fn boot_id(host: &dyn HostRead) -> Result<BootId, BootIdError> {
    let text = read_text(host, PATH).map_err(|errno| BootIdError::Read { errno })?;
    Ok(text.parse()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::SysHost;
    use std::fs;

    #[test]
    fn this_boot_has_one_id() {
        let host = SysHost::new("/").unwrap();
        let id = boot_id(&host).unwrap();
        assert_eq!(boot_id(&host).unwrap(), id);
        assert_eq!(fs::read_to_string(PATH).unwrap().trim_end(), id.to_string());
    }

    #[test]
    fn absent_and_corrupt_differ() {
        let dir = tempfile::tempdir().unwrap();
        let host = SysHost::new(dir.path()).unwrap();
        assert_eq!(boot_id(&host), Err(BootIdError::Read { errno: Errno::ENOENT }));
        let path = dir.path().join(&PATH[1..]);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, "").unwrap();
        assert!(matches!(boot_id(&host), Err(BootIdError::Parse(_))));
    }
}
