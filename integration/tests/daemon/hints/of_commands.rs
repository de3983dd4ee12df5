//! Commands that are refused for what is typed, or for what of the host they cannot read.

use super::person::{Person, Refused, no_edit};
use crate::host::{Host, Ran, until};
use crate::life::{CARD, ONE_VF, PROFILE};
use gpuslice_core::refusal::Code;
use serde_json::json;
use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread::JoinHandle;

fn host() -> Person {
    Person::at("sriov-8", ONE_VF, 1)
}

pub fn more_than_one_claim_is_meant(code: Code) {
    let mut person = host();
    person.host.configure(&ONE_VF.replace("vfs = 1", "vfs = 4"));
    person.does("gpuslice apply");
    for name in ["one", "two"] {
        person.does(&format!("gpuslice attach vm1 amd-74a1-vf4 --name {name}"));
    }
    let refused = person.refused(code, "gpuslice release vm1");
    person.follows(&refused.hint, "", 0, &mut |person, what| {
        let first = what.strip_prefix("name one of ").unwrap().split(", ").next().unwrap();
        person.does(&format!("gpuslice release {first}"));
    });
    // The agent knows them by their names.
    let refused = person.refused(code, "gpuslice detach vm1");
    person.follows(&refused.hint, "gpuslice detach vm1", 0, &mut no_edit);
}

pub fn nothing_to_explain(code: Code) {
    for way in [0, 1] {
        let mut person = host();
        let refused = person.refused(code, "gpuslice explain vm1");
        person.follows(&refused.hint, "", way, &mut |person, what| {
            assert_eq!(what, "name one of gpuslice explain");
            let all = person.host.cli(&["explain"]).out;
            let first = all.lines().nth(1).unwrap().split(' ').next().unwrap();
            person.does(&format!("gpuslice explain {first}"));
        });
        person.does(if way == 0 { "gpuslice explain vm1" } else { "gpuslice explain" });
    }
}

pub fn no_such_claim_to_explain(code: Code) {
    let mut person = host();
    person.does(&format!("gpuslice attach vm1 {PROFILE}"));
    let refused = person.refused(code, "gpuslice explain vm1/nope");
    person.follows(&refused.hint, "", 0, &mut |person, what| {
        assert_eq!(what, "name one of gpuslice claims");
        person.does("gpuslice explain vm1/gpu0");
    });
}

pub fn few_gpus_to_name(code: Code) {
    let mut person = Person::at("mdev", "", 0);
    let refused = person.refused(code, "gpuslice cordon 0000:ff:00.0");
    person.follows(&refused.hint, "", 0, &mut |person, what| {
        let named = what.strip_prefix("name one of gpuslice gpus: ").unwrap();
        let named: Vec<&str> = named.split(", ").collect();
        assert_eq!(named.len(), person.host.ask(&["gpus"]).as_array().unwrap().len());
        person.does(&format!("gpuslice cordon {}", named[0]));
    });
}

pub fn a_drain_that_takes_longer(code: Code) {
    let bound = ONE_VF.replace("vfs = 1", "vfs = 1, bind = \"vfio-pci\"");
    let mut person = Person::at("sriov-8", &bound, 0);
    let home = person.host.column("slices", "slice")[0].clone();
    person
        .host
        .outside(&json!({"do": "open", "slice": home, "pid": 4242, "comm": "qemu-system-x86"}));
    let order = format!("gpuslice drain {CARD} --wait 0s");
    let refused = person.refused(code, &order);
    person.follows(&refused.hint, "", 0, &mut |person, what| {
        assert_eq!(what, "shut down the VM of process 4242");
        person.host.outside(&json!({"do": "kill", "pid": 4242}));
    });
    person.does(&format!("gpuslice drain {CARD} --wait 50s"));
}

