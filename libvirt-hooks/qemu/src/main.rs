//! libvirt's qemu hook (its docs/hooks.rst): tells the daemon that a domain starts or has stopped, and refuses the
//! start when the daemon does.
//!
//! libvirt waits with the domain locked and without a limit of its own, so everything here ends: by a scan of the
//! bytes for most domains, at a deadline for the others. Only `prepare`, `migrate` and `restore` may fail. Nothing
//! here calls libvirt, and the XML of `migrate` and `restore`, which holds passwords, goes nowhere but back.

mod judge;
mod stdio;

use gpuslice_hook_ask::complain;
use gpuslice_hook_proto::Operation;
use gpuslice_qemu_hook::verdict::Verdict;
use std::ffi::OsString;
use std::process::ExitCode;

const USAGE: &str = concat!(
    "gpuslice-qemu-hook ",
    env!("CARGO_PKG_VERSION"),
    ": run by libvirt as: gpuslice-qemu-hook DOMAIN OPERATION SUB-OPERATION EXTRA < domain.xml"
);

fn main() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    // libvirt names a domain and an operation in every version; fewer arguments are a person's.
    let [domain, operation, rest @ ..] = arguments.as_slice() else {
        complain(USAGE);
        return ExitCode::from(2);
    };
    let word = |at: usize| {
        rest.get(at).map(|text| text.to_string_lossy().into_owned()).unwrap_or_default()
    };
    let xml = stdio::read_all();
    // `start` adds nothing to `prepare`; operations of later versions are let pass.
    let operation = operation.to_str().and_then(Operation::from_word);
    let Some(operation) = operation.filter(|operation| *operation != Operation::Start) else {
        return ExitCode::SUCCESS;
    };
    let domain = domain.to_string_lossy();
    if xml.is_empty() && operation.may_fail() {
        // Whoever called the hook lost it, for all domains alike; those that ask for nothing have to start.
        complain(&format!("gpuslice: warning: no XML of {domain} on stdin: it is given no slice"));
    }
    match judge::judge(&domain, operation, word(0), word(1), &xml) {
        Verdict::Pass => ExitCode::SUCCESS,
        Verdict::Edited(xml) => match stdio::write_all(&xml) {
            Ok(()) => ExitCode::SUCCESS,
            Err(refusal) => refuse(&refusal.one_line()),
        },
        Verdict::Refused(refusal) => refuse(&refusal.one_line()),
    }
}

fn refuse(line: &str) -> ExitCode {
    complain(line);
    ExitCode::FAILURE
}
