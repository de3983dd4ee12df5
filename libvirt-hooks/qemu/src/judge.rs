//! One call: read, asked of the daemon before a deadline, and its answer heeded.

use gpuslice_core::hint;
use gpuslice_core::refusal::{Code, Refusal};
use gpuslice_hook_ask::{NoAnswer, Settings, ask, fresh_id, signals};
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
        let request = Request::new(id, Body::Hook(call));
        ask(&settings.socket, &request, deadline, question.needs_word())
    });
    match reply {
        Ok(reply) => question.heed(reply.body),
        Err(failure) => question.without_word(without_answer(&failure, &settings)),
    }
}

fn without_answer(failure: &NoAnswer, settings: &Settings) -> Refusal {
    let socket = settings.socket.display();
    match failure {
        NoAnswer::Absent(errno) => Refusal::new(
            Code::Unreachable,
            "the domain asks for a slice and gpusliced does not answer",
        )
        .because(format!("connect {socket}: {errno}"))
        .hint(hint!("systemctl start gpusliced")),
        NoAnswer::Deadline => Refusal::new(
            Code::Timeout,
            format!("gpusliced gave no answer within {} s", settings.deadline.as_secs()),
        )
        .hint(hint!("start it again, with a larger deadline-seconds in /etc/gpuslice/hook.conf")),
        NoAnswer::Nonsense(why) => {
            Refusal::new(Code::Unreachable, format!("{socket} answered what is no reply"))
                .because(why.clone())
                .hint(hint!("systemctl restart gpusliced"))
        }
        NoAnswer::Unsendable(why) => {
            Refusal::new(Code::BadRequest, "the domain cannot be sent").because(why.clone())
        }
    }
}
