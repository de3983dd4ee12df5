//! `gpuslice export`: what other programs are to be told, as commands that a person runs.

use super::{Daemon, unexpected};
use crate::args;
use crate::doctor::Tree;
use crate::export::proxmox::{Exported, Node};
use crate::failure::{Failure, as_root};
use crate::output::Output;
use crate::render;
use crate::simulated::Simulated;
use gpuslice_api::client::Listing;
use gpuslice_core::guest::mapping::{self, Mapping};
use gpuslice_core::hint;
use gpuslice_core::refusal::{Code, Refusal};
use gpuslice_core::request::{Answer, Command, ParentRow, ProfileRow, SliceRow};
use serde::Serialize;
use std::io::ErrorKind;
use std::path::Path;

/// Where a node of Proxmox VE has the cluster's mappings.
const MAPPINGS: &str = "/etc/pve/mapping/pci.cfg";

#[derive(Serialize)]
struct Answered<'a> {
    node: &'a str,
    waiting_for: &'a [String],
    mappings: &'a [Exported],
}

pub async fn proxmox(
    daemon: &Daemon,
    order: &args::Proxmox,
    output: &Output,
) -> Result<(), Failure> {
    let status = match daemon.call(Command::Status).await? {
        Answer::Status(row) => row,
        other => return Err(unexpected(&other)),
    };
    // Half of the VFs would take the other half from the guests of Proxmox.
    if !status.coming.is_empty() {
        let refusal = Refusal::new(Code::NotSettled, "not all slices are there yet");
        let refusal = status.coming.into_iter().fold(refusal, Refusal::because);
        return Err(refusal
            .hint(hint!(
                "gpuslice wait --settled, then the same again; \
                 or the same again ten minutes after the boot (without what has not come by then)"
            ))
            .into());
    }
    let parents: Vec<ParentRow> = daemon.list(Listing::Parents).await?.rows()?;
    let profiles: Vec<ProfileRow> = daemon.list(Listing::Profiles).await?.rows()?;
    let slices: Vec<SliceRow> = daemon.list(Listing::Slices).await?.rows()?;
    let tree = Tree::from_env();
    let file = order.mappings.clone().unwrap_or_else(|| tree.place(MAPPINGS));
    let present = mappings(&file)?;
    let name = order.node.clone().or_else(|| tree.host_name());
    let name = name.ok_or_else(|| {
        let named = Refusal::new(Code::BadRequest, "what this node is called cannot be read");
        named
            .because("read /proc/sys/kernel/hostname")
            .hint(hint!("gpuslice export proxmox --node NAME"))
    })?;
    let node = Node {
        name: &name,
        host: &tree,
        waiting_for: &status.waiting_for,
        parents: &parents,
        profiles: &profiles,
        slices: &slices,
    };
    show(&node, order, &present, output)
}

/// Of a host that is written down.
pub fn proxmox_of(order: &args::Proxmox, output: &Output) -> Result<(), Failure> {
    let (Some(host), Some(name)) = (&order.host, &order.node) else { return Ok(()) };
    let mut simulated = Simulated::new(host, order.config.as_deref())?;
    let parents = match simulated.ask(Command::ListParents)? {
        Answer::Parents { rows } => rows,
        other => return Err(unexpected(&other)),
    };
    let profiles = match simulated.ask(Command::ListProfiles)? {
        Answer::Profiles { rows } => rows,
        other => return Err(unexpected(&other)),
    };
    let slices = match simulated.ask(Command::ListSlices)? {
        Answer::Slices { rows } => rows,
        other => return Err(unexpected(&other)),
    };
    let present = order.mappings.as_deref().map(mappings).transpose()?.unwrap_or_default();
    let node = Node {
        name,
        host: &simulated.kernel,
        waiting_for: &[],
        parents: &parents,
        profiles: &profiles,
        slices: &slices,
    };
    show(&node, order, &present, output)
}

fn show(
    node: &Node<'_>,
    order: &args::Proxmox,
    present: &[Mapping],
    output: &Output,
) -> Result<(), Failure> {
    let exported = node.export(&order.profiles, present)?;
    let value = Answered { node: node.name, waiting_for: node.waiting_for, mappings: &exported };
    if exported.is_empty() && !output.is_json() {
        output.nothing("no mappings: nothing of this host can be one", "gpuslice profiles");
        return Ok(());
    }
    output.answer(&value, |_| render::proxmox(node.name, node.waiting_for, &exported))
}

/// A cluster without mappings has no file.
fn mappings(file: &Path) -> Result<Vec<Mapping>, Refusal> {
    let shown = file.display();
    match std::fs::read_to_string(file) {
        Ok(text) => Ok(mapping::read(&text)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => {
            let denied = error.kind() == ErrorKind::PermissionDenied;
            let code = if denied { Code::NotPermitted } else { Code::BadRequest };
            let refusal = Refusal::new(code, "the mappings of Proxmox VE cannot be read")
                .because(format!("read {shown}: {error}"));
            Err(match denied {
                true => refusal.hint(as_root(std::env::args())),
                false => refusal.hint(hint!("systemctl restart pve-cluster, then the same again")),
            })
        }
    }
}
