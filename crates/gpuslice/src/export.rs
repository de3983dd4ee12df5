//! What other programs are told of this host's slices, in their own words.

pub mod proxmox;
