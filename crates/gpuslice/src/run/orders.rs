//! Orders to the daemon.

use super::{Daemon, unexpected};
use crate::claims;
use crate::failure::Failure;
use crate::output::Output;
use crate::{progress, render};
use gpuslice_api::{CallError, Client, Transport};
use gpuslice_core::hint;
use gpuslice_core::ids::{ClaimName, Owner, ParentId};
use gpuslice_core::refusal::{Code, Refusal};
use gpuslice_core::request::{Answer, ClaimRow, Command, PlanRow};
use serde_json::json;
use std::time::{Duration, Instant};

/// Prints what an order came to.
pub fn done(answer: Answer, output: &Output) -> Result<(), Failure> {
    match answer {
        Answer::Done { changed, message } => {
            let value = json!({ "changed": changed, "message": message });
            output.answer(&value, |_| told(changed, &message))
        }
        other => Err(unexpected(&other)),
    }
}

/// The message of an order; one that changed nothing says so.
pub fn told(changed: bool, message: &str) -> String {
    if changed || message.starts_with("already so") {
        format!("{message}\n")
    } else if message.is_empty() {
        "already so\n".to_owned()
    } else {
        format!("already so: {message}\n")
    }
}

pub async fn release(
    daemon: &Daemon,
    claim: &str,
    name: Option<ClaimName>,
    force: bool,
    output: &Output,
) -> Result<(), Failure> {
    let rows = match daemon.call(Command::ListClaims).await? {
        Answer::Claims { rows } => rows,
        other => return Err(unexpected(&other)),
    };
    let (owner, _) = claims::split(claim, name.clone());
    let key = match claims::find(&rows, claim, name) {
        Ok(key) => key,
        // Ended before: there is nothing to end. Or misspelt.
        Err(refusal) if refusal.code == Code::Unknown => {
            // What is only promised to it is in no list.
            if let Ok(key) = claim.parse() {
                let ended = daemon.call(Command::Unclaim { key, force }).await?;
                if matches!(ended, Answer::Done { changed: true, .. }) {
                    return done(ended, output);
                }
            }
            if owner.parse::<Owner>().is_err() && !is_known(daemon, &rows, owner).await? {
                let nobody = format!("no VM {owner:?} has a claim, or has or had a slice");
                return Err(refusal.because(nobody).hint(hint!("gpuslice claims")).into());
            }
            let message = refusal.message;
            return done(Answer::Done { changed: false, message }, output);
        }
        Err(refusal) => return Err(refusal.into()),
    };
    done(daemon.call(Command::Unclaim { key, force }).await?, output)
}

/// Whether an owner of that name exists or did: one that has claims, slices or a history, or a domain of libvirt's. An id needs
/// no such question: programs end by it what they may never have made.
async fn is_known(daemon: &Daemon, claims: &[ClaimRow], owner: &str) -> Result<bool, Failure> {
    if claims.iter().any(|row| row.owner_name == owner) {
        return Ok(true);
    }
    let slices = match daemon.call(Command::ListSlices).await? {
        Answer::Slices { rows } => rows,
        other => return Err(unexpected(&other)),
    };
    if slices.iter().any(|row| row.holder.as_deref() == Some(owner)) {
        return Ok(true);
    }
    let about = Command::ListHistory { about: Some(owner.to_owned()), since: None };
    let history = match daemon.call(about).await? {
        Answer::History { rows } => rows,
        other => return Err(unexpected(&other)),
    };
    if history.iter().any(|row| row.owner_name == owner) {
        return Ok(true);
    }
    match daemon.client.libvirt() {
        Ok(agent) => Ok(agent.resolve(owner).await.is_ok()),
        Err(_) => Ok(false),
    }
}

pub async fn plan(daemon: &Daemon, output: &Output) -> Result<(), Failure> {
    match daemon.call(Command::Plan).await? {
        Answer::Plan(row) => output.answer(&row, |paint| render::plan(&row, false, paint)),
        other => Err(unexpected(&other)),
    }
}

