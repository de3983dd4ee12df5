//! The agent between gpuslice and libvirt: the only part that links libvirt, and absent where there is none.
//!
//! The daemon decides and never calls libvirt; the agent reads and writes definitions and decides nothing. It is
//! never in the path of a hook: while libvirt waits for a hook it holds that domain's lock, and whoever called it
//! then would hang.
//!
//! | thread | does | waits for |
//! |---|---|---|
//! | main (tokio) | D-Bus, the daemon, what is to be done | sockets |
//! | `libvirt-events` | libvirt's event loop; pushes what it is told | libvirt's socket |
//! | `libvirt-calls` | every call to libvirt, one after the other | libvirt |

pub mod agent;
mod attach;
pub mod daemon;
mod detach;
pub mod edits;
pub mod link;
mod live;
pub mod service;
pub mod todo;
pub mod watch;
pub mod writing;
