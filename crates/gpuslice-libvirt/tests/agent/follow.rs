//! What the agent does by itself when libvirt or the daemon tells it something.

use crate::domains::{THEIRS, hostdev, source};
use crate::scene::{ordinary, wanted};
use gpuslice_core::domain::ClaimRequest;
use gpuslice_core::driver::{Driver, DriverOf};
use gpuslice_core::ids::{ClaimKey, Owner};
use gpuslice_core::refusal::{Code, Refusal};
use gpuslice_core::request::{Adopted, Command, DueStart};
use gpuslice_core::state::OnlyIf;
use gpuslice_domxml::read_drivers;
use gpuslice_libvirt::link::Notice;
use uuid::Uuid;

const A: Uuid = Uuid::from_u128(0xf0_110a);
const B: Uuid = Uuid::from_u128(0xf0_110b);
const C: Uuid = Uuid::from_u128(0xf0_110c);
const CLAIM: &str = "<gpuslice:claim name='gpu0' profile='p'/>";
const GUEST: &str = "<address type='pci' domain='0x0000' bus='0x00' slot='0x09' function='0x0'/>";

#[test]
fn a_shut_off_domain_is_made_to_carry_what_the_daemon_answers() {
    let devices = hostdev("ua-gpuslice-gpu0", 1, GUEST)
        + THEIRS
        + &hostdev("ua-gpuslice-stale", 4, "")
        + &hostdev("ua-gpuslice-gpu0--1", 2, "");
    ordinary(
        |person, daemon| {
            person.define(A, "a", CLAIM, &devices);
            // The two of gpu0 change places; the third is new.
            let devices = vec![
                wanted("ua-gpuslice-gpu0", 2),
                wanted("ua-gpuslice-gpu0--1", 1),
                wanted("ua-gpuslice-gpu0--2", 5),
            ];
            daemon.script.lock().unwrap().devices.insert(A, devices);
        },
        async |mut scene| {
            let xml = scene.person.becomes(A, "completed", |xml| xml.contains(&source(5))).await;
            let at = |text: &str| xml.find(text).unwrap_or_else(|| panic!("{text} in {xml}"));
            assert!(!xml.contains("stale"), "{xml}");
            assert!(at(&source(2)) < at("'ua-gpuslice-gpu0'"), "{xml}");
            assert!(at(&source(1)) < at("'ua-gpuslice-gpu0--1'"), "{xml}");
            assert!(xml.contains(GUEST) && xml.contains("bus='0x07'"), "{xml}");
            // The daemon hears how it is now, and then it is quiet: our own writing is no news.
            scene.shows(A, |domain, shut_off| shut_off && domain.devices.len() == 4).await;
            scene.settles().await;
            assert_eq!(scene.settles().await, []);
            assert_eq!(scene.person.xml(A), xml);
        },
    );
}

const PICKED: &str = "<hostdev mode='subsystem' type='pci' managed='yes'><source>\
    <address domain='0x0000' bus='0x41' slot='0x00' function='0x3'/></source>\
    <address type='pci' domain='0x0000' bus='0x00' slot='0x09' function='0x0'/></hostdev>";

/// The daemon's answer for a VF that was picked for a domain.
fn adopts(daemon: &crate::daemon::Daemon, uuid: Uuid, function: u8) {
    let mut script = daemon.script.lock().unwrap();
    script.devices.insert(uuid, vec![wanted("ua-gpuslice-gpu0", function)]);
    let request = ClaimRequest::one(&"gpu0".parse().unwrap(), "p".parse().unwrap());
    let alias = "ua-gpuslice-gpu0".to_owned();
    let picked = wanted("", 3).source;
    script.adopted.insert(uuid, vec![Adopted { request, alias, picked }]);
}

#[test]
fn a_device_that_was_picked_is_given_a_claim() {
    ordinary(
        |person, daemon| {
            person.define(A, "a", "", &(THEIRS.to_owned() + PICKED));
            person.define(B, "b", "", &(THEIRS.to_owned() + PICKED));
            adopts(daemon, A, 3);
            // Somebody else has the one that was picked.
            adopts(daemon, B, 5);
        },
        async |mut scene| {
            for (uuid, function, managed) in [(A, 3, 2), (B, 5, 1)] {
                let named = |xml: &str| xml.contains("<alias name='ua-gpuslice-gpu0'/>");
                let xml = scene.person.becomes(uuid, "adopted", named).await;
                assert!(xml.contains("<gpuslice:claim name=\"gpu0\" profile=\"p\"/>"), "{xml}");
                assert!(xml.contains(&source(function)) && xml.contains(GUEST), "{xml}");
                assert!(xml.contains(">theirs</app:x>"), "{xml}");
                assert_eq!(xml.matches("<hostdev").count(), 2, "{xml}");
                assert_eq!(xml.matches("managed='yes'").count(), managed, "{xml}");
                scene.settles().await;
                assert_eq!(scene.person.xml(uuid), xml);
            }
        },
    );
}

