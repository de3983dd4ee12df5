//! What libvirt's hook makes of a domain's bytes, and what it makes of the answer: by the functions of the hook's and of the
//! daemon's program, over a line as it goes through the socket.

use crate::libvirt::Xml;
use gpuslice_core::machine::{HookAnswer, HookCall};
use gpuslice_hook_proto::{Body, Operation, Reply, Request};
use gpuslice_qemu_hook::verdict::{Question, Verdict};
use uuid::Uuid;

/// What the machine is told of a call; else what libvirt is told at once.
pub fn told(operation: Operation, extra: &str, xml: &Xml) -> Result<HookCall, Verdict> {
    let (_, call) = question(operation, extra, xml)?;
    assert_eq!(call.domain, *xml.read());
    let line = Request::new(Uuid::nil(), Body::Hook(call)).to_line().unwrap();
    match Request::from_line(line.as_bytes()).unwrap().body {
        Body::Hook(call) => call.told().ok_or(Verdict::Pass),
        other => panic!("{other:?}"),
    }
}

/// What libvirt is told when the machine has answered.
pub fn heeded(operation: Operation, xml: &Xml, answer: HookAnswer) -> Verdict {
    let line = Reply::to_hook(Uuid::nil(), answer).to_line().unwrap();
    let reply = Reply::from_line(line.as_bytes()).unwrap();
    match question(operation, "-", xml) {
        Ok((question, _)) => question.heed(reply.body),
        Err(verdict) => verdict,
    }
}

fn question<'x>(
    operation: Operation,
    extra: &str,
    xml: &'x Xml,
) -> Result<(Question<'x>, gpuslice_hook_proto::HookCall), Verdict> {
    let arguments = (operation, String::new(), extra.to_owned());
    Question::read(&xml.name, arguments, xml.text().as_bytes(), true)
}