pub fn a_drain_that_somebody_lifts(code: Code) {
    let mut person = host();
    person.does(&format!("gpuslice attach vm1 {PROFILE}"));
    person.does("virsh start vm1");
    let mut drain = person.host.command(&["drain", CARD, "--wait", "5m"]);
    drain.env("GPUSLICE_BUS_ADDRESS", person.host.bus.address()).stderr(Stdio::piped());
    let drain = drain.stdout(Stdio::null()).spawn().unwrap();
    until("it is cordoned", || {
        person.host.column("gpus", "state").contains(&"cordoned".to_owned())
    });
    person.does(&format!("gpuslice uncordon {CARD}"));
    let refused = Refused::read(&Ran::of(&drain.wait_with_output().unwrap()).err);
    assert_eq!(refused.code, code.as_str(), "{}", refused.said);
    person.follows(&refused.hint, "", 0, &mut no_edit);
}

pub fn the_history_is_no_file(code: Code) {
    let mut person = host();
    person.does(&format!("gpuslice attach vm1 {PROFILE}"));
    person.does("virsh start vm1");
    until("it is written", || {
        person.host.ask(&["history"]).as_array().is_some_and(|r| r.len() == 1)
    });
    let files = crate::host::files(&person.host.path("state"), "history-");
    let aside = person.host.path("aside");
    std::fs::rename(&files[0], &aside).unwrap();
    std::fs::create_dir(&files[0]).unwrap();
    person.mends_by(code, "gpuslice history", 0, &mut |_, what| {
        assert_eq!(what, "fix permissions of /var/lib/gpuslice");
        std::fs::remove_dir(&files[0]).unwrap();
        std::fs::rename(&aside, &files[0]).unwrap();
    });
}

pub fn a_domain_that_is_no_file(code: Code) {
    let mut person = host();
    let file = person.host.path("vm1.xml");
    let order = format!("gpuslice doctor {}", file.display());
    let xml = person.libvirt.xml("vm1");
    person.mends_by(code, &order, 0, &mut |_, what| {
        assert_eq!(what, "name a file that virsh dumpxml wrote");
        std::fs::write(&file, &xml).unwrap();
    });
}

pub fn a_file_that_is_no_domain(code: Code) {
    let mut person = host();
    let file = person.host.path("vm1.xml");
    std::fs::write(&file, "[[gpu]]").unwrap();
    let xml = person.libvirt.xml("vm1");
    person.mends_by(code, &format!("gpuslice doctor {}", file.display()), 0, &mut |_, what| {
        assert_eq!(what, "name a file that virsh dumpxml wrote");
        std::fs::write(&file, &xml).unwrap();
    });
}

/// What `--host` and `--config` name, put right by an edit of this file.
fn a_file_is_put_right(code: Code, wrong: &str, name: &str, text: &str) {
    let mut person = host();
    let file = person.host.path("given.toml");
    std::fs::write(&file, wrong).unwrap();
    let known = gpuslice_integration::root().join("examples/hosts/sriov-8.toml");
    let order = match name {
        "--host" => format!("gpuslice profiles --host {}", file.display()),
        other => format!("gpuslice profiles --host {} {other} {}", known.display(), file.display()),
    };
    person.mends_by(code, &order, 0, &mut |_, what| {
        assert_eq!(what, format!("edit {}", file.display()));
        std::fs::write(&file, text).unwrap();
    });
}

pub fn a_host_file_that_is_misspelt(code: Code) {
    let known = gpuslice_integration::root().join("examples/hosts/sriov-8.toml");
    let text = std::fs::read_to_string(known).unwrap();
    a_file_is_put_right(code, &text.replace("[kernel]", "[kernle]"), "--host", &text);
}

pub fn a_configuration_for_it_that_is_misspelt(code: Code) {
    a_file_is_put_right(code, &ONE_VF.replace("vfs", "vsf"), "--config", ONE_VF);
}

pub fn a_host_that_is_no_file(code: Code) {
    let mut person = host();
    let file = person.host.path("given.toml");
    let known = gpuslice_integration::root().join("examples/hosts/sriov-8.toml");
    let order = format!("gpuslice profiles --host {}", file.display());
    person.mends_by(code, &order, 0, &mut |_, what| {
        assert_eq!(what, "name a file that exists and that you may read");
        std::fs::copy(&known, &file).unwrap();
    });
}

pub fn a_folder_for_pages_that_is_not_there(code: Code) {
    let mut person = host();
    let folder = person.host.path("pages");
    let order = format!("gpuslice man {}", folder.display());
    person.mends_by(code, &order, 0, &mut |_, what| {
        assert_eq!(what, "name a directory that exists and that you may write to");
        std::fs::create_dir(&folder).unwrap();
    });
}

