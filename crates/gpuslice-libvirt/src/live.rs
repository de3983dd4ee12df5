//! `Attach` and `Detach` of a running VM. libvirt calls no hook for a hot-plug, so the daemon is asked first: it
//! records and prepares the slices, then libvirt plugs them in, then the daemon is told. The other way round the
//! guest lets go first.
//!
//! Whoever dies in between leaves the daemon with slices that are prepared and not told of. Our next look at the
//! domain tells of them; without any, the daemon finds out by itself who holds them.

use crate::agent::{Agent, Turn, seen};
use crate::attach::{claim_name, request, what};
use crate::daemon::ClaimTerms;
use crate::detach::{done, meant};
use crate::link::{Connection, LinkError, Unplugged};
use crate::writing::{self, Into, Plugs as _};
use gpuslice_api::libvirt::{AttachOptions, Attached, DetachOptions, Detached};
use gpuslice_core::domain::{ClaimRequest, Domain};
use gpuslice_core::hint;
use gpuslice_core::ids::{ClaimKey, ClaimName, Owner, ProfileName};
use gpuslice_core::refusal::{Code, Refusal};
use gpuslice_core::request::DeviceToWrite;
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;
use tokio::time::{Instant, timeout_at};
use uuid::Uuid;

impl Agent {
    pub(crate) async fn attach_live(
        &self,
        named: &str,
        profile: ProfileName,
        options: AttachOptions,
    ) -> Result<Attached, Refusal> {
        let (live, defined) = self.running_named(named).await?;
        if options.config && defined.is_none() {
            return Err(LinkError::NotKept { domain: live.name }.into());
        }
        let known = union(&live, defined.as_ref());
        let name = match options.name.clone() {
            Some(name) => name,
            None => {
                let in_use = self.daemon.names_in_use(live.uuid).await?;
                let in_use: Vec<ClaimName> = in_use.into_iter().map(|(name, _)| name).collect();
                claim_name(&known, &in_use, &profile)
            }
        };
        let old = known.iter().find(|claim| claim.name == name);
        let required = old.is_some_and(|old| old.require_numa.is_some());
        // Where the definition would have it at the next start is not where it runs.
        let pinned = if options.require_numa.unwrap_or(required) {
            Some(self.runs_on(live.uuid).await?)
        } else {
            None
        };
        let asked = request(old, &name, profile.clone(), &options, pinned);
        let in_definition =
            defined.as_ref().is_some_and(|d| d.claims.iter().any(|claim| claim.name == name));
        let terms = ClaimTerms { pool: options.pool, reserve: options.reserve };
        let (uuid, title) = (live.uuid, live.name.clone());
        let keep = options.config || in_definition;
        let key = ClaimKey { owner: Owner::Domain(uuid), name: name.clone() };
        let before = match old.filter(|_| in_definition) {
            Some(_) => self.daemon.terms(&key).await?,
            None => ClaimTerms::default(),
        };
        let plugged = self.daemon.plug(uuid, &title, asked.clone(), terms, keep).await?;
        let devices = plugged.devices.clone();
        let written = {
            let asked = asked.clone();
            let what = format!("hot-plugging into domain {title}");
            let plug = move |connection: &Connection| {
                plug(connection, uuid, options.config, &asked, &devices)
            };
            self.worker.call(what, plug).await
        };
        let written = match written {
            Ok(written) => written,
            Err(refusal) => {
                let old = old.map(|old| (old, in_definition.then_some(before)));
                return Err(self.plug_failed(refusal, key, &title, old).await);
            }
        };
        self.tell_runs(uuid).await;
        let changed = plugged.changed || written;
        let message = if changed {
            format!("attached {} to {title} while it runs", what(&asked))
        } else {
            format!("already so: {title} runs with {}", what(&asked))
        };
        tracing::info!(domain = %title, changed, "{message}");
        let warnings = plugged.warnings;
        let devices = plugged.devices;
        Ok(Attached { changed, message, claim: key, domain: title, devices, warnings })
    }

