//! A daemon that records what it is asked and answers as a test wants.

use gpuslice_api::host::{HostInterface, serve};
use gpuslice_api::{Admits, Caller, Handler};
use gpuslice_core::driver::DriverOf;
use gpuslice_core::ids::{ClaimKey, Owner};
use gpuslice_core::request::{
    Adopted, Answer, ClaimRow, Command, DeviceToWrite, DueStart, Outcome,
};
use gpuslice_core::state::OnlyIf;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use uuid::Uuid;

type Before = Box<dyn FnMut(&Command) -> Option<Outcome> + Send>;

/// What it answers with.
#[derive(Default)]
pub struct Script {
    /// Devices of each domain; a domain that is not here keeps what it has.
    pub devices: BTreeMap<Uuid, Vec<DeviceToWrite>>,
    /// What makes their slices.
    pub drivers: BTreeMap<Uuid, Vec<DriverOf>>,
    /// What was picked for domains.
    pub adopted: BTreeMap<Uuid, Vec<Adopted>>,
    /// Claims that exist.
    pub claims: Vec<ClaimKey>,
    /// Whether capacity is held for them.
    pub reserve: bool,
    /// What the agent should do: said once, but what is to be started until it runs.
    pub look_again: Vec<Uuid>,
    pub start: Vec<DueStart>,
    /// Asked first.
    pub before: Option<Before>,
}

#[derive(Clone)]
pub struct Daemon {
    pub script: Arc<Mutex<Script>>,
    asked: UnboundedSender<Command>,
}

/// Every command, in order.
pub type Asked = UnboundedReceiver<Command>;

impl Daemon {
    pub fn new() -> (Self, Asked) {
        let (asked, commands) = unbounded_channel();
        (Self { script: Arc::default(), asked }, commands)
    }

    pub async fn serve(&self, connection: &zbus::Connection) {
        serve(connection, HostInterface::new(self.clone(), "0.0.0")).await.unwrap();
    }

    pub fn before(&self, f: impl FnMut(&Command) -> Option<Outcome> + Send + 'static) {
        self.script.lock().unwrap().before = Some(Box::new(f));
    }

    fn answer(&self, command: Command) -> Outcome {
        let mut script = self.script.lock().unwrap();
        if let Some(outcome) = script.before.as_mut().and_then(|before| before(&command)) {
            return outcome;
        }
        let done = |changed| Ok(Answer::Done { changed, message: String::new() });
        match command {
            Command::Claim { owner, request, .. } => {
                let key = ClaimKey { owner, name: request.name };
                let changed = !script.claims.contains(&key);
                if changed {
                    script.claims.push(key.clone());
                }
                let Owner::Domain(uuid) = key.owner else { panic!("not a domain") };
                let alias = format!("ua-gpuslice-{}", key.name);
                let devices = script.devices.get(&uuid).cloned().unwrap_or_default();
                Ok(Answer::Claimed {
                    changed,
                    claim: row(key),
                    devices: devices.into_iter().filter(|d| d.alias.starts_with(&alias)).collect(),
                    warnings: vec!["a word".to_owned()],
                })
            }
            Command::Unclaim { key, .. } => {
                let before = script.claims.len();
                script.claims.retain(|claim| *claim != key);
                done(script.claims.len() != before)
            }
            Command::ListClaims => {
                let reserve = script.reserve;
                let row = |key| ClaimRow { reserve, ..row(key) };
                Ok(Answer::Claims { rows: script.claims.iter().cloned().map(row).collect() })
            }
            Command::DomainSeen { domain, .. } => {
                let kept = || {
                    let ours = domain.devices.iter().filter(|d| d.our_claim().is_some());
                    ours.map(|d| DeviceToWrite {
                        alias: d.alias.clone().unwrap(),
                        source: d.source,
                    })
                    .collect()
                };
                let devices = script.devices.get(&domain.uuid).cloned().unwrap_or_else(kept);
                let adopted = script.adopted.get(&domain.uuid).cloned().unwrap_or_default();
                Ok(Answer::Domain { devices, refused: Vec::new(), adopted })
            }
            Command::Plug { domain, request, .. } => {
                let key = ClaimKey { owner: Owner::Domain(domain), name: request.name };
                let changed = !script.claims.contains(&key);
                if changed {
                    script.claims.push(key.clone());
                }
                let alias = format!("ua-gpuslice-{}", key.name);
                let devices = script.devices.get(&domain).cloned().unwrap_or_default();
                Ok(Answer::Claimed {
                    changed,
                    claim: row(key),
                    devices: devices.into_iter().filter(|d| d.alias.starts_with(&alias)).collect(),
                    warnings: Vec::new(),
                })
            }
            Command::PlugFailed { .. } => done(false),
            Command::DomainRuns { domain } => {
                script.start.retain(|due| due.domain != domain.uuid);
                let drivers = script.drivers.get(&domain.uuid).cloned().unwrap_or_default();
                Ok(Answer::Runs { changed: false, drivers })
            }
            Command::DomainGone { .. } => done(true),
            Command::AgentWork => {
                let start = script.start.clone();
                script.start.retain(|due| due.only != Some(OnlyIf::Marked));
                let look_again = std::mem::take(&mut script.look_again);
                Ok(Answer::AgentWork { look_again, start })
            }
            other => panic!("the agent asks no {other:?}"),
        }
    }
}

impl Admits for Daemon {}

impl Handler for Daemon {
    async fn call(&self, _caller: Caller, command: Command) -> Outcome {
        let outcome = self.answer(command.clone());
        let _ = self.asked.send(command);
        outcome
    }
}

pub fn row(claim: ClaimKey) -> ClaimRow {
    ClaimRow {
        claim,
        owner_name: String::new(),
        profile: "p".parse().unwrap(),
        count: 1,
        state: "idle".to_owned(),
        reason: None,
        slices: Vec::new(),
        home: Vec::new(),
        pool: false,
        reserve: false,
        request: None,
        last_refusal: None,
    }
}
