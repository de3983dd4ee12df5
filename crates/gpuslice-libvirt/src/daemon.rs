//! The daemon as the agent sees it: ten questions, and every way a call can fail told as a refusal.

use gpuslice_api::client::start;
use gpuslice_api::{CallError, Client};
use gpuslice_core::domain::{ClaimRequest, Domain};
use gpuslice_core::driver::DriverOf;
use gpuslice_core::hint;
use gpuslice_core::ids::{ClaimKey, ClaimName, Owner, ProfileName};
use gpuslice_core::refusal::{Code, Refusal};
use gpuslice_core::request::{Adopted, Answer, ClaimRow, Command, DeviceToWrite, DueStart};
use std::collections::BTreeSet;
use uuid::Uuid;

/// Calls the daemon over the bus.
#[derive(Debug)]
pub struct Daemon {
    client: Client,
}

/// A claim as the daemon has it now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claimed {
    /// Whether it was made or altered.
    pub changed: bool,
    /// What the domain must carry for it.
    pub devices: Vec<DeviceToWrite>,
    /// For people.
    pub warnings: Vec<String>,
}

/// What a domain's definition should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// The devices of ours that it should carry.
    pub devices: Vec<DeviceToWrite>,
    /// Hostdevs of it that a person picked, and the claims they are of.
    pub adopted: Vec<Adopted>,
    /// Claims that could not be served.
    pub refused: Vec<Refusal>,
}

/// How to claim, beside what the XML says. Where nothing is said a claim keeps what it has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ClaimTerms {
    /// Other claims may name the same home VF.
    pub pool: Option<bool>,
    /// Capacity is held while the domain is off.
    pub reserve: Option<bool>,
}

impl Daemon {
    /// The daemon behind a client.
    pub fn new(client: Client) -> Self {
        Self { client }
    }

    /// Makes or keeps a claim of a domain.
    ///
    /// # Errors
    /// Refused, or no answer.
    pub async fn claim(
        &self,
        domain: Uuid,
        domain_name: &str,
        request: ClaimRequest,
        terms: ClaimTerms,
    ) -> Result<Claimed, Refusal> {
        let command = Command::Claim {
            owner: Owner::Domain(domain),
            owner_name: domain_name.to_owned(),
            request,
            pool: terms.pool,
            reserve: terms.reserve,
            dry_run: false,
        };
        match self.ask(command).await? {
            Answer::Claimed { changed, devices, warnings, .. } => {
                Ok(Claimed { changed, devices, warnings })
            }
            _ => Err(unexpected("Claim")),
        }
    }

    /// Makes or keeps a claim of a running domain and has its slices ready to be hot-plugged. `keep`: the definition
    /// makes the claim too.
    ///
    /// # Errors
    /// Refused, or no answer; then nothing is to be plugged in.
    pub async fn plug(
        &self,
        domain: Uuid,
        domain_name: &str,
        request: ClaimRequest,
        terms: ClaimTerms,
        keep: bool,
    ) -> Result<Claimed, Refusal> {
        let command = Command::Plug {
            domain,
            domain_name: domain_name.to_owned(),
            request,
            pool: terms.pool,
            reserve: terms.reserve,
            keep,
        };
        match self.ask(command).await? {
            Answer::Claimed { changed, devices, warnings, .. } => {
                Ok(Claimed { changed, devices, warnings })
            }
            _ => Err(unexpected("Plug")),
        }
    }

    /// Tells that libvirt did not plug in what was prepared.
    ///
    /// # Errors
    /// Refused, or no answer.
    pub async fn plug_failed(&self, key: ClaimKey) -> Result<(), Refusal> {
        self.ask(Command::PlugFailed { key }).await.map(drop)
    }

    /// Shows what a running domain carries, and is told what makes its slices.
    ///
    /// # Errors
    /// Refused, or no answer.
    pub async fn domain_runs(&self, domain: Domain) -> Result<Vec<DriverOf>, Refusal> {
        match self.ask(Command::DomainRuns { domain }).await? {
            Answer::Runs { drivers, .. } => Ok(drivers),
            _ => Err(unexpected("DomainRuns")),
        }
    }

