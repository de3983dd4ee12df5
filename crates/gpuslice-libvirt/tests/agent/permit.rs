//! Who may: root without asking, others as polkit says, nobody else where there is no polkit. The caller is another
//! user, which only root can become.

use crate::scene::ordinary;
use gpuslice_api::CallError;
use gpuslice_core::refusal::Code;
use std::collections::HashMap;
use std::os::unix::process::CommandExt;
use std::process::{Command, Output};
use std::sync::{Arc, Mutex};
use uuid::Uuid;
use zbus::zvariant::OwnedValue;

const VM: Uuid = Uuid::from_u128(0x9e7);
const NOBODY: u32 = 65534;

fn root() -> bool {
    std::fs::metadata("/proc/self").is_ok_and(|me| std::os::unix::fs::MetadataExt::uid(&me) == 0)
}

/// Calls as nobody; tokio serves the bus meanwhile.
async fn as_nobody(address: &str, call: &[&str]) -> Output {
    let mut command = Command::new("busctl");
    command
        .args([&format!("--address={address}"), "--allow-interactive-authorization=no", "call"])
        .args(["org.gpuslice1.Libvirt", "/org/gpuslice1/libvirt", "org.gpuslice1.Libvirt"])
        .args(call)
        .uid(NOBODY);
    tokio::task::spawn_blocking(move || command.output().expect("busctl is installed"))
        .await
        .unwrap()
}

async fn attach_as_nobody(address: &str) -> Output {
    as_nobody(address, &["Attach", "ssa{sv}", "vm", "p", "0"]).await
}

struct Polkit {
    allows: &'static str,
    asked: Arc<Mutex<Vec<String>>>,
}

#[zbus::interface(name = "org.freedesktop.PolicyKit1.Authority")]
impl Polkit {
    fn check_authorization(
        &self,
        subject: (String, HashMap<String, OwnedValue>),
        action: String,
        _details: HashMap<String, String>,
        flags: u32,
        _cancellation: String,
    ) -> (bool, bool, HashMap<String, String>) {
        assert_eq!(subject.0, "system-bus-name");
        let name: String = subject.1["name"].clone().try_into().unwrap();
        assert!(name.starts_with(':'), "{name}");
        assert_eq!(flags, 0, "the caller did not ask for interaction");
        let allowed = action == self.allows;
        self.asked.lock().unwrap().push(action);
        (allowed, false, HashMap::new())
    }
}

#[test]
fn without_polkit_only_root() {
    if !root() {
        println!("SKIPPED: the agent asks polkit: this is not root");
        return;
    }
    ordinary(
        |person, _| person.define(VM, "vm", "", ""),
        async |scene| {
            let output = attach_as_nobody(&scene.bus.address).await;
            let text = String::from_utf8_lossy(&output.stderr);
            assert!(!output.status.success());
            assert!(text.contains("polkit does not answer"), "{text}");
            assert!(scene.daemon.script.lock().unwrap().claims.is_empty());
        },
    );
}

#[test]
fn polkit_says_who_else() {
    if !root() {
        println!("SKIPPED: the agent asks polkit: this is not root");
        return;
    }
    for (allows, success) in [("org.gpuslice1.attach", true), ("org.gpuslice1.release", false)] {
        ordinary(
            |person, _| person.define(VM, "vm", "", ""),
            async |scene| {
                let asked = Arc::new(Mutex::new(Vec::new()));
                let polkit = Polkit { allows, asked: Arc::clone(&asked) };
                let connection = scene.bus.connect().await;
                let path = "/org/freedesktop/PolicyKit1/Authority";
                connection.object_server().at(path, polkit).await.unwrap();
                connection.request_name("org.freedesktop.PolicyKit1").await.unwrap();
                let output = attach_as_nobody(&scene.bus.address).await;
                let text = String::from_utf8_lossy(&output.stderr);
                assert_eq!(output.status.success(), success, "{text}");
                assert_eq!(*asked.lock().unwrap(), ["org.gpuslice1.attach"]);
                let claims = scene.daemon.script.lock().unwrap().claims.len();
                assert_eq!(claims, usize::from(success));
            },
        );
    }
}

#[test]
fn what_is_long_is_not_read_of_everybody() {
    if !root() {
        println!("SKIPPED: the agent refuses long calls of others: this is not root");
        return;
    }
    ordinary(
        |person, _| person.define(VM, "vm", "", ""),
        async |scene| {
            let long = "v".repeat(9 << 10);
            let output = as_nobody(&scene.bus.address, &["Resolve", "s", &long]).await;
            let text = String::from_utf8_lossy(&output.stderr);
            assert!(!output.status.success());
            assert!(text.contains("the arguments of Resolve are"), "{text}");
            // Of root it is a name like another.
            let Err(CallError::Refused(unknown)) = scene.client.resolve(&long).await else {
                panic!("there is no such domain")
            };
            assert_eq!(unknown.code, Code::Unknown);
        },
    );
}
