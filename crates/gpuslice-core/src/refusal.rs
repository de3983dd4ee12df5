//! Refusals: why something was not done, with a stable code a program can branch on, a sentence for a person,
//! and the next command.

mod hint;
mod holders;
mod page;

pub use hint::{Hint, InHint};
pub use holders::Holders;
pub use page::{Page, SECTIONS};

use crate::ids::ParseIdError;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

macro_rules! codes {
    ($($(#[$doc:meta])* $variant:ident = $text:literal;)*) => {
        /// Stable codes of refusals: kebab-case words, never renamed.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(rename_all = "kebab-case")]
        pub enum Code { $($(#[$doc])* $variant,)* }

        impl Code {
            /// Every code.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// The word.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text,)* }
            }

            /// Its page in `pages/`, as it is written there.
            fn page_text(self) -> &'static str {
                match self { $(Self::$variant => include_str!(concat!("refusal/pages/", $text, ".md")),)* }
            }
        }
    };
}

codes! {
    /// Every slice of the profile is taken.
    NoCapacity = "no-capacity";
    /// Only GPUs on other NUMA nodes have what the claim requires on its domain's own.
    OtherNumaNode = "other-numa-node";
    /// No device of this host offers the profile.
    NoProfile = "no-profile";
    /// The request itself is wrong.
    BadRequest = "bad-request";
    /// The device in the XML belongs to another domain's claim.
    ClaimCopied = "claim-copied";
    /// The parents this needs have not appeared or are not yet as their layout says.
    NotSettled = "not-settled";
    /// Another VM or process holds the slice.
    Held = "held";
    /// The slice is assigned to another owner.
    Taken = "taken";
    /// The parent is being reshaped.
    Reshaping = "reshaping";
    /// The parent does not get new VMs because a person said so.
    Cordoned = "cordoned";
    /// The parent is not touched because of a fault.
    Quarantined = "quarantined";
    /// The slice is bound to a driver of the host.
    HostDriver = "host-driver";
    /// The slice is not proven clean of what a VM left in it, and its layout asks for that.
    Dirty = "dirty";
    /// The device named is not on this host.
    Absent = "absent";
    /// The slice belongs to another program.
    Foreign = "foreign";
    /// The claim or parent named does not exist.
    Unknown = "unknown";
    /// A VM comes with the state of its slices from another driver, or from a newer branch of the same.
    OtherDriver = "other-driver";
    /// A domain's shut-off XML lacks the device of a claim.
    NotInXml = "not-in-xml";
    /// managed='yes' where it breaks the device.
    Managed = "managed";
    /// A device write failed.
    DeviceFailed = "device-failed";
    /// A device write has not returned.
    DeviceStuck = "device-stuck";
    /// State cannot be recorded, so nothing is promised.
    StateUnwritable = "state-unwritable";
    /// The command line cannot write its answer to where it was to go.
    OutputUnwritable = "output-unwritable";
    /// The configuration is broken; the applied layout stays.
    BadConfig = "bad-config";
    /// Running VMs stand in the way.
    InUse = "in-use";
    /// Polkit or the socket said no.
    NotPermitted = "not-permitted";
    /// The daemon does not answer.
    Unreachable = "unreachable";
    /// It took longer than allowed.
    Timeout = "timeout";
    /// The GPU cannot be sliced on this host.
    Unsliceable = "unsliceable";
    /// Not supported by this mechanism or version.
    Unsupported = "unsupported";
}

impl Code {
    /// What a person reads who met it.
    pub fn page(self) -> Page {
        Page::of(self.page_text())
    }
}

impl FromStr for Code {
    type Err = ParseIdError;

    fn from_str(text: &str) -> Result<Self, ParseIdError> {
        let named = Self::ALL.iter().copied().find(|code| code.as_str() == text);
        named.ok_or_else(|| ParseIdError::new("code", text, "gpuslice has no such code"))
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// Why something was not done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{code}: {message}")]
pub struct Refusal {
    /// What kind of reason.
    pub code: Code,
    /// One sentence with the objects' names, lower case, no full stop.
    pub message: String,
    /// What lies behind it, outermost first; each names operation, object and errno where there is one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub causes: Vec<String>,
    /// What mends it: the words of a [`Hint`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

/// Between why and hint, in one line.
const TRY: &str = "; try: ";

impl Refusal {
    /// A refusal without causes or hint.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), causes: Vec::new(), hint: None }
    }

    /// Adds a cause below those already there.
    #[must_use]
    pub fn because(mut self, cause: impl Into<String>) -> Self {
        self.causes.push(cause.into());
        self
    }

    /// The whole on one line, as it must fit behind libvirt's own long prefix:
    /// `gpuslice: no-capacity: … : cause; try: hint`.
    pub fn one_line(&self) -> String {
        format!("gpuslice: {}: {}", self.code, self.reason())
    }

    /// The same without the code, for where it stands beside; [`Self::way_out_in`] finds the hint again.
    pub fn reason(&self) -> String {
        let mut line = self.message.clone();
        for cause in &self.causes {
            line.push_str(": ");
            line.push_str(cause);
        }
        if let Some(hint) = &self.hint {
            line.push_str(TRY);
            line.push_str(hint);
        }
        line.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
    }

    /// Takes such a line apart: why, and the hint where it has one.
    pub fn way_out_in(line: &str) -> (&str, Option<&str>) {
        line.split_once(TRY).map_or((line, None), |(why, hint)| (why, Some(hint)))
    }
}
