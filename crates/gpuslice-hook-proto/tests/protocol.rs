//! The wire: committed lines of version 1 must be read and written as they are for as long as there is a version 1,
//! and what is no message gets an answer that says so.

use gpuslice_core::domain::Domain;
use gpuslice_core::machine::HookOperation;
use gpuslice_core::refusal::{Code, Refusal};
use gpuslice_hook_proto::{
    Body, DecodeError, EncodeError, HookCall, HookDone, Operation, REPLY_LIMIT, REQUEST_LIMIT,
    Reply, ReplyBody, Request, Served,
};
use uuid::Uuid;

const REQUESTS: &str = include_str!("v1/requests.jsonl");
const REPLIES: &str = include_str!("v1/replies.jsonl");

fn id(n: u128) -> Uuid {
    Uuid::from_u128(n)
}

fn call(operation: Operation) -> HookCall {
    HookCall {
        operation,
        sub: "begin".to_owned(),
        extra: "-".to_owned(),
        domain: Domain {
            uuid: id(7),
            name: "win11".to_owned(),
            claims: Vec::new(),
            devices: Vec::new(),
        },
        drivers: Vec::new(),
    }
}

#[test]
fn lines_of_version_1_are_read_and_written_unchanged() {
    for line in REQUESTS.lines() {
        let request = Request::from_line(line.as_bytes()).expect(line);
        assert_eq!(request.to_line().unwrap(), format!("{line}\n"));
    }
    for line in REPLIES.lines() {
        let reply = Reply::from_line(line.as_bytes()).expect(line);
        assert_eq!(reply.to_line().unwrap(), format!("{line}\n"));
    }
}

#[test]
fn committed_lines_mean_what_they_say() {
    let first = Request::from_line(REQUESTS.lines().next().unwrap().as_bytes()).unwrap();
    let Body::Hook(call) = first.body else { panic!("not a hook's call") };
    assert_eq!(call.operation, Operation::Prepare);
    assert_eq!(call.domain.claims[1].count, 8);
    assert_eq!(call.domain.claims[2].memory_min, Some(4 << 30));
    assert!(call.domain.devices[1].managed);
    let last = Request::from_line(REQUESTS.lines().last().unwrap().as_bytes()).unwrap();
    let Body::Hook(call) = last.body else { panic!("not a hook's call") };
    assert_eq!(call.drivers[0].driver.to_string(), "nvidia 580.65.05");
    let edits = Reply::from_line(REPLIES.lines().nth(1).unwrap().as_bytes()).unwrap();
    let ReplyBody::Ok(Served::Hook(HookDone { edits })) = edits.body else {
        panic!("not a hook's reply")
    };
    let new = edits[&"0000:41:00.4".parse().unwrap()];
    assert_eq!(new.to_string(), "0000:42:00.5");
}

