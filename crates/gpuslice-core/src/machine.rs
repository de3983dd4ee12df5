//! The engine's state machine: `handle(event) -> effects`. It owns every decision and all state; whoever
//! drives it performs the effects in order and feeds back what happened.
//!
//! Promises kept by construction:
//! - effects begin with the records of everything the later ones promise or do;
//! - a record that could not be written turns the rest of its batch into refusals ([`Machine::unrecorded`]);
//! - nothing but [`Effect::Execute`] changes a device, and every step asks for holders first.

mod admit;
mod adopt;
mod agent;
mod answers;
mod applying;
mod awaited;
mod claims;
mod cordoned;
mod displaced;
mod drain;
mod drivers;
mod event;
mod fabric;
mod failed;
mod fewer;
mod former;
mod given;
mod guest;
mod health;
mod history;
mod hook;
mod idle;
mod incoming;
mod late_start;
mod later;
mod layouts;
mod left;
mod loads;
mod looks;
mod mend;
mod mistakes;
mod news;
mod numa;
mod offers;
mod one_vm;
mod ops;
mod parking;
mod picked;
mod plug;
mod profiles;
mod ready;
mod refused;
mod release;
mod replace;
mod reserve;
mod returning;
mod settled;
mod start;
mod stuck;
mod turns;
mod vanished;
mod wedged;
mod whole;
mod wipe;
mod wished;
mod yielded;

pub use event::{
    Effect, Event, HookAnswer, HookCall, HookOperation, OpId, RequestId, Stored, Timer,
};
pub use start::Start;

use crate::config::{Config, ConfigError};
use crate::domain::{ClaimRequest, Domain};
use crate::health::Said;
use crate::hint;
use crate::holders::Holder;
use crate::ids::{ClaimKey, MdevUuid, Owner, ParentId, SliceId};
use crate::layout::Layout;
use crate::mechanism::{Mechanism, SRIOV};
use crate::observation::Observation;
use crate::refusal::{Code, Refusal};
use crate::request::{ChangeNote, RefusedStart};
use crate::state::{Assignment, Durable, Runtime};
use ops::Op;
use plug::{Order as PlugOrder, Plugging};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use uuid::Uuid;

/// Configuration as last read from disk.
pub type ConfigRead = Result<Config, Vec<ConfigError>>;

