//! What the agent's parts share, and the look at one domain that keeps its shut-off definition as the daemon says.
//!
//! Invariant: only one task at a time reads a definition, asks the daemon and writes ([`Agent::turn`]); the answers
//! would not fit the definition otherwise. Whoever waits for a guest lends its turn and reads again after that.

use crate::daemon::{Daemon, Wanted};
use crate::edits::Edit;
use crate::link::{Connection, LinkError, Running, Worker, Written};
use crate::live::forget;
use crate::writing;
use gpuslice_core::domain::HostDeviceSource::{Mdev, Pci};
use gpuslice_core::domain::{ClaimRequest, Domain};
use gpuslice_core::driver::DriverOf;
use gpuslice_core::ids::ClaimName;
use gpuslice_core::numa::Pinned;
use gpuslice_core::refusal::Refusal;
use gpuslice_core::request::{DeviceToWrite, START_LATER};
use gpuslice_core::shell::quoted;
use gpuslice_domxml::{read_domain, read_pinned};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Mutex, OwnedMutexGuard};
use uuid::Uuid;

/// A guest that is alive answers within a second or two. Below what a caller of the bus waits.
const GUEST_PATIENCE: Duration = Duration::from_secs(12);

/// The agent.
#[derive(Debug)]
pub struct Agent {
    /// Calls libvirt.
    pub worker: Worker,
    /// Decides.
    pub daemon: Daemon,
    /// How long a guest has to let go of what is unplugged.
    pub guest_patience: Duration,
    /// How long a start is made up for from when the daemon said so.
    pub start_later: Duration,
    turns: Arc<Mutex<()>>,
}

/// The right to read, ask and write, as long as it is held.
#[derive(Debug)]
pub struct Turn {
    held: Option<OwnedMutexGuard<()>>,
    turns: Arc<Mutex<()>>,
}

impl Turn {
    async fn wait(turns: &Arc<Mutex<()>>) -> Self {
        let held = Arc::clone(turns).lock_owned().await;
        Self { held: Some(held), turns: Arc::clone(turns) }
    }

    /// Lets others have the turn while `wait` lasts, which may neither ask the daemon nor write. What was read before
    /// may be old after it.
    pub async fn lend<T>(&mut self, wait: impl Future<Output = T>) -> T {
        self.held = None;
        let come = wait.await;
        *self = Self::wait(&self.turns).await;
        come
    }
}

/// Why a look came to nothing, by who can change it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trouble {
    /// The daemon refused or did not answer.
    Daemon(Refusal),
    /// libvirt refused or is gone.
    Libvirt(Refusal),
}

/// A persistent definition as read.
#[derive(Debug)]
pub struct Seen {
    /// What it means to us.
    pub domain: Domain,
    /// No process runs it.
    pub shut_off: bool,
}

impl Agent {
    /// An agent, not yet connected to libvirt.
    pub fn new(worker: Worker, daemon: Daemon) -> Self {
        let (guest_patience, start_later) = (GUEST_PATIENCE, Duration::from_millis(START_LATER));
        Self { worker, daemon, guest_patience, start_later, turns: Arc::default() }
    }

    /// Waits for the turn.
    pub async fn turn(&self) -> Turn {
        Turn::wait(&self.turns).await
    }

    /// Reads a domain's persistent definition; `None` when it has none.
    ///
    /// # Errors
    /// libvirt failed, or what of ours is in the XML has no meaning.
    pub async fn read(&self, uuid: Uuid) -> Result<Option<Seen>, Refusal> {
        self.worker
            .call(format!("reading domain {uuid}"), move |connection| seen(connection, uuid))
            .await
    }

    /// What a domain carries that runs now; `None` when it does not.
    ///
    /// # Errors
    /// libvirt failed, or what of ours is in the XML has no meaning.
    pub async fn runs(&self, uuid: Uuid) -> Result<Option<Domain>, Refusal> {
        Ok(self.running(uuid).await?.map(|running| running.seen))
    }

    async fn running(&self, uuid: Uuid) -> Result<Option<Running>, Refusal> {
        let what = format!("reading running domain {uuid}");
        let read = move |connection: &Connection| connection.running(uuid);
        self.worker.call(what, read).await
    }

    /// Where on the host a running domain is pinned.
    ///
    /// # Errors
    /// libvirt failed, or it does not run.
    pub(crate) async fn runs_on(&self, uuid: Uuid) -> Result<Pinned, Refusal> {
        let running = self.running(uuid).await?;
        running.map(|running| running.pinned).ok_or_else(|| gone(uuid))
    }

