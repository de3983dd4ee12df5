//! Measures the real programs against a floor or against what people use today, in the same run on the same machine, and
//! prints each ratio beside its bar. Started by `integration/bench/run`, which builds what is measured.

#![expect(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a measurement that cannot go on ends"
)]

mod daemon;
mod events;
mod hook;
mod hosts;
mod reads;
mod report;
mod rest;
mod scale;
mod time;
mod tree;

use report::Report;
use std::path::PathBuf;

/// Where the measured programs are, and how patient to be.
pub(crate) struct Setup {
    /// Where the programs are as a release has them, and the floor.
    programs: PathBuf,
    /// What the bash dispatcher is in the source tree.
    dispatcher: PathBuf,
    /// Also what takes minutes.
    long: bool,
}

type Part = fn(&Setup, &mut Report);

fn main() {
    // cargo passes --bench.
    let wanted: Vec<String> =
        std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let setup = Setup {
        programs: PathBuf::from(std::env::var_os("BENCH_PROGRAMS").unwrap_or_default()),
        dispatcher: gpuslice_integration::root().join("integration/bench/dispatcher"),
        long: wanted.iter().any(|w| w == "--long"),
    };
    if !setup.programs.join("gpusliced").is_file() {
        eprintln!("error: nothing to measure; use integration/bench/run");
        std::process::exit(2);
    }
    let mut report = Report::default();
    let parts: [(&str, Part); 7] = [
        ("hook", hook::without_slices),
        ("claim", hook::with_a_claim),
        ("tree", tree::against_mdevctl),
        ("reads", reads::per_slice),
        ("rest", rest::at_rest),
        ("scale", scale::with_thousands),
        ("events", events::of_thousands),
    ];
    let named = |name: &str| wanted.iter().any(|w| w == name);
    let all = !parts.iter().any(|(name, _)| named(name));
    for (name, part) in parts {
        if all || named(name) {
            report.begin(name);
            part(&setup, &mut report);
        }
    }
    report.end();
}
