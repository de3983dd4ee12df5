//! Why a call gave no answer, by what a program does about it.

use crate::names::{BUS_NAME, LIBVIRT_BUS_NAME};
use crate::refused::{Refused, chain};
use crate::wire::WireError;
use gpuslice_core::hint;
use gpuslice_core::refusal::{Code, Hint, Refusal};
use zbus::names::ErrorName;

/// The daemon, in error texts.
pub(crate) const DAEMON: &str = "gpusliced";
/// The agent, in error texts.
pub(crate) const AGENT: &str = "gpuslice-libvirt-agent";

/// A call without an answer.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// The daemon or the agent said no.
    #[error(transparent)]
    Refused(Refusal),
    /// polkit, the bus or the socket's mode said no.
    #[error(transparent)]
    NotPermitted(Refusal),
    /// Nobody answers.
    #[error("{who} does not answer")]
    Unreachable {
        /// The program meant: `gpusliced`, `gpuslice-libvirt-agent`.
        who: &'static str,
        /// A person had systemd never start its unit.
        masked: bool,
        /// What was tried and how each failed.
        tried: Vec<String>,
    },
    /// The other side is of another version or broken.
    #[error("the answer is not of this interface: {what}")]
    Protocol {
        /// What is wrong with it.
        what: String,
    },
}

impl From<Refusal> for CallError {
    fn from(refusal: Refusal) -> Self {
        if refusal.code == Code::NotPermitted {
            Self::NotPermitted(refusal)
        } else {
            Self::Refused(refusal)
        }
    }
}

impl From<WireError> for CallError {
    fn from(error: WireError) -> Self {
        Self::Protocol { what: chain(&error) }
    }
}

/// The order that starts a program's unit. `masked`: systemd may not start it as it is.
pub fn start(who: &str, masked: bool) -> Hint {
    if masked {
        hint!("systemctl unmask {}, then systemctl start {}", who, who)
    } else {
        hint!("systemctl start {}", who)
    }
}

/// There is only the socket, which answers questions and no more.
pub(crate) fn needs_bus(what: &str) -> CallError {
    let hint = hint!("systemctl start dbus gpusliced");
    Refusal::new(
        Code::Unsupported,
        format!("{what} over D-Bus, and the daemon was found only on its socket"),
    )
    .hint(hint)
    .into()
}

/// What an error of the bus means. `who` was called over `way`.
pub(crate) fn from_bus(who: &'static str, way: &str, error: &zbus::Error) -> CallError {
    let wanted = if who == AGENT { LIBVIRT_BUS_NAME } else { BUS_NAME };
    let unreachable = |masked: bool, text: String| {
        let tried = vec![format!("{way}: {text}")];
        CallError::Unreachable { who, masked, tried }
    };
    match error {
        zbus::Error::MethodError(name, text, reply) => {
            let text = text.as_deref();
            if let Some(refusal) = Refused::read(name.as_str(), text, reply) {
                return refusal.into();
            }
            from_bus_error(wanted, name.inner(), text.unwrap_or_default(), unreachable)
        }
        zbus::Error::FDO(inner) => match inner.as_ref() {
            zbus::fdo::Error::ZBus(inner) => from_bus(who, way, inner),
            other => {
                let text = zbus::DBusError::description(other).unwrap_or_default();
                from_bus_error(wanted, &zbus::DBusError::name(other), text, unreachable)
            }
        },
        zbus::Error::InputOutput(_)
        | zbus::Error::Connection(..)
        | zbus::Error::Handshake(_)
        | zbus::Error::Address(_) => unreachable(false, lower(&chain(error))),
        other => CallError::Protocol { what: chain(other) },
    }
}

/// Errors that the bus daemon itself sends (dbus-specification, org.freedesktop.DBus.Error.*), and those of systemd, which
/// dbus-daemon hands on when it has had a unit started. dbus-broker says those with a name of the former kind, in words.
fn from_bus_error(
    wanted: &str,
    name: &ErrorName<'_>,
    text: &str,
    unreachable: impl FnOnce(bool, String) -> CallError,
) -> CallError {
    if let Some(of_systemd) = name.strip_prefix("org.freedesktop.systemd1.") {
        return unreachable(of_systemd == "UnitMasked", lower(text));
    }
    let short = name.rsplit_once("DBus.Error.").map_or("", |(_, s)| s);
    match short {
        "AccessDenied" | "AuthFailed" | "InteractiveAuthorizationRequired" => {
            CallError::NotPermitted(
                Refusal::new(Code::NotPermitted, "the bus does not let you ask this")
                    .because(lower(text)),
            )
        }
        // Each bus says this in other words.
        "ServiceUnknown" | "NameHasNoOwner" if text.contains("unit is masked") => {
            unreachable(true, lower(text))
        }
        "ServiceUnknown" | "NameHasNoOwner" => {
            unreachable(false, format!("nobody has the name {wanted}"))
        }
        "NoReply" | "Disconnected" | "NoServer" | "TimedOut" | "Timeout" => {
            unreachable(false, lower(text))
        }
        spawn if spawn.starts_with("Spawn.") => unreachable(false, lower(text)),
        _ => CallError::Protocol { what: format!("{name}: {text}") },
    }
}

/// Texts of others begin with a capital; ours do not.
fn lower(text: &str) -> String {
    let mut letters = text.trim_end_matches('.').chars();
    letters.next().map(|first| first.to_ascii_lowercase()).into_iter().chain(letters).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// dbus-daemon hands systemd's own error on, which a test on a bus shows; dbus-broker puts it into words.
    #[test]
    fn a_masked_unit_is_known_by_the_words_of_dbus_broker_too() {
        for (said, want, cause) in [
            ("unit is masked.", true, "bus: could not activate remote peer 'x': unit is masked"),
            ("unknown unit", false, "bus: nobody has the name org.gpuslice1"),
        ] {
            let text = format!("Could not activate remote peer 'x': {said}");
            let error = zbus::Error::from(zbus::fdo::Error::NameHasNoOwner(text));
            let CallError::Unreachable { who, masked, tried } = from_bus(DAEMON, "bus", &error)
            else {
                panic!("{error}");
            };
            assert_eq!((who, masked, tried), (DAEMON, want, vec![cause.to_owned()]));
        }
    }
}
