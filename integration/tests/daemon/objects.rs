//! Objects for parents and claims, as a program sees them that knows D-Bus and nothing of lists.

use crate::host::{Host, Ran, Vm, as_root};
use crate::life::{ONE_VF, PROFILE};
use std::collections::HashMap;
use std::future::poll_fn;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;
use zbus::export::futures_core::Stream;
use zbus::fdo::{ManagedObjects, ObjectManagerProxy};
use zbus::message::Type;
use zbus::zvariant::{OwnedValue, Structure, Value};
use zbus::{Connection, MatchRule, Message, MessageStream, connection};

const NAME: &str = "org.gpuslice1";
const HOST: &str = "/org/gpuslice1";
const PARENT: &str = "/org/gpuslice1/parent/0000_3a0c_3a00_2e0";

async fn connect(host: &Host) -> Connection {
    let address = host.bus.address();
    connection::Builder::address(address.as_str()).unwrap().build().await.unwrap()
}

async fn objects(bus: &Connection) -> ManagedObjects {
    let manager = ObjectManagerProxy::new(bus, NAME, HOST).await.unwrap();
    manager.get_managed_objects().await.unwrap()
}

fn property(objects: &ManagedObjects, path: &str, interface: &str, name: &str) -> String {
    let found = objects.iter().find(|(at, _)| at.as_str() == path);
    let found = found.and_then(|(_, interfaces)| {
        interfaces.iter().find(|(of, _)| of.as_str() == interface)?.1.get(name)
    });
    found.map(|value| String::try_from(value.clone()).unwrap()).unwrap_or_default()
}

/// Listens for what a member says below our objects.
async fn listen(bus: &Connection, member: &'static str) -> MessageStream {
    let rule = MatchRule::builder().msg_type(Type::Signal).member(member).unwrap().build();
    MessageStream::for_match_rule(rule, bus, None).await.unwrap()
}

