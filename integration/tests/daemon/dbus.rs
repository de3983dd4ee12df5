//! The bus as anybody may use it: wrong types, wrong names, the wrong user, too much of everything.

use crate::host::{Host, PATIENCE, Ran, Vm, as_root};
use crate::life::{ONE_VF, PROFILE};
use rustix::thread::{Uid, set_thread_res_uid};
use serde::Serialize;
use serde_json::json;
use std::collections::HashMap;
use std::future::Future;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use zbus::message::{Flags, Message};
use zbus::zvariant::{DynamicType, Value, as_value};
use zbus::{Connection, connection};

const NAME: &str = "org.gpuslice1";
const PATH: &str = "/org/gpuslice1";
const INTERFACE: &str = "org.gpuslice1.Host";

fn block_on<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.unwrap().block_on(future)
}

async fn connect(host: &Host) -> Connection {
    let address = host.bus.address();
    connection::Builder::address(address.as_str()).unwrap().build().await.unwrap()
}

/// The name and text of the error a call ends in; empty when it succeeds.
async fn call(
    bus: &Connection,
    method: &str,
    body: &(impl Serialize + DynamicType),
) -> (String, String) {
    match bus.call_method(Some(NAME), PATH, Some(INTERFACE), method, body).await {
        Ok(_) => (String::new(), String::new()),
        Err(zbus::Error::MethodError(name, text, _)) => {
            (name.to_string(), text.unwrap_or_default())
        }
        Err(error) => panic!("{method}: {error}"),
    }
}

type Dict<'a> = HashMap<&'a str, Value<'a>>;

fn dict<'a>(entries: &[(&'a str, &'a str)]) -> Dict<'a> {
    entries.iter().map(|(key, value)| (*key, Value::from(*value))).collect()
}

#[test]
fn wrong_calls_are_errors_and_change_nothing() {
    as_root(|| {
        let host = Host::start("sriov-8", ONE_VF);
        host.settle();
        let before = host.ask(&["status"]);
        let none = Dict::new();
        let owner = Vm::new(1).uuid;
        let long = "a".repeat(1 << 20);
        let gpu0 = dict(&[("name", "gpu0"), ("profile", PROFILE)]);
        block_on(async {
            let bus = connect(&host).await;
            let unknown = "org.freedesktop.DBus.Error.UnknownMethod";
            // The name zbus has for arguments of other types than the method takes.
            let arguments = "org.freedesktop.zbus.Error";
            for (got, want) in [
                (call(&bus, "Frobnicate", &()).await, unknown),
                (call(&bus, "status", &()).await, unknown),
                (call(&bus, "Status", &("surplus")).await, arguments),
                (call(&bus, "ListSlices", &()).await, arguments),
                (call(&bus, "ListSlices", &("text",)).await, arguments),
                (call(&bus, "Cordon", &(1_u32, "why")).await, arguments),
                (call(&bus, "Cordon", &("0000:0c:00.0",)).await, arguments),
                (call(&bus, "WaitSettled", &("soon",)).await, arguments),
                (call(&bus, "WaitSettled", &(-1_i64,)).await, arguments),
                (call(&bus, "Claim", &(&owner, "vm1")).await, arguments),
            ] {
                assert_eq!(got.0, want, "{got:?}");
            }
            let claim = |owner: &str, request: Dict<'static>, options: Dict<'static>| {
                let (bus, owner) = (bus.clone(), owner.to_owned());
                async move { call(&bus, "Claim", &(owner, "vm", request, options)).await }
            };
            let asked = |name: &'static str| dict(&[("name", name), ("profile", PROFILE)]);
            for got in [
                claim("", asked("gpu0"), Dict::new()).await,
                claim("win11", asked("gpu0"), Dict::new()).await,
                claim("vmid:-1", asked("gpu0"), Dict::new()).await,
                claim("external:a\nb", asked("gpu0"), Dict::new()).await,
                claim(&long, asked("gpu0"), Dict::new()).await,
                claim(&owner, asked(""), Dict::new()).await,
                claim(&owner, asked("a/b"), Dict::new()).await,
                claim(&owner, asked("a b"), Dict::new()).await,
                claim(&owner, dict(&[("name", "gpu0"), ("profile", "a--b")]), Dict::new()).await,
                claim(&owner, dict(&[("name", "gpu0"), ("profil", PROFILE)]), Dict::new()).await,
                claim(&owner, dict(&[("name", "gpu0"), ("count", "many")]), Dict::new()).await,
                claim(&owner, asked("gpu0"), dict(&[("frozen", "yes")])).await,
                claim(&owner, asked("gpu0"), dict(&[("pool", "yes")])).await,
                call(&bus, "Claim", &(&owner, "vm", dict(&[("name", &long)]), &none)).await,
                call(&bus, "Unclaim", &("gpu0", &none)).await,
                call(&bus, "Unclaim", &(&long, &none)).await,
                call(&bus, "Cordon", &("../x", "")).await,
                call(&bus, "Cordon", &(&long, "")).await,
                call(&bus, "DomainGone", &("nobody",)).await,
                call(&bus, "DomainSeen", &(&none, true)).await,
                call(&bus, "ListSlices", &(dict(&[("colour", "red")]),)).await,
            ] {
                assert_eq!(
                    got.0,
                    "org.gpuslice1.Error.BadRequest",
                    "{}",
                    &got.1[..got.1.len().min(200)]
                );
                assert!(got.1.len() < 4096, "a message for people of {} bytes", got.1.len());
            }
            let unknown_card = call(&bus, "Cordon", &("0000:ff:00.0", "")).await;
            assert_eq!(unknown_card.0, "org.gpuslice1.Error.Unknown");
            let no_profile = dict(&[("name", "gpu0"), ("profile", "amd-74a1-vf9")]);
            let got = call(&bus, "Claim", &(&owner, "vm", no_profile, &none)).await;
            assert_eq!(got.0, "org.gpuslice1.Error.NoProfile");
            // After all that the right call is still served.
            assert_eq!(call(&bus, "Claim", &(&owner, "vm", gpu0, &none)).await.0, "");
            assert_eq!(call(&bus, "Unclaim", &(format!("{owner}/gpu0"), &none)).await.0, "");
        });
        assert_eq!(host.ask(&["status"]), before);
        assert_eq!(host.ask(&["claims"]), json!([]));
    });
}

