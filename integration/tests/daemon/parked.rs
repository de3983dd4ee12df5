//! What stands in virt-manager's list of mediated devices, picked, started and exchanged.

use crate::host::{Host, Vm, as_root, until};
use serde_json::{Value as Json, json};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;

/// A card of 48 GiB on which two of 24 GiB fit, and one of them is parked.
const PARKED: &str = "[[gpu]]\nmatch = { address = \"0000:41:00.0\" }\n\
                      layout = { park = { nvidia-a40-24q = 1 } }\n\
                      [[gpu]]\nmatch = { address = \"0000:81:00.0\" }\n\
                      layout = { park = { nvidia-a40-24q = 2 } }\n";
const PROFILE: &str = "nvidia-a40-24q";

fn profile(host: &Host) -> Json {
    let rows = host.ask(&["profiles"]);
    rows.as_array().unwrap().iter().find(|row| row["profile"] == json!(PROFILE)).unwrap().clone()
}

fn state(host: &Host, slice: &str) -> Json {
    let rows = host.ask(&["slices"]);
    let row = rows.as_array().unwrap().iter().find(|row| row["slice"] == json!(slice)).cloned();
    row.map_or(Json::Null, |row| row["state"].clone())
}

/// As the dialog writes it.
fn picked(number: u8, slice: &str) -> Vm {
    let mut vm = Vm::new(number);
    vm.wear(&format!(
        "<hostdev mode='subsystem' type='mdev' managed='yes' model='vfio-pci' display='off' ramfb='off'>\
         <source><address uuid='{}'/></source></hostdev>",
        slice.strip_prefix("mdev:").unwrap()
    ));
    vm
}

/// What the agent asks when it has seen the domain.
fn seen(host: &Host, vm: &Vm) -> Json {
    let domain = gpuslice_domxml::read_domain(&vm.xml).unwrap();
    let command = json!({"command": "domain-seen", "domain": domain, "shut_off": true});
    let id = "00000000-0000-0000-0000-000000000001";
    let mut stream = UnixStream::connect(host.path("hook.sock")).unwrap();
    writeln!(stream, "{}", json!({"v": 1, "id": id, "body": {"command": command}})).unwrap();
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).unwrap();
    serde_json::from_str(&line).unwrap()
}

#[test]
fn one_that_is_picked_becomes_the_vm_s_own_and_stays_for_the_next() {
    as_root(|| {
        let host = Host::start("mdev", PARKED);
        host.settle();
        let row = profile(&host);
        assert_eq!((&row["free"], row["pick"].as_array().unwrap().len()), (&json!(4), 3), "{row}");
        let first = row["pick"][0].as_str().unwrap().to_owned();
        assert_eq!(host.ask(&["plan"])["changed"], json!(false));

        // Nobody has adopted it: it is the VM's for this run, and no other's.
        let (one, two) = (picked(1, &first), picked(2, &first));
        host.run_vm(&one);
        assert_eq!(state(&host, &first), json!("attached"));
        assert_eq!(host.only("claims")["claim"], json!(format!("{}/gpu0", one.uuid)));
        assert!(host.hook(&two, "prepare").refused("taken").contains(&one.name));
        host.stop_vm(&one);
        until("it is parked again", || state(&host, &first) == json!("parked"));
        assert_eq!(host.ask(&["claims"]), json!([]));

        // The agent sees both: each is told what to carry, and it is not what was picked.
        let mut uuids = Vec::new();
        for vm in [&one, &two] {
            let said = seen(&host, vm).to_string();
            assert!(said.contains("\"adopted\":[{"), "{said}");
            assert!(said.contains("\"alias\":\"ua-gpuslice-gpu0\""), "{said}");
            let claim = format!("{}/gpu0", vm.uuid);
            let claims = host.column("claims", "claim");
            assert!(claims.contains(&claim), "{claims:?}");
            let mut own = Vm::new(vm.uuid[..2].parse().unwrap());
            host.attach(&mut own, PROFILE);
            let device = gpuslice_domxml::read_domain(&own.xml).unwrap().devices[0].clone();
            assert!(said.contains(&json!(device.source).to_string()), "{said}");
            uuids.push(own);
        }
        // Four fit: two of VMs, and what is parked beside them; a third VM takes the room of one.
        let mut three = Vm::new(3);
        host.attach(&mut three, PROFILE);
        for vm in uuids.iter().chain([&three]) {
            host.run_vm(vm);
        }
        assert_eq!(profile(&host)["pick"].as_array().unwrap().len(), 1);
        host.stop_vm(&three);
        until("two are parked", || profile(&host)["pick"].as_array().unwrap().len() == 2);

        host.configure("");
        host.ask(&["apply"]);
        until("none is parked", || profile(&host)["pick"] == json!([]));
    });
}

#[test]
fn one_that_a_process_has_is_not_taken_away() {
    as_root(|| {
        let host = Host::start("mdev", PARKED);
        host.settle();
        let slice = profile(&host)["pick"][0].as_str().unwrap().to_owned();
        host.outside(
            &json!({"do": "open", "slice": slice, "pid": 4242, "comm": "qemu-system-x86"}),
        );
        let rows = host.ask(&["slices"]);
        let row = rows.as_array().unwrap().iter().find(|row| row["slice"] == json!(slice)).unwrap();
        assert_eq!(
            (&row["state"], &row["holder"]),
            (&json!("foreign"), &json!("qemu-system-x86 (pid 4242)"))
        );
        host.configure("");
        host.ask(&["apply"]);
        assert_eq!(state(&host, &slice), json!("foreign"));
        host.outside(&json!({"do": "kill", "pid": 4242}));
        until("it is gone", || {
            host.ask(&["apply"]).is_object() && state(&host, &slice) == json!(null)
        });
    });
}
