use super::*;
use crate::render;
use crate::style::Paint;
use gpuslice_core::hint;
use serde_json::json;

const PF: &str = "0000:41:00.0";
const VF: &str = "0000:41:00.4";
const WIN: &str = "8e2f2d4e-1b5f-4a4e-9f57-0d9c6f1c6a11/gpu0";

fn of<T: serde::de::DeserializeOwned>(value: serde_json::Value) -> T {
    serde_json::from_value(value).unwrap()
}

fn parent(state: &str, reason: Option<&str>) -> ParentRow {
    of(
        json!({"parent": PF, "pci_id": "10de:2235", "driver": "nvidia", "mechanisms": [], "state": state,
        "reason": reason, "assigned": 0}),
    )
}

fn slice(state: &str) -> SliceRow {
    of(
        json!({"slice": format!("vf:{VF}"), "address": VF, "parent": PF, "mechanism": "sriov", "state": state}),
    )
}

fn claim(id: &str, name: &str, state: &str) -> ClaimRow {
    of(
        json!({"claim": id, "owner_name": name, "profile": "p", "count": 1, "state": state, "slices": [],
        "home": []}),
    )
}

fn rows() -> Rows {
    Rows {
        status: of(json!({"version": "", "settled": true, "waiting_for": [], "writable": true,
            "config_errors": [], "parents": 1, "slices": 1, "claims": 1, "attached": 0, "warnings": [],
            "host": "/sys"})),
        parents: vec![parent("ok", None)],
        profiles: vec![of(
            json!({"profile": "p", "mechanism": "sriov", "isolation": "shared", "free": 1,
            "used": 0, "parents": [PF]}),
        )],
        slices: vec![slice("free")],
        claims: vec![claim(WIN, "win11", "idle")],
    }
}

/// The reasons for one object: code and next step.
#[track_caller]
fn reasons(rows: &Rows, name: &str) -> Vec<(Option<Code>, String)> {
    let objects = object(rows, name).unwrap();
    assert_eq!(objects.len(), 1, "{objects:?}");
    objects[0].reasons.iter().map(|r| (r.code, r.next.clone())).collect()
}

#[test]
fn what_is_as_it_should_be_has_no_reason() {
    let rows = rows();
    for (name, kind) in [
        ("win11", "claim"),
        ("win11/gpu0", "claim"),
        (WIN, "claim"),
        ("8e2f2d4e-1b5f-4a4e-9f57-0d9c6f1c6a11", "claim"),
        ("vf:0000:41:00.4", "slice"),
        ("vf:41:00.4", "slice"),
        (VF, "slice"),
        ("41:00.4", "slice"),
        (PF, "parent"),
        ("41:00.0", "parent"),
    ] {
        let found = object(&rows, name).unwrap();
        assert_eq!((found.len(), found[0].kind), (1, kind), "{name}");
        assert_eq!(found[0].reasons, [], "{name}");
    }
    for name in ["", "mail", "0000:42:00.0", "gpu0"] {
        assert_eq!(object(&rows, name).unwrap_err().code, Code::Unknown, "{name}");
    }
}