#[test]
fn a_person_without_rights_may_read_and_nothing_else() {
    as_root(|| {
        let host = Host::start("sriov-8", ONE_VF);
        host.settle();
        let nobody = |program: &str, arguments: &[&str]| {
            let mut command = Command::new("setpriv");
            command.args(["--reuid", "65534", "--regid", "65534", "--clear-groups", program]);
            command.args(arguments).env("GPUSLICE_BUS_ADDRESS", host.bus.address());
            Ran::of(&command.env_remove("GPUSLICE_SOCKET").output().unwrap())
        };
        if nobody("true", &[]).code != Some(0) {
            println!("SKIPPED: another user on the bus: this root cannot become one");
            return;
        }
        // Where it was built others may not look.
        let program = host.path("gpuslice");
        std::fs::copy(host.program("gpuslice"), &program).unwrap();
        let program = program.to_str().unwrap();
        for list in ["status", "gpus", "profiles", "slices", "claims", "plan"] {
            let ran = nobody(program, &[list]);
            assert_eq!(ran.code, Some(0), "{list}: {ran:?}");
        }
        let uuid = Vm::new(1).uuid;
        for order in [
            &["apply"][..],
            &["cordon", "0000:0c:00.0"],
            &["uncordon", "0000:0c:00.0"],
            &["attach", &uuid, PROFILE, "--print"],
        ] {
            let ran = nobody(program, &[order, &["--json"]].concat());
            assert_eq!(ran.code, Some(4), "{order:?}: {ran:?}");
            assert_eq!(ran.json()["refusal"]["code"], json!("not-permitted"));
            assert!(ran.err.contains("hint: "), "{ran:?}");
        }
        for (method, arguments) in [
            ("Apply", &[][..]),
            ("Cordon", &["string:0000:0c:00.0", "string:"]),
            ("AgentWork", &[]),
            ("DomainGone", &["string:8e2f2d4e-1b5f-4a4e-9f57-0d9c6f1c6a11"]),
        ] {
            let (bus, method) =
                (format!("--bus={}", host.bus.address()), format!("{INTERFACE}.{method}"));
            let destination = format!("--dest={NAME}");
            let lead = [bus.as_str(), "--print-reply", &destination, PATH, &method];
            let ran = nobody("dbus-send", &[&lead, arguments].concat());
            assert!(ran.err.contains("org.gpuslice1.Error.NotPermitted"), "{method}: {ran:?}");
        }
        assert_eq!(host.ask(&["claims"]), json!([]));
        assert!(!host.column("gpus", "state").contains(&"cordoned".to_owned()));
        // Nor is the socket theirs.
        let mut command = Command::new("setpriv");
        command.args(["--reuid", "65534", "--regid", "65534", "--clear-groups", program, "status"]);
        let ran =
            Ran::of(&command.env("GPUSLICE_SOCKET", host.path("hook.sock")).output().unwrap());
        assert_eq!(ran.code, Some(4), "{ran:?}");
    });
}

