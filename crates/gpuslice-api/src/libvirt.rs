//! `org.gpuslice1.Libvirt`, the agent's own name on the bus: `attach` and `detach` change a domain's XML, which the
//! daemon itself never does because it never calls libvirt. Both ends, as in [`crate::host`].

mod proxy;
mod types;

pub use proxy::{LibvirtClient, LibvirtInterface, serve};
pub use types::{AttachOptions, Attached, DetachOptions, Detached, DomainInfo};

use crate::callers::{Admits, Caller};
use gpuslice_core::ids::{ClaimName, ProfileName};
use gpuslice_core::refusal::Refusal;
use std::future::Future;

/// What answers the agent's methods. A domain is named as in virsh: by name, id or UUID.
pub trait LibvirtHandler: Admits {
    /// Makes the claim, then writes the metadata and the devices. Idempotent.
    fn attach(
        &self,
        caller: Caller,
        domain: &str,
        profile: ProfileName,
        options: AttachOptions,
    ) -> impl Future<Output = Result<Attached, Refusal>> + Send;

    /// Takes the metadata and the devices out, then ends the claim. `claim` is `None` when the domain's only one is
    /// meant. Idempotent.
    fn detach(
        &self,
        caller: Caller,
        domain: &str,
        claim: Option<ClaimName>,
        options: DetachOptions,
    ) -> impl Future<Output = Result<Detached, Refusal>> + Send;

    /// Which domain is meant.
    fn resolve(
        &self,
        caller: Caller,
        domain: &str,
    ) -> impl Future<Output = Result<DomainInfo, Refusal>> + Send;
}
