//! `Attach`, `Detach` and `Resolve`, as a person calls them.

use crate::daemon::row;
use crate::domains::{THEIRS, hostdev, source};
use crate::scene::{Scene, ordinary, wanted};
use gpuslice_api::CallError;
use gpuslice_api::libvirt::{AttachOptions, DetachOptions};
use gpuslice_core::hint;
use gpuslice_core::ids::{ClaimKey, Owner};
use gpuslice_core::refusal::{Code, Refusal};
use gpuslice_core::request::{Answer, ClaimRow, Command};
use uuid::Uuid;

const VM: Uuid = Uuid::from_u128(0xa77a_c400);

fn refused<T: std::fmt::Debug>(result: Result<T, CallError>) -> Refusal {
    match result.unwrap_err() {
        CallError::Refused(refusal) | CallError::NotPermitted(refusal) => refusal,
        other => panic!("{other}"),
    }
}

#[test]
fn attach_twice_is_already_so_and_detach_gives_the_definition_back() {
    ordinary(
        |person, daemon| {
            person.define(VM, "vm", "", THEIRS);
            let devices = vec![wanted("ua-gpuslice-gpu0", 1)];
            daemon.script.lock().unwrap().devices.insert(VM, devices);
            daemon.before(|command| match command {
                // Until there is a claim the daemon wants no device.
                Command::DomainSeen { domain, .. } if domain.claims.is_empty() => {
                    Some(Ok(gpuslice_core::request::Answer::Domain {
                        devices: Vec::new(),
                        refused: Vec::new(),
                        adopted: Vec::new(),
                    }))
                }
                _ => None,
            });
        },
        async |mut scene| {
            let original = scene.person.xml(VM);
            let profile = "p".parse().unwrap();
            for named in ["vm", &VM.to_string()] {
                let options = AttachOptions::default();
                let done = scene.client.attach(named, &profile, &options).await.unwrap();
                assert_eq!(done.changed, named == "vm", "{done:?}");
                assert_eq!(done.claim.name.as_str(), "gpu0");
                assert_eq!(done.domain, "vm");
                assert_eq!(done.devices, [wanted("ua-gpuslice-gpu0", 1)]);
                assert_eq!(done.warnings, ["a word"]);
            }
            let xml = scene.person.xml(VM);
            assert!(xml.contains("<gpuslice:claim name=\"gpu0\" profile=\"p\"/>"), "{xml}");
            assert!(xml.contains("<alias name='ua-gpuslice-gpu0'/>"), "{xml}");
            assert!(xml.contains(&source(1)), "{xml}");
            assert_eq!(xml.matches("<hostdev").count(), 2, "{xml}");
            assert!(xml.contains(">theirs</app:x>"), "{xml}");
            // libvirt told the agent of its own writing: nothing more came of it.
            scene.settles().await;
            assert_eq!(scene.person.xml(VM), xml);

            for changed in [true, false] {
                let options = DetachOptions::default();
                let claim = Some("gpu0".parse().unwrap());
                let done = scene.client.detach("vm", claim.as_ref(), &options).await.unwrap();
                assert_eq!(done.changed, changed, "{done:?}");
            }
            scene.settles().await;
            assert_eq!(scene.person.xml(VM), original);
            assert!(scene.daemon.script.lock().unwrap().claims.is_empty());
        },
    );
}

#[test]
fn claims_and_devices_of_other_names_stay() {
    let other = hostdev("ua-gpuslice-other", 3, "");
    ordinary(
        |person, daemon| {
            let claim = "<gpuslice:claim name='other' profile='q' fabric='same'/>";
            person.define(VM, "vm", claim, &other);
            let devices = vec![wanted("ua-gpuslice-other", 3), wanted("ua-gpuslice-gpu0", 1)];
            daemon.script.lock().unwrap().devices.insert(VM, devices);
        },
        async |scene| {
            // The daemon's answer already completes the domain's devices; the claim is what is added.
            let profile = "p".parse().unwrap();
            scene.client.attach("vm", &profile, &AttachOptions::default()).await.unwrap();
            let xml = scene.person.xml(VM);
            assert!(xml.contains("name=\"other\" profile=\"q\" fabric=\"same\""), "{xml}");
            assert!(xml.contains("name=\"gpu0\" profile=\"p\""), "{xml}");
            assert!(xml.contains(&source(1)) && xml.contains(&source(3)), "{xml}");
            let ambiguous =
                refused(scene.client.detach("vm", None, &DetachOptions::default()).await);
            assert_eq!(ambiguous.code, Code::BadRequest);
        },
    );
}

#[test]
fn a_running_domain_gets_it_at_the_next_start() {
    ordinary(
        |person, daemon| {
            person.define(VM, "vm", "", "");
            person.start(VM);
            let devices = vec![wanted("ua-gpuslice-gpu0", 1)];
            daemon.script.lock().unwrap().devices.insert(VM, devices);
        },
        async |scene| {
            let profile = "p".parse().unwrap();
            let done = scene.client.attach("vm", &profile, &AttachOptions::default()).await;
            let done = done.unwrap();
            assert!(done.message.ends_with("at the next start"), "{}", done.message);
            assert!(scene.person.xml(VM).contains("ua-gpuslice-gpu0"));
            let live = scene.person.domain(VM).get_xml_desc(0).unwrap();
            assert!(!live.contains("ua-gpuslice-gpu0"), "{live}");
        },
    );
}

