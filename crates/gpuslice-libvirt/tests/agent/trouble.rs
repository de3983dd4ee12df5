//! libvirt or the daemon is late, absent or comes back.

use crate::domains::xml;
use crate::scene::{Setting, play};
use gpuslice_api::CallError;
use gpuslice_api::libvirt::AttachOptions;
use gpuslice_core::refusal::Code;
use gpuslice_core::request::{Command, DueStart};
use std::sync::mpsc;
use std::time::Duration;
use uuid::Uuid;

const VM: Uuid = Uuid::from_u128(0x7_0b1e);

fn code<T: std::fmt::Debug>(result: Result<T, CallError>) -> (Code, String) {
    match result.unwrap_err() {
        CallError::Refused(refusal) => (refusal.code, refusal.one_line()),
        other => panic!("{other}"),
    }
}

#[test]
fn a_libvirt_that_hangs_does_not_hang_the_bus() {
    let setting = Setting { patience: Duration::from_millis(300), ..Setting::default() };
    play(
        setting,
        |person, _| person.define(VM, "vm", "", ""),
        async |mut scene| {
            scene.settles().await;
            let (release, held) = mpsc::channel::<()>();
            let worker = scene.agent.worker.clone();
            let stuck = tokio::spawn(async move {
                worker
                    .call("something that hangs".to_owned(), move |_| {
                        held.recv().unwrap();
                        Ok(())
                    })
                    .await
            });
            let profile = "p".parse().unwrap();
            let attach = scene.client.attach("vm", &profile, &AttachOptions::default()).await;
            let resolve = scene.client.resolve("vm").await;
            for (code, line) in [code(attach), code(resolve)] {
                assert_eq!(code, Code::Timeout, "{line}");
                assert!(line.contains("something that hangs"), "{line}");
            }
            // The turn is still with the attach that has begun: one more waits for it in vain.
            let attach = scene.client.attach("vm", &profile, &AttachOptions::default()).await;
            assert!(code(attach).1.contains("begun"));
            release.send(()).unwrap();
            stuck.await.unwrap().unwrap();
            // What had begun went on to its end.
            scene.person.becomes(VM, "attached", |xml| xml.contains("name=\"gpu0\"")).await;
            scene.client.resolve("vm").await.unwrap();
        },
    );
}

#[test]
fn a_flood_of_questions_is_refused_while_libvirt_hangs() {
    play(
        Setting::default(),
        |_, _| {},
        async |mut scene| {
            scene.settles().await;
            let (release, held) = mpsc::channel::<()>();
            let worker = scene.agent.worker.clone();
            let hang = worker.call("hanging".to_owned(), move |_| {
                held.recv().unwrap();
                Ok(())
            });
            let flood = async {
                let worker = scene.agent.worker.clone();
                let mut asked = tokio::task::JoinSet::new();
                for _ in 0..200 {
                    let worker = worker.clone();
                    asked.spawn(async move {
                        worker.call_if_room("asking".to_owned(), |c| c.find("test")).await
                    });
                }
                // All but the 32 for whom there is room are answered at once.
                for _ in 0..200 - 32 - 1 {
                    let answer = asked.join_next().await.unwrap().unwrap();
                    assert_eq!(answer.unwrap_err().code, Code::Timeout);
                }
                release.send(()).unwrap();
                let rest = asked.join_all().await;
                assert!(rest.iter().any(Result::is_ok));
            };
            let (hung, ()) = tokio::join!(hang, flood);
            hung.unwrap();
        },
    );
}

/// By then somebody may have decided otherwise.
#[test]
fn what_was_to_be_started_while_libvirt_hung_for_long_is_started_no_more() {
    let [late, other] = [1, 2].map(|n| Uuid::from_u128(0x7_0b20 + n));
    let setting = Setting { start_later: Duration::from_millis(500), ..Setting::default() };
    play(
        setting,
        |person, _| {
            person.define(late, "late", "", "");
            person.define(other, "other", "", "");
        },
        async |mut scene| {
            scene.settles().await;
            let due = |domain| vec![DueStart { domain, only: None }];
            let (release, held) = mpsc::channel::<()>();
            let worker = scene.agent.worker.clone();
            let hang = worker.call("hanging".to_owned(), move |_| {
                held.recv().unwrap();
                Ok(())
            });
            let waits = async {
                scene.daemon.script.lock().unwrap().start = due(late);
                scene.settles().await;
                tokio::time::sleep(Duration::from_secs(1)).await;
                release.send(()).unwrap();
            };
            let (hung, ()) = tokio::join!(hang, waits);
            hung.unwrap();
            scene.daemon.script.lock().unwrap().start = due(other);
            scene.announce("agent-work").await;
            scene.person.becomes(other, "started", |_| scene.person.running(other)).await;
            assert!(!scene.person.running(late));
        },
    );
}

#[test]
fn a_daemon_that_comes_late_or_again_is_told_everything() {
    let setting = Setting { daemon_up: false, ..Setting::default() };
    play(
        setting,
        |person, _| person.define(VM, "vm", "", ""),
        async |mut scene| {
            let profile = "p".parse().unwrap();
            let attach = scene.client.attach("vm", &profile, &AttachOptions::default()).await;
            assert_eq!(code(attach).0, Code::Unreachable);
            scene.daemon_comes().await;
            scene.shows(VM, |_, _| true).await;
            scene.asks("AgentWork", |command| *command == Command::AgentWork).await;
        },
    );
}

#[test]
fn libvirt_is_tried_again_until_it_is_there() {
    let directory = tempfile::tempdir().unwrap();
    let node = directory.path().join("node.xml");
    let uri = format!("test://{}", node.display());
    play(
        Setting { uri, ..Setting::default() },
        |_, _| {},
        async |mut scene| {
            let (code, line) = code(scene.client.resolve("vm").await);
            assert_eq!(code, Code::Unreachable, "{line}");
            std::fs::write(&node, format!("<node>{}</node>", xml(VM, "vm", "", ""))).unwrap();
            scene.shows(VM, |domain, shut_off| domain.name == "vm" && !shut_off).await;
            scene.client.resolve("vm").await.unwrap();
        },
    );
}

#[test]
fn a_definition_we_cannot_understand_holds_up_no_other() {
    let other = Uuid::from_u128(0x7_0b1f);
    play(
        Setting::default(),
        |person, _| {
            person.define(VM, "broken", "<gpuslice:claim nmae='x'/>", "");
            person.define(other, "good", "", "");
        },
        async |mut scene| {
            scene.shows(other, |_, _| true).await;
            let profile = "p".parse().unwrap();
            let attach = scene.client.attach("broken", &profile, &AttachOptions::default()).await;
            let (code, line) = code(attach);
            assert_eq!(code, Code::BadRequest);
            assert!(line.contains("nmae"), "{line}");
        },
    );
}
