//! Configurations with every kind of mistake: nothing of them takes effect, and each is told with its place.

use crate::host::{Host, as_root, until};
use crate::life::ONE_VF;
use serde_json::json;
use std::fs;

/// A mistake, its line, and a word of what is said about it.
const MISTAKES: &[(&str, u32, &str)] = &[
    ("[[gpu]\n", 1, ""),
    ("plaecment = \"pack\"\n", 1, "did you mean `placement`?"),
    ("placement = \"wide\"\n", 1, "`placement`"),
    ("gpu = 3\n", 1, "[[gpu]]"),
    ("[[gpu]]\nmatch = { driver = \"x\" }\n", 1, "needs `layout`"),
    ("[[gpu]]\nlayout = { vfs = 1 }\n", 1, "needs `match`"),
    ("[[gpu]]\nmatch = {}\nlayout = { vfs = 1 }\n", 2, "`match` is empty"),
    ("[[gpu]]\nmatch = { adress = \"0000:0c:00.0\" }\nlayout = { vfs = 1 }\n", 2, "`address`"),
    ("[[gpu]]\nmatch = { address = \"twelve\" }\nlayout = { vfs = 1 }\n", 2, "`address`"),
    ("[[gpu]]\nmatch = { address = 12 }\nlayout = { vfs = 1 }\n", 2, "`address`"),
    ("[[gpu]]\nmatch = { serial = \"123\" }\nlayout = { vfs = 1 }\n", 2, "`serial`"),
    ("[[gpu]]\nmatch = { vendor-device = \"1002\" }\nlayout = { vfs = 1 }\n", 2, "`vendor-device`"),
    ("[[gpu]]\nmatch = { driver = \"a/b\" }\nlayout = { vfs = 1 }\n", 2, "`driver`"),
    ("[[gpu]]\nmatch = { driver = \"x\" }\nlayout = { vfs = -1 }\n", 3, "`vfs`"),
    ("[[gpu]]\nmatch = { driver = \"x\" }\nlayout = { vfs = 70000 }\n", 3, "`vfs`"),
    ("[[gpu]]\nmatch = { driver = \"x\" }\nlayout = { vfs = \"many\" }\n", 3, "`vfs`"),
    ("[[gpu]]\nmatch = { driver = \"x\" }\nlayout = { vsf = 1 }\n", 3, "`vfs`"),
    ("[[gpu]]\nmatch = { driver = \"x\" }\nlayout = {}\n", 3, "`vfs`"),
    ("[[gpu]]\nmatch = { driver = \"x\" }\nlayout = { vfs = 1, bind = \"../x\" }\n", 3, "`bind`"),
    (
        "[[gpu]]\nmatch = { driver = \"x\" }\nlayout = { vfs = 1 }\n\n[[gpu]]\nmodel = \"y\"\n",
        6,
        "`model`",
    ),
];

#[test]
fn every_mistake_is_told_with_its_place_and_changes_nothing() {
    as_root(|| {
        let host = Host::start("sriov-8", ONE_VF);
        host.settle();
        let (gpus, slices) = (host.ask(&["gpus"]), host.ask(&["slices"]));
        let file = host.path("etc/gpuslice.toml");
        for (text, line, word) in MISTAKES {
            host.configure(text);
            for command in ["plan", "apply"] {
                let refusal = host.refusal(&[command]);
                assert_eq!(refusal["code"], json!("bad-config"), "{text}");
                let cause = refusal["causes"][0].as_str().unwrap();
                let place = format!("{}:{line}:", file.display());
                assert!(cause.starts_with(&place) && cause.contains(word), "{text}: {cause}");
                assert!(refusal["hint"].as_str().unwrap().contains(file.to_str().unwrap()));
            }
            let errors = host.ask(&["status"])["config_errors"].to_string();
            assert!(errors.contains(&format!("gpuslice.toml:{line}:")), "{text}: {errors}");
            assert_eq!(
                (host.ask(&["gpus"]), host.ask(&["slices"])),
                (gpus.clone(), slices.clone())
            );
        }
        host.configure(ONE_VF);
        assert_eq!(host.ask(&["plan"])["changed"], json!(false));
        assert_eq!(host.ask(&["status"])["config_errors"], json!([]));
    });
}

