//! Who waits for whom, and how often processes are looked through for it.

use super::*;
use clap::Parser;
use gpuslice_core::domain::Domain;
use gpuslice_core::machine::{HookCall, HookOperation};
use std::sync::{Arc, Mutex};
use tokio::task::JoinSet;
use uuid::Uuid;

/// Questions asked at a time.
const MANY: usize = 50;

/// A host whose VFs are on vfio-pci, where any process may have them.
fn engine(config: &std::path::Path) -> (Engine, Handle) {
    let layout = "[[gpu]]\nmatch = { driver = \"gpusim\" }\n\
                  layout = { vfs = 2, bind = \"vfio-pci\" }\n";
    engine_with(config, layout)
}

fn engine_with(config: &std::path::Path, layout: &str) -> (Engine, Handle) {
    std::fs::write(config.join("gpuslice.toml"), layout).unwrap();
    let args = crate::args::Args::parse_from(["gpusliced", "--sim", "sriov-8"]);
    let store = Store::open(&args).unwrap();
    let (handle, inbox) = channel();
    let backend = Backend::open(&args, &handle).unwrap();
    let history = History::start(store.history().unwrap(), handle.clone()).unwrap();
    let records = Records { store, history };
    let config = config.to_owned();
    (Engine::start(backend, records, config, inbox, handle.announcer()), handle)
}

fn start() -> HookCall {
    let (uuid, name) = (Uuid::from_u128(7), "plain".to_owned());
    let domain = Domain { uuid, name, claims: Vec::new(), devices: Vec::new() };
    HookCall::new(HookOperation::Prepare, domain)
}

fn reads(engine: &Engine) -> u64 {
    match &engine.backend {
        Backend::Sim(sim) => sim.reads(),
        Backend::Real(_) => 0,
    }
}

/// Puts questions into the engine's queue, and says who was answered in `order`.
async fn ask(count: usize, handle: &Handle, tasks: &mut JoinSet<()>, order: &Order) {
    for _ in 0..count {
        let (handle, order) = (handle.clone(), Arc::clone(order));
        tasks.spawn(async move {
            handle.command(Command::ListSlices).await.unwrap();
            order.lock().unwrap().push("question");
        });
    }
    tokio::task::yield_now().await;
}

type Order = Arc<Mutex<Vec<&'static str>>>;

