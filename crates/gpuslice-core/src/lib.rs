//! The pure core of gpuslice: what a host's GPUs are, what they should be, who gets which slice, and the steps
//! from one to the other. No IO, no clock, no threads: a host is seen through [`port::HostRead`] and
//! [`port::HostWrite`], time comes in as events. See ARCHITECTURE.md at the workspace root.
#![forbid(unsafe_code)]

pub mod config;
pub mod domain;
pub mod driver;
pub mod errno;
pub mod execute;
pub mod guest;
pub mod health;
pub mod history;
pub mod holders;
pub mod ids;
pub mod layout;
pub mod machine;
pub mod mechanism;
pub mod mend;
pub mod mode;
pub mod numa;
pub mod observation;
pub mod observe;
pub mod per_device;
pub mod placement;
pub mod plan;
pub mod port;
pub mod refusal;
pub mod request;
pub mod shell;
pub mod state;
