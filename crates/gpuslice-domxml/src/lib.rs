//! libvirt's domain XML: what a domain asks of gpuslice and which devices it carries, and edits that touch nothing
//! but what is ours. Mirrors libvirt's docs/formatdomain.rst (hostdev, metadata) and its reading of addresses.
//!
//! Reading judges: what is ours and wrong is an error with its place, what is not ours is left alone. Writing is
//! by splices into the text as it stands, because the domain belongs to its user, with its comments and line breaks.
#![forbid(unsafe_code)]

mod claim;
mod edit;
mod error;
mod hostdev;
mod pinned;
mod read;
mod remap;
mod run;
mod scan;
mod shape;
mod splice;
mod write;

pub use edit::{
    adopt_device, device_xml, plain_device_xml, put_claims, put_device, remove_claims,
    remove_device, rename_device,
};
pub use error::{DomXmlError, Position};
pub use pinned::read_pinned;
pub use read::read_domain;
pub use remap::remap_pci;
pub use run::{drivers_for_set_metadata, read_drivers};
pub use scan::{Scan, scan};
pub use shape::{ATTRIBUTE_LIMIT, DEPTH_LIMIT, NAMESPACE_LIMIT, NODE_LIMIT, SIZE_LIMIT};
pub use write::{claims_for_set_metadata, claims_xml, hostdev_xml};
