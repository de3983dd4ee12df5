//! Every row and answer keeps its meaning through `a{sv}`.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking; its shared functions are not marked as tests"
)]

use gpuslice_api::libvirt::{AttachOptions, Attached, DetachOptions, Detached};
use gpuslice_api::wire::{Dict, WireError, from_dict, to_dict};
use gpuslice_core::domain::{ClaimRequest, Domain};
use gpuslice_core::refusal::Refusal;
use gpuslice_core::request::{
    Answer, ChangeNote, ClaimRow, DeviceToWrite, ParentRow, PlanRow, ProfileRow, SliceRow,
    StatusRow, TypeRow,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value as Json, json};
use std::collections::BTreeMap;
use std::fmt::Debug;
use zbus::zvariant::{LE, Value, serialized::Context, to_bytes};

/// Sends a row through the bytes of a message and back.
fn through_bytes(dict: &Dict) -> Dict {
    let bytes = to_bytes(Context::new_dbus(LE, 0), dict).unwrap();
    bytes.deserialize().unwrap().0
}

#[track_caller]
fn round_trip<T: Serialize + DeserializeOwned + PartialEq + Debug>(json: Json) {
    let row: T = serde_json::from_value(json).unwrap();
    let dict = through_bytes(&to_dict(&row).unwrap());
    assert_eq!(from_dict::<T>(&dict).unwrap(), row);
}

fn refusal() -> Json {
    json!({"code": "no-capacity", "message": "no free slice of nvidia-a40-8q",
           "causes": ["0000:41:00.0: 6 of 6 taken"], "hint": "virsh shutdown win11"})
}

fn claim() -> Json {
    json!({"claim": "8e2f2d4e-1b5f-4a4e-9f57-0d9c6f1c6a11/gpu0", "owner_name": "win11",
           "profile": "nvidia-a40-8q", "count": 2, "state": "attached", "reason": null,
           "slices": ["vf:0000:41:00.4", "mdev:b8c2ef9a-9bc4-5a2b-8d4b-0f9d0c1f2a3b"],
           "home": [], "last_refusal": refusal()})
}

fn devices() -> Json {
    json!([{"alias": "ua-gpuslice-gpu0", "source": {"pci": "0000:41:00.4"}},
           {"alias": "ua-gpuslice-ai", "source": {"mdev": "b8c2ef9a-9bc4-5a2b-8d4b-0f9d0c1f2a3b"}}])
}

#[test]
fn rows_round_trip_full_and_bare() {
    round_trip::<StatusRow>(json!({
        "version": "0.1.0", "settled": false, "waiting_for": ["0000:41:00.0: driver nvidia"],
        "writable": true, "config_errors": [], "parents": 2, "slices": u32::MAX, "claims": 0,
        "attached": 0, "warnings": [], "host": "/sys"}));
    for numa in [json!(null), json!(1)] {
        round_trip::<ParentRow>(json!({
            "parent": "0000:41:00.0", "pci_id": "10de:2235", "driver": numa.as_u64().map(|_| "nvidia"),
            "mechanisms": ["sriov", "mdev"], "numa_node": numa, "serial": null, "vfs": 16,
            "total_vfs": 16, "modes": {"compute": "CPX"}, "layout": "16 VFs", "state": "ok", "reason": null, "assigned": 3}));
    }
    for (kind, memory) in [(json!("nvidia-558"), json!(u64::MAX)), (json!(null), json!(null))] {
        round_trip::<ProfileRow>(json!({
            "profile": "nvidia-a40-8q", "mechanism": "mdev", "type": kind, "description": "NVIDIA A40-8Q", "share": "1/6",
            "isolation": "shared", "heads": 4, "edition": "vWS", "migratable": kind.is_null().then_some(false),
            "memory": memory, "max": 6, "free": 0, "used": 6, "parents": ["0000:41:00.0", "mtty"]}));
    }
    round_trip::<TypeRow>(json!({
        "parent": "mtty", "type": "mtty-2", "name": null, "description": null,
        "device_api": "vfio-pci", "available_instances": 24}));
    round_trip::<SliceRow>(json!({
        "slice": "vf:0000:41:00.4", "address": "0000:41:00.4", "parent": "0000:41:00.0", "vf_index": 0,
        "profile": "amd-v620-vf4", "mechanism": "sriov", "driver": "vfio-pci", "iommu_group": 77,
        "state": "attached", "claim": "vmid:100/gpu0", "holder": "win11"}));
    round_trip::<ClaimRow>(claim());
    round_trip::<ChangeNote>(json!({"kind": "claim", "id": "vmid:100/gpu0", "what": "attached"}));
    round_trip::<Refusal>(refusal());
    round_trip::<Refusal>(json!({"code": "held", "message": "held"}));
    for device in devices().as_array().unwrap() {
        round_trip::<DeviceToWrite>(device.clone());
    }
    for overruled in [
        json!([]),
        json!([{"rule": "b.toml:1: match = { slot = \"3\" }", "by": "a.toml:4", "parents": ["0000:41:00.0"]}]),
    ] {
        round_trip::<PlanRow>(
            json!({"changed": false, "steps": [], "blockers": [], "unmatched": [],
            "overruled": overruled}),
        );
    }
    for layouts in
        [json!([]), json!([{"parent": "0000:41:00.0", "before": null, "after": "vfs=8"}])]
    {
        round_trip::<PlanRow>(
            json!({"changed": true, "steps": [], "blockers": [], "unmatched": [],
            "layouts": layouts, "settings": ["placement = \"spread\", was \"pack\""]}),
        );
    }
}

