//! Hot-plug, as far as libvirt's test driver goes: it has none before libvirt 10, so here it is refused. What libvirt
//! does when it does not refuse is shown in the lab.

use crate::daemon::row;
use crate::domains::hostdev;
use crate::log::Log;
use crate::scene::{ordinary, wanted};
use gpuslice_api::CallError;
use gpuslice_api::libvirt::{AttachOptions, DetachOptions};
use gpuslice_core::hint;
use gpuslice_core::ids::{ClaimKey, Owner, SliceId};
use gpuslice_core::refusal::{Code, Refusal};
use gpuslice_core::request::{Answer, ClaimRow, Command};
use uuid::Uuid;

const VM: Uuid = Uuid::from_u128(0x1143);

const CLAIM: &str = "<gpuslice:claim name='gpu0' profile='p'/>";

fn refused<T: std::fmt::Debug>(result: Result<T, CallError>) -> Refusal {
    match result.unwrap_err() {
        CallError::Refused(refusal) => refusal,
        other => panic!("{other}"),
    }
}

fn live(config: bool) -> AttachOptions {
    AttachOptions { live: true, config, ..AttachOptions::default() }
}

#[test]
fn what_libvirt_refuses_to_plug_in_is_given_back_and_nothing_is_left_in_the_xml() {
    for config in [false, true] {
        ordinary(
            |person, daemon| {
                person.define(VM, "vm", "", "");
                person.start(VM);
                // One device twice is refused by every libvirt.
                let devices = vec![wanted("ua-gpuslice-gpu0", 1), wanted("ua-gpuslice-gpu0--1", 1)];
                daemon.script.lock().unwrap().devices.insert(VM, devices);
            },
            async |mut scene| {
                scene.settles().await;
                let before = (scene.person.xml(VM), scene.person.live_xml(VM));
                let profile = "p".parse().unwrap();
                let refusal = refused(scene.client.attach("vm", &profile, &live(config)).await);
                assert!(refusal.message.contains("ua-gpuslice-gpu0"), "{refusal}");
                assert!(!refusal.causes.is_empty() && refusal.hint.is_some(), "{refusal:?}");
                scene
                    .asks("Plug", |c| matches!(c, Command::Plug { keep, .. } if *keep == config))
                    .await;
                scene.asks("PlugFailed", |c| matches!(c, Command::PlugFailed { .. })).await;
                scene.asks("Unclaim", |c| matches!(c, Command::Unclaim { force: true, .. })).await;
                assert_eq!((scene.person.xml(VM), scene.person.live_xml(VM)), before);
            },
        );
    }
}

/// The daemon can take minutes.
#[test]
fn what_a_person_writes_while_slices_are_prepared_stays() {
    ordinary(
        |person, daemon| {
            person.define(VM, "vm", "", "");
            person.start(VM);
            let domain = person.domain(VM);
            let other = "<claims><claim name='other' profile='p'/></claims>";
            daemon.before(move |command| {
                if matches!(command, Command::Plug { .. }) {
                    let (name, namespace) = (Some("gpuslice"), Some("urn:gpuslice:domain:1"));
                    domain.set_metadata(2, Some(other), name, namespace, 2).unwrap();
                }
                None
            });
        },
        async |mut scene| {
            scene.settles().await;
            let profile = "p".parse().unwrap();
            scene.client.attach("vm", &profile, &live(true)).await.unwrap();
            let xml = scene.person.xml(VM);
            assert!(xml.contains("name=\"gpu0\"") && xml.contains("name=\"other\""), "{xml}");
        },
    );
}

/// A claim that is as before is not undone twice: with the last of its slices the daemon undoes it by itself.
#[test]
fn a_claim_that_the_daemon_undoes_by_itself_is_no_failure_to_undo() {
    for (code, undone) in [(Code::InUse, true), (Code::StateUnwritable, false)] {
        let said = Refusal::new(code, "no").hint(hint!("h"));
        ordinary(
            move |person, daemon| {
                person.define(VM, "vm", "", "");
                person.start(VM);
                // The definition asks for it, and it is plugged in before the next start.
                person.define(VM, "vm", CLAIM, &hostdev("ua-gpuslice-gpu0", 1, ""));
                let devices = vec![wanted("ua-gpuslice-gpu0", 1), wanted("ua-gpuslice-gpu0--1", 1)];
                daemon.script.lock().unwrap().devices.insert(VM, devices);
                daemon.before(move |command| match command {
                    Command::Claim { .. } => Some(Err(said.clone())),
                    _ => None,
                });
            },
            async |mut scene| {
                scene.settles().await;
                let profile = "p".parse().unwrap();
                let refusal = refused(scene.client.attach("vm", &profile, &live(false)).await);
                assert!(refusal.message.contains("ua-gpuslice-gpu0"), "{refusal}");
                scene.asks("Claim", |c| matches!(c, Command::Claim { .. })).await;
                let left = |cause: &String| cause.contains("the claim could not be undone");
                assert_eq!(!refusal.causes.iter().any(left), undone, "{refusal:?}");
            },
        );
    }
}

