//! Kernel uevents as libudev would hand them out: an owned queue, in the kernel's order
//! (drivers/base/core.c, lib/kobject_uevent.c), with the losses a netlink socket has.

use super::chance::Chance;
use serde::{Deserialize, Serialize};
use std::fmt;

/// `ACTION` of a uevent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// A device appeared.
    Add,
    /// A driver bound.
    Bind,
    /// Something about it changed.
    Change,
    /// A driver let go.
    Unbind,
    /// It is gone.
    Remove,
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Add => "add",
            Self::Bind => "bind",
            Self::Change => "change",
            Self::Unbind => "unbind",
            Self::Remove => "remove",
        })
    }
}

/// One uevent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Uevent {
    /// What happened.
    pub action: Action,
    /// `DEVPATH`, without `/sys`.
    pub devpath: String,
    /// `SUBSYSTEM`.
    pub subsystem: String,
    /// `DRIVER`, while one is bound.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub driver: Option<String>,
    /// What else it carries: `PCI_SLOT_NAME`, `PCI_ID`, `MDEV_STATE`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub properties: Vec<(String, String)>,
}

impl Uevent {
    /// Kernel name of the device.
    pub fn name(&self) -> &str {
        self.devpath.rsplit('/').next().unwrap_or_default()
    }

    /// Value of a property.
    pub fn property(&self, key: &str) -> Option<&str> {
        let found = self.properties.iter().find(|(name, _)| name == key)?;
        Some(&found.1)
    }
}

/// What the way from the kernel to the listener does to events.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Noise {
    /// Seed of the two below.
    pub seed: u64,
    /// Lost, out of 1000. Each loss is announced as an overflow.
    pub lose: u16,
    /// Delivered twice, out of 1000.
    pub duplicate: u16,
    /// The socket's buffer: what is queued beyond is lost. 0 is without bound.
    pub capacity: u32,
}

/// Events on their way to the listener.
#[derive(Debug, Clone, Default)]
pub(crate) struct EventQueue {
    queue: Vec<Uevent>,
    overflow: bool,
    noise: Noise,
    chance: Chance,
    /// Nobody listens while the machine boots.
    pub(crate) deaf: bool,
}

impl EventQueue {
    pub(crate) fn set_noise(&mut self, noise: Noise) {
        self.noise = noise;
        self.chance = Chance::new(noise.seed);
    }

    pub(crate) fn push(&mut self, event: Uevent) {
        if self.deaf {
            return;
        }
        let full = self.noise.capacity > 0 && self.queue.len() >= self.noise.capacity as usize;
        if full || self.chance.per_mille(self.noise.lose) {
            self.overflow = true;
            return;
        }
        if self.chance.per_mille(self.noise.duplicate) {
            self.queue.push(event.clone());
        }
        self.queue.push(event);
    }

    pub(crate) fn take(&mut self) -> Vec<Uevent> {
        std::mem::take(&mut self.queue)
    }

    pub(crate) fn take_overflow(&mut self) -> bool {
        std::mem::take(&mut self.overflow)
    }

    pub(crate) fn clear(&mut self) {
        self.queue.clear();
        self.overflow = false;
    }
}
