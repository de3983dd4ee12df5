//! Hookscript for guests of Proxmox VE (pve-guest-common, `exec_hookscript`): run as `VMID PHASE`. Only `pre-start` may
//! fail, which aborts the start; the others are warnings there, so they end with 0 whatever happened.
//!
//! Proxmox chooses, reserves and binds by itself, after `pre-start`. So this reads what the guest's configuration asks
//! for, has the daemon judge and record it, and changes nothing. A guest without host devices costs one file. A backup
//! of a stopped guest starts it, paused, with its devices: a start like any other, and the guest may be resumed in it
//! without another phase. A template is backed up without its devices.

mod config;
mod files;

use config::{GuestConfig, HostPci};
use files::Files;
use gpuslice_core::guest::mapping::Mapping;
use gpuslice_core::guest::{GuestCall, GuestDevice, GuestPhase};
use gpuslice_core::hint;
use gpuslice_core::ids::PciAddress;
use gpuslice_core::refusal::Refusal;
use gpuslice_hook_ask::{NoAnswer, Settings, ask, complain, fresh_id, signals};
use gpuslice_hook_proto::{Body, ReplyBody, Request};
use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::Instant;

const USAGE: &str = concat!(
    "gpuslice-proxmox-hook ",
    env!("CARGO_PKG_VERSION"),
    ": run by Proxmox VE as: gpuslice-proxmox-hook VMID PHASE; qm set VMID --hookscript local:snippets/gpuslice-proxmox-hook"
);

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [vmid, phase, ..] = arguments.as_slice() else {
        complain(USAGE);
        return ExitCode::from(2);
    };
    let phase = match phase.as_str() {
        "pre-start" => GuestPhase::PreStart,
        "post-start" => GuestPhase::PostStart,
        "post-stop" => GuestPhase::PostStop,
        // `pre-stop`, and what is yet to be invented.
        _ => return ExitCode::SUCCESS,
    };
    let Ok(vmid) = vmid.parse() else {
        complain(USAGE);
        return ExitCode::from(2);
    };
    match tell(vmid, phase) {
        Ok(()) => ExitCode::SUCCESS,
        Err(refusal) => {
            complain(&refusal.one_line());
            if phase == GuestPhase::PreStart { ExitCode::FAILURE } else { ExitCode::SUCCESS }
        }
    }
}

fn tell(vmid: u32, phase: GuestPhase) -> Result<(), Refusal> {
    if phase == GuestPhase::PostStop {
        signals::ignore_termination();
    }
    let files = Files::of_this_node();
    let config = match phase {
        // What is given back is what was recorded, whatever the configuration says by now or whether it can be read.
        GuestPhase::PostStop => GuestConfig::default(),
        // A container has none.
        _ => files.guest(vmid)?.map(|text| GuestConfig::read(&text)).unwrap_or_default(),
    };
    if config.devices.is_empty() && phase != GuestPhase::PostStop {
        return Ok(());
    }
    let devices = devices(vmid, &config, &files)?;
    // Without them nobody knows what a guest has, so none starts, and what is recorded of one that runs stays.
    let reserved = match files.reservations() {
        Err(_) if phase == GuestPhase::PostStop => BTreeMap::new(),
        reserved => reserved?,
    };
    consult(&GuestCall { phase, vmid, name: config.name, devices, reserved, patience_ms: 0 })
}

fn devices(vmid: u32, config: &GuestConfig, files: &Files) -> Result<Vec<GuestDevice>, Refusal> {
    let device = |(index, pci): (&u32, &HostPci)| {
        let mapping = pci.mapping.as_ref().map(|id| files.mapping(id)).transpose()?;
        let named = match &mapping {
            Some(mapping) => mapping.alternatives(&files::node()),
            None => vec![pci.host.clone()],
        };
        // A whole device is named without its function.
        let functions = |together: Vec<String>| -> Vec<PciAddress> {
            let each = together.iter().flat_map(|slot| files.functions(slot));
            each.filter_map(|text| text.parse().ok()).collect()
        };
        let alternatives: Vec<_> = named.into_iter().map(functions).collect();
        let typed = alternatives.iter().flatten().any(|address| files.is_vendor_vfio(*address));
        let type_id = pci.mdev.as_ref().filter(|_| !typed);
        Ok(GuestDevice {
            index: *index,
            alternatives,
            mdev: type_id.and_then(|_| config::mdev_uuid(*index, vmid)),
            type_id: type_id.and_then(|text| text.parse().ok()),
            exported: mapping.as_ref().is_some_and(Mapping::is_ours),
            groups: mapping.map(|mapping| mapping.groups(&files::node())).unwrap_or_default(),
        })
    };
    config.devices.iter().map(device).collect()
}

fn consult(call: &GuestCall) -> Result<(), Refusal> {
    let settings = Settings::load();
    let begun = Instant::now();
    let deadline = begun + settings.deadline;
    // The rest is for the answer.
    let patience = begun + settings.deadline * 3 / 4;
    let needed = call.phase != GuestPhase::PostStart;
    let vmid = call.vmid;
    let last = call.devices.iter().map(|device| device.index).max();
    let reply = fresh_id().and_then(|id| {
        let request = || {
            let left = patience.saturating_duration_since(Instant::now());
            let patience_ms = u64::try_from(left.as_millis()).unwrap_or_default();
            Request::new(id, Body::Guest(GuestCall { patience_ms, ..call.clone() }))
        };
        ask(&settings.socket, request, deadline, needed)
    });
    match reply {
        Ok(reply) => match reply.body {
            ReplyBody::Ok(_) => Ok(()),
            ReplyBody::Refused(refusal) => Err(refusal),
        },
        Err(failure) => Err(without_answer(vmid, last, &failure, &settings)),
    }
}

/// `last` is the number of the guest's last host device.
fn without_answer(
    vmid: u32,
    last: Option<u32>,
    failure: &NoAnswer,
    settings: &Settings,
) -> Refusal {
    let refusal = failure.refusal(
        settings,
        &format!("VM {vmid} has host devices"),
        &format!("VM {vmid} cannot be told of"),
    );
    match (failure, last) {
        // Its devices are what makes it long.
        (NoAnswer::Unsendable(_), Some(last)) => {
            refusal.hint(hint!("qm set {} --delete hostpci{}", vmid, last))
        }
        _ => refusal,
    }
}