    pub(crate) async fn detach_live(
        &self,
        named: &str,
        claim: Option<ClaimName>,
        options: DetachOptions,
        turn: &mut Turn,
    ) -> Result<Detached, Refusal> {
        let (live, defined) = self.running_named(named).await?;
        let (uuid, title) = (live.uuid, live.name.clone());
        let known = match &defined {
            Some(defined) if options.config => union(&live, Some(defined)),
            _ => live.claims.clone(),
        };
        let Some(name) = meant(&title, &known, claim)? else {
            return Ok(done(false, format!("already so: {title} runs without a claim"), title));
        };
        let of_claim = aliases(&live, &name);
        self.guest_lets_go(uuid, &title, &name, &of_claim, turn).await?;
        // While the claim is still in its XML: it is how a later look would know to tell.
        self.tell_runs(uuid).await;
        let forget = {
            let name = name.clone();
            move |connection: &Connection| forget(connection, uuid, &name)
        };
        let forgotten = self.worker.call(format!("writing domain {title}"), forget).await?;
        let mut changed = !of_claim.is_empty() || forgotten;
        // Others may have changed it while the guest was awaited.
        let defined = self.read(uuid).await?.map(|seen| seen.domain);
        let in_definition = |d: &&Domain| d.claims.iter().any(|claim| claim.name == name);
        match defined {
            Some(defined) if options.config => changed |= self.end(defined, &name, true).await?,
            defined if defined.as_ref().is_none_or(|d| !in_definition(&d)) => {
                let key = ClaimKey { owner: Owner::Domain(uuid), name: name.clone() };
                self.daemon.unclaim(key, true).await?;
            }
            _ => {}
        }
        let message = if changed {
            format!("detached {name} from {title} while it runs")
        } else {
            format!("already so: {title} runs without {name}")
        };
        tracing::info!(domain = %title, changed, "{message}");
        Ok(done(changed, message, title))
    }

    /// What the domain a person named carries now, and its definition if libvirt keeps one.
    async fn running_named(&self, named: &str) -> Result<(Domain, Option<Domain>), Refusal> {
        let asked = named.to_owned();
        let found = self
            .worker
            .call(format!("looking for domain {named}"), move |connection| connection.find(&asked))
            .await?;
        let Some(live) = self.runs(found.uuid).await? else {
            let message = format!("{} does not run, so nothing can be done live", found.name);
            return Err(Refusal::new(Code::BadRequest, message)
                .hint(hint!("the same again without --live (it takes effect at the next start)")));
        };
        let defined = self.read(found.uuid).await?.map(|seen| seen.domain);
        Ok((live, defined))
    }

    /// Tells the daemon what the VM carries now. The next look tells it again if this does not reach it.
    async fn tell_runs(&self, uuid: Uuid) {
        let told = match self.runs(uuid).await {
            Ok(Some(live)) => self.daemon.domain_runs(live).await.map(drop),
            Ok(None) => Ok(()),
            Err(refusal) => Err(refusal),
        };
        if let Err(refusal) = told {
            tracing::warn!("{}", refusal.one_line());
        }
    }

    /// Gives back what libvirt did not take, and makes the table say of the claim what the XML says. `old`: the claim
    /// before, and its terms if the definition makes it.
    async fn plug_failed(
        &self,
        refusal: Refusal,
        key: ClaimKey,
        title: &str,
        old: Option<(&ClaimRequest, Option<ClaimTerms>)>,
    ) -> Refusal {
        let Owner::Domain(uuid) = key.owner else {
            return refusal;
        };
        // First what it carries all the same: that stays attached.
        self.tell_runs(uuid).await;
        let undone = match (self.daemon.plug_failed(key.clone()).await, old) {
            (Err(left), _) => Err(left),
            (Ok(()), Some((old, Some(terms)))) => {
                match self.daemon.claim(uuid, title, old.clone(), terms).await {
                    // With the last of its slices the daemon undoes it by itself.
                    Err(left) if left.code == Code::InUse => Ok(()),
                    made => made.map(drop),
                }
            }
            (Ok(()), Some(_)) => Ok(()),
            (Ok(()), None) => self.daemon.unclaim(key, true).await.map(drop),
        };
        match undone {
            Ok(()) => refusal,
            Err(left) => refusal.because(format!("and the claim could not be undone: {left}")),
        }
    }