#[test]
fn a_gpu_says_why_it_gets_no_vms() {
    for (state, reason, code, next) in [
        (
            "quarantined",
            Some("device-failed: cannot x"),
            Some(Code::Quarantined),
            "gpuslice uncordon 0000:41:00.0",
        ),
        ("cordoned", Some("loud"), Some(Code::Cordoned), "gpuslice uncordon 0000:41:00.0"),
        ("reshaping", None, Some(Code::Reshaping), "gpuslice wait --settled"),
        ("waiting", None, Some(Code::NotSettled), "gpuslice wait --settled"),
        ("drift", None, None, "gpuslice apply"),
        ("absent", None, Some(Code::NotSettled), "then gpuslice apply"),
        ("no-layout", None, Some(Code::Foreign), "to /etc/gpuslice/gpuslice.toml, then"),
        ("unsliceable", Some("x; try: use all; or y"), Some(Code::Unsliceable), "use all; or y"),
        ("unsliceable", Some("no SR-IOV"), Some(Code::Unsliceable), "explain unsliceable"),
        ("ok", Some("VF x is wedged"), Some(Code::Quarantined), "gpuslice apply"),
        ("ok", Some("it has none; try: set x"), Some(Code::NoProfile), "set x"),
        ("ok", Some("y with the next load of z"), None, "gpuslice plan"),
    ] {
        let kept_back = reason.is_some_and(|why| why.contains("wedged"));
        let slices = if kept_back { vec![slice("quarantined")] } else { Vec::new() };
        let rows = Rows { parents: vec![parent(state, reason)], slices, ..rows() };
        let found = reasons(&rows, PF);
        assert_eq!(found.len(), 1, "{state}");
        assert_eq!(found[0].0, code, "{state}");
        assert!(found[0].1.contains(next), "{state}: {}", found[0].1);
    }
    let mut unwell = parent("ok", None);
    unwell.health = "failed".to_owned();
    unwell.health_reason = Some("Xid 79".to_owned());
    unwell.dirty = 2;
    let rows = Rows { parents: vec![unwell], ..rows() };
    let codes: Vec<_> = reasons(&rows, PF).into_iter().map(|(code, _)| code).collect();
    assert_eq!(codes, [None, Some(Code::Dirty)]);
}

/// As they are printed, whatever is in the file before.
#[test]
fn lines_for_the_configuration_are_taken_by_its_reader() {
    let rows = Rows { parents: vec![parent("no-layout", None)], ..rows() };
    let text = render::explained(&object(&rows, PF).unwrap(), Paint::Off);
    let (_, lines) = text.split_once(", then gpuslice apply\n").unwrap();
    let before = "[[gpu]]\nmatch = { driver = \"gim\" }\nlayout = { vfs = 8 }\n";
    let file = ("gpuslice.toml".to_owned(), format!("{before}{lines}"));
    let config = gpuslice_core::config::parse(&[file]).unwrap();
    let added = config.rules.last().unwrap();
    assert_eq!(config.rules.len(), 2);
    assert_eq!(added.matches.address.unwrap().to_string(), PF);
    assert_eq!(added.layout.to_string(), "vfs=all");
}

#[test]
fn a_slice_says_who_has_it() {
    let bound =
        |state: &str, owner: &str| SliceRow { claim: Some(owner.parse().unwrap()), ..slice(state) };
    let held = |holder: &str| SliceRow { holder: Some(holder.to_owned()), ..slice("foreign") };
    let process = |name: &str, pid: u32| {
        let holder = Some(format!("{name} (pid {pid})"));
        SliceRow { holder, holder_pid: Some(pid), ..slice("foreign") }
    };
    let host = SliceRow { driver: Some("amdgpu".to_owned()), ..slice("host") };
    let dirty = SliceRow { dirty: Some("no reset".to_owned()), ..slice("dirty") };
    for (row, code, next) in [
        (bound("attached", WIN), Code::Taken, "virsh shutdown win11"),
        (bound("attached", "vmid:100/gpu0"), Code::Taken, "qm shutdown 100"),
        (bound("attached", "external:ci/gpu0"), Code::Taken, "gpuslice release external:ci/gpu0"),
        (bound("releasing", WIN), Code::Taken, "comes back by itself"),
        (held("mail"), Code::Held, "virsh shutdown mail"),
        (held("my vm"), Code::Held, "virsh shutdown 'my vm'"),
        (SliceRow { vmid: Some(100), ..held("VM 100 (win11)") }, Code::Held, "qm shutdown 100"),
        (held("VM 100 (win11)"), Code::Held, "virsh shutdown 'VM 100 (win11)'"),
        (process("dpdk", 123), Code::Held, "kill 123 (ps -fp 123 shows it)"),
        // The name of a VM, as somebody chose it.
        (held("x (pid 1)"), Code::Held, "virsh shutdown 'x (pid 1)'"),
        (held("x (pid 1; reboot)"), Code::Held, "virsh shutdown 'x (pid 1; reboot)'"),
        (
            bound("attached", "external:a; reboot/gpu0"),
            Code::Taken,
            "gpuslice release 'external:a; reboot/gpu0'",
        ),
        (
            process("kvm", 123),
            Code::Held,
            "shut down the VM of process 123 (ps -fp 123 shows its name)",
        ),
        (
            SliceRow { type_attribute: Some("nvidia/t".to_owned()), ..slice("foreign") },
            Code::Foreign,
            "echo 0 > /sys/bus/pci/devices/0000:41:00.4/nvidia/t",
        ),
        (slice("foreign"), Code::Foreign, "tool that set it"),
        (host, Code::HostDriver, "echo 0000:41:00.4 > /sys/bus/pci/drivers/amdgpu/unbind"),
        (dirty, Code::Dirty, "gpuslice uncordon 0000:41:00.0"),
        (slice("quarantined"), Code::Quarantined, "gpuslice apply"),
    ] {
        let text = format!("{row:?}");
        let others = ["vmid:100/gpu0", "external:ci/gpu0", "external:a; reboot/gpu0"]
            .map(|id| claim(id, "", "attached"));
        let claims = [vec![claim(WIN, "win11", "idle")], others.to_vec()].concat();
        let found = reasons(&Rows { slices: vec![row], claims, ..rows() }, VF);
        assert_eq!(found.len(), 1, "{text}");
        assert_eq!(found[0].0, Some(code), "{text}");
        assert!(found[0].1.contains(next), "{text}: {}", found[0].1);
    }
    let rows = Rows { slices: vec![held("mail")], ..rows() };
    assert_eq!(object(&rows, "mail").unwrap()[0].id, "vf:0000:41:00.4", "a VM without a claim");
}