#[test]
fn requests_round_trip() {
    round_trip::<ClaimRequest>(json!({"name": "gpu0"}));
    round_trip::<ClaimRequest>(json!({
        "name": "ai", "profile": "amd-mi300x-vf1-spx", "count": 8, "same_fabric": true,
        "prefer_numa": true, "memory_min": 4_294_967_296_u64, "isolation_min": "hardware"}));
    round_trip::<Domain>(json!({
        "uuid": "8e2f2d4e-1b5f-4a4e-9f57-0d9c6f1c6a11", "name": "win11", "claims": [{"name": "gpu0"}],
        "devices": [{"source": {"pci": "0000:41:00.4"}, "alias": "ua-gpuslice-gpu0", "managed": true}]}));
    round_trip::<Domain>(json!({
        "uuid": "8e2f2d4e-1b5f-4a4e-9f57-0d9c6f1c6a11", "name": "win11", "claims": [], "devices": []}));
    round_trip::<AttachOptions>(json!({"name": "gpu0", "live": true, "count": 2}));
    round_trip::<AttachOptions>(json!({"reserve": false, "same_fabric": true}));
    round_trip::<AttachOptions>(json!({}));
    round_trip::<DetachOptions>(json!({"config": true}));
    round_trip::<Attached>(json!({
        "changed": true, "message": "attached", "claim": "vmid:100/gpu0", "domain": "win11",
        "devices": devices(), "warnings": []}));
    round_trip::<Detached>(
        json!({"changed": false, "message": "already so", "domain": "win11", "warnings": ["x"]}),
    );
}

#[test]
fn answers_round_trip() {
    for answer in [
        json!({"answer": "claimed", "changed": true, "claim": claim(), "devices": devices(),
               "warnings": ["overcommit"]}),
        json!({"answer": "domain", "devices": [], "refused": [refusal()]}),
        json!({"answer": "plan", "changed": true, "blockers": [refusal()], "unmatched": ["gpu 2"],
               "steps": [{"parent": "0000:41:00.0", "step": "write sriov_numvfs=8"}]}),
        json!({"answer": "agent-work", "start": [],
               "look_again": ["8e2f2d4e-1b5f-4a4e-9f57-0d9c6f1c6a11"]}),
        json!({"answer": "done", "changed": false, "message": "already so"}),
        json!({"answer": "claims", "rows": [claim()]}),
        json!({"answer": "claims", "rows": []}),
    ] {
        round_trip::<Answer>(answer);
    }
}

#[test]
fn values_have_the_documented_types() {
    let dict = to_dict(&json!({
        "none": null, "flag": true, "small": 7, "huge": u64::MAX, "below": -3, "half": 0.5,
        "texts": ["a"], "numbers": [1, 2], "mixed": ["a", 1], "empty": [], "steps": [],
        "rows": [{"a": 1}], "nested": {"x": "y", "gone": null}, "far": i64::MIN,
    }))
    .unwrap();
    let types: Vec<_> =
        dict.iter().map(|(key, value)| format!("{key}:{}", value.value_signature())).collect();
    assert_eq!(
        types,
        [
            "below:x",
            "empty:as",
            "far:x",
            "flag:b",
            "half:d",
            "huge:t",
            "mixed:av",
            "nested:a{sv}",
            "numbers:at",
            "rows:aa{sv}",
            "small:t",
            "steps:aa{sv}",
            "texts:as"
        ]
    );
    let back: Json = from_dict(&through_bytes(&dict)).unwrap();
    assert_eq!(back["far"], json!(i64::MIN));
    assert_eq!(back["huge"], json!(u64::MAX));
    assert_eq!(back["mixed"], json!(["a", 1]));
    assert_eq!(back["nested"], json!({"x": "y"}));
    assert_eq!(back.get("none"), None);
}

#[test]
fn any_integer_type_is_taken_and_foreign_types_are_named() {
    let dict = |value: Value<'static>| {
        BTreeMap::from([("count".to_owned(), value.try_into_owned().unwrap())])
    };
    for value in [Value::U8(2), Value::I16(2), Value::U32(2), Value::I32(2), Value::I64(2)] {
        let options: AttachOptions = from_dict(&dict(value)).unwrap();
        assert_eq!(options.count, Some(2));
    }
    let boxed = Value::Value(Box::new(Value::U32(2)));
    assert_eq!(from_dict::<AttachOptions>(&dict(boxed)).unwrap().count, Some(2));
    for value in [Value::I32(-1), Value::from("2")] {
        let error = from_dict::<AttachOptions>(&dict(value)).unwrap_err();
        assert!(matches!(error, WireError::Shape { .. }), "{error}");
    }
    let error = from_dict::<Json>(&dict(Value::from((1_u32, 2_u32)))).unwrap_err();
    assert!(error.to_string().contains("(uu)"), "{error}");
}

#[test]
fn what_has_no_form_is_refused() {
    for (json, want) in [
        (json!({"a": [null]}), "list \"a\" holds a null"),
        (json!([1]), "not an object"),
        (json!("x"), "not an object"),
    ] {
        let error = to_dict(&json).unwrap_err().to_string();
        assert!(error.contains(want), "{error}");
    }
}