async fn serve(engine: &mut Engine, order: &Order, answers: usize) {
    while order.lock().unwrap().len() < answers {
        assert!(engine.round().await);
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_start_does_not_stand_behind_questions() {
    let config = tempfile::tempdir().unwrap();
    let (mut engine, handle) = engine(config.path());
    let (mut tasks, order) = (JoinSet::new(), Order::default());
    ask(MANY, &handle, &mut tasks, &order).await;
    let hook = |handle: Handle, order: Order| async move {
        handle.hook(start()).await.1.await.unwrap();
        order.lock().unwrap().push("start");
    };
    tasks.spawn(hook(handle.clone(), Arc::clone(&order)));
    tokio::task::yield_now().await;
    // Nor one that comes when the first of them has been answered.
    let (later, told) = (handle.clone(), Arc::clone(&order));
    tasks.spawn(async move {
        later.command(Command::ListSlices).await.unwrap();
        hook(later, told).await;
    });
    ask(MANY, &handle, &mut tasks, &order).await;
    serve(&mut engine, &order, 2 * MANY + 2).await;
    let order = order.lock().unwrap();
    assert_eq!(order.first(), Some(&"start"));
    let last = order.iter().rposition(|who| *who == "start");
    assert!(last > Some(MANY) && last < Some(MANY + MANY / 2), "{last:?} of {}", order.len());
}

#[tokio::test]
async fn one_look_at_all_processes_serves_all_that_was_asked_before_it() {
    let config = tempfile::tempdir().unwrap();
    let (mut engine, handle) = engine(config.path());
    assert!(!engine.machine.unassigned().is_empty());
    let mut look = async |questions| {
        let (mut tasks, order) = (JoinSet::new(), Order::default());
        let before = reads(&engine);
        ask(questions, &handle, &mut tasks, &order).await;
        serve(&mut engine, &order, questions).await;
        reads(&engine) - before
    };
    let once = look(1).await;
    assert!(once > 0);
    assert_eq!(look(MANY).await, once);
    // What is asked later is asked of what is so then.
    assert_eq!(look(1).await, once);
}

#[tokio::test]
async fn only_who_asked_waits_for_a_look_and_none_is_told_what_was_seen_before_he_asked() {
    let config = tempfile::tempdir().unwrap();
    let (mut engine, handle) = engine(config.path());
    let slices = engine.machine.unassigned();
    let holder = Holder { pid: 7, comm: "gone".to_owned() };
    let held: BTreeMap<_, _> = slices.into_iter().map(|slice| (slice, holder.clone())).collect();
    let (end, ended) = oneshot::channel();
    engine.looks.under_way = Some(Box::pin(async move { ended.await.unwrap() }));
    let (mut tasks, order) = (JoinSet::new(), Order::default());
    ask(1, &handle, &mut tasks, &order).await;
    let (of_start, of_status) = (handle.clone(), handle.clone());
    let told = Arc::clone(&order);
    tasks.spawn(async move {
        of_start.hook(start()).await.1.await.unwrap();
        told.lock().unwrap().push("start");
    });
    let told = Arc::clone(&order);
    tasks.spawn(async move {
        of_status.command(Command::Status).await.unwrap();
        told.lock().unwrap().push("status");
    });
    tokio::task::yield_now().await;
    serve(&mut engine, &order, 2).await;
    assert_eq!(*order.lock().unwrap(), ["start", "status"]);
    end.send(Looked { held, ..Looked::default() }).unwrap();
    serve(&mut engine, &order, 3).await;
    assert_eq!(order.lock().unwrap().last(), Some(&"question"));
    assert!(engine.machine.held().is_empty());
}

#[tokio::test]
async fn what_a_vm_was_given_meanwhile_is_not_held_from_it() {
    let config = tempfile::tempdir().unwrap();
    let (mut engine, _handle) = engine(config.path());
    let slice = engine.machine.unassigned()[0];
    let given = SliceId::Vf("ffff:00:00.0".parse().unwrap());
    let holder = Holder { pid: 7, comm: "qemu".to_owned() };
    let held = [slice, given].map(|slice| (slice, holder.clone())).into();
    engine.looked(Looked { held, ..Looked::default() });
    assert_eq!(engine.machine.held().keys().collect::<Vec<_>>(), [&slice]);
    // Nor is it let go of because nothing can be told.
    engine.looked(Looked { untold: [slice].into(), ..Looked::default() });
    assert_eq!(engine.machine.held().keys().collect::<Vec<_>>(), [&slice]);
    engine.looked(Looked::default());
    assert!(engine.machine.held().is_empty());
}

#[tokio::test]
async fn nothing_is_kept_for_who_asked_and_is_gone() {
    let config = tempfile::tempdir().unwrap();
    let missing = "[[gpu]]\nmatch = { address = \"0000:ff:00.0\" }\nlayout = { vfs = 1 }\n";
    let (mut engine, handle) = engine_with(config.path(), missing);
    let mut tasks = JoinSet::new();
    let leave = Arc::new(tokio::sync::Notify::new());
    let (asks, leaves) = (handle.clone(), Arc::clone(&leave));
    tasks.spawn(async move {
        let wait = Command::WaitSettled { timeout_ms: u64::MAX };
        let outcome = asks.command_until(wait, leaves.notified()).await;
        assert!(outcome.is_err(), "{outcome:?}");
    });
    tokio::task::yield_now().await;
    assert!(engine.round().await);
    let waits = |engine: &Engine| format!("{:?}", engine.timers).contains("Settle");
    assert!(engine.callers.len() == 1 && waits(&engine));
    leave.notify_one();
    tokio::task::yield_now().await;
    while !engine.callers.is_empty() {
        assert!(engine.round().await);
    }
    assert!(!waits(&engine));
    while let Some(ended) = tasks.join_next().await {
        ended.unwrap();
    }
}

#[tokio::test]
async fn who_is_gone_is_gone_behind_what_he_asked() {
    let config = tempfile::tempdir().unwrap();
    let (mut engine, handle) = engine(config.path());
    // Somebody stays in the way of the drain.
    let (slice, comm) = (engine.machine.unassigned()[0], "qemu".to_owned());
    engine.backend.obey(SimOrder::Open { slice, pid: 7, comm }).unwrap();
    let (end, ended) = oneshot::channel();
    engine.looks.under_way = Some(Box::pin(async move { ended.await.unwrap() }));
    let (mut tasks, order) = (JoinSet::new(), Order::default());
    let leave = Arc::new(tokio::sync::Notify::new());
    let (asks, leaves) = (handle.clone(), Arc::clone(&leave));
    tasks.spawn(async move {
        let (parents, reason) = (Vec::new(), String::new());
        let drain = Command::Drain { parents, reason, wait_ms: Some(u64::MAX) };
        let outcome = asks.command_until(drain, leaves.notified()).await;
        assert!(outcome.is_err(), "{outcome:?}");
    });
    tokio::task::yield_now().await;
    assert!(engine.round().await);
    leave.notify_one();
    tokio::task::yield_now().await;
    assert!(engine.round().await);
    ask(1, &handle, &mut tasks, &order).await;
    end.send(Looked::default()).unwrap();
    serve(&mut engine, &order, 1).await;
    assert!(!engine.machine.durable().cordons.is_empty(), "what was ordered is done");
    assert!(!format!("{:?}", engine.timers).contains("Drain"), "{:?}", engine.timers);
    while let Some(ended) = tasks.join_next().await {
        ended.unwrap();
    }
}

#[tokio::test]
async fn what_an_answer_took_that_the_engine_did_not_make_is_given_back_too() {
    let config = tempfile::tempdir().unwrap();
    let (mut engine, handle) = engine(config.path());
    engine.give_back_at = None;
    handle.answered_at_length();
    assert!(engine.round().await);
    assert!(engine.give_back_at.is_some());
}
