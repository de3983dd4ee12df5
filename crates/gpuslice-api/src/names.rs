//! Names on the bus. They are public: scripts and policies use them, so they are never renamed.

use gpuslice_core::hint;
use gpuslice_core::refusal::{Code, Hint};
use gpuslice_core::request::Command;

/// The first way out for whom polkit refuses; a command line knows the whole command.
pub const AS_ROOT: &str = "run it as root";

/// The ways out for whom polkit refuses an action.
pub fn not_permitted(action: &str) -> Hint {
    hint!("run it as root; or allow {} to your user in /etc/polkit-1/rules.d", action)
}

/// The daemon's bus name.
pub const BUS_NAME: &str = "org.gpuslice1";
/// The daemon's object.
pub const HOST_PATH: &str = "/org/gpuslice1";
/// The interface of [`HOST_PATH`].
pub const HOST_INTERFACE: &str = "org.gpuslice1.Host";
/// Its signal: `(s kind, s id, s what)`, a [`gpuslice_core::request::ChangeNote`].
pub const CHANGED_SIGNAL: &str = "Changed";

/// The libvirt agent's bus name.
pub const LIBVIRT_BUS_NAME: &str = "org.gpuslice1.Libvirt";
/// The agent's object.
pub const LIBVIRT_PATH: &str = "/org/gpuslice1/libvirt";
/// The interface of [`LIBVIRT_PATH`].
pub const LIBVIRT_INTERFACE: &str = "org.gpuslice1.Libvirt";

/// Prefix of the names of errors: `org.gpuslice1.Error.NoCapacity`.
pub const ERROR_PREFIX: &str = "org.gpuslice1.Error.";

/// polkit action: a VM is given a slice or a claim is made.
pub const ACTION_ATTACH: &str = "org.gpuslice1.attach";
/// polkit action: a claim is ended.
pub const ACTION_RELEASE: &str = "org.gpuslice1.release";
/// polkit action: the host is reshaped, a parent cordoned.
pub const ACTION_APPLY: &str = "org.gpuslice1.apply";
/// polkit action: what a domain's XML carries becomes a claim, or what was one no longer is. The agent's.
pub const ACTION_ADOPT: &str = "org.gpuslice1.adopt";

/// polkit actions that the agent itself needs. Its name on the bus is good for these and no others, as its polkit rule is.
pub const AGENT_ACTIONS: &[&str] = &[ACTION_ATTACH, ACTION_RELEASE, ACTION_ADOPT];

/// Environment: address of the bus to use instead of the system bus (tests, a simulated host).
pub const BUS_ADDRESS_ENV: &str = "GPUSLICE_BUS_ADDRESS";
/// Environment: path of the daemon's socket instead of [`SOCKET`].
pub const SOCKET_ENV: &str = "GPUSLICE_SOCKET";
/// Where the daemon listens for root without a bus.
pub const SOCKET: &str = gpuslice_hook_proto::SOCKET;

/// The polkit action a command needs; `None` for what everyone may ask.
pub fn required_action(command: &Command) -> Option<&'static str> {
    match command {
        Command::Status
        | Command::ListParents
        | Command::ListProfiles
        | Command::ListTypes
        | Command::ListSlices
        | Command::ListClaims
        | Command::ListHistory { .. }
        | Command::Plan
        | Command::WaitSettled { .. }
        | Command::Claim { dry_run: true, .. } => None,
        Command::Claim { .. } | Command::Plug { .. } => Some(ACTION_ATTACH),
        Command::Unclaim { .. } | Command::PlugFailed { .. } => Some(ACTION_RELEASE),
        Command::Apply
        | Command::Cordon { .. }
        | Command::Drain { .. }
        | Command::Replace { .. }
        | Command::Uncordon { .. } => Some(ACTION_APPLY),
        Command::DomainSeen { .. }
        | Command::DomainRuns { .. }
        | Command::DomainGone { .. }
        | Command::AgentWork => Some(ACTION_ADOPT),
    }
}

/// Name of the D-Bus error that carries a refusal of this code.
pub fn error_name(code: Code) -> String {
    let mut name = ERROR_PREFIX.to_owned();
    for word in code.as_str().split('-') {
        let mut letters = word.chars();
        name.extend(letters.next().map(|first| first.to_ascii_uppercase()));
        name.push_str(letters.as_str());
    }
    name
}

/// The code a D-Bus error of ours names.
pub fn error_code(name: &str) -> Option<Code> {
    Code::ALL.iter().copied().find(|code| error_name(*code) == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_has_its_own_valid_error_name() {
        assert_eq!(error_name(Code::NoCapacity), "org.gpuslice1.Error.NoCapacity");
        for code in Code::ALL {
            let name = error_name(*code);
            zbus::names::ErrorName::try_from(name.as_str()).unwrap();
            assert_eq!(error_code(&name), Some(*code), "{name}");
        }
        assert_eq!(error_code("org.gpuslice1.Error.Nonsense"), None);
        assert_eq!(error_code("org.freedesktop.DBus.Error.Failed"), None);
    }

    #[test]
    fn only_reading_is_free() {
        let claim = |dry_run| Command::Claim {
            owner: "vmid:100".parse().unwrap(),
            owner_name: String::new(),
            request: serde_json::from_str(r#"{"name":"gpu0"}"#).unwrap(),
            pool: None,
            reserve: None,
            dry_run,
        };
        let parent = "0000:41:00.0".parse().unwrap();
        for (command, want) in [
            (Command::Status, None),
            (Command::Plan, None),
            (claim(true), None),
            (claim(false), Some(ACTION_ATTACH)),
            (Command::Apply, Some(ACTION_APPLY)),
            (
                Command::Drain { parents: Vec::new(), reason: String::new(), wait_ms: None },
                Some(ACTION_APPLY),
            ),
            (Command::Uncordon { parent }, Some(ACTION_APPLY)),
            (Command::AgentWork, Some(ACTION_ADOPT)),
        ] {
            assert_eq!(required_action(&command), want, "{command:?}");
        }
    }
}
