//! The agent's methods on the bus: who may call them, one at a time, and never longer than a caller waits.

use crate::agent::{Agent, Turn};
use gpuslice_api::callers::{Admits, Caller, Calls, Place, Places, require};
use gpuslice_api::libvirt::{
    AttachOptions, Attached, DetachOptions, Detached, DomainInfo, LibvirtHandler,
};
use gpuslice_api::names::{ACTION_ATTACH, ACTION_RELEASE};
use gpuslice_core::hint;
use gpuslice_core::ids::{ClaimName, ProfileName};
use gpuslice_core::refusal::{Code, Refusal};
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, timeout_at};

/// How long a method may take once its caller is known to be allowed: below the 25 s after which most clients of
/// D-Bus give up, so that they get a reason instead of silence.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Serves `org.gpuslice1.Libvirt`.
#[derive(Debug)]
pub struct Service {
    agent: Arc<Agent>,
    patience: Duration,
    places: Places,
}

impl Service {
    /// Serves for an agent; `patience` is [`PATIENCE`] but in tests.
    pub fn new(agent: Arc<Agent>, patience: Duration) -> Self {
        Self { agent, patience, places: Places::default() }
    }

    /// Runs a change when its turn comes. A change that has begun goes on to its end even when the caller is told
    /// that it takes too long: half of one would have to be repaired.
    async fn in_turn<T, F>(
        &self,
        what: String,
        change: impl FnOnce(Turn) -> F,
    ) -> Result<T, Refusal>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, Refusal>> + Send + 'static,
    {
        let deadline = Instant::now() + self.patience;
        let seconds = self.patience.as_secs();
        let late = |state| {
            let message = format!("{what} has not {state} within {seconds} s");
            self.agent.worker.late(message)
        };
        let turn = timeout_at(deadline, self.agent.turn()).await.map_err(|_| late("begun"))?;
        let task = tokio::spawn(change(turn));
        match timeout_at(deadline, task).await {
            Ok(Ok(result)) => result,
            Ok(Err(ended)) => Err(Refusal::new(Code::Unsupported, format!("{what} broke off"))
                .because(ended.to_string())
                .hint(hint!("systemctl restart gpuslice-libvirt-agent, then the same again"))),
            Err(_) => Err(late("ended (it goes on)")),
        }
    }
}

/// Nobody but root is let in beside the others.
struct Asker<'c>(&'c Caller);

impl Calls for Asker<'_> {
    fn user(&self) -> impl Future<Output = Option<u32>> + Send {
        Box::pin(self.0.uid())
    }

    fn is_agent(&self) -> impl Future<Output = bool> + Send {
        std::future::ready(false)
    }
}

impl Admits for Service {
    async fn admit(
        &self,
        caller: &Caller,
        method: &str,
        length: usize,
    ) -> Result<Option<Place>, Refusal> {
        self.places.take(caller.bus_name.clone(), method, length, &Asker(caller)).await.map(Some)
    }
}

impl LibvirtHandler for Service {
    async fn attach(
        &self,
        caller: Caller,
        domain: &str,
        profile: ProfileName,
        options: AttachOptions,
    ) -> Result<Attached, Refusal> {
        require(&caller, ACTION_ATTACH).await?;
        let (agent, named) = (Arc::clone(&self.agent), domain.to_owned());
        self.in_turn(format!("attach {profile} to {domain}"), |turn| async move {
            let _turn = turn;
            agent.attach(&named, profile, options).await
        })
        .await
    }

    async fn detach(
        &self,
        caller: Caller,
        domain: &str,
        claim: Option<ClaimName>,
        options: DetachOptions,
    ) -> Result<Detached, Refusal> {
        require(&caller, ACTION_RELEASE).await?;
        let (agent, named) = (Arc::clone(&self.agent), domain.to_owned());
        self.in_turn(format!("detach from {domain}"), |mut turn| async move {
            agent.detach(&named, claim, options, &mut turn).await
        })
        .await
    }

    async fn resolve(&self, _caller: Caller, domain: &str) -> Result<DomainInfo, Refusal> {
        let worker = &self.agent.worker;
        let named = domain.to_owned();
        let what = format!("looking for domain {domain}");
        let find = worker.call_if_room(what, move |connection| connection.find(&named));
        let found = tokio::time::timeout(self.patience, find).await.map_err(|_| {
            let seconds = self.patience.as_secs();
            worker.late(format!("domain {domain} not found out within {seconds} s"))
        })??;
        Ok(DomainInfo { uuid: found.uuid, name: found.name, running: found.running })
    }
}
