//! What the kernel means by an errno, in one place: the same number says different things at different files.

use super::StepError;
use crate::errno::Errno;
use crate::plan::Step;

/// What was asked of the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Asked {
    /// A function's directory or its driver's link.
    Function,
    /// A driver's `unbind`.
    Unbind,
    /// A type's `create`.
    CreateMdev,
    /// An mdev's `remove`.
    RemoveMdev,
    /// A PF's `sriov_numvfs`.
    Count,
    /// A driver's `bind`, for VFs that a vendor's tool left without.
    Bind,
    /// The attribute that holds a VF's type.
    VfType,
    /// The attribute that holds a mode of a device.
    Mode,
    /// `delete_module`, by modprobe.
    Unload,
    /// Any other write.
    Other,
}

/// What its answer comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Meaning {
    /// No room for one more, whatever was shown before: somebody was faster. Another device may have some.
    Full,
    /// The device is in other hands, and was left as it was.
    Others,
    /// What was to be changed is not there any more.
    Gone,
    /// The driver is at work on the device by itself, or somebody looks at it: it passes.
    Later,
    /// The driver does not do such a thing.
    Unable,
    /// The device or its driver has a fault.
    Fault,
}

/// The table.
pub(super) fn meaning(asked: Asked, errno: Errno) -> Meaning {
    match (asked, errno) {
        // drivers/vfio/mdev/mdev_core.c counts for drivers that do not (EUSERS); the others have their own limit.
        (Asked::CreateMdev, Errno::ENOSPC | Errno::EUSERS) => Meaning::Full,
        (Asked::CreateMdev, Errno::EEXIST) => Meaning::Others,
        // mdev_device_remove answers so while its driver or parent is removing it too.
        (Asked::RemoveMdev, Errno::ENODEV | Errno::ENOENT) => Meaning::Gone,
        // Somebody else makes or removes it; or its driver is about to do so and refuses rather than waits.
        (Asked::RemoveMdev, Errno::EAGAIN | Errno::EBUSY) => Meaning::Later,
        // NVIDIA's driver: EPERM for a VF that has a type, EIO when its plugin finds no room or no GPU instance. When it is
        // not ready it answers EIO too: see `kernel_log::write`.
        (Asked::VfType, Errno::EPERM) => Meaning::Others,
        (Asked::VfType, Errno::EIO | Errno::ENOSPC) => Meaning::Full,
        // amdgpu: a process computes on the GPU; or the GPU is being reset.
        (Asked::Mode, Errno::EBUSY) => Meaning::Others,
        (Asked::Mode, Errno::EPERM) => Meaning::Later,
        // i915: the PF is being initialised. Of VFs that somebody else has just enabled, the next look tells.
        (Asked::Count, Errno::EBUSY) => Meaning::Later,
        // drivers/pci/iov.c: a driver without sriov_configure, as i915 is in the kernel's own tree, and vfio-pci unless it was
        // loaded with enable_sriov. Or none: see `sriov::set_count`.
        (Asked::Count, Errno::ENOENT) => Meaning::Unable,
        // kernel/module/main.c: EAGAIN (EWOULDBLOCK) while the module is used, which modprobe looks for itself and is read as EBUSY
        // then; EBUSY while it is being loaded or unloaded.
        (Asked::Unload, Errno::EBUSY | Errno::EAGAIN) => Meaning::Later,
        // drivers/base/dd.c: somebody binds it; or its probe failed, as it does while the PF is being initialised.
        (Asked::Bind, Errno::EBUSY | Errno::ENODEV) => Meaning::Later,
        (Asked::VfType, Errno::ENODEV | Errno::ENOENT) => Meaning::Gone,
        // drivers/base/bus.c: the driver has no such device, somebody else unbound it.
        (Asked::Unbind, Errno::ENODEV) => Meaning::Gone,
        (Asked::Function, Errno::ENODEV | Errno::ENOENT) => Meaning::Gone,
        _ => Meaning::Fault,
    }
}

impl StepError {
    /// What it means that this step ended so.
    pub fn meaning(&self, step: &Step) -> Meaning {
        let asked = match step {
            Step::CreateMdev { .. } => Asked::CreateMdev,
            Step::RemoveMdev { .. } => Asked::RemoveMdev,
            Step::SetNumVfs { .. } => Asked::Count,
            Step::RunVfTool { .. } => Asked::Bind,
            Step::GiveVfType { .. } => Asked::VfType,
            Step::SetMode { .. } => Asked::Mode,
            Step::UnloadDriver { .. } => Asked::Unload,
            _ => Asked::Other,
        };
        match self {
            Self::Held { .. }
            | Self::HostDriver { .. }
            | Self::Mediated { .. }
            | Self::Typed { .. }
            | Self::Occupied { .. } => Meaning::Others,
            Self::Errno { errno, .. } | Self::Said { errno, .. } | Self::Open { errno, .. } => {
                meaning(asked, *errno)
            }
            Self::NoneLeft { .. } => Meaning::Full,
            Self::NotReady { .. }
            | Self::Untold { .. }
            | Self::NoDriver { .. }
            | Self::Locked { .. }
            | Self::Opened { .. } => Meaning::Later,
            Self::Unchanged { .. }
            | Self::Refused { .. }
            | Self::Short { .. }
            | Self::Fewer { .. }
            | Self::NotZero { .. }
            | Self::Tool { .. } => Meaning::Fault,
        }
    }

    /// Whether it is the kernel's answer that this one is of that meaning.
    pub(super) fn means(&self, asked: Asked, wanted: Meaning) -> bool {
        matches!(self, Self::Errno { errno, .. } if meaning(asked, *errno) == wanted)
    }
}