#[test]
fn every_operation_keeps_libvirts_word_on_the_wire() {
    for operation in Operation::ALL.iter().copied() {
        let request = Request::new(id(1), Body::Hook(call(operation)));
        let line = request.to_line().unwrap();
        assert!(line.contains(&format!(r#""operation":"{operation}""#)));
        assert_eq!(Request::from_line(line.as_bytes()).unwrap(), request);
        assert_eq!(Operation::from_word(operation.as_str()), Some(operation));
    }
    for word in ["", "attach", "Prepare", "prepare "] {
        assert_eq!(Operation::from_word(word), None, "{word}");
    }
}

#[test]
fn only_what_libvirt_asks_before_a_start_may_fail() {
    let may_fail: Vec<_> = Operation::ALL.iter().filter(|op| op.may_fail()).collect();
    assert_eq!(may_fail, [&Operation::Prepare, &Operation::Migrate, &Operation::Restore]);
    let may_edit: Vec<_> = Operation::ALL.iter().filter(|op| op.may_edit()).collect();
    assert_eq!(may_edit, [&Operation::Migrate, &Operation::Restore]);
}

#[test]
fn a_newer_peer_may_say_more_but_not_constrain_unheard() {
    let more = r#"{"v":1,"since":"1.9","id":"00000000-0000-0000-0000-000000000001","body":{"hook":{"operation":"prepare","hurry":true,"domain":{"uuid":"00000000-0000-0000-0000-000000000007","name":"win11"}}}}"#;
    let request = Request::from_line(more.as_bytes()).unwrap();
    let Body::Hook(call) = request.body else { panic!("not a hook's call") };
    assert_eq!(call.domain.name, "win11");
    let reply = r#"{"v":1,"id":"00000000-0000-0000-0000-000000000001","took":3,"body":{"ok":{"hook":{"note":"x"}}}}"#;
    assert_eq!(Reply::from_line(reply.as_bytes()).unwrap(), Reply::hook_done(id(1)));

    let constrained = more.replace(
        r#""name":"win11""#,
        r#""name":"win11","claims":[{"name":"gpu0","encrypted":true}]"#,
    );
    let refused = Request::from_line(constrained.as_bytes()).unwrap_err();
    let ReplyBody::Refused(refusal) = refused.reply().body else { panic!("not refused") };
    assert_eq!(refusal.code, Code::BadRequest);
    assert!(refusal.causes[0].contains("encrypted"), "{refusal:?}");
}

#[test]
fn another_version_is_answered_under_its_id() {
    // A body of another version need not make sense here.
    let line = r#"{"v":2,"id":"00000000-0000-0000-0000-000000000009","body":[]}"#;
    let error = Request::from_line(line.as_bytes()).unwrap_err();
    assert!(matches!(error, DecodeError::Version { v: 2, .. }));
    let reply = error.reply();
    assert_eq!(reply.id, id(9));
    let ReplyBody::Refused(refusal) = reply.body else { panic!("not refused") };
    assert_eq!(refusal.code, Code::BadRequest);
    assert_eq!(refusal.message, "message of protocol version 2, this side speaks 1");
}

#[test]
fn rows_of_a_list_stay_as_they_were_written() {
    let head = r#"{"v":1,"id":"00000000-0000-0000-0000-000000000009","body":"#;
    let rows = r#"[ {"slice": "x\u0041", "of a later version":[1.50]} ]"#;
    let line = format!(r#"{head}{{"ok":{{"command":{{"answer":"slices","rows":{rows}}}}}}}}}"#);
    let reply = Reply::list_from_line(line.as_bytes()).unwrap();
    let ReplyBody::Ok(Served::Command(list)) = reply.body else { panic!("not a list") };
    assert_eq!((list.answer, list.rows.get(), reply.id), ("slices", rows, id(9)));

    let refused = Reply::refused(id(9), Refusal::new(Code::Unknown, "no")).to_line().unwrap();
    let reply = Reply::list_from_line(refused.as_bytes()).unwrap();
    assert!(matches!(reply.body, ReplyBody::Refused(refusal) if refusal.message == "no"));

    let newer = line.replacen("\"v\":1", "\"v\":2", 1);
    let error = Reply::list_from_line(newer.as_bytes()).unwrap_err();
    assert!(matches!(error, DecodeError::Version { v: 2, id: of } if of == id(9)));
    for cut in [line.len() - 1, line.len() - 5] {
        let error = Reply::list_from_line(&line.as_bytes()[..cut]).unwrap_err();
        assert!(matches!(error, DecodeError::Envelope(_)), "{error:?}");
    }
    let done = format!(r#"{head}{{"ok":{{"command":{{"answer":"done"}}}}}}}}"#);
    let error = Reply::list_from_line(done.as_bytes()).unwrap_err();
    assert!(matches!(error, DecodeError::Body { id: of, .. } if of == id(9)));
}

#[test]
fn what_is_no_message_is_refused_with_the_reason() {
    let with_id = r#"{"v":1,"id":"00000000-0000-0000-0000-000000000009""#;
    let deep = format!("{with_id},\"body\":{}", "[".repeat(100_000));
    let cases: &[(&str, bool)] = &[
        ("", false),
        ("\n", false),
        ("null", false),
        ("[]", false),
        ("{}", false),
        (r#"{"v":1}"#, false),
        (r#"{"v":-1,"id":"x"}"#, false),
        (r#"{"v":1,"id":"not a uuid","body":{}}"#, false),
        (with_id, false),
        (&deep, false),
        (&format!("{with_id}}}"), true),
        (&format!("{with_id},\"body\":{{}}}}"), true),
        (&format!("{with_id},\"body\":{{\"shout\":1}}}}"), true),
        (&format!("{with_id},\"body\":{{\"command\":{{\"command\":\"dance\"}}}}}}"), true),
        (&format!("{with_id},\"body\":{{\"hook\":{{\"operation\":\"attach\"}}}}}}"), true),
    ];
    for (line, has_id) in cases {
        let error = Request::from_line(line.as_bytes()).expect_err(line);
        let reply = error.reply();
        assert_eq!(reply.id == id(9), *has_id, "{line:.80}");
        let ReplyBody::Refused(refusal) = reply.body else { panic!("{line:.80}: not refused") };
        assert_eq!(refusal.code, Code::BadRequest);
        assert_eq!(refusal.causes.len(), 1, "{refusal:?}");
        Reply::from_line(line.as_bytes()).expect_err(line);
    }
    Request::from_line(b"\xff\xfe").unwrap_err();
    // Two messages on a line are none.
    Request::from_line(format!("{with_id},\"body\":{{}}}} {{}}").as_bytes()).unwrap_err();
}

#[test]
fn limits_hold_both_ways() {
    let mut call = call(Operation::Prepare);
    call.domain.name = "x".repeat(REQUEST_LIMIT);
    let request = Request::new(id(1), Body::Hook(call));
    assert!(matches!(
        request.to_line(),
        Err(EncodeError::TooLong { limit, .. }) if limit == REQUEST_LIMIT
    ));
    let spaces = " ".repeat(REQUEST_LIMIT + 1);
    assert!(matches!(
        Request::from_line(spaces.as_bytes()),
        Err(DecodeError::TooLong { length, .. }) if length == REQUEST_LIMIT + 1
    ));
    // A reply may be longer than any request; white space is JSON too.
    let padded = format!("{}{}", REPLIES.lines().next().unwrap(), spaces);
    Reply::from_line(padded.as_bytes()).unwrap();
    let padded = " ".repeat(REPLY_LIMIT + 1);
    assert!(matches!(Reply::from_line(padded.as_bytes()), Err(DecodeError::TooLong { .. })));
}

/// The words of virDomainShutoffReason.
#[test]
fn how_a_vm_ended_is_told() {
    let told = |extra: &str| {
        let extra = extra.to_owned();
        HookCall { extra, ..call(Operation::Release) }.told().unwrap().operation
    };
    for word in ["shutdown", "saved"] {
        assert_eq!(told(word), HookOperation::ShutDown);
    }
    for word in ["destroyed", "crashed", "failed", "unknown", "-", ""] {
        assert_eq!(told(word), HookOperation::Release, "{word}");
    }
    assert_eq!(told("migrated"), HookOperation::MigratedAway);
}
