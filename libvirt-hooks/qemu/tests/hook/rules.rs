//! Every rule of the hook, on the real program: exit code, stderr, stdout, and what the daemon was told.

use crate::scripted::{
    Act, Daemon, Ended, HOOK, Place, bystander, claiming, domain, finish, plain_hostdev, refused,
    silent_pass,
};
use gpuslice_core::hint;
use gpuslice_core::refusal::{Code, Refusal};
use gpuslice_core::request::Answer;
use gpuslice_hook_proto::{HookDone, Operation, Reply, ReplyBody, Request, Served};
use std::collections::BTreeMap;
use std::os::unix::net::UnixListener;

/// All of libvirt's, one it only documents, and one that is not yet.
const OPERATIONS: [&str; 10] = [
    "prepare",
    "start",
    "started",
    "stopped",
    "release",
    "reconnect",
    "migrate",
    "restore",
    "attach",
    "levitate",
];
const MAY_FAIL: [&str; 3] = ["prepare", "migrate", "restore"];
/// What the daemon is told of.
const TOLD: [&str; 7] =
    ["prepare", "started", "stopped", "release", "reconnect", "migrate", "restore"];

const NO_DAEMON: &str = "gpuslice: unreachable: the domain asks for a slice and gpusliced does not answer: connect PLACE/hook.sock: No such file or directory (os error 2); try: systemctl start gpusliced";

fn no_capacity(request: &Request) -> Reply {
    let refusal = Refusal::new(Code::NoCapacity, "nvidia-a40-8q: wanted 1, free 0 of 6")
        .because("held by win03,\nwin09")
        .hint(hint!("gpuslice claims"));
    Reply::refused(request.id, refusal)
}

fn done(request: &Request) -> Reply {
    Reply::hook_done(request.id)
}

fn run_with(act: Act, operation: &str, xml: &str) -> (Ended, Daemon) {
    let place = Place::new();
    let daemon = Daemon::start(&place, vec![act]);
    let mut ended = place.run(operation, xml.as_bytes());
    ended.err = place.plain(&ended.err);
    (ended, daemon)
}

#[test]
fn a_domain_without_slices_opens_no_socket() {
    let place = Place::new();
    let listener = UnixListener::bind(place.socket()).unwrap();
    listener.set_nonblocking(true).unwrap();
    // What would be said of this file shows that it is not read.
    place.write_conf("nonsense");
    let filler = "<disk type='file'><source file='/var/lib/libvirt/images/a.qcow2'/></disk>\n";
    let large = domain("", &filler.repeat(250));
    assert!(large.len() > 15_000);
    for xml in [&large, &bystander(), "not XML", "<domain"] {
        for operation in OPERATIONS {
            assert_eq!(place.run(operation, xml.as_bytes()), silent_pass(), "{operation}");
        }
    }
    // Other hostdevs than those we deal in; ours named where it means nothing.
    let usb = domain("", "<hostdev mode='subsystem' type='usb'><source/></hostdev>");
    assert_eq!(place.run("prepare", usb.as_bytes()), silent_pass());
    let error = listener.accept().unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock);
}

/// A dispatcher that has read the XML itself leaves none for us.
#[test]
fn a_domain_that_was_lost_on_the_way_is_told_and_starts() {
    let place = Place::new();
    for operation in OPERATIONS {
        let mut want = silent_pass();
        if MAY_FAIL.contains(&operation) {
            want.err = "gpuslice: warning: no XML of win11 on stdin: it is given no slice\n".into();
        }
        assert_eq!(place.run(operation, b""), want, "{operation}");
    }
}

#[test]
fn the_daemon_is_told_what_libvirt_says() {
    for operation in TOLD {
        let (ended, daemon) = run_with(Act::Answer(done), operation, &claiming());
        assert_eq!(ended, silent_pass(), "{operation}");
        let call = daemon.call();
        assert_eq!(call.operation.as_str(), operation);
        let words = match operation {
            "release" => ("end", "destroyed"),
            "stopped" => ("end", "-"),
            _ => ("begin", "-"),
        };
        assert_eq!((call.sub.as_str(), call.extra.as_str()), words);
        assert_eq!(call.domain.uuid.to_string(), crate::scripted::UUID);
        assert_eq!(call.domain.name, "win11");
        assert_eq!(call.domain.claims[0].name.as_str(), "gpu0");
        assert_eq!(call.domain.devices[0].our_claim().unwrap().0.as_str(), "gpu0");
    }
    let (_, daemon) = run_with(Act::Answer(done), "prepare", &plain_hostdev());
    let call = daemon.call();
    assert_eq!(call.domain.claims, []);
    assert!(call.domain.devices[0].managed);
}

