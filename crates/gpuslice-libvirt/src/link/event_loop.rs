//! libvirt's event loop on a thread of its own. It must be registered before the first connection is opened, and
//! once per process (libvirt-event.h); its thread sleeps in poll() until libvirt's socket has something.

use std::sync::OnceLock;
use std::thread;

static STARTED: OnceLock<Result<(), String>> = OnceLock::new();

/// Starts the thread, once.
///
/// # Errors
/// libvirt or the kernel refused, in words; it stays refused.
pub fn start() -> Result<(), String> {
    STARTED
        .get_or_init(|| {
            // What libvirt would print to stderr comes back as the error of the call.
            virt::error::clear_error_callback();
            virt::event::event_register_default_impl().map_err(|error| {
                format!("cannot register libvirt's event loop: {}", error.message())
            })?;
            thread::Builder::new().name("libvirt-events".to_owned()).spawn(run).map_err(
                |error| format!("cannot start the thread of libvirt's event loop: {error}"),
            )?;
            Ok(())
        })
        .clone()
}

fn run() {
    loop {
        if let Err(error) = virt::event::event_run_default_impl() {
            // Only a loop that was never registered fails: going on would spin.
            tracing::error!("libvirt's event loop ended: {}", error.message());
            return;
        }
    }
}