    /// Where on the host a domain's definition pins it.
    ///
    /// # Errors
    /// libvirt failed, or keeps no definition.
    pub(crate) async fn pinned(&self, uuid: Uuid) -> Result<Pinned, Refusal> {
        let read = move |connection: &Connection| {
            let Some(defined) = connection.defined(uuid)? else { return Ok(None) };
            let pinned = read_pinned(&defined.xml);
            pinned.map(Some).map_err(|error| LinkError::xml(&defined.name, error))
        };
        let pinned = self.worker.call(format!("reading domain {uuid}"), read).await?;
        pinned.ok_or_else(|| gone(uuid))
    }

    /// Domains to look at, and domains with claims that libvirt no longer knows: they were undefined while no one
    /// listened.
    ///
    /// # Errors
    /// See [`Trouble`].
    pub async fn list(&self) -> Result<(Vec<Uuid>, Vec<Uuid>), Trouble> {
        // The daemon first: a domain defined and claimed in between is then in libvirt's list at least.
        let claimed = self.daemon.owners().await.map_err(Trouble::Daemon)?;
        let listed = self
            .worker
            .call("listing domains".to_owned(), Connection::list)
            .await
            .map_err(Trouble::Libvirt)?;
        let known =
            |uuid: &Uuid| listed.persistent.contains(uuid) || listed.transient.contains(uuid);
        let gone = claimed.into_iter().filter(|uuid| !known(uuid)).collect();
        Ok((listed.persistent.into_iter().chain(listed.transient).collect(), gone))
    }

    /// Shows the daemon one domain and, when it is shut off, makes its definition carry what the daemon answers.
    ///
    /// # Errors
    /// See [`Trouble`]; the definition is as before.
    pub async fn look(&self, uuid: Uuid) -> Result<(), Trouble> {
        let _turn = self.turn().await;
        // Once more after a write: libvirt tells no one of a device put into a definition, so the daemon hears of
        // it from us. It would take another's edit in between for that look to write again.
        for _ in 0..2 {
            if !self.look_once(uuid).await? {
                break;
            }
        }
        Ok(())
    }

    /// Takes claims out of the XML of a VM that runs.
    async fn forget(&self, uuid: Uuid, claims: Vec<ClaimName>) -> Result<(), Refusal> {
        if claims.is_empty() {
            return Ok(());
        }
        let forget = move |connection: &Connection| {
            claims.iter().try_for_each(|name| forget(connection, uuid, name).map(drop))
        };
        self.worker.call(format!("writing running domain {uuid}"), forget).await
    }

    /// Notes what makes its slices in a VM that runs and says something else: whoever lets it in next judges by that. Of one
    /// that is on its way here it is noted when it has come.
    async fn note(&self, live: Running, drivers: Vec<DriverOf>) -> Result<(), Refusal> {
        if live.comes || live.drivers == drivers {
            return Ok(());
        }
        let what = format!("writing running domain {}", live.name);
        self.worker.call(what, move |_| live.note(&drivers)).await
    }

    /// Whether anything was written.
    async fn look_once(&self, uuid: Uuid) -> Result<bool, Trouble> {
        let seen = self.read(uuid).await.map_err(Trouble::Libvirt)?;
        if seen.as_ref().is_none_or(|seen| !seen.shut_off) {
            let live = self.running(uuid).await.map_err(Trouble::Libvirt)?;
            if seen.is_none() && live.is_none() {
                // libvirt tells nobody that a migration has undefined it here.
                self.daemon.domain_gone(uuid).await.map_err(Trouble::Daemon)?;
                return Ok(false);
            }
            if let Some(live) = live {
                let (bare, name) = (bare(&live.seen), live.name.clone());
                let drivers = self.daemon.domain_runs(live.seen.clone()).await;
                let drivers = drivers.map_err(Trouble::Daemon)?;
                self.note(live, drivers).await.map_err(Trouble::Libvirt)?;
                let names = bare.iter().map(|claim| claim.name.clone()).collect();
                self.forget(uuid, names).await.map_err(Trouble::Libvirt)?;
                let defined = seen.iter().flat_map(|seen| &seen.domain.claims);
                let defined: BTreeSet<_> = defined.map(|claim| &claim.name).collect();
                // What the definition asks for as well is had with the next start.
                for claim in bare.iter().filter(|claim| !defined.contains(&claim.name)) {
                    tracing::warn!(domain = %name, claim = %claim.name, "{}", in_vain(&name, claim));
                }
            }
        }
        let Some(Seen { domain, shut_off }) = seen else {
            return Ok(false);
        };
        let name = domain.name.clone();
        let wanted = self.daemon.domain_seen(domain, shut_off).await.map_err(Trouble::Daemon)?;
        for refusal in &wanted.refused {
            tracing::warn!(domain = %name, "{}", refusal.one_line());
        }
        if !shut_off {
            // It is looked at again when it stops.
            return Ok(false);
        }
        let made = self
            .worker
            .call(format!("writing domain {name}"), move |connection| {
                complete(connection, uuid, wanted)
            })
            .await
            .map_err(Trouble::Libvirt)?;
        for edit in &made {
            tracing::info!(domain = %name, "{}", told(edit));
        }
        Ok(!made.is_empty())
    }
}