#[test]
fn a_pick_that_is_taken_out_again_meanwhile_is_no_claim() {
    ordinary(
        |person, daemon| {
            person.define(A, "a", "", "");
            adopts(daemon, A, 3);
        },
        async |mut scene| {
            scene.settles().await;
            let xml = scene.person.xml(A);
            assert!(!xml.contains("gpuslice") && !xml.contains("<hostdev"), "{xml}");
            // And picked again.
            scene.person.define(A, "a", "", PICKED);
            scene.person.becomes(A, "adopted", |xml| xml.contains("ua-gpuslice-gpu0")).await;
        },
    );
}

#[test]
fn a_running_domain_is_shown_but_changed_only_once_it_stopped() {
    ordinary(
        |person, daemon| {
            person.define(A, "a", CLAIM, "");
            person.start(A);
            let devices = vec![wanted("ua-gpuslice-gpu0", 1)];
            daemon.script.lock().unwrap().devices.insert(A, devices);
        },
        async |mut scene| {
            scene.shows(A, |_, shut_off| !shut_off).await;
            scene.settles().await;
            assert!(!scene.person.xml(A).contains("ua-gpuslice-gpu0"));
            scene.person.stop(A);
            scene.person.becomes(A, "completed", |xml| xml.contains("ua-gpuslice-gpu0")).await;
        },
    );
}

#[test]
fn definitions_metadata_renames_and_ends_are_told() {
    ordinary(
        |_, _| {},
        async |mut scene| {
            scene.settles().await;
            scene.person.define(A, "a", "", "");
            scene.shows(A, |domain, _| domain.claims.is_empty()).await;
            let set = scene.person.domain(A).set_metadata(
                2,
                Some("<claims><claim name='x' profile='p'/></claims>"),
                Some("gpuslice"),
                Some("urn:gpuslice:domain:1"),
                2,
            );
            set.unwrap();
            scene.shows(A, |domain, _| domain.claims.len() == 1).await;
            // Another's namespace is not ours to look at.
            let domain = scene.person.domain(A);
            domain.set_metadata(2, Some("<y/>"), Some("app"), Some("urn:app"), 2).unwrap();
            assert_eq!(scene.settles().await, []);
            domain.rename("b", 0).unwrap();
            scene.shows(A, |domain, _| domain.name == "b").await;
            let gone = |command: &Command| matches!(command, Command::DomainGone { .. });
            assert!(!scene.settles().await.iter().any(gone));
            scene.person.undefine(A);
            assert_eq!(scene.asks("DomainGone", gone).await, Command::DomainGone { uuid: A });
        },
    );
}

/// libvirt tells of it once, so the agent keeps it until the daemon has taken it.
#[test]
fn one_that_is_gone_while_the_disk_is_full_is_told_again() {
    ordinary(
        |person, _| person.define(A, "a", CLAIM, ""),
        async |mut scene| {
            scene.settles().await;
            let mut full = true;
            scene.daemon.before(move |command| {
                let gone = matches!(command, Command::DomainGone { .. });
                (gone && std::mem::take(&mut full))
                    .then(|| Err(Refusal::new(Code::StateUnwritable, "no space left")))
            });
            scene.person.undefine(A);
            let gone = |command: &Command| matches!(command, Command::DomainGone { .. });
            for time in ["refused", "taken"] {
                assert_eq!(scene.asks(time, gone).await, Command::DomainGone { uuid: A });
            }
            assert!(!scene.settles().await.iter().any(gone));
        },
    );
}

/// So does a migration end that undefines the domain where it was: libvirt tells of its stop alone.
#[test]
fn one_that_is_gone_once_it_stopped_is_told() {
    ordinary(
        |person, _| person.create_transient(A, "a", CLAIM, ""),
        async |mut scene| {
            let gone = |command: &Command| matches!(command, Command::DomainGone { .. });
            assert!(!scene.settles().await.iter().any(gone));
            scene.person.stop(A);
            assert_eq!(scene.asks("DomainGone", gone).await, Command::DomainGone { uuid: A });
        },
    );
}

#[test]
fn what_the_daemon_needs_done_is_done_in_its_order() {
    ordinary(
        |person, _| {
            person.define(A, "a", CLAIM, "");
            person.define(B, "b", "", "");
            person.define(C, "c", "", "");
        },
        async |mut scene| {
            scene.settles().await;
            // Something else changed: not for us.
            scene.announce("claim").await;
            assert_eq!(scene.settles().await, []);
            {
                let mut script = scene.daemon.script.lock().unwrap();
                script.devices.insert(A, vec![wanted("ua-gpuslice-gpu0", 6)]);
                script.look_again = vec![A];
                let due = |domain| DueStart { domain, only: None };
                script.start = [C, A, B].map(due).to_vec();
            }
            scene.announce("agent-work").await;
            scene.person.becomes(A, "retargeted", |xml| xml.contains(&source(6))).await;
            scene.person.becomes(B, "started", |_| scene.person.running(B)).await;
            let id = |uuid| scene.person.domain(uuid).get_id().unwrap();
            assert!(id(C) < id(A) && id(A) < id(B));
            // It had its device when it started.
            let live = scene.person.domain(A).get_xml_desc(0).unwrap();
            assert!(live.contains(&source(6)), "{live}");
        },
    );
}