    /// Asks the guest to let go of devices and waits until libvirt says it has.
    async fn guest_lets_go(
        &self,
        uuid: Uuid,
        title: &str,
        name: &ClaimName,
        aliases: &[String],
        turn: &mut Turn,
    ) -> Result<(), Refusal> {
        let mut answers = self.worker.unplugged();
        let ask = aliases.to_vec();
        let unplug = move |connection: &Connection| {
            let Some(running) = connection.running(uuid)? else {
                return Ok(());
            };
            ask.iter().try_for_each(|alias| running.unplug(alias, Into::LIVE))
        };
        let asked = self.worker.call(format!("hot-unplugging from domain {title}"), unplug).await;
        let deadline = Instant::now() + self.guest_patience;
        loop {
            let left = match self.runs(uuid).await? {
                Some(live) => self::aliases(&live, name),
                None => Vec::new(),
            };
            if left.is_empty() {
                return Ok(());
            }
            // libvirt refused to ask the guest, and so nobody will answer.
            asked.clone()?;
            match turn.lend(timeout_at(deadline, answer(&mut answers, uuid, &left))).await {
                Ok(true) => {}
                Ok(false) => return Err(kept(title, name, "refuses to let go of")),
                Err(_) => {
                    let seconds = self.guest_patience.as_secs();
                    let mut refusal = kept(title, name, "has not let go of");
                    refusal.code = Code::Timeout;
                    let later = format!(
                        "no answer within {seconds} s; if it comes later, the slice is released then"
                    );
                    return Err(refusal.because(later));
                }
            }
        }
    }
}

fn plug(
    connection: &Connection,
    uuid: Uuid,
    config: bool,
    request: &ClaimRequest,
    devices: &[DeviceToWrite],
) -> Result<bool, LinkError> {
    // Read again, right before: it may have stopped, or somebody may have changed it.
    let running = connection.running(uuid)?;
    let running = running.ok_or_else(|| LinkError::NotRunning { domain: uuid.to_string() })?;
    let definition = match config {
        true => {
            let kept = seen(connection, uuid)?;
            Some(kept.ok_or_else(|| LinkError::NotKept { domain: running.name.clone() })?.domain)
        }
        false => None,
    };
    writing::plug(&running, &running.seen, definition.as_ref(), request, devices)
}

/// Takes the claim out of the XML of a VM that runs; whether it was in there.
pub(crate) fn forget(
    connection: &Connection,
    uuid: Uuid,
    name: &ClaimName,
) -> Result<bool, LinkError> {
    match connection.running(uuid)? {
        Some(running) => writing::forget(&running, &running.seen, name),
        None => Ok(false),
    }
}

/// Whether the guest let go of one of these.
async fn answer(answers: &mut Receiver<Unplugged>, uuid: Uuid, aliases: &[String]) -> bool {
    loop {
        match answers.recv().await {
            Ok(answer) if answer.domain == uuid && aliases.contains(&answer.alias) => {
                return answer.gone;
            }
            Ok(_) => {}
            // Whoever missed some looks.
            Err(RecvError::Lagged(_) | RecvError::Closed) => return true,
        }
    }
}

fn kept(title: &str, name: &ClaimName, how: &str) -> Refusal {
    Refusal::new(Code::Held, format!("the guest of {title} {how} {name}")).hint(hint!(
        "stop what uses it inside the guest, then gpuslice detach {} {} --live; or virsh shutdown {}",
        title,
        name,
        title
    ))
}

/// Claims of the running VM, and those only the definition has.
fn union(live: &Domain, defined: Option<&Domain>) -> Vec<ClaimRequest> {
    let mut claims = live.claims.clone();
    for claim in defined.iter().flat_map(|defined| &defined.claims) {
        if claims.iter().all(|known| known.name != claim.name) {
            claims.push(claim.clone());
        }
    }
    claims
}

fn aliases(domain: &Domain, claim: &ClaimName) -> Vec<String> {
    let of_claim = domain
        .devices
        .iter()
        .filter(|device| device.our_claim().is_some_and(|(name, _)| name == *claim));
    of_claim.filter_map(|device| device.alias.clone()).collect()
}
