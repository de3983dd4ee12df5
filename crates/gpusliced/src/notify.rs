//! What systemd is told.

use sd_notify::NotifyState;
use std::time::Duration;

/// Hooks and callers are answered from now on.
pub fn ready() {
    tell(&[NotifyState::Ready]);
}

/// The daemon ends by request.
pub fn stopping() {
    tell(&[NotifyState::Stopping]);
}

/// One line for `systemctl status`.
pub fn status(text: &str) {
    tell(&[NotifyState::Status(text)]);
}

/// Still alive.
pub fn alive() {
    tell(&[NotifyState::Watchdog]);
}

/// How often to say so: half of what systemd allows. `None` without a watchdog.
pub fn alive_every() -> Option<Duration> {
    sd_notify::watchdog_enabled().map(|limit| limit / 2)
}

fn tell(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::warn!("cannot notify systemd: {error}");
    }
}
