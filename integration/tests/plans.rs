//! Plans as a person reads them: `cases/plan/NAME/` holds the host and what was done to it (`host.toml`), the
//! configuration (`rules.toml`) and what `gpuslice plan` makes of both (`plan.txt`). `GPUSLICE_BLESS=1` writes the
//! last one anew, for review.

#![cfg(test)]

use gpuslice_core::config;
use gpuslice_core::domain::{Domain, HostDevice, HostDeviceSource};
use gpuslice_core::ids::{BootId, PciAddress};
use gpuslice_core::machine::{Effect, Event, HookCall, HookOperation, Machine, RequestId, Start};
use gpuslice_core::observe::Observer;
use gpuslice_core::port::HostWrite;
use gpuslice_core::request::{Answer, Command, LayoutRow, Outcome, OverruledRow, PlanRow};
use gpuslice_core::state::Durable;
use gpuslice_integration::root;
use gpuslice_sim::{HostFile, Kernel};
use serde::Deserialize;
use std::fmt::Write as _;
use std::path::Path;
use uuid::Uuid;

/// A host and what was done to it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    /// A file of examples/hosts.
    host: String,
    /// Somebody else's writes.
    #[serde(default, rename = "write")]
    writes: Vec<Written>,
    /// Running domains that made no claim.
    #[serde(default, rename = "vm")]
    vms: Vec<Vm>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    file: String,
    data: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Vm {
    name: String,
    device: PciAddress,
}

fn host(case: &Case) -> Kernel {
    let file = root().join(format!("examples/hosts/{}.toml", case.host));
    let shape = HostFile::parse(&std::fs::read_to_string(file).unwrap()).unwrap();
    let mut kernel = Kernel::from_host(&shape);
    for written in &case.writes {
        kernel.write(&written.file, written.data.as_bytes()).unwrap();
    }
    kernel.settle();
    kernel
}

/// A machine without a configuration that has seen the host and its VMs.
fn machine(case: &Case, kernel: &Kernel) -> Machine {
    let (mut machine, _) = Machine::start(Start {
        mechanisms: gpuslice_vendors::all(),
        host: case.host.clone(),
        boot: BootId(Uuid::nil()),
        uptime_ms: 0,
        config: Ok(config::Config::default()),
        durable: Durable::default(),
        run: None,
        history: std::collections::BTreeMap::new(),
        warnings: Vec::new(),
    });
    let seen = Observer::new(gpuslice_vendors::all()).observe(kernel);
    machine.handle(Event::Observed(Box::new(seen)));
    for (number, vm) in (0_u64..).zip(&case.vms) {
        let source = HostDeviceSource::Pci(vm.device);
        let domain = Domain {
            uuid: Uuid::from_u128(u128::from(number)),
            name: vm.name.clone(),
            claims: Vec::new(),
            devices: vec![HostDevice { source, alias: None, managed: true }],
        };
        let call = HookCall::new(HookOperation::Prepare, domain);
        machine.handle(Event::Hook { request: RequestId(number), call });
    }
    machine
}

fn plan(machine: &mut Machine, rules: &str) -> Outcome {
    let config = config::parse(&[("rules.toml".to_owned(), rules.to_owned())]);
    let (request, command) = (RequestId(u64::MAX), Command::Plan);
    let effects = machine.handle(Event::Command { request, command, config: Some(config) });
    let mut answers = effects.into_iter().filter_map(|effect| match effect {
        Effect::Answer { outcome, .. } => Some(outcome),
        _ => None,
    });
    answers.next().unwrap()
}

fn told(plan: &PlanRow) -> String {
    let mut text = String::new();
    for row in &plan.steps {
        writeln!(text, "{}: {}", row.parent, row.step).unwrap();
    }
    for LayoutRow { parent, before, after } in &plan.layouts {
        let word = |layout: &Option<String>| layout.clone().unwrap_or_else(|| "none".to_owned());
        writeln!(text, "layout: {parent}: {}, was {}", word(after), word(before)).unwrap();
    }
    for setting in &plan.settings {
        writeln!(text, "also: {setting}").unwrap();
    }
    for blocker in &plan.blockers {
        writeln!(text, "in the way: {}", blocker.one_line()).unwrap();
    }
    for unmatched in &plan.unmatched {
        writeln!(text, "no device: {unmatched}").unwrap();
    }
    for ignored in &plan.ignored {
        writeln!(text, "ignored: {ignored}").unwrap();
    }
    for OverruledRow { rule, by, parents } in &plan.overruled {
        let of: Vec<String> = parents.iter().map(ToString::to_string).collect();
        writeln!(text, "overruled: {rule}: {by} comes first for {}", of.join(", ")).unwrap();
    }
    if !plan.changed && plan.blockers.is_empty() {
        writeln!(text, "nothing to do").unwrap();
    }
    text
}

fn walk(dir: &Path) -> String {
    let read = |name| std::fs::read_to_string(dir.join(name)).unwrap();
    let case: Case = toml::from_str(&read("host.toml")).unwrap();
    let kernel = host(&case);
    match plan(&mut machine(&case, &kernel), &read("rules.toml")) {
        Ok(Answer::Plan(plan)) => told(&plan),
        other => panic!("{}: {other:?}", dir.display()),
    }
}

#[test]
fn plans_read_as_kept() {
    let cases = root().join("integration/cases/plan");
    let mut dirs: Vec<_> =
        std::fs::read_dir(cases).unwrap().map(|entry| entry.unwrap().path()).collect();
    dirs.sort();
    assert!(!dirs.is_empty());
    let mut different = Vec::new();
    for dir in dirs {
        let now = walk(&dir);
        let file = dir.join("plan.txt");
        if std::env::var_os("GPUSLICE_BLESS").is_some() {
            std::fs::write(&file, &now).unwrap();
        }
        let kept = std::fs::read_to_string(&file).unwrap_or_default();
        if kept != now {
            different.push(format!("{}\n--- kept\n{kept}--- now\n{now}", dir.display()));
        }
    }
    assert!(different.is_empty(), "{}", different.join("\n"));
}
