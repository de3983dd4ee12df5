//! The client over the daemon's socket.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking; its shared functions are not marked as tests"
)]

use gpuslice_api::client::Listing;
use gpuslice_api::{CallError, Client, Transport};
use gpuslice_core::ids::ClaimKey;
use gpuslice_core::refusal::{Code, Refusal};
use gpuslice_core::request::{Answer, ClaimRow, Command};
use gpuslice_hook_proto::{Body, Reply, ReplyBody, Request, Served};
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixListener;

/// Serves one connection: replies to each request with what `reply` makes of it, then closes. A client that waits in
/// the kernel keeps its thread, so this has one of its own.
fn socket(replies: Vec<fn(&Request) -> Vec<Reply>>) -> (tempfile::TempDir, Transport) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("sock");
    let listener = UnixListener::bind(&path).unwrap();
    std::thread::spawn(move || {
        let (stream, _) = listener.accept().unwrap();
        let mut stream = BufReader::new(stream);
        for reply in replies {
            let mut line = String::new();
            stream.read_line(&mut line).unwrap();
            let request = Request::from_line(line.as_bytes()).unwrap();
            for reply in reply(&request) {
                let line = reply.to_line().unwrap();
                stream.get_mut().write_all(line.as_bytes()).unwrap();
            }
        }
    });
    (dir, Transport::only_socket(path))
}

fn done(request: &Request, message: &str) -> Reply {
    let answer = Answer::Done { changed: true, message: message.to_owned() };
    Reply::new(request.id, ReplyBody::Ok(Served::Command(Box::new(answer))))
}

#[tokio::test]
async fn who_waits_until_a_time_is_not_kept_longer() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("sock");
    // Whoever connects is never taken, and never answered.
    let _listener = UnixListener::bind(&path).unwrap();
    let transport = Transport::only_socket(path);
    let now = std::time::Instant::now();
    for client in [Client::connect(&transport).await.ok(), Client::to_read(&transport)] {
        let error = client.unwrap().until(now).call(Command::ListClaims).await.unwrap_err();
        assert!(format!("{error:?}").contains("no answer within 0 s"), "{error:?}");
    }
}

#[tokio::test]
async fn the_socket_serves_commands_one_after_the_other() {
    let (_dir, transport) = socket(vec![
        |request| {
            assert_eq!(request.body, Body::Command(Command::Apply));
            // A late answer to something else comes first.
            let late = Request::new(
                "8e2f2d4e-1b5f-4a4e-9f57-0d9c6f1c6a11".parse().unwrap(),
                Body::Command(Command::Plan),
            );
            vec![done(&late, "late"), done(request, "applied")]
        },
        |request| {
            let refusal = Refusal::new(Code::Unknown, "no claim vmid:100/gpu0");
            vec![Reply::refused(request.id, refusal)]
        },
        |_| Vec::new(),
    ]);
    let client = Client::connect(&transport).await.unwrap();
    let got = client.call(Command::Apply).await.unwrap();
    assert!(matches!(got, Answer::Done { message, .. } if message == "applied"));

    let key: ClaimKey = "vmid:100/gpu0".parse().unwrap();
    let unclaim = client.call(Command::Unclaim { key, force: false }).await;
    assert!(matches!(unclaim, Err(CallError::Refused(r)) if r.code == Code::Unknown));

    let broken = client.call(Command::Status).await.unwrap_err();
    assert!(
        matches!(&broken, CallError::Unreachable { tried, .. } if tried[0].contains("closed")),
        "{broken:?}"
    );
    assert!(
        matches!(client.changes().await, Err(CallError::Refused(r)) if r.code == Code::Unsupported)
    );
}

#[tokio::test]
async fn a_list_is_told_from_other_answers() {
    let (_dir, transport) = socket(vec![
        |request| {
            assert_eq!(request.body, Body::Command(Command::ListClaims));
            // An order that was given up on is answered late, and has no rows.
            let late = Request::new(
                "8e2f2d4e-1b5f-4a4e-9f57-0d9c6f1c6a11".parse().unwrap(),
                Body::Command(Command::Apply),
            );
            let answer = Answer::Claims { rows: Vec::new() };
            let reply = Reply::new(request.id, ReplyBody::Ok(Served::Command(Box::new(answer))));
            vec![done(&late, "late"), reply]
        },
        |request| {
            let answer = Answer::Claims { rows: Vec::new() };
            vec![Reply::new(request.id, ReplyBody::Ok(Served::Command(Box::new(answer))))]
        },
        |request| vec![done(request, "what?")],
        |request| vec![Reply::refused(request.id, Refusal::new(Code::Unknown, "no"))],
        |_| Vec::new(),
    ]);
    let client = Client::to_read(&transport).unwrap();
    let list = client.list(Listing::Claims).await.unwrap();
    assert_eq!(list.json(), "[]");
    assert_eq!(list.rows::<ClaimRow>().unwrap(), []);
    let other = client.list(Listing::Slices).await.unwrap_err();
    assert!(
        matches!(&other, CallError::Protocol { what } if what == "unexpected claims instead of slices"),
        "{other:?}"
    );
    let none = client.list(Listing::Slices).await.unwrap_err();
    assert!(matches!(none, CallError::Protocol { .. }), "{none:?}");
    let refused = client.list(Listing::Slices).await.unwrap_err();
    assert!(matches!(refused, CallError::Refused(r) if r.code == Code::Unknown));
    let closed = client.list(Listing::Slices).await.unwrap_err();
    assert!(
        matches!(&closed, CallError::Unreachable { tried, .. } if tried[0].contains("closed")),
        "{closed:?}"
    );
}

#[tokio::test]
async fn nobody_there_says_what_was_tried() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("sock");
    assert!(Client::to_read(&Transport::only_socket(&socket)).is_none());
    let error = Client::connect(&Transport::only_socket(&socket)).await.unwrap_err();
    let CallError::Unreachable { who, masked: false, tried } = error else {
        panic!("{error:?}");
    };
    assert_eq!(who, "gpusliced");
    assert_eq!(
        tried,
        [format!("connect {}: no such file or directory (ENOENT)", socket.display())]
    );

    let address = format!("unix:path={}", socket.display());
    let error = Client::connect(&Transport::only_bus(&address)).await.unwrap_err();
    assert!(
        matches!(&error, CallError::Unreachable { tried, .. } if tried[0].contains("sock")),
        "{error:?}"
    );
}
