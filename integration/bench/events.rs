//! Thousands of slices and of claims: how long the machine takes over one event, since all others wait for it. No daemon, no disk
//! and no kernel but the simulated one: what is measured is the deciding.

use crate::report::Report;
use crate::time::by_turns;
use crate::{Setup, hosts};
use gpuslice_core::config;
use gpuslice_core::domain::{ClaimRequest, Domain, HostDevice, HostDeviceSource, alias_for};
use gpuslice_core::execute::{self, Performed};
use gpuslice_core::ids::{BootId, ClaimKey, ClaimName, MdevUuid, Owner, ParentId, SliceId};
use gpuslice_core::machine::{
    Effect, Event, HookAnswer, HookCall, HookOperation, Machine, RequestId, Start,
};
use gpuslice_core::observation::Observation;
use gpuslice_core::observe::Observer;
use gpuslice_core::port::read_text;
use gpuslice_core::request::{Command, Outcome};
use gpuslice_core::state::{Assignment, Claim, Durable, Phase, Runtime};
use gpuslice_sim::{HostFile, Kernel};
use std::collections::VecDeque;
use uuid::Uuid;

/// Of four times as much. What looks at each for each takes sixteen times as long, sorted lists little more than four.
const GROWTH: f64 = 12.0;

/// A machine on a simulated kernel, driven without a clock.
struct Engine {
    machine: Machine,
    kernel: Kernel,
    observer: Observer,
    next: u64,
}

/// What came of an event.
#[derive(Default)]
struct Came {
    hook: Option<HookAnswer>,
    answer: Option<Outcome>,
}

impl Engine {
    fn start(kernel: Kernel, config: &str, durable: Durable, run: Option<Runtime>) -> Self {
        let config = config::parse(&[("gpuslice.toml".to_owned(), config.to_owned())]);
        let (machine, effects) = Machine::start(Start {
            mechanisms: gpuslice_vendors::all(),
            host: "bench".to_owned(),
            boot: boot(&kernel),
            uptime_ms: kernel.uptime_ms(),
            config,
            durable,
            run,
            history: std::collections::BTreeMap::new(),
            warnings: Vec::new(),
        });
        let observer = Observer::new(gpuslice_vendors::all());
        let mut engine = Self { machine, kernel, observer, next: 1 };
        engine.perform(effects);
        engine
    }

    fn perform(&mut self, effects: Vec<Effect>) -> Came {
        let mut came = Came::default();
        let mut effects: VecDeque<Effect> = effects.into();
        let (mut events, mut look) = (VecDeque::new(), false);
        loop {
            if let Some(effect) = effects.pop_front() {
                match effect {
                    Effect::StoreDurable(_) => self.machine.recorded(&effect),
                    Effect::Observe => look = true,
                    Effect::AnswerHook { answer, .. } => came.hook = Some(answer),
                    Effect::Answer { outcome, .. } => came.answer = Some(outcome),
                    Effect::Execute { op, step } => {
                        let mut result = execute::perform(&mut self.kernel, &step);
                        while result == Ok(Performed::NotYet) {
                            self.kernel.settle();
                            result = execute::check(&self.kernel, &step);
                        }
                        events.push_back(Event::StepFinished { op, result });
                    }
                    _ => {}
                }
            } else if let Some(event) = events.pop_front() {
                effects = self.machine.handle(event).into();
            } else if std::mem::take(&mut look) {
                let seen = self.observer.observe(&self.kernel);
                effects = self.machine.handle(Event::Observed(Box::new(seen))).into();
            } else {
                return came;
            }
        }
    }

    fn request(&mut self) -> RequestId {
        self.next += 1;
        RequestId(self.next)
    }

    fn hook(&mut self, operation: HookOperation, domain: Domain) -> Event {
        Event::Hook { request: self.request(), call: HookCall::new(operation, domain) }
    }

    fn command(&mut self, command: Command) -> Event {
        Event::Command { request: self.request(), command, config: None }
    }

    /// One event and all that it brings about.
    fn after(&mut self, event: Event) -> Came {
        let effects = self.machine.handle(event);
        self.perform(effects)
    }
}

fn boot(kernel: &Kernel) -> BootId {
    let text = read_text(kernel, "/proc/sys/kernel/random/boot_id").expect("read the boot's id");
    text.parse().expect("it is one")
}

fn name() -> ClaimName {
    "gpu0".parse().expect("a name")
}

