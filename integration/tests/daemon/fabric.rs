//! Several slices for one VM through the real programs: all of one fabric, or none.

use crate::host::{Host, Vm, as_root};
use serde_json::json;

const PROFILE: &str = "amd-mi300x-vf1-spx";
const FOUR_BY_FOUR: &str =
    "[[gpu]]\nmatch = { model = \"mi300x\" }\nlayout = { vfs = 1, fabric-sharing = 4 }\n";

fn start() -> Host {
    let file = gpuslice_integration::root().join("examples/hosts/mi300x-8.toml");
    let host = Host::start(file.to_str().unwrap(), FOUR_BY_FOUR);
    host.ask(&["apply"]);
    host.settle();
    host
}

fn ask(host: &Host, vm: &mut Vm, count: &str, more: &[&str]) {
    let order = ["attach", vm.uuid.as_str(), PROFILE, "--print", "--count", count];
    let answer = host.ask(&[&order[..], more].concat());
    vm.wear(answer["xml"].as_str().unwrap());
}

fn states(host: &Host) -> Vec<String> {
    let mut states = host.column("slices", "state");
    states.sort();
    states
}

#[test]
fn a_vm_starts_with_a_fabric_or_not_at_all() {
    as_root(|| {
        let host = start();
        let (mut one, mut four) = (Vm::new(1), Vm::new(2));
        ask(&host, &mut one, "1", &[]);
        ask(&host, &mut four, "4", &["--fabric", "same"]);
        let late = Vm::new(3);
        let order = ["attach", &late.uuid, PROFILE, "--print", "--count", "4", "--fabric", "same"];
        let refusal = host.refusal(&order);
        assert_eq!(refusal["code"], json!("no-capacity"));
        let told = refusal["causes"].to_string();
        assert!(told.contains("XGMI hive of 0000:0c:00.0 lacks 1 of 4"), "{told}");

        host.run_vm(&one);
        host.hook(&four, "prepare").quiet();
        let mut expected = vec!["prepared"; 4];
        expected.extend(["free", "free", "free", "attached"]);
        expected.sort_unstable();
        assert_eq!(states(&host), expected);
        host.hook(&four, "started").quiet();
        host.stop_vm(&four);
        host.stop_vm(&one);
        assert_eq!(states(&host), ["free"; 8]);
    });
}

#[test]
fn devices_of_two_fabrics_start_no_vm() {
    as_root(|| {
        let host = start();
        let mut all = Vm::new(1);
        ask(&host, &mut all, "8", &[]);
        host.ask(&["release", &all.uuid]);
        all.xml = all.xml.replace("count='8'", "count='8' fabric='same'");
        let line = host.hook(&all, "prepare");
        let line = line.refused("not-in-xml");
        assert!(line.contains("not of the fabric") && line.contains("--fabric same"), "{line}");
        assert_eq!(states(&host), ["free"; 8]);
        // It is the claim that is refused, not the number.
        all.xml = all.xml.replace(" fabric='same'", "");
        host.run_vm(&all);
        assert_eq!(states(&host), ["attached"; 8]);
        host.stop_vm(&all);
        assert_eq!(states(&host), ["free"; 8]);
    });
}