#[test]
fn a_vm_says_why_it_would_not_get_its_slice() {
    let mut rows = rows();
    rows.claims[0].home = vec![VF.parse().unwrap()];
    assert_eq!(reasons(&rows, "win11"), []);
    rows.slices[0] = SliceRow { holder: Some("mail".to_owned()), ..slice("foreign") };
    assert_eq!(reasons(&rows, "win11"), [(Some(Code::Held), "virsh shutdown mail".to_owned())]);
    rows.slices.clear();
    assert_eq!(reasons(&rows, "win11")[0].0, Some(Code::Absent));
    rows.status.waiting_for = vec!["0000:41:00.0 to appear".to_owned()];
    assert_eq!(reasons(&rows, "win11")[0].0, Some(Code::NotSettled));

    rows.status.waiting_for.clear();
    rows.claims[0].home.clear();
    rows.profiles[0].free = 0;
    let of = |state: &str, profile: &str| SliceRow {
        profile: Some(profile.parse().unwrap()),
        ..slice(state)
    };
    let with = |rows: &Rows, slice: SliceRow| {
        let rows = Rows { slices: vec![slice], ..rows.clone() };
        let found = object(&rows, "win11").unwrap().remove(0).reasons.remove(0);
        (found.text, found.next)
    };
    rows.claims.push(claim("vmid:100/gpu0", "mail", "attached"));
    let key = rows.claims[1].claim.clone();
    let told = |how: &str| format!("p: wanted 1, 0 free, {how}");
    for (slice, how, next) in [
        (
            SliceRow { claim: Some(key.clone()), ..of("attached", "p") },
            "held by mail/gpu0",
            "qm shutdown 100",
        ),
        (
            SliceRow { claim: Some(key), ..of("attached", "q") },
            "the room is held by mail/gpu0",
            "qm shutdown 100",
        ),
        (
            SliceRow { holder: Some("web".to_owned()), ..of("foreign", "p") },
            "held by web",
            "virsh shutdown web",
        ),
        (
            SliceRow {
                holder: Some("dpdk (pid 7)".to_owned()),
                holder_pid: Some(7),
                ..of("foreign", "q")
            },
            "the room is held by dpdk (pid 7)",
            "kill 7 (ps -fp 7 shows it)",
        ),
        (
            of("foreign", "p"),
            "held by another program",
            "take its type away with the tool that set it",
        ),
        (of("free", "p"), "held by nobody here", "gpuslice detach win11 gpu0"),
    ] {
        assert_eq!(with(&rows, slice), (told(how), next.to_owned()));
    }
    let mut kept = claim("4be47ad5-6e2f-4e0c-9d4a-1f6a3f0e1a01/ai", "cad", "idle");
    kept.reserve = true;
    rows.claims.push(kept);
    let said = with(&rows, of("free", "p"));
    assert_eq!(said, (told("kept for claims of cad/ai"), "gpuslice detach cad ai".to_owned()));
    rows.claims.truncate(1);
    rows.claims[0].count = 3;
    rows.profiles[0].free = 2;
    let (_, next) = with(&rows, of("free", "p"));
    assert_eq!(next, "gpuslice attach win11 p --name gpu0 --count 2");
    rows.profiles[0].free = 0;
    rows.parents[0] = parent("cordoned", None);
    assert_eq!(reasons(&rows, "win11")[0].0, Some(Code::Cordoned), "its GPU first");
    rows.profiles.clear();
    assert_eq!(reasons(&rows, "win11")[0].0, Some(Code::NoProfile));
    rows.status.writable = false;
    assert_eq!(reasons(&rows, "win11")[0].0, Some(Code::StateUnwritable));
}