#[test]
fn operations_of_no_interest_pass_at_once() {
    let place = Place::new();
    for operation in OPERATIONS.into_iter().filter(|op| !TOLD.contains(op)) {
        // Nobody listens, which would fail a prepare.
        assert_eq!(place.run(operation, claiming().as_bytes()), silent_pass());
    }
}

#[test]
fn only_operations_that_may_fail_refuse() {
    let line = "gpuslice: no-capacity: nvidia-a40-8q: wanted 1, free 0 of 6: held by win03, win09; try: gpuslice claims";
    for xml in [claiming(), plain_hostdev()] {
        for operation in TOLD {
            let (ended, _) = run_with(Act::Answer(no_capacity), operation, &xml);
            let want = if MAY_FAIL.contains(&operation) { refused(line) } else { silent_pass() };
            assert_eq!(ended, want, "{operation}");
        }
    }
}

#[test]
fn without_a_daemon_claims_are_refused_and_others_pass() {
    let place = Place::new();
    for operation in OPERATIONS {
        let mut ended = place.run(operation, claiming().as_bytes());
        ended.err = place.plain(&ended.err);
        let want = if MAY_FAIL.contains(&operation) { refused(NO_DAEMON) } else { silent_pass() };
        assert_eq!(ended, want, "{operation}");
        assert_eq!(place.run(operation, plain_hostdev().as_bytes()), silent_pass());
    }
    // A socket left behind by a daemon that is gone.
    drop(UnixListener::bind(place.socket()).unwrap());
    let ended = place.run("prepare", claiming().as_bytes());
    assert_eq!(ended.code, Some(1));
    assert!(ended.err.contains("Connection refused"), "{ended:?}");
    assert_eq!(place.run("prepare", plain_hostdev().as_bytes()), silent_pass());
}

#[test]
fn our_alias_without_a_claim_is_ours_too() {
    let place = Place::new();
    let xml = claiming();
    let (start, end) = (xml.find("<gpuslice:").unwrap(), xml.find("</metadata>").unwrap());
    let xml = format!("{}{}", &xml[..start], &xml[end..]);
    let ended = place.run("prepare", xml.as_bytes());
    assert_eq!(place.plain(&ended.err), format!("{NO_DAEMON}\n"));
}

#[test]
fn the_same_request_is_sent_again_when_the_connection_breaks() {
    let place = Place::new();
    let acts = vec![Act::HangUp, Act::BreakOff, Act::HangUp, Act::Answer(no_capacity)];
    let daemon = Daemon::start(&place, acts);
    let ended = place.run("prepare", claiming().as_bytes());
    assert_eq!(ended.code, Some(1), "{ended:?}");
    let heard = daemon.heard();
    assert_eq!(heard.len(), 4);
    assert!(heard.iter().all(|request| *request == heard[0]));

    // Two runs are two requests.
    let (_, first) = run_with(Act::Answer(done), "prepare", &claiming());
    let (_, second) = run_with(Act::Answer(done), "prepare", &claiming());
    assert_ne!(first.heard()[0].id, second.heard()[0].id);
}

#[test]
fn a_restarting_daemon_is_waited_for_where_its_word_is_needed() {
    for (operation, xml, waits) in [
        ("prepare", claiming(), true),
        ("release", claiming(), true),
        ("prepare", plain_hostdev(), false),
        ("stopped", claiming(), false),
    ] {
        let place = Place::new();
        let first = Daemon::start(&place, vec![Act::Vanish]);
        let hook = std::thread::scope(|scope| {
            let hook = scope.spawn(|| place.run(operation, xml.as_bytes()));
            let before = first.heard();
            if waits {
                let second = Daemon::start(&place, vec![Act::Answer(done)]);
                assert_eq!(second.heard(), before, "{operation}");
            }
            hook.join().unwrap()
        });
        assert_eq!(hook, silent_pass(), "{operation}");
    }
}

