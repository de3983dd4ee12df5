//! Where answers go: text or JSON to stdout, remarks and errors to stderr. A reader that has left
//! (`gpuslice slices | head -1`) is no failure. JSON is laid out for a terminal alone: a program reads one line sooner.

use crate::failure::Failure;
use crate::pretty;
use crate::style::{Paint, Tone};
use crate::table::printable;
use gpuslice_core::hint;
use gpuslice_core::refusal::{Code, Refusal};
use serde::Serialize;
use serde_json::json;
use std::io::{self, ErrorKind, IsTerminal, Write};
use std::process::ExitCode;

/// The streams of this process.
#[derive(Debug)]
pub struct Output {
    json: bool,
    terminal: bool,
    out: Paint,
    err: Paint,
}

impl Output {
    /// As the streams and the environment allow.
    pub fn new(json: bool) -> Self {
        let (out, err) = (io::stdout(), io::stderr());
        let terminal = out.is_terminal();
        Self { json, terminal, out: Paint::for_stream(&out), err: Paint::for_stream(&err) }
    }

    /// Whether a program reads.
    pub fn is_json(&self) -> bool {
        self.json
    }

    /// How text for stdout may be painted.
    pub fn paint(&self) -> Paint {
        self.out
    }

    /// Prints an answer: as JSON, or as `text` makes it.
    pub fn answer<T: Serialize>(
        &self,
        value: &T,
        text: impl FnOnce(Paint) -> String,
    ) -> Result<(), Failure> {
        if self.json { self.json(value) } else { self.text(&text(self.out)) }
    }

    /// Prints one JSON value: over several lines to a terminal, else on one.
    pub fn json<T: Serialize>(&self, value: &T) -> Result<(), Failure> {
        self.json_text(&serde_json::to_string(value).map_err(|e| unwritten(&e))?)
    }

    /// Prints JSON text as [`Self::json`] prints the value it stands for.
    pub fn json_text(&self, json: &str) -> Result<(), Failure> {
        written(|stdout| {
            if self.terminal {
                pretty::lay_out(json, stdout)?;
            } else {
                stdout.write_all(json.as_bytes())?;
            }
            stdout.write_all(b"\n")
        })
    }

    /// Prints one JSON value on one line.
    pub fn json_line<T: Serialize>(&self, value: &T) -> Result<(), Failure> {
        let text = serde_json::to_string(value).map_err(|e| unwritten(&e))?;
        self.text(&format!("{text}\n"))
    }

    /// Prints text as it is and at once.
    pub fn text(&self, text: &str) -> Result<(), Failure> {
        self.bytes(text.as_bytes())
    }

    /// Prints bytes as they are and at once.
    pub fn bytes(&self, bytes: &[u8]) -> Result<(), Failure> {
        written(|stdout| stdout.write_all(bytes))
    }

    /// Tells a person why there is nothing to show, and the next step.
    pub fn nothing(&self, why: &str, hint: &str) {
        let label = self.err.paint(Tone::Good, "hint:");
        aside(&format!("{}\n  {label} {}\n", printable(why), printable(hint)));
    }

    /// Warns a person of something beside the answer.
    pub fn warning(&self, text: &str) {
        let label = self.err.paint(Tone::Warn, "warning:");
        aside(&format!("{label} {}\n", printable(text)));
    }

    /// Tells why it failed, to a program on stdout too.
    pub fn failed(&self, failure: &Failure) -> ExitCode {
        if self.json && !failure.answered {
            // The exit code tells it even when stdout is gone.
            let said = json!({ "changed": failure.changed, "refusal": failure.refusal });
            let _ = self.json(&said);
        }
        aside(&failure.text(self.err));
        ExitCode::from(failure.exit_code())
    }
}

/// Ends the process with what clap says of its arguments, told to a program on stdout too where that is a mistake.
pub fn misused(error: &clap::Error) -> ! {
    let mut words = std::env::args_os().skip(1).take_while(|word| word != "--");
    if error.use_stderr() && words.any(|word| word == "--json") {
        let text = error.render().to_string();
        let first = text.split("\n\n").next().unwrap_or_default();
        let words: Vec<&str> = first.trim_start_matches("error: ").split_whitespace().collect();
        let refusal = Refusal::new(Code::BadRequest, words.join(" "));
        // The exit code tells it even when stdout is gone.
        let _ = Output::new(true).json(&json!({ "changed": false, "refusal": refusal }));
    }
    error.exit()
}

fn written(write: impl FnOnce(&mut io::StdoutLock<'_>) -> io::Result<()>) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    match write(&mut stdout).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => std::process::exit(0),
        Err(error) => Err(unwritten(&error)),
        Ok(()) => Ok(()),
    }
}

/// When stderr is gone there is nobody to tell.
fn aside(text: &str) {
    let _ = io::stderr().write_all(text.as_bytes());
}

fn unwritten(error: &dyn std::error::Error) -> Failure {
    Refusal::new(Code::OutputUnwritable, "the answer cannot be written")
        .because(format!("write stdout: {error}"))
        .hint(hint!("write it to where there is room; what was ordered is done all the same"))
        .into()
}