async fn connect_as_nobody(host: &Host) -> Option<Connection> {
    connect_as(host, 65534).await
}

/// As a user without rights: the bus asks the kernel who connects. `None` where this root cannot become one.
async fn connect_as(host: &Host, user: u32) -> Option<Connection> {
    let (root, user) = (Uid::ROOT, Uid::from_raw(user));
    // This thread alone, which connects by itself.
    if set_thread_res_uid(user, user, root).is_err() {
        println!("SKIPPED: another user on the bus: this root cannot become one");
        return None;
    }
    let stream = std::os::unix::net::UnixStream::connect(host.path("bus")).unwrap();
    stream.set_nonblocking(true).unwrap();
    let stream = tokio::net::UnixStream::from_std(stream).unwrap();
    let connection = connection::Builder::unix_stream(stream).build().await.unwrap();
    set_thread_res_uid(root, root, root).unwrap();
    Some(connection)
}

#[test]
fn the_agent_s_name_is_good_for_what_the_agent_does() {
    as_root(|| {
        let host = Host::start("sriov-8", ONE_VF);
        host.settle();
        block_on(async {
            let Some(bus) = connect_as_nobody(&host).await else { return };
            let (refused, none) = ("org.gpuslice1.Error.NotPermitted", Dict::new());
            assert_eq!(call(&bus, "AgentWork", &()).await.0, refused);
            bus.request_name("org.gpuslice1.Libvirt").await.unwrap();
            assert_eq!(call(&bus, "AgentWork", &()).await.0, "");
            let owner = Vm::new(1).uuid;
            let asked = dict(&[("name", "gpu0"), ("profile", PROFILE)]);
            assert_eq!(call(&bus, "Claim", &(&owner, "vm", asked, &none)).await.0, "");
            assert_eq!(call(&bus, "Unclaim", &(format!("{owner}/gpu0"), &none)).await.0, "");
            for got in [
                call(&bus, "Cordon", &("0000:0c:00.0", "why")).await,
                call(&bus, "Drain", &(Vec::<String>::new(), &none)).await,
                call(&bus, "Apply", &()).await,
            ] {
                assert_eq!(got.0, refused, "{got:?}");
            }
        });
        assert!(!host.column("gpus", "state").contains(&"cordoned".to_owned()));
    });
}

/// A number of /proc/PID/status, in KiB.
fn memory(host: &Host, key: &str) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{}/status", host.pid())).unwrap();
    let line = text.lines().find_map(|l| l.strip_prefix(key)?.strip_prefix(':')).unwrap();
    line.split_whitespace().next().unwrap().parse().unwrap()
}

/// What a debug build may take for it, in KiB: a third more than the 18 MiB that it was seen to. One that kept the thousand
/// lists until the last is asked for would take 14 MiB more.
const FLOOD: u64 = 24 << 10;

