//! The gpuslice command line: asks the daemon (and, for a domain's XML, the libvirt agent) and shows the answer to
//! a person or, with `--json`, to a program. It decides nothing about devices itself.
#![forbid(unsafe_code)]

mod args;
mod claims;
mod doctor;
mod explain;
mod export;
mod failure;
mod output;
mod parents;
mod pretty;
mod progress;
mod render;
mod run;
mod simulated;
mod since;
mod style;
mod table;
mod words;

use std::process::ExitCode;

fn main() -> ExitCode {
    if std::env::var_os(words::ENV).is_some() {
        let typed = std::env::args_os().skip(1).map(|word| word.to_string_lossy().into_owned());
        words::print(&typed.collect::<Vec<_>>());
        return ExitCode::SUCCESS;
    }
    let arguments = args::Arguments::typed().unwrap_or_else(|error| output::misused(&error));
    let output = output::Output::new(arguments.json);
    let done = run::run(arguments.command, &output);
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => output.failed(&failure),
    }
}
