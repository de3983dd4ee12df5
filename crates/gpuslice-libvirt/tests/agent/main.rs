//! The agent against libvirt's own test driver and a scripted daemon on a private bus.
//!
//! The test driver's `test:///default` is one host per process, so the tests take turns; events, metadata, define,
//! rename and start are libvirt's real ones. It has no device calls before libvirt 10: there the agent defines the
//! whole domain, which is the path these tests see on older libvirts.
#![allow(missing_docs, reason = "tests")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::needless_pass_by_value,
    reason = "a test fails by panicking; the signatures of bus methods are the bus's"
)]

mod attach;
mod binary;
mod bus;
mod daemon;
mod domains;
mod follow;
mod live;
mod log;
mod permit;
mod scene;
mod storm;
mod trouble;