#[test]
fn the_deadline_ends_every_wait() {
    let line = "gpuslice: timeout: gpusliced gave no answer within 1 s; try: start it again, with a larger \
         deadline-seconds in /etc/gpuslice/hook.conf";
    for (acts, operation, xml, want) in [
        (vec![Act::KeepSilent], "prepare", claiming(), refused(line)),
        (vec![Act::Say("{\"v\":1".to_owned())], "prepare", claiming(), refused(line)),
        (vec![Act::Vanish], "migrate", claiming(), refused(line)),
        (vec![Act::KeepSilent], "release", claiming(), silent_pass()),
        (vec![Act::KeepSilent], "prepare", plain_hostdev(), silent_pass()),
    ] {
        let place = Place::new();
        place.write_conf("# how long\n\ndeadline-seconds = 1\n");
        let daemon = Daemon::start(&place, acts);
        assert_eq!(place.run(operation, xml.as_bytes()), want);
        daemon.heard();
    }
}

#[test]
fn a_daemon_too_busy_to_accept_is_a_daemon_that_does_not_answer() {
    use rustix::net::{
        AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, connect, listen, socket_with,
    };
    let place = Place::new();
    place.write_conf("deadline-seconds = 1");
    let stream = || {
        socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::NONBLOCK, None).unwrap()
    };
    let address = SocketAddrUnix::new(place.socket()).unwrap();
    let listener = stream();
    bind(&listener, &address).unwrap();
    listen(&listener, 0).unwrap();
    let mut queue = Vec::new();
    loop {
        let waiting = stream();
        if connect(&waiting, &address).is_err() {
            break;
        }
        queue.push(waiting);
    }
    let ended = place.run("prepare", claiming().as_bytes());
    assert_eq!(
        ended,
        refused(
            "gpuslice: timeout: gpusliced gave no answer within 1 s; try: start it again, with a larger \
             deadline-seconds in /etc/gpuslice/hook.conf"
        )
    );
    assert_eq!(place.run("prepare", plain_hostdev().as_bytes()), silent_pass());
}

#[test]
fn what_is_no_reply_is_no_permission() {
    let other_id = Reply::hook_done(
        gpuslice_core::domain::Domain {
            uuid: crate::scripted::UUID.parse().unwrap(),
            name: String::new(),
            claims: Vec::new(),
            devices: Vec::new(),
        }
        .uuid,
    )
    .to_line()
    .unwrap();
    let garbage = |why: &str| {
        format!(
            "gpuslice: unreachable: PLACE/hook.sock answered what is no reply: {why}; try: systemctl restart gpusliced"
        )
    };
    for (said, want) in [
        ("\n", garbage("message is not a JSON object with v and id")),
        ("HTTP/1.1 400 Bad Request\r\n", garbage("message is not a JSON object with v and id")),
        ("\u{0}\u{1}\n", garbage("message is not a JSON object with v and id")),
        (
            "{\"v\":7,\"id\":\"4be47ad5-6e2f-4e0c-9d4a-1f6a3f0e1a01\"}\n",
            garbage("message of protocol version 7, this side speaks 1"),
        ),
        (other_id.as_str(), garbage("reply to another request")),
    ] {
        let (ended, _) = run_with(Act::Say(said.to_owned()), "prepare", &claiming());
        assert_eq!(ended, refused(&want));
        let (ended, _) = run_with(Act::Say(said.to_owned()), "reconnect", &claiming());
        assert_eq!(ended, silent_pass());
        let (ended, _) = run_with(Act::Say(said.to_owned()), "prepare", &plain_hostdev());
        assert_eq!(ended, silent_pass());
    }
    let endless = Act::Say("x".repeat(gpuslice_hook_proto::REPLY_LIMIT + 1));
    let (ended, _) = run_with(endless, "prepare", &claiming());
    assert_eq!(ended, refused(&garbage("line longer than 16777216 bytes")));

    let of_a_command = |request: &Request| {
        let answer = Answer::Done { changed: false, message: String::new() };
        Reply::new(request.id, ReplyBody::Ok(Served::Command(Box::new(answer))))
    };
    let (ended, _) = run_with(Act::Answer(of_a_command), "prepare", &claiming());
    assert_eq!(
        ended,
        refused(
            "gpuslice: unreachable: gpusliced answered something else than was asked; try: \
             systemctl restart gpusliced, so that it is of the same release"
        )
    );
}