#[test]
fn some_are_started_only_if_they_are_marked_or_saved() {
    ordinary(
        |person, _| {
            for (uuid, name) in [(A, "a"), (B, "b"), (C, "c")] {
                person.define(uuid, name, CLAIM, "");
            }
            person.domain(B).set_autostart(true).unwrap();
            person.start(C);
            person.domain(C).managed_save(0).unwrap();
        },
        async |mut scene| {
            scene.settles().await;
            let starts = |only: OnlyIf, domains: &[Uuid]| {
                let due =
                    domains.iter().map(|domain| DueStart { domain: *domain, only: Some(only) });
                scene.daemon.script.lock().unwrap().start = due.collect();
            };
            // One that is not defined any more is nobody's trouble.
            starts(OnlyIf::Marked, &[Uuid::from_u128(9), A, C, B]);
            scene.announce("agent-work").await;
            scene.person.becomes(B, "started", |_| scene.person.running(B)).await;
            assert!(!scene.person.running(A) && !scene.person.running(C));
            starts(OnlyIf::Saved, &[A, C]);
            scene.announce("agent-work").await;
            scene.person.becomes(C, "restored", |_| scene.person.running(C)).await;
            assert!(!scene.person.running(A));
        },
    );
}

#[test]
fn claims_of_domains_that_went_while_no_one_listened_are_ended() {
    ordinary(
        |person, daemon| {
            person.define(A, "a", CLAIM, "");
            let key = |owner| ClaimKey { owner, name: "gpu0".parse().unwrap() };
            daemon.script.lock().unwrap().claims = vec![
                key(Owner::Domain(A)),
                key(Owner::Domain(B)),
                key(Owner::Vmid(100)),
                key(Owner::External("me".to_owned())),
            ];
        },
        async |mut scene| {
            let gone = |command: &Command| matches!(command, Command::DomainGone { .. });
            assert_eq!(scene.asks("DomainGone", gone).await, Command::DomainGone { uuid: B });
            assert!(!scene.settles().await.iter().any(gone));
        },
    );
}

/// Whoever lets it in when it migrates judges by it, and its definition says nothing of it.
#[test]
fn what_makes_its_slices_is_noted_of_a_domain_that_runs() {
    let of = |name: &str| DriverOf {
        claim: "gpu0".parse().unwrap(),
        driver: Driver::told(name, Some("580.65.05")).unwrap(),
    };
    let runs = |command: &Command| matches!(command, Command::DomainRuns { .. });
    ordinary(
        |person, daemon| {
            person.define(A, "a", CLAIM, &hostdev("ua-gpuslice-gpu0", 1, GUEST));
            daemon.script.lock().unwrap().drivers.insert(A, vec![of("nvidia")]);
        },
        async |mut scene| {
            scene.settles().await;
            assert_eq!(read_drivers(&scene.person.xml(A)), []);
            scene.person.start(A);
            scene.asks("DomainRuns", runs).await;
            scene.settles().await;
            let live = scene.person.live_xml(A);
            assert_eq!(read_drivers(&live), [of("nvidia")], "{live}");
            assert!(live.contains(CLAIM.replace('\'', "\"").as_str()), "{live}");
            assert!(live.contains(">theirs</app:x>"), "{live}");
            assert!(!scene.person.xml(A).contains("gpuslice:run"), "{}", scene.person.xml(A));
            // Written once, and that is no news.
            assert_eq!(scene.settles().await, []);

            // As it comes from a host that has another one.
            scene.daemon.script.lock().unwrap().drivers.insert(A, vec![of("another")]);
            scene.notices.send(Notice::Look(A)).unwrap();
            scene.asks("DomainRuns", runs).await;
            scene.settles().await;
            assert_eq!(read_drivers(&scene.person.live_xml(A)), [of("another")]);
            // Nothing tells of it any more.
            scene.daemon.script.lock().unwrap().drivers.clear();
            scene.notices.send(Notice::Look(A)).unwrap();
            scene.asks("DomainRuns", runs).await;
            scene.settles().await;
            let live = scene.person.live_xml(A);
            assert!(!live.contains("gpuslice:run") && live.contains("gpuslice:claims"), "{live}");
            scene.person.stop(A);
            scene.shows(A, |domain, shut_off| shut_off && domain.claims.len() == 1).await;
        },
    );
}