#[test]
fn a_flood_is_served_without_growing_and_no_start_waits_for_it() {
    const CONNECTIONS: usize = 20;
    const CALLS: usize = 100;
    as_root(|| {
        let host = Arc::new(Host::start(
            "sriov-8",
            "[[gpu]]\nmatch = { driver = \"gpusim\" }\nlayout = { vfs = \"all\" }\n",
        ));
        host.settle();
        let mut vm = Vm::new(1);
        host.attach(&mut vm, "amd-74a1-vf8");
        let before = memory(&host, "VmRSS");
        let answered = Arc::new(AtomicUsize::new(0));
        block_on(async {
            let mut tasks = tokio::task::JoinSet::new();
            for number in 0..CONNECTIONS {
                let bus = connect(&host).await;
                for at in 0..CALLS {
                    let (bus, answered) = (bus.clone(), answered.clone());
                    let reads = (number + at) % 2 == 0;
                    tasks.spawn(async move {
                        let answer = if reads {
                            call(&bus, "ListSlices", &(Dict::new(),)).await
                        } else {
                            call(&bus, "Cordon", &("0000:ff:00.0", "")).await
                        };
                        answered.fetch_add(1, Ordering::Relaxed);
                        answer
                    });
                }
            }
            let first = tasks.join_next().await.unwrap().unwrap();
            // While they are under way a VM starts, and others are served too.
            let (starting, vm) = (host.clone(), vm.clone());
            let start = tokio::task::spawn_blocking(move || starting.hook(&vm, "prepare"));
            start.await.unwrap().quiet();
            let before = answered.load(Ordering::Relaxed);
            assert!(before < CONNECTIONS * CALLS, "the start stood behind all that is asked");
            println!("a start was answered after {before} of the calls");
            let one_more = connect(&host).await;
            assert_eq!(call(&one_more, "Status", &()).await.0, "");
            let (mut served, mut refused) = (0, 0);
            let mut answer = Some(first);
            while let Some((error, _)) = answer {
                match error.as_str() {
                    "" => served += 1,
                    "org.gpuslice1.Error.Unknown" => refused += 1,
                    other => panic!("{other}"),
                }
                answer = tasks.join_next().await.map(Result::unwrap);
            }
            assert_eq!((served, refused), (CONNECTIONS * CALLS / 2, CONNECTIONS * CALLS / 2));
        });
        assert_eq!(host.cli(&["status"]).code, Some(0));
        let grown = memory(&host, "VmHWM").saturating_sub(before);
        println!("2000 calls of 64 slices: {before} KiB before, at the most {grown} KiB more");
        assert!(grown < FLOOD, "{grown} KiB more than the {before} before");
    });
}