/// Everything that is said of a claim that has no home, where none of its profile is free.
#[test]
fn what_nobody_has_and_nobody_gets_is_told_with_what_mends_it() {
    let of = |state: &str| SliceRow { profile: Some("p".parse().unwrap()), ..slice(state) };
    let all = |rows: &Rows| reasons(rows, "win11");
    let mut full = rows();
    full.profiles[0].free = 0;
    let with = |slices: Vec<SliceRow>| Rows { slices, ..full.clone() };
    let uncordon = (Some(Code::Cordoned), "gpuslice uncordon 0000:41:00.0".to_owned());
    let clean = "gpuslice uncordon 0000:41:00.0 (it is cleaned again)";
    let dirty = (Some(Code::Dirty), clean.to_owned());

    let host = SliceRow { driver: Some("amdgpu".to_owned()), ..of("host") };
    let unbind = "echo 0000:41:00.4 > /sys/bus/pci/drivers/amdgpu/unbind".to_owned();
    assert_eq!(all(&with(vec![host])), [(Some(Code::HostDriver), unbind)]);
    assert_eq!(all(&with(vec![of("dirty")])), std::slice::from_ref(&dirty));
    assert_eq!(
        all(&with(vec![slice("dirty"), slice("dirty")])),
        std::slice::from_ref(&dirty),
        "the first"
    );
    let anew = "gpuslice apply, when nobody uses the GPU".to_owned();
    assert_eq!(all(&with(vec![of("quarantined")])), [(Some(Code::Quarantined), anew)]);
    let found = object(&with(vec![of("dirty")]), "win11").unwrap().remove(0).reasons.remove(0);
    assert_eq!(found.text, "vf:0000:41:00.4: it is not proven clean: ");

    // What a GPU says of all its slices is said once.
    let mut cordoned = with(vec![of("cordoned")]);
    cordoned.parents = vec![parent("cordoned", None)];
    assert_eq!(all(&cordoned), std::slice::from_ref(&uncordon));
    // The same where its VFs make mediated devices.
    cordoned.profiles[0].parents = vec![VF.parse().unwrap()];
    assert_eq!(all(&cordoned), std::slice::from_ref(&uncordon));

    // Beside who has others.
    let other = claim("vmid:100/gpu0", "mail", "attached");
    let given = SliceRow { claim: Some(other.claim.clone()), ..of("attached") };
    let end = (Some(Code::NoCapacity), "qm shutdown 100".to_owned());
    cordoned.claims.push(other.clone());
    cordoned.slices.push(given.clone());
    assert_eq!(all(&cordoned), [uncordon, end.clone()]);
    let mut beside = with(vec![given, of("dirty")]);
    beside.claims.push(other);
    assert_eq!(all(&beside), [dirty.clone(), end]);

    // Fewer can be had, or another GPU.
    let mut some = with(vec![of("dirty")]);
    some.claims[0].count = 3;
    some.profiles[0].free = 2;
    let fewer = "gpuslice attach win11 p --name gpu0 --count 2".to_owned();
    assert_eq!(all(&some), [dirty, (Some(Code::NoCapacity), fewer)]);
    let bare = |pci_id: &str| {
        let mut bare = parent("no-layout", None);
        bare.parent = "0000:42:00.0".parse().unwrap();
        bare.pci_id = pci_id.to_owned();
        bare.total_vfs = Some(8);
        vec![parent("ok", None), bare]
    };
    let detach = (Some(Code::NoCapacity), "gpuslice detach win11 gpu0".to_owned());
    let lay_out = "lay out another GPU in /etc/gpuslice/gpuslice.toml, then gpuslice apply";
    let lay_out = (Some(Code::NoCapacity), lay_out.to_owned());
    for (pci_id, want) in [("10de:2235", lay_out), ("10de:26b9", detach)] {
        let rows = Rows { parents: bare(pci_id), ..with(vec![of("free")]) };
        assert_eq!(all(&rows), [want], "{pci_id}");
    }
}

