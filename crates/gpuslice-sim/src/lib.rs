//! A simulated Linux kernel below the ports of `gpuslice-core`, so that everything above them runs without a
//! GPU: PCI functions and SR-IOV, mediated devices, driver binding, VFIO users, uevents. It models behaviour, not
//! files: a write changes what other paths answer, fails with the kernel's errno in the kernel's order of checks,
//! or sleeps until somebody lets go of a device.
//!
//! It is deterministic: no threads, no clock, no chance that is not seeded. Time is virtual ([`Kernel::advance`]),
//! everything done to it is in its log ([`Kernel::log_lines`]) and can be done again ([`replay`]). A clone is an
//! independent machine, cheap enough for property tests.
//!
//! What it must agree with is the kernel: one set of scripts, `integration/lab/conformance`, asks both, the kernel in
//! the lab and this one in its test `conformance`, and holds the answers to the same lists.

mod host_file;
mod kernel;
mod tree;

pub use host_file::{
    DriverShape, FunctionShape, Grouping, HostError, HostFile, InstanceShape, KernelShape, MdevOn,
    MdevRule, MdevShape, MigShape, SizeShape, SriovShape, TypeShape, VirtualKind, VirtualShape,
};
pub use kernel::command::{Command, Data, Outcome, ReplayError, replay};
pub use kernel::fault::{Content, Fault, random_faults};
pub use kernel::uevent::{Action, Noise, Uevent};
pub use kernel::{Completed, Kernel, Pace};
pub use tree::dump::Projected;