/// Claims of a VM that runs with none of their devices: it let go of them, and would be saved as asking for them still.
fn bare(live: &Domain) -> Vec<ClaimRequest> {
    let has = |name: &ClaimName| {
        live.devices.iter().any(|d| d.our_claim().is_some_and(|(other, _)| other == *name))
    };
    live.claims.iter().filter(|claim| !has(&claim.name)).cloned().collect()
}

/// Why a claim is gone that somebody may just have written, as virsh does without `--config`.
fn in_vain(domain: &str, claim: &ClaimRequest) -> String {
    let profile = claim.profile.as_ref().map_or_else(|| "PROFILE".to_owned(), ToString::to_string);
    let (name, domain) = (&claim.name, quoted(domain));
    format!(
        "took claim {name} out of the XML of {domain}, which runs without its device: a VM that runs is given one by \
         gpuslice attach {domain} {profile} --name {name} --live, one from its next start on by virsh metadata with --config"
    )
}

fn gone(uuid: Uuid) -> Refusal {
    LinkError::NotKept { domain: uuid.to_string() }.into()
}

/// A domain's persistent definition; `None` when libvirt has or keeps none.
pub(crate) fn seen(connection: &Connection, uuid: Uuid) -> Result<Option<Seen>, LinkError> {
    let Some(defined) = connection.defined(uuid)? else {
        return Ok(None);
    };
    let domain = read_domain(&defined.xml).map_err(|error| LinkError::xml(&defined.name, error))?;
    Ok(Some(Seen { domain, shut_off: defined.shut_off }))
}

/// Reads once more, right before writing, so that what a person changed meanwhile is edited and not overwritten.
fn complete(connection: &Connection, uuid: Uuid, wanted: Wanted) -> Result<Vec<Edit>, LinkError> {
    match connection.written(uuid)?.filter(Written::shut_off) {
        Some(definition) => writing::complete(&definition, wanted),
        None => Ok(Vec::new()),
    }
}

fn told(edit: &Edit) -> String {
    match edit {
        Edit::Remove { alias } => format!("took device {alias} out of the definition"),
        Edit::Rename { alias, device } => format!("made device {alias} {}", device.alias),
        Edit::Retarget(device) => format!("made device {} pass {}", device.alias, passed(device)),
        Edit::Add(device) => format!("put device {} in, passing {}", device.alias, passed(device)),
        Edit::Adopt { device, .. } => {
            format!("made the picked device {}, passing {}", device.alias, passed(device))
        }
    }
}

fn passed(device: &DeviceToWrite) -> String {
    match device.source {
        Mdev(uuid) => format!("mdev {uuid}"),
        Pci(address) => address.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::sync::oneshot;

    #[tokio::test]
    async fn a_lent_turn_is_taken_by_others_and_waited_for_after() {
        let turns = Arc::default();
        let mut first = Turn::wait(&turns).await;
        let (let_go, guest) = oneshot::channel();
        let lending = tokio::spawn(async move { first.lend(guest).await.map(|()| first) });
        let second = Turn::wait(&turns).await;
        let_go.send(()).unwrap();
        tokio::task::yield_now().await;
        assert!(!lending.is_finished(), "it has gone on beside another");
        drop(second);
        let first = lending.await.unwrap().unwrap();
        assert!(turns.try_lock().is_err(), "it goes on without the turn");
        drop(first);
        assert!(turns.try_lock().is_ok());
    }
}