#[test]
fn another_vf_is_promised_where_one_is_free() {
    let mut rows = rows();
    rows.claims[0].home = vec!["0000:41:00.7".parse().unwrap()];
    let start =
        (Some(Code::Absent), "virsh start win11 (the agent gives it another VF)".to_owned());
    assert_eq!(reasons(&rows, "win11"), std::slice::from_ref(&start));
    // What no domain carries no agent writes.
    for (owner, next) in [
        (
            "vmid:100",
            "gpuslice release vmid:100/gpu0 (whoever asks for it again is given another VF)",
        ),
        (
            "external:ci",
            "gpuslice release external:ci/gpu0 (whoever asks for it again is given another VF)",
        ),
    ] {
        let mut claim = rows.claims[0].clone();
        claim.claim = format!("{owner}/gpu0").parse().unwrap();
        let rows = Rows { claims: vec![claim], ..rows.clone() };
        assert_eq!(reasons(&rows, owner), [(Some(Code::Absent), next.to_owned())]);
    }
    // Not one that is another's home, or somebody's.
    let mut other = claim("vmid:100/gpu0", "mail", "idle");
    other.home = vec![VF.parse().unwrap()];
    let full = (Some(Code::NoCapacity), "gpuslice release vmid:100/gpu0".to_owned());
    let taken = Rows { claims: vec![rows.claims[0].clone(), other], ..rows.clone() };
    assert_eq!(reasons(&taken, "win11"), std::slice::from_ref(&full));
    let mut cordoned = Rows { slices: vec![slice("cordoned")], ..rows.clone() };
    (cordoned.parents[0], cordoned.profiles[0].free) = (parent("cordoned", None), 0);
    assert_eq!(reasons(&cordoned, "win11")[0].0, Some(Code::Cordoned));
    rows.profiles.clear();
    assert_eq!(reasons(&rows, "win11")[0].0, Some(Code::NoProfile));
    let found = object(&rows, "win11").unwrap().remove(0).reasons.remove(0);
    assert_eq!(
        found.text,
        "its home VF 0000:41:00.7 is not on the host, and no device here offers p"
    );
}

