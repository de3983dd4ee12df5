//! Requests: an operation of libvirt's qemu hook, or a command of the daemon's interface.

use crate::decode::{DecodeError, EncodeError, decode, encode};
use crate::{REQUEST_LIMIT, VERSION};
use gpuslice_core::domain::Domain;
use gpuslice_core::driver::DriverOf;
use gpuslice_core::guest::GuestCall;
use gpuslice_core::machine::{self, HookOperation};
use gpuslice_core::request::Command;
use serde::{Deserialize, Serialize};
use std::fmt;
use uuid::Uuid;

/// One line from a hook or the command line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// [`VERSION`].
    pub v: u32,
    /// Names the request. Sent again over a new connection it is the same request: one that was served is
    /// answered again, not done again.
    pub id: Uuid,
    /// What is asked.
    pub body: Body,
}

/// What is asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Body {
    /// libvirt called its qemu hook.
    Hook(HookCall),
    /// Proxmox VE called its hookscript.
    Guest(GuestCall),
    /// A person or a program asks, without a bus.
    Command(Command),
}

/// One call of libvirt's qemu hook: its arguments and what is of interest in the XML on its stdin.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HookCall {
    /// Second argument.
    pub operation: Operation,
    /// Third argument: `begin`, `end`.
    #[serde(default)]
    pub sub: String,
    /// Fourth argument: for `release` why the domain stopped (`destroyed`, `failed`, …), else `-`.
    #[serde(default)]
    pub extra: String,
    /// Read from stdin.
    pub domain: Domain,
    /// Read there for `migrate` and `restore`: what made the domain's slices where it ran.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub drivers: Vec<DriverOf>,
}

impl HookCall {
    /// What the state machine is told; `None` at an operation at which nothing is to be done.
    pub fn told(self) -> Option<machine::HookCall> {
        let operation = match self.operation {
            Operation::Prepare => HookOperation::Prepare,
            Operation::Started => HookOperation::Started,
            // Where it runs now, libvirt calls `prepare` and `started` as ever.
            Operation::Release if self.extra == "migrated" => HookOperation::MigratedAway,
            // The words are those of virDomainShutoffReason.
            Operation::Release if matches!(self.extra.as_str(), "shutdown" | "saved") => {
                HookOperation::ShutDown
            }
            Operation::Release => HookOperation::Release,
            Operation::Reconnect => HookOperation::Reconnect,
            Operation::Migrate => HookOperation::Migrate,
            Operation::Restore => HookOperation::Restore,
            Operation::Start | Operation::Stopped => return None,
        };
        Some(machine::HookCall { operation, domain: self.domain, drivers: self.drivers })
    }
}

macro_rules! operations {
    ($($(#[$doc:meta])* $variant:ident = $text:literal;)*) => {
        /// Operations of libvirt's qemu hook (its docs/hooks.rst) that the daemon wants to hear of.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(rename_all = "kebab-case")]
        pub enum Operation { $($(#[$doc])* $variant,)* }

        impl Operation {
            /// Every operation.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// The word libvirt uses.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text,)* }
            }
        }
    };
}

operations! {
    /// Before libvirt touches anything on the host.
    Prepare = "prepare";
    /// After the command line was built, before QEMU runs.
    Start = "start";
    /// After the vCPUs were let run.
    Started = "started";
    /// QEMU is dead, libvirt still holds the devices.
    Stopped = "stopped";
    /// libvirt is through with the domain.
    Release = "release";
    /// A restarted libvirt daemon found the domain running.
    Reconnect = "reconnect";
    /// On the destination, before the domain exists there; the XML may be changed.
    Migrate = "migrate";
    /// Before a saved domain is restored; the XML may be changed.
    Restore = "restore";
}

impl Operation {
    /// The operation of libvirt's word; `None` for one the daemon need not hear of, or one yet to be invented.
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|op| op.as_str() == word)
    }

    /// Whether a refusal may reach libvirt. Elsewhere a failing hook does harm: a failing `reconnect` kills the
    /// running domain.
    pub fn may_fail(self) -> bool {
        matches!(self, Self::Prepare | Self::Migrate | Self::Restore)
    }

    /// Whether libvirt takes the hook's output as the domain's XML.
    pub fn may_edit(self) -> bool {
        matches!(self, Self::Migrate | Self::Restore)
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl Request {
    /// A request of this version.
    pub fn new(id: Uuid, body: Body) -> Self {
        Self { v: VERSION, id, body }
    }

    /// The line to send, with its line feed.
    ///
    /// # Errors
    /// Longer than [`REQUEST_LIMIT`].
    pub fn to_line(&self) -> Result<String, EncodeError> {
        encode(self, REQUEST_LIMIT)
    }

    /// Reads one line, with or without its line feed.
    ///
    /// # Errors
    /// Too long, not JSON, another version, or not a request. [`DecodeError::reply`] answers it.
    pub fn from_line(line: &[u8]) -> Result<Self, DecodeError> {
        decode(line, REQUEST_LIMIT, |request: &Self| request.v)
    }
}