pub fn a_profile_to_export_is_misspelt(code: Code) {
    let mut person = host();
    let refused = person.refused(code, "gpuslice export proxmox amd-74a1-fv1");
    person.follows(&refused.hint, "", 0, &mut |person, what| {
        assert_eq!(what, "name one of gpuslice profiles");
        let profiles = person.host.column("profiles", "profile");
        // Of the simulated host's functions this machine's files know nothing.
        drop(person.types(&format!("gpuslice export proxmox {}", profiles[0])));
    });
}

pub fn uuids_without_an_agent(code: Code) {
    let mut person = host();
    person.libvirt.agent_goes();
    let order = format!("gpuslice attach vm1 {PROFILE} --print");
    person.mends_by(code, &order, 0, &mut |person, what| {
        assert_eq!(what, "name the UUID that virsh domuuid vm1 tells");
        let uuid = "01111111-1111-4111-8111-111111111111";
        person.does(&format!("gpuslice attach {uuid} {PROFILE} --print"));
        person.agent_comes();
    });
}

/// `gpuslice events`, once it tells what happens.
fn events(host: &Host) -> (Child, JoinHandle<()>) {
    let mut events = host.command(&["events"]);
    events.env("GPUSLICE_BUS_ADDRESS", host.bus.address());
    let mut events = events.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut told = BufReader::new(events.stdout.take().unwrap());
    let (tells, told_it) = mpsc::channel();
    let reader = std::thread::spawn(move || {
        let mut line = String::new();
        while told.read_line(&mut line).unwrap() > 0 {
            let _ = tells.send(());
        }
    });
    until("it tells what happens", || {
        host.ask(&["cordon", CARD]);
        host.ask(&["uncordon", CARD]);
        told_it.try_recv().is_ok()
    });
    (events, reader)
}

fn end((mut events, reader): (Child, JoinHandle<()>)) {
    events.kill().unwrap();
    events.wait().unwrap();
    reader.join().unwrap();
}

pub fn the_bus_is_gone(code: Code) {
    let mut person = host();
    person.libvirt.agent_goes();
    let (ended, reader) = events(&person.host);
    person.host.terminate();
    person.host.bus.stop();
    let refused = Refused::read(&Ran::of(&ended.wait_with_output().unwrap()).err);
    reader.join().unwrap();
    assert_eq!((refused.code.as_str(), refused.hint.as_str()), (code.as_str(), "gpuslice events"));
    super::registry::follows(&refused.hint);
    person.host.bus.start();
    person.host.start_daemon();
    end(events(&person.host));
}

/// Something else answers at the daemon's socket, or nothing does.
fn in_its_place(code: Code, answers: Option<&'static str>, told: &str) {
    let mut person = host();
    person.does(&format!("gpuslice attach vm1 {PROFILE}"));
    std::fs::write(person.host.path("hook.conf"), "deadline-seconds = 1\n").unwrap();
    person.libvirt.agent_goes();
    person.host.terminate();
    let socket = person.host.path("hook.sock");
    let _ = std::fs::remove_file(&socket);
    let listener = UnixListener::bind(&socket).unwrap();
    let over = Arc::new(AtomicBool::new(false));
    let ends = Arc::clone(&over);
    let other = std::thread::spawn(move || {
        let mut streams = Vec::new();
        while !ends.load(Ordering::Relaxed) {
            let (mut stream, _) = listener.accept().unwrap();
            if let Some(answer) = answers {
                let _ = stream.write_all(answer.as_bytes());
            }
            // Whoever waits is not hung up on.
            streams.push(stream);
        }
    });
    let order = "virsh start vm1";
    let refused = person.refused(code, order);
    over.store(true, Ordering::Relaxed);
    drop(UnixStream::connect(&socket));
    other.join().unwrap();
    std::fs::remove_file(&socket).unwrap();
    person.follows(&refused.hint, order, 0, &mut |person, what| {
        assert!(what.contains(told), "{what}");
        std::fs::write(person.host.path("hook.conf"), "deadline-seconds = 50\n").unwrap();
        person.host.start_daemon();
        person.host.settle();
    });
    person.does(order);
}

