//! Files of settings for modules (modprobe.d(5)) that are gpuslice's own: each begins with a line that says so, and
//! one that does not is somebody else's.

use super::{Performed, StepError, failed};
use crate::errno::Errno;
use crate::port::{HostRead, HostWrite, read_text};

/// First line of each.
pub const MARK: &str = "# Written by gpuslice from its layouts; it is written anew, so edit those.";

/// Where they are, and how their names begin and end: nothing else is ever written.
const PLACE: (&str, &str) = ("/etc/modprobe.d/gpuslice-", ".conf");

/// Whether a path is one of theirs.
pub fn is_own(path: &str) -> bool {
    let name = path.strip_prefix(PLACE.0).and_then(|rest| rest.strip_suffix(PLACE.1));
    name.is_some_and(|name| !name.is_empty() && !name.contains(['/', '.']))
}

pub(super) fn write(
    host: &mut dyn HostWrite,
    path: &str,
    content: &str,
) -> Result<Performed, StepError> {
    if !is_own(path) {
        let operation = format!("write {path}");
        return Err(StepError::Errno { operation, errno: Errno::EINVAL });
    }
    match read_text(host, path) {
        Ok(text) if text == content.trim_end() => return Ok(Performed::Already),
        // An empty one is what a crash of the file system leaves.
        Ok(text) if text.is_empty() || text.lines().next() == Some(MARK) => {}
        Ok(_) => {
            let state = "was not written by gpuslice".to_owned();
            return Err(StepError::Occupied { object: path.to_owned(), state });
        }
        Err(Errno::ENOENT) => {}
        Err(errno) => return Err(failed(format!("read {path}"))(errno)),
    }
    host.replace(path, content.as_bytes()).map_err(failed(format!("write {path}")))?;
    check(host, path, content)
}

pub(super) fn check(
    host: &dyn HostRead,
    path: &str,
    content: &str,
) -> Result<Performed, StepError> {
    let now = read_text(host, path).map_err(failed(format!("read {path}")))?;
    Ok(if now == content.trim_end() { Performed::Changed } else { Performed::NotYet })
}
