//! One call: read, asked of the daemon before a deadline, and its answer heeded.

use gpuslice_hook_ask::{Settings, ask, fresh_id, signals};
use gpuslice_hook_proto::{Body, Operation, Request};
use gpuslice_qemu_hook::verdict::{Question, Verdict};
use std::time::Instant;

/// Judges one call about the domain of this name.
pub fn judge(name: &str, operation: Operation, sub: String, extra: String, xml: &[u8]) -> Verdict {
    let root = rustix::process::geteuid().is_root();
    let (question, call) = match Question::read(name, (operation, sub, extra), xml, root) {
        Ok(question) => question,
        Err(verdict) => return verdict,
    };
    if matches!(operation, Operation::Stopped | Operation::Release) {
        signals::ignore_termination();
    }
    let settings = Settings::load();
    let deadline = Instant::now() + settings.deadline;
    let reply = fresh_id().and_then(|id| {
        let request = || Request::new(id, Body::Hook(call.clone()));
        ask(&settings.socket, request, deadline, question.needs_word())
    });
    match reply {
        Ok(reply) => question.heed(reply.body),
        Err(failure) => question.without_word(failure.refusal(
            &settings,
            "the domain asks for a slice",
            "the domain cannot be sent",
        )),
    }
}
