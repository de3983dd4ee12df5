//! The methods, one per command, with the arguments a script would like to write.

use super::{Handler, HostInterface};
use crate::refused::Refused;
use crate::wire::{self, Dict};
use gpuslice_core::ids::ParseIdError;
use gpuslice_core::refusal::{Code, Refusal};
use gpuslice_core::request::Command;
use serde::Deserialize;
use uuid::Uuid;
use zbus::message::Header;
use zbus::object_server::SignalEmitter;
use zbus::{Connection, interface};

/// Options of `Claim`.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct ClaimOptions {
    pool: Option<bool>,
    reserve: Option<bool>,
    dry_run: bool,
}

/// Options of `Plug`.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct PlugOptions {
    pool: Option<bool>,
    reserve: Option<bool>,
    keep: bool,
}

/// Options of `Unclaim`.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct UnclaimOptions {
    force: bool,
}

/// Options of `Drain`.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct DrainOptions {
    reason: String,
    wait_ms: Option<u64>,
}

/// Options of `ListHistory`.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct HistoryOptions {
    about: Option<String>,
    since: Option<String>,
}

fn uuid(text: &str) -> Result<Uuid, Refused> {
    text.parse()
        .map_err(|_| Refusal::new(Code::BadRequest, format!("{text:?} is not a UUID")).into())
}

/// Parses a name that came as text.
fn named<T: std::str::FromStr<Err = ParseIdError>>(text: &str) -> Result<T, Refused> {
    text.parse().map_err(|e: ParseIdError| Refusal::new(Code::BadRequest, e.to_string()).into())
}

#[interface(name = "org.gpuslice1.Host")]
impl<H: Handler> HostInterface<H> {
    /// Health and settledness.
    #[zbus(out_args("status"))]
    async fn status(
        &self,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
    ) -> Result<Dict, Refused> {
        self.dict(&header, connection, Command::Status).await
    }

    /// Devices that yield slices. A filter keeps the rows whose keys have its values.
    #[zbus(out_args("rows"))]
    async fn list_parents(
        &self,
        filter: Dict,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
    ) -> Result<Vec<Dict>, Refused> {
        self.rows(&header, connection, Command::ListParents, filter).await
    }

    /// What VMs can ask for.
    #[zbus(out_args("rows"))]
    async fn list_profiles(
        &self,
        filter: Dict,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
    ) -> Result<Vec<Dict>, Refused> {
        self.rows(&header, connection, Command::ListProfiles, filter).await
    }

    /// Raw mdev types of each parent.
    #[zbus(out_args("rows"))]
    async fn list_types(
        &self,
        filter: Dict,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
    ) -> Result<Vec<Dict>, Refused> {
        self.rows(&header, connection, Command::ListTypes, filter).await
    }

    /// Slices that exist.
    #[zbus(out_args("rows"))]
    async fn list_slices(
        &self,
        filter: Dict,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
    ) -> Result<Vec<Dict>, Refused> {
        self.rows(&header, connection, Command::ListSlices, filter).await
    }

    /// Claims and what they are bound to.
    #[zbus(out_args("rows"))]
    async fn list_claims(
        &self,
        filter: Dict,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
    ) -> Result<Vec<Dict>, Refused> {
        self.rows(&header, connection, Command::ListClaims, filter).await
    }

    /// Who had which slice from when to when. Options: `about` (an owner, claim, slice or device), `since` (RFC 3339 in
    /// UTC with milliseconds).
    #[zbus(out_args("rows"))]
    async fn list_history(
        &self,
        options: Dict,
        filter: Dict,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
    ) -> Result<Vec<Dict>, Refused> {
        let HistoryOptions { about, since } = wire::from_dict(&options)?;
        self.rows(&header, connection, Command::ListHistory { about, since }, filter).await
    }

    /// Makes or keeps a claim. Options: `pool` or `reserve`, which a claim that is there keeps where they are left out, and
    /// `dry_run`.
    #[zbus(out_args("answer"))]
    async fn claim(
        &self,
        owner: &str,
        owner_name: &str,
        request: Dict,
        options: Dict,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
    ) -> Result<Dict, Refused> {
        let options: ClaimOptions = wire::from_dict(&options)?;
        let command = Command::Claim {
            owner: named(owner)?,
            owner_name: owner_name.to_owned(),
            request: wire::from_dict(&request)?,
            pool: options.pool,
            reserve: options.reserve,
            dry_run: options.dry_run,
        };
        self.dict(&header, connection, command).await
    }

    /// Ends the claim `OWNER/NAME`. Options: `force`.
    #[zbus(out_args("answer"))]
    async fn unclaim(
        &self,
        claim: &str,
        options: Dict,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
    ) -> Result<Dict, Refused> {
        let options: UnclaimOptions = wire::from_dict(&options)?;
        let command = Command::Unclaim { key: named(claim)?, force: options.force };
        self.dict(&header, connection, command).await
    }