#[test]
fn files_that_cannot_be_read_are_told_and_all_mistakes_at_once() {
    as_root(|| {
        let host = Host::start("sriov-8", ONE_VF);
        host.settle();
        fs::create_dir(host.path("etc/conf.d")).unwrap();
        fs::create_dir(host.path("etc/conf.d/10-dir.toml")).unwrap();
        fs::write(host.path("etc/conf.d/20-bytes.toml"), [0xff, 0xfe]).unwrap();
        fs::write(host.path("etc/conf.d/30-key.toml"), "spread = true\nwide = 1\n").unwrap();
        let causes = host.refusal(&["plan"])["causes"].clone();
        let told = causes.to_string();
        for part in
            ["10-dir.toml", "20-bytes.toml", "30-key.toml:1:1: ", "30-key.toml:2:1: ", "`spread`"]
        {
            assert!(told.contains(part), "{part}: {told}");
        }
        assert_eq!(causes.as_array().unwrap().len(), 4, "{told}");
    });
}

#[test]
fn a_broken_configuration_keeps_the_applied_layout_over_restart_and_boot() {
    as_root(|| {
        let mut host = Host::start("sriov-8", ONE_VF);
        host.settle();
        host.configure("[[gpu]]\nmatch = { driver = \"gpusim\" }\nlayout = { vsf = 2 }\n");
        host.terminate();
        host.start_daemon();
        host.settle();
        let said = |host: &Host| {
            assert_eq!(host.column("slices", "state"), ["free"]);
            let errors = host.ask(&["status"])["config_errors"].to_string();
            assert!(errors.contains("gpuslice.toml:3:") && errors.contains("`vsf`"), "{errors}");
            let told = host.cli(&["status"]);
            assert!(told.out.contains("gpuslice.toml:3:"), "{told:?}");
        };
        said(&host);
        host.outside(&json!({"do": "reboot"}));
        host.settle();
        said(&host);
    });
}

/// Slots are looked for as soon as a configuration asks for one, and no longer than that.
#[test]
fn a_gpu_is_matched_by_the_slot_it_is_in() {
    as_root(|| {
        let of_slot = |slot: &str| {
            format!("[[gpu]]\nmatch = {{ slot = \"{slot}\" }}\nlayout = {{ vfs = \"all\" }}\n")
        };
        let path = gpuslice_integration::root().join("examples/hosts/a40-vfio.toml");
        let mut host = Host::start(path.to_str().unwrap(), "");
        host.settle();
        assert_eq!(host.column("gpus", "slot"), ["null", "null", "null", "null"]);
        host.configure(&of_slot("3"));
        let steps = host.ask(&["plan"])["steps"].to_string();
        assert!(steps.contains("0000:81:00.0") && !steps.contains("0000:41:00.0"), "{steps}");
        host.ask(&["apply"]);
        let laid_out = |host: &Host| {
            let rows = host.ask(&["gpus"]);
            let has = |row: &&serde_json::Value| !row["layout"].is_null();
            let laid_out: Vec<_> = rows.as_array().unwrap().iter().filter(has).collect();
            assert_eq!(laid_out.len(), 1, "{rows}");
            (laid_out[0]["parent"].clone(), laid_out[0]["slot"].clone())
        };
        assert_eq!(laid_out(&host), (json!("0000:81:00.0"), json!("3")));
        // What was applied asks for it again.
        host.terminate();
        host.start_daemon();
        host.settle();
        assert_eq!(laid_out(&host), (json!("0000:81:00.0"), json!("3")));
        host.configure(&of_slot("7"));
        assert!(host.ask(&["plan"])["unmatched"].to_string().contains("slot = "));
    });
}

#[test]
fn an_edit_takes_effect_at_the_next_boot_and_no_restart() {
    as_root(|| {
        let mut host = Host::start("sriov-8", ONE_VF);
        host.settle();
        host.configure(&ONE_VF.replace("vfs = 1", "vfs = 3"));
        host.kill();
        host.start_daemon();
        host.settle();
        assert_eq!(host.column("slices", "state"), ["free"]);
        host.outside(&json!({"do": "reboot"}));
        host.settle();
        assert_eq!(host.column("slices", "state"), ["free"; 3]);
    });
}