pub fn another_program_answers(code: Code) {
    in_its_place(code, Some("hello\n"), "");
}

pub fn nobody_answers_in_time(code: Code) {
    in_its_place(code, None, "with a larger deadline-seconds in /etc/gpuslice/hook.conf");
}

pub fn there_is_no_bus(code: Code) {
    let mut host = Host::off("sriov-8", ONE_VF);
    host.start_daemon();
    let refused = Refused::read(&host.by_socket(&["events"]).err);
    assert_eq!(refused.code, code.as_str(), "{}", refused.said);
    assert_eq!(refused.hint, "systemctl start dbus gpusliced");
    super::registry::follows(&refused.hint);
    host.terminate();
    host.bus.start();
    host.start_daemon();
    end(events(&host));
}

/// What a program on the bus is told that asks for more than a guest can carry; the command line lets nobody type it.
pub fn a_shared_home_is_to_be_held(code: Code) {
    for (had, wanted) in [("pool", "reserve"), ("reserve", "pool")] {
        let mut person = host();
        let attach = format!("gpuslice attach vm1 {PROFILE}");
        person.does(&format!("{attach} --{had}"));
        let order = format!("{attach} --{wanted}");
        let refused = person.refused(code, &order);
        person.follows(&refused.hint, "", 0, &mut |person, what| {
            let with = what.strip_prefix("the same with ").unwrap();
            person.does(&format!("{order} {with}"));
        });
        let row = person.host.only("claims");
        assert_eq!((&row[had], &row[wanted]), (&json!(false), &json!(true)), "{row}");
        // What it has is kept where nothing is said.
        person.does(&attach);
        assert_eq!(person.host.only("claims"), row);
    }
}

pub fn more_slices_than_a_claim_can_have(code: Code) {
    let person = host();
    let claim = |count: u32| -> Result<(), zbus::Error> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let bus = person.host.bus.address();
            let bus = zbus::connection::Builder::address(bus.as_str())?.build().await?;
            let request: HashMap<&str, zbus::zvariant::Value<'_>> = HashMap::from([
                ("name", "gpu0".into()),
                ("profile", PROFILE.into()),
                ("count", count.into()),
            ]);
            let options: HashMap<&str, zbus::zvariant::Value<'_>> = HashMap::new();
            let (name, path) = ("org.gpuslice1", "/org/gpuslice1");
            let host = Some("org.gpuslice1.Host");
            let body = ("external:ci", "", request, options);
            bus.call_method(Some(name), path, host, "Claim", &body).await.map(drop)
        })
    };
    for count in [0, 65] {
        let said = claim(count).unwrap_err().to_string();
        assert!(said.contains(code.as_str()) || said.contains("BadRequest"), "{said}");
        let hint = "the same with a count from 1 to 64";
        assert!(said.contains(hint), "{said}");
        super::registry::follows(hint);
    }
    claim(1).unwrap();
}

/// What a program on the bus is told that asks for rows by a key of its own making.
pub fn a_key_that_no_row_has(code: Code) {
    let person = host();
    let rows = |key: &str| -> Result<usize, zbus::Error> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let bus = person.host.bus.address();
            let bus = zbus::connection::Builder::address(bus.as_str())?.build().await?;
            let filter = HashMap::from([(key, zbus::zvariant::Value::from("free"))]);
            let (name, path) = ("org.gpuslice1", "/org/gpuslice1");
            let host = Some("org.gpuslice1.Host");
            let reply = bus.call_method(Some(name), path, host, "ListSlices", &(filter,)).await?;
            let rows: Vec<HashMap<String, zbus::zvariant::OwnedValue>> =
                reply.body().deserialize()?;
            Ok(rows.len())
        })
    };
    let said = rows("stat").unwrap_err().to_string();
    assert!(said.contains(code.as_str()) || said.contains("BadRequest"), "{said}");
    let (_, hint) = said.split_once("filter by one of ").unwrap();
    let keys: Vec<&str> = hint.split([',', ' ', '"']).filter(|key| !key.is_empty()).collect();
    assert!(keys.contains(&"state"), "{said}");
    super::registry::follows(&format!("filter by one of {}", keys.join(", ")));
    assert_eq!(rows("state").unwrap(), 1);
}