/// Its XML does not say what was picked for it, as long as it runs.
#[test]
fn a_claim_of_the_run_alone_leaves_its_name_to_nobody_else() {
    let said = Refusal::new(Code::NoCapacity, "every p is taken").hint(hint!("h"));
    ordinary(
        |person, daemon| {
            person.define(VM, "vm", "", "");
            person.start(VM);
            daemon.before(move |command| match command {
                Command::ListClaims => {
                    let key = |owner, name: &str| ClaimKey { owner, name: name.parse().unwrap() };
                    let (of_vm, of_other) = (Owner::Domain(VM), Owner::Domain(Uuid::nil()));
                    let slice: SliceId = "vf:0000:41:00.1".parse().unwrap();
                    let rows = [(of_vm.clone(), "gpu0", vec![slice]), (of_vm, "gpu1", vec![])]
                        .into_iter()
                        .chain([(of_other, "gpu1", vec![slice])]);
                    let row = |(owner, name, slices)| ClaimRow { slices, ..row(key(owner, name)) };
                    Some(Ok(Answer::Claims { rows: rows.map(row).collect() }))
                }
                Command::Plug { .. } => Some(Err(said.clone())),
                _ => None,
            });
        },
        async |mut scene| {
            scene.settles().await;
            let profile = "p".parse().unwrap();
            let named = AttachOptions { name: Some("gpu0".parse().unwrap()), ..live(false) };
            for (options, expected) in [(live(false), "gpu1"), (named, "gpu0")] {
                refused(scene.client.attach("vm", &profile, &options).await);
                let asked = scene.asks("Plug", |c| matches!(c, Command::Plug { .. })).await;
                let Command::Plug { request, .. } = asked else { panic!("{asked:?}") };
                assert_eq!(request.name.as_str(), expected);
            }
        },
    );
}

#[test]
fn what_requires_a_node_is_plugged_where_the_vm_runs() {
    let near = "<gpuslice:claim name='gpu0' profile='p' numa='require'/>";
    let said = Refusal::new(Code::NoCapacity, "every p is taken").hint(hint!("h"));
    ordinary(
        |person, daemon| {
            person.define_on_node(VM, "vm", "", 1);
            person.start(VM);
            // From the next start on it is elsewhere, and asks for a device.
            person.define_on_node(VM, "vm", near, 0);
            daemon.before(move |command| match command {
                Command::Plug { .. } => Some(Err(said.clone())),
                _ => None,
            });
        },
        async |mut scene| {
            scene.settles().await;
            let profile = "p".parse().unwrap();
            refused(scene.client.attach("vm", &profile, &live(false)).await);
            let asked = scene.asks("Plug", |c| matches!(c, Command::Plug { .. })).await;
            let Command::Plug { request, .. } = asked else { panic!("{asked:?}") };
            assert_eq!(request.require_numa.unwrap().memory.to_string(), "1");
        },
    );
}

#[test]
fn a_refusal_of_the_daemon_touches_nothing() {
    let said = Refusal::new(Code::NoCapacity, "every p is taken").hint(hint!("h"));
    ordinary(
        |person, daemon| {
            person.define(VM, "vm", "", "");
            person.start(VM);
            let said = said.clone();
            daemon.before(move |command| match command {
                Command::Plug { .. } => Some(Err(said.clone())),
                _ => None,
            });
        },
        async |mut scene| {
            scene.settles().await;
            let before = scene.person.live_xml(VM);
            let profile = "p".parse().unwrap();
            let refusal = refused(scene.client.attach("vm", &profile, &live(false)).await);
            assert_eq!(refusal, said);
            assert_eq!(scene.person.live_xml(VM), before);
            let after = scene.drain();
            assert!(!after.iter().any(|c| matches!(c, Command::PlugFailed { .. })), "{after:?}");
        },
    );
}

#[test]
fn what_does_not_run_is_not_plugged_into() {
    ordinary(
        |person, _| person.define(VM, "vm", CLAIM, &hostdev("ua-gpuslice-gpu0", 1, "")),
        async |mut scene| {
            scene.settles().await;
            let profile = "p".parse().unwrap();
            let attach = refused(scene.client.attach("vm", &profile, &live(true)).await);
            let options = DetachOptions { live: true, config: true };
            let detach = refused(scene.client.detach("vm", None, &options).await);
            for refusal in [attach, detach] {
                assert_eq!(refusal.code, Code::BadRequest, "{refusal}");
                assert!(refusal.hint.unwrap().contains("without --live"));
            }
            let orders = |c: &Command| matches!(c, Command::Plug { .. } | Command::Unclaim { .. });
            assert!(!scene.drain().iter().any(orders));
        },
    );
}