    /// Makes or keeps a claim of a running domain, and prepares its slices for a hot-plug. Options: `pool`
    /// and `reserve` as of `Claim`, and `keep`.
    #[zbus(out_args("answer"))]
    async fn plug(
        &self,
        domain: &str,
        domain_name: &str,
        request: Dict,
        options: Dict,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
    ) -> Result<Dict, Refused> {
        let options: PlugOptions = wire::from_dict(&options)?;
        let command = Command::Plug {
            domain: uuid(domain)?,
            domain_name: domain_name.to_owned(),
            request: wire::from_dict(&request)?,
            pool: options.pool,
            reserve: options.reserve,
            keep: options.keep,
        };
        self.dict(&header, connection, command).await
    }

    /// Takes back the slices prepared for the claim `OWNER/NAME` that libvirt did not plug in.
    #[zbus(out_args("answer"))]
    async fn plug_failed(
        &self,
        claim: &str,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
    ) -> Result<Dict, Refused> {
        self.dict(&header, connection, Command::PlugFailed { key: named(claim)? }).await
    }

    /// What `Apply` would do.
    #[zbus(out_args("plan"))]
    async fn plan(
        &self,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
    ) -> Result<Dict, Refused> {
        self.dict(&header, connection, Command::Plan).await
    }

    /// Makes the host as the configuration on disk says.
    #[zbus(out_args("plan"))]
    async fn apply(
        &self,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
    ) -> Result<Dict, Refused> {
        self.dict(&header, connection, Command::Apply).await
    }

    /// Gives a parent no new VMs.
    #[zbus(out_args("answer"))]
    async fn cordon(
        &self,
        parent: &str,
        reason: &str,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
    ) -> Result<Dict, Refused> {
        let command = Command::Cordon { parent: named(parent)?, reason: reason.to_owned() };
        self.dict(&header, connection, command).await
    }

    /// Gives parents no new VMs (all that there are, if none is named), and says who still has slices of them. Options:
    /// `reason`, and `wait_ms`: return when nobody has any, at the latest after so many milliseconds.
    #[zbus(out_args("answer"))]
    async fn drain(
        &self,
        parents: Vec<String>,
        options: Dict,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
    ) -> Result<Dict, Refused> {
        let DrainOptions { reason, wait_ms } = wire::from_dict(&options)?;
        let parents = parents.iter().map(|parent| named(parent)).collect::<Result<_, _>>()?;
        let command = Command::Drain { parents, reason, wait_ms };
        self.dict(&header, connection, command).await
    }

    /// What is kept of a GPU that was exchanged becomes that of the one in its stead.
    #[zbus(out_args("answer"))]
    async fn replace(
        &self,
        old: &str,
        new: &str,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
    ) -> Result<Dict, Refused> {
        let command = Command::Replace { old: named(old)?, new: named(new)? };
        self.dict(&header, connection, command).await
    }

    /// Lifts a cordon or a quarantine.
    #[zbus(out_args("answer"))]
    async fn uncordon(
        &self,
        parent: &str,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
    ) -> Result<Dict, Refused> {
        let command = Command::Uncordon { parent: named(parent)? };
        self.dict(&header, connection, command).await
    }

    /// Returns when every layout is realised or cannot be, at the latest after the time given or a day.
    #[zbus(out_args("answer"))]
    async fn wait_settled(
        &self,
        timeout_ms: u64,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
    ) -> Result<Dict, Refused> {
        self.dict(&header, connection, Command::WaitSettled { timeout_ms }).await
    }

    /// The agent saw a domain's persistent XML.
    #[zbus(out_args("answer"))]
    async fn domain_seen(
        &self,
        domain: Dict,
        shut_off: bool,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
    ) -> Result<Dict, Refused> {
        let command = Command::DomainSeen { domain: wire::from_dict(&domain)?, shut_off };
        self.dict(&header, connection, command).await
    }

    /// The agent saw what a running domain carries.
    #[zbus(out_args("answer"))]
    async fn domain_runs(
        &self,
        domain: Dict,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
    ) -> Result<Dict, Refused> {
        let command = Command::DomainRuns { domain: wire::from_dict(&domain)? };
        self.dict(&header, connection, command).await
    }

    /// The agent saw a domain undefined for good.
    #[zbus(out_args("answer"))]
    async fn domain_gone(
        &self,
        uuid: &str,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
    ) -> Result<Dict, Refused> {
        let command = Command::DomainGone { uuid: self::uuid(uuid)? };
        self.dict(&header, connection, command).await
    }

    /// What the agent should do now.
    #[zbus(out_args("work"))]
    async fn agent_work(
        &self,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
    ) -> Result<Dict, Refused> {
        self.dict(&header, connection, Command::AgentWork).await
    }

    /// Something changed: read the rows of this kind again. Kinds: `parent`, `slice`, `claim`, `settled`,
    /// `agent-work`.
    #[zbus(signal)]
    async fn changed(
        emitter: &SignalEmitter<'_>,
        kind: &str,
        id: &str,
        what: &str,
    ) -> zbus::Result<()>;

    /// Version of the daemon.
    #[zbus(property(emits_changed_signal = "const"))]
    fn version(&self) -> String {
        self.version.clone()
    }
}
