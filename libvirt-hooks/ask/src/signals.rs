//! Signals while a slice is given back. An administrator who stops libvirt must not keep the daemon from learning
//! that a domain is gone.

/// Lets SIGTERM and SIGINT pass.
#[allow(unsafe_code, reason = "signal(2) has no safe face")]
pub fn ignore_termination() {
    for signal in [libc::SIGTERM, libc::SIGINT] {
        // SAFETY: SIG_IGN is no function, so nothing of ours runs in a signal's context.
        unsafe { libc::signal(signal, libc::SIG_IGN) };
    }
}