/// The engine.
pub struct Machine {
    mechanisms: Vec<Box<dyn Mechanism>>,
    host: String,
    config: Config,
    /// The one before it, where an order of this batch has exchanged them.
    former_config: Option<Config>,
    config_errors: Vec<String>,
    warnings: Vec<String>,
    durable: Durable,
    /// As last recorded.
    written: Arc<Durable>,
    run: Runtime,
    seen: Observation,
    /// Who held what nobody was given, when last asked.
    held: BTreeMap<SliceId, Holder>,
    /// The applied layouts of the parents seen.
    layouts: BTreeMap<ParentId, Layout>,
    /// A first reading has come.
    observed: bool,
    ops: BTreeMap<OpId, Op>,
    next_op: u64,
    /// Parents with a step that a process of a former daemon is seen to sleep in.
    former_writers: BTreeSet<ParentId>,
    /// Devices on which a vendor's tool of a former daemon has ended, until the next reading.
    ended_tools: BTreeSet<ParentId>,
    /// How many writes of a VF count have come back.
    counts_written: u64,
    /// Calls waiting for an operation to end or for a reading, oldest first.
    parked: Vec<(RequestId, HookCall)>,
    /// Calls about guests of Proxmox VE waiting for a reading or for their slices to come back, oldest first.
    parked_guests: VecDeque<guest::Parked>,
    /// Hot-plugs waiting for a reading or for their claim's slices to come back, oldest first.
    parked_plugs: Vec<(RequestId, PlugOrder)>,
    /// Running domains that were told of and cannot be judged yet, oldest first.
    parked_runs: Vec<(RequestId, Domain)>,
    /// Hot-plugs whose slices are being prepared.
    plugs: BTreeMap<RequestId, Plugging>,
    /// What domains that are about to come in were told to carry.
    expected: BTreeMap<Uuid, incoming::Expected>,
    /// Who waits until parents are free.
    drains: BTreeMap<RequestId, drain::Drain>,
    /// Who waits for settledness.
    waiting: BTreeSet<RequestId>,
    was_settled: bool,
    /// A reading has come, and what it shows of what devices offer is not recorded yet.
    offers_due: bool,
    /// Whether what nothing is known of may yet come with this boot.
    boot_is_young: bool,
    /// Whom the agent was told to start, of those that were refused.
    told_to_start: BTreeSet<Uuid>,
    /// Whose start was refused for what the agent mends, and has not worked since.
    mended_once: BTreeSet<Uuid>,
    /// Whose start was refused for what their XML says, and has not worked since.
    refused_xml: BTreeSet<Uuid>,
    /// Domains without a claim whose last start was refused, the latest last.
    refused_starts: VecDeque<RefusedStart>,
    /// Orders to apply under way.
    applying: BTreeMap<RequestId, applying::Applying>,
    /// Shut-off domains the agent should look at again.
    look_again: BTreeSet<Uuid>,
    /// What shut-off domains ask for and could not have when they were last looked at.
    refused_looks: BTreeMap<ClaimKey, (String, ClaimRequest)>,
    /// Failed tries of the releases that wait for their next.
    release_tries: BTreeMap<SliceId, u32>,
    /// Slices that somebody kept from being cleared, when that was last tried.
    kept: BTreeMap<SliceId, release::Kept>,
    /// Slices that are being cleaned, as long as a start waits for that; and whether a VM that had it was told to have ended,
    /// whose process may not have let go of it yet.
    resets: BTreeMap<SliceId, bool>,
    /// Slices taken back because nobody seemed to hold them, rather than because libvirt said so.
    presumed_dead: BTreeSet<SliceId>,
    /// Slices that a running VM had without a claim, and its XML has no longer.
    unplugged: BTreeSet<SliceId>,
    /// Slices whose VM has only just begun to use them, where it matters.
    young: BTreeSet<SliceId>,
    /// Parents whose VFs were to be made anew since their last use ended.
    repairs: BTreeSet<ParentId>,
    /// Those of which it was asked before that how they are set.
    asked_anew: BTreeSet<ParentId>,
    /// Milliseconds before that is tried again of those that somebody had open.
    repair_pauses: BTreeMap<ParentId, u64>,
    /// Why a device could not be parked, or not be removed, when it was last tried.
    park_failed: BTreeMap<MdevUuid, Refusal>,
    /// Slices whose release waits for their device's quarantine to be lifted.
    postponed: BTreeSet<SliceId>,
    /// Parents that do not tell how they are set, and were set to something else than their layout when they last did.
    untold: BTreeSet<ParentId>,
    /// Up to where the kernel's log was read; recorded with whatever comes of it.
    log_read: Option<u64>,
    /// Lines about devices that are not there yet.
    unplaced: VecDeque<Said>,
    /// Something was done to the host and has not been read back: nothing new is decided on the old reading.
    stale: bool,
    /// Starts that were put off once, to look at what somebody else may have given back unseen.
    put_off: BTreeSet<RequestId>,
    /// Who asked last, and the name it had then.
    asks: Option<(Owner, String)>,
    /// The next reading is to read the NUMA nodes too.
    nodes_anew: bool,
    looks: looks::Looks,
    left: left::LeftToDrivers,
    /// Devices that were not ready when a slice was to be made on them.
    not_ready: BTreeMap<ParentId, ready::NotReady>,
    /// Starts that were told to go on, until the VM runs or its slices come back.
    told: BTreeMap<RequestId, Vec<SliceId>>,
    /// Whether the last record of each kind was written.
    unwritten: BTreeSet<Stored>,
    dirty: BTreeSet<Stored>,
    /// What was promised in this batch, in case the record fails: starts with their slices, and orders.
    answered: BTreeMap<RequestId, Vec<SliceId>>,
    effects: Vec<Effect>,
    /// What the history says.
    past: history::Told,
}

impl Machine {
    /// Takes one event and says what is to be done about it.
    pub fn handle(&mut self, event: Event) -> Vec<Effect> {
        self.answered.clear();
        self.former_config = None;
        // What one says of itself is no word for the next.
        self.asks = None;
        match event {
            Event::Observed(seen) => self.on_observed(*seen),
            Event::Held(held) => self.on_held(held),
            Event::Hook { request, call } => self.on_hook(request, call),
            Event::Guest { request, call } => self.guest_asks(request, call),
            Event::HookGone { request } => self.on_hook_gone(request),
            Event::Command { request, command, config } => {
                self.on_command(request, command, config)
            }
            Event::CallerGone { request } => self.on_caller_gone(request),
            Event::StepFinished { op, result } => self.on_step_finished(op, result),
            Event::HolderGone { slice } => self.on_holder_gone(slice),
            Event::WriterFound { parent, step } => self.on_writer_found(parent, &step),
            Event::WriterGone { parent, step } => self.on_writer_gone(&parent, &step),
            Event::Said(lines) => self.on_said(lines),
            Event::History(trouble) => self.on_history(trouble),
            Event::Timer(timer) => self.on_timer(timer),
        }
        // What could not be recorded before is tried again with every event.
        self.dirty.extend(std::mem::take(&mut self.unwritten));
        self.after_change();
        self.flush()
    }