/// Its driver makes the slices that VMs have: nobody is told to take it off.
#[test]
fn a_vf_that_makes_mediated_devices_is_explained_by_who_has_them() {
    let mut rows = rows();
    let made: SliceRow =
        of(json!({"slice": "mdev:00000000-0000-4000-8000-000000000001", "parent": VF,
        "mechanism": "mdev", "state": "attached", "profile": "p", "claim": WIN}));
    let vf = SliceRow { driver: Some("nvidia".to_owned()), ..slice("parent") };
    rows.slices = vec![vf, made];
    let its = |state: &str| ParentRow {
        parent: VF.parse().unwrap(),
        pf: Some(PF.parse().unwrap()),
        ..parent(state, None)
    };
    rows.parents.push(its("ok"));
    let of_gpu = object(&rows, PF).unwrap();
    assert!(of_gpu[0].about.ends_with("used by win11"), "{}", of_gpu[0].about);
    for name in [VF, "41:00.4", "vf:0000:41:00.4"] {
        let found = object(&rows, name).unwrap();
        assert_eq!((found[0].kind, found[0].id.as_str()), ("parent", VF), "{name}");
        assert!(found[0].about.ends_with("used by win11"), "{}", found[0].about);
        assert_eq!(found[0].reasons, [], "{name}");
    }
    // Nor is a VM that finds none free, or had its home there.
    rows.slices.truncate(1);
    rows.profiles[0].free = 0;
    let detach = (Some(Code::NoCapacity), "gpuslice detach win11 gpu0".to_owned());
    assert_eq!(reasons(&rows, "win11"), [detach]);
    rows.claims[0].home = vec![VF.parse().unwrap()];
    let again = "virsh start win11 (the agent gives it one)".to_owned();
    assert_eq!(reasons(&rows, "win11"), [(Some(Code::NotInXml), again)]);
    // What holds for the GPU is ended there, and said once.
    rows.claims[0].home.clear();
    rows.profiles[0].parents = vec![VF.parse().unwrap()];
    rows.parents = vec![parent("cordoned", None), its("cordoned")];
    let uncordon = (Some(Code::Cordoned), "gpuslice uncordon 0000:41:00.0".to_owned());
    for name in [PF, VF, "win11"] {
        assert_eq!(reasons(&rows, name), std::slice::from_ref(&uncordon), "{name}");
    }
    rows.parents[0].state = "ok".to_owned();
    let own = (Some(Code::Cordoned), "gpuslice uncordon 0000:41:00.4".to_owned());
    assert_eq!(reasons(&rows, VF), [own]);
}

#[test]
fn slices_that_left_with_their_gpu_are_somebody_s_still() {
    let absent = ParentRow { assigned: 2, ..parent("absent", None) };
    let rows = Rows { parents: vec![absent], slices: Vec::new(), ..rows() };
    let found = object(&rows, PF).unwrap();
    assert!(found[0].about.ends_with("2 of its slices given out (gpuslice claims)"), "{found:?}");
}

#[test]
fn what_a_start_was_told_is_told_again() {
    let mut rows = rows();
    let refusal =
        Refusal::new(Code::ClaimCopied, "copied").because("why").hint(hint!("start it again"));
    rows.claims[0].last_refusal = Some(refusal);
    let found = object(&rows, "win11").unwrap();
    let reason = &found[0].reasons[0];
    assert_eq!(reason.code, Some(Code::ClaimCopied));
    assert!(reason.text.contains("copied: why"), "{}", reason.text);
    assert_eq!(reason.next, "start it again");
    for (state, code) in
        [("lost", Some(Code::Absent)), ("orphaned", None), ("releasing", Some(Code::Held))]
    {
        let mut row = claim(WIN, "win11", state);
        row.reason = Some("why".to_owned());
        let rows = Rows { claims: vec![row], ..super::tests::rows() };
        assert_eq!(reasons(&rows, "win11")[0].0, code, "{state}");
    }
}

/// It has no claim that could tell, and no slice.
#[test]
fn a_vm_without_a_claim_is_told_why_it_did_not_start() {
    let mut rows = rows();
    let refusal = Refusal::new(Code::Managed, "managed").hint(hint!("virsh edit mail"));
    let domain = "00000000-0000-4000-8000-000000000007".parse().unwrap();
    rows.status.refused = vec![RefusedStart { domain, name: "mail".to_owned(), refusal }];
    for name in ["mail", "00000000-0000-4000-8000-000000000007"] {
        assert_eq!(reasons(&rows, name), [(Some(Code::Managed), "virsh edit mail".to_owned())]);
    }
    // And what it has, which it was given in another way.
    rows.slices = vec![SliceRow { holder: Some("mail".to_owned()), ..slice("foreign") }];
    let kinds: Vec<_> = object(&rows, "mail").unwrap().iter().map(|found| found.kind).collect();
    assert_eq!(kinds, ["domain", "slice"]);
}