/// The domain that has, or would have, a slice.
fn domain(number: usize, source: HostDeviceSource, profile: &str) -> Domain {
    let uuid = Uuid::from_u128(0x1000_0000_0000_4000_8000_0000_0000_0000 + number as u128);
    let source = match source {
        HostDeviceSource::Mdev(_) => HostDeviceSource::Mdev(MdevUuid::for_claim(uuid, &name(), 0)),
        source @ HostDeviceSource::Pci(_) => source,
    };
    Domain {
        uuid,
        name: format!("vm{number}"),
        claims: vec![ClaimRequest::one(&name(), profile.parse().expect("a profile"))],
        devices: vec![HostDevice { source, alias: Some(alias_for(&name(), 0)), managed: false }],
    }
}

fn key(domain: &Domain) -> ClaimKey {
    ClaimKey { owner: Owner::Domain(domain.uuid), name: name() }
}

fn claim(domain: &Domain) -> Claim {
    let home = domain.devices.iter().filter_map(|device| device.source.slice().pci()).collect();
    let request = domain.claims[0].clone();
    Claim {
        owner_name: domain.name.clone(),
        profile: request.profile.clone().expect("it names one"),
        request,
        home,
        pool: false,
        reserve: false,
        transient: false,
        orphaned: false,
        undefined: false,
        last_refusal: None,
    }
}

fn attached(domain: &Domain, parent: ParentId, mechanism: &str) -> Assignment {
    Assignment {
        claim: key(domain),
        index: 0,
        parent,
        profile: domain.claims[0].profile.clone().expect("it names one"),
        mechanism: mechanism.to_owned(),
        type_id: None,
        parameters: None,
        managed: false,
        hotplug: false,
        phase: Phase::Attached,
        trouble: None,
        ending: None,
    }
}

/// As many VFs as claims, and half of them with VMs.
fn of_vfs(pfs: u32) -> (Engine, Vec<Domain>, Domain) {
    let config = "[[gpu]]\nmatch = { driver = \"gpusim\" }\nlayout = { vfs = \"all\" }\n";
    let host = HostFile::parse(&hosts::cards(pfs, 64)).expect("a good host file");
    let mut kernel = Kernel::from_host(&host);
    kernel.settle();
    let first = Engine::start(kernel, config, Durable::default(), None);
    let mut durable = first.machine.durable().clone();
    let mut run = first.machine.runtime().clone();
    let seen: &Observation = first.machine.observation();
    let profile = "amd-74a1-vf64";
    let mut domains = Vec::new();
    for (number, (address, vf)) in seen.vfs.iter().enumerate() {
        let domain = domain(number, HostDeviceSource::Pci(*address), profile);
        durable.claims.insert(key(&domain), claim(&domain));
        if number % 2 == 0 {
            let slice = SliceId::Vf(*address);
            run.assignments.insert(slice, attached(&domain, ParentId::Pci(vf.pf), "sriov"));
        } else {
            domains.push(domain);
        }
    }
    let last = *seen.vfs.keys().next_back().expect("there are VFs");
    let one_more = domain(seen.vfs.len(), HostDeviceSource::Pci(last), profile);
    (Engine::start(first.kernel, config, durable, Some(run)), domains, one_more)
}

/// Full cards whose every VF is a parent of ten types, with some parked that there is no room for.
fn of_mdevs(cards: usize) -> (Engine, Vec<Domain>, Domain) {
    let path = gpuslice_integration::root().join("examples/hosts/a40-mdev.toml");
    let text = std::fs::read_to_string(path).expect("read an example");
    let mut host = HostFile::parse(&text).expect("a good host file");
    let one = host.functions[0].clone();
    host.functions = (0..cards)
        .map(|bus| {
            let address = format!("0000:{:02x}:00.0", 0x41 + bus).parse().expect("an address");
            gpuslice_sim::FunctionShape { address, ..one.clone() }
        })
        .collect();
    let mut kernel = Kernel::from_host(&host);
    kernel.settle();
    let config = "[[gpu]]\nmatch = { driver = \"nvidia\" }\n\
                  layout = { vfs = \"all\", park = { nvidia-a40-2q = 4, nvidia-a40-4q = 4 } }\n";
    let mut first = Engine::start(kernel, config, Durable::default(), None);
    let profile = "nvidia-a40-2q";
    let nothing = HostDeviceSource::Mdev(MdevUuid::for_claim(Uuid::nil(), &name(), 0));
    let mut number = 0;
    let mut domains = Vec::new();
    loop {
        let domain = domain(number, nothing, profile);
        let prepare = first.hook(HookOperation::Prepare, domain.clone());
        if first.after(prepare).hook != Some(HookAnswer::Proceed) {
            return (first, domains, domain);
        }
        let started = first.hook(HookOperation::Started, domain.clone());
        first.after(started);
        domains.push(domain);
        number += 1;
    }
}