#[test]
fn a_guest_that_cannot_be_asked_keeps_the_device_and_the_claim() {
    ordinary(
        |person, daemon| {
            person.define(VM, "vm", CLAIM, &hostdev("ua-gpuslice-gpu0", 1, ""));
            person.start(VM);
            daemon.script.lock().unwrap().devices.insert(VM, vec![wanted("ua-gpuslice-gpu0", 1)]);
        },
        async |mut scene| {
            scene.settles().await;
            let before = (scene.person.xml(VM), scene.person.live_xml(VM));
            let options = DetachOptions { live: true, config: true };
            let done = scene.client.detach("vm", None, &options).await;
            if virt::connect::Connect::get_version().unwrap() >= 10_000_000 {
                // It has hot-unplug, and a guest that lets go at once.
                assert!(done.unwrap().changed);
                return;
            }
            let refusal = refused(done);
            assert!(refusal.message.contains("ua-gpuslice-gpu0"), "{refusal}");
            assert_eq!((scene.person.xml(VM), scene.person.live_xml(VM)), before);
            assert!(!scene.drain().iter().any(|c| matches!(c, Command::Unclaim { .. })));
        },
    );
}

/// The guest has ejected it, or somebody has it unplugged by virsh alone.
#[test]
fn a_claim_that_has_lost_its_devices_is_not_saved_with_its_vm() {
    let two = CLAIM.to_owned() + "<gpuslice:claim name='gpu1' profile='p'/>";
    ordinary(
        |person, _| {
            person.define(VM, "vm", &two, &hostdev("ua-gpuslice-gpu1", 2, ""));
            person.start(VM);
        },
        async |mut scene| {
            let before = scene.person.xml(VM);
            scene.settles().await;
            let live = scene.person.live_xml(VM);
            assert!(live.contains("gpu1") && !live.contains("gpu0"), "{live}");
            assert_eq!(scene.person.xml(VM), before, "the definition asks for it still");
            assert_eq!(scene.settles().await, []);
        },
    );
}

/// As `virsh metadata --set` does of a VM that runs, where nobody says `--config`.
#[test]
fn a_claim_that_is_written_into_a_running_domain_is_not_taken_out_without_a_word() {
    let (log, _until_the_end) = Log::start();
    ordinary(
        |person, _| {
            person.define(VM, "my vm", "", "");
            person.start(VM);
        },
        async |mut scene| {
            scene.settles().await;
            assert_eq!(log.warnings(), [""; 0]);
            let claims = format!("<claims>{}</claims>", CLAIM.replace("gpuslice:", ""));
            let (element, live) = (2, 1);
            let (key, urn) = (Some("gpuslice"), Some("urn:gpuslice:domain:1"));
            let domain = scene.person.domain(VM);
            domain.set_metadata(element, Some(&claims), key, urn, live).unwrap();
            scene.asks("DomainRuns", |c| matches!(c, Command::DomainRuns { .. })).await;
            scene.settles().await;
            assert!(!scene.person.live_xml(VM).contains("gpu0"));
            let warned = log.warnings();
            let [warning] = warned.as_slice() else { panic!("{warned:?}") };
            for part in ["domain=my vm", "gpuslice attach 'my vm' p --name gpu0 --live", "--config"]
            {
                assert!(warning.contains(part), "{warning}");
            }
        },
    );
}

#[test]
fn a_running_domain_is_shown_as_it_runs_whether_it_asks_for_something_or_not() {
    let (transient, plain) = (Uuid::from_u128(0x1144), Uuid::from_u128(0x1145));
    ordinary(
        |person, _| {
            let device = hostdev("ua-gpuslice-gpu0", 1, "");
            person.define(VM, "vm", CLAIM, &device);
            person.start(VM);
            // The definition has changed since.
            person.define(VM, "vm", CLAIM, "");
            person.create_transient(transient, "fleeting", CLAIM, &device);
            person.define(plain, "plain", "", "");
            person.start(plain);
        },
        async |mut scene| {
            let ours = [VM, transient, plain];
            let mut shown = Vec::new();
            while shown.len() < ours.len() {
                let runs = |c: &Command| matches!(c, Command::DomainRuns { domain } if ours.contains(&domain.uuid));
                let Command::DomainRuns { domain } = scene.asks("DomainRuns", runs).await else {
                    continue;
                };
                shown.push((domain.uuid, domain.devices.len()));
            }
            shown.sort();
            // Of one without any it is to be known that it has none left.
            assert_eq!(shown, [(VM, 1), (transient, 1), (plain, 0)]);
        },
    );
}
