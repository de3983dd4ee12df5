//! Much at once, and nothing for a long time.

use crate::domains::hostdev;
use crate::scene::{Scene, ordinary};
use gpuslice_core::request::Command;
use gpuslice_libvirt::link::Notice;
use uuid::Uuid;

const CLAIM: &str = "<gpuslice:claim name='gpu0' profile='p'/>";
const DOMAINS: u128 = 25;

fn uuid(n: u128) -> Uuid {
    Uuid::from_u128(0x5701_0000 + n)
}

/// What was asked of a domain, in order.
fn of_domain(asked: &[Command], uuid: Uuid) -> Vec<&Command> {
    let about = |command: &&Command| match command {
        Command::DomainSeen { domain, .. } | Command::DomainRuns { domain } => domain.uuid == uuid,
        Command::DomainGone { uuid: gone } => *gone == uuid,
        _ => false,
    };
    asked.iter().filter(about).collect()
}

/// Eight events of each of 25 domains: a third of them ends undefined, a third running, the others shut off.
fn storm(scene: &Scene) {
    let person = &scene.person;
    for n in 0..DOMAINS {
        let (uuid, name) = (uuid(n), format!("vm{n}"));
        person.define(uuid, &name, "", "");
        person.start(uuid);
        person.stop(uuid);
        person.undefine(uuid);
        let runs = n % 3 == 1;
        let devices = if runs { hostdev("ua-gpuslice-gpu0", 1, "") } else { String::new() };
        person.define(uuid, &name, CLAIM, &devices);
        person.start(uuid);
        if !runs {
            person.stop(uuid);
        }
        if n % 3 == 0 {
            person.undefine(uuid);
        }
    }
}

#[test]
fn of_two_hundred_events_none_is_lost_and_each_domain_is_looked_at_once() {
    ordinary(
        |_, _| {},
        async |mut scene| {
            scene.settles().await;
            // The agent is held up by its first look, as by a libvirt or a daemon that is slow.
            let turn = scene.agent.turn().await;
            storm(&scene);
            drop(turn);
            let asked = scene.settles().await;
            for n in 0..DOMAINS {
                let told = of_domain(&asked, uuid(n));
                let gone = |command: &&&Command| matches!(command, Command::DomainGone { .. });
                let last = told.last().unwrap_or_else(|| panic!("vm{n} is not told of"));
                match (n % 3, last) {
                    (0, Command::DomainGone { .. }) => {}
                    (1, Command::DomainSeen { domain, shut_off: false })
                    | (2, Command::DomainSeen { domain, shut_off: true }) => {
                        assert_eq!(domain.claims.len(), 1, "vm{n}: {told:?}");
                        // Its former life ends before the present one is told.
                        assert_eq!(told.iter().take(1).filter(gone).count(), 1, "vm{n}: {told:?}");
                    }
                    other => panic!("vm{n}: {other:?}"),
                }
                // Its end, how it runs, and its definition; the first look was under way.
                let most = if n == 0 { 4 } else { 3 };
                assert!(told.len() <= most, "vm{n}: {told:?}");
            }
            assert!(!scene.settles().await.iter().any(|c| *c != Command::AgentWork));
        },
    );
}

#[test]
fn what_happened_while_libvirtd_was_gone_is_made_up_for() {
    let [stays, goes, comes, stops] = [1, 2, 3, 4].map(|n| uuid(0x100 + n));
    ordinary(
        |person, daemon| {
            for (uuid, name) in [(stays, "stays"), (goes, "goes"), (stops, "stops")] {
                person.define(uuid, name, CLAIM, "");
            }
            person.start(stops);
            let key = |uuid| gpuslice_core::ids::ClaimKey {
                owner: gpuslice_core::ids::Owner::Domain(uuid),
                name: "gpu0".parse().unwrap(),
            };
            daemon.script.lock().unwrap().claims = vec![key(stays), key(goes), key(stops)];
        },
        async |mut scene| {
            scene.shows(stops, |_, shut_off| !shut_off).await;
            scene.settles().await;
            scene.agent.worker.disconnect().await;
            // Nobody listens. An hour is as good as a moment: nothing is kept of it but what there is at its end.
            scene.person.undefine(goes);
            scene.person.define(comes, "comes", CLAIM, "");
            scene.person.stop(stops);
            scene.drain();
            let reason = "the connection was closed";
            scene.notices.send(Notice::Closed { connection: 1, reason }).unwrap();
            let mut asked = Vec::new();
            while !asked.contains(&Command::AgentWork) {
                asked.push(scene.asks("anything", |_| true).await);
            }
            assert_eq!(of_domain(&asked, goes), [&Command::DomainGone { uuid: goes }]);
            for uuid in [stays, comes, stops] {
                let told = of_domain(&asked, uuid);
                let shut_off =
                    |c: &&&Command| matches!(c, Command::DomainSeen { shut_off: true, .. });
                assert_eq!(told.iter().filter(shut_off).count(), 1, "{told:?}");
            }
            // And it listens again.
            scene.person.undefine(stays);
            let gone = |command: &Command| *command == Command::DomainGone { uuid: stays };
            scene.asks("DomainGone", gone).await;
        },
    );
}