/// The first message that is the one.
async fn heard(stream: &mut MessageStream, is_it: impl Fn(&Message) -> bool) {
    let mut stream = std::pin::pin!(stream);
    let wait = async {
        loop {
            let message = poll_fn(|context| stream.as_mut().poll_next(context)).await;
            if is_it(&message.unwrap().unwrap()) {
                return;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(20), wait).await.unwrap();
}

fn state_in(message: &Message) -> Option<String> {
    let body = message.body();
    let (_, changed, _): (String, HashMap<String, Value<'_>>, Vec<String>) =
        body.deserialize().unwrap();
    String::try_from(changed.get("State")?.try_clone().unwrap()).ok()
}

fn path_in(message: &Message) -> String {
    let body = message.body();
    let whole: Structure<'_> = body.deserialize().unwrap();
    match whole.fields().first() {
        Some(Value::ObjectPath(path)) => path.to_string(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn objects_come_change_and_go_with_what_they_stand_for() {
    as_root(|| {
        let host = Host::start("sriov-8", ONE_VF);
        host.settle();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let bus = connect(&host).await;
            let now = objects(&bus).await;
            let parents = now.keys().filter(|p| p.as_str().starts_with("/org/gpuslice1/parent/"));
            assert_eq!(parents.count(), 8);
            assert_eq!(property(&now, PARENT, "org.gpuslice1.Parent", "State"), "ok");

            let mut changed = listen(&bus, "PropertiesChanged").await;
            let reason = ("its fan is loud",);
            let interface = Some("org.gpuslice1.Parent");
            bus.call_method(Some(NAME), PARENT, interface, "Cordon", &reason).await.unwrap();
            heard(&mut changed, |m| state_in(m).as_deref() == Some("cordoned")).await;
            let now = objects(&bus).await;
            assert_eq!(property(&now, PARENT, "org.gpuslice1.Parent", "Reason"), reason.0);
            bus.call_method(Some(NAME), PARENT, interface, "Uncordon", &()).await.unwrap();
            heard(&mut changed, |m| state_in(m).as_deref() == Some("ok")).await;

            let mut added = listen(&bus, "InterfacesAdded").await;
            let mut vm = Vm::new(1);
            assert!(host.attach(&mut vm, PROFILE));
            let claim = "/org/gpuslice1/claim/";
            heard(&mut added, |m| path_in(m).starts_with(claim)).await;
            let now = objects(&bus).await;
            let path = now.keys().find(|p| p.as_str().starts_with(claim)).unwrap().to_string();
            assert_eq!(property(&now, &path, "org.gpuslice1.Claim", "Profile"), PROFILE);
            host.run_vm(&vm);
            heard(&mut changed, |m| state_in(m).as_deref() == Some("attached")).await;
            host.stop_vm(&vm);
            heard(&mut changed, |m| state_in(m).as_deref() == Some("idle")).await;

            let mut removed = listen(&bus, "InterfacesRemoved").await;
            let interface = Some("org.gpuslice1.Claim");
            let release = bus.call_method(Some(NAME), path.as_str(), interface, "Release", &false);
            release.await.unwrap();
            heard(&mut removed, |m| path_in(m) == path).await;

            host.plug("0000:0c:00.0", false);
            heard(&mut changed, |m| state_in(m).as_deref() == Some("absent")).await;
        });
    });
}

/// A polkit in front of which somebody takes his time: it allows everything, once he has typed.
struct Polkit {
    asked: Arc<Notify>,
    typed: Arc<Notify>,
}

#[zbus::interface(name = "org.freedesktop.PolicyKit1.Authority")]
impl Polkit {
    async fn check_authorization(
        &self,
        _subject: (String, HashMap<String, OwnedValue>),
        _action: String,
        _details: HashMap<String, String>,
        _flags: u32,
        _question: String,
    ) -> ((bool, bool, HashMap<String, String>),) {
        self.asked.notify_one();
        self.typed.notified().await;
        ((true, false, HashMap::new()),)
    }
}

#[test]
fn nobody_waits_for_a_password_that_somebody_else_is_to_type() {
    as_root(|| {
        let host = Host::start("sriov-8", ONE_VF);
        host.settle();
        let nobody = |program: &str| {
            let mut command = Command::new("setpriv");
            command.args(["--reuid", "65534", "--regid", "65534", "--clear-groups", program]);
            command
        };
        if !nobody("true").status().unwrap().success() {
            println!("SKIPPED: another user on the bus: this root cannot become one");
            return;
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (asked, typed) = (Arc::<Notify>::default(), Arc::<Notify>::default());
            let polkit = Polkit { asked: Arc::clone(&asked), typed: Arc::clone(&typed) };
            let path = "/org/freedesktop/PolicyKit1/Authority";
            let polkit = connection::Builder::address(host.bus.address().as_str())
                .and_then(|builder| builder.serve_at(path, polkit))
                .and_then(|builder| builder.name("org.freedesktop.PolicyKit1"));
            let _polkit = polkit.unwrap().build().await.unwrap();
            let bus = connect(&host).await;
            let mut changed = listen(&bus, "PropertiesChanged").await;
            let mut noted = listen(&bus, "Changed").await;

            let waits = nobody("dbus-send")
                .arg(format!("--bus={}", host.bus.address()))
                .args(["--print-reply", "--reply-timeout=120000", "--dest=org.gpuslice1", PARENT])
                .args(["org.gpuslice1.Parent.Cordon", "string:its fan is loud"])
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .unwrap();
            let patience = Duration::from_secs(20);
            tokio::time::timeout(patience, asked.notified()).await.unwrap();
            let others = async {
                let interface = Some("org.gpuslice1.Host");
                let body = ("0000:0c:00.0", "dust");
                bus.call_method(Some(NAME), HOST, interface, "Cordon", &body).await.unwrap();
                heard(&mut changed, |m| state_in(m).as_deref() == Some("cordoned")).await;
                // More than anybody queues for the daemon.
                for _ in 0..200 {
                    bus.call_method(Some(NAME), HOST, interface, "Status", &()).await.unwrap();
                }
                let now = objects(&bus).await;
                assert_eq!(property(&now, PARENT, "org.gpuslice1.Parent", "Reason"), "dust");
                let body = ("0000:0c:00.0",);
                bus.call_method(Some(NAME), HOST, interface, "Uncordon", &body).await.unwrap();
                heard(&mut changed, |m| state_in(m).as_deref() == Some("ok")).await;
                heard(&mut noted, |_| true).await;
            };
            tokio::time::timeout(patience * 3, others).await.unwrap();

            typed.notify_one();
            heard(&mut changed, |m| state_in(m).as_deref() == Some("cordoned")).await;
            let ran = Ran::of(&waits.wait_with_output().unwrap());
            assert_eq!(ran.code, Some(0), "{ran:?}");
            let now = objects(&bus).await;
            assert_eq!(property(&now, PARENT, "org.gpuslice1.Parent", "Reason"), "its fan is loud");
        });
    });
}