/// Milliseconds that the machine takes over one event, at the least: it does the same each time, and all else is a disturbance.
fn fastest(engine: &mut Engine, mut make: impl FnMut(&mut Engine) -> Event) -> f64 {
    const ROUNDS: usize = 5;
    let mut events: Vec<Event> = (0..=ROUNDS).map(|_| make(engine)).collect();
    let mut ordered = Vec::new();
    let mut handle = || {
        let event = events.pop().expect("one a round");
        ordered.push(engine.machine.handle(event));
    };
    let [times] = by_turns(ROUNDS, [&mut handle]);
    for effects in ordered {
        engine.perform(effects);
    }
    times.fastest()
}

pub(crate) fn of_thousands(_: &Setup, report: &mut Report) {
    let mut before = Vec::new();
    for pfs in [4_u32, 16, 64] {
        let (mut engine, idle, one_more) = of_vfs(pfs);
        let what = format!("{} VFs and claims", pfs * 64);
        // Of the most it is only said: what is beyond the processor's cache says more of that than of us.
        let compared = if pfs == 16 { before } else { Vec::new() };
        before = measure(&what, &mut engine, &idle, &one_more, &compared, report);
    }
    let mut before = Vec::new();
    for cards in [1, 4] {
        let (mut engine, running, one_more) = of_mdevs(cards);
        let what = format!("{} offers, {} mdevs", cards * 320, running.len());
        before = measure(&what, &mut engine, &[], &one_more, &before, report);
    }
}

/// Says how long each event takes, and how much longer than with a fourth of it all.
fn measure(
    of: &str,
    engine: &mut Engine,
    idle: &[Domain],
    one_more: &Domain,
    before: &[f64],
    report: &mut Report,
) -> Vec<f64> {
    let seen = engine.observer.observe(&engine.kernel);
    let mut taken =
        vec![("a reading", fastest(engine, |_| Event::Observed(Box::new(seen.clone()))))];
    for (what, command) in [
        ("profiles", Command::ListProfiles),
        ("slices", Command::ListSlices),
        ("claims", Command::ListClaims),
        ("gpus", Command::ListParents),
        ("status", Command::Status),
        ("one claim more", one_claim(one_more)),
    ] {
        taken.push((what, fastest(engine, |engine| engine.command(command.clone()))));
    }
    let prepare =
        |engine: &mut Engine, domain: &Domain| engine.hook(HookOperation::Prepare, domain.clone());
    taken.push(("a start that is refused", fastest(engine, |engine| prepare(engine, one_more))));
    if !idle.is_empty() {
        let mut idle = idle.iter();
        let start = |engine: &mut Engine| prepare(engine, idle.next().expect("one a round"));
        taken.push(("a start", fastest(engine, start)));
    }
    let parents = Vec::new();
    let drain = Command::Drain { parents, reason: String::new(), wait_ms: Some(1_000_000) };
    let drain = engine.command(drain);
    assert!(engine.after(drain).answer.is_none(), "somebody waits from now on");
    let wait = |engine: &mut Engine| engine.command(Command::WaitSettled { timeout_ms: 1000 });
    taken.push(("anything while a drain is waited for", fastest(engine, wait)));
    for (at, (what, took)) in taken.iter().enumerate() {
        report.say(&format!("{of}: {what}"), format!("{took:.3} ms"));
        // What is over in no time says nothing of growth.
        if let Some(before) = before.get(at).filter(|before| **before > 0.005) {
            report.at_most(&format!("{of}: {what}: growth from a fourth"), took / before, GROWTH);
        }
    }
    taken.into_iter().map(|(_, took)| took).collect()
}

fn one_claim(of: &Domain) -> Command {
    Command::Claim {
        owner: Owner::Domain(of.uuid),
        owner_name: of.name.clone(),
        request: of.claims[0].clone(),
        pool: None,
        reserve: None,
        dry_run: true,
    }
}