#[test]
fn a_daemon_that_does_not_understand_stops_only_those_who_need_it() {
    let newer = |request: &Request| {
        let line = format!(r#"{{"v":2,"id":"{}","body":[]}}"#, request.id);
        Request::from_line(line.as_bytes()).unwrap_err().reply()
    };
    let (ended, _) = run_with(Act::Answer(newer), "prepare", &claiming());
    assert_eq!(
        ended,
        refused(
            "gpuslice: bad-request: message of protocol version 2, this side speaks 1; try: systemctl \
             restart gpusliced, so that it is of the same release"
        )
    );
    let (ended, _) = run_with(Act::Answer(newer), "prepare", &plain_hostdev());
    assert_eq!(ended, silent_pass());
}

/// As of two that were picked, where the driver starts one in a VM.
#[test]
fn what_is_not_supported_stops_also_who_asks_for_nothing() {
    let unsupported = |request: &Request| {
        let why = "0000:41:00.0 starts no more of its slices in one VM";
        Reply::refused(request.id, Refusal::new(Code::Unsupported, why))
    };
    let (ended, _) = run_with(Act::Answer(unsupported), "prepare", &plain_hostdev());
    let why = "0000:41:00.0 starts no more of its slices in one VM";
    assert_eq!(ended, refused(&format!("gpuslice: unsupported: {why}")));
}

fn remapped(request: &Request) -> Reply {
    let edits =
        BTreeMap::from([("0000:41:00.4".parse().unwrap(), "0000:42:00.7".parse().unwrap())]);
    Reply::new(request.id, ReplyBody::Ok(Served::Hook(HookDone { edits })))
}

#[test]
fn migrate_and_restore_answer_with_the_edited_domain_or_nothing() {
    for operation in TOLD {
        let (ended, _) = run_with(Act::Answer(remapped), operation, &claiming());
        let edited = claiming().replace(
            "bus='0x41' slot='0x00' function='0x4'",
            "bus='0x42' slot='0x00' function='0x7'",
        );
        let may_edit = Operation::from_word(operation).unwrap().may_edit();
        assert_eq!(ended.out, if may_edit { edited } else { String::new() });
        assert_eq!((ended.code, ended.err.as_str()), (Some(0), ""));
        // The map may name what is not there.
        let (ended, _) = run_with(Act::Answer(remapped), operation, &plain_hostdev());
        assert_eq!(ended, silent_pass());
    }
}

#[test]
fn secrets_of_migrate_and_restore_are_never_shown() {
    let secret = "<graphics passwd='geheim&bad;'/>";
    let xml = claiming().replace("<devices>", &format!("<devices>{secret}"));
    for operation in ["migrate", "restore"] {
        let place = Place::new();
        let ended = place.run(operation, xml.as_bytes());
        let told = "gpuslice: bad-request: domain XML at 5:36 is not well-formed; try: virsh edit win11: \
                    correct what is named here";
        assert_eq!(ended, refused(told));
        let xml = xml.replace("&bad;", "");
        let (ended, daemon) = run_with(Act::Answer(no_capacity), operation, &xml);
        assert!(!ended.err.contains("geheim") && ended.out.is_empty(), "{ended:?}");
        let sent = format!("{:?}", daemon.heard());
        assert!(!sent.contains("geheim"), "{sent}");
    }
}

#[test]
fn unreadable_documents_are_refused_only_if_ours() {
    let place = Place::new();
    let ours = claiming();
    let mut not_utf8 = ours.clone().into_bytes();
    let at = ours.find("win11").unwrap();
    not_utf8[at] = 0xff;
    let cases: [(Vec<u8>, &str); 5] = [
        (not_utf8, "domain XML is not UTF-8 at byte 35"),
        (
            ours.replace("profile=", "profil=").into_bytes(),
            "domain XML at 4:97: unknown attribute \"profil\" in <gpuslice:claim>, did you mean \"profile\"?",
        ),
        (
            format!("<!DOCTYPE domain>{ours}").into_bytes(),
            "domain XML has a document type declaration, which is not accepted",
        ),
        (
            ours.replace(crate::scripted::UUID, "x").into_bytes(),
            "domain XML at 3:3: \"x\" is not a UUID",
        ),
        (ours.as_bytes()[..ours.len() / 2].to_vec(), "domain XML at 4:129 is not well-formed"),
    ];
    for (xml, why) in cases {
        for operation in OPERATIONS {
            let ended = place.run(operation, &xml);
            if MAY_FAIL.contains(&operation) {
                assert_eq!(ended.code, Some(1));
                let want = format!("gpuslice: bad-request: {why}");
                assert!(ended.err.starts_with(&want), "{:?} is not {want:?}", ended.err);
                assert_eq!(ended.err.lines().count(), 1);
            } else {
                assert_eq!(ended, silent_pass());
            }
        }
    }
    let foreign = plain_hostdev().replace("</domain>", "");
    assert_eq!(place.run("prepare", foreign.as_bytes()), silent_pass());
}

#[test]
fn ten_megabytes_are_read_and_served() {
    let filler = format!("<!-- {} -->\n", "x".repeat(990)).repeat(10_500);
    let xml = claiming().replace("<devices>", &format!("{filler}<devices>"));
    assert!(xml.len() > 10_000_000);
    let (ended, daemon) = run_with(Act::Answer(done), "prepare", &xml);
    assert_eq!(ended, silent_pass());
    assert_eq!(daemon.call().domain.claims.len(), 1);
    // Beyond any document: still read to its end.
    let place = Place::new();
    let endless = format!("{}{}", claiming(), " ".repeat(20_000_000));
    let ended = place.run("prepare", endless.as_bytes());
    assert!(ended.err.starts_with("gpuslice: bad-request: domain XML of "), "{ended:?}");
    let endless = format!("{}{}", bystander(), " ".repeat(20_000_000));
    assert_eq!(place.run("prepare", endless.as_bytes()), silent_pass());
}

#[test]
fn a_person_who_runs_it_without_arguments_is_told_how() {
    for arguments in [&[][..], &["--help"], &["win11"]] {
        let ended = finish(Place::new().command(HOOK, arguments), b"");
        assert_eq!((ended.code, ended.out.as_str()), (Some(2), ""));
        assert!(
            ended.err.starts_with("gpuslice-qemu-hook ") && ended.err.contains("run by libvirt"),
            "{ended:?}"
        );
    }
    // Later words may be missing or more than we know.
    for arguments in [&["win11", "prepare"][..], &["win11", "prepare", "begin", "-", "more"]] {
        let place = Place::new();
        let daemon = Daemon::start(&place, vec![Act::Answer(done)]);
        assert_eq!(finish(place.command(HOOK, arguments), claiming().as_bytes()), silent_pass());
        let call = daemon.call();
        assert_eq!(call.extra, if arguments.len() > 3 { "-" } else { "" });
    }
}

#[test]
fn of_what_comes_in_the_daemon_is_told_what_made_its_slices_there() {
    let noted = "</gpuslice:claims><r:drivers xmlns:r='urn:gpuslice:run:1'>\
                 <r:driver claim='gpu0' name='nvidia' version='580.65.05'/></r:drivers>";
    let xml = claiming().replace("</gpuslice:claims>", noted);
    for operation in TOLD {
        let (ended, daemon) = run_with(Act::Answer(done), operation, &xml);
        assert_eq!(ended, silent_pass(), "{operation}");
        let drivers = daemon.call().drivers;
        if !["migrate", "restore"].contains(&operation) {
            assert_eq!(drivers, [], "{operation}");
            continue;
        }
        assert_eq!(drivers[0].claim.as_str(), "gpu0");
        assert_eq!(drivers[0].driver.to_string(), "nvidia 580.65.05");
    }
    // Without, and with one that has no meaning.
    for xml in [claiming(), xml.replace("claim='gpu0'", "")] {
        let (ended, daemon) = run_with(Act::Answer(done), "migrate", &xml);
        assert_eq!((ended, daemon.call().drivers), (silent_pass(), vec![]));
    }
}
