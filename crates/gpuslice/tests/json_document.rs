//! JSON.md names every field that is printed, beside its command.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking; its shared functions are not marked as tests"
)]

use gpuslice_api::libvirt::{Attached, Detached};
use gpuslice_core::domain::ClaimRequest;
use gpuslice_core::numa::Pinned;
use gpuslice_core::refusal::Refusal;
use gpuslice_core::request::{
    ChangeNote, ClaimRow, DeviceToWrite, DrainRow, HistoryRow, LayoutRow, OverruledRow, ParentRow,
    PlanRow, ProfileRow, RefusedStart, SliceRow, StatusRow, StepRow, TypeRow,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value as Json, json};

const DOCUMENT: &str = include_str!("../JSON.md");

/// Checks the line that begins with `lead` against the fields of a row. `least` is one without its optional fields,
/// which come back as null; those that would be left out are in it.
#[track_caller]
fn documented<T: DeserializeOwned + Serialize>(lead: &str, least: Json) {
    let row: T = serde_json::from_value(least).unwrap();
    let Json::Object(fields) = serde_json::to_value(row).unwrap() else {
        panic!("{lead} is not an object");
    };
    let at = DOCUMENT.find(lead).unwrap_or_else(|| panic!("no {lead:?}"));
    let (_, rest) = DOCUMENT.split_at(at);
    let line = rest.lines().next().unwrap_or_default();
    for field in fields.keys() {
        assert!(line.contains(&format!("`{field}`")), "{lead} lacks {field}");
    }
}

/// A request with every field.
fn asked() -> Json {
    json!({"name": "gpu0", "profile": "x", "count": 2, "same_fabric": true, "prefer_numa": true,
        "require_numa": {"memory": "0", "cpus": "0-3"}, "memory_min": 1, "isolation_min": "hardware",
        "parameters": "a=1"})
}

fn refused_start() -> Json {
    json!({"domain": "4be47ad5-6e2f-4e0c-9d4a-1f6a3f0e1a01", "name": "",
        "refusal": {"code": "held", "message": ""}})
}

#[test]
fn every_field_is_in_the_document() {
    documented::<StatusRow>(
        "| `status` |",
        json!({"version": "", "settled": true, "waiting_for": [], "writable": true, "config_errors": [],
            "parents": 0, "slices": 0, "claims": 0, "attached": 0, "warnings": [], "host": "",
            "refused": [refused_start()]}),
    );
    documented::<RefusedStart>("| `status` |", refused_start());
    documented::<ParentRow>(
        "| `gpus` |",
        json!({"parent": "x", "pci_id": "", "mechanisms": [], "state": "ok", "assigned": 0}),
    );
    documented::<ProfileRow>(
        "| `profiles` |",
        json!({"profile": "x", "mechanism": "", "isolation": "shared", "free": 0, "used": 0, "parents": []}),
    );
    documented::<TypeRow>(
        "| `profiles --types` |",
        json!({"parent": "x", "type": "x", "device_api": "", "available_instances": 0}),
    );
    documented::<SliceRow>(
        "| `slices` |",
        json!({"slice": "vf:0000:41:00.4", "parent": "x", "mechanism": "", "state": "free",
            "vmid": 100, "type_attribute": ""}),
    );
    let claim = "vmid:100/gpu0";
    documented::<ClaimRow>(
        "| `claims` |",
        json!({"claim": claim, "owner_name": "", "profile": "x", "count": 1, "state": "idle",
            "slices": [], "home": [], "request": asked()}),
    );
    documented::<ClaimRequest>("| `claims` |", asked());
    documented::<Pinned>("| `claims` |", asked()["require_numa"].take());
    documented::<HistoryRow>(
        "| `history` |",
        json!({"owner": "vmid:100", "owner_name": "", "index": 0, "slice": "vf:0000:41:00.4",
            "parent": "x"}),
    );
    documented::<DrainRow>(
        "| `drain` |",
        json!({"changed": true, "drained": true, "parents": [], "blockers": []}),
    );
    documented::<Attached>(
        "| `attach` |",
        json!({"changed": true, "message": "", "claim": claim, "domain": "", "devices": [], "warnings": []}),
    );
    documented::<Detached>(
        "| `detach` |",
        json!({"changed": true, "message": "", "domain": "", "warnings": []}),
    );
    documented::<PlanRow>(
        "| `plan`, `apply` |",
        json!({"changed": true, "steps": [], "blockers": [], "unmatched": []}),
    );
    documented::<LayoutRow>("| `plan`, `apply` |", json!({"parent": "x"}));
    documented::<OverruledRow>("| `plan`, `apply` |", json!({"rule": "", "by": "", "parents": []}));
    documented::<StepRow>("| `plan`, `apply` |", json!({"parent": "x", "step": ""}));
    documented::<ChangeNote>("| `events` |", json!({"kind": "", "id": "", "what": ""}));
    documented::<DeviceToWrite>(
        "A device is",
        json!({"alias": "x", "source": {"pci": "0000:41:00.4"}}),
    );
    documented::<Refusal>("A refusal is", json!({"code": "held", "message": ""}));
}

#[test]
fn every_field_of_a_finding_is_in_the_document() {
    let line = DOCUMENT.lines().find(|line| line.starts_with("| `doctor` |")).unwrap();
    // A root in which nothing is: nothing is found, and every field of the answer is there.
    let root = tempfile::TempDir::new().unwrap();
    let out = std::process::Command::new(env!("CARGO_BIN_EXE_gpuslice"))
        .args(["doctor", "--json"])
        .env("GPUSLICE_ROOT", root.path())
        .output()
        .unwrap();
    let answer: Json = serde_json::from_slice(&out.stdout).unwrap();
    for field in answer.as_object().unwrap().keys() {
        assert!(line.contains(&format!("`{field}`")), "{field}");
    }
}
