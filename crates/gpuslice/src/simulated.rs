//! A host that is written down instead of being there: what it would offer once its GPUs are as a configuration says,
//! or, without one, with all the virtual functions they can have. No daemon, no hardware; the mechanisms and the lists
//! are the daemon's own.

use gpuslice_core::config::{self, Config};
use gpuslice_core::execute::{self, Performed, StepError};
use gpuslice_core::hint;
use gpuslice_core::ids::{BootId, ParentId};
use gpuslice_core::layout::{Layout, VfCount, Wipe, resolve};
use gpuslice_core::machine::{Effect, Event, Machine, RequestId, Start};
use gpuslice_core::mechanism::{Layouts, Mechanism};
use gpuslice_core::mode::Modes;
use gpuslice_core::observation::Observation;
use gpuslice_core::observe::Observer;
use gpuslice_core::plan::Step;
use gpuslice_core::refusal::{Code, Hint, Refusal};
use gpuslice_core::request::{Answer, Command, Outcome};
use gpuslice_core::state::Durable;
use gpuslice_sim::{HostFile, Kernel};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use uuid::Uuid;

/// Virtual time after which everything has appeared that ever will, in milliseconds.
const SETTLED: u64 = 600_000;

/// Readings until nothing more follows: VFs make parents, and parents types.
const ROUNDS: usize = 8;

/// Looks at a step that is not over, each at the next moment at which anything happens.
const LOOKS: usize = 10_000;

/// A host file with a daemon that has seen it.
pub struct Simulated {
    /// What it consists of, for whoever reads there.
    pub kernel: Kernel,
    machine: Machine,
}

impl Simulated {
    /// Laid out as the configuration says, or with all the VFs it can have.
    pub fn new(host: &Path, config: Option<&Path>) -> Result<Self, Refusal> {
        let shape = HostFile::parse(&text_of(host)?).map_err(|error| {
            let message = format!("{} is not a host", host.display());
            Refusal::new(Code::BadRequest, message).because(error.to_string()).hint(edit(host))
        })?;
        let rules = config.map(rules).transpose()?;
        let mut kernel = Kernel::from_host(&shape);
        kernel.advance(SETTLED);
        let laid_out = lay_out(&mut kernel, rules.as_ref());
        laid_out.map_err(|refusal| match refusal.hint {
            None => refusal.hint(edit(config.unwrap_or(host))),
            Some(_) => refusal,
        })?;
        let machine = watching(&shape.name, &kernel, rules.unwrap_or_default());
        Ok(Self { kernel, machine })
    }

    /// What the daemon would answer, were this its host.
    pub fn ask(&mut self, command: Command) -> Outcome {
        let event = Event::Command { request: RequestId(0), command, config: None };
        let answer = self.machine.handle(event).into_iter().find_map(|effect| match effect {
            Effect::Answer { outcome, .. } => Some(outcome),
            _ => None,
        });
        answer.unwrap_or_else(|| Err(Refusal::new(Code::Unsupported, "nothing was answered")))
    }
}

/// The profiles of a host file.
pub fn profiles(host: &Path, config: Option<&Path>) -> Result<Answer, Refusal> {
    let mut simulated = Simulated::new(host, config)?;
    match simulated.ask(Command::ListProfiles)? {
        Answer::Profiles { rows } if rows.is_empty() => simulated.ask(Command::ListParents),
        rows => Ok(rows),
    }
}