    /// Ends a claim. `false` when there was none. `force`: also while its slices are on their way back.
    ///
    /// # Errors
    /// Refused (its slice is in use), or no answer.
    pub async fn unclaim(&self, key: ClaimKey, force: bool) -> Result<bool, Refusal> {
        match self.ask(Command::Unclaim { key, force }).await {
            Ok(Answer::Done { changed, .. }) => Ok(changed),
            Ok(_) => Err(unexpected("Unclaim")),
            Err(refusal) if refusal.code == Code::Unknown => Ok(false),
            Err(refusal) => Err(refusal),
        }
    }

    /// On which terms a claim stands; for one that does not, none are told.
    ///
    /// # Errors
    /// Refused, or no answer.
    pub async fn terms(&self, key: &ClaimKey) -> Result<ClaimTerms, Refusal> {
        let Answer::Claims { rows } = self.ask(Command::ListClaims).await? else {
            return Err(unexpected("ListClaims"));
        };
        let row = rows.into_iter().find(|row| row.claim == *key);
        let terms = |row: ClaimRow| ClaimTerms { pool: Some(row.pool), reserve: Some(row.reserve) };
        Ok(row.map(terms).unwrap_or_default())
    }

    /// The names of claims that a domain has slices of, whatever its XML says, and the profiles of these: what was picked for it in
    /// a dialog and is not adopted yet is one for as long as it runs.
    ///
    /// # Errors
    /// Refused, or no answer.
    pub async fn names_in_use(
        &self,
        domain: Uuid,
    ) -> Result<Vec<(ClaimName, ProfileName)>, Refusal> {
        let Answer::Claims { rows } = self.ask(Command::ListClaims).await? else {
            return Err(unexpected("ListClaims"));
        };
        let owner = Owner::Domain(domain);
        let used =
            rows.into_iter().filter(|row| row.claim.owner == owner && !row.slices.is_empty());
        Ok(used.map(|row| (row.claim.name, row.profile)).collect())
    }

    /// Domains with claims that are not orphaned.
    ///
    /// # Errors
    /// Refused, or no answer.
    pub async fn owners(&self) -> Result<BTreeSet<Uuid>, Refusal> {
        let Answer::Claims { rows } = self.ask(Command::ListClaims).await? else {
            return Err(unexpected("ListClaims"));
        };
        let owner = |row: ClaimRow| match row.claim.owner {
            Owner::Domain(uuid) if row.state != "orphaned" => Some(uuid),
            _ => None,
        };
        Ok(rows.into_iter().filter_map(owner).collect())
    }

    /// Shows a domain's persistent definition, and is told what it should be.
    ///
    /// # Errors
    /// Refused, or no answer.
    pub async fn domain_seen(&self, domain: Domain, shut_off: bool) -> Result<Wanted, Refusal> {
        match self.ask(Command::DomainSeen { domain, shut_off }).await? {
            Answer::Domain { devices, refused, adopted } => {
                Ok(Wanted { devices, adopted, refused })
            }
            _ => Err(unexpected("DomainSeen")),
        }
    }

    /// Tells that a domain is undefined for good.
    ///
    /// # Errors
    /// Refused, or no answer.
    pub async fn domain_gone(&self, uuid: Uuid) -> Result<(), Refusal> {
        self.ask(Command::DomainGone { uuid }).await.map(drop)
    }

    /// Which domains to look at again and which to start.
    ///
    /// # Errors
    /// Refused, or no answer.
    pub async fn work(&self) -> Result<(Vec<Uuid>, Vec<DueStart>), Refusal> {
        match self.ask(Command::AgentWork).await? {
            Answer::AgentWork { look_again, start } => Ok((look_again, start)),
            _ => Err(unexpected("AgentWork")),
        }
    }

    async fn ask(&self, command: Command) -> Result<Answer, Refusal> {
        self.client.call(command).await.map_err(refusal)
    }
}

fn refusal(error: CallError) -> Refusal {
    match error {
        CallError::Refused(refusal) | CallError::NotPermitted(refusal) => refusal,
        CallError::Unreachable { who, masked, tried } => tried.into_iter().fold(
            Refusal::new(Code::Unreachable, format!("{who} does not answer"))
                .hint(start(who, masked)),
            Refusal::because,
        ),
        error @ CallError::Protocol { .. } => Refusal::new(Code::Unsupported, error.to_string())
            .hint(hint!("install gpusliced and gpuslice-libvirt-agent of the same version")),
    }
}

fn unexpected(method: &str) -> Refusal {
    Refusal::new(Code::Unsupported, format!("gpusliced answered {method} with something else"))
        .hint(hint!("install gpusliced and gpuslice-libvirt-agent of the same version"))
}