    /// Puts the records first.
    fn flush(&mut self) -> Vec<Effect> {
        self.keep_given();
        if self.dirty.contains(&Stored::Durable) {
            self.forget_offered();
            self.remember_places();
            self.remember_yielded();
            self.durable.log_read = self.log_read();
        }
        let news = self.news_for_history();
        let mut effects: Vec<Effect> = std::mem::take(&mut self.dirty)
            .into_iter()
            .map(|stored| match stored {
                Stored::Durable => Effect::StoreDurable(Arc::new(self.durable.clone())),
                Stored::Runtime => Effect::StoreRuntime(Arc::new(self.run.clone())),
            })
            .collect();
        effects.extend(news);
        effects.append(&mut self.effects);
        effects
    }

    /// A record could not be written, and `rest` is what stood behind it in its batch. Answers what may be done all
    /// the same: refusals, and what takes nothing new (releases go on).
    pub fn unrecorded(&mut self, stored: Stored, why: &str, rest: Vec<Effect>) -> Vec<Effect> {
        // Assignments are recorded first, so that what one of the two records lacks is not in the other either.
        self.roll_back();
        self.untell_history();
        self.unwritten.insert(stored);
        let refusal = Refusal::new(
            Code::StateUnwritable,
            "the change cannot be recorded, so it is not made",
        )
        .because(why.to_owned())
        .hint(hint!(
            "free space or fix permissions of /var/lib/gpuslice and /run/gpuslice, then try again"
        ));
        let (mut kept, mut no_room) = (Vec::new(), false);
        for effect in rest {
            match effect {
                Effect::StoreDurable(_) | Effect::StoreRuntime(_) => {
                    self.unwritten.insert(Stored::Runtime);
                }
                // Told again with the record.
                Effect::History(_) => {}
                Effect::Execute { op, .. } if !self.may_go_on(op) => {
                    no_room |= self.parks(op);
                    self.abandon(op, &refusal);
                }
                // Only a start can be refused; the end of a VM is a fact.
                Effect::AnswerHook { request, answer: HookAnswer::Proceed }
                    if self.answered.contains_key(&request) =>
                {
                    self.take_back(request);
                    kept.push(Effect::AnswerHook {
                        request,
                        answer: HookAnswer::Refuse(refusal.clone()),
                    });
                }
                Effect::Answer { request, outcome: Ok(answer) }
                    if answer.promises() || self.answered.contains_key(&request) =>
                {
                    self.take_back(request);
                    kept.push(Effect::Answer { request, outcome: Err(refusal.clone()) });
                }
                other => kept.push(other),
            }
        }
        if no_room {
            self.room_unrecorded(&refusal);
        }
        self.drains_unrecorded(&refusal);
        self.rules_unrecorded(&refusal);
        self.tell_applied();
        self.settle_plugs();
        // Giving up may have produced answers of its own; none of them promises anything.
        self.unwritten.append(&mut self.dirty);
        kept.append(&mut self.effects);
        kept
    }

    /// What was refused for want of a record must not come true with a later one. What was found stays known.
    fn roll_back(&mut self) {
        let quarantines = std::mem::take(&mut self.durable.quarantines);
        let health = std::mem::take(&mut self.durable.health);
        let boot = self.durable.boot;
        self.durable = (*self.written).clone();
        self.durable.boot = boot;
        self.durable.quarantines.extend(quarantines);
        self.keep_health(health);
        if let Some(config) = self.former_config.take() {
            self.config = config;
        }
        if self.durable != *self.written {
            self.unwritten.insert(Stored::Durable);
        }
        self.resolve_layouts();
        self.offers_due = true;
    }

    /// A record was written.
    pub fn recorded(&mut self, effect: &Effect) {
        if let Effect::StoreDurable(document) = effect {
            self.written = Arc::clone(document);
        }
    }

    fn on_timer(&mut self, timer: Timer) {
        match timer {
            Timer::StepDeadline(op) => self.on_step_deadline(op),
            Timer::RetryRelease(slice) => self.clear_again(slice),
            Timer::Grace(slice) => self.on_grace_over(slice),
            Timer::Reset(slice) => self.await_reset_no_more(slice),
            Timer::Settle(request) => self.on_settle_timeout(request),
            Timer::Guest(request) => self.on_guest_timeout(request),
            Timer::Drain(request) => self.on_drain_timeout(request),
            Timer::Unsure(parent) => self.on_unsure_over(&parent),
            Timer::LookAgain => self.on_look_again(),
            Timer::Ready(device) => self.on_ready_over(&device),
            Timer::Young(slice) => self.on_grown(slice),
            Timer::Repair(parent) => drop(self.repairs.remove(&parent)),
            Timer::RetryStep(op) => self.retry_step(op),
            Timer::Undefined(domain) => self.undefined_for_good(domain),
            Timer::Expected(domain) => drop(self.expected.remove(&domain)),
            Timer::ComingIn(domain) => drop(self.came_in(domain)),
            Timer::StartLater(domain) => self.too_late_to_start(domain),
            Timer::Boot => self.boot_is_young = false,
        }
    }

