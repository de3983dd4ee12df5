//! Changes as they happen, a line each, until interrupted.

use super::Daemon;
use crate::failure::Failure;
use crate::output::Output;
use crate::table::printable;
use gpuslice_api::client::Event;
use gpuslice_core::hint;
use gpuslice_core::refusal::{Code, Refusal};
use gpuslice_core::request::ChangeNote;

pub async fn events(daemon: &Daemon, output: &Output) -> Result<(), Failure> {
    let mut changes = daemon.client.changes().await?;
    while let Some(event) = changes.next().await {
        let note = note(event?);
        if output.is_json() {
            output.json_line(&note)?;
        } else {
            output.text(&line(&note))?;
        }
    }
    Err(Refusal::new(Code::Unreachable, "the bus is gone").hint(hint!("gpuslice events")).into())
}

/// The daemon's coming and going as a change like any other.
fn note(event: Event) -> ChangeNote {
    let daemon = |what: &str| ChangeNote {
        kind: "daemon".to_owned(),
        id: "gpusliced".to_owned(),
        what: what.to_owned(),
    };
    match event {
        Event::Changed(note) => note,
        Event::DaemonUp => daemon("has come; read everything again"),
        Event::DaemonGone => daemon("has gone"),
    }
}

fn line(note: &ChangeNote) -> String {
    format!("{} {}: {}\n", printable(&note.kind), printable(&note.id), printable(&note.what))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_one_line() {
        let changed = ChangeNote {
            kind: "claim".to_owned(),
            id: "vmid:100/gpu0".to_owned(),
            what: "attached to\nmail".to_owned(),
        };
        assert_eq!(line(&note(Event::Changed(changed))), "claim vmid:100/gpu0: attached to?mail\n");
        assert_eq!(line(&note(Event::DaemonGone)), "daemon gpusliced: has gone\n");
    }
}