/// Does to the kernel what `apply` would. Without rules a GPU whose driver makes no VFs stays as it is.
fn lay_out(kernel: &mut Kernel, rules: Option<&Config>) -> Result<(), Refusal> {
    let mechanisms = gpuslice_vendors::all();
    let mut observer = Observer::new(gpuslice_vendors::all());
    observer.read_slots(rules.is_some_and(Config::by_slot));
    let mut given_up = BTreeSet::new();
    for _ in 0..ROUNDS {
        observer.forget_answers();
        let seen = observer.observe(kernel);
        let mut layouts = layouts(&seen, rules);
        layouts.retain(|parent, _| !given_up.contains(parent));
        let mut changed = false;
        for parent in layouts.keys() {
            for step in steps(&mechanisms, &seen, parent, &layouts, rules.is_some())? {
                changed = true;
                let Err(error) = perform(kernel, &step) else { continue };
                if rules.is_some() {
                    let refusal = Refusal::new(Code::DeviceFailed, format!("cannot {step}"));
                    return Err(refusal.because(error.to_string()));
                }
                given_up.insert(parent.clone());
                break;
            }
        }
        if !changed {
            break;
        }
    }
    Ok(())
}

/// Has a file say what can be.
fn edit(path: &Path) -> Hint {
    hint!("edit {}, then the same again", path.display())
}

fn text_of(path: &Path) -> Result<String, Refusal> {
    std::fs::read_to_string(path).map_err(|error| {
        let message = format!("{} cannot be read", path.display());
        Refusal::new(Code::BadRequest, message)
            .because(error.to_string())
            .hint(hint!("name a file that exists and that you may read"))
    })
}

fn rules(path: &Path) -> Result<Config, Refusal> {
    let file = (path.display().to_string(), text_of(path)?);
    config::parse(&[file]).map_err(|errors| {
        let refusal = Refusal::new(Code::BadConfig, "the configuration is broken");
        let refusal = refusal.hint(edit(path));
        errors.iter().fold(refusal, |refusal, error| refusal.because(error.to_string()))
    })
}

fn layouts(seen: &Observation, rules: Option<&Config>) -> Layouts {
    if let Some(config) = rules {
        let devices = resolve(&config.rules, seen).devices;
        return devices.into_iter().map(|(p, rule)| (p, rule.layout.clone())).collect();
    }
    let all = || Layout {
        vfs: VfCount::All,
        bind: None,
        modes: Modes::new(),
        wipe: Wipe::Usual,
        park: BTreeMap::new(),
    };
    let gpus = seen.functions.iter().filter(|(_, f)| f.is_gpu() && f.sriov.is_some());
    gpus.map(|(address, _)| (ParentId::Pci(*address), all())).collect()
}

/// Without rules a GPU that cannot have VFs is left as it is; with them it is told.
fn steps(
    mechanisms: &[Box<dyn Mechanism>],
    seen: &Observation,
    parent: &ParentId,
    layouts: &Layouts,
    told: bool,
) -> Result<Vec<Step>, Refusal> {
    let Some(mechanism) = mechanisms.iter().find(|m| m.applies(seen, parent)) else {
        return Ok(Vec::new());
    };
    let steps = mechanism.layout_steps(seen, parent, layouts, true);
    if told { steps } else { Ok(steps.unwrap_or_default()) }
}

fn perform(kernel: &mut Kernel, step: &Step) -> Result<(), StepError> {
    let mut result = execute::perform(kernel, step)?;
    for _ in 0..LOOKS {
        if matches!(result, Performed::Changed | Performed::Already) {
            return Ok(());
        }
        match kernel.next_timer() {
            Some(due) => kernel.advance(due.saturating_sub(kernel.now_ms())),
            None => break,
        }
        result = execute::check(kernel, step)?;
    }
    Err(execute::never_so(kernel, step))
}

/// The daemon's machine, were this its host.
fn watching(name: &str, kernel: &Kernel, config: Config) -> Machine {
    let mut observer = Observer::new(gpuslice_vendors::all());
    observer.read_slots(config.by_slot());
    let (mut machine, _) = Machine::start(Start {
        mechanisms: gpuslice_vendors::all(),
        host: name.to_owned(),
        boot: BootId(Uuid::nil()),
        // What is written down is all that there is.
        uptime_ms: u64::MAX,
        config: Ok(config),
        durable: Durable::default(),
        run: None,
        history: BTreeMap::new(),
        warnings: Vec::new(),
    });
    let seen = observer.observe(kernel);
    machine.handle(Event::Observed(Box::new(seen)));
    machine
}