#[test]
fn a_rule_that_no_device_meets_is_said_by_the_plan() {
    as_root(|| {
        let host = Host::start("sriov-8", ONE_VF);
        host.settle();
        host.configure(&format!(
            "{ONE_VF}[[gpu]]\nmatch = {{ address = \"0000:ff:00.0\" }}\nlayout = {{ vfs = 1 }}\n"
        ));
        let plan = host.ask(&["plan"]);
        assert!(plan["unmatched"].to_string().contains("0000:ff:00.0"), "{plan}");
    });
}

/// A network card at 0000:01:00.0, and two GPUs.
const MIXED: &str = include_str!("../../../examples/hosts/mixed.toml");
const NIC: &str = "0000:01:00.0";
const GPU: &str = "0000:0c:00.0";
const PORT: &str = "0000:0c:00.1";

fn at(address: &str) -> String {
    format!("address = \"{address}\"\n")
}

#[test]
fn what_is_in_a_slot_beside_the_gpu_is_left_alone() {
    as_root(|| {
        let mut host =
            Host::off("mixed", "[[gpu]]\nmatch = { slot = \"3\" }\nlayout = { vfs = 2 }\n");
        // Two functions of one card, as where a GPU and its network port are.
        let slotted = format!("{}slot = \"3\"\n", at(GPU));
        let both = MIXED.replacen(&at(GPU), &slotted, 1).replacen(&at(NIC), &at(PORT), 1);
        host.becomes(&both);
        host.bus.start();
        host.start_daemon();
        until("the GPU has its layout", || host.ask(&["slices"]) != json!([]));
        host.settle();
        let rows = host.ask(&["slices"]);
        let of: Vec<_> = rows.as_array().unwrap().iter().map(|row| row["parent"].clone()).collect();
        assert_eq!(of, [json!(GPU), json!(GPU)], "{rows}");
        // Whoever means the network card says so.
        let by_driver =
            "[[gpu]]\nmatch = { slot = \"3\", driver = \"igb\" }\nlayout = { vfs = 2 }\n";
        host.configure(by_driver);
        assert!(host.ask(&["plan"])["steps"].to_string().contains(PORT));
    });
}

#[test]
fn what_comes_to_a_gpu_s_address_is_not_given_its_layout_before_somebody_says_so() {
    as_root(|| {
        let rule = format!("[[gpu]]\nmatch = {{ {} }}\nlayout = {{ vfs = 2 }}\n", at(GPU).trim());
        let mut host = Host::start("mixed", &rule);
        host.settle();
        assert_eq!(host.ask(&["slices"]).as_array().map(Vec::len), Some(2));
        host.terminate();

        // A card was added, and the numbers of the buses have moved.
        let moved =
            MIXED.replacen(&at(GPU), &at("0000:0d:00.0"), 1).replacen(&at(NIC), &at(GPU), 1);
        host.becomes(&moved);
        host.start_daemon();
        until("it is read", || !host.ask(&["gpus"]).as_array().unwrap().is_empty());
        assert_eq!(host.ask(&["slices"]), json!([]));
        let gpus = host.ask(&["gpus"]);
        let row = gpus.as_array().unwrap().iter().find(|row| row["parent"] == json!(GPU)).unwrap();
        assert_eq!(row["state"], json!("absent"), "{row}");
        assert!(row["reason"].to_string().contains("8086:10c9 has its address"), "{row}");
        let status = host.ask(&["status"]);
        assert!(status["waiting_for"].to_string().contains("where 8086:10c9 is now"), "{status}");

        // The way out that it tells, where the card is what is meant.
        assert_eq!(host.ask(&["apply"])["changed"], json!(true));
        let rows = host.ask(&["slices"]);
        assert_eq!(rows.as_array().map(Vec::len), Some(2), "{rows}");
        host.terminate();
        host.start_daemon();
        host.settle();
        assert_eq!(host.ask(&["slices"]).as_array().map(Vec::len), Some(2));
    });
}