pub async fn apply(daemon: &Daemon, output: &Output) -> Result<(), Failure> {
    let row: PlanRow = match progress::shown("applying", daemon.call(Command::Apply)).await? {
        Answer::Plan(row) => row,
        other => return Err(unexpected(&other)),
    };
    output.answer(&row, |paint| render::plan(&row, true, paint))?;
    match row.blockers.first() {
        Some(first) => {
            let blocked = render::counted(row.blockers.len(), "change");
            let refusal = Refusal::new(first.code, format!("{blocked} blocked, see above"));
            let refusal = match first.way_out() {
                Some(way) => refusal.hint(way),
                None => refusal,
            };
            Err(Failure { answered: true, ..refusal.into() })
        }
        None => Ok(()),
    }
}

/// Cordons and says who is there; with a time to wait, again when they have left.
pub async fn drain(
    daemon: &Daemon,
    parents: Vec<ParentId>,
    reason: String,
    wait: Option<Duration>,
    output: &Output,
) -> Result<(), Failure> {
    let order = |wait_ms| {
        let (parents, reason) = (parents.clone(), reason.clone());
        async move {
            match daemon.call(Command::Drain { parents, reason, wait_ms }).await? {
                Answer::Drain(row) => Ok(row),
                other => Err(unexpected(&other)),
            }
        }
    };
    let mut row = order(None).await?;
    if let Some(wait) = wait.filter(|_| !row.drained) {
        let first = row.blockers.first().map(|blocker| blocker.message.clone());
        let what = match row.blockers.len() {
            0 | 1 => format!("draining: {}", first.unwrap_or_default()),
            n => format!("draining: {}, and {} more", first.unwrap_or_default(), n - 1),
        };
        let wait_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
        let changed = row.changed;
        let drained = progress::shown(&what, order(Some(wait_ms))).await;
        row = drained.map_err(|failure| Failure { changed, ..failure })?;
        row.changed |= changed;
    }
    output.answer(&row, |paint| render::drain(&row, paint))
}

/// From one attempt to reach the daemon to the next: systemd takes as long before it starts one again.
const PAUSE: Duration = Duration::from_secs(1);

/// A daemon that leaves meanwhile comes again, and knows nothing of who asked the one before.
pub async fn wait(transport: &Transport, seconds: u32, output: &Output) -> Result<(), Failure> {
    let until = Instant::now() + Duration::from_secs(seconds.into());
    loop {
        let client = progress::shown("waiting for gpusliced", found(transport, until)).await?;
        let left = until.saturating_duration_since(Instant::now());
        let timeout_ms = u64::try_from(left.as_millis()).unwrap_or(u64::MAX);
        let call = client.call(Command::WaitSettled { timeout_ms });
        match progress::shown("waiting until settled", call).await {
            Ok(Answer::Done { .. }) => {
                let value = json!({ "changed": false, "settled": true });
                return output.answer(&value, |_| "settled\n".to_owned());
            }
            Ok(other) => return Err(unexpected(&other)),
            Err(error) if may_come(&error, until) => tokio::time::sleep(PAUSE).await,
            Err(error) => return Err(error.into()),
        }
    }
}

/// The daemon, as soon as there is one.
async fn found(transport: &Transport, until: Instant) -> Result<Client, CallError> {
    loop {
        match Client::connect(transport).await {
            Err(error) if may_come(&error, until) => tokio::time::sleep(PAUSE).await,
            found => return found,
        }
    }
}

/// Whether a daemon that does not answer may do so in time. One that is masked comes by a person alone.
fn may_come(error: &CallError, until: Instant) -> bool {
    let away = match error {
        CallError::Unreachable { masked, .. } => !masked,
        CallError::Refused(refusal) => refusal.code == Code::Unreachable,
        CallError::NotPermitted(_) | CallError::Protocol { .. } => false,
    };
    away && Instant::now() + PAUSE < until
}