    /// What follows from any change: layouts to realise, parked starts, settledness.
    fn after_change(&mut self) {
        self.settle_plugs();
        self.orphan_undefined();
        self.end_claims_without_owner();
        self.give_turns();
        if self.stale {
            return;
        }
        self.resume_postponed();
        self.realise_layouts();
        self.look_at_refused();
        self.remember_offered();
        self.run_parked();
        self.run_parked_runs();
        self.run_parked_guests();
        self.run_parked_plugs();
        // Of those that were refused nobody tells again.
        self.orphan_undefined();
        self.realise_parking();
        self.tell_applied();
        self.tell_drained();
        self.tell_settled();
        self.tell_late_starts();
    }

    fn persist(&mut self, stored: Stored) {
        self.dirty.insert(stored);
    }

    fn push(&mut self, effect: Effect) {
        self.stale |= matches!(effect, Effect::Observe);
        self.effects.push(effect);
    }

    fn note(&mut self, kind: &str, id: impl std::fmt::Display, what: impl Into<String>) {
        let (kind, id, what) = (kind.to_owned(), id.to_string(), what.into());
        self.push(Effect::Changed(ChangeNote { kind, id, what }));
    }

    fn mechanism(&self, parent: &ParentId) -> Option<&dyn Mechanism> {
        self.mechanisms.iter().map(AsRef::as_ref).find(|m| m.applies(&self.seen, parent))
    }

    /// The name of what made a device's VFs, whatever they are used for.
    fn maker_of_vfs(&self, pf: &ParentId) -> &'static str {
        self.mechanism(pf).map_or(SRIOV, |mechanism| mechanism.name())
    }

    fn mechanism_of(&self, assignment: &Assignment) -> Option<&dyn Mechanism> {
        let name = assignment.mechanism.as_str();
        self.mechanisms.iter().map(AsRef::as_ref).find(|m| m.name() == name)
    }

    /// Finds anew which applied rule each parent seen meets.
    fn resolve_layouts(&mut self) {
        let devices = crate::layout::resolve(&self.durable.rules, &self.seen).devices;
        let meant = devices
            .into_iter()
            .filter(|(p, rule)| !rule.matches.is_of_place() || self.other_at(p).is_none());
        self.layouts = meant.map(|(p, rule)| (p, rule.layout.clone())).collect();
    }

    /// Whether a layout that was applied asks for the slot of a GPU.
    pub fn matches_by_slot(&self) -> bool {
        crate::layout::by_slot(&self.durable.rules)
    }

    /// Whether the next reading is to read the NUMA nodes too, though they are known.
    pub fn wants_nodes(&self) -> bool {
        self.nodes_anew
    }

    /// One line for `systemctl status`.
    pub fn summary(&self) -> String {
        let attached = self
            .run
            .assignments
            .values()
            .filter(|a| a.phase == crate::state::Phase::Attached)
            .count();
        let waiting = self.waiting_for();
        let state = match (waiting.first(), self.unwritten.is_empty()) {
            (_, false) => "state cannot be recorded: nothing is given out".to_owned(),
            (None, true) => "settled".to_owned(),
            (Some(first), true) => format!("waiting for {first}"),
        };
        format!("{state}; slices with VMs: {attached}, claims: {}", self.durable.claims.len())
    }

    /// Slices a process may hold without our having given them to it: on a VFIO driver or parked, and assigned to nobody.
    pub fn unassigned(&self) -> Vec<SliceId> {
        let on_vfio = self.seen.vfs.iter().filter(|(_, vf)| vf.on_vfio());
        let vfs = on_vfio.map(|(address, _)| SliceId::Vf(*address));
        let parked = self.seen.mdevs.keys().filter(|uuid| uuid.is_parked());
        let slices = vfs.chain(parked.map(|uuid| SliceId::Mdev(*uuid)));
        slices.filter(|slice| !self.run.assignments.contains_key(slice)).collect()
    }

    /// Who holds slices that were given to nobody, as last told.
    pub fn held(&self) -> &BTreeMap<SliceId, Holder> {
        &self.held
    }

    /// Durable state, for tests and tools that look from outside.
    pub fn durable(&self) -> &Durable {
        &self.durable
    }

    /// State of this boot, for tests and tools that look from outside.
    pub fn runtime(&self) -> &Runtime {
        &self.run
    }

    /// The last reading.
    pub fn observation(&self) -> &Observation {
        &self.seen
    }
}