/// All objects, as who may be refused asks for them.
async fn objects(bus: &Connection) -> Result<usize, String> {
    let interface = Some("org.freedesktop.DBus.ObjectManager");
    match bus.call_method(Some(NAME), PATH, interface, "GetManagedObjects", &()).await {
        Ok(message) => Ok(message.body().len()),
        Err(zbus::Error::MethodError(name, _, _)) => Err(name.to_string()),
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn all_objects_are_told_to_one_at_a_time() {
    const CLAIMS: usize = 200;
    const CONNECTIONS: usize = 4;
    const CALLS: usize = 100;
    // In KiB. All that are asked for, begun at once, would take more than twice that.
    const MOST: u64 = 12 << 10;
    as_root(|| {
        let host = Host::start("sriov-8", ONE_VF);
        host.settle();
        block_on(async {
            let Some(nobody) = connect_as_nobody(&host).await else { return };
            let root = connect(&host).await;
            for number in 0..CLAIMS {
                let asked = dict(&[("name", "gpu0"), ("profile", PROFILE)]);
                let options = HashMap::from([("pool", Value::from(true))]);
                let owner = format!("external:{number}");
                assert_eq!(call(&root, "Claim", &(owner, "", asked, options)).await.0, "");
            }
            let length = objects(&nobody).await.unwrap();
            let before = memory(&host, "VmRSS");
            let mut tasks = tokio::task::JoinSet::new();
            for _ in 0..CONNECTIONS {
                let bus = connect_as_nobody(&host).await.unwrap();
                for _ in 0..CALLS {
                    let bus = bus.clone();
                    tasks.spawn(async move { objects(&bus).await });
                }
            }
            let mut served = 0;
            while let Some(answer) = tasks.join_next().await {
                match answer.unwrap() {
                    Ok(_) => served += 1,
                    Err(error) => assert_eq!(error, "org.gpuslice1.Error.Unreachable"),
                }
            }
            let grown = memory(&host, "VmHWM").saturating_sub(before);
            println!("{served} answers of {length} bytes: {before} KiB before, {grown} KiB more");
            assert!(served >= CALLS, "{served}");
            assert!(grown < MOST, "{grown} KiB more than the {before} before");
        });
    });
}

/// What an object says that it is, or the name of the error.
async fn described(bus: &Connection, path: &str) -> Result<String, String> {
    let interface = Some("org.freedesktop.DBus.Introspectable");
    match bus.call_method(Some(NAME), path, interface, "Introspect", &()).await {
        Ok(message) => Ok(message.body().deserialize().unwrap()),
        Err(zbus::Error::MethodError(name, _, _)) => Err(name.to_string()),
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn an_object_describes_itself_and_all_of_them_are_described_to_root_alone() {
    as_root(|| {
        let host = Host::start("sriov-8", ONE_VF);
        host.settle();
        block_on(async {
            let root = connect(&host).await;
            let text = described(&root, PATH).await.unwrap();
            for word in ["Host", "DBus.ObjectManager", "DBus.Properties", "DBus.Introspectable"] {
                assert!(text.contains(&format!("{word}\"")), "{word}: {text}");
            }
            assert!(
                text.contains("\"ListClaims\"") && !text.contains("gpuslice1.Parent"),
                "{text}"
            );
            let Some(nobody) = connect_as_nobody(&host).await else { return };
            assert_eq!(described(&nobody, PATH).await, Ok(text));
            let parent = described(&nobody, "/org/gpuslice1/parent/0000_3a0c_3a00_2e0").await;
            assert!(parent.unwrap().contains("gpuslice1.Parent"));
            let denied = "org.freedesktop.DBus.Error.AccessDenied";
            for path in ["/", "/org", "/org/gpuslice1/parent", "/org/gpuslice1/claim"] {
                assert_eq!(described(&nobody, path).await, Err(denied.to_owned()), "{path}");
            }
            assert!(described(&root, "/").await.unwrap().contains("gpuslice1.Parent"));
        });
    });
}

/// Orders whose answers nobody wants, which the bus does not count.
fn unanswered(
    path: &str,
    interface: &str,
    method: &str,
    body: &(impl Serialize + DynamicType),
) -> Message {
    let call = Message::method_call(path, method).unwrap();
    let call = call.destination(NAME).unwrap().interface(interface).unwrap();
    call.with_flags(Flags::NoReplyExpected).unwrap().build(body).unwrap()
}

#[test]
fn long_arguments_are_not_read_and_no_start_waits_for_them() {
    const CALLS: usize = 16;
    const LENGTH: usize = 16 << 20;
    // Some of them as they come, in KiB. Read, one alone would be more than a GiB.
    const MOST: u64 = 4 * (LENGTH as u64 >> 10);
    as_root(|| {
        let (host, vm) = Host::with_vm();
        let host = Arc::new(host);
        let before = memory(&host, "VmRSS");
        block_on(async {
            let bus = connect(&host).await;
            let bytes = vec![b'x'; LENGTH];
            let filter = HashMap::from([("state", as_value::Serialize(&bytes))]);
            let list = unanswered(PATH, INTERFACE, "ListSlices", &(filter,));
            for _ in 0..CALLS / 2 {
                bus.send(&list).await.unwrap();
            }
            let starting = host.clone();
            let start = tokio::task::spawn_blocking(move || starting.hook(&vm, "prepare"));
            for _ in 0..CALLS / 2 {
                bus.send(&list).await.unwrap();
            }
            start.await.unwrap().quiet();
            // They are refused, root's too, and so they are at the objects.
            let long = String::from_utf8(bytes).unwrap();
            let refused = "org.gpuslice1.Error.BadRequest";
            let got = call(&bus, "ListSlices", &(dict(&[("state", &long)]),)).await;
            assert_eq!(got.0, refused, "{}", got.1);
            assert!(got.1.contains("the arguments of ListSlices are "), "{}", got.1);
            let card = "/org/gpuslice1/parent/0000_3a0c_3a00_2e0";
            let parent = "org.gpuslice1.Parent";
            bus.send(&unanswered(card, parent, "Cordon", &(&long,))).await.unwrap();
            assert_eq!(call(&bus, "Status", &()).await.0, "");
            assert!(!host.column("gpus", "state").contains(&"cordoned".to_owned()));
            // What tells of a domain may be long where the agent sends it, and is not read of anybody else.
            let long = &long[..16 << 10];
            let got = call(&bus, "Cordon", &("0000:ff:00.0", long)).await;
            assert_eq!(got.0, "org.gpuslice1.Error.Unknown", "{}", got.1);
            if let Some(nobody) = connect_as_nobody(&host).await {
                let got = call(&nobody, "Cordon", &("0000:ff:00.0", long)).await;
                assert_eq!(got.0, refused, "{}", got.1);
            }
        });
        let grown = memory(&host, "VmHWM").saturating_sub(before);
        println!("{CALLS} calls of 16 MiB: {before} KiB before, at the most {grown} KiB more");
        assert!(grown < MOST, "{grown} KiB more than the {before} before");
    });
}

/// A host on which a GPU is missing for ever.
fn that_never_settles() -> Host {
    let host = Host::start("sriov-8", ONE_VF);
    host.settle();
    host.plug("0000:0c:00.0", false);
    host
}

/// Asks so often to be told, and does not wait for it.
async fn wait_for_ever(bus: &Connection, times: usize) {
    let wait = unanswered(PATH, INTERFACE, "WaitSettled", &(u64::MAX,));
    for _ in 0..times {
        bus.send(&wait).await.unwrap();
    }
}

#[test]
fn who_waits_for_ever_again_and_again_is_refused_without_growing() {
    const CALLS: usize = 20_000;
    // In KiB: for the hundred that do wait, and what the others took while they were read.
    const MOST: u64 = 16 << 10;
    as_root(|| {
        let host = that_never_settles();
        let before = memory(&host, "VmRSS");
        block_on(async {
            let bus = connect(&host).await;
            wait_for_ever(&bus, CALLS).await;
            let got = call(&bus, "Status", &()).await;
            assert_eq!(got.0, "org.gpuslice1.Error.Unreachable", "{}", got.1);
            assert_eq!(host.cli(&["status"]).code, Some(0));
            let grown = memory(&host, "VmRSS").saturating_sub(before);
            println!("{CALLS} waits: {before} KiB before, {grown} KiB more");
            assert!(grown < MOST, "{grown} KiB more than the {before} before");
        });
    });
}

#[test]
fn there_is_room_for_root_and_for_all_when_those_who_wait_have_left() {
    as_root(|| {
        let host = that_never_settles();
        block_on(async {
            let Some(last) = connect_as(&host, 3).await else { return };
            assert_eq!(call(&last, "Status", &()).await.0, "");
            let mut crowd = Vec::new();
            for user in [1, 2] {
                let bus = connect_as(&host, user).await.unwrap();
                wait_for_ever(&bus, 128).await;
                let got = call(&bus, "Status", &()).await;
                assert!(got.1.contains("calls of this connection"), "{got:?}");
                // Nor has the user any by another one, and that is no one else's concern.
                let another = connect_as(&host, user).await.unwrap();
                let got = call(&another, "Status", &()).await;
                assert!(got.1.contains("calls of this user"), "{got:?}");
                if user == 1 {
                    assert_eq!(call(&last, "Status", &()).await.0, "");
                }
                crowd.push(bus);
            }
            let got = call(&last, "Status", &()).await;
            assert_eq!(got.0, "org.gpuslice1.Error.Unreachable");
            assert!(got.1.contains("but root's"), "{got:?}");
            assert_eq!(host.cli(&["status"]).code, Some(0));
            last.request_name("org.gpuslice1.Libvirt").await.unwrap();
            assert_eq!(call(&last, "AgentWork", &()).await.0, "");
            last.release_name("org.gpuslice1.Libvirt").await.unwrap();
            assert_ne!(call(&last, "Status", &()).await.0, "");
            drop(crowd);
            let deadline = Instant::now() + PATIENCE;
            while !call(&last, "Status", &()).await.0.is_empty() {
                assert!(Instant::now() < deadline, "their places are not given back");
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        });
    });
}
