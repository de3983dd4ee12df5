//! What there is of the driver beside its GPUs. `reset_gpu` of a GPU is never read: reading it resets the GPU.

use super::{DRIVER, HOST_DRIVER, VENDOR, plan};
use gpuslice_core::errno::Errno;
use gpuslice_core::execute::CONFIG_MARK;
use gpuslice_core::observation::{DriverState, Function, Observation, ProblemKind, ReadProblem};
use gpuslice_core::observe::note;
use gpuslice_core::port::{HostRead, read_text};

pub(super) fn read(host: &dyn HostRead, seen: &mut Observation) {
    let candidate = |f: &Function| {
        let free = f.driver.as_deref().is_none_or(|d| [DRIVER, HOST_DRIVER].contains(&d));
        free && f.vendor == VENDOR && f.is_gpu() && f.sriov.is_some()
    };
    if !seen.functions.values().any(candidate) {
        return;
    }
    let module = format!("/sys/module/{DRIVER}");
    let loaded = match host.list(&module) {
        Ok(_) => true,
        Err(Errno::ENOENT) => false,
        Err(errno) => {
            note(seen, &module, errno);
            // What cannot be looked at is not loaded a second time.
            true
        }
    };
    let options = match read_text(host, plan::CONFIG) {
        Ok(text) if text.lines().next() == Some(CONFIG_MARK) => Some(text),
        Ok(text) => {
            let text = text.chars().take(80).collect();
            let (path, why) = (plan::CONFIG.to_owned(), ProblemKind::Corrupt(text));
            seen.problems.push(ReadProblem { path, why });
            None
        }
        Err(errno) => {
            note(seen, plan::CONFIG, errno);
            None
        }
    };
    seen.drivers.insert(DRIVER, DriverState { loaded, options });
}