/// Its definition does not say what it was given for this run alone, and that is of profile q.
#[test]
fn a_claim_of_the_run_alone_keeps_its_name_from_other_profiles() {
    ordinary(
        |person, daemon| {
            person.define(VM, "vm", "", "");
            daemon.before(move |command| {
                let Command::ListClaims = command else { return None };
                let key =
                    |name: &str| ClaimKey { owner: Owner::Domain(VM), name: name.parse().unwrap() };
                let slices = vec!["vf:0000:41:00.1".parse().unwrap()];
                let used = ClaimRow { profile: "q".parse().unwrap(), slices, ..row(key("gpu0")) };
                let unused = ClaimRow { profile: "q".parse().unwrap(), ..row(key("gpu1")) };
                Some(Ok(Answer::Claims { rows: vec![used, unused] }))
            });
        },
        async |mut scene| {
            let claimed = async |scene: &mut Scene, profile: &str, name: Option<&str>| {
                let name = name.map(|name| name.parse().unwrap());
                let options = AttachOptions { name, ..AttachOptions::default() };
                let profile = profile.parse().unwrap();
                scene.client.attach("vm", &profile, &options).await.unwrap().claim.name
            };
            // Shut off, it runs with nothing.
            assert_eq!(claimed(&mut scene, "p", None).await.as_str(), "gpu0");
            scene.client.detach("vm", None, &DetachOptions::default()).await.unwrap();
            scene.person.start(VM);
            for (profile, name, expected) in
                [("q", None, "gpu0"), ("q", Some("gpu2"), "gpu2"), ("p", None, "gpu1")]
            {
                let name = claimed(&mut scene, profile, name).await;
                assert_eq!(name.as_str(), expected, "{profile}");
                let claim = Some(name);
                scene.client.detach("vm", claim.as_ref(), &DetachOptions::default()).await.unwrap();
            }
        },
    );
}

#[test]
fn a_definition_that_cannot_be_written_undoes_the_claim() {
    ordinary(
        |person, _| person.define(VM, "vm", "", ""),
        async |mut scene| {
            scene.settles().await;
            let other = crate::domains::Person::connect();
            scene.daemon.before(move |command| {
                // Between the agent's reading and its writing the domain goes.
                if matches!(command, Command::Claim { .. }) {
                    other.undefine(VM);
                }
                None
            });
            let profile = "p".parse().unwrap();
            let done = scene.client.attach("vm", &profile, &AttachOptions::default()).await;
            assert_eq!(refused(done).code, Code::BadRequest);
            scene.asks("Unclaim", |command| matches!(command, Command::Unclaim { .. })).await;
            assert!(scene.daemon.script.lock().unwrap().claims.is_empty());
        },
    );
}

#[test]
fn a_claim_that_is_made_again_keeps_its_terms() {
    let claim = "<gpuslice:claim name='gpu0' profile='p'/>";
    ordinary(
        |person, daemon| {
            person.define(VM, "vm", claim, &hostdev("ua-gpuslice-gpu0", 1, ""));
            let key = ClaimKey { owner: Owner::Domain(VM), name: "gpu0".parse().unwrap() };
            let mut script = daemon.script.lock().unwrap();
            script.claims.push(key);
            script.reserve = true;
        },
        async |mut scene| {
            scene.settles().await;
            let other = crate::domains::Person::connect();
            scene.daemon.before(move |command| {
                if matches!(command, Command::Unclaim { .. }) {
                    other.undefine(VM);
                }
                None
            });
            refused(scene.client.detach("vm", None, &DetachOptions::default()).await);
            let again = |command: &Command| {
                matches!(command, Command::Claim { reserve: Some(true), pool: Some(false), .. })
            };
            scene.asks("Claim with its terms", again).await;
        },
    );
}

#[test]
fn a_refusal_of_the_daemon_changes_nothing_and_comes_through_whole() {
    let said =
        Refusal::new(Code::NoCapacity, "every p is taken").because("vm2 has one").hint(hint!("h"));
    ordinary(
        |person, daemon| {
            let claim = "<gpuslice:claim name='gpu0' profile='p'/>";
            person.define(VM, "vm", claim, &hostdev("ua-gpuslice-gpu0", 1, ""));
            let said = said.clone();
            daemon.before(move |command| match command {
                Command::Claim { .. } | Command::Unclaim { .. } => Some(Err(said.clone())),
                _ => None,
            });
        },
        async |scene| {
            let before = scene.person.xml(VM);
            let profile = "q".parse().unwrap();
            let done = scene.client.attach("vm", &profile, &AttachOptions::default()).await;
            assert_eq!(refused(done), said);
            let done = scene.client.detach("vm", None, &DetachOptions::default()).await;
            assert_eq!(refused(done), said);
            assert_eq!(scene.person.xml(VM), before);
        },
    );
}

#[test]
fn domains_are_named_as_in_virsh() {
    let vm = Uuid::from_u128(0x7e50);
    ordinary(
        |person, _| {
            person.define(VM, "17", "", "");
            person.create_transient(vm, "fleeting", "", "");
        },
        async |scene| {
            let by_name = scene.client.resolve("17").await.unwrap();
            assert_eq!((by_name.uuid, by_name.running), (VM, false));
            // "test" of test:///default runs with id 1.
            for named in ["1", "test", "6695eb01-f6a4-8304-79aa-97f2502e193f"] {
                let info = scene.client.resolve(named).await.unwrap();
                assert_eq!((info.name.as_str(), info.running), ("test", true), "{named}");
            }
            for (named, code) in [("nobody", Code::Unknown), ("", Code::BadRequest)] {
                let refusal = refused(scene.client.resolve(named).await);
                assert_eq!(refusal.code, code, "{refusal}");
            }
            let profile = "p".parse().unwrap();
            let done = scene.client.attach("fleeting", &profile, &AttachOptions::default()).await;
            let refusal = refused(done);
            assert_eq!(refusal.code, Code::BadRequest, "{refusal}");
            assert!(scene.daemon.script.lock().unwrap().claims.is_empty());
        },
    );
}
