//! Waking up: what the records of a former daemon mean now.

use super::{Effect, Machine, Stored, Timer};
use crate::config::{Config, ConfigError};
use crate::history::{Ending, Line};
use crate::ids::{BootId, SliceId};
use crate::mechanism::Mechanism;
use crate::observation::Observation;
use crate::refusal::Code;
use crate::state::{Durable, Lost, Phase, Runtime};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

/// Milliseconds that libvirt has between a start's leave and its success, or its failure. QEMU may fill a terabyte
/// of memory before it opens its first device.
pub(super) const STARTING_GRACE: u64 = 600_000;

/// What a machine begins with.
pub struct Start {
    /// How slices are made here.
    pub mechanisms: Vec<Box<dyn Mechanism>>,
    /// `/sys`, or the name of a simulated host.
    pub host: String,
    /// This boot.
    pub boot: BootId,
    /// Milliseconds since it began.
    pub uptime_ms: u64,
    /// The configuration on disk.
    pub config: Result<Config, Vec<ConfigError>>,
    /// As recorded, or the default when there was no record.
    pub durable: Durable,
    /// As recorded, if there was a record.
    pub run: Option<Runtime>,
    /// What of the history has begun and not ended.
    pub history: BTreeMap<SliceId, Line>,
    /// What a person should know of how the records were found.
    pub warnings: Vec<String>,
}

impl Machine {
    /// Makes a machine, and says what to do first.
    pub fn start(start: Start) -> (Self, Vec<Effect>) {
        let (config, config_errors) = match start.config {
            Ok(config) => (config, Vec::new()),
            Err(errors) => (Config::default(), errors.iter().map(ToString::to_string).collect()),
        };
        let mut machine = Self {
            mechanisms: start.mechanisms,
            host: start.host,
            config,
            former_config: None,
            config_errors,
            warnings: start.warnings,
            written: Arc::new(start.durable.clone()),
            durable: start.durable,
            run: Runtime::new(start.boot),
            seen: Observation::default(),
            held: BTreeMap::new(),
            layouts: BTreeMap::new(),
            observed: false,
            ops: BTreeMap::new(),
            next_op: 0,
            former_writers: BTreeSet::new(),
            ended_tools: BTreeSet::new(),
            counts_written: 0,
            parked: Vec::new(),
            put_off: BTreeSet::new(),
            asks: None,
            nodes_anew: false,
            parked_plugs: Vec::new(),
            parked_runs: Vec::new(),
            parked_guests: VecDeque::new(),
            plugs: BTreeMap::new(),
            expected: BTreeMap::new(),
            drains: BTreeMap::new(),
            waiting: BTreeSet::new(),
            was_settled: false,
            offers_due: false,
            boot_is_young: false,
            told_to_start: BTreeSet::new(),
            mended_once: BTreeSet::new(),
            refused_xml: BTreeSet::new(),
            refused_starts: VecDeque::new(),
            applying: BTreeMap::new(),
            look_again: BTreeSet::new(),
            refused_looks: BTreeMap::new(),
            release_tries: BTreeMap::new(),
            kept: BTreeMap::new(),
            resets: BTreeMap::new(),
            presumed_dead: BTreeSet::new(),
            unplugged: BTreeSet::new(),
            young: BTreeSet::new(),
            repairs: BTreeSet::new(),
            asked_anew: BTreeSet::new(),
            repair_pauses: BTreeMap::new(),
            park_failed: BTreeMap::new(),
            postponed: BTreeSet::new(),
            untold: BTreeSet::new(),
            log_read: None,
            unplaced: VecDeque::new(),
            stale: false,
            looks: super::looks::Looks::default(),
            left: super::left::LeftToDrivers::default(),
            not_ready: BTreeMap::new(),
            told: BTreeMap::new(),
            unwritten: BTreeSet::new(),
            dirty: BTreeSet::new(),
            answered: BTreeMap::new(),
            effects: Vec::new(),
            past: super::history::Told::default(),
        };
        machine.await_boot(start.uptime_ms);
        machine.resume_log();
        let ran = machine.durable.boot.replace(start.boot) == Some(start.boot);
        if !ran {
            machine.persist(Stored::Durable);
        }
        machine.adopt_config_at_boot(start.boot);
        match start.run.filter(|run| run.boot == start.boot) {
            Some(run) => machine.resume(run),
            None if ran => machine.record_is_lost(),
            None => machine.begin_boot(),
        }
        machine.wait_for_undefined();
        machine.resume_history(start.history, start.boot);
        machine.persist(Stored::Runtime);
        machine.push(Effect::Observe);
        let effects = machine.flush();
        (machine, effects)
    }

    /// An edited configuration takes effect at a boot, a broken one never.
    fn adopt_config_at_boot(&mut self, boot: BootId) {
        if self.durable.applied_boot == Some(boot) {
            return;
        }
        if !self.config_errors.is_empty() {
            let text = format!("the applied layout stays: {}", self.config_errors.join("; "));
            return self.push(Effect::Log { warning: true, text });
        }
        self.durable.applied_boot = Some(boot);
        self.adopt_rules(self.config.rules.clone());
        self.persist(Stored::Durable);
    }

    /// Only a fault outlives its boot: a write that slept has ended, nobody holds what he held, and whether a layout can be met is
    /// to be seen anew, under the driver of this boot.
    fn begin_boot(&mut self) {
        let before = self.durable.quarantines.len();
        self.durable.quarantines.retain(|_, why| why.code == Code::DeviceFailed);
        if self.durable.quarantines.len() != before {
            self.persist(Stored::Durable);
        }
    }

    /// VMs run, and nothing says what they were given.
    fn record_is_lost(&mut self) {
        self.run.lost = Some(Lost::default());
        let text = "the record of what was given out in this boot is lost; what the claims name and is in use \
                    is taken for theirs"
            .to_owned();
        self.push(Effect::Log { warning: true, text: text.clone() });
        self.warnings.push(text);
    }

    /// Takes over the assignments of a daemon that stopped in this boot.
    fn resume(&mut self, run: Runtime) {
        self.run = run;
        for slice in self.run.foreign.keys() {
            self.effects.push(Effect::Watch { slice: *slice });
        }
        for (slice, assignment) in &self.run.assignments {
            let (slice, phase) = (*slice, assignment.phase);
            match phase {
                // libvirt was never told that it is ready: its hook asks again, or the start failed.
                Phase::Reserved | Phase::Releasing => {}
                Phase::Prepared => {
                    let timer = Timer::Grace(slice);
                    self.effects.push(Effect::Arm { timer, after: STARTING_GRACE });
                }
                Phase::Attached => self.effects.push(Effect::Watch { slice }),
            }
        }
        self.wait_to_start_later();
        self.wait_to_come_in();
        self.await_former();
    }

    /// After the first reading: takes up the releases a former daemon did not finish.
    pub(super) fn resume_releases(&mut self) {
        let unfinished: Vec<_> = self
            .run
            .assignments
            .iter()
            .filter(|(_, a)| matches!(a.phase, Phase::Reserved | Phase::Releasing))
            .map(|(slice, _)| *slice)
            .collect();
        for slice in unfinished {
            self.begin_release(slice, Ending::StartFailed);
        }
    }
}
