//! The tables.

use crate::claims::shown;
use crate::parents::gpus;
use crate::style::{Paint, of_state};
use crate::table::{Cell, left, list, maybe, right, table};
use gpuslice_core::ids::{ParentId, SliceId};
use gpuslice_core::request::{ClaimRow, ParentRow, ProfileRow, SliceRow, TypeRow};

fn state(word: &str) -> Cell {
    Cell::toned(word, of_state(word))
}

/// Bytes in the largest binary unit that keeps them whole.
fn memory(bytes: u64) -> String {
    let units = [(40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")];
    let whole = units.into_iter().find(|(bits, _)| bytes > 0 && bytes.trailing_zeros() >= *bits);
    whole.map_or_else(|| format!("{bytes} B"), |(bits, unit)| format!("{} {unit}", bytes >> bits))
}

/// Two GPUs are named; more are counted, or the table would be wider than any screen. `--json` has all.
fn some(parents: &[ParentId]) -> Cell {
    match parents {
        [first, _, rest @ ..] if !rest.is_empty() => {
            Cell::from(format!("{first} and {} more", rest.len() + 1))
        }
        few => list(few),
    }
}

/// As virt-manager's dialogs show them: one is enough to pick.
fn to_pick(slices: &[SliceId]) -> Cell {
    let shown = |slice: &SliceId| match slice {
        SliceId::Mdev(uuid) => uuid.to_string(),
        SliceId::Vf(address) | SliceId::Function(address) => address.to_string(),
    };
    match slices {
        [first, rest @ ..] if !rest.is_empty() => {
            Cell::from(format!("{} and {} more", shown(first), rest.len()))
        }
        few => maybe(few.first().map(shown)),
    }
}

/// `gpuslice gpus`.
pub fn parents(rows: &[ParentRow], paint: Paint) -> String {
    let rows = gpus(rows);
    // Many GPUs have none.
    let models = rows.iter().any(|row| row.model.is_some());
    let modes = rows.iter().any(|row| !row.modes.is_empty());
    let mut columns = vec![
        left("GPU"),
        left("PCI ID"),
        left("DRIVER"),
        left("MECHANISM"),
        right("NUMA"),
        right("VFS"),
        right("USED"),
        left("STATE"),
        left("LAYOUT"),
        left("REASON"),
    ];
    if modes {
        columns.insert(8, left("MODES"));
    }
    if models {
        columns.insert(2, left("MODEL"));
    }
    let unwell = rows.iter().any(|row| row.health_reason.is_some());
    if unwell {
        columns.push(left("HEALTH"));
    }
    let row = |row: &ParentRow| {
        let vfs = row.total_vfs.map(|total| format!("{}/{total}", row.vfs.unwrap_or(0)));
        let mut cells = vec![
            Cell::from(&row.parent),
            maybe((!row.pci_id.is_empty()).then_some(&row.pci_id)),
            maybe(row.driver.as_ref()),
            list(&row.mechanisms),
            maybe(row.numa_node),
            maybe(vfs),
            row.assigned.into(),
            state(&row.state),
            maybe(row.layout.as_ref()),
            maybe(row.reason.as_ref()),
        ];
        if modes {
            let set = row.modes.iter().map(|(mode, value)| format!("{mode}={value}"));
            cells.insert(
                8,
                maybe(Some(set.collect::<Vec<_>>().join(" ")).filter(|s| !s.is_empty())),
            );
        }
        if models {
            cells.insert(2, maybe(row.model.as_ref()));
        }
        if unwell {
            let line = row.health_reason.as_ref().map(|line| format!("{}: {line}", row.health));
            cells.push(maybe(line.or_else(|| Some(row.health.clone()))));
        }
        cells
    };
    table(&columns, &rows.into_iter().map(row).collect::<Vec<_>>(), paint)
}

/// `gpuslice profiles`.
pub fn profiles(rows: &[ProfileRow], paint: Paint) -> String {
    let picks = rows.iter().any(|row| !row.pick.is_empty());
    let mut columns = vec![
        left("PROFILE"),
        right("MEMORY"),
        left("ISOLATION"),
        right("FREE"),
        right("USED"),
        right("MAX"),
        left("MECHANISM"),
        left("TYPE"),
        left("GPUS"),
        left("DESCRIPTION"),
    ];
    if picks {
        columns.insert(9, left("TO PICK"));
    }
    let row = |row: &ProfileRow| {
        let mut cells = vec![
            Cell::from(&row.profile),
            maybe(row.memory.map(memory)),
            Cell::from(&row.isolation),
            row.free.into(),
            row.used.into(),
            maybe(row.max),
            Cell::from(&row.mechanism),
            maybe(row.type_id.as_ref()),
            some(&row.gpus),
            maybe(row.description.as_ref()),
        ];
        if picks {
            cells.insert(9, to_pick(&row.pick));
        }
        cells
    };
    table(&columns, &rows.iter().map(row).collect::<Vec<_>>(), paint)
}

/// `gpuslice profiles --types`.
pub fn types(rows: &[TypeRow], paint: Paint) -> String {
    let columns = [
        left("GPU"),
        left("TYPE"),
        right("AVAILABLE"),
        left("API"),
        left("NAME"),
        left("DESCRIPTION"),
    ];
    let row = |row: &TypeRow| {
        vec![
            Cell::from(&row.parent),
            Cell::from(&row.type_id),
            row.available_instances.into(),
            Cell::from(&row.device_api),
            maybe(row.name.as_ref()),
            maybe(row.description.as_ref()),
        ]
    };
    table(&columns, &rows.iter().map(row).collect::<Vec<_>>(), paint)
}

/// `gpuslice slices`.
pub fn slices(rows: &[SliceRow], paint: Paint) -> String {
    let mut columns = vec![
        left("SLICE"),
        left("GPU"),
        right("VF"),
        left("PROFILE"),
        left("DRIVER"),
        right("GROUP"),
        left("STATE"),
        left("HOLDER"),
        left("CLAIM"),
    ];
    let dirty = rows.iter().any(|row| row.dirty.is_some());
    if dirty {
        columns.push(left("NOT CLEAN"));
    }
    let row = |row: &SliceRow| {
        let mut cells = vec![
            Cell::from(row.slice),
            Cell::from(&row.parent),
            maybe(row.vf_index),
            maybe(row.profile.as_ref()),
            maybe(row.driver.as_ref()),
            maybe(row.iommu_group),
            state(&row.state),
            maybe(row.holder.as_ref()),
            maybe(row.claim.as_ref()),
        ];
        if dirty {
            cells.push(maybe(row.dirty.as_ref()));
        }
        cells
    };
    table(&columns, &rows.iter().map(row).collect::<Vec<_>>(), paint)
}

/// `gpuslice claims`.
pub fn claims(rows: &[ClaimRow], paint: Paint) -> String {
    let columns = [
        left("CLAIM"),
        left("PROFILE"),
        right("COUNT"),
        left("STATE"),
        left("SLICES"),
        left("OWNER"),
        left("REASON"),
    ];
    let row = |row: &ClaimRow| {
        // A claim at rest is bound to nothing, but may have a home.
        let homes: Vec<String> = row.home.iter().map(|a| format!("(vf:{a})")).collect();
        let bound = if row.slices.is_empty() { list(&homes) } else { list(&row.slices) };
        let refusal = row.last_refusal.as_ref().map(|r| format!("last start: {r}"));
        vec![
            Cell::from(shown(row)),
            Cell::from(&row.profile),
            row.count.into(),
            state(&row.state),
            bound,
            Cell::from(&row.claim.owner),
            maybe(row.reason.clone().or(refusal)),
        ]
    };
    table(&columns, &rows.iter().map(row).collect::<Vec<_>>(), paint)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn rows<T: serde::de::DeserializeOwned>(json: serde_json::Value) -> Vec<T> {
        serde_json::from_value(json).unwrap()
    }

    #[test]
    fn parents_show_what_they_have_and_why_not() {
        let rows = rows(json!([
            {"parent": "0000:41:00.0", "pci_id": "10de:2235", "driver": "nvidia",
             "mechanisms": ["sriov", "mdev"], "numa_node": 1, "serial": "x", "vfs": 4, "total_vfs": 16,
             "layout": "4 VFs", "state": "ok", "reason": null, "assigned": 2},
            {"parent": "mtty", "pci_id": "", "driver": null, "mechanisms": [], "numa_node": null,
             "serial": null, "vfs": null, "total_vfs": null, "layout": null, "state": "quarantined",
             "reason": "write did not return", "assigned": 0}]));
        assert_eq!(
            parents(&rows, Paint::Off),
            "\
GPU           PCI ID     DRIVER  MECHANISM   NUMA   VFS  USED  STATE        LAYOUT  REASON
0000:41:00.0  10de:2235  nvidia  sriov,mdev     1  4/16     2  ok           4 VFs   -
mtty          -          -       -              -     -     0  quarantined  -       write did not return
"
        );
        let painted = parents(&rows, Paint::On);
        assert!(painted.contains("\x1b[32mok\x1b[0m") && painted.contains("\x1b[1;31mquarantined"));
    }

    #[test]
    fn modes_have_a_column_where_there_are_some() {
        let rows = rows(json!([
            {"parent": "0000:0c:00.0", "pci_id": "1002:74a1", "driver": "gim", "mechanisms": ["gim"],
             "numa_node": 0, "serial": null, "vfs": 8, "total_vfs": 8,
             "modes": {"compute": "CPX", "memory": "NPS4"}, "layout": "vfs=8 compute=CPX",
             "state": "ok", "reason": null, "assigned": 0},
            {"parent": "0000:41:00.0", "pci_id": "8086:56c0", "driver": "xe", "mechanisms": ["sriov"],
             "numa_node": 0, "serial": null, "vfs": 0, "total_vfs": 31, "layout": null,
             "state": "no-layout", "reason": null, "assigned": 0}]));
        assert_eq!(
            parents(&rows, Paint::Off),
            "\
GPU           PCI ID     DRIVER  MECHANISM  NUMA   VFS  USED  STATE      MODES                    LAYOUT             REASON
0000:0c:00.0  1002:74a1  gim     gim           0   8/8     0  ok         compute=CPX memory=NPS4  vfs=8 compute=CPX  -
0000:41:00.0  8086:56c0  xe      sriov         0  0/31     0  no-layout  -                        -                  -
"
        );
    }

    #[test]
    fn profiles_show_memory_in_whole_units() {
        for (bytes, want) in [
            (8 << 30, "8 GiB"),
            (1536 << 20, "1536 MiB"),
            (1 << 40, "1 TiB"),
            (1000, "1000 B"),
            (0, "0 B"),
        ] {
            assert_eq!(memory(bytes), want);
        }
        let rows = rows(json!([
            {"profile": "nvidia-a40-8q", "mechanism": "mdev", "type": "nvidia-558",
             "description": "NVIDIA A40-8Q", "memory": 8_589_934_592_u64, "isolation": "shared", "max": 6, "free": 4, "used": 2,
             "parents": ["0000:41:00.4", "0000:81:00.4", "0000:41:00.5"],
             "gpus": ["0000:41:00.0", "0000:81:00.0"]},
            {"profile": "amd-v620-vf4", "mechanism": "sriov", "type": null, "description": null,
             "memory": null, "isolation": "hardware", "max": null, "free": 10, "used": 0, "parents": []},
            {"profile": "mtty-2", "mechanism": "mdev", "type": "mtty-2", "description": null,
             "memory": null, "isolation": "shared", "max": null, "free": 10, "used": 0,
             "parents": [], "gpus": ["0000:41:00.0", "0000:81:00.0", "0000:c1:00.0", "mtty"]}]));
        assert_eq!(
            profiles(&rows, Paint::Off),
            "\
PROFILE        MEMORY  ISOLATION  FREE  USED  MAX  MECHANISM  TYPE        GPUS                       DESCRIPTION
nvidia-a40-8q   8 GiB  shared        4     2    6  mdev       nvidia-558  0000:41:00.0,0000:81:00.0  NVIDIA A40-8Q
amd-v620-vf4        -  hardware     10     0    -  sriov      -           -                          -
mtty-2              -  shared       10     0    -  mdev       mtty-2      0000:41:00.0 and 3 more    -
"
        );
    }

    #[test]
    fn health_is_shown_when_a_gpu_is_unwell() {
        let gpu = |address: &str, health: &str, line: Option<&str>| {
            json!({"parent": address, "pci_id": "10de:2235", "driver": null, "mechanisms": [],
                "numa_node": null, "serial": null, "vfs": null, "total_vfs": null, "layout": null,
                "state": "ok", "reason": null, "assigned": 0, "health": health, "health_reason": line})
        };
        let well = gpu("0000:41:00.0", "ok", None);
        let out = parents(&rows(json!([well])), Paint::Off);
        assert!(!out.contains("HEALTH"), "{out}");
        let line = "[    1.000000] NVRM: Xid (PCI:0000:81:00): 79";
        let out =
            parents(&rows(json!([well, gpu("0000:81:00.0", "failed", Some(line))])), Paint::Off);
        let lines: Vec<&str> = out.lines().collect();
        let failed = format!("failed: {line}");
        for (line, end) in lines.iter().zip(["HEALTH", "ok", &failed]) {
            assert!(line.ends_with(end), "{out}");
        }
        assert_eq!(lines.len(), 3);
    }

    #[test]
    fn types_and_slices() {
        let kinds = rows(json!([{"parent": "mtty", "type": "mtty-2", "name": "Dual port serial",
            "description": null, "device_api": "vfio-pci", "available_instances": 12}]));
        assert_eq!(
            types(&kinds, Paint::Off),
            "\
GPU   TYPE    AVAILABLE  API       NAME              DESCRIPTION
mtty  mtty-2         12  vfio-pci  Dual port serial  -
"
        );
        let rows = rows(json!([{"slice": "vf:0000:41:00.4", "address": "0000:41:00.4",
            "parent": "0000:41:00.0", "vf_index": 0, "profile": "amd-v620-vf4", "mechanism": "sriov",
            "driver": "vfio-pci", "iommu_group": 77, "state": "attached", "claim": "vmid:100/gpu0",
            "holder": "mail"}]));
        assert_eq!(
            slices(&rows, Paint::Off),
            "\
SLICE            GPU           VF  PROFILE       DRIVER    GROUP  STATE     HOLDER  CLAIM
vf:0000:41:00.4  0000:41:00.0   0  amd-v620-vf4  vfio-pci     77  attached  mail    vmid:100/gpu0
"
        );
    }

    #[test]
    fn why_a_slice_is_not_clean() {
        let slice = |dirty: Option<&str>, state: &str| {
            json!({"slice": "vf:0000:41:00.4", "address": "0000:41:00.4", "parent": "0000:41:00.0",
                "vf_index": 0, "profile": null, "mechanism": "sriov", "driver": null,
                "iommu_group": null, "state": state, "claim": null, "holder": null, "dirty": dirty})
        };
        assert!(!slices(&rows(json!([slice(None, "free")])), Paint::Off).contains("NOT CLEAN"));
        let why = "0000:41:00.4 has no way to be reset alone";
        let out =
            slices(&rows(json!([slice(Some(why), "dirty"), slice(None, "free")])), Paint::Off);
        let lines: Vec<&str> = out.lines().collect();
        assert!(lines[0].ends_with("NOT CLEAN") && lines[1].ends_with(why), "{out}");
        assert!(lines[1].contains("  dirty  ") && lines[2].ends_with('-'), "{out}");
    }

    #[test]
    fn claims_show_home_and_last_refusal() {
        let rows = rows(json!([
            {"claim": "vmid:100/gpu0", "owner_name": "mail", "profile": "p", "count": 2,
             "state": "attached", "reason": null, "slices": ["vf:0000:41:00.4", "vf:0000:41:00.5"],
             "home": ["0000:41:00.4", "0000:41:00.5"], "last_refusal": null},
            {"claim": "external:ci/gpu0", "owner_name": "", "profile": "p", "count": 1, "state": "idle",
             "reason": null, "slices": [], "home": ["0000:41:00.6"],
             "last_refusal": {"code": "taken", "message": "its home is taken"}},
            {"claim": "vmid:7/ai", "owner_name": "gone", "profile": "p", "count": 1,
             "state": "orphaned", "reason": "its VM is gone", "slices": [], "home": [],
             "last_refusal": {"code": "taken", "message": "x"}}]));
        assert_eq!(
            claims(&rows, Paint::Off),
            "\
CLAIM             PROFILE  COUNT  STATE     SLICES                           OWNER        REASON
mail/gpu0         p            2  attached  vf:0000:41:00.4,vf:0000:41:00.5  vmid:100     -
external:ci/gpu0  p            1  idle      (vf:0000:41:00.6)                external:ci  last start: taken: its home is taken
gone/ai           p            1  orphaned  -                                vmid:7       its VM is gone
"
        );
    }
}
